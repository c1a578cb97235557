//! How often bots did what, how it went, and how long it took.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tombolo_client::Error;

use crate::output::{code_word, ms};

/// What a bot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    /// Opens a session.
    Connect,
    /// Has a session, until it closes it.
    Session,
    /// Comes together with its party.
    Party,
    /// Hands in a ticket.
    Submit,
    /// Says who is in the party of a ticket that waits.
    Change,
    /// Waits from there until it is in the match's room.
    Match,
    /// Asks for more users of a match, until somebody has joined it.
    Backfill,
    /// Joins a room that it names.
    Join,
    /// Leaves a room.
    Leave,
    /// Sends a plain message.
    Chat,
    /// Says something durable, until the node answers.
    Say,
    /// Comes into a field.
    Enter,
    /// Reports where it is.
    Report,
    /// Is without a connection, until its session goes on over another one.
    Reconnect,
}

/// What a bot hears of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Heard {
    /// A plain message.
    Chat,
    /// A durable one.
    Say,
    /// A move in the field.
    Report,
}

/// The account of all bots.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<State>);

#[derive(Clone, Debug, Default)]
struct State {
    operations: BTreeMap<Operation, Count>,
    heard: BTreeMap<Heard, Times>,
}

#[derive(Clone, Debug, Default)]
struct Count {
    started: u64,
    failed: BTreeMap<String, u64>,
    times: Times,
}

/// The whole account, or as much as there is of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Report {
    pub(super) operations: BTreeMap<Operation, Done>,
    pub(super) heard: BTreeMap<Heard, Spread>,
}

/// How one kind of operation went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Done {
    pub(super) started: u64,
    /// Those that went well, and how long they took.
    #[serde(flatten)]
    pub(super) done: Spread,
    /// By the node's code, or one word for what went wrong.
    pub(super) failed: BTreeMap<String, u64>,
    /// Neither, when the run was over.
    pub(super) unfinished: u64,
}

/// How many there were, and how long they took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) count: u64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) max_ms: Option<f64>,
}

impl Tally {
    pub(super) fn start(&self, operation: Operation) {
        self.lock().operations.entry(operation).or_default().started += 1;
    }

    pub(super) fn done(&self, operation: Operation, since: Instant) {
        let took = since.elapsed();
        let mut state = self.lock();
        state
            .operations
            .entry(operation)
            .or_default()
            .times
            .add(took);
    }

    pub(super) fn failed(&self, operation: Operation, code: &str) {
        let mut state = self.lock();
        let count = state.operations.entry(operation).or_default();
        *count.failed.entry(code.to_owned()).or_default() += 1;
    }

    /// Something that took so long to arrive.
    pub(super) fn heard(&self, what: Heard, since: Instant) {
        let took = since.elapsed();
        self.lock().heard.entry(what).or_default().add(took);
    }

    pub(super) fn report(&self) -> Report {
        let state = self.lock().clone();
        let operations = state.operations.into_iter();
        let heard = state.heard.into_iter();
        Report {
            operations: operations
                .map(|(what, count)| (what, count.report()))
                .collect(),
            heard: heard.map(|(what, times)| (what, times.report())).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    fn report(self) -> Done {
        let ended = self.times.count + self.failed.values().sum::<u64>();
        Done {
            started: self.started,
            done: self.times.report(),
            failed: self.failed,
            unfinished: self.started.saturating_sub(ended),
        }
    }
}

impl Report {
    pub(super) fn of(&self, operation: Operation) -> (u64, u64) {
        let done = self.operations.get(&operation);
        done.map_or((0, 0), |done| (done.done.count, done.failed.values().sum()))
    }
}

/// Times, counted by their size: a twentieth of each is lost, and memory does not grow.
#[derive(Clone, Debug, Default)]
struct Times {
    count: u64,
    longest: Duration,
    /// Indexed by [`bucket`].
    counts: BTreeMap<u16, u64>,
}

impl Times {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.longest = self.longest.max(took);
        *self.counts.entry(bucket(took)).or_default() += 1;
    }

    /// A time that so many of a thousand do not exceed, by a twentieth too long at the most.
    fn quantile(&self, per_mille: u64) -> Option<Duration> {
        let rank = (self.count * per_mille).div_ceil(1000).max(1);
        let mut passed = 0;
        let (bucket, _) = self.counts.iter().find(|(_, count)| {
            passed += *count;
            passed >= rank
        })?;
        Some(end_of(*bucket).min(self.longest))
    }

    fn report(&self) -> Spread {
        Spread {
            count: self.count,
            p50_ms: self.quantile(500).map(ms),
            p99_ms: self.quantile(990).map(ms),
            max_ms: (self.count > 0).then(|| ms(self.longest)),
        }
    }
}

/// Sixteen for each doubling of the microseconds.
fn bucket(took: Duration) -> u16 {
    let micros = (took.as_secs_f64() * 1e6).max(1.0);
    // Below 16 × 44 for any time of less than 500 days.
    (micros.log2() * 16.0).floor().min(f64::from(u16::MAX)) as u16
}

/// The time with which the next bucket begins.
fn end_of(bucket: u16) -> Duration {
    let micros = ((f64::from(bucket) + 1.0) / 16.0).exp2();
    Duration::try_from_secs_f64(micros / 1e6).unwrap_or(Duration::MAX)
}

/// One word for why something failed.
pub(super) fn code(error: &Error) -> String {
    match error.code() {
        Some(code) => code_word(code),
        None if error.is_unreachable() => "unreachable".to_owned(),
        None if error.is_token() => "token".to_owned(),
        None if error.is_closed() => "closed".to_owned(),
        None => "local".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_many_times_are_nearly_exact_and_the_longest_is_exact() {
        let mut times = Times::default();
        assert_eq!(times.report().p50_ms, None);
        for millis in 1..=1000 {
            times.add(Duration::from_millis(millis));
        }
        let report = times.report();
        assert_eq!((report.count, report.max_ms), (1000, Some(1000.0)));
        let (p50, p99) = (report.p50_ms.expect("there"), report.p99_ms.expect("there"));
        assert!((500.0..525.0).contains(&p50), "{p50}");
        assert!((990.0..=1000.0).contains(&p99), "{p99}");
        assert!(times.counts.len() < 200);
    }

    #[test]
    fn what_neither_went_well_nor_failed_is_unfinished() {
        let tally = Tally::default();
        for _ in 0..5 {
            tally.start(Operation::Match);
        }
        tally.done(Operation::Match, Instant::now());
        tally.failed(Operation::Match, "no_match");
        tally.failed(Operation::Match, "no_match");
        let report = tally.report();
        let done = &report.operations[&Operation::Match];
        assert_eq!((done.started, done.done.count, done.unfinished), (5, 1, 2));
        assert_eq!(done.failed["no_match"], 2);
        assert_eq!(report.of(Operation::Match), (1, 2));
    }
}
