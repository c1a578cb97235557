//! One shard: a thread with its own server sockets, relay sockets and protocol core. Nothing in it is
//! shared, so nothing is locked.
//!
//! A packet's trip: [`Slots`] (received in batches) → core (says where which range goes) → [`Outbox`]
//! (collects until the batch is done) → [`Sender`] (one system call for each socket). The payload stays
//! where the kernel wrote it.

mod outbox;
mod ports;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::mpsc::TryRecvError,
    time::{Duration, Instant},
};

use tombolo_turn::server::{
    AuthError, Command, Event, FiveTuple, Forward, PeerAddr, PortError, RelayAddr, Server,
    Transmit, Transport,
};
use tracing::{debug, error, warn};

use self::{
    outbox::{Outbox, Queued as Packet, SocketId, WAKE_TOKEN},
    ports::RelayPorts,
};
use crate::{
    IoStats, ShardStats,
    link::{Connection, Control, FromStream, Queued, ShardInbox},
    socket::{Outgoing, Poller, SLOTS, Sender, Slots, UdpSocket},
};

/// A shard's state. [`Shard::run`] is its thread.
pub(crate) struct Shard {
    core: Server,
    inbox: ShardInbox,
    poller: Poller,
    /// Indexed by the number in [`SocketId::Server`].
    servers: Vec<ServerSocket>,
    ports: RelayPorts,
    connections: HashMap<FiveTuple, Connection>,
    slots: Slots,
    /// How many slots of the batch are in use.
    filled: usize,
    outbox: Outbox,
    sender: Sender,
    replies: Vec<Transmit>,
    io: IoStats,
}

struct ServerSocket {
    socket: UdpSocket,
    address: SocketAddr,
    /// Whether the last look left something behind.
    is_ready: bool,
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
        inbox: ShardInbox,
        sockets: Vec<UdpSocket>,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(&*inbox.waker, WAKE_TOKEN)?;
        let mut servers = Vec::with_capacity(sockets.len());
        for (i, socket) in sockets.into_iter().enumerate() {
            poller.add(&socket, SocketId::Server(i).to_token())?;
            let address = socket.local_addr()?;
            servers.push(ServerSocket {
                socket,
                address,
                is_ready: false,
            });
        }
        Ok(Self {
            core,
            inbox,
            poller,
            servers,
            ports: RelayPorts::default(),
            connections: HashMap::new(),
            slots: Slots::new(),
            filled: 0,
            outbox: Outbox::new(),
            sender: Sender::new(),
            replies: Vec::with_capacity(SLOTS),
            io: IoStats::default(),
        })
    }

    /// Works until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut next = Next::Again;
        while next != Next::Stop {
            if let Err(error) = self.poller.wait(self.timeout(next)) {
                error!(%error, "a shard cannot wait for packets and ends");
                return;
            }
            let now = Instant::now();
            next = self.handle_controls(now);
            if self.handle_frames(now) == Next::Again && next == Next::Sleep {
                next = Next::Again;
            }
            self.handle_ready(now);
            self.core.handle_timeout(now);
            self.drain_core(now);
        }
    }

    /// How long there is nothing to do unless something comes.
    fn timeout(&self, next: Next) -> Option<Duration> {
        if next == Next::Again {
            return Some(Duration::ZERO);
        }
        let (deadline, _) = self.core.poll_timeout()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    fn handle_controls(&mut self, now: Instant) -> Next {
        self.inbox.waker.reset();
        for _ in 0..CONTROLS_PER_TURN {
            match self.inbox.control.try_recv() {
                Ok(Control::Permit { user, peer }) => self.core.permit(now, &user, peer),
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
            match self.inbox.frames.try_recv() {
                Ok(FromStream::Opened(tuple, connection)) => {
                    if self.connections.insert(tuple, connection).is_some() {
                        self.core.handle_client_gone(now, tuple);
                    }
                }
                Ok(FromStream::Frame(tuple, frame)) => {
                    self.io.stream_frames += 1;
                    if let Some(forward) = self.core.handle_client(now, tuple, &frame) {
                        self.forward_frame(now, forward, &frame);
                    }
                }
                Ok(FromStream::Closed(tuple, state)) => {
                    let successor = self.connections.get(&tuple).filter(|next| !next.is(&state));
                    if successor.is_none() {
                        self.connections.remove(&tuple);
                        self.core.handle_client_gone(now, tuple);
                    }
                }
                Err(_) => return Next::Sleep,
            }
        }
        Next::Again
    }

    /// Serves the sockets that have something: each relay socket in turn with a small share, and the
    /// server sockets, which all clients share, after every batch of those.
    fn handle_ready(&mut self, now: Instant) {
        for i in 0..self.poller.ready() {
            if let Some(SocketId::Server(index)) = SocketId::from_token(self.poller.token(i))
                && let Some(server) = self.servers.get_mut(index)
            {
                server.is_ready = true;
            }
        }
        for i in 0..self.poller.ready() {
            let Some(SocketId::Relay(index)) = SocketId::from_token(self.poller.token(i)) else {
                continue;
            };
            if SLOTS - self.filled < RELAY_SHARE {
                self.flush();
                self.handle_servers(now);
            }
            self.receive_at_relay(now, index);
        }
        self.flush();
        self.handle_servers(now);
    }

    /// One batch from each server socket that is ready.
    fn handle_servers(&mut self, now: Instant) {
        for i in 0..self.servers.len() {
            if !self.servers[i].is_ready {
                continue;
            }
            let server = &mut self.servers[i];
            let count = self
                .slots
                .receive(&server.socket, 0..SLOTS)
                .unwrap_or_else(|_| {
                    self.io.receive_errors += 1;
                    0
                });
            server.is_ready = count == SLOTS;
            let address = server.address;
            self.io.received += count as u64;
            self.filled = count;
            for slot in 0..count {
                self.handle_client_datagram(now, slot, address);
            }
            self.flush();
            self.drain_core(now);
        }
    }

    fn handle_client_datagram(&mut self, now: Instant, slot: usize, at: SocketAddr) {
        let Some(client) = self.slots.from(slot) else {
            return;
        };
        let ip = self.slots.local_ip(slot).unwrap_or_else(|| at.ip());
        let server = SocketAddr::new(ip, at.port());
        let from = FiveTuple {
            transport: Transport::Udp,
            client,
            server,
        };
        if let Some(forward) = self.core.handle_client(now, from, self.slots.data(slot)) {
            self.forward_slot(now, forward, slot);
        }
    }

    fn receive_at_relay(&mut self, now: Instant, index: usize) {
        let Some(port) = self.ports.get(index) else {
            return;
        };
        let range = self.filled..self.filled + RELAY_SHARE;
        let Ok(count) = self.slots.receive(&port.socket, range.clone()) else {
            self.io.receive_errors += 1;
            return;
        };
        let at = port.address;
        self.io.received += count as u64;
        self.filled += count;
        for slot in range.take(count) {
            let Some(peer) = self.slots.from(slot) else {
                continue;
            };
            let data = self.slots.data(slot);
            if let Some(forward) = self.core.handle_peer(now, at, PeerAddr(peer), data) {
                self.forward_slot(now, forward, slot);
            }
        }
    }

    /// Queues what the core said about the datagram in `slot`.
    fn forward_slot(&mut self, now: Instant, forward: Forward, slot: usize) {
        let data = self.slots.data(slot);
        let Some(forward) = hand_over(
            &mut self.core,
            &mut self.io,
            &self.ports,
            now,
            forward,
            data,
        ) else {
            return;
        };
        match forward {
            Forward::ToPeer { at, to, range, .. } => {
                if let Some(index) = self.ports.index_of(at) {
                    let via = SocketId::Relay(index);
                    let (to, source, header, padding) = (to.0, None, None, 0);
                    self.outbox.push(Packet {
                        via,
                        to,
                        source,
                        header,
                        slot,
                        range,
                        padding,
                    });
                }
            }
            Forward::ToClient {
                to,
                header,
                range,
                padding,
            } => match to.transport {
                Transport::Udp => {
                    if let Some((via, source)) = self.server_for(to.server) {
                        let (to, header) = (to.client, Some(header));
                        self.outbox.push(Packet {
                            via,
                            to,
                            source,
                            header,
                            slot,
                            range,
                            padding,
                        });
                    }
                }
                Transport::Tcp | Transport::Tls => {
                    let payload = &self.slots.data(slot)[range];
                    let frame = frame_of(&header, payload, padding);
                    self.send_frame(to, frame, Loss::Tolerable);
                }
            },
        }
    }

    /// Queues what the core said about a frame of a stream, which is not in a slot.
    fn forward_frame(&mut self, now: Instant, forward: Forward, frame: &[u8]) {
        let Some(forward) = hand_over(
            &mut self.core,
            &mut self.io,
            &self.ports,
            now,
            forward,
            frame,
        ) else {
            return;
        };
        match forward {
            Forward::ToPeer { at, to, range, .. } => {
                if let Some(index) = self.ports.index_of(at) {
                    let payload = &frame[range];
                    let packet = Outgoing {
                        to: to.0,
                        source: None,
                        header: &[],
                        payload,
                        padding: 0,
                    };
                    self.send(SocketId::Relay(index), packet);
                }
            }
            Forward::ToClient {
                to,
                header,
                range,
                padding,
            } => {
                self.send_to_client(to, &header, &frame[range], padding);
            }
        }
    }

    /// Sends what the outbox has collected and frees the slots.
    fn flush(&mut self) {
        for group in self.outbox.groups() {
            let Some(socket) = socket_of(&self.servers, &self.ports, group[0].via) else {
                continue;
            };
            let packets = group.iter().map(|packet| Outgoing {
                to: packet.to,
                source: packet.source,
                header: packet.header.as_deref().unwrap_or(&[]),
                payload: &self.slots.data(packet.slot)[packet.range.clone()],
                padding: packet.padding,
            });
            self.io.count(self.sender.send(socket, packets));
        }
        self.outbox.clear();
        self.filled = 0;
    }

    /// Does what the core asks for: bind and release ports, send replies. Slots must be flushed.
    fn drain_core(&mut self, now: Instant) {
        loop {
            while let Some(command) = self.core.poll_command() {
                self.execute(now, command);
            }
            while let Some(event) = self.core.poll_event() {
                self.note(&event);
            }
            let Some(reply) = self.core.poll_transmit() else {
                break;
            };
            match reply.to.transport {
                Transport::Udp => self.replies.push(reply),
                Transport::Tcp | Transport::Tls => {
                    self.send_frame(reply.to, reply.bytes, Loss::Fatal);
                }
            }
            if self.replies.len() == SLOTS {
                self.flush_replies();
            }
        }
        self.flush_replies();
    }

    fn execute(&mut self, now: Instant, command: Command) {
        match command {
            Command::BindPort { id, address } => {
                let result = self.bind_port(address);
                self.core.handle_port(now, id, result);
            }
            // Nobody is there to be asked; no realm of this relay says that there is.
            Command::Authenticate { id, .. } => {
                self.core.handle_auth(now, id, Err(AuthError::Unavailable));
            }
            Command::ReleasePort(address) => self.ports.release(address),
        }
    }

    fn bind_port(&mut self, address: RelayAddr) -> Result<RelayAddr, PortError> {
        let bound = self.ports.bind(address).and_then(|index| {
            let port = self.ports.get(index).ok_or(io::ErrorKind::NotFound)?;
            self.poller
                .add(&port.socket, SocketId::Relay(index).to_token())
        });
        bound.map(|()| address).map_err(|error| {
            self.ports.release(address);
            self.io.relay_port_errors += 1;
            if error.kind() == io::ErrorKind::AddrInUse {
                return PortError::InUse;
            }
            warn!(%error, "cannot bind a relay port");
            PortError::Unavailable
        })
    }

    /// A stream connection may be silent as long as it has an allocation.
    fn note(&mut self, event: &Event) {
        debug!(?event, "allocation");
        let (client, is_allocated) = match event {
            Event::Allocated { client, .. } => (client, true),
            Event::Closed { client, .. } => (client, false),
            _ => return,
        };
        if let Some(connection) = self.connections.get(client) {
            connection.set_allocated(is_allocated);
        }
    }

    /// Sends the replies that were collected, consecutive ones of one socket in one go.
    fn flush_replies(&mut self) {
        for group in self.replies.chunk_by(|a, b| a.to.server == b.to.server) {
            let Some((via, source)) = self.server_for(group[0].to.server) else {
                continue;
            };
            let Some(socket) = socket_of(&self.servers, &self.ports, via) else {
                continue;
            };
            let packets = group.iter().map(|reply| Outgoing {
                to: reply.to.client,
                source,
                header: &[],
                payload: &reply.bytes,
                padding: 0,
            });
            self.io.count(self.sender.send(socket, packets));
        }
        self.replies.clear();
    }

    fn send_to_client(&mut self, to: FiveTuple, header: &[u8], payload: &[u8], padding: usize) {
        match to.transport {
            Transport::Udp => {
                if let Some((via, source)) = self.server_for(to.server) {
                    self.send(
                        via,
                        Outgoing {
                            to: to.client,
                            source,
                            header,
                            payload,
                            padding,
                        },
                    );
                }
            }
            Transport::Tcp | Transport::Tls => {
                self.send_frame(to, frame_of(header, payload, padding), Loss::Tolerable);
            }
        }
    }

    fn send(&mut self, via: SocketId, packet: Outgoing<'_>) {
        if let Some(socket) = socket_of(&self.servers, &self.ports, via) {
            self.io
                .count(self.sender.send(socket, std::iter::once(packet)));
        }
    }

    /// Queues a frame for a stream connection.
    fn send_frame(&mut self, to: FiveTuple, frame: Vec<u8>, loss: Loss) {
        let Some(connection) = self.connections.get(&to) else {
            return;
        };
        match (connection.send(frame), loss) {
            (Queued::Taken, _) => {}
            (Queued::Full, Loss::Tolerable) => self.io.stream_frames_dropped += 1,
            (Queued::Full, Loss::Fatal) | (Queued::Gone, _) => {
                self.io.stream_frames_dropped += 1;
                // The connection's task ends when nobody holds its queue, and reports that it did.
                self.connections.remove(&to);
            }
        }
    }

    /// The server socket that has `address`, and the local IP to send from if it has several.
    fn server_for(&self, address: SocketAddr) -> Option<(SocketId, Option<IpAddr>)> {
        let exact = self
            .servers
            .iter()
            .position(|server| server.address == address);
        let position = exact.or_else(|| {
            self.servers.iter().position(|server| {
                server.socket.is_wildcard()
                    && server.address.port() == address.port()
                    && server.address.is_ipv4() == address.is_ipv4()
            })
        })?;
        let source = if exact.is_none() {
            Some(address.ip())
        } else {
            None
        };
        Some((SocketId::Server(position), source))
    }

    fn stats(&self) -> ShardStats {
        let io = IoStats {
            relay_ports: self.ports.count() as u64,
            ..self.io
        };
        ShardStats {
            turn: self.core.stats().clone(),
            io,
        }
    }
}

/// What the loss of a frame means for its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Nothing: it carries a packet, and packets get lost.
    Tolerable,
    /// The client waits for it in vain: better to start again.
    Fatal,
}

/// Gives a packet from one allocation to another of the same shard right to the core, which then says
/// where it goes from there. `None` if it goes nowhere.
fn hand_over(
    core: &mut Server,
    io: &mut IoStats,
    ports: &RelayPorts,
    now: Instant,
    forward: Forward,
    data: &[u8],
) -> Option<Forward> {
    let Forward::ToPeer { at, to, range, .. } = &forward else {
        return Some(forward);
    };
    let at_peer = RelayAddr(to.0);
    if ports.index_of(at_peer).is_none() {
        return Some(forward);
    }
    io.handed_over += 1;
    let outer = range.start;
    match core.handle_peer(now, at_peer, PeerAddr(at.0), &data[range.clone()])? {
        Forward::ToClient {
            to,
            header,
            range,
            padding,
        } => {
            let range = outer + range.start..outer + range.end;
            Some(Forward::ToClient {
                to,
                header,
                range,
                padding,
            })
        }
        Forward::ToPeer { .. } => None,
    }
}

fn socket_of<'a>(
    servers: &'a [ServerSocket],
    ports: &'a RelayPorts,
    id: SocketId,
) -> Option<&'a UdpSocket> {
    match id {
        SocketId::Server(index) => Some(&servers.get(index)?.socket),
        SocketId::Relay(index) => Some(&ports.get(index)?.socket),
    }
}

/// A whole frame for a stream, where one copy cannot be avoided.
fn frame_of(header: &[u8], payload: &[u8], padding: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(header.len() + payload.len() + padding);
    frame.extend_from_slice(header);
    frame.extend_from_slice(payload);
    frame.resize(frame.len() + padding, 0);
    frame
}

/// Orders handled before packets get their turn.
const CONTROLS_PER_TURN: usize = 64;
/// Frames from streams handled before datagrams get their turn.
const FRAMES_PER_TURN: usize = 64;
/// Datagrams taken from one relay socket before the others get their turn.
const RELAY_SHARE: usize = 8;
const _: () = assert!(RELAY_SHARE <= SLOTS, "a share fits into a batch");
