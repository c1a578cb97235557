//! What has happened, for metrics.

use std::collections::BTreeMap;

use tombolo_wire::v1::ErrorCode;

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
