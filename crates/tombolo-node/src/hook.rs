//! What the services ask of the relay.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

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
    pub(crate) lost_permits: Lost,
}

/// Counts what was lost, and says how much now and then: devices can cause it, so it must not fill
/// the log.
#[derive(Debug, Default)]
pub(crate) struct Lost(Mutex<LostSince>);

#[derive(Debug, Default)]
struct LostSince {
    /// Since it was last said.
    count: u64,
    said: Option<Instant>,
}

impl Lost {
    /// Counts one; `Some` when it is time to say how many were lost.
    pub(crate) fn count(&self, now: Instant) -> Option<u64> {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.count += 1;
        if since.said.is_some_and(|said| now < said + WARNING_INTERVAL) {
            return None;
        }
        since.said = Some(now);
        Some(std::mem::take(&mut since.count))
    }
}

impl RelayHook for Hook {
    fn permit(&self, user: &UserId, peers: &[IpAddr]) {
        let Some(relay) = self.relay.upgrade() else {
            return;
        };
        for peer in peers {
            if !relay.permit(user.as_str(), *peer)
                && let Some(lost) = self.lost_permits.count(Instant::now())
            {
                warn!(lost, "the relay is too busy to permit peers");
            }
        }
    }

    fn ice_servers(&self, user: &UserId, lifetime_max: Duration) -> IceServers {
        let ttl = CREDENTIALS_TTL.min(lifetime_max);
        let unix_now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let credentials = self.secret.credentials(user, unix_now + ttl);
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
            ttl_s: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX),
            ..IceServers::default()
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
    pub(crate) fn add_turns(&mut self, addr: impl Display) {
        self.turn.push(format!("turns:{addr}?transport=tcp"));
    }
}

/// Devices ask for fresh ones in time; the relay refuses expired ones even on a refresh.
const CREDENTIALS_TTL: Duration = Duration::from_secs(3_600);

/// Between two words about the same trouble.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_permits_are_counted_and_said_now_and_then() {
        let (lost, begin) = (Lost::default(), Instant::now());
        assert_eq!(lost.count(begin), Some(1));
        for _ in 0..1_000 {
            assert_eq!(lost.count(begin), None);
        }
        assert_eq!(lost.count(begin + WARNING_INTERVAL), Some(1_001));
    }

    #[test]
    fn credentials_last_an_hour_or_as_long_as_they_may() {
        let hook = Hook {
            relay: Weak::new(),
            secret: RelaySecret::new(&[7; 32]),
            uris: Uris::default(),
            relay_ips: Vec::new(),
            lost_permits: Lost::default(),
        };
        let user = "alice".parse().expect("a user");
        for (lifetime_max, ttl_s) in [(Duration::MAX, 3_600), (Duration::from_secs(90), 90)] {
            let servers = hook.ice_servers(&user, lifetime_max);
            assert_eq!(servers.ttl_s, ttl_s);
            let username = &servers.servers[1].username;
            let expires: u64 = username
                .split(':')
                .next()
                .expect("a time")
                .parse()
                .expect("a time");
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .expect("after 1970");
            assert!(expires <= now.as_secs() + u64::from(ttl_s));
        }
    }
}
