use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// The addresses of this machine, of which coturn takes those that its file does not name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// Those towards the internet first and loopback last. Link-local ones mean nothing without an
    /// interface.
    pub(super) ips: Vec<IpAddr>,
    /// Those that packets to the internet would come from.
    pub(super) outward: Vec<IpAddr>,
}

impl Machine {
    /// As it is now.
    pub(crate) fn look() -> Self {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default().into_iter();
        let usable = interfaces.filter(|interface| !interface.is_link_local());
        let to_internet = [INTERNET_V4.into(), INTERNET_V6.into()];
        Self::new(
            usable.map(|interface| interface.ip()).collect(),
            to_internet.into_iter().filter_map(source_towards).collect(),
        )
    }

    pub(super) fn new(mut ips: Vec<IpAddr>, outward: Vec<IpAddr>) -> Self {
        ips.sort_by_key(|ip| (ip.is_loopback(), !outward.contains(ip)));
        // Several interfaces may have the same.
        let mut known = BTreeSet::new();
        ips.retain(|ip| known.insert(*ip));
        Self { ips, outward }
    }
}

/// The address that packets to `destination` would come from. Nothing is sent.
fn source_towards(destination: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((destination, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Documentation addresses (RFC 5737, RFC 3849): they follow the default route and are nobody's.
const INTERNET_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const INTERNET_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
