//! The matches that began lately: whoever was away then finds its own when it comes back.
//!
//! Nothing follows from them in the pool itself. They are in its snapshots, so that a reader that has not seen the
//! claim, as its log no longer has it, knows of the match all the same.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::UserId;

use super::memory::Memory;
use super::{Pool, SnapshotError};
use crate::entry::{self, parse_formed};
use crate::formed::Formed;
use crate::generated as wire;
use crate::word::{TicketId, Time};

/// For how long a match that has begun is remembered.
pub const BEGUN_KEPT: Duration = Duration::from_secs(60);

/// What they may weigh in a snapshot, and about three times as much in memory; those that began first are forgotten
/// first. There is room for all duels of [`BEGUN_KEPT`] at 500 a second.
pub const BEGUN_WEIGHT_MAX: usize = 4 * 1024 * 1024;

const _: () = assert!(BEGUN_WEIGHT_MAX as u64 >= 500 * BEGUN_KEPT.as_secs() * DUEL_BYTES);

/// Matches by the tickets that have found them.
#[derive(Debug, Default)]
pub(super) struct Begun(Memory<TicketId, Kept>);

/// A match as a snapshot has it: most of them nobody asks for.
#[derive(Debug)]
struct Kept {
    since: Time,
    formed: Bytes,
}

impl Kept {
    fn formed(&self) -> Option<Formed> {
        let wire = wire::Formed::decode(self.formed.clone()).ok()?;
        parse_formed(wire).ok()
    }
}

impl Begun {
    /// Takes note of a match, and forgets those for which it is too late.
    pub(super) fn note(&mut self, now: Time, formed: &Formed) {
        self.keep(now, formed);
        while let Some(first) = self.0.first()
            && now.since(first.since) >= BEGUN_KEPT
        {
            self.0.forget_first();
        }
    }

    fn keep(&mut self, since: Time, formed: &Formed) {
        let tickets = formed.parties().map(|party| party.ticket).collect();
        let formed: Bytes = entry::formed(formed).encode_to_vec().into();
        let weight = KEPT_BYTES + formed.len();
        let kept = Kept { since, formed };
        self.0.insert(tickets, kept, weight, BEGUN_WEIGHT_MAX);
    }

    /// The match of a ticket has come to nothing.
    pub(super) fn forget(&mut self, ticket: &TicketId) {
        self.0.forget(ticket);
    }

    /// What a snapshot has of them.
    pub(super) fn on_wire(&self) -> Vec<wire::Begun> {
        let kept = self.0.iter().map(|kept| wire::Begun {
            since_ms: kept.since.as_millis(),
            formed: kept.formed.clone(),
        });
        kept.collect()
    }

    /// Takes one out of a snapshot; they come in the order in which they began.
    pub(super) fn restore(&mut self, begun: wire::Begun) -> Result<(), SnapshotError> {
        let formed = parse_formed(wire::Formed::decode(begun.formed)?)?;
        self.keep(Time::from_millis(begun.since_ms), &formed);
        Ok(())
    }
}

impl Pool {
    /// The match that a ticket of a user has found within [`BEGUN_KEPT`], as long as there is room to remember it: up
    /// to [`BEGUN_WEIGHT_MAX`].
    #[must_use]
    pub fn begun(&self, ticket: &TicketId, user: &UserId, now: Time) -> Option<Formed> {
        let kept = self.begun.0.get(ticket)?;
        if now.since(kept.since) >= BEGUN_KEPT {
            return None;
        }
        let formed = kept.formed()?;
        let parties = formed.parties().filter(|party| party.ticket == *ticket);
        let is_in_it = parties
            .flat_map(|party| &party.users)
            .any(|(member, _)| member == user);
        is_in_it.then_some(formed)
    }
}

/// What one has in a snapshot beside its match: since when, and how long it is.
const KEPT_BYTES: usize = 16;

/// About what a match of two has there, whose names have 16 letters.
const DUEL_BYTES: u64 = 136;
