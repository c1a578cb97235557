use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use siphasher::sip::SipHasher13;

use super::config::Limits;
use super::proven::{FIRST_SECOND, PROVEN_SECS, ProvenAddresses};

/// Bounds what goes to addresses that have proven nothing, not even that they sent the request.
///
/// Each source network has a bucket, and all of them share one more for each kind of reply. A reply must
/// fit into both. A request pays its whole length into the bucket of its network and half of it into the
/// common one of what it is answered with; time pays a fixed rate. So a flood gets, beyond what time pays,
/// at most half the bytes out that it sends in, from however many addresses it pretends to come; and one
/// of Bindings, whose answers are short and fit first, takes no challenge from those who want to prove
/// themselves.
///
/// An address that has authenticated lately has a larger bucket of its own and none of this
/// touches it. That bucket still has an end, since others can pretend to be that address.
///
/// Networks share buckets by chance and addresses push each other out of the table, both under a
/// secret that makes the chance unpredictable. Memory is fixed.
pub(super) struct Budget {
    start: Instant,
    keys: (u64, u64),
    rates: Rates,
    networks: Box<[Bucket]>,
    challenges: Bucket,
    answers: Bucket,
    proven: Box<[Proven]>,
    /// What other shards know; `None` where there are none.
    of_all_shards: Option<Arc<ProvenAddresses>>,
}

/// What goes to who has proven nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unproven {
    /// What is needed for a proof.
    Challenge,
    /// All else: answers to Binding, and refusals.
    Answer,
}

/// What each kind of bucket holds, and gets every second.
#[derive(Debug, Clone, Copy)]
struct Rates {
    network: u32,
    /// Each of the two.
    common: u32,
    proven: u32,
}

/// Bytes that have been spent and not been paid yet, and when (in milliseconds since the start)
/// that was reckoned. A new one is full.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    owed: u32,
    at: u32,
}

/// An address that has authenticated.
#[derive(Debug, Clone, Copy, Default)]
struct Proven {
    /// Hash of the address, not zero; zero in an empty place.
    tag: u32,
    /// Seconds since the start.
    seen: u32,
    bucket: Bucket,
}

impl Budget {
    /// `secret` must be random.
    pub(super) fn new(
        now: Instant,
        secret: [u8; 32],
        limits: &Limits,
        of_all_shards: Option<Arc<ProvenAddresses>>,
    ) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = secret;
        let keys = (
            u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            u64::from_be_bytes([i, j, k, l, m, n, o, p]),
        );
        let places = limits.total.allocations;
        let places = places.map_or(PLACES_MAX, |max| max.clamp(PLACES_MIN, PLACES_MAX));
        Self {
            start: now,
            keys,
            rates: Rates::of(limits),
            networks: vec![Bucket::default(); NETWORKS].into_boxed_slice(),
            challenges: Bucket::default(),
            answers: Bucket::default(),
            proven: vec![Proven::default(); places.next_power_of_two()].into_boxed_slice(),
            of_all_shards,
        }
    }

    pub(super) fn reconfigure(&mut self, limits: &Limits) {
        self.rates = Rates::of(limits);
    }

    /// Takes a reply's length out; `false`, and nothing taken, if there is not enough.
    pub(super) fn spend(
        &mut self,
        now: Instant,
        source: SocketAddr,
        request_bytes: usize,
        (what, reply_bytes): (Unproven, usize),
    ) -> bool {
        let (now_ms, rates) = (self.millis(now), self.rates);
        let request = u32::try_from(request_bytes).unwrap_or(u32::MAX);
        let reply = u32::try_from(reply_bytes).unwrap_or(u32::MAX);
        self.learn(now, source);
        if let Some(proven) = self.proven_mut(now, source.ip()) {
            proven.bucket.pay(now_ms, rates.proven, request);
            return proven.bucket.spend(rates.proven, reply);
        }
        let index = self.network(source.ip());
        let Some(network) = self.networks.get_mut(index) else {
            return false;
        };
        let common = match what {
            Unproven::Challenge => &mut self.challenges,
            Unproven::Answer => &mut self.answers,
        };
        network.pay(now_ms, rates.network, request);
        common.pay(now_ms, rates.common, request / 2);
        if !network.has(rates.network, reply) || !common.has(rates.common, reply) {
            return false;
        }
        network.spend(rates.network, reply) && common.spend(rates.common, reply)
    }

    /// Tells whether little has been asked for lately, so that a reply may say more than it must.
    pub(super) fn is_calm(&mut self, now: Instant, source: SocketAddr) -> bool {
        let (now_ms, rates) = (self.millis(now), self.rates);
        let index = self.network(source.ip());
        let Some(network) = self.networks.get_mut(index) else {
            return false;
        };
        network.pay(now_ms, rates.network, 0);
        self.answers.pay(now_ms, rates.common, 0);
        network.owed <= rates.network / 2 && self.answers.owed <= rates.common / 2
    }

    /// Notes that an address has authenticated. What its challenge took is paid back, so that many
    /// newcomers at once do not keep each other out.
    pub(super) fn prove(&mut self, now: Instant, source: SocketAddr) {
        if let Some(shared) = &self.of_all_shards {
            shared.note(now, source.ip());
        }
        let seconds = self.seconds(now);
        if let Some(proven) = self.proven_mut(now, source.ip()) {
            proven.seen = seconds;
            return;
        }
        self.add_proven(now, source);
        let (now_ms, rates) = (self.millis(now), self.rates);
        let index = self.network(source.ip());
        if let Some(network) = self.networks.get_mut(index) {
            network.pay(now_ms, rates.network, CHALLENGE_BYTES);
        }
        self.challenges.pay(now_ms, rates.common, CHALLENGE_BYTES);
    }

    /// Takes over that an address has proven itself to another shard.
    fn learn(&mut self, now: Instant, source: SocketAddr) {
        let ip = source.ip();
        if self.proven_mut(now, ip).is_none()
            && let Some(shared) = &self.of_all_shards
            && shared.has(now, ip)
        {
            self.add_proven(now, source);
        }
    }

    fn add_proven(&mut self, now: Instant, source: SocketAddr) {
        let seconds = self.seconds(now);
        let (tag, places) = self.places(source.ip());
        let is_newer = |one: &Proven| (one.tag != 0, one.seen);
        let place = places
            .into_iter()
            .min_by_key(|place| self.proven.get(*place).map(is_newer));
        if let Some(place) = place.and_then(|place| self.proven.get_mut(place)) {
            *place = Proven {
                tag,
                seen: seconds,
                bucket: Bucket::default(),
            };
        }
    }

    /// Finds an address that has authenticated lately.
    fn proven_mut(&mut self, now: Instant, ip: IpAddr) -> Option<&mut Proven> {
        let (tag, places) = self.places(ip);
        let oldest = self.seconds(now).saturating_sub(PROVEN_SECS);
        let is_it = |one: &Proven| one.tag == tag && one.seen >= oldest;
        let place = places
            .into_iter()
            .find(|place| self.proven.get(*place).is_some_and(is_it))?;
        self.proven.get_mut(place)
    }

    /// Returns the tag of an address and the two places where it can be. An IPv4 address counts
    /// alone, IPv6 ones by /64.
    fn places(&self, ip: IpAddr) -> (u32, [usize; 2]) {
        let hash = match ip.to_canonical() {
            IpAddr::V4(ip) => self.hash(Kind::Address, u64::from(ip.to_bits())),
            IpAddr::V6(ip) => self.hash(Kind::Address, (ip.to_bits() >> 64) as u64 ^ V6_MARK),
        };
        let mask = self.proven.len() - 1;
        let place = hash as usize & mask;
        let tag = (hash >> 32) as u32;
        (tag.max(1), [place, place ^ 1])
    }

    /// Finds the bucket of the source's network: IPv4 /24, IPv6 /48.
    fn network(&self, ip: IpAddr) -> usize {
        let hash = match ip.to_canonical() {
            IpAddr::V4(ip) => self.hash(Kind::Network, u64::from(ip.to_bits() >> 8)),
            IpAddr::V6(ip) => self.hash(Kind::Network, (ip.to_bits() >> 80) as u64 ^ V6_MARK),
        };
        hash as usize % NETWORKS
    }

    fn hash(&self, kind: Kind, value: u64) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1 ^ kind as u64);
        value.hash(&mut hasher);
        hasher.finish()
    }

    /// Wraps after 49 days; what a bucket reckons with is a difference.
    fn millis(&self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.start).as_millis();
        (elapsed & u128::from(u32::MAX)) as u32
    }

    fn seconds(&self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.start) + FIRST_SECOND;
        u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX)
    }
}

/// Keeps the hashes of networks and addresses apart.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Network = 1,
    Address = 2,
}

impl Rates {
    fn of(limits: &Limits) -> Self {
        Self {
            network: limits.unproven_bytes_max,
            common: limits.unproven_total_bytes_max / 2,
            proven: limits.proven_bytes_max,
        }
    }
}

impl Bucket {
    /// Pays what time pays, and `bytes`.
    fn pay(&mut self, now_ms: u32, rate: u32, bytes: u32) {
        let elapsed = now_ms.wrapping_sub(self.at).min(1000);
        let gained = u64::from(elapsed) * u64::from(rate) / 1000;
        if gained > 0 || self.owed == 0 {
            self.at = now_ms;
        }
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        self.owed = self.owed.saturating_sub(gained).saturating_sub(bytes);
    }

    fn has(&self, size: u32, bytes: u32) -> bool {
        u64::from(self.owed) + u64::from(bytes) <= u64::from(size)
    }

    fn spend(&mut self, size: u32, bytes: u32) -> bool {
        let has = self.has(size, bytes);
        if has {
            self.owed += bytes;
        }
        has
    }
}

const NETWORKS: usize = 4096;
/// Places for addresses that have authenticated: one for each allocation, within these bounds.
const PLACES_MIN: usize = 1024;
const PLACES_MAX: usize = 1 << 16;
/// What a usual challenge takes beyond what its request pays.
const CHALLENGE_BYTES: u32 = 64;
/// Tells IPv6 prefixes from IPv4 addresses of the same bits.
const V6_MARK: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use rand::rngs::ChaCha12Rng;
    use rand::{RngExt, SeedableRng};

    use std::time::Duration;

    use super::super::ledger::Quota;
    use super::*;

    #[test]
    fn a_flood_gets_no_more_than_it_sends_once_its_bucket_is_empty() {
        let mut budget = budget(1000, 100_000);
        let (mut sent, mut got) = (0, 0);
        for port in 0..1000 {
            sent += 20;
            if budget.spend(budget.start, at(192, port), 20, answer(60)) {
                got += 60;
            }
        }
        assert!(got <= sent + 1000, "{got} bytes for {sent}");
        assert!(
            got > sent / 2,
            "honest clients of the network are still answered"
        );
    }

    #[test]
    fn time_fills_the_bucket_and_other_networks_have_their_own() {
        let mut budget = budget(100, 1000);
        let now = budget.start;
        assert!(budget.spend(now, at(192, 1), 0, answer(100)));
        assert!(!budget.spend(now, at(192, 1), 0, answer(10)));
        assert!(budget.spend(now, at(193, 1), 0, answer(100)));
        assert!(budget.spend(now + Duration::from_secs(1), at(192, 1), 0, answer(100)));
    }

    #[test]
    fn a_flood_from_everywhere_gets_half_of_what_it_sends_beyond_the_common_allowance() {
        for seed in 0..20 {
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            let mut budget = budget(16 * 1024, 64 * 1024);
            let start = budget.start;
            let mut now = start;
            let (mut sent, mut got) = (0, 0);
            let pause = rng.random_range(0..2000);
            for _ in 0..20_000 {
                now += Duration::from_micros(rng.random_range(0..=pause));
                let source = random_source(&mut rng);
                let (request, reply) = (rng.random_range(20..200), rng.random_range(20..200));
                let what = if rng.random() { answer } else { challenge };
                sent += request;
                if budget.spend(now, source, request, what(reply)) {
                    got += reply;
                }
                let seconds = (now - start).as_secs_f64();
                let allowance = 65_536.0 * (1.0 + seconds);
                let bound = sent as f64 / 2.0 + allowance;
                assert!(got as f64 <= bound, "{got} bytes for {sent}, seed {seed}");
            }
        }
    }

    #[test]
    fn an_address_that_has_authenticated_is_untouched_by_a_flood_and_no_reflector_either() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let mut budget = budget(1000, 4000);
        let now = budget.start;
        let caller = SocketAddr::from(([8, 8, 8, 8], 1));
        budget.prove(now, caller);
        for _ in 0..10_000 {
            budget.spend(now, random_source(&mut rng), 20, answer(60));
        }
        let answered = (0..100_000)
            .filter(|_| budget.spend(now, caller, 20, answer(32)))
            .count();
        assert!(answered >= 8000, "{answered}");
        let got = answered * 32;
        assert!(got <= 100_000 * 20 + 256 * 1024, "{got}");
        let neighbour = SocketAddr::from(([8, 8, 8, 9], 1));
        let answered = (0..100)
            .filter(|_| budget.spend(now, neighbour, 20, answer(32)))
            .count();
        assert!(answered < 100, "has proven nothing");
    }

    #[test]
    fn a_proof_counts_for_a_quarter_of_an_hour() {
        let mut budget = budget(0, 0);
        let now = budget.start;
        assert!(!budget.spend(now, at(192, 1), 0, answer(60)));
        budget.prove(now, at(192, 1));
        assert!(budget.spend(now + Duration::from_secs(900), at(192, 1), 0, answer(60)));
        assert!(!budget.spend(now + Duration::from_secs(901), at(192, 1), 0, answer(60)));
        budget.prove(now + Duration::from_secs(901), at(192, 1));
        assert!(budget.spend(now + Duration::from_secs(1800), at(192, 1), 0, answer(60)));
    }

    #[test]
    fn newcomers_that_prove_themselves_do_not_keep_each_other_out() {
        let mut budget = budget(16 * 1024, 64 * 1024);
        let now = budget.start;
        for number in 0..20_000_u32 {
            let source = SocketAddr::from((std::net::Ipv4Addr::from(number << 8 | 7), 1));
            assert!(budget.spend(now, source, 28, challenge(60)), "{number}");
            budget.prove(now, source);
        }
    }

    #[test]
    fn the_table_of_proven_addresses_keeps_the_latest_and_its_size() {
        let mut budget = budget(0, 0);
        let size = budget.proven.len();
        let mut now = budget.start;
        for number in 0..100_000_u32 {
            now += Duration::from_millis(1);
            budget.prove(now, SocketAddr::from((std::net::Ipv4Addr::from(number), 1)));
        }
        assert_eq!(budget.proven.len(), size);
        let is_known = |budget: &mut Budget, number: u32| {
            let source = SocketAddr::from((std::net::Ipv4Addr::from(number), 1));
            budget.spend(now, source, 100, answer(1))
        };
        let late = (99_900..100_000)
            .filter(|number| is_known(&mut budget, *number))
            .count();
        assert!(late > 90, "{late} of the last 100");
    }

    #[test]
    fn an_address_that_has_authenticated_with_one_shard_is_untouched_by_a_flood_at_another() {
        let now = Instant::now();
        let proven = Arc::new(ProvenAddresses::new(now, [1; 16]));
        let limits = Limits::default();
        let shard = |seed| Budget::new(now, [seed; 32], &limits, Some(Arc::clone(&proven)));
        let (mut first, mut second) = (shard(1), shard(2));
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        for _ in 0..100_000 {
            second.spend(now, random_source(&mut rng), 20, answer(32));
        }
        let caller = SocketAddr::from(([8, 8, 8, 8], 1));
        assert!(!second.spend(now, caller, 20, answer(60)));
        first.prove(now, caller);
        for port in 1..1000 {
            let from = SocketAddr::new(caller.ip(), port);
            assert!(second.spend(now, from, 20, answer(32)));
        }
    }

    #[test]
    fn a_flood_of_one_kind_leaves_the_other_kind_alone() {
        for (flooded, other) in [
            (answer as fn(_) -> _, challenge as fn(_) -> _),
            (challenge, answer),
        ] {
            let mut rng = ChaCha12Rng::seed_from_u64(1);
            let mut budget = budget(16 * 1024, 64 * 1024);
            let now = budget.start;
            for _ in 0..10_000 {
                budget.spend(now, random_source(&mut rng), 20, flooded(32));
            }
            let newcomer = SocketAddr::from(([8, 8, 8, 8], 1));
            assert!(!budget.spend(now, newcomer, 20, flooded(60)));
            assert!(budget.spend(now, newcomer, 28, other(60)));
        }
    }

    fn answer(bytes: usize) -> (Unproven, usize) {
        (Unproven::Answer, bytes)
    }

    fn challenge(bytes: usize) -> (Unproven, usize) {
        (Unproven::Challenge, bytes)
    }

    fn budget(network: u32, common: u32) -> Budget {
        let limits = Limits {
            unproven_bytes_max: network,
            unproven_total_bytes_max: common,
            total: Quota {
                allocations: Some(1024),
                ..Quota::default()
            },
            ..Limits::default()
        };
        Budget::new(Instant::now(), [1; 32], &limits, None)
    }

    fn at(first: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([first, 0, 2, 7], port))
    }

    fn random_source(rng: &mut ChaCha12Rng) -> SocketAddr {
        let port = rng.random();
        match rng.random_range(0..10) {
            0 => SocketAddr::from((std::net::Ipv6Addr::from(rng.random::<u128>()), port)),
            1..5 => SocketAddr::from(([10, 0, 0, rng.random()], port)),
            _ => SocketAddr::from((rng.random::<[u8; 4]>(), port)),
        }
    }
}
