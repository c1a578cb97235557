//! The state machine.

mod act;
mod member;
mod object;
mod open;
mod operations;
mod owner;
mod snapshot;
mod timer;

use std::collections::BTreeMap;

use bytes::Bytes;
use indexmap::IndexMap;
use tombolo_wire::{NodeId, UserId};

use crate::code::RoomCode;
use crate::entry::{Body, Entry, Join, Membership, Reserve};
use crate::event::{Event, Illegal};
use crate::message::Message;
use crate::object::Object;
use crate::property::{Change, Properties};
use crate::settings::{DURATION_MAX, OwnerPolicy, Settings};
use crate::word::{ObjectId, OperationId, Time};
use open::Open;
use operations::Operations;

pub use member::{Member, Presence};
pub use operations::{Made, OPERATIONS_MAX, OPERATIONS_REMEMBERED};
pub use snapshot::SnapshotError;

/// Largest state that an owner leaves to its successor, in bytes.
pub const OWNER_STATE_BYTES_MAX: usize = 64 * 1024;

/// All properties of a room, its members and its objects together, in bytes.
pub const PROPERTY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The most users that are banned from a room.
pub const BANS_MAX: usize = 1024;

/// Of so many devices a room remembers that they were sent away; those longest ago are forgotten first.
pub const SENT_AWAY_MAX: usize = 256;

/// How many lost nodes a room remembers; those longest ago are forgotten first.
pub const NODES_LOST_MAX: usize = 64;

/// A room, as the entries so far have made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// The latest time that an entry brought.
    clock: Time,
    operations: Operations,
    /// The last incarnation that was lost, by node; whoever was lost last is last.
    lost_by_node: IndexMap<NodeId, u64>,
    /// `None` while the room is closed.
    open: Option<Open>,
}

/// What came of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Applied {
    /// What changed, in order: first what was due, then what the entry wanted.
    pub events: Vec<Event>,
    /// Why the entry itself changed nothing.
    pub outcome: Result<(), Illegal>,
}

impl Room {
    /// A room whose log is empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the next entry of the log and says what it changed, the same on every node.
    pub fn apply(&mut self, entry: &Entry) -> Applied {
        let mut events = Vec::new();
        if self.operations.contains(&entry.operation) {
            let outcome = Err(Illegal::Repeated);
            return Applied { events, outcome };
        }
        // A clock that is far ahead must not end all that ever was to last.
        let limit = match self.clock {
            Time::ZERO => entry.time,
            clock => clock.after(DURATION_MAX),
        };
        self.clock = self.clock.max(entry.time.min(limit));
        self.expire(&mut events);
        let outcome = if entry.body.is_done_once() && self.operations.may_have_come(entry.time) {
            Err(Illegal::Unsure)
        } else if entry.body.parts_with_member() && self.is_of_lost(entry) {
            // Whoever was said to be lost keeps its seat.
            Err(Illegal::NodeLost)
        } else {
            self.on_body(entry.operation, &entry.body, &mut events)
        };
        if entry.body == Body::Forgotten && outcome.is_ok() {
            // Of this entry, too: who reads the log after it does not know of it.
            *self = Self::new();
            return Applied { events, outcome };
        }
        // An illegal operation is remembered, too: who was told "full" must not come in later by a
        // repetition.
        let done = outcome.map(|()| Made::of(&events));
        self.operations.remember(entry.operation, self.clock, done);
        self.settle(&mut events);
        Applied { events, outcome }
    }

    /// What an operation made that came lately, or why it changed nothing; `None` when it did not come, or long
    /// ago. Who repeats an act learns by this what became of it.
    #[must_use]
    pub fn what_became(&self, operation: &OperationId) -> Option<Result<Made, Illegal>> {
        self.operations.done(operation)
    }

    /// When something is due: whoever hosts the room appends a [`Body::Ticked`] then.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.open.as_ref().and_then(Open::poll_timeout)
    }

    /// The latest time that an entry brought.
    #[must_use]
    pub fn clock(&self) -> Time {
        self.clock
    }

    /// Whether there is a room.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether nothing is known of it, as if its log were empty.
    #[must_use]
    pub fn is_new(&self) -> bool {
        *self == Self::new()
    }

    /// Which opening of the room this is: messages and objects are counted anew in each.
    #[must_use]
    pub fn opening(&self) -> Option<OperationId> {
        self.open.as_ref().map(|open| open.opening)
    }

    /// By which others may join; `None` when there is none, and while the room is closed.
    #[must_use]
    pub fn code(&self) -> Option<RoomCode> {
        self.open.as_ref()?.code
    }

    /// When the room was opened; `None` while it is closed.
    #[must_use]
    pub fn opened(&self) -> Option<Time> {
        self.open.as_ref().map(|open| open.opened)
    }

    /// How many may still come in for whom no seat is kept.
    #[must_use]
    pub fn free(&self) -> usize {
        self.open.as_ref().map_or(0, Open::free)
    }

    /// How the room behaves; `None` while it is closed.
    #[must_use]
    pub fn settings(&self) -> Option<&Settings> {
        self.open.as_ref().map(|open| &open.settings)
    }

    /// The members, in the order in which they joined.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (&UserId, &Member)> {
        static NOBODY: std::sync::LazyLock<IndexMap<UserId, Member>> =
            std::sync::LazyLock::new(IndexMap::new);
        match &self.open {
            Some(open) => open.member_by_user.iter(),
            None => NOBODY.iter(),
        }
    }

    /// A member.
    #[must_use]
    pub fn member(&self, user: &UserId) -> Option<&Member> {
        self.open.as_ref()?.member_by_user.get(user)
    }

    /// How a user takes part.
    #[must_use]
    pub fn membership(&self, user: &UserId) -> Option<&Membership> {
        self.member(user).map(Member::membership)
    }

    /// Whether a user may come in, as far as the room is known here: who is told no need not be in the log for it.
    ///
    /// # Errors
    /// Why not, as an entry would be told.
    pub fn admits(&self, join: &Join) -> Result<(), Illegal> {
        let open = self.open.as_ref().ok_or(Illegal::Closed)?;
        open.check_return(join)?;
        if open.member_by_user.contains_key(&join.user) {
            return Ok(());
        }
        open.admits(&join.user, join.password)
    }

    /// Whether somebody may still come in, who has no seat kept.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.open.as_ref().is_some_and(Open::is_full)
    }

    /// Until when a seat is kept for a user that is not here yet.
    #[must_use]
    pub fn reserved_until(&self, user: &UserId) -> Option<Time> {
        self.open.as_ref()?.reserved.get(user).copied()
    }

    /// Those who may not come in, and until when.
    pub fn banned(&self) -> impl Iterator<Item = (&UserId, Option<Time>)> {
        let banned = self.open.iter().flat_map(|open| &open.banned);
        banned.map(|(user, until)| (user, *until))
    }

    /// The room's properties; `None` while it is closed.
    #[must_use]
    pub fn properties(&self) -> Option<&Properties> {
        self.open.as_ref().map(|open| &open.properties)
    }

    /// One of the objects.
    #[must_use]
    pub fn object(&self, id: ObjectId) -> Option<&Object> {
        self.open.as_ref()?.objects.get(&id)
    }

    /// The objects, by number.
    pub fn objects(&self) -> impl Iterator<Item = (ObjectId, &Object)> {
        let objects = self.open.iter().flat_map(|open| &open.objects);
        objects.map(|(id, object)| (*id, object))
    }

    /// Who has the say.
    #[must_use]
    pub fn owner(&self) -> Option<&UserId> {
        self.open.as_ref()?.owner.as_ref()
    }

    /// What the owner has left to its successor; not for others.
    #[must_use]
    pub fn owner_state(&self) -> Option<&Bytes> {
        self.open.as_ref().map(|open| &open.owner_state)
    }

    /// The durable messages that are kept, oldest first.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = &Message> {
        self.open.iter().flat_map(|open| open.history.messages())
    }

    /// The number of the last durable message; 0 before the first.
    #[must_use]
    pub fn message_last(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.history.last)
    }

    /// Whether everything that was said after message `number` of that opening is still kept: then
    /// who had that one can be told all that it missed.
    #[must_use]
    pub fn is_recoverable(&self, opening: OperationId, number: u64) -> bool {
        let open = self.open.as_ref().filter(|open| open.opening == opening);
        open.is_some_and(|open| open.history.reaches_back_to(number))
    }

    /// Whether an entry is of a node's life that is known to be over.
    fn is_of_lost(&self, entry: &Entry) -> bool {
        let node = entry.node.as_ref().filter(|_| entry.incarnation > 0);
        let lost = node.and_then(|node| self.lost_by_node.get(node));
        lost.is_some_and(|lost| *lost >= entry.incarnation)
    }

    fn on_body(
        &mut self,
        operation: OperationId,
        body: &Body,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        if let Body::Created {
            settings,
            first,
            properties,
            reserve,
            code,
        } = body
        {
            let (first, reserve) = (first.as_ref(), reserve.as_ref());
            self.on_created(operation, settings, first, properties, reserve, events)?;
            if let Some(open) = &mut self.open {
                (open.opened, open.code) = (self.clock, *code);
            }
            return Ok(());
        }
        if let Body::NodeLost { node, incarnation } = body {
            return self.on_node_lost(node, *incarnation, events);
        }
        if *body == Body::Ticked {
            return Ok(());
        }
        if *body == Body::Forgotten {
            return match self.is_open() {
                true => Err(Illegal::Open),
                false => Ok(()),
            };
        }
        let now = self.clock;
        let Some(open) = &mut self.open else {
            return Err(Illegal::Closed);
        };
        match body {
            Body::Joined(join) => {
                check_node(&self.lost_by_node, &join.membership)?;
                open.on_joined(now, join, events)
            }
            Body::Returned {
                user,
                session,
                node,
                incarnation,
            } => {
                let membership = Membership {
                    node: node.clone(),
                    incarnation: *incarnation,
                    ..open.member_with(user, *session)?.membership().clone()
                };
                check_node(&self.lost_by_node, &membership)?;
                open.on_returned(user, membership, events)
            }
            Body::Dropped { user, session } => open.on_dropped(now, user, *session, events),
            Body::Left {
                user,
                session,
                reason,
            } => {
                open.member_with(user, *session)?;
                open.remove_member(user, *reason, events);
                Ok(())
            }
            Body::Act { actor, act } => open.on_act(now, actor, act, events),
            Body::Ticked | Body::Forgotten | Body::Created { .. } | Body::NodeLost { .. } => Ok(()),
        }
    }

    fn on_created(
        &mut self,
        operation: OperationId,
        settings: &Settings,
        first: Option<&Join>,
        properties: &[Change],
        reserve: Option<&Reserve>,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        if self.open.is_some() {
            return Err(Illegal::Open);
        }
        if !settings.is_good() {
            return Err(Illegal::Settings);
        }
        if let Some(first) = first {
            check_node(&self.lost_by_node, &first.membership)?;
        }
        let mut open = Open::new(operation, settings.clone());
        let mut happened = vec![Event::Opened];
        open.set_first_properties(self.clock, properties)?;
        if let Some(first) = first {
            // Who makes a room has its password.
            let first = Join {
                password: settings.password,
                ..first.clone()
            };
            let is_locked = std::mem::replace(&mut open.settings.is_locked, false);
            open.on_joined(self.clock, &first, &mut happened)?;
            open.settings.is_locked = is_locked;
            if settings.owner_policy == OwnerPolicy::Manual {
                // Else somebody could claim it before whoever made it.
                open.set_owner(Some(first.user), &mut happened);
            }
        }
        if let Some(reserve) = reserve {
            let by = first.map(|first| first.user.clone());
            open.on_reserve(self.clock, by.into(), reserve, &mut happened)?;
        }
        self.open = Some(open);
        events.append(&mut happened);
        Ok(())
    }

    fn on_node_lost(
        &mut self,
        node: &NodeId,
        incarnation: u64,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let lost = self.lost_by_node.get(node);
        if lost.is_some_and(|lost| *lost >= incarnation) {
            return Err(Illegal::NodeLost);
        }
        self.lost_by_node.shift_remove(node);
        if self.lost_by_node.len() == NODES_LOST_MAX {
            self.lost_by_node.shift_remove_index(0);
        }
        self.lost_by_node.insert(node.clone(), incarnation);
        if let Some(open) = &mut self.open {
            open.drop_members_of(self.clock, node, incarnation, events);
        }
        Ok(())
    }

    fn expire(&mut self, events: &mut Vec<Event>) {
        let Some(open) = &mut self.open else {
            return;
        };
        open.expire(self.clock, events);
        if open.is_over(self.clock) {
            self.close(events);
        }
    }

    /// What follows from what has happened: a new owner, or the end.
    fn settle(&mut self, events: &mut Vec<Event>) {
        let Some(open) = &mut self.open else {
            return;
        };
        open.elect(events);
        open.watch_emptiness(self.clock);
        if open.is_over(self.clock) {
            self.close(events);
        }
    }

    fn close(&mut self, events: &mut Vec<Event>) {
        self.open = None;
        events.push(Event::Closed);
    }
}

/// Refuses what a node says that was given up for lost.
fn check_node(lost: &IndexMap<NodeId, u64>, membership: &Membership) -> Result<(), Illegal> {
    match lost.get(&membership.node) {
        Some(lost) if *lost >= membership.incarnation => Err(Illegal::NodeLost),
        Some(_) | None => Ok(()),
    }
}

/// Seats, bans and the like, by user.
type UntilByUser<T> = BTreeMap<UserId, T>;
