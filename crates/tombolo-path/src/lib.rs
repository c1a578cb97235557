//! The path agent: candidates, checks, path choice, liveness.
#![forbid(unsafe_code)]

mod agent;
mod candidate;
mod check;
mod config;
mod event;
mod explain;
mod inbound;
mod liveness;
mod nat;
mod pacer;
mod pair;
mod peer;
pub mod probe;
mod route;
mod rtt;
mod shared;
mod stats;
mod transaction;
mod verdict;

pub use agent::{AddPeerError, Agent};
pub use candidate::{Candidate, CandidateKind, CandidateRefusal, canonical, priority};
pub use config::{Config, Credentials, PeerConfig, PeerId, Policy};
pub use event::{Cause, Event, Route, Timer, Transmit};
pub use explain::{Explanation, PairError, PairReport, PairState, RefusedCandidate, Verdict};
pub use nat::{Filtering, Mapping, NatBehaviour};
pub use stats::Stats;
