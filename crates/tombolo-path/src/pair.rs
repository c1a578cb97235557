//! One address of a peer, seen from the device's one socket, and the schedule of its checks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::rtt::Rtt;
use crate::shared::Shared;
use crate::{Candidate, CandidateKind, Config, PairError, PairReport, PairState};

/// A candidate pair: the local half is always the device's socket. See RFC 8445 §6.1.2.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) candidate: Candidate,
    pub(crate) state: PairState,
    /// Answers to checks of earlier attempts prove nothing.
    pub(crate) attempt: u64,
    pub(crate) rtt: Rtt,
    /// The peer's check arrived in this attempt, or earlier in a life that was never lost.
    pub(crate) is_heard: bool,
    /// A controlling peer nominated the pair. See RFC 8445 §7.3.1.5.
    pub(crate) is_nominated: bool,
    /// In this attempt an answer came from elsewhere: checks as before bring nothing more.
    is_asymmetric: bool,
    /// Where in the pacer a check of the pair waits; `None` when none does.
    pub(crate) queued: Option<Queue>,
    pub(crate) last_error: Option<PairError>,
    pub(crate) mapped: Option<SocketAddr>,
    /// When the next check is due; `None` while one is queued and when none is wanted.
    next_check: Option<Instant>,
    attempt_began: Instant,
    last_sent: Option<Instant>,
    /// Interval of the growing schedule that follows the eager one.
    retry: Duration,
    /// Checks sent since the last answer.
    unanswered: u32,
    /// Answers in a row since the pair was suspected.
    confirmations: u32,
    /// A suspected pair is not used before this, however well it answers.
    usable_at: Instant,
    /// When the peer's check arrived last; at first, when the pair was made.
    last_heard: Instant,
    sent: u64,
    answered: u64,
    heard: u64,
    /// Checks that the network of now has carried to an address from which nothing authentic has ever come.
    unproven: u32,
}

/// The pacer's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Ordinary,
    Triggered,
}

/// What a pair's schedule depends on besides the pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    /// The data goes to this pair.
    pub(crate) is_route: bool,
    /// The data goes to some direct pair.
    pub(crate) is_direct: bool,
    /// Since when a direct route has been looked for without success.
    pub(crate) trying_since: Instant,
    /// The peer has never been heard in spite of many checks.
    pub(crate) is_unheard: bool,
}

impl Pair {
    pub(crate) fn new(now: Instant, candidate: Candidate, attempt: u64) -> Self {
        Self {
            candidate,
            state: PairState::Checking,
            attempt,
            rtt: Rtt::default(),
            is_heard: false,
            is_nominated: false,
            is_asymmetric: false,
            queued: None,
            last_error: None,
            mapped: None,
            next_check: Some(now),
            attempt_began: now,
            last_sent: None,
            retry: RETRY_FIRST,
            unanswered: 0,
            confirmations: 0,
            usable_at: now,
            last_heard: now,
            sent: 0,
            answered: 0,
            heard: 0,
            unproven: 0,
        }
    }

    /// The device is in another network: what did not answer may be within reach now.
    pub(crate) fn forgive(&mut self) {
        self.unproven = 0;
    }

    /// Begins a new attempt after the route was lost. Addresses that never answered may be those of others, at
    /// whom the peer aims us by losing its route over and over: they get patient checks only.
    pub(crate) fn restart_for_route(&mut self, now: Instant, attempt: u64, config: &Config) {
        self.restart(now, attempt);
        if self.is_unproven(config) {
            self.next_check = Some(now + config.patient_interval);
        }
    }

    fn is_unproven(&self, config: &Config) -> bool {
        self.unproven >= config.checks_unproven_max
    }

    /// Begins a new attempt: eager checks, from now on.
    pub(crate) fn restart(&mut self, now: Instant, attempt: u64) {
        self.state = PairState::Checking;
        self.attempt = attempt;
        self.attempt_began = now;
        self.retry = RETRY_FIRST;
        self.next_check = Some(now);
        self.unanswered = 0;
        self.confirmations = 0;
        self.usable_at = now;
        self.is_heard = false;
        self.is_asymmetric = false;
    }

    /// Takes the pair out of use until it has answered several checks in a row.
    pub(crate) fn suspect(
        &mut self,
        now: Instant,
        attempt: u64,
        usable_at: Instant,
        error: PairError,
    ) {
        self.restart(now, attempt);
        self.state = PairState::Suspected;
        self.usable_at = usable_at;
        self.last_error = Some(error);
        self.is_nominated = false;
    }

    /// Trusts the pair because the peer link validated it.
    pub(crate) fn trust(&mut self, now: Instant) {
        if self.state != PairState::Valid {
            self.state = PairState::Valid;
            self.unanswered = 0;
            self.next_check = Some(now);
        }
    }

    /// Notes an authenticated check from the pair's address. Returns whether a check back is due.
    pub(crate) fn on_heard(&mut self, now: Instant) -> bool {
        self.heard += 1;
        self.unproven = 0;
        self.last_heard = now;
        self.is_heard = true;
        if self.state == PairState::Valid {
            return false;
        }
        if self.state == PairState::Dormant {
            self.state = PairState::Checking;
        }
        self.retry = RETRY_FIRST;
        let (gap, retry) = if self.is_asymmetric {
            (ASYMMETRIC_INTERVAL, ASYMMETRIC_INTERVAL)
        } else {
            (TRIGGER_GAP, RETRY_FIRST)
        };
        let is_recent = self
            .last_sent
            .is_some_and(|sent| now.saturating_duration_since(sent) < gap);
        if is_recent && self.next_check.is_none() && self.queued.is_none() {
            self.next_check = Some(now + retry);
        }
        !is_recent
    }

    /// Ends the patience with a pair: the peer turned out to be there.
    pub(crate) fn hasten(&mut self, now: Instant) {
        self.retry = RETRY_FIRST;
        if self.queued.is_none() && self.state != PairState::Valid {
            self.next_check = Some(now);
        }
    }

    /// Notes a check sent, and plans the next.
    pub(crate) fn on_check_sent(&mut self, now: Instant, at: Situation, shared: &mut Shared) {
        self.sent += 1;
        if self.heard == 0 && self.answered == 0 {
            self.unproven = self.unproven.saturating_add(1);
        }
        self.unanswered = self.unanswered.saturating_add(1);
        self.last_sent = Some(now);
        self.queued = None;
        let interval = match self.state {
            PairState::Valid => Some(self.upkeep_interval(at, shared)),
            PairState::Suspected if self.confirmations > 0 => Some(self.confirm_interval(now)),
            PairState::Checking | PairState::Suspected | PairState::Dormant => {
                self.search_interval(now, at, shared)
            }
        };
        if interval.is_none() {
            self.state = PairState::Dormant;
        }
        self.next_check = interval.map(|interval| now + interval);
    }

    /// Notes the authenticated answer to a check of this attempt.
    pub(crate) fn on_answer(&mut self, now: Instant, took: Duration, mapped: SocketAddr) {
        self.answered += 1;
        self.unproven = 0;
        self.unanswered = 0;
        self.is_asymmetric = false;
        self.rtt.on_sample(took);
        self.mapped = Some(mapped);
        match self.state {
            PairState::Valid => {}
            PairState::Suspected => {
                self.confirmations += 1;
                if self.confirmations >= CONFIRMATIONS_MIN && now >= self.usable_at {
                    self.become_valid(now);
                } else if self.queued.is_none() {
                    self.next_check = Some(now + self.confirm_interval(now));
                }
            }
            PairState::Checking | PairState::Dormant => self.become_valid(now),
        }
    }

    /// Notes an authenticated answer from another address than the check went to: the pair fails
    /// (RFC 8445 §7.2.5.2.1), but the NAT in between may change its mind.
    pub(crate) fn on_asymmetric_answer(&mut self, now: Instant, from: SocketAddr) {
        self.last_error = Some(PairError::Asymmetric(from));
        self.is_asymmetric = true;
        if self.state == PairState::Checking {
            self.next_check = Some(now + ASYMMETRIC_INTERVAL);
        }
    }

    /// Gives a standby pair up that no longer answers.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.state == PairState::Valid && self.unanswered >= UNANSWERED_MAX {
            self.restart(now, self.attempt);
            self.last_error = Some(PairError::Silent);
        }
    }

    /// Since when a peer-reflexive pair is of no use, as far as that can be said: nothing was heard
    /// from there since. `None` for pairs to keep.
    pub(crate) fn useless_since(&self, now: Instant) -> Option<Instant> {
        let is_learned = self.candidate.kind == CandidateKind::PeerReflexive;
        let is_silent = now.saturating_duration_since(self.last_heard) >= LEARNED_KEPT_FOR;
        (is_learned && is_silent && self.state != PairState::Valid).then_some(self.last_heard)
    }

    /// Hands the pair over to the pacer when its check is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        let is_due = self.next_check.is_some_and(|at| at <= now);
        if is_due {
            self.next_check = None;
        }
        is_due
    }

    pub(crate) fn next_check(&self) -> Option<Instant> {
        self.next_check
    }

    pub(crate) fn report(&self, is_route: bool) -> PairReport {
        PairReport {
            address: self.candidate.address,
            kind: self.candidate.kind,
            state: self.state,
            is_route,
            sent: self.sent,
            answered: self.answered,
            heard: self.heard,
            rtt: self.rtt.smoothed(),
            last_error: self.last_error,
            mapped: self.mapped,
        }
    }

    fn become_valid(&mut self, now: Instant) {
        self.state = PairState::Valid;
        if self.queued.is_none() {
            self.next_check = Some(now + MEASURE_INTERVAL);
        }
    }

    /// The schedule of a pair that works: a few samples quickly, then rarely.
    fn upkeep_interval(&self, at: Situation, shared: &mut Shared) -> Duration {
        if self.rtt.samples() < SAMPLES_MIN && self.unanswered <= UNANSWERED_MAX {
            return MEASURE_INTERVAL;
        }
        if at.is_route {
            let interval = shared.config.consent_interval;
            return shared.vary(interval, 20);
        }
        if self.unanswered > 1 {
            return STANDBY_RETRY_INTERVAL;
        }
        let interval = shared.config.standby_interval;
        shared.vary(interval, 20)
    }

    /// The schedule of a suspected pair that answers again.
    fn confirm_interval(&self, now: Instant) -> Duration {
        let is_held = now < self.usable_at && self.confirmations >= CONFIRMATIONS_MIN;
        if is_held {
            HELD_INTERVAL
        } else {
            CONFIRM_INTERVAL
        }
    }

    /// The schedule of a pair that does not answer: eager, growing, patient. `None` once it is not
    /// worth while beside a direct route.
    fn search_interval(
        &mut self,
        now: Instant,
        at: Situation,
        shared: &mut Shared,
    ) -> Option<Duration> {
        if self.is_asymmetric {
            return (!at.is_direct).then_some(ASYMMETRIC_INTERVAL);
        }
        let config = &shared.config;
        if at.is_unheard || self.is_unproven(config) {
            return Some(config.patient_interval);
        }
        let age = now.saturating_duration_since(self.attempt_began);
        if age < config.eager_period {
            // The first check opens our own filter, and usually dies at the peer's: the sooner the
            // second follows the peer's first, the sooner there is a path.
            let is_first = age < config.eager_interval * 2;
            let interval = config.eager_interval / if is_first { 2 } else { 1 };
            return Some(shared.vary(interval, 10));
        }
        let interval = self.retry;
        self.retry = (interval * 2).min(config.retry_interval_max);
        if interval < config.retry_interval_max {
            return Some(interval);
        }
        if at.is_direct {
            return None;
        }
        let tried_for = now.saturating_duration_since(at.trying_since);
        let is_patient = tried_for >= config.patient_after;
        Some(if is_patient {
            config.patient_interval
        } else {
            config.retry_interval_max
        })
    }
}

/// First interval of the growing schedule.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// A check sent this recently makes a triggered one pointless: its answer is on the way.
const TRIGGER_GAP: Duration = Duration::from_millis(10);
/// Time between checks to an address whose answers come from another one.
const ASYMMETRIC_INTERVAL: Duration = Duration::from_secs(5);
/// RTT samples that a comparison of paths needs, and the time between them.
pub(crate) const SAMPLES_MIN: u32 = 4;
const MEASURE_INTERVAL: Duration = Duration::from_millis(50);
/// A suspected pair is used again after so many answers in a row, so far apart.
const CONFIRMATIONS_MIN: u32 = 3;
const CONFIRM_INTERVAL: Duration = Duration::from_millis(20);
/// Time between checks while a pair answers that was lost too often of late.
const HELD_INTERVAL: Duration = Duration::from_millis(250);
/// A standby pair is given up after so many checks without an answer, so far apart.
const UNANSWERED_MAX: u32 = 5;
const STANDBY_RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// A peer-reflexive pair that does not work keeps its place for so long after the last check heard.
const LEARNED_KEPT_FOR: Duration = Duration::from_secs(10);
