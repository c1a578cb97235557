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

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use noq::ConnectionId;
use tokio::sync::watch;
use tombolo_path::probe::NatProbe;
use tombolo_path::{
    AddPeerError, Agent, Candidate, CandidateKind, Event, PeerConfig, PeerId, Policy, Route,
};
use tombolo_stun::Kind;

use super::book::Book;
use super::packet::{destination, is_long, source};
use super::relay::{LINGER, Relays};
use super::ring::Ring;

/// In front of a QUIC packet: "this packet belongs to the peer's other path". Directly received,
/// it is a packet of path 0; relayed, a repeated packet of the direct path. QUIC, STUN and
/// ChannelData never start with it (RFC 9443).
const ENVELOPE: u8 = 0x08;
/// Handshake packets go to at most so many unproven addresses besides the relay.
const FAN_MAX: usize = 4;
/// Addresses that one peer may claim.
const CLAIMS_MAX: usize = 64;
/// Peers that may be behind one relayed address; all but one of them lie.
const CLAIMANTS_MAX: usize = 8;
/// Relayed packets held for peers whose introduction has not arrived yet.
const HELD_MAX: usize = 32;
const HELD_FOR: Duration = Duration::from_millis(1000);
/// Relayed addresses that peers have left and that are still listened to.
const LEFT_MAX: usize = 256;
/// Packets waiting for QUIC that did not come from the UDP socket.
const INBOX_MAX: usize = 1024;
/// First segments of every virtual address: a prefix of unique local addresses (RFC 4193).
const VIRTUAL_PREFIX: [u16; 3] = [0xfd00, 0x746f, 0x6d62];

/// What the agent says of one peer, for the task that drives its link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RouteNow {
    pub(crate) route: Route,
    pub(crate) rtt: Option<Duration>,
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
    relayed: Option<SocketAddr>,
    policy: Policy,
    /// For which connection id its first packet is; `None` while this device is to send one.
    first_id: Option<ConnectionId>,
    /// And its last one that came from where it is proven to be.
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
        config: PeerConfig,
        first_id: Option<ConnectionId>,
    ) -> Result<(PeerId, watch::Receiver<RouteNow>), AddPeerError> {
        let id = PeerId(self.next_peer);
        self.next_peer += 1;
        let initial = RouteNow {
            route: Route::Relay,
            rtt: None,
        };
        let (route_tx, route_rx) = watch::channel(initial);
        let peer = Peer {
            relayed: None,
            first_id,
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
        [agent, probe, held, left, self.relays.poll_timeout()]
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
                peer.route_tx.send_replace(RouteNow { route, rtt });
            }
            Event::Heard { peer: id, from } => self.book.prove(id, canonical(from)),
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

    fn handle_relayed(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &[u8],
        range: std::ops::Range<usize>,
    ) -> Received {
        if let Some(id) = self.whose(from, &data[range.clone()]) {
            self.book.prove_relayed(id, from);
        }
        let Some(first) = self.book.relayed_peer(from, 0) else {
            self.hold(now, from, &data[range]);
            return Received::Nothing;
        };
        self.take_relayed(first, from, data, range)
    }

    /// While nobody is proven to be at an address, its packets are taken for those of all who claim it: QUIC knows whose
    /// each one is. Behind the first one's: of two that it takes for the same, the first says where the peer is.
    fn copy_to_others(&mut self, from: SocketAddr, data: &[u8], range: std::ops::Range<usize>) {
        for place in 1..CLAIMANTS_MAX {
            let Some(other) = self.book.relayed_peer(from, place) else {
                break;
            };
            let received = self.take_relayed(other, from, data, range.clone());
            self.push_received(received, data);
        }
    }

    fn push_received(&mut self, received: Received, data: &[u8]) {
        if let Received::Quic { from, start, end } = received {
            self.push_inbox(from, data[start..end].to_vec());
        }
    }

    /// Which claimant of an address a packet shows to be there: by a connection id that only the two ends know. A
    /// claim alone must not do: QUIC's server goes on to where a packet seems to come from, and a liar would
    /// let nothing pass on.
    fn whose(&self, from: SocketAddr, packet: &[u8]) -> Option<PeerId> {
        let (claimants, is_proven) = self.book.claimants(from);
        let id = destination(packet)?;
        let is_known = |claimant: &&PeerId| {
            let Some(peer) = self.peers.get(claimant) else {
                return false;
            };
            let known = match is_long(packet) {
                true => &peer.first_id,
                false => &peer.last_id,
            };
            known.as_deref() == Some(id)
        };
        // A handshake may be of another link with the same device.
        let is_open = !is_proven || is_long(packet);
        claimants.iter().filter(|_| is_open).find(is_known).copied()
    }

    /// Takes a packet as the one of this peer.
    fn take_relayed(
        &mut self,
        id: PeerId,
        at: SocketAddr,
        data: &[u8],
        range: std::ops::Range<usize>,
    ) -> Received {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Received::Nothing;
        };
        if peer.policy == Policy::Direct {
            return Received::Nothing;
        }
        // What another may have sent does not tell how this one's data comes.
        if self.book.is_sure(id, at) {
            peer.last_via = Via::Relay;
        }
        let packet = &data[range.clone()];
        if packet.first() != Some(&ENVELOPE) {
            if !is_long(packet) && self.book.claimants(at).1 {
                peer.last_id = destination(packet).map(ConnectionId::new);
            }
            return Received::Quic {
                from: virtual_of(id),
                start: range.start,
                end: range.end,
            };
        }
        let Some(path) = peer.last_path else {
            self.dropped.unknown_envelope += 1;
            return Received::Nothing;
        };
        Received::Quic {
            from: path,
            start: range.start + 1,
            end: range.end,
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
        if peer.first_id.is_none() && is_long(packet) {
            peer.first_id = source(packet).map(ConnectionId::new);
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
        if peer.policy == Policy::Direct || peer.relayed == Some(address) {
            return;
        }
        let before = peer.relayed.replace(address);
        if let Some(old) = before {
            // What is on its way from there still counts, for a while.
            self.left.push_back((now, id, old));
            if self.left.len() > LEFT_MAX
                && let Some((_, id, address)) = self.left.pop_front()
            {
                self.release_left(now, id, address);
            }
        }
        self.book.claim_relayed(id, address);
        self.relays.connect(now, address, before);
        let held = std::mem::take(&mut self.held).into_iter();
        let (waiting, others): (Vec<_>, _) = held.partition(|(_, from, _)| *from == address);
        self.held = others.into();
        for (_, _, packet) in waiting {
            self.push_inbox(virtual_of(id), packet);
        }
    }

    /// Gives a relayed address up that a peer has left, unless it has come back to it.
    fn release_left(&mut self, now: Instant, id: PeerId, address: SocketAddr) {
        let peer = self.peers.get(&id);
        if peer.is_none_or(|peer| peer.relayed != Some(address)) {
            self.release_relayed(now, id, address);
        }
    }

    fn release_relayed(&mut self, now: Instant, id: PeerId, address: SocketAddr) {
        if self.book.release_relayed(id, address) {
            self.relays.release(now, address);
        }
    }

    fn hold(&mut self, now: Instant, from: SocketAddr, payload: &[u8]) {
        if self.held.len() >= HELD_MAX {
            self.dropped.overflow += 1;
            return;
        }
        self.held.push_back((now, from, payload.to_vec()));
    }

    fn push_inbox(&mut self, from: SocketAddr, packet: Vec<u8>) {
        if self.inbox.len() >= INBOX_MAX {
            self.dropped.overflow += 1;
            return;
        }
        self.inbox.push_back((from, packet));
    }
}

/// The address by which QUIC knows the peer's relayed path.
pub(crate) fn virtual_of(id: PeerId) -> SocketAddr {
    let [a, b, c] = VIRTUAL_PREFIX;
    let [.., e, f, g, h] = split(id.0);
    SocketAddr::V6(SocketAddrV6::new(
        Ipv6Addr::new(a, b, c, 0, e, f, g, h),
        1,
        0,
        0,
    ))
}

/// Whether QUIC knows a peer's relayed path by this address.
pub(crate) fn is_virtual(address: SocketAddr) -> bool {
    peer_of_virtual(address).is_some()
}

fn peer_of_virtual(address: SocketAddr) -> Option<PeerId> {
    let SocketAddr::V6(address) = address else {
        return None;
    };
    let [a, b, c, 0, e, f, g, h] = address.ip().segments() else {
        return None;
    };
    let joined = [e, f, g, h]
        .into_iter()
        .fold(0, |id, part| id << 16 | u64::from(part));
    ([a, b, c] == VIRTUAL_PREFIX).then_some(PeerId(joined))
}

fn split(id: u64) -> [u16; 4] {
    let [a, b, c, d, e, f, g, h] = id.to_be_bytes();
    [
        u16::from_be_bytes([a, b]),
        u16::from_be_bytes([c, d]),
        u16::from_be_bytes([e, f]),
        u16::from_be_bytes([g, h]),
    ]
}

/// An address without the IPv4-mapped form, in which dual-stack sockets report IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), address.port()),
            None => address,
        },
        IpAddr::V4(_) => address,
    }
}

fn envelope(packet: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(packet.len() + 1);
    bytes.push(ENVELOPE);
    bytes.extend_from_slice(packet);
    bytes
}

#[cfg(test)]
mod tests {
    use tombolo_path::{Config, Credentials};

    use super::*;

    const RELAYED: &str = "192.0.2.1:5";

    fn state() -> State {
        State::new(Agent::new(Config::default(), [1; 32], Instant::now()))
    }

    fn claimant(state: &mut State, seed: u8, first_id: Option<&[u8]>) -> PeerId {
        let [own, theirs] = [seed, seed + 1].map(|seed| Credentials::from_seed([seed; 32]));
        let mut config = PeerConfig::new(own, theirs, first_id.is_none());
        config.candidates = vec![relayed(RELAYED)];
        let first_id = first_id.map(ConnectionId::new);
        state.add_peer(Instant::now(), config, first_id).unwrap().0
    }

    fn relayed(at: &str) -> Candidate {
        Candidate::new(CandidateKind::Relayed, at.parse().unwrap())
    }

    fn first_for(id: &[u8]) -> Vec<u8> {
        [
            &[0xc0, 0, 0, 0, 1, id.len() as u8],
            id,
            &[8],
            &[9; 8],
            b"...",
        ]
        .concat()
    }

    /// As whose a packet from a relayed address is handed to QUIC, in order.
    fn taken_as(state: &mut State, at: &str, packet: &[u8]) -> Vec<SocketAddr> {
        let (at, range) = (at.parse().unwrap(), 0..packet.len());
        let received = state.handle_relayed(Instant::now(), at, packet, range.clone());
        state.push_received(received, packet);
        state.copy_to_others(at, packet, range);
        let taken = std::mem::take(&mut state.inbox);
        taken.into_iter().map(|(from, _)| from).collect()
    }

    #[test]
    fn a_relayed_address_is_whose_handshake_comes_from_there_and_nobody_elses() {
        let mut state = state();
        let mallory = claimant(&mut state, 1, Some(&[1; 16]));
        let alice = claimant(&mut state, 3, Some(&[2; 16]));
        let [of_mallory, of_alice] = [mallory, alice].map(virtual_of);
        for unknown in [first_for(&[3; 16]), b"\x40 a packet".to_vec()] {
            let taken = taken_as(&mut state, RELAYED, &unknown);
            assert_eq!(taken, [of_mallory, of_alice]);
        }
        let packet = b"\x40 a packet";
        for known in [
            &first_for(&[2; 16])[..],
            packet,
            &[0xc0, 0, 0, 0, 1, 200, 1],
        ] {
            assert_eq!(taken_as(&mut state, RELAYED, known), [of_alice]);
        }
        // Wherever she goes on, whoever says to be there.
        let other = "192.0.2.2:5";
        for id in [mallory, alice] {
            state.add_candidate(Instant::now(), id, relayed(other));
        }
        assert_eq!(taken_as(&mut state, other, packet), [of_alice]);
    }

    #[test]
    fn the_answer_to_a_handshake_shows_whose_the_relayed_address_is() {
        let mut state = state();
        let mallory = claimant(&mut state, 1, None);
        let alice = claimant(&mut state, 3, None);
        state.send_virtual(Instant::now(), alice, &first_for(&[2; 16]));
        let answer = first_for(&[9; 8]);
        assert_eq!(taken_as(&mut state, RELAYED, &answer), [virtual_of(alice)]);
        state.remove_peer(Instant::now(), alice);
        assert_eq!(
            taken_as(&mut state, RELAYED, &answer),
            [virtual_of(mallory)]
        );
    }

    #[test]
    fn what_is_for_one_of_several_claimants_does_not_take_a_liars_direct_way() {
        let mut state = state();
        let mallory = claimant(&mut state, 1, Some(&[1; 16]));
        let direct = "192.0.2.9:9".parse().unwrap();
        state.peers.get_mut(&mallory).unwrap().route = Route::Direct(direct);
        state.send_virtual(Instant::now(), mallory, b"\x40 a packet");
        assert_eq!(state.out.pop().unwrap().0, direct);
        let alice = claimant(&mut state, 3, Some(&[2; 16]));
        state.send_virtual(Instant::now(), mallory, b"\x40 a packet");
        assert!(state.out.is_empty());
        taken_as(&mut state, RELAYED, &first_for(&[2; 16]));
        state.peers.get_mut(&alice).unwrap().route = Route::Direct(direct);
        state.send_virtual(Instant::now(), alice, b"\x40 a packet");
        assert_eq!(state.out.pop().unwrap().0, direct);
    }

    #[test]
    fn a_packet_that_may_be_of_several_tells_of_none_that_its_data_comes_by_the_relay() {
        let mut state = state();
        let ids = [1, 3].map(|seed| claimant(&mut state, seed, Some(&[seed; 16])));
        for id in ids {
            state.peers.get_mut(&id).unwrap().last_via = Via::Direct;
        }
        taken_as(&mut state, RELAYED, b"\x40 a packet");
        assert_eq!(ids.map(|id| state.last_via(id)), [Via::Direct; 2]);
        taken_as(&mut state, RELAYED, &first_for(&[3; 16]));
        let vias = ids.map(|id| state.last_via(id));
        assert_eq!(vias, [Via::Direct, Via::Relay]);
    }

    #[test]
    fn who_goes_to_and_fro_between_two_addresses_claims_each_once() {
        let mut state = state();
        let mallory = claimant(&mut state, 1, Some(&[1; 16]));
        for at in ["192.0.2.2:5", RELAYED].repeat(16) {
            state.add_candidate(Instant::now(), mallory, relayed(at));
        }
        let alice = claimant(&mut state, 3, Some(&[2; 16]));
        let taken = taken_as(&mut state, RELAYED, b"\x40 a packet");
        assert_eq!(taken, [mallory, alice].map(virtual_of));
    }
}
