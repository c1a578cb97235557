//! What each rule knows of the tickets of one group.

use super::candidate::{Fact, Gate};
use super::symbols::Symbol;
use crate::rules::{Check, Judge, Rule, Topology};
use crate::ticket::Reach;

/// What one rule knows of the tickets of a group, and what they ask of it.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    statistic: Statistic,
    /// What is asked: by whoever asks most, or by whoever waits longest.
    limit: Option<f64>,
    /// The regions that come into question for all.
    regions: u64,
    /// Of a match that runs already.
    played: Option<Played>,
}

/// How those are who play already. What they break keeps nobody away who is no further off than they are.
#[derive(Clone, Debug, Default)]
struct Played {
    /// How far they are off.
    off: Option<f64>,
    /// Their texts, if there are several.
    texts: Vec<Symbol>,
}

#[derive(Clone, Debug)]
enum Statistic {
    Nothing,
    /// The text of all, and whether there are others.
    Texts {
        first: Option<Symbol>,
        is_mixed: bool,
    },
    /// What all have.
    Common(Option<Vec<Symbol>>),
    Spread {
        low: f64,
        high: f64,
    },
    /// The worst of all, by region.
    Worst(Vec<f64>),
    /// The two worst ranks.
    Ranks(Option<(u8, Option<u8>)>),
}

/// A ticket as a rule sees it.
#[derive(Clone, Copy)]
pub(super) struct Look<'f> {
    pub(super) fact: &'f Fact,
    pub(super) worst_rank: u8,
    pub(super) gate: Gate,
    /// Waits longer than all others.
    pub(super) is_oldest: bool,
}

impl Tally {
    pub(super) fn new(rule: &Rule) -> Self {
        let statistic = match &rule.check {
            Check::Equal { .. } => Statistic::Texts {
                first: None,
                is_mixed: false,
            },
            Check::Overlap { .. } => Statistic::Common(None),
            Check::Distance { .. } | Check::Range { .. } => Statistic::Spread {
                low: f64::INFINITY,
                high: f64::NEG_INFINITY,
            },
            Check::Latency { regions, .. } => Statistic::Worst(vec![0.0; regions.len()]),
            Check::Connectivity {
                topology: Topology::Mesh,
                ..
            } => Statistic::Ranks(None),
            // Blocks are looked at by the group, the others when it is complete.
            Check::Block | Check::Balance { .. } | Check::Connectivity { .. } => Statistic::Nothing,
        };
        Self {
            statistic,
            limit: None,
            regions: u64::MAX,
            played: None,
        }
    }

    pub(super) fn clear(&mut self, rule: &Rule) {
        if let Statistic::Worst(worst) = &mut self.statistic {
            worst.fill(0.0);
        } else {
            self.statistic = Self::new(rule).statistic;
        }
        self.limit = None;
        self.regions = u64::MAX;
        self.played = None;
    }

    /// What is asked.
    pub(super) fn limit(&self) -> Option<f64> {
        self.eased(self.limit)
    }

    /// The same, where whoever asks it is one of several.
    pub(super) fn eased(&self, limit: Option<f64>) -> Option<f64> {
        let played = self.played.as_ref().and_then(|played| played.off);
        match (limit, played) {
            (Some(limit), Some(off)) if matches!(self.statistic, Statistic::Common(_)) => {
                Some(limit.min(off))
            }
            (Some(limit), Some(off)) => Some(limit.max(off)),
            (limit, _) => limit,
        }
    }

    pub(super) fn is_of_texts(&self) -> bool {
        matches!(self.statistic, Statistic::Texts { .. })
    }

    /// Whether texts are different already.
    pub(super) fn is_mixed(&self) -> bool {
        matches!(self.statistic, Statistic::Texts { is_mixed: true, .. })
    }

    /// All who were added play already, in some region or in any.
    pub(super) fn begin_running<'f>(
        &mut self,
        rule: &Rule,
        facts: impl Iterator<Item = &'f Fact>,
        region: Option<usize>,
    ) {
        self.regions = region.map_or(u64::MAX, |region| 1 << region);
        let text = |fact: &Fact| match fact {
            Fact::Text(text) => Some(*text),
            Fact::None | Fact::Set(_) | Fact::Number(_) | Fact::Latencies(_) => None,
        };
        let mut played = Played::default();
        match &self.statistic {
            Statistic::Texts { is_mixed: true, .. } => {
                played.texts = facts.filter_map(text).collect()
            }
            Statistic::Common(common) => {
                played.off = common.as_ref().map(|common| common.len() as f64);
            }
            Statistic::Spread { low, high } => {
                played.off = Some(deviation(&rule.check, *low, *high));
            }
            Statistic::Worst(worst) => {
                let open = worst.iter().enumerate();
                let open = open.filter(|(region, _)| self.regions & 1 << region != 0);
                played.off = open.map(|(_, worst)| *worst).min_by(f64::total_cmp);
            }
            Statistic::Ranks(Some((worst, Some(second)))) if !are_direct(*worst, *second) => {
                played.off = Some(f64::from(*worst));
            }
            Statistic::Texts { .. } | Statistic::Ranks(_) | Statistic::Nothing => {}
        }
        self.played = Some(played);
    }

    /// How far those who play already are off, by what is not known here.
    pub(super) fn set_off(&mut self, off: f64) {
        if let Some(played) = &mut self.played {
            played.off = Some(off);
        }
    }

    /// Whether the rule holds of the group with one more.
    pub(super) fn fits(&self, rule: &Rule, judge: Judge, look: Look<'_>) -> bool {
        let limit = self.eased(self.limit_with(rule, judge, look));
        match (&self.statistic, look.fact) {
            (Statistic::Texts { first, is_mixed }, Fact::Text(text)) => {
                let mut texts = self.played.iter().flat_map(|played| &played.texts);
                limit.is_none()
                    || !is_mixed && first.is_none_or(|first| first == *text)
                    || texts.any(|played| played == text)
            }
            (Statistic::Common(common), Fact::Set(set)) => limit.is_none_or(|least| {
                let count = match common {
                    Some(common) => common_count(common, set),
                    None => set.len(),
                };
                count as f64 >= least
            }),
            (Statistic::Spread { low, high }, Fact::Number(number)) => limit.is_none_or(|limit| {
                deviation(&rule.check, low.min(*number), high.max(*number)) <= limit
            }),
            (Statistic::Worst(worst), Fact::Latencies(latencies)) => {
                let regions = self.regions_with(look);
                regions != 0
                    && limit.is_none_or(|limit| {
                        let both = worst.iter().zip(latencies).enumerate();
                        let mut both = both.filter(|(region, _)| regions & 1 << region != 0);
                        both.any(|(_, (worst, latency))| worst.max(*latency) <= limit)
                    })
            }
            (Statistic::Ranks(ranks), _) => {
                limit.is_none()
                    || self.is_off_by(look.worst_rank)
                    || ranks.is_none_or(|(worst, _)| are_direct(worst, look.worst_rank))
                        && ranks.is_none_or(|(worst, second)| {
                            second.is_none_or(|second| are_direct(worst, second))
                        })
            }
            _ => true,
        }
    }

    /// Takes one more into account.
    pub(super) fn add(&mut self, rule: &Rule, judge: Judge, look: Look<'_>) {
        self.limit = self.limit_with(rule, judge, look);
        self.regions = self.regions_with(look);
        match (&mut self.statistic, look.fact) {
            (Statistic::Texts { first, is_mixed }, Fact::Text(text)) => {
                *is_mixed |= first.is_some_and(|first| first != *text);
                *first = Some(*text);
            }
            (Statistic::Common(common), Fact::Set(set)) => match common {
                Some(common) => common.retain(|text| set.binary_search(text).is_ok()),
                None => *common = Some(set.to_vec()),
            },
            (Statistic::Spread { low, high }, Fact::Number(number)) => {
                *low = low.min(*number);
                *high = high.max(*number);
            }
            (Statistic::Worst(worst), Fact::Latencies(latencies)) => {
                for (worst, latency) in worst.iter_mut().zip(latencies) {
                    *worst = worst.max(*latency);
                }
            }
            (Statistic::Ranks(ranks), _) => {
                let rank = look.worst_rank;
                *ranks = Some(match *ranks {
                    None => (rank, None),
                    Some((worst, _)) if rank >= worst => (rank, Some(worst)),
                    Some((worst, second)) => (worst, Some(second.map_or(rank, |s| s.max(rank)))),
                });
            }
            _ => {}
        }
    }

    /// How far the group is from the ideal, in the rule's unit; `None` when that means nothing.
    pub(super) fn deviation(&self, rule: &Rule) -> Option<f64> {
        if let Statistic::Spread { low, high } = &self.statistic {
            return (low <= high).then(|| deviation(&rule.check, *low, *high).max(0.0));
        }
        self.region().map(|(_, worst)| worst)
    }

    /// The best region, and what the worst reached of the group has there.
    pub(super) fn region(&self) -> Option<(usize, f64)> {
        let Statistic::Worst(worst) = &self.statistic else {
            return None;
        };
        let regions = worst.iter().copied().enumerate();
        let near = regions.filter(|(region, worst)| {
            let is_open = self.regions & 1 << region != 0;
            is_open && worst.is_finite() && self.limit().is_none_or(|limit| *worst <= limit)
        });
        near.min_by(|(_, a), (_, b)| a.total_cmp(b))
    }

    /// The regions that come into question with one more. Where those are who play, all the others are who join them.
    fn regions_with(&self, look: Look<'_>) -> u64 {
        match &self.played {
            Some(_) => self.regions,
            None => self.regions & look.gate.regions,
        }
    }

    /// Whether those who play are not all direct with each other, and somebody among them is as hard to reach.
    fn is_off_by(&self, rank: u8) -> bool {
        let played = self.played.as_ref().and_then(|played| played.off);
        played.is_some_and(|worst| f64::from(rank) <= worst)
    }

    /// What is asked with one more.
    pub(super) fn limit_with(&self, rule: &Rule, judge: Judge, look: Look<'_>) -> Option<f64> {
        let gate = look.gate.limit;
        match judge {
            Judge::Oldest if look.is_oldest => gate,
            Judge::Oldest => self.limit,
            Judge::Each => match (self.limit, gate) {
                (Some(a), Some(b)) if matches!(rule.check, Check::Overlap { .. }) => Some(a.max(b)),
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
        }
    }
}

/// How far numbers from `low` to `high` are from the ideal.
fn deviation(check: &Check, low: f64, high: f64) -> f64 {
    if let Check::Range {
        low: from,
        high: to,
        ..
    } = check
    {
        return (from - low).max(high - to);
    }
    high - low
}

fn common_count(common: &[Symbol], set: &[Symbol]) -> usize {
    let both = common.iter();
    both.filter(|text| set.binary_search(text).is_ok()).count()
}

/// Whether devices with these ranks have a direct path.
fn are_direct(a: u8, b: u8) -> bool {
    let of = |rank| Reach::ALL.into_iter().find(|reach| reach.rank() == rank);
    match (of(a), of(b)) {
        (Some(a), Some(b)) => a.is_direct_with(b),
        _ => false,
    }
}
