//! What came of a run, and whether it is what was expected.

use std::net::SocketAddr;
use std::time::Duration;

use super::events::{Event, Line, PeerState, PeerSummary, Via};
use super::{Expect, Lane, Scenario};

/// What came of one run.
#[derive(Debug)]
#[non_exhaustive]
pub struct Run {
    /// The first and the second device.
    pub peers: [PeerRun; 2],
    /// How long it took, from the first process to the last's end.
    pub took: Duration,
    /// When the direct path was cut and healed, Unix seconds.
    pub cut: Option<(f64, f64)>,
    /// What was not as expected; empty when all was.
    pub failures: Vec<String>,
    /// What the node wrote to its standard error.
    pub node_said: String,
}

/// What one device told.
#[derive(Debug)]
#[non_exhaustive]
pub struct PeerRun {
    /// Its user id.
    pub user: &'static str,
    /// Its lines, in order.
    pub lines: Vec<Line>,
    /// Lines that could not be read.
    pub unread: Vec<String>,
    /// How it ended.
    pub ended: Ended,
    /// What it wrote to its standard error.
    pub said: String,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With status 0.
    Well,
    /// With another status, or by a signal.
    Badly,
}

impl Run {
    /// Whether everything was as expected.
    pub fn is_as_expected(&self) -> bool {
        self.failures.is_empty()
    }

    /// How the two were connected at last, as both tell it; `None` when they were not.
    pub fn outcome(&self) -> Option<Expect> {
        let direct = self.peers.iter().filter(|peer| peer.was_direct()).count();
        let heard = self
            .peers
            .iter()
            .all(|peer| peer.summary().is_some_and(|s| s.received > 0));
        match (heard, direct) {
            (false, _) => None,
            (true, 2) => Some(Expect::Direct),
            (true, 0) => Some(Expect::Relayed),
            (true, _) => Some(Expect::Connected),
        }
    }

    /// From `connect()` on the device that called it first to the first message that the other
    /// received, by the times of their lines, milliseconds.
    pub fn first_byte_ms(&self) -> Option<f64> {
        let [caller, called] = self.by_connecting()?;
        let is_message = |line: &&Line| matches!(line.event, Event::Recv { .. });
        let received = called.lines.iter().find(is_message)?;
        Some((received.t - caller.first(PeerState::Connecting)?) * 1e3)
    }

    /// From when the introduction reached a device to its first direct path, by the times of
    /// their lines, milliseconds; the slower of both devices.
    pub fn direct_ms(&self) -> Option<f64> {
        let mut last: f64 = 0.0;
        for peer in &self.peers {
            last = last.max((peer.first(PeerState::Direct)? - peer.introduced()?) * 1e3);
        }
        Some(last)
    }

    /// The device that began to connect first, and the other.
    fn by_connecting(&self) -> Option<[&PeerRun; 2]> {
        let [first, second] = &self.peers;
        let is_first =
            first.first(PeerState::Connecting)? <= second.first(PeerState::Connecting)?;
        Some(if is_first {
            [first, second]
        } else {
            [second, first]
        })
    }

    /// From the end of a cut to when both are connected directly again, milliseconds.
    pub fn direct_again_ms(&self) -> Option<f64> {
        let (_, healed) = self.cut?;
        let mut last: f64 = 0.0;
        for peer in &self.peers {
            let again = peer
                .states()
                .find(|(t, state)| *t > healed && *state == PeerState::Direct);
            last = last.max((again?.0 - healed) * 1e3);
        }
        Some(last)
    }

    /// From a cut to the first message that came through the relay after it, the slower of both,
    /// milliseconds.
    pub fn relay_again_ms(&self) -> Option<f64> {
        let (cut, _) = self.cut?;
        let mut last: f64 = 0.0;
        for peer in &self.peers {
            let first = peer.lines.iter().find(|line| {
                line.t > cut
                    && matches!(
                        line.event,
                        Event::Recv {
                            via: Some(Via::Relay),
                            ..
                        }
                    )
            });
            last = last.max((first?.t - cut) * 1e3);
        }
        Some(last)
    }

    /// What is not as the scenario expects.
    pub(crate) fn judge(&self, scenario: &Scenario) -> Vec<String> {
        let mut failures = Vec::new();
        for peer in &self.peers {
            failures.extend(
                peer.judge(scenario)
                    .into_iter()
                    .map(|failure| format!("{}: {failure}", peer.user)),
            );
        }
        if scenario.cut.is_some() {
            if self.cut.is_none() {
                failures.push("the direct path never was there to be cut".to_owned());
            } else if self.relay_again_ms().is_none() {
                failures.push("nothing came through the relay after the cut".to_owned());
            } else if self.direct_again_ms().is_none() {
                failures.push("no direct path after the cut was healed".to_owned());
            }
        }
        if scenario.drain_after.is_some() {
            failures.extend(self.judge_drain());
        }
        failures
    }

    /// Both devices' relays are to be on the other node, and nothing on the drained one.
    fn judge_drain(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for peer in &self.peers {
            let relays: Vec<_> = peer.remote_relays().collect();
            let is_same = |at: &&SocketAddr| relays.last().is_some_and(|last| last.ip() == at.ip());
            if relays.first().is_none_or(|first| is_same(&first)) {
                let failure = "the other's relay did not move";
                failures.push(format!("{}: {failure}: {relays:?}", peer.user));
            }
        }
        if !self.node_said.contains(EMPTY) {
            let mut said = self.node_said.lines();
            let left = said.find(|line| line.contains(NOT_EMPTY));
            failures.push(format!("the node did not empty: {}", left.unwrap_or("")));
        }
        failures
    }
}

impl PeerRun {
    /// What it tells about the other device at the end.
    pub fn summary(&self) -> Option<&PeerSummary> {
        let other = USERS.into_iter().find(|user| *user != self.user)?;
        self.lines.iter().rev().find_map(|line| match &line.event {
            Event::Summary { peers } => peers.get(other),
            Event::Session { .. }
            | Event::Nat { .. }
            | Event::Joined { .. }
            | Event::Left { .. }
            | Event::Peer { .. }
            | Event::Recv { .. }
            | Event::Why { .. }
            | Event::Other => None,
        })
    }

    /// The states of the link, with their times.
    pub fn states(&self) -> impl Iterator<Item = (f64, PeerState)> + '_ {
        let link = self.link();
        link.map(|(t, state, _)| (t, state))
    }

    /// Where the other's relay was while the link took it.
    fn remote_relays(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let link = self.link();
        let relayed = link.filter(|(_, state, _)| *state == PeerState::Relayed);
        relayed.filter_map(|(_, _, remote)| remote.as_str()?.parse().ok())
    }

    /// What the link was, when and over which address of the other.
    fn link(&self) -> impl Iterator<Item = (f64, PeerState, &serde_json::Value)> + '_ {
        self.lines.iter().filter_map(|line| {
            if let Event::Peer { state, remote, .. } = &line.event {
                Some((line.t, *state, remote))
            } else {
                None
            }
        })
    }

    /// When the link first had a state, Unix seconds.
    fn first(&self, state: PeerState) -> Option<f64> {
        self.states().find(|(_, had)| *had == state).map(|(t, _)| t)
    }

    /// When the introduction reached the device, Unix seconds: it hears of the other for the
    /// first time then, since the introduction carries the first message.
    fn introduced(&self) -> Option<f64> {
        let is_message = |line: &&Line| matches!(line.event, Event::Recv { .. });
        let heard = self.lines.iter().find(is_message).map(|line| line.t);
        let relayed = self.first(PeerState::Relayed);
        heard.into_iter().chain(relayed).min_by(f64::total_cmp)
    }

    fn was_direct(&self) -> bool {
        let by_summary = self
            .summary()
            .is_some_and(|summary| summary.direct_ms.is_some());
        by_summary || self.states().any(|(_, state)| state == PeerState::Direct)
    }

    fn judge(&self, scenario: &Scenario) -> Vec<String> {
        let mut failures = Vec::new();
        if self.ended == Ended::Badly {
            let said: Vec<&str> = self.said.lines().rev().take(3).collect();
            failures.push(format!("ended badly: {}", said.join(" / ")));
        }
        if let Some(line) = self.unread.first() {
            failures.push(format!("a line that is no event: {line}"));
        }
        let Some(summary) = self.summary() else {
            failures.push("told no summary".to_owned());
            return failures;
        };
        let count = scenario.traffic.count;
        let losses_max = scenario.lane.losses_max(count);
        if summary.sent != count || summary.received < count - losses_max {
            let PeerSummary { sent, received, .. } = summary;
            failures.push(format!("sent {sent} and received {received} of {count}"));
        }
        let PeerSummary {
            lost,
            duplicated,
            reordered,
            ..
        } = summary;
        let is_disordered = scenario.lane == Lane::Reliable && *reordered > 0;
        if *lost > losses_max || *duplicated > 0 || is_disordered {
            failures.push(format!(
                "{lost} lost, {duplicated} duplicated, {reordered} reordered"
            ));
        }
        match (scenario.expect, self.was_direct()) {
            (Expect::Direct, false) => failures.push("never direct".to_owned()),
            (Expect::Relayed, true) => failures.push("direct, which was impossible".to_owned()),
            (Expect::Direct, true) | (Expect::Relayed, false) | (Expect::Connected, _) => {}
        }
        failures
    }
}

/// The user ids of the first and the second device.
pub(crate) const USERS: [&str; 2] = ["alice", "bob"];
/// What a drained node says at its end.
const EMPTY: &str = "the node is empty";
const NOT_EMPTY: &str = "the time to go was up";
