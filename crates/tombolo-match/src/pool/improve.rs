//! The matches of one step made better before anybody hears of them.
//!
//! A ticket's search takes the best that it finds, whatever that leaves to others. Here parties change
//! places: between two matches, when both together become better; between a match and those who wait; and
//! from a match into another that begins beside it. Whoever has waited longer than who would take its place
//! gives it up only for as much quality as its wait weighs against
//! [`patience`](crate::Rules::patience), and to nobody of lower priority.

use super::Pool;
use super::candidate::Fact;
use super::group::View;
use super::index::{Place, primary_rule};
use super::search::{Base, GATHERED_MIN, Pass, Search};
use super::seat::Key;
use super::step::Work;
use crate::formed::Formed;
use crate::rules::QUALITY_MAX;
use crate::word::Time;

/// How many tickets are looked at in one step to make matches better.
const LOOKS_MAX: u64 = 8192;

/// Matches that are as good are made better on ticks only.
const GOOD: u16 = 900;

/// How often all matches are gone through.
const ROUNDS_MAX: usize = 8;

/// With how many others on either side, of those most like it, a match exchanges parties.
const NEIGHBOURS: usize = 6;

/// Larger matches stay as they are: to try one other party costs as much as making one anew.
const MEMBERS_MAX: usize = 32;

/// By how much an exchange must be better that looks at waits, which are no whole numbers.
const GAIN_MIN: f64 = 1e-6;

/// A match of this step, which is not claimed yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) formed: Formed,
    pub(super) members: Vec<Key>,
}

/// Another way to part tickets.
struct Exchange {
    /// What becomes of the match.
    draft: Draft,
    /// Who waits from now on.
    out: Option<Key>,
    /// Who does not any more.
    come: Vec<Key>,
    /// A match that begins beside it.
    beside: Option<Draft>,
}

impl Draft {
    /// What it is worth to all of its users.
    fn worth(&self, view: View<'_>) -> u64 {
        u64::from(self.formed.quality) * u64::from(self.size(view))
    }

    /// The same, and for how long they have waited for it.
    fn merit(&self, view: View<'_>) -> f64 {
        let patience = view.rules.patience.as_secs_f64();
        let waits = self.members.iter().map(|key| view.waited(*key));
        let waits: f64 = waits.map(|waited| waited.as_secs_f64() / patience).sum();
        f64::from(self.size(view)) * (f64::from(self.formed.quality) / 1000.0 + waits)
    }

    fn size(&self, view: View<'_>) -> u32 {
        let sizes = self
            .members
            .iter()
            .map(|key| view.seats[*key].candidate.size);
        sizes.sum()
    }

    fn is_small(&self) -> bool {
        self.formed.backfill.is_none() && self.members.len() <= MEMBERS_MAX
    }

    /// The members, with another in the place of one.
    fn with(&self, at: usize, other: Key) -> Vec<Key> {
        let mut members = self.members.clone();
        members[at] = other;
        members
    }
}

impl Pool {
    /// Makes matches better as long as there is work left; what it takes of that is gone afterwards. Says
    /// whether somebody is out of a match again, who may look for another.
    pub(super) fn improve(&mut self, work: &mut Work, left: &mut u64) -> bool {
        let now = work.now;
        let drafts = &mut work.drafts;
        let is_pair = self.rules.shape.players_max() == 2;
        let is_one = work.arrivals < 2 && drafts.len() < 2 && !work.is_tick;
        if is_pair && is_one && self.rules.settle.is_zero() {
            // Whoever came took the best of those who waited, of whom no two fit.
            return false;
        }
        // Those who have just come don't wait for what makes hardly a difference.
        let good = if work.is_tick { QUALITY_MAX + 1 } else { GOOD };
        if drafts.iter().all(|draft| draft.formed.quality >= good) {
            return false;
        }
        let mut is_anybody_out = false;
        for _ in 0..ROUNDS_MAX {
            let order = self.alike(drafts);
            let all = 0..order.len();
            let mut worst_first: Vec<_> = all
                .filter(|at| drafts[order[*at]].formed.quality < good)
                .collect();
            worst_first.sort_by_key(|at| drafts[order[*at]].formed.quality);
            let mut is_better = false;
            for at in worst_first {
                if *left == 0 {
                    return is_anybody_out;
                }
                is_better |= self.exchange_with_alike(now, drafts, &order, at, left);
                if let Some(exchange) = self.exchange_with_waiting(now, &drafts[order[at]], left) {
                    is_better = true;
                    is_anybody_out |= exchange.out.is_some();
                    for key in exchange.come {
                        self.propose_ticket(key);
                    }
                    if let Some(out) = exchange.out {
                        self.matcher.proposed.remove(&out);
                        self.enter(out, now);
                    }
                    drafts[order[at]] = exchange.draft;
                    drafts.extend(exchange.beside);
                }
            }
            if !is_better {
                break;
            }
        }
        is_anybody_out
    }

    /// Those that may become better, so that those are side by side that are like each other.
    fn alike(&self, drafts: &[Draft]) -> Vec<usize> {
        let primary = primary_rule(&self.rules);
        // By the texts themselves: their numbers are others in a pool that was restored.
        let likeness = |at: &usize| -> (Vec<&str>, Place) {
            let first = &self.seats[drafts[*at].members[0]].candidate;
            let texts = first.facts.iter().filter_map(|fact| match fact {
                Fact::Text(text) => Some(self.symbols.text(*text)),
                Fact::None | Fact::Set(_) | Fact::Number(_) | Fact::Latencies(_) => None,
            });
            let place = primary.map_or(0.0, |(rule, _)| first.number(rule));
            (texts.collect(), Place::of(place))
        };
        let small = (0..drafts.len()).filter(|at| drafts[*at].is_small());
        let mut order: Vec<_> = small.collect();
        order.sort_by_cached_key(likeness);
        order
    }

    /// Exchanges parties with a match that is like one, if both together become better.
    fn exchange_with_alike(
        &mut self,
        now: Time,
        drafts: &mut [Draft],
        order: &[usize],
        at: usize,
        left: &mut u64,
    ) -> bool {
        let others = at.saturating_sub(NEIGHBOURS)..order.len().min(at + NEIGHBOURS + 1);
        for other in others.filter(|other| *other != at) {
            let (a, b) = (order[at], order[other]);
            let mut search = self.search(now, Pass::Tick);
            let found = search.exchanged(&drafts[a], &drafts[b], *left);
            *left = left.saturating_sub(search.work);
            if let Some((first, second)) = found {
                (drafts[a], drafts[b]) = (first, second);
                return true;
            }
            if *left == 0 {
                break;
            }
        }
        false
    }

    fn exchange_with_waiting(
        &mut self,
        now: Time,
        draft: &Draft,
        left: &mut u64,
    ) -> Option<Exchange> {
        if self.matcher.waiting.is_empty() {
            return None;
        }
        let mut search = self.search(now, Pass::Tick);
        let found = search.replaced(draft, *left);
        *left = left.saturating_sub(search.work);
        found
    }

    /// How much work a step does beside its searches.
    pub(super) fn looks_to_improve(work_max: u64) -> u64 {
        LOOKS_MAX.min(work_max)
    }
}

impl Search<'_> {
    /// Two matches that have exchanged a party, and are better together than they were.
    fn exchanged(&mut self, a: &Draft, b: &Draft, work_max: u64) -> Option<(Draft, Draft)> {
        if a.formed.quality.min(b.formed.quality) == QUALITY_MAX {
            return None;
        }
        let before = a.worth(self.view) + b.worth(self.view);
        // To exchange the one of a pair is to exchange the other.
        let is_of_pairs = a.members.len() == 2 && b.members.len() == 2;
        let firsts = if is_of_pairs { 1 } else { a.members.len() };
        for at in 0..firsts {
            for other_at in 0..b.members.len() {
                if self.work >= work_max {
                    return None;
                }
                let (one, other) = (a.members[at], b.members[other_at]);
                let Some(first) = self.drafted(a.with(at, other)) else {
                    continue;
                };
                let Some(second) = self.drafted(b.with(other_at, one)) else {
                    continue;
                };
                if first.worth(self.view) + second.worth(self.view) > before {
                    return Some((first, second));
                }
            }
        }
        None
    }

    /// A match in which somebody who waits has taken another's place, and is better; or which has let
    /// somebody go who begins another match with those who wait.
    fn replaced(&mut self, draft: &Draft, work_max: u64) -> Option<Exchange> {
        let view = self.view;
        let before = draft.merit(view);
        for (at, one) in draft.members.iter().enumerate() {
            let mut rest = draft.members.clone();
            rest.remove(at);
            if rest.is_empty() || self.work >= work_max {
                return None;
            }
            let waiting = self.gather(Base::Members(&rest), GATHERED_MIN);
            if waiting.is_empty() {
                continue;
            }
            let partners = self.gather(Base::Members(&[*one]), GATHERED_MIN);
            let priority = view.seats[*one].ticket.priority;
            for other in &waiting {
                if self.work >= work_max {
                    return None;
                }
                let Some(better) = self.drafted(draft.with(at, *other)) else {
                    continue;
                };
                let merit = better.merit(view);
                let may_replace = view.seats[*other].ticket.priority >= priority;
                if may_replace && merit > before + GAIN_MIN {
                    return Some(Exchange {
                        draft: better,
                        out: Some(*one),
                        come: vec![*other],
                        beside: None,
                    });
                }
                let partners: Vec<_> = partners.iter().filter(|key| *key != other).collect();
                let partners: Vec<_> = partners.into_iter().copied().collect();
                let beside =
                    self.choose(Base::Members(&[*one]), &partners)
                        .map(|(verdict, members)| Draft {
                            formed: verdict.formed(view, None, |_| true),
                            members,
                        });
                let beside = beside.filter(|beside| merit + beside.merit(view) > before + GAIN_MIN);
                if let Some(beside) = beside {
                    let come = beside.members.iter().filter(|key| *key != one);
                    return Some(Exchange {
                        draft: better,
                        out: None,
                        come: come.copied().chain([*other]).collect(),
                        beside: Some(beside),
                    });
                }
            }
        }
        None
    }

    /// The match of these, when they make one.
    fn drafted(&mut self, members: Vec<Key>) -> Option<Draft> {
        let view = self.view;
        self.work += members.len() as u64;
        self.group.clear(view.rules);
        let looks_end = self.looks_to_build(members.len());
        for key in &members {
            if self.work > looks_end || !self.fits(*key) || !self.group.add(view, *key) {
                return None;
            }
        }
        let formed = self.judge()?.formed(view, None, |_| true);
        Some(Draft { formed, members })
    }
}
