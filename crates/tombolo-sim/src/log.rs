//! The event log: what happened, in order, and what a failing test prints.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::Seed;
use crate::seed::{FNV_OFFSET, fnv1a};

/// A bounded record of everything that happened in a world.
///
/// It keeps the last [`EVENTS_MAX`] lines and a running hash over all of them, which is how two runs are
/// compared. When it is dropped by a panicking test it prints the seed, the command that replays it, and
/// its tail.
#[derive(Debug)]
pub struct EventLog {
    seed: Seed,
    lines: VecDeque<String>,
    count: u64,
    hash: u64,
}

impl EventLog {
    /// An empty log for a world with this seed.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        Self {
            seed,
            lines: VecDeque::new(),
            count: 0,
            hash: FNV_OFFSET,
        }
    }

    /// Adds a line; the oldest one makes room.
    pub fn record(&mut self, at: Duration, event: fmt::Arguments<'_>) {
        let mut line = if self.lines.len() < EVENTS_MAX {
            String::with_capacity(80)
        } else {
            self.lines.pop_front().unwrap_or_default()
        };
        line.clear();
        let micros = at.as_micros();
        let written = write!(
            line,
            "{:>6}.{:06} {event}",
            micros / 1_000_000,
            micros % 1_000_000
        );
        debug_assert!(written.is_ok(), "writing into a String succeeds");
        self.hash = fnv1a(fnv1a(self.hash, line.as_bytes()), b"\n");
        self.count += 1;
        self.lines.push_back(line);
    }

    /// The lines that are still there, oldest first.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.lines.iter().map(String::as_str)
    }

    /// How many lines were ever recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// A hash over every line ever recorded.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// What a person needs in order to replay a failure: the seed, the command and the last lines.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = String::new();
        let tail = self.lines.len().min(TAIL_LINES);
        let written = writeln!(
            text,
            "seed = {seed}\nreplay: {replay}\n\
             the last {tail} of {count} events:",
            seed = self.seed,
            replay = self.seed.replay(),
            count = self.count,
        );
        debug_assert!(written.is_ok(), "writing into a String succeeds");
        for line in self.lines.iter().skip(self.lines.len() - tail) {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

impl Drop for EventLog {
    #[expect(clippy::print_stderr, reason = "a failing test tells how to replay it")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
    }
}

/// How many lines a log keeps.
pub const EVENTS_MAX: usize = 20_000;
const TAIL_LINES: usize = 120;
