//! What operators do to a running relay: list and end allocations, drain it, give it another
//! configuration.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::mpsc::sync_channel,
    time::{Duration, Instant},
};

use thiserror::Error;
use tombolo_turn::server::{AllocationInfo, Cidr, Drain, Server};
use tracing::info;

use crate::{
    HookError, IoMode, Relay, RelayConfig, link::Control, relay::warn_of, shard::unix_now,
};

/// Which allocations are meant; what is `None` is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllocationFilter {
    /// Those of this user, named without the expiry of time-limited credentials.
    pub user: Option<String>,
    /// Those of users of this realm.
    pub realm: Option<String>,
    /// Those of clients with this IP.
    pub client_ip: Option<IpAddr>,
    /// That of the client with this address, over any transport.
    pub client: Option<SocketAddr>,
}

impl AllocationFilter {
    fn matches(&self, info: &AllocationInfo) -> bool {
        let client = info.client.client;
        self.user.as_ref().is_none_or(|user| *user == info.user)
            && self.realm.as_ref().is_none_or(|realm| *realm == info.realm)
            && self.client_ip.is_none_or(|ip| ip == client.ip())
            && self.client.is_none_or(|address| address == client)
    }
}

/// Some of the allocations of a relay.
#[derive(Clone, Debug, Default)]
pub struct AllocationPage {
    /// The allocations, oldest first, and when each was looked at.
    pub allocations: Vec<(Instant, AllocationInfo)>,
    /// How many match the filter in all.
    pub total: usize,
}

/// Why a relay keeps the configuration that it has.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// Something that belongs to sockets or threads differs.
    #[error("only a restart changes {0}")]
    NeedsRestart(Changed),
    /// Users cannot be asked about as it says.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The machine does not tell its addresses, which clients must not reach.
    #[error("the addresses of this machine cannot be listed")]
    Interfaces(#[from] io::Error),
}

/// What differs in two configurations, as operators name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed(Vec<&'static str>);

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// What a relay cannot change while it runs.
pub(crate) struct Layout {
    listen: [Vec<SocketAddr>; 3],
    has_tls: [bool; 2],
    has_plain: [bool; 2],
    relay_ips: Vec<IpAddr>,
    public_ips: Vec<(IpAddr, IpAddr)>,
    relay_ports: RangeInclusive<u16>,
    own_ports: Vec<u16>,
    io: IoMode,
    shards: Option<usize>,
    proxy_protocol: Vec<Cidr>,
    timeouts: [Duration; 3],
    nonce_key: Option<[u8; 32]>,
}

impl Layout {
    pub(crate) fn of(config: &RelayConfig) -> Self {
        Self {
            listen: [
                config.listen.clone(),
                config.listen_udp.clone(),
                config.listen_tls.clone(),
            ],
            has_tls: [config.tls.is_some(), config.dtls],
            has_plain: [config.plain_udp, config.plain_tcp],
            relay_ips: config.relay_ips(),
            public_ips: config.public_ips.clone(),
            relay_ports: config.relay_ports.clone(),
            own_ports: config.own_ports.clone(),
            io: config.io,
            shards: config.shards,
            proxy_protocol: config.proxy_protocol.clone(),
            timeouts: [
                config.first_frame_timeout,
                config.allocation_timeout,
                config.write_timeout,
            ],
            nonce_key: config.nonce_key,
        }
    }

    fn check(&self, other: &Self) -> Result<(), ReloadError> {
        let [listen, udp, tls] = &self.listen;
        let [other_listen, other_udp, other_tls] = &other.listen;
        // With the keys of a file, as most configurations come from one.
        let parts = [
            ("where it listens (`listen`)", listen == other_listen),
            ("where it listens (`listen-udp`)", udp == other_udp),
            ("where it listens (`tls.listen`)", tls == other_tls),
            (
                "whether there is TLS and DTLS (`tls`, `tls.dtls`)",
                self.has_tls == other.has_tls,
            ),
            (
                "whether all is served without TLS and DTLS, too (`plain-udp`, `plain-tcp`)",
                self.has_plain == other.has_plain,
            ),
            (
                "the relay IPs (`relay-ip`)",
                self.relay_ips == other.relay_ips,
            ),
            (
                "the public IPs (`public-ip`)",
                self.public_ips == other.public_ips,
            ),
            (
                "the relay ports (`relay-ports`)",
                self.relay_ports == other.relay_ports,
            ),
            (
                "the program's own ports (`metrics`)",
                self.own_ports == other.own_ports,
            ),
            ("how packets are moved (`io`)", self.io == other.io),
            (
                "the number of shards (`shards`)",
                self.shards == other.shards,
            ),
            (
                "the proxies (`proxy-protocol`)",
                self.proxy_protocol == other.proxy_protocol,
            ),
            (
                "the timeouts of connections",
                self.timeouts == other.timeouts,
            ),
            (
                "the key of the fleet (`fleet-key`)",
                self.nonce_key == other.nonce_key,
            ),
        ];
        let changed = parts.into_iter().filter(|(_, is_same)| !is_same);
        let changed: Vec<_> = changed.map(|(name, _)| name).collect();
        if changed.is_empty() {
            return Ok(());
        }
        Err(ReloadError::NeedsRestart(Changed(changed)))
    }
}

impl Relay {
    /// Tells `count` of the allocations that match, after the first `skip` of them. Each shard looks
    /// at all its allocations, a few milliseconds for 16,000, so this is for people. Blocks like
    /// [`Relay::stats`].
    #[must_use]
    pub fn allocations(
        &self,
        filter: &AllocationFilter,
        skip: usize,
        count: usize,
    ) -> AllocationPage {
        let filter = filter.clone();
        let found = self.ask(Patience::Short, move |core, now| {
            let matching = core.allocations(now).filter(|info| filter.matches(info));
            matching.map(|info| (now, info)).collect::<Vec<_>>()
        });
        let mut allocations: Vec<_> = found.into_iter().flatten().collect();
        let total = allocations.len();
        allocations.sort_by_key(|(_, info)| (info.created, info.client));
        AllocationPage {
            allocations: allocations.into_iter().skip(skip).take(count).collect(),
            total,
        }
    }

    /// Ends all allocations that match and tells how many there were. Their clients find out by their
    /// next request.
    pub fn end(&self, filter: &AllocationFilter) -> usize {
        let filter = filter.clone();
        let ended = self.ask(Patience::Long, move |core, now| {
            core.end(now, |info| filter.matches(info))
        });
        let ended = ended.into_iter().sum();
        info!(ended, "allocations were ended by an operator");
        ended
    }

    /// Makes no new allocations from now on, and sends newcomers elsewhere.
    /// `stats().shards[..].turn.allocations` tells how many are left.
    pub fn drain(&self, drain: &Drain) {
        let drain = drain.clone();
        let alternates = drain.alternates.clone();
        self.ask(Patience::Long, move |core, now| {
            core.drain(now, drain.clone())
        });
        info!(?alternates, "the relay drains");
    }

    /// The same, but a drain that is on stays as it is.
    pub fn drain_if_not(&self, drain: &Drain) {
        let drain = drain.clone();
        self.ask(Patience::Long, move |core, now| {
            if !core.is_draining() {
                core.drain(now, drain.clone());
            }
        });
    }

    /// Takes over where clients reach other relays that share this one's key, by their [ids](Relay::id).
    /// Whoever comes with a mobility ticket of one of them is sent there (RFC 8489 §10), where its
    /// allocation is.
    pub fn set_fleet(&self, servers_by_relay: &BTreeMap<[u8; 4], Vec<SocketAddr>>) {
        let servers_by_relay = servers_by_relay.clone();
        self.ask(Patience::Long, move |core, _| {
            core.set_fleet(servers_by_relay.clone());
        });
    }

    /// Makes allocations again.
    pub fn undrain(&self) {
        self.ask(Patience::Long, |core, _| core.undrain());
        info!("the relay does not drain any more");
    }

    /// Takes another configuration: realms and credentials, limits, which peers are allowed, whether
    /// TCP is relayed and clients are mobile. Allocations and connections stay, but for permissions
    /// to peers that are not allowed any more.
    ///
    /// # Errors
    /// Names what only a restart can change; then nothing has changed.
    pub fn reload(&self, config: &RelayConfig) -> Result<(), ReloadError> {
        self.layout.check(&Layout::of(config))?;
        let core_config = self.core_config(config)?;
        let hook = self.start_hook(config)?;
        self.ask(Patience::Long, move |core, now| {
            core.handle_clock(now, unix_now());
            core.reconfigure(now, core_config.clone());
        });
        self.set_hook(hook.as_ref());
        self.streams.set_bounds(config);
        warn_of(config);
        info!("the relay has another configuration");
        Ok(())
    }

    /// Asks each shard. One that does not answer in time is left out; it does what it was asked
    /// nevertheless.
    fn ask<T: Send + 'static>(
        &self,
        patience: Patience,
        question: impl Fn(&mut Server, Instant) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let answers = self.shards.iter().filter_map(|shard| {
            let (sender, receiver) = sync_channel(1);
            let question = question.clone();
            let run = Control::Run(Box::new(move |core, now| {
                // Whoever asked may have given up waiting.
                let _ = sender.try_send(question(core, now));
            }));
            match patience {
                Patience::Short => shard.link.control(run).ok()?,
                Patience::Long => shard.link.control_blocking(run),
            }
            Some(receiver)
        });
        let answers: Vec<_> = answers.collect();
        let timeout = match patience {
            Patience::Short => SHORT,
            Patience::Long => LONG,
        };
        let answers = answers.iter();
        answers
            .filter_map(|answer| answer.recv_timeout(timeout).ok())
            .collect()
    }
}

/// How important an answer is.
#[derive(Clone, Copy)]
enum Patience {
    /// A shard that is too busy is left out.
    Short,
    /// Every shard must do it.
    Long,
}

/// How long a shard may take to tell something.
const SHORT: Duration = Duration::from_secs(1);
/// How long a shard may take to do something, longer than any that lives takes.
const LONG: Duration = Duration::from_secs(10);
