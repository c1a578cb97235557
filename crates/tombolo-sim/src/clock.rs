//! The virtual clock.

use std::time::{Duration, Instant};

/// A clock that moves only when it is told to.
///
/// [`Instant`]s cannot be made from nothing, so one is taken from the real clock at construction and
/// serves as the zero of virtual time; nothing else ever reads the real clock.
#[derive(Debug, Clone)]
pub struct Clock {
    base: Instant,
    elapsed: Duration,
}

impl Clock {
    /// Starts virtual time at zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            base: Instant::now(),
            elapsed: Duration::ZERO,
        }
    }

    /// The present moment, as the protocol cores want it.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.base + self.elapsed
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Virtual time between the start and `at`; zero for an instant before the start.
    #[must_use]
    pub fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.base)
    }

    /// Moves the clock forward to `at`; an instant in the past leaves it where it is.
    pub fn advance_to(&mut self, at: Instant) {
        self.elapsed = self.elapsed.max(self.since_start(at));
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
