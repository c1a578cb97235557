//! What comes from relayed addresses: whose it is, though anybody may say to be there.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use noq::ConnectionId;
use tombolo_path::{PeerId, Policy};

use super::{ENVELOPE, Received, RouteNow, State, Via};
use crate::net::address::virtual_of;
use crate::net::packet::{destination, first, is_long};

/// Peers that may be behind one relayed address; all but one of them lie.
const CLAIMANTS_MAX: usize = 8;
/// Relayed packets held for peers whose introduction has not arrived yet; the oldest give way.
const HELD_MAX: usize = 64;
/// Of these, from one address: what a link begins with, and repetitions.
const HELD_OF_ONE_MAX: usize = 8;
/// Relayed addresses that one peer has left and that are still listened to; the oldest gives way.
const LEFT_OF_ONE_MAX: usize = 4;

impl State {
    pub(super) fn handle_relayed(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &[u8],
        range: Range<usize>,
    ) -> Received {
        let packet = &data[range.clone()];
        let known = self.whose(from, packet);
        if let Some(id) = known {
            self.book.prove_relayed(id, from);
        }
        // A link's beginning is that of whom it is for, who may not be introduced yet, and nobody else's.
        let owner = match first(packet) {
            Some(_) => known,
            None => self.book.relayed_peer(from, 0),
        };
        let Some(owner) = owner else {
            self.hold(now, from, packet);
            return Received::Nothing;
        };
        self.take_relayed(owner, from, data, range)
    }

    /// While nobody is proven to be at an address, its packets are taken for those of all who claim it: QUIC knows whose
    /// each one is. Behind the first one's: of two that it takes for the same, the first says where the peer is.
    pub(super) fn copy_to_others(&mut self, from: SocketAddr, data: &[u8], range: Range<usize>) {
        if first(&data[range.clone()]).is_some() {
            return;
        }
        for place in 1..CLAIMANTS_MAX {
            let Some(other) = self.book.relayed_peer(from, place) else {
                break;
            };
            let received = self.take_relayed(other, from, data, range.clone());
            self.push_received(received, data);
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
                true => peer.handshake.first_id(),
                false => peer.last_id.as_ref(),
            };
            known.is_some_and(|known| **known == *id)
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
        range: Range<usize>,
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

    /// Notes that a peer says to be at a relayed address, or to have gone on to it.
    pub(super) fn note_relayed(&mut self, now: Instant, id: PeerId, address: SocketAddr) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.policy == Policy::Direct {
            return;
        }
        // The last word counts.
        self.postponed.retain(|(_, peer), _| *peer != id);
        if peer.relayed == Some(address) {
            return;
        }
        let due = self.moves.due(peer.identity, address);
        if let Some(due) = due.filter(|due| now < *due) {
            self.postponed.insert((due, id), address);
            return;
        }
        self.moves.on_move(now, peer.identity, address);
        let before = peer.relayed.replace(address);
        let is_at = |route: &mut RouteNow| route.relayed = Some(address);
        peer.route_tx.send_modify(is_at);
        if let Some(old) = before {
            self.leave_relayed(now, id, old);
        }
        self.book.claim_relayed(id, address);
        self.relays.connect(now, address, before);
        self.release_held(address);
    }

    /// Looks again at what has come from an address that somebody says to be at now.
    fn release_held(&mut self, address: SocketAddr) {
        for (at, from, packet) in std::mem::take(&mut self.held) {
            if from == address {
                // What is still nobody's is held on, as long as it would have been.
                let received = self.handle_relayed(at, from, &packet, 0..packet.len());
                self.push_received(received, &packet);
            } else {
                self.held.push_back((at, from, packet));
            }
        }
    }

    /// What is on its way from where a peer was still counts, for a while.
    fn leave_relayed(&mut self, now: Instant, id: PeerId, address: SocketAddr) {
        self.left
            .retain(|(_, peer, left)| (*peer, *left) != (id, address));
        self.left.push_back((now, id, address));
        let mut of_peer = self.left.iter().filter(|(_, peer, _)| *peer == id);
        let oldest = of_peer.nth_back(LEFT_OF_ONE_MAX);
        if let Some((_, _, oldest)) = oldest.copied() {
            self.left
                .retain(|(_, peer, left)| (*peer, *left) != (id, oldest));
            self.release_left(now, id, oldest);
        }
    }

    /// Gives a relayed address up that a peer has left, unless it has come back to it.
    pub(super) fn release_left(&mut self, now: Instant, id: PeerId, address: SocketAddr) {
        let peer = self.peers.get(&id);
        if peer.is_none_or(|peer| peer.relayed != Some(address)) {
            self.release_relayed(now, id, address);
        }
    }

    pub(super) fn release_relayed(&mut self, now: Instant, id: PeerId, address: SocketAddr) {
        if self.book.release_relayed(id, address) {
            self.relays.release(now, address);
        }
    }

    fn hold(&mut self, now: Instant, from: SocketAddr, payload: &[u8]) {
        let of_one = self.held.iter().filter(|(_, other, _)| *other == from);
        if of_one.count() >= HELD_OF_ONE_MAX {
            self.dropped.overflow += 1;
            return;
        }
        if self.held.len() >= HELD_MAX {
            self.dropped.overflow += 1;
            self.held.pop_front();
        }
        self.held.push_back((now, from, payload.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use tombolo_path::{Agent, Candidate, CandidateKind, Config, Credentials, PeerConfig, Route};

    use super::*;
    use crate::keys::PublicKey;

    const RELAYED: &str = "192.0.2.1:5";

    fn state() -> State {
        State::new(Agent::new(Config::default(), [1; 32], Instant::now()))
    }

    fn claimant(state: &mut State, seed: u8, first_id: Option<&[u8]>) -> PeerId {
        let [own, theirs] = [seed, seed + 1].map(|seed| Credentials::from_seed([seed; 32]));
        let mut config = PeerConfig::new(own, theirs, first_id.is_none());
        config.candidates = vec![relayed(RELAYED)];
        let first_id = first_id.map(ConnectionId::new);
        let identity = PublicKey([seed; 32]);
        let added = state.add_peer(Instant::now(), identity, config, first_id);
        added.unwrap().0
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
        let packet = b"\x40 a packet";
        let taken = taken_as(&mut state, RELAYED, packet);
        assert_eq!(taken, [of_mallory, of_alice]);
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
    fn what_begins_a_link_waits_for_whom_it_is_for_though_others_say_to_be_there() {
        let mut state = state();
        let mallory = claimant(&mut state, 1, Some(&[1; 16]));
        let elsewhere = "192.0.2.2:5";
        // Answers to her would go there.
        state.add_candidate(Instant::now(), mallory, relayed(elsewhere));
        for at in [RELAYED, elsewhere] {
            assert_eq!(taken_as(&mut state, at, &first_for(&[2; 16])), []);
        }
        let alice = claimant(&mut state, 3, Some(&[2; 16]));
        let taken = std::mem::take(&mut state.inbox).into_iter();
        let taken: Vec<_> = taken.map(|(from, _)| from).collect();
        assert_eq!(taken, [virtual_of(alice)]);
        // She has gone on, and this comes before the news of it.
        assert_eq!(state.held.len(), 1);
        state.add_candidate(Instant::now(), alice, relayed(elsewhere));
        assert_eq!(state.inbox.pop_front().unwrap().0, virtual_of(alice));
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
    fn a_peer_that_goes_on_too_often_is_taken_to_be_where_it_was_for_a_while() {
        let mut state = state();
        let begin = Instant::now();
        let mallory = claimant(&mut state, 1, Some(&[1; 16]));
        let at = |port: u16| format!("192.0.2.3:{port}");
        for port in 1..=100 {
            state.add_candidate(begin, mallory, relayed(&at(port)));
        }
        // Whoever has moved before is still heard where it was.
        let alice = claimant(&mut state, 3, Some(&[2; 16]));
        taken_as(&mut state, RELAYED, &first_for(&[2; 16]));
        let elsewhere = "192.0.2.2:5";
        state.add_candidate(begin, alice, relayed(elsewhere));
        let packet = b"\x40 a packet";
        assert_eq!(taken_as(&mut state, RELAYED, packet), [virtual_of(alice)]);
        let claimed = |state: &State| {
            let of_mallory = (1..=100).filter(|port| {
                let at = at(*port).parse().unwrap();
                state.book.relayed_peer(at, 0) == Some(mallory)
            });
            of_mallory.collect::<Vec<_>>()
        };
        let taken = claimed(&state);
        assert!(taken.len() <= LEFT_OF_ONE_MAX + 1, "{taken:?}");
        assert!(!taken.contains(&100));
        let due = *state.postponed.keys().next().unwrap();
        let mut routes = state.peers[&mallory].route_tx.subscribe();
        state.handle_timeout(due.0);
        assert!(routes.has_changed().unwrap(), "the link's task hears of it");
        let told = routes.borrow_and_update().relayed;
        assert_eq!(told, Some(at(100).parse().unwrap()));
        assert!(claimed(&state).contains(&100), "the last word counts");
        state.add_candidate(due.0, mallory, relayed(&at(7)));
        state.add_candidate(due.0, mallory, relayed(&at(100)));
        assert!(state.postponed.is_empty(), "it has come back");
        state.add_candidate(due.0, mallory, relayed(&at(7)));
        state.remove_peer(due.0, mallory);
        assert!(state.postponed.is_empty());
    }

    #[test]
    fn a_peer_that_begins_link_after_link_goes_on_no_faster() {
        let mut state = state();
        let begin = Instant::now();
        let mut begin_link = |port: u16| {
            let [own, theirs] = [1, 2].map(|seed| Credentials::from_seed([seed; 32]));
            let mut config = PeerConfig::new(own, theirs, true);
            config.candidates = vec![relayed(&format!("192.0.2.3:{port}"))];
            let identity = PublicKey([1; 32]);
            let (id, _) = state.add_peer(begin, identity, config, None).unwrap();
            let is_there = state.relayed_of(id).is_some();
            state.remove_peer(begin, id);
            is_there
        };
        let there = (1..=100).filter(|port| begin_link(*port));
        assert_eq!(there.collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(begin_link(8), "that takes no other place");
    }

    #[test]
    fn who_sends_much_from_one_relayed_address_keeps_no_others_packet_from_being_held() {
        let mut state = state();
        for n in 0..2 * HELD_MAX {
            taken_as(&mut state, "192.0.2.9:9", &first_for(&[9; 16]));
            if n % 2 == 0 {
                let at = format!("192.0.2.9:{}", 1000 + n);
                taken_as(&mut state, &at, &first_for(&[9; 16]));
            }
        }
        taken_as(&mut state, RELAYED, &first_for(&[2; 16]));
        assert!(state.held.len() <= HELD_MAX);
        claimant(&mut state, 3, Some(&[2; 16]));
        assert_eq!(state.inbox.len(), 1);
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
