//! Who has which address in the namespace. The generator, the servers' command lines and the bare
//! forwarder agree on it, so nobody has to be told.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The server, the only one with an interface address: everybody else has a local route.
pub(crate) const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 3478);
/// All addresses of the plan.
pub(crate) const NETWORK: &str = "10.0.0.0/8";
/// Where Tombolo counts aloud.
pub(crate) const METRICS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9641);
pub(crate) const CLIENT_PORT: u16 = 4000;
pub(crate) const PEER_PORT: u16 = 5000;
/// Of clients that come and go beside those that stay, and of their peers.
pub(crate) const CHURN_CLIENT_PORT: u16 = 4001;
pub(crate) const CHURN_PEER_PORT: u16 = 5001;
/// Of what pretends to be a client.
pub(crate) const FLOOD_PORT: u16 = 6000;
/// The relay port of the bare forwarder's first flow.
pub(crate) const FLOOR_PORT: u16 = 49152;
/// How many there are of clients, peers, and spoofed sources.
pub(crate) const HOSTS_MAX: usize = 64 * 256;

pub(crate) const REALM: &str = "bench";
pub(crate) const PASSWORD: &str = "test";
/// Each has at most 16 allocations, Tombolo's default limit for a user.
pub(crate) const USERS: usize = HOSTS_MAX / 16;

/// The address of a client: each in a /24 of its own, as servers budget by source prefix.
pub(crate) fn client(index: usize) -> Ipv4Addr {
    host(64, index)
}

/// Whose address this is, the reverse of [`client`].
pub(crate) fn client_index(ip: Ipv4Addr) -> Option<usize> {
    let [ten, high, low, one] = ip.octets();
    let high = high.checked_sub(64).filter(|high| *high < 64)?;
    (ten == 10 && one == 1).then(|| usize::from(high) << 8 | usize::from(low))
}

/// The address of a client's peer.
pub(crate) fn peer(index: usize) -> SocketAddrV4 {
    SocketAddrV4::new(host(128, index), PEER_PORT)
}

/// An address that a flood pretends to come from.
pub(crate) fn spoofed(index: usize) -> Ipv4Addr {
    host(192, index)
}

/// The channel that a client binds to its peer.
pub(crate) fn channel(index: usize) -> u16 {
    0x4000 + (index % 0x1000) as u16
}

/// The user of an allocation.
pub(crate) fn user(index: usize) -> String {
    format!("u{}", index % USERS)
}

fn host(base: u8, index: usize) -> Ipv4Addr {
    assert!(
        index < HOSTS_MAX,
        "the plan has {HOSTS_MAX} hosts of a kind"
    );
    Ipv4Addr::new(10, base + (index >> 8) as u8, index as u8, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_found_by_its_address_and_nobody_else() {
        for index in [0, 1, 255, 256, HOSTS_MAX - 1] {
            assert_eq!(client_index(client(index)), Some(index));
            assert_eq!(client_index(*peer(index).ip()), None);
            assert_eq!(client_index(spoofed(index)), None);
        }
        assert_eq!(client_index(*SERVER.ip()), None);
    }
}
