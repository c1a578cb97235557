use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use tombolo_turn::server::{Cidr, Limits, Quota, Realm, Sha256Offer};

use crate::{Certificates, HookConfig};

/// What a relay listens on, allows and keeps. Start from the default and set what differs: it has no
/// address and no user, and allows nothing that could harm the networks around it.
#[derive(Clone)]
pub struct RelayConfig {
    /// Where STUN and TURN are served over UDP and TCP. The unspecified IP stands for all of its
    /// family; then the relay IPs must be given, and there is no RFC 5780 alternate address. Port 0
    /// takes any that is free, the same one for all IPs of this list.
    pub listen: Vec<SocketAddr>,
    /// Where STUN and TURN are served over UDP alone. With two IPs and two ports each, in this list
    /// and the one above together, clients can measure their NAT by RFC 5780.
    pub listen_udp: Vec<SocketAddr>,
    /// Where else all of this is served, for clients that expect TLS or DTLS there. Needs `tls`.
    pub listen_tls: Vec<SocketAddr>,
    /// Certificate and key for TLS and DTLS, which then are served at the addresses of `listen` too:
    /// the first byte tells them from plain STUN. DTLS needs a key on the curve P-256 or P-384.
    pub tls: Option<Certificates>,
    /// Whether DTLS is served where there is a certificate. On by default.
    pub dtls: bool,
    /// Whether STUN and TURN are served over UDP without DTLS. On by default; without either, no UDP port is
    /// listened on.
    pub plain_udp: bool,
    /// Whether STUN and TURN are served over TCP without TLS, also to proxies that end TLS. On by default;
    /// without either, no TCP port is listened on.
    pub plain_tcp: bool,
    /// IPs that relay ports are bound on: the first IPv4 and the first IPv6 one count. Empty (the
    /// default) takes them from `listen`.
    pub relay_ips: Vec<IpAddr>,
    /// Local IPs, and what the world sees instead of them where a one-to-one NAT stands in between.
    pub public_ips: Vec<(IpAddr, IpAddr)>,
    /// Relay ports, each of which costs one descriptor while it is in use. 49152 to 65535 by default.
    pub relay_ports: RangeInclusive<u16>,
    /// Whether clients may also have TCP relayed, see RFC 6062: to and from the TCP ports of the same
    /// numbers. Off by default: it lets whoever has credentials open connections to any public host.
    pub relay_tcp: bool,
    /// Who may come in; the name is "tombolo" by default, and nobody may.
    pub realm: Realm,
    /// Further realms with credentials of their own.
    pub realms: Vec<Realm>,
    /// Special networks (private, loopback, link-local, …) that clients may reach nevertheless.
    pub allow_peers: Vec<Cidr>,
    /// Networks that clients may not reach, besides the special ones. Where an address is in networks
    /// of both lists the longest prefix counts.
    pub deny_peers: Vec<Cidr>,
    /// Key that nonces are made with; nodes with the same key accept each other's nonces. `None` (the
    /// default) makes a random one.
    pub nonce_key: Option<[u8; 32]>,
    /// Whom to ask about users that nobody else knows, in realms that say so. `None` by default.
    pub hook: Option<HookConfig>,
    /// How packets are moved. [`IoMode::Auto`] by default.
    pub io: IoMode,
    /// Whether clients may move their allocations to other addresses of theirs, see RFC 8016. On by
    /// default.
    pub mobility: bool,
    /// To whom SHA-256 is offered as password algorithm.
    pub offer_sha256: Sha256Offer,
    /// How long a nonce is accepted. An hour by default, which RFC 8489 §9.2 asks for at most.
    pub nonce_lifetime: Duration,
    /// Longest lifetime of an allocation without a refresh. An hour by default.
    pub lifetime_max: Duration,
    /// Threads that relay. `None` (the default) takes one for each core.
    pub shards: Option<usize>,
    /// Ports of this machine at which something else listens, such as a gateway. Like the relay's own
    /// they are never relay ports, and clients may not reach them at the relay IPs.
    pub own_ports: Vec<u16>,
    /// Bounds of what the relay keeps, over all shards, which share nothing: quotas (but those of an
    /// allocation) and the unproven bytes are divided among them in equal parts, rounded up. So in
    /// all there may be up to one less than there are shards more than a bound says, and a shard
    /// refuses when its own part is used up. As the kernel spreads clients by chance, each shard
    /// grants a user and a network at least 4 allocations, the bandwidth of these, 64 permissions, 64
    /// channels, 8 connections and 4 KiB, and all together the bandwidth of one allocation (or all,
    /// if that is less): a bound below that times the number of shards can be exceeded up to that
    /// product. The other bounds hold for each allocation, and for each shard's
    /// queues.
    pub limits: Limits,
    /// Networks of proxies that say in front of each TCP or TLS connection whose it is, by a header of
    /// the PROXY protocol, version 1 or 2. They must, and nobody else may. Empty by default.
    pub proxy_protocol: Vec<Cidr>,
    /// TCP and TLS connections and DTLS associations in all; each takes up to 600 KiB if its client reads
    /// slowly. For a newcomer beyond, the oldest one without an allocation is closed of the network
    /// (IPv4 /16, IPv6 /40) that has the most, or of the source in the newcomer's own network that has.
    pub connections_max: usize,
    /// TCP and TLS connections from one IPv4 address or IPv6 /64 network.
    pub connections_per_source_max: usize,
    /// TLS handshakes under way at once. Each takes about a millisecond of the one thread that serves
    /// all streams. For a newcomer beyond, the oldest handshake is given up as connections are.
    pub handshakes_max: usize,
    /// Such handshakes with one IPv4 address or IPv6 /64 network.
    pub handshakes_per_source_max: usize,
    /// TLS and DTLS handshakes begun in a second: half of them with one IPv4 /16 or IPv6 /40 at most, and a
    /// fifth with one IPv4 /24 or IPv6 /48. More are refused.
    pub handshakes_per_second_max: u32,
    /// Time for a TLS handshake and the first frame together.
    pub first_frame_timeout: Duration,
    /// Time that a TCP or TLS connection may be without an allocation, from its start or from about
    /// the end of its last one; then it is closed, whatever it sends. 30 s by default.
    pub allocation_timeout: Duration,
    /// Time in which a TCP or TLS client must take something of what is written to it; then its connection
    /// is closed.
    pub write_timeout: Duration,
}

/// A way to move packets between the network and the shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IoMode {
    /// The fastest way that the machine allows.
    #[default]
    Auto,
    /// A socket for each allocation. Works everywhere.
    Sockets,
    /// All relay ports of a shard steered to one socket by an eBPF program. Needs `CAP_NET_RAW` and
    /// `CAP_BPF`.
    Steered,
}

impl IoMode {
    /// The name that command lines and logs use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sockets => "sockets",
            Self::Steered => "steered",
        }
    }
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            listen_udp: Vec::new(),
            listen_tls: Vec::new(),
            tls: None,
            dtls: true,
            plain_udp: true,
            plain_tcp: true,
            relay_ips: Vec::new(),
            public_ips: Vec::new(),
            relay_ports: 49152..=65535,
            relay_tcp: false,
            realm: Realm::new("tombolo"),
            realms: Vec::new(),
            allow_peers: Vec::new(),
            deny_peers: Vec::new(),
            nonce_key: None,
            hook: None,
            io: IoMode::Auto,
            mobility: true,
            offer_sha256: Sha256Offer::default(),
            nonce_lifetime: Duration::from_secs(3600),
            lifetime_max: Duration::from_secs(3600),
            shards: None,
            own_ports: Vec::new(),
            limits: Limits::default(),
            proxy_protocol: Vec::new(),
            connections_max: 4096,
            connections_per_source_max: 128,
            handshakes_max: 256,
            handshakes_per_source_max: 32,
            handshakes_per_second_max: 500,
            first_frame_timeout: Duration::from_secs(10),
            allocation_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(10),
        }
    }
}

impl RelayConfig {
    /// Whether DTLS is served, with whichever key: another one may take its place.
    pub(crate) fn has_dtls(&self) -> bool {
        self.tls.is_some() && self.dtls
    }

    /// Each shard's part of the limits.
    pub(crate) fn shard_limits(&self, shards: usize) -> Limits {
        let all = self.limits;
        let shards_u32 = u32::try_from(shards).unwrap_or(u32::MAX);
        let unproven_floor = all.unproven_bytes_max.min(UNPROVEN_BYTES_MIN);
        let realms = std::iter::once(&self.realm).chain(&self.realms);
        let rate = realms.map(|realm| self.rate_of(realm)).max().unwrap_or(0);
        let mut part = all;
        part.total = part_of(all.total, shards, least_of_all(rate));
        part.per_user = part_of(all.per_user, shards, least_of_one(rate));
        part.per_network = part_of(all.per_network, shards, least_of_one(rate));
        let waiting = |whole: usize, min: usize| whole.div_ceil(shards).max(min.min(whole));
        part.connections_waiting_max = waiting(all.connections_waiting_max, 1);
        part.connections_waiting_per_user_max =
            waiting(all.connections_waiting_per_user_max, WAITING_MIN);
        part.connections_waiting_per_network_max =
            waiting(all.connections_waiting_per_network_max, WAITING_MIN);
        part.unproven_total_bytes_max = all
            .unproven_total_bytes_max
            .div_ceil(shards_u32)
            .max(all.unproven_total_bytes_max.min(4 * UNPROVEN_BYTES_MIN));
        part.unproven_bytes_max = all
            .unproven_bytes_max
            .div_ceil(shards_u32)
            .max(unproven_floor);
        part.proven_bytes_max = all
            .proven_bytes_max
            .div_ceil(shards_u32)
            .max(all.proven_bytes_max.min(4 * UNPROVEN_BYTES_MIN));
        part
    }

    /// A realm with each shard's part of its limits.
    pub(crate) fn shard_realm(&self, realm: &Realm, shards: usize) -> Realm {
        let rate = self.rate_of(realm);
        let waiting = realm.connections_waiting_max;
        let mut part = realm.clone();
        part.quota = part_of(realm.quota, shards, least_of_all(rate));
        part.per_user = part_of(realm.per_user, shards, least_of_one(rate));
        part.connections_waiting_max = waiting.map(|whole| whole.div_ceil(shards));
        part
    }

    /// Bytes per second that an allocation of a realm counts with.
    fn rate_of(&self, realm: &Realm) -> u64 {
        let bandwidth = realm.bandwidth.or(self.limits.bandwidth);
        bandwidth.map_or(0, |bandwidth| bandwidth.bytes_per_second.into())
    }

    /// The IPs that relay ports are bound on, at most one of each family.
    pub(crate) fn relay_ips(&self) -> Vec<IpAddr> {
        let listen: Vec<IpAddr>;
        let ips = if self.relay_ips.is_empty() {
            listen = self.listen.iter().map(SocketAddr::ip).collect();
            &listen
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

/// A shard's part of a quota: an equal one, rounded up, and no less than `min` unless the whole is.
fn part_of(whole: Quota, shards: usize, min: Quota) -> Quota {
    let part = |whole: Option<usize>, min: Option<usize>| {
        let whole = whole?;
        let min = min.unwrap_or(0).min(whole);
        Some(whole.div_ceil(shards).max(min))
    };
    let bandwidth = whole.bandwidth.map(|whole| {
        let min = min.bandwidth.unwrap_or(0).min(whole);
        whole.div_ceil(shards as u64).max(min)
    });
    Quota {
        allocations: part(whole.allocations, min.allocations),
        permissions: part(whole.permissions, min.permissions),
        channels: part(whole.channels, min.channels),
        connections: part(whole.connections, min.connections),
        bandwidth,
    }
}

/// What each shard grants all clients together, where an allocation counts with a rate: one of them.
fn least_of_all(rate: u64) -> Quota {
    Quota {
        bandwidth: Some(rate),
        ..Quota::default()
    }
}

/// What each shard grants a user or a network: the kernel may pin to one shard all that one device
/// has, which is an allocation of two families before and after its network changed, with its peers.
fn least_of_one(rate: u64) -> Quota {
    Quota {
        allocations: Some(ALLOCATIONS_MIN),
        permissions: Some(64),
        channels: Some(64),
        connections: Some(8),
        bandwidth: Some(rate * ALLOCATIONS_MIN as u64),
    }
}

/// Allocations that each shard grants a user or a network.
const ALLOCATIONS_MIN: usize = 4;
/// Connections to peers that wait which each shard grants a user or a network.
const WAITING_MIN: usize = 8;
/// Unproven bytes that each shard grants a source network: some dozens of honest first requests.
const UNPROVEN_BYTES_MIN: u32 = 4 * 1024;

#[cfg(test)]
mod tests {
    use tombolo_turn::server::Bandwidth;

    use super::*;

    #[test]
    fn the_limits_of_all_shards_together_are_those_of_the_relay() {
        let mut config = RelayConfig::default();
        config.limits.total.allocations = Some(1000);
        config.limits.per_user = quota(16, 256);
        config.limits.unproven_bytes_max = 64 * 1024;
        let waiting = |part: &Limits| {
            let total = part.connections_waiting_max;
            let per_user = part.connections_waiting_per_user_max;
            (total, per_user, part.connections_waiting_per_network_max)
        };
        for shards in [1, 2, 4] {
            let part = config.shard_limits(shards);
            assert_eq!(part.total.allocations, Some(1000 / shards));
            assert_eq!(part.per_user, quota(16 / shards, 256 / shards));
            assert_eq!(part.unproven_bytes_max as usize * shards, 64 * 1024);
            let expected = (1024 / shards, 64 / shards, 128 / shards);
            assert_eq!(waiting(&part), expected);
        }
        let part = config.shard_limits(64);
        assert_eq!(part.total.allocations, Some(16));
        let least = (part.per_user.channels, part.per_user.connections);
        assert_eq!(part.per_user.allocations, Some(4));
        assert_eq!(least, (Some(64), Some(8)));
        assert_eq!(waiting(&part), (16, 8, 8));
        assert_eq!(part.unproven_bytes_max, 4 * 1024);
        let mut realm = Realm::new("r");
        realm.quota.allocations = Some(1000);
        realm.per_user.allocations = Some(16);
        for (shards, expected) in [(1, (1000, 16)), (4, (250, 4)), (16, (63, 4))] {
            let part = RelayConfig::default().shard_realm(&realm, shards);
            let limits = (part.quota.allocations, part.per_user.allocations);
            assert_eq!(limits, (Some(expected.0), Some(expected.1)));
        }
        config.limits.per_user.allocations = Some(2);
        let part = config.shard_limits(64);
        assert_eq!(part.per_user.allocations, Some(2));
    }

    #[test]
    fn no_quota_is_exceeded_by_more_than_its_documentation_says() {
        for whole in 0..=300 {
            let mut config = RelayConfig::default();
            config.limits.total = quota(whole, whole);
            config.limits.per_user = quota(whole, whole);
            config.limits.per_network = quota(whole, whole);
            for shards in 1..=64 {
                let part = config.shard_limits(shards);
                let in_all = part.total.allocations.expect("is bounded") * shards;
                assert!(
                    (whole..whole + shards).contains(&in_all),
                    "{whole} among {shards}"
                );
                assert_eq!(part.per_user, part.per_network);
                let is_within = |part: Option<usize>, min: usize| {
                    let in_all = part.expect("is bounded") * shards;
                    let max = (whole + shards - 1).max(min.min(whole) * shards);
                    (whole..=max).contains(&in_all)
                };
                assert!(
                    is_within(part.per_user.allocations, 4),
                    "{whole} among {shards}"
                );
                assert!(
                    is_within(part.per_user.channels, 64),
                    "{whole} among {shards}"
                );
            }
        }
    }

    #[test]
    fn bandwidth_is_divided_and_each_shard_has_some_for_a_device() {
        let mut config = RelayConfig::default();
        config.limits.bandwidth = Some(Bandwidth {
            bytes_per_second: 1000,
            burst_bytes: 1000,
        });
        config.limits.total.bandwidth = Some(100_000);
        config.limits.per_user.bandwidth = Some(10_000);
        config.limits.per_network.bandwidth = Some(2000);
        let mut realm = Realm::new("r");
        realm.quota.bandwidth = Some(50_000);
        realm.connections_waiting_max = Some(10);
        config.realms.push(realm);
        for (shards, expected) in [
            (1, [100_000, 10_000, 2000, 50_000]),
            (2, [50_000, 5000, 2000, 25_000]),
            (4, [25_000, 4000, 2000, 12_500]),
            (128, [1000, 4000, 2000, 1000]),
        ] {
            let part = config.shard_limits(shards);
            let realm = config.shard_realm(&config.realms[0], shards);
            let parts = [part.total, part.per_user, part.per_network, realm.quota];
            assert_eq!(parts.map(|part| part.bandwidth), expected.map(Some));
            let waiting = realm.connections_waiting_max;
            assert_eq!(waiting, Some(10_usize.div_ceil(shards)));
        }
        // A realm whose allocations count with more has shards grant more.
        config.realms[0].bandwidth = Some(Bandwidth {
            bytes_per_second: 3000,
            burst_bytes: 3000,
        });
        let part = config.shard_limits(128);
        assert_eq!(part.total.bandwidth, Some(3000));
        assert_eq!(part.per_user.bandwidth, Some(10_000));
    }

    fn quota(allocations: usize, peers: usize) -> Quota {
        Quota {
            allocations: Some(allocations),
            permissions: Some(peers),
            channels: Some(peers),
            connections: Some(peers),
            bandwidth: None,
        }
    }
}
