//! Warnings that others can cause at any rate.

use std::time::{Duration, Instant};

/// Counts what happens again and again, and says how often now and then, so that it does not fill the
/// log.
#[derive(Debug, Default)]
pub(crate) struct Repeated {
    /// Since it was last said.
    count: u64,
    said: Option<Instant>,
}

impl Repeated {
    /// Counts one; `Some` when it is time to say how many there were.
    pub(crate) fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.said.is_some_and(|said| now < said + WARNING_INTERVAL) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

const WARNING_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_again_and_again_is_said_now_and_then_with_how_often() {
        let (mut repeated, begin) = (Repeated::default(), Instant::now());
        assert_eq!(repeated.count(begin), Some(1));
        for _ in 0..1_000 {
            assert_eq!(repeated.count(begin), None);
        }
        assert_eq!(repeated.count(begin + WARNING_INTERVAL), Some(1_001));
    }
}
