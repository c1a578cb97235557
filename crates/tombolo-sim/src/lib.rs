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
//! ```
//! use tombolo_sim::{Nat, NatConfig, Protocol};
//!
//! let mut nat = Nat::new(NatConfig::symmetric(), vec!["192.0.2.1".parse()?], [7; 32]);
//! let now = tombolo_sim::Clock::new().now();
//! let inside = "192.168.1.10:5000".parse()?;
//! let one = nat.handle_outbound(now, Protocol::Udp, inside, "203.0.113.1:3478".parse()?);
//! let other = nat.handle_outbound(now, Protocol::Udp, inside, "203.0.113.2:3478".parse()?);
//! assert_ne!(one, other);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! What it leaves out: bandwidth and queues, fragmentation and path MTU, ICMP, and TCP below the level
//! of "a stream that is late when a packet is lost".
#![forbid(unsafe_code)]

mod actor;
mod clock;
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
pub use signal::{Introduction, Signal, password_of, user_of};
pub use world::World;
