//! Where state that outlives a node is kept.
//!
//! Nodes keep connections, the engine keeps state. It has four parts, which together are an
//! [`Engine`]:
//!
//! * [`Bus`]: messages, at most once and fast;
//! * [`Log`]: one totally ordered sequence of entries per key, which every reader applies alike;
//! * [`Kv`]: values that change by compare-and-swap;
//! * [`Leases`]: values that end by themselves when they are not renewed.
//!
//! [`Local`] is the engine of a single node, in process; [`Nats`] that of a cluster. Whatever the engine, its results are honest: an
//! error says whether nothing was written (`Conflict`, `Unavailable`) or whether nobody knows
//! (`Unknown`); whoever gets the last reads again and looks for its own [`OperationId`]. Offsets and
//! revisions only grow, over deletion too, and carry the [`Epoch`] of the store that gave them: that
//! makes them fencing tokens.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tombolo_engine::{Engine, Expect, Key, Local, OperationId, Purpose, TailEvent};
//!
//! let engine: std::sync::Arc<dyn Engine> = std::sync::Arc::new(Local::new(Default::default()));
//! let room = Key::new(["room", "lobby"])?;
//! let operation = OperationId([1; 16]);
//! let first = engine.append(&room, "created".into(), Purpose::More, Expect::Empty, operation).await?;
//!
//! let mut tail = engine.tail(&room, None).await?;
//! let event = tail.next().await;
//! assert!(matches!(event, Some(TailEvent::Entry { at, .. }) if at == first));
//! # Ok(())
//! # }
//! ```
//!
//! Whoever can reach the servers of an engine can speak on its bus, unless it is [`Sealed`].
//!
//! [`conformance`] is the suite that every engine passes.
#![forbid(unsafe_code)]

mod bus;
pub mod conformance;
mod key;
mod kv;
pub mod latest;
mod local;
mod log;
mod nats;
mod sealed;

use std::pin::Pin;

pub use bus::{
    Bus, BusEvent, Feed, Message, PublishError, Request, RequestError, Server, Subscription,
};
pub use key::{Key, KeyError, Pattern};
pub use kv::{CasError, Kv, KvEntry, Leases, Revision, Watch, WatchEvent};
pub use local::{Local, LocalConfig, LogShare, OpenError};
pub use log::{
    AppendError, Expect, Log, Offset, OperationId, Purpose, RetireError, SnapshotError, Tail,
    TailEvent,
};
pub use nats::{
    Nats, NatsAuth, NatsConfig, NatsError, NatsStats, NatsTls, Refusal, Version, VersionError,
};
pub use sealed::{SealError, SealKey, SealKeyId, SealRefusal, SealStats, Sealed};

/// Largest message, log entry or value, in bytes.
pub const VALUE_BYTES_MAX: usize = 512 * 1024;

/// Largest message of an engine, with the seal that may be around it.
pub(crate) const BUS_BYTES_MAX: usize = VALUE_BYTES_MAX + sealed::SEAL_BYTES;

/// Largest snapshot of a log, in bytes. Where it is kept in parts, all of them are there before any of them
/// can be read.
pub const SNAPSHOT_BYTES_MAX: usize = 48 * 1024 * 1024;

/// All parts.
pub trait Engine: Bus + Log + Kv + Leases {}

impl<T: Bus + Log + Kv + Leases> Engine for T {}

/// What the methods return: a future that can be kept behind a `dyn` trait.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Which store gave an [`Offset`] or a [`Revision`]: later stores have greater epochs.
///
/// A store that is made anew, or lost what it had, counts from the beginning again, in another epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// The engine cannot be reached or does not answer; nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("engine is unavailable")]
pub struct Unavailable;
