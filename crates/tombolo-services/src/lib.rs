//! Sessions, rooms and introductions, bound to the engine.
//!
//! A transport brings frames here and takes frames away; it needs to know nothing about them:
//!
//! 1. the first frame of a connection goes to [`Services::attach`], which gives a [`Connection`];
//! 2. each further frame goes to [`Connection::receive`];
//! 3. [`Connection::next_outgoing`] waits for what is to be sent, until it says to close;
//! 4. dropping the [`Connection`] says that the connection broke: the session waits for a resume.
//!
//! ```
//! # use std::net::IpAddr;
//! # use std::sync::Arc;
//! # use std::time::Duration;
//! # use tombolo_engine::Local;
//! # use tombolo_services::{ConnectionInfo, Outgoing, RelayHook, Services, TransportKind};
//! # use tombolo_wire::token::KeySet;
//! # use tombolo_wire::{UserId, v1};
//! # struct NoRelay;
//! # impl RelayHook for NoRelay {
//! #     fn permit(&self, _: &UserId, _: &[IpAddr]) {}
//! #     fn ice_servers(&self, _: &UserId, _: Duration) -> v1::IceServers { Default::default() }
//! #     fn relay_ips(&self) -> Vec<IpAddr> { Vec::new() }
//! # }
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # let first_frame = v1::ClientFrame::default();
//! # let info = ConnectionInfo {
//! #     remote: ([127, 0, 0, 1], 1).into(),
//! #     transport: TransportKind::Quic,
//! # };
//! # let (relay, tokens) = (Arc::new(NoRelay), KeySet::new());
//! let engine = Arc::new(Local::new(Default::default()));
//! let services = Services::new(engine, relay, tokens, Default::default());
//!
//! match services.attach(first_frame, info).await {
//!     Ok(connection) => match connection.next_outgoing().await {
//!         Outgoing::Reliable(frame) => { /* send it in order; call again */ }
//!         Outgoing::Unreliable(frame) => { /* send it as a datagram; call again */ }
//!         Outgoing::Close(reason) => { /* send the reason and close */ }
//!     },
//!     Err(reject) => {
//!         let last_frame = v1::ServerFrame::from(&reject);
//!         /* send it and close */
//!     }
//! }
//! # }
//! ```
//!
//! Rooms are logs in the engine: a join or a leave is an entry, and each node that hosts members
//! applies the same entries. Messages and introductions between members don't touch the log; those
//! to members on the same node are handed over within the call that brought them.
//!
//! Who doesn't know yet where to meet submits a ticket to a pool ([`Config::pools`]), and is told of the match
//! that is found, which has a room.
//!
//! # What devices can do to each other
//!
//! * What a device sends to another may fill half of what is kept for that one; from then on the
//!   sender is refused. Only the node's own frames can find a device too far behind and end its
//!   session, and joins, of which all members are told, are few per user ([`Config::joins`]).
//! * All rates are per user, however many sessions it has.
//! * An introduction opens the relay for the relay's own addresses only: that is where the other
//!   member's relayed packets come from. No address in it is believed.
//! * The keys in a `Hello` come without a proof that the device has the private keys. Whoever claims
//!   another's identity key is introduced with it, but no link to it comes about: a link proves the
//!   key, and first messages are sealed to both keys of its device. What would remain is to pass
//!   on another's introductions under one's own name, so that a member takes the owner of the key for
//!   the user that copied it. In a room where its owner is, a copied identity is therefore refused
//!   (`ERROR_CODE_KEY_TAKEN`). Whoever comes first has it: a device that finds its key taken makes
//!   itself another.
//!
//! # Several nodes
//!
//! Nodes that share an engine are one cluster. Members of one room may be on any of them: each node
//! reads the room's log, and what members say to each other crosses the bus between their nodes. A
//! node believes of another what the log bears out: who is a member there, and with which keys.
#![forbid(unsafe_code)]

mod absence;
#[cfg(test)]
mod before;
mod catalogue;
mod clock;
mod cluster;
mod config;
mod connection;
mod drain;
mod duplicates;
mod entropy;
mod events;
mod field;
mod forward;
mod growth;
mod hooks;
mod host;
mod kept;
mod lock;
mod matchmaker;
mod node;
mod operate;
mod patience;
mod queue;
mod rate;
mod reject;
mod relay;
mod requests;
mod room_names;
mod server;
mod services;
mod session;
mod social;
mod stats;
mod transit;
mod vital;

pub use config::{Config, Duplicates, FieldConfig, Pace, ROOM_MEMBERS_MAX, RateLimit};
pub use connection::{Connection, Outgoing};
pub use drain::Drained;
pub use entropy::Entropy;
pub use events::{Change, RoomChange, RoomEvent, SessionChange, SessionEvent};
pub use field::{
    FIELD_SIGHT_RULES_MAX, FieldClassUse, FieldPass, FieldSight, FieldThing, THING_LASTS_MAX,
    THING_NAME_BYTES_MAX,
};
pub use hooks::{
    Admission, COMMAND_PAYLOAD_BYTES_MAX, Decision, DeviceCommand, HookSet, Hooks, JoinQuestion,
    Marking, MemberMessage, Reply, RoomTick, Verdict, Work,
};
pub use host::{MemberView, RoomMessages, RoomView, ServerActed};
pub use kept::requests::{
    ANSWER_BYTES_MAX, Begun as BegunRequest, REQUESTS_KEPT, RequestAnswer, RequestName,
    RequestRefusal,
};
pub use matchmaker::{MatchPool, PoolInfo, PoolObstacle, PoolWhy};
pub use operate::{NodeRecord, NodeState, Page, RoomInfo, SessionInfo};
pub use reject::Reject;
pub use relay::RelayHook;
pub use room_names::RoomNames;
pub use server::{NamedOperation, NewRoom};
pub use services::{ConnectionInfo, Services, TransportKind};
pub use social::{GroupOwner, GroupOwners, GroupView, LOG_SHARES, Notified};
pub use stats::{ClusterStats, FieldStats, Stats};
pub use tombolo_field::{
    Class as FieldClass, Dimensions as FieldDimensions, EntityId, Settings as FieldSettings,
    SettingsError as FieldSettingsError, Sight, Subject,
};
pub use tombolo_match::{
    Name as MatchName, Player as MatchPlayer, Reach as MatchReach, Ticket as MatchTicket,
    TicketId as MatchTicketId, Value as MatchValue,
};
pub use vital::{Broken, Vitals};
