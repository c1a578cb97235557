//! The TURN server of [`tombolo_turn`] on real sockets: UDP, DTLS, TCP and TLS towards clients, UDP and
//! TCP towards peers.
//!
//! Each shard is a thread with its own `SO_REUSEPORT` server sockets, its own relay sockets and its own
//! protocol core; the kernel pins a client to a shard by its addresses. A packet is received into a
//! batch, the core says which range of it goes where, and `sendmmsg` sends that range with a few bytes
//! in front: no lock, no copy and no allocation in between. TCP and TLS connections live on one further
//! thread, which exchanges frames with the shards through bounded queues.
//!
//! ```
//! use tombolo_relay::{Relay, RelayConfig};
//! use tombolo_turn::server::Realm;
//!
//! # fn main() -> Result<(), tombolo_relay::BindError> {
//! let mut realm = Realm::new("example.org");
//! realm.secrets.push(b"a long shared secret".to_vec());
//! let relay = Relay::bind(RelayConfig {
//!     listen: vec!["127.0.0.1:0".parse().expect("a literal")],
//!     realm,
//!     ..RelayConfig::default()
//! })?;
//! println!("stun:{}", relay.addrs().turn[0]);
//! relay.shutdown();
//! # Ok(())
//! # }
//! ```
//!
//! Relay ports are chosen at random and kept while an allocation lives. The kernel takes the ports of
//! other programs' sockets from the same numbers (32768 to 60999 by default). So keep it away from them,
//! with `sysctl net.ipv4.ip_local_reserved_ports=49152-65535` (it holds for IPv6 too). At a relay IP
//! clients reach nothing but each other's relayed addresses, unless it is a loopback one: tell the relay
//! by [`RelayConfig::own_ports`] what listens there by intent.
//!
//! There are two ways to move packets ([`IoMode`]): a bound socket for each relay port, or, where the
//! machine permits it, all relay ports of a shard steered to one socket by an eBPF program
//! (`bpf/steer.bpf.c`), with a raw socket to send for all of them. Steered ports are not bound: the
//! relay keeps away from those that others had when it started, and the setting above keeps others
//! away from the relay's.
#![deny(unsafe_code)]

mod certificates;
mod config;
mod dtls;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hook;
mod icmp;
mod link;
mod listen;
mod metrics;
mod operate;
mod owners;
mod proxy;
mod relay;
mod repeated;
mod sentinel;
mod shard;
#[expect(
    unsafe_code,
    reason = "system calls that the standard library does not have"
)]
mod socket;
mod stats;
mod steering;
mod stream;
mod validity;

pub use certificates::{CertificateError, Certificates, read_certificate};
pub use config::{IoMode, RelayConfig};
pub use error::{BindError, ListenSocket, Protocol};
pub use hook::{HookConfig, HookError};
pub use icmp::{IcmpError, IcmpUnusable};
pub use metrics::{MetricKind, OPEN_METRICS_TYPE, write_family};
pub use operate::{AllocationFilter, AllocationPage, Changed, ReloadError};
pub use proxy::{ProxyError, ProxyHeader};
pub use relay::{Relay, RelayAddrs};
pub use sentinel::Broken;
pub use stats::{HookFailure, HookStats, IoStats, RelayStats, ShardStats, StreamStats};
pub use steering::SteeringError;
