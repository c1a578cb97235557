//! A device: the client cores on one socket.

mod data;
mod introduction;
mod mapping;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha12Rng};
use tombolo_path::probe::{NatProbe, ProbeEvent};
use tombolo_path::{Agent, Credentials, Event as PathEvent, NatBehaviour, PeerId, Policy, Route};
use tombolo_stun::Kind;
use tombolo_turn::client;

use self::data::{DataKind, DataPacket};
pub use self::data::{PeerRecord, ReceivedRecord, RouteRecord, SentRecord};
use self::mapping::{Turn, probe};
use crate::{Actor, HostId, Packet, Protocol, Signal};

/// What a device knows before it starts.
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    /// The host that it runs on.
    pub host: HostId,
    /// The host of its node.
    pub node: HostId,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// The port of its socket.
    pub port: u16,
    /// The node's STUN addresses, each asked for the device's public address.
    pub stun: Vec<SocketAddr>,
    /// The node's TURN address.
    pub turn: SocketAddr,
    /// How it reaches the TURN server.
    pub turn_protocol: Protocol,
    /// Which paths it may use.
    pub policy: Policy,
}

/// A device with its one socket: a TURN client, a NAT probe and a path agent, and above them a toy data
/// plane that sends numbered packets over the route that the agent says and acknowledges those that
/// arrive.
#[derive(Debug)]
pub struct DeviceHost {
    config: DeviceConfig,
    rng: ChaCha12Rng,
    turn: Turn,
    probe: NatProbe,
    agent: Agent,
    nat: Option<NatBehaviour>,
    public: Vec<SocketAddr>,
    /// When to ask again how the NAT sees us.
    probes_at: Instant,
    /// When to try again to allocate; `None` while nothing has failed.
    allocates_at: Option<Instant>,
    peer_by_host: BTreeMap<HostId, Peer>,
    transmits: VecDeque<Packet>,
    messages: VecDeque<(HostId, Signal)>,
    notes: VecDeque<String>,
    stats: DeviceStats,
}

/// What should not happen, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Data packets that were meant for another device.
    pub misdelivered: u64,
    /// Data packets of a device that was never introduced.
    pub unknown_peer: u64,
    /// Data packets that could not be sent for lack of an allocation or of the peer's relayed address.
    pub unsent: u64,
    /// Relayed packets from an address that is not a peer's relayed one, or that are not data.
    pub unexpected_relayed: u64,
}

#[derive(Debug)]
struct Peer {
    local: Credentials,
    /// Whether our introduction has gone out.
    has_introduced: bool,
    relayed: Option<SocketAddr>,
    route: Route,
    next_sequence: u64,
    stream: Option<Stream>,
    /// When a message was acknowledged last, or sending began.
    last_acked: Instant,
    record: PeerRecord,
}

/// Messages sent at a fixed pace.
#[derive(Debug, Clone, Copy)]
struct Stream {
    interval: Duration,
    next: Instant,
}

impl DeviceHost {
    /// Starts to allocate on the node and to probe the NAT.
    #[must_use]
    pub fn new(config: DeviceConfig, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut device = Self {
            turn: Turn::new(&config, rng.random(), now, 0),
            probe: probe(&config, config.stun.clone(), rng.random(), now),
            agent: Agent::new(tombolo_path::Config::default(), rng.random(), now),
            config,
            rng,
            nat: None,
            public: Vec::new(),
            probes_at: now + PROBE_INTERVAL,
            allocates_at: None,
            peer_by_host: BTreeMap::new(),
            transmits: VecDeque::new(),
            messages: VecDeque::new(),
            notes: VecDeque::new(),
            stats: DeviceStats::default(),
        };
        device.open_connection();
        device.drain(now);
        device
    }

    /// Introduces this device to another one through the node.
    pub fn connect(&mut self, now: Instant, to: HostId) {
        self.introduce(now, to);
        self.drain(now);
    }

    /// Sends messages to a peer at this pace from now on, over whatever route there is.
    pub fn start_stream(&mut self, now: Instant, to: HostId, interval: Duration) {
        let peer = self
            .peer_by_host
            .entry(to)
            .or_insert_with(|| Peer::new(&mut self.rng, now));
        peer.stream = Some(Stream {
            interval,
            next: now,
        });
        self.handle_timeout(now);
    }

    /// Sends no more messages by itself.
    pub fn stop_stream(&mut self, to: HostId) {
        if let Some(peer) = self.peer_by_host.get_mut(&to) {
            peer.stream = None;
        }
    }

    /// Whether it has what it needs for an introduction: a relayed address and a measured NAT.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.nat.is_some() && self.turn.client.relayed().is_some()
    }

    /// How the NAT behaves; `None` until that is measured.
    #[must_use]
    pub fn nat(&self) -> Option<NatBehaviour> {
        self.nat
    }

    /// The relayed address; `None` without an allocation.
    #[must_use]
    pub fn relayed(&self) -> Option<SocketAddr> {
        self.turn.client.relayed()
    }

    /// The route to a peer; `None` before it is introduced.
    #[must_use]
    pub fn route(&self, peer: HostId) -> Option<Route> {
        self.agent.route(PeerId(peer.0 as u64))
    }

    /// What happened with a peer; `None` for one never heard of.
    #[must_use]
    pub fn record(&self, peer: HostId) -> Option<&PeerRecord> {
        self.peer_by_host.get(&peer).map(|peer| &peer.record)
    }

    /// The path agent, to look at.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// What went wrong so far.
    #[must_use]
    pub fn stats(&self) -> DeviceStats {
        self.stats
    }

    fn on_datagram(&mut self, now: Instant, packet: &Packet) {
        let Packet {
            from,
            bytes,
            protocol,
            ..
        } = packet;
        if *protocol == Protocol::Tcp {
            match bytes.is_empty() {
                true => self.on_connection_reset(now),
                false => self.on_server_packet(now, bytes),
            }
            return;
        }
        let is_probe =
            Kind::of(bytes) == Kind::Stun && self.probe.handle_datagram(now, *from, bytes);
        if is_probe {
            return;
        }
        if *from == self.config.turn && self.config.turn_protocol == Protocol::Udp {
            self.on_server_packet(now, bytes);
            return;
        }
        match Kind::of(bytes) {
            Kind::Stun => {
                self.agent.handle_stun(now, *from, bytes);
            }
            Kind::ChannelData | Kind::Other => self.on_data(now, Route::Direct(*from), bytes),
        }
    }

    fn on_connection_reset(&mut self, now: Instant) {
        self.notes
            .push_back("the connection to the TURN server is reset".to_owned());
        self.allocate_again(now);
    }

    fn on_server_packet(&mut self, now: Instant, bytes: &[u8]) {
        let Some(client::Received {
            peer: address,
            range,
        }) = self.turn.client.handle_datagram(now, bytes)
        else {
            return;
        };
        let is_known = self
            .peer_by_host
            .values()
            .any(|peer| peer.relayed == Some(address));
        match bytes.get(range) {
            Some(payload) if is_known && Kind::of(payload) == Kind::Other => {
                self.on_data(now, Route::Relay, payload);
            }
            Some(_) | None => self.stats.unexpected_relayed += 1,
        }
    }

    fn on_data(&mut self, now: Instant, via: Route, bytes: &[u8]) {
        let Some(packet) = DataPacket::decode(bytes) else {
            return;
        };
        if packet.to != self.config.host {
            self.stats.misdelivered += 1;
            self.notes
                .push_back(format!("got a packet for {:?}", packet.to));
            return;
        }
        let Some(peer) = self.peer_by_host.get_mut(&packet.from) else {
            self.stats.unknown_peer += 1;
            return;
        };
        if packet.kind == DataKind::Ack {
            peer.last_acked = now;
        }
        if let Route::Direct(from) = via {
            let id = PeerId(packet.from.0 as u64);
            self.agent.handle_received(now, id, from);
            // As with QUIC, one end opens paths and the other follows it.
            let is_follower = packet.from < self.config.host;
            if is_follower && packet.kind == DataKind::Message && peer.route != via {
                self.agent.handle_adopted(now, id, from);
            }
        }
        if packet.kind == DataKind::Message {
            peer.record.push_received(ReceivedRecord {
                at: now,
                sequence: packet.sequence,
                via,
            });
            self.send_data(now, packet.from, DataKind::Ack, packet.sequence);
        }
    }

    /// Sends a data packet over the route of the moment.
    fn send_data(&mut self, now: Instant, to: HostId, kind: DataKind, sequence: u64) {
        let Some(peer) = self.peer_by_host.get_mut(&to) else {
            return;
        };
        let payload = DataPacket {
            kind,
            from: self.config.host,
            to,
            sequence,
        }
        .encode();
        let via = peer.route;
        if kind == DataKind::Message {
            peer.record.push_sent(SentRecord {
                at: now,
                sequence,
                via,
            });
        }
        match via {
            Route::Direct(address) => {
                self.agent.handle_sent(now, PeerId(to.0 as u64), address);
                self.transmit(Protocol::Udp, address, payload);
            }
            Route::Relay => {
                let header = peer
                    .relayed
                    .and_then(|relayed| self.turn.client.send(now, relayed, payload.len()).ok());
                let Some(header) = header else {
                    self.stats.unsent += 1;
                    return;
                };
                let mut bytes = header.to_vec();
                bytes.extend_from_slice(&payload);
                bytes.resize(bytes.len() + header.padding(), 0);
                self.transmit(self.config.turn_protocol, self.config.turn, bytes);
            }
        }
    }

    /// Moves what the cores have queued into our own queues, and reacts to their events.
    fn drain(&mut self, now: Instant) {
        self.drain_turn(now);
        self.drain_probe(now);
        self.drain_agent(now);
        // A reaction to an event may have made more to send.
        self.drain_turn(now);
        self.drain_agent(now);
    }

    fn drain_turn(&mut self, now: Instant) {
        while let Some(event) = self.turn.client.poll_event() {
            self.notes.push_back(format!("turn: {event:?}"));
            match event {
                client::Event::Allocated { mapped, .. } => {
                    self.turn.mapped = Some(mapped);
                    self.introduce_again(now);
                }
                client::Event::Failed(_) | client::Event::Expired => {
                    self.allocates_at = Some(now + ALLOCATE_PAUSE);
                }
                client::Event::Closed
                | client::Event::ChannelBound(_)
                | client::Event::PeerRefused { .. }
                | client::Event::CredentialsRefused
                | _ => {}
            }
        }
        while let Some(bytes) = self.turn.client.poll_transmit() {
            self.transmit(self.config.turn_protocol, self.config.turn, bytes);
        }
    }

    fn drain_probe(&mut self, now: Instant) {
        while let Some(event) = self.probe.poll_event() {
            let ProbeEvent::Done(report) = event else {
                continue;
            };
            let (nat, public) = (report.behaviour(), report.public());
            if self.nat.is_none() {
                self.notes.push_back(format!("nat: {nat} at {public:?}"));
                self.on_measured(nat, public);
            } else if let Some(public) = public.first() {
                self.on_seen(now, *public);
            }
        }
        while let Some(transmit) = self.probe.poll_transmit() {
            self.transmit(Protocol::Udp, transmit.to, transmit.bytes);
        }
    }

    fn drain_agent(&mut self, now: Instant) {
        while let Some(event) = self.agent.poll_event() {
            let PathEvent::Route {
                peer,
                route,
                cause,
                rtt,
            } = event
            else {
                continue;
            };
            self.notes.push_back(format!("{peer}: {route} ({cause})"));
            let host = HostId(usize::try_from(peer.0).expect("our own number"));
            let Some(peer) = self.peer_by_host.get_mut(&host) else {
                continue;
            };
            if route == Route::Relay {
                self.probes_at = self.probes_at.min(now + PROBE_AFTER_LOSS);
            }
            peer.route = route;
            peer.record.push_route(RouteRecord {
                at: now,
                route,
                cause,
                rtt,
            });
        }
        while let Some(transmit) = self.agent.poll_transmit() {
            self.transmit(Protocol::Udp, transmit.to, transmit.bytes);
        }
    }

    fn send_due_messages(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (host, peer) in &mut self.peer_by_host {
            // Before the introduction there is nobody to send to.
            let is_introduced = peer.record.introduced.is_some();
            let Some(stream) = peer.stream.as_mut().filter(|stream| stream.next <= now) else {
                continue;
            };
            stream.next += stream.interval;
            if !is_introduced {
                peer.last_acked = now;
                continue;
            }
            due.push((*host, peer.next_sequence));
            peer.next_sequence += 1;
            if now - peer.last_acked >= UNACKED_MAX {
                // No route carries: perhaps the NAT has moved us.
                peer.last_acked = now;
                self.probes_at = now;
            }
        }
        for (host, sequence) in due {
            self.send_data(now, host, DataKind::Message, sequence);
        }
    }

    /// The port that packets leave from: for TCP, every connection has its own.
    fn local_port(&self, protocol: Protocol) -> u16 {
        match protocol {
            Protocol::Udp => self.config.port,
            Protocol::Tcp => self.config.port + self.turn.generation,
        }
    }

    fn transmit(&mut self, protocol: Protocol, to: SocketAddr, bytes: Vec<u8>) {
        let family = |ip: &&IpAddr| ip.is_ipv4() == to.is_ipv4();
        // An address of a family that the host does not have is unreachable, as a socket would say.
        if let Some(ip) = self.config.addresses.iter().find(family) {
            let from = SocketAddr::new(*ip, self.local_port(protocol));
            self.transmits.push_back(Packet {
                protocol,
                from,
                to,
                bytes,
            });
        }
    }
}

impl Actor for DeviceHost {
    type Message = Signal;

    fn handle_packet(&mut self, now: Instant, packet: &Packet) {
        if packet.to.port() == self.local_port(packet.protocol) {
            self.on_datagram(now, packet);
            self.drain(now);
        }
    }

    fn handle_message(&mut self, now: Instant, _: HostId, message: Signal) {
        if let Signal::Introduced(introduction) = message {
            self.on_introduction(now, introduction);
            self.drain(now);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.turn.client.handle_timeout(now);
        self.probe.handle_timeout(now);
        self.agent.handle_timeout(now);
        if self.probes_at <= now {
            self.probes_at = now + PROBE_INTERVAL;
            let servers = vec![self.config.turn];
            self.probe = probe(&self.config, servers, self.rng.random(), now);
        }
        if self.allocates_at.is_some_and(|at| at <= now) {
            self.allocate_again(now);
        }
        self.drain(now);
        self.send_due_messages(now);
        self.drain(now);
    }

    fn poll_transmit(&mut self) -> Option<Packet> {
        self.transmits.pop_front()
    }

    fn poll_message(&mut self) -> Option<(HostId, Signal)> {
        self.messages.pop_front()
    }

    fn poll_note(&mut self) -> Option<String> {
        self.notes.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let turn = self.turn.client.poll_timeout().map(|(at, _)| at);
        let probe = self.probe.poll_timeout().map(|(at, _)| at);
        let agent = self.agent.poll_timeout().map(|(at, _)| at);
        let streams = self.peer_by_host.values().filter_map(|peer| peer.stream);
        let streams = streams.map(|stream| stream.next);
        let own = [Some(self.probes_at), self.allocates_at];
        [turn, probe, agent]
            .into_iter()
            .chain(own)
            .flatten()
            .chain(streams)
            .min()
    }
}

impl Peer {
    fn new(rng: &mut ChaCha12Rng, now: Instant) -> Self {
        Self {
            local: Credentials::from_seed(rng.random()),
            has_introduced: false,
            relayed: None,
            route: Route::Relay,
            next_sequence: 0,
            stream: None,
            last_acked: now,
            record: PeerRecord::default(),
        }
    }
}

/// How often a device looks whether its NAT still sees it the same way; keeps the mapping alive too.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
/// How soon it looks after a direct path was lost.
const PROBE_AFTER_LOSS: Duration = Duration::from_millis(50);
/// How long it sends without an acknowledgement before it looks.
const UNACKED_MAX: Duration = Duration::from_secs(2);
const ALLOCATE_PAUSE: Duration = Duration::from_secs(1);
