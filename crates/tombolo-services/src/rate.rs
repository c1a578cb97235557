//! How much a user may ask for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tombolo_wire::GroupName;

use crate::config::{Config, Pace, RateLimit};
use crate::lock::lock;

/// What is left to one user, however many sessions it has.
#[derive(Debug)]
pub(crate) struct Account {
    /// What comes from the user.
    pub(crate) rate: Rate,
    /// What goes to others for it.
    pub(crate) deliveries: Rate,
    pub(crate) hellos: Bucket,
    pub(crate) moves: Bucket,
    pub(crate) introductions: Bucket,
    pub(crate) joins: Bucket,
    pub(crate) opens: Bucket,
    pub(crate) finds: Bucket,
    pub(crate) codes: Bucket,
    pub(crate) directs: Bucket,
    pub(crate) direct_bytes: Bucket,
    pub(crate) acts: Bucket,
    pub(crate) act_bytes: Bucket,
    pub(crate) groups: Bucket,
    pub(crate) group_reads: Bucket,
    pub(crate) tickets: Bucket,
    /// Tickets that are given up, at the same pace: whoever has asked for much must be able to end it.
    pub(crate) ticket_ends: Bucket,
    /// Where its devices are in fields.
    pub(crate) reports: Bucket,
    /// How many of its sessions have a group open, of those that some have.
    pub(crate) open_groups: BTreeMap<GroupName, usize>,
}

/// Sessions of one user share it.
pub(crate) type SharedAccount = Arc<Mutex<Account>>;

impl Account {
    pub(crate) fn new(config: &Config, now: Instant) -> Self {
        Self {
            rate: Rate::new(config.rate, now),
            deliveries: Rate::new(config.deliveries, now),
            hellos: Bucket::new(config.hellos, now),
            moves: Bucket::new(config.moves, now),
            introductions: Bucket::new(config.introductions, now),
            joins: Bucket::new(config.joins, now),
            opens: Bucket::new(config.opens, now),
            finds: Bucket::new(config.finds, now),
            codes: Bucket::new(config.codes, now),
            directs: Bucket::new(config.directs, now),
            direct_bytes: Bucket::new(config.direct_bytes, now),
            acts: Bucket::new(config.acts, now),
            act_bytes: Bucket::new(config.act_bytes, now),
            groups: Bucket::new(config.groups, now),
            group_reads: Bucket::new(config.group_reads, now),
            tickets: Bucket::new(config.tickets, now),
            ticket_ends: Bucket::new(config.tickets, now),
            reports: Bucket::new(config.fields.reports, now),
            open_groups: BTreeMap::new(),
        }
    }

    /// Whether a new one is no better.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.rate.is_full(now)
            && self.deliveries.is_full(now)
            && self.hellos.is_full(now)
            && self.moves.is_full(now)
            && self.introductions.is_full(now)
            && self.joins.is_full(now)
            && self.opens.is_full(now)
            && self.finds.is_full(now)
            && self.codes.is_full(now)
            && self.directs.is_full(now)
            && self.direct_bytes.is_full(now)
            && self.group_reads.is_full(now)
            && self.acts.is_full(now)
            && self.act_bytes.is_full(now)
            && self.groups.is_full(now)
            && self.tickets.is_full(now)
            && self.ticket_ends.is_full(now)
            && self.reports.is_full(now)
            && self.open_groups.is_empty()
    }

    pub(crate) fn lock(shared: &SharedAccount) -> MutexGuard<'_, Self> {
        lock(shared)
    }
}

/// Two token buckets: frames and payload bytes.
#[derive(Debug)]
pub(crate) struct Rate {
    frames: Bucket,
    bytes: Bucket,
}

impl Rate {
    pub(crate) fn new(limit: RateLimit, now: Instant) -> Self {
        let RateLimit {
            frames_per_second,
            frames_burst,
            bytes_per_second,
            bytes_burst,
        } = limit;
        let frames = Pace {
            per_second: frames_per_second,
            burst: frames_burst,
        };
        let bytes = Pace {
            per_second: bytes_per_second,
            burst: bytes_burst,
        };
        Self {
            frames: Bucket::new(frames, now),
            bytes: Bucket::new(bytes, now),
        }
    }

    /// Takes out frames and the payload bytes of all of them; false, and nothing taken, when there
    /// is too little of one.
    pub(crate) fn take(&mut self, now: Instant, frames: usize, bytes: usize) -> bool {
        let has_both = self.frames.has(now, frames) && self.bytes.has(now, bytes);
        has_both && self.frames.take(now, frames) && self.bytes.take(now, bytes)
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.frames.is_full(now) && self.bytes.is_full(now)
    }
}

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    pace: Pace,
    level: f64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn new(pace: Pace, now: Instant) -> Self {
        Self {
            pace,
            level: f64::from(pace.burst),
            filled: now,
        }
    }

    pub(crate) fn per_second(&self) -> u32 {
        self.pace.per_second
    }

    /// Takes out so much; false, and nothing taken, when there is too little.
    pub(crate) fn take(&mut self, now: Instant, amount: usize) -> bool {
        let has = self.has(now, amount);
        if has {
            self.level -= amount as f64;
        }
        has
    }

    /// Takes out what was spent already, also more than there is: that has to flow in first.
    pub(crate) fn owe(&mut self, amount: usize) {
        self.level -= amount as f64;
    }

    /// Gives back what was taken.
    pub(crate) fn put_back(&mut self, amount: usize) {
        self.level += amount as f64;
        self.level = self.level.min(f64::from(self.pace.burst));
    }

    fn has(&mut self, now: Instant, amount: usize) -> bool {
        self.fill(now);
        self.level >= amount as f64
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.level >= f64::from(self.pace.burst)
    }

    fn fill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.level += seconds * f64::from(self.pace.per_second);
        self.level = self.level.min(f64::from(self.pace.burst));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_owed_flows_in_first() {
        let now = Instant::now();
        let pace = Pace {
            per_second: 10,
            burst: 10,
        };
        let mut bucket = Bucket::new(pace, now);
        bucket.owe(15);
        assert!(!bucket.take(now + Duration::from_millis(500), 1));
        assert!(bucket.take(now + Duration::from_millis(600), 1));
    }

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
        assert!((0..3).all(|_| rate.take(now, 1, 100)));
        assert!(!rate.take(now, 1, 0));
        assert!(!rate.is_full(now));
        now += Duration::from_millis(500);
        assert!(rate.take(now, 1, 500));
        now += Duration::from_millis(250);
        assert!(!rate.take(now, 1, 251));
        assert!(rate.take(now, 2, 250));
        now += Duration::from_secs(1);
        assert!(rate.is_full(now));
    }
}
