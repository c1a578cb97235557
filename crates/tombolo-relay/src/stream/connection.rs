//! One connection: bytes to frames, frames to bytes.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};
use tombolo_stun::{Message, stream::frame_len};
use tombolo_turn::server::{ConnectionId, FiveTuple, Transport};
use tracing::debug;

use super::{Seat, StreamsConfig, splice};
use crate::link::{
    Batch, Connection, ConnectionQueue, ConnectionState, Enrolled, FromStream, Join, ShardLink,
};

/// Serves a connection until either side has enough of it. It was accepted at a time, and has a seat
/// that it keeps while it is of use.
pub(super) async fn run(
    config: &StreamsConfig,
    tuple: FiveTuple,
    stream: impl AsyncRead + AsyncWrite,
    (accepted, seat): (Instant, &Seat),
) {
    let (connection, mut queue) = Connection::new();
    let state = queue.state();
    seat.is_for(Arc::clone(&state));
    let (reader, mut writer) = tokio::io::split(stream);
    let writing = Writing {
        timeout: config.write_timeout,
        // Each write makes a TLS record, and clients are about that do not look for a second frame in
        // a record until the next one comes.
        enough: if tuple.transport == Transport::Tls {
            0
        } else {
            WRITE_BYTES
        },
    };
    let patience = Patience {
        first_frame_by: accepted + config.first_frame_timeout,
        allocation_by: accepted + config.allocation_timeout,
        allocation_timeout: config.allocation_timeout,
        state: Arc::clone(&state),
    };
    let refused = Notify::new();
    let mut inflow = Inflow {
        shards: &config.shards,
        spread: &config.spread,
        tuple,
        reader,
        buffer: Vec::with_capacity(READ_BYTES),
        to: Destination::Undecided(connection),
        refused: &refused,
    };
    let outcome = tokio::select! {
        end = inflow.read(patience) => Err(end),
        outcome = write(&mut queue, &mut writer, &writing, &refused) => outcome,
    };
    let Inflow {
        reader,
        buffer,
        to: _to,
        ..
    } = inflow;
    let end = match outcome {
        Ok(join) => {
            config.counters.joined.add(1);
            state.set_allocated(true);
            let client = tokio::io::join(buffer.chain(reader), writer);
            splice::run(join, client, &writing).await
        }
        Err(end) => end,
    };
    match end {
        End::Closed => {}
        End::NotTurn => config.counters.malformed.add(1),
        End::Silent => config.counters.timed_out.add(1),
        End::SlowReader => config.counters.slow_readers.add(1),
    }
    debug!(client = ?tuple, reason = ?end, "connection ended");
}

/// How long a connection is kept that has no allocation. One that has is only looked at.
struct Patience {
    first_frame_by: Instant,
    /// No frame puts this off, only an allocation.
    allocation_by: Instant,
    allocation_timeout: Duration,
    state: Arc<ConnectionState>,
}

/// How frames are written.
pub(super) struct Writing {
    pub(super) timeout: Duration,
    /// Bytes after which no further frame goes into the same write.
    enough: usize,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// By the client, an error of the connection, or the shard.
    Closed,
    /// What came cannot be cut into frames.
    NotTurn,
    /// Nothing came for too long.
    Silent,
    /// Nothing of what waits to be written could be, for too long.
    SlowReader,
}

/// From the client to its shard.
struct Inflow<'a, R> {
    shards: &'a [ShardLink],
    spread: &'a RandomState,
    tuple: FiveTuple,
    reader: R,
    /// What has come and was not handed over.
    buffer: Vec<u8>,
    to: Destination,
    /// Notified when a ConnectionBind has been refused.
    refused: &'a Notify,
}

enum Destination {
    /// The first frame decides, and then the shard gets this.
    Undecided(Connection),
    Shard(Enrolled),
    /// The shard is gone.
    Nowhere,
}

impl<'a, R: AsyncRead + Unpin> Inflow<'a, R> {
    async fn read(&mut self, mut patience: Patience) -> End {
        let mut deadline = patience.first_frame_by.min(patience.allocation_by);
        loop {
            self.buffer.reserve(READ_BYTES);
            match timeout_at(deadline, self.reader.read_buf(&mut self.buffer)).await {
                Ok(Ok(0)) => return self.finish().await,
                // The end of TLS without a word, where nothing is left that could be cut off.
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return self.finish().await;
                }
                Ok(Err(_)) => return End::Closed,
                Ok(Ok(_)) => {}
                Err(_) if patience.state.is_allocated() => {
                    patience.allocation_by = Instant::now() + patience.allocation_timeout;
                    deadline = patience.allocation_by;
                    continue;
                }
                Err(_) => return End::Silent,
            }
            match self.hand_over_frames(patience.allocation_by).await {
                Ok(0) => {}
                Ok(_) => deadline = patience.allocation_by,
                Err(end) => return end,
            }
        }
    }

    /// The client sends nothing more, and may wait for answers. Whoever writes them ends the connection
    /// once the shard has let go of it.
    async fn finish(&self) -> End {
        if let Destination::Shard(enrolled) = &self.to
            && enrolled.finish().await
        {
            sleep(ANSWERS_TIMEOUT).await;
        }
        End::Closed
    }

    /// Hands over all frames that are whole, and returns how many those were. What is kept of the
    /// next one is at most 64 KiB and a bit.
    async fn hand_over_frames(&mut self, bind_by: Instant) -> Result<usize, End> {
        let mut count = 0;
        let mut start = 0;
        loop {
            let rest = &self.buffer[start..];
            let len = frame_len(rest).map_err(|_| End::NotTurn)?;
            let Some(frame) = len.and_then(|len| rest.get(..len)) else {
                self.buffer.drain(..start);
                return Ok(count);
            };
            let frame = frame.to_vec();
            count += 1;
            start += frame.len();
            if !is_connection_bind(&frame) {
                self.hand_over(frame).await?;
                continue;
            }
            // What follows may be the peer's, so it stays until the shard has decided. If it joins
            // the connections this future ends here.
            self.buffer.drain(..start);
            start = 0;
            self.hand_over(frame).await?;
            let refused = timeout_at(bind_by, self.refused.notified()).await;
            refused.map_err(|_| End::Silent)?;
        }
    }

    /// All of a connection's frames go to one shard, which has its allocation or the connection that it
    /// is to be joined with.
    fn shard_of(&self, first: &[u8]) -> &'a ShardLink {
        let shards = self.shards;
        let index = connection_id(first)
            .map(|id| usize::from(id.shard().0))
            .filter(|index| *index < shards.len())
            .unwrap_or_else(|| place_of(self.spread, self.tuple.client, shards.len()));
        &shards[index]
    }

    async fn hand_over(&mut self, frame: Vec<u8>) -> Result<(), End> {
        let to = std::mem::replace(&mut self.to, Destination::Nowhere);
        self.to = match to {
            Destination::Undecided(connection) => {
                let enrolled = self.shard_of(&frame).enrol(self.tuple, connection).await;
                enrolled.map_or(Destination::Nowhere, Destination::Shard)
            }
            to @ (Destination::Shard(_) | Destination::Nowhere) => to,
        };
        let Destination::Shard(enrolled) = &self.to else {
            return Err(End::Closed);
        };
        let frame = FromStream::Frame(self.tuple, frame);
        if enrolled.shard().frame(frame).await {
            Ok(())
        } else {
            Err(End::Closed)
        }
    }
}

async fn write(
    queue: &mut ConnectionQueue,
    writer: &mut (impl AsyncWrite + Unpin),
    writing: &Writing,
    refused: &Notify,
) -> Result<Join, End> {
    let mut buffer = Vec::new();
    loop {
        match queue.next(&mut buffer, writing.enough).await {
            Batch::Frames { refuses_bind } => {
                writing.write(writer, &buffer).await?;
                if refuses_bind {
                    refused.notify_one();
                }
            }
            Batch::Join(join) => return Ok(*join),
            Batch::Over => {
                // Who reads on learns that no more comes. The connection ends either way.
                let _ = writing.in_time(writer.shutdown()).await;
                return Err(End::Closed);
            }
        }
    }
}

impl Writing {
    pub(super) async fn write(
        &self,
        writer: &mut (impl AsyncWrite + Unpin),
        bytes: &[u8],
    ) -> Result<(), End> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = self.in_time(writer.write(rest)).await?;
            rest = rest
                .get(written..)
                .filter(|_| written > 0)
                .ok_or(End::Closed)?;
        }
        self.in_time(writer.flush()).await
    }

    async fn in_time<T>(&self, what: impl Future<Output = io::Result<T>>) -> Result<T, End> {
        match timeout(self.timeout, what).await {
            Ok(result) => result.map_err(|_| End::Closed),
            Err(_) => Err(End::SlowReader),
        }
    }
}

/// The place of a client's shard. Ports alone would not do: those that Linux gives to connections have
/// one parity.
fn place_of(spread: &impl BuildHasher, client: SocketAddr, shards: usize) -> usize {
    (spread.hash_one(client) % shards as u64) as usize
}

/// The connection that a ConnectionBind is about.
fn connection_id(frame: &[u8]) -> Option<ConnectionId> {
    if !is_connection_bind(frame) {
        return None;
    }
    let message = Message::decode(frame).ok()?;
    let id: tombolo_stun::ConnectionId = message.required().ok()?;
    Some(ConnectionId(id.0))
}

fn is_connection_bind(frame: &[u8]) -> bool {
    frame.first_chunk() == Some(&BIND_REQUEST)
}

/// How a ConnectionBind request begins. See RFC 8489 §5 and RFC 6062 §6.1.
const BIND_REQUEST: [u8; 2] = [0x00, 0x0b];
/// Nobody waits for an answer over TCP for longer: 39.5 s. See RFC 8489 §6.2.2.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(40);
/// Room made for each read.
const READ_BYTES: usize = 8 * 1024;
/// Bytes of small frames that go into one write.
const WRITE_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_whose_ports_are_all_even_are_spread_over_all_shards() {
        let spread = RandomState::new();
        for shards in [2, 4] {
            let mut counts = [0; 4];
            for port in (32_768..=60_998).step_by(2) {
                let client = SocketAddr::from(([192, 0, 2, 1], port));
                counts[place_of(&spread, client, shards)] += 1;
            }
            let fair = 14_116 / shards;
            for count in &counts[..shards] {
                assert!(
                    (fair * 8 / 10..=fair * 12 / 10).contains(count),
                    "{counts:?}"
                );
            }
        }
    }
}
