//! The Rust SDK: joins a device to others, directly where the network allows.
//!
//! ```no_run
//! use tombolo_client::{Device, Lane, RoomOptions};
//!
//! # async fn example(url: &str, token: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::connect(url, token).await?;
//! let room = device.rooms().join_or_create("lobby", RoomOptions::default()).await?;
//! for user in room.members().iter().filter(|user| **user != device.session().user) {
//!     let peer = room.peer(user).first_message(Lane::Reliable, "hi").connect().await?;
//!     peer.send(Lane::Unreliable, "the path changes underneath; nothing to do about it")?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! * [`Device`]: one session with the cluster and one UDP socket for all peers;
//! * [`Room`]: members, their coming and going, messages through the node; properties, objects, an
//!   owner and durable messages, which outlive any node ([`Room::read`], [`Room::set`],
//!   [`Room::say`]);
//! * [`Inbox`] and [`Direct`]: messages from user to user, kept while the receiver is away;
//! * [`Group`]: members with roles, and what they say, kept for good;
//! * [`Notifications`]: what servers tell users, now or when they come back;
//! * [`Presence`]: who is online;
//! * [`Matchmaker`]: who doesn't know yet where to meet submits a [`Ticket`], and is told of the [`Match`]
//!   that was found, with its room and links with the others in it;
//! * [`Field`]: who is near, by position; neighbours are linked with [`Neighbour::connect`];
//! * [`Peer`]: an encrypted link to one member or neighbour, relayed at once and direct as soon as possible.
//!
//! A device that looks for others:
//!
//! ```no_run
//! # async fn example(device: tombolo_client::Device) -> Result<(), tombolo_client::Error> {
//! use tombolo_client::TicketEvent;
//!
//! let ticket = device.matchmaker().ticket("ranked");
//! let ticket = ticket.attribute("skill", 1200.0).attribute("mode", "duel").query("+skill:>=1000");
//! let mut ticket = ticket.submit().await?;
//! let found = loop {
//!     match ticket.next_event().await? {
//!         TicketEvent::Waits(status) => println!("probably {:?}", status.half_wait),
//!         TicketEvent::Proposed(proposal) => ticket.accept(proposal).await?,
//!         TicketEvent::Found(found) => break found,
//!         TicketEvent::Ended(reason) => panic!("no match: {reason}"),
//!         _ => {}
//!     }
//! };
//! while let Some(peer) = found.next_peer().await {
//!     println!("linked with {}, who plays in {:?}", peer.user(), found.team_of(peer.user()));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Inside, protocol logic lives in sans-IO crates (`tombolo-path`, `tombolo-turn`,
//! `tombolo-wire`); this crate holds sockets, tasks and QUIC. It does not do voice or files:
//! messages are bytes.
#![forbid(unsafe_code)]

mod command;
mod device;
mod error;
mod field;
mod http;
mod ice;
mod keys;
mod link;
mod links;
mod matchmaker;
mod net;
mod renewal;
mod retry;
mod room;
mod seal;
mod seldom;
mod session;
mod social;
mod tls;

pub use device::{Device, DeviceBuilder, SessionInfo};
pub use error::Error;
pub use field::{Field, FieldBuilder, FieldEvent, Neighbour, Position};
pub use http::development_token;
pub use link::{
    Lane, LinkState, LinkStatus, Message, Peer, RELIABLE_BYTES_MAX, SendError,
    UNRELIABLE_BYTES_ALWAYS,
};
pub use matchmaker::{
    Backfill, BackfillStatus, Match, MatchTeam, Matchmaker, Obstacle, Proposal, Settling, Ticket,
    TicketBuilder, TicketEvent, TicketStatus, WhyNot,
};
pub use net::{Dropped, Via, measure_nat};
pub use room::{
    FoundRooms, History, MemberView, MessageKind, PeerBuilder, Room, RoomEvent, RoomObject,
    RoomOptions, RoomView, Rooms,
};
pub use session::{TokenState, Transport};
pub use social::{
    Direct, DirectHistory, DirectMessage, DirectSent, Group, GroupEvent, GroupHistory, GroupList,
    GroupMember, GroupMembers, GroupMessage, GroupPosted, GroupRole, GroupSettings, Groups, Inbox,
    InboxEvent, ListedGroup, Notice, Notification, Notifications, Presence, PresenceStatus,
    PresenceWatch, UserCounts,
};
pub use tombolo_field::EntityId;
pub use tombolo_match::{Name, Player, Query as MatchQuery, Reach, TicketId, Value as MatchValue};
pub use tombolo_path::{Candidate, CandidateKind, Explanation, Policy, Verdict, probe::NatReport};
pub use tombolo_room::{
    Act, Aspect, Audience, By, Change, Changed, Comparison, Condition, Expectation, GroupId,
    Listing, Message as DurableMessage, ObjectId, ObjectPlan, Operation, Order, OwnerPolicy,
    PageEnd, Property, PropertyKey, Query, Reserve, RoomCode, Settings as RoomSettings,
    SettingsChange, Takeover, Target, Time, Value, Writers,
};
pub use tombolo_social::{MessageId, OperationId, Place};
pub use tombolo_wire::v1::ErrorCode;
pub use tombolo_wire::{FieldId, GroupName, RoomId, ServerUrl, TagName, UserId};
