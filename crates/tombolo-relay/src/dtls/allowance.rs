//! How many hellos are answered in a second.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Bounds the work for clients that have proven nothing, for each network and in all; and, by itself,
/// the work for those whose cookie is right. So no flood from pretended addresses keeps a client out
/// that has its cookie, and none from a few networks one that is about to get it.
pub(super) struct Allowances {
    second_began: Instant,
    /// Answers to each network in this second; networks share places by a chance that nobody can
    /// predict.
    challenges: Box<[u16; NETWORKS]>,
    challenges_total: u32,
    accepted: u32,
    places: RandomState,
}

impl Allowances {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            second_began: now,
            challenges: Box::new([0; NETWORKS]),
            challenges_total: 0,
            accepted: 0,
            places: RandomState::new(),
        }
    }

    /// Takes an answer to a client that has brought no cookie; `false` if there is none left.
    pub(super) fn take_challenge(&mut self, now: Instant, client: IpAddr) -> bool {
        self.begin(now);
        if self.challenges_total >= CHALLENGES_PER_SECOND {
            return false;
        }
        let place = self.places.hash_one(network_of(client)) as usize % NETWORKS;
        let count = &mut self.challenges[place];
        if *count >= CHALLENGES_PER_SECOND_AND_NETWORK {
            return false;
        }
        *count += 1;
        self.challenges_total += 1;
        true
    }

    /// Takes a handshake with a client that has brought the right cookie; `false` if there is none left.
    pub(super) fn take_handshake(&mut self, now: Instant) -> bool {
        self.begin(now);
        let is_left = self.accepted < HANDSHAKES_PER_SECOND;
        self.accepted += u32::from(is_left);
        is_left
    }

    fn begin(&mut self, now: Instant) {
        if now.saturating_duration_since(self.second_began) >= SECOND {
            self.second_began = now;
            self.challenges.fill(0);
            self.challenges_total = 0;
            self.accepted = 0;
        }
    }
}

/// The /24 or /48 of a client, as with all that is answered without proof.
fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() >> 8 << 8).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 80 << 80).into(),
    }
}

/// Places for networks.
const NETWORKS: usize = 8192;
/// An answer costs some ten microseconds.
const CHALLENGES_PER_SECOND: u32 = 5000;
const CHALLENGES_PER_SECOND_AND_NETWORK: u16 = 64;
/// A handshake costs about a millisecond.
const HANDSHAKES_PER_SECOND: u32 = 500;
const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_without_cookies_from_one_network_leaves_answers_for_others() {
        let now = Instant::now();
        let mut allowances = Allowances::new(now);
        let answered = (0..10_000u32)
            .map(|i| Ipv4Addr::from_bits(0xc633_6400 | (i & 0xff)))
            .filter(|client| allowances.take_challenge(now, (*client).into()))
            .count();
        assert_eq!(answered, usize::from(CHALLENGES_PER_SECOND_AND_NETWORK));
        // One of several, since one alone may share a place.
        let others = (0..8u8).map(|i| Ipv4Addr::new(192, 0, i, 1).into());
        assert!(
            others
                .into_iter()
                .any(|other| allowances.take_challenge(now, other))
        );
        let flooder = Ipv4Addr::new(198, 51, 100, 1).into();
        assert!(!allowances.take_challenge(now, flooder));
        assert!(allowances.take_challenge(now + SECOND, flooder));
    }

    #[test]
    fn a_flood_without_cookies_from_everywhere_keeps_nobody_out_who_has_one() {
        let now = Instant::now();
        let mut allowances = Allowances::new(now);
        let answered = (0..100_000u32)
            .map(|i| Ipv4Addr::from_bits(i << 8))
            .filter(|client| allowances.take_challenge(now, (*client).into()))
            .count();
        assert_eq!(answered, CHALLENGES_PER_SECOND as usize);
        let accepted = (0..10_000).filter(|_| allowances.take_handshake(now));
        assert_eq!(accepted.count(), HANDSHAKES_PER_SECOND as usize);
        assert!(allowances.take_handshake(now + SECOND));
    }
}
