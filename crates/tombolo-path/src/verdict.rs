//! Finds the words for why a peer's data takes the route that it takes.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use tombolo_stun::ErrorCode;

use crate::pair::Pair;
use crate::peer::Peer;
use crate::{
    CandidateKind, Explanation, Filtering, Mapping, NatBehaviour, PairError, PairState, Policy,
    Route, Verdict,
};

impl Peer {
    /// Explains the route. `local_nat` is what is known of our own NAT.
    pub(crate) fn explain(&self, now: Instant, local_nat: Option<NatBehaviour>) -> Explanation {
        let remote_nat = self.remote_nat.or_else(|| self.infer_remote_nat());
        let (verdict, detail) = self.judge(now, local_nat, remote_nat);
        let mut pairs: Vec<_> = self
            .pairs
            .iter()
            .map(|(address, pair)| pair.report(self.route == Route::Direct(*address)))
            .collect();
        if self.policy == Policy::Relay {
            pairs
                .iter_mut()
                .for_each(|report| report.state = PairState::Dormant);
        }
        pairs.sort_by_key(|report| {
            let priority = self
                .pairs
                .get(&report.address)
                .map(|pair| pair.candidate.priority);
            (
                !report.is_route,
                report.answered == 0,
                report.rtt,
                Reverse(priority),
            )
        });
        Explanation {
            peer: self.id,
            route: self.route,
            policy: self.policy,
            verdict,
            detail,
            local_nat,
            remote_nat,
            pairs,
            refused: self.refused.clone(),
        }
    }

    fn judge(
        &self,
        now: Instant,
        local: Option<NatBehaviour>,
        remote: Option<NatBehaviour>,
    ) -> (Verdict, String) {
        let (verdict, mut detail) = match self.route_pair() {
            Some(pair) => (Verdict::Direct, direct_detail(pair)),
            None => self.judge_relayed(now, local, remote),
        };
        if self.policy == Policy::Direct && verdict != Verdict::Direct {
            detail.push_str(
                " The policy allows direct paths only, so no application data flows meanwhile.",
            );
        }
        (verdict, detail)
    }

    fn judge_relayed(
        &self,
        now: Instant,
        local: Option<NatBehaviour>,
        remote: Option<NatBehaviour>,
    ) -> (Verdict, String) {
        if self.policy == Policy::Relay {
            let detail = "The policy allows the relay only, so no direct path is looked for.";
            return (Verdict::RelayedByPolicy, detail.into());
        }
        if let Some(detail) = udp_blocked_detail(local, remote) {
            return (Verdict::UdpBlocked, detail.into());
        }
        if self.pairs.is_empty() {
            return (Verdict::NoCandidates, self.no_candidates_detail());
        }
        if self.losses.happened() {
            let detail = "A direct path worked and went silent; checks go on, and it is used \
                          again as soon as it answers.";
            return (Verdict::Lost, detail.into());
        }
        if now.saturating_duration_since(self.trying_since) < TRYING_FOR {
            let detail = "Checks have begun only just now; a direct path takes one or two round \
                          trips where the NATs allow it.";
            return (Verdict::StillTrying, detail.into());
        }
        self.judge_unanswered(local, remote)
    }

    /// The verdict when checks had the time to be answered and none was.
    fn judge_unanswered(
        &self,
        local: Option<NatBehaviour>,
        remote: Option<NatBehaviour>,
    ) -> (Verdict, String) {
        let refusal = self.pairs.values().find_map(|pair| match pair.last_error {
            Some(PairError::Answered(code)) if code != ErrorCode::ROLE_CONFLICT => Some(code),
            _ => None,
        });
        if let Some(code) = refusal {
            let detail = format!(
                "The peer's address answers checks with error {code}: the two sides do not agree \
                 on the credentials of this introduction. A new introduction would help."
            );
            return (Verdict::ChecksRefused, detail);
        }
        if let Some(pair) = self.pairs.values().find(|pair| pair.is_heard) {
            let detail = format!(
                "Checks arrive from {}, but ours are not answered: a firewall on this side, or \
                 on the peer's, blocks one direction. Allowing outgoing UDP would help.",
                pair.candidate.address
            );
            return (Verdict::OneWay, detail);
        }
        judge_nats(local, remote)
    }

    fn no_candidates_detail(&self) -> String {
        match self.refused.first() {
            None => "The peer announced no address of its own; it may not want a direct path, or have found none that \
                     others can reach. The peer's `doctor` says more."
                .into(),
            Some(refused) => format!(
                "No address that the peer announced may be checked; {} is {}.",
                refused.address, refused.reason
            ),
        }
    }

    /// Reads the peer's mapping behaviour from its candidates: two public ports of one address, or
    /// a check from a public port that it did not know of, come from a mapping that depends on
    /// the destination.
    fn infer_remote_nat(&self) -> Option<NatBehaviour> {
        let of = |kind| {
            self.pairs
                .values()
                .map(|pair| pair.candidate)
                .filter(move |candidate| candidate.kind == kind)
        };
        let others = of(CandidateKind::ServerReflexive).chain(of(CandidateKind::PeerReflexive));
        let others: Vec<_> = others.collect();
        let is_dependent = of(CandidateKind::ServerReflexive).any(|known| {
            others.iter().any(|other| {
                other.address.ip() == known.address.ip() && other.address != known.address
            })
        });
        is_dependent.then(|| NatBehaviour::new(Mapping::Dependent, Filtering::Unknown))
    }
}

fn direct_detail(pair: &Pair) -> String {
    let candidate = pair.candidate;
    match pair.rtt.smoothed() {
        Some(rtt) => format!("Data goes straight to {candidate}, RTT {}.", Millis(rtt)),
        None => format!("Data goes straight to {candidate}, as the peer chose."),
    }
}

fn udp_blocked_detail(
    local: Option<NatBehaviour>,
    remote: Option<NatBehaviour>,
) -> Option<&'static str> {
    let is_blocked = |nat: Option<NatBehaviour>| nat.is_some_and(|nat| !nat.udp);
    match (is_blocked(local), is_blocked(remote)) {
        (true, true) => Some("UDP is blocked on both sides. Allowing outgoing UDP would help."),
        (true, false) => Some("UDP is blocked on this side. Allowing outgoing UDP would help."),
        (false, true) => {
            Some("UDP is blocked on the peer's side. Allowing outgoing UDP there would help.")
        }
        (false, false) => None,
    }
}

/// Blames the NATs where what is known of them explains the silence.
fn judge_nats(local: Option<NatBehaviour>, remote: Option<NatBehaviour>) -> (Verdict, String) {
    let mapping = |nat: Option<NatBehaviour>| nat.map_or(Mapping::Unknown, |nat| nat.mapping);
    let filtering = |nat: Option<NatBehaviour>| nat.map_or(Filtering::Unknown, |nat| nat.filtering);
    let is_hard = |nat| mapping(nat).is_predictable() == Some(false);
    let (hard, easy_filter, hard_side, easy_side) = match (is_hard(local), is_hard(remote)) {
        (true, true) => {
            let detail = format!(
                "Both NATs choose another public port for each destination (here {}, there {}), \
                 so neither side can name an address that the other could reach. A port \
                 forwarding or IPv6 on either side would help.",
                mapping(local),
                mapping(remote)
            );
            return (Verdict::HardNatBothSides, detail);
        }
        (true, false) => (
            mapping(local),
            filtering(remote),
            "This side's",
            "the peer's",
        ),
        (false, true) => (
            mapping(remote),
            filtering(local),
            "The peer's",
            "this side's",
        ),
        (false, false) => {
            let detail = "No check was answered. A firewall between the two, or in front of one, \
                          may drop UDP from unknown addresses. A port forwarding, or IPv6 on \
                          both sides, would help.";
            return (Verdict::ChecksUnanswered, detail.into());
        }
    };
    let certainty = match easy_filter {
        Filtering::AddressAndPortDependent => "lets in",
        Filtering::Unknown => "probably lets in",
        Filtering::EndpointIndependent | Filtering::AddressDependent => {
            let detail = format!(
                "{hard_side} NAT has {hard} and {easy_side} {easy_filter}, which should work \
                 together, yet no check was answered: a firewall may drop UDP on the way."
            );
            return (Verdict::ChecksUnanswered, detail);
        }
    };
    let detail = format!(
        "{hard_side} NAT has {hard}, and {easy_side} {certainty} only addresses and ports that \
         were sent to, which cannot be known in advance. A port forwarding on either side, a NAT \
         with endpoint-independent filtering, or IPv6 would help."
    );
    (Verdict::SymmetricVsPortRestricted, detail)
}

/// Prints a duration in milliseconds with one decimal.
pub(crate) struct Millis(pub(crate) Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1000.0)
    }
}

/// How long checks without an answer are nothing unusual.
const TRYING_FOR: Duration = Duration::from_secs(2);
