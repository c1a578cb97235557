//! Clients whose packets come here though their allocation is on another shard.

use std::time::Instant;

use tombolo_turn::server::{FiveTuple, Forward, ShardIndex};

use super::Shard;
use crate::link::{FromStream, PassedOn};

impl Shard {
    /// Hands a client over: its stream connection, where it has one, and the packet in hand.
    pub(super) fn redirect(&mut self, shard: ShardIndex, client: FiveTuple, packet: Vec<u8>) {
        if let Some(connection) = self.connections.remove(&client) {
            self.pass_on(shard, FromStream::Opened(client, connection));
        }
        // The packet itself names that shard.
        let passed_on = PassedOn {
            client,
            packet,
            hops_left: 0,
        };
        self.pass_on(shard, FromStream::PassedOn(passed_on));
    }

    /// Gives another shard a packet of a client that was handed over to it.
    pub(super) fn pass_packet_on(&mut self, shard: ShardIndex, client: FiveTuple, packet: Vec<u8>) {
        // This shard and that one are no stations on the way between others.
        let others = self.siblings.len().saturating_sub(2);
        let passed_on = PassedOn {
            client,
            packet,
            hops_left: u8::try_from(others).unwrap_or(u8::MAX),
        };
        self.pass_on(shard, FromStream::PassedOn(passed_on));
    }

    /// Handles a packet from another shard. A client that was handed over again and again has packets
    /// go from shard to shard, but none of them comes to one twice.
    pub(super) fn handle_passed_on(&mut self, now: Instant, passed_on: PassedOn) {
        let PassedOn {
            client,
            packet,
            hops_left,
        } = passed_on;
        let forward = match hops_left {
            0 => self.core.handle_passed_on(now, client, &packet),
            _ => self.core.handle_client(now, client, &packet),
        };
        match forward {
            Some(Forward::ToShard { shard, client }) => {
                let passed_on = PassedOn {
                    client,
                    packet,
                    hops_left: hops_left.saturating_sub(1),
                };
                self.pass_on(shard, FromStream::PassedOn(passed_on));
            }
            Some(forward) => self.forward_frame(now, forward, &packet),
            None => self.log_refusal(client.client),
        }
    }

    /// Tells another shard something about a client's connection, later if it has too much to do: nobody
    /// would tell it again.
    pub(super) fn tell(&mut self, shard: ShardIndex, what: FromStream) {
        let Some(link) = self.siblings.get(usize::from(shard.0)) else {
            return;
        };
        self.io.passed_on += 1;
        link.pass_on_surely(what, Some(self.peers.streams()));
    }

    /// Gives another shard something. It may be lost like a datagram when that one has too much to
    /// do: a connection then ends, since nobody holds its queue any more.
    pub(super) fn pass_on(&mut self, shard: ShardIndex, what: FromStream) {
        let link = self.siblings.get(usize::from(shard.0));
        match link.map(|link| link.pass_on(what)) {
            Some(Ok(())) => self.io.passed_on += 1,
            Some(Err(_)) | None => self.io.passed_on_dropped += 1,
        }
    }
}
