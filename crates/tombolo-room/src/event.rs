//! What entries change, and why they don't.

use bytes::Bytes;
use tombolo_wire::UserId;

use crate::entry::{LeftReason, Membership, Target};
use crate::message::{HISTORY_MAX, Message};
use crate::object::Object;
use crate::property::Property;
use crate::settings::{MEMBERS_MAX, Settings};
use crate::word::{GroupId, ObjectId, PropertyKey, Time};

/// What an entry, or the time that came with it, changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The room opened.
    Opened,
    /// A member came in, or took its own place with another session.
    Joined {
        /// Who.
        user: UserId,
        /// How it takes part.
        membership: Membership,
        /// Its seat.
        seat: u32,
    },
    /// A member's connection broke; its seat is kept.
    Dropped {
        /// Who.
        user: UserId,
        /// Until when.
        until: Time,
    },
    /// A dropped member is back in its seat, or a present one goes on over another node.
    Returned {
        /// Who.
        user: UserId,
        /// How it takes part now.
        membership: Membership,
    },
    /// The node of these members was given up for lost: what they had sent and it had not yet passed
    /// on is lost, but for what is in the log. What becomes of the members follows.
    NodeLost {
        /// Who.
        users: Vec<UserId>,
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
    /// The room behaves otherwise now.
    Configured {
        /// Who wanted it.
        by: By,
        /// All settings.
        settings: Settings,
    },
    /// Properties changed, all at once.
    PropertiesChanged {
        /// Who wanted it.
        by: By,
        /// Whose.
        target: Target,
        /// Which, each once, by name.
        changes: Vec<Changed>,
    },
    /// An object was made.
    ObjectCreated {
        /// By whom.
        by: By,
        /// Its number.
        id: ObjectId,
        /// As it is.
        object: Object,
    },
    /// An object has another owner.
    ObjectOwned {
        /// Who wanted it.
        by: By,
        /// Which.
        id: ObjectId,
        /// Whose it is now.
        owner: Option<UserId>,
        /// Who sees it.
        group: Option<GroupId>,
    },
    /// An object has gone.
    ObjectDeleted {
        /// Who wanted it; the clock when its owner left.
        by: By,
        /// Which.
        id: ObjectId,
        /// Who saw it.
        group: Option<GroupId>,
    },
    /// The room has another owner.
    OwnerChanged {
        /// Who.
        owner: Option<UserId>,
        /// What the one before left to it; not for others.
        state: Bytes,
    },
    /// A member is in other groups.
    GroupsChanged {
        /// Who.
        user: UserId,
        /// Which it entered.
        entered: Vec<GroupId>,
        /// Which it left.
        exited: Vec<GroupId>,
    },
    /// Seats are kept for users that are not here yet.
    SeatsReserved {
        /// Who wanted it.
        by: By,
        /// For whom.
        users: Vec<UserId>,
        /// Until when.
        until: Time,
    },
    /// Seats are not kept any longer.
    SeatsReleased {
        /// Whose.
        users: Vec<UserId>,
    },
    /// A user may not come in.
    Banned {
        /// Who wanted it.
        by: By,
        /// Who.
        user: UserId,
        /// Until when; `None` for as long as the room lasts.
        until: Option<Time>,
    },
    /// A user may come in again.
    Unbanned {
        /// Who wanted it.
        by: By,
        /// Who.
        user: UserId,
    },
    /// A durable message was said.
    Said(Message),
    /// The room closed: all members have left it.
    Closed,
}

/// Who made something happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// A member.
    Member(UserId),
    /// A server with the rights to.
    Server,
    /// The rules of the room: something was due, or followed from something else.
    Rule,
}

/// What became of one property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub key: PropertyKey,
    /// As it is now; `None` when it has gone.
    pub property: Option<Property>,
}

/// Why an entry changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Illegal {
    /// The same operation came before.
    #[error("operation was applied before")]
    Repeated,
    /// More has come since it was wanted than is remembered.
    #[error("it may have been done before: nobody knows")]
    Unsure,
    /// A `Created` or a `Forgotten` while the room is open.
    #[error("room is open already")]
    Open,
    /// Something else while the room is closed.
    #[error("room is closed")]
    Closed,
    /// Settings with impossible numbers.
    #[error(
        "room would have impossible settings: it has 1 to {MEMBERS_MAX} members, remembers up to {HISTORY_MAX} \
         messages, and keeps seats, and itself without members, for up to a year"
    )]
    Settings,
    /// A `Joined` while the room is full.
    #[error("room is full")]
    Full,
    /// A `Joined` while the room is locked, by a user for whom no seat is kept.
    #[error("room is locked")]
    Locked,
    /// A `Joined` with another password.
    #[error("password is wrong")]
    Password,
    /// A `Joined` by a user who may not.
    #[error("user is banned from the room")]
    Banned,
    /// A `Joined` or `Returned` of the session that is the member, from where it is.
    #[error("session is a member already")]
    Member,
    /// A `Joined` of a session of a device that takes part with a later one, or that comes back when its user takes
    /// part with another device.
    #[error("session is older than the one that is the member")]
    Stale,
    /// A `Joined` of a device that comes back and was sent away meanwhile.
    #[error("device was sent away from the room")]
    Kicked,
    /// By or about a session that is no member (any more), or is not present.
    #[error("session is no member")]
    NotMember,
    /// By a node's incarnation that was given up for lost.
    #[error("node was given up for lost")]
    NodeLost,
    /// Only the owner, or a server, may.
    #[error("only the owner may do that")]
    NotOwner,
    /// There is no such user, object or ban.
    #[error("there is no such thing in the room")]
    NoSuch,
    /// A property is not what it was expected to be.
    #[error("property is not as expected")]
    Conflict,
    /// Adding to what is no integer.
    #[error("property is no integer")]
    NotInteger,
    /// There would be too many or too large things.
    #[error("a limit of the room is reached")]
    Limit,
}
