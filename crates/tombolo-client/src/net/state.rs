//! What runs on the device's one socket: who a datagram is for, and where a packet goes.
//!
//! No I/O here: datagrams come in by reference, those to send are left in `out`.
//!
//! ```text
//! from the socket        from a TURN server   → TURN client → payload of a relayed peer
//!                        STUN                 → NAT probe, path agent
//!                        0x08 …               → a path-0 packet that came directly
//!                        the rest             → QUIC
//! from QUIC              to a virtual address → relay (or directly, see `Peer::bridge`)
//!                        to a real address    → the socket
//! ```

mod handshake;
mod moves;
mod relayed;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use noq::ConnectionId;
use tokio::sync::watch;
use tombolo_path::probe::NatProbe;
use tombolo_path::{
    AddPeerError, Agent, Candidate, CandidateKind, Event, PeerConfig, PeerId, Policy, Route,
};
use tombolo_stun::Kind;

use super::address::{canonical, peer_of_virtual, virtual_of};
use super::book::Book;
use super::packet::{first, is_long, source};
use super::relay::{LINGER, Relays};
use super::ring::Ring;
use crate::keys::PublicKey;
use handshake::Handshake;
use moves::Moves;

/// In front of a QUIC packet: "this packet belongs to the peer's other path". Directly received,
/// it is a packet of path 0; relayed, a repeated packet of the direct path. QUIC, STUN and
/// ChannelData never start with it (RFC 9443).
const ENVELOPE: u8 = 0x08;
/// Handshake packets go to at most so many unproven addresses besides the relay.
const FAN_MAX: usize = 4;
/// Addresses that one peer may claim.
const CLAIMS_MAX: usize = 64;
/// How long relayed packets are held for peers whose introduction has not arrived yet.
const HELD_FOR: Duration = Duration::from_millis(1000);
/// Packets waiting for QUIC that did not come from the UDP socket.
const INBOX_MAX: usize = 1024;

/// What the agent says of one peer, for the task that drives its link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RouteNow {
    pub(crate) route: Route,
    pub(crate) rtt: Option<Duration>,
    /// Where the peer is reached by its relay.
    pub(crate) relayed: Option<SocketAddr>,
}

/// By which way a packet or message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Through the relay, or inside the introduction.
    Relay,
    /// Straight from the peer.
    Direct,
}

/// A peer's place on the socket.
#[derive(Debug)]
struct Peer {
    /// Of its device.
    identity: PublicKey,
    relayed: Option<SocketAddr>,
    policy: Policy,
    handshake: Handshake,
    /// For which connection id its last packet was that came from where it is proven to be.
    last_id: Option<ConnectionId>,
    /// Where the agent wants packets to go.
    route: Route,
    /// The remote address of the established direct QUIC path.
    path: Option<SocketAddr>,
    /// The last such address, for packets that the other end repeats over the relay.
    last_path: Option<SocketAddr>,
    /// Unproven addresses for handshake packets; emptied when a route is found.
    fan: Vec<SocketAddr>,
    /// How many addresses the peer has claimed.
    claims: usize,
    ring: Ring,
    last_via: Via,
    route_tx: watch::Sender<RouteNow>,
}

impl Peer {
    /// The direct address for packets of path 0 while QUIC has no direct path yet: between the
    /// agent's finding and the path's validation, data does not take the detour.
    fn bridge(&self) -> Option<SocketAddr> {
        match self.route {
            Route::Direct(address) if self.path.is_none() => Some(address),
            Route::Direct(_) | Route::Relay => None,
        }
    }
}

/// Where a received datagram goes.
pub(crate) enum Received {
    /// Consumed, or dropped.
    Nothing,
    /// For QUIC: the packet is at `start..end` of the datagram, from `from`.
    Quic {
        from: SocketAddr,
        start: usize,
        end: usize,
    },
}

/// Packets that a device's socket dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// Relayed packets from addresses of nobody.
    pub unknown_relayed: u64,
    /// Enveloped packets that belong to no peer.
    pub unknown_envelope: u64,
    /// Packets that found no way: no relay, no direct route.
    pub no_route: u64,
    /// Packets dropped since a bounded queue was full.
    pub overflow: u64,
    /// Handshakes that no introduced peer was to begin, or not from there, or not once more.
    pub unexpected_handshakes: u64,
    /// Datagrams from addresses that stand for peers within this device, and are nobody's outside of it.
    pub virtual_sources: u64,
}

pub(crate) struct State {
    pub(crate) agent: Agent,
    pub(crate) probe: Option<NatProbe>,
    /// Asks the TURN server, now and then, from where it sees us.
    pub(crate) pulse: Option<NatProbe>,
    pub(crate) relays: Relays,
    peers: BTreeMap<PeerId, Peer>,
    book: Book,
    held: VecDeque<(Instant, SocketAddr, Vec<u8>)>,
    /// Relayed addresses that peers have left, from which something may still come.
    left: VecDeque<(Instant, PeerId, SocketAddr)>,
    moves: Moves,
    /// Relayed addresses that peers go on to later, by when.
    postponed: BTreeMap<(Instant, PeerId), SocketAddr>,
    /// Packets for QUIC that came by another way than the UDP socket.
    pub(crate) inbox: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Datagrams to send.
    pub(crate) out: Vec<(SocketAddr, Vec<u8>)>,
    pub(crate) dropped: Dropped,
    /// Drops whatever comes from peers, or goes to them, other than through the relay.
    pub(crate) is_direct_blocked: bool,
    next_peer: u64,
}

impl State {
    pub(crate) fn new(agent: Agent) -> Self {
        Self {
            agent,
            probe: None,
            pulse: None,
            relays: Relays::default(),
            peers: BTreeMap::new(),
            book: Book::default(),
            held: VecDeque::new(),
            left: VecDeque::new(),
            moves: Moves::default(),
            postponed: BTreeMap::new(),
            inbox: VecDeque::new(),
            out: Vec::new(),
            dropped: Dropped::default(),
            is_direct_blocked: false,
            next_peer: 1,
        }
    }

    /// Handles one datagram from the UDP socket.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &[u8],
    ) -> Received {
        let from = canonical(from);
        // These stand for peers, and are nobody's outside of this device.
        if peer_of_virtual(from).is_some() {
            self.dropped.virtual_sources += 1;
            return Received::Nothing;
        }
        match Kind::of(data) {
            Kind::Stun => {
                let mut probes = self.probes();
                let probed = probes.any(|probe| probe.handle_datagram(now, from, data));
                drop(probes);
                if probed {
                    return Received::Nothing;
                }
                if self.relays.is_server(from) {
                    return self.handle_server(now, from, data);
                }
                if !self.is_direct_blocked {
                    self.agent.handle_stun(now, from, data);
                    self.collect();
                }
                Received::Nothing
            }
            Kind::ChannelData if self.relays.is_server(from) => self.handle_server(now, from, data),
            Kind::ChannelData | Kind::Other => self.handle_direct(now, from, data),
        }
    }

    /// Handles one frame of a TURN server's stream; what is for QUIC goes to the inbox.
    pub(crate) fn handle_stream_frame(&mut self, now: Instant, generation: u64, data: &[u8]) {
        let Some((peer, range)) = self.relays.handle_stream(now, generation, data) else {
            return;
        };
        let received = self.handle_relayed(now, peer, data, range.clone());
        self.push_received(received, data);
        self.copy_to_others(peer, data, range);
    }

    /// Sends a packet of QUIC's.
    pub(crate) fn send(&mut self, now: Instant, to: SocketAddr, packet: &[u8]) {
        if let Some(id) = peer_of_virtual(to) {
            self.send_virtual(now, id, packet);
            return;
        }
        let to = canonical(to);
        if let Some(id) = self.book.peer_at(to) {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.ring.push(now, packet);
            }
            self.agent.handle_sent(now, id, to);
            if self.is_direct_blocked {
                return;
            }
        }
        self.out.push((to, packet.to_vec()));
    }

    /// Sends the recent packets of a direct path once more, over the relay.
    pub(crate) fn reinject(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(relayed) = peer.relayed else { return };
        let packets: Vec<_> = peer.ring.drain(now).collect();
        tracing::debug!(
            peer = id.0,
            packets = packets.len(),
            "direct path repeated over the relay"
        );
        for packet in packets {
            let enveloped = envelope(&packet);
            self.relays.send(now, relayed, &enveloped, &mut self.out);
        }
    }

    /// Gives a peer its place; the relayed path works from now on.
    pub(crate) fn add_peer(
        &mut self,
        now: Instant,
        identity: PublicKey,
        config: PeerConfig,
        first_id: Option<ConnectionId>,
    ) -> Result<(PeerId, watch::Receiver<RouteNow>), AddPeerError> {
        let id = PeerId(self.next_peer);
        self.next_peer += 1;
        let initial = RouteNow {
            route: Route::Relay,
            rtt: None,
            relayed: None,
        };
        let (route_tx, route_rx) = watch::channel(initial);
        let peer = Peer {
            identity,
            relayed: None,
            handshake: first_id.map_or(Handshake::Ours(None), Handshake::Awaited),
            last_id: None,
            policy: config.policy,
            route: Route::Relay,
            path: None,
            last_path: None,
            fan: Vec::new(),
            claims: 0,
            ring: Ring::default(),
            last_via: Via::Relay,
            route_tx,
        };
        let candidates = config.candidates.clone();
        self.agent.add_peer(now, id, config)?;
        self.peers.insert(id, peer);
        for candidate in candidates {
            self.note_candidate(now, id, candidate);
        }
        self.collect();
        Ok((id, route_rx))
    }

    /// Adds a candidate that the peer told after its introduction.
    pub(crate) fn add_candidate(&mut self, now: Instant, id: PeerId, candidate: Candidate) {
        self.agent.add_remote_candidate(now, id, candidate);
        self.note_candidate(now, id, candidate);
        self.collect();
    }

    pub(crate) fn remove_peer(&mut self, now: Instant, id: PeerId) {
        if let Some(relayed) = self.peers.remove(&id).and_then(|peer| peer.relayed) {
            self.release_relayed(now, id, relayed);
        }
        self.postponed.retain(|(_, peer), _| *peer != id);
        self.book.forget(id);
        self.agent.remove_peer(now, id);
        self.collect();
    }

    /// Tells that QUIC's direct path is up at `address`.
    pub(crate) fn set_path(&mut self, now: Instant, id: PeerId, address: SocketAddr) {
        let address = canonical(address);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.path = Some(address);
        peer.last_path = Some(address);
        self.agent.handle_adopted(now, id, address);
        self.book.prove(id, canonical(address));
        self.collect();
    }

    /// Tells that QUIC's direct path to `address` was closed, by either end.
    pub(crate) fn abandon_path(&mut self, now: Instant, id: PeerId, address: SocketAddr) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.path = None;
        self.agent.handle_abandoned(now, id, address);
        self.collect();
    }

    /// By which way the peer's last packet came.
    pub(crate) fn last_via(&self, id: PeerId) -> Via {
        self.peers.get(&id).map_or(Via::Relay, |peer| peer.last_via)
    }

    pub(crate) fn relayed_of(&self, id: PeerId) -> Option<SocketAddr> {
        self.peers.get(&id)?.relayed
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.agent.handle_timeout(now);
        for probe in self.probes() {
            probe.handle_timeout(now);
        }
        self.relays.handle_timeout(now);
        while self
            .held
            .front()
            .is_some_and(|(at, ..)| now.duration_since(*at) > HELD_FOR)
        {
            self.held.pop_front();
            self.dropped.unknown_relayed += 1;
        }
        while let Some((_, id, address)) = self.left.pop_front_if(|(at, ..)| now >= *at + LINGER) {
            self.release_left(now, id, address);
        }
        while let Some(postponed) = self.postponed.first_entry()
            && postponed.key().0 <= now
        {
            let ((_, id), address) = postponed.remove_entry();
            self.note_relayed(now, id, address);
        }
        self.collect();
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let agent = self.agent.poll_timeout().map(|(at, _)| at);
        let probes = self.probe.iter().chain(&self.pulse);
        let probe = probes
            .filter_map(|p| p.poll_timeout())
            .map(|(at, _)| at)
            .min();
        let held = self.held.front().map(|(at, ..)| *at + HELD_FOR);
        let left = self.left.front().map(|(at, ..)| *at + LINGER);
        let postponed = self.postponed.keys().next().map(|(at, _)| *at);
        let relays = self.relays.poll_timeout();
        [agent, probe, held, left, postponed, relays]
            .into_iter()
            .flatten()
            .min()
    }

    /// Moves what the cores want sent to `out`, and what they found to the links.
    pub(crate) fn collect(&mut self) {
        while let Some(event) = self.agent.poll_event() {
            self.on_agent_event(event);
        }
        while let Some(transmit) = self.agent.poll_transmit() {
            if !self.is_direct_blocked {
                self.out.push((transmit.to, transmit.bytes));
            }
        }
        for probe in self.probe.iter_mut().chain(&mut self.pulse) {
            while let Some(transmit) = probe.poll_transmit() {
                self.out.push((transmit.to, transmit.bytes));
            }
        }
        self.relays.collect(&mut self.out);
    }

    fn probes(&mut self) -> impl Iterator<Item = &mut NatProbe> {
        self.probe.iter_mut().chain(&mut self.pulse)
    }

    fn on_agent_event(&mut self, event: Event) {
        match event {
            Event::Route {
                peer: id,
                route,
                cause: _,
                rtt,
            } => {
                if let Route::Direct(address) = route {
                    self.book.prove(id, canonical(address));
                }
                let Some(peer) = self.peers.get_mut(&id) else {
                    return;
                };
                peer.route = route;
                if matches!(route, Route::Direct(_)) {
                    peer.fan.clear();
                }
                let relayed = peer.relayed;
                peer.route_tx.send_replace(RouteNow {
                    route,
                    rtt,
                    relayed,
                });
            }
            Event::Heard { peer: id, from } => self.book.hear(id, canonical(from)),
            _ => {}
        }
    }

    fn handle_server(&mut self, now: Instant, from: SocketAddr, data: &[u8]) -> Received {
        let payload = self.relays.handle_datagram(now, from, data);
        self.collect();
        match payload {
            Some((peer, range)) => {
                let received = self.handle_relayed(now, peer, data, range.clone());
                self.copy_to_others(peer, data, range);
                received
            }
            None => Received::Nothing,
        }
    }

    fn handle_direct(&mut self, now: Instant, from: SocketAddr, data: &[u8]) -> Received {
        let id = self.book.peer_at(from);
        if let Some(id) = id {
            if self.is_direct_blocked {
                return Received::Nothing;
            }
            self.agent.handle_received(now, id, from);
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.last_via = Via::Direct;
            }
        }
        if data.first() != Some(&ENVELOPE) {
            return Received::Quic {
                from,
                start: 0,
                end: data.len(),
            };
        }
        // A link's beginning is that of whom it is for, whoever says to be where it comes from.
        let id = match first(&data[1..]) {
            Some(first_id) => self.who_begins(first_id),
            None => id,
        };
        let Some(id) = id else {
            self.dropped.unknown_envelope += 1;
            return Received::Nothing;
        };
        Received::Quic {
            from: virtual_of(id),
            start: 1,
            end: data.len(),
        }
    }

    fn send_virtual(&mut self, now: Instant, id: PeerId, packet: &[u8]) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if let Handshake::Ours(answered @ None) = &mut peer.handshake
            && is_long(packet)
        {
            *answered = source(packet).map(ConnectionId::new);
        }
        // Where several say to be, what QUIC sends to one may be for another.
        let relayed = peer.relayed;
        let is_sure = relayed.is_none_or(|relayed| self.book.is_sure(id, relayed));
        if let Some(address) = peer.bridge().filter(|_| is_sure) {
            self.agent.handle_sent(now, id, address);
            if !self.is_direct_blocked {
                self.out.push((address, envelope(packet)));
            }
            return;
        }
        if is_long(packet) && !self.is_direct_blocked {
            for address in &peer.fan {
                self.out.push((*address, envelope(packet)));
            }
        }
        match peer.relayed {
            Some(relayed) if peer.policy != Policy::Direct => {
                if !self.relays.send(now, relayed, packet, &mut self.out) {
                    self.dropped.no_route += 1;
                }
            }
            _ => self.dropped.no_route += 1,
        }
    }

    fn note_candidate(&mut self, now: Instant, id: PeerId, candidate: Candidate) {
        let address = canonical(candidate.address);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if candidate.kind != CandidateKind::Relayed {
            if peer.policy != Policy::Relay && peer.claims < CLAIMS_MAX {
                peer.claims += 1;
                if peer.fan.len() < FAN_MAX {
                    peer.fan.push(address);
                }
                self.book.claim(id, address);
            }
            return;
        }
        self.note_relayed(now, id, address);
    }

    fn push_received(&mut self, received: Received, data: &[u8]) {
        if let Received::Quic { from, start, end } = received {
            self.push_inbox(from, data[start..end].to_vec());
        }
    }

    fn push_inbox(&mut self, from: SocketAddr, packet: Vec<u8>) {
        if self.inbox.len() >= INBOX_MAX {
            self.dropped.overflow += 1;
            return;
        }
        self.inbox.push_back((from, packet));
    }
}

fn envelope(packet: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(packet.len() + 1);
    bytes.push(ENVELOPE);
    bytes.extend_from_slice(packet);
    bytes
}
