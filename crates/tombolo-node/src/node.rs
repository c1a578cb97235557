use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tombolo_engine::{Engine, Local, LocalConfig, Nats, NatsConfig};
use tombolo_gateway::{Gateway, GatewayConfig};
use tombolo_relay::{Relay, RelayConfig};
use tombolo_services::Services;
use tombolo_turn::server::Realm;
use tombolo_wire::token::{KeySet, SECRET_BYTES_MIN, SigningKey, VerifyingKey};
use tombolo_wire::{NodeId, ServerUrl};

use crate::addresses::Addresses;
use crate::builder::{EngineChoice, NodeBuilder};
use crate::certificate::Certificate;
use crate::credentials::RelaySecret;
use crate::error::StartError;
use crate::hook::{Hook, Lost, Uris};

/// A running node. [`Node::shutdown`] ends it in good order, dropping it at once.
pub struct Node {
    ready: Ready,
    gateway: Gateway,
    services: Services,
    relay: Arc<Relay>,
}

/// Where a node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ready {
    /// All that a device needs; pins the node's certificate.
    pub url: ServerUrl,
    /// STUN URIs (RFC 7064), at least two.
    pub stun: Vec<String>,
    /// TURN URIs (RFC 7065): over UDP, TCP and TLS.
    pub turn: Vec<String>,
    /// Base of the HTTP API, for example "https://203.0.113.10:8443".
    pub http: String,
}

/// What a node has done so far, part by part.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stats {
    /// Connections and HTTP requests.
    pub gateway: tombolo_gateway::Stats,
    /// Sessions, rooms and messages.
    pub services: tombolo_services::Stats,
    /// Allocations and relayed packets.
    pub relay: tombolo_relay::RelayStats,
}

impl Node {
    /// A node that listens on all addresses and the usual ports, unless told otherwise.
    #[must_use]
    pub fn builder() -> NodeBuilder {
        NodeBuilder::new()
    }

    pub(crate) async fn start(config: NodeBuilder) -> Result<Self, StartError> {
        let (token_keys, dev_tokens) = keys(&config)?;
        let addresses =
            Addresses::resolve(&config.listen, config.public).map_err(StartError::Interfaces)?;
        if addresses.is_empty() {
            return Err(StartError::NoAddress);
        }
        let certificate = Certificate::self_signed(&addresses.all())?;
        let secret = RelaySecret::random().map_err(StartError::Entropy)?;
        let engine = engine(&config.engine).await?;
        let relay = Arc::new(start_relay(&config, &addresses, &certificate, &secret)?);

        let uris = uris(&relay, &addresses);
        let hook = Hook {
            relay: Arc::downgrade(&relay),
            secret,
            uris: uris.clone(),
            relay_ips: relay_ips(&addresses),
            lost_permits: Lost::default(),
        };
        let mut services_config = tombolo_services::Config::default();
        if let EngineChoice::Nats(_) = config.engine {
            let mut number = [0; 8];
            getrandom::fill(&mut number).map_err(StartError::Entropy)?;
            services_config.node = node_name(u64::from_ne_bytes(number));
        }
        let services = Services::new(engine, Arc::new(hook), token_keys, services_config);

        let pin = certificate.pin();
        let Certificate { chain, key } = certificate;
        let mut gateway_config = GatewayConfig::new(addresses.bound(), chain, key);
        gateway_config.port = config.port;
        gateway_config.dev_tokens = dev_tokens;
        let gateway =
            Gateway::bind(gateway_config, services.clone()).map_err(StartError::from_gateway)?;

        let port = gateway
            .addrs()
            .first()
            .map_or(config.port, SocketAddr::port);
        let ip = addresses.best().ok_or(StartError::NoAddress)?;
        let url = ServerUrl::from_ip(ip, port, Some(pin));
        let http = format!("https://{}", url.authority());
        services.announce(&url.to_string()).await;
        gateway.set_ready();
        let ready = Ready {
            url,
            stun: uris.stun,
            turn: uris.turn,
            http,
        };
        Ok(Self {
            ready,
            gateway,
            services,
            relay,
        })
    }

    /// Where the node is reached.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// What happened so far. Blocks for as long as the relay takes to count, well below a
    /// millisecond unless it is overloaded.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            gateway: self.gateway.stats(),
            services: self.services.stats(),
            relay: self.relay.stats(),
        }
    }

    /// Ends in good order: devices are told to go, then all sockets are closed. Takes a few
    /// seconds at most.
    pub async fn shutdown(self) {
        let Self {
            gateway,
            services,
            relay,
            ..
        } = self;
        gateway.shutdown().await;
        services.leave().await;
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

async fn engine(choice: &EngineChoice) -> Result<Arc<dyn Engine>, StartError> {
    match choice {
        EngineChoice::Memory => Ok(Arc::new(Local::new(LocalConfig::default()))),
        EngineChoice::Folder(folder) => {
            let path = folder.clone();
            let opened =
                tokio::task::spawn_blocking(move || Local::open(LocalConfig::default(), &path));
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
            let connected = Nats::connect(NatsConfig::clone(config)).await;
            Ok(Arc::new(connected.map_err(StartError::Nats)?))
        }
    }
}

/// The keys that tokens are verified with, and in development the one that makes them.
fn keys(config: &NodeBuilder) -> Result<(KeySet, Option<SigningKey>), StartError> {
    let given = config.token_keys.clone();
    if !config.is_dev {
        return Ok((given.ok_or(StartError::NoTokenKeys)?, None));
    }
    let mut secret = [0; SECRET_BYTES_MIN];
    getrandom::fill(&mut secret).map_err(StartError::Entropy)?;
    let mut number = [0; 16];
    getrandom::fill(&mut number).map_err(StartError::Entropy)?;
    // A name that no given key has.
    let kid = format!("dev-{:032x}", u128::from_ne_bytes(number));
    let (verifying, signing) = dev_keys(&kid, &secret);
    let mut keys = given.unwrap_or_default();
    keys.insert(&kid, verifying);
    Ok((keys, Some(signing)))
}

fn dev_keys(kid: &str, secret: &[u8; SECRET_BYTES_MIN]) -> (VerifyingKey, SigningKey) {
    let verifying = VerifyingKey::hs256(secret).expect("the secret has the least length");
    let signing = SigningKey::hs256(kid, secret).expect("the secret has the least length");
    (verifying, signing)
}

fn start_relay(
    config: &NodeBuilder,
    addresses: &Addresses,
    certificate: &Certificate,
    secret: &RelaySecret,
) -> Result<Relay, StartError> {
    let mut realm = Realm::new(REALM);
    realm.secrets.push(secret.as_str().as_bytes().to_vec());
    let bound = addresses.bound();
    let at = |port| bound.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    let relay_config = RelayConfig {
        listen: at(config.turn_port),
        listen_udp: at(alternate_port(config.turn_port)),
        listen_tls: at(config.turns_port),
        tls: Some(certificate.for_turns()?),
        relay_ips: addresses
            .relaying()
            .iter()
            .map(|address| address.bound)
            .collect(),
        public_ips: addresses
            .relaying()
            .iter()
            .filter(|address| address.bound != address.advertised)
            .map(|address| (address.bound, address.advertised))
            .collect(),
        realm,
        allow_peers: config.allow_peers.clone(),
        own_ports: vec![config.port],
        ..RelayConfig::default()
    };
    Relay::bind(relay_config).map_err(|error| StartError::from_relay(error, config))
}

/// Every byte of it is in each challenge.
const REALM: &str = "tombolo";

/// Where the second UDP port for STUN is: any one next to a port that is any one.
fn alternate_port(port: u16) -> u16 {
    match port {
        0 => 0,
        port => port.checked_add(1).unwrap_or(0),
    }
}

/// All forms of the relay's addresses: introductions may carry either.
fn relay_ips(addresses: &Addresses) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = addresses
        .relaying()
        .iter()
        .flat_map(|address| [address.advertised, address.bound])
        .collect();
    ips.dedup();
    ips
}

fn uris(relay: &Relay, addresses: &Addresses) -> Uris {
    let advertised = |bound: &SocketAddr| {
        let ip = addresses.advertised_for(bound.ip())?;
        Some(SocketAddr::new(ip, bound.port()))
    };
    let addrs = relay.addrs();
    let mut uris = Uris::default();
    addrs
        .turn
        .iter()
        .chain(&addrs.alternate)
        .filter_map(advertised)
        .for_each(|addr| uris.add_stun(addr));
    addrs
        .turn
        .iter()
        .filter_map(advertised)
        .for_each(|addr| uris.add_turn(addr));
    addrs
        .turns
        .iter()
        .filter_map(advertised)
        .for_each(|addr| uris.add_turns(addr));
    uris
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tombolo_wire::token::Claims;

    use super::*;

    #[test]
    fn the_key_of_a_development_node_takes_no_other_keys_place() {
        let secret = [7; SECRET_BYTES_MIN];
        let mut given = KeySet::new();
        let verifying = VerifyingKey::hs256(&secret).expect("long enough");
        given.insert("dev", verifying);
        let config = NodeBuilder::new().dev().token_keys(given);

        let (keys, signing) = keys(&config).expect("entropy");
        let own = signing.expect("a development node signs");
        let given = SigningKey::hs256("dev", &secret).expect("long enough");
        let user = "alice".parse().expect("a user");
        let claims = Claims::new(user, Duration::from_secs(60));
        for key in [own, given] {
            let token = key.mint(&claims).expect("the key signs");
            assert_eq!(keys.verify(&token, Duration::ZERO), Ok(claims.clone()));
        }
    }
}
