//! The path agent: candidates, checks, path choice, liveness.
#![forbid(unsafe_code)]

mod agent;
mod candidate;
mod config;
mod event;
mod explain;
mod nat;
pub mod probe;
mod stats;

pub use agent::{AddPeerError, Agent};
pub use candidate::{Candidate, CandidateKind, CandidateRefusal, canonical, priority};
pub use config::{Config, Credentials, PeerConfig, PeerId, Policy};
pub use event::{Cause, Event, Route, Timer, Transmit};
pub use explain::{Explanation, PairError, PairReport, PairState, RefusedCandidate, Verdict};
pub use nat::{Filtering, Mapping, NatBehaviour};
pub use stats::Stats;
