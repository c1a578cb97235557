use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

/// Addresses that have authenticated lately, as all shards of a node know them: the kernel may bring the
/// next request of an address, from another port, to another shard than the one that it proved itself to.
/// Memory is fixed, and nobody waits for anybody.
pub struct ProvenAddresses {
    start: Instant,
    keys: (u64, u64),
    /// The tag of an address and when it was seen, or zero.
    places: Box<[AtomicU64]>,
}

impl ProvenAddresses {
    /// `secret` must be random: addresses push each other out by a chance that it makes unpredictable.
    pub fn new(now: Instant, secret: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = secret;
        Self {
            start: now,
            keys: (
                u64::from_be_bytes([a, b, c, d, e, f, g, h]),
                u64::from_be_bytes([i, j, k, l, m, n, o, p]),
            ),
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(super) fn note(&self, now: Instant, ip: IpAddr) {
        let (tag, places) = self.places(ip);
        let entry = u64::from(tag) << 32 | u64::from(self.seconds(now));
        let [first, second] = places.map(|place| (place.load(Ordering::Relaxed), place));
        let is_it = |value: u64| (value >> 32) as u32 == tag;
        let (value, place) = match () {
            () if is_it(first.0) => first,
            () if is_it(second.0) => second,
            () if (first.0 as u32) <= second.0 as u32 => first,
            () => second,
        };
        // Shards write no more often than they must to memory that all of them read.
        if value != entry {
            place.store(entry, Ordering::Relaxed);
        }
    }

    pub(super) fn has(&self, now: Instant, ip: IpAddr) -> bool {
        let (tag, places) = self.places(ip);
        let oldest = self.seconds(now).saturating_sub(PROVEN_SECS);
        places.into_iter().any(|place| {
            let value = place.load(Ordering::Relaxed);
            (value >> 32) as u32 == tag && value as u32 >= oldest
        })
    }

    /// The tag of an address, which is not zero, and the two places where it can be. An IPv4 address
    /// counts alone, IPv6 ones by /64.
    fn places(&self, ip: IpAddr) -> (u32, [&AtomicU64; 2]) {
        let value = match ip.to_canonical() {
            IpAddr::V4(ip) => (false, u64::from(ip.to_bits())),
            IpAddr::V6(ip) => (true, (ip.to_bits() >> 64) as u64),
        };
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1);
        value.hash(&mut hasher);
        let hash = hasher.finish();
        let place = hash as usize % PLACES;
        let places = [&self.places[place], &self.places[place ^ 1]];
        (((hash >> 32) as u32).max(1), places)
    }

    fn seconds(&self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.start) + FIRST_SECOND;
        u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX)
    }
}

/// How long an address counts as proven: longer than clients leave between two refreshes.
pub(super) const PROVEN_SECS: u32 = 900;
/// So that no address seems to have been seen before the start.
pub(super) const FIRST_SECOND: Duration = Duration::from_secs(PROVEN_SECS as u64 + 1);
const PLACES: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_is_known_for_a_quarter_of_an_hour() {
        let start = Instant::now();
        let proven = ProvenAddresses::new(start, [1; 16]);
        let ip = IpAddr::from([192, 0, 2, 1]);
        assert!(!proven.has(start, ip));
        proven.note(start, ip);
        let later = |seconds| start + Duration::from_secs(seconds);
        assert!(proven.has(later(900), ip) && !proven.has(later(901), ip));
        proven.note(later(901), ip);
        assert!(proven.has(later(1801), ip));
        assert!(!proven.has(later(901), [192, 0, 2, 2].into()));
    }

    #[test]
    fn the_latest_are_known_however_many_there_were() {
        let start = Instant::now();
        let proven = ProvenAddresses::new(start, [1; 16]);
        let ip = |number: u32| IpAddr::from(Ipv4Addr::from_bits(number));
        for number in 0..500_000 {
            let now = start + Duration::from_millis(u64::from(number));
            proven.note(now, ip(number));
        }
        let now = start + Duration::from_secs(500);
        let late = (499_900..500_000).filter(|number| proven.has(now, ip(*number)));
        assert!(late.count() > 90);
    }
}
