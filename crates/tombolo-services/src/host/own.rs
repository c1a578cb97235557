//! Which entries of a room's log are from this node: of the room's beginning and its end the node tells whose entry
//! brings it about, and no other. Any entry may be the one that ends it, since it says what time it is.

use std::collections::HashSet;

use tombolo_room::OperationId;

/// Entries that were appended here, or may have been, and have not been read yet.
#[derive(Default)]
pub(super) struct OwnEntries {
    new: HashSet<OperationId>,
    /// Those before the new ones.
    old: HashSet<OperationId>,
}

impl OwnEntries {
    /// An entry is about to be appended. Of some nobody learns that they were not: the oldest are forgotten.
    pub(super) fn add(&mut self, operation: OperationId) {
        if self.new.len() >= NEW_MAX {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(operation);
    }

    /// Whether an entry that is read, or was refused, is one of them; it is none any more.
    pub(super) fn take(&mut self, operation: OperationId) -> bool {
        let [is_new, is_old] = [&mut self.new, &mut self.old].map(|own| own.remove(&operation));
        is_new || is_old
    }
}

/// So many entries of one room are remembered at least, more than may leave at once, and twice as many at most.
const NEW_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_entries_are_known_each_once_and_the_oldest_are_forgotten() {
        let mut own = OwnEntries::default();
        let operation = |number: usize| OperationId((number as u128).to_be_bytes());
        for number in 0..3 * NEW_MAX {
            own.add(operation(number));
            // As of an entry that is tried again.
            own.add(operation(number));
        }
        assert!(own.new.len() + own.old.len() <= 2 * NEW_MAX);
        assert!(!own.take(operation(0)));
        for number in 2 * NEW_MAX..3 * NEW_MAX {
            assert!(own.take(operation(number)));
            assert!(!own.take(operation(number)));
        }
    }
}
