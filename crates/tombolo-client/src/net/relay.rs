//! The device's TURN allocation: over UDP, or over TLS where UDP is blocked.
//!
//! When the device goes to another node it allocates there too. Once it has, peers are told the new
//! address; what they send meanwhile still comes through the old allocation, and what is for them goes
//! out through it for a moment, until they know the new one. Then it is given up. An old node that is not
//! heard any more, as one that was killed, carries nothing: what is for the peers goes out through the new
//! one at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tombolo_turn::client::{AllocateError, Client, Event};

/// How a TURN server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Carrier {
    Udp,
    /// TLS over TCP.
    Stream,
}

/// A stream's writing end.
pub(crate) struct Stream {
    pub(crate) frames: mpsc::Sender<Vec<u8>>,
    /// Counts the device's streams.
    pub(crate) generation: u64,
}

struct Turn {
    client: Client,
    server: SocketAddr,
    /// Tells this stream from earlier ones.
    generation: u64,
    /// From where the server sees us; `None` until it has allocated.
    mapped: Option<SocketAddr>,
    /// Frames for the task that writes the stream; `None` over UDP.
    stream: Option<mpsc::Sender<Vec<u8>>>,
    /// Whether its server was heard since another one was asked to take its place.
    is_heard: bool,
}

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

/// An allocation in whose place there is another one.
struct Old {
    turn: Turn,
    since: Instant,
    is_closed: bool,
}

/// At most one allocation per carrier, one of them in use.
#[derive(Default)]
pub(crate) struct Relays {
    turns: BTreeMap<Carrier, Turn>,
    /// An allocation over UDP that is to take the place of the one in use, as soon as it takes packets from
    /// the peers: they may send there the moment they are told of it.
    next: Option<Turn>,
    /// Since when it is there; `None` until then.
    next_since: Option<Instant>,
    old: Option<Old>,
    active: Option<Carrier>,
    /// Peers that want a permission and a channel on the allocation in use.
    peers: Vec<SocketAddr>,
    /// Where peers were before, for those that went to another relay lately. They still receive there.
    before_by_peer: BTreeMap<SocketAddr, SocketAddr>,
    outcomes: Vec<Outcome>,
}

impl Relays {
    /// Starts an allocation; its outcome comes through [`Relays::take_outcomes`].
    pub(crate) fn start(
        &mut self,
        carrier: Carrier,
        server: SocketAddr,
        client: Client,
        stream: Option<Stream>,
    ) {
        let (stream, generation) = match stream {
            Some(Stream { frames, generation }) => (Some(frames), generation),
            None => (None, 0),
        };
        self.turns.insert(
            carrier,
            Turn {
                client,
                server,
                generation,
                mapped: None,
                stream,
                is_heard: false,
            },
        );
    }

    /// Starts an allocation over UDP that takes the place of the one in use as soon as it is there.
    pub(crate) fn start_next(&mut self, now: Instant, server: SocketAddr, client: Client) {
        if let Some(turn) = self.turns.get_mut(&Carrier::Udp) {
            turn.is_heard = false;
            turn.client.refresh(now);
        }
        self.next_since = None;
        self.next = Some(Turn {
            client,
            server,
            generation: 0,
            mapped: None,
            stream: None,
            is_heard: false,
        });
    }

    /// Whether the allocation in use is over UDP, and on none of these servers.
    pub(crate) fn is_elsewhere(&self, servers: &[SocketAddr]) -> bool {
        let turn = self.turns.get(&Carrier::Udp);
        let active = turn.filter(|_| self.active == Some(Carrier::Udp));
        active.is_some_and(|turn| !servers.contains(&turn.server))
    }

    /// Gives an allocation up, telling the server.
    pub(crate) fn stop(
        &mut self,
        now: Instant,
        carrier: Carrier,
        out: &mut Vec<(SocketAddr, Vec<u8>)>,
    ) {
        if let Some(turn) = self.turns.get_mut(&carrier) {
            turn.client.close(now);
        }
        if let (Carrier::Udp, Some(old)) = (carrier, &mut self.old) {
            old.turn.client.close(now);
        }
        self.collect(out);
        self.forget(carrier);
    }

    pub(crate) fn carriers(&self) -> Vec<Carrier> {
        self.turns.keys().copied().collect()
    }

    /// The server of the allocation over UDP, and from where it sees us.
    pub(crate) fn mapped(&self) -> Option<(SocketAddr, SocketAddr)> {
        let turn = self.turns.get(&Carrier::Udp)?;
        Some((turn.server, turn.mapped?))
    }

    /// Forgets an allocation that belongs to an address we no longer have.
    pub(crate) fn forget(&mut self, carrier: Carrier) {
        if carrier == Carrier::Udp {
            (self.next, self.next_since, self.old) = (None, None, None);
        }
        if self.turns.remove(&carrier).is_some() {
            self.active = self.active.filter(|active| *active != carrier);
            let error = None;
            self.outcomes.push(Outcome::Failed { carrier, error });
        }
    }

    pub(crate) fn is_server(&self, from: SocketAddr) -> bool {
        self.over_udp().any(|turn| turn.server == from)
    }

    /// The allocations over UDP.
    fn over_udp(&self) -> impl Iterator<Item = &Turn> {
        let old = self.old.as_ref().map(|old| &old.turn);
        let turns = self.turns.get(&Carrier::Udp).into_iter();
        turns.chain(&self.next).chain(old)
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

    /// Handles a datagram from the server: the peer's relayed address and the payload's place.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: &[u8],
    ) -> Option<(SocketAddr, Range<usize>)> {
        let old = self.old.as_mut().map(|old| &mut old.turn);
        let turns = self.turns.get_mut(&Carrier::Udp).into_iter();
        let mut turns = turns.chain(&mut self.next).chain(old);
        let turn = turns.find(|turn| turn.server == from)?;
        turn.is_heard = true;
        let received = turn.client.handle_datagram(now, data);
        self.handle_events(now);
        received.map(|received| (received.peer, received.range))
    }

    /// Handles one frame of the stream.
    pub(crate) fn handle_stream(
        &mut self,
        now: Instant,
        data: &[u8],
    ) -> Option<(SocketAddr, Range<usize>)> {
        let turn = self.turns.get_mut(&Carrier::Stream)?;
        let received = turn.client.handle_datagram(now, data);
        self.handle_events(now);
        received.map(|received| (received.peer, received.range))
    }

    /// Tells that the stream is gone.
    pub(crate) fn handle_stream_closed(&mut self, generation: u64) {
        let stream = self.turns.get(&Carrier::Stream);
        if stream.is_some_and(|turn| turn.generation == generation) {
            self.forget(Carrier::Stream);
        }
    }

    /// Keeps a permission and a channel for `peer`, who was at another address before.
    pub(crate) fn connect(&mut self, now: Instant, peer: SocketAddr, before: Option<SocketAddr>) {
        if !self.peers.contains(&peer) {
            self.peers.push(peer);
        }
        if let Some(before) = before {
            self.before_by_peer.insert(peer, before);
        }
        if let Some(old) = &mut self.old {
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
        let carries = |old: &&mut Old| now < old.since + HANDOVER && old.turn.is_heard;
        let old = self.old.as_mut().filter(carries);
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
        match &turn.stream {
            // A full stream drops, as a full network would: QUIC repeats what must arrive.
            Some(stream) => stream.try_send(bytes).is_ok(),
            None => {
                out.push((turn.server, bytes));
                true
            }
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for turn in self.turns.values_mut().chain(&mut self.next) {
            turn.client.handle_timeout(now);
        }
        if let Some(old) = &mut self.old {
            old.turn.client.handle_timeout(now);
            if now >= old.since + LINGER && !old.is_closed {
                old.is_closed = true;
                old.turn.client.close(now);
            }
        }
        self.handle_events(now);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let old = self.old.as_ref();
        let turns = self.turns.values().chain(&self.next);
        let turns = turns.chain(old.map(|old| &old.turn));
        let given_up = old.filter(|old| !old.is_closed);
        let ready = self.next_since.map(|since| since + READY_WITHIN);
        turns
            .filter_map(|turn| turn.client.poll_timeout())
            .map(|(at, _)| at)
            .chain(given_up.map(|old| old.since + LINGER))
            .chain(ready)
            .min()
    }

    /// Moves what the clients want sent to `out`, or to their stream.
    pub(crate) fn collect(&mut self, out: &mut Vec<(SocketAddr, Vec<u8>)>) {
        let old = self.old.as_mut().map(|old| &mut old.turn);
        for turn in self.turns.values_mut().chain(&mut self.next).chain(old) {
            while let Some(bytes) = turn.client.poll_transmit() {
                match &turn.stream {
                    Some(stream) => drop(stream.try_send(bytes)),
                    None => out.push((turn.server, bytes)),
                }
            }
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

    fn stop_stream(&mut self, now: Instant) {
        let Some(mut turn) = self.turns.remove(&Carrier::Stream) else {
            return;
        };
        turn.client.close(now);
        while let (Some(bytes), Some(frames)) = (turn.client.poll_transmit(), &turn.stream) {
            // A full stream is not told; the server notices its end.
            _ = frames.try_send(bytes);
        }
    }

    fn handle_events(&mut self, now: Instant) {
        self.handle_next(now);
        if let Some(old) = &mut self.old {
            let mut is_over = false;
            while let Some(event) = old.turn.client.poll_event() {
                is_over |= matches!(event, Event::Expired | Event::Closed | Event::Failed(_));
            }
            if is_over {
                self.old = None;
            }
        }
        for carrier in self.carriers() {
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
        let relayed = next.client.relayed();
        let old = self.turns.insert(Carrier::Udp, next);
        self.old = old.map(|turn| Old {
            turn,
            since: now,
            is_closed: false,
        });
        self.stop_stream(now);
        self.active = Some(Carrier::Udp);
        let carrier = Carrier::Udp;
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
                if carrier == Carrier::Udp {
                    self.stop_stream(now);
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
