use std::collections::{BTreeSet, HashSet, VecDeque};
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
    taken: HashSet<RelayAddr>,
    /// Ports that were given back lately, the oldest in front; late packets for the last client
    /// shall not reach the next one.
    resting: VecDeque<(Instant, RelayAddr)>,
    is_resting: HashSet<RelayAddr>,
}

/// Which ports will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parity {
    Any,
    Even,
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>, own: BTreeSet<u16>) -> Self {
        Self {
            range,
            own,
            taken: HashSet::new(),
            resting: VecDeque::new(),
            is_resting: HashSet::new(),
        }
    }

    /// Takes a random free port; one that rests only when there is no other.
    pub(super) fn choose(
        &mut self,
        now: Instant,
        rng: &mut ChaCha12Rng,
        ip: IpAddr,
        parity: Parity,
    ) -> Option<RelayAddr> {
        self.wake(now);
        if self.range.is_empty() {
            return None;
        }
        let random = (0..TRIES)
            .map(|_| rng.random_range(self.range.clone()))
            .collect::<Vec<_>>();
        let address = |port: u16| RelayAddr(SocketAddr::new(ip, port));
        let fits = |port: &u16| match parity {
            _ if self.own.contains(port) => false,
            Parity::Any => true,
            Parity::Even => port.is_multiple_of(2),
        };
        let candidates = || {
            random
                .iter()
                .copied()
                .chain(self.range.clone())
                .filter(fits)
        };
        let is_free = |relay: &RelayAddr| !self.taken.contains(relay);
        let chosen = candidates()
            .map(address)
            .find(|relay| is_free(relay) && !self.is_resting.contains(relay))
            .or_else(|| candidates().map(address).find(is_free))?;
        self.taken.insert(chosen);
        Some(chosen)
    }

    /// Takes the port right after `relay`, which RFC 8656 §7.2 reserves; `None` if it is taken.
    pub(super) fn choose_next(&mut self, relay: RelayAddr) -> Option<RelayAddr> {
        let port = relay.0.port().checked_add(1)?;
        let next = RelayAddr(SocketAddr::new(relay.0.ip(), port));
        let is_usable = self.range.contains(&port) && !self.own.contains(&port);
        (is_usable && self.taken.insert(next)).then_some(next)
    }

    /// Marks an address as taken that was not chosen here.
    pub(super) fn take(&mut self, relay: RelayAddr) {
        self.taken.insert(relay);
    }

    /// Gives back an address that nobody ever used.
    pub(super) fn untake(&mut self, relay: RelayAddr) {
        self.taken.remove(&relay);
    }

    /// Gives back an address that a client has used, and lets it rest.
    pub(super) fn rest(&mut self, now: Instant, relay: RelayAddr) {
        self.taken.remove(&relay);
        if self.resting.len() >= RESTING_MAX {
            self.wake_first();
        }
        if self.is_resting.insert(relay) {
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
            self.is_resting.remove(&relay);
        }
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
            .filter_map(|_| ports.choose(now, &mut rng, IP, Parity::Any))
            .collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 63);
        assert!(
            all.iter().all(|relay| relay.0.port() != 120),
            "it is the node's own"
        );
        assert_eq!(ports.choose(now, &mut rng, IP, Parity::Any), None);
    }

    #[test]
    fn a_port_rests_before_it_is_given_again_unless_there_is_no_other() {
        let mut rng = ChaCha12Rng::from_seed([1; 32]);
        let mut ports = Ports::new(100..=101, BTreeSet::new());
        let now = Instant::now();
        let first = ports
            .choose(now, &mut rng, IP, Parity::Any)
            .expect("is free");
        ports.rest(now, first);
        let second = ports
            .choose(now, &mut rng, IP, Parity::Any)
            .expect("is free");
        assert_ne!(first, second);
        assert_eq!(ports.choose(now, &mut rng, IP, Parity::Any), Some(first));
    }

    #[test]
    fn even_ports_are_even_and_the_next_one_is_odd() {
        let mut rng = ChaCha12Rng::from_seed([1; 32]);
        let mut ports = Ports::new(100..=103, BTreeSet::new());
        let now = Instant::now();
        let even = ports
            .choose(now, &mut rng, IP, Parity::Even)
            .expect("is free");
        assert_eq!(even.0.port() % 2, 0);
        let next = ports.choose_next(even).expect("is free");
        assert_eq!(next.0.port(), even.0.port() + 1);
        assert_eq!(ports.choose_next(even), None);
    }
}
