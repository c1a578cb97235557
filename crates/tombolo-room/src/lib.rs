//! A room as a deterministic state machine fed by a log.
//!
//! Every node that hosts members of a room applies the same [`Entry`]s in the same order to a
//! [`Room`], and so has the same room: nobody owns it. Whoever wants to change a room appends an
//! entry and learns from [`Room::apply`], as all others do, whether it was legal: a join that came
//! when the room was full is in the log, but changes nothing on any node.
//!
//! A room has members with seats, properties with compare-and-set, objects that members own, an
//! owner that is elected alike everywhere, and the last durable messages. It is open from `Created`
//! until it has been empty for as long as its [`Settings`] say; a later `Created` opens it anew. A
//! closed room still knows what came lately, until a [`Body::Forgotten`] says that its log ends.
//!
//! Time comes with the entries: each carries the clock of the node that appended it, and the room's
//! own clock is the latest of them. What is due by then happens before the entry is applied. When
//! nothing is said for long, any host appends a `Ticked` at [`Room::poll_timeout`].
//!
//! ```
//! use tombolo_room::{Body, Entry, Event, Join, Membership, OperationId, Room, SessionId, Settings, Time};
//! # use tombolo_wire::PublicKeys;
//! # let membership = Membership {
//! #     session: SessionId([1; 16]),
//! #     keys: PublicKeys { identity: [2; 32], seal: [3; 32] },
//! #     node: "node-1".parse()?,
//! #     incarnation: 1,
//! #     life: 1,
//! # };
//! let first = Join::new("alice".parse()?, membership);
//! let entry = Entry {
//!     operation: OperationId([9; 16]),
//!     time: Time::from_millis(1_000),
//!     node: Some("node-1".parse()?),
//!     incarnation: 1,
//!     body: Body::created(Settings::default(), first),
//! };
//! let appended = entry.encode();
//!
//! let mut room = Room::new();
//! let applied = room.apply(&Entry::decode(&appended)?);
//! assert_eq!(applied.outcome, Ok(()));
//! assert!(matches!(&applied.events[..], [Event::Opened, Event::Joined { .. }, Event::OwnerChanged { .. }]));
//! assert_eq!(room.members().count(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! No clock, no entropy, no engine: where entries come from is not this crate's business. Messages
//! that are not durable don't pass here, either.
#![forbid(unsafe_code)]

mod code;
mod contract;
mod entry;
mod event;
mod generated;
mod listing;
mod message;
mod object;
mod property;
mod query;
mod room;
mod settings;
mod word;

pub use code::{CODE_LENGTH, CodeError, RoomCode};
pub use entry::{
    Act, Actor, Body, ENTRY_BYTES_MAX, Entry, EntryError, Join, LeftReason, Membership,
    PROPERTY_CHANGES_MAX, Reserve, Target, USERS_PER_ENTRY_MAX, VERSION,
};
pub use event::{By, Changed, Event, Illegal};
pub use listing::Listing;
pub use message::{Audience, HISTORY_BYTES_MAX, HISTORY_MAX, Message, PAYLOAD_BYTES_MAX};
pub use object::{OBJECTS_MAX, OBJECTS_PER_MEMBER_MAX, Object, ObjectPlan, Takeover};
pub use property::{
    Change, Expectation, Operation, PROPERTIES_MAX, PUBLIC_PROPERTIES_MAX, PUBLIC_VALUE_BYTES_MAX,
    Properties, Property, VALUE_BYTES_MAX, Value,
};
pub use query::{
    Aspect, CONDITIONS_MAX, Comparison, Condition, ORDERS_MAX, Order, PageEnd, Query, QueryError,
    VALUES_MAX,
};
pub use room::{
    Applied, BANS_MAX, Made, Member, NODES_LOST_MAX, OPERATIONS_MAX, OPERATIONS_REMEMBERED,
    OWNER_STATE_BYTES_MAX, PROPERTY_BYTES_MAX, Presence, Room, SENT_AWAY_MAX, SnapshotError,
};
pub use settings::{
    DURATION_MAX, MEMBERS_MAX, OwnerPolicy, Password, Settings, SettingsChange, Writers,
};
pub use word::{
    GROUPS_PER_MEMBER_MAX, GroupId, KEY_BYTES_MAX, ObjectId, OperationId, PropertyKey, SessionId,
    Time, WordError,
};
