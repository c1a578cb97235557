//! What a batch of received datagrams leads to, until the batch is sent.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use tombolo_turn::server::Header;

use crate::socket::SLOTS;

/// A socket of the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SocketId {
    /// By its place among the server sockets.
    Server(usize),
    /// By its place among the relay ports.
    Relay(usize),
}

impl SocketId {
    /// The socket's name in the poller.
    pub(super) fn to_token(self) -> u64 {
        match self {
            Self::Server(index) => index as u64,
            Self::Relay(index) => RELAY_BIT | index as u64,
        }
    }

    /// `None` for the waker.
    pub(super) fn from_token(token: u64) -> Option<Self> {
        if token == WAKE_TOKEN {
            return None;
        }
        let index = (token & !RELAY_BIT) as usize;
        Some(if token & RELAY_BIT == 0 {
            Self::Server(index)
        } else {
            Self::Relay(index)
        })
    }
}

/// A packet to be sent: its payload is a range of a received datagram.
pub(super) struct Queued {
    pub(super) via: SocketId,
    pub(super) to: SocketAddr,
    /// The local IP to send from, on wildcard sockets.
    pub(super) source: Option<IpAddr>,
    pub(super) header: Option<Header>,
    pub(super) slot: usize,
    pub(super) range: Range<usize>,
    pub(super) padding: usize,
}

/// Packets to be sent, at most one for each received datagram.
pub(super) struct Outbox {
    queue: Vec<Queued>,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            queue: Vec::with_capacity(SLOTS),
        }
    }

    pub(super) fn push(&mut self, packet: Queued) {
        debug_assert!(
            self.queue.len() < SLOTS,
            "a datagram leads to one packet at most"
        );
        self.queue.push(packet);
    }

    /// The packets, one group for each socket, in the order of their arrival.
    pub(super) fn groups(&mut self) -> impl Iterator<Item = &[Queued]> {
        // In place, unlike the stable sort; slots are filled in the order of arrival.
        self.queue
            .sort_unstable_by_key(|packet| (packet.via, packet.slot));
        self.queue.chunk_by(|a, b| a.via == b.via)
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }
}

/// The waker's name in the poller, which no index comes near.
pub(super) const WAKE_TOKEN: u64 = u64::MAX;
const RELAY_BIT: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_their_sockets() {
        for id in [
            SocketId::Server(0),
            SocketId::Server(7),
            SocketId::Relay(0),
            SocketId::Relay(9),
        ] {
            assert_eq!(SocketId::from_token(id.to_token()), Some(id));
        }
        assert_eq!(SocketId::from_token(WAKE_TOKEN), None);
    }
}
