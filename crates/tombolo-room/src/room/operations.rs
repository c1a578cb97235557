//! Which operations came before.

use std::collections::{BTreeSet, VecDeque};
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
    known: BTreeSet<OperationId>,
}

impl Operations {
    pub(super) fn contains(&self, operation: &OperationId) -> bool {
        self.known.contains(operation)
    }

    /// Takes note of an operation that is not known yet, and forgets old ones.
    pub(super) fn remember(&mut self, operation: OperationId, now: Time) {
        while let Some((oldest, since)) = self.order.front()
            && (self.order.len() >= OPERATIONS_MAX || since.after(OPERATIONS_REMEMBERED) < now)
        {
            self.known.remove(oldest);
            self.order.pop_front();
        }
        self.order.push_back((operation, now));
        self.known.insert(operation);
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(OperationId, Time)> {
        self.order.iter()
    }

    /// `None` when some come twice or there are too many.
    pub(super) fn restore(order: VecDeque<(OperationId, Time)>) -> Option<Self> {
        let known: BTreeSet<_> = order.iter().map(|(operation, _)| *operation).collect();
        let is_good = known.len() == order.len() && order.len() <= OPERATIONS_MAX;
        is_good.then_some(Self { order, known })
    }
}
