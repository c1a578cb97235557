//! What reaches users wherever they are, as deterministic state machines fed by logs.
//!
//! * [`inbox::Inbox`]: a user's direct messages, with the last one read and a list of blocked users;
//! * [`group::Group`], [`roster::Roster`] and [`segment::Segment`]: a group, its members, and what is said in it;
//! * [`board::Board`]: what servers tell many users at once;
//! * [`presence`]: who is online. It is not kept, but heard from all nodes, and no log feeds it.
//!
//! As in `tombolo-room`, every node that needs a thing applies the same entries in the same order and so
//! has the same thing; nobody owns it. Whoever wants to change it appends an entry and learns from
//! `apply`, as all others do, what became of it: a message to an inbox that is full is in the log, but
//! not in the inbox on any node. Bounds are constants for that reason: nodes have to agree on them.
//!
//! Everything that devices are told about is numbered, so whoever has been told up to a number can be told the
//! rest; there are no events to be lost. A [`Place`] is such a number and the count that it belongs to.
//!
//! ```
//! use tombolo_social::inbox::{Body, Entry, Inbox};
//! use tombolo_social::{MessageId, OperationId, Time};
//!
//! let entry = |body| Entry {
//!     operation: OperationId([9; 16]),
//!     time: Time::from_millis(1_000),
//!     body,
//! };
//! let body = Body::Sent { from: "alice".parse()?, id: MessageId([1; 16]), payload: "hi".into(), to: None };
//! let appended = entry(body).encode();
//!
//! let mut inbox = Inbox::new();
//! inbox.apply(&entry(Body::Opened))?;
//! let sent = inbox.apply(&Entry::decode(&appended)?)?;
//! assert_eq!((sent.number, sent.is_repeated), (1, false));
//! assert!(inbox.apply(&Entry::decode(&appended)?)?.is_repeated);
//! assert_eq!(inbox.letters_after(0).count(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! No clock, no entropy, no engine: where entries come from is not this crate's business.
#![forbid(unsafe_code)]

pub mod board;
mod generated;
pub mod group;
pub mod inbox;
pub mod presence;
pub mod roster;
pub mod segment;
mod word;

pub use word::{EntryError, MessageId, OperationId, Place, SnapshotError, Time};
