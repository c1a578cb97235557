//! One shard: a thread with its own server sockets, relay sockets and protocol core. Nothing in it is
//! shared, so nothing is locked.
//!
//! A packet's trip: [`Slots`] (received in batches) → core (says where which range goes) → [`Outbox`]
//! (collects until the batch is done) → [`Sender`] (one system call for each socket). The payload stays
//! where the kernel wrote it.

mod connections;
mod elsewhere;
mod errors;
mod finish;
mod forward;
mod outbox;
mod parcels;
mod peers;
mod ports;
mod raw_header;
mod receive;
mod relays;
mod reply;
mod token;
mod too_long;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, mpsc::TryRecvError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tombolo_turn::server::{Server, ShardIndex, Transmit};

use self::{
    connections::Connections,
    outbox::Outbox,
    parcels::Parcels,
    relays::RelaySide,
    token::{SocketId, Source},
    too_long::TooLong,
};
pub(crate) use self::{parcels::Parcel, peers::Peers};
use crate::{
    IoStats, ShardStats,
    hook::HookLink,
    link::{Behind, Control, FromStream, ShardInbox, ShardLink},
    owners::PortOwners,
    repeated::Repeated,
    socket::{Alarm, Poller, SLOTS, Sender, Slots, UdpSocket},
    steering::SteeredSockets,
};

/// A shard's state. [`Shard::run`] is its thread.
pub(crate) struct Shard {
    core: Server,
    inbox: ShardInbox,
    /// Who is asked about users; `None` until there is somebody.
    hook: Option<HookLink>,
    /// Whether the inbox may hold something.
    is_woken: bool,
    /// Whether something other than payloads came in this turn: only then can the core's timeouts
    /// be others than before, or one of them be due.
    is_eventful: bool,
    poller: Poller,
    alarm: Alarm,
    /// Counts the turns of the loop.
    turn: u32,
    /// When the core is told the time of day again.
    clock_due: Instant,
    /// Indexed by the number in [`SocketId::Server`].
    servers: Vec<ServerSocket>,
    relays: RelaySide,
    connections: Connections,
    /// Of whose connections nothing more comes. No more than there are connections.
    finished: Vec<Behind>,
    /// All shards of the node, this one too; indexed by `ShardIndex`.
    siblings: Arc<[ShardLink]>,
    parcels: Parcels,
    peers: Peers,
    slots: Slots,
    /// How many slots of the batch are in use.
    filled: usize,
    outbox: Outbox,
    sender: Sender,
    replies: Vec<Transmit>,
    io: IoStats,
    port_failures: Repeated,
    too_long: TooLong,
}

struct ServerSocket {
    socket: UdpSocket,
    address: SocketAddr,
    is_ready: bool,
    /// How many slots to offer it the next time.
    share: usize,
}

/// What a shard is given to send and receive with.
pub(crate) struct ShardSockets {
    pub(crate) shard: ShardIndex,
    pub(crate) servers: Vec<UdpSocket>,
    pub(crate) owners: Arc<PortOwners>,
    /// `None` where each relay port has a socket of its own.
    pub(crate) steered: Option<SteeredSockets>,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Sleep until something happens.
    Sleep,
    /// There is more to do already.
    Again,
    Stop,
}

impl Shard {
    pub(crate) fn new(
        core: Server,
        mut inbox: ShardInbox,
        siblings: Arc<[ShardLink]>,
        sockets: ShardSockets,
        peers: Peers,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(&*inbox.waker, Source::Waker.to_token())?;
        let alarm = Alarm::new()?;
        poller.add(&alarm, Source::Alarm.to_token())?;
        let mut servers = Vec::with_capacity(sockets.servers.len());
        for (i, socket) in (0..).zip(sockets.servers) {
            poller.add(&socket, Source::Socket(SocketId::Server(i)).to_token())?;
            let address = socket.local_addr()?;
            servers.push(ServerSocket {
                socket,
                address,
                is_ready: false,
                share: 1,
            });
        }
        let trains = match servers.first() {
            Some(first) => first.socket.trains(),
            None => UdpSocket::trains_of_kernel()?,
        };
        let sender = Sender::new(trains);
        let ShardSockets {
            shard,
            owners,
            steered,
            ..
        } = sockets;
        let relays = RelaySide::new(shard, owners, steered, &poller)?;
        let spare = inbox.spare_parcels.take();
        let parcels = Parcels::new(shard, siblings.len(), spare.ok_or(io::ErrorKind::NotFound)?);
        Ok(Self {
            core,
            inbox,
            hook: None,
            is_woken: true,
            is_eventful: true,
            poller,
            alarm,
            turn: 0,
            clock_due: Instant::now() + CLOCK_INTERVAL,
            servers,
            relays,
            connections: Connections::default(),
            finished: Vec::new(),
            siblings,
            parcels,
            peers,
            slots: Slots::new(),
            filled: 0,
            outbox: Outbox::new(),
            sender,
            replies: Vec::with_capacity(SLOTS),
            io: IoStats::default(),
            port_failures: Repeated::default(),
            too_long: TooLong::default(),
        })
    }

    /// Works until it is told to stop.
    ///
    /// # Errors
    /// The kernel's: it cannot wait for packets any more.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut next = Next::Again;
        while next != Next::Stop {
            match next {
                Next::Sleep => self.poller.wait()?,
                Next::Again | Next::Stop => self.poller.look()?,
            }
            next = self.handle_turn(Instant::now())?;
        }
        Ok(())
    }

    /// Handles what is ready.
    fn handle_turn(&mut self, now: Instant) -> io::Result<Next> {
        self.turn = self.turn.wrapping_add(1);
        if now >= self.clock_due {
            self.clock_due = now + CLOCK_INTERVAL;
            self.core.handle_clock(now, unix_now());
        }
        self.is_eventful = self.is_woken;
        self.note_ready();
        let next = if self.is_woken {
            self.handle_inbox(now)
        } else {
            Next::Sleep
        };
        self.is_woken = next == Next::Again;
        self.handle_sockets(now);
        self.tell_too_long(now);
        if !self.is_eventful && self.core.is_drained() {
            return Ok(next);
        }
        self.core.handle_timeout(now);
        self.drain_core(now);
        self.end_finished(now);
        if let Some((deadline, _)) = self.core.poll_timeout() {
            self.alarm.set(now, deadline)?;
        }
        Ok(next)
    }

    /// Looks at what the poller found, but for relay sockets, which are looked at one by one.
    fn note_ready(&mut self) {
        for i in 0..self.poller.ready() {
            match Source::from_token(self.poller.token(i)) {
                Some(Source::Waker) => {
                    self.inbox.waker.reset();
                    self.is_woken = true;
                    self.is_eventful = true;
                }
                Some(Source::Alarm) => {
                    self.alarm.reset();
                    self.is_eventful = true;
                }
                Some(Source::Socket(SocketId::Server(index))) => {
                    if let Some(server) = self.servers.get_mut(index as usize) {
                        server.is_ready = true;
                    }
                }
                Some(Source::Socket(SocketId::Steered(index))) => {
                    let steered = self.relays.steered.as_mut();
                    if let Some(end) = steered.and_then(|steered| steered.end_mut(index)) {
                        end.is_ready = true;
                    }
                }
                Some(Source::Socket(SocketId::Relay(_))) | None => {}
            }
        }
    }

    fn handle_inbox(&mut self, now: Instant) -> Next {
        let next = self.handle_controls(now);
        if self.handle_frames(now) == Next::Again && next == Next::Sleep {
            return Next::Again;
        }
        next
    }

    fn handle_controls(&mut self, now: Instant) -> Next {
        for _ in 0..CONTROLS_PER_TURN {
            match self.inbox.control.try_recv() {
                Ok(Control::Permit { user, peer }) => self.core.permit(now, &user, peer),
                Ok(Control::Run(order)) => {
                    order(&mut self.core, now);
                    self.peers.set_limits(&self.core);
                }
                Ok(Control::Authenticated { id, result }) => {
                    self.core.handle_auth(now, id, result);
                }
                Ok(Control::Hook(hook)) => self.hook = hook,
                Ok(Control::Stats(reply)) => {
                    // Whoever asked may have given up waiting.
                    let _ = reply.try_send(self.stats());
                }
                Ok(Control::Stop) | Err(TryRecvError::Disconnected) => return Next::Stop,
                Err(TryRecvError::Empty) => return Next::Sleep,
            }
        }
        Next::Again
    }

    fn handle_frames(&mut self, now: Instant) -> Next {
        for _ in 0..FRAMES_PER_TURN {
            // What one frame asks for may decide where the next one goes.
            if !self.core.is_drained() {
                self.drain_core(now);
            }
            match self.inbox.frames.try_recv() {
                Ok(FromStream::Opened(client, connection)) => {
                    self.handle_opened(now, client, connection);
                }
                Ok(FromStream::Frame(client, frame)) => {
                    self.io.stream_frames += 1;
                    self.handle_from_client(now, client, frame);
                }
                Ok(FromStream::Finished(client, state)) => self.handle_finished(now, client, state),
                Ok(FromStream::Closed(client, state) | FromStream::Gone(client, state)) => {
                    self.handle_closed(now, client, &state);
                }
                Ok(FromStream::HandedOver(handed_over)) => {
                    self.handle_handed_over(now, handed_over);
                }
                Ok(FromStream::Behind(behind)) => self.handle_behind(now, behind),
                Ok(FromStream::PassedOn(passed_on)) => self.handle_passed_on(now, passed_on),
                Ok(FromStream::PeerError(at, peer, error)) => {
                    self.core.handle_peer_error(now, at, peer, error);
                }
                Ok(FromStream::Parcel(parcel)) => self.open_parcel(now, parcel),
                Ok(FromStream::Accepted(at, from, stream)) => {
                    self.on_peer_accepted(now, at, from, stream);
                }
                Ok(FromStream::Spliced(owner, spliced)) => {
                    self.core.handle_spliced(owner, spliced);
                }
                Ok(FromStream::Connected(connection, result)) => {
                    self.on_peer_connected(now, connection, result);
                }
                Err(_) => return Next::Sleep,
            }
        }
        Next::Again
    }

    fn stats(&self) -> ShardStats {
        let io = IoStats {
            relay_ports: self.relays.count() + self.peers.count(),
            ..self.io
        };
        ShardStats {
            shard: self.relays.shard(),
            turn: self.core.stats().clone(),
            io,
            usage: self.core.usage(),
            usage_by_realm: self
                .core
                .usage_by_realm()
                .map(|(realm, usage)| (realm.to_owned(), usage))
                .collect(),
        }
    }
}

/// The time of day, which may be set and stands still in no sleep.
pub(crate) fn unix_now() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

/// A shard that has nothing to do needs no clock: it looks as soon as something comes.
const CLOCK_INTERVAL: Duration = Duration::from_secs(60);
/// Orders handled before packets get their turn.
const CONTROLS_PER_TURN: usize = 64;
/// Frames from streams handled before datagrams get their turn.
const FRAMES_PER_TURN: usize = 64;
