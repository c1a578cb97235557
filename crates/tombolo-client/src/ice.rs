//! The STUN and TURN servers that a node offers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::pki_types::ServerName;
use tombolo_wire::v1;

use crate::net::lookup_within;

/// Servers of a welcome, and addresses of one name, that are looked at.
const SERVERS_MAX: usize = 16;
/// A server whose name is not resolved by then is left out.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(4);
/// URIs of one server that are looked at: a node may have several addresses, each with several
/// transports.
const URIS_MAX: usize = 64;

/// A TURN server behind TLS.
#[derive(Clone, Debug)]
pub(crate) struct TlsServer {
    pub(crate) address: SocketAddr,
    pub(crate) name: ServerName<'static>,
}

/// Servers by the way in which they are used.
#[derive(Clone)]
pub(crate) struct IceConfig {
    pub(crate) stun: Vec<SocketAddr>,
    pub(crate) turn_udp: Vec<SocketAddr>,
    pub(crate) turn_tls: Vec<TlsServer>,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    /// Whether the relay has IPv4 addresses.
    pub(crate) relays_v4: bool,
}

/// The password is not shown.
impl fmt::Debug for IceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceConfig")
            .field("stun", &self.stun)
            .field("turn_udp", &self.turn_udp)
            .field("turn_tls", &self.turn_tls)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl IceConfig {
    /// Sorts the servers of a welcome; what cannot be understood or resolved is left out.
    pub(crate) async fn resolve(servers: &v1::IceServers, tls: Arc<rustls::ClientConfig>) -> Self {
        let mut config = Self {
            stun: Vec::new(),
            turn_udp: Vec::new(),
            turn_tls: Vec::new(),
            username: String::new(),
            password: String::new(),
            tls,
            relays_v4: false,
        };
        let mut uris = Vec::new();
        for server in servers.servers.iter().take(SERVERS_MAX) {
            if !server.username.is_empty() {
                config.username.clone_from(&server.username);
                config.password.clone_from(&server.credential);
            }
            for url in server.urls.iter().take(URIS_MAX) {
                match Uri::parse(url) {
                    // Plain TCP passes nowhere that TLS does not.
                    Some(uri) if uri.use_ == Use::TurnTcp => {}
                    Some(uri) => uris.push(uri),
                    None => tracing::warn!(%url, "not a STUN or TURN URI: left out"),
                }
            }
        }
        let hosts: BTreeSet<_> = uris.iter().map(|uri| uri.host).collect();
        let found = hosts
            .into_iter()
            .map(async |host| (host, addresses_of(host).await));
        let found: BTreeMap<_, _> = join_all(found).await.into_iter().collect();
        for uri in &uris {
            config.add(uri, found.get(uri.host).map_or(&[], Vec::as_slice));
        }
        config.relays_v4 = config.turn_udp.iter().any(SocketAddr::is_ipv4)
            || config
                .turn_tls
                .iter()
                .any(|server| server.address.is_ipv4());
        config
    }

    fn add(&mut self, uri: &Uri<'_>, ips: &[IpAddr]) {
        let addresses = ips.iter().map(|ip| SocketAddr::new(*ip, uri.port));
        match uri.use_ {
            Use::Stun => self.stun.extend(addresses),
            Use::TurnUdp => self.turn_udp.extend(addresses),
            Use::TurnTls => {
                let Ok(name) = ServerName::try_from(uri.host.to_owned()) else {
                    return;
                };
                self.turn_tls.extend(addresses.map(|address| TlsServer {
                    address,
                    name: name.clone(),
                }));
            }
            Use::TurnTcp => {}
        }
    }
}

/// The addresses of a name; none when it cannot be resolved.
async fn addresses_of(host: &str) -> Vec<IpAddr> {
    let found = lookup_within(LOOKUP_TIMEOUT, host, 0).await;
    let found = found.unwrap_or_else(|error| {
        tracing::warn!(host, %error, "server's name not resolved: left out");
        Vec::new()
    });
    found.iter().map(SocketAddr::ip).take(SERVERS_MAX).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Stun,
    TurnUdp,
    TurnTcp,
    TurnTls,
}

/// A STUN or TURN URI. See RFC 7064 §3.1 and RFC 7065 §3.1.
#[derive(Debug, PartialEq, Eq)]
struct Uri<'a> {
    use_: Use,
    host: &'a str,
    port: u16,
}

impl<'a> Uri<'a> {
    fn parse(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once(':')?;
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        let use_ = match (scheme, query) {
            ("stun", "") => Use::Stun,
            ("turn", "" | "transport=udp") => Use::TurnUdp,
            ("turn", "transport=tcp") => Use::TurnTcp,
            ("turns", "" | "transport=tcp") => Use::TurnTls,
            _ => return None,
        };
        let default_port = if use_ == Use::TurnTls { 5349 } else { 3478 };
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']')?;
                (host, port.strip_prefix(':'))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = port.map_or(Some(default_port), |port| port.parse().ok())?;
        (!host.is_empty()).then_some(Self { use_, host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_relays_password_is_not_shown() {
        let server = v1::IceServer {
            username: "alice".to_owned(),
            credential: "secret".to_owned(),
            ..v1::IceServer::default()
        };
        let servers = v1::IceServers {
            servers: vec![server],
            ..v1::IceServers::default()
        };
        let tls = crate::tls::client_config(None, None).unwrap();
        let config = IceConfig::resolve(&servers, Arc::new(tls)).await;
        assert_eq!(config.password, "secret");
        let shown = format!("{config:?}");
        assert!(
            shown.contains("alice") && !shown.contains("secret"),
            "{shown}"
        );
    }

    #[test]
    fn uris_of_rfc_7064_and_7065_are_understood() {
        let uri = |use_, host, port| Some(Uri { use_, host, port });
        assert_eq!(
            Uri::parse("stun:example.org"),
            uri(Use::Stun, "example.org", 3478)
        );
        assert_eq!(
            Uri::parse("stun:192.0.2.1:3479"),
            uri(Use::Stun, "192.0.2.1", 3479)
        );
        assert_eq!(
            Uri::parse("turn:[2001:db8::1]:5"),
            uri(Use::TurnUdp, "2001:db8::1", 5)
        );
        assert_eq!(
            Uri::parse("turn:192.0.2.1?transport=tcp"),
            uri(Use::TurnTcp, "192.0.2.1", 3478)
        );
        assert_eq!(
            Uri::parse("turns:192.0.2.1?transport=tcp"),
            uri(Use::TurnTls, "192.0.2.1", 5349)
        );
        for bad in [
            "",
            "stun:",
            "http://x",
            "turn:[::1",
            "stun:a:b",
            "turn:h?transport=sctp",
        ] {
            assert_eq!(Uri::parse(bad), None, "{bad}");
        }
    }
}
