use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use thiserror::Error;

/// Says which peers clients may reach: the one place that judges an address, for permissions,
/// channels and Send indications alike.
///
/// Denied are all addresses that are not plain global unicast, unless [`allow`](Self::allow) lists
/// them, and the node's own addresses, except its relay addresses inside the relay port range (two
/// clients of one node talk to each other there). See RFC 8656 §21.1.4 on why.
#[derive(Debug, Clone)]
pub struct AddressPolicy {
    /// Networks that are allowed though they are special, such as those of a lab. Compared with
    /// the address as written: `10.0.0.0/8` does not open what embeds such an address.
    pub allow: Vec<Cidr>,
    /// Networks that are denied though they are not special. Where an address is in networks of
    /// both lists the longest prefix counts, and of two alike the denial.
    pub deny: Vec<Cidr>,
    /// All IP addresses of the node; no peer is ever reached there. Not overruled by `allow`.
    pub own: Vec<IpAddr>,
    /// The relay IP addresses, local and public.
    pub relay_ips: Vec<IpAddr>,
    /// The ports of relayed addresses.
    pub relay_ports: RangeInclusive<u16>,
    /// Ports at which the node itself listens: never relayed addresses, wherever the range lies.
    pub own_ports: BTreeSet<u16>,
}

impl AddressPolicy {
    /// Judges an address to which a payload would go, or for which a channel would be bound.
    ///
    /// # Errors
    /// Names the rule that denies it.
    pub fn check(&self, peer: SocketAddr) -> Result<(), Denial> {
        if peer.port() == 0 {
            return Err(Denial::PortZero);
        }
        if self.relay_ips.contains(&peer.ip()) {
            let is_relayed =
                self.relay_ports.contains(&peer.port()) && !self.own_ports.contains(&peer.port());
            return if is_relayed {
                Ok(())
            } else {
                Err(Denial::OwnAddress)
            };
        }
        self.check_ip(peer.ip())
    }

    /// Judges an address whose port is not known yet, as permissions have it.
    ///
    /// # Errors
    /// Names the rule that denies it.
    pub fn check_ip(&self, ip: IpAddr) -> Result<(), Denial> {
        if self.relay_ips.contains(&ip) {
            return Ok(());
        }
        if self.own.contains(&ip) || self.own.contains(&ip.to_canonical()) {
            return Err(Denial::OwnAddress);
        }
        let longest = |list: &[Cidr]| {
            let containing = list.iter().filter(|cidr| cidr.contains(ip));
            containing.map(|cidr| cidr.prefix).max()
        };
        let allowed = longest(&self.allow);
        if longest(&self.deny).is_some_and(|denied| allowed.is_none_or(|prefix| prefix <= denied)) {
            return Err(Denial::Listed);
        }
        match special(ip) {
            None => Ok(()),
            // An IPv4-mapped address has a canonical form; whoever means IPv4 can say so.
            Some(Denial::Ipv4Mapped) => Err(Denial::Ipv4Mapped),
            Some(denial) => match allowed {
                Some(prefix) => self.check_embedded(ip, prefix),
                None => Err(denial),
            },
        }
    }

    /// Judges what a translator on the way may reach by an address in a network that is allowed,
    /// whose prefix has so many bits.
    fn check_embedded(&self, ip: IpAddr, prefix: u8) -> Result<(), Denial> {
        for inner in embedded(ip, prefix) {
            if self.relay_ips.contains(&inner) {
                return Err(Denial::OwnAddress);
            }
            self.check_ip(inner)?;
        }
        Ok(())
    }

    /// Judges the address of a client that wants an allocation or a channel: the end of a tunnel
    /// between IPv4 and IPv6 could send what it gets round in circles. See RFC 8656 §21.4.
    ///
    /// # Errors
    /// Says which kind of tunnel it is.
    pub fn check_client(&self, ip: IpAddr) -> Result<(), Denial> {
        let ip = ip.to_canonical();
        match special(ip) {
            Some(denial @ (Denial::SixToFour | Denial::Teredo))
                if !self.allow.iter().any(|cidr| cidr.contains(ip)) =>
            {
                Err(denial)
            }
            _ => Ok(()),
        }
    }
}

/// The IPv4 addresses that translators may find inside of an IPv6 one. See RFC 6052 §2.2 and RFC 3056
/// §2.
fn embedded(ip: IpAddr, allowed_prefix: u8) -> impl Iterator<Item = IpAddr> {
    let found = match ip {
        IpAddr::V4(_) => [None; 2],
        IpAddr::V6(ip) => embedded_in(ip, allowed_prefix),
    };
    let found = found.into_iter().flatten();
    found.map(|bits| Ipv4Addr::from_bits(bits).into())
}

/// Within `64:ff9b:1::/48` it depends on the length of a translator's prefix where the address lies.
/// That length is taken to be the allowed network's, or 96 where all is zero up to there. What follows
/// a shorter form means nothing to its translator, but all to one whose prefix is as long as it gets.
fn embedded_in(ip: Ipv6Addr, allowed_prefix: u8) -> [Option<u32>; 2] {
    let bits = ip.to_bits();
    let last = Some(bits as u32);
    match special_v6(ip) {
        Some(Denial::SixToFour) => [Some((bits >> 80) as u32), None],
        Some(Denial::Nat64) => {
            let is_local = bits & mask_v6(96) != WELL_KNOWN_PREFIX;
            let shorter = [48, 56, 64].into_iter().find(|one| *one >= allowed_prefix);
            let is_short = |one: &u8| is_local && bits << *one >> (one + 32) != 0;
            let Some(prefix) = shorter.filter(is_short) else {
                return [last, None];
            };
            // The octet behind the first 64 bits is kept free.
            let rest = (bits >> 64 << 56 | bits & mask_low(56)) & mask_low(120 - prefix);
            let behind = 120 - prefix - 32;
            let is_padded = rest & mask_low(behind) == 0;
            [Some((rest >> behind) as u32), last.filter(|_| !is_padded)]
        }
        _ => [None; 2],
    }
}

/// The rule that denies a peer address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Error)]
#[non_exhaustive]
pub enum Denial {
    /// Port 0 is no destination.
    #[error("peer port is zero")]
    PortZero,
    /// The node itself, outside its relayed addresses.
    #[error("peer is this node")]
    OwnAddress,
    /// In a network that the operator denies.
    #[error("peer address is denied by the configuration")]
    Listed,
    /// `0.0.0.0/8`, `::`.
    #[error("peer address is unspecified")]
    Unspecified,
    /// `127.0.0.0/8`, `::1`.
    #[error("peer address is loopback")]
    Loopback,
    /// RFC 1918 and RFC 4193, and the older site-local `fec0::/10`.
    #[error("peer address is private")]
    Private,
    /// `100.64.0.0/10`: behind a carrier's NAT.
    #[error("peer address is shared carrier space")]
    CarrierGradeNat,
    /// `169.254.0.0/16`, `fe80::/10`; cloud metadata services live here.
    #[error("peer address is link-local")]
    LinkLocal,
    /// `224.0.0.0/4`, `ff00::/8`.
    #[error("peer address is multicast")]
    Multicast,
    /// `255.255.255.255`.
    #[error("peer address is broadcast")]
    Broadcast,
    /// Documentation and benchmarking networks.
    #[error("peer address is for documentation or benchmarks")]
    Documentation,
    /// Protocol assignments, discard-only, and whatever is not allocated.
    #[error("peer address is reserved")]
    Reserved,
    /// `::ffff:0:0/96` and the older `::/96`.
    #[error("peer address is an IPv4 address written as IPv6")]
    Ipv4Mapped,
    /// `2002::/16` and its relays' `192.88.99.0/24`.
    #[error("peer address is 6to4")]
    SixToFour,
    /// `64:ff9b::/96` and `64:ff9b:1::/48`.
    #[error("peer address is NAT64")]
    Nat64,
    /// `2001::/32`.
    #[error("peer address is Teredo")]
    Teredo,
}

/// An IP network: an address and how many of its leading bits count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Makes a network; bits of the address behind the prefix are cleared.
    ///
    /// # Errors
    /// The prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, CidrError> {
        let network = match address {
            IpAddr::V4(ip) if prefix <= 32 => Ipv4Addr::from(ip.to_bits() & mask_v4(prefix)).into(),
            IpAddr::V6(ip) if prefix <= 128 => {
                Ipv6Addr::from(ip.to_bits() & mask_v6(prefix)).into()
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return Err(CidrError::Prefix),
        };
        Ok(Self { network, prefix })
    }

    /// Tells whether the network contains all addresses of another one.
    pub fn contains_all(&self, other: Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.network)
    }

    /// Tells whether the network contains an address; families never mix.
    pub fn contains(&self, ip: IpAddr) -> bool {
        Self::new(ip, self.prefix).is_ok_and(|other| other == *self)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// Parses `address/prefix`, or an address alone for a network of one.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Address)?;
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| CidrError::Prefix)?,
            None if address.is_ipv4() => 32,
            None => 128,
        };
        Self::new(address, prefix)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an IP network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum CidrError {
    /// The part before the slash is no IP address.
    #[error("not an IP address")]
    Address,
    /// The part behind the slash is no number, or longer than the address.
    #[error("not a prefix length for this address family")]
    Prefix,
}

/// How far an address reaches, as far as it tells itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Global,
    /// The networks of documentation and benchmarks: a laboratory's internet.
    Laboratory,
    /// Only within some network, of the kind that the denial names.
    Internal(Denial),
}

impl Scope {
    pub(super) fn of(ip: IpAddr) -> Self {
        match special(ip) {
            None => Self::Global,
            Some(Denial::Documentation) => Self::Laboratory,
            Some(denial) => Self::Internal(denial),
        }
    }

    pub(super) fn is_internal(self) -> bool {
        matches!(self, Self::Internal(_))
    }
}

/// Returns what makes an address special; `None` for plain global unicast.
/// See the IANA special-purpose address registries (RFC 6890).
fn special(ip: IpAddr) -> Option<Denial> {
    match ip {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => special_v6(ip),
    }
}

fn special_v4(ip: Ipv4Addr) -> Option<Denial> {
    let bits = ip.to_bits();
    let found = SPECIAL_V4.iter().find(|(network, prefix, _)| {
        bits & mask_v4(*prefix) == Ipv4Addr::from_octets(*network).to_bits()
    });
    found.map(|(_, _, denial)| *denial)
}

fn special_v6(ip: Ipv6Addr) -> Option<Denial> {
    let bits = ip.to_bits();
    let found = SPECIAL_V6.iter().find(|(network, prefix, _)| {
        bits & mask_v6(*prefix) == Ipv6Addr::from_segments(*network).to_bits()
    });
    match found {
        Some((_, _, denial)) => Some(*denial),
        // Only 2000::/3 is allocated as global unicast.
        None if bits >> 125 != 0b001 => Some(Denial::Reserved),
        None => None,
    }
}

const fn mask_v4(prefix: u8) -> u32 {
    match u32::MAX.checked_shl(32 - prefix as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

const fn mask_v6(prefix: u8) -> u128 {
    match u128::MAX.checked_shl(128 - prefix as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

const fn mask_low(bits: u8) -> u128 {
    !mask_v6(128 - bits)
}

/// `64:ff9b::/96`. See RFC 6052 §2.1.
const WELL_KNOWN_PREFIX: u128 = 0x0064_ff9b << 96;

/// The first match counts.
const SPECIAL_V4: &[([u8; 4], u8, Denial)] = &[
    ([0, 0, 0, 0], 8, Denial::Unspecified),
    ([10, 0, 0, 0], 8, Denial::Private),
    ([100, 64, 0, 0], 10, Denial::CarrierGradeNat),
    ([127, 0, 0, 0], 8, Denial::Loopback),
    ([169, 254, 0, 0], 16, Denial::LinkLocal),
    ([172, 16, 0, 0], 12, Denial::Private),
    ([192, 0, 0, 0], 24, Denial::Reserved),
    ([192, 0, 2, 0], 24, Denial::Documentation),
    ([192, 88, 99, 0], 24, Denial::SixToFour),
    ([192, 168, 0, 0], 16, Denial::Private),
    ([198, 18, 0, 0], 15, Denial::Documentation),
    ([198, 51, 100, 0], 24, Denial::Documentation),
    ([203, 0, 113, 0], 24, Denial::Documentation),
    ([224, 0, 0, 0], 4, Denial::Multicast),
    ([255, 255, 255, 255], 32, Denial::Broadcast),
    ([240, 0, 0, 0], 4, Denial::Reserved),
];

/// The first match counts.
const SPECIAL_V6: &[([u16; 8], u8, Denial)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, Denial::Unspecified),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, Denial::Loopback),
    ([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, Denial::Ipv4Mapped),
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, Denial::Ipv4Mapped),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, Denial::Nat64),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, Denial::Nat64),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, Denial::Teredo),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, Denial::Documentation),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Denial::Reserved),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Denial::Documentation),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, Denial::SixToFour),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Denial::Documentation),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Denial::Private),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Denial::Private),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Denial::LinkLocal),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Denial::Multicast),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_range_is_denied_at_both_ends_and_free_beside_them() {
        for (network, prefix, denial) in SPECIAL_V4 {
            let first = Ipv4Addr::from_octets(*network);
            let last = Ipv4Addr::from(first.to_bits() | !mask_v4(*prefix));
            for ip in [first, last] {
                assert!(
                    policy().check_ip(ip.into()).is_err(),
                    "{ip} should be {denial:?}"
                );
            }
        }
        for (network, prefix, denial) in SPECIAL_V6 {
            let first = Ipv6Addr::from_segments(*network);
            let last = Ipv6Addr::from(first.to_bits() | !mask_v6(*prefix));
            for ip in [first, last] {
                assert!(
                    policy().check_ip(ip.into()).is_err(),
                    "{ip} should be {denial:?}"
                );
            }
        }
        for free in [
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "223.255.255.255",
            "2001:200::",
            "2001:db9::",
            "2003::",
            "2a00::1",
        ] {
            assert_eq!(policy().check_ip(ip(free)), Ok(()), "{free}");
        }
    }

    #[test]
    fn each_special_range_is_denied_for_its_own_reason() {
        for (text, denial) in [
            ("0.0.0.0", Denial::Unspecified),
            ("::", Denial::Unspecified),
            ("127.0.0.1", Denial::Loopback),
            ("::1", Denial::Loopback),
            ("10.1.2.3", Denial::Private),
            ("172.31.255.255", Denial::Private),
            ("192.168.1.1", Denial::Private),
            ("fd12::1", Denial::Private),
            ("fec0::1", Denial::Private),
            ("100.100.100.100", Denial::CarrierGradeNat),
            ("169.254.169.254", Denial::LinkLocal),
            ("fe80::1", Denial::LinkLocal),
            ("239.1.1.1", Denial::Multicast),
            ("ff02::1", Denial::Multicast),
            ("255.255.255.255", Denial::Broadcast),
            ("240.0.0.1", Denial::Reserved),
            ("203.0.113.7", Denial::Documentation),
            ("2001:db8::7", Denial::Documentation),
            ("::ffff:8.8.8.8", Denial::Ipv4Mapped),
            ("::ffff:127.0.0.1", Denial::Ipv4Mapped),
            ("::8.8.8.8", Denial::Ipv4Mapped),
            ("2002:7f00:1::", Denial::SixToFour),
            ("192.88.99.1", Denial::SixToFour),
            ("64:ff9b::7f00:1", Denial::Nat64),
            ("64:ff9b:1::1", Denial::Nat64),
            ("2001::1", Denial::Teredo),
            ("100::1", Denial::Reserved),
            ("4000::1", Denial::Reserved),
            ("5f00::1", Denial::Reserved),
        ] {
            assert_eq!(policy().check_ip(ip(text)), Err(denial), "{text}");
        }
    }

    #[test]
    fn the_allow_list_opens_exactly_what_it_names() {
        let allow = ["10.0.0.0/8", "::1", "fd00::/8", "::ffff:0:0/96"];
        let allow = allow
            .map(|text| text.parse().expect("is a network"))
            .to_vec();
        let policy = AddressPolicy { allow, ..policy() };
        for open in ["10.200.0.1", "::1", "fd00::1"] {
            assert_eq!(policy.check_ip(ip(open)), Ok(()), "{open}");
        }
        for closed in [
            "11.0.0.1.x",
            "192.168.0.1",
            "fc00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ] {
            let Ok(closed) = closed.parse() else { continue };
            assert!(policy.check_ip(closed).is_err(), "{closed}");
        }
    }

    #[test]
    fn of_two_networks_in_both_lists_the_longer_prefix_counts() {
        let networks = |list: &[&str]| -> Vec<Cidr> {
            let networks = list.iter().map(|text| text.parse().expect("is a network"));
            networks.collect()
        };
        let policy = AddressPolicy {
            allow: networks(&["9.9.0.0/16", "8.8.8.8", "10.0.0.0/8", "10.2.0.0/16"]),
            deny: networks(&["9.9.9.0/24", "8.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16"]),
            ..policy()
        };
        for (text, expected) in [
            ("9.9.8.1", Ok(())),
            ("9.9.9.1", Err(Denial::Listed)),
            ("8.8.8.8", Ok(())),
            ("8.8.8.9", Err(Denial::Listed)),
            ("10.0.0.1", Ok(())),
            ("10.1.0.1", Err(Denial::Listed)),
            ("10.2.0.1", Err(Denial::Listed)),
            ("7.0.0.1", Ok(())),
            ("192.168.0.1", Err(Denial::Private)),
        ] {
            assert_eq!(policy.check_ip(ip(text)), expected, "{text}");
        }
    }

    #[test]
    fn denying_everything_leaves_what_is_allowed_and_other_clients() {
        let policy = AddressPolicy {
            allow: vec!["9.9.9.9".parse().expect("is a network")],
            deny: ["0.0.0.0/0", "::/0"]
                .map(|text| text.parse().expect("is a network"))
                .to_vec(),
            relay_ips: vec![ip("1.2.3.4")],
            ..policy()
        };
        let check = |text: &str| policy.check(text.parse().expect("is an address"));
        assert_eq!(check("9.9.9.9:9"), Ok(()));
        assert_eq!(check("1.2.3.4:50000"), Ok(()));
        assert_eq!(check("9.9.9.8:9"), Err(Denial::Listed));
        assert_eq!(check("[2606:4700::1]:9"), Err(Denial::Listed));
        assert_eq!(check("[::ffff:9.9.9.9]:9"), Err(Denial::Listed));
    }

    #[test]
    fn the_node_is_reachable_only_at_its_relayed_ports() {
        let policy = AddressPolicy {
            deny: Vec::new(),
            allow: vec!["0.0.0.0/0".parse().expect("is a network")],
            own: vec![ip("10.0.0.1"), ip("10.0.0.2")],
            relay_ips: vec![ip("10.0.0.1")],
            relay_ports: 49152..=65535,
            own_ports: [50001].into(),
        };
        let check = |text: &str| policy.check(text.parse().expect("is an address"));
        assert_eq!(check("10.0.0.1:49152"), Ok(()));
        assert_eq!(check("10.0.0.1:3478"), Err(Denial::OwnAddress));
        assert_eq!(check("10.0.0.1:50001"), Err(Denial::OwnAddress));
        assert_eq!(check("10.0.0.3:50001"), Ok(()));
        assert_eq!(check("10.0.0.2:50000"), Err(Denial::OwnAddress));
        assert_eq!(check("10.0.0.3:80"), Ok(()));
        assert_eq!(check("10.0.0.3:0"), Err(Denial::PortZero));
        assert_eq!(check("[::ffff:10.0.0.2]:80"), Err(Denial::OwnAddress));
        assert_eq!(policy.check_ip(ip("10.0.0.1")), Ok(()));
    }

    #[test]
    fn allowing_translated_networks_does_not_open_what_is_denied_inside_of_them() {
        let policy = AddressPolicy {
            allow: ["64:ff9b::/96", "2002::/16"]
                .map(|text| text.parse().expect("is a network"))
                .to_vec(),
            deny: vec!["8.8.8.0/24".parse().expect("is a network")],
            own: vec![ip("9.9.9.10")],
            ..policy()
        };
        for open in ["64:ff9b::808:404", "2002:808:404::1"] {
            assert_eq!(policy.check_ip(ip(open)), Ok(()), "{open}");
        }
        for (closed, denial) in [
            ("64:ff9b::7f00:1", Denial::Loopback),
            ("64:ff9b::a9fe:a9fe", Denial::LinkLocal),
            ("64:ff9b::a00:1", Denial::Private),
            ("64:ff9b::909:90a", Denial::OwnAddress),
            ("64:ff9b::808:808", Denial::Listed),
            ("2002:7f00:1::1", Denial::Loopback),
        ] {
            assert_eq!(policy.check_ip(ip(closed)), Err(denial), "{closed}");
        }
    }

    #[test]
    fn a_translator_with_a_prefix_of_its_own_reaches_nothing_that_is_denied() {
        let check = |allowed: &str, text: &str| {
            let policy = AddressPolicy {
                allow: vec![allowed.parse().expect("is a network")],
                ..policy()
            };
            policy.check_ip(ip(text))
        };
        // 8.224.4.4, as prefixes of 48, 56, 64 and 96 bits have it.
        for (allowed, open) in [
            ("64:ff9b:1::/48", "64:ff9b:1:8e0:4:400::"),
            ("64:ff9b:1::/48", "64:ff9b:1::8e0:404"),
            ("64:ff9b:1:100::/56", "64:ff9b:1:108:e0:404::"),
            ("64:ff9b:1:1::/64", "64:ff9b:1:1:8:e004:400:0"),
            ("64:ff9b:1:a00::/96", "64:ff9b:1:a00::8e0:404"),
        ] {
            assert_eq!(check(allowed, open), Ok(()), "{open}");
        }
        // 10.0.0.1 alike, also with something else behind it; and 127.0.0.1 behind what is public.
        for (allowed, closed, denial) in [
            ("64:ff9b:1::/48", "64:ff9b:1:a00:0:100::", Denial::Private),
            (
                "64:ff9b:1::/48",
                "64:ff9b:1:a00:0:100:808:808",
                Denial::Private,
            ),
            ("64:ff9b:1::/48", "64:ff9b:1::a00:1", Denial::Private),
            (
                "64:ff9b:1::/48",
                "64:ff9b:1:808:8:800:7f00:1",
                Denial::Loopback,
            ),
            ("64:ff9b:1::/48", "64:ff9b:1::", Denial::Unspecified),
            (
                "64:ff9b:1:100::/56",
                "64:ff9b:1:10a:0:1:808:808",
                Denial::Private,
            ),
            (
                "64:ff9b:1:1::/64",
                "64:ff9b:1:1:a:0:108:808",
                Denial::Private,
            ),
            (
                "64:ff9b:1:a00::/96",
                "64:ff9b:1:a00::a00:1",
                Denial::Private,
            ),
        ] {
            assert_eq!(check(allowed, closed), Err(denial), "{closed}");
        }
    }

    #[test]
    fn networks_are_parsed_strictly() {
        let parse = |text: &str| text.parse::<Cidr>();
        assert_eq!(
            parse("10.1.2.3/8").expect("is one").to_string(),
            "10.0.0.0/8"
        );
        assert_eq!(
            parse("10.1.2.3").expect("is one").to_string(),
            "10.1.2.3/32"
        );
        assert_eq!(parse("::/0").expect("is one").to_string(), "::/0");
        assert_eq!(parse("10.0.0.0/33"), Err(CidrError::Prefix));
        assert_eq!(parse("10.0.0.0/"), Err(CidrError::Prefix));
        assert_eq!(parse("10.0.0/8"), Err(CidrError::Address));
        let network = |text| parse(text).expect("is one");
        assert!(!network("0.0.0.0/0").contains(ip("::1")));
        assert!(network("10.0.0.0/8").contains_all(network("10.1.0.0/16")));
        assert!(network("10.0.0.0/8").contains_all(network("10.0.0.0/8")));
        assert!(!network("10.0.0.0/16").contains_all(network("10.0.0.0/8")));
        assert!(!network("10.0.0.0/8").contains_all(network("11.0.0.0/16")));
        assert!(!network("0.0.0.0/0").contains_all(network("::/0")));
    }

    fn policy() -> AddressPolicy {
        AddressPolicy {
            deny: Vec::new(),
            allow: Vec::new(),
            own: Vec::new(),
            relay_ips: Vec::new(),
            relay_ports: 49152..=65535,
            own_ports: BTreeSet::new(),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("is an address")
    }
}
