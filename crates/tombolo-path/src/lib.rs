//! The path agent: finds direct paths to peers, chooses among them, and notices when one dies.
//! Sans-IO: no sockets, clock, entropy or tasks.
//!
//! Two devices are introduced to each other and talk over the relay at once. Meanwhile each hands
//! the other's candidates to its [`Agent`], which sends connectivity checks (RFC 8445) to all of
//! them on the device's one UDP socket. The first that is answered becomes the [`Route`]; later a
//! clearly faster one takes over. The route in use is watched: when data is sent and nothing comes
//! back for 300 to 500 ms, two probes included, the relay takes over again and the search goes on.
//! [`Agent::explain`] says at any time why the data goes the way it goes, and what would help.
//!
//! A pair of RFC 8445 is here just the peer's address, since there is one socket. Each of two
//! native peers picks the path that it sends on, without nomination; [`Agent::handle_adopted`]
//! brings the controlled side in line with the path that the controlling side opened. Nominations
//! by foreign agents are followed.
//!
//! [`probe::NatProbe`] measures the NAT in front of the socket and finds the server-reflexive
//! candidates.
//!
//! # Driving it
//!
//! After each call drain `poll_transmit` and `poll_event`, then sleep until `poll_timeout`. Here
//! two agents reach each other over a wire that takes no time:
//!
//! ```
//! use std::{net::SocketAddr, time::Instant};
//! use tombolo_path::{Agent, Candidate, CandidateKind, Config, Credentials, Event, PeerConfig};
//! use tombolo_path::{PeerId, Route};
//!
//! let now = Instant::now();
//! let hosts: [SocketAddr; 2] = ["192.0.2.1:5000".parse()?, "192.0.2.2:5000".parse()?];
//! let credentials = [Credentials::from_seed([1; 32]), Credentials::from_seed([2; 32])];
//! let mut agents = [
//!     Agent::new(Config::default(), [3; 32], now),
//!     Agent::new(Config::default(), [4; 32], now),
//! ];
//! for (me, other) in [(0, 1), (1, 0)] {
//!     let (local, remote) = (credentials[me].clone(), credentials[other].clone());
//!     let mut peer = PeerConfig::new(local, remote, me == 0);
//!     peer.candidates = vec![Candidate::new(CandidateKind::Host, hosts[other])];
//!     agents[me].add_peer(now, PeerId(7), peer)?;
//! }
//! for (me, other) in [(0, 1), (1, 0), (0, 1)] {
//!     while let Some(transmit) = agents[me].poll_transmit() {
//!         assert_eq!(transmit.to, hosts[other]);
//!         agents[other].handle_stun(now, hosts[me], &transmit.bytes);
//!     }
//! }
//! assert!(matches!(agents[0].poll_event(), Some(Event::Heard { .. } | Event::Route { .. })));
//! assert_eq!(agents[0].route(PeerId(7)), Some(Route::Direct(hosts[1])));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Left out on purpose: relayed candidates (the relay route carries them already), TCP candidates,
//! frozen pairs and check lists (there is one component), nominating for foreign controlled
//! agents, and aggressive ways through two hard NATs.
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
