//! What is remembered for as long as there is room for it; what came first is forgotten first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Things that are found by any of several ids, each by the last one that has it.
#[derive(Debug)]
pub(super) struct Memory<I, T> {
    /// In the order in which they came.
    kept: BTreeMap<u64, Kept<I, T>>,
    number_by_id: HashMap<I, u64>,
    next: u64,
    weight: usize,
}

#[derive(Debug)]
struct Kept<I, T> {
    ids: Box<[I]>,
    thing: T,
    weight: usize,
}

impl<I, T> Default for Memory<I, T> {
    fn default() -> Self {
        Self {
            kept: BTreeMap::new(),
            number_by_id: HashMap::new(),
            next: 0,
            weight: 0,
        }
    }
}

impl<I: Clone + Eq + Hash, T> Memory<I, T> {
    /// Remembers one more, and forgets others until all together weigh no more than that.
    pub(super) fn insert(&mut self, ids: Box<[I]>, thing: T, weight: usize, weight_max: usize) {
        let number = self.next;
        self.next += 1;
        for id in &ids {
            if let Some(before) = self.number_by_id.insert(id.clone(), number) {
                self.forget_if_replaced(before);
            }
        }
        self.weight += weight;
        self.kept.insert(number, Kept { ids, thing, weight });
        while self.weight > weight_max && self.forget_first() {}
    }

    pub(super) fn get(&self, id: &I) -> Option<&T> {
        let number = self.number_by_id.get(id)?;
        self.kept.get(number).map(|kept| &kept.thing)
    }

    /// All, in the order in which they came.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.kept.values().map(|kept| &kept.thing)
    }

    /// What came first.
    pub(super) fn first(&self) -> Option<&T> {
        self.kept.first_key_value().map(|(_, kept)| &kept.thing)
    }

    /// Forgets what an id leads to.
    pub(super) fn forget(&mut self, id: &I) {
        if let Some(number) = self.number_by_id.get(id).copied() {
            self.forget_number(number);
        }
    }

    /// Forgets what came first; says whether there was anything.
    pub(super) fn forget_first(&mut self) -> bool {
        let first = self.kept.keys().next().copied();
        first.is_some_and(|first| self.forget_number(first))
    }

    fn forget_number(&mut self, number: u64) -> bool {
        let Some(kept) = self.kept.remove(&number) else {
            return false;
        };
        self.weight -= kept.weight;
        for id in &kept.ids {
            if self.number_by_id.get(id) == Some(&number) {
                self.number_by_id.remove(id);
            }
        }
        true
    }

    /// Forgets what none of its ids leads to any more.
    fn forget_if_replaced(&mut self, number: u64) {
        let Some(kept) = self.kept.get(&number) else {
            return;
        };
        let mut ids = kept.ids.iter();
        if ids.all(|id| self.number_by_id.get(id) != Some(&number)) {
            self.forget_number(number);
        }
    }
}
