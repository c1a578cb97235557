//! Introductions that have begun links: a node may hand one over again, and a peer that was not answered says it again.
//! Of what it says first the application has heard then.

use std::collections::{BTreeMap, VecDeque};

use crate::keys::PublicKey;

/// Of more, those of the device with the most give way.
const BEGUN_MAX: usize = 512;

/// The introductions that have begun links, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Begun(VecDeque<One>);

#[derive(Debug)]
struct One {
    identity: PublicKey,
    attempt: u64,
    /// The peer has no answer, and says the same again.
    is_unanswered: bool,
}

/// Whether an introduction begins a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// It has not been heard before.
    First,
    /// Once more: the answer to it did not get across.
    Again,
    /// It has begun one.
    Not,
}

impl Begun {
    pub(super) fn is_known(&self, identity: PublicKey, attempt: u64) -> bool {
        self.0.iter().any(|one| one.is(identity, attempt))
    }

    /// Remembers it.
    pub(super) fn begin(&mut self, identity: PublicKey, attempt: u64) -> Begins {
        if let Some(known) = self.0.iter_mut().find(|one| one.is(identity, attempt)) {
            return match std::mem::take(&mut known.is_unanswered) {
                true => Begins::Again,
                false => Begins::Not,
            };
        }
        if self.0.len() >= BEGUN_MAX {
            self.forget_one();
        }
        self.0.push_back(One {
            identity,
            attempt,
            is_unanswered: false,
        });
        Begins::First
    }

    /// The answer to it did not get across.
    pub(super) fn begins_again(&mut self, identity: PublicKey, attempt: u64) {
        if let Some(known) = self.0.iter_mut().find(|one| one.is(identity, attempt)) {
            known.is_unanswered = true;
        }
    }

    fn forget_one(&mut self) {
        let mut count_by_identity = BTreeMap::new();
        for one in &self.0 {
            *count_by_identity.entry(one.identity).or_insert(0) += 1;
        }
        let most = count_by_identity.iter().max_by_key(|(_, count)| **count);
        let oldest = most.and_then(|(most, _)| self.0.iter().position(|one| one.identity == *most));
        if let Some(oldest) = oldest {
            self.0.remove(oldest);
        }
    }
}

impl One {
    fn is(&self, identity: PublicKey, attempt: u64) -> bool {
        self.identity == identity && self.attempt == attempt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_begins_many_links_has_nobody_elses_introductions_forgotten() {
        let [alice, mallory] = [1, 2].map(|seed| PublicKey([seed; 32]));
        let mut begun = Begun::default();
        assert_eq!(begun.begin(alice, 1), Begins::First);
        let many = 2 * BEGUN_MAX as u64;
        for attempt in 1..=many {
            assert_eq!(begun.begin(mallory, attempt), Begins::First);
        }
        assert_eq!(begun.0.len(), BEGUN_MAX);
        assert_eq!(begun.begin(alice, 1), Begins::Not);
        assert_eq!(begun.begin(mallory, many), Begins::Not);
        assert_eq!(begun.begin(mallory, 1), Begins::First);
    }
}
