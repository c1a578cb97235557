//! How much a peer makes this device hold: what has come over a link and the application has not taken.
//!
//! QUIC counts what waits inside of it. What is read out of it goes on counting, as the link's window is smaller by
//! that until the application has it. All is read at once, also parts of messages: none waits in the way of the rest of
//! another.

use std::sync::{Arc, Mutex, PoisonError};

use super::OUTGOING_BYTES_MAX;
use super::message::RELIABLE_BYTES_MAX;

/// What there can be of one link, in all of its streams: whoever is in a room with this device may link with it unasked. As
/// memory it is an eighth more while messages come in.
const HELD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The window of a link of which nothing is held.
const LINK_WINDOW_BYTES: usize = HELD_BYTES_MAX - STEP_BYTES - PART_BYTES_MAX;
/// The window follows in steps, since each may take a frame.
const STEP_BYTES: usize = 128 * 1024;
/// What is read before it counts.
pub(super) const PART_BYTES_MAX: usize = 128 * 1024;
// A peer's messages that are under way at the same time have place, lest parts of all of them keep each from its end.
const _: () = {
    // QUIC tells of a window that has grown by an eighth.
    let untold = STEP_BYTES + LINK_WINDOW_BYTES / 8;
    assert!(OUTGOING_BYTES_MAX + RELIABLE_BYTES_MAX + untold < LINK_WINDOW_BYTES);
};

/// The window of a link.
#[derive(Debug)]
pub(super) struct Window {
    connection: noq::Connection,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    /// By which the window is smaller.
    withheld: usize,
}

impl Window {
    pub(super) fn new(connection: noq::Connection) -> Arc<Self> {
        let held = Mutex::default();
        Arc::new(Self { connection, held })
    }

    /// What is held changes.
    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.bytes = change(held.bytes);
        if held.bytes.abs_diff(held.withheld) >= STEP_BYTES {
            held.withheld = held.bytes;
            // Under the lock, so that an older window does not come after a newer one.
            let window = window_beside(held.withheld);
            self.connection.set_receive_window(window);
        }
    }
}

/// The window of a link of which so much is held.
pub(super) fn window_beside(held: usize) -> noq::VarInt {
    let window = LINK_WINDOW_BYTES.saturating_sub(held);
    u32::try_from(window).unwrap_or(u32::MAX).into()
}

/// What a message, or as much of it as has come, takes of the window, until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    window: Arc<Window>,
    bytes: usize,
}

impl Share {
    pub(super) fn new(window: Arc<Window>) -> Self {
        Self { window, bytes: 0 }
    }

    /// As much more has been read.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.window.change(|held| held + bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.window.change(|held| held - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::sync::{Semaphore, mpsc, oneshot};
    use tokio::task::JoinSet;
    use tombolo_path::{Credentials, PeerConfig};

    use super::super::testing::connected;
    use super::super::{INCOMING_MESSAGES_MAX, Incoming, Lane, Outgoing, Received, streams};
    use super::*;
    use crate::keys::PublicKey;
    use crate::net::Net;

    /// Time enough for whatever flows, which is virtual.
    const QUIET: Duration = Duration::from_secs(20);
    const MESSAGES: usize = 64;

    #[tokio::test(start_paused = true)]
    async fn what_the_application_does_not_take_waits_at_the_peer_and_arrives_when_it_does() {
        let both = [Lane::Reliable, Lane::ReliableUnordered];
        for lanes in [&both[..1], &both[1..], &both[..]] {
            let (_ends, sending, mut received) = linked().await;
            let budget = Arc::new(Semaphore::new(OUTGOING_BYTES_MAX));
            let (outgoing, waiting) = mpsc::channel(MESSAGES);
            let (closing, closed) = oneshot::channel();
            let writing = tokio::spawn(streams::write(sending, Vec::new(), waiting, closed));
            let sent = AtomicUsize::new(0);
            let (shares, counted) = (budget.clone(), &sent);
            let send = async move {
                for lane in lanes.iter().copied().cycle().take(MESSAGES) {
                    let bytes = u32::try_from(RELIABLE_BYTES_MAX).unwrap();
                    let budget = shares.clone().acquire_many_owned(bytes).await;
                    let message = Outgoing {
                        lane,
                        payload: Bytes::from_static(&[7; RELIABLE_BYTES_MAX]),
                        budget: budget.ok(),
                    };
                    outgoing.send(message).await.unwrap();
                    counted.fetch_add(RELIABLE_BYTES_MAX, Ordering::Relaxed);
                }
            };
            tokio::pin!(send);
            let all = tokio::time::timeout(QUIET, &mut send).await;
            let waiting = OUTGOING_BYTES_MAX - budget.available_permits();
            let taken = sent.load(Ordering::Relaxed) - waiting;
            assert!(all.is_err(), "all was taken of {lanes:?}");
            assert!(taken <= HELD_BYTES_MAX, "{taken} bytes of {lanes:?}");
            let take = async {
                for _ in 0..MESSAGES {
                    let received: Received = received.recv().await.unwrap();
                    assert_eq!(received.message.payload.len(), RELIABLE_BYTES_MAX);
                }
            };
            let took = tokio::time::timeout(QUIET, async { tokio::join!(send, take) });
            took.await.expect("nothing is in the way of the rest");
            drop(closing);
            assert!(writing.await.unwrap(), "all is delivered");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn parts_of_messages_that_do_not_end_take_no_more_than_whole_ones() {
        let (_ends, sending, _received) = linked().await;
        let sent = Arc::new(AtomicUsize::new(0));
        let mut parts = JoinSet::new();
        for _ in 0..64 {
            let mut stream = sending.open_uni().await.unwrap();
            let sent = sent.clone();
            parts.spawn(async move {
                let mut part = &[2; RELIABLE_BYTES_MAX][..];
                while !part.is_empty() {
                    let bytes = stream.write(part).await.unwrap();
                    sent.fetch_add(bytes, Ordering::Relaxed);
                    part = &part[bytes..];
                }
                // An end would make it a message.
                std::future::pending::<()>().await;
            });
        }
        _ = tokio::time::timeout(QUIET, parts.join_next()).await;
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent <= HELD_BYTES_MAX, "{sent} bytes were taken");
    }

    /// A link's connection, what keeps it, and what the application receives of it.
    async fn linked() -> (impl Sized, noq::Connection, mpsc::Receiver<Received>) {
        let (ends, sending, receiving) = connected().await;
        let net = Net::bind(true).await.unwrap();
        let credentials = || Credentials::from_seed([1; 32]);
        let peer = PeerConfig::new(credentials(), credentials(), false);
        let (peer, _) = net.add_peer(PublicKey([1; 32]), peer, None).unwrap();
        let (messages, received) = mpsc::channel(INCOMING_MESSAGES_MAX);
        let incoming = Incoming {
            messages,
            window: Window::new(receiving.clone()),
            net,
            peer,
        };
        tokio::spawn(streams::read(receiving, incoming));
        (ends, sending, received)
    }
}
