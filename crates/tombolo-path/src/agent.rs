//! The agent: all peers of a device on its one socket.

use std::net::SocketAddr;
use std::time::Instant;

use crate::{
    Candidate, Config, Event, Explanation, NatBehaviour, PeerConfig, PeerId, Route, Stats, Timer,
    Transmit,
};

/// Finds and watches direct paths to peers.
///
/// Feed it with `handle_*`; after each call drain [`poll_transmit`](Self::poll_transmit) and
/// [`poll_event`](Self::poll_event) until `None`, then sleep until
/// [`poll_timeout`](Self::poll_timeout). `now` must not go backwards; equal is fine. Late timeouts
/// are harmless. Addresses may come in IPv4-mapped form; they leave in canonical form.
#[derive(Debug)]
pub struct Agent {
    stats: Stats,
}

impl Agent {
    /// Makes an agent without peers. Equal seeds and inputs give equal outputs.
    #[must_use]
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        let _ = (config, seed, now);
        Self {
            stats: Stats::default(),
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
        let _ = (now, peer, config);
        Ok(())
    }

    /// Forgets a peer: nothing is sent to it or answered any more. Unknown peers are ignored, here
    /// and everywhere.
    pub fn remove_peer(&mut self, now: Instant, peer: PeerId) {
        let _ = (now, peer);
    }

    /// Adds an address that the peer announced later.
    pub fn add_remote_candidate(&mut self, now: Instant, peer: PeerId, candidate: Candidate) {
        let _ = (now, peer, candidate);
    }

    /// Tells how this device's own NAT behaves; explanations use it.
    pub fn set_local_nat(&mut self, nat: Option<NatBehaviour>) {
        let _ = nat;
    }

    /// Tells how the peer's NAT behaves; explanations use it.
    pub fn set_remote_nat(&mut self, peer: PeerId, nat: Option<NatBehaviour>) {
        let _ = (peer, nat);
    }

    /// Handles a STUN datagram that arrived on the device's socket and is not from a server: a
    /// peer's check, or the answer to one of ours. Returns whose it was, when it was authentic.
    pub fn handle_stun(&mut self, now: Instant, from: SocketAddr, data: &[u8]) -> Option<PeerId> {
        let _ = (now, from, data);
        None
    }

    /// Notes that the peer link sent a packet to a direct address. Cheap; call it per packet.
    pub fn handle_sent(&mut self, now: Instant, peer: PeerId, to: SocketAddr) {
        let _ = (now, peer, to);
    }

    /// Notes that the peer link received an authentic packet from a direct address. Cheap.
    pub fn handle_received(&mut self, now: Instant, peer: PeerId, from: SocketAddr) {
        let _ = (now, peer, from);
    }

    /// Notes that the peer link now uses this direct address, because the remote end chose it.
    ///
    /// It becomes the route and is watched. From then on the agent leaves the choice to the remote
    /// end, until the route is lost. No [`Event::Route`] comes when it is the route already.
    pub fn handle_adopted(&mut self, now: Instant, peer: PeerId, address: SocketAddr) {
        let _ = (now, peer, address);
    }

    /// Notes that the device's network changed: all addresses are checked anew, eagerly and at
    /// once; a direct route stays if it answers soon.
    pub fn handle_network_changed(&mut self, now: Instant) {
        let _ = now;
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// Returns the next datagram to send.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }

    /// Returns the next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout), and why. May change after any
    /// other call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        None
    }

    /// Returns the route that the peer's data takes now; `None` for an unknown peer.
    #[must_use]
    pub fn route(&self, peer: PeerId) -> Option<Route> {
        let _ = peer;
        None
    }

    /// Explains the route of a peer; `None` for an unknown peer.
    #[must_use]
    pub fn explain(&self, now: Instant, peer: PeerId) -> Option<Explanation> {
        let _ = (now, peer);
        None
    }

    /// Returns the counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
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
