//! The state machine.

mod backfill;
mod balance;
mod begun;
mod candidate;
mod demand;
mod ended;
mod explain;
mod finish;
mod gather;
mod group;
mod improve;
mod index;
mod joining;
mod kinds;
mod memory;
mod pattern;
mod played;
mod ready;
mod search;
mod seat;
mod sides;
mod snapshot;
mod step;
mod symbols;
mod tally;
mod ticket;
mod waits;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use indexmap::IndexMap;
use tombolo_wire::{NodeId, UserId};

use crate::entry::{Body, Entry};
use crate::event::{BackfillEnd, Estimate, Event, Illegal};
use crate::formed::Formed;
use crate::rules::Rules;
use crate::ticket::{Player, Ticket};
use crate::word::{BackfillId, MatchId, TicketId, Time};
use backfill::Running;
use begun::Begun;
use candidate::RoleTable;
use ended::Ended;
use group::{Group, View};
use index::Index;
use joining::Joining;
use kinds::Kinds;
use played::Played;
use ready::Pending;
use seat::{Key, Seats};
use symbols::{Symbol, Symbols};
use waits::Waits;

pub use backfill::BACKFILLS_MAX;
pub use begun::{BEGUN_KEPT, BEGUN_WEIGHT_MAX};
pub use ended::{ENDED_LAST_MAX, ENDED_MAX};
pub use explain::{EXPLAINED_MAX, Excluded, Miss, Obstacle, Relaxation, Settling, Why};
pub use joining::Seating;
pub use played::PLAYED_WEIGHT_MAX;
pub use snapshot::SnapshotError;
pub use step::Step;

/// What all tickets of a pool may weigh, those of running matches too; see [`Pool::weight`].
pub const WEIGHT_MAX: usize = 24 * 1024 * 1024;

/// How many lost nodes a pool remembers; those longest ago are forgotten first.
pub const NODES_LOST_MAX: usize = 64;

/// For how long a claim may come to nothing for want of a place, if nobody says that its users have their seats.
pub const SEATS_AWAITED: Duration = Duration::from_secs(10 * 60);

/// The same for a claim for a running match in a log from before that could be said.
const JOINING_KEPT: Duration = Duration::from_secs(60);

/// How far one entry may move the clock of a pool in which somebody waits: a node whose clock is ahead must not end
/// what others wait for.
pub const LEAP_MAX: Duration = Duration::from_secs(60);

/// A pool of tickets, as the entries so far have made it.
///
/// Feed it with [`apply`](Self::apply), entry by entry. Whoever is the pool's matcher calls
/// [`propose`](Self::propose) after entries and at [`poll_propose`](Self::poll_propose), and appends the
/// matches that come of it as [`Body::Claimed`]; only when that entry is applied, the tickets have
/// found their match. Whoever is responsible for the pool's time appends [`Body::Ticked`] at
/// [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Pool {
    rules: Rules,
    roles: RoleTable,
    /// The latest time that an entry brought, within [`LEAP_MAX`].
    clock: Time,
    symbols: Symbols,
    seats: Seats,
    key_by_id: HashMap<TicketId, Key>,
    key_by_user: HashMap<Symbol, Key>,
    /// The number of the next ticket that comes.
    next_order: u64,
    next_match: u64,
    pending: BTreeMap<MatchId, Pending>,
    running: BTreeMap<BackfillId, Running>,
    /// Claims, while their users may find no place in their rooms.
    joining: BTreeMap<MatchId, Joining>,
    played: Played,
    begun: Begun,
    /// What is due when.
    timers: BTreeSet<(Time, Timer)>,
    waits: Waits,
    ended: Ended,
    /// The last life that was lost, by node; whoever was lost last is last.
    lost_by_node: IndexMap<NodeId, u64>,
    /// See [`Pool::weight`].
    weight: usize,
    matcher: Matcher,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The grace of somebody who is away ends.
    Grace(Key),
    /// The time to say that one is ready ends.
    Ready(MatchId),
    /// A running match has not renewed its lease.
    Lease(BackfillId),
    /// Those whose match begins have found their place.
    Joining(MatchId),
}

/// What only the matcher needs; it follows from the rest, and from when it was asked.
#[derive(Debug)]
struct Matcher {
    index: Index,
    kinds: Kinds,
    group: Group,
    /// All tickets that can be matched, those that come first first.
    waiting: BTreeSet<Rank>,
    /// Those that have come or have changed since they were looked at.
    fresh: BTreeSet<Rank>,
    /// Somebody has come or changed since a round of looks at running matches began.
    has_news: bool,
    /// When gates change.
    changes: BTreeSet<(Time, Key)>,
    /// Those in matches that were proposed and not yet claimed.
    proposed: BTreeSet<Key>,
    /// When all are to be looked at again.
    next_tick: Time,
    /// How far the look at all has come, if one is under way.
    cursor: Option<Rank>,
}

/// By priority, then by age.
type Rank = (Reverse<i8>, u64, Key);

/// What came of an entry.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Applied {
    /// What changed, in order: first what was due, then what the entry wanted.
    pub events: Vec<Event>,
    /// Why the entry itself changed nothing.
    pub outcome: Result<(), Illegal>,
}

impl Pool {
    /// A pool whose log is empty.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        let group = Group::new(&rules);
        Self {
            roles: RoleTable::new(&rules),
            rules,
            clock: Time::ZERO,
            symbols: Symbols::default(),
            seats: Seats::default(),
            key_by_id: HashMap::new(),
            key_by_user: HashMap::new(),
            next_order: 0,
            next_match: 1,
            pending: BTreeMap::new(),
            running: BTreeMap::new(),
            joining: BTreeMap::new(),
            played: Played::default(),
            begun: Begun::default(),
            timers: BTreeSet::new(),
            waits: Waits::default(),
            ended: Ended::default(),
            lost_by_node: IndexMap::new(),
            weight: 0,
            matcher: Matcher {
                index: Index::default(),
                kinds: Kinds::default(),
                group,
                waiting: BTreeSet::new(),
                fresh: BTreeSet::new(),
                has_news: false,
                changes: BTreeSet::new(),
                proposed: BTreeSet::new(),
                next_tick: Time::ZERO,
                cursor: None,
            },
        }
    }

    /// Applies the next entry of the log and says what it changed, the same for every reader.
    pub fn apply(&mut self, entry: &Entry) -> Applied {
        let mut events = Vec::new();
        let latest = match (self.clock, self.is_idle()) {
            (Time::ZERO, _) => entry.time,
            (clock, true) => clock.after(LEAP_IDLE_MAX),
            (clock, false) => clock.after(LEAP_MAX),
        };
        self.clock = self.clock.max(entry.time.min(latest));
        self.expire(&mut events);
        let outcome = self.on_body(&entry.body, &mut events);
        Applied { events, outcome }
    }

    /// When something is due: whoever is responsible appends a [`Body::Ticked`] then. While somebody waits, the time
    /// is said now and then, so that nobody falls behind it.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let said = (!self.is_idle()).then(|| self.clock.after(TIME_SAID_EVERY));
        let due = self.timers.first().map(|(due, _)| *due);
        due.into_iter().chain(said).min()
    }

    /// Whether nothing waits for time to pass: then the clock may be set.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.key_by_id.is_empty() && self.timers.is_empty()
    }

    /// The latest time that an entry brought, as far as it was believed.
    #[must_use]
    pub fn clock(&self) -> Time {
        self.clock
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How many tickets there are, with those whose match asks whether they are ready.
    #[must_use]
    pub fn ticket_count(&self) -> usize {
        self.key_by_id.len()
    }

    /// A ticket that is in the pool.
    #[must_use]
    pub fn ticket(&self, id: &TicketId) -> Option<&Ticket> {
        let key = self.key_by_id.get(id)?;
        Some(&self.seats[*key].ticket)
    }

    /// All tickets, in the order of their numbers.
    pub fn tickets(&self) -> impl Iterator<Item = &Ticket> {
        // Those of running matches are found by nobody.
        let all = self.seats.iter();
        all.filter(|(key, seat)| self.key_by_id.get(&seat.ticket.id) == Some(key))
            .map(|(_, seat)| &seat.ticket)
    }

    /// The ticket that a user has in the pool.
    #[must_use]
    pub fn ticket_of(&self, user: &UserId) -> Option<&Ticket> {
        let symbol = self.symbols.find(user.as_str())?;
        let key = self.key_by_user.get(&symbol)?;
        Some(&self.seats[*key].ticket)
    }

    /// How a ticket stands; `None` when it is not in the pool.
    #[must_use]
    pub fn standing(&self, id: &TicketId) -> Option<Standing<'_>> {
        let seat = &self.seats[*self.key_by_id.get(id)?];
        Some(Standing {
            ticket: &seat.ticket,
            revision: seat.revision,
            since: seat.since,
            held: seat.held,
            away: &seat.away,
        })
    }

    /// A match whose users are asked whether they are ready, how many of them are, and until when the
    /// others have time.
    #[must_use]
    pub fn asked(&self, id: MatchId) -> Option<(&Formed, usize, Time)> {
        let pending = self.pending.get(&id)?;
        Some((&pending.formed, pending.ready.len(), pending.until))
    }

    /// Whether a user has said that it is ready for a match.
    #[must_use]
    pub fn has_accepted(&self, id: MatchId, user: &UserId) -> bool {
        let pending = self.pending.get(&id);
        pending.is_some_and(|pending| pending.ready.contains(user))
    }

    /// At which generation a running match asks for more users; `None` when it does not.
    #[must_use]
    pub fn generation(&self, id: &BackfillId) -> Option<u32> {
        Some(self.running.get(id)?.generation)
    }

    /// How many tickets wait and can be matched.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.matcher.waiting.len() + self.matcher.proposed.len()
    }

    /// Since when whoever waits longest has waited; `None` when nobody does.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Time> {
        let waiting = self.matcher.waiting.iter();
        waiting.map(|(_, _, key)| self.seats[*key].since).min()
    }

    /// How many matches ask whether their users are ready.
    #[must_use]
    pub fn asked_count(&self) -> usize {
        self.pending.len()
    }

    /// How many running matches ask for more users.
    #[must_use]
    pub fn running_count(&self) -> usize {
        self.running.len()
    }

    /// About how many bytes the tickets have in a snapshot, those of running matches, and of those that begin, too.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// The tickets that wait, those that come first first.
    pub fn waiting(&self) -> impl Iterator<Item = &Ticket> {
        let waiting = self.matcher.waiting.iter();
        waiting.map(|(_, _, key)| &self.seats[*key].ticket)
    }

    /// How long a ticket like this one will probably wait.
    #[must_use]
    pub fn estimate(&self, id: &TicketId) -> Option<Estimate> {
        let key = self.key_by_id.get(id)?;
        self.waits
            .estimate(&self.seats[*key].candidate, &self.symbols)
    }

    fn on_body(&mut self, body: &Body, events: &mut Vec<Event>) -> Result<(), Illegal> {
        match body {
            Body::Submitted(ticket) => self.on_submitted(ticket, events),
            Body::Changed { ticket, players } => self.on_changed(ticket, players, events),
            Body::Cancelled(ticket) => self.on_cancelled(ticket, events),
            Body::Dropped { ticket, user } => self.on_dropped(ticket, user, events),
            Body::Returned {
                ticket,
                user,
                device,
            } => self.on_returned(ticket, user, device.as_ref(), events),
            Body::Reached {
                ticket,
                user,
                reach,
            } => self.on_reached(ticket, user, *reach),
            Body::NodeLost { node, incarnation } => {
                self.on_node_lost(node, *incarnation, events);
                Ok(())
            }
            Body::Claimed(matches) => {
                self.on_claimed(matches, events);
                Ok(())
            }
            Body::Answered { id, user, answer } => self.on_answered(*id, user, *answer, events),
            Body::Backfill(backfill) => self.on_backfill(backfill, events),
            Body::Renewed { id, lease } => self.on_renewed(*id, *lease),
            Body::Seated(seated) => {
                self.on_seated(seated);
                Ok(())
            }
            Body::Unseated(id) => self.on_unseated(*id, events),
            Body::Closed(id) => self.end_backfill(*id, BackfillEnd::Closed, events),
            Body::Ticked => Ok(()),
        }
    }

    /// Whether there is room for tickets of a weight in the place of others.
    fn check_weight(&self, before: usize, after: usize) -> Result<(), Illegal> {
        if after > before && self.weight - before + after > WEIGHT_MAX {
            return Err(Illegal::Full);
        }
        Ok(())
    }

    /// Does what is due by now.
    fn expire(&mut self, events: &mut Vec<Event>) {
        while let Some((due, timer)) = self.timers.first().copied() {
            if due > self.clock {
                return;
            }
            self.timers.pop_first();
            match timer {
                Timer::Grace(key) => self.on_grace_over(key, events),
                Timer::Ready(id) => self.on_ready_over(id, events),
                Timer::Joining(id) => self.forget_joining(id),
                Timer::Lease(id) => {
                    // It is there: its timer goes with it.
                    let _ = self.end_backfill(id, BackfillEnd::Expired, events);
                }
            }
        }
    }
}

/// How far one entry may move the clock of a pool in which nobody waits.
const LEAP_IDLE_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// How often the time is said while somebody waits.
const TIME_SAID_EVERY: Duration = Duration::from_secs(20);

const _: () = assert!(TIME_SAID_EVERY.as_secs() < LEAP_MAX.as_secs() / 2);

/// How a ticket stands in its pool.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'p> {
    /// The ticket.
    pub ticket: &'p Ticket,
    /// How often its party has changed.
    pub revision: u32,
    /// Since when it waits.
    pub since: Time,
    /// The match that asks whether its users are ready.
    pub held: Option<MatchId>,
    /// Users that are away, and until when they may come back.
    pub away: &'p BTreeMap<UserId, Time>,
}

impl Standing<'_> {
    /// One of its users.
    #[must_use]
    pub fn player(&self, user: &UserId) -> Option<&Player> {
        let mut players = self.ticket.players.iter();
        players.find(|player| player.user == *user)
    }
}

impl Pool {
    fn view(&self, now: Time) -> View<'_> {
        View {
            rules: &self.rules,
            roles: &self.roles,
            seats: &self.seats,
            symbols: &self.symbols,
            now,
        }
    }
}
