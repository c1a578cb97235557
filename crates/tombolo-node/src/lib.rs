//! A node as a library: engine, services, relay and gateway, put together.
//!
//! ```no_run
//! # async fn example() -> Result<(), tombolo_node::StartError> {
//! use tombolo_node::Node;
//!
//! let node = Node::builder().dev().listen([127, 0, 0, 1].into()).start().await?;
//! println!("devices connect to {}", node.ready().url);
//! node.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! A node listens, on each of its addresses, on
//!
//! ```text
//! port         UDP: sessions over QUIC   TCP: sessions over WebSocket, HTTP API
//! turn_port    UDP and TCP: STUN and TURN
//! turn_port+1  UDP: STUN, so that devices learn how their NAT maps
//! turns_port   TCP and UDP: TURN over TLS and DTLS
//! ```
//!
//! Unless it is given a certificate, it has a self-signed one with a key that lives as long as the
//! process; devices recognise it by the pin in [`Ready::url`]. So a new process has a new URL then.
#![forbid(unsafe_code)]

mod addresses;
mod builder;
mod certificate;
mod connections;
mod credentials;
mod error;
mod fleet;
mod groups;
mod hook;
mod http_hooks;
mod keys;
mod metrics;
mod node;
mod operate;
mod pools;
mod post;
mod relaying;
mod seal_claim;
mod sessions;
mod social;
mod webhook;

pub use builder::NodeBuilder;
pub use certificate::Certificate;
pub use connections::ConnectionConfig;
pub use error::{Broken, ReloadError, StartError};
pub use http_hooks::{HookOutcome, HookQuestion, HttpHooksConfig, HttpHooksStats};
pub use node::{Node, Ready, Stats};
pub use operate::{
    Asked, Draining, NodeStatus, Now, OperateError, Operator, Page, RANGE_MAX, Range, RoomStatus,
    UserStatus,
};
pub use pools::{PoolReason, PoolReasons, PoolStatus};
pub use post::PostError;
pub use sessions::SessionConfig;
pub use social::SocialConfig;
pub use tombolo_engine::{NatsAuth, NatsConfig, NatsTls, SealKey, SealStats};
pub use tombolo_gateway::{ApiKey, GroupOwner, GroupPage, GroupStatus, Scope};
pub use tombolo_services::{
    Admission, COMMAND_PAYLOAD_BYTES_MAX, Decision, DeviceCommand, Duplicates, EntityId,
    FIELD_SIGHT_RULES_MAX, FieldClass, FieldClassUse, FieldConfig, FieldDimensions, FieldPass,
    FieldSettings, FieldSettingsError, FieldSight, FieldThing, Hooks, JoinQuestion, Marking,
    MatchName, MatchPlayer, MatchPool, MatchReach, MatchTicket, MatchTicketId, MatchValue,
    MemberMessage, NamedOperation, NewRoom, Reject, Reply, RoomTick, Services, Sight, Subject,
    Verdict, Work,
};
pub use tombolo_turn::server::Cidr;
pub use webhook::{WebhookConfig, WebhookStats};
