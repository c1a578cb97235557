//! A pool of tickets as a deterministic state machine that proposes matches.
//!
//! A [`Ticket`] is one party that looks for others. What a match is to be like is in the pool's
//! [`Rules`]: teams and roles, equality, overlap, distance, range, latency by region, blocks, balance,
//! connectivity; each may relax with the wait. Beside them, a ticket has a [`Query`] of its own.
//!
//! A [`Pool`] is fed by a log of [`Entry`]s. Every reader of the log has the same tickets and the same
//! matches; one of them is the *matcher*: it calls [`Pool::propose`] and appends what comes of it. A
//! match exists only when its [`Body::Claimed`] is applied and all of its tickets are as it says, so
//! that no ticket is ever in two matches, however many believe that they are the matcher.
//!
//! ```
//! use tombolo_match::{Body, Entry, Event, Name, Player, Pool, Rules, Ticket, TicketId, Time, Value};
//!
//! let rules = Rules::parse(r#"
//!     name = "duel"
//!     players = { min = 2, max = 2 }
//!     rules = [{ kind = "distance", attribute = "skill", max = 100 }]
//! "#)?;
//! let mut pool = Pool::new(rules);
//! let now = Time::from_millis(1_000);
//! for (number, user, skill) in [(1, "alice", 1200.0), (2, "bob", 1260.0)] {
//!     let player = Player::new(user.parse()?).with(Name::parse("skill")?, Value::Number(skill));
//!     let body = Body::Submitted(Ticket::new(TicketId([number; 16]), vec![player]));
//!     assert_eq!(pool.apply(&Entry { time: now, body }).outcome, Ok(()));
//! }
//!
//! let step = pool.propose(now, 1_000);
//! let body = Body::Claimed(step.matches);
//! let applied = pool.apply(&Entry { time: now, body });
//! assert!(matches!(&applied.events[..], [Event::Matched(formed)] if formed.users().count() == 2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! No clock, no entropy, no engine. How much a call of `propose` does is bounded by a number of looks
//! at tickets, not by time, so that it does the same everywhere.
#![forbid(unsafe_code)]

mod contract;
mod entry;
mod event;
mod formed;
mod generated;
mod pool;
mod query;
mod rules;
mod ticket;
mod value;
mod word;

pub use contract::PlayerError;
pub use entry::{
    Answer, Backfill, Body, CLAIMS_MAX, ENTRY_BYTES_MAX, Entry, EntryError, LEASE_MAX, VERSION,
    Venue,
};
pub use event::{BackfillEnd, EndReason, Estimate, Event, Illegal};
pub use formed::{Formed, Party, Side};
pub use pool::{
    Applied, BACKFILLS_MAX, BEGUN_KEPT, BEGUN_WEIGHT_MAX, ENDED_LAST_MAX, ENDED_MAX, EXPLAINED_MAX,
    Excluded, LEAP_MAX, Miss, NODES_LOST_MAX, Obstacle, PLAYED_WEIGHT_MAX, Pool, Relaxation,
    SEATS_AWAITED, Seating, Settling, SnapshotError, Standing, Step, WEIGHT_MAX, Why,
};
pub use query::{
    Bound, CLAUSES_MAX, Clause, Occur, QUERY_BYTES_MAX, Query, QueryError, Test, WILDCARDS_MAX,
};
pub use rules::{
    Attribute, Check, DOCUMENT_BYTES_MAX, Judge, Measure, PLAYERS_MAX, REGIONS_MAX, RULES_MAX,
    Reason, Relax, Role, Rule, Rules, RulesError, STEPS_MAX, Shape, TEAM_ROLES_MAX, TEAMS_MAX,
    TICKETS_MAX, Team, Topology,
};
pub use ticket::{
    ATTRIBUTES_MAX, BLOCKS_MAX, Device, GRACE_MAX, PARTY_MAX, Player, ROLES_MAX, Reach, TAGS_MAX,
    Ticket, TicketError,
};
pub use value::{ITEMS_MAX, Kind, Merge, NUMBER_MAX, TEXT_BYTES_MAX, Value, ValueError};
pub use word::{
    BackfillId, MatchId, NAME_BYTES_MAX, Name, NameError, OperationId, SessionId, TicketId, Time,
};
