//! The agent: all peers of a device on its one socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use rand::{SeedableRng, rngs::ChaCha12Rng};
use tombolo_stun::TransactionId;

use crate::check::Inbound;
use crate::peer::Peer;
use crate::shared::Shared;
use crate::transaction::Transaction;
use crate::{
    Candidate, Cause, Config, Event, Explanation, NatBehaviour, PeerConfig, PeerId, Route, Stats,
    Timer, Transmit, canonical,
};

/// Finds and watches direct paths to peers.
///
/// Feed it with `handle_*`; after each call drain [`poll_transmit`](Self::poll_transmit) and
/// [`poll_event`](Self::poll_event) until `None`, then sleep until
/// [`poll_timeout`](Self::poll_timeout). `now` must not go backwards; equal is fine. Late timeouts
/// are harmless. Addresses may come in IPv4-mapped form; they leave in canonical form.
#[derive(Debug)]
pub struct Agent {
    peers: BTreeMap<PeerId, Peer>,
    peer_by_local_ufrag: BTreeMap<String, PeerId>,
    /// When each peer is due; mirrors `Peer::scheduled`.
    schedule: BTreeSet<(Instant, Timer, PeerId)>,
    shared: Shared,
    local_nat: Option<NatBehaviour>,
    /// The latest `now`.
    now: Instant,
}

impl Agent {
    /// Makes an agent without peers. Equal seeds and inputs give equal outputs.
    #[must_use]
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        Self {
            peers: BTreeMap::new(),
            peer_by_local_ufrag: BTreeMap::new(),
            schedule: BTreeSet::new(),
            shared: Shared::new(config.with_floors(), ChaCha12Rng::from_seed(seed), now),
            local_nat: None,
            now,
        }
    }

    /// Starts to look for direct paths to an introduced peer. Its route starts at [`Route::Relay`].
    ///
    /// # Errors
    ///
    /// Refuses a peer that is already there, a local username fragment that another peer uses,
    /// credentials against RFC 8839, and one peer too many.
    pub fn add_peer(
        &mut self,
        now: Instant,
        peer: PeerId,
        config: PeerConfig,
    ) -> Result<(), AddPeerError> {
        self.now = now;
        if self.peers.contains_key(&peer) {
            return Err(AddPeerError::LocalDuplicate);
        }
        if self.peer_by_local_ufrag.contains_key(&config.local.ufrag) {
            return Err(AddPeerError::LocalUfragInUse);
        }
        if !config.local.is_valid() {
            return Err(AddPeerError::LocalCredentials);
        }
        if !config.remote.is_valid() {
            return Err(AddPeerError::PeerCredentials);
        }
        if self.peers.len() >= self.shared.config.peers_max {
            return Err(AddPeerError::LimitPeers);
        }
        self.peer_by_local_ufrag
            .insert(config.local.ufrag.clone(), peer);
        self.peers
            .insert(peer, Peer::new(now, peer, config, &mut self.shared));
        self.with_peer(now, peer, Peer::on_timeout);
        Ok(())
    }

    /// Forgets a peer: nothing is sent to it or answered any more, and no event names it. Unknown
    /// peers are ignored, here and everywhere.
    pub fn remove_peer(&mut self, now: Instant, peer: PeerId) {
        self.now = now;
        let Some(removed) = self.peers.remove(&peer) else {
            return;
        };
        self.peer_by_local_ufrag.remove(&removed.local.ufrag);
        self.shared.events.retain(|event| event.peer() != peer);
        if let Some((at, timer)) = removed.scheduled {
            self.schedule.remove(&(at, timer, peer));
        }
    }

    /// Adds an address that the peer announced later.
    pub fn add_remote_candidate(&mut self, now: Instant, peer: PeerId, candidate: Candidate) {
        self.with_peer(now, peer, |peer, now, shared| {
            peer.add_candidate(now, candidate, shared);
            peer.on_timeout(now, shared);
        });
    }

    /// Tells how this device's own NAT behaves; explanations use it.
    pub fn set_local_nat(&mut self, nat: Option<NatBehaviour>) {
        self.local_nat = nat;
    }

    /// Tells how the peer's NAT behaves; explanations use it.
    pub fn set_remote_nat(&mut self, peer: PeerId, nat: Option<NatBehaviour>) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.remote_nat = nat;
        }
    }

    /// Handles a STUN datagram that arrived on the device's socket and is not from a server: a
    /// peer's check, or the answer to one of ours. Returns whose it was, when it was authentic.
    pub fn handle_stun(&mut self, now: Instant, from: SocketAddr, data: &[u8]) -> Option<PeerId> {
        let from = canonical(from);
        let Some(inbound) = Inbound::parse(data) else {
            self.shared.stats.malformed += 1;
            return None;
        };
        let (peer, is_authentic) = match &inbound {
            Inbound::Indication => return None,
            Inbound::Request(request) => {
                let Some(&peer) = self.peer_by_local_ufrag.get(request.local_ufrag) else {
                    self.shared.stats.unknown_username += 1;
                    return None;
                };
                let is_authentic = self.with_peer(now, peer, |peer, now, shared| {
                    peer.on_request(now, from, request, shared)
                });
                (peer, is_authentic)
            }
            Inbound::Success(answer) => {
                let transaction = self.find_transaction(answer.id)?;
                let is_authentic = self.with_peer(now, transaction.peer, |peer, now, shared| {
                    peer.on_success(now, from, answer, transaction, shared)
                });
                (transaction.peer, is_authentic)
            }
            Inbound::Error(answer) => {
                let transaction = self.find_transaction(answer.id)?;
                let is_authentic = self.with_peer(now, transaction.peer, |peer, _, shared| {
                    peer.on_failure(from, answer, transaction, shared)
                });
                (transaction.peer, is_authentic)
            }
        };
        is_authentic?.then_some(peer)
    }

    /// Notes that the peer link sent a packet to a direct address. Cheap; call it per packet.
    pub fn handle_sent(&mut self, now: Instant, peer: PeerId, to: SocketAddr) {
        let Some(peer) = self.peers.get_mut(&peer) else {
            return;
        };
        if peer.route != Route::Direct(canonical(to)) || !peer.watch.on_sent(now) {
            return;
        }
        // The wake-up only ever moves forward here; when it comes too early nothing happens.
        let probe_at = now + self.shared.config.silence_before_probe;
        if peer.scheduled.is_none_or(|(at, _)| probe_at < at) {
            let next = Some((probe_at, Timer::Silence));
            reschedule(&mut self.schedule, peer, next);
        }
    }

    /// Notes that the peer link received a packet from a direct address. Cheap. Whether it is authentic need not be known
    /// yet: whoever forges it only puts off the suspicion of a silent route, until consent expires.
    pub fn handle_received(&mut self, _now: Instant, peer: PeerId, from: SocketAddr) {
        if let Some(peer) = self.peers.get_mut(&peer)
            && peer.route == Route::Direct(canonical(from))
        {
            peer.watch.on_received();
        }
    }

    /// Notes that the peer link now uses this direct address.
    ///
    /// It becomes the route and is watched. On the controlled side the agent leaves the choice to
    /// the remote end from then on, until the route is lost; so the end that opens the link's paths
    /// should be the controlling one. No [`Event::Route`] comes when it is the route already.
    pub fn handle_adopted(&mut self, now: Instant, peer: PeerId, address: SocketAddr) {
        let address = canonical(address);
        self.with_peer(now, peer, |peer, now, shared| {
            peer.adopt(now, address, shared);
            peer.on_timeout(now, shared);
        });
    }

    /// Notes that the peer link's path to this direct address was closed, by the remote end or by
    /// the link itself. If it was the route, the relay takes over, and the address has to prove
    /// itself anew before [`Event::Route`] names it again.
    pub fn handle_abandoned(&mut self, now: Instant, peer: PeerId, address: SocketAddr) {
        let route = Route::Direct(canonical(address));
        self.with_peer(now, peer, |peer, now, shared| {
            if peer.route == route {
                peer.lose_route(now, Cause::Abandoned, shared);
                peer.on_timeout(now, shared);
            }
        });
    }

    /// Notes that the device's network changed: all addresses are checked anew, eagerly and at
    /// once; a direct route stays if it answers soon.
    pub fn handle_network_changed(&mut self, now: Instant) {
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for peer in peers {
            self.with_peer(now, peer, |peer, now, shared| {
                peer.on_network_changed(now, shared);
                peer.on_timeout(now, shared);
            });
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        while let Some(&(at, _, peer)) = self.schedule.first()
            && at <= now
        {
            self.with_peer(now, peer, Peer::on_timeout);
        }
        self.send_paced(now);
    }

    /// Returns the next datagram to send.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.shared.transmits.pop_front()
    }

    /// Returns the next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop_front()
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout), and why. May change after any
    /// other call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let paced = self
            .shared
            .pacer
            .deadline(self.now)
            .map(|at| (at, Timer::Pace));
        let scheduled = self.schedule.first().map(|&(at, timer, _)| (at, timer));
        paced.into_iter().chain(scheduled).min()
    }

    /// Returns the route that the peer's data takes now; `None` for an unknown peer.
    #[must_use]
    pub fn route(&self, peer: PeerId) -> Option<Route> {
        self.peers.get(&peer).map(|peer| peer.route)
    }

    /// Explains the route of a peer; `None` for an unknown peer.
    #[must_use]
    pub fn explain(&self, now: Instant, peer: PeerId) -> Option<Explanation> {
        self.peers
            .get(&peer)
            .map(|peer| peer.explain(now, self.local_nat))
    }

    /// Returns the counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Does something with a peer, then sends what may leave now and plans its next wake-up.
    /// `None` for an unknown peer.
    fn with_peer<T>(
        &mut self,
        now: Instant,
        peer: PeerId,
        act: impl FnOnce(&mut Peer, Instant, &mut Shared) -> T,
    ) -> Option<T> {
        self.now = now;
        let known = self.peers.get_mut(&peer)?;
        let done = act(known, now, &mut self.shared);
        let next = known.deadline(&self.shared);
        reschedule(&mut self.schedule, known, next);
        self.send_paced(now);
        Some(done)
    }

    /// Sends the queued checks for which there is a budget.
    fn send_paced(&mut self, now: Instant) {
        while let Some((peer, address)) = self.shared.pacer.pop(now) {
            let Some(peer) = self.peers.get_mut(&peer) else {
                continue;
            };
            if peer.on_turn(now, address, &mut self.shared) {
                let next = peer.deadline(&self.shared);
                reschedule(&mut self.schedule, peer, next);
            }
        }
    }

    fn find_transaction(&mut self, id: TransactionId) -> Option<Transaction> {
        let found = self.shared.transactions.peek(id).copied();
        if found.is_none() {
            self.shared.stats.unknown_transaction += 1;
        }
        found
    }
}

fn reschedule(
    schedule: &mut BTreeSet<(Instant, Timer, PeerId)>,
    peer: &mut Peer,
    next: Option<(Instant, Timer)>,
) {
    if peer.scheduled == next {
        return;
    }
    if let Some((at, timer)) = peer.scheduled {
        schedule.remove(&(at, timer, peer.id));
    }
    if let Some((at, timer)) = next {
        schedule.insert((at, timer, peer.id));
    }
    peer.scheduled = next;
}

/// Why a peer was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddPeerError {
    /// There is a peer of that number; remove it first.
    #[error("the peer is there already")]
    LocalDuplicate,
    /// Another peer has the same local username fragment.
    #[error("another peer has the same local username fragment")]
    LocalUfragInUse,
    /// A fragment or password of ours has the wrong length or characters.
    #[error("our credentials break RFC 8839")]
    LocalCredentials,
    /// A fragment or password of the peer has the wrong length or characters.
    #[error("the peer's credentials break RFC 8839")]
    PeerCredentials,
    /// As many peers as allowed are there.
    #[error("too many peers")]
    LimitPeers,
}
