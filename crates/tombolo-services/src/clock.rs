//! The time that this node writes into logs.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::lock;

/// The system's clock, but it does not jump.
///
/// Somebody may set the system's clock forward by a month, or back. What differs from the time that has passed by
/// more than [`TRUSTED`] is made up for slowly; a node that is started again takes the system's time as it is.
#[derive(Default)]
pub(crate) struct SteadyClock(Mutex<Option<Told>>);

#[derive(Clone, Copy)]
struct Told {
    /// Since the Unix epoch.
    time: Duration,
    at: Instant,
    is_off: bool,
}

impl SteadyClock {
    /// The time to go by, when the system's clock shows `wall`.
    pub(crate) fn time(&self, wall: Duration, now: Instant) -> Duration {
        let mut told = lock(&self.0);
        let next = match *told {
            None => Told {
                time: wall,
                at: now,
                is_off: false,
            },
            Some(before) => before.next(wall, now),
        };
        let was_off = told.is_some_and(|told| told.is_off);
        if next.is_off && !was_off {
            let off = wall.abs_diff(next.time);
            tracing::warn!(?off, "the system's clock has jumped: followed slowly");
        }
        *told = Some(next);
        next.time
    }
}

impl Told {
    fn next(self, wall: Duration, now: Instant) -> Self {
        let passed = now.saturating_duration_since(self.at);
        let time = self.time.saturating_add(passed);
        let off = wall.abs_diff(time);
        let is_off = off > TRUSTED;
        let made_up = (passed / MADE_UP_IN).min(off);
        let time = match (is_off, wall > time) {
            (false, _) => wall,
            (true, true) => time.saturating_add(made_up),
            (true, false) => time.saturating_sub(made_up),
        };
        Self {
            time,
            at: now,
            is_off,
        }
    }
}

/// How far the system's clock may be corrected at once.
const TRUSTED: Duration = Duration::from_secs(60);

/// What is made up for of a difference, as a part of the time that passes.
const MADE_UP_IN: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1_800_000_000);

    #[test]
    fn small_corrections_are_followed_at_once_and_jumps_slowly() {
        let (clock, now) = (SteadyClock::default(), Instant::now());
        let seconds = Duration::from_secs;
        assert_eq!(clock.time(START, now), START);
        let corrected = START + seconds(10 + 59);
        assert_eq!(clock.time(corrected, now + seconds(10)), corrected);
        // A month forward.
        let month = seconds(30 * 86_400);
        let told = clock.time(corrected + month, now + seconds(10));
        assert_eq!(told, corrected);
        let told = clock.time(corrected + month, now + seconds(110));
        assert_eq!(told, corrected + seconds(110));
        // And back again.
        let right = corrected + seconds(110);
        assert_eq!(clock.time(right, now + seconds(110)), right);
        let told = clock.time(right - month, now + seconds(210));
        assert_eq!(told, right + seconds(90));
    }
}
