//! Values that change by compare-and-swap.

use std::fmt;

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

    /// Reads all values whose keys have more tokens after `prefix`, and goes on as they change.
    ///
    /// # Errors
    /// When the engine is away.
    fn watch<'a>(&'a self, prefix: &'a Key) -> BoxFuture<'a, Result<Box<dyn Watch>, Unavailable>>;
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

/// Follows values in the order in which they change.
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
