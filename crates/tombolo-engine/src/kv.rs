//! Values that change by compare-and-swap.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::{BoxFuture, Epoch, Key, Unavailable};

/// Values that change by compare-and-swap.
pub trait Kv: Send + Sync + 'static {
    /// Reads a value, not older than any write that was acknowledged before.
    ///
    /// # Errors
    /// When the engine is away.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KvEntry>, Unavailable>>;

    /// Writes a value, or deletes it with `None`, if its revision is the expected one: `None` when it
    /// must be absent. Returns the new revision.
    ///
    /// # Errors
    /// As [`CasError`] says.
    fn cas<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision, CasError>>;

    /// Reads all values whose keys have more tokens after `prefix`, and goes on as they change. The
    /// changes of one value come in order, those of several in any.
    ///
    /// # Errors
    /// When the engine is away.
    fn watch<'a>(&'a self, prefix: &'a Key) -> BoxFuture<'a, Result<Box<dyn Watch>, Unavailable>>;
}

/// Values that end by themselves, so that what a dead node holds does not stay held.
pub trait Leases: Send + Sync + 'static {
    /// Values that are deleted [`lease_time`](Self::lease_time) after they were last written:
    /// whoever holds one renews it by `cas` with the revision that it has, and that renewal's
    /// revision is the next one's expectation. They need not outlive the engine.
    ///
    /// A watch tells the end of a lease, but may do so late, by up to the time of the lease again,
    /// and an engine that was away tells it by a reset. Who must know sooner keeps a clock of its
    /// own from the last `Put`.
    fn leases(&self) -> &dyn Kv;

    /// How long a lease lasts that is not renewed.
    fn lease_time(&self) -> Duration;
}

/// A value and its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEntry {
    /// What was written.
    pub value: Bytes,
    /// By which write.
    pub revision: Revision,
}

/// Which write made a value. Later writes have greater revisions, after a deletion too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Which store counted.
    pub epoch: Epoch,
    /// Place within the epoch.
    pub number: u64,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch.0, self.number)
    }
}

/// What a [`Watch`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A value as it is now.
    Put {
        /// Its key.
        key: Key,
        /// The value.
        entry: KvEntry,
    },
    /// A value was deleted.
    Deleted {
        /// Its key.
        key: Key,
        /// The deletion's.
        revision: Revision,
    },
    /// All values that there were have been read.
    Synced,
    /// Changes were missed: forget what was read; all values follow, then `Synced`.
    Reset,
}

/// Follows values as they change.
pub trait Watch: Send {
    /// Waits for what comes next; `None` when the engine has gone for good. Safe to cancel.
    fn next(&mut self) -> BoxFuture<'_, Option<WatchEvent>>;
}

/// Why a value was not written, or may not have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CasError {
    /// The value has another revision, or is there, or is absent; nothing was written.
    #[error("value has another revision")]
    Conflict,
    /// Larger than [`VALUE_BYTES_MAX`](crate::VALUE_BYTES_MAX); nothing was written.
    #[error("value is too large")]
    TooLarge,
    /// The engine holds as much as it may; nothing was written.
    #[error("engine is full")]
    Full,
    /// The engine is away; nothing was written.
    #[error("engine is unavailable")]
    Unavailable,
    /// No answer came: the value may have been written. Read it again.
    #[error("value may or may not have been written")]
    Unknown,
}
