//! Addresses: of peers' relayed paths, as QUIC knows them, and of others in one form.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use tombolo_path::PeerId;

/// First segments of every virtual address: a prefix of unique local addresses (RFC 4193).
const VIRTUAL_PREFIX: [u16; 3] = [0xfd00, 0x746f, 0x6d62];

/// The address by which QUIC knows the peer's relayed path.
pub(crate) fn virtual_of(id: PeerId) -> SocketAddr {
    let [a, b, c] = VIRTUAL_PREFIX;
    let [.., e, f, g, h] = split(id.0);
    SocketAddr::V6(SocketAddrV6::new(
        Ipv6Addr::new(a, b, c, 0, e, f, g, h),
        1,
        0,
        0,
    ))
}

pub(super) fn peer_of_virtual(address: SocketAddr) -> Option<PeerId> {
    let SocketAddr::V6(address) = address else {
        return None;
    };
    let [a, b, c, 0, e, f, g, h] = address.ip().segments() else {
        return None;
    };
    let joined = [e, f, g, h]
        .into_iter()
        .fold(0, |id, part| id << 16 | u64::from(part));
    ([a, b, c] == VIRTUAL_PREFIX).then_some(PeerId(joined))
}

fn split(id: u64) -> [u16; 4] {
    let [a, b, c, d, e, f, g, h] = id.to_be_bytes();
    [
        u16::from_be_bytes([a, b]),
        u16::from_be_bytes([c, d]),
        u16::from_be_bytes([e, f]),
        u16::from_be_bytes([g, h]),
    ]
}

/// An address without the IPv4-mapped form, in which dual-stack sockets report IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), address.port()),
            None => address,
        },
        IpAddr::V4(_) => address,
    }
}
