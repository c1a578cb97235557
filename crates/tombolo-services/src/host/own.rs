//! Which entries of a room's log are from this node: of the room's beginning and its end the node tells whose entry
//! brings it about, and no other.

use std::collections::VecDeque;

use tombolo_room::OperationId;

/// Entries that were appended here, or may have been, and have not been read yet.
#[derive(Default)]
pub(super) struct OwnEntries(VecDeque<OperationId>);

impl OwnEntries {
    /// An entry is about to be appended. Of some nobody learns that they were not: the oldest are forgotten.
    pub(super) fn add(&mut self, operation: OperationId) {
        if self.0.len() >= OWN_MAX {
            self.0.pop_front();
        }
        self.0.push_back(operation);
    }

    /// Whether an entry that is read, or was refused, is one of them; it is none any more.
    pub(super) fn take(&mut self, operation: OperationId) -> bool {
        let at = self.0.iter().position(|own| *own == operation);
        at.is_some_and(|at| self.0.remove(at).is_some())
    }
}

/// Entries of one room that are remembered: as many as there may be members that leave at once.
const OWN_MAX: usize = 4096;
