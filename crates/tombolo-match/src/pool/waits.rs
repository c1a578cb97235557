//! How long those waited who were matched lately.

use std::collections::VecDeque;
use std::time::Duration;

use indexmap::IndexMap;

use super::candidate::{Candidate, Fact};
use super::symbols::Symbols;
use crate::event::Estimate;

/// How many waits are remembered of each kind of ticket.
const WAITS_MAX: usize = 64;

/// How many kinds of tickets are told apart.
const KINDS_MAX: usize = 1024;

/// Longest name of a kind but for its last text: what differs only beyond is one kind.
const KIND_BYTES_MAX: usize = 64;

/// Waits by the size of the party and the texts that must be equal.
#[derive(Debug, Default)]
pub(super) struct Waits {
    by_kind: IndexMap<String, VecDeque<Duration>>,
}

impl Waits {
    pub(super) fn count(&mut self, candidate: &Candidate, symbols: &Symbols, waited: Duration) {
        for kind in [kind(candidate, symbols), String::new()] {
            if self.by_kind.len() == KINDS_MAX && !self.by_kind.contains_key(&kind) {
                // Whoever comes last takes the place of the kind that was seen first.
                self.by_kind.shift_remove_index(0);
            }
            let waits = self.by_kind.entry(kind).or_default();
            if waits.len() == WAITS_MAX {
                waits.pop_front();
            }
            waits.push_back(waited);
        }
    }

    /// The waits of each kind, in the order in which they would be forgotten.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &VecDeque<Duration>)> {
        let all = self.by_kind.iter();
        all.map(|(kind, waits)| (kind.as_str(), waits))
    }

    /// The waits of all kinds; `None` when they are more than are remembered.
    pub(super) fn restore(all: Vec<(String, VecDeque<Duration>)>) -> Option<Self> {
        let is_good = |(_, waits): &(String, VecDeque<Duration>)| {
            !waits.is_empty() && waits.len() <= WAITS_MAX
        };
        if all.len() > KINDS_MAX || !all.iter().all(is_good) {
            return None;
        }
        Some(Self {
            by_kind: all.into_iter().collect(),
        })
    }

    pub(super) fn estimate(&self, candidate: &Candidate, symbols: &Symbols) -> Option<Estimate> {
        let waits = self.by_kind.get(&kind(candidate, symbols));
        let waits = waits.or_else(|| self.by_kind.get(""))?;
        let mut waits: Vec<_> = waits.iter().copied().collect();
        let last = waits.len().checked_sub(1)?;
        let mut at = |share: usize| {
            let at = (waits.len() * share / 10).min(last);
            *waits.select_nth_unstable(at).1
        };
        Some(Estimate {
            half: at(5),
            most: at(9),
        })
    }
}

fn kind(candidate: &Candidate, symbols: &Symbols) -> String {
    let mut kind = candidate.size.to_string();
    for fact in &candidate.facts {
        if let Fact::Text(text) = fact
            && kind.len() < KIND_BYTES_MAX
        {
            kind.push(' ');
            kind.push_str(symbols.text(*text));
        }
    }
    kind
}
