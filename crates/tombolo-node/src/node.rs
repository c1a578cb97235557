use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;
use tombolo_engine::{Engine, Local, LocalConfig, Nats, NatsConfig, SealStats, Sealed};
use tombolo_gateway::{Gateway, GatewayConfig};
use tombolo_relay::{CertificateError, Certificates, Relay};
use tombolo_services::{HookSet, LOG_SHARES, Services};
use tombolo_wire::token::KeySet;
use tombolo_wire::{NodeId, ServerUrl};

use crate::addresses::Addresses;
use crate::builder::{EngineChoice, NodeBuilder};
use crate::certificate::Certificate;
use crate::error::{Broken, ReloadError, StartError};
use crate::fleet::Fleet;
use crate::hook::{Hook, Lost, Uris};
use crate::http_hooks::{self, Chain, HttpHooks, HttpHooksStats, NoHooks};
use crate::keys::DevKey;
use crate::operate::Operator;
use crate::post::{Place, PostError};
use crate::relaying;
use crate::seal_claim::SealClaim;
use crate::webhook::{Webhook, WebhookConfig, WebhookCounters, WebhookStats};

/// A running node. [`Node::shutdown`] ends it in good order, dropping it at once.
pub struct Node {
    ready: Ready,
    gateway: Gateway,
    services: Services,
    relay: Arc<Relay>,
    /// As it is now; held while another one is taken over.
    config: Mutex<NodeBuilder>,
    addresses: Addresses,
    certificates: Certificates,
    fleet: Fleet,
    dev_key: Option<DevKey>,
    operator: Operator,
    engine: Arc<dyn Engine>,
    /// What answers operators, among others; ended with the node.
    tasks: JoinSet<()>,
    pub(crate) webhook_counters: Arc<WebhookCounters>,
    /// What tells a server what happens, if there is one.
    webhook: Option<Webhook>,
    /// The game's server that is asked, if there is one.
    http_hooks: Option<Arc<HttpHooks>>,
    sealed: Option<Arc<Sealed>>,
    seal_claim: SealClaim,
}

/// Where a node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ready {
    /// All that a device needs; pins the node's certificate where the web does not vouch for it.
    pub url: ServerUrl,
    /// The node's name in its cluster.
    pub name: String,
    /// STUN URIs (RFC 7064), at least two.
    pub stun: Vec<String>,
    /// TURN URIs (RFC 7065): over UDP, TCP and TLS.
    pub turn: Vec<String>,
    /// Base of the HTTP API, for example "https://203.0.113.10:8443".
    pub http: String,
}

/// What a node has done so far, part by part.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Connections and HTTP requests.
    pub gateway: tombolo_gateway::Stats,
    /// Sessions, rooms and messages.
    pub services: tombolo_services::Stats,
    /// Allocations and relayed packets.
    pub relay: tombolo_relay::RelayStats,
    /// How the events for the webhook fared.
    pub webhook: WebhookStats,
    /// How the game's server has answered.
    pub hooks: HttpHooksStats,
    /// What was refused on the bus; nothing where it is not sealed.
    pub seal: SealStats,
}

impl Node {
    /// A node that listens on all addresses and the usual ports, unless told otherwise.
    #[must_use]
    pub fn builder() -> NodeBuilder {
        NodeBuilder::new()
    }

    pub(crate) async fn start(config: NodeBuilder) -> Result<Self, StartError> {
        let webhook = config.webhook.as_ref();
        let webhook_place = webhook.map(webhook_place).transpose()?;
        let dev_key = config.is_dev.then(|| DevKey::of(&config)).transpose()?;
        let token_keys = token_keys(&config, dev_key.as_ref()).ok_or(StartError::NoTokenKeys)?;
        let addresses = addresses(&config)?;
        let certificate = certificate(&config, &addresses)?;
        let certificates = certificate.for_turns()?;
        let mut services_config = services_config(&config)?;
        let http_hooks = add_hooks(&config, &mut services_config)?;
        let Store { engine, sealed } = store(&config).await?;
        let seal_claim = claim(&engine, &services_config.node, &config).await?;
        let fleet = Fleet::join(&*engine, &config.seal_keys).await?;
        let relay = relaying::config(&config, &addresses, certificates.clone(), &fleet);
        let relay = Relay::bind(relay).map_err(|error| StartError::from_relay(error, &config))?;
        let relay = Arc::new(relay);

        let uris = relaying::uris(&relay, &addresses, config.host.as_deref());
        let hook = Arc::new(hook(&relay, &addresses, &fleet, uris.clone()));
        let services = Services::new(Arc::clone(&engine), hook, token_keys, services_config);
        let turn = relaying::turn(&relay, &addresses);
        let operator = Operator::new(services.clone(), Arc::clone(&engine), &relay, turn);

        let gateway_config =
            gateway_config(&config, &addresses, certificate.clone(), dev_key.as_ref());
        let gateway =
            Gateway::bind(gateway_config, services.clone()).map_err(StartError::from_gateway)?;

        let port = gateway
            .addrs()
            .first()
            .map_or(config.port, SocketAddr::port);
        let url = url(&config, &addresses, port, &certificate)?;
        let http = format!("https://{}", url.authority());
        services.announce(&url.to_string()).await;
        let mut tasks = JoinSet::new();
        let vitals = services.vitals();
        tasks.spawn(vitals.hold("what operators ask", operator.clone().serve()));
        tasks.spawn(vitals.hold("other nodes' relays", operator.clone().keep_fleet()));
        tasks.spawn(vitals.hold("what it says of its seal", seal_claim.clone().keep()));
        let webhook_counters = Arc::<WebhookCounters>::default();
        let webhook = webhook.zip(webhook_place).map(|(to, place)| {
            let counters = Arc::clone(&webhook_counters);
            Webhook::start(to.clone(), place, &services, counters)
        });
        gateway.set_ready();
        let ready = Ready {
            url,
            name: services.name().to_string(),
            stun: uris.stun,
            turn: uris.turn,
            http,
        };
        Ok(Self {
            ready,
            gateway,
            services,
            relay,
            config: Mutex::new(config),
            addresses,
            certificates,
            sealed,
            seal_claim,
            fleet,
            dev_key,
            operator,
            engine,
            tasks,
            webhook_counters,
            webhook,
            http_hooks,
        })
    }

    /// Takes another configuration over, all of it or nothing: token keys, the certificate, whom the webhook trusts, which
    /// server is asked and about what, and what the relay allows. What is open stays open. Where the rest needs a restart
    /// the certificate is taken over all the same. Blocks for as long as the relay takes.
    ///
    /// # Errors
    /// Says why the node keeps what it has.
    pub fn reload(&self, config: NodeBuilder) -> Result<(), ReloadError> {
        let mut current = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let config = config.settled();
        match self.take_over(&current, &config) {
            Ok(()) => *current = config,
            Err(why) if why.needs_restart() && current.is_known_by_certificate_of(&config) => {
                self.take_certificate(&config)?;
                current.certificate = config.certificate;
                return Err(ReloadError::TookCertificate(why.into()));
            }
            Err(why) => return Err(why),
        }
        Ok(())
    }

    fn take_over(&self, current: &NodeBuilder, config: &NodeBuilder) -> Result<(), ReloadError> {
        if let Some(what) = current.differs(config) {
            return Err(ReloadError::NeedsRestart(what));
        }
        let token_keys =
            token_keys(config, self.dev_key.as_ref()).ok_or(ReloadError::NoTokenKeys)?;
        let certificates = match &config.certificate {
            Some(given) => given.for_turns()?,
            None => self.certificates.clone(),
        };
        let game = game_server(config).map_err(ReloadError::Hooks)?;
        let relay = relaying::config(config, &self.addresses, certificates, &self.fleet);
        self.relay.reload(&relay)?;
        self.take_certificate(config)?;
        self.services.set_tokens(token_keys);
        self.gateway.set_api_keys(config.api_keys.clone());
        if let (Some(webhook), Some(config)) = (&self.webhook, &config.webhook) {
            webhook.trust_as(config);
        }
        if let (Some(hooks), Some(game)) = (&self.http_hooks, game) {
            hooks.replace(game);
        }
        Ok(())
    }

    fn take_certificate(&self, config: &NodeBuilder) -> Result<(), ReloadError> {
        if let Some(given) = &config.certificate {
            let certificates = given.for_turns()?;
            let Certificate { chain, key } = given.clone();
            self.gateway
                .replace_certificate(chain, key)
                .map_err(CertificateError::from)?;
            self.certificates.replace(&certificates);
        }
        Ok(())
    }

    /// Whether the node takes part in its cluster; one without others is a cluster of its own.
    ///
    /// # Errors
    /// Says why not.
    pub async fn in_cluster(&self) -> Result<(), String> {
        let joined = self.services.in_cluster().await;
        joined.map_err(|reject| reject.message)
    }

    /// Waits until the node is broken. The process should end then, for whoever started it to start it again.
    pub async fn broken(&self) -> Broken {
        tokio::select! {
            relay = self.relay.broken() => relay.into(),
            () = self.engine.broken() => Broken::Store,
            task = self.services.vitals().broken() => task.into(),
        }
    }

    /// Tells whether the node is whole.
    ///
    /// # Errors
    /// It is [broken](Self::broken).
    pub fn check(&self) -> Result<(), Broken> {
        self.relay.check()?;
        if self.engine.is_broken() {
            return Err(Broken::Store);
        }
        self.services.vitals().check()?;
        Ok(())
    }

    /// Where the node is reached.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Operates this node, and over it the others of its cluster.
    #[must_use]
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Sessions and rooms of this node, for a game's own code: what it wants of rooms, and from time to
    /// time if it likes.
    #[must_use]
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// What happened so far. Blocks for as long as the relay takes to count, well below a
    /// millisecond unless it is overloaded.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            gateway: self.gateway.stats(),
            services: self.services.stats(),
            relay: self.relay.stats(),
            webhook: self.webhook_counters.stats(),
            hooks: self
                .http_hooks
                .as_ref()
                .map_or_else(HttpHooksStats::default, |hooks| hooks.stats()),
            seal: self
                .sealed
                .as_ref()
                .map_or_else(SealStats::default, |sealed| sealed.stats()),
        }
    }

    /// Ends in good order: devices are told to go, then all sockets are closed. Takes a few
    /// seconds at most.
    pub async fn shutdown(self) {
        let Self {
            gateway,
            services,
            relay,
            operator,
            mut tasks,
            webhook,
            seal_claim,
            ..
        } = self;
        tasks.shutdown().await;
        drop(operator);
        gateway.shutdown().await;
        services.leave().await;
        // Behind what the end itself brings about.
        if let Some(webhook) = webhook {
            webhook.end().await;
        }
        seal_claim.end().await;
        drop(services);
        // It waits for its threads. An error means that it panicked, which it has said itself.
        let _ = tokio::task::spawn_blocking(move || drop(relay)).await;
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// A name that no other node of the cluster has, from a number at random.
fn node_name(number: u64) -> NodeId {
    NodeId::parse(&format!("{number:016x}")).expect("digits make a name")
}

fn local_config() -> LocalConfig {
    let mut config = LocalConfig::default();
    config.shares = LOG_SHARES.to_vec();
    config
}

async fn engine(choice: &EngineChoice) -> Result<Arc<dyn Engine>, StartError> {
    match choice {
        EngineChoice::Memory => Ok(Arc::new(Local::new(local_config()))),
        EngineChoice::Given(engine) => Ok(Arc::clone(&engine.0)),
        EngineChoice::Folder(folder) => {
            let path = folder.clone();
            let opened = tokio::task::spawn_blocking(move || Local::open(local_config(), &path));
            // It is cancelled never.
            let opened = opened.await;
            let opened =
                opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            let failed = |source| StartError::Data {
                folder: folder.clone(),
                source,
            };
            Ok(Arc::new(opened.map_err(failed)?))
        }
        EngineChoice::Nats(config) => {
            let mut config = NatsConfig::clone(config);
            config.yielding = LOG_SHARES.iter().map(|share| share.kind).collect();
            let connected = Nats::connect(config).await;
            Ok(Arc::new(connected.map_err(StartError::Nats)?))
        }
    }
}

fn addresses(config: &NodeBuilder) -> Result<Addresses, StartError> {
    let addresses =
        Addresses::resolve(&config.listen, config.public).map_err(StartError::Interfaces)?;
    if addresses.is_empty() {
        return Err(StartError::NoAddress);
    }
    match config.public.filter(|ip| !addresses.tells(*ip)) {
        Some(ip) => Err(StartError::Public { ip }),
        None => Ok(addresses),
    }
}

/// The one that is given, or one that is made up.
fn certificate(config: &NodeBuilder, addresses: &Addresses) -> Result<Certificate, StartError> {
    match &config.certificate {
        Some(given) => Ok(given.clone()),
        None => Ok(Certificate::self_signed(&addresses.all())?),
    }
}

/// Tells the other nodes how this one seals, unless they would not understand it.
async fn claim(
    engine: &Arc<dyn Engine>,
    name: &NodeId,
    config: &NodeBuilder,
) -> Result<SealClaim, StartError> {
    SealClaim::make(Arc::clone(engine), name, &config.seal_keys).await
}

/// The engine as this node uses it, and the seal around its bus, if there is to be one.
struct Store {
    engine: Arc<dyn Engine>,
    sealed: Option<Arc<Sealed>>,
}

async fn store(config: &NodeBuilder) -> Result<Store, StartError> {
    let engine = engine(&config.engine).await?;
    if config.seal_keys.is_empty() {
        let sealed = None;
        return Ok(Store { engine, sealed });
    }
    let sealed = Sealed::new(engine, &config.seal_keys).map_err(StartError::Seal)?;
    let sealed = Arc::new(sealed);
    Ok(Store {
        engine: Arc::clone(&sealed) as Arc<dyn Engine>,
        sealed: Some(sealed),
    })
}

/// The keys that tokens are verified with; `None` when nobody could get in.
fn token_keys(config: &NodeBuilder, dev_key: Option<&DevKey>) -> Option<KeySet> {
    let given = config.token_keys.as_ref().filter(|keys| !keys.is_empty());
    match dev_key {
        Some(own) => Some(own.join(given)),
        None => given.cloned(),
    }
}

/// The name that is given. Where other nodes may be one that none of them has.
fn name(config: &NodeBuilder) -> Result<Option<NodeId>, StartError> {
    if config.name.is_some() || !matches!(config.engine, EngineChoice::Nats(_)) {
        return Ok(config.name.clone());
    }
    let mut number = [0; 8];
    getrandom::fill(&mut number).map_err(StartError::Entropy)?;
    Ok(Some(node_name(u64::from_ne_bytes(number))))
}

fn hook(relay: &Arc<Relay>, addresses: &Addresses, fleet: &Fleet, uris: Uris) -> Hook {
    Hook {
        relay: Arc::downgrade(relay),
        secret: fleet.secret.clone(),
        uris,
        relay_ips: relaying::ips(addresses),
        lost_permits: Lost::default(),
    }
}

fn webhook_place(config: &WebhookConfig) -> Result<Place, StartError> {
    config.place().map_err(StartError::Webhook)
}

/// The server that the game's questions go to.
fn game_server(config: &NodeBuilder) -> Result<Option<http_hooks::Server>, PostError> {
    let game = config.http_hooks.as_ref();
    game.map(http_hooks::Server::new).transpose()
}

/// Has the services ask the game's code in this process, then its server; returns that, if there is one.
fn add_hooks(
    config: &NodeBuilder,
    services: &mut tombolo_services::Config,
) -> Result<Option<Arc<HttpHooks>>, StartError> {
    let game = game_server(config).map_err(StartError::Hooks)?;
    let then = game.map(|game| Arc::new(HttpHooks::new(game, services.node.as_str())));
    services.hooks = match (config.hooks.clone(), &then) {
        (None, None) => HookSet::default(),
        (Some(first), None) => first.into(),
        (first, Some(then)) => HookSet::new(Chain {
            first: first.unwrap_or_else(|| Arc::new(NoHooks)),
            then: Arc::clone(then),
        }),
    };
    Ok(then)
}

fn services_config(config: &NodeBuilder) -> Result<tombolo_services::Config, StartError> {
    let mut services = tombolo_services::Config::default();
    services.region.clone_from(&config.region);
    services.spread_min = config.spread_min.unwrap_or(services.spread_min);
    services.pools.clone_from(&config.pools);
    config.fields.settings.check()?;
    config.connections.check(&config.sessions)?;
    services.fields = config.fields.clone();
    config.sessions.apply(&mut services);
    config.social.apply(&mut services);
    if let Some(name) = name(config)? {
        services.node = name;
    }
    Ok(services)
}

fn gateway_config(
    config: &NodeBuilder,
    addresses: &Addresses,
    certificate: Certificate,
    dev_key: Option<&DevKey>,
) -> GatewayConfig {
    let Certificate { chain, key } = certificate;
    let mut gateway = GatewayConfig::new(addresses.bound(), chain, key);
    gateway.port = config.port;
    gateway.api_keys.clone_from(&config.api_keys);
    gateway.dev_tokens = dev_key.map(DevKey::signing);
    let limits = &mut gateway.limits;
    config.connections.apply(limits, &config.sessions);
    gateway
}

/// What devices connect to. A self-signed certificate is pinned, since nobody else vouches for it.
fn url(
    config: &NodeBuilder,
    addresses: &Addresses,
    port: u16,
    certificate: &Certificate,
) -> Result<ServerUrl, StartError> {
    let is_pinned = config.is_pinned || config.certificate.is_none();
    let pin = is_pinned.then(|| certificate.pin());
    match &config.host {
        Some(host) => ServerUrl::new(host, port, pin).map_err(|source| StartError::Host {
            host: host.clone(),
            source,
        }),
        None => {
            let ip = addresses.best().ok_or(StartError::NoAddress)?;
            Ok(ServerUrl::from_ip(ip, port, pin))
        }
    }
}
