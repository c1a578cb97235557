//! Datagrams that must not be cut up and are too long for the first step of their way. A router would say
//! so by ICMP; here their clients are told the same. See RFC 8656 §11.5 and §14.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use tombolo_turn::server::{PeerAddr, PeerError, RelayAddr};

use super::{Shard, raw_header, relays::RelaySide, token::SocketId};
use crate::socket::{Sender, mtu_towards};

/// From where to where those went that the kernel refused.
#[derive(Default)]
pub(super) struct TooLong(Vec<(RelayAddr, PeerAddr)>);

impl TooLong {
    /// Notes which packets of the last ones that `sender` sent were too long; `ends` gives the header and the
    /// destination of the one in a place.
    pub(super) fn note<'a>(
        &mut self,
        relays: &RelaySide,
        via: SocketId,
        sender: &Sender,
        ends: impl Fn(usize) -> (&'a [u8], SocketAddr),
    ) {
        for place in sender.too_long() {
            let (header, to) = ends(*place);
            let ends = match via {
                SocketId::Relay(index) => relays.ports.get(index).map(|port| (port.address.0, to)),
                SocketId::Steered(_) => raw_header::ends(header),
                SocketId::Server(_) => None,
            };
            if let Some((at, to)) = ends.filter(|_| self.0.len() < TOLD_PER_TURN_MAX) {
                self.0.push((RelayAddr(at), PeerAddr(to)));
            }
        }
    }
}

impl Shard {
    /// Has the core tell the clients, as far as it tells anybody of so many errors.
    pub(super) fn tell_too_long(&mut self, now: Instant) {
        let too_long = std::mem::take(&mut self.too_long.0);
        // 0 is what old routers say that do not know it.
        let mtu = |peer| mtu_towards(peer).unwrap_or(0);
        for (at, peer, error) in errors_of(too_long, mtu) {
            self.is_eventful = true;
            self.core.handle_peer_error(now, at, peer, error);
        }
    }
}

/// What a router would say of each. The longest that can go to a peer is found out once, as that takes some
/// system calls.
fn errors_of(
    too_long: Vec<(RelayAddr, PeerAddr)>,
    mut mtu_towards: impl FnMut(SocketAddr) -> u32,
) -> impl Iterator<Item = (RelayAddr, PeerAddr, PeerError)> {
    let mut mtu_by_peer = BTreeMap::new();
    too_long.into_iter().map(move |(at, peer)| {
        let mtu = mtu_by_peer.entry(peer.0.ip());
        let mtu = *mtu.or_insert_with(|| mtu_towards(peer.0));
        (at, peer, PeerError::too_big(peer.0, mtu))
    })
}

/// Datagrams whose clients are told after one turn; of more they are not.
const TOLD_PER_TURN_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_packet_to_a_peer_is_found_out_once_in_a_turn() {
        let address = |last, port| SocketAddr::from(([192, 0, 2, last], port));
        let at = RelayAddr(address(1, 50_000));
        let peers = [(8, 1), (9, 1), (8, 1), (8, 2)].map(|(last, port)| address(last, port));
        let mut asked = Vec::new();
        let too_long = peers.map(|peer| (at, PeerAddr(peer))).to_vec();
        let errors = errors_of(too_long, |peer| {
            asked.push(peer);
            1400
        });
        let told: Vec<_> = errors.map(|(_, peer, _)| peer.0).collect();
        assert_eq!(told, peers);
        assert_eq!(asked, peers[..2]);
    }
}
