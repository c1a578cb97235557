//! Teams made even: parties change places between them, two at a time.

use super::candidate::Candidate;
use super::group::{Group, View};
use super::seat::Key;
use super::sides::Sides;
use crate::rules::{Check, Measure, Team};

/// What may be spent on one group: a try costs one for each rule of balance.
const SPENT_MAX: u64 = 16_384;

/// How much of that is spent on one exchange at most, when one was found that helps.
const SPENT_ON_ONE_MAX: u64 = 32;

/// What it costs to see whether a user of a team still has a role.
const CAST_COST: u64 = 8;

/// So much counts as one look at a ticket.
const SPENT_PER_LOOK: u64 = 8;

/// What a limit of nothing is measured by: costs must stay comparable.
const UNIT_MIN: f64 = 1e-9;

/// How far the teams are beyond what the rules allow, and how uneven they are at all.
type Unevenness = (f64, f64);

/// Makes the teams of a group as even as it gets them; `None` when that is not even enough. What it costs counts as
/// looks.
pub(super) fn balanced(
    view: View<'_>,
    min_of: &dyn Fn(&Team) -> u32,
    group: &Group,
    looks: &mut u64,
) -> Option<Sides> {
    let sides = group.sides.clone();
    let mut scales = scales(view, group);
    if scales.is_empty() || sides.iter().len() < 2 {
        return Some(sides);
    }
    for scale in &mut scales {
        scale.weigh(view, &sides);
    }
    let mut balance = Balance {
        view,
        min_of,
        scales,
        sides,
        exchanges: 0,
        spent: 0,
    };
    let best = balance.settle();
    *looks += balance.spent.div_ceil(SPENT_PER_LOOK);
    (best.0 <= 0.0).then_some(balance.sides)
}

/// The largest difference between two teams.
pub(super) fn unevenness(view: View<'_>, sides: &Sides, rule: usize, measure: Measure) -> f64 {
    let values = sides
        .iter()
        .map(|side| measured(measure, sum(view, &side.members, rule), side.load));
    spread(values)
}

fn sum(view: View<'_>, members: &[Key], rule: usize) -> f64 {
    let numbers = members.iter();
    numbers
        .map(|key| view.seats[*key].candidate.number(rule))
        .sum()
}

fn measured(measure: Measure, sum: f64, load: u32) -> f64 {
    match measure {
        Measure::Sum => sum,
        Measure::Mean => sum / f64::from(load.max(1)),
    }
}

fn spread(values: impl Iterator<Item = f64>) -> f64 {
    let ends = (f64::INFINITY, f64::NEG_INFINITY);
    let (low, high) = values.fold(ends, |(low, high), value| (low.min(value), high.max(value)));
    high - low
}

fn scales(view: View<'_>, group: &Group) -> Vec<Scale> {
    let rules = view.rules.rules.iter().zip(group.tallies()).enumerate();
    let scales = rules.filter_map(|(at, (rule, tally))| {
        let Check::Balance { measure, .. } = rule.check else {
            return None;
        };
        Some(Scale {
            rule: at,
            measure,
            limit: tally.limit().unwrap_or(f64::INFINITY),
            unit: rule.scale().max(UNIT_MIN),
            sums: Vec::new(),
            values: Vec::new(),
            order: Vec::new(),
        })
    });
    scales.collect()
}

/// The teams by one rule.
struct Scale {
    rule: usize,
    measure: Measure,
    limit: f64,
    unit: f64,
    sums: Vec<f64>,
    values: Vec<f64>,
    /// The teams, that of the least value first.
    order: Vec<usize>,
}

impl Scale {
    fn weigh(&mut self, view: View<'_>, sides: &Sides) {
        let sums = sides.iter().map(|side| sum(view, &side.members, self.rule));
        self.sums = sums.collect();
        let values = sides.iter().zip(&self.sums);
        self.values = values
            .map(|(side, sum)| measured(self.measure, *sum, side.load))
            .collect();
        self.order = (0..self.values.len()).collect();
        self.order
            .sort_by(|a, b| self.values[*a].total_cmp(&self.values[*b]));
    }

    /// The largest difference, if one team had so much more, and another so much less.
    fn gap_with(&self, gain: f64, winner: Load, loser: Load) -> f64 {
        let winner_has = measured(self.measure, self.sums[winner.side] + gain, winner.load);
        let loser_has = measured(self.measure, self.sums[loser.side] - gain, loser.load);
        let is_other = |side: &&usize| ![winner.side, loser.side].contains(side);
        let least = self.order.iter().find(is_other);
        let most = self.order.iter().rev().find(is_other);
        let others = least.into_iter().chain(most).map(|side| self.values[*side]);
        spread(others.chain([winner_has, loser_has]))
    }

    fn add(&self, (excess, all): Unevenness, gap: f64) -> Unevenness {
        let beyond = (gap - self.limit).max(0.0);
        (excess + beyond / self.unit, all + gap / self.unit)
    }

    fn is_at_an_end(&self, side: usize) -> bool {
        self.order.first() == Some(&side) || self.order.last() == Some(&side)
    }
}

/// How many users a team would have.
#[derive(Clone, Copy)]
struct Load {
    side: usize,
    load: u32,
}

/// A party's place: its team, and where it is there.
type Place = (usize, usize);

struct Balance<'p> {
    view: View<'p>,
    min_of: &'p dyn Fn(&Team) -> u32,
    scales: Vec<Scale>,
    sides: Sides,
    exchanges: usize,
    spent: u64,
}

impl Balance<'_> {
    /// Exchanges parties as long as that helps.
    fn settle(&mut self) -> Unevenness {
        let mut best = self.unevenness();
        // Those who play already stay where they are.
        while !self.sides.is_fixed() && best.1 > 0.0 {
            let Some((a, b)) = self.exchange(best) else {
                break;
            };
            self.sides.swap(self.view.seats, a, b);
            for scale in &mut self.scales {
                scale.weigh(self.view, &self.sides);
            }
            let now = self.unevenness();
            if now >= best {
                // It was the sums' rounding that seemed to help.
                self.sides.swap(self.view.seats, a, b);
                break;
            }
            best = now;
            self.exchanges += 1;
        }
        best
    }

    fn unevenness(&self) -> Unevenness {
        let scales = self.scales.iter();
        scales.fold((0.0, 0.0), |uneven, scale| {
            scale.add(uneven, spread(scale.values.iter().copied()))
        })
    }

    /// The best exchange of those that it gets to, if one helps.
    fn exchange(&mut self, best: Unevenness) -> Option<(Place, Place)> {
        let enough = self.spent + SPENT_ON_ONE_MAX * self.scales.len() as u64;
        let mut found = None;
        let mut least = best;
        for (one, other) in self.worth_a_try() {
            for a in self.places(one) {
                for b in self.places(other) {
                    if self.spent >= SPENT_MAX || self.spent >= enough && found.is_some() {
                        return found;
                    }
                    let (a, b) = ((one, a), (other, b));
                    let uneven = self.attempt(a, b);
                    if uneven < least && self.is_sound(a, b) {
                        (found, least) = (Some((a, b)), uneven);
                    }
                }
            }
        }
        found
    }

    /// The places of a team. Each search begins at the next one: whoever was exchanged stays, if others do as well.
    fn places(&self, side: usize) -> impl Iterator<Item = usize> + use<> {
        let places = self.sides.side(side).members.len();
        let begin = self.exchanges % places.max(1);
        (begin..places).chain(0..begin)
    }

    /// Pairs of teams of which one is the first or the last by some rule: nothing else makes differences smaller.
    fn worth_a_try(&self) -> Vec<(usize, usize)> {
        let is_at_an_end = |side| self.scales.iter().any(|scale| scale.is_at_an_end(side));
        let sides = self.sides.iter().len();
        let ends: Vec<_> = (0..sides).filter(|side| is_at_an_end(*side)).collect();
        let mut pairs = Vec::new();
        for one in 0..sides {
            match ends.contains(&one) {
                true => pairs.extend((one + 1..sides).map(|other| (one, other))),
                false => {
                    let others = ends.iter().filter(|other| **other > one);
                    pairs.extend(others.map(|other| (one, *other)));
                }
            }
        }
        pairs
    }

    /// How uneven the teams would be.
    fn attempt(&mut self, a: Place, b: Place) -> Unevenness {
        self.spent += self.scales.len() as u64;
        let (one, other) = (self.candidate(a), self.candidate(b));
        let load = |side| self.sides.side(side).load;
        let first = Load {
            side: a.0,
            load: load(a.0) - one.size + other.size,
        };
        let second = Load {
            side: b.0,
            load: load(b.0) - other.size + one.size,
        };
        self.scales.iter().fold((0.0, 0.0), |uneven, scale| {
            let gain = other.number(scale.rule) - one.number(scale.rule);
            scale.add(uneven, scale.gap_with(gain, first, second))
        })
    }

    /// Whether both teams would have enough users, not too many, and a role for each.
    fn is_sound(&mut self, a: Place, b: Place) -> bool {
        let (one, other) = (self.candidate(a), self.candidate(b));
        if one.size == other.size && one.roles == other.roles {
            return true;
        }
        let view = self.view;
        self.sides.swap(view.seats, a, b);
        let is_sound = [a.0, b.0].into_iter().all(|side| {
            let team = &view.rules.shape.teams[side];
            if !team.roles.is_empty() {
                self.spent += CAST_COST * u64::from(self.sides.side(side).load);
            }
            let min = (self.min_of)(team);
            self.sides.is_whole(view.roles, view.seats, side, team, min)
        });
        self.sides.swap(view.seats, a, b);
        is_sound
    }

    fn candidate(&self, (side, at): Place) -> &Candidate {
        &self.view.seats[self.sides.side(side).members[at]].candidate
    }
}
