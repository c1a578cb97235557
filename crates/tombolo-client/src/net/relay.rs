//! The device's TURN allocation: over UDP, or over TLS where UDP is blocked.
//!
//! When the device goes to another node it allocates there too. Once it has, peers are told the new
//! address; what they send meanwhile still comes through the old allocation, and what is for them goes
//! out through it for a moment, until they know the new one. Then it is given up. An old node that is not
//! heard any more, as one that was killed, carries nothing: what is for the peers goes out through the new
//! one at once.

mod turn;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use tombolo_turn::client::{AllocateError, Client, Event};

use self::turn::Turn;
pub(crate) use self::turn::{Carrier, Stream};

/// What became of an allocation.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Allocated {
        carrier: Carrier,
        relayed: SocketAddr,
    },
    Failed {
        carrier: Carrier,
        error: Option<AllocateError>,
    },
}

/// Peers know the new address after so long.
const HANDOVER: Duration = Duration::from_millis(1500);
/// An allocation is used, and told of, after so long even if it does not take packets from all peers.
const READY_WITHIN: Duration = Duration::from_secs(1);
/// How long packets to an old address are still taken.
pub(crate) const LINGER: Duration = Duration::from_secs(6);
/// Allocations on their way out; what is more is left to its server, which forgets it in time.
const OLD_MAX: usize = 4;

/// An allocation in whose place there is another one.
struct Old {
    turn: Turn,
    since: Instant,
    is_closed: bool,
}

impl Old {
    fn close(&mut self, now: Instant) {
        self.is_closed = true;
        self.turn.client.close(now);
    }
}

/// At most one allocation per carrier, one of them in use.
#[derive(Default)]
pub(crate) struct Relays {
    turns: BTreeMap<Carrier, Turn>,
    /// An allocation that is to take the place of the one in use, as soon as it takes packets from the
    /// peers: they may send there the moment they are told of it.
    next: Option<Turn>,
    /// Since when it is there; `None` until then.
    next_since: Option<Instant>,
    /// The oldest first.
    old: Vec<Old>,
    active: Option<Carrier>,
    /// Peers that want a permission and a channel on the allocation in use.
    peers: Vec<SocketAddr>,
    /// Where peers were before, for those that went to another relay lately. They still receive there.
    before_by_peer: BTreeMap<SocketAddr, SocketAddr>,
    outcomes: Vec<Outcome>,
}

impl Relays {
    /// Starts an allocation; its outcome comes through [`Relays::take_outcomes`].
    pub(crate) fn start(&mut self, now: Instant, client: Client, stream: Option<Stream>) {
        let turn = Turn::new(now, client, stream);
        self.turns.insert(turn.carrier(), turn);
    }

    /// Starts an allocation that takes the place of the one in use as soon as it is there.
    pub(crate) fn start_next(&mut self, now: Instant, client: Client, stream: Option<Stream>) {
        self.stop_next(now);
        if let Some(turn) = self.active.and_then(|active| self.turns.get_mut(&active)) {
            turn.is_heard = false;
            turn.client.refresh(now);
        }
        self.next = Some(Turn::new(now, client, stream));
    }

    /// Gives up what was to take the place of the allocation in use.
    pub(crate) fn stop_next(&mut self, now: Instant) {
        self.next_since = None;
        if let Some(next) = self.next.take() {
            self.retire(now, next, true);
        }
    }

    /// Whether there is an allocation in use, on none of these servers.
    pub(crate) fn is_elsewhere(&self, servers: &[(Carrier, SocketAddr)]) -> bool {
        let active = self.active.and_then(|active| self.turns.get(&active));
        active.is_some_and(|turn| !servers.contains(&(turn.carrier(), turn.server())))
    }

    /// Gives all allocations up.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.stop_next(now);
        for old in self.old.iter_mut().filter(|old| !old.is_closed) {
            old.close(now);
        }
        self.active = None;
        for (carrier, turn) in std::mem::take(&mut self.turns) {
            self.retire(now, turn, true);
            let error = None;
            self.outcomes.push(Outcome::Failed { carrier, error });
        }
    }

    /// The server of the allocation over UDP, and from where it sees us.
    pub(crate) fn mapped(&self) -> Option<(SocketAddr, SocketAddr)> {
        let turn = self.turns.get(&Carrier::Udp)?;
        Some((turn.server(), turn.mapped?))
    }

    /// Forgets allocations over UDP: they belong to an address we no longer have.
    pub(crate) fn forget_udp(&mut self) {
        self.forget(|turn| turn.carrier() == Carrier::Udp);
    }

    fn forget(&mut self, is_lost: impl Fn(&Turn) -> bool) {
        if self.next.take_if(|next| is_lost(next)).is_some() {
            self.next_since = None;
        }
        self.old.retain(|old| !is_lost(&old.turn));
        for (carrier, _) in self.turns.extract_if(.., |_, turn| is_lost(turn)) {
            self.active = self.active.filter(|active| *active != carrier);
            let error = None;
            self.outcomes.push(Outcome::Failed { carrier, error });
        }
    }

    pub(crate) fn is_server(&self, from: SocketAddr) -> bool {
        self.all().any(|turn| turn.is_from(from))
    }

    /// The relayed address in use, and how its server is reached.
    pub(crate) fn relayed(&self) -> Option<(SocketAddr, Carrier)> {
        let carrier = self.active?;
        Some((self.turns.get(&carrier)?.client.relayed()?, carrier))
    }

    pub(crate) fn set_credentials(&mut self, now: Instant, username: &str, password: &str) {
        for turn in self.turns.values_mut().chain(&mut self.next) {
            turn.client
                .set_credentials(now, username.to_owned(), password.to_owned());
        }
    }

    /// Handles a datagram from a server: the peer's relayed address and the payload's place.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &[u8],
    ) -> Option<(SocketAddr, Range<usize>)> {
        self.handle(now, data, |turn| turn.is_from(from))
    }

    /// Handles one frame of a stream.
    pub(crate) fn handle_stream(
        &mut self,
        now: Instant,
        generation: u64,
        data: &[u8],
    ) -> Option<(SocketAddr, Range<usize>)> {
        self.handle(now, data, |turn| turn.is_over(generation))
    }

    /// A server may have an allocation of ours that we give up beside one that begins: what does not
    /// concern a client leaves it as it is.
    fn handle(
        &mut self,
        now: Instant,
        data: &[u8],
        is_from: impl Fn(&Turn) -> bool,
    ) -> Option<(SocketAddr, Range<usize>)> {
        let mut turns = self.all_mut().filter(|turn| is_from(turn));
        let received = turns.find_map(|turn| turn.handle(now, data));
        drop(turns);
        self.handle_events(now);
        received
    }

    /// Tells that the stream is gone.
    pub(crate) fn handle_stream_closed(&mut self, generation: u64) {
        self.forget(|turn| turn.is_over(generation));
    }

    /// Keeps a permission and a channel for `peer`, who was at another address before.
    pub(crate) fn connect(&mut self, now: Instant, peer: SocketAddr, before: Option<SocketAddr>) {
        if !self.peers.contains(&peer) {
            self.peers.push(peer);
        }
        if let Some(before) = before {
            self.before_by_peer.insert(peer, before);
        }
        for old in &mut self.old {
            old.turn.client.connect_peer(now, peer);
        }
        if let (Some(next), Some(_)) = (&mut self.next, self.next_since) {
            next.client.connect_peer(now, peer);
        }
        if let Some(client) = self.active_client() {
            client.connect_peer(now, peer);
        }
    }

    pub(crate) fn release(&mut self, now: Instant, peer: SocketAddr) {
        self.peers.retain(|known| *known != peer);
        self.before_by_peer
            .retain(|known, before| *known != peer && *before != peer);
        if let Some(next) = &mut self.next {
            next.client.release_peer(now, peer);
        }
        if let Some(client) = self.active_client() {
            client.release_peer(now, peer);
        }
    }

    /// Sends to a peer's relayed address; false when there is no allocation to send from.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        payload: &[u8],
        out: &mut Vec<(SocketAddr, Vec<u8>)>,
    ) -> bool {
        let before = self.before_by_peer.get(&peer).copied();
        let active = self.active.and_then(|carrier| self.turns.get_mut(&carrier));
        let carries =
            |old: &&mut Old| !old.is_closed && now < old.since + HANDOVER && old.turn.is_heard;
        // The peers know the oldest one best.
        let old = self.old.iter_mut().find(carries);
        let Some(turn) = old.map(|old| &mut old.turn).or(active) else {
            return false;
        };
        // Until this relay lets packets pass to where the peer is now, they go to where it was.
        let before = before.filter(|before| {
            !turn.client.is_bound(now, peer) && turn.client.is_bound(now, *before)
        });
        let Ok(header) = turn.client.send(now, before.unwrap_or(peer), payload.len()) else {
            return false;
        };
        let mut bytes = Vec::with_capacity(header.len() + payload.len() + 4);
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len() + header.padding(), 0);
        turn.send(bytes, out)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for turn in self.all_mut() {
            turn.handle_timeout(now);
        }
        let is_due = |old: &&mut Old| !old.is_closed && now >= old.since + LINGER;
        for old in self.old.iter_mut().filter(is_due) {
            old.close(now);
        }
        for silent in self.all().filter(|turn| turn.is_silent(now)) {
            silent.give_up();
        }
        self.forget(|turn| turn.is_silent(now));
        self.handle_events(now);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let carried = self.old.iter().filter(|old| !old.is_closed);
        self.all()
            .filter_map(Turn::poll_timeout)
            .chain(carried.map(|old| old.since + LINGER))
            .chain(self.next_since.map(|since| since + READY_WITHIN))
            .min()
    }

    /// Moves what the clients want sent to `out`, or to their stream.
    pub(crate) fn collect(&mut self, out: &mut Vec<(SocketAddr, Vec<u8>)>) {
        for turn in self.all_mut() {
            turn.collect(out);
        }
    }

    pub(crate) fn take_outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    fn active_client(&mut self) -> Option<&mut Client> {
        self.turns
            .get_mut(&self.active?)
            .map(|turn| &mut turn.client)
    }

    fn all(&self) -> impl Iterator<Item = &Turn> {
        let old = self.old.iter().map(|old| &old.turn);
        self.turns.values().chain(&self.next).chain(old)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Turn> {
        let old = self.old.iter_mut().map(|old| &mut old.turn);
        self.turns.values_mut().chain(&mut self.next).chain(old)
    }

    /// Lets an allocation go: at once, or when peers know where we are now.
    fn retire(&mut self, now: Instant, turn: Turn, at_once: bool) {
        let mut old = Old {
            turn,
            since: now,
            is_closed: false,
        };
        if at_once || old.turn.client.relayed().is_none() {
            old.close(now);
        }
        if self.old.len() >= OLD_MAX {
            self.old.remove(0);
        }
        self.old.push(old);
    }

    fn handle_events(&mut self, now: Instant) {
        self.handle_next(now);
        self.old.retain_mut(|old| {
            let mut is_over = false;
            while let Some(event) = old.turn.client.poll_event() {
                is_over |= matches!(event, Event::Expired | Event::Closed | Event::Failed(_));
            }
            !is_over
        });
        for carrier in [Carrier::Udp, Carrier::Stream] {
            while let Some(event) = self
                .turns
                .get_mut(&carrier)
                .and_then(|t| t.client.poll_event())
            {
                self.on_event(now, carrier, event);
            }
        }
    }

    /// Puts an allocation in the place of the one in use once it is ready.
    fn handle_next(&mut self, now: Instant) {
        while let Some(next) = &mut self.next
            && let Some(event) = next.client.poll_event()
        {
            match event {
                Event::Allocated { mapped, .. } => {
                    next.mapped = Some(mapped);
                    for peer in &self.peers {
                        next.client.connect_peer(now, *peer);
                    }
                    self.next_since = Some(now);
                }
                Event::Failed(error) => {
                    tracing::info!(?error, "no relayed address at the new node yet");
                    (self.next, self.next_since) = (None, None);
                }
                Event::Expired | Event::Closed => (self.next, self.next_since) = (None, None),
                Event::CredentialsRefused
                | Event::PeerRefused { .. }
                | Event::ChannelBound(_)
                | _ => {}
            }
        }
        let is_ready = |next: &mut Turn, since: Instant| {
            let mut peers = self.peers.iter();
            now >= since + READY_WITHIN || peers.all(|peer| next.client.is_bound(now, *peer))
        };
        let ready = self
            .next
            .take_if(|next| self.next_since.is_some_and(|since| is_ready(next, since)));
        if let Some(next) = ready {
            self.next_since = None;
            self.use_next(now, next);
        }
    }

    fn use_next(&mut self, now: Instant, next: Turn) {
        let (carrier, relayed) = (next.carrier(), next.client.relayed());
        for turn in std::mem::take(&mut self.turns).into_values() {
            self.retire(now, turn, false);
        }
        self.turns.insert(carrier, next);
        self.active = Some(carrier);
        let outcome = relayed.map(|relayed| Outcome::Allocated { carrier, relayed });
        self.outcomes.extend(outcome);
    }

    fn on_event(&mut self, now: Instant, carrier: Carrier, event: Event) {
        let error = match event {
            Event::Allocated { relayed, mapped } => {
                if let Some(turn) = self.turns.get_mut(&carrier) {
                    turn.mapped = Some(mapped);
                }
                // UDP is better whenever it works, even if the stream was quicker.
                if carrier == Carrier::Udp
                    && let Some(turn) = self.turns.remove(&Carrier::Stream)
                {
                    self.retire(now, turn, false);
                }
                if self.active != Some(Carrier::Udp) {
                    self.active = Some(carrier);
                    for peer in self.peers.clone() {
                        if let Some(client) = self.active_client() {
                            client.connect_peer(now, peer);
                        }
                    }
                }
                self.outcomes.push(Outcome::Allocated { carrier, relayed });
                return;
            }
            Event::Failed(error) => Some(error),
            Event::Expired | Event::Closed => None,
            Event::CredentialsRefused => {
                tracing::warn!("the relay refuses its own node's credentials");
                return;
            }
            Event::PeerRefused { peer, code } => {
                tracing::warn!(%peer, code, "the relay refuses a peer");
                return;
            }
            Event::ChannelBound(_) => return,
            _ => return,
        };
        self.turns.remove(&carrier);
        if self.active == Some(carrier) {
            self.active = None;
        }
        self.outcomes.push(Outcome::Failed { carrier, error });
    }
}

#[cfg(test)]
mod tests;
