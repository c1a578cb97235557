//! How long those waited who were matched lately.

use std::collections::VecDeque;
use std::time::Duration;

use indexmap::IndexMap;

use super::candidate::{Candidate, Fact};
use crate::event::Estimate;

/// How many waits are remembered of each kind of ticket.
const WAITS_MAX: usize = 64;

/// How many kinds of tickets are told apart.
const KINDS_MAX: usize = 1024;

/// Waits by the size of the party and the texts that must be equal.
#[derive(Debug, Default)]
pub(super) struct Waits {
    by_kind: IndexMap<String, VecDeque<Duration>>,
}

impl Waits {
    pub(super) fn count(&mut self, candidate: &Candidate, waited: Duration) {
        for kind in [kind(candidate), String::new()] {
            if self.by_kind.len() == KINDS_MAX && !self.by_kind.contains_key(&kind) {
                // Whoever comes last takes the place of the kind that was seen first.
                self.by_kind.swap_remove_index(0);
            }
            let waits = self.by_kind.entry(kind).or_default();
            if waits.len() == WAITS_MAX {
                waits.pop_front();
            }
            waits.push_back(waited);
        }
    }

    pub(super) fn estimate(&self, candidate: &Candidate) -> Option<Estimate> {
        let waits = self.by_kind.get(&kind(candidate));
        let waits = waits.or_else(|| self.by_kind.get(""))?;
        let mut waits: Vec<_> = waits.iter().copied().collect();
        waits.sort_unstable();
        let at = |share: usize| {
            waits
                .get((waits.len() * share / 10).min(waits.len() - 1))
                .copied()
        };
        Some(Estimate {
            half: at(5)?,
            most: at(9)?,
        })
    }
}

fn kind(candidate: &Candidate) -> String {
    let mut kind = candidate.size.to_string();
    for fact in &candidate.facts {
        if let Fact::Text(text) = fact {
            kind.push_str(&format!(" {text:?}"));
        }
    }
    kind
}
