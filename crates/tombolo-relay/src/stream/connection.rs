//! One connection: bytes to frames, frames to bytes.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, timeout, timeout_at},
};
use tombolo_stun::stream::frame_len;
use tombolo_turn::server::{FiveTuple, Transport};
use tracing::debug;

use super::StreamsConfig;
use crate::link::{Connection, ConnectionQueue, ConnectionState, FromStream, ShardLink};

/// Serves a connection until either side has enough of it.
pub(super) async fn run(
    config: &StreamsConfig,
    tuple: FiveTuple,
    stream: impl AsyncRead + AsyncWrite,
    accepted: Instant,
) {
    let shard = shard_of(config, tuple);
    let (connection, queue) = Connection::new();
    if !shard.frame(FromStream::Opened(tuple, connection)).await {
        return;
    }
    let (reader, writer) = tokio::io::split(stream);
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
    let state = queue.state();
    let patience = Patience {
        first_frame_by: accepted + config.first_frame_timeout,
        allocation_by: accepted + config.allocation_timeout,
        allocation_timeout: config.allocation_timeout,
        state: Arc::clone(&state),
    };
    let end = tokio::select! {
        end = read(shard, tuple, reader, patience) => end,
        end = write(queue, writer, writing) => end,
    };
    match end {
        End::Closed => {}
        End::NotTurn => config.counters.malformed.add(1),
        End::Silent => config.counters.timed_out.add(1),
        End::SlowReader => config.counters.slow_readers.add(1),
    }
    debug!(client = ?tuple, reason = ?end, "connection ended");
    shard.frame(FromStream::Closed(tuple, state)).await;
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
struct Writing {
    timeout: Duration,
    /// Bytes after which no further frame goes into the same write.
    enough: usize,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug)]
enum End {
    /// By the client, an error of the connection, or the shard.
    Closed,
    /// What came cannot be cut into frames.
    NotTurn,
    /// Nothing came for too long.
    Silent,
    /// Nothing of what waits to be written could be, for too long.
    SlowReader,
}

async fn read(
    shard: &ShardLink,
    tuple: FiveTuple,
    mut reader: impl AsyncRead + Unpin,
    mut patience: Patience,
) -> End {
    let mut buffer = Vec::with_capacity(READ_BYTES);
    let mut deadline = patience.first_frame_by.min(patience.allocation_by);
    loop {
        buffer.reserve(READ_BYTES);
        match timeout_at(deadline, reader.read_buf(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return End::Closed,
            Ok(Ok(_)) => {}
            Err(_) if patience.state.is_allocated() => {
                patience.allocation_by = Instant::now() + patience.allocation_timeout;
                deadline = patience.allocation_by;
                continue;
            }
            Err(_) => return End::Silent,
        }
        let mut start = 0;
        loop {
            match frame_len(&buffer[start..]) {
                Ok(Some(len)) if start + len <= buffer.len() => {
                    let frame = buffer[start..start + len].to_vec();
                    if !shard.frame(FromStream::Frame(tuple, frame)).await {
                        return End::Closed;
                    }
                    start += len;
                    deadline = patience.allocation_by;
                }
                // A frame is at most 64 KiB and a bit, and so is what is kept of one.
                Ok(Some(_) | None) => break,
                Err(_) => return End::NotTurn,
            }
        }
        buffer.drain(..start);
    }
}

async fn write(
    mut queue: ConnectionQueue,
    mut writer: impl AsyncWrite + Unpin,
    writing: Writing,
) -> End {
    let mut buffer = Vec::new();
    while queue.next(&mut buffer, writing.enough).await {
        let write = async {
            writer.write_all(&buffer).await?;
            writer.flush().await
        };
        match timeout(writing.timeout, write).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return End::Closed,
            Err(_) => return End::SlowReader,
        }
    }
    End::Closed
}

/// All of a connection's frames go to one shard, which has its allocation.
fn shard_of(config: &StreamsConfig, tuple: FiveTuple) -> &ShardLink {
    let index = usize::from(tuple.client.port()) % config.shards.len();
    &config.shards[index]
}

/// Room made for each read.
const READ_BYTES: usize = 8 * 1024;
/// Bytes of small frames that go into one write.
const WRITE_BYTES: usize = 64 * 1024;
