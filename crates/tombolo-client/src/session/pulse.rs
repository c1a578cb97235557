//! Whether the node still lives, as far as its silence tells.
//!
//! Something comes from a living node whenever its connection is tried, which it is ten times within
//! the device's patience. A node that is silent for a sixth of it is *suspected*: another one is tried
//! beside it, and whichever answers first has the session. Long before patience ends a dead node costs
//! no more than that, and a slow one nothing.
//!
//! A suspicion that proves wrong doubles what it takes to suspect, for a while: on a network with
//! gaps, or a machine with too much to do, all would be suspected else, and be moved for nothing.

use std::time::{Duration, Instant};

use super::Patience;

/// Times that silence is looked at in the time after which a node is suspected.
const LOOKS: u32 = 5;
/// After so long without a false alarm the node is suspected sooner again.
const CALM: Duration = Duration::from_secs(60);

/// Judges the silence of one connection after the other.
///
/// Sleep until [`Self::poll_timeout`], then tell [`Self::handle_look`] how much has come by then.
#[derive(Debug)]
pub(super) struct Pulse {
    patience: Patience,
    /// How long a silence is not suspect.
    silence_max: Duration,
    /// How much had come when that was last looked at.
    received: u64,
    /// Silence counts from here.
    heard: Instant,
    look_at: Instant,
    is_suspected: bool,
    /// When the last false alarm was, or was half forgotten.
    alarmed: Instant,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// The node is silent for suspiciously long.
    Silent,
    /// The node was suspected, and has been heard.
    Alive,
}

impl Pulse {
    pub(super) fn new(patience: Patience, now: Instant) -> Self {
        let silence_max = patience.suspicion();
        Self {
            patience,
            silence_max,
            received: 0,
            heard: now,
            look_at: now + silence_max / LOOKS,
            is_suspected: false,
            alarmed: now,
        }
    }

    /// There is another connection.
    pub(super) fn handle_connection(&mut self, now: Instant) {
        self.is_suspected = false;
        self.received = 0;
        self.on_heard(now);
    }

    /// A node that was suspected lived.
    pub(super) fn handle_false_alarm(&mut self, now: Instant) {
        self.alarmed = now;
        self.silence_max = (self.silence_max * 2).min(self.patience.0);
    }

    /// So much has come over the connection by now.
    pub(super) fn handle_look(&mut self, now: Instant, received: u64) -> Option<Finding> {
        // A device that was not woken in time does not know what it has missed.
        let has_stood_still = now >= self.look_at + self.interval();
        let is_heard = std::mem::replace(&mut self.received, received) != received;
        self.look_at = now + self.interval();
        if is_heard && std::mem::take(&mut self.is_suspected) {
            self.handle_false_alarm(now);
            self.on_heard(now);
            return Some(Finding::Alive);
        }
        if is_heard || has_stood_still {
            self.on_heard(now);
        }
        if now >= self.alarmed + CALM {
            self.alarmed = now;
            self.silence_max = (self.silence_max / 2).max(self.patience.suspicion());
        }
        if !self.is_suspected && now >= self.heard + self.silence_max {
            self.is_suspected = true;
            return Some(Finding::Silent);
        }
        None
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.look_at
    }

    pub(super) fn is_suspected(&self) -> bool {
        self.is_suspected
    }

    fn on_heard(&mut self, now: Instant) {
        self.heard = now;
        self.look_at = now + self.interval();
    }

    fn interval(&self) -> Duration {
        self.patience.suspicion() / LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience(Duration::from_secs(6));

    /// Looks as often as the pulse wants, for so long; returns what was found, and after how long.
    fn look(
        pulse: &mut Pulse,
        now: &mut Instant,
        time: Duration,
        received: impl Fn(Duration) -> u64,
    ) -> Vec<(Finding, Duration)> {
        let (begin, end) = (*now, *now + time);
        let mut found = Vec::new();
        while pulse.poll_timeout() <= end {
            *now = pulse.poll_timeout();
            let after = *now - begin;
            if let Some(finding) = pulse.handle_look(*now, received(after)) {
                found.push((finding, after));
            }
        }
        found
    }

    /// How often a connection has been tried by then.
    fn tries(after: Duration) -> u64 {
        u64::try_from(after.as_millis() / PATIENCE.keep_alive().as_millis()).unwrap()
    }

    #[test]
    fn a_dead_node_is_suspected_once_and_soon() {
        let mut now = Instant::now();
        let mut pulse = Pulse::new(PATIENCE, now);
        let found = look(&mut pulse, &mut now, PATIENCE.0, |_| 0);
        assert_eq!(found, [(Finding::Silent, PATIENCE.suspicion())]);
    }

    #[test]
    fn a_node_that_answers_whenever_it_is_tried_is_not_suspected() {
        let mut now = Instant::now();
        let mut pulse = Pulse::new(PATIENCE, now);
        let found = look(&mut pulse, &mut now, Duration::from_secs(600), tries);
        assert_eq!(found, []);
    }

    #[test]
    fn a_false_alarm_makes_the_next_one_later_and_is_forgotten_in_time() {
        let mut now = Instant::now();
        let mut pulse = Pulse::new(PATIENCE, now);
        let first = PATIENCE.suspicion();
        let late = first + Duration::from_millis(400);
        let answers = |after: Duration| u64::from(after >= late);
        let found = look(&mut pulse, &mut now, late, answers);
        assert!(matches!(
            found[..],
            [(Finding::Silent, _), (Finding::Alive, _)]
        ));
        let found = look(&mut pulse, &mut now, PATIENCE.0, |_| 1);
        assert!(found[0].1 > first, "{found:?}");
        pulse.handle_connection(now);
        assert_eq!(look(&mut pulse, &mut now, 2 * CALM, tries), []);
        let dead = look(&mut pulse, &mut now, PATIENCE.0, |_| 0);
        assert!(dead[0].1 <= first + first / LOOKS, "{dead:?}");
    }

    #[test]
    fn a_device_that_stood_still_itself_suspects_nobody_for_it() {
        let mut now = Instant::now();
        let mut pulse = Pulse::new(PATIENCE, now);
        now += PATIENCE.0;
        assert_eq!(pulse.handle_look(now, 0), None);
        let found = look(&mut pulse, &mut now, PATIENCE.suspicion(), |_| 0);
        assert_eq!(found, [(Finding::Silent, PATIENCE.suspicion())]);
    }
}
