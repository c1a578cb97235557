//! From sockets to the core.

use std::{net::SocketAddr, time::Instant};

use tombolo_turn::server::{FiveTuple, PeerAddr, RelayAddr, Transport};
use tracing::debug;

use super::{
    Shard,
    token::{SocketId, Source},
};
use crate::socket::SLOTS;

impl Shard {
    /// Serves the sockets that have something: each relay socket in turn with a small share, and the
    /// server sockets, which all clients share, after every batch of those.
    pub(super) fn handle_sockets(&mut self, now: Instant) {
        for i in 0..self.poller.ready() {
            let Some(Source::Socket(SocketId::Relay(index))) =
                Source::from_token(self.poller.token(i))
            else {
                continue;
            };
            if self.poller.has_error(i) {
                self.take_errors(now, index);
                if !self.poller.has_input(i) {
                    continue;
                }
            }
            if SLOTS - self.filled < RELAY_SHARE {
                self.flush();
                self.handle_servers(now);
            }
            self.receive_at_relay(now, index);
        }
        self.flush();
        self.handle_steered(now);
        self.handle_servers(now);
    }

    /// One batch of what came to steered ports, of each family.
    fn handle_steered(&mut self, now: Instant) {
        for index in 0..2 {
            let steered = self.relays.steered.as_mut();
            let Some(end) = steered.and_then(|steered| steered.end_mut(index)) else {
                continue;
            };
            if !std::mem::take(&mut end.is_ready) {
                continue;
            }
            let share = end.share;
            let received = self.slots.receive(&end.socket.receive, 0..share);
            let count = received.unwrap_or_else(|_| {
                self.io.receive_errors += 1;
                0
            });
            end.share = if count == share { share * 2 } else { count }.clamp(1, SLOTS);
            self.filled = count;
            for slot in 0..count {
                match self.slots.to(slot) {
                    Some(at) => self.handle_from_peers(now, slot, RelayAddr(at)),
                    None => self.io.lost += 1,
                }
            }
            self.flush();
        }
    }

    /// One batch from each server socket that is ready.
    fn handle_servers(&mut self, now: Instant) {
        for i in 0..self.servers.len() {
            let server = &mut self.servers[i];
            if !server.is_ready {
                continue;
            }
            let share = server.share;
            let count = self
                .slots
                .receive(&server.socket, 0..share)
                .unwrap_or_else(|_| {
                    self.io.receive_errors += 1;
                    0
                });
            // What a batch left behind is looked at again before this turn is over, if the turn is
            // long, and reported again otherwise. A socket that seldom has more than one datagram
            // is not offered more, as the kernel would look for them.
            server.is_ready = count == SLOTS;
            server.share = if count == share { share * 2 } else { count }.clamp(1, SLOTS);
            let address = server.address;
            self.filled = count;
            for slot in 0..count {
                self.handle_from_clients(now, slot, address);
            }
            self.flush();
            if !self.core.is_drained() {
                self.drain_core(now);
            }
        }
    }

    /// Handles the datagrams in `slot`, which came to the server socket `at`.
    fn handle_from_clients(&mut self, now: Instant, slot: usize, at: SocketAddr) {
        let Some(client) = self.slots.from(slot) else {
            return;
        };
        let ip = self.slots.to(slot).map_or_else(|| at.ip(), |to| to.ip());
        let from = FiveTuple {
            transport: Transport::Udp,
            client,
            server: SocketAddr::new(ip, at.port()),
        };
        for i in 0..self.count_received(slot) {
            let range = self.slots.range(slot, i);
            let data = &self.slots.bytes(slot)[range.clone()];
            if let Some(dtls) = &self.inbox.dtls
                && dtls.takes(data)
            {
                dtls.take(client, from.server, data);
                continue;
            }
            if let Some(forward) = self.core.handle_client(now, from, data) {
                self.forward_slot(now, forward, slot, range);
            } else {
                self.is_eventful = true;
                self.log_refusal(from.client);
            }
        }
    }

    /// Counts the datagrams in `slot`, and returns how many there are.
    fn count_received(&mut self, slot: usize) -> usize {
        let count = self.slots.count(slot);
        self.io.received += count as u64;
        self.io.receive_errors += self.slots.lost(slot) as u64;
        count
    }

    /// Says why something of a client or a peer was refused, to those who debug.
    pub(super) fn log_refusal(&mut self, from: SocketAddr) {
        if tracing::enabled!(tracing::Level::DEBUG)
            && let Some(refusal) = self.core.take_refusal()
        {
            debug!(%from, reason = %refusal, code = refusal.code(), "refused");
        }
    }

    fn receive_at_relay(&mut self, now: Instant, index: u32) {
        let Some(port) = self.relays.ports.get_mut(index) else {
            return;
        };
        // One datagram is what most have, and looking for a second one costs almost as much. Who has
        // more is ready in turn after turn, and is offered more in one of them.
        let is_ready_again = port.last_turn.wrapping_add(1) == self.turn;
        let is_looked_at = is_ready_again && self.turn.is_multiple_of(LOOK_EVERY);
        let share = if port.has_more || is_looked_at {
            RELAY_SHARE
        } else {
            1
        };
        port.last_turn = self.turn;
        let at = port.address;
        let range = self.filled..self.filled + share;
        let Ok(count) = self.slots.receive(&port.socket, range.clone()) else {
            self.io.receive_errors += 1;
            return;
        };
        if share > 1 {
            port.has_more = count > 1;
        }
        self.filled += count;
        for slot in range.take(count) {
            self.handle_from_peers(now, slot, at);
        }
    }

    /// Handles the datagrams in `slot`, which came to a relayed address.
    fn handle_from_peers(&mut self, now: Instant, slot: usize, at: RelayAddr) {
        let Some(peer) = self.slots.from(slot) else {
            return;
        };
        for i in 0..self.count_received(slot) {
            let range = self.slots.range(slot, i);
            let data = &self.slots.bytes(slot)[range.clone()];
            if let Some(forward) = self.core.handle_peer(now, at, PeerAddr(peer), data) {
                self.forward_slot(now, forward, slot, range);
            } else {
                self.log_refusal(peer);
            }
        }
    }
}

/// Buffers that one relay socket fills before the others get their turn.
const RELAY_SHARE: usize = 8;
/// In how many turns a relay socket is offered several buffers once, to see whether it has more.
const LOOK_EVERY: u32 = 8;
const _: () = assert!(RELAY_SHARE <= SLOTS, "a share fits into a batch");
