//! Which way a peer's data takes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::liveness::Watch;
use crate::pair::{Pair, SAMPLES_MIN};
use crate::peer::Peer;
use crate::shared::Shared;
use crate::{Cause, Config, Event, PairError, PairState, Policy, Route};

impl Peer {
    /// Reconsiders the route after a check to `address` was answered.
    pub(crate) fn consider(&mut self, now: Instant, address: SocketAddr, shared: &mut Shared) {
        let Some(pair) = self
            .pairs
            .get(&address)
            .filter(|pair| pair.state == PairState::Valid)
        else {
            return;
        };
        if pair.is_nominated && self.route != Route::Direct(address) {
            self.is_following = true;
            self.take_route(now, address, Cause::Adopted, shared);
            return;
        }
        match self.route_pair() {
            None => self.take_route(now, address, Cause::FirstAnswer, shared),
            Some(current) if !self.is_following && is_better(pair, current, &shared.config) => {
                self.take_route(now, address, Cause::Better, shared);
            }
            Some(_) => {}
        }
    }

    /// Follows the remote end, whose peer link uses this address.
    pub(crate) fn adopt(&mut self, now: Instant, address: SocketAddr, shared: &mut Shared) {
        if self.policy == Policy::Relay {
            return;
        }
        self.on_peer_heard(now);
        let Some(pair) = self.find_or_learn(now, address, None, shared) else {
            return;
        };
        pair.trust(now);
        // Only one end opens paths and goes on choosing: the controlling one.
        self.is_following = !self.is_controlling();
        if self.route != Route::Direct(address) {
            self.take_route(now, address, Cause::Adopted, shared);
        }
    }

    /// Returns to the relay and tries everything anew.
    pub(crate) fn lose_route(&mut self, now: Instant, cause: Cause, shared: &mut Shared) {
        let Route::Direct(lost) = self.route else {
            return;
        };
        let error = match cause {
            Cause::ConsentExpired => PairError::ConsentExpired,
            Cause::Abandoned => PairError::Abandoned,
            Cause::FirstAnswer | Cause::Better | Cause::Adopted | Cause::Suspected => {
                PairError::Silent
            }
        };
        match cause {
            Cause::ConsentExpired => shared.stats.consents_expired += 1,
            Cause::Suspected => shared.stats.suspicions += 1,
            Cause::FirstAnswer | Cause::Better | Cause::Adopted | Cause::Abandoned => {}
        }
        let usable_at = now + self.losses.on_loss(now);
        for (address, pair) in &mut self.pairs {
            let attempt = shared.new_attempt();
            if *address == lost {
                pair.suspect(now, attempt, usable_at, error);
            } else if pair.state != PairState::Suspected {
                pair.restart_for_route(now, attempt, &shared.config);
            }
        }
        self.is_following = false;
        self.trying_since = now;
        self.route = Route::Relay;
        debug!(peer = %self.id, %lost, %cause, "direct route lost");
        shared.event(Event::Route {
            peer: self.id,
            route: self.route,
            cause,
            rtt: None,
        });
    }

    fn take_route(&mut self, now: Instant, address: SocketAddr, cause: Cause, shared: &mut Shared) {
        let Some(pair) = self.pairs.get_mut(&address) else {
            return;
        };
        let rtt = pair.rtt.smoothed();
        self.route = Route::Direct(address);
        self.watch = Watch::new(now);
        debug!(peer = %self.id, %address, %cause, ?rtt, "direct route");
        shared.event(Event::Route {
            peer: self.id,
            route: self.route,
            cause,
            rtt,
        });
    }
}

/// Direct routes lost of late: a path that comes and goes is held back for longer each time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    /// `None` before the first.
    last: Option<Instant>,
    /// In a row, each soon after the one before.
    count: u32,
}

impl Losses {
    /// Counts a loss; returns how long the path is held back however well it answers.
    fn on_loss(&mut self, now: Instant) -> Duration {
        let is_soon = self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < LOSS_MEMORY);
        self.count = if is_soon {
            self.count.saturating_add(1)
        } else {
            1
        };
        self.last = Some(now);
        match self.count {
            1 => Duration::ZERO,
            count => (HOLD_FIRST * (1 << (count - 2).min(4))).min(HOLD_MAX),
        }
    }

    pub(crate) fn happened(&self) -> bool {
        self.last.is_some()
    }
}

/// Says whether data should move from the current pair to another: when that is clearly faster, or
/// as fast and of a better kind. Never true both ways, so routes do not flap.
fn is_better(other: &Pair, current: &Pair, config: &Config) -> bool {
    if other.rtt.samples() < SAMPLES_MIN || current.rtt.samples() < SAMPLES_MIN {
        return false;
    }
    let (Some(other_rtt), Some(current_rtt)) = (other.rtt.smoothed(), current.rtt.smoothed())
    else {
        return false;
    };
    if is_clearly_faster(other_rtt, current_rtt, config) {
        return true;
    }
    let is_slower = is_clearly_faster(current_rtt, other_rtt, config);
    !is_slower && other.candidate.kind.rank() < current.candidate.kind.rank()
}

fn is_clearly_faster(a: Duration, b: Duration, config: &Config) -> bool {
    let by_part = b * 100u32.saturating_sub(config.hysteresis_percent) / 100;
    a + config.hysteresis < b && a < by_part
}

const LOSS_MEMORY: Duration = Duration::from_secs(30);
const HOLD_FIRST: Duration = Duration::from_millis(500);
const HOLD_MAX: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Candidate, CandidateKind};

    fn pair(kind: CandidateKind, rtt_ms: u64) -> Pair {
        let now = Instant::now();
        let candidate = Candidate::new(kind, "192.0.2.1:1".parse().unwrap());
        let mut pair = Pair::new(now, candidate, 1);
        for _ in 0..SAMPLES_MIN {
            pair.rtt.on_sample(Duration::from_millis(rtt_ms));
        }
        pair
    }

    fn better(other: (CandidateKind, u64), current: (CandidateKind, u64)) -> bool {
        let (other, current) = (pair(other.0, other.1), pair(current.0, current.1));
        is_better(&other, &current, &Config::default())
    }

    use CandidateKind::{Host, PeerReflexive, ServerReflexive};

    #[test]
    fn a_path_must_be_faster_by_5_ms_and_a_fifth() {
        assert!(better((Host, 20), (Host, 40)));
        assert!(!better((Host, 36), (Host, 40)), "4 ms are not enough");
        assert!(!better((Host, 90), (Host, 100)), "a tenth is not enough");
    }

    #[test]
    fn among_equals_host_wins_over_srflx_over_prflx() {
        assert!(better((Host, 12), (ServerReflexive, 10)));
        assert!(better((ServerReflexive, 10), (PeerReflexive, 10)));
        assert!(!better((PeerReflexive, 10), (Host, 10)));
        assert!(
            !better((Host, 40), (PeerReflexive, 10)),
            "not when it is clearly slower"
        );
    }

    #[test]
    fn no_two_paths_are_each_better_than_the_other() {
        for a in 1..120 {
            for b in 1..120 {
                let both =
                    better((Host, a), (PeerReflexive, b)) && better((PeerReflexive, b), (Host, a));
                assert!(!both, "{a} ms and {b} ms");
            }
        }
    }

    #[test]
    fn a_flapping_path_is_held_back_longer_each_time() {
        let mut now = Instant::now();
        let mut losses = Losses::default();
        let mut held = Vec::new();
        for _ in 0..7 {
            held.push(losses.on_loss(now).as_millis());
            now += Duration::from_secs(10);
        }
        assert_eq!(held, [0, 500, 1000, 2000, 4000, 4000, 4000]);
        assert_eq!(losses.on_loss(now + LOSS_MEMORY), Duration::ZERO);
    }
}
