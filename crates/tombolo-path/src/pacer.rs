//! Paces checks over all peers. See RFC 8445 §14.2.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::{Config, PeerId};

/// A pair that waits for its check.
pub(crate) type Target = (PeerId, SocketAddr);

/// Two queues and one budget: a check per interval, a few together after a pause.
#[derive(Debug)]
pub(crate) struct Pacer {
    interval: Duration,
    /// How far the budget may run ahead: the burst.
    slack: Duration,
    /// When the budget is whole again; the past means that it is.
    budget_until: Option<Instant>,
    triggered: VecDeque<Target>,
    ordinary: VecDeque<Target>,
    /// Triggered checks since the last ordinary one.
    triggered_in_a_row: u32,
}

impl Pacer {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            interval: config.pacing,
            slack: config.pacing * config.burst.saturating_sub(1),
            budget_until: None,
            triggered: VecDeque::new(),
            ordinary: VecDeque::new(),
            triggered_in_a_row: 0,
        }
    }

    /// Queues a check that answers the peer's own. See RFC 8445 §7.3.1.4.
    pub(crate) fn push_triggered(&mut self, target: Target) {
        self.triggered.push_back(target);
    }

    /// Queues a check that is due by its schedule. See RFC 8445 §6.1.4.2.
    pub(crate) fn push_ordinary(&mut self, target: Target) {
        self.ordinary.push_back(target);
    }

    /// Takes the next check if the budget allows one now: triggered checks first, but a peer that triggers one
    /// after the other does not keep the others' from being sent.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Target> {
        if self.free_at().is_some_and(|at| at > now) {
            return None;
        }
        let is_their_turn =
            self.triggered_in_a_row < TRIGGERED_IN_A_ROW_MAX || self.ordinary.is_empty();
        if is_their_turn && let Some(target) = self.triggered.pop_front() {
            self.triggered_in_a_row += 1;
            return Some(target);
        }
        self.triggered_in_a_row = 0;
        self.ordinary.pop_front()
    }

    /// Charges the budget for a check that was sent, in its turn or (a probe of the route) not.
    pub(crate) fn charge(&mut self, now: Instant) {
        let from = self.budget_until.map_or(now, |until| until.max(now));
        self.budget_until = Some((from + self.interval).min(now + self.slack + DEBT_MAX));
    }

    /// When the next queued check may leave; `None` when none waits.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let is_empty = self.triggered.is_empty() && self.ordinary.is_empty();
        (!is_empty).then(|| self.free_at().unwrap_or(now))
    }

    fn free_at(&self) -> Option<Instant> {
        self.budget_until
            .and_then(|until| until.checked_sub(self.slack))
    }
}

/// Probes out of turn delay ordinary checks by no more than this.
const DEBT_MAX: Duration = Duration::from_millis(50);

/// So many triggered checks go before an ordinary one that waits.
const TRIGGERED_IN_A_ROW_MAX: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_leaves_at_once_and_the_rest_one_per_interval() {
        let now = Instant::now();
        let config = Config::default();
        let mut pacer = Pacer::new(&config);
        for port in 1..=20 {
            pacer.push_ordinary((PeerId(1), SocketAddr::from(([192, 0, 2, 1], port))));
        }
        let mut sent_at_ms = Vec::new();
        for ms in 0..100 {
            let at = now + Duration::from_millis(ms);
            while pacer.pop(at).is_some() {
                pacer.charge(at);
                sent_at_ms.push(ms);
            }
        }
        assert_eq!(&sent_at_ms[..10], &[0, 0, 0, 0, 0, 0, 0, 0, 5, 10]);
        assert_eq!(sent_at_ms.last(), Some(&60));
    }

    #[test]
    fn triggered_checks_without_an_end_leave_room_for_ordinary_ones() {
        let now = Instant::now();
        let mut pacer = Pacer::new(&Config::default());
        let target = |port| (PeerId(1), SocketAddr::from(([192, 0, 2, 1], port)));
        pacer.push_ordinary(target(1));
        pacer.push_ordinary(target(2));
        let mut sent = Vec::new();
        for _ in 0..8 {
            pacer.push_triggered(target(3));
            sent.extend(pacer.pop(now).map(|(_, at)| at.port()));
        }
        assert_eq!(sent, [3, 3, 3, 1, 3, 3, 3, 2]);
    }

    #[test]
    fn triggered_checks_go_first() {
        let now = Instant::now();
        let mut pacer = Pacer::new(&Config::default());
        let (a, b) = (
            "192.0.2.1:1".parse().unwrap(),
            "192.0.2.1:2".parse().unwrap(),
        );
        pacer.push_ordinary((PeerId(1), a));
        pacer.push_triggered((PeerId(1), b));
        assert_eq!(pacer.pop(now), Some((PeerId(1), b)));
        assert_eq!(pacer.pop(now), Some((PeerId(1), a)));
        assert_eq!(pacer.pop(now), None);
        assert_eq!(pacer.deadline(now), None);
    }
}
