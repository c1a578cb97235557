//! How fast bytes go between clients' connections and those to peers.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tombolo_turn::server::Bandwidth;

/// What all joined connections of an allocation share, one for each direction, as there are two buckets
/// for datagrams. It lives as long as the client's control connection, so that no new connection to
/// a peer brings a burst of its own.
pub(crate) struct Meters {
    pub(super) to_peer: Meter,
    pub(super) to_client: Meter,
}

/// A token bucket from which bytes that find it empty are taken in advance: they only wait until it
/// would have had them. So nothing is lost, and those who share it get their turns in order.
///
/// It keeps but the time when it will be full again. See "virtual scheduling" in ITU-T I.371.
pub(super) struct Meter {
    start: Instant,
    /// In nanoseconds since `start`.
    full_at: AtomicU64,
}

/// Bytes that may go, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) bytes: usize,
    pub(super) at: Instant,
}

impl Meters {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            to_peer: Meter::new(now),
            to_client: Meter::new(now),
        }
    }
}

impl Meter {
    /// It is full at first.
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            full_at: AtomicU64::new(0),
        }
    }

    /// Takes some of the bytes that are `wanted`: at least one, and so few that who shares the meter
    /// has a turn soon.
    pub(super) fn take(&self, now: Instant, limit: Bandwidth, wanted: usize) -> Grant {
        let second = limit.bytes_per_second.max(1);
        let turn = (second / TURNS_PER_SECOND).min(limit.burst_bytes).max(1);
        let bytes = wanted.min(turn as usize);
        let time_for = |bytes: u64| (bytes * NANOS_PER_SECOND).div_ceil(u64::from(second));
        // What is taken at once is at most as much as the burst, which fits: 2^32 · 10^9 < 2^64.
        let cost = time_for(bytes as u64);
        let burst = time_for(u64::from(limit.burst_bytes));
        let now_nanos = now.saturating_duration_since(self.start).as_nanos();
        let now_nanos = u64::try_from(now_nanos).unwrap_or(u64::MAX);
        let after = |full_at: u64| full_at.max(now_nanos).saturating_add(cost);
        let before = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                Some(after(full_at))
            });
        let (Ok(before) | Err(before)) = before;
        let wait = after(before)
            .saturating_sub(burst)
            .saturating_sub(now_nanos);
        Grant {
            bytes,
            at: now + Duration::from_nanos(wait),
        }
    }
}

/// How often in a second each of several connections that share a meter has a turn, divided by their
/// number.
const TURNS_PER_SECOND: u32 = 8;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_all_that_follows_as_fast_as_the_limit_says() {
        let start = Instant::now();
        let meter = Meter::new(start);
        let (gone, last) = send(&meter, start, LIMIT, 100_000);
        assert_eq!(gone.iter().map(|grant| grant.bytes).sum::<usize>(), 100_000);
        let at_once = gone.iter().filter(|grant| grant.at == start);
        assert_eq!(at_once.map(|grant| grant.bytes).sum::<usize>(), 4000);
        assert_eq!(last - start, Duration::from_secs(96));
        // At no time has more gone than the bucket held and time has brought.
        let mut so_far = 0;
        for grant in gone {
            so_far += grant.bytes;
            let brought = (grant.at - start).as_secs_f64() * 1000.0;
            assert!(so_far as f64 <= 4000.0 + brought + 0.001, "{grant:?}");
        }
    }

    #[test]
    fn those_who_share_a_meter_share_its_bytes_by_turns() {
        let start = Instant::now();
        let meter = Meter::new(start);
        send(&meter, start, LIMIT, 4000);
        let (mut waits, mut had) = ([start; 3], [0; 3]);
        let end = start + Duration::from_secs(30);
        // Whoever's bytes may go first asks next.
        while let Some(next) = (0..3).min_by_key(|one| waits[*one])
            && waits[next] < end
        {
            let grant = meter.take(waits[next], LIMIT, 1_000_000);
            had[next] += grant.bytes;
            waits[next] = grant.at;
        }
        let all: usize = had.iter().sum();
        assert!((30_000..=30_500).contains(&all), "{all} bytes in 30 s");
        assert!(
            had.iter().all(|one| one.abs_diff(all / 3) <= 250),
            "{had:?}"
        );
    }

    #[test]
    fn a_pause_brings_the_burst_back_and_no_more() {
        let start = Instant::now();
        let meter = Meter::new(start);
        send(&meter, start, LIMIT, 4000);
        let later = start + Duration::from_secs(3600);
        let (_, last) = send(&meter, later, LIMIT, 4000);
        assert_eq!(last, later);
        let grant = meter.take(later, LIMIT, 1);
        assert_eq!(grant.at, later + Duration::from_millis(1));
    }

    #[test]
    fn what_a_lower_limit_made_wait_does_not_hold_up_a_higher_one_for_long() {
        let start = Instant::now();
        let meter = Meter::new(start);
        let slow = Bandwidth {
            bytes_per_second: 1,
            burst_bytes: 1,
        };
        for _ in 0..32 {
            assert_eq!(meter.take(start, slow, 16_384).bytes, 1, "so little waits");
        }
        let fast = Bandwidth {
            bytes_per_second: 1_000_000,
            burst_bytes: 1_000_000,
        };
        let grant = meter.take(start, fast, 16_384);
        assert!(grant.at <= start + Duration::from_secs(32));
    }

    #[test]
    fn no_limit_makes_it_overflow_or_stand_still() {
        let start = Instant::now();
        for (bytes_per_second, burst_bytes) in [(0, 0), (1, u32::MAX), (u32::MAX, u32::MAX)] {
            let meter = Meter::new(start);
            let limit = Bandwidth {
                bytes_per_second,
                burst_bytes,
            };
            for later in [0, 1, u64::from(u32::MAX)] {
                let grant = meter.take(start + Duration::from_secs(later), limit, usize::MAX);
                assert!(grant.bytes > 0);
            }
        }
    }

    /// Takes so many bytes one after the other; returns what was granted and when the last may go.
    fn send(
        meter: &Meter,
        mut now: Instant,
        limit: Bandwidth,
        mut bytes: usize,
    ) -> (Vec<Grant>, Instant) {
        let mut grants = Vec::new();
        while bytes > 0 {
            let grant = meter.take(now, limit, bytes);
            bytes -= grant.bytes;
            now = grant.at;
            grants.push(grant);
        }
        (grants, now)
    }

    const LIMIT: Bandwidth = Bandwidth {
        bytes_per_second: 1000,
        burst_bytes: 4000,
    };
}
