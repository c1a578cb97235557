//! A deterministic world in which the protocol cores of Tombolo run as they do in production.
//!
//! A [`World`] is an Internet of hosts and routers under a virtual [`Clock`]. Its links lose, delay,
//! duplicate and reorder packets; its routers are the NATs of RFC 4787 in every combination of mapping,
//! filtering, port rule, hairpinning and expiry, one behind another where wanted, and IPv6 firewalls.
//! On every host runs an [`Actor`], a program in the sans-IO shape of the cores that it drives.
//!
//! Everything that looks like chance comes from one [`Seed`]: the same seed gives the same events, byte
//! for byte. A test says `World::new(seed!())`; when it fails, the [`EventLog`] prints the seed, the
//! command that replays it (`TOMBOLO_SEED=… cargo test NAME`) and what happened last.
//!
//! A [`Lab`] is such a world with one node ([`RelayHost`]: the TURN server core and introductions) and
//! devices ([`DeviceHost`]: TURN client, NAT probe and path agent on one socket, under a toy data plane):
//!
//! ```
//! use std::time::Duration;
//! use tombolo_sim::{Access, Lab, NatConfig, seed};
//!
//! let mut lab = Lab::new(seed!());
//! let alice = lab.device("alice", Access::behind(NatConfig::port_restricted()));
//! let bob = lab.device("bob", Access::behind(NatConfig::restricted()));
//! lab.get_ready();
//! lab.connect(alice, bob, Duration::from_millis(20));
//! let direct = lab.run_until_direct(alice, bob, Duration::from_secs(1));
//! assert!(direct.is_some_and(|took| took < lab.rtt(alice, bob) * 3));
//! ```
//!
//! A [`ClusterWorld`] is another world, of nodes, their engine and devices with sessions; it has no
//! network, but an engine that is as bad as one can be.
//!
//! What the first leaves out: bandwidth and queues, fragmentation and path MTU, ICMP, and TCP below the level
//! of "a stream that is late when a packet is lost".
#![forbid(unsafe_code)]

mod actor;
mod clock;
mod cluster;
mod device;
mod firewall;
mod lab;
mod link;
mod log;
mod nat;
mod network;
mod packet;
mod relay;
mod seed;
mod signal;
mod world;

pub use actor::Actor;
pub use clock::Clock;
pub use cluster::{ClusterWorld, Tally, Weather};
pub use device::{
    DeviceConfig, DeviceHost, DeviceStats, PeerRecord, ReceivedRecord, RouteRecord, SentRecord,
};
pub use firewall::{Firewall, FirewallConfig};
pub use lab::{Access, Family, Lab};
pub use link::LinkConfig;
pub use log::{EVENTS_MAX, EventLog};
pub use nat::{
    Behaviour, Created, Hairpin, Nat, NatConfig, Outbound, PortRule, Refresh, Refusal, Unsolicited,
};
pub use network::{HostId, RealmId, RouterConfig, RouterId, UdpPolicy};
pub use packet::{Packet, Protocol};
pub use relay::{NodeConfig, RelayHost};
pub use seed::Seed;
pub use signal::{Introduction, Signal, password_of, user_of, username_of};
pub use world::World;
