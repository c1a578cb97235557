//! Which operations came before.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::word::{OperationId, Time};

/// How many operations are remembered in order to recognise a repeated one.
pub const OPERATIONS_MAX: usize = 4096;

/// For how long, by the room's clock: longer than anybody repeats an append, elections of the engine
/// included.
pub const OPERATIONS_REMEMBERED: Duration = Duration::from_secs(120);

/// The last operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Operations {
    /// Oldest first.
    order: VecDeque<(OperationId, Time)>,
    /// Whether each was legal.
    known: BTreeMap<OperationId, bool>,
}

impl Operations {
    pub(super) fn contains(&self, operation: &OperationId) -> bool {
        self.known.contains_key(operation)
    }

    pub(super) fn was_legal(&self, operation: &OperationId) -> Option<bool> {
        self.known.get(operation).copied()
    }

    /// Takes note of an operation that is not known yet, and forgets old ones.
    pub(super) fn remember(&mut self, operation: OperationId, now: Time, was_legal: bool) {
        while let Some((oldest, since)) = self.order.front()
            && (self.order.len() >= OPERATIONS_MAX || since.after(OPERATIONS_REMEMBERED) < now)
        {
            self.known.remove(oldest);
            self.order.pop_front();
        }
        self.order.push_back((operation, now));
        self.known.insert(operation, was_legal);
    }

    /// Oldest first, each with its time and whether it was legal.
    pub(super) fn iter(&self) -> impl Iterator<Item = (OperationId, Time, bool)> {
        let order = self.order.iter();
        order.map(|(operation, time)| (*operation, *time, self.known[operation]))
    }

    /// `None` when some come twice or there are too many.
    pub(super) fn restore(operations: Vec<(OperationId, Time, bool)>) -> Option<Self> {
        let known: BTreeMap<_, _> = operations
            .iter()
            .map(|(id, _, legal)| (*id, *legal))
            .collect();
        let is_good = known.len() == operations.len() && known.len() <= OPERATIONS_MAX;
        let order = operations
            .into_iter()
            .map(|(id, time, _)| (id, time))
            .collect();
        is_good.then_some(Self { order, known })
    }
}
