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
    by_kind: IndexMap<String, Recent>,
}

/// The last waits of a kind.
#[derive(Debug, Default)]
struct Recent {
    /// The oldest first.
    order: VecDeque<Duration>,
    /// The shortest first.
    sorted: Vec<Duration>,
}

impl Recent {
    fn push(&mut self, waited: Duration) {
        if self.order.len() == WAITS_MAX
            && let Some(oldest) = self.order.pop_front()
            && let Ok(at) = self.sorted.binary_search(&oldest)
        {
            self.sorted.remove(at);
        }
        self.order.push_back(waited);
        let at = self.sorted.partition_point(|shorter| *shorter < waited);
        self.sorted.insert(at, waited);
    }

    /// The wait that so many tenths are shorter than.
    fn at(&self, tenths: usize) -> Option<Duration> {
        let last = self.sorted.len().checked_sub(1)?;
        let at = (self.sorted.len() * tenths / 10).min(last);
        self.sorted.get(at).copied()
    }
}

impl From<VecDeque<Duration>> for Recent {
    fn from(order: VecDeque<Duration>) -> Self {
        let mut sorted: Vec<_> = order.iter().copied().collect();
        sorted.sort_unstable();
        Self { order, sorted }
    }
}

impl Waits {
    pub(super) fn count(&mut self, candidate: &Candidate, symbols: &Symbols, waited: Duration) {
        for kind in [kind(candidate, symbols), String::new()] {
            if self.by_kind.len() == KINDS_MAX && !self.by_kind.contains_key(&kind) {
                // Whoever comes last takes the place of the kind that was seen first, but not of all together.
                let is_all = self
                    .by_kind
                    .first()
                    .is_some_and(|(kind, _)| kind.is_empty());
                self.by_kind.shift_remove_index(usize::from(is_all));
            }
            self.by_kind.entry(kind).or_default().push(waited);
        }
    }

    /// The waits of each kind, in the order in which they would be forgotten.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &VecDeque<Duration>)> {
        let all = self.by_kind.iter();
        all.map(|(kind, waits)| (kind.as_str(), &waits.order))
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
            by_kind: all
                .into_iter()
                .map(|(kind, waits)| (kind, waits.into()))
                .collect(),
        })
    }

    pub(super) fn estimate(&self, candidate: &Candidate, symbols: &Symbols) -> Option<Estimate> {
        let waits = self.by_kind.get(&kind(candidate, symbols));
        let waits = waits.or_else(|| self.by_kind.get(""))?;
        Some(Estimate {
            half: waits.at(5)?,
            most: waits.at(9)?,
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
