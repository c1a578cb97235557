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
    runtime::Handle,
    sync::{Notify, mpsc, oneshot, watch},
};
use tombolo_turn::server::{
    AuthError, AuthId, Bandwidth, ConnectError, ConnectionId, Credential, FiveTuple, PeerAddr,
    PeerError, RelayAddr, Server, ShardIndex, Spliced,
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
    /// The client sends nothing more, and waits for answers at most. With what tells the connection from a
    /// later one of the same addresses, as below.
    Finished(FiveTuple, Arc<ConnectionState>),
    Closed(FiveTuple, Arc<ConnectionState>),
    /// The same from the shard by which the connection's frames came.
    Gone(FiveTuple, Arc<ConnectionState>),
    HandedOver(HandedOver),
    Behind(Behind),
    PassedOn(PassedOn),
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

/// A connection that one shard gives to another, with the frame that asked for it: one is not lost without
/// the other.
pub(crate) struct HandedOver {
    pub(crate) client: FiveTuple,
    pub(crate) connection: Connection,
    /// The shard that gets what comes by it.
    pub(crate) entry: ShardIndex,
    /// The shard that the frame names. If another one hands the connection over, it does so by the entry.
    pub(crate) to: ShardIndex,
    pub(crate) packet: Vec<u8>,
}

/// What came by a connection that was handed over.
pub(crate) struct Behind {
    pub(crate) client: FiveTuple,
    pub(crate) state: Arc<ConnectionState>,
    /// The shard that it came to.
    pub(crate) entry: ShardIndex,
    pub(crate) what: FromClient,
}

pub(crate) enum FromClient {
    Frame(Vec<u8>),
    /// Nothing more comes.
    Finished,
}

/// A datagram that one shard gives to another, of a client that is not its own.
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

    /// Like [`Self::pass_on`]; where there is no room, a task on the runtime waits for it.
    pub(crate) fn pass_on_surely(&self, what: FromStream, runtime: Option<&Handle>) {
        let result = self.frames.try_send(what);
        self.waker.wake();
        if let Err(mpsc::error::TrySendError::Full(what)) = result
            && let Some(runtime) = runtime
        {
            let shard = self.clone();
            runtime.spawn(async move { shard.frame(what).await });
        }
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

    /// Makes a connection known to the shard; `None` if the shard is gone.
    pub(crate) async fn enrol(
        &self,
        client: FiveTuple,
        connection: Connection,
    ) -> Option<Enrolled> {
        let enrolled = Enrolled {
            shard: self.clone(),
            client,
            state: Arc::clone(&connection.state),
        };
        let opened = FromStream::Opened(client, connection);
        self.frame(opened).await.then_some(enrolled)
    }
}

/// A shard knows a connection. On drop it is told that this has ended, be it by a panic in the
/// connection's task.
pub(crate) struct Enrolled {
    shard: ShardLink,
    client: FiveTuple,
    state: Arc<ConnectionState>,
}

impl Enrolled {
    pub(crate) fn shard(&self) -> &ShardLink {
        &self.shard
    }

    /// Tells that the client sends nothing more; `false` if the shard is gone.
    pub(crate) async fn finish(&self) -> bool {
        let finished = FromStream::Finished(self.client, Arc::clone(&self.state));
        self.shard.frame(finished).await
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        let closed = FromStream::Closed(self.client, Arc::clone(&self.state));
        // Where all ends there is no runtime, and nobody to be told.
        let runtime = Handle::try_current().ok();
        self.shard.pass_on_surely(closed, runtime.as_ref());
    }
}

/// The shard's end of a stream connection: a bounded queue of frames to be written. Whoever drops it ends
/// the connection, once these are.
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
    /// Whether no shard has the connection any more, or it was cut.
    is_over: AtomicBool,
    /// Notified when it was.
    cut: Notify,
}

impl ConnectionState {
    pub(crate) fn is_allocated(&self) -> bool {
        self.is_allocated.load(Ordering::Relaxed)
    }

    pub(crate) fn set_allocated(&self, is_allocated: bool) {
        self.is_allocated.store(is_allocated, Ordering::Relaxed);
    }

    /// Whether the connection ends.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Ends the connection, whoever has it, behind what is queued; `false` if it ends already.
    pub(crate) fn cut(&self) -> bool {
        let was_over = self.is_over.swap(true, Ordering::Relaxed);
        self.cut.notify_one();
        !was_over
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

/// What the loss of a frame means for its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing: it carries a packet, or tells of something that nobody asked about.
    Tolerable,
    /// The client waits for it in vain: better to start again.
    Fatal,
}

impl Loss {
    /// What that of a frame means, be it of the server or of a client.
    pub(crate) fn of(frame: &[u8]) -> Self {
        match frame {
            [CHANNEL_MIN..=CHANNEL_MAX, ..] => Self::Tolerable,
            [first, second, ..] if first & 0x01 == 0 && second & 0x10 != 0 => Self::Tolerable,
            _ => Self::Fatal,
        }
    }
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

    /// Queues a frame. One whose loss is tolerable leaves room for others: so no peer fills the queue so
    /// that a reply is lost.
    pub(crate) fn send(&self, frame: Vec<u8>, loss: Loss) -> Queued {
        let len = frame.len();
        let (spare_frames, spare_bytes) = match loss {
            Loss::Tolerable => (QUEUE_FRAMES_MAX / 8, QUEUE_BYTES_MAX / 8),
            Loss::Fatal => (0, 0),
        };
        let queued = self.state.queue_bytes.load(Ordering::Relaxed);
        if self.queue.capacity() <= spare_frames || queued + len > QUEUE_BYTES_MAX - spare_bytes {
            return match self.queue.is_closed() {
                true => Queued::Gone,
                false => Queued::Full,
            };
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

    pub(crate) fn state(&self) -> Arc<ConnectionState> {
        Arc::clone(&self.state)
    }

    pub(crate) fn is(&self, state: &Arc<ConnectionState>) -> bool {
        Arc::ptr_eq(&self.state, state)
    }

    pub(crate) fn set_allocated(&self, is_allocated: bool) {
        self.state.set_allocated(is_allocated);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
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
        let next = tokio::select! {
            biased;
            () = self.state.cut.notified() => {
                self.queue.close();
                self.queue.recv().await
            }
            next = self.queue.recv() => next,
        };
        let frame = match next {
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
/// How ChannelData begins. See RFC 8656 §12, and RFC 5766 §11 for those from 0x50 on.
const CHANNEL_MIN: u8 = 0x40;
const CHANNEL_MAX: u8 = 0x7f;
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

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;
    use tombolo_stun::{Class, MessageWriter, Method, TransactionId};
    use tombolo_turn::server::Transport;

    use super::*;

    #[tokio::test]
    async fn a_shard_is_told_of_the_end_of_a_connection_whose_task_panics() {
        let (link, mut inbox) = shard();
        let tasks = LocalSet::new();
        let task = tasks.spawn_local(async move {
            let (connection, _queue) = Connection::new();
            let _enrolled = link.enrol(client(), connection).await;
            panic!("as the test wants it");
        });
        tasks.await;
        assert!(task.await.is_err_and(|error| error.is_panic()));
        let opened = inbox.frames.recv().await;
        let Some(FromStream::Opened(_, connection)) = opened else {
            panic!("it was not opened");
        };
        let closed = inbox.frames.recv().await;
        assert!(matches!(closed, Some(FromStream::Closed(_, state)) if connection.is(&state)));
    }

    #[tokio::test]
    async fn a_shard_that_is_busy_is_told_of_the_end_of_a_connection_later() {
        let (link, mut inbox) = shard();
        let (connection, _queue) = Connection::new();
        let enrolled = link.enrol(client(), connection).await;
        while link
            .pass_on(FromStream::Gone(client(), Arc::default()))
            .is_ok()
        {}
        drop(enrolled);
        for _ in 0..FRAMES_MAX {
            inbox.frames.recv().await;
        }
        let closed = inbox.frames.recv().await;
        assert!(matches!(closed, Some(FromStream::Closed(..))));
    }

    #[test]
    fn what_peers_send_leaves_room_for_replies() {
        for payload in [20, 2000] {
            let (connection, _queue) = Connection::new();
            while connection.send(vec![0; payload], Loss::Tolerable) == Queued::Taken {}
            for _ in 0..32 {
                let reply = connection.send(vec![0; 200], Loss::Fatal);
                assert_eq!(reply, Queued::Taken, "beside frames of {payload}");
            }
            let packet = connection.send(vec![0; payload], Loss::Tolerable);
            assert_eq!(packet, Queued::Full);
            while connection.send(vec![0; 200], Loss::Fatal) == Queued::Taken {}
            assert!(connection.state.queue_bytes.load(Ordering::Relaxed) <= QUEUE_BYTES_MAX);
        }
    }

    #[test]
    fn a_client_waits_for_replies_and_not_for_indications() {
        for (class, is_tolerable) in [
            (Class::Indication, true),
            (Class::Request, false),
            (Class::Success, false),
            (Class::Error, false),
        ] {
            for method in [Method::DATA, Method::CONNECTION_ATTEMPT, Method::REFRESH] {
                let mut bytes = Vec::new();
                MessageWriter::new(&mut bytes, class, method, TransactionId([1; 12]));
                assert_eq!(Loss::of(&bytes) == Loss::Tolerable, is_tolerable);
            }
        }
        assert!(Loss::of(&[0x40, 0, 0, 0]) == Loss::Tolerable);
    }

    #[test]
    fn a_connection_that_has_ended_is_gone_however_full_its_queue_is() {
        let (connection, queue) = Connection::new();
        while connection.send(vec![0; 200], Loss::Tolerable) == Queued::Taken {}
        drop(queue);
        let packet = connection.send(vec![0; 200], Loss::Tolerable);
        assert_eq!(packet, Queued::Gone);
    }

    fn shard() -> (ShardLink, ShardInbox) {
        ShardLink::new(Waker::new().expect("there are descriptors"))
    }

    fn client() -> FiveTuple {
        FiveTuple {
            transport: Transport::Tcp,
            client: ([192, 0, 2, 1], 1).into(),
            server: ([192, 0, 2, 2], 3478).into(),
        }
    }
}
