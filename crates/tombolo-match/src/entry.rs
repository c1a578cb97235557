//! What a pool's log holds.

mod decode;
mod encode;

use std::time::Duration;

use tombolo_wire::{NodeId, UserId};

use crate::formed::Formed;
use crate::ticket::{Device, Player, Reach, Ticket};
use crate::word::{BackfillId, MatchId, Name, TicketId, Time};

pub(crate) use decode::{array, parse_formed, parse_node, parse_ticket, parse_user, parse_venue};
pub(crate) use encode::{formed, node_lost, ticket, venue};

/// The version of the rules by which this crate applies entries. What is of another version is not read, as a node with
/// other rules would make another pool of it: nodes follow a pool no further when such an entry or snapshot comes.
///
/// It is to grow, by one for a release, when a log gives another pool than by the rules of the release before, or there
/// is a kind of entry that those do not know. Of the first the logs tell that the release before has kept
/// (`tests/kept`, see `CONTRIBUTING.md`); before there is a release no node has other rules, and it stays 1.
pub const VERSION: u32 = 1;

/// Longest encoded entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 512 * 1024;

/// The longest lease of a running match that asks for more users.
pub const LEASE_MAX: Duration = Duration::from_secs(10 * 60);

/// The most matches that one entry claims.
pub const CLAIMS_MAX: usize = 1024;

/// One entry of a pool's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What time it is in the pool, by the clock of the node that appended it.
    pub time: Time,
    /// What is to change.
    pub body: Body,
}

/// What an entry wants to change.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A party looks for a match.
    Submitted(Ticket),
    /// A party has other users than before; it keeps its place.
    Changed {
        /// Which.
        ticket: TicketId,
        /// All users that it has now.
        players: Vec<Player>,
    },
    /// A party no longer looks for a match.
    Cancelled(TicketId),
    /// A user's connection broke.
    Dropped {
        /// Of which ticket.
        ticket: TicketId,
        /// Who.
        user: UserId,
    },
    /// A user is there again, or with another device than before.
    Returned {
        /// Of which ticket.
        ticket: TicketId,
        /// Who.
        user: UserId,
        /// The device that is told from now on; `None` leaves that as it is.
        device: Option<Device>,
    },
    /// A user of a ticket is reached otherwise than before.
    Reached {
        /// Of which ticket.
        ticket: TicketId,
        /// Who.
        user: UserId,
        /// How.
        reach: Reach,
    },
    /// A node's life, and those before it, are over: users with devices there are away, and what it
    /// appends after this is refused.
    NodeLost {
        /// The node.
        node: NodeId,
        /// Which of its lives.
        incarnation: u64,
    },
    /// The matcher has made matches.
    Claimed(Vec<Formed>),
    /// A user says whether it is ready.
    Answered {
        /// For which match.
        id: MatchId,
        /// Who.
        user: UserId,
        /// What it says.
        answer: Answer,
    },
    /// A running match asks for more users, or is another than before.
    Backfill(Backfill),
    /// A running match is still there.
    Renewed {
        /// Which.
        id: BackfillId,
        /// For how long.
        lease: Duration,
    },
    /// A running match takes nobody any more.
    Closed(BackfillId),
    /// The users of these claims have their seats: from now on nobody says otherwise.
    Seated(Vec<MatchId>),
    /// The room of a claim has no place for its users: they look on, unless it was said that they have their seats.
    Unseated(MatchId),
    /// Nothing but the time.
    Ticked,
}

/// What a user says who is asked whether it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is.
    Accept,
    /// It is not.
    Decline,
}

/// A running match that asks for more users.
#[derive(Clone, Debug, PartialEq)]
pub struct Backfill {
    /// Which.
    pub id: BackfillId,
    /// The generation that this one follows; 0 for the first. Whoever knows an older one is refused.
    pub after: u32,
    /// Who is in which team: tickets keep their parties together.
    pub sides: Vec<(Name, Vec<Ticket>)>,
    /// Where it is played; `None` when nobody has said so: then where it was when it asked before.
    pub venue: Option<Venue>,
    /// How long it asks without a word.
    pub lease: Duration,
}

/// Where a match is played, and by whom it is hosted: what those who join it are judged by, and told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Venue {
    /// Where; `None` when the pool does not say.
    pub region: Option<Name>,
    /// Who hosts it; `None` when nobody does.
    pub host: Option<UserId>,
}

/// Why bytes are no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Longer than [`ENTRY_BYTES_MAX`].
    #[error("entry is too long")]
    TooLong,
    /// Not the encoding of an entry, or with impossible values.
    #[error("entry is malformed")]
    Malformed,
    /// Of rules that this crate does not know.
    #[error("entry is of version {version}, which is not known here")]
    Version {
        /// The entry's version.
        version: u32,
    },
}
