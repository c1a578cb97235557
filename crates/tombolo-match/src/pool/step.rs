//! The matcher's work.

use super::Pool;
use super::group::View;
use super::improve::Draft;
use super::search::{Outcome, Pass, Progress, SEARCH_LOOKS_MAX, Search};
use super::seat::{Key, Seat};
use super::ticket::{rank, set_gates};
use super::{Matcher, Rank};
use crate::formed::Formed;
use crate::rules::Rules;
use crate::word::{BackfillId, MatchId, Time};

/// What [`Pool::propose`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// To be appended as one [`Body::Claimed`](crate::Body::Claimed). No ticket is in two of them.
    pub matches: Vec<Formed>,
    /// Whether everything that there was to look at has been looked at; otherwise the next call goes on.
    pub is_complete: bool,
    /// How many tickets were looked at, each as often as it was.
    pub work: u64,
}

impl Pool {
    /// Looks for matches: first for those that have come or changed, then, each
    /// [`tick`](crate::Rules::tick), for all, those who wait longest first.
    ///
    /// It ends after it has looked at about `work_max` tickets, but never within one ticket's search,
    /// and goes on there when it is called again. The same entries and the same calls give the same
    /// matches. What was proposed and not claimed when it is called again is put back.
    pub fn propose(&mut self, now: Time, work_max: u64) -> Step {
        let now = now.max(self.clock);
        self.put_back(now);
        let mut work = Work {
            now,
            max: work_max,
            drafts: Vec::new(),
            arrivals: 0,
            is_complete: true,
            is_tick: false,
            done: 0,
            done_for_all: 0,
            done_for_running: 0,
            has_looked_at_arrivals: false,
        };
        self.relax(&mut work);
        work.arrivals = self.matcher.fresh.len();
        self.pass_running(&mut work);
        let mut to_improve = Self::looks_to_improve(work_max);
        loop {
            let for_all = if self.is_tick_due(now) {
                work.part()
            } else {
                0
            };
            self.pass_arrivals(&mut work, for_all);
            self.pass_all(&mut work);
            self.pass_arrivals(&mut work, 0);
            let before = to_improve;
            let is_anybody_out = self.improve(&mut work, &mut to_improve);
            work.done += before - to_improve;
            // Whoever is out of a match again looks for another at once.
            if !is_anybody_out {
                break;
            }
        }
        self.let_settle(&mut work);
        Step {
            matches: self.numbered(work.drafts),
            is_complete: work.is_complete && self.matcher.fresh.is_empty(),
            work: work.done + work.done_for_running,
        }
    }

    /// When [`propose`](Self::propose) has something to do; `None` when nobody waits.
    #[must_use]
    pub fn poll_propose(&self) -> Option<Time> {
        let Matcher {
            fresh,
            proposed,
            waiting,
            cursor,
            changes,
            next_tick,
            ..
        } = &self.matcher;
        let has_running = !waiting.is_empty() && self.running_to_look_at().next().is_some();
        if has_running || !fresh.is_empty() || !proposed.is_empty() || cursor.is_some() {
            return Some(Time::ZERO);
        }
        let change = changes.first().map(|(due, _)| *due);
        let tick = (!waiting.is_empty()).then_some(*next_tick);
        change.into_iter().chain(tick).min()
    }

    fn put_back(&mut self, now: Time) {
        for key in std::mem::take(&mut self.matcher.proposed) {
            self.enter(key, now);
        }
    }

    /// Lets limits widen that are due: that, too, is a part of a step only.
    fn relax(&mut self, work: &mut Work) {
        while let Some((due, key)) = self.matcher.changes.first().copied() {
            if due > work.now {
                return;
            }
            if work.done >= work.part() {
                work.is_complete = false;
                return;
            }
            work.done += 1;
            self.matcher.changes.pop_first();
            let seat = &mut self.seats[key];
            set_gates(&self.rules, seat, work.now);
            if let Some(next) = seat.next_change {
                self.matcher.changes.insert((next, key));
            }
            seat.is_lonely = false;
            seat.rests_until = Time::ZERO;
            let fresh = rank(seat, key);
            if let Some(class) = seat.class {
                let class = self
                    .matcher
                    .index
                    .reclass(&self.rules, key, &self.seats[key], class);
                self.seats[key].class = Some(class);
            }
            self.matcher.fresh.insert(fresh);
            self.matcher.has_news = true;
        }
    }

    /// Running matches come first, but at most half of a step is theirs: however many ask for somebody whom
    /// there is not, those who wait go on to be matched.
    fn pass_running(&mut self, work: &mut Work) {
        self.begin_round(work.now);
        let ids: Vec<_> = self.running_to_look_at().collect();
        for id in ids {
            let Some(mut running) = self.running.remove(&id) else {
                continue;
            };
            if work.done_for_running >= work.max.div_ceil(2) {
                work.is_complete = false;
                self.running.insert(id, running);
                return;
            }
            running.is_fresh = false;
            let progress = std::mem::take(&mut running.progress);
            for key in running.sides.iter().flatten() {
                set_gates(&self.rules, &mut self.seats[*key], work.now);
            }
            let mut search = self.search(work.now, Pass::Tick);
            search.progress = progress;
            let found = search.run_backfill(id, &running);
            running.progress = search.progress;
            work.done_for_running += search.work;
            self.running.insert(id, running);
            if let Some(draft) = found {
                self.take(draft, work);
            }
        }
    }

    /// All running matches are looked at once each tick, and once when somebody has come or changed; for those
    /// who come meanwhile, once more afterwards.
    fn begin_round(&mut self, now: Time) {
        let is_tick = self.matcher.cursor.is_none() && self.is_tick_due(now);
        let is_over = self.running_to_look_at().next().is_none();
        if is_tick || self.matcher.has_news && is_over {
            self.matcher.has_news = false;
            for running in self.running.values_mut() {
                running.is_fresh = true;
            }
        }
    }

    fn running_to_look_at(&self) -> impl Iterator<Item = BackfillId> {
        let all = self.running.iter();
        let due = all.filter(|(_, running)| running.is_fresh && running.pending.is_none());
        due.map(|(id, _)| *id)
    }

    /// Looks at those who have come, as long as there is more left than that; at one in any case.
    fn pass_arrivals(&mut self, work: &mut Work, left: u64) {
        while let Some(rank) = self.matcher.fresh.first().copied() {
            if work.left() <= left && work.has_looked_at_arrivals {
                return;
            }
            work.has_looked_at_arrivals = true;
            self.matcher.fresh.remove(&rank);
            self.look(rank, Pass::Arrival, work);
        }
    }

    /// Whether all are to be looked at.
    fn is_tick_due(&self, now: Time) -> bool {
        self.matcher.cursor.is_some() || now >= self.matcher.next_tick
    }

    /// However many come, and whatever their searches have taken, a part of the step is for all who wait: only then
    /// matches begin that have waited for more.
    fn pass_all(&mut self, work: &mut Work) {
        if !self.is_tick_due(work.now) {
            return;
        }
        work.is_tick = true;
        let mut next = match self.matcher.cursor.take() {
            Some(cursor) => self.matcher.waiting.range(cursor..).next().copied(),
            None => self.matcher.waiting.first().copied(),
        };
        while let Some(rank) = next {
            if work.done_for_all >= work.part() && work.is_over() {
                self.matcher.cursor = Some(rank);
                return;
            }
            let before = work.done;
            self.look(rank, Pass::Tick, work);
            work.done_for_all += work.done - before;
            let after = (std::ops::Bound::Excluded(rank), std::ops::Bound::Unbounded);
            next = self.matcher.waiting.range(after).next().copied();
        }
        self.matcher.next_tick = work.now.after(self.rules.tick);
    }

    /// Lets one ticket look for its match.
    fn look(&mut self, (_, _, key): Rank, pass: Pass, work: &mut Work) {
        let seat = &self.seats[key];
        if pass == Pass::Tick && (seat.is_lonely || work.now < seat.rests_until) {
            return;
        }
        let (shape, kinds) = (&self.rules.shape, &self.matcher.kinds);
        if !kinds.may_match(shape, &self.roles, pass) {
            work.done += 1;
            return;
        }
        let progress = std::mem::take(&mut self.seats[key].progress);
        let mut search = self.search(work.now, pass);
        search.progress = progress;
        let outcome = search.run(key);
        let looks = search.work;
        self.seats[key].progress = search.progress;
        work.done += looks;
        match outcome {
            Outcome::Found(draft) => self.take(draft, work),
            Outcome::Waits(others) => {
                // The others have somebody now, whom they may not have had before.
                for other in others {
                    self.seats[other].is_lonely = false;
                }
                if pass == Pass::Tick {
                    let rests_until = rests_until(&self.rules, &self.seats[key], work.now, looks);
                    self.seats[key].rests_until = rests_until;
                }
            }
            Outcome::Lonely => self.seats[key].is_lonely = true,
        }
    }

    /// A search among those that can be matched now.
    pub(super) fn search(&mut self, now: Time, pass: Pass) -> Search<'_> {
        Search {
            view: View {
                rules: &self.rules,
                roles: &self.roles,
                seats: &self.seats,
                symbols: &self.symbols,
                now,
            },
            index: &self.matcher.index,
            group: &mut self.matcher.group,
            pass,
            work: 0,
            looks_max: SEARCH_LOOKS_MAX,
            progress: Progress::default(),
        }
    }

    fn take(&mut self, draft: Draft, work: &mut Work) {
        for member in &draft.members {
            self.propose_ticket(*member);
        }
        work.drafts.push(draft);
    }

    pub(super) fn propose_ticket(&mut self, key: Key) {
        self.leave(key);
        self.matcher.proposed.insert(key);
    }

    /// Puts those back whose match is to wait for a better one.
    fn let_settle(&mut self, work: &mut Work) {
        if self.rules.settle.is_zero() {
            return;
        }
        let is_to_settle = |draft: &mut Draft| {
            let since = draft.members.iter().map(|key| self.seats[*key].since);
            let waited = since.min().map(|since| work.now.since(since));
            let least = self.rules.quality_min(waited.unwrap_or_default());
            let can_change = draft.formed.backfill.is_none() && draft.members.len() > 1;
            can_change && draft.formed.quality < least
        };
        let settling: Vec<_> = work.drafts.extract_if(.., is_to_settle).collect();
        for key in settling.into_iter().flat_map(|draft| draft.members) {
            self.matcher.proposed.remove(&key);
            self.enter(key, work.now);
            // Nothing is new for it until the next tick, or until somebody comes.
            let rank = rank(&self.seats[key], key);
            self.matcher.fresh.remove(&rank);
        }
    }

    /// Matches in the order in which they are claimed.
    fn numbered(&self, drafts: Vec<Draft>) -> Vec<Formed> {
        let numbers = self.next_match..;
        let numbered = numbers.zip(drafts).map(|(number, draft)| Formed {
            id: MatchId(number),
            ..draft.formed
        });
        numbered.collect()
    }
}

/// Until when a ticket does not look again that has looked at so many in vain: so long that a tick costs a
/// few looks for each of those who wait, however many they are. Others may find it meanwhile, and it looks when
/// less is asked of its match.
fn rests_until(rules: &Rules, seat: &Seat, now: Time, looks: u64) -> Time {
    let ticks = (looks / LOOKS_PER_TICK).min(REST_TICKS_MAX);
    let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
    let rested = now.after(rules.tick.saturating_mul(ticks));
    let waited = now.since(seat.since);
    let less = rules.shape.next_change(waited);
    let filled = Some(rules.fill).filter(|fill| *fill > waited);
    let next = less.into_iter().chain(filled).min();
    next.map_or(rested, |next| rested.min(seat.since.after(next)))
}

/// What a step has done so far.
pub(super) struct Work {
    pub(super) now: Time,
    max: u64,
    pub(super) drafts: Vec<Draft>,
    /// How many have come or have changed.
    pub(super) arrivals: usize,
    is_complete: bool,
    /// All that wait are looked at.
    pub(super) is_tick: bool,
    pub(super) done: u64,
    /// How much of that was for all that wait.
    done_for_all: u64,
    done_for_running: u64,
    has_looked_at_arrivals: bool,
}

impl Work {
    /// Whether no more may be looked at; then the step has something left to do.
    fn is_over(&mut self) -> bool {
        let is_over = self.left() == 0;
        self.is_complete &= !is_over;
        is_over
    }

    /// How many more may be looked at.
    fn left(&self) -> u64 {
        let done = self.done + self.done_for_running.min(self.max / 2);
        self.max.saturating_sub(done)
    }

    /// What is kept for one kind of work while there is too much of another.
    fn part(&self) -> u64 {
        self.max.div_ceil(4)
    }
}

/// How many looks in vain a ticket has for each tick.
const LOOKS_PER_TICK: u64 = 512;

/// How many ticks a ticket rests at most.
const REST_TICKS_MAX: u64 = 60;
