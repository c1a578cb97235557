//! How much there is of what has a bound, in all and of each kind of keys.

use std::collections::BTreeMap;

use crate::Key;

/// What is held under keys, which are of the kind that their first token says.
#[derive(Debug, Default)]
pub(super) struct Held {
    all: usize,
    by_kind: BTreeMap<String, usize>,
}

/// How much there may be, in all and of one kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub(super) all: usize,
    pub(super) of_kind: usize,
}

impl Held {
    /// Whether there may be so much more under a key, when there may be so much in all and of its kind.
    pub(super) fn has_place(&self, key: &Key, more: usize, max: &Most) -> bool {
        let of_kind = self.by_kind.get(key.kind()).copied().unwrap_or_default();
        self.all.saturating_add(more) <= max.all && of_kind.saturating_add(more) <= max.of_kind
    }

    pub(super) fn add(&mut self, key: &Key, amount: usize) {
        self.all += amount;
        *self.by_kind.entry(key.kind().to_owned()).or_default() += amount;
    }

    pub(super) fn take(&mut self, key: &Key, amount: usize) {
        self.all -= amount;
        if let Some(of_kind) = self.by_kind.get_mut(key.kind()) {
            *of_kind -= amount;
            if *of_kind == 0 {
                self.by_kind.remove(key.kind());
            }
        }
    }
}
