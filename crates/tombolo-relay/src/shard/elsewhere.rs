//! Clients whose packets come here though their allocation is on another shard.

use tombolo_turn::server::{FiveTuple, ShardIndex};

use super::Shard;
use crate::link::FromStream;

impl Shard {
    /// Hands a client over: its stream connection, where it has one, and the packet in hand.
    pub(super) fn redirect(&mut self, shard: ShardIndex, client: FiveTuple, packet: Vec<u8>) {
        if let Some(connection) = self.connections.remove(&client) {
            self.pass_on(shard, FromStream::Opened(client, connection));
        }
        self.pass_on(shard, FromStream::Frame(client, packet));
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
