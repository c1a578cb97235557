//! TURN over TLS: the stream that carries the allocation where UDP is blocked.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tombolo_stun::stream::frame_len;

use super::Net;
use super::relay::Stream;
use crate::ice::TlsServer;

/// Frames that wait for a slow connection; more are dropped, as a full network would.
const FRAMES_MAX: usize = 512;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that takes nothing for so long is dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest frame: the greatest length that STUN or ChannelData can state.
const FRAME_BYTES_MAX: usize = 20 + 65_535 + 3;
const READ_BYTES: usize = 16 * 1024;

/// Connects and starts both directions; frames to send go into the returned channel. An empty one gives the
/// connection up.
pub(super) async fn connect(
    net: &Arc<Net>,
    server: &TlsServer,
    tls: &Arc<rustls::ClientConfig>,
) -> io::Result<Stream> {
    let connecting = async {
        let tcp = TcpStream::connect(server.address).await?;
        tcp.set_nodelay(true)?;
        TlsConnector::from(tls.clone())
            .connect(server.name.clone(), tcp)
            .await
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await??;
    let (frames, frames_rx) = mpsc::channel(FRAMES_MAX);
    let generation = net.next_stream();
    tokio::spawn(run(Arc::downgrade(net), stream, frames_rx, generation));
    Ok(Stream { frames, generation })
}

/// Carries frames both ways until either way ends, or nobody has anything to send any more.
async fn run(
    net: Weak<Net>,
    stream: TlsStream<TcpStream>,
    frames: mpsc::Receiver<Vec<u8>>,
    generation: u64,
) {
    let socket = SockRef::from(stream.get_ref().0).try_clone();
    let (reader, writer) = tokio::io::split(stream);
    let result = tokio::select! {
        result = read_frames(&net, reader, generation) => result,
        result = write_frames(writer, frames) => result,
    };
    if result.is_err()
        && let Ok(socket) = socket
    {
        // Then it is reset; see RFC 8489 §6.2.2.
        _ = socket.set_linger(Some(Duration::ZERO));
    }
    if let Some(net) = net.upgrade() {
        tracing::info!(?result, "TURN stream ended");
        net.drive(|state, _| state.relays.handle_stream_closed(generation));
    }
}

async fn write_frames(
    mut writer: WriteHalf<TlsStream<TcpStream>>,
    mut frames: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let mut batch = Vec::new();
    while let Some(frame) = frames.recv().await {
        let mut is_given_up = frame.is_empty();
        batch.clear();
        batch.extend_from_slice(&frame);
        while batch.len() < READ_BYTES
            && let Ok(frame) = frames.try_recv()
        {
            is_given_up |= frame.is_empty();
            batch.extend_from_slice(&frame);
        }
        if is_given_up {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let written = async {
            writer.write_all(&batch).await?;
            writer.flush().await
        };
        tokio::time::timeout(WRITE_TIMEOUT, written).await??;
    }
    tokio::time::timeout(WRITE_TIMEOUT, writer.shutdown()).await?
}

async fn read_frames(
    net: &Weak<Net>,
    mut reader: ReadHalf<TlsStream<TcpStream>>,
    generation: u64,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(2 * READ_BYTES);
    loop {
        if reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let Some(net) = net.upgrade() else {
            return Ok(());
        };
        let mut taken = 0;
        loop {
            let rest = &buffer[taken..];
            match frame_len(rest).map_err(io::Error::other)? {
                Some(len) if len > FRAME_BYTES_MAX => return Err(io::ErrorKind::InvalidData.into()),
                Some(len) if len <= rest.len() => {
                    net.drive(|state, now| {
                        state.handle_stream_frame(now, generation, &rest[..len]);
                    });
                    taken += len;
                }
                Some(_) | None => break,
            }
        }
        buffer.drain(..taken);
    }
}
