use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tombolo_services::Config;
use tombolo_wire::token::SigningKey;

use crate::api_keys::ApiKey;

/// What a gateway listens on and how much it takes.
#[non_exhaustive]
pub struct GatewayConfig {
    /// Addresses to listen on: UDP (QUIC) and TCP (WebSocket, HTTP) on each.
    pub listen: Vec<IpAddr>,
    /// One port for all of them; 0 takes any that is free on all.
    pub port: u16,
    /// The certificate chain, the node's own first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The private key of the first certificate.
    pub key: PrivateKeyDer<'static>,
    /// Development only: whoever asks gets a token for any user, signed with this key. `None`
    /// leaves `/v1/tokens` out.
    pub dev_tokens: Option<SigningKey>,
    /// Who may use the API for game servers; nobody by default.
    pub api_keys: Vec<ApiKey>,
    /// Bounds; each protects the node from strangers.
    pub limits: Limits,
}

impl GatewayConfig {
    /// Listens on `listen`, any free port, with default limits.
    pub fn new(
        listen: Vec<IpAddr>,
        certificates: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Self {
        Self {
            listen,
            port: 0,
            certificates,
            key,
            dev_tokens: None,
            api_keys: Vec::new(),
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for GatewayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key stays out of logs.
        f.debug_struct("GatewayConfig")
            .field("listen", &self.listen)
            .field("port", &self.port)
            .field("dev_tokens", &self.dev_tokens.is_some())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Bounds of a gateway. The defaults are safe on the internet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections of both transports, HTTP requests included. Each costs up to about 1 MiB when
    /// its buffers are full, 50 KiB when idle. By default as many as there may be sessions, and
    /// connections without one.
    pub connections_max: usize,
    /// Of those, from one source prefix: an IPv4 address or an IPv6 /56. Whole offices share one
    /// address, and so do test machines.
    pub connections_per_prefix_max: usize,
    /// Connections that have no session (yet): handshakes, HTTP requests, devices before `Hello`.
    /// Whoever needs no token to open them must not keep all places from those who have one. For a
    /// newcomer beyond, the oldest one is closed of the network that has most of them.
    pub opening_max: usize,
    /// Of those, from one source prefix; four times as many from an IPv4 /24 or an IPv6 /48.
    pub opening_per_prefix_max: usize,
    /// Handshakes of QUIC and TLS begun in a second, each of which takes some tenths of a millisecond of a
    /// core; four times as many at once after a pause, since all devices of a node that has died come at
    /// once. An IPv4 /16 or an IPv6 /40 has half of them. 2,000 for each core by default.
    pub handshakes_per_second_max: u32,
    /// Of those, from one source prefix; four times as many from an IPv4 /24 or an IPv6 /48.
    pub handshakes_per_second_per_prefix_max: u32,
    /// From this many connections without a session on, QUIC clients have to prove their address
    /// with a round trip (Retry, RFC 9000 §8.1.2) before they cost a handshake.
    pub unvalidated_max: usize,
    /// The same for one source prefix.
    pub unvalidated_per_prefix_max: usize,
    /// From the first packet until `Hello` is there. A stranger costs no longer than that.
    pub hello_timeout: Duration,
    /// How long a device may be silent before its connection counts as broken.
    pub idle_timeout: Duration,
    /// How often a silent connection is tried; several times per `idle_timeout`.
    pub keep_alive_interval: Duration,
    /// One HTTP connection with all its requests; the last may take as long again. Sessions over WebSocket are
    /// not meant.
    pub http_timeout: Duration,
    /// How long a farewell (`Reject`, `GoAway`) may take to arrive before the connection goes.
    pub farewell_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: Config::default().sessions_max + OPENING_MAX,
            connections_per_prefix_max: 4_096,
            opening_max: OPENING_MAX,
            opening_per_prefix_max: 256,
            handshakes_per_second_max: HANDSHAKES_PER_CORE.saturating_mul(cores()),
            handshakes_per_second_per_prefix_max: 500,
            unvalidated_max: 1_024,
            unvalidated_per_prefix_max: 64,
            hello_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(15),
            keep_alive_interval: Duration::from_secs(5),
            http_timeout: Duration::from_secs(30),
            farewell_timeout: Duration::from_secs(2),
        }
    }
}

fn cores() -> u32 {
    let cores = std::thread::available_parallelism();
    cores.map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

/// Hundreds of megabytes are not for strangers.
const OPENING_MAX: usize = 8_192;
const HANDSHAKES_PER_CORE: u32 = 2_000;
