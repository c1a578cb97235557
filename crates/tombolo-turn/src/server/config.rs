use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::auth::{Realm, Sha256Offer};
use super::bandwidth::Bandwidth;
use super::ledger::Quota;
use super::policy::{AddressPolicy, Cidr};
use super::proven::ProvenAddresses;
use super::stray::ShardIndex;

/// What a server does and allows. Start from [`Config::new`] and set what differs.
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// The realm of all clients that no other one is for.
    pub realm: Realm,
    /// Further realms, each with credentials of its own. The first of several with one name
    /// counts.
    pub realms: Vec<Realm>,
    /// How long the driver may take to answer a [`Command::Authenticate`]; then the user does not
    /// come in. Clients repeat a request for 39.5 s (RFC 8489 §6.2.1).
    ///
    /// [`Command::Authenticate`]: super::Command::Authenticate
    pub auth_timeout: Duration,
    /// Key under which nonces and mobility tickets are made. Nodes with the same key accept each
    /// other's.
    pub nonce_key: [u8; 32],
    /// How long a nonce is accepted. RFC 8489 §9.2 asks for at most an hour.
    pub nonce_lifetime: Duration,
    /// To whom SHA-256 is offered as password algorithm.
    pub offer_sha256: Sha256Offer,
    /// Whether clients may move their allocations to other addresses of theirs. See RFC 8016.
    pub mobility: bool,
    /// Names the node in this life of it, for mobility tickets: at best random.
    pub node: [u8; 4],
    /// The place of this shard in its node.
    pub shard: ShardIndex,
    /// How many shards the node has. They must agree on all but `shard` and `relay_ports`.
    pub shards: u8,
    /// Local address on which IPv4 relayed addresses are bound. `None`: no IPv4 allocations.
    pub relay_ip_v4: Option<Ipv4Addr>,
    /// Local address on which IPv6 relayed addresses are bound. `None`: no IPv6 allocations.
    pub relay_ip_v6: Option<Ipv6Addr>,
    /// Ports of relayed addresses. Shards of one node do best with ranges of their own.
    pub relay_ports: RangeInclusive<u16>,
    /// Whether clients may also have TCP relayed. See RFC 6062. Off by default: it lets whoever has
    /// credentials open connections to any public host.
    pub relay_tcp: bool,
    /// Local and public form of the server's addresses, where a one-to-one NAT stands between.
    pub public_ips: Vec<(IpAddr, IpAddr)>,
    /// Special networks that clients may reach nevertheless. See [`AddressPolicy::allow`].
    pub allow_peers: Vec<Cidr>,
    /// Networks that clients may not reach, besides the special ones. See [`AddressPolicy::deny`].
    pub deny_peers: Vec<Cidr>,
    /// All IP addresses of the node, which clients may not reach. See [`AddressPolicy::own`].
    pub own_ips: Vec<IpAddr>,
    /// Ports at which the node listens, besides those of `sockets`. They are not relayed addresses
    /// even where they lie in `relay_ports`, and clients may not reach them.
    pub own_ports: Vec<u16>,
    /// All UDP sockets of the server. Where there are two IPs with two ports each, known to the
    /// world by addresses of one scope, the server answers RFC 5780 requests for the other ones,
    /// and announces OTHER-ADDRESS; never one of a private network to a client from elsewhere.
    pub sockets: Vec<SocketAddr>,
    /// Lifetime of an allocation whose client asks for none or less. See RFC 8656 §3.2.
    pub lifetime_default: Duration,
    /// Longest lifetime of an allocation without a refresh.
    pub lifetime_max: Duration,
    /// Where the shards of a node tell each other which addresses have authenticated. `None` where there
    /// is one shard.
    pub proven: Option<Arc<ProvenAddresses>>,
    /// What is kept at most.
    pub limits: Limits,
    /// Text of SOFTWARE in authenticated replies. `None` (the default) hides it.
    pub software: Option<String>,
}

impl Config {
    /// Makes a configuration that is safe on the internet: no user, no relay address yet.
    pub fn new(nonce_key: [u8; 32]) -> Self {
        Self {
            realm: Realm::new("tombolo"),
            realms: Vec::new(),
            auth_timeout: Duration::from_secs(5),
            nonce_key,
            nonce_lifetime: Duration::from_secs(3600),
            offer_sha256: Sha256Offer::default(),
            mobility: true,
            node: [0; 4],
            shard: ShardIndex(0),
            shards: 1,
            relay_ip_v4: None,
            relay_ip_v6: None,
            relay_ports: 49152..=65535,
            relay_tcp: false,
            public_ips: Vec::new(),
            allow_peers: Vec::new(),
            deny_peers: Vec::new(),
            own_ips: Vec::new(),
            own_ports: Vec::new(),
            sockets: Vec::new(),
            lifetime_default: Duration::from_secs(600),
            lifetime_max: Duration::from_secs(3600),
            proven: None,
            limits: Limits::default(),
            software: None,
        }
    }

    /// Returns the address policy that follows from this configuration.
    pub(super) fn address_policy(&self) -> AddressPolicy {
        let locals: Vec<IpAddr> = [
            self.relay_ip_v4.map(IpAddr::V4),
            self.relay_ip_v6.map(IpAddr::V6),
        ]
        .into_iter()
        .flatten()
        .collect();
        let publics = self
            .public_ips
            .iter()
            .filter(|(local, _)| locals.contains(local));
        let publics = publics.map(|(_, public)| *public);
        let relay_ips: Vec<IpAddr> = publics.chain(locals.iter().copied()).collect();
        let own = self.own_ips.iter().copied();
        let own = own.chain(self.sockets.iter().map(SocketAddr::ip));
        let own = own.chain(
            self.public_ips
                .iter()
                .flat_map(|(local, public)| [*local, *public]),
        );
        AddressPolicy {
            allow: self.allow_peers.clone(),
            deny: self.deny_peers.clone(),
            own: own.filter(|ip| !ip.is_unspecified()).collect(),
            relay_ips,
            relay_ports: self.relay_ports.clone(),
            own_ports: self.all_own_ports(),
        }
    }

    pub(super) fn all_own_ports(&self) -> BTreeSet<u16> {
        let sockets = self.sockets.iter().map(SocketAddr::port);
        sockets.chain(self.own_ports.iter().copied()).collect()
    }
}

/// Shows no secret.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("realm", &self.realm)
            .field("realms", &self.realms)
            .field("relay_ip_v4", &self.relay_ip_v4)
            .field("relay_ip_v6", &self.relay_ip_v6)
            .field("relay_ports", &self.relay_ports)
            .finish_non_exhaustive()
    }
}

/// Bounds of what a server keeps. What goes beyond is refused and counted.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Limits {
    /// What all clients of the shard together may have.
    pub total: Quota,
    /// What each user may have. A realm may say something else, see [`Realm::per_user`].
    pub per_user: Quota,
    /// What the clients of each source network (IPv4 /24, IPv6 /48) may have.
    pub per_network: Quota,
    /// What each allocation may have; of allocations it is but one.
    pub per_allocation: Quota,
    /// Payload through each allocation. `None` (the default): as much as comes. Datagrams beyond it
    /// are dropped; what goes over TCP to a peer waits instead, see
    /// [`Server::bandwidth`](super::Server::bandwidth).
    pub bandwidth: Option<Bandwidth>,
    /// TCP connections of the shard that are being made or wait for their client.
    pub connections_waiting_max: usize,
    /// Those of them that one user may have.
    pub connections_waiting_per_user_max: usize,
    /// Those of them that clients of one source network (IPv4 /24, IPv6 /48) may have.
    pub connections_waiting_per_network_max: usize,
    /// Replies waiting for `poll_transmit`.
    pub transmits_max: usize,
    /// Events waiting for `poll_event`, besides those about clients that have connections.
    pub events_max: usize,
    /// Requests that wait for an answer about their user, and such questions.
    pub auth_pending_max: usize,
    /// Requests of one IPv4 address or IPv6 /64 that wait for an answer about their user; of one IPv4 /24
    /// or IPv6 /48 there may be four times as many.
    pub auth_pending_per_source_max: usize,
    /// Bytes of all requests that wait for an answer about their user.
    pub auth_pending_bytes_max: usize,
    /// Answers about users that are remembered: as many good ones, and as many others. Up to
    /// 1 KiB each.
    pub auth_cache_max: usize,
    /// Bytes that one source network (IPv4 /24, IPv6 /48) may be answered without proof of
    /// anything beyond what it sent itself, as a burst and again every second. Over UDP only.
    pub unproven_bytes_max: u32,
    /// Bytes that all source networks together may be answered without proof beyond half of what
    /// they sent, as a burst and again every second: one half of them in challenges, which newcomers
    /// need, the other in answers to Binding and refusals. A flood of twice that and more gets fewer
    /// bytes out than it sends in, from however many addresses it pretends to come. Over UDP only.
    pub unproven_total_bytes_max: u32,
    /// Bytes that an address (IPv4, or IPv6 /64) which has authenticated in the last quarter of an
    /// hour may be answered without proof beyond what it sent itself, as a burst and again every
    /// second.
    pub proven_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: Quota {
                allocations: Some(16_384),
                permissions: Some(262_144),
                channels: Some(262_144),
                connections: Some(4096),
                bandwidth: None,
            },
            per_user: Quota {
                allocations: Some(16),
                ..Quota::default()
            },
            per_network: Quota {
                allocations: Some(4096),
                permissions: Some(65_536),
                channels: Some(65_536),
                connections: Some(1024),
                bandwidth: None,
            },
            per_allocation: Quota {
                allocations: None,
                permissions: Some(256),
                channels: Some(256),
                connections: Some(32),
                bandwidth: None,
            },
            bandwidth: None,
            connections_waiting_max: 1024,
            connections_waiting_per_user_max: 64,
            connections_waiting_per_network_max: 128,
            transmits_max: 4096,
            events_max: 4096,
            auth_pending_max: 1024,
            auth_pending_per_source_max: 32,
            auth_pending_bytes_max: 512 * 1024,
            auth_cache_max: 8192,
            unproven_bytes_max: 16 * 1024,
            unproven_total_bytes_max: 128 * 1024,
            proven_bytes_max: 256 * 1024,
        }
    }
}
