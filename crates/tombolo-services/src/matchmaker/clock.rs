//! What time it is in a pool, as one node knows it.
//!
//! Nodes' own clocks count only where nobody waits. From then on a pool's time passes by itself, on each node from what
//! was said last, so that one whose clock is ahead takes nobody with it.

use tokio::time::Instant;
use tombolo_match::{Pool, Time};

/// What time it is in a pool.
pub(super) struct PoolClock {
    time: Time,
    at: Instant,
}

impl PoolClock {
    /// A clock that begins now, at that time.
    pub(super) fn new(time: Time) -> Self {
        let at = Instant::now();
        Self { time, at }
    }

    /// What time it is, when this node's own clock shows `own`.
    pub(super) fn time(&self, pool: &Pool, own: Time) -> Time {
        let passed = self.passed();
        match pool.is_idle() {
            true => passed.max(own),
            false => passed,
        }
    }

    /// An entry was applied that said what time it is. Others may know of more time that has passed; and what was not
    /// believed has passed for nobody.
    pub(super) fn follow(&mut self, pool: &Pool, said: Time) {
        let clock = pool.clock();
        if clock > self.passed() || said > clock {
            *self = Self::new(clock);
        }
    }

    fn passed(&self) -> Time {
        self.time.after(self.at.elapsed())
    }
}
