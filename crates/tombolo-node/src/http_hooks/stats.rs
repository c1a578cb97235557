//! How questions fared.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::HookQuestion;

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum HookOutcome {
    /// The server said yes.
    Allowed,
    /// The server said no.
    Refused,
    /// It was not asked: as many questions as there may be were under way.
    Overloaded,
    /// It did not answer in time.
    TimedOut,
    /// It was not reached, or the connection broke.
    Unreachable,
    /// It answered with 401 or 403: it does not take this node's questions, say since it has another key.
    Denied,
    /// It answered with another status than 200.
    Status,
    /// What it said could not be understood, or was too long.
    Malformed,
}

impl HookOutcome {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Allowed,
        Self::Refused,
        Self::Overloaded,
        Self::TimedOut,
        Self::Unreachable,
        Self::Denied,
        Self::Status,
        Self::Malformed,
    ];

    /// The word for it in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Overloaded => "overloaded",
            Self::TimedOut => "timed out",
            Self::Unreachable => "not reachable",
            Self::Denied => "denied",
            Self::Status => "status",
            Self::Malformed => "malformed",
        }
    }
}

/// How many questions had which outcome; nothing where no server is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpHooksStats {
    /// All of them, also those that are none.
    pub count_by_outcome: BTreeMap<(HookQuestion, HookOutcome), u64>,
}

impl HttpHooksStats {
    /// How many questions of a kind had that outcome.
    #[must_use]
    pub fn count(&self, question: HookQuestion, outcome: HookOutcome) -> u64 {
        let count = self.count_by_outcome.get(&(question, outcome));
        count.copied().unwrap_or_default()
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters([[AtomicU64; HookOutcome::ALL.len()]; HookQuestion::ALL.len()]);

impl Counters {
    pub(super) fn add(&self, question: HookQuestion, outcome: HookOutcome) {
        self.0[question as usize][outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> HttpHooksStats {
        let mut stats = HttpHooksStats::default();
        for question in HookQuestion::ALL {
            for outcome in HookOutcome::ALL {
                let count = self.0[question as usize][outcome as usize].load(Ordering::Relaxed);
                stats.count_by_outcome.insert((question, outcome), count);
            }
        }
        stats
    }
}
