//! What has happened, for metrics.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tombolo_wire::v1::ErrorCode;

use crate::lock::lock;

/// What is there and what has happened since the node began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sessions now, with and without a connection.
    pub sessions: usize,
    /// Rooms that this node has members in now.
    pub rooms: usize,
    /// Sessions that went on after their connection broke.
    pub resumed: u64,
    /// Sessions that ended because nobody resumed them in time.
    pub expired: u64,
    /// Messages handed to a member's session.
    pub delivered: u64,
    /// Introductions handed to a member's session.
    pub introduced: u64,
    /// Unreliable messages dropped because a connection was too slow, or there was none.
    pub dropped: u64,
    /// What was refused, by the code that the device was told.
    pub refused: BTreeMap<ErrorCode, u64>,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) resumed: Counter,
    pub(crate) expired: Counter,
    pub(crate) delivered: Counter,
    pub(crate) introduced: Counter,
    pub(crate) dropped: Counter,
    refused: Mutex<BTreeMap<ErrorCode, u64>>,
}

/// Counts one thing.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn count_refused(&self, code: ErrorCode) {
        *lock(&self.refused).entry(code).or_default() += 1;
    }

    pub(crate) fn stats(&self, sessions: usize, rooms: usize) -> Stats {
        Stats {
            sessions,
            rooms,
            resumed: self.resumed.value(),
            expired: self.expired.value(),
            delivered: self.delivered.value(),
            introduced: self.introduced.value(),
            dropped: self.dropped.value(),
            refused: lock(&self.refused).clone(),
        }
    }
}
