//! One ticket's search for a match.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use super::backfill::Running;
use super::finish::finish;
use super::group::{Group, View};
use super::index::{Fewest, Index, primary_rule};
use super::seat::Key;
use crate::formed::Formed;
use crate::rules::{Judge, Team};
use crate::word::{BackfillId, MatchId};

/// The fewest tickets that are looked at more closely, where there are that many.
const GATHERED_MIN: usize = 8;

/// How many of those that were chosen are left out in turn, when a group comes to nothing.
const RETRIES_MAX: usize = 16;

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
    Found(Formed, Vec<Key>),
    /// Some fit, but too few; those are named.
    Waits(Vec<Key>),
    /// Nobody fits.
    Lonely,
}

/// Who is in a group from the beginning.
#[derive(Clone, Copy)]
enum Base<'b> {
    /// Whoever looks.
    Anchor(Key),
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
    pub(super) fn run(&mut self, anchor: Key, id: MatchId) -> Outcome {
        let view = self.view;
        self.group.clear(view.rules);
        self.work += 1;
        if !self.group.fits(view, anchor) || !self.group.add(view, anchor) {
            return Outcome::Lonely;
        }
        let need = (view.rules.shape.players_max() - self.group.size) as usize;
        // A party may be a match by itself.
        if let Some(formed) = self.complete(id) {
            return Outcome::Found(formed, vec![anchor]);
        }
        let mut cap = GATHERED_MIN.max(2 * need);
        loop {
            let (gathered, is_all) = self.gather(Base::Anchor(anchor), cap);
            if gathered.is_empty() {
                return Outcome::Lonely;
            }
            if let Some((formed, members)) = self.choose(anchor, &gathered, id) {
                return Outcome::Found(formed, members);
            }
            if is_all {
                return Outcome::Waits(gathered);
            }
            cap *= 4;
        }
    }

    /// Lets a running match look for more users.
    pub(super) fn run_backfill(
        &mut self,
        backfill: BackfillId,
        running: &Running,
        id: MatchId,
    ) -> Option<(Formed, Vec<Key>)> {
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
        let new = self.group.members.get(before..)?.to_vec();
        if new.is_empty() {
            return None;
        }
        let joins = Some((backfill, running.generation));
        let formed = finish(view, &|_| 0, self.group, id, joins, |key| {
            new.contains(&key)
        })?;
        Some((formed, new))
    }

    /// Begins a group with who is in it from the beginning.
    fn start(&mut self, base: Base<'_>) {
        let view = self.view;
        self.group.clear(view.rules);
        match base {
            Base::Anchor(anchor) => {
                self.group.add(view, anchor);
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
    fn gather(&mut self, base: Base<'_>, cap: usize) -> (Vec<Key>, bool) {
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
    fn choose(&mut self, anchor: Key, gathered: &[Key], id: MatchId) -> Option<(Formed, Vec<Key>)> {
        let is_pair = self.view.rules.shape.players_max() == 2;
        let mut left_out = BTreeSet::new();
        let mut first: Option<Vec<Key>> = None;
        let mut retry = 0;
        loop {
            self.build(Base::Anchor(anchor), gathered, &left_out);
            if let Some(formed) = self.complete(id) {
                return Some((formed, self.group.members.clone()));
            }
            let chosen = first.get_or_insert_with(|| self.group.members[1..].to_vec());
            if is_pair {
                // There is one other: whoever it was, take the next.
                left_out.insert(*self.group.members.get(1)?);
            } else {
                let could_do = gathered.len() > chosen.len();
                let next = chosen
                    .get(retry)
                    .filter(|_| could_do && retry < RETRIES_MAX)?;
                left_out = BTreeSet::from([*next]);
                retry += 1;
            }
        }
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
    }

    /// The match that the group is, when it is one.
    fn complete(&mut self, id: MatchId) -> Option<Formed> {
        let view = self.view;
        let shape = &view.rules.shape;
        let most = shape.players_max() / shape.multiple * shape.multiple;
        self.trim(most);
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
        finish(view, &min_of, self.group, id, None, |_| true)
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
