//! Bounds and times.

use std::time::{Duration, SystemTime};

use tombolo_wire::NodeId;
use tombolo_wire::resend::Limits;

/// Bounds and times; the defaults are meant for the open internet.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// This node's name, as devices and other nodes see it; each node of a cluster has its own.
    pub node: NodeId,
    /// How long a session outlives its connection.
    pub resume_window: Duration,
    /// Sessions on this node.
    pub sessions_max: usize,
    /// Reliable frames that a device has not acknowledged; a device that is further behind is
    /// disconnected. Its memory is what a silent device can hold.
    pub outbox: Limits,
    /// Unreliable frames that wait for a connection; older ones are dropped.
    pub unreliable_queue_max: usize,
    /// Joins and leaves of a session that are not answered yet.
    pub requests_max: usize,
    /// How long the engine may take to carry out a join or a leave.
    pub engine_timeout: Duration,
    /// Rooms that a session may be a member of.
    pub rooms_per_session_max: usize,
    /// Members of a room whose creator did not say.
    pub members_default: u32,
    /// The most members that a creator may ask for.
    pub members_max: u32,
    /// Frames per session and their payload bytes, messages and introductions alike.
    pub rate: RateLimit,
    /// The time since the Unix epoch, for tokens.
    pub unix_now: fn() -> Duration,
}

/// How much may come at once and per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimit {
    /// Frames per second.
    pub frames_per_second: u32,
    /// Frames at once.
    pub frames_burst: u32,
    /// Payload bytes per second.
    pub bytes_per_second: u32,
    /// Payload bytes at once.
    pub bytes_burst: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: NodeId::parse("node").expect("the name is good"),
            resume_window: Duration::from_secs(30),
            sessions_max: 100_000,
            outbox: Limits::default(),
            unreliable_queue_max: 256,
            requests_max: 64,
            engine_timeout: Duration::from_secs(10),
            rooms_per_session_max: 64,
            members_default: 64,
            members_max: 1024,
            rate: RateLimit::default(),
            unix_now: system_time,
        }
    }
}

impl Default for RateLimit {
    /// 2,000 frames and 8 MiB per second, twice that at once.
    fn default() -> Self {
        Self {
            frames_per_second: 2_000,
            frames_burst: 4_000,
            bytes_per_second: 8 * 1024 * 1024,
            bytes_burst: 16 * 1024 * 1024,
        }
    }
}

fn system_time() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}
