//! The matches that began lately: whoever was away then finds its own when it comes back.
//!
//! Nothing follows from them in the pool itself. They are in its snapshots, so that a reader that has not seen the
//! claim, as its log no longer has it, knows of the match all the same.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::UserId;

use super::{Pool, SnapshotError};
use crate::entry::{self, parse_formed};
use crate::formed::Formed;
use crate::generated as wire;
use crate::word::{TicketId, Time};

/// For how long a match that has begun is remembered.
pub const BEGUN_KEPT: Duration = Duration::from_secs(60);

/// What they may weigh; those that began first are forgotten first.
pub const BEGUN_WEIGHT_MAX: usize = 4 * 1024 * 1024;

/// Matches by the tickets that have found them.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// In the order in which they began.
    kept: BTreeMap<u64, Kept>,
    number_by_ticket: HashMap<TicketId, u64>,
    next: u64,
    weight: usize,
}

/// A match as a snapshot has it: most of them nobody asks for.
#[derive(Debug)]
struct Kept {
    since: Time,
    tickets: Box<[TicketId]>,
    formed: Bytes,
}

impl Kept {
    fn new(since: Time, formed: &Formed) -> Self {
        Self {
            since,
            tickets: formed.parties().map(|party| party.ticket).collect(),
            formed: entry::formed(formed).encode_to_vec().into(),
        }
    }

    fn weight(&self) -> usize {
        KEPT_BYTES + self.formed.len() + self.tickets.len() * TICKET_BYTES
    }

    fn formed(&self) -> Option<Formed> {
        let wire = wire::Formed::decode(self.formed.clone()).ok()?;
        parse_formed(wire).ok()
    }
}

impl Begun {
    /// Takes note of a match, and forgets those for which it is too late.
    pub(super) fn note(&mut self, now: Time, formed: &Formed) {
        self.keep(Kept::new(now, formed));
        while let Some((_, first)) = self.kept.first_key_value()
            && now.since(first.since) >= BEGUN_KEPT
        {
            self.forget_first();
        }
    }

    fn keep(&mut self, kept: Kept) {
        let number = self.next;
        self.next += 1;
        for ticket in &kept.tickets {
            self.number_by_ticket.insert(*ticket, number);
        }
        self.weight += kept.weight();
        self.kept.insert(number, kept);
        while self.weight > BEGUN_WEIGHT_MAX && self.forget_first() {}
    }

    fn forget_first(&mut self) -> bool {
        let first = self.kept.keys().next().copied();
        first.is_some_and(|first| self.forget_number(first))
    }

    /// The match of a ticket has come to nothing.
    pub(super) fn forget(&mut self, ticket: &TicketId) {
        if let Some(number) = self.number_by_ticket.get(ticket).copied() {
            self.forget_number(number);
        }
    }

    fn forget_number(&mut self, number: u64) -> bool {
        let Some(kept) = self.kept.remove(&number) else {
            return false;
        };
        self.weight -= kept.weight();
        for ticket in &kept.tickets {
            if self.number_by_ticket.get(ticket) == Some(&number) {
                self.number_by_ticket.remove(ticket);
            }
        }
        true
    }

    fn of(&self, ticket: &TicketId) -> Option<&Kept> {
        self.kept.get(self.number_by_ticket.get(ticket)?)
    }

    /// What a snapshot has of them.
    pub(super) fn on_wire(&self) -> Vec<wire::Begun> {
        let kept = self.kept.values().map(|kept| wire::Begun {
            since_ms: kept.since.as_millis(),
            formed: kept.formed.clone(),
        });
        kept.collect()
    }

    /// Takes one out of a snapshot; they come in the order in which they began.
    pub(super) fn restore(&mut self, begun: wire::Begun) -> Result<(), SnapshotError> {
        let formed = parse_formed(wire::Formed::decode(begun.formed)?)?;
        self.keep(Kept::new(Time::from_millis(begun.since_ms), &formed));
        Ok(())
    }
}

impl Pool {
    /// The match that a ticket of a user has found within [`BEGUN_KEPT`], as long as there is room to remember it: up
    /// to [`BEGUN_WEIGHT_MAX`].
    #[must_use]
    pub fn begun(&self, ticket: &TicketId, user: &UserId, now: Time) -> Option<Formed> {
        let kept = self.begun.of(ticket)?;
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

/// About what one takes beside its bytes.
const KEPT_BYTES: usize = 96;

/// About what a ticket takes in the list and in the index.
const TICKET_BYTES: usize = 64;
