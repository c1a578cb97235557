use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::ChaCha12Rng;

use super::address::RelayAddr;

/// Chooses relayed addresses at random, so that nobody guesses the next one. See RFC 8656 §7.2
/// and RFC 6056.
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    /// Ports in the range that the node listens at.
    own: BTreeSet<u16>,
    taken: Marks,
    /// Ports that were given back lately, the oldest in front; late packets for the last client
    /// shall not reach the next one.
    resting: VecDeque<(Instant, RelayAddr)>,
    is_resting: Marks,
}

/// Which ports will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parity {
    Any,
    Even,
    /// Where the one after it is free too.
    EvenAndNext,
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>, own: BTreeSet<u16>) -> Self {
        Self {
            range,
            own,
            taken: Marks::default(),
            resting: VecDeque::new(),
            is_resting: Marks::default(),
        }
    }

    /// Takes a random free port, of which `is_free_elsewhere` holds too; one that rests only when there is
    /// no other.
    pub(super) fn choose(
        &mut self,
        now: Instant,
        rng: &mut ChaCha12Rng,
        ip: IpAddr,
        parity: Parity,
        is_free_elsewhere: impl Fn(RelayAddr) -> bool,
    ) -> Option<RelayAddr> {
        self.wake(now);
        if self.range.is_empty() {
            return None;
        }
        let at = |port: u16| RelayAddr(SocketAddr::new(ip, port));
        let holds = |port: u16, is_so: &dyn Fn(u16) -> bool| match parity {
            Parity::Any => is_so(port),
            Parity::Even => port.is_multiple_of(2) && is_so(port),
            Parity::EvenAndNext => {
                port.is_multiple_of(2) && is_so(port) && port.checked_add(1).is_some_and(is_so)
            }
        };
        let is_usable = |port| {
            self.range.contains(&port)
                && !self.taken.has(at(port))
                && !self.own.contains(&port)
                && is_free_elsewhere(at(port))
        };
        let is_free = |port: &u16| holds(*port, &is_usable);
        let is_rested = |port: &u16| holds(*port, &|port| !self.is_resting.has(at(port)));
        let chosen = (0..TRIES)
            .map(|_| rng.random_range(self.range.clone()))
            .find(|port| is_free(port) && is_rested(port))
            .or_else(|| {
                // From anywhere, so that what is chosen cannot be foretold, and a port that cannot be
                // bound stands in the way of no other.
                let start = rng.random_range(self.range.clone());
                let all = || (start..=*self.range.end()).chain(*self.range.start()..start);
                let rested = all().find(|port| is_free(port) && is_rested(port));
                rested.or_else(|| all().find(is_free))
            });
        let chosen = at(chosen?);
        self.taken.set(chosen);
        Some(chosen)
    }

    /// Takes the port right after `relay`, which RFC 8656 §7.2 reserves; `None` if it is taken.
    pub(super) fn choose_next(&mut self, relay: RelayAddr) -> Option<RelayAddr> {
        let next = port_after(relay)?;
        let port = next.0.port();
        let is_usable = self.range.contains(&port) && !self.own.contains(&port);
        (is_usable && self.taken.set(next)).then_some(next)
    }

    /// Marks an address as taken that was not chosen here.
    pub(super) fn take(&mut self, relay: RelayAddr) {
        self.taken.set(relay);
    }

    /// Gives back an address that nobody ever used.
    pub(super) fn untake(&mut self, relay: RelayAddr) {
        self.taken.clear(relay);
    }

    /// Gives back an address that a client has used, or that somebody else has, and lets it rest.
    pub(super) fn rest(&mut self, now: Instant, relay: RelayAddr) {
        self.taken.clear(relay);
        if self.resting.len() >= RESTING_MAX {
            self.wake_first();
        }
        if self.is_resting.set(relay) {
            self.resting.push_back((now, relay));
        }
    }

    fn wake(&mut self, now: Instant) {
        while self
            .resting
            .front()
            .is_some_and(|(since, _)| *since + REST <= now)
        {
            self.wake_first();
        }
    }

    fn wake_first(&mut self) {
        if let Some((_, relay)) = self.resting.pop_front() {
            self.is_resting.clear(relay);
        }
    }
}

/// Returns the address with the port right after that of `relay`.
pub(super) fn port_after(relay: RelayAddr) -> Option<RelayAddr> {
    let port = relay.0.port().checked_add(1)?;
    Some(RelayAddr(SocketAddr::new(relay.0.ip(), port)))
}

/// A set of relayed addresses, as one bit for each port of a family: a shard has at most one relay IP
/// of each.
#[derive(Default)]
struct Marks {
    v4: Vec<u64>,
    v6: Vec<u64>,
}

impl Marks {
    fn has(&self, relay: RelayAddr) -> bool {
        let words = match relay.0.ip() {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        let (word, bit) = Self::place(relay);
        words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// `false` if it was marked already.
    fn set(&mut self, relay: RelayAddr) -> bool {
        let (word, bit) = Self::place(relay);
        let words = self.words(relay);
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        let is_new = words[word] & bit == 0;
        words[word] |= bit;
        is_new
    }

    fn clear(&mut self, relay: RelayAddr) {
        let (word, bit) = Self::place(relay);
        if let Some(word) = self.words(relay).get_mut(word) {
            *word &= !bit;
        }
    }

    fn words(&mut self, relay: RelayAddr) -> &mut Vec<u64> {
        match relay.0.ip() {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }

    fn place(relay: RelayAddr) -> (usize, u64) {
        let port = usize::from(relay.0.port());
        (port / 64, 1 << (port % 64))
    }
}

/// Random ports tried before all are looked at in turn.
const TRIES: usize = 32;
/// RFC 8656 §7.2 asks for two minutes.
const REST: Duration = Duration::from_secs(120);
const RESTING_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rand::SeedableRng;

    use super::*;

    const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn every_port_is_given_once_until_none_is_left() {
        let mut rng = ChaCha12Rng::from_seed([1; 32]);
        let mut ports = Ports::new(100..=163, [7, 120].into());
        let now = Instant::now();
        let mut all: Vec<_> = (0..63)
            .filter_map(|_| ports.choose(now, &mut rng, IP, Parity::Any, |_| true))
            .collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 63);
        assert!(
            all.iter().all(|relay| relay.0.port() != 120),
            "it is the node's own"
        );
        assert_eq!(ports.choose(now, &mut rng, IP, Parity::Any, |_| true), None);
    }

    #[test]
    fn a_port_rests_before_it_is_given_again_unless_there_is_no_other() {
        let mut rng = ChaCha12Rng::from_seed([1; 32]);
        let mut ports = Ports::new(100..=101, BTreeSet::new());
        let now = Instant::now();
        let first = ports
            .choose(now, &mut rng, IP, Parity::Any, |_| true)
            .expect("is free");
        ports.rest(now, first);
        let second = ports
            .choose(now, &mut rng, IP, Parity::Any, |_| true)
            .expect("is free");
        assert_ne!(first, second);
        assert_eq!(
            ports.choose(now, &mut rng, IP, Parity::Any, |_| true),
            Some(first)
        );
    }

    #[test]
    fn a_port_that_somebody_else_has_does_not_block_the_others_once_all_rest() {
        let mut rng = ChaCha12Rng::from_seed([1; 32]);
        let mut ports = Ports::new(100..=163, BTreeSet::new());
        let now = Instant::now();
        for port in 100..=163 {
            ports.rest(now, RelayAddr(SocketAddr::new(IP, port)));
        }
        // As if the lowest one could never be bound.
        let chosen = (0..8).filter_map(|_| {
            let relay = ports.choose(now, &mut rng, IP, Parity::Any, |_| true)?;
            ports.rest(now, relay);
            Some(relay.0.port())
        });
        let chosen: BTreeSet<u16> = chosen.collect();
        assert!(chosen.len() > 4, "{chosen:?}");
    }

    #[test]
    fn the_last_pair_of_free_ports_is_found() {
        let mut rng = ChaCha12Rng::from_seed([1; 32]);
        let mut ports = Ports::new(100..=1100, [301].into());
        let now = Instant::now();
        let at = |port| RelayAddr(SocketAddr::new(IP, port));
        // The neighbours of the others are taken here, elsewhere, the node's own, or beyond.
        let free = [200, 300, 301, 400, 401, 500, 501, 601, 1100];
        for port in (100..=1100).filter(|port| !free.contains(port)) {
            ports.take(at(port));
        }
        let is_free_elsewhere = |relay| relay != at(401);
        let pair = Parity::EvenAndNext;
        let chosen = ports.choose(now, &mut rng, IP, pair, is_free_elsewhere);
        assert_eq!(chosen, Some(at(500)));
        assert_eq!(ports.choose_next(at(500)), Some(at(501)));
        let chosen = ports.choose(now, &mut rng, IP, pair, is_free_elsewhere);
        assert_eq!(chosen, None);
    }

    #[test]
    fn even_ports_are_even_and_the_next_one_is_odd() {
        let mut rng = ChaCha12Rng::from_seed([1; 32]);
        let mut ports = Ports::new(100..=103, BTreeSet::new());
        let now = Instant::now();
        let even = ports
            .choose(now, &mut rng, IP, Parity::Even, |_| true)
            .expect("is free");
        assert_eq!(even.0.port() % 2, 0);
        let next = ports.choose_next(even).expect("is free");
        assert_eq!(next.0.port(), even.0.port() + 1);
        assert_eq!(ports.choose_next(even), None);
    }
}
