use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use tombolo_engine::NatsConfig;
use tombolo_turn::server::Cidr;
use tombolo_wire::token::KeySet;

use crate::error::StartError;
use crate::node::Node;

/// What a node is to be; made by [`Node::builder`].
#[derive(Debug, Clone)]
pub struct NodeBuilder {
    pub(crate) is_dev: bool,
    pub(crate) listen: Vec<IpAddr>,
    pub(crate) public: Option<IpAddr>,
    pub(crate) allow_peers: Vec<Cidr>,
    pub(crate) port: u16,
    pub(crate) turn_port: u16,
    pub(crate) turns_port: u16,
    pub(crate) token_keys: Option<KeySet>,
    pub(crate) engine: EngineChoice,
}

/// Where what outlives a session, or a node, is kept.
#[derive(Debug, Clone)]
pub(crate) enum EngineChoice {
    Memory,
    Folder(PathBuf),
    Nats(Box<NatsConfig>),
}

impl NodeBuilder {
    pub(crate) fn new() -> Self {
        Self {
            is_dev: false,
            listen: Vec::new(),
            public: None,
            allow_peers: Vec::new(),
            port: tombolo_wire::PORT_DEFAULT,
            turn_port: TURN_PORT,
            turns_port: TURNS_PORT,
            token_keys: None,
            engine: EngineChoice::Memory,
        }
    }

    /// For development: whoever asks gets a token for any user (`/v1/tokens`), signed with a key
    /// of this process.
    #[must_use]
    pub fn dev(mut self) -> Self {
        self.is_dev = true;
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

    /// Keeps rooms in a folder, so that a restart of this one node loses nothing that was
    /// acknowledged. Without it, and without [`NodeBuilder::nats`], they end with the process.
    #[must_use]
    pub fn data(mut self, folder: PathBuf) -> Self {
        self.engine = EngineChoice::Folder(folder);
        self
    }

    /// Keeps rooms on NATS servers, which other nodes use too. Takes the place of
    /// [`NodeBuilder::data`].
    #[must_use]
    pub fn nats(mut self, config: NatsConfig) -> Self {
        self.engine = EngineChoice::Nats(Box::new(config));
        self
    }

    /// Starts all parts; when it returns the node takes devices.
    ///
    /// # Errors
    /// Says what is in the way and which flag helps. Nothing is left running.
    pub async fn start(mut self) -> Result<Node, StartError> {
        if self.listen.is_empty() {
            self.listen = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        }
        Node::start(self).await
    }
}

/// RFC 8656 §3.
const TURN_PORT: u16 = 3478;
const TURNS_PORT: u16 = 5349;
