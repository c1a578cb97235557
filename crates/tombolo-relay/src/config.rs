use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tombolo_turn::server::{Cidr, Limits};

/// What a relay listens on, allows and keeps. Start from the default and set what differs: it has no
/// address and no user, and allows nothing that could harm the networks around it.
#[derive(Clone)]
pub struct RelayConfig {
    /// IPs to listen on. The unspecified address stands for all of its family; then the relay IPs
    /// must be given, and there is no RFC 5780 alternate address.
    pub listen: Vec<IpAddr>,
    /// UDP and TCP port for TURN and STUN; 0 takes any that is free on all IPs. UDP also uses the
    /// port above, or any other one if this is 0. 3478 by default.
    pub turn_port: u16,
    /// TCP port for TURN over TLS; 0 takes a free one, `None` (the default) leaves it out.
    pub turns_port: Option<u16>,
    /// Certificate and key for TURN over TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// IPs that relay ports are bound on: the first IPv4 and the first IPv6 one count. Empty (the
    /// default) takes them from `listen`.
    pub relay_ips: Vec<IpAddr>,
    /// The IP that the world sees instead of the relay IP of the same family, where a one-to-one NAT
    /// stands in between. `None` by default.
    pub public_ip: Option<IpAddr>,
    /// Relay ports, each of which costs one descriptor while it is in use. 49152 to 65535 by default.
    pub relay_ports: RangeInclusive<u16>,
    /// Realm of the credentials, "tombolo" by default.
    pub realm: String,
    /// Secret of time-limited credentials: user `EXPIRY:NAME`, password
    /// `base64(HMAC-SHA1(secret, user))`. Empty (the default): no such credentials.
    pub secret: String,
    /// Secrets of the past whose credentials are still accepted.
    pub previous_secrets: Vec<String>,
    /// Passwords that do not expire, by user.
    pub users: BTreeMap<String, String>,
    /// Special networks (private, loopback, link-local, …) that clients may reach nevertheless.
    pub allow_peers: Vec<Cidr>,
    /// Key that nonces are made with; nodes with the same key accept each other's nonces. `None` (the
    /// default) makes a random one.
    pub nonce_key: Option<[u8; 32]>,
    /// Threads that relay. `None` (the default) takes one for each core.
    pub shards: Option<usize>,
    /// Bounds of what each shard keeps.
    pub limits: Limits,
    /// TCP and TLS connections in all; each takes up to 600 KiB if its client reads slowly.
    pub connections_max: usize,
    /// TCP and TLS connections from one IPv4 address or IPv6 /64 network.
    pub connections_per_source_max: usize,
    /// Time for a TLS handshake and the first frame together.
    pub first_frame_timeout: Duration,
    /// Silence after which a TCP or TLS connection without an allocation is closed.
    pub idle_timeout: Duration,
    /// Time in which a TCP or TLS client must take what is written to it, at most about 64 KiB at
    /// once; then its connection is closed.
    pub write_timeout: Duration,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            turn_port: 3478,
            turns_port: None,
            tls: None,
            relay_ips: Vec::new(),
            public_ip: None,
            relay_ports: 49152..=65535,
            realm: "tombolo".to_owned(),
            secret: String::new(),
            previous_secrets: Vec::new(),
            users: BTreeMap::new(),
            allow_peers: Vec::new(),
            nonce_key: None,
            shards: None,
            limits: Limits::default(),
            connections_max: 4096,
            connections_per_source_max: 128,
            first_frame_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(10),
        }
    }
}

impl RelayConfig {
    /// The IPs that relay ports are bound on, at most one of each family.
    pub(crate) fn relay_ips(&self) -> Vec<IpAddr> {
        let ips = if self.relay_ips.is_empty() {
            &self.listen
        } else {
            &self.relay_ips
        };
        let usable = |is_v4: bool| {
            ips.iter()
                .copied()
                .find(|ip| ip.is_ipv4() == is_v4 && !ip.is_unspecified())
        };
        [usable(true), usable(false)]
            .into_iter()
            .flatten()
            .collect()
    }
}
