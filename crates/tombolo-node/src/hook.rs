//! What the services ask of the relay.

use std::net::{IpAddr, SocketAddr};
use std::sync::Weak;
use std::time::{Duration, SystemTime};

use tombolo_relay::Relay;
use tombolo_services::RelayHook;
use tombolo_wire::UserId;
use tombolo_wire::v1::{IceServer, IceServers};
use tracing::warn;

use crate::credentials::RelaySecret;

/// The relay of this node, as services and devices see it.
pub(crate) struct Hook {
    /// Sessions may outlive the relay when the node shuts down.
    pub(crate) relay: Weak<Relay>,
    pub(crate) secret: RelaySecret,
    pub(crate) uris: Uris,
    /// The relay's addresses, as bound and as advertised.
    pub(crate) relay_ips: Vec<IpAddr>,
}

impl RelayHook for Hook {
    fn permit(&self, user: &UserId, peers: &[IpAddr]) {
        let Some(relay) = self.relay.upgrade() else {
            return;
        };
        for peer in peers {
            if !relay.permit(user.as_str(), *peer) {
                warn!(
                    user = user.as_str(),
                    "the relay is too busy to permit a peer"
                );
            }
        }
    }

    fn ice_servers(&self, user: &UserId) -> IceServers {
        let unix_now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let credentials = self.secret.credentials(
            user,
            unix_now + Duration::from_secs(CREDENTIALS_TTL_S.into()),
        );
        let stun = IceServer {
            urls: self.uris.stun.clone(),
            ..IceServer::default()
        };
        let turn = IceServer {
            urls: self.uris.turn.clone(),
            username: credentials.username,
            credential: credentials.password,
        };
        IceServers {
            servers: vec![stun, turn],
            ttl_s: CREDENTIALS_TTL_S,
        }
    }

    fn relay_ips(&self) -> Vec<IpAddr> {
        self.relay_ips.clone()
    }
}

/// How devices reach STUN and TURN (RFC 7064, RFC 7065).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Uris {
    pub(crate) stun: Vec<String>,
    pub(crate) turn: Vec<String>,
}

impl Uris {
    /// Adds a UDP socket that answers Binding requests.
    pub(crate) fn add_stun(&mut self, addr: SocketAddr) {
        self.stun.push(format!("stun:{addr}"));
    }

    /// Adds a socket pair that relays.
    pub(crate) fn add_turn(&mut self, addr: SocketAddr) {
        self.turn.push(format!("turn:{addr}?transport=udp"));
        self.turn.push(format!("turn:{addr}?transport=tcp"));
    }

    /// Adds a TLS socket that relays.
    pub(crate) fn add_turns(&mut self, addr: SocketAddr) {
        self.turn.push(format!("turns:{addr}?transport=tcp"));
    }
}

/// Devices ask for fresh ones in time; the relay refuses expired ones even on a refresh.
const CREDENTIALS_TTL_S: u32 = 3_600;
