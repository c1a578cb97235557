//! Which operations came before.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::event::{Event, Illegal};
use crate::word::{ObjectId, OperationId, Time};

/// How many operations are remembered in order to recognise a repeated one. Who wanted something before those came is
/// told that nobody knows whether it was done.
pub const OPERATIONS_MAX: usize = 4096;

/// For how long, by the room's clock: longer than anybody repeats an append, elections of the engine
/// included.
pub const OPERATIONS_REMEMBERED: Duration = Duration::from_secs(120);

/// How many are remembered however old they are by the room's clock: one entry of a node whose clock is ahead may make
/// it leap.
const OPERATIONS_MIN: usize = 32;

/// What an operation has made: whoever repeats it learns that, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// The object.
    pub object: Option<ObjectId>,
    /// The number of the durable message.
    pub message: Option<u64>,
}

impl Made {
    /// What an entry with these events has made.
    #[must_use]
    pub fn of(events: &[Event]) -> Self {
        let mut made = Self::default();
        for event in events {
            if let Event::ObjectCreated { id, .. } = event {
                made.object = Some(*id);
            } else if let Event::Said(message) = event {
                made.message = Some(message.number);
            }
        }
        made
    }
}

/// What became of an operation.
pub(super) type Done = Result<Made, Illegal>;

/// The last operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Operations {
    /// Oldest first.
    order: VecDeque<(OperationId, Time)>,
    known: BTreeMap<OperationId, Done>,
    /// When the last one came that is not known any more.
    forgotten: Option<Time>,
}

impl Operations {
    pub(super) fn contains(&self, operation: &OperationId) -> bool {
        self.known.contains_key(operation)
    }

    pub(super) fn done(&self, operation: &OperationId) -> Option<Done> {
        self.known.get(operation).copied()
    }

    /// Whether one that is not known may have come before, if it was wanted first at that time.
    pub(super) fn may_have_come(&self, wanted: Time) -> bool {
        self.forgotten.is_some_and(|forgotten| wanted <= forgotten)
    }

    pub(super) fn forgotten(&self) -> Option<Time> {
        self.forgotten
    }

    /// Takes note of an operation that is not known yet, and forgets old ones.
    pub(super) fn remember(&mut self, operation: OperationId, now: Time, done: Done) {
        while let Some((oldest, since)) = self.order.front()
            && (self.order.len() >= OPERATIONS_MAX
                || self.order.len() >= OPERATIONS_MIN && since.after(OPERATIONS_REMEMBERED) < now)
        {
            self.known.remove(oldest);
            self.forgotten = Some(*since);
            self.order.pop_front();
        }
        self.order.push_back((operation, now));
        self.known.insert(operation, done);
    }

    /// Oldest first, each with its time and what became of it.
    pub(super) fn iter(&self) -> impl Iterator<Item = (OperationId, Time, Done)> {
        let order = self.order.iter();
        order.map(|(operation, time)| (*operation, *time, self.known[operation]))
    }

    /// `None` when some come twice or there are too many.
    pub(super) fn restore(
        operations: Vec<(OperationId, Time, Done)>,
        forgotten: Option<Time>,
    ) -> Option<Self> {
        let known: BTreeMap<_, _> = operations
            .iter()
            .map(|(id, _, done)| (*id, *done))
            .collect();
        let is_good = known.len() == operations.len() && known.len() <= OPERATIONS_MAX;
        let order = operations
            .into_iter()
            .map(|(id, time, _)| (id, time))
            .collect();
        is_good.then_some(Self {
            order,
            known,
            forgotten,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_leaps_makes_nobody_forget_what_was_done_a_moment_ago() {
        let mut operations = Operations::default();
        let done = Ok(Made::default());
        let id = |number: usize| OperationId((number as u128).to_be_bytes());
        let early = Time::from_millis(1_000);
        let late = early.after(2 * OPERATIONS_REMEMBERED);
        operations.remember(id(0), early, done);
        for number in 1..OPERATIONS_MIN {
            operations.remember(id(number), late, done);
            assert!(operations.contains(&id(0)));
            assert_eq!(operations.forgotten(), None);
        }
        operations.remember(id(OPERATIONS_MIN), late, done);
        assert!(!operations.contains(&id(0)));
        assert_eq!(operations.forgotten(), Some(early));
    }
}
