//! Moves messages between the application's queues and the QUIC connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::message::{
    LENGTH_BYTES, Lane, Message, RELIABLE_BYTES_MAX, STREAM_ORDERED, STREAM_UNORDERED, frame,
};
use super::payload::Payload;
use super::window::{PART_BYTES_MAX, Share};
use super::{Incoming, Outgoing, Received};

/// How long a closing link waits for the peer to take what was sent. A peer that is gone
/// is noticed earlier, by QUIC's idle time-out.
pub(super) const LINGER: Duration = Duration::from_secs(60);
/// Unordered messages that are being received at a time.
const UNORDERED_MAX: usize = 256;

/// Sends these messages and then what the application queues, until it has closed its end, which ends `closing`;
/// whether all was delivered then.
pub(super) async fn write(
    connection: noq::Connection,
    first: Vec<Outgoing>,
    outgoing: mpsc::Receiver<Outgoing>,
    closing: oneshot::Receiver<Infallible>,
) -> bool {
    linger(deliver(connection, first, outgoing), closing).await
}

/// Gives what is being delivered some time once the link is closing.
async fn linger(
    delivered: impl Future<Output = bool>,
    closing: oneshot::Receiver<Infallible>,
) -> bool {
    let too_late = async {
        _ = closing.await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        is_delivered = delivered => is_delivered,
        () = too_late => false,
    }
}

/// Whether all that was sent has arrived.
async fn deliver(
    connection: noq::Connection,
    first: Vec<Outgoing>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> bool {
    let mut first = first.into_iter();
    let mut is_delivered = true;
    let mut ordered: Option<noq::SendStream> = None;
    let mut unordered = JoinSet::new();
    loop {
        let next = match first.next() {
            Some(first) => Some(first),
            None => outgoing.recv().await,
        };
        let Some(Outgoing {
            lane,
            payload,
            budget,
        }) = next
        else {
            break;
        };
        match lane {
            Lane::Unreliable => {
                if let Err(error) = connection.send_datagram(payload) {
                    tracing::debug!(%error, "unreliable message dropped");
                }
            }
            Lane::Reliable => {
                if write_ordered(&connection, &mut ordered, &payload)
                    .await
                    .is_none()
                {
                    return false;
                }
            }
            Lane::ReliableUnordered => {
                let connection = connection.clone();
                unordered.spawn(async move {
                    let written = write_unordered(&connection, payload).await;
                    drop(budget);
                    written.is_some()
                });
                while let Some(written) = unordered.try_join_next() {
                    is_delivered &= written.unwrap_or(false);
                }
            }
        }
    }
    if let Some(stream) = ordered {
        is_delivered &= finish(stream).await.is_some();
    }
    while let Some(written) = unordered.join_next().await {
        is_delivered &= written.unwrap_or(false);
    }
    is_delivered
}

async fn write_ordered(
    connection: &noq::Connection,
    stream: &mut Option<noq::SendStream>,
    payload: &Bytes,
) -> Option<()> {
    let stream = match stream {
        Some(stream) => stream,
        None => {
            let mut opened = connection.open_uni().await.ok()?;
            opened.write_all(&[STREAM_ORDERED]).await.ok()?;
            stream.insert(opened)
        }
    };
    stream.write_chunk(frame(payload)).await.ok()
}

async fn write_unordered(connection: &noq::Connection, payload: Bytes) -> Option<()> {
    let mut stream = connection.open_uni().await.ok()?;
    let mut bytes = BytesMut::with_capacity(1 + payload.len());
    bytes.extend_from_slice(&[STREAM_UNORDERED]);
    bytes.extend_from_slice(&payload);
    stream.write_chunk(bytes.freeze()).await.ok()?;
    finish(stream).await
}

/// Waits until the peer has, or does not want, what was written.
async fn finish(mut stream: noq::SendStream) -> Option<()> {
    // A stream that the peer has stopped is not finished.
    _ = stream.finish();
    stream.stopped().await.ok().map(drop)
}

/// Receives until the connection has ended and all that arrived is delivered, or the application
/// does not want more.
pub(super) async fn read(connection: noq::Connection, incoming: Incoming) {
    let datagrams = read_datagrams(&connection, &incoming);
    let streams = read_streams(&connection, &incoming);
    tokio::join!(datagrams, streams);
}

async fn read_datagrams(connection: &noq::Connection, incoming: &Incoming) {
    while let Ok(payload) = connection.read_datagram().await {
        incoming.offer(Lane::Unreliable, payload);
    }
}

async fn read_streams(connection: &noq::Connection, incoming: &Incoming) {
    let mut tasks = JoinSet::new();
    let places = Arc::new(Semaphore::new(UNORDERED_MAX));
    while let Ok(stream) = connection.accept_uni().await {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let incoming = incoming.clone();
        tasks.spawn(async move {
            if read_stream(stream, &incoming).await.is_none() {
                tracing::debug!("a stream of the peer ended early");
            }
            drop(place);
        });
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
}

async fn read_stream(mut stream: noq::RecvStream, incoming: &Incoming) -> Option<()> {
    let mut kind = [0];
    stream.read_exact(&mut kind).await.ok()?;
    match kind[0] {
        STREAM_ORDERED => loop {
            let mut length = [0; LENGTH_BYTES];
            if stream.read_exact(&mut length).await.is_err() {
                // The usual end: the peer finished its stream.
                return Some(());
            }
            let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
            if length > RELIABLE_BYTES_MAX {
                return None;
            }
            let mut share = Share::new(incoming.window.clone());
            let payload = read_payload(&mut stream, length, &mut share).await?;
            if payload.len() < length {
                return None;
            }
            incoming.push(Lane::Reliable, payload, share).await?;
        },
        STREAM_UNORDERED => {
            let mut share = Share::new(incoming.window.clone());
            let payload = read_payload(&mut stream, RELIABLE_BYTES_MAX + 1, &mut share).await?;
            if payload.len() > RELIABLE_BYTES_MAX {
                return None;
            }
            let lane = Lane::ReliableUnordered;
            incoming.push(lane, payload, share).await
        }
        _ => None,
    }
}

/// Reads so many bytes, or fewer that the peer ends its stream with.
async fn read_payload(
    stream: &mut noq::RecvStream,
    bytes_max: usize,
    share: &mut Share,
) -> Option<Bytes> {
    let mut payload = Payload::default();
    while payload.len() < bytes_max {
        let part_max = PART_BYTES_MAX.min(bytes_max - payload.len());
        let Some(part) = stream.read_chunk(part_max).await.ok()? else {
            break;
        };
        share.add(part.len());
        payload.add(&part);
    }
    Some(payload.finish())
}

impl Incoming {
    /// Delivers a message, waiting for the application: QUIC's flow control slows the peer.
    async fn push(&self, lane: Lane, payload: Bytes, share: Share) -> Option<()> {
        let received = self.received(lane, payload, Some(share));
        self.messages.send(received).await.ok()
    }

    /// Delivers a message if the application keeps up.
    fn offer(&self, lane: Lane, payload: Bytes) {
        let received = self.received(lane, payload, None);
        if self.messages.try_send(received).is_err() {
            tracing::trace!("unreliable message dropped: the application does not keep up");
        }
    }

    fn received(&self, lane: Lane, payload: Bytes, share: Option<Share>) -> Received {
        let message = Message {
            lane,
            payload,
            via: self.net.last_via(self.peer),
        };
        Received {
            message,
            _share: share,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_the_peer_does_not_take_holds_a_link_for_a_minute_once_it_is_closing() {
        let (open, closing) = oneshot::channel();
        let waiting = linger(std::future::pending(), closing);
        tokio::pin!(waiting);
        let day = Duration::from_hours(24);
        let lasting = tokio::time::timeout(day, &mut waiting);
        assert!(lasting.await.is_err(), "it is open");
        let closed = Instant::now();
        drop(open);
        assert!(!waiting.await, "not all is delivered");
        assert_eq!(closed.elapsed(), LINGER);
    }
}
