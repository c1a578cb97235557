//! The matcher's work.

use super::Pool;
use super::backfill::Running;
use super::group::View;
use super::search::{Outcome, Pass, Search};
use super::seat::Key;
use super::ticket::{rank, set_gates};
use super::{Matcher, Rank};
use crate::formed::Formed;
use crate::word::{MatchId, Time};

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
        let mut step = Step {
            matches: Vec::new(),
            is_complete: true,
            work: 0,
        };
        self.relax(now, work_max, &mut step);
        self.pass_running(now, work_max, &mut step);
        self.pass_arrivals(now, work_max, &mut step);
        self.pass_all(now, work_max, &mut step);
        step
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
        let is_fresh = |running: &Running| running.is_fresh && running.pending.is_none();
        let has_running = !waiting.is_empty() && self.running.values().any(is_fresh);
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

    /// Lets limits widen that are due.
    fn relax(&mut self, now: Time, work_max: u64, step: &mut Step) {
        while let Some((due, key)) = self.matcher.changes.first().copied() {
            if due > now {
                return;
            }
            if step.work >= work_max {
                step.is_complete = false;
                return;
            }
            step.work += 1;
            self.matcher.changes.pop_first();
            let seat = &mut self.seats[key];
            set_gates(&self.rules, seat, now);
            if let Some(next) = seat.next_change {
                self.matcher.changes.insert((next, key));
            }
            seat.is_lonely = false;
            let fresh = rank(seat, key);
            if let Some(class) = seat.class {
                let class = self
                    .matcher
                    .index
                    .reclass(&self.rules, key, &self.seats[key], class);
                self.seats[key].class = Some(class);
            }
            self.matcher.fresh.insert(fresh);
        }
    }

    /// Running matches come first.
    fn pass_running(&mut self, now: Time, work_max: u64, step: &mut Step) {
        let is_tick = self.matcher.cursor.is_some() || now >= self.matcher.next_tick;
        let is_due = is_tick || !self.matcher.fresh.is_empty();
        let ids: Vec<_> = self
            .running
            .iter()
            .filter(|(_, running)| running.pending.is_none() && (is_due || running.is_fresh))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(mut running) = self.running.remove(&id) else {
                continue;
            };
            if step.work >= work_max {
                running.is_fresh = true;
                step.is_complete = false;
                self.running.insert(id, running);
                continue;
            }
            running.is_fresh = false;
            for key in running.sides.iter().flatten() {
                set_gates(&self.rules, &mut self.seats[*key], now);
            }
            let next = MatchId(self.next_match + step.matches.len() as u64);
            let mut search = Search {
                view: View {
                    rules: &self.rules,
                    roles: &self.roles,
                    seats: &self.seats,
                    symbols: &self.symbols,
                    now,
                },
                index: &self.matcher.index,
                group: &mut self.matcher.group,
                pass: Pass::Tick,
                work: 0,
            };
            let found = search.run_backfill(id, &running, next);
            step.work += search.work;
            self.running.insert(id, running);
            if let Some((formed, members)) = found {
                for member in members {
                    self.propose_ticket(member);
                }
                step.matches.push(formed);
            }
        }
    }

    fn pass_arrivals(&mut self, now: Time, work_max: u64, step: &mut Step) {
        while let Some(rank) = self.matcher.fresh.first().copied() {
            if step.work >= work_max {
                step.is_complete = false;
                return;
            }
            self.matcher.fresh.remove(&rank);
            self.look(now, rank, Pass::Arrival, step);
        }
    }

    fn pass_all(&mut self, now: Time, work_max: u64, step: &mut Step) {
        if self.matcher.cursor.is_none() && now < self.matcher.next_tick {
            return;
        }
        let mut next = match self.matcher.cursor.take() {
            Some(cursor) => self.matcher.waiting.range(cursor..).next().copied(),
            None => self.matcher.waiting.first().copied(),
        };
        while let Some(rank) = next {
            if step.work >= work_max {
                self.matcher.cursor = Some(rank);
                step.is_complete = false;
                return;
            }
            self.look(now, rank, Pass::Tick, step);
            let after = (std::ops::Bound::Excluded(rank), std::ops::Bound::Unbounded);
            next = self.matcher.waiting.range(after).next().copied();
        }
        self.matcher.next_tick = now.after(self.rules.tick);
    }

    /// Lets one ticket look for its match.
    fn look(&mut self, now: Time, (_, _, key): Rank, pass: Pass, step: &mut Step) {
        if pass == Pass::Tick && self.seats[key].is_lonely {
            return;
        }
        let id = MatchId(self.next_match + step.matches.len() as u64);
        let mut search = Search {
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
        };
        let outcome = search.run(key, id);
        step.work += search.work;
        match outcome {
            Outcome::Found(formed, members) => {
                for member in members {
                    self.propose_ticket(member);
                }
                step.matches.push(formed);
            }
            Outcome::Waits(others) => {
                // The others have somebody now, whom they may not have had before.
                for other in others {
                    self.seats[other].is_lonely = false;
                }
            }
            Outcome::Lonely => self.seats[key].is_lonely = true,
        }
    }

    fn propose_ticket(&mut self, key: Key) {
        self.leave(key);
        self.matcher.proposed.insert(key);
    }
}
