//! The state machine.

use std::collections::VecDeque;

use bytes::Bytes;
use indexmap::IndexMap;
use prost::Message as _;
use tombolo_wire::UserId;

use crate::entry::{
    Body, Entry, EntryError, LeftReason, Membership, OperationId, SessionId, VERSION, array,
    joined, parse_joined,
};
use crate::generated as wire;

/// The most members that any room takes.
pub const MEMBERS_MAX: u32 = 4096;

/// How many operations are remembered in order to recognise a repeated one.
pub const OPERATIONS_MAX: usize = 256;

/// A room, as the entries so far have made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// 0 while the room is closed.
    members_max: u32,
    /// In the order in which they joined; empty while the room is closed.
    membership_by_user: IndexMap<UserId, Membership>,
    /// The last operations, oldest first.
    operations: VecDeque<OperationId>,
}

/// What an entry changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The room opened; its first member follows.
    Opened {
        /// How many members it takes.
        members_max: u32,
    },
    /// A member came in.
    Joined {
        /// Who.
        user: UserId,
        /// How it takes part.
        membership: Membership,
    },
    /// A member went.
    Left {
        /// Who.
        user: UserId,
        /// How it took part.
        membership: Membership,
        /// Why.
        reason: LeftReason,
    },
    /// The last member went.
    Closed,
}

/// Why an entry changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Illegal {
    /// The same operation came before.
    #[error("operation was applied before")]
    Repeated,
    /// A `Created` while the room is open.
    #[error("room is open already")]
    Open,
    /// Something else while the room is closed.
    #[error("room is closed")]
    Closed,
    /// A `Created` with room for nobody, or for more than [`MEMBERS_MAX`].
    #[error("room would take no, or too many, members")]
    MembersMax,
    /// A `Joined` while the room is full.
    #[error("room is full")]
    Full,
    /// A `Joined` of the session that is the member.
    #[error("session is a member already")]
    Member,
    /// A `Left` of a session that is no member (any more).
    #[error("session is no member")]
    NotMember,
}

/// Why bytes are no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("snapshot is malformed or of an unknown version")]
pub struct SnapshotError;

impl Room {
    /// A room whose log is empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the next entry of the log and says what it changed.
    ///
    /// # Errors
    /// When the entry is illegal now: every node says so, and nothing changes.
    pub fn apply(&mut self, entry: &Entry) -> Result<Vec<Event>, Illegal> {
        if self.operations.contains(&entry.operation) {
            return Err(Illegal::Repeated);
        }
        // An illegal operation is remembered, too: who was told "full" must not come in later by a
        // repetition.
        if self.operations.len() == OPERATIONS_MAX {
            self.operations.pop_front();
        }
        self.operations.push_back(entry.operation);

        match &entry.body {
            Body::Created {
                members_max,
                user,
                membership,
            } => self.on_created(*members_max, user, membership),
            Body::Joined { user, membership } => self.on_joined(user, membership),
            Body::Left {
                user,
                session,
                reason,
            } => self.on_left(user, *session, *reason),
        }
    }

    /// Whether the room has members.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.members_max != 0
    }

    /// How many members the room takes; 0 while it is closed.
    #[must_use]
    pub fn members_max(&self) -> u32 {
        self.members_max
    }

    /// The members, in the order in which they joined.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (&UserId, &Membership)> {
        self.membership_by_user.iter()
    }

    /// How a user takes part; `None` when it doesn't.
    #[must_use]
    pub fn membership(&self, user: &UserId) -> Option<&Membership> {
        self.membership_by_user.get(user)
    }

    /// The whole room as bytes: equal rooms give equal bytes.
    #[must_use]
    pub fn snapshot(&self) -> Bytes {
        let operations = self.operations.iter();
        let snapshot = wire::Snapshot {
            version: VERSION,
            members_max: self.members_max,
            members: self
                .members()
                .map(|(user, membership)| joined(user, membership))
                .collect(),
            operations: operations.map(|id| Bytes::copy_from_slice(&id.0)).collect(),
        };
        snapshot.encode_to_vec().into()
    }

    /// Takes a room out of a snapshot.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn restore(snapshot: &[u8]) -> Result<Self, SnapshotError> {
        let snapshot = wire::Snapshot::decode(snapshot).map_err(|_| SnapshotError)?;
        let members = snapshot.members.iter().map(parse_joined);
        let operations = snapshot
            .operations
            .iter()
            .map(|id| Ok(OperationId(array(id)?)));
        let room = Self {
            members_max: snapshot.members_max,
            membership_by_user: members
                .collect::<Result<_, EntryError>>()
                .map_err(|_| SnapshotError)?,
            operations: operations
                .collect::<Result<_, EntryError>>()
                .map_err(|_| SnapshotError)?,
        };
        let count = room.membership_by_user.len();
        let is_whole = snapshot.version == VERSION
            && count == snapshot.members.len()
            && count <= room.members_max as usize
            && room.members_max <= MEMBERS_MAX
            && room.is_open() == (count != 0)
            && room.operations.len() <= OPERATIONS_MAX;
        if is_whole {
            Ok(room)
        } else {
            Err(SnapshotError)
        }
    }

    fn on_created(
        &mut self,
        members_max: u32,
        user: &UserId,
        membership: &Membership,
    ) -> Result<Vec<Event>, Illegal> {
        if self.is_open() {
            return Err(Illegal::Open);
        }
        if !(1..=MEMBERS_MAX).contains(&members_max) {
            return Err(Illegal::MembersMax);
        }
        self.members_max = members_max;
        let joined = self.insert(user, membership);
        Ok(vec![Event::Opened { members_max }, joined])
    }

    fn on_joined(&mut self, user: &UserId, membership: &Membership) -> Result<Vec<Event>, Illegal> {
        if !self.is_open() {
            return Err(Illegal::Closed);
        }
        match self.membership(user) {
            Some(old) if old.session == membership.session => return Err(Illegal::Member),
            Some(_) => {}
            None if self.members().len() >= self.members_max as usize => return Err(Illegal::Full),
            None => {}
        }
        let replaced = self.remove(user, LeftReason::Replaced);
        let joined = self.insert(user, membership);
        Ok(replaced.into_iter().chain([joined]).collect())
    }

    fn on_left(
        &mut self,
        user: &UserId,
        session: SessionId,
        reason: LeftReason,
    ) -> Result<Vec<Event>, Illegal> {
        if !self.is_open() {
            return Err(Illegal::Closed);
        }
        if self
            .membership(user)
            .is_none_or(|membership| membership.session != session)
        {
            return Err(Illegal::NotMember);
        }
        let mut events = Vec::from_iter(self.remove(user, reason));
        if self.membership_by_user.is_empty() {
            self.members_max = 0;
            events.push(Event::Closed);
        }
        Ok(events)
    }

    fn insert(&mut self, user: &UserId, membership: &Membership) -> Event {
        self.membership_by_user
            .insert(user.clone(), membership.clone());
        Event::Joined {
            user: user.clone(),
            membership: membership.clone(),
        }
    }

    /// The order of the others stays.
    fn remove(&mut self, user: &UserId, reason: LeftReason) -> Option<Event> {
        let (user, membership) = self.membership_by_user.shift_remove_entry(user)?;
        Some(Event::Left {
            user,
            membership,
            reason,
        })
    }
}
