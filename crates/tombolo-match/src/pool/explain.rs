//! Why a ticket has not found a match.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Pool;
use super::balance;
use super::candidate::Gate;
use super::finish;
use super::group::{Group, View};
use super::improve::Draft;
use super::search::{Outcome, Pass, Progress, Search};
use super::seat::{Key, Seat};
use super::tally::{Look, Tally};
use crate::rules::{Check, Topology};
use crate::word::{Name, TicketId, Time};

/// How many other tickets an explanation looks at, those that come first first.
pub const EXPLAINED_MAX: usize = 10_000;

/// How many of those that nearly fit are asked when they will.
const MISSES_MAX: usize = 64;

/// How many of those that fit are asked when less is asked of their match.
const FITTING_MAX: usize = 16;

/// How many tickets all searches of an explanation look at, about; what they have not found by then is not told.
const LOOKS_MAX: u64 = 8192;

/// How many steps an explanation takes to compare queries, about; who comes after them is not looked at.
const COMPARED_STEPS_MAX: u64 = 1 << 21;

/// How often somebody is asked when somebody fits, at the most.
const TRIALS_MAX: u64 = 1024;

/// How often that is to be asked of one.
const TRIALS_OF_ONE: u64 = 1 + u64::BITS as u64;

/// Why a ticket has not found a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// How many others were looked at.
    pub looked_at: usize,
    /// How many of them fit: when there are some, there are too few. Where two alone would be a match, rules of the whole match hold
    /// of it, too.
    pub fit: usize,
    /// What stands in the way, and how often; the most frequent first.
    pub obstacles: Vec<Excluded>,
    /// The other for whom the least stands in the way.
    pub nearest: Option<Miss>,
    /// The other who will fit first, if both only wait; or one of those who fit, and when they are enough.
    pub relaxation: Option<Relaxation>,
    /// The match that it has, but which waits for a better one.
    pub settling: Option<Settling>,
    /// How often two tickets were compared; patterns of queries count more.
    pub work: u64,
}

/// A match that waits for a better one; see [`Rules::settle`](crate::Rules::settle).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settling {
    /// How good it is, from 0 to 1000.
    pub quality: u16,
    /// In what time it begins as it is, if nobody better comes.
    pub after: Duration,
}

/// How often something stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excluded {
    /// What.
    pub obstacle: Obstacle,
    /// In the way of how many.
    pub count: usize,
    /// How many of those would fit without.
    pub alone: usize,
}

/// What stands in the way of two tickets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// A rule of the pool.
    Rule(Name),
    /// The ticket's own query.
    Query,
    /// The other's query.
    TheirQuery,
    /// The two don't go into the teams together.
    Teams,
}

/// Somebody who nearly fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// Who.
    pub ticket: TicketId,
    /// What stands in the way.
    pub obstacles: Vec<Obstacle>,
}

/// Somebody who will fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relaxation {
    /// Who.
    pub ticket: TicketId,
    /// In what time.
    pub after: Duration,
    /// What stands in the way until then; the teams, when there are too few until then.
    pub obstacles: Vec<Obstacle>,
}

impl Pool {
    /// Why a ticket has not found a match by now; `None` when it does not wait.
    #[must_use]
    pub fn explain(&self, id: &TicketId, now: Time) -> Option<Why> {
        self.explain_among(id, now, EXPLAINED_MAX)
    }

    /// The same, but looks only at so many others.
    #[must_use]
    pub fn explain_among(&self, id: &TicketId, now: Time, others_max: usize) -> Option<Why> {
        let key = *self.key_by_id.get(id)?;
        let now = now.max(self.clock);
        let view = self.view(now);
        let mut group = Group::new(&self.rules);
        let (mut looked_at, mut fit, mut fitting) = (0, 0, Vec::new());
        let mut counts = BTreeMap::new();
        let mut misses = BTreeSet::new();
        let steps_end = self.symbols.counted() + COMPARED_STEPS_MAX;
        for (_, order, other) in self.matcher.waiting.iter().take(others_max) {
            if *other == key {
                continue;
            }
            if self.symbols.counted() >= steps_end {
                break;
            }
            looked_at += 1;
            let queries = queries(view, key, *other);
            let by_query = !queries.is_empty();
            let obstacles = obstacles(view, &mut group, key, *other, now, queries);
            if obstacles.is_empty() {
                fit += 1;
                fitting.extend((fit <= FITTING_MAX).then_some(*other));
                continue;
            }
            count(&mut counts, &obstacles);
            misses.insert(Missed {
                obstacles: obstacles.len(),
                order: *order,
                key: *other,
                by_query,
            });
            if misses.len() > MISSES_MAX {
                misses.pop_last();
            }
        }
        let nearest = misses.first().map(|Missed { key: other, .. }| Miss {
            ticket: self.seats[*other].ticket.id,
            obstacles: obstacles(
                view,
                &mut group,
                key,
                *other,
                now,
                queries(view, key, *other),
            ),
        });
        let mut trials = 0;
        let widened = self.first_relaxation(view, &mut group, key, &misses, &mut trials);
        let mut searched = 0;
        let settling = self.settling(view, &mut group, key, &mut searched);
        let begins = self.begins(view, &mut group, key, &fitting, &mut searched);
        let relaxation = widened.into_iter().chain(begins);
        Some(Why {
            looked_at,
            fit,
            obstacles: most_frequent_first(counts),
            nearest,
            relaxation: relaxation.min_by_key(|relaxation| relaxation.after),
            settling,
            work: looked_at as u64 + trials + searched + self.symbols.take_looks(),
        })
    }

    /// What stands in the way in the whole pool: summed up for those that wait longest, at most so many,
    /// each against at most so many others.
    #[must_use]
    pub fn explain_all(&self, now: Time, tickets_max: usize, others_max: usize) -> Vec<Excluded> {
        let now = now.max(self.clock);
        let view = self.view(now);
        let mut group = Group::new(&self.rules);
        let mut counts = BTreeMap::new();
        let steps_end = self.symbols.counted() + COMPARED_STEPS_MAX;
        for (_, _, key) in self.matcher.waiting.iter().take(tickets_max) {
            let others = self.matcher.waiting.iter().map(|(_, _, other)| other);
            for other in others.filter(|other| *other != key).take(others_max) {
                if self.symbols.counted() >= steps_end {
                    break;
                }
                let queries = queries(view, *key, *other);
                count(
                    &mut counts,
                    &obstacles(view, &mut group, *key, *other, now, queries),
                );
            }
        }
        // It is no search that goes on: what it has taken is no other's work.
        let _ = self.symbols.take_looks();
        most_frequent_first(counts)
    }

    /// The best match that a ticket has, if it is to wait for a better one.
    fn settling(
        &self,
        view: View<'_>,
        group: &mut Group,
        key: Key,
        searched: &mut u64,
    ) -> Option<Settling> {
        self.seats[key]
            .class
            .filter(|_| !self.rules.settle.is_zero())?;
        let draft = self.found(view, group, key, searched)?;
        let waits = draft.members.iter().map(|key| view.waited(*key));
        let settled = self.rules.settled_after(draft.formed.quality);
        let after = settled.saturating_sub(waits.max().unwrap_or_default());
        let quality = draft.formed.quality;
        (!after.is_zero()).then_some(Settling { quality, after })
    }

    /// The match that a search finds, while there are looks left for it.
    fn found(
        &self,
        view: View<'_>,
        group: &mut Group,
        key: Key,
        searched: &mut u64,
    ) -> Option<Draft> {
        let looks_max = LOOKS_MAX.checked_sub(*searched).filter(|left| *left > 0)?;
        let mut search = Search {
            view,
            index: &self.matcher.index,
            group,
            pass: Pass::Tick,
            work: 0,
            looks_max,
            progress: Progress::default(),
        };
        let outcome = search.run(key);
        *searched += search.work;
        match outcome {
            Outcome::Found(draft) => Some(draft),
            Outcome::Waits(_) | Outcome::Lonely => None,
        }
    }

    fn first_relaxation(
        &self,
        view: View<'_>,
        group: &mut Group,
        key: Key,
        misses: &BTreeSet<Missed>,
        trials: &mut u64,
    ) -> Option<Relaxation> {
        let mut first: Option<(Time, Key)> = None;
        // Queries don't relax: who is kept away by one now always is.
        let relaxing = misses.iter().filter(|missed| !missed.by_query);
        for Missed { key: other, .. } in relaxing {
            if *trials + TRIALS_OF_ONE > TRIALS_MAX {
                break;
            }
            let mut keeps_away = |other: Key, at: Time| {
                *trials += 1;
                !obstacles(view, group, key, other, at, Vec::new()).is_empty()
            };
            let end = first.map_or(Time::from_millis(u64::MAX), |(first, _)| first);
            // Limits only widen: whoever fits fits from then on.
            if keeps_away(*other, end) {
                continue;
            }
            first = Some((
                first_moment(view.now, end, |at| !keeps_away(*other, at)),
                *other,
            ));
        }
        let (moment, other) = first?;
        Some(Relaxation {
            ticket: self.seats[other].ticket.id,
            after: moment.since(view.now),
            obstacles: obstacles(view, group, key, other, view.now, Vec::new()),
        })
    }

    /// When a ticket has a match with those who fit, if others are what it wants for: since fewer users are enough then, or
    /// no more are waited for.
    fn begins(
        &self,
        view: View<'_>,
        group: &mut Group,
        key: Key,
        fitting: &[Key],
        searched: &mut u64,
    ) -> Option<Relaxation> {
        self.seats[key].class?;
        let mut has_match = |at: Time| {
            let view = View { now: at, ..view };
            self.found(view, &mut *group, key, searched).is_some()
        };
        let all = fitting.iter().chain([&key]);
        let moments: BTreeSet<_> = all.flat_map(|key| self.moments(view.now, *key)).collect();
        let (now, last) = (view.now, *moments.last()?);
        if has_match(now) || !has_match(last) {
            return None;
        }
        let moments: Vec<_> = moments.into_iter().collect();
        let at = moments.partition_point(|moment| !has_match(*moment));
        if *searched >= LOOKS_MAX {
            return None;
        }
        Some(Relaxation {
            ticket: self.seats[*fitting.first().unwrap_or(&key)].ticket.id,
            after: moments.get(at)?.since(now),
            obstacles: vec![Obstacle::Teams],
        })
    }

    /// When less is asked of a match whose oldest ticket is that one.
    fn moments(&self, now: Time, key: Key) -> impl Iterator<Item = Time> {
        let since = self.seats[key].since;
        let waited = now.since(since);
        let shape = &self.rules.shape;
        let next = |waited: &Duration| shape.next_change(*waited);
        let less = std::iter::successors(next(&waited), next);
        let filled = Some(self.rules.fill).filter(|fill| *fill > waited);
        less.chain(filled).map(move |waited| since.after(waited))
    }
}

/// The first moment behind one at which something is so, which it is not there; at the end it is, and stays so.
fn first_moment(mut before: Time, mut end: Time, mut is_so: impl FnMut(Time) -> bool) -> Time {
    while end.since(before) > Duration::from_millis(1) {
        let middle = before.after(end.since(before) / 2);
        match is_so(middle) {
            true => end = middle,
            false => before = middle,
        }
    }
    end
}

/// How often each obstacle is in the way, and how often it alone.
type Counts = BTreeMap<Obstacle, (usize, usize)>;

fn count(counts: &mut Counts, obstacles: &[Obstacle]) {
    for obstacle in obstacles {
        let (count, alone) = counts.entry(obstacle.clone()).or_default();
        *count += 1;
        *alone += usize::from(obstacles.len() == 1);
    }
}

fn most_frequent_first(counts: Counts) -> Vec<Excluded> {
    let all = counts.into_iter();
    let all = all.map(|(obstacle, (count, alone))| Excluded {
        obstacle,
        count,
        alone,
    });
    let mut all: Vec<_> = all.collect();
    all.sort_by(|a, b| {
        let by_count = b.count.cmp(&a.count);
        by_count.then_with(|| a.obstacle.cmp(&b.obstacle))
    });
    all
}

/// Somebody who does not fit: those first for whom less stands in the way, then those who came first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Missed {
    obstacles: usize,
    order: u64,
    key: Key,
    /// A query keeps the two apart, and does so for ever.
    by_query: bool,
}

/// Which of the queries of two tickets keep them apart.
fn queries(view: View<'_>, a: Key, b: Key) -> Vec<Obstacle> {
    let (one, other) = (&view.seats[a].candidate, &view.seats[b].candidate);
    let mine = (!one.demands.accept(other, view.symbols)).then_some(Obstacle::Query);
    let yours = (!other.demands.accept(one, view.symbols)).then_some(Obstacle::TheirQuery);
    mine.into_iter().chain(yours).collect()
}

/// What stands in the way of two tickets at some moment, beside their queries, which are given.
fn obstacles(
    view: View<'_>,
    group: &mut Group,
    a: Key,
    b: Key,
    at: Time,
    queries: Vec<Obstacle>,
) -> Vec<Obstacle> {
    let (one, other) = (&view.seats[a], &view.seats[b]);
    let gates = |seat: &Seat| seat.candidate.gates(view.rules, at.since(seat.since));
    let (ours, theirs) = (gates(one), gates(other));
    let is_older = (one.since, one.order) < (other.since, other.order);
    let mut obstacles = Vec::new();
    // What is asked of the whole match.
    let mut asked = Vec::new();
    for (number, rule) in view.rules.rules.iter().enumerate() {
        let judge = view.rules.judge;
        let mut tally = Tally::new(rule);
        tally.add(rule, judge, look(one, number, ours[number], true));
        let look = look(other, number, theirs[number], !is_older);
        let fits = tally.fits(rule, judge, look);
        tally.add(rule, judge, look);
        let is_asked = rule.check == Check::Block && tally.limit().is_some();
        if !fits || is_asked && is_blocked(one, other) {
            obstacles.push(Obstacle::Rule(rule.name.clone()));
        }
        asked.extend(tally.limit().map(|limit| (rule, number, limit)));
    }
    obstacles.extend(queries);
    group.clear(view.rules);
    let then = View { now: at, ..view };
    if !group.add(then, a) || !group.add(then, b) {
        obstacles.push(Obstacle::Teams);
    } else if obstacles.is_empty() && finish::is_match(then, group) {
        let broken = asked
            .iter()
            .filter(|(rule, number, limit)| match rule.check {
                Check::Balance { measure, .. } => {
                    balance::unevenness(view, &group.sides, *number, measure) > *limit
                }
                Check::Connectivity {
                    topology: Topology::Host,
                    ..
                } => !finish::has_host(view, group),
                Check::Equal { .. }
                | Check::Overlap { .. }
                | Check::Distance { .. }
                | Check::Range { .. }
                | Check::Latency { .. }
                | Check::Block
                | Check::Connectivity {
                    topology: Topology::Mesh,
                    ..
                } => false,
            });
        obstacles.extend(broken.map(|(rule, ..)| Obstacle::Rule(rule.name.clone())));
    }
    obstacles
}

fn is_blocked(a: &Seat, b: &Seat) -> bool {
    let blocks = |one: &Seat, other: &Seat| {
        let mut users = other.candidate.users.iter();
        users.any(|user| one.candidate.blocks.binary_search(user).is_ok())
    };
    blocks(a, b) || blocks(b, a)
}

fn look(seat: &Seat, rule: usize, gate: Gate, is_oldest: bool) -> Look<'_> {
    Look {
        fact: &seat.candidate.facts[rule],
        worst_rank: seat.candidate.worst_rank,
        gate,
        is_oldest,
    }
}
