//! Who may hold a connection: a bound for all, a bound per source prefix, and whether a newcomer
//! has to prove its address first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::config::Limits;

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The gateway holds as many connections, or as many without a session, as it may.
    Full,
    /// The source prefix does.
    PrefixFull,
}

/// Counts connections of both transports; shared by all listeners of a gateway.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: Limits,
    census: Mutex<Census>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Census {
    connections: usize,
    /// Those without a session yet.
    opening: usize,
    /// Never iterated; an entry goes away with its last connection.
    population_by_prefix: HashMap<Prefix, Population>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Population {
    connections: usize,
    opening: usize,
}

/// What one subscriber can choose addresses from: an IPv4 address, or an IPv6 /56.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Prefix(IpAddr);

impl Prefix {
    fn of(source: IpAddr) -> Self {
        match source.to_canonical() {
            IpAddr::V4(v4) => Self(v4.into()),
            IpAddr::V6(v6) => {
                let bits = u128::from(v6) & (u128::MAX << (128 - PREFIX_BITS_V6));
                Self(IpAddr::V6(bits.into()))
            }
        }
    }
}

impl Admission {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            census: Mutex::default(),
            emptied: Notify::new(),
        })
    }

    /// Whether an address has to be validated (RFC 9000 §8.1.2) before it costs a handshake.
    pub(crate) fn wants_validation(&self, source: IpAddr) -> bool {
        let census = self.census();
        let of_prefix = census.population_by_prefix.get(&Prefix::of(source));
        census.opening >= self.limits.unvalidated_max
            || of_prefix.is_some_and(|of_prefix| {
                of_prefix.opening >= self.limits.unvalidated_per_prefix_max
            })
    }

    /// Takes a connection in, for as long as the ticket lives.
    ///
    /// # Errors
    ///
    /// A bound is reached.
    pub(crate) fn admit(self: &Arc<Self>, source: IpAddr) -> Result<Ticket, Refusal> {
        let prefix = Prefix::of(source);
        let mut census = self.census();
        if census.connections >= self.limits.connections_max
            || census.opening >= self.limits.opening_max
        {
            return Err(Refusal::Full);
        }
        let of_prefix = census
            .population_by_prefix
            .get(&prefix)
            .copied()
            .unwrap_or_default();
        if of_prefix.connections >= self.limits.connections_per_prefix_max
            || of_prefix.opening >= self.limits.opening_per_prefix_max
        {
            return Err(Refusal::PrefixFull);
        }
        census.connections += 1;
        census.opening += 1;
        let of_prefix = census.population_by_prefix.entry(prefix).or_default();
        of_prefix.connections += 1;
        of_prefix.opening += 1;
        drop(census);
        Ok(Ticket {
            admission: Arc::clone(self),
            prefix,
            opening: AtomicBool::new(true),
        })
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

    fn settle(&self, prefix: Prefix) {
        let mut census = self.census();
        census.opening -= 1;
        if let Some(of_prefix) = census.population_by_prefix.get_mut(&prefix) {
            of_prefix.opening -= 1;
        }
    }

    fn release(&self, prefix: Prefix) {
        let mut census = self.census();
        census.connections -= 1;
        if let Some(of_prefix) = census.population_by_prefix.get_mut(&prefix) {
            of_prefix.connections -= 1;
            if of_prefix.connections == 0 {
                census.population_by_prefix.remove(&prefix);
            }
        }
        if census.connections == 0 {
            self.emptied.notify_waiters();
        }
    }

    fn census(&self) -> MutexGuard<'_, Census> {
        // Every update is complete before anything can panic, so the counts hold.
        self.census.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place; given back on drop.
#[derive(Debug)]
pub(crate) struct Ticket {
    admission: Arc<Admission>,
    prefix: Prefix,
    opening: AtomicBool,
}

impl Ticket {
    /// The connection has a session now: it no longer counts as a stranger.
    pub(crate) fn settle(&self) {
        if self.opening.swap(false, Ordering::Relaxed) {
            self.admission.settle(self.prefix);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.settle();
        self.admission.release(self.prefix);
    }
}

/// What access providers hand to one household (RFC 6177 §2).
const PREFIX_BITS_V6: u32 = 56;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_prefix_leaves_room_for_others() {
        let admission = Admission::new(limits());
        let first = admission.admit(ip("192.0.2.1")).expect("room");
        let second = admission.admit(ip("::ffff:192.0.2.1")).expect("room");
        assert_eq!(
            admission.admit(ip("192.0.2.1")).err(),
            Some(Refusal::PrefixFull)
        );
        let other = admission.admit(ip("192.0.2.2")).expect("room");
        assert_eq!(admission.admit(ip("192.0.2.3")).err(), Some(Refusal::Full));
        drop((first, second, other));
        assert_eq!(admission.connections(), 0);
        assert!(admission.census().population_by_prefix.is_empty());
    }

    #[test]
    fn strangers_leave_room_for_those_who_have_sessions() {
        let admission = Admission::new(Limits {
            opening_max: 2,
            opening_per_prefix_max: 1,
            ..Limits::default()
        });
        let first = admission.admit(ip("192.0.2.1")).expect("room");
        let again = admission.admit(ip("192.0.2.1"));
        assert_eq!(again.err(), Some(Refusal::PrefixFull));
        let second = admission.admit(ip("192.0.2.2")).expect("room");
        let third = admission.admit(ip("192.0.2.3"));
        assert_eq!(third.err(), Some(Refusal::Full));

        first.settle();
        let again = admission.admit(ip("192.0.2.1")).expect("room");
        drop((first, second, again));
        assert_eq!(admission.connections(), 0);
    }

    #[test]
    fn addresses_of_one_household_share_a_prefix() {
        assert_eq!(
            Prefix::of(ip("2001:db8:0:ab00::1")),
            Prefix::of(ip("2001:db8:0:abff::2"))
        );
        assert_ne!(
            Prefix::of(ip("2001:db8:0:ab00::1")),
            Prefix::of(ip("2001:db8:0:ac00::1"))
        );
    }

    #[test]
    fn strangers_have_to_validate_until_the_others_have_sessions() {
        let admission = Admission::new(limits());
        let ticket = admission.admit(ip("192.0.2.1")).expect("room");
        assert!(
            admission.wants_validation(ip("192.0.2.1")),
            "its prefix has one stranger"
        );
        assert!(!admission.wants_validation(ip("192.0.2.2")));
        ticket.settle();
        assert!(!admission.wants_validation(ip("192.0.2.1")));
        drop(ticket);
        assert!(!admission.wants_validation(ip("192.0.2.1")));
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
