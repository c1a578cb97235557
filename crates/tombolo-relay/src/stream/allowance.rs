//! How much is done in a second for clients that have proven little.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use super::idle::region_of;

/// Bounds the work for clients that have proven nothing but perhaps their address: for each network, and
/// each kind by itself in all. So no flood from pretended addresses keeps a client out that has its
/// cookie, and none from a few networks one of another network.
pub(crate) struct Allowances {
    second_began: Instant,
    challenges: Shares,
    challenges_total: u32,
    cookies: Shares,
    handshakes: Shares,
    handshakes_of_regions: Shares,
    handshakes_total: u32,
    places: RandomState,
}

/// How much each network has had in this second; networks share places by a chance that nobody can
/// predict.
struct Shares(Box<[u32; PLACES]>);

impl Allowances {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            second_began: now,
            challenges: Shares::new(),
            challenges_total: 0,
            cookies: Shares::new(),
            handshakes: Shares::new(),
            handshakes_of_regions: Shares::new(),
            handshakes_total: 0,
            places: RandomState::new(),
        }
    }

    /// Takes an answer to a DTLS client that has brought no cookie; `false` if there is none left.
    pub(crate) fn take_challenge(&mut self, now: Instant, client: IpAddr) -> bool {
        self.begin(now);
        let place = self.place(network_of(client));
        let is_left = self.challenges_total < CHALLENGES_PER_SECOND
            && self
                .challenges
                .take(place, CHALLENGES_PER_SECOND_AND_NETWORK);
        self.challenges_total += u32::from(is_left);
        is_left
    }

    /// Takes a look at the cookie that a DTLS client brings; `false` if there is none left.
    pub(crate) fn take_cookie(&mut self, now: Instant, client: IpAddr) -> bool {
        self.begin(now);
        let place = self.place(network_of(client));
        self.cookies.take(place, COOKIES_PER_SECOND_AND_NETWORK)
    }

    /// Tells whether there is a handshake of TLS or DTLS left of so many in all for a client whose address
    /// is its own. A region has half of them, and a network a fifth.
    pub(crate) fn has_handshake(&mut self, now: Instant, client: IpAddr, max: u32) -> bool {
        self.begin(now);
        let (network, region) = self.places(client);
        self.handshakes_total < max
            && self.handshakes.has(network, max.div_ceil(5))
            && self.handshakes_of_regions.has(region, max.div_ceil(2))
    }

    /// Takes one; `false` if there is none left.
    pub(crate) fn take_handshake(&mut self, now: Instant, client: IpAddr, max: u32) -> bool {
        let is_left = self.has_handshake(now, client, max);
        if is_left {
            let (network, region) = self.places(client);
            self.handshakes.take(network, max);
            self.handshakes_of_regions.take(region, max);
            self.handshakes_total += 1;
        }
        is_left
    }

    fn places(&self, client: IpAddr) -> (usize, usize) {
        let (network, region) = (network_of(client), region_of(client));
        (self.place(network), self.place(region))
    }

    fn place(&self, network: IpAddr) -> usize {
        self.places.hash_one(network) as usize % PLACES
    }

    fn begin(&mut self, now: Instant) {
        if now.saturating_duration_since(self.second_began) >= SECOND {
            self.second_began = now;
            self.challenges.0.fill(0);
            self.challenges_total = 0;
            self.cookies.0.fill(0);
            self.handshakes.0.fill(0);
            self.handshakes_of_regions.0.fill(0);
            self.handshakes_total = 0;
        }
    }
}

impl Shares {
    fn new() -> Self {
        Self(Box::new([0; PLACES]))
    }

    fn has(&self, place: usize, each: u32) -> bool {
        self.0[place] < each
    }

    fn take(&mut self, place: usize, each: u32) -> bool {
        let has = self.has(place, each);
        self.0[place] += u32::from(has);
        has
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
const PLACES: usize = 8192;
/// An answer costs some ten microseconds.
const CHALLENGES_PER_SECOND: u32 = 5000;
const CHALLENGES_PER_SECOND_AND_NETWORK: u32 = 64;
/// To find out that a cookie is wrong costs as much as an answer.
const COOKIES_PER_SECOND_AND_NETWORK: u32 = 256;
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
        assert_eq!(answered, CHALLENGES_PER_SECOND_AND_NETWORK as usize);
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
        let owner = Ipv4Addr::new(192, 0, 2, 1).into();
        assert!(allowances.take_cookie(now, owner) && allowances.take_handshake(now, owner, 500));
    }

    #[test]
    fn wrong_cookies_from_one_network_leave_looks_at_those_of_others() {
        let now = Instant::now();
        let mut allowances = Allowances::new(now);
        let flooder = Ipv4Addr::new(198, 51, 100, 1).into();
        let taken = (0..10_000).filter(|_| allowances.take_cookie(now, flooder));
        assert_eq!(taken.count(), COOKIES_PER_SECOND_AND_NETWORK as usize);
        let others = (0..8u8).map(|i| Ipv4Addr::new(192, 0, i, 1).into());
        assert!(
            others
                .into_iter()
                .any(|other| allowances.take_cookie(now, other))
        );
        assert!(allowances.take_cookie(now + SECOND, flooder));
    }

    #[test]
    fn one_network_and_one_region_leave_handshakes_for_others() {
        let now = Instant::now();
        let of = |mut clients: Box<dyn Iterator<Item = IpAddr>>| {
            let mut allowances = Allowances::new(now);
            let taken = clients.by_ref().take(10_000);
            let taken = taken.filter(|client| allowances.take_handshake(now, *client, 500));
            let taken = taken.count();
            let mut others = (0..8u8).map(|i| Ipv4Addr::new(192, i, 2, 1).into());
            assert!(others.any(|other| allowances.take_handshake(now, other, 500)));
            taken
        };
        let host = IpAddr::from(Ipv4Addr::new(198, 51, 100, 1));
        let of_network = of(Box::new(std::iter::repeat(host)));
        assert_eq!(of_network, 100);
        let prefix = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).to_bits();
        let subnets = (0..).map(move |i| Ipv6Addr::from_bits(prefix | (i & 0xff) << 80).into());
        let of_region = of(Box::new(subnets));
        assert_eq!(of_region, 250);
    }

    #[test]
    fn handshakes_are_bounded_in_all_until_the_next_second() {
        let now = Instant::now();
        let mut allowances = Allowances::new(now);
        let clients = || (0..100_000u32).map(|i| IpAddr::from(Ipv4Addr::from_bits(i << 12)));
        for now in [now, now + SECOND] {
            let taken = clients().filter(|client| allowances.take_handshake(now, *client, 500));
            assert_eq!(taken.count(), 500);
        }
    }
}
