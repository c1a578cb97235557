//! Who may hold a connection: bounds for all and for each network, who gives way to a newcomer, and
//! whether that has to prove its address first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::config::Limits;
use crate::network::{Network, Networks};
use crate::openings::{Displaced, Openings, Place};
use crate::pace::{Pace, SITE_PREFIXES, TooFast};

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The gateway holds as many connections, or as many without a session, as it may, and nobody's
    /// network has more of these than the newcomer's.
    Full,
    /// The source prefix does, or the larger network that it is in.
    PrefixFull,
    /// All together begin as many handshakes in a second as they may.
    Pace,
    /// The source prefix does, or a larger network that it is in.
    PrefixPace,
}

/// Counts connections of both transports; shared by all listeners of a gateway.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: Limits,
    census: Mutex<Census>,
    emptied: Notify,
}

#[derive(Debug)]
struct Census {
    pace: Pace,
    connections: usize,
    /// Never iterated; an entry goes away with its last connection.
    connections_by_prefix: HashMap<Network, usize>,
    /// Those without a session yet.
    openings: Openings,
}

impl Admission {
    pub(crate) fn new(limits: Limits, now: Instant) -> Arc<Self> {
        let per_prefix = limits.handshakes_per_second_per_prefix_max;
        let census = Census {
            pace: Pace::new(now, limits.handshakes_per_second_max, per_prefix),
            connections: 0,
            connections_by_prefix: HashMap::new(),
            openings: Openings::default(),
        };
        Arc::new(Self {
            limits,
            census: Mutex::new(census),
            emptied: Notify::new(),
        })
    }

    /// Whether an address has to be validated (RFC 9000 §8.1.2) before it costs a handshake. So those who
    /// pretend to be somewhere leave half of each pace to those who are there.
    pub(crate) fn wants_validation(&self, now: Instant, source: IpAddr) -> bool {
        let networks = Networks::of(source);
        let mut census = self.census();
        census.openings.count(Network::ALL) >= self.limits.unvalidated_max
            || census.openings.count(networks.prefix) >= self.limits.unvalidated_per_prefix_max
            || census.pace.is_short(now, &networks)
    }

    /// Takes a connection in, for as long as the ticket lives. Where all places of those without a
    /// session are taken, one of the network that has most of them gives way.
    ///
    /// # Errors
    ///
    /// A bound is reached.
    pub(crate) fn admit(self: &Arc<Self>, now: Instant, source: IpAddr) -> Result<Ticket, Refusal> {
        let networks = Networks::of(source);
        let mut census = self.census();
        if census.of_prefix(networks.prefix) >= self.limits.connections_per_prefix_max {
            return Err(Refusal::PrefixFull);
        }
        if census.connections >= self.limits.connections_max {
            return Err(Refusal::Full);
        }
        let giving_way = self.giving_way(&census.openings, &networks)?;
        // Last, and before anybody gives way: who is not let in leaves the pace to others.
        census.pace.take(now, &networks)?;
        if let Some(place) = giving_way {
            census.openings.displace(place);
        }
        census.connections += 1;
        let of_prefix = census.connections_by_prefix.entry(networks.prefix);
        *of_prefix.or_default() += 1;
        let (number, displaced) = census.openings.insert(networks);
        drop(census);
        Ok(Ticket {
            admission: Arc::clone(self),
            networks,
            number,
            displaced,
        })
    }

    /// Who gives way to a newcomer, if somebody has to. One is enough: it is in the larger networks, too.
    fn giving_way(
        &self,
        openings: &Openings,
        networks: &Networks,
    ) -> Result<Option<Place>, Refusal> {
        let per_prefix_max = self.limits.opening_per_prefix_max;
        let per_site_max = per_prefix_max.saturating_mul(SITE_PREFIXES as usize);
        let full = [
            (networks.prefix, per_prefix_max, Refusal::PrefixFull),
            (networks.site, per_site_max, Refusal::PrefixFull),
            (Network::ALL, self.limits.opening_max, Refusal::Full),
        ];
        let mut full = full.into_iter();
        let full = full.find(|(network, max, _)| openings.count(*network) >= *max);
        let Some((network, _, refusal)) = full else {
            return Ok(None);
        };
        let place = openings.giving_way(network, networks);
        place.map(Some).ok_or(refusal)
    }

    /// Waits until no connection is left.
    pub(crate) async fn emptied(&self) {
        loop {
            let notified = self.emptied.notified();
            if self.connections() == 0 {
                return;
            }
            notified.await;
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.census().connections
    }

    fn census(&self) -> MutexGuard<'_, Census> {
        // Every update is complete before anything can panic, so the counts hold.
        self.census.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<TooFast> for Refusal {
    fn from(too_fast: TooFast) -> Self {
        match too_fast {
            TooFast::All => Self::Pace,
            TooFast::Network => Self::PrefixPace,
        }
    }
}

impl Census {
    fn of_prefix(&self, prefix: Network) -> usize {
        let count = self.connections_by_prefix.get(&prefix);
        count.copied().unwrap_or(0)
    }

    fn leave(&mut self, prefix: Network) {
        self.connections -= 1;
        if let Some(count) = self.connections_by_prefix.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                self.connections_by_prefix.remove(&prefix);
            }
        }
    }
}

/// A connection's place; given back on drop.
#[derive(Debug)]
pub(crate) struct Ticket {
    admission: Arc<Admission>,
    networks: Networks,
    /// Among those without a session.
    number: u64,
    displaced: Arc<Displaced>,
}

impl Ticket {
    /// The connection has a session now: it no longer counts as a stranger.
    pub(crate) fn settle(&self) {
        let mut census = self.admission.census();
        census.openings.remove(&self.networks, self.number);
    }

    /// Waits until the place has been given to a newcomer, which ends the connection.
    pub(crate) async fn displaced(&self) {
        self.displaced.wait().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut census = self.admission.census();
        census.openings.remove(&self.networks, self.number);
        census.leave(self.networks.prefix);
        if census.connections == 0 {
            self.admission.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_prefix_leaves_room_for_others() {
        let admission = gate(limits());
        let first = admit(&admission, ip("192.0.2.1")).expect("room");
        let second = admit(&admission, ip("::ffff:192.0.2.1")).expect("room");
        assert_eq!(
            admit(&admission, ip("192.0.2.1")).err(),
            Some(Refusal::PrefixFull)
        );
        let other = admit(&admission, ip("192.0.2.2")).expect("room");
        assert_eq!(
            admit(&admission, ip("192.0.2.3")).err(),
            Some(Refusal::Full)
        );
        drop((first, second, other));
        assert_eq!(admission.connections(), 0);
        assert!(admission.census().connections_by_prefix.is_empty());
    }

    #[test]
    fn strangers_leave_room_for_those_who_have_sessions() {
        let admission = gate(Limits {
            opening_max: 2,
            opening_per_prefix_max: 1,
            ..Limits::default()
        });
        let first = admit(&admission, ip("192.0.2.1")).expect("room");
        let again = admit(&admission, ip("192.0.2.1"));
        assert_eq!(again.err(), Some(Refusal::PrefixFull));
        let second = admit(&admission, ip("192.0.2.2")).expect("room");
        let third = admit(&admission, ip("192.0.2.3"));
        assert_eq!(third.err(), Some(Refusal::Full));

        first.settle();
        let again = admit(&admission, ip("192.0.2.1")).expect("room");
        drop((first, second, again));
        assert_eq!(admission.connections(), 0);
    }

    #[test]
    fn no_number_of_addresses_keeps_a_newcomer_from_elsewhere_out() {
        for greedy in [
            (0..32)
                .map(|host| format!("192.0.2.{host}"))
                .collect::<Vec<_>>(),
            (0..32).map(|host| format!("198.51.{host}.1")).collect(),
            (0..32)
                .map(|house| format!("2001:db8:0:{house:x}00::1"))
                .collect(),
            (0..32)
                .map(|site| format!("2001:db8:{site:x}::1"))
                .collect(),
        ] {
            let admission = gate(Limits {
                opening_max: 64,
                opening_per_prefix_max: 16,
                ..Limits::default()
            });
            let taken = greedy.iter().cycle().take(64);
            let taken: Vec<_> = taken
                .map(|text| admit(&admission, ip(text)).expect("room"))
                .collect();
            assert!(admit(&admission, ip(&greedy[0])).is_err());
            let newcomers = ["203.0.113.7", "2001:db9::1"];
            let newcomers =
                newcomers.map(|text| admit(&admission, ip(text)).expect("others have more"));
            let displaced = taken.iter().filter(|ticket| ticket.displaced.is_so());
            assert_eq!(displaced.count(), 2);
            assert_eq!(admission.census().openings.count(Network::ALL), 64);
            drop((taken, newcomers));
            assert_eq!(admission.connections(), 0);
            assert!(admission.census().openings.is_empty());
        }
    }

    #[test]
    fn the_oldest_of_the_fullest_network_gives_way() {
        let admission = gate(Limits {
            opening_max: 6,
            ..Limits::default()
        });
        let sources = [
            "203.0.113.1",
            "192.0.2.2",
            "192.0.2.1",
            "192.0.2.1",
            "192.0.2.1",
            "192.0.2.2",
        ];
        let taken = sources.map(|text| admit(&admission, ip(text)).expect("room"));
        let settled = admit(&admission, ip("203.0.113.2")).expect("others have more");
        let displaced = taken.each_ref().map(|ticket| ticket.displaced.is_so());
        assert_eq!(displaced, [false, false, true, false, false, false]);
        // Whoever has a session stays.
        taken[3].settle();
        settled.settle();
        let _place_of_the_settled =
            [(); 2].map(|()| admit(&admission, ip("203.0.113.3")).expect("room"));
        assert!(!taken[3].displaced.is_so());
        assert!(!settled.displaced.is_so());
    }

    #[test]
    fn a_site_of_many_households_has_as_many_places_as_a_few_of_them() {
        let admission = gate(Limits {
            opening_per_prefix_max: 2,
            ..Limits::default()
        });
        let house = |number: usize| ip(&format!("2001:db8:0:{number:x}00::1"));
        let taken = (0..8).map(|number| admit(&admission, house(number % 4)).expect("room"));
        let taken: Vec<_> = taken.collect();
        assert_eq!(admit(&admission, house(0)).err(), Some(Refusal::PrefixFull));
        // A neighbour that has none gets one of theirs, and the next site is not concerned.
        let neighbour = admit(&admission, house(4)).expect("others have more");
        assert_eq!(
            taken
                .iter()
                .filter(|ticket| ticket.displaced.is_so())
                .count(),
            1
        );
        let next = admit(&admission, ip("2001:db8:1::1")).expect("room");
        drop((taken, neighbour, next));
        assert!(admission.census().openings.is_empty());
    }

    #[tokio::test]
    async fn who_has_lost_its_place_is_told_whenever_it_asks() {
        let admission = gate(Limits {
            opening_max: 2,
            ..Limits::default()
        });
        let [first, _second] = [(); 2].map(|()| admit(&admission, ip("192.0.2.1")).expect("room"));
        let mut told = std::pin::pin!(first.displaced());
        tokio::select! {
            biased;
            () = &mut told => panic!("it has its place"),
            () = tokio::task::yield_now() => {}
        }
        let _newcomer = admit(&admission, ip("203.0.113.1")).expect("others have more");
        told.await;
        first.displaced().await;
    }

    #[test]
    fn strangers_have_to_validate_until_the_others_have_sessions() {
        let admission = gate(limits());
        let ticket = admit(&admission, ip("192.0.2.1")).expect("room");
        assert!(
            admission.wants_validation(Instant::now(), ip("192.0.2.1")),
            "its prefix has one stranger"
        );
        assert!(!admission.wants_validation(Instant::now(), ip("192.0.2.2")));
        ticket.settle();
        assert!(!admission.wants_validation(Instant::now(), ip("192.0.2.1")));
        drop(ticket);
        assert!(!admission.wants_validation(Instant::now(), ip("192.0.2.1")));
    }

    #[test]
    fn whoever_begins_too_many_handshakes_is_refused_before_it_displaces_anybody() {
        let admission = gate(Limits {
            opening_max: 3,
            handshakes_per_second_max: 2,
            handshakes_per_second_per_prefix_max: 1,
            ..Limits::default()
        });
        let now = Instant::now();
        let admit = |text| admission.admit(now, ip(text));
        for _ in 0..4 {
            drop(admit("192.0.2.1").expect("room"));
        }
        let taken = ["198.51.100.1"; 3].map(|text| admit(text).expect("room"));
        let displaced = || {
            let displaced = taken.iter().filter(|ticket| ticket.displaced.is_so());
            displaced.count()
        };
        assert_eq!(admit("192.0.2.1").err(), Some(Refusal::PrefixPace));
        assert_eq!(displaced(), 0);
        let _newcomer = admit("203.0.113.1").expect("others have more");
        assert_eq!(admit("2001:db8::1").err(), Some(Refusal::Pace));
        assert_eq!(displaced(), 1);
    }

    #[test]
    fn whoever_finds_no_place_uses_up_nobody_s_pace() {
        for full in [
            Limits {
                connections_per_prefix_max: 1,
                ..Limits::default()
            },
            Limits {
                opening_per_prefix_max: 1,
                ..Limits::default()
            },
        ] {
            let admission = gate(Limits {
                handshakes_per_second_max: 2,
                handshakes_per_second_per_prefix_max: 100,
                ..full
            });
            let now = Instant::now();
            let admit = |text| admission.admit(now, ip(text));
            let _first = admit("192.0.2.1").expect("room");
            for _ in 0..100 {
                assert_eq!(admit("192.0.2.1").err(), Some(Refusal::PrefixFull));
            }
            let _neighbour = admit("192.0.2.2").expect("a pace");
            let _other = admit("203.0.113.1").expect("a pace");
        }
    }

    #[test]
    fn pretended_addresses_leave_half_of_a_pace_to_those_that_are_proven() {
        let admission = gate(Limits {
            handshakes_per_second_per_prefix_max: 1,
            ..Limits::default()
        });
        let now = Instant::now();
        let source = ip("192.0.2.1");
        for _ in 0..2 {
            assert!(!admission.wants_validation(now, source));
            drop(admission.admit(now, source).expect("there are more"));
        }
        assert!(admission.wants_validation(now, source));
        assert!(admission.admit(now, source).is_ok());
    }

    fn gate(limits: Limits) -> Arc<Admission> {
        Admission::new(limits, Instant::now())
    }

    fn admit(admission: &Arc<Admission>, source: IpAddr) -> Result<Ticket, Refusal> {
        admission.admit(Instant::now(), source)
    }

    fn limits() -> Limits {
        Limits {
            connections_max: 3,
            connections_per_prefix_max: 2,
            unvalidated_max: 2,
            unvalidated_per_prefix_max: 1,
            ..Limits::default()
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }
}
