//! The link to one peer.
//!
//! ```text
//! Connecting  introductions cross the cluster, carrying the first messages
//! Relayed     QUIC path 0, under a virtual address, through TURN
//! Direct      the path agent found a way; QUIC's direct path carries the data, path 0 stands by
//! Lost        both ways are dead, or a side closed the link
//! ```
//! [`Peer`] is the application's handle; [`driver`] does the work.

mod again;
mod driver;
mod introduction;
mod message;
mod nat;
mod pairing;
mod paths;
mod payload;
mod rouse;
mod streams;
#[cfg(test)]
mod testing;
mod window;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot, watch};
use tombolo_path::{Explanation, PeerId};
use tombolo_wire::UserId;

pub(crate) use driver::{
    Delivering, Driver, Inputs, LinkConfig, REPLACED, Shop, Standing, transport_config,
};
pub(crate) use introduction::Introduction;
pub use message::{Lane, Message, RELIABLE_BYTES_MAX, UNRELIABLE_BYTES_ALWAYS};
pub(crate) use pairing::{Heard, Pairing};
pub(crate) use rouse::Rouser;

use crate::error::Error;
use crate::net::Net;
use window::{Share, Window};

/// Bytes that wait to be sent on the reliable lanes of one link.
const OUTGOING_BYTES_MAX: usize = 6 * 1024 * 1024;
const OUTGOING_MESSAGES_MAX: usize = 4096;
const INCOMING_MESSAGES_MAX: usize = 1024;
/// State changes kept for an application that looks seldom.
const STATUS_MAX: usize = 64;

/// How far a link has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The introduction is on its way, or the direct path of a direct-only link is looked for.
    Connecting,
    /// Data goes through the relay.
    Relayed,
    /// Data goes straight to the peer.
    Direct,
    /// The link is over.
    Lost,
}

/// A link's state and the way that its data takes.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkStatus {
    /// How far the link has come.
    pub state: LinkState,
    /// Our end: the relayed address, or the socket's own.
    pub local: Option<SocketAddr>,
    /// The peer's end.
    pub remote: Option<SocketAddr>,
    /// Round trip as measured on this way; `None` until it is.
    pub rtt: Option<Duration>,
    /// Why the link is lost.
    pub reason: Option<String>,
}

impl LinkStatus {
    const CONNECTING: Self = Self {
        state: LinkState::Connecting,
        local: None,
        remote: None,
        rtt: None,
        reason: None,
    };
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The message is longer than its lane carries.
    #[error("message of {bytes} bytes is over the limit of {bytes_max} bytes of its lane")]
    TooLarge {
        /// The message's length.
        bytes: usize,
        /// The longest message that this lane carries now.
        bytes_max: usize,
    },
    /// As much as may wait to be sent is waiting; [`Peer::send_when_ready`] waits.
    #[error("the link's queue is full")]
    Full,
    /// The link is over.
    #[error("the link is over")]
    Closed,
}

/// A link to one peer; cheap to clone. The link closes, once all is sent, when the last clone is
/// dropped.
#[derive(Clone, Debug)]
pub struct Peer(pub(crate) Arc<Shared>);

/// Two handles are equal when they are of the same link.
impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Peer {}

/// What the handles of a link share. The driver holds the other ends.
#[derive(Debug)]
pub(crate) struct Shared {
    user: UserId,
    identity: [u8; 32],
    /// `None` once the application has closed the link.
    open: Mutex<Option<Open>>,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Received>>,
    status: watch::Receiver<LinkStatus>,
    changes: Mutex<broadcast::Receiver<LinkStatus>>,
    place: Arc<Place>,
}

/// The way into the link's queue.
#[derive(Debug)]
struct Open {
    outgoing: mpsc::Sender<Outgoing>,
    /// Tells the driver, by its end, that nothing more is sent.
    _closing: oneshot::Sender<Infallible>,
}

/// Tells when a link is over.
#[derive(Clone, Debug)]
pub(crate) struct Over(watch::Receiver<LinkStatus>);

impl Over {
    pub(crate) async fn wait(mut self) {
        // The driver's end is dropped only when the link is over.
        _ = self
            .0
            .wait_for(|status| status.state == LinkState::Lost)
            .await;
    }

    pub(crate) fn is_so(&self) -> bool {
        self.0.borrow().state == LinkState::Lost
    }
}

/// What there is of a link, and what becomes known of it as it is set up.
#[derive(Debug)]
pub(crate) struct Place {
    net: Arc<Net>,
    /// Of bytes that wait to be sent.
    budget: Arc<Semaphore>,
    /// `None` until introduced.
    peer: Mutex<Option<PeerId>>,
    connection: OnceLock<noq::Connection>,
    /// The direct path that carries the data; `None` while the relay does.
    direct: Mutex<Option<noq::Path>>,
}

impl Place {
    /// Whether messages have flowed, or could have.
    pub(crate) fn is_established(&self) -> bool {
        self.connection.get().is_some()
    }

    fn set_peer(&self, peer: PeerId) {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
    }

    fn peer(&self) -> Option<PeerId> {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything waits to be sent.
    pub(crate) fn has_waiting(&self) -> bool {
        self.budget.available_permits() < OUTGOING_BYTES_MAX
    }

    /// Gives each message its share of the queue, or none to any.
    fn share(&self, messages: Vec<(Lane, Bytes)>) -> Result<Vec<Outgoing>, SendError> {
        let bytes = total_cost(&messages);
        let budget = self.budget.clone().try_acquire_many_owned(bytes);
        let mut budget = budget.map_err(|_| SendError::Full)?;
        let shares = messages.into_iter().map(|(lane, payload)| Outgoing {
            lane,
            budget: budget.split(cost(payload.len()) as usize),
            payload,
        });
        Ok(shares.collect())
    }
}

impl Shared {
    pub(crate) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    pub(crate) fn over(&self) -> Over {
        Over(self.status.clone())
    }
}

/// A message on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    lane: Lane,
    payload: Bytes,
    /// Its share of the queue, given back when the message is written.
    budget: Option<OwnedSemaphorePermit>,
}

impl Outgoing {
    /// Gives its share back: it is delivered, as far as is known, and kept in case it was not.
    fn give_back(&mut self) {
        self.budget = None;
    }
}

/// A message that the application has not taken yet.
#[derive(Debug)]
struct Received {
    message: Message,
    /// `None` for those that are bounded by their number alone.
    _share: Option<Share>,
}

/// Where received messages go.
#[derive(Clone, Debug)]
struct Incoming {
    messages: mpsc::Sender<Received>,
    window: Arc<Window>,
    net: Arc<Net>,
    peer: PeerId,
}

impl Peer {
    /// Who is at the other end.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.0.user
    }

    /// The public key of the device at the other end: another one means another device, or the
    /// same one started anew.
    #[must_use]
    pub fn identity(&self) -> [u8; 32] {
        self.0.identity
    }

    /// Sends a message; never waits.
    ///
    /// # Errors
    /// [`SendError::TooLarge`] says the limit; [`SendError::Full`] means that the link is slower
    /// than the application; [`SendError::Closed`] that it is over.
    pub fn send(&self, lane: Lane, payload: impl Into<Bytes>) -> Result<(), SendError> {
        let payload = payload.into();
        self.check(lane, payload.len())?;
        if lane == Lane::Unreliable
            && let Some(connection) = self.0.place.connection.get()
        {
            return connection
                .send_datagram(payload.clone())
                .map_err(|error| match error {
                    noq::SendDatagramError::TooLarge => SendError::TooLarge {
                        bytes: payload.len(),
                        bytes_max: self.unreliable_max(),
                    },
                    noq::SendDatagramError::UnsupportedByPeer
                    | noq::SendDatagramError::Disabled
                    | noq::SendDatagramError::ConnectionLost(_) => SendError::Closed,
                });
        }
        let budget = self.0.place.budget.clone();
        let budget = budget
            .try_acquire_many_owned(cost(payload.len()))
            .map_err(|_| SendError::Full)?;
        let sender = self.sender().ok_or(SendError::Closed)?;
        sender
            .try_send(Outgoing {
                lane,
                payload,
                budget: Some(budget),
            })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => SendError::Full,
                mpsc::error::TrySendError::Closed(_) => SendError::Closed,
            })
    }

    /// Sends all of these or, when one of them is not taken, none.
    pub(crate) fn send_all(&self, messages: Vec<(Lane, Bytes)>) -> Result<(), SendError> {
        for (lane, payload) in &messages {
            self.check(*lane, payload.len())?;
        }
        let messages = self.0.place.share(messages)?;
        let sender = self.sender().ok_or(SendError::Closed)?;
        let places = sender.try_reserve_many(messages.len());
        let places = places.map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => SendError::Full,
            mpsc::error::TrySendError::Closed(()) => SendError::Closed,
        })?;
        for (place, message) in places.zip(messages) {
            place.send(message);
        }
        Ok(())
    }

    /// Sends a message, waiting while the queue is full.
    ///
    /// # Errors
    /// As [`Peer::send`], without [`SendError::Full`].
    pub async fn send_when_ready(
        &self,
        lane: Lane,
        payload: impl Into<Bytes>,
    ) -> Result<(), SendError> {
        let payload = payload.into();
        if lane == Lane::Unreliable && self.0.place.is_established() {
            return self.send(lane, payload);
        }
        self.check(lane, payload.len())?;
        let budget = self.0.place.budget.clone();
        let permits = budget.acquire_many_owned(cost(payload.len()));
        let budget = Some(permits.await.map_err(|_| SendError::Closed)?);
        let sender = self.sender().ok_or(SendError::Closed)?;
        sender
            .send(Outgoing {
                lane,
                payload,
                budget,
            })
            .await
            .map_err(|_| SendError::Closed)
    }

    /// The next message; `None` when the link is over and all was read.
    pub async fn recv(&self) -> Option<Message> {
        let received = self.0.incoming.lock().await.recv().await?;
        Some(received.message)
    }

    /// The link's state now.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        self.0.status.borrow().clone()
    }

    /// Every change of state from the link's beginning on, for one reader; others start at the
    /// moment of their call.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<LinkStatus> {
        let mut changes = self
            .0
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let later = changes.resubscribe();
        std::mem::replace(&mut changes, later)
    }

    /// Waits until messages flow both ways, by whichever route.
    ///
    /// # Errors
    /// When the link is lost first; the text says why.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut status = self.0.status.clone();
        let established =
            |status: &LinkStatus| status.state == LinkState::Lost || self.0.place.is_established();
        let reached = status.wait_for(established).await;
        match reached.map(|status| status.clone()) {
            Ok(LinkStatus {
                state: LinkState::Lost,
                reason,
                ..
            }) => Err(Error::closed(
                reason.as_deref().unwrap_or("the link is over"),
            )),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::closed("the device is closed")),
        }
    }

    /// The round trip on the path that carries the data; `None` until it is measured.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        let place = &self.0.place;
        let direct = place.direct.lock().unwrap_or_else(PoisonError::into_inner);
        match direct.as_ref() {
            Some(path) => Some(path.stats().rtt),
            None => place.connection.get()?.rtt(noq::PathId::ZERO),
        }
    }

    /// Longest unreliable message that the present paths carry, in bytes.
    #[must_use]
    pub fn unreliable_max(&self) -> usize {
        let connection = self.0.place.connection.get();
        connection
            .and_then(noq::Connection::max_datagram_size)
            .unwrap_or(UNRELIABLE_BYTES_ALWAYS)
    }

    /// Tells why the data takes the way that it takes; `None` before the introduction.
    #[must_use]
    pub fn explain(&self) -> Option<Explanation> {
        self.0.place.net.explain(self.0.place.peer()?)
    }

    /// Closes the link once everything queued is delivered, for which it has a minute from when it
    /// is up; [`Peer::recv`] then ends. The reason of its last status is `closed` when everything was.
    pub fn close(&self) {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(open.take());
    }

    /// Waits until the link is over.
    pub async fn closed(&self) {
        self.0.over().wait().await;
    }

    /// Whether the link is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.status.borrow().state == LinkState::Lost || self.sender().is_none()
    }

    fn sender(&self) -> Option<mpsc::Sender<Outgoing>> {
        let open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().map(|open| open.outgoing.clone())
    }

    fn check(&self, lane: Lane, bytes: usize) -> Result<(), SendError> {
        check_size(lane, bytes, self.unreliable_max())
    }
}

/// Checks first messages, which are sent before a path's own limit is known.
pub(crate) fn check_first(messages: &[(Lane, Bytes)]) -> Result<(), SendError> {
    for (lane, payload) in messages {
        check_size(*lane, payload.len(), UNRELIABLE_BYTES_ALWAYS)?;
    }
    match total_cost(messages) as usize > OUTGOING_BYTES_MAX {
        true => Err(SendError::Full),
        false => Ok(()),
    }
}

fn check_size(lane: Lane, bytes: usize, unreliable_max: usize) -> Result<(), SendError> {
    let bytes_max = match lane {
        Lane::Unreliable => unreliable_max,
        Lane::Reliable | Lane::ReliableUnordered => RELIABLE_BYTES_MAX,
    };
    if bytes > bytes_max {
        Err(SendError::TooLarge { bytes, bytes_max })
    } else {
        Ok(())
    }
}

/// What a message of so many bytes takes of the queue.
fn cost(bytes: usize) -> u32 {
    u32::try_from(bytes.max(64)).unwrap_or(u32::MAX)
}

fn total_cost(messages: &[(Lane, Bytes)]) -> u32 {
    let costs = messages.iter().map(|(_, payload)| cost(payload.len()));
    costs.fold(0, u32::saturating_add)
}

/// Makes the two ends of a link: the application's and the driver's.
fn pair(user: UserId, identity: [u8; 32], net: Arc<Net>) -> (Shared, driver::Ends) {
    let (outgoing_tx, outgoing) = mpsc::channel(OUTGOING_MESSAGES_MAX);
    let (closing_tx, closing) = oneshot::channel();
    let (messages, incoming) = mpsc::channel(INCOMING_MESSAGES_MAX);
    let (status, status_rx) = watch::channel(LinkStatus::CONNECTING);
    let (changes, changes_rx) = broadcast::channel(STATUS_MAX);
    let place = Arc::new(Place {
        net,
        budget: Arc::new(Semaphore::new(OUTGOING_BYTES_MAX)),
        peer: Mutex::default(),
        connection: OnceLock::new(),
        direct: Mutex::new(None),
    });
    let shared = Shared {
        user,
        identity,
        open: Mutex::new(Some(Open {
            outgoing: outgoing_tx,
            _closing: closing_tx,
        })),
        incoming: tokio::sync::Mutex::new(incoming),
        status: status_rx,
        changes: Mutex::new(changes_rx),
        place: place.clone(),
    };
    (
        shared,
        driver::Ends {
            outgoing,
            closing,
            messages,
            status,
            changes,
            place,
        },
    )
}
