//! Host candidates: the addresses of this machine's interfaces.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// More interfaces than a person has; the rest is containers and tunnels.
const HOST_ADDRESSES_MAX: usize = 12;

/// Addresses on which peers of the same network could reach this device.
///
/// Loopback addresses are left out unless `with_loopback`: they help only when the server itself
/// is on this machine.
pub(crate) fn host_addresses(with_loopback: bool) -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "interfaces cannot be listed: no host candidates");
        Vec::new()
    });
    let mut addresses: Vec<_> = interfaces
        .into_iter()
        .filter(|interface| interface.is_oper_up())
        .map(|interface| interface.ip())
        .filter(|ip| is_candidate(*ip) && (with_loopback || !ip.is_loopback()))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(HOST_ADDRESSES_MAX);
    addresses
}

/// Whether the system has a way to `address`; sends nothing.
pub(crate) fn has_route(address: SocketAddr) -> bool {
    source_towards(address).is_some()
}

/// The address from which packets to `remote` leave; sends nothing.
pub(crate) fn source_towards(remote: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match remote {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn is_candidate(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_link_local(),
        // Link-local addresses need a zone that means nothing to the peer.
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_unicast_link_local(),
    }
}
