//! What a room's log holds.

mod decode;
mod encode;

use std::time::Duration;

use bytes::Bytes;
use tombolo_wire::{NodeId, PublicKeys, UserId};

use crate::code::RoomCode;
use crate::message::Audience;
use crate::object::ObjectPlan;
use crate::property::Change;
use crate::settings::{Password, Settings, SettingsChange};
use crate::word::{GroupId, ObjectId, OperationId, SessionId, Time};

pub(crate) use decode::{
    parse_act, parse_audience, parse_changes, parse_code, parse_group, parse_joined, parse_key,
    parse_node_lost, parse_password, parse_reserve, parse_settings, parse_takeover, parse_user,
    parse_value,
};
pub(crate) use encode::{
    audience, changes, code, joined, node_lost, password, reserve, room_act, settings, takeover,
    value,
};

/// The version of the rules by which this crate applies entries. What is of another version is not read, as a node with
/// other rules would make another room of it: nodes host a room no further when such an entry or snapshot comes.
///
/// It is to grow, by one for a release, when a log gives another room than by the rules of the release before, or there
/// is a kind of entry that those do not know. Of the first the logs tell that the release before has kept
/// (`tests/kept`, see `CONTRIBUTING.md`); before there is a release no node has other rules, and it stays 1.
pub const VERSION: u32 = 1;

/// Longest encoded entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 128 * 1024;

/// The most properties that one entry changes.
pub const PROPERTY_CHANGES_MAX: usize = 64;

/// The most users or groups that one entry names in one list.
pub const USERS_PER_ENTRY_MAX: usize = 256;

/// One entry of a room's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Recognises an entry that was appended twice.
    pub operation: OperationId,
    /// When it was wanted first, by the clock of the node that appended it, or that of the room if that is later.
    pub time: Time,
    /// The node that appended it, if it says so: of several that append the same, the first counts.
    pub node: Option<NodeId>,
    /// Which of the node's incarnations; 0 if it does not say.
    pub incarnation: u64,
    /// What is to change.
    pub body: Body,
}

/// What an entry wants to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Opens the room.
    Created {
        /// How it behaves.
        settings: Settings,
        /// Its first member; `None` when a server opens it.
        first: Option<Join>,
        /// The room's first properties.
        properties: Vec<Change>,
        /// Seats to be kept for others.
        reserve: Option<Reserve>,
        /// By which others may join; whoever appends this has reserved it for the room.
        code: Option<RoomCode>,
    },
    /// A user comes in, or comes in again with another session.
    Joined(Join),
    /// A session's connection broke, or its node has gone.
    Dropped {
        /// The member.
        user: UserId,
        /// Only if it is this session that takes part.
        session: SessionId,
    },
    /// A session goes on, perhaps over another node.
    Returned {
        /// The member.
        user: UserId,
        /// Only if it is this session that takes part.
        session: SessionId,
        /// The node that holds the session now.
        node: NodeId,
        /// Which of the node's incarnations.
        incarnation: u64,
    },
    /// A user's session goes.
    Left {
        /// The member.
        user: UserId,
        /// Only if it is this session that takes part.
        session: SessionId,
        /// Why.
        reason: LeftReason,
    },
    /// A node's incarnation, and those before it, are over: their members are dropped, and what
    /// they append after this about members is refused, also that one leaves whose device has asked to: nobody can tell
    /// it from one whose session its node gave up. Its seat is kept as those of the others are. Acts are carried
    /// out whichever way they came: they are asked for again under the same name.
    NodeLost {
        /// The node.
        node: NodeId,
        /// Which of its incarnations.
        incarnation: u64,
    },
    /// Nothing but the time.
    Ticked,
    /// A closed room is [as new](crate::Room::is_new): the log is to be retired after this, and who begins to read it then
    /// is to have what all others have.
    Forgotten,
    /// A member or a server wants something.
    Act {
        /// Who.
        actor: Actor,
        /// What.
        act: Act,
    },
}

impl Body {
    /// Whether it must not be carried out twice: what else there is comes from nodes, and is true whenever it comes.
    pub(crate) fn is_done_once(&self) -> bool {
        matches!(self, Self::Act { .. } | Self::Created { .. })
    }

    /// Whether it takes something from a member whose session the node that says so holds, or held: whether the device
    /// asked for it or the node gave the session up.
    pub(crate) fn parts_with_member(&self) -> bool {
        matches!(self, Self::Dropped { .. } | Self::Left { .. })
    }
}

/// A user that wants to come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Who.
    pub user: UserId,
    /// How it takes part.
    pub membership: Membership,
    /// How well the device is reached by others, in any unit: the best becomes owner.
    pub reachability: u32,
    /// What it shows; looked at only when the room has a password.
    pub password: Option<Password>,
    /// The member's first properties; ignored when it has some.
    pub properties: Vec<Change>,
    /// The opening that the device comes back to after it had lost its session; `None` when it comes anew.
    pub returns_to: Option<OperationId>,
}

/// How a user takes part in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Which of the user's sessions it is.
    pub session: SessionId,
    /// The session's keys.
    pub keys: PublicKeys,
    /// The node that holds the session.
    pub node: NodeId,
    /// Which of the node's incarnations; later ones are greater.
    pub incarnation: u64,
    /// Which of the device's sessions it is; later ones are greater, and 0 is none of them.
    pub life: u64,
}

/// Why a member left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftReason {
    /// It wanted to.
    Left,
    /// Its connection broke and was not resumed in time.
    Disconnected,
    /// The same user joined with another session.
    Replaced,
    /// The owner or a server sent it away.
    Kicked,
    /// The owner or a server sent it away and doesn't let it in again.
    Banned,
    /// The room was closed.
    Closed,
}

/// Who wants something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A member, if this session is how it takes part.
    Member {
        /// Who.
        user: UserId,
        /// With which session.
        session: SessionId,
    },
    /// A server with the rights to.
    Server,
}

/// What a member or a server wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Change the settings. Owner.
    Configure(SettingsChange),
    /// Change properties, all or none. The room's: as [`Settings::writers`] says; a member's: itself
    /// or the owner; an object's: its owner, or the room's while it has none.
    ChangeProperties {
        /// Whose.
        target: Target,
        /// What becomes of them, in order.
        changes: Vec<Change>,
    },
    /// Keep seats for users that are not here yet. Owner.
    Reserve(Reserve),
    /// Send a member away. Owner.
    Kick(UserId),
    /// Send a user away and don't let it in. Owner.
    Ban {
        /// Who.
        user: UserId,
        /// For how long; `None` for as long as the room lasts.
        lasts: Option<Duration>,
    },
    /// Let a user in again. Owner.
    Unban(UserId),
    /// Give the room to another member, or to nobody. Owner; or, while there is none and the policy is
    /// [`Manual`](crate::OwnerPolicy::Manual), whoever claims it for itself.
    SetOwner(Option<UserId>),
    /// Leave something to the next owner. Owner.
    KeepState(Bytes),
    /// Make an object; it belongs to the member, or to nobody if a server makes it.
    CreateObject(ObjectPlan),
    /// Give an object to a member or to nobody, as its [`Takeover`](crate::Takeover) allows.
    OwnObject {
        /// Which.
        object: ObjectId,
        /// To whom.
        owner: Option<UserId>,
    },
    /// Take an object away. Its owner, or the room's while it has none.
    DeleteObject(ObjectId),
    /// Enter and exit interest groups. A member, for itself.
    ChangeGroups {
        /// Those to be in.
        enter: Vec<GroupId>,
        /// Those not to be in.
        exit: Vec<GroupId>,
    },
    /// Say something that is kept.
    Say {
        /// To whom.
        audience: Audience,
        /// What.
        payload: Bytes,
    },
    /// Tell how well the device is reached. A member, for itself.
    Reach(u32),
    /// Send everybody away and close. Owner.
    Close,
}

/// Whose properties are meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The room's.
    Room,
    /// A member's.
    Member(UserId),
    /// An object's.
    Object(ObjectId),
}

/// Seats to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// For whom.
    pub users: Vec<UserId>,
    /// For how long; zero gives them up.
    pub lasts: Duration,
}

/// Why bytes are no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Longer than [`ENTRY_BYTES_MAX`].
    #[error("entry is too long")]
    TooLong,
    /// Not the encoding of an entry, or with impossible values.
    #[error("entry is malformed")]
    Malformed,
    /// Of rules that this crate does not know.
    #[error("entry is of version {version}, which is not known here")]
    Version {
        /// The entry's version.
        version: u32,
    },
}

impl Body {
    /// Opens a room by a member, without properties or reservations.
    #[must_use]
    pub fn created(settings: Settings, first: Join) -> Self {
        Self::Created {
            settings,
            first: Some(first),
            properties: Vec::new(),
            reserve: None,
            code: None,
        }
    }
}

impl Join {
    /// Comes in without password, properties or claim to be reached well.
    #[must_use]
    pub fn new(user: UserId, membership: Membership) -> Self {
        Self {
            user,
            membership,
            reachability: 0,
            password: None,
            properties: Vec::new(),
            returns_to: None,
        }
    }
}

impl Membership {
    /// Whether this is of an earlier session of the same device as another one. Of different devices of
    /// one user nobody can tell.
    pub(crate) fn is_older_than(&self, other: &Self) -> bool {
        self.session != other.session
            && self.keys == other.keys
            && (1..other.life).contains(&self.life)
    }
}

impl LeftReason {
    /// The word that devices are told.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Disconnected => "disconnected",
            Self::Replaced => "replaced",
            Self::Kicked => "kicked",
            Self::Banned => "banned",
            Self::Closed => "closed",
        }
    }
}
