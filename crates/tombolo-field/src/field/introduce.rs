//! Those who are near each other, so that they can be linked.

use std::collections::BTreeSet;

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
    near: BTreeSet<Pair>,
    /// Those that were found in this tick.
    found: BTreeSet<Pair>,
    /// How many of them were not near before.
    newcomers: usize,
    /// What has not been told yet. A pair that is as it was told is in neither, so that they are never
    /// more than those that are near, or were when that was told.
    met: BTreeSet<Pair>,
    parted: BTreeSet<Pair>,
}

/// The lesser one first.
type Pair = (EntityId, EntityId);

impl Introductions {
    pub(super) fn begin(&mut self) {
        self.found.clear();
        self.newcomers = 0;
    }

    /// Whether two were near in the tick before.
    pub(super) fn are_near(&self, a: EntityId, b: EntityId) -> bool {
        self.near.contains(&(a.min(b), a.max(b)))
    }

    /// Two are near; false when they are one pair too many. Those that were near before stay.
    pub(super) fn find(&mut self, a: EntityId, b: EntityId) -> bool {
        let pair = (a.min(b), a.max(b));
        if !self.near.contains(&pair) && !self.found.contains(&pair) {
            if self.near.len() + self.newcomers >= PAIRS_MAX {
                return false;
            }
            self.newcomers += 1;
        }
        self.found.insert(pair);
        true
    }

    pub(super) fn end(&mut self) {
        for pair in self.near.difference(&self.found) {
            if !self.met.remove(pair) {
                self.parted.insert(*pair);
            }
        }
        for pair in self.found.difference(&self.near) {
            if !self.parted.remove(pair) {
                self.met.insert(*pair);
            }
        }
        std::mem::swap(&mut self.near, &mut self.found);
    }

    pub(super) fn poll(&mut self) -> Option<Introduction> {
        let parted = self.parted.pop_first();
        if let Some((a, b)) = parted {
            return Some(Introduction::Far(a, b));
        }
        let (a, b) = self.met.pop_first()?;
        Some(Introduction::Near(a, b))
    }
}

/// The most pairs that are near at once: linking more is of no use to a crowd.
pub const PAIRS_MAX: usize = 65_536;
