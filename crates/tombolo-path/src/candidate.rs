//! Addresses at which a peer may be reached.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// How an address was learned. See RFC 8445 §4 and §5.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// An address of one of the device's own interfaces.
    Host,
    /// The device's address as a STUN server outside of its NAT sees it.
    ServerReflexive,
    /// An address from which a check arrived and which nobody had announced.
    PeerReflexive,
    /// The device's address at a TURN server. Never checked: the relay route carries it already.
    Relayed,
}

impl CandidateKind {
    /// The recommended type preference. See RFC 8445 §5.1.2.2.
    #[must_use]
    pub fn preference(self) -> u32 {
        match self {
            Self::Host => 126,
            Self::PeerReflexive => 110,
            Self::ServerReflexive => 100,
            Self::Relayed => 0,
        }
    }

    /// Which kind wins when two paths are equally fast: the smaller one. An announced address is
    /// preferred over a guessed one.
    pub(crate) fn rank(self) -> u8 {
        match self {
            Self::Host => 0,
            Self::ServerReflexive => 1,
            Self::PeerReflexive => 2,
            Self::Relayed => 3,
        }
    }
}

impl fmt::Display for CandidateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::ServerReflexive => "srflx",
            Self::PeerReflexive => "prflx",
            Self::Relayed => "relay",
        })
    }
}

/// One address of a peer, with the order in which to try it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// How the address was learned.
    pub kind: CandidateKind,
    /// The transport address.
    pub address: SocketAddr,
    /// Larger is tried earlier. See RFC 8445 §5.1.2.
    pub priority: u32,
}

impl Candidate {
    /// Makes a candidate with the recommended priority; among equals IPv6 is tried first.
    #[must_use]
    pub fn new(kind: CandidateKind, address: SocketAddr) -> Self {
        let address = canonical(address);
        Self {
            kind,
            address,
            priority: priority(kind, address),
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.address)
    }
}

/// The recommended priority of a candidate of the only component. See RFC 8445 §5.1.2.1.
#[must_use]
pub fn priority(kind: CandidateKind, address: SocketAddr) -> u32 {
    let local_preference: u32 = if address.is_ipv6() { 65_535 } else { 65_534 };
    (kind.preference() << 24) | (local_preference << 8) | 255
}

/// Writes an IPv4-mapped IPv6 address as the IPv4 address that it is, and drops the flow label, so
/// that one address has one spelling. A dual-stack socket reports the mapped form.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id())),
        },
    }
}

/// Why an announced candidate is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateRefusal {
    /// Port 0, an unspecified, multicast or broadcast address, or a link-local one without its
    /// interface.
    NotUnicast,
    /// A loopback address, and [`Config::loopback`](crate::Config::loopback) is off.
    Loopback,
    /// The peer has as many candidates as are allowed.
    TooMany,
    /// The peer has announced as many ports of this IP as are allowed.
    TooManyOfIp,
}

impl fmt::Display for CandidateRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotUnicast => "not an address that a packet can be sent to",
            Self::Loopback => "a loopback address, which only laboratories allow",
            Self::TooMany => "one candidate too many",
            Self::TooManyOfIp => "one port too many of the same IP",
        })
    }
}

/// Says whether checks may be sent to a canonical address that somebody else named.
pub(crate) fn accept(address: SocketAddr, loopback: bool) -> Result<(), CandidateRefusal> {
    let is_bad = address.port() == 0
        || match address.ip() {
            IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
            IpAddr::V6(ip) => {
                let is_unscoped_link_local = ip.is_unicast_link_local()
                    && matches!(address, SocketAddr::V6(v6) if v6.scope_id() == 0);
                ip.is_unspecified() || ip.is_multicast() || is_unscoped_link_local
            }
        };
    if is_bad {
        return Err(CandidateRefusal::NotUnicast);
    }
    if address.ip().is_loopback() && !loopback {
        return Err(CandidateRefusal::Loopback);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_become_ipv4() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:5".parse().unwrap();
        assert_eq!(canonical(mapped), "192.0.2.1:5".parse().unwrap());
        let v6: SocketAddr = "[2001:db8::1]:5".parse().unwrap();
        assert_eq!(canonical(v6), v6);
    }

    #[test]
    fn kinds_are_tried_host_first() {
        let at = "192.0.2.1:5".parse().unwrap();
        let of = |kind| Candidate::new(kind, at).priority;
        assert_eq!(of(CandidateKind::Host), 126 << 24 | 65_534 << 8 | 255);
        assert!(of(CandidateKind::Host) > of(CandidateKind::PeerReflexive));
        assert!(of(CandidateKind::PeerReflexive) > of(CandidateKind::ServerReflexive));
        assert!(of(CandidateKind::ServerReflexive) > of(CandidateKind::Relayed));
    }

    #[test]
    fn addresses_that_no_packet_can_reach_are_refused() {
        for bad in [
            "0.0.0.0:1",
            "192.0.2.1:0",
            "224.0.0.1:9",
            "255.255.255.255:9",
            "[::]:9",
            "[ff02::1]:9",
            "[fe80::1]:9",
        ] {
            let address = canonical(bad.parse().unwrap());
            let refusal = accept(address, true);
            assert_eq!(refusal, Err(CandidateRefusal::NotUnicast), "{bad}");
        }
        let loopback = "127.0.0.1:9".parse().unwrap();
        assert_eq!(accept(loopback, false), Err(CandidateRefusal::Loopback));
        assert_eq!(accept(loopback, true), Ok(()));
    }
}
