use std::time::Instant;

/// How many bytes of payload may go through an allocation, in each direction by itself.
/// See RFC 8656 §5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes per second over time.
    pub bytes_per_second: u32,
    /// Bytes that may go at once after a pause. A datagram's payload longer than that never goes.
    pub burst_bytes: u32,
}

/// A token bucket for one direction of an allocation: full at first, filled up by time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    /// Bytes that are missing to a full bucket, as of `since`.
    missing: u32,
    /// Milliseconds on the shard's clock, of which the low 32 bits are kept: a bucket that nobody
    /// touches for 49 days may then be found as empty as it was.
    since: u32,
}

/// Time since the start of a shard, as buckets keep it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Millis(u32);

impl Millis {
    pub(super) fn between(start: Instant, now: Instant) -> Self {
        let millis = now.saturating_duration_since(start).as_millis();
        Self((millis % (1 << 32)) as u32)
    }
}

impl Bucket {
    /// Takes bytes out; `false`, and nothing taken, if there are not enough.
    pub(super) fn take(&mut self, now: Millis, limit: Bandwidth, bytes: usize) -> bool {
        let elapsed = u64::from(now.0.wrapping_sub(self.since));
        let filled = elapsed * u64::from(limit.bytes_per_second) / 1000;
        let missing = u64::from(self.missing).saturating_sub(filled);
        // The time of less than a byte is not lost.
        if filled > 0 || self.missing == 0 {
            self.since = now.0;
        }
        let after = missing + bytes as u64;
        let fits = after <= u64::from(limit.burst_bytes);
        let kept = if fits { after } else { missing };
        self.missing = u32::try_from(kept).unwrap_or(limit.burst_bytes);
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Bandwidth = Bandwidth {
        bytes_per_second: 1000,
        burst_bytes: 500,
    };

    #[test]
    fn a_burst_goes_and_then_as_much_as_time_allows() {
        let mut bucket = Bucket::default();
        assert!(bucket.take(Millis(0), LIMIT, 500));
        assert!(!bucket.take(Millis(0), LIMIT, 1));
        assert!(!bucket.take(Millis(99), LIMIT, 100));
        assert!(bucket.take(Millis(200), LIMIT, 100));
    }

    #[test]
    fn over_time_the_rate_is_kept_whatever_the_packets_times() {
        let mut bucket = Bucket::default();
        let sent: u32 = (0..10_000)
            .filter(|millis| bucket.take(Millis(*millis), LIMIT, 7))
            .map(|_| 7)
            .sum();
        assert!((9_500..=10_500).contains(&sent), "{sent} bytes in 10 s");
    }

    #[test]
    fn a_pause_fills_the_bucket_to_its_brim_and_no_further() {
        let mut bucket = Bucket::default();
        assert!(bucket.take(Millis(0), LIMIT, 500));
        assert!(!bucket.take(Millis(3_600_000), LIMIT, 501));
        assert!(bucket.take(Millis(3_600_000), LIMIT, 500));
    }

    #[test]
    fn the_clock_may_wrap() {
        let mut bucket = Bucket::default();
        assert!(bucket.take(Millis(u32::MAX - 10), LIMIT, 500));
        assert!(bucket.take(Millis(190), LIMIT, 200));
        assert!(!bucket.take(Millis(190), LIMIT, 2));
    }
}
