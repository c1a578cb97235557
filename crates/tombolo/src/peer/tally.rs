//! Counts what was sent and received, per peer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::event::{Quantiles, Summary};
use crate::output::ms;

/// Numbers further above those seen are not of this run.
const SEQ_AHEAD_MAX: u64 = 1 << 24;
/// So many words of 64 numbers are remembered; who comes later is taken for a repetition.
const SEEN_WORDS: u64 = 1 << 12;
/// Round trips that are remembered: those of half an hour.
const RTTS_MAX: usize = 18_000;

/// The account of one peer.
#[derive(Debug)]
pub(crate) struct Tally {
    started: Instant,
    /// The peer's device: another one counts from 1, and so do we towards it.
    device: Option<[u8; 32]>,
    sent: u64,
    /// Of `sent`, those to earlier devices.
    sent_before: u64,
    /// Missing numbers of earlier devices.
    lost_before: u64,
    /// Of `received`, those of earlier devices.
    received_before: u64,
    /// One bit per number received; word `n` is at `n % SEEN_WORDS`.
    seen: Vec<u64>,
    highest: u64,
    received: u64,
    duplicated: u64,
    reordered: u64,
    first_byte: Option<Duration>,
    direct: Option<Duration>,
    last_received: Option<Instant>,
    longest_gap: Option<Duration>,
    rtts: VecDeque<Duration>,
    last_change: Instant,
}

impl Tally {
    /// Starts at the moment of connecting.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            started: now,
            device: None,
            sent: 0,
            sent_before: 0,
            lost_before: 0,
            received_before: 0,
            seen: vec![0; as_index(SEEN_WORDS)],
            highest: 0,
            received: 0,
            duplicated: 0,
            reordered: 0,
            first_byte: None,
            direct: None,
            last_received: None,
            longest_gap: None,
            rtts: VecDeque::new(),
            last_change: now,
        }
    }

    /// Says which device the peer is on now.
    pub(crate) fn on_device(&mut self, device: [u8; 32]) {
        if self.device.replace(device).is_none_or(|old| old == device) {
            return;
        }
        self.lost_before += self.missing();
        self.received_before = self.received;
        self.sent_before = self.sent;
        self.highest = 0;
        self.seen.fill(0);
    }

    /// The number for the next message.
    pub(crate) fn next_seq(&self) -> u64 {
        self.sent - self.sent_before + 1
    }

    fn missing(&self) -> u64 {
        self.highest - (self.received - self.received_before)
    }

    pub(crate) fn on_sent(&mut self, now: Instant) {
        self.sent += 1;
        self.last_change = now;
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// When a message was last sent or received.
    pub(crate) fn last_change(&self) -> Instant {
        self.last_change
    }

    pub(crate) fn on_received(&mut self, now: Instant, seq: u64) {
        self.last_change = now;
        self.first_byte
            .get_or_insert_with(|| now.duration_since(self.started));
        if let Some(last) = self.last_received.replace(now) {
            let gap = now.duration_since(last);
            self.longest_gap = Some(self.longest_gap.map_or(gap, |longest| longest.max(gap)));
        }
        if seq == 0 || seq > self.highest + SEQ_AHEAD_MAX {
            return;
        }
        if !self.mark(seq) {
            self.duplicated += 1;
            return;
        }
        self.received += 1;
        if seq < self.highest {
            self.reordered += 1;
        }
        self.highest = self.highest.max(seq);
    }

    pub(crate) fn on_direct(&mut self, now: Instant) {
        self.direct
            .get_or_insert_with(|| now.duration_since(self.started));
    }

    pub(crate) fn on_rtt(&mut self, rtt: Duration) {
        if self.rtts.len() == RTTS_MAX {
            self.rtts.pop_front();
        }
        self.rtts.push_back(rtt);
    }

    pub(crate) fn summary(&self) -> Summary {
        let mut rtts = Vec::from(self.rtts.clone());
        rtts.sort_unstable();
        Summary {
            sent: self.sent,
            received: self.received,
            lost: self.lost_before + self.missing(),
            duplicated: self.duplicated,
            reordered: self.reordered,
            first_byte_ms: self.first_byte.map(ms),
            direct_ms: self.direct.map(ms),
            longest_gap_ms: self.longest_gap.map(ms),
            rtt_ms: Quantiles {
                p50: quantile(&rtts, 50),
                p99: quantile(&rtts, 99),
            },
        }
    }

    /// Notes a number; false when it was noted before, or is too old to tell.
    fn mark(&mut self, seq: u64) -> bool {
        let (word, newest) = (seq / 64, self.highest / 64);
        if word + SEEN_WORDS <= newest {
            return false;
        }
        // Words that come into use forget the numbers of their last round.
        for reused in (newest + 1).max((word + 1).saturating_sub(SEEN_WORDS))..=word {
            self.seen[as_index(reused % SEEN_WORDS)] = 0;
        }
        let bits = &mut self.seen[as_index(word % SEEN_WORDS)];
        let bit = 1 << (seq % 64);
        let is_new = *bits & bit == 0;
        *bits |= bit;
        is_new
    }
}

/// The index of a word below [`SEEN_WORDS`].
fn as_index(word: u64) -> usize {
    usize::try_from(word).expect("SEEN_WORDS is small")
}

fn quantile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(ms(sorted[last * percent / 100]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_repetitions_and_reordering_are_told_apart() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut tally = Tally::new(start);
        for (millis, seq) in [(10, 1), (20, 2), (50, 5), (60, 4), (61, 4)] {
            tally.on_received(at(millis), seq);
        }
        let summary = tally.summary();
        assert_eq!((summary.received, summary.lost), (4, 1), "3 is missing");
        assert_eq!((summary.duplicated, summary.reordered), (1, 1));
        assert_eq!(summary.first_byte_ms, Some(10.0));
        assert_eq!(summary.longest_gap_ms, Some(30.0));
    }

    #[test]
    fn another_device_of_the_peer_counts_from_one_again() {
        let now = Instant::now();
        let mut tally = Tally::new(now);
        tally.on_device([1; 32]);
        for seq in [1, 3] {
            tally.on_received(now, seq);
            tally.on_sent(now);
        }
        tally.on_device([1; 32]);
        assert_eq!(tally.next_seq(), 3, "the same device goes on");
        tally.on_device([2; 32]);
        assert_eq!(tally.next_seq(), 1);
        tally.on_received(now, 1);
        let summary = tally.summary();
        assert_eq!((summary.sent, summary.received), (2, 3));
        assert_eq!(
            (summary.lost, summary.duplicated),
            (1, 0),
            "2 of the first device"
        );
    }

    #[test]
    fn wild_numbers_are_not_counted() {
        let mut tally = Tally::new(Instant::now());
        tally.on_received(Instant::now(), u64::MAX);
        tally.on_received(Instant::now(), 0);
        assert_eq!(tally.summary().received, 0);
    }

    #[test]
    fn long_runs_are_counted_in_constant_memory() {
        let now = Instant::now();
        let mut tally = Tally::new(now);
        let last = 3 * 64 * SEEN_WORDS;
        for seq in (1..=last).filter(|seq| seq % 1000 != 0) {
            tally.on_received(now, seq);
            tally.on_rtt(Duration::from_millis(1));
        }
        tally.on_received(now, last);
        tally.on_received(now, 1);
        let summary = tally.summary();
        assert_eq!(summary.lost, last / 1000);
        assert_eq!(summary.duplicated, 2, "one of them too old to tell");
        assert_eq!(tally.seen.len(), as_index(SEEN_WORDS));
        assert_eq!(tally.rtts.len(), RTTS_MAX);

        let far = last + SEQ_AHEAD_MAX;
        tally.on_received(now, far);
        tally.on_received(now, far - 64 * SEEN_WORDS + 64);
        assert_eq!(
            tally.summary().duplicated,
            2,
            "a leap forgets the old round"
        );
    }
}
