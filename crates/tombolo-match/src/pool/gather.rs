//! Whom of those who wait one ticket's search looks at, and in which order.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use super::candidate::Candidate;
use super::finish::LIKING_STEPS_MAX;
use super::index::{Fewest, Nearest, Place, primary_rule};
use super::search::{Base, Search};
use super::seat::Key;
use crate::rules::Judge;

/// How many are kept at most from one search for the next one.
const KEPT_MAX: usize = 128;

/// Those near a group, as far as they were looked at.
pub(super) struct Nearby<'p> {
    anchor: Option<Key>,
    others: Others<'p>,
    /// How many were looked at, with those that were left out.
    pub(super) looked_at: usize,
    /// Nobody is left.
    pub(super) is_at_end: bool,
    /// Who of them fits; at first those that were kept.
    pub(super) fitting: Vec<Key>,
    kept: usize,
}

enum Others<'p> {
    /// Those who have what is asked for, and those are few.
    Few(std::collections::btree_set::Iter<'p, (u64, Key)>),
    Nearest(Nearest<'p>),
}

impl<'p> Search<'p> {
    /// The nearest who fit with those of the beginning, the most desirable first.
    pub(super) fn gather(&mut self, base: Base<'_>, cap: usize) -> Vec<Key> {
        let mut nearby = self.nearby(base);
        self.look_around(base, &mut nearby, cap);
        self.gathered(&nearby, cap)
    }

    /// Those near the group of the beginning, behind those that are left out.
    pub(super) fn nearby(&mut self, base: Base<'_>) -> Nearby<'p> {
        self.start(base);
        let mut nearby = Nearby {
            anchor: self.group.members.first().copied(),
            others: self.others(),
            looked_at: self.progress.skipped,
            is_at_end: false,
            fitting: Vec::new(),
            kept: 0,
        };
        for key in std::mem::take(&mut self.progress.kept) {
            if self.work >= self.looks_max {
                break;
            }
            self.work += 1;
            let seat = self.view.seats.get(key);
            if seat.is_some_and(|seat| seat.class.is_some()) && self.comes_into_question(key) {
                nearby.fitting.push(key);
            }
        }
        nearby.kept = nearby.fitting.len();
        for _ in 0..nearby.looked_at {
            nearby.others.next();
        }
        nearby
    }

    /// Looks on, until so many fit.
    pub(super) fn look_around(&mut self, base: Base<'_>, nearby: &mut Nearby<'p>, cap: usize) {
        self.start(base);
        while nearby.fitting.len() < cap && self.work < self.looks_max {
            let Some(key) = nearby.others.next() else {
                nearby.is_at_end = true;
                return;
            };
            nearby.looked_at += 1;
            self.work += 1;
            let is_new = !nearby.fitting[..nearby.kept].contains(&key);
            if is_new && self.comes_into_question(key) {
                nearby.fitting.push(key);
            }
        }
    }

    /// At most so many of each kind of those who fit, the most desirable first: more of one do not help where another is
    /// missing.
    pub(super) fn gathered(&mut self, nearby: &Nearby<'_>, of_each_kind: usize) -> Vec<Key> {
        let mut gathered = self.of_each_kind(&nearby.fitting, of_each_kind);
        if let Some(anchor) = nearby.anchor {
            self.sort(anchor, &mut gathered);
            self.work += self.view.symbols.take_looks();
        }
        gathered
    }

    /// A few of each kind, for the next search.
    pub(super) fn kept(&self, gathered: &[Key], mut of_each_kind: usize) -> Vec<Key> {
        let mut kept = self.of_each_kind(gathered, of_each_kind);
        while kept.len() > KEPT_MAX && of_each_kind > 1 {
            of_each_kind /= 2;
            kept = self.of_each_kind(&kept, of_each_kind);
        }
        kept.truncate(KEPT_MAX);
        kept
    }

    /// The first so many of each kind: of those who play the same roles, and are as many.
    fn of_each_kind(&self, keys: &[Key], most: usize) -> Vec<Key> {
        let mut count_by_kind = HashMap::new();
        let mut is_missing = |key: &Key| {
            let candidate = &self.view.seats[*key].candidate;
            let count = count_by_kind.entry((candidate.size, &candidate.roles));
            let count: &mut usize = count.or_default();
            *count += 1;
            *count <= most
        };
        let keys = keys.iter().copied();
        keys.filter(|key| is_missing(key)).collect()
    }

    /// Whether another fits with the group.
    fn comes_into_question(&mut self, key: Key) -> bool {
        let room = self.view.rules.shape.players_max() - self.group.size;
        let is_other = self.group.members.first() != Some(&key);
        let has_room = self.view.seats[key].candidate.size <= room;
        is_other && has_room && self.fits(key)
    }

    /// All who may fit with who is in the group.
    fn others(&mut self) -> Others<'p> {
        let (view, index) = (self.view, self.index);
        let nobody = Others::Few(NOBODY.iter());
        let Some(anchor) = self.group.members.first().copied() else {
            return nobody;
        };
        let seat = &view.seats[anchor];
        let is_running = !self.group.playing().is_empty();
        let eased = is_running.then(|| self.group.mixed());
        let classes = index.classes_for(view.rules, seat, seat.class, eased);
        self.work += classes.looks;
        match index.fewest(seat, anchor) {
            Fewest::Nobody => return nobody,
            Fewest::Of(keys) if keys.len() < classes.tickets => return Others::Few(keys.iter()),
            Fewest::Of(_) | Fewest::Unknown => {}
        }
        let limit = primary_rule(view.rules).and_then(|(at, rule)| {
            let limit = match view.rules.judge {
                Judge::Each => seat.gates[at].limit,
                Judge::Oldest => rule.relax.widest(rule.base),
            };
            self.group.tallies()[at].eased(limit)
        });
        Others::Nearest(index.nearest(view.rules, &seat.candidate, &classes.ids, limit))
    }

    /// The most desirable first: those with priority, then those near, long waiting and well liked, as long as
    /// [`LIKING_STEPS_MAX`] suffices to see that.
    fn sort(&self, anchor: Key, gathered: &mut [Key]) {
        let view = self.view;
        let seat = &view.seats[anchor];
        let primary = primary_rule(view.rules);
        let patience = view.rules.patience.as_secs_f64();
        let steps_end = view.symbols.counted() + LIKING_STEPS_MAX;
        let score = |key: Key| {
            let other = &view.seats[key];
            let waited = view.now.since(other.since).as_secs_f64() / patience;
            let distance = primary.map_or(0.0, |(at, rule)| {
                let distance = other.candidate.number(at) - seat.candidate.number(at);
                distance.abs() / rule.scale().max(1e-9)
            });
            if view.symbols.counted() >= steps_end {
                return distance - waited;
            }
            let likes = |one: &Candidate, other| one.demands.liking(other, view.symbols);
            let liked = likes(&seat.candidate, &other.candidate).unwrap_or(0.0);
            distance - waited - liked - likes(&other.candidate, &seat.candidate).unwrap_or(0.0)
        };
        gathered.sort_by_cached_key(|key| {
            let other = &view.seats[*key];
            let score = Place::of(score(*key));
            (Reverse(other.ticket.priority), score, other.order)
        });
    }
}

impl Iterator for Others<'_> {
    type Item = Key;

    fn next(&mut self) -> Option<Key> {
        match self {
            Self::Few(keys) => keys.next().map(|(_, key)| *key),
            Self::Nearest(keys) => keys.next(),
        }
    }
}

/// Nobody comes into question.
static NOBODY: BTreeSet<(u64, Key)> = BTreeSet::new();
