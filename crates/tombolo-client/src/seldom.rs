//! What may happen often is logged seldom.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets one of many through, once a second.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// Whether it is time to say it again, and how often it was not said since.
    pub(crate) fn is_due(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = state.last;
        if last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            state.unsaid += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }
}

const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_one_a_second_is_said_and_how_many_were_not() {
        let (seldom, begin) = (Seldom::default(), Instant::now());
        let at = |ms| seldom.is_due(begin + Duration::from_millis(ms));
        assert_eq!([at(0), at(1), at(999)], [Some(0), None, None]);
        assert_eq!([at(1000), at(1500), at(3000)], [Some(2), None, Some(1)]);
    }
}
