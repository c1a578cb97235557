//! Which addresses count as one party's.

use std::net::{IpAddr, Ipv4Addr};

/// Addresses with the same first bits; IPv4 as it is mapped into IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Network {
    address: u128,
    bits: u32,
}

/// The networks that an address is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Networks {
    /// What one party may well have all of: an IPv4 /16 or an IPv6 /40.
    pub(crate) region: Network,
    /// What a customer of a hoster has: an IPv6 /48; an IPv4 /24.
    pub(crate) site: Network,
    /// What one subscriber can choose addresses from: an IPv4 address, or the IPv6 /56 that access
    /// providers hand to one household (RFC 6177 §2).
    pub(crate) prefix: Network,
}

impl Network {
    /// Of all addresses.
    pub(crate) const ALL: Self = Self {
        address: 0,
        bits: 0,
    };

    fn of(address: u128, bits: u32) -> Self {
        let address = address & (u128::MAX << (128 - bits));
        Self { address, bits }
    }
}

impl Networks {
    pub(crate) fn of(source: IpAddr) -> Self {
        let (address, [region, site, prefix]) = match source.to_canonical() {
            IpAddr::V4(v4) => (mapped(v4), [96 + 16, 96 + 24, 96 + 32]),
            IpAddr::V6(v6) => (v6.to_bits(), [40, 48, 56]),
        };
        Self {
            region: Network::of(address, region),
            site: Network::of(address, site),
            prefix: Network::of(address, prefix),
        }
    }

    /// Each is within the one before.
    pub(crate) fn nested(&self) -> [Network; 4] {
        [Network::ALL, self.region, self.site, self.prefix]
    }
}

fn mapped(v4: Ipv4Addr) -> u128 {
    v4.to_ipv6_mapped().to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_household_share_a_prefix() {
        let prefix = |text| of(text).prefix;
        assert_eq!(prefix("2001:db8:0:ab00::1"), prefix("2001:db8:0:abff::2"));
        assert_ne!(prefix("2001:db8:0:ab00::1"), prefix("2001:db8:0:ac00::1"));
        assert_eq!(prefix("192.0.2.1"), prefix("::ffff:192.0.2.1"));
        assert_ne!(prefix("192.0.2.1"), prefix("192.0.2.2"));
    }

    #[test]
    fn a_customer_of_a_hoster_has_one_site_and_its_neighbours_the_same_region() {
        for (a, b, c) in [
            ("2001:db8:0:1::1", "2001:db8:0:ff00::1", "2001:db8:1::1"),
            ("198.51.100.1", "198.51.100.255", "198.51.101.1"),
        ] {
            assert_eq!(of(a).site, of(b).site);
            assert_ne!(of(a).site, of(c).site);
            assert_eq!(of(a).region, of(c).region);
        }
        assert_ne!(of("2001:db8::1").region, of("2001:db8:100::1").region);
        assert_ne!(of("198.51.100.1").region, of("198.52.100.1").region);
    }

    fn of(text: &str) -> Networks {
        Networks::of(text.parse().expect("an address"))
    }
}
