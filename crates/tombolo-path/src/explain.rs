//! Why a peer's data takes the route that it takes.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::verdict::Millis;
use crate::{CandidateKind, CandidateRefusal, NatBehaviour, PeerId, Policy, Route};

/// The outcome for a peer, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// The data goes directly.
    Direct,
    /// The policy forbids anything but the relay.
    RelayedByPolicy,
    /// UDP does not work on one side.
    UdpBlocked,
    /// Both NATs choose another public address for each destination.
    HardNatBothSides,
    /// One NAT chooses another public address for each destination, the other lets in only the
    /// exact addresses that were sent to.
    SymmetricVsPortRestricted,
    /// The peer announced no address that can be checked.
    NoCandidates,
    /// The peer answered, but with an error: the two sides do not agree on the credentials.
    ChecksRefused,
    /// Checks arrive from the peer, but ours are not answered: one direction is blocked.
    OneWay,
    /// A direct path worked and went silent; checks go on.
    Lost,
    /// Checks go on, but nothing came back within the time in which it normally would.
    ChecksUnanswered,
    /// Checks have only just begun.
    StillTrying,
}

impl Verdict {
    /// A stable word for scripts, in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::RelayedByPolicy => "relayed-by-policy",
            Self::UdpBlocked => "udp-blocked",
            Self::HardNatBothSides => "hard-nat-both-sides",
            Self::SymmetricVsPortRestricted => "symmetric-vs-port-restricted",
            Self::NoCandidates => "no-candidates",
            Self::ChecksRefused => "checks-refused",
            Self::OneWay => "one-way",
            Self::Lost => "lost",
            Self::ChecksUnanswered => "checks-unanswered",
            Self::StillTrying => "still-trying",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far a pair has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PairState {
    /// Checks are sent; none was answered since the attempt began.
    Checking,
    /// A check was answered lately: data may be sent here.
    Valid,
    /// Worked, went silent, and has to answer several checks in a row before it is used again.
    Suspected,
    /// Not checked: another path is in use and this one does not answer, or the policy forbids it.
    Dormant,
}

impl fmt::Display for PairState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checking => "checking",
            Self::Valid => "valid",
            Self::Suspected => "suspected",
            Self::Dormant => "dormant",
        })
    }
}

/// What went wrong last on a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PairError {
    /// The peer answered with this STUN error code.
    Answered(u16),
    /// An answer came from this other address.
    Asymmetric(SocketAddr),
    /// An answer was not signed with the peer's password.
    Unauthenticated,
    /// The route went silent.
    Silent,
    /// The peer link's path there was closed.
    Abandoned,
    /// No check was answered for the consent timeout.
    ConsentExpired,
}

impl fmt::Display for PairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(code) => write!(f, "answered with error {code}"),
            Self::Asymmetric(from) => write!(f, "answered from {from} instead"),
            Self::Unauthenticated => f.write_str("answered without the right password"),
            Self::Silent => f.write_str("went silent"),
            Self::Abandoned => f.write_str("closed by the peer"),
            Self::ConsentExpired => f.write_str("consent expired"),
        }
    }
}

/// One address of the peer and how it fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairReport {
    /// The peer's address.
    pub address: SocketAddr,
    /// How it was learned.
    pub kind: CandidateKind,
    /// How far it has come.
    pub state: PairState,
    /// Whether the data goes there.
    pub is_route: bool,
    /// Checks sent to it.
    pub sent: u64,
    /// How many of them were answered with success.
    pub answered: u64,
    /// Authenticated checks received from it.
    pub heard: u64,
    /// Smoothed RTT; `None` until a check is answered.
    pub rtt: Option<Duration>,
    /// What went wrong last, if anything did.
    pub last_error: Option<PairError>,
    /// Our own address as the peer saw it last (XOR-MAPPED-ADDRESS of its answer).
    pub mapped: Option<SocketAddr>,
}

/// An address that the peer announced and that is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedCandidate {
    /// The address as announced.
    pub address: SocketAddr,
    /// Why it is not checked.
    pub reason: CandidateRefusal,
}

/// Everything about one peer's paths, for people and for logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The peer.
    pub peer: PeerId,
    /// The route that the data takes now.
    pub route: Route,
    /// The policy in force.
    pub policy: Policy,
    /// The outcome in one word.
    pub verdict: Verdict,
    /// A sentence or two: why not direct, and what would help.
    pub detail: String,
    /// How our own NAT behaves, if known.
    pub local_nat: Option<NatBehaviour>,
    /// How the peer's NAT behaves, as it said or as its checks showed.
    pub remote_nat: Option<NatBehaviour>,
    /// One report per address, best first.
    pub pairs: Vec<PairReport>,
    /// Announced addresses that are not checked.
    pub refused: Vec<RefusedCandidate>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} ({})", self.peer, self.route, self.verdict)?;
        writeln!(f, "  {}", self.detail)?;
        for (side, nat) in [("here", self.local_nat), ("there", self.remote_nat)] {
            if let Some(nat) = nat {
                writeln!(f, "  NAT {side}: {nat}")?;
            }
        }
        for pair in &self.pairs {
            writeln!(f, "  {pair}")?;
        }
        for RefusedCandidate { address, reason } in &self.refused {
            writeln!(f, "  {address} not checked: {reason}")?;
        }
        Ok(())
    }
}

impl fmt::Display for PairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            address,
            state,
            sent,
            answered,
            heard,
            ..
        } = self;
        write!(
            f,
            "{kind} {address} {state}: {answered} of {sent} checks answered, {heard} heard"
        )?;
        if let Some(rtt) = self.rtt {
            write!(f, ", RTT {}", Millis(rtt))?;
        }
        if let Some(error) = self.last_error {
            write!(f, ", {error}")?;
        }
        if self.is_route {
            f.write_str(", in use")?;
        }
        Ok(())
    }
}
