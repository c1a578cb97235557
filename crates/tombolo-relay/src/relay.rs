use std::{
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, mpsc::sync_channel},
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use tombolo_turn::server::{self, ProvenAddresses, Server, ShardIndex};
use tracing::{error, info, warn};

use crate::{
    BindError, Broken, Certificates, HookConfig, HookError, IoMode, RelayConfig, RelayStats,
    dtls::{self, DtlsInlet, DtlsOutlet, Out},
    hook::Hook,
    icmp::IcmpWatch,
    link::{Control, ShardInbox, ShardLink},
    listen::Listeners,
    operate::Layout,
    owners::PortOwners,
    sentinel::Sentinels,
    shard::{Peers, Shard, ShardSockets, unix_now},
    socket::{UdpSocket, Waker, raise_open_files_limit},
    stats::{HookCounters, StreamCounters},
    steering::{SteeredSockets, Steering},
    stream::{Streams, StreamsConfig},
    validity,
};

/// A running relay. Dropping it ends it like [`Relay::shutdown`].
pub struct Relay {
    addrs: RelayAddrs,
    io: IoMode,
    /// Dropped first, so that what still comes finds nobody.
    _steering: Option<Steering>,
    /// Dropped before the shards that its connections write to.
    pub(crate) streams: Streams,
    pub(crate) shards: Vec<ShardThread>,
    stream_counters: Arc<StreamCounters>,
    pub(crate) layout: Layout,
    nonce_key: [u8; 32],
    id: [u8; 4],
    hook_counters: Arc<HookCounters>,
    certificates: Option<Certificates>,
    sentinels: Sentinels,
}

/// Where a relay listens, with the ports it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayAddrs {
    /// STUN and TURN over UDP and TCP, as far as these are served, in the order of [`RelayConfig::listen`].
    pub turn: Vec<SocketAddr>,
    /// STUN and TURN over UDP alone, in the order of [`RelayConfig::listen_udp`].
    pub alternate: Vec<SocketAddr>,
    /// TURN over TLS; empty without it.
    pub turns: Vec<SocketAddr>,
    /// The IPs that relay ports are bound on.
    pub relay: Vec<IpAddr>,
}

pub(crate) struct ShardThread {
    pub(crate) link: ShardLink,
    thread: Option<thread::JoinHandle<()>>,
}

impl Relay {
    /// Binds all sockets and starts the threads. Raises the process's limit of open files as far as it
    /// may, since each allocation takes one.
    ///
    /// # Errors
    /// Says which socket cannot be had and what to do about it.
    pub fn bind(config: RelayConfig) -> Result<Self, BindError> {
        check(&config)?;
        warn_of(&config);
        let hook_counters = Arc::new(HookCounters::default());
        let hook = start_hook(config.hook.clone(), &hook_counters)?;
        raise_open_files_limit();
        let shard_count = match config.shards {
            Some(count) => count,
            None => thread::available_parallelism().map_or(1, usize::from),
        };
        let shard_count = shard_count.clamp(1, SHARDS_MAX);
        let listeners = Listeners::bind(&config, shard_count)?;
        let stream_counters = Arc::new(StreamCounters::default());
        let (inlet, outlet) = dtls_ends(&config, &listeners, &stream_counters)?.unzip();
        let nonce_key = match config.nonce_key {
            Some(key) => key,
            None => random()?,
        };
        let layout = Layout::of(&config);
        let mut core_config = core_config(&config, &listeners.addrs, shard_count, nonce_key)?;
        // Tickets of another life of this node are those of another node.
        let [a, b, c, d, ..] = random()?;
        let id = [a, b, c, d];
        core_config.node = id;
        core_config.proven = proven_addresses(shard_count)?;
        let runtime = Streams::runtime()?;
        let (links, inboxes) = shard_links(shard_count, inlet.as_ref())?;
        let ways = ways(&config, shard_count)?;
        let io = ways.io();
        if io == IoMode::Steered {
            let watch = IcmpWatch::new(&ways.owners, &links, &stream_counters);
            watch.start(runtime.handle(), &config.relay_ips());
        }
        let sentinels = Sentinels::new();
        let sockets = (listeners.udp, ways.steered, ways.owners);
        let beside = (runtime.handle(), &sentinels);
        let shards = start_shards(&core_config, inboxes, &links, sockets, beside)?;
        let counters = Arc::clone(&stream_counters);
        let certificates = config.tls.clone();
        let streams_config = StreamsConfig {
            dtls: outlet,
            ..StreamsConfig::new(config, listeners.tcp, links.to_vec(), counters)
        };
        let streams = Streams::start(runtime, streams_config, &sentinels)?;
        tell(&listeners.addrs, io, shard_count);
        let relay = Self {
            addrs: listeners.addrs,
            io,
            shards,
            _steering: ways.steering,
            streams,
            stream_counters,
            layout,
            nonce_key,
            id,
            hook_counters,
            certificates,
            sentinels,
        };
        relay.set_hook(hook.as_ref());
        Ok(relay)
    }

    /// Asks there about users from now on; questions that are under way are answered.
    pub(crate) fn set_hook(&self, hook: Option<&Hook>) {
        for shard in &self.shards {
            let hook = hook.map(|hook| hook.link(shard.link.clone()));
            shard.link.control_blocking(Control::Hook(hook));
        }
    }

    /// Gets ready to ask about users.
    pub(crate) fn start_hook(&self, config: &RelayConfig) -> Result<Option<Hook>, HookError> {
        start_hook(config.hook.clone(), &self.hook_counters)
    }

    /// What the cores are to do by another configuration.
    pub(crate) fn core_config(&self, config: &RelayConfig) -> io::Result<server::Config> {
        core_config(config, &self.addrs, self.shards.len(), self.nonce_key)
    }

    /// Where the relay listens.
    #[must_use]
    pub fn addrs(&self) -> &RelayAddrs {
        &self.addrs
    }

    /// What names the relay, in this life of it, among those that share its
    /// [`nonce_key`](RelayConfig::nonce_key). See [`Relay::set_fleet`].
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    /// How packets are moved: never [`IoMode::Auto`].
    #[must_use]
    pub fn io(&self) -> IoMode {
        self.io
    }

    /// How many shards relay.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Lets `peer` send to each allocation of the time-limited `user`, as if its client had asked for
    /// that itself; users with passwords that do not expire are others, even of the same name.
    /// Each shard does it before it looks at its sockets the next time, in about a millisecond at the
    /// latest. Cheap; never blocks.
    ///
    /// `false` if a shard has too many of these waiting: the peers must then do without.
    pub fn permit(&self, user: &str, peer: IpAddr) -> bool {
        let user: Arc<str> = user.into();
        let mut is_done = true;
        for shard in &self.shards {
            let user = Arc::clone(&user);
            is_done &= shard.link.control(Control::Permit { user, peer }).is_ok();
        }
        is_done
    }

    /// Waits until the relay is broken: one of its threads has ended by itself.
    pub async fn broken(&self) -> Broken {
        self.sentinels.broken().await
    }

    /// Tells whether the relay is whole.
    ///
    /// # Errors
    /// It is [broken](Self::broken).
    pub fn check(&self) -> Result<(), Broken> {
        self.sentinels.check()
    }

    /// Asks each shard what it has counted. Blocks for about as long as a shard takes for a batch of
    /// packets; a shard that does not answer within a second is left out.
    #[must_use]
    pub fn stats(&self) -> RelayStats {
        let answers = self.shards.iter().map(|shard| {
            let (sender, receiver) = sync_channel(1);
            shard
                .link
                .control(Control::Stats(sender))
                .ok()
                .map(|()| receiver)
        });
        let answers: Vec<_> = answers.flatten().collect();
        let shards = answers
            .iter()
            .filter_map(|answer| answer.recv_timeout(STATS_TIMEOUT).ok());
        let shards: Vec<_> = shards.collect();
        RelayStats {
            silent_shards: self.shards.len() - shards.len(),
            shards,
            streams: self.stream_counters.stats(),
            hook: self.hook_counters.stats(),
            certificate_expires: self.certificate_expires(),
        }
    }

    fn certificate_expires(&self) -> Option<Duration> {
        let validity = self.certificates.as_ref()?.validity()?;
        Some(validity.not_after)
    }

    /// Closes all sockets and waits for the threads. Allocations end without a farewell: their
    /// clients notice by the silence.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for ShardThread {
    fn drop(&mut self) {
        self.link.control_blocking(Control::Stop);
        if let Some(thread) = self.thread.take() {
            // Its sentinel has told of a panic.
            let _ = thread.join();
        }
    }
}

impl ShardThread {
    fn start(
        config: server::Config,
        inbox: ShardInbox,
        links: &Arc<[ShardLink]>,
        sockets: ShardSockets,
        (streams, sentinels): Beside<'_>,
    ) -> Result<Self, BindError> {
        let index = usize::from(config.shard.0);
        let link = links[index].clone();
        let core = Server::new(config, random()?, Instant::now(), unix_now());
        let peers = Peers::new(streams.clone(), link.clone());
        let shard = Shard::new(core, inbox, Arc::clone(links), sockets, peers)?;
        let name = format!("relay-{index}");
        let sentinel = sentinels.of(&name);
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || match shard.run() {
                Ok(()) => sentinel.dismiss(),
                Err(error) => error!(%error, "a shard cannot wait for packets and ends"),
            })?;
        Ok(Self {
            link,
            thread: Some(thread),
        })
    }
}

/// The shards' sockets for clients, those for peers where relay ports are steered, and whose ports are
/// whose.
type AllSockets = (Vec<Vec<UdpSocket>>, Vec<SteeredSockets>, Arc<PortOwners>);

/// The runtime of the stream connections, and where threads tell of their ends.
type Beside<'a> = (&'a Handle, &'a Sentinels);

fn start_shards(
    config: &server::Config,
    inboxes: Vec<ShardInbox>,
    links: &Arc<[ShardLink]>,
    (listening, steered, owners): AllSockets,
    beside: Beside<'_>,
) -> Result<Vec<ShardThread>, BindError> {
    let mut steered = steered.into_iter();
    let mut shards = Vec::with_capacity(inboxes.len());
    for ((index, inbox), servers) in (0..).zip(inboxes).zip(listening) {
        let mut config = config.clone();
        config.shard = ShardIndex(index);
        let sockets = ShardSockets {
            shard: config.shard,
            servers,
            owners: Arc::clone(&owners),
            steered: steered.next(),
        };
        shards.push(ShardThread::start(config, inbox, links, sockets, beside)?);
    }
    Ok(shards)
}

/// The ways to the shards, and the shards' ends of them.
fn shard_links(
    count: usize,
    dtls: Option<&DtlsInlet>,
) -> io::Result<(Arc<[ShardLink]>, Vec<ShardInbox>)> {
    let mut links = Vec::with_capacity(count);
    let mut inboxes = Vec::with_capacity(count);
    for index in 0..count {
        let (link, mut inbox) = ShardLink::new(Waker::new()?);
        inbox.dtls = dtls.map(|inlet| inlet.of_shard(index));
        links.push(link);
        inboxes.push(inbox);
    }
    Ok((links.into(), inboxes))
}

/// Where shards put datagrams of DTLS, and where they come out.
type DtlsEnds = (DtlsInlet, (DtlsOutlet, Out));

/// The way of DTLS datagrams from the shards to their thread and out again; `None` where there is no
/// certificate for it.
fn dtls_ends(
    config: &RelayConfig,
    listeners: &Listeners,
    counters: &Arc<StreamCounters>,
) -> Result<Option<DtlsEnds>, BindError> {
    if !config.has_dtls() {
        return Ok(None);
    }
    let sockets = listeners.udp.first().into_iter().flatten();
    let clones: Vec<UdpSocket> = sockets
        .map(UdpSocket::try_clone)
        .collect::<Result<_, _>>()?;
    let out = Out::new(clones, counters);
    let (inlet, outlet) = dtls::queue(counters);
    let inlet = match config.plain_udp {
        true => inlet,
        false => inlet.alone(),
    };
    Ok(out.map(|out| (inlet, (outlet, out))))
}

/// Says what an operator may not have meant.
pub(crate) fn warn_of(config: &RelayConfig) {
    let brief = server::Realm::NAME_BYTES_BRIEF;
    let realms = std::iter::once(&config.realm).chain(&config.realms);
    for realm in realms.filter(|realm| realm.name.len() > brief) {
        warn!(
            realm = realm.name,
            bytes = realm.name.len(),
            brief,
            "the realm's name makes challenges over UDP longer than 2.2 times what a usual client sends"
        );
    }
    let certificates = config.tls.as_ref().filter(|_| config.dtls);
    if certificates.is_some_and(|certificates| !certificates.has_dtls()) {
        warn!("no DTLS: it needs a certificate whose key is on the curve P-256 or P-384");
    }
    if let Some(certificates) = &config.tls {
        validity::warn_of(certificates);
    }
}

fn check(config: &RelayConfig) -> Result<(), BindError> {
    if config.listen.is_empty() {
        return Err(BindError::NothingToListenOn);
    }
    if config.relay_ips().is_empty() {
        return Err(BindError::NothingToRelayFrom);
    }
    if !config.listen_tls.is_empty() && config.tls.is_none() {
        return Err(BindError::NoCertificate);
    }
    if !config.plain_udp && !config.plain_tcp && config.tls.is_none() {
        return Err(BindError::NothingServed);
    }
    if !config.listen_udp.is_empty() && !config.plain_udp && !config.has_dtls() {
        return Err(BindError::NoUdp);
    }
    if config.relay_ports.is_empty() || *config.relay_ports.start() < RELAY_PORT_MIN {
        return Err(BindError::RelayPorts);
    }
    let relay_ips = config.relay_ips();
    let stood_for = config.public_ips.iter().map(|(local, _)| local);
    // Those that are listened on are tried when that is done.
    let is_listened_on = |ip: &&IpAddr| config.listen.iter().any(|addr| addr.ip() == **ip);
    let only_relayed = relay_ips.iter().chain(stood_for);
    for ip in only_relayed.filter(|ip| !is_listened_on(ip)) {
        let bound = std::net::UdpSocket::bind((*ip, 0));
        // Whatever else may be wrong is not about the IP, and is said where it matters.
        if bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable) {
            return Err(BindError::NoSuchRelayAddress { ip: *ip });
        }
    }
    Ok(())
}

fn tell(addrs: &RelayAddrs, io: IoMode, shards: usize) {
    info!(
        turn = ?addrs.turn,
        turns = ?addrs.turns,
        io = io.name(),
        shards,
        "relay listens"
    );
}

/// How packets are moved.
struct Ways {
    owners: Arc<PortOwners>,
    /// `None` where each relay port has a socket of its own.
    steering: Option<Steering>,
    /// One for each shard, or none.
    steered: Vec<SteeredSockets>,
}

impl Ways {
    fn io(&self) -> IoMode {
        match self.steering {
            Some(_) => IoMode::Steered,
            None => IoMode::Sockets,
        }
    }
}

/// The way to move packets that was asked for, or the best that is possible here.
fn ways(config: &RelayConfig, shards: usize) -> Result<Ways, BindError> {
    let ips = config.relay_ips();
    let sockets = || Ways {
        owners: Arc::new(PortOwners::new(&ips)),
        steering: None,
        steered: Vec::new(),
    };
    if config.io == IoMode::Sockets {
        return Ok(sockets());
    }
    if config.io == IoMode::Auto && ips.iter().any(IpAddr::is_loopback) {
        // All programs of the machine share these IPs, and their ports with the relay.
        info!(
            reason = "a relay IP is a loopback one",
            "relay ports are not steered"
        );
        return Ok(sockets());
    }
    match Steering::start(&ips, shards) {
        Ok((steering, owners, steered)) => Ok(Ways {
            owners,
            steering: Some(steering),
            steered,
        }),
        Err(reason) if config.io == IoMode::Auto => {
            info!(reason = %in_full(&reason), "relay ports are not steered");
            Ok(sockets())
        }
        Err(reason) => Err(BindError::NoSteering(reason)),
    }
}

/// An error with all that caused it.
fn in_full(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    let causes = causes.map(|cause| format!(": {cause}"));
    std::iter::once(error.to_string()).chain(causes).collect()
}

fn start_hook(
    config: Option<HookConfig>,
    counters: &Arc<HookCounters>,
) -> Result<Option<Hook>, HookError> {
    let hook = config.map(|config| Hook::start(config, Arc::clone(counters)));
    hook.transpose()
}

fn core_config(
    config: &RelayConfig,
    addrs: &RelayAddrs,
    shards: usize,
    nonce_key: [u8; 32],
) -> io::Result<server::Config> {
    let mut core = server::Config::new(nonce_key);
    core.realm = config.shard_realm(&config.realm, shards);
    let realms = config.realms.iter();
    core.realms = realms
        .map(|realm| config.shard_realm(realm, shards))
        .collect();
    for ip in config.relay_ips() {
        match ip {
            IpAddr::V4(ip) => core.relay_ip_v4 = Some(ip),
            IpAddr::V6(ip) => core.relay_ip_v6 = Some(ip),
        }
    }
    core.public_ips.clone_from(&config.public_ips);
    core.relay_ports = config.relay_ports.clone();
    core.relay_tcp = config.relay_tcp;
    core.mobility = config.mobility;
    core.offer_sha256 = config.offer_sha256;
    core.nonce_lifetime = config.nonce_lifetime;
    core.lifetime_max = config.lifetime_max;
    core.lifetime_default = core.lifetime_default.min(config.lifetime_max);
    core.allow_peers.clone_from(&config.allow_peers);
    core.deny_peers.clone_from(&config.deny_peers);
    core.own_ips = own_ips(config)?;
    core.own_ips
        .extend(config.public_ips.iter().map(|(_, public)| *public));
    let sockets = addrs.turn.iter().chain(&addrs.alternate);
    let listening = sockets.clone().chain(&addrs.turns).map(SocketAddr::port);
    core.own_ports = listening.chain(config.own_ports.iter().copied()).collect();
    core.sockets = sockets
        .filter(|address| !address.ip().is_unspecified())
        .copied()
        .collect();
    core.shards = u8::try_from(shards).unwrap_or(u8::MAX);
    core.limits = config.shard_limits(shards);
    Ok(core)
}

/// All IPs of the node as far as they are known: those of all interfaces too, since a service may
/// trust whoever comes from this machine, whatever the relay listens on.
fn own_ips(config: &RelayConfig) -> io::Result<Vec<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs()?;
    let lists = [&config.listen, &config.listen_udp, &config.listen_tls];
    let listening = lists.into_iter().flatten().map(SocketAddr::ip);
    let configured = listening.chain(config.relay_ips.iter().copied());
    Ok(configured
        .chain(interfaces.iter().map(if_addrs::Interface::ip))
        .collect())
}

/// What shards tell each other of who has authenticated.
fn proven_addresses(shards: usize) -> Result<Option<Arc<ProvenAddresses>>, BindError> {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(io::Error::from)?;
    let proven = ProvenAddresses::new(Instant::now(), secret);
    Ok((shards > 1).then(|| Arc::new(proven)))
}

fn random() -> Result<[u8; 32], BindError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::from)?;
    Ok(bytes)
}

/// A shard is named in one byte.
const SHARDS_MAX: usize = u8::MAX as usize;
/// How long a shard may take to tell its counts.
const STATS_TIMEOUT: Duration = Duration::from_secs(1);
/// Ports below belong to services.
const RELAY_PORT_MIN: u16 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_tells_of_a_shard_that_ends_by_a_panic_and_of_none_that_it_ended_itself() {
        let relay = relay();
        assert_eq!(relay.check(), Ok(()));
        let sentinels = relay.sentinels.clone();
        let panic = Control::Run(Box::new(|_, _| panic!("as the test wants it")));
        relay.shards[1].link.control_blocking(panic);
        let runtime = Streams::runtime().expect("there are descriptors");
        let broken = runtime.handle().block_on(relay.broken());
        assert_eq!(
            broken.to_string(),
            "the thread relay-1 of the relay has ended by itself"
        );
        assert_eq!(relay.check(), Err(broken.clone()));
        assert_eq!(relay.stats().silent_shards, 1);
        relay.shutdown();
        assert_eq!(sentinels.check(), Err(broken), "the others ended in order");

        let relay = self::relay();
        let sentinels = relay.sentinels.clone();
        relay.shutdown();
        assert_eq!(sentinels.check(), Ok(()));
    }

    #[test]
    fn a_shard_that_does_not_answer_in_time_is_known_to_be_missing() {
        let relay = relay();
        let (go_on, waits) = sync_channel::<()>(0);
        let busy = Control::Run(Box::new(move |_, _| {
            // Until the other end is dropped.
            let _ = waits.recv();
        }));
        relay.shards[0].link.control_blocking(busy);
        let stats = relay.stats();
        assert_eq!((stats.shards.len(), stats.silent_shards), (1, 1));
        let metrics = stats.to_open_metrics();
        assert!(!metrics.contains("shard=\"0\""), "it is not another one");
        assert!(metrics.contains("tombolo_turn_allocations{shard=\"1\"} 0\n"));
        assert!(metrics.contains("\ntombolo_relay_silent_shards 1\n"));
        assert!(!metrics.contains("tombolo_turn_refusals_total"), "a part");
        drop(go_on);
        let deadline = Instant::now() + Duration::from_secs(20);
        while relay.stats().silent_shards > 0 {
            assert!(Instant::now() < deadline, "it does not answer again");
        }
    }

    /// One on loopback with two shards.
    fn relay() -> Relay {
        Relay::bind(RelayConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            shards: Some(2),
            ..RelayConfig::default()
        })
        .expect("there are free ports")
    }

    #[test]
    fn a_relay_on_loopback_knows_the_addresses_of_all_interfaces_as_its_own() {
        let config = RelayConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 3478))],
            ..RelayConfig::default()
        };
        let own = own_ips(&config).expect("the system tells");
        let interfaces = if_addrs::get_if_addrs().expect("the system tells");
        for interface in interfaces {
            assert!(own.contains(&interface.ip()), "{interface:?}");
        }
        assert!(own.contains(&config.listen[0].ip()));
    }
}
