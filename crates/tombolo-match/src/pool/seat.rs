//! The tickets of a pool, by number.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Index, IndexMut};
use std::time::Duration;

use tombolo_wire::UserId;

use super::candidate::{Candidate, Gate};
use super::index::ClassId;
use super::joining::Place;
use super::search::Progress;
use crate::rules::Rules;
use crate::ticket::Ticket;
use crate::word::{MatchId, Time};

/// A ticket's number while it is in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(u32);

impl Key {
    pub(super) const FIRST: Self = Self(0);
    pub(super) const LAST: Self = Self(u32::MAX);

    pub(super) fn number(self) -> u32 {
        self.0
    }
}

/// A ticket in the pool.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) ticket: Ticket,
    /// Counts the changes of the party.
    pub(super) revision: u32,
    /// Since when it waits.
    pub(super) since: Time,
    /// Who came earlier has less, and keeps it.
    pub(super) order: u64,
    /// The match that asks whether its users are ready.
    pub(super) held: Option<MatchId>,
    /// Users whose connection broke, and until when they may come back.
    pub(super) away: BTreeMap<UserId, Time>,
    pub(super) candidate: Candidate,
    pub(super) gates: Box<[Gate]>,
    /// When the gates change next.
    pub(super) next_change: Option<Time>,
    /// Where the index has it; `None` when it cannot be matched now.
    pub(super) class: Option<ClassId>,
    /// Nobody fitted when it was looked at last, and nothing has changed since.
    pub(super) is_lonely: bool,
    /// Until when it does not look on ticks: it has looked at many in vain.
    pub(super) rests_until: Time,
    /// Where its next search goes on.
    pub(super) progress: Progress,
}

impl Seat {
    /// The seat of a ticket that nobody finds yet.
    pub(super) fn new(rules: &Rules, ticket: Ticket, candidate: Candidate, place: Place) -> Self {
        let gates = candidate.gates(rules, Duration::ZERO);
        Self {
            ticket,
            revision: place.revision,
            since: place.since,
            order: place.order,
            held: None,
            away: BTreeMap::new(),
            candidate,
            gates,
            next_change: None,
            class: None,
            is_lonely: false,
            rests_until: Time::ZERO,
            progress: Progress::default(),
        }
    }

    pub(super) fn place(&self) -> Place {
        Place {
            revision: self.revision,
            since: self.since,
            order: self.order,
        }
    }
}

/// All tickets.
#[derive(Debug, Default)]
pub(super) struct Seats {
    seats: Vec<Option<Seat>>,
    free: BTreeSet<u32>,
}

impl Seats {
    pub(super) fn insert(&mut self, seat: Seat) -> Key {
        if let Some(number) = self.free.pop_first() {
            self.seats[number as usize] = Some(seat);
            return Key(number);
        }
        self.seats.push(Some(seat));
        Key(u32::try_from(self.seats.len() - 1).expect("a pool's tickets are bounded"))
    }

    /// Puts a ticket where it was before; `None` when there is one already.
    pub(super) fn put(&mut self, number: u32, seat: Seat) -> Option<Key> {
        let len = u32::try_from(self.seats.len()).ok()?;
        if number >= len {
            self.free.extend(len..=number);
            self.seats.resize_with(number as usize + 1, || None);
        }
        if !self.free.remove(&number) {
            return None;
        }
        self.seats[number as usize] = Some(seat);
        Some(Key(number))
    }

    /// All tickets, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Seat)> {
        let seats = (0..).zip(&self.seats);
        seats.filter_map(|(number, seat)| Some((Key(number), seat.as_ref()?)))
    }

    /// The ticket of a number, if there is one.
    pub(super) fn key(&self, number: u32) -> Option<Key> {
        let seat = self.seats.get(number as usize)?;
        seat.as_ref().map(|_| Key(number))
    }

    /// The ticket that has a number now, if one has.
    pub(super) fn get(&self, key: Key) -> Option<&Seat> {
        self.seats.get(key.0 as usize)?.as_ref()
    }

    pub(super) fn remove(&mut self, key: Key) -> Seat {
        self.free.insert(key.0);
        let seat = self.seats[key.0 as usize].take();
        seat.expect("keys are of tickets that are there")
    }
}

impl Index<Key> for Seats {
    type Output = Seat;

    fn index(&self, key: Key) -> &Seat {
        let seat = self.seats[key.0 as usize].as_ref();
        seat.expect("keys are of tickets that are there")
    }
}

impl IndexMut<Key> for Seats {
    fn index_mut(&mut self, key: Key) -> &mut Seat {
        let seat = self.seats[key.0 as usize].as_mut();
        seat.expect("keys are of tickets that are there")
    }
}
