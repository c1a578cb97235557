//! A gateway with services behind it, and what tests need to get in.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::PrivatePkcs8KeyDer;
use tombolo_engine::Local;
use tombolo_gateway::{Gateway, GatewayConfig, Stats};
use tombolo_services::{RelayHook, Services};
use tombolo_wire::UserId;
use tombolo_wire::token::{Claims, KeySet, SigningKey, VerifyingKey};
use tombolo_wire::v1::{IceServer, IceServers};

use crate::device::{Device, PATIENCE, Server, Transport};

pub(crate) const SECRET: [u8; 32] = [7; 32];
pub(crate) const KID: &str = "test";

pub(crate) struct Fixture {
    pub(crate) gateway: Gateway,
    pub(crate) server: Server,
}

impl Fixture {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub(crate) fn start_with(adjust: impl FnOnce(&mut GatewayConfig)) -> Self {
        let fixture = Self::start_unready(adjust);
        fixture.gateway.set_ready();
        fixture
    }

    pub(crate) fn start_unready(adjust: impl FnOnce(&mut GatewayConfig)) -> Self {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
            .expect("a certificate");
        let certificate = certified.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let listen = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let mut config = GatewayConfig::new(listen, vec![certificate.clone()], key.into());
        adjust(&mut config);
        let gateway = Gateway::bind(config, services()).expect("loopback has free ports");
        let addr = gateway.addrs()[0];
        Self {
            gateway,
            server: Server { addr, certificate },
        }
    }

    pub(crate) async fn connect(&self, transport: Transport) -> Device {
        self.server.connect(transport).await
    }

    /// Waits until the counters are as wished: they may be counted after the client has seen the
    /// effect.
    pub(crate) async fn stats_when(&self, is_wished: impl Fn(&Stats) -> bool) -> Stats {
        let wait = async {
            loop {
                let stats = self.gateway.stats();
                if is_wished(&stats) {
                    return stats;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(stats) => stats,
            Err(_) => panic!("never so: {:?}", self.gateway.stats()),
        }
    }
}

pub(crate) fn token(user: &str) -> String {
    let claims = Claims::new(
        user.parse().expect("a user"),
        unix_now() + Duration::from_secs(600),
    );
    signing_key().mint(&claims).expect("the key signs")
}

pub(crate) fn signing_key() -> SigningKey {
    SigningKey::hs256(KID, &SECRET).expect("long enough")
}

pub(crate) fn unix_now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970")
}

fn services() -> Services {
    let mut tokens = KeySet::new();
    tokens.insert(KID, VerifyingKey::hs256(&SECRET).expect("long enough"));
    let engine = Arc::new(Local::new(tombolo_engine::LocalConfig::default()));
    Services::new(
        engine,
        Arc::new(NoRelay),
        tokens,
        tombolo_services::Config::default(),
    )
}

/// Names servers that do not exist.
struct NoRelay;

impl RelayHook for NoRelay {
    fn permit(&self, _user: &UserId, _peers: &[IpAddr]) {}

    fn ice_servers(&self, user: &UserId, _lifetime_max: Duration) -> IceServers {
        let stun = IceServer {
            urls: vec![
                "stun:192.0.2.1:3478".to_owned(),
                "stun:192.0.2.1:3479".to_owned(),
            ],
            ..IceServer::default()
        };
        let turn = IceServer {
            urls: vec!["turn:192.0.2.1:3478?transport=udp".to_owned()],
            username: format!("1:{user}"),
            credential: "secret".to_owned(),
        };
        IceServers {
            servers: vec![stun, turn],
            ttl_s: 60,
            ..IceServers::default()
        }
    }

    fn relay_ips(&self) -> Vec<IpAddr> {
        Vec::new()
    }
}
