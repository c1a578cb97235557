//! The node: the TURN server core on its addresses, and the part of the services that introduces.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha12Rng};
use tombolo_path::CandidateKind;
use tombolo_turn::server::{
    self, Command, FiveTuple, Forward, PeerAddr, RelayAddr, Server, Transport,
};

use crate::{Actor, HostId, Introduction, Packet, Protocol, Signal, signal};

/// What a node knows before it starts.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its addresses: two of a family make the tests of RFC 5780 possible.
    pub ips: Vec<IpAddr>,
}

/// A node: the TURN server core on two STUN ports of every address and on relay ports, and a signalling
/// service that installs relay permissions for both sides of an introduction before it hands it on.
pub struct RelayHost {
    ips: Vec<IpAddr>,
    server: Server,
    relay_ports: BTreeSet<SocketAddr>,
    connections: BTreeSet<FiveTuple>,
    transmits: VecDeque<Packet>,
    messages: VecDeque<(HostId, Signal)>,
    notes: VecDeque<String>,
}

impl RelayHost {
    /// Starts a node.
    #[must_use]
    pub fn new(config: &NodeConfig, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        Self {
            ips: config.ips.clone(),
            server: Server::new(
                server_config(config, rng.random()),
                rng.random(),
                now,
                UNIX_START,
            ),
            relay_ports: BTreeSet::new(),
            connections: BTreeSet::new(),
            transmits: VecDeque::new(),
            messages: VecDeque::new(),
            notes: VecDeque::new(),
        }
    }

    /// The STUN and TURN addresses of one family, the main one first: both ports of every address.
    #[must_use]
    pub fn services(&self, is_v4: bool) -> Vec<SocketAddr> {
        services(&self.ips)
            .filter(|address| address.is_ipv4() == is_v4)
            .collect()
    }

    /// The TURN server, to look at.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    fn on_client(&mut self, now: Instant, packet: &Packet) {
        let transport = match packet.protocol {
            Protocol::Udp => Transport::Udp,
            Protocol::Tcp => Transport::Tcp,
        };
        let from = FiveTuple {
            transport,
            client: packet.from,
            server: packet.to,
        };
        if packet.protocol == Protocol::Tcp && packet.bytes.is_empty() {
            if !self.connections.insert(from) {
                self.server.handle_client_gone(now, from);
            }
            return;
        }
        if packet.protocol == Protocol::Tcp && !self.connections.contains(&from) {
            self.transmits.push_back(to_client(from, Vec::new()));
            return;
        }
        let forward = self.server.handle_client(now, from, &packet.bytes);
        self.on_forward(now, forward, &packet.bytes);
    }

    fn on_peer(&mut self, now: Instant, at: SocketAddr, from: SocketAddr, bytes: &[u8]) {
        let forward = self
            .server
            .handle_peer(now, RelayAddr(at), PeerAddr(from), bytes);
        self.on_forward(now, forward, bytes);
    }

    fn on_forward(&mut self, now: Instant, forward: Option<Forward>, bytes: &[u8]) {
        match forward {
            None | Some(Forward::ToShard { .. }) => {}
            Some(Forward::ToPeer { at, to, range, .. }) => {
                // Two allocations of one node exchange packets in memory.
                if self.relay_ports.contains(&to.0) {
                    self.on_peer(now, to.0, at.0, &bytes[range]);
                } else {
                    self.transmits
                        .push_back(Packet::udp(at.0, to.0, bytes[range].to_vec()));
                }
            }
            Some(Forward::ToClient {
                to,
                header,
                range,
                padding,
            }) => {
                let mut framed = header.to_vec();
                framed.extend_from_slice(&bytes[range]);
                framed.resize(framed.len() + padding, 0);
                self.transmits.push_back(to_client(to, framed));
            }
        }
    }

    fn on_introduction(&mut self, now: Instant, to: HostId, introduction: Introduction) {
        let relayed = introduction
            .candidates
            .iter()
            .filter(|candidate| candidate.kind == CandidateKind::Relayed);
        for candidate in relayed {
            self.server
                .permit(now, &signal::user_of(to), candidate.address.ip());
        }
        // The other side's relayed address is on this node too.
        for ip in &self.ips {
            self.server
                .permit(now, &signal::user_of(introduction.from), *ip);
        }
        self.messages
            .push_back((to, Signal::Introduced(introduction)));
    }

    fn drain(&mut self, now: Instant) {
        while let Some(command) = self.server.poll_command() {
            self.on_command(now, command);
        }
        while let Some(event) = self.server.poll_event() {
            self.notes.push_back(format!("{event:?}"));
        }
        while let Some(transmit) = self.server.poll_transmit() {
            self.transmits
                .push_back(to_client(transmit.to, transmit.bytes));
        }
    }

    fn on_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::BindPort { id, address } => {
                self.relay_ports.insert(address.0);
                self.server.handle_port(now, id, Ok(address));
            }
            // Everybody here has time-limited credentials.
            Command::Authenticate { id, .. } => {
                let nobody = Err(server::AuthError::Unavailable);
                self.server.handle_auth(now, id, nobody);
            }
            Command::ReleasePort(address) => {
                self.relay_ports.remove(&address.0);
            }
            // TCP relaying is off.
            Command::ListenPort { .. }
            | Command::ConnectPeer { .. }
            | Command::ClosePeer { .. }
            | Command::Splice { .. } => {}
            // There is one shard.
            Command::Redirect { .. } => {}
        }
    }
}

impl Actor for RelayHost {
    type Message = Signal;

    fn handle_packet(&mut self, now: Instant, packet: &Packet) {
        if SERVICE_PORTS.contains(&packet.to.port()) {
            self.on_client(now, packet);
        } else if self.relay_ports.contains(&packet.to) {
            self.on_peer(now, packet.to, packet.from, &packet.bytes);
        }
        self.drain(now);
    }

    fn handle_message(&mut self, now: Instant, _: HostId, message: Signal) {
        if let Signal::Introduce { to, introduction } = message {
            self.on_introduction(now, to, introduction);
        }
        self.drain(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.server.handle_timeout(now);
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
        self.server.poll_timeout().map(|(at, _)| at)
    }
}

impl std::fmt::Debug for RelayHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayHost")
            .field("ips", &self.ips)
            .finish_non_exhaustive()
    }
}

fn server_config(config: &NodeConfig, nonce_key: [u8; 32]) -> server::Config {
    let mut server = server::Config::new(nonce_key);
    server.realm.secrets = vec![signal::SECRET.to_vec()];
    for ip in &config.ips {
        match ip {
            IpAddr::V4(ip) => server.relay_ip_v4 = server.relay_ip_v4.or(Some(*ip)),
            IpAddr::V6(ip) => server.relay_ip_v6 = server.relay_ip_v6.or(Some(*ip)),
        }
    }
    server.own_ips.clone_from(&config.ips);
    server.sockets = services(&config.ips).collect();
    server
}

/// Both service ports of every address.
fn services(ips: &[IpAddr]) -> impl Iterator<Item = SocketAddr> {
    ips.iter()
        .flat_map(|ip| SERVICE_PORTS.map(|port| SocketAddr::new(*ip, port)))
}

fn to_client(to: FiveTuple, bytes: Vec<u8>) -> Packet {
    let protocol = match to.transport {
        Transport::Udp | Transport::Dtls => Protocol::Udp,
        Transport::Tcp | Transport::Tls => Protocol::Tcp,
    };
    Packet {
        protocol,
        from: to.server,
        to: to.client,
        bytes,
    }
}

/// The STUN and TURN port and, for RFC 5780, the alternate one.
const SERVICE_PORTS: [u16; 2] = [3478, 3479];
/// Unix time at the start of every world.
const UNIX_START: Duration = Duration::from_secs(1_800_000_000);
