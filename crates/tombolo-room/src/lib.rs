//! A room as a deterministic state machine fed by a log.
//!
//! Every node that hosts members of a room applies the same [`Entry`]s in the same order to a
//! [`Room`], and so has the same room: nobody owns it. Whoever wants to change a room appends an
//! entry and learns from [`Room::apply`], as all others do, whether it was legal: a join that came
//! when the room was full is in the log, but changes nothing on any node.
//!
//! A room is open while it has members. It opens by `Created` with its first member and closes by
//! the `Left` of its last; a later `Created` in the same log opens it anew.
//!
//! ```
//! use tombolo_room::{Body, Entry, Event, Membership, OperationId, Room, SessionId};
//! # use tombolo_wire::PublicKeys;
//! # let membership = Membership {
//! #     session: SessionId([1; 16]),
//! #     keys: PublicKeys { identity: [2; 32], seal: [3; 32] },
//! #     node: "node-1".parse()?,
//! # };
//! let entry = Entry {
//!     operation: OperationId([9; 16]),
//!     body: Body::Created { members_max: 8, user: "alice".parse()?, membership },
//! };
//! let appended = entry.encode();
//!
//! let mut room = Room::new();
//! let events = room.apply(&Entry::decode(&appended)?)?;
//! assert!(matches!(&events[..], [Event::Opened { .. }, Event::Joined { .. }]));
//! assert_eq!(room.members().count(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! No clock, no entropy, no engine: where entries come from is not this crate's business.
#![forbid(unsafe_code)]

mod entry;
mod generated;
mod room;

pub use entry::{
    Body, ENTRY_BYTES_MAX, Entry, EntryError, LeftReason, Membership, OperationId, SessionId,
    VERSION,
};
pub use room::{Event, Illegal, MEMBERS_MAX, OPERATIONS_MAX, Room, SnapshotError};
