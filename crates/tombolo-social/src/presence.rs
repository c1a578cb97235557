//! Who is online: what a node says of its own users, and what it makes of what all nodes say.
//!
//! ```text
//! devices → Own ── Changes, one number after the other ──▶ Watch → who follows whom
//!                ◀─ Ask, by who begins to listen or has missed a number
//!                ── Roll, all of a shard as of a number ─▶
//!                ── Beat, now and then: up to which number ─▶
//! ```
//!
//! Users are spread over shards by their names. [`Own`] tells of a node's users, shard by shard, and numbers
//! what it tells. [`Watch`] hears what all nodes, its own among them, tell of the shards in which somebody here
//! follows somebody: so a change crosses the bus once for a node that wants to know, however many
//! followers there are.
//!
//! A user may have devices on several nodes; the best status counts. A user that is nowhere any more is
//! shown as offline only after a grace time. Whoever is back by then, over whatever node, never was away:
//! a connection that broke, a session that moved, and a node that died look alike, and need no care of
//! their own.

mod own;
mod watch;

use tombolo_wire::UserId;

use crate::word::hash;

pub use own::{DeviceChange, Own};
pub use watch::{Ask, Command, Counts, Limits, Timer, TooMany, Watch};

/// How a user can be reached; the best of its devices counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Not at all.
    #[default]
    Offline,
    /// Connected, but all its devices say that nobody looks.
    Away,
    /// Connected.
    Online,
}

/// A part of all users, by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u8);

/// A device of a user: its session's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub [u8; 16]);

/// What a node tells of a shard after what it told before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Of which users.
    pub shard: Shard,
    /// 1, 2, 3, …
    pub number: u64,
    /// How they are now.
    pub users: Vec<(UserId, Status)>,
}

/// All of a node's users of a shard, as of what it told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roll {
    /// Of which users.
    pub shard: Shard,
    /// The last changes that are in it; 0 before the first.
    pub number: u64,
    /// Those that are not offline.
    pub users: Vec<(UserId, Status)>,
}

/// What a node says now and then, so that nobody is left behind by what got lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The last changes that it told, for each shard.
    pub numbers: Vec<u64>,
    /// How many users it has.
    pub counts: Counts,
}

/// How many shards there are. All nodes have to agree on it.
pub const SHARDS: usize = 256;

impl Shard {
    /// Where a user is.
    #[must_use]
    pub fn of(user: &UserId) -> Self {
        Self((hash(user.as_str()) & 0xff) as u8)
    }

    /// A shard by its number; `None` when there is none.
    #[must_use]
    pub fn parse(number: u32) -> Option<Self> {
        u8::try_from(number).ok().map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

const _: () = assert!(SHARDS == u8::MAX as usize + 1);
