//! Datagrams that must not be cut up and are too long for the first step of their way. A router would say
//! so by ICMP; here their clients are told the same. See RFC 8656 §11.5 and §14.

use std::{net::SocketAddr, time::Instant};

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
        for (at, peer) in std::mem::take(&mut self.too_long.0) {
            self.is_eventful = true;
            // 0 is what old routers say that do not know it.
            let mtu = mtu_towards(peer.0).unwrap_or(0);
            let error = PeerError::too_big(peer.0, mtu);
            self.core.handle_peer_error(now, at, peer, error);
        }
    }
}

/// Datagrams whose clients are told after one turn; of more they are not.
const TOLD_PER_TURN_MAX: usize = 64;
