//! How many handshakes are begun in a second, in all and from each network.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use crate::network::Networks;

/// Grants handshakes at a rate; what was not used for a while is there at once. For each network that is
/// a time up to which it has used its share, in a place that others may have by a chance that nobody can
/// predict; so no number of networks makes this grow.
#[derive(Debug)]
pub(crate) struct Pace {
    begin: Instant,
    rates: Rates,
    all: Used,
    regions: Box<[Used]>,
    sites: Box<[Used]>,
    prefixes: Box<[Used]>,
    places: RandomState,
}

/// Since the beginning.
#[derive(Debug, Clone, Copy, Default)]
struct Used(Duration);

/// How long one handshake takes of a share.
#[derive(Debug, Clone, Copy)]
struct Rates {
    all: Duration,
    region: Duration,
    site: Duration,
    prefix: Duration,
}

/// Why there is none at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooFast {
    /// All together.
    All,
    /// A network.
    Network,
}

impl Pace {
    /// So many in a second in all, of which half are for one region, and so many for a prefix, of which four
    /// use up what their site has; where a prefix has more than these, they have as much.
    pub(crate) fn new(now: Instant, per_second: u32, per_prefix: u32) -> Self {
        let site = per_prefix.saturating_mul(SITE_PREFIXES);
        let places = || vec![Used::default(); PLACES].into_boxed_slice();
        Self {
            begin: now,
            rates: Rates {
                all: interval(per_second),
                region: interval(per_prefix.max(per_second.div_ceil(2))),
                site: interval(site),
                prefix: interval(per_prefix),
            },
            all: Used::default(),
            regions: places(),
            sites: places(),
            prefixes: places(),
            places: RandomState::new(),
        }
    }

    /// Takes a handshake.
    ///
    /// # Errors
    ///
    /// Somebody has had too many.
    pub(crate) fn take(&mut self, now: Instant, networks: &Networks) -> Result<(), TooFast> {
        let now = now.saturating_duration_since(self.begin);
        let shares = self.shares(networks);
        let is_left = |(used, one): &(&mut Used, Duration)| used.has(now, *one, BURST);
        let (all, of_networks) = shares.split_first().expect("there are four");
        if !of_networks.iter().all(is_left) {
            return Err(TooFast::Network);
        }
        if !is_left(all) {
            return Err(TooFast::All);
        }
        for (used, one) in shares {
            used.take(now, one);
        }
        Ok(())
    }

    /// Whether half of a share is used up.
    pub(crate) fn is_short(&mut self, now: Instant, networks: &Networks) -> bool {
        let now = now.saturating_duration_since(self.begin);
        let shares = self.shares(networks);
        shares
            .into_iter()
            .any(|(used, one)| !used.has(now, one, BURST / 2))
    }

    /// What has been used of all shares that a handshake counts for, and how long it takes of each.
    fn shares(&mut self, networks: &Networks) -> [(&mut Used, Duration); 4] {
        let place = |network| self.places.hash_one(network) as usize % PLACES;
        let (region, site) = (place(networks.region), place(networks.site));
        let prefix = place(networks.prefix);
        [
            (&mut self.all, self.rates.all),
            (&mut self.regions[region], self.rates.region),
            (&mut self.sites[site], self.rates.site),
            (&mut self.prefixes[prefix], self.rates.prefix),
        ]
    }
}

impl Used {
    fn has(self, now: Duration, one: Duration, burst: Duration) -> bool {
        self.0.saturating_sub(now) + one <= burst
    }

    fn take(&mut self, now: Duration, one: Duration) {
        self.0 = self.0.max(now) + one;
    }
}

fn interval(per_second: u32) -> Duration {
    Duration::from_secs(1) / per_second.max(1)
}

/// What was not used for so long is there at once: all devices of a node that has died come at once.
const BURST: Duration = Duration::from_secs(4);
/// So many prefixes use up what the network around them has, an IPv6 /48 or an IPv4 /24.
pub(crate) const SITE_PREFIXES: u32 = 4;
/// Places for networks.
const PLACES: usize = 8192;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn one_address_has_a_pace_and_leaves_handshakes_for_others() {
        let now = Instant::now();
        let mut pace = Pace::new(now, 1000, 4);
        let greedy = networks(Ipv4Addr::new(198, 51, 100, 1));
        assert_eq!(taken(&mut pace, now, &greedy), 16);
        assert_eq!(pace.take(now, &greedy), Err(TooFast::Network));
        // One of several, since one alone may share a place.
        let mut others = (0..8).map(|i| networks(Ipv4Addr::new(192, i, 2, 1)));
        assert!(others.any(|other| pace.take(now, &other).is_ok()));
        let later = now + Duration::from_secs(1);
        assert_eq!(taken(&mut pace, later, &greedy), 4);
    }

    #[test]
    fn many_households_of_a_site_have_a_pace_together() {
        let now = Instant::now();
        let mut pace = Pace::new(now, 100_000, 4);
        let house = |i: u128| networks(Ipv6Addr::from_bits(0x2001_0db8 << 96 | (i & 0xff) << 72));
        let taken = (0..1000).filter(|i| pace.take(now, &house(*i)).is_ok());
        assert_eq!(taken.count(), 64);
    }

    #[test]
    fn one_region_leaves_half_of_all_and_all_have_a_pace_together() {
        let now = Instant::now();
        let mut pace = Pace::new(now, 10, 4);
        let region = |i: u8| networks(Ipv4Addr::new(198, 51, i, 1));
        let of_region = (0..=255).filter(|i| pace.take(now, &region(*i)).is_ok());
        assert_eq!(of_region.count(), 20);
        let anywhere = |i: u8| networks(Ipv4Addr::new(i, 0, 0, 1));
        let of_others = (0..=255).filter(|i| pace.take(now, &anywhere(*i)).is_ok());
        assert_eq!(of_others.count(), 20);
    }

    #[test]
    fn whoever_configures_it_loads_a_gateway_from_one_address() {
        let now = Instant::now();
        let mut pace = Pace::new(now, 5000, 5000);
        let loader = networks(Ipv4Addr::LOCALHOST);
        assert_eq!(taken(&mut pace, now, &loader), 20_000);
    }

    #[test]
    fn a_share_is_short_when_half_of_it_is_used() {
        let now = Instant::now();
        let mut pace = Pace::new(now, 1000, 4);
        let source = networks(Ipv4Addr::new(198, 51, 100, 1));
        for _ in 0..8 {
            assert!(!pace.is_short(now, &source));
            pace.take(now, &source).expect("there are more");
        }
        assert!(pace.is_short(now, &source));
        assert!(!pace.is_short(now + Duration::from_secs(1), &source));
    }

    fn taken(pace: &mut Pace, now: Instant, networks: &Networks) -> usize {
        (0..100_000)
            .take_while(|_| pace.take(now, networks).is_ok())
            .count()
    }

    fn networks(ip: impl Into<IpAddr>) -> Networks {
        Networks::of(ip.into())
    }
}
