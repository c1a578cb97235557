//! Who begins a link's handshake, and by which packets it is told from all others.

use std::convert::Infallible;
use std::net::SocketAddr;

use noq::ConnectionId;
use tokio::sync::oneshot;
use tombolo_path::{PeerId, Policy};

use super::State;
use crate::net::address::peer_of_virtual;

/// The handshake with a peer.
#[derive(Debug)]
pub(super) enum Handshake {
    /// This device begins it, and is answered by this connection id; `None` until it has.
    Ours(Option<ConnectionId>),
    /// The peer is to begin it, with a packet for this id.
    Awaited(ConnectionId),
    /// The peer has, and what comes of it is wanted while this is there.
    Begun {
        first_id: ConnectionId,
        _wanted: oneshot::Sender<Infallible>,
    },
}

impl Handshake {
    /// For which id the peer's first packets are.
    pub(super) fn first_id(&self) -> Option<&ConnectionId> {
        match self {
            Self::Ours(answered) => answered.as_ref(),
            Self::Awaited(first_id) | Self::Begun { first_id, .. } => Some(first_id),
        }
    }

    /// Whether it is the peer who begins it, by a packet for this id.
    fn is_begun_by(&self, id: &[u8]) -> bool {
        match self {
            Self::Ours(_) => false,
            Self::Awaited(first_id) | Self::Begun { first_id, .. } => **first_id == *id,
        }
    }
}

impl State {
    /// Takes a handshake, which begins with a packet for `first_id` from `at`, as the one that the peer of this virtual
    /// address is to begin. That is once: its result is wanted until what this returns ends, with the peer's place.
    pub(crate) fn begin_handshake(
        &mut self,
        at: SocketAddr,
        first_id: ConnectionId,
    ) -> Option<oneshot::Receiver<Infallible>> {
        let peer = peer_of_virtual(at).and_then(|id| self.peers.get_mut(&id));
        let awaited = peer.map(|peer| &mut peer.handshake);
        let Some(handshake @ Handshake::Awaited(_)) =
            awaited.filter(|handshake| handshake.is_begun_by(&first_id))
        else {
            self.dropped.unexpected_handshakes += 1;
            return None;
        };
        let (_wanted, end) = oneshot::channel();
        *handshake = Handshake::Begun { first_id, _wanted };
        Some(end)
    }

    /// Who begins a link with a packet for this id, which comes straight from somewhere.
    pub(super) fn who_begins(&self, first_id: &[u8]) -> Option<PeerId> {
        if self.is_direct_blocked {
            return None;
        }
        let mut peers = self.peers.iter();
        let found = peers
            .find(|(_, peer)| peer.policy != Policy::Relay && peer.handshake.is_begun_by(first_id));
        found.map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::sync::oneshot::error::TryRecvError;
    use tombolo_path::{Agent, Candidate, CandidateKind, Config, Credentials, PeerConfig};

    use super::super::{ENVELOPE, Received};
    use super::*;
    use crate::keys::PublicKey;
    use crate::net::address::virtual_of;

    const AT: &str = "192.0.2.1:5";

    /// A peer that is to begin the handshake with a packet for this id, and says to be at an address.
    fn add(state: &mut State, id: u8, policy: Policy) -> PeerId {
        let [own, theirs] = [id, id + 1].map(|seed| Credentials::from_seed([seed; 32]));
        let mut config = PeerConfig::new(own, theirs, false);
        config.policy = policy;
        config.candidates = vec![Candidate::new(CandidateKind::Host, AT.parse().unwrap())];
        let first_id = Some(ConnectionId::new(&[id; 16]));
        let identity = PublicKey([id; 32]);
        let added = state.add_peer(Instant::now(), identity, config, first_id);
        added.unwrap().0
    }

    fn state() -> State {
        State::new(Agent::new(Config::default(), [1; 32], Instant::now()))
    }

    #[test]
    fn a_handshake_is_taken_once_and_only_of_the_peer_that_is_to_begin_it() {
        let mut state = state();
        let [alice, mallory] = [1, 3].map(|id| add(&mut state, id, Policy::Any));
        let first_id = ConnectionId::new(&[1; 16]);
        let stranger = "192.0.2.9:9".parse().unwrap();
        for (at, id) in [
            (virtual_of(mallory), first_id),
            (virtual_of(alice), ConnectionId::new(&[9; 16])),
            (virtual_of(PeerId(99)), first_id),
            (stranger, first_id),
        ] {
            assert!(state.begin_handshake(at, id).is_none(), "{at} {id}");
        }
        let taken = state.begin_handshake(virtual_of(alice), first_id);
        let mut end = taken.expect("it is hers");
        assert!(state.begin_handshake(virtual_of(alice), first_id).is_none());
        assert_eq!(state.dropped.unexpected_handshakes, 5);
        assert_eq!(end.try_recv(), Err(TryRecvError::Empty));
        state.remove_peer(Instant::now(), alice);
        assert_eq!(end.try_recv(), Err(TryRecvError::Closed), "with her place");
    }

    #[test]
    fn nobody_sends_from_an_address_that_stands_for_a_peer() {
        let mut state = state();
        let alice = add(&mut state, 1, Policy::Any);
        let at = virtual_of(alice);
        let received = state.handle_datagram(Instant::now(), at, b"\x40 a packet");
        assert!(matches!(received, Received::Nothing));
        assert_eq!(state.dropped.virtual_sources, 1);
    }

    #[test]
    fn what_comes_straight_from_a_claimed_address_begins_no_link_of_the_liars() {
        let mut state = state();
        let mallory = add(&mut state, 3, Policy::Any);
        let from_alice = |state: &mut State, packet: &[u8]| {
            let data = [&[ENVELOPE], packet].concat();
            match state.handle_datagram(Instant::now(), AT.parse().unwrap(), &data) {
                Received::Quic { from, .. } => Some(from),
                Received::Nothing => None,
            }
        };
        let first = [&[0xc0, 0, 0, 0, 1, 16][..], &[1; 16], &[8], &[9; 8]].concat();
        let before = from_alice(&mut state, &first);
        assert_eq!(before, None, "alice is not introduced yet");
        assert_eq!(state.dropped.unknown_envelope, 1);
        let alice = add(&mut state, 1, Policy::Any);
        let later = from_alice(&mut state, b"\x40 a packet");
        assert_eq!(later, Some(virtual_of(mallory)), "who says so first");
        assert_eq!(from_alice(&mut state, &first), Some(virtual_of(alice)));
        state.is_direct_blocked = true;
        assert_eq!(from_alice(&mut state, &first), None);
        state.is_direct_blocked = false;
        state.remove_peer(Instant::now(), alice);
        add(&mut state, 1, Policy::Relay);
        let relay_only = from_alice(&mut state, &first);
        assert_eq!(relay_only, None, "she sends nothing straight");
    }
}
