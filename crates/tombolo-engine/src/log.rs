//! One totally ordered sequence of entries per key.

use std::fmt;

use bytes::Bytes;

use crate::{BoxFuture, Epoch, Key, Unavailable};

/// One totally ordered sequence of entries per key.
pub trait Log: Send + Sync + 'static {
    /// Appends an entry and returns where it is.
    ///
    /// With an [`Expect`] other than `Any`, of several writers who expect the same exactly one
    /// wins. Engines use the operation's id to recognise a repetition where they can; they don't
    /// promise to, so entries carry it too and readers drop repeated ones. Where there is a bound, a
    /// share of it is left to entries whose [`Purpose`] is an end, so that what is there can be ended
    /// when nothing more has a place.
    ///
    /// # Errors
    /// As [`AppendError`] says.
    fn append<'a>(
        &'a self,
        key: &'a Key,
        entry: Bytes,
        purpose: Purpose,
        expect: Expect,
        operation: OperationId,
    ) -> BoxFuture<'a, Result<Offset, AppendError>>;

    /// Reads a log from after an offset, or from its beginning, and goes on as it grows. Begins with
    /// the latest snapshot when there is one that says more than `after`, and with a reset when
    /// `after` is of a store that is gone.
    ///
    /// # Errors
    /// When the engine is away.
    fn tail<'a>(
        &'a self,
        key: &'a Key,
        after: Option<Offset>,
    ) -> BoxFuture<'a, Result<Box<dyn Tail>, Unavailable>>;

    /// Keeps what a reader has made of the entries up to and including `at`, in place of them.
    ///
    /// # Errors
    /// As [`SnapshotError`] says.
    fn snapshot<'a>(
        &'a self,
        key: &'a Key,
        at: Offset,
        state: Bytes,
    ) -> BoxFuture<'a, Result<(), SnapshotError>>;

    /// Says that the entry at `at` ended the log's use: its entries and its snapshot are gone at once, and whoever
    /// has not read them all is told [`TailEvent::Retired`], after a reset if it has read some. The last offset
    /// stays known, and may be appended after, but the engine may forget all when nothing follows for long.
    ///
    /// # Errors
    /// As [`RetireError`] says.
    fn retire<'a>(&'a self, key: &'a Key, at: Offset) -> BoxFuture<'a, Result<(), RetireError>>;

    /// Whether nothing can be written any more, neither to logs nor to values, until the process starts anew.
    fn is_broken(&self) -> bool {
        false
    }

    /// Waits until that [is so](Self::is_broken).
    fn broken(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// What a tail yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailEvent {
    /// Everything up to and including `at`, as somebody else made it; what was read before is
    /// replaced.
    Snapshot {
        /// The last entry that is in it.
        at: Offset,
        /// What [`Log::snapshot`] was given.
        state: Bytes,
    },
    /// The next entry.
    Entry {
        /// Where it is.
        at: Offset,
        /// What was appended.
        entry: Bytes,
    },
    /// Of a log that was retired nothing is left up to and including `at`, after which it goes on: whoever
    /// appends expects that to be the last.
    Retired {
        /// Its last entry.
        at: Offset,
    },
    /// What was read before is void; the log follows from its beginning.
    Reset,
    /// All that was in the log when the tail began has been read. Comes once.
    Synced,
}

/// Reads one log in order, without gaps.
pub trait Tail: Send {
    /// Waits for what comes next; `None` when the engine has gone for good. Safe to cancel.
    fn next(&mut self) -> BoxFuture<'_, Option<TailEvent>>;
}

/// Where an entry is. Later entries of a log have greater offsets, and not only by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset {
    /// Which store counted.
    pub epoch: Epoch,
    /// Place within the epoch.
    pub seq: u64,
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch.0, self.seq)
    }
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// There is something more after it.
    More,
    /// Something ends by it: a member leaves, a room closes, a ticket is cancelled.
    End,
}

/// What must be the case for an entry to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing: append anyhow.
    Any,
    /// The log was never written to, or was forgotten.
    Empty,
    /// The last entry is there.
    Last(Offset),
}

/// Names an attempt to write, at random, so that its entry can be recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub [u8; 16]);

/// Why an entry was not appended, or may not have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The expectation did not hold; nothing was written.
    #[error("log has another last entry")]
    Conflict,
    /// Larger than [`VALUE_BYTES_MAX`](crate::VALUE_BYTES_MAX); nothing was written.
    #[error("entry is too large")]
    TooLarge,
    /// The engine holds as much as it may; nothing was written.
    #[error("engine is full")]
    Full,
    /// The engine is away; nothing was written.
    #[error("engine is unavailable")]
    Unavailable,
    /// No answer came: the entry may have been written. Read the log and look for the operation.
    #[error("entry may or may not have been written")]
    Unknown,
}

/// Why a snapshot was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The log has no entry there (any more).
    #[error("log has no such entry")]
    NoSuchEntry,
    /// Larger than [`SNAPSHOT_BYTES_MAX`](crate::SNAPSHOT_BYTES_MAX).
    #[error("snapshot is too large")]
    TooLarge,
    /// The engine is away.
    #[error("engine is unavailable")]
    Unavailable,
}

/// Why a log was not retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RetireError {
    /// Something was appended after the entry.
    #[error("log has another last entry")]
    Conflict,
    /// The engine is away.
    #[error("engine is unavailable")]
    Unavailable,
}
