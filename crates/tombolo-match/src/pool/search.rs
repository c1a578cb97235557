//! One ticket's search for a match.

use std::time::Duration;

use super::backfill::Running;
use super::finish::{self, Verdict};
use super::group::{Group, View};
use super::improve::Draft;
use super::index::Index;
use super::seat::Key;
use crate::rules::Team;
use crate::word::BackfillId;

/// The fewest tickets that are looked at more closely, where there are that many.
pub(super) const GATHERED_MIN: usize = 8;

/// How many of those that were chosen are left out in turn, when a group comes to nothing.
const RETRIES_MAX: usize = 16;

/// How many tickets are looked at for that: among many the next to come finds what is missed here.
const RETRY_LOOKS_MAX: u64 = 1024;

/// How many one search looks at, about: the next one of the same ticket goes on behind them.
pub(super) const SEARCH_LOOKS_MAX: u64 = 16_384;

/// How many are looked at to try every group that there may be, once nobody else fits.
const ALL_LOOKS_MAX: u64 = 4096;

/// How many looks comparisons take for one group, beside two for each who comes into question.
const BUILD_LOOKS_MAX: u64 = 4096;

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
    /// Those who play already.
    Running(&'b Running),
}

/// A ticket's search.
pub(super) struct Search<'p> {
    pub(super) view: View<'p>,
    pub(super) index: &'p Index,
    pub(super) group: &'p mut Group,
    pub(super) pass: Pass,
    /// What it has cost: each ticket that was looked at counts one.
    pub(super) work: u64,
    /// How many it looks at, about; [`SEARCH_LOOKS_MAX`] where a later one goes on.
    pub(super) looks_max: u64,
    /// Where it begins; and then, where it got to.
    pub(super) progress: Progress,
}

/// How far the searches of a ticket got that ended before they had looked at all others.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// How many of the others, the nearest first, the next one leaves out.
    pub(super) skipped: usize,
    /// A few of each kind of those that fitted: what is rare may be far from what else is rare.
    pub(super) kept: Vec<Key>,
}

impl Search<'_> {
    pub(super) fn run(&mut self, anchor: Key) -> Outcome {
        let view = self.view;
        self.group.clear(view.rules);
        self.work += 1;
        if !self.group.fits(view, anchor) {
            return Outcome::Lonely;
        }
        if !self.group.add(view, anchor) {
            // Later there is a team for it.
            return Outcome::Waits(Vec::new());
        }
        let (shape, size) = (&view.rules.shape, self.group.size);
        if size >= shape.players_most()
            && let Some(verdict) = self.judge()
        {
            return self.found(verdict, vec![anchor]);
        }
        let base = Base::Members(&[anchor]);
        let skipped = self.progress.skipped;
        let others = match self.find(base) {
            Ok((verdict, members)) => return self.found(verdict, members),
            Err(others) => others,
        };
        self.start(base);
        if let Some(verdict) = self.complete(base) {
            return self.found(verdict, vec![anchor]);
        }
        // What may be a match by itself in the end, looks again.
        let is_all = skipped == 0 && self.progress.skipped == 0;
        if others.is_empty() && is_all && size < shape.players_least() {
            return Outcome::Lonely;
        }
        Outcome::Waits(others)
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
        let base = Base::Running(running);
        self.work += 1;
        self.start(base);
        let before = self.group.members.len();
        let sizes = self.group.sides.iter().map(|side| side.load);
        if view.rules.shape.is_full(sizes) {
            return None;
        }
        let (verdict, members) = self.find(base).ok()?;
        let new = members[before..].to_vec();
        let joins = Some((backfill, running.generation));
        let formed = verdict.formed(view, joins, |key| new.contains(&key));
        Some(Draft {
            formed,
            members: new,
        })
    }

    /// A match of those of the beginning with some of the others; without one, all others who fit, as far as it got.
    fn find(&mut self, base: Base<'_>) -> Result<(Verdict, Vec<Key>), Vec<Key>> {
        let mut others = Vec::new();
        loop {
            let is_partial = self.progress.skipped > 0;
            if let Some(found) = self.go_on(base, &mut others) {
                return Ok(found);
            }
            let is_at_end = self.progress.skipped == 0;
            if is_at_end && is_partial && self.work < self.looks_max {
                // Once more from the beginning: whoever was looked at before may fit by now.
                continue;
            }
            if is_at_end {
                self.progress.kept.clear();
            }
            return Err(others);
        }
    }

    /// Goes on where the last search got no further, until that is to be said of this one or all were looked at.
    fn go_on(&mut self, base: Base<'_>, others: &mut Vec<Key>) -> Option<(Verdict, Vec<Key>)> {
        let need = (self.view.rules.shape.players_max() - self.group.size) as usize;
        let mut cap = GATHERED_MIN.max(2 * need);
        let (mut of_each_kind, mut tried) = (cap, 0);
        let mut nearby = self.nearby(base);
        loop {
            self.look_around(base, &mut nearby, cap);
            let gathered = self.gathered(&nearby, of_each_kind);
            let is_over = self.work >= self.looks_max;
            let is_all = nearby.is_at_end && (is_over || gathered.len() == nearby.fitting.len());
            let mut found = None;
            if gathered.len() > tried {
                found = self.choose(base, &gathered);
            }
            if found.is_none() && is_all {
                found = self.try_all(base, &gathered);
            }
            if found.is_some() {
                return found;
            }
            if is_all || is_over {
                let skipped = if is_all { 0 } else { nearby.looked_at };
                let kept = self.kept(&gathered, need);
                self.progress = Progress { skipped, kept };
                others.append(&mut nearby.fitting);
                return None;
            }
            (tried, of_each_kind) = (gathered.len(), cap);
            cap *= 4;
        }
    }

    /// Begins a group with who is in it from the beginning.
    pub(super) fn start(&mut self, base: Base<'_>) {
        let view = self.view;
        self.group.clear(view.rules);
        match base {
            Base::Members(members) => {
                for key in members {
                    self.group.add(view, *key);
                }
            }
            Base::Running(running) => {
                for (side, keys) in running.sides.iter().enumerate() {
                    for key in keys {
                        self.group.fix(view, side, *key);
                    }
                }
                let region = running
                    .venue
                    .as_ref()
                    .and_then(|venue| venue.region.as_ref());
                self.group.begin_running(view, region);
            }
        }
    }

    /// Makes a match of those of the beginning and some of those that were gathered.
    pub(super) fn choose(
        &mut self,
        base: Base<'_>,
        gathered: &[Key],
    ) -> Option<(Verdict, Vec<Key>)> {
        if let Base::Members([anchor]) = base
            && self.view.rules.shape.players_max() == 2
        {
            return self.choose_one(*anchor, gathered);
        }
        let mut left_out = None;
        let mut first: Option<Vec<Key>> = None;
        let mut retry = 0;
        let mut looks_end = None;
        loop {
            self.build(base, gathered, left_out);
            if let Some(verdict) = self.complete(base) {
                return Some((verdict, self.group.members.clone()));
            }
            let looks_end = *looks_end.get_or_insert(self.work + RETRY_LOOKS_MAX);
            let looks = self.work + gathered.len() as u64;
            let chosen = || {
                self.group
                    .members
                    .get(base.len()..)
                    .unwrap_or_default()
                    .to_vec()
            };
            let chosen = first.get_or_insert_with(chosen);
            let could_do = gathered.len() > chosen.len();
            let next = chosen
                .get(retry)
                .filter(|_| could_do && retry < RETRIES_MAX && looks <= looks_end)?;
            left_out = Some(*next);
            retry += 1;
        }
    }

    /// Tries every group that there may be of those who were gathered, one after the other, as far as it gets.
    fn try_all(&mut self, base: Base<'_>, gathered: &[Key]) -> Option<(Verdict, Vec<Key>)> {
        let view = self.view;
        if self.pass == Pass::Arrival || view.rules.shape.players_max() == 2 {
            return None;
        }
        let looks_end = self.work + ALL_LOOKS_MAX;
        let least = self.least(base, gathered);
        // How many users the gathered have from each on.
        let mut sizes = vec![0; gathered.len() + 1];
        for (at, key) in gathered.iter().enumerate().rev() {
            sizes[at] = sizes[at + 1] + view.seats[*key].candidate.size;
        }
        let mut chosen: Vec<usize> = Vec::new();
        let mut next = 0;
        loop {
            self.start(base);
            for at in &chosen {
                self.group.add(view, gathered[*at]);
            }
            self.work += 1 + chosen.len() as u64;
            if self.group.size + sizes[next] >= least {
                for (at, key) in gathered.iter().enumerate().skip(next) {
                    if self.group.size == view.rules.shape.players_max() || self.work > looks_end {
                        break;
                    }
                    self.work += 1;
                    if self.fits(*key) && self.group.add(view, *key) {
                        chosen.push(at);
                    }
                }
                if let Some(verdict) = self.complete(base) {
                    return Some((verdict, self.group.members.clone()));
                }
            }
            self.work += self.group.sides.take_looks();
            if self.work > looks_end {
                return None;
            }
            // Whoever was chosen last is left out, for those behind it.
            next = chosen.pop()? + 1;
        }
    }

    /// How many users a match of those must have at least.
    fn least(&mut self, base: Base<'_>, gathered: &[Key]) -> u32 {
        let view = self.view;
        let shape = &view.rules.shape;
        self.start(base);
        let Base::Members(_) = base else {
            return self.group.size + 1;
        };
        let all = self.group.members.iter().chain(gathered);
        let waited = all.map(|key| view.waited(*key)).max().unwrap_or_default();
        if waited < view.rules.fill {
            shape.players_most()
        } else {
            shape.players_min(waited).max(2)
        }
    }

    /// The best of those that were gathered, of the highest priority that there is.
    fn choose_one(&mut self, anchor: Key, gathered: &[Key]) -> Option<(Verdict, Vec<Key>)> {
        let view = self.view;
        // Where the distance alone says how good a match is, they are in the right order already.
        let is_ordered = !view.rules.has_quality_beside_distance();
        let mut best: Option<(Key, f64, Verdict)> = None;
        let looks_end = self.work + SEARCH_LOOKS_MAX;
        for other in gathered {
            if self.work > looks_end {
                break;
            }
            let priority = view.seats[*other].ticket.priority;
            if let Some((best, ..)) = &best
                && (is_ordered || view.seats[*best].ticket.priority > priority)
            {
                break;
            }
            self.start(Base::Members(&[anchor]));
            self.work += 1;
            if !self.fits(*other) || !self.group.add(view, *other) {
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

    fn build(&mut self, base: Base<'_>, gathered: &[Key], left_out: Option<Key>) {
        let view = self.view;
        let full = view.rules.shape.players_max();
        self.start(base);
        let looks_end = self.looks_to_build(gathered.len());
        for key in gathered {
            if self.group.size == full || self.work > looks_end {
                break;
            }
            if left_out == Some(*key) {
                continue;
            }
            self.work += 1;
            if self.fits(*key) {
                self.group.add(view, *key);
            }
        }
        self.work += self.group.sides.take_looks();
    }

    /// Where a group of some of so many ends that take more to compare than a look each.
    pub(super) fn looks_to_build(&self, count: usize) -> u64 {
        self.work + 2 * count as u64 + BUILD_LOOKS_MAX
    }

    /// Whether the group with one more would keep every rule. Whoever asks counts one look; what a comparison takes
    /// beyond that counts here.
    pub(super) fn fits(&mut self, key: Key) -> bool {
        let fits = self.group.fits(self.view, key);
        let candidate = &self.view.seats[key].candidate;
        self.work += self.group.looks_at_blocks(candidate) + self.view.symbols.take_looks();
        fits
    }

    /// The match that the group is, when it is one.
    fn complete(&mut self, base: Base<'_>) -> Option<Verdict> {
        self.trim(base);
        match base {
            Base::Members(_) => self.judge(),
            Base::Running(_) if self.group.members.len() == base.len() => None,
            Base::Running(running) => {
                let venue = running.venue.as_ref();
                finish::judge(self.view, &|_| 0, self.group, venue, &mut self.work)
            }
        }
    }

    /// The same, of new users as they are.
    pub(super) fn judge(&mut self) -> Option<Verdict> {
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
            && shape.is_multiple(self.group.size, waited);
        if !is_enough {
            return None;
        }
        let min_of = |team: &Team| min_of(team, waited);
        let sides = &mut self.group.sides;
        if !sides.is_enough(shape, view.roles, view.seats, min_of)
            && !sides.pack_for(shape, view.roles, view.seats, min_of)
        {
            return None;
        }
        finish::judge(view, &min_of, self.group, None, &mut self.work)
    }

    /// Lets those go who came last, until the number of users is a multiple of what it must be.
    fn trim(&mut self, base: Base<'_>) {
        let view = self.view;
        let is_multiple = |group: &Group| {
            let waited = group.oldest_since().map(|since| view.now.since(since));
            let shape = &view.rules.shape;
            shape.is_multiple(group.size, waited.unwrap_or_default())
        };
        while !is_multiple(self.group) && self.group.members.len() > base.len() {
            let mut members = self.group.members.split_off(base.len());
            members.pop();
            self.start(base);
            for key in members {
                self.group.add(view, key);
            }
        }
    }
}

impl Base<'_> {
    /// How many tickets there are.
    fn len(self) -> usize {
        match self {
            Base::Members(members) => members.len(),
            Base::Running(running) => running.sides.iter().map(Vec::len).sum(),
        }
    }
}

fn min_of(team: &Team, waited: Duration) -> u32 {
    team.min_at(waited)
}
