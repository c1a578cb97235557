//! Matchmaking: a device's party looks for others in a pool.

mod backfill;
mod cancel;
mod found;
mod linked;
mod reach;
mod ticket;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tombolo_match::{BackfillId, Name, Player, Query, Reach, TicketId, Value};
use tombolo_wire::UserId;
use tombolo_wire::v1::{self, match_event, match_request, match_response, request, response};

use crate::device::Device;
use crate::error::Error;
use crate::room::Room;
use crate::seldom::Seldom;
use crate::session;
use backfill::BackfillState;
use ticket::TicketState;

pub use backfill::{Backfill, BackfillStatus};
pub use found::{Match, MatchTeam};
pub(crate) use reach::{follow_reach, reachability, said_reach, say_in_room};
pub use ticket::{Obstacle, Proposal, Settling, Ticket, TicketEvent, TicketStatus, WhyNot};

/// Access to the matchmaker; see [`Device::matchmaker`].
#[derive(Clone, Copy, Debug)]
pub struct Matchmaker<'a>(&'a Device);

/// A ticket in the making: who looks for a match in a pool, and what for. What is wrong with it is told
/// by [`submit`](Self::submit).
#[derive(Debug)]
#[must_use = "a ticket looks for nobody until it is submitted"]
pub struct TicketBuilder<'a> {
    device: &'a Device,
    pool: String,
    own: Player,
    /// How the device is reached is said by the application.
    is_reach_own: bool,
    others: Vec<Player>,
    party: String,
    tags: BTreeSet<String>,
    query: String,
    grace: Duration,
    priority: i8,
    /// The first thing that was wrong.
    fault: Option<Error>,
}

impl Device {
    /// Access to the matchmaker.
    #[must_use]
    pub fn matchmaker(&self) -> Matchmaker<'_> {
        Matchmaker(self)
    }
}

impl<'a> Matchmaker<'a> {
    /// Begins a ticket for this device's user in a pool of the node. What is known of the device's NAT is
    /// told with it.
    pub fn ticket(&self, pool: &str) -> TicketBuilder<'a> {
        let mut own = Player::new(self.0.session().user);
        own.reach = self.0.reach();
        TicketBuilder {
            device: self.0,
            pool: pool.to_owned(),
            own,
            is_reach_own: false,
            others: Vec::new(),
            party: String::new(),
            tags: BTreeSet::new(),
            query: String::new(),
            grace: GRACE,
            priority: 0,
            fault: None,
        }
    }

    /// Waits for a ticket that another device has submitted for a party with this device's user; `None` when
    /// the session is over.
    pub async fn next_ticket(&self) -> Option<Ticket> {
        let seeking = &self.0.0.matchmaker;
        loop {
            let news = seeking.news.notified();
            {
                let mut known = seeking.lock();
                if known.is_over {
                    return None;
                }
                if let Some(state) = known.invited.pop_front() {
                    drop(known);
                    return Some(Ticket::new(self.0, state));
                }
            }
            news.await;
        }
    }
}

impl TicketBuilder<'_> {
    /// Says something of this device's user: a number, a text, several texts, or numbers by name such
    /// as round trips by region.
    pub fn attribute(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let named = Name::parse(name).map_err(Error::local);
        let checked = value.check().map_err(Error::local);
        if let Some(name) = self.note(named.and_then(|name| checked.map(|()| name))) {
            self.own.attributes.insert(name, value);
        }
        self
    }

    /// Says that the user plays a role; the dearest first, and any when none is said.
    pub fn role(mut self, role: &str) -> Self {
        let role = self.note(Name::parse(role).map_err(Error::local));
        self.own.roles.extend(role);
        self
    }

    /// Says whom the user does not want to meet.
    pub fn block(mut self, user: &UserId) -> Self {
        self.own.blocks.push(user.clone());
        self
    }

    /// Says how the device is reached by others, when the application knows better. Otherwise it is said again whenever
    /// it is measured to be another.
    pub fn reach(mut self, reach: Reach) -> Self {
        self.own.reach = reach;
        self.is_reach_own = true;
        self
    }

    /// Takes other members of a room into the party: all play in one team. This device's user must own the room, and its
    /// name begin with `party-`: whoever joins such a room agrees to that. Each of their devices is told; see
    /// [`Matchmaker::next_ticket`].
    pub fn party(mut self, room: &Room, others: impl IntoIterator<Item = Player>) -> Self {
        self.party = room.id().to_string();
        self.others.extend(others);
        self
    }

    /// Marks the ticket; a query sees the marks as the list `tags`.
    pub fn tag(mut self, tag: &str) -> Self {
        self.tags.insert(tag.to_owned());
        self
    }

    /// Says what the others must be like, beside the pool's rules, such as `+region:eu +skill:>=10`.
    pub fn query(mut self, query: &str) -> Self {
        if self
            .note(Query::parse(query).map_err(Error::local))
            .is_some()
        {
            self.query = query.to_owned();
        }
        self
    }

    /// Says how long a user of the party may be away; 30 s unless said otherwise. The ticket waits on, but
    /// is not matched meanwhile.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Asks to come before tickets of lower priority: as much as the pool takes from devices, and none unless it
    /// says so. What a node's own code gives is not bound by that.
    pub fn priority(mut self, priority: i8) -> Self {
        self.priority = priority;
        self
    }

    /// Submits the ticket. Once this returns it waits in the pool, whatever happens to nodes: when this
    /// device loses its session, it comes back to the ticket.
    ///
    /// # Errors
    /// When something that was said is no attribute, role or query; with code `NoSuchPool`, `WaitsAlready` when the user
    /// has another ticket there, `PoolFull`, `BadTicket` when the pool's rules can do nothing with it,
    /// `NotPermitted` when somebody of the party is not in its room, or the room is not for parties of this user's; when the node cannot be reached.
    pub async fn submit(self) -> Result<Ticket, Error> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(Error::local)?;
        let players = std::iter::once(&self.own).chain(&self.others);
        let submit = v1::SubmitTicket {
            id: Bytes::copy_from_slice(&id),
            players: players.map(v1::MatchPlayer::from).collect(),
            party: self.party,
            tags: self.tags.into_iter().collect(),
            query: self.query,
            grace_ms: u32::try_from(self.grace.as_millis()).unwrap_or(u32::MAX),
            priority: self.priority.into(),
        };
        let reach = (!self.is_reach_own).then_some(self.own.reach);
        let state = TicketState::new(&self.pool, TicketId(id), Some(submit), reach);
        let state = Arc::new(state);
        let shared = &self.device.0;
        // It must be known before anything can be told of it.
        shared
            .matchmaker
            .lock()
            .tickets
            .insert(state.id, Arc::clone(&state));
        let ticket = Ticket::new(self.device, Arc::clone(&state));
        state.submit(&shared.session).await?;
        Ok(ticket)
    }

    fn note<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault.get_or_insert(error);
                None
            }
        }
    }
}

/// What a device is told of tickets and running matches.
#[derive(Debug, Default)]
pub(crate) struct Seeking {
    state: Mutex<Known>,
    /// Somebody else has submitted a ticket, or the session is over.
    news: Notify,
    /// What is told of tickets that were dropped.
    strays: Seldom,
}

#[derive(Debug, Default)]
struct Known {
    tickets: BTreeMap<TicketId, Arc<TicketState>>,
    /// Those of others that the application has not taken.
    invited: VecDeque<Arc<TicketState>>,
    backfills: BTreeMap<BackfillId, Arc<BackfillState>>,
    /// Those that were dropped last, ended or not: something may still be told of them.
    dropped: VecDeque<TicketId>,
    is_over: bool,
}

impl Known {
    /// Forgets a ticket, and what is still told of it.
    fn drop_ticket(&mut self, id: TicketId) {
        self.tickets.remove(&id);
        if self.dropped.len() == DROPPED_MAX {
            self.dropped.pop_front();
        }
        self.dropped.push_back(id);
    }

    /// Forgets those of others that have ended without a match before the application took them.
    fn forget_ended(&mut self) {
        let tickets = &mut self.tickets;
        self.invited.retain(|state| {
            let has_ended = state.has_ended();
            if has_ended {
                tickets.remove(&state.id);
            }
            !has_ended
        });
    }
}

impl Seeking {
    /// Takes in what the node tells.
    pub(crate) fn on_event(&self, event: v1::MatchEvent, session: &session::Handle) {
        let Some(kind) = event.kind else {
            return;
        };
        let mut known = self.lock();
        if let match_event::Kind::Backfill(status) = kind {
            let id = status.id.as_ref().try_into().map(BackfillId);
            if let Some(state) = id.ok().and_then(|id| known.backfills.get(&id)) {
                state.tell(&status);
            }
            return;
        }
        let Ok(id) = event.ticket.as_ref().try_into().map(TicketId) else {
            return;
        };
        if let Some(state) = known.tickets.get(&id) {
            state.on_told(kind);
            return;
        }
        if known.dropped.contains(&id) {
            drop(known);
            return self.on_stray(session, event.pool, id, &kind);
        }
        let is_over = matches!(
            kind,
            match_event::Kind::Ended(_) | match_event::Kind::Failed(_)
        );
        known.forget_ended();
        if is_over || known.invited.len() >= INVITED_MAX {
            return;
        }
        let state = TicketState::new(&event.pool, id, None, Some(Reach::Unknown));
        let state = Arc::new(state);
        state.on_told(kind);
        known.tickets.insert(id, Arc::clone(&state));
        known.invited.push_back(state);
        drop(known);
        self.news.notify_waiters();
    }

    /// The node knows nothing of this device's tickets any more, or another session does, or another node was told what
    /// has become of them, and may have told nobody: the device comes back to them.
    pub(crate) fn on_forgotten(&self, session: &session::Handle) {
        for state in self.lock().tickets.values() {
            let (state, session) = (Arc::clone(state), session.clone());
            tokio::spawn(async move { state.come_back(&session).await });
        }
    }

    /// The session is over for good.
    pub(crate) fn end(&self) {
        let is_over = Known {
            is_over: true,
            ..Known::default()
        };
        let known = std::mem::replace(&mut *self.lock(), is_over);
        for state in known.tickets.into_values() {
            state.end();
        }
        for state in known.backfills.into_values() {
            state.end();
        }
        self.news.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the node for something about a pool.
async fn ask(
    session: &session::Handle,
    pool: &str,
    kind: match_request::Kind,
) -> Result<match_response::Result, Error> {
    let answer = session.request(about(pool, kind)).await?;
    let response::Result::Matchmaker(response) = answer else {
        return Err(other_question());
    };
    response.result.ok_or_else(other_question)
}

fn about(pool: &str, kind: match_request::Kind) -> request::Kind {
    request::Kind::Matchmaker(v1::MatchRequest {
        pool: pool.to_owned(),
        kind: Some(kind),
    })
}

fn other_question() -> Error {
    Error::local("the node answered another question")
}

/// How long a user may be away, unless the application says otherwise.
const GRACE: Duration = Duration::from_secs(30);

/// Tickets of others that wait for the application.
const INVITED_MAX: usize = 16;

/// Dropped tickets that are remembered.
const DROPPED_MAX: usize = 64;
