//! One ticket's search for a match.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use super::backfill::Running;
use super::finish::{self, Verdict};
use super::group::{Group, View};
use super::improve::Draft;
use super::index::{Fewest, Index, primary_rule};
use super::seat::Key;
use crate::rules::{Judge, Team};
use crate::word::BackfillId;

/// The fewest tickets that are looked at more closely, where there are that many.
pub(super) const GATHERED_MIN: usize = 8;

/// How many of those that were chosen are left out in turn, when a group comes to nothing.
const RETRIES_MAX: usize = 16;

/// How many tickets are looked at for that: among many the next to come finds what is missed here.
const RETRY_LOOKS_MAX: u64 = 1024;

/// When a search is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// A ticket has come or has changed: only a match that has all the users that it can have begins.
    Arrival,
    /// All are looked at: matches that have waited for more users begin without.
    Tick,
}

/// What came of a search.
#[derive(Debug)]
pub(super) enum Outcome {
    /// These make a match.
    Found(Draft),
    /// Some fit, but too few; those are named.
    Waits(Vec<Key>),
    /// Nobody fits.
    Lonely,
}

/// Who is in a group from the beginning.
#[derive(Clone, Copy)]
pub(super) enum Base<'b> {
    /// These, of whom the first looks.
    Members(&'b [Key]),
    /// Those who play already, by team.
    Running(&'b [Vec<Key>]),
}

/// A ticket's search.
pub(super) struct Search<'p> {
    pub(super) view: View<'p>,
    pub(super) index: &'p Index,
    pub(super) group: &'p mut Group,
    pub(super) pass: Pass,
    /// What it has cost: each ticket that was looked at counts one.
    pub(super) work: u64,
}

impl Search<'_> {
    pub(super) fn run(&mut self, anchor: Key) -> Outcome {
        let view = self.view;
        self.group.clear(view.rules);
        self.work += 1;
        if !self.group.fits(view, anchor) || !self.group.add(view, anchor) {
            return Outcome::Lonely;
        }
        let need = (view.rules.shape.players_max() - self.group.size) as usize;
        // A party may be a match by itself.
        if let Some(verdict) = self.complete() {
            return self.found(verdict, vec![anchor]);
        }
        let mut cap = GATHERED_MIN.max(2 * need);
        loop {
            let (gathered, is_all) = self.gather(Base::Members(&[anchor]), cap);
            if gathered.is_empty() {
                return Outcome::Lonely;
            }
            if let Some((verdict, members)) = self.choose(anchor, &gathered) {
                return self.found(verdict, members);
            }
            if is_all {
                return Outcome::Waits(gathered);
            }
            cap *= 4;
        }
    }

    fn found(&self, verdict: Verdict, members: Vec<Key>) -> Outcome {
        let formed = verdict.formed(self.view, None, |_| true);
        Outcome::Found(Draft { formed, members })
    }

    /// Lets a running match look for more users.
    pub(super) fn run_backfill(
        &mut self,
        backfill: BackfillId,
        running: &Running,
    ) -> Option<Draft> {
        let view = self.view;
        let base = Base::Running(&running.sides);
        self.work += 1;
        self.start(base);
        let before = self.group.members.len();
        let need = view
            .rules
            .shape
            .players_max()
            .checked_sub(self.group.size)?;
        let (gathered, _) = self.gather(base, GATHERED_MIN.max(2 * need as usize));
        self.build(base, &gathered, &BTreeSet::new());
        let mut new = self.group.members.get(before..)?.to_vec();
        while !self.group.size.is_multiple_of(view.rules.shape.multiple) {
            new.pop()?;
            self.start(base);
            for key in &new {
                self.group.add(view, *key);
            }
        }
        if new.is_empty() {
            return None;
        }
        let joins = Some((backfill, running.generation));
        let verdict = finish::judge(view, &|_| 0, self.group)?;
        let formed = verdict.formed(view, joins, |key| new.contains(&key));
        Some(Draft {
            formed,
            members: new,
        })
    }

    /// Begins a group with who is in it from the beginning.
    fn start(&mut self, base: Base<'_>) {
        let view = self.view;
        self.group.clear(view.rules);
        match base {
            Base::Members(members) => {
                for key in members {
                    self.group.add(view, *key);
                }
            }
            Base::Running(sides) => {
                for (side, keys) in sides.iter().enumerate() {
                    for key in keys {
                        self.group.fix(view, side, *key);
                    }
                }
            }
        }
    }

    /// The nearest who fit with those of the beginning, the most desirable first; and whether those are
    /// all.
    pub(super) fn gather(&mut self, base: Base<'_>, cap: usize) -> (Vec<Key>, bool) {
        let view = self.view;
        self.start(base);
        let Some(anchor) = self.group.members.first().copied() else {
            return (Vec::new(), true);
        };
        let seat = &view.seats[anchor];
        let (classes, count) = self.index.classes_for(view.rules, seat, seat.class);
        let fewest = match self.index.fewest(seat, anchor) {
            Fewest::Nobody => return (Vec::new(), true),
            Fewest::Of(keys) if keys.len() < count => Some(keys),
            Fewest::Of(_) | Fewest::Unknown => None,
        };
        let primary = primary_rule(view.rules);
        let mut gathered = Vec::new();
        let mut work = 0;
        let mut fits = |group: &Group, key: Key| {
            work += 1;
            if key != anchor && group.fits(view, key) {
                gathered.push(key);
            }
            gathered.len() < cap
        };
        let is_all = match fewest {
            Some(keys) => keys.iter().all(|(_, key)| fits(self.group, *key)),
            None => {
                let limit = primary.and_then(|(at, rule)| match view.rules.judge {
                    Judge::Each => seat.gates[at].limit,
                    Judge::Oldest => rule.relax.widest(rule.base),
                });
                let nearest = self
                    .index
                    .nearest(view.rules, &seat.candidate, &classes, limit);
                let mut nearest = nearest;
                nearest.all(|key| fits(self.group, key))
            }
        };
        self.work += work;
        self.sort(anchor, &mut gathered);
        (gathered, is_all)
    }

    /// The most desirable first: those with priority, then those near, long waiting and well liked.
    fn sort(&self, anchor: Key, gathered: &mut [Key]) {
        let view = self.view;
        let seat = &view.seats[anchor];
        let primary = primary_rule(view.rules);
        let patience = view.rules.patience.as_secs_f64();
        let score = |key: Key| {
            let other = &view.seats[key];
            let waited = view.now.since(other.since).as_secs_f64() / patience;
            let distance = primary.map_or(0.0, |(at, rule)| {
                let distance = other.candidate.number(at) - seat.candidate.number(at);
                distance.abs() / rule.scale().max(1e-9)
            });
            let likes = seat
                .candidate
                .demands
                .liking(&other.candidate, view.symbols);
            let liked = other
                .candidate
                .demands
                .liking(&seat.candidate, view.symbols);
            distance - waited - likes.unwrap_or(0.0) - liked.unwrap_or(0.0)
        };
        gathered.sort_by_cached_key(|key| {
            let other = &view.seats[*key];
            let score = super::index::Place::of(score(*key));
            (Reverse(other.ticket.priority), score, other.order)
        });
    }

    /// Makes a match of the anchor and some of those that were gathered.
    pub(super) fn choose(&mut self, anchor: Key, gathered: &[Key]) -> Option<(Verdict, Vec<Key>)> {
        if self.view.rules.shape.players_max() == 2 {
            return self.choose_one(anchor, gathered);
        }
        let mut left_out = BTreeSet::new();
        let mut first: Option<Vec<Key>> = None;
        let mut retry = 0;
        let mut looks_end = None;
        loop {
            self.build(Base::Members(&[anchor]), gathered, &left_out);
            if let Some(verdict) = self.complete() {
                return Some((verdict, self.group.members.clone()));
            }
            let looks_end = *looks_end.get_or_insert(self.work + RETRY_LOOKS_MAX);
            let looks = self.work + gathered.len() as u64;
            let chosen = first.get_or_insert_with(|| self.group.members[1..].to_vec());
            let could_do = gathered.len() > chosen.len();
            let next = chosen
                .get(retry)
                .filter(|_| could_do && retry < RETRIES_MAX && looks <= looks_end)?;
            left_out = BTreeSet::from([*next]);
            retry += 1;
        }
    }

    /// The best of those that were gathered, of the highest priority that there is.
    fn choose_one(&mut self, anchor: Key, gathered: &[Key]) -> Option<(Verdict, Vec<Key>)> {
        let view = self.view;
        // Where the distance alone says how good a match is, they are in the right order already.
        let is_ordered = !view.rules.has_quality_beside_distance();
        let mut best: Option<(Key, f64, Verdict)> = None;
        for other in gathered {
            let priority = view.seats[*other].ticket.priority;
            if let Some((best, ..)) = &best
                && (is_ordered || view.seats[*best].ticket.priority > priority)
            {
                break;
            }
            self.start(Base::Members(&[anchor]));
            self.work += 1;
            if !self.group.fits(view, *other) || !self.group.add(view, *other) {
                continue;
            }
            let Some(verdict) = self.judge() else {
                continue;
            };
            let waited = view.waited(*other).as_secs_f64() / view.rules.patience.as_secs_f64();
            let merit = f64::from(verdict.quality) / 1000.0 + waited;
            if best.as_ref().is_none_or(|(_, most, _)| merit > *most) {
                best = Some((*other, merit, verdict));
            }
        }
        best.map(|(other, _, verdict)| (verdict, vec![anchor, other]))
    }

    fn build(&mut self, base: Base<'_>, gathered: &[Key], left_out: &BTreeSet<Key>) {
        let view = self.view;
        let full = view.rules.shape.players_max();
        self.start(base);
        for key in gathered {
            if self.group.size == full {
                break;
            }
            if left_out.contains(key) {
                continue;
            }
            self.work += 1;
            if self.group.fits(view, *key) {
                self.group.add(view, *key);
            }
        }
        self.work += self.group.sides.take_looks();
    }

    /// The match that the group is, when it is one.
    fn complete(&mut self) -> Option<Verdict> {
        self.trim(self.view.rules.shape.players_most());
        self.judge()
    }

    /// The same, of the group as it is.
    pub(super) fn judge(&self) -> Option<Verdict> {
        let view = self.view;
        let shape = &view.rules.shape;
        let most = shape.players_most();
        let since = self.group.oldest_since()?;
        let waited = view.now.since(since);
        let waited = match self.pass {
            Pass::Arrival if self.group.size < most => return None,
            Pass::Tick if self.group.size < most && waited < view.rules.fill => return None,
            Pass::Arrival | Pass::Tick => waited,
        };
        let is_enough = self.group.size >= shape.players_min(waited).max(2)
            && self.group.size.is_multiple_of(shape.multiple);
        let min_of = |team: &Team| min_of(team, waited);
        let sides = &self.group.sides;
        if !is_enough || !sides.is_enough(shape, view.roles, view.seats, min_of) {
            return None;
        }
        finish::judge(view, &min_of, self.group)
    }

    /// Lets those go who came last, until the number of users is a multiple of what it must be.
    fn trim(&mut self, most: u32) {
        let view = self.view;
        let multiple = view.rules.shape.multiple;
        while self.group.members.len() > 1
            && (self.group.size > most || !self.group.size.is_multiple_of(multiple))
        {
            let mut members = std::mem::take(&mut self.group.members);
            members.pop();
            self.group.clear(view.rules);
            for key in members {
                self.group.add(view, key);
            }
        }
    }
}

fn min_of(team: &Team, waited: Duration) -> u32 {
    team.min_at(waited)
}
