//! How much a session may ask for.

use std::time::Instant;

use crate::config::RateLimit;

/// Two token buckets: frames and payload bytes.
#[derive(Debug)]
pub(crate) struct Rate {
    limit: RateLimit,
    frames: f64,
    bytes: f64,
    filled: Instant,
}

impl Rate {
    pub(crate) fn new(limit: RateLimit, now: Instant) -> Self {
        let (frames, bytes) = (f64::from(limit.frames_burst), f64::from(limit.bytes_burst));
        Self {
            limit,
            frames,
            bytes,
            filled: now,
        }
    }

    /// Takes out a frame with so many payload bytes; false, and nothing taken, when there is too little.
    pub(crate) fn take(&mut self, now: Instant, bytes: usize) -> bool {
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        let RateLimit {
            frames_per_second,
            frames_burst,
            bytes_per_second,
            bytes_burst,
        } = self.limit;
        self.frames += seconds * f64::from(frames_per_second);
        self.frames = self.frames.min(f64::from(frames_burst));
        self.bytes += seconds * f64::from(bytes_per_second);
        self.bytes = self.bytes.min(f64::from(bytes_burst));

        let bytes = bytes as f64;
        if self.frames < 1.0 || self.bytes < bytes {
            return false;
        }
        self.frames -= 1.0;
        self.bytes -= bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_as_much_as_flows_in() {
        let mut now = Instant::now();
        let limit = RateLimit {
            frames_per_second: 10,
            frames_burst: 3,
            bytes_per_second: 1000,
            bytes_burst: 500,
        };
        let mut rate = Rate::new(limit, now);
        assert!((0..3).all(|_| rate.take(now, 100)));
        assert!(!rate.take(now, 0));
        now += Duration::from_millis(500);
        assert!(rate.take(now, 500));
        now += Duration::from_millis(250);
        assert!(!rate.take(now, 251));
        assert!(rate.take(now, 250));
    }
}
