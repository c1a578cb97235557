//! What an entry changed.

use std::time::Duration;

use tombolo_wire::UserId;

use crate::formed::Formed;
use crate::ticket::TicketError;
use crate::word::{BackfillId, MatchId, TicketId, Time};

/// Something that changed, the same for every reader of the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A ticket waits.
    Queued {
        /// Which.
        ticket: TicketId,
        /// How long it will probably wait; `None` when nobody like it was matched lately.
        estimate: Option<Estimate>,
    },
    /// A ticket's party is another than before.
    Changed {
        /// Which.
        ticket: TicketId,
        /// How often it has changed.
        revision: u32,
    },
    /// A user of a ticket is away.
    Dropped {
        /// Which.
        ticket: TicketId,
        /// Who.
        user: UserId,
        /// When its ticket ends, if the user does not come back.
        until: Time,
    },
    /// A user of a ticket is there again.
    Returned {
        /// Which.
        ticket: TicketId,
        /// Who.
        user: UserId,
    },
    /// The users of a match are asked whether they are ready.
    Asked {
        /// What they have found.
        formed: Box<Formed>,
        /// Until when they have time.
        until: Time,
    },
    /// A user is ready.
    Accepted {
        /// For which match.
        id: MatchId,
        /// Who.
        user: UserId,
    },
    /// Not all were ready, or a running match had no place: those who were ready look on, where they were.
    Failed {
        /// Which match.
        id: MatchId,
        /// The tickets that look on.
        requeued: Vec<TicketId>,
    },
    /// A match begins: its tickets have ended.
    Matched(Box<Formed>),
    /// A ticket has ended without a match.
    Ended {
        /// Which.
        ticket: TicketId,
        /// Why.
        reason: EndReason,
    },
    /// A claim came to nothing: one of its tickets was not there any more.
    Refused {
        /// Which match.
        id: MatchId,
    },
    /// A running match asks for more users.
    BackfillOpened {
        /// Which.
        id: BackfillId,
        /// At which generation.
        generation: u32,
    },
    /// A running match asks for nobody any more.
    BackfillEnded {
        /// Which.
        id: BackfillId,
        /// Why.
        reason: BackfillEnd,
    },
}

/// Why a ticket ended without a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndReason {
    /// Its users wanted it.
    Cancelled,
    /// A user did not come back.
    Gone,
    /// A user was not ready.
    Declined,
    /// A user did not say whether it is ready.
    Unanswered,
}

/// Why a running match asks for nobody any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackfillEnd {
    /// It wanted to.
    Closed,
    /// It did not renew its lease.
    Expired,
    /// It is full.
    Filled,
}

/// How long a ticket will probably wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Half of those like it waited less.
    pub half: Duration,
    /// Nine of ten of those like it waited less.
    pub most: Duration,
}

/// Why an entry changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Illegal {
    /// The ticket itself.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The ticket is there, or was lately.
    #[error("this ticket was submitted already")]
    Repeated,
    /// A user looks for a match with another ticket.
    #[error("{user} has another ticket in this pool")]
    Busy {
        /// Who.
        user: UserId,
    },
    /// The pool holds as many tickets as it takes.
    #[error("the pool is full")]
    Full,
    /// There is no such ticket, match or user, or not any more.
    #[error("there is no such ticket, match or user here")]
    Unknown,
    /// The ticket's match asks whether its users are ready.
    #[error("this ticket has found a match")]
    Held,
    /// A running match is of another generation.
    #[error("the running match is of generation {generation} by now")]
    Stale {
        /// Which it is.
        generation: u32,
    },
    /// A running match with teams that the pool does not have, or with too many users in one.
    #[error("the teams of the running match are not those of the pool")]
    Teams,
    /// A device of a node whose life is over.
    #[error("the node of the device is lost")]
    Lost,
    /// A lease of no time, or longer than [`LEASE_MAX`](crate::LEASE_MAX).
    #[error("a lease lasts at most 10 minutes")]
    Lease,
}
