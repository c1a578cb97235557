//! ICMP errors that the kernel tells relay sockets of. See RFC 8656 §11.5.

use std::time::Instant;

use tombolo_turn::server::PeerAddr;

use super::Shard;
use crate::socket::Reported;

impl Shard {
    /// Gives the core the errors that wait at a relay socket. What is left is reported again.
    pub(super) fn take_errors(&mut self, now: Instant, index: u32) {
        for _ in 0..ERRORS_PER_TURN {
            let port = self.relays.ports.get(index);
            let Some((port, reported)) =
                port.and_then(|port| Some((port, port.socket.take_error()?)))
            else {
                return;
            };
            if let Reported::Icmp(peer, error) = reported {
                let peer = PeerAddr(peer);
                self.is_eventful = true;
                self.core.handle_peer_error(now, port.address, peer, error);
            }
        }
    }
}

/// Errors that are taken from one relay socket before the others get their turn.
const ERRORS_PER_TURN: usize = 16;
