//! What devices here are told about their tickets.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tombolo_match::{
    Backfill, BackfillEnd, BackfillId, Body, Device, EndReason, Event, Formed, MatchId, Name, Pool,
    Seating, Ticket, TicketId, Time,
};
use tombolo_room::SessionId;
use tombolo_wire::UserId;
use tombolo_wire::v1::{self, match_event, match_response, response, server_frame};

use super::desk::{Asker, Desk, State};
use super::seats::Beginning;
use super::{Devices, presence, room};
use crate::lock::lock;
use crate::node::Node;
use crate::requests;
use crate::session::Session;

/// Something that a device here is to be told.
pub(super) enum Told {
    /// What it asked for was done.
    Answer(Arc<Session>, server_frame::Body),
    /// Something became of a ticket, or of a running match.
    Event(SessionId, server_frame::Body),
    /// A match begins: first it needs a room.
    Begins(Arc<Formed>),
    /// A match has its room.
    Found(Beginning),
    /// A user has another device than its ticket says that looks on.
    Returned(TicketId, UserId, SessionId),
}

/// Whose turn it is to be told how it stands: a part of all tickets, so that nothing waits long for them.
#[derive(Clone, Copy, Default)]
pub(super) struct Turn(u8);

impl Turn {
    pub(super) fn next(self) -> Self {
        Self((self.0 + 1) % TURNS)
    }

    /// Ids are random: each turn has about as many.
    fn ids(self) -> RangeInclusive<TicketId> {
        let begin = |turn: u8| {
            let first = u32::from(turn) * (1 << 16) / u32::from(TURNS);
            u128::from(first) << 112
        };
        let last = match self.0 + 1 {
            TURNS => u128::MAX,
            next => begin(next) - 1,
        };
        TicketId(begin(self.0).to_be_bytes())..=TicketId(last.to_be_bytes())
    }
}

/// Tells devices, in order; those whose match begins as soon as it has its room.
pub(super) fn deliver(node: &Arc<Node>, desk: &Arc<Desk>, told: Vec<Told>) {
    for told in told {
        match told {
            Told::Answer(session, body) => node.push(&session, body),
            Told::Event(id, body) => push(node, &id, body),
            Told::Found(beginning) => room::tell_found(node, desk, beginning),
            Told::Begins(formed) => {
                let work = room::gather(Arc::clone(node), Arc::clone(desk), formed);
                node.runtime.spawn(work);
            }
            // One that is over has nothing to come back to.
            Told::Returned(_, _, session) if !is_about(node, &session) => {}
            Told::Returned(ticket, user, session) => {
                let (here, desk) = (Arc::clone(node), Arc::clone(desk));
                let body = presence::come_back(node, ticket, user, session);
                node.runtime
                    .spawn(async move { desk.insist(&here, body).await });
            }
        }
    }
}

/// Whether a session is here, or is on its way from here to another node.
fn is_about(node: &Node, id: &SessionId) -> bool {
    lock(&node.sessions).wherever(id).is_some()
}

/// Tells a session that is here, or is on its way from here to another node.
pub(super) fn push(node: &Arc<Node>, id: &SessionId, body: server_frame::Body) {
    let session = lock(&node.sessions).wherever(id);
    if let Some(session) = session {
        node.push(&session, body);
    }
}

impl State {
    /// Notes which devices here an entry concerns that was applied.
    pub(super) fn note(&mut self, node: &Node, body: &Body, asker: Option<&Asker>) {
        match body {
            Body::Submitted(Ticket { id: ticket, .. }) | Body::Returned { ticket, .. } => {
                if let Some(Asker { session, .. }) = asker {
                    let asked = &mut self.here.entry(*ticket).or_default().asked;
                    asked.retain(|(_, session)| is_about(node, session));
                    asked.insert((session.user.clone(), session.id));
                }
                self.note_ticket(node, ticket);
            }
            // Whoever asks may have come from another node, or with another session.
            Body::Backfill(Backfill { id, .. }) | Body::Renewed { id, .. } => {
                if let Some(asker) = asker {
                    self.asker_by_backfill.insert(*id, asker.session.id);
                }
            }
            // Those that are no more in the party are told first.
            Body::Changed { .. }
            | Body::Cancelled(_)
            | Body::Dropped { .. }
            | Body::Reached { .. }
            | Body::NodeLost { .. }
            | Body::Claimed(_)
            | Body::Answered { .. }
            | Body::Closed(_)
            | Body::Seated(_)
            | Body::Unseated(_)
            | Body::Ticked => {}
        }
    }

    /// What a device is answered whose entry was applied.
    pub(super) fn answer(&mut self, body: &Body, asker: &Asker) -> Told {
        use match_response::Result as On;

        let result = match body {
            Body::Submitted(ticket) => On::Status(self.told_status(&ticket.id)),
            Body::Changed { ticket, .. }
            | Body::Returned { ticket, .. }
            | Body::Reached { ticket, .. } => On::Status(self.told_status(ticket)),
            Body::Backfill(Backfill { id, .. }) | Body::Renewed { id, .. } => {
                let generation = self.pool.generation(id).unwrap_or(0);
                On::Backfill(running(id, generation, ""))
            }
            Body::Cancelled(_)
            | Body::Dropped { .. }
            | Body::NodeLost { .. }
            | Body::Claimed(_)
            | Body::Answered { .. }
            | Body::Closed(_)
            | Body::Seated(_)
            | Body::Unseated(_)
            | Body::Ticked => On::Done(v1::MatchDone {}),
        };
        Told::Answer(Arc::clone(&asker.session), answer(asker.request, result))
    }

    /// What a device is asked once more that has come back to a ticket with another session.
    pub(super) fn ask_again(&self, pool: &Name, body: &Body, asker: &Asker) -> Option<Told> {
        let Body::Returned { ticket, user, .. } = body else {
            return None;
        };
        let number = self.pool.standing(ticket)?.held?;
        let (formed, _, until) = self.pool.asked(number)?;
        if self.pool.has_accepted(number, user) {
            return None;
        }
        let kind = self.proposed(formed, until);
        Some(Told::Event(asker.session.id, event(pool, ticket, kind)))
    }

    fn proposed(&self, formed: &Formed, until: Time) -> match_event::Kind {
        match_event::Kind::Proposed(v1::MatchProposed {
            number: formed.id.0,
            users: count(formed.users().count()),
            left_ms: millis_between(self.pool.clock(), until),
        })
    }

    /// What an event says to the devices here; to that of `but` it was said already.
    pub(super) fn tell(
        &mut self,
        node: &Node,
        pool: &Name,
        event: Event,
        but: Option<SessionId>,
        told: &mut Vec<Told>,
    ) {
        match event {
            Event::Queued { ticket, .. } | Event::Returned { ticket, .. } => {
                self.tell_one(pool, &ticket, but, told);
            }
            Event::Dropped { ticket, .. } => {
                // Another session of the user may be here.
                self.note_ticket(node, &ticket);
                self.tell_one(pool, &ticket, but, told);
            }
            Event::Changed { ticket, .. } => {
                self.tell_left(node, pool, &ticket, told);
                self.tell_one(pool, &ticket, but, told);
            }
            Event::Asked { formed, until } => {
                self.tell_all(pool, &formed, &self.proposed(&formed, until), told);
            }
            Event::Accepted { id, .. } => {
                // When all have, the match begins, and is told as such.
                if let Some((formed, ready, _)) = self.pool.asked(id) {
                    let accepted = v1::MatchAccepted {
                        number: id.0,
                        ready: count(ready),
                        users: count(formed.users().count()),
                    };
                    let kind = match_event::Kind::Accepted(accepted);
                    self.tell_all(pool, formed, &kind, told);
                }
            }
            Event::Failed { id, requeued } => self.tell_failed(node, pool, id, &requeued, told),
            Event::Matched(formed) => {
                let formed = Arc::new(*formed);
                let devices = formed.parties().filter_map(|party| {
                    let here = self.here.remove(&party.ticket)?;
                    Some((party.ticket, here.devices))
                });
                let devices: BTreeMap<_, _> = devices.collect();
                if !devices.is_empty() {
                    node.counters.matched.add(1);
                    let beginning = Beginning {
                        formed: Arc::clone(&formed),
                        devices,
                    };
                    self.beginning.insert(formed.id, beginning);
                    told.push(Told::Begins(formed));
                }
            }
            Event::Ended { ticket, reason } => {
                self.tell_ticket(pool, &ticket, &ended(end_reason(reason)), None, told);
                self.here.remove(&ticket);
            }
            Event::Refused { id } => tracing::debug!(%pool, ?id, "a claim came too late"),
            Event::BackfillOpened { id, generation } => {
                self.tell_asker(pool, running(&id, generation, ""), &id, but, told);
            }
            Event::BackfillEnded { id, reason } => {
                let reason = backfill_end(reason);
                self.tell_asker(pool, running(&id, 0, reason), &id, but, told);
                self.asker_by_backfill.remove(&id);
            }
        }
    }

    /// Tells the devices of tickets that look on after their match has come to nothing.
    fn tell_failed(
        &mut self,
        node: &Node,
        pool: &Name,
        id: MatchId,
        requeued: &[TicketId],
        told: &mut Vec<Told>,
    ) {
        let kind = match_event::Kind::Failed(v1::MatchFailed { number: id.0 });
        for ticket in requeued {
            self.note_ticket(node, ticket);
            self.tell_ticket(pool, ticket, &kind, None, told);
        }
        let beginning = self.beginning.remove(&id).into_iter();
        for (ticket, devices) in beginning.flat_map(|beginning| beginning.devices) {
            for (user, session) in devices {
                if !requeued.contains(&ticket) {
                    // A user of it has another one by now, or is gone.
                    let kind = ended("cancelled");
                    told.push(Told::Event(session, event(pool, &ticket, kind)));
                } else if !self.is_told(&ticket, session) {
                    told.push(Told::Returned(ticket, user, session));
                }
            }
        }
    }

    /// Whether a device here is told of a ticket.
    fn is_told(&self, ticket: &TicketId, session: SessionId) -> bool {
        let here = self.here.get(ticket);
        let mut devices = here.iter().flat_map(|here| &here.devices);
        devices.any(|(_, device)| *device == session)
    }

    /// Of sessions that have come here the pool may not have been told, as while a ticket was out of it, or when whoever
    /// wrote the ticket had not read yet that its users have moved.
    fn suspect_strays(&self, node: &Node, ticket: &TicketId) {
        let pool = &self.pool.rules().name;
        let ticket = self.pool.ticket(ticket);
        for player in ticket.iter().flat_map(|ticket| &ticket.players) {
            let session = player.device.as_ref().filter(|at| !is_here(node, at));
            let session = session.map(|at| SessionId(at.session.0));
            if let Some(session) = session.filter(|id| lock(&node.sessions).by_id.contains_key(id))
            {
                node.matchmaker.suspect_in(pool, session, &player.user);
            }
        }
    }

    /// How those of the tickets here stand whose turn it is, where that is clearly another than was told last.
    pub(super) fn tell_status(&mut self, pool: &Name, turn: Turn) -> Vec<Told> {
        let mut told = Vec::new();
        for (ticket, here) in self.here.range_mut(turn.ids()) {
            let is_held = self.pool.standing(ticket);
            let is_held = is_held.is_none_or(|standing| standing.held.is_some());
            let status = status(&self.pool, ticket);
            let before = here.status.as_ref();
            if is_held || before.is_some_and(|before| !is_news(before, &status)) {
                continue;
            }
            here.status = Some(status.clone());
            let kind = match_event::Kind::Status(status);
            for (_, device) in &here.devices {
                told.push(Told::Event(*device, event(pool, ticket, kind.clone())));
            }
        }
        told
    }

    /// Finds out anew whose tickets are of devices here. Nobody knows what became of those that are not
    /// in the pool any more.
    pub(super) fn recount(&mut self, node: &Node, pool: &Name, told: &mut Vec<Told>) {
        let mut before = std::mem::take(&mut self.here);
        let tickets: Vec<_> = self.pool.tickets().map(|ticket| ticket.id).collect();
        for ticket in tickets {
            if let Some(before) = before.get_mut(&ticket) {
                self.here.entry(ticket).or_default().asked = std::mem::take(&mut before.asked);
            }
            self.note_ticket(node, &ticket);
        }
        let beginning = self.beginning.iter();
        let unseated = beginning.filter(|(id, _)| self.pool.seating(**id) == Seating::Unseated);
        let requeued = unseated.map(|(id, beginning)| {
            let tickets = beginning.devices.keys().copied();
            let is_back = |ticket: &TicketId| self.pool.ticket(ticket).is_some();
            (*id, tickets.filter(is_back).collect::<Vec<_>>())
        });
        for (id, requeued) in requeued.collect::<Vec<_>>() {
            self.tell_failed(node, pool, id, &requeued, told);
        }
        for (ticket, here) in before {
            if !self.here.contains_key(&ticket) {
                for (_, device) in here.devices {
                    told.push(Told::Event(device, event(pool, &ticket, ended("lost"))));
                }
            }
        }
    }

    fn note_ticket(&mut self, node: &Node, ticket: &TicketId) {
        self.suspect_strays(node, ticket);
        let mut devices = devices_here(node, &self.pool, ticket);
        let here = self.here.get(ticket);
        let standing = self.pool.standing(ticket);
        let asked = here.into_iter().flat_map(|here| &here.asked);
        devices.extend(
            asked
                .filter(|(user, session)| {
                    let player = standing.as_ref().and_then(|standing| standing.player(user));
                    let device = player.and_then(|player| player.device.as_ref());
                    device.is_some_and(|device| device.session.0 != session.0)
                        && is_about(node, session)
                })
                .cloned(),
        );
        if devices.is_empty() {
            self.here.remove(ticket);
        } else {
            // What became of them before they had a ticket, the pool was not told.
            for (user, session) in &devices {
                node.matchmaker
                    .suspect_in(&self.pool.rules().name, *session, user);
            }
            let here = self.here.entry(*ticket).or_default();
            here.devices = devices;
        }
    }

    /// Tells the devices here that are no more in a ticket's party.
    fn tell_left(&mut self, node: &Node, pool: &Name, ticket: &TicketId, told: &mut Vec<Told>) {
        let before = self.here.get(ticket).map(|here| here.devices.clone());
        self.note_ticket(node, ticket);
        let now = self.here.get(ticket).map(|here| &here.devices);
        for left in before.iter().flatten() {
            if now.is_none_or(|now| !now.contains(left)) {
                let (_, device) = left;
                told.push(Told::Event(
                    *device,
                    event(pool, ticket, ended("cancelled")),
                ));
            }
        }
    }

    /// Tells how a ticket stands.
    fn tell_one(
        &mut self,
        pool: &Name,
        ticket: &TicketId,
        but: Option<SessionId>,
        told: &mut Vec<Told>,
    ) {
        let here = self.here.get(ticket);
        let mut devices = here.iter().flat_map(|here| &here.devices);
        // Most have one device, which has its answer.
        if devices.all(|(_, device)| Some(*device) == but) {
            return;
        }
        let kind = match_event::Kind::Status(self.told_status(ticket));
        self.tell_ticket(pool, ticket, &kind, but, told);
    }

    /// How a ticket stands, which its devices here are told now.
    fn told_status(&mut self, ticket: &TicketId) -> v1::TicketStatus {
        let status = status(&self.pool, ticket);
        if let Some(here) = self.here.get_mut(ticket) {
            here.status = Some(status.clone());
        }
        status
    }

    /// Tells the devices of all tickets of a match.
    fn tell_all(
        &self,
        pool: &Name,
        formed: &Formed,
        kind: &match_event::Kind,
        told: &mut Vec<Told>,
    ) {
        for party in formed.parties() {
            self.tell_ticket(pool, &party.ticket, kind, None, told);
        }
    }

    fn tell_ticket(
        &self,
        pool: &Name,
        ticket: &TicketId,
        kind: &match_event::Kind,
        but: Option<SessionId>,
        told: &mut Vec<Told>,
    ) {
        let here = self.here.get(ticket);
        for (_, device) in here.iter().flat_map(|here| &here.devices) {
            if Some(*device) != but {
                told.push(Told::Event(*device, event(pool, ticket, kind.clone())));
            }
        }
    }

    fn tell_asker(
        &self,
        pool: &Name,
        status: v1::BackfillStatus,
        id: &BackfillId,
        but: Option<SessionId>,
        told: &mut Vec<Told>,
    ) {
        let asker = self.asker_by_backfill.get(id).copied();
        if let Some(asker) = asker.filter(|asker| Some(*asker) != but) {
            let body = server_frame::Body::Matchmaker(v1::MatchEvent {
                pool: pool.to_string(),
                ticket: Bytes::new(),
                kind: Some(match_event::Kind::Backfill(status)),
            });
            told.push(Told::Event(asker, body));
        }
    }
}

/// The devices of a ticket that are connected to this life of this node.
fn devices_here(node: &Node, pool: &Pool, ticket: &TicketId) -> Devices {
    let standing = pool.standing(ticket);
    let players = standing
        .iter()
        .flat_map(|standing| &standing.ticket.players);
    let devices = players.filter_map(|player| {
        let device = player.device.as_ref()?;
        is_here(node, device).then(|| (player.user.clone(), SessionId(device.session.0)))
    });
    devices.collect()
}

/// Whether the pool has a device on this life of this node.
fn is_here(node: &Node, device: &Device) -> bool {
    device.node == *node.name() && device.incarnation == node.incarnation()
}

/// How a ticket stands.
pub(super) fn status(pool: &Pool, ticket: &TicketId) -> v1::TicketStatus {
    let estimate = pool.estimate(ticket);
    let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let standing = pool.standing(ticket);
    v1::TicketStatus {
        waiting: count(pool.waiting_count()),
        half_ms: estimate.map(|estimate| millis(estimate.half)),
        most_ms: estimate.map(|estimate| millis(estimate.most)),
        revision: standing.map_or(0, |standing| standing.revision),
        away: standing
            .iter()
            .flat_map(|standing| standing.away.keys())
            .map(ToString::to_string)
            .collect(),
    }
}

/// Whether a device is told how its ticket stands although nothing has become of it.
fn is_news(before: &v1::TicketStatus, now: &v1::TicketStatus) -> bool {
    // Where many come and go each number is another each time.
    let is_far = |before: u64, now: u64, least: u64| {
        before.abs_diff(now) > (before / CLEARLY_PARTS).max(least)
    };
    let is_other_wait = |before: Option<u64>, now: Option<u64>| match (before, now) {
        (Some(before), Some(now)) => is_far(before, now, WAIT_CLEARLY_MS),
        (before, now) => before != now,
    };
    let is_other = (before.revision, &before.away) != (now.revision, &now.away);
    is_other
        || is_far(before.waiting.into(), now.waiting.into(), 0)
        || is_other_wait(before.half_ms, now.half_ms)
        || is_other_wait(before.most_ms, now.most_ms)
}

pub(super) fn event(pool: &Name, ticket: &TicketId, kind: match_event::Kind) -> server_frame::Body {
    server_frame::Body::Matchmaker(v1::MatchEvent {
        pool: pool.to_string(),
        ticket: Bytes::copy_from_slice(&ticket.0),
        kind: Some(kind),
    })
}

pub(super) fn ended(reason: &str) -> match_event::Kind {
    match_event::Kind::Ended(v1::TicketEnded {
        reason: reason.to_owned(),
    })
}

pub(super) fn answer(request: u64, result: match_response::Result) -> server_frame::Body {
    let response = v1::MatchResponse {
        result: Some(result),
    };
    requests::answer(request, response::Result::Matchmaker(response))
}

fn running(id: &BackfillId, generation: u32, ended: &str) -> v1::BackfillStatus {
    v1::BackfillStatus {
        id: Bytes::copy_from_slice(&id.0),
        generation,
        ended: ended.to_owned(),
    }
}

fn end_reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Cancelled => "cancelled",
        EndReason::Gone => "gone",
        EndReason::Declined => "declined",
        EndReason::Unanswered => "unanswered",
    }
}

fn backfill_end(reason: BackfillEnd) -> &'static str {
    match reason {
        BackfillEnd::Closed => "closed",
        BackfillEnd::Expired => "expired",
        BackfillEnd::Filled => "filled",
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn millis_between(from: Time, to: Time) -> u64 {
    to.as_millis().saturating_sub(from.as_millis())
}

/// In how many parts all tickets are told how they stand.
const TURNS: u8 = 25;

/// How often a part of them is.
pub(super) const TURN_INTERVAL: Duration = Duration::from_millis(200);

/// By more than this part a number is clearly another.
const CLEARLY_PARTS: u64 = 20;

/// And a wait by so much.
const WAIT_CLEARLY_MS: u64 = 500;
