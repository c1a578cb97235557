//! What other threads say to a shard, and how a shard writes to a stream connection.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Instant,
};

use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
};
use tombolo_turn::server::{
    AuthError, AuthId, Bandwidth, ConnectError, ConnectionId, Credential, FiveTuple, PeerAddr,
    PeerError, RelayAddr, Server, Spliced,
};

use crate::{
    ShardStats, dtls::DtlsInlet, hook::HookLink, shard::Parcel, socket::Waker, stream::Meters,
};

/// What an operator has a shard do with its core.
pub(crate) type Order = Box<dyn FnOnce(&mut Server, Instant) + Send>;

/// An order for a shard; seldom, and handled before packets.
pub(crate) enum Control {
    /// Install or refresh a permission on each allocation of a user.
    Permit { user: Arc<str>, peer: IpAddr },
    /// Let an operator look at the core, or change it.
    Run(Order),
    /// Take the answer about a user.
    Authenticated {
        id: AuthId,
        result: Result<Credential, AuthError>,
    },
    /// Ask about users there from now on.
    Hook(Option<HookLink>),
    /// Tell what was counted.
    Stats(SyncSender<ShardStats>),
    /// End.
    Stop,
}

/// What the thread of the stream connections has for a shard, or a shard for another one. In order for
/// each connection.
pub(crate) enum FromStream {
    Opened(FiveTuple, Connection),
    Frame(FiveTuple, Vec<u8>),
    /// Another shard has got it of a client that is not its own.
    PassedOn(PassedOn),
    /// With what tells it from a later connection of the same addresses.
    Closed(FiveTuple, Arc<ConnectionState>),
    /// Another shard says so, by which the connection's frames came.
    Gone(FiveTuple),
    /// Packets from another shard's allocations to this one's.
    Parcel(Parcel),
    /// A peer has connected to a relayed address.
    Accepted(RelayAddr, PeerAddr, TcpStream),
    /// An ICMP error came about a datagram from a relayed address.
    PeerError(RelayAddr, PeerAddr, PeerError),
    /// So much has gone over connections of the allocation of this client, besides what was told before.
    Spliced(FiveTuple, Spliced),
    /// What became of connecting to a peer.
    Connected(ConnectionId, Result<TcpStream, ConnectError>),
}

/// A packet of a client that one shard gives to another.
pub(crate) struct PassedOn {
    pub(crate) client: FiveTuple,
    pub(crate) packet: Vec<u8>,
    /// How many shards more may pass it on.
    pub(crate) hops_left: u8,
}

/// The outside's end of a shard.
#[derive(Clone)]
pub(crate) struct ShardLink {
    control: SyncSender<Control>,
    frames: mpsc::Sender<FromStream>,
    spare_parcels: SyncSender<Parcel>,
    /// What waits in parcels.
    parcel_bytes: Arc<AtomicUsize>,
    waker: Arc<Waker>,
}

/// The shard's end.
pub(crate) struct ShardInbox {
    pub(crate) control: Receiver<Control>,
    pub(crate) frames: mpsc::Receiver<FromStream>,
    /// The shard's parcels that others have opened; taken by whoever packs them again.
    pub(crate) spare_parcels: Option<Receiver<Parcel>>,
    pub(crate) waker: Arc<Waker>,
    /// Where datagrams of DTLS go; `None` without DTLS.
    pub(crate) dtls: Option<DtlsInlet>,
}

/// A shard has more orders waiting than it may, or is gone.
pub(crate) struct Overloaded;

impl ShardLink {
    pub(crate) fn new(waker: Waker) -> (Self, ShardInbox) {
        let (control, control_inbox) = sync_channel(CONTROLS_MAX);
        let (frames, frames_inbox) = mpsc::channel(FRAMES_MAX);
        let (spare_parcels, spare_inbox) = sync_channel(SPARE_PARCELS_MAX);
        let waker = Arc::new(waker);
        let link = Self {
            control,
            frames,
            spare_parcels,
            parcel_bytes: Arc::default(),
            waker: Arc::clone(&waker),
        };
        (
            link,
            ShardInbox {
                control: control_inbox,
                frames: frames_inbox,
                spare_parcels: Some(spare_inbox),
                waker,
                dtls: None,
            },
        )
    }

    pub(crate) fn control(&self, control: Control) -> Result<(), Overloaded> {
        let result = match self.control.try_send(control) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Overloaded),
        };
        self.waker.wake();
        result
    }

    /// Like [`Self::control`], but waits for room. Does nothing if the shard is gone.
    pub(crate) fn control_blocking(&self, control: Control) {
        self.waker.wake();
        // An error means that the shard's thread has ended: nobody is left to be told.
        let _ = self.control.send(control);
        self.waker.wake();
    }

    /// Like [`Self::frame`], but does not wait.
    pub(crate) fn pass_on(&self, what: FromStream) -> Result<(), Overloaded> {
        let result = self.frames.try_send(what).map_err(|_| Overloaded);
        self.waker.wake();
        result
    }

    /// Gives the shard a parcel. It may be lost like what is [passed on](Self::pass_on), and also where
    /// the parcels that wait take too much memory.
    pub(crate) fn parcel(&self, parcel: Parcel) -> Result<(), Overloaded> {
        let len = parcel.len();
        let before = self.parcel_bytes.fetch_add(len, Ordering::Relaxed);
        let result = if before + len <= PARCELS_BYTES_MAX {
            self.pass_on(FromStream::Parcel(parcel))
        } else {
            Err(Overloaded)
        };
        if result.is_err() {
            self.parcel_bytes.fetch_sub(len, Ordering::Relaxed);
        }
        result
    }

    /// The shard itself says that a parcel waits no more.
    pub(crate) fn opened(&self, parcel: &Parcel) {
        self.parcel_bytes.fetch_sub(parcel.len(), Ordering::Relaxed);
    }

    /// Gives a parcel back to the shard that packed it; what it has too many of is freed.
    pub(crate) fn give_back(&self, parcel: Parcel) {
        let _ = self.spare_parcels.try_send(parcel);
    }

    /// Waits for room, so that a client that sends faster than the shard works is slowed down by its
    /// own connection. `false` if the shard is gone.
    pub(crate) async fn frame(&self, frame: FromStream) -> bool {
        let is_sent = self.frames.send(frame).await.is_ok();
        self.waker.wake();
        is_sent
    }
}

/// The shard's end of a stream connection: a bounded queue of frames to be written.
pub(crate) struct Connection {
    queue: mpsc::Sender<ToStream>,
    state: Arc<ConnectionState>,
    /// Of the connections to peers that the client has joined; `None` until there is one.
    meters: Option<Arc<Meters>>,
}

enum ToStream {
    Frame(Vec<u8>),
    /// No frame comes after it.
    Join(Join),
}

/// The order to join a client's connection with one to a peer. See RFC 6062 §5.4.
pub(crate) struct Join {
    /// What the client gets first.
    pub(crate) reply: Vec<u8>,
    pub(crate) peer: TcpStream,
    /// Ready when the shard wants both connections closed.
    pub(crate) cancelled: oneshot::Receiver<()>,
    pub(crate) account: Account,
}

/// For whom the bytes of joined connections count, and how fast they may go.
pub(crate) struct Account {
    /// The control connection of the allocation.
    pub(crate) owner: FiveTuple,
    /// Who counts them.
    pub(crate) shard: ShardLink,
    /// Of each allocation in each direction.
    pub(crate) limit: watch::Receiver<Option<Bandwidth>>,
    pub(crate) meters: Arc<Meters>,
}

/// What both ends of a connection's queue know.
#[derive(Default)]
pub(crate) struct ConnectionState {
    queue_bytes: AtomicUsize,
    /// Whether the client has an allocation, and so a reason to be silent.
    is_allocated: AtomicBool,
}

impl ConnectionState {
    pub(crate) fn is_allocated(&self) -> bool {
        self.is_allocated.load(Ordering::Relaxed)
    }
}

/// The connection's end of the queue.
pub(crate) struct ConnectionQueue {
    queue: mpsc::Receiver<ToStream>,
    state: Arc<ConnectionState>,
    /// What came behind the frames of the last batch.
    join: Option<Join>,
}

/// What the shard has for a connection.
pub(crate) enum Batch {
    /// Frames are in the buffer.
    Frames {
        /// Whether one of them says no to a ConnectionBind.
        refuses_bind: bool,
    },
    Join(Box<Join>),
    /// The shard has let go of the connection.
    Over,
}

/// What became of a frame for a stream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queued {
    Taken,
    /// The client reads too slowly.
    Full,
    /// The connection has ended.
    Gone,
}

impl Connection {
    pub(crate) fn new() -> (Self, ConnectionQueue) {
        let (sender, receiver) = mpsc::channel(QUEUE_FRAMES_MAX);
        let state = Arc::new(ConnectionState::default());
        let queue = ConnectionQueue {
            queue: receiver,
            state: Arc::clone(&state),
            join: None,
        };
        (
            Self {
                queue: sender,
                state,
                meters: None,
            },
            queue,
        )
    }

    pub(crate) fn send(&self, frame: Vec<u8>) -> Queued {
        let len = frame.len();
        if self.state.queue_bytes.load(Ordering::Relaxed) + len > QUEUE_BYTES_MAX {
            return Queued::Full;
        }
        self.state.queue_bytes.fetch_add(len, Ordering::Relaxed);
        match self.queue.try_send(ToStream::Frame(frame)) {
            Ok(()) => Queued::Taken,
            Err(error) => {
                self.state.queue_bytes.fetch_sub(len, Ordering::Relaxed);
                match error {
                    mpsc::error::TrySendError::Full(_) => Queued::Full,
                    mpsc::error::TrySendError::Closed(_) => Queued::Gone,
                }
            }
        }
    }

    /// Hands the connection to a peer over. `false` if this one has ended, or its client reads too
    /// slowly for what came before.
    pub(crate) fn join(&self, join: Join) -> bool {
        self.queue.try_send(ToStream::Join(join)).is_ok()
    }

    /// Returns what the connections are measured by that the client joins with this one's allocation.
    pub(crate) fn meters(&mut self, now: Instant) -> Arc<Meters> {
        let meters = self
            .meters
            .get_or_insert_with(|| Arc::new(Meters::new(now)));
        Arc::clone(meters)
    }

    pub(crate) fn is(&self, state: &Arc<ConnectionState>) -> bool {
        Arc::ptr_eq(&self.state, state)
    }

    pub(crate) fn set_allocated(&self, is_allocated: bool) {
        self.state
            .is_allocated
            .store(is_allocated, Ordering::Relaxed);
    }
}

impl ConnectionQueue {
    pub(crate) fn state(&self) -> Arc<ConnectionState> {
        Arc::clone(&self.state)
    }

    /// Waits for a frame and puts it into `buffer`, then others that wait too until there are
    /// `enough` bytes.
    pub(crate) async fn next(&mut self, buffer: &mut Vec<u8>, enough: usize) -> Batch {
        buffer.clear();
        if let Some(join) = self.join.take() {
            return Batch::Join(Box::new(join));
        }
        let frame = match self.queue.recv().await {
            Some(ToStream::Frame(frame)) => frame,
            Some(ToStream::Join(join)) => return Batch::Join(Box::new(join)),
            None => return Batch::Over,
        };
        let mut refuses_bind = is_refused_bind(&frame);
        buffer.extend_from_slice(&frame);
        while buffer.len() < enough {
            match self.queue.try_recv() {
                Ok(ToStream::Frame(frame)) => {
                    refuses_bind |= is_refused_bind(&frame);
                    buffer.extend_from_slice(&frame);
                }
                Ok(ToStream::Join(join)) => {
                    self.join = Some(join);
                    break;
                }
                Err(_) => break,
            }
        }
        self.state
            .queue_bytes
            .fetch_sub(buffer.len(), Ordering::Relaxed);
        Batch::Frames { refuses_bind }
    }
}

fn is_refused_bind(frame: &[u8]) -> bool {
    frame.first_chunk() == Some(&BIND_REFUSAL)
}

/// How an error response to ConnectionBind begins. See RFC 8489 §5 and RFC 6062 §6.1.
const BIND_REFUSAL: [u8; 2] = [0x01, 0x1b];
/// Opened parcels that a shard keeps.
const SPARE_PARCELS_MAX: usize = 8;
/// Bytes that may wait for a shard in parcels.
const PARCELS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Orders that may wait for a shard.
const CONTROLS_MAX: usize = 4096;
/// Frames from streams that may wait for a shard.
const FRAMES_MAX: usize = 1024;
/// Frames that may wait for one connection.
const QUEUE_FRAMES_MAX: usize = 1024;
/// Bytes that may wait for one connection.
const QUEUE_BYTES_MAX: usize = 512 * 1024;
