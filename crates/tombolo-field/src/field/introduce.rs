//! Those who are near each other, so that they can be linked.

use std::collections::{BTreeSet, VecDeque};

use super::EntityId;

/// Two who both observe and may both see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Introduction {
    /// They have come near.
    Near(EntityId, EntityId),
    /// They are no longer near.
    Far(EntityId, EntityId),
}

/// All pairs that are near.
#[derive(Debug, Default)]
pub(super) struct Introductions {
    near: BTreeSet<(EntityId, EntityId)>,
    /// Those that were found in this tick.
    found: BTreeSet<(EntityId, EntityId)>,
    events: VecDeque<Introduction>,
}

impl Introductions {
    pub(super) fn begin(&mut self) {
        self.found.clear();
    }

    /// Whether two were near in the tick before.
    pub(super) fn are_near(&self, a: EntityId, b: EntityId) -> bool {
        self.near.contains(&(a.min(b), a.max(b)))
    }

    pub(super) fn find(&mut self, a: EntityId, b: EntityId) {
        self.found.insert((a.min(b), a.max(b)));
    }

    pub(super) fn end(&mut self) {
        for (a, b) in self.near.difference(&self.found) {
            self.events.push_back(Introduction::Far(*a, *b));
        }
        for (a, b) in self.found.difference(&self.near) {
            self.events.push_back(Introduction::Near(*a, *b));
        }
        std::mem::swap(&mut self.near, &mut self.found);
    }

    pub(super) fn poll(&mut self) -> Option<Introduction> {
        self.events.pop_front()
    }
}
