use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use tombolo_engine::{Engine, NatsConfig, SealKey, SealKeyId};
use tombolo_gateway::ApiKey;
use tombolo_relay::RelayConfig;
use tombolo_services::{FieldConfig, Hooks, MatchPool};
use tombolo_turn::server::Cidr;
use tombolo_wire::token::KeySet;
use tombolo_wire::{CertificatePin, NodeId};

use crate::certificate::Certificate;
use crate::connections::ConnectionConfig;
use crate::error::StartError;
use crate::http_hooks::HttpHooksConfig;
use crate::node::Node;
use crate::sessions::SessionConfig;
use crate::social::SocialConfig;
use crate::webhook::WebhookConfig;

/// What a node is to be; made by [`Node::builder`].
#[derive(Clone)]
pub struct NodeBuilder {
    pub(crate) is_dev: bool,
    /// Name and secret of the key that signs development tokens; `None` for one of this process.
    pub(crate) dev_key: Option<(String, Vec<u8>)>,
    pub(crate) name: Option<NodeId>,
    pub(crate) region: String,
    /// `None` for the default of the services.
    pub(crate) spread_min: Option<usize>,
    pub(crate) listen: Vec<IpAddr>,
    pub(crate) public: Option<IpAddr>,
    pub(crate) host: Option<String>,
    pub(crate) certificate: Option<Certificate>,
    pub(crate) is_pinned: bool,
    pub(crate) allow_peers: Vec<Cidr>,
    pub(crate) relay: RelayConfig,
    pub(crate) port: u16,
    pub(crate) turn_port: u16,
    pub(crate) turns_port: u16,
    pub(crate) token_keys: Option<KeySet>,
    pub(crate) api_keys: Vec<ApiKey>,
    pub(crate) hooks: Option<Arc<dyn Hooks>>,
    pub(crate) http_hooks: Option<HttpHooksConfig>,
    pub(crate) pools: Vec<MatchPool>,
    pub(crate) fields: FieldConfig,
    pub(crate) connections: ConnectionConfig,
    pub(crate) sessions: SessionConfig,
    pub(crate) social: SocialConfig,
    pub(crate) webhook: Option<WebhookConfig>,
    pub(crate) engine: EngineChoice,
    /// What nodes say to each other is sealed with the first one, unless there is none.
    pub(crate) seal_keys: Vec<SealKey>,
}

/// Where what outlives a session, or a node, is kept.
#[derive(Debug, Clone)]
pub(crate) enum EngineChoice {
    Memory,
    Given(GivenEngine),
    Folder(PathBuf),
    Nats(Box<NatsConfig>),
}

/// An engine that the application has made.
#[derive(Clone)]
pub(crate) struct GivenEngine(pub(crate) Arc<dyn Engine>);

impl fmt::Debug for GivenEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GivenEngine")
    }
}

impl EngineChoice {
    /// Whether it is the same place, to which the node comes the same way.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Memory, Self::Memory) => true,
            (Self::Folder(a), Self::Folder(b)) => a == b,
            (Self::Nats(a), Self::Nats(b)) => a == b,
            (Self::Given(a), Self::Given(b)) => Arc::ptr_eq(&a.0, &b.0),
            (Self::Memory | Self::Given(_) | Self::Folder(_) | Self::Nats(_), _) => false,
        }
    }
}

impl NodeBuilder {
    pub(crate) fn new() -> Self {
        Self {
            is_dev: false,
            dev_key: None,
            name: None,
            region: String::new(),
            spread_min: None,
            listen: Vec::new(),
            public: None,
            host: None,
            certificate: None,
            is_pinned: false,
            allow_peers: Vec::new(),
            relay: RelayConfig::default(),
            port: tombolo_wire::PORT_DEFAULT,
            turn_port: TURN_PORT,
            turns_port: TURNS_PORT,
            token_keys: None,
            api_keys: Vec::new(),
            hooks: None,
            http_hooks: None,
            pools: Vec::new(),
            fields: FieldConfig::default(),
            connections: ConnectionConfig::default(),
            sessions: SessionConfig::default(),
            social: SocialConfig::default(),
            webhook: None,
            engine: EngineChoice::Memory,
            seal_keys: Vec::new(),
        }
    }

    /// For development: whoever asks gets a token for any user (`/v1/tokens`), signed with a key
    /// of this process.
    #[must_use]
    pub fn dev(mut self) -> Self {
        self.is_dev = true;
        self
    }

    /// Signs development tokens with this secret (HS256) instead of one of this process, so that the
    /// nodes of a development cluster accept each other's. Devices with tokens of it are let in.
    #[must_use]
    pub fn dev_key(mut self, kid: &str, secret: &[u8]) -> Self {
        self.dev_key = Some((kid.to_owned(), secret.to_owned()));
        self
    }

    /// Names the node. No other node of its cluster may have the name; a node that is started again
    /// under its name takes up where it ended. Without it: a random one on NATS, else `node`.
    #[must_use]
    pub fn name(mut self, name: NodeId) -> Self {
        self.name = Some(name);
        self
    }

    /// Says where the node is: devices are sent to nodes of the same region first.
    #[must_use]
    pub fn region(mut self, region: &str) -> Self {
        region.clone_into(&mut self.region);
        self
    }

    /// From so many sessions on the node sends newcomers to one of its region that has a fifth fewer; 64
    /// by default, `usize::MAX` for never.
    #[must_use]
    pub fn spread_min(mut self, sessions: usize) -> Self {
        self.spread_min = Some(sessions);
        self
    }

    /// Proves itself with this certificate. Without it: with a self-signed one that lives as long as
    /// the process, and whose pin is in [`crate::Ready::url`].
    #[must_use]
    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// Has devices accept exactly the node's certificate, whoever signed it: for those that the web
    /// does not know. Their pin is in [`crate::Ready::url`], and changes with the certificate.
    #[must_use]
    pub fn pin_certificate(mut self) -> Self {
        self.is_pinned = true;
        self
    }

    /// Tells devices this DNS name in place of an address, as certificates of the web need it.
    #[must_use]
    pub fn host(mut self, name: &str) -> Self {
        self.host = Some(name.to_owned());
        self
    }

    /// Relays as this says: limits, ports, further credentials and realms. Its addresses, its
    /// certificate and the node's own ports are set by the node, which also adds a secret of its own to
    /// the first realm. What [`NodeBuilder::allow_peer`] allows is allowed beside what this does.
    #[must_use]
    pub fn relay(mut self, config: RelayConfig) -> Self {
        self.relay = config;
        self
    }

    /// Listens on `ip` too. Without any: on all addresses of the machine. An unspecified address
    /// stands for all of its family that the machine has when the node starts.
    #[must_use]
    pub fn listen(mut self, ip: IpAddr) -> Self {
        self.listen.push(ip);
        self
    }

    /// Behind a 1:1 NAT: tells devices this address in place of those of its family that are
    /// listened on. Ports stay the same.
    #[must_use]
    pub fn public(mut self, ip: IpAddr) -> Self {
        self.public = Some(ip);
        self
    }

    /// Lets the relay reach peers in a special network, such as `10.0.0.0/8`. Denied by default,
    /// so that nobody reaches into the node's own network.
    #[must_use]
    pub fn allow_peer(mut self, network: Cidr) -> Self {
        self.allow_peers.push(network);
        self
    }

    /// UDP and TCP port of the gateway; 0 takes any. Default 8443.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// UDP and TCP port of STUN and TURN; the UDP port above it answers STUN too. 0 takes any for
    /// both. Default 3478.
    #[must_use]
    pub fn turn_port(mut self, port: u16) -> Self {
        self.turn_port = port;
        self
    }

    /// TCP port of TURN over TLS; 0 takes any. Default 5349.
    #[must_use]
    pub fn turns_port(mut self, port: u16) -> Self {
        self.turns_port = port;
        self
    }

    /// Lets devices in with tokens of these keys. Needed unless [`NodeBuilder::dev`].
    #[must_use]
    pub fn token_keys(mut self, keys: KeySet) -> Self {
        self.token_keys = Some(keys);
        self
    }

    /// Lets the holder of this key use the HTTP API for game servers.
    #[must_use]
    pub fn api_key(mut self, key: ApiKey) -> Self {
        self.api_keys.push(key);
        self
    }

    /// Asks this code before devices come into rooms, and about what they say there.
    #[must_use]
    pub fn hooks(mut self, hooks: impl Hooks) -> Self {
        self.hooks = Some(Arc::new(hooks));
        self
    }

    /// Asks an HTTP server before devices come into rooms and fields, about their tickets, and what answers their
    /// commands. What [`NodeBuilder::hooks`] is asked of this goes first: what it refuses the server is not asked
    /// about, unless it is a command that it does not know (`ERROR_CODE_NO_SUCH_THING`).
    #[must_use]
    pub fn http_hooks(mut self, config: HttpHooksConfig) -> Self {
        self.http_hooks = Some(config);
        self
    }

    /// Serves a pool of the matchmaker, beside others. All nodes of a cluster are given the same; of two
    /// with one name the last counts.
    #[must_use]
    pub fn pool(mut self, pool: MatchPool) -> Self {
        self.pools.push(pool);
        self
    }

    /// How fields are here: all nodes of a cluster have the same.
    #[must_use]
    pub fn fields(mut self, config: FieldConfig) -> Self {
        self.fields = config;
        self
    }

    /// How many connections the node takes, and how fast.
    #[must_use]
    pub fn connections(mut self, config: ConnectionConfig) -> Self {
        self.connections = config;
        self
    }

    /// How sessions are here: all nodes of a cluster have the same limit for users, and the same policy for
    /// their further sessions.
    #[must_use]
    pub fn sessions(mut self, config: SessionConfig) -> Self {
        self.sessions = config;
        self
    }

    /// How much users may say that is kept, and how many groups they may make: the same on all nodes of a cluster.
    #[must_use]
    pub fn social(mut self, config: SocialConfig) -> Self {
        self.social = config;
        self
    }

    /// Tells an HTTP server who comes and goes, and in which rooms.
    #[must_use]
    pub fn webhook(mut self, config: WebhookConfig) -> Self {
        self.webhook = Some(config);
        self
    }

    /// Keeps rooms in a folder, so that a restart of this one node loses nothing that was
    /// acknowledged. Without it, and without [`NodeBuilder::nats`], they end with the process.
    #[must_use]
    pub fn data(mut self, folder: PathBuf) -> Self {
        self.engine = EngineChoice::Folder(folder);
        self
    }

    /// Keeps rooms in an engine that is there: nodes of one process that share one are a cluster, if
    /// each has a name of its own.
    #[must_use]
    pub fn engine(mut self, engine: Arc<dyn Engine>) -> Self {
        self.engine = EngineChoice::Given(GivenEngine(engine));
        self
    }

    /// Keeps rooms on NATS servers, which other nodes use too. Takes the place of
    /// [`NodeBuilder::data`].
    #[must_use]
    pub fn nats(mut self, config: NatsConfig) -> Self {
        self.engine = EngineChoice::Nats(Box::new(config));
        self
    }

    /// Seals what nodes say to each other: whoever can publish on the engine's bus, but has none of
    /// these keys, can neither read nor forge it. All nodes of a cluster have the same. The first one
    /// seals and all open, so that a key can be changed node by node.
    #[must_use]
    pub fn seal_keys(mut self, keys: impl IntoIterator<Item = SealKey>) -> Self {
        self.seal_keys = keys.into_iter().collect();
        self
    }

    /// Starts all parts; when it returns the node takes devices.
    ///
    /// # Errors
    /// Says what is in the way and which flag helps. Nothing is left running.
    pub async fn start(self) -> Result<Node, StartError> {
        Node::start(self.settled()).await
    }

    /// With what is meant where nothing is said.
    pub(crate) fn settled(mut self) -> Self {
        if self.listen.is_empty() {
            self.listen = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        }
        self
    }

    /// What differs of that which a running node cannot change.
    pub(crate) fn differs(&self, other: &Self) -> Option<&'static str> {
        let parts = [
            ("development mode (`--dev`)", self.is_dev == other.is_dev),
            ("the name (`name`)", self.name == other.name),
            ("the region (`region`)", self.region == other.region),
            (
                "from when on newcomers are spread (`spread-from`)",
                self.spread_min == other.spread_min,
            ),
            ("where it listens (`listen`)", self.listen == other.listen),
            ("the public address (`public`)", self.public == other.public),
            ("the host (`host`)", self.host == other.host),
            (
                "the ports (`port`, `turn-port`, `turns-port`)",
                self.ports() == other.ports(),
            ),
            (
                "whether there is a certificate (`tls`)",
                self.certificate.is_some() == other.certificate.is_some(),
            ),
            (
                "a certificate that devices pin (`tls`)",
                self.keeps_pin(other),
            ),
            (
                "where rooms are kept and how the node comes there (`data`, `nats`)",
                self.engine.is_like(&other.engine),
            ),
            (
                "the keys of the seal (`nats.seal`)",
                self.seal_ids() == other.seal_ids(),
            ),
            (
                "the rules of pools (`pools`, `pool`)",
                self.pools == other.pools,
            ),
            ("how fields behave (`fields`)", self.fields == other.fields),
            (
                "how many connections there may be (`connections`)",
                self.connections == other.connections,
            ),
            (
                "how sessions are (`sessions`)",
                self.sessions == other.sessions,
            ),
            (
                "how much users may say that is kept (`social`)",
                self.social == other.social,
            ),
            (
                "whether an HTTP server is asked (`hooks`)",
                self.http_hooks.is_some() == other.http_hooks.is_some(),
            ),
            (
                "the webhook (`webhook`)",
                match (&self.webhook, &other.webhook) {
                    (Some(own), Some(theirs)) => own.is_like(theirs),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                },
            ),
        ];
        let mut parts = parts.into_iter();
        parts.find(|(_, is_same)| !is_same).map(|(what, _)| what)
    }

    /// Whether devices know the node by the other one's certificate, too.
    pub(crate) fn is_known_by_certificate_of(&self, other: &Self) -> bool {
        let are_given = self.certificate.is_some() && other.certificate.is_some();
        are_given && self.host == other.host && self.keeps_pin(other)
    }

    fn keeps_pin(&self, other: &Self) -> bool {
        !self.is_pinned && !other.is_pinned || self.pin() == other.pin()
    }

    fn seal_ids(&self) -> Vec<SealKeyId> {
        self.seal_keys.iter().map(SealKey::id).collect()
    }

    fn ports(&self) -> [u16; 3] {
        [self.port, self.turn_port, self.turns_port]
    }

    fn pin(&self) -> Option<CertificatePin> {
        let certificate = self.certificate.as_ref().filter(|_| self.is_pinned);
        certificate.map(Certificate::pin)
    }
}

impl fmt::Debug for NodeBuilder {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("is_dev", &self.is_dev)
            .field("name", &self.name)
            .field("listen", &self.listen)
            .field("port", &self.port)
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

/// RFC 8656 §3.
const TURN_PORT: u16 = 3478;
const TURNS_PORT: u16 = 5349;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tombolo_engine::NatsAuth;

    use super::*;

    #[test]
    fn devices_know_a_node_by_another_certificate_for_its_host_unless_they_pin_it() {
        let node = || {
            let certificate = Certificate::self_signed(&BTreeSet::new());
            NodeBuilder::new().certificate(certificate.expect("entropy"))
        };
        let mut pinned = node();
        pinned.is_pinned = true;
        for (from, to, is_known) in [
            (node(), node(), true),
            (node(), node().host("example.org"), false),
            (node(), NodeBuilder::new(), false),
            (NodeBuilder::new(), node(), false),
            (pinned.clone(), pinned.clone(), true),
            (pinned, node(), false),
        ] {
            assert_eq!(from.is_known_by_certificate_of(&to), is_known);
        }
    }

    #[test]
    fn what_only_a_restart_changes_is_told() {
        let node = || NodeBuilder::new().settled();
        let sealed = |secret: u8| node().seal_keys(SealKey::new(&[secret; 32]));
        let mut fields = FieldConfig::default();
        fields.fields_max += 1;
        let mut connections = ConnectionConfig::default();
        connections.opening_max += 1;
        let mut sessions = SessionConfig::default();
        sessions.rooms_max += 1;
        let mut social = SocialConfig::default();
        social.groups_per_user_max += 1;
        let nats = |change: fn(&mut NatsConfig)| {
            let mut config = NatsConfig::new(vec!["nats://192.0.2.1".to_owned()]);
            config.auth = NatsAuth::Token("first".to_owned());
            change(&mut config);
            node().nats(config)
        };
        let elsewhere = Some("where rooms are kept and how the node comes there (`data`, `nats`)");
        for (from, to, told) in [
            (node(), node(), None),
            (nats(|_| {}), nats(|_| {}), None),
            (
                nats(|_| {}),
                nats(|config| config.auth = NatsAuth::Token("second".to_owned())),
                elsewhere,
            ),
            (
                nats(|_| {}),
                nats(|config| config.tls.roots = Some("ca.pem".into())),
                elsewhere,
            ),
            (nats(|_| {}), nats(|config| config.replicas = 3), elsewhere),
            (sealed(1), sealed(1), None),
            (
                sealed(1),
                sealed(2),
                Some("the keys of the seal (`nats.seal`)"),
            ),
            (
                node(),
                sealed(1),
                Some("the keys of the seal (`nats.seal`)"),
            ),
            (
                node(),
                node().fields(fields),
                Some("how fields behave (`fields`)"),
            ),
            (
                node(),
                node().connections(connections),
                Some("how many connections there may be (`connections`)"),
            ),
            (
                node(),
                node().sessions(sessions),
                Some("how sessions are (`sessions`)"),
            ),
            (
                node(),
                node().social(social),
                Some("how much users may say that is kept (`social`)"),
            ),
        ] {
            assert_eq!(from.differs(&to), told);
        }
    }
}
