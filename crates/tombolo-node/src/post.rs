//! Signed posts to a server of the game: what webhooks and hooks have in common.

mod resolver;

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use sha2::Sha256;

use self::resolver::Resolver;

/// Why nothing can be posted to a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// The URL is none.
    #[error("the URL must be such as https://example.org/events")]
    Url,
    /// What is posted would travel in the clear.
    #[error("the URL must begin with https:// unless it is on this machine")]
    NotPrivate,
    /// The key can be guessed.
    #[error("the key must have at least {KEY_BYTES_MIN} bytes")]
    Key,
}

/// Posts over connections that it keeps.
pub(crate) type HttpClient = Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>;

/// Where something is posted, and what signs it.
#[derive(Clone)]
pub(crate) struct Place {
    uri: Uri,
    key: Vec<u8>,
}

impl Place {
    pub(crate) fn new(url: &str, key: &[u8]) -> Result<Self, PostError> {
        if key.len() < KEY_BYTES_MIN {
            return Err(PostError::Key);
        }
        let uri: Uri = url.parse().map_err(|_| PostError::Url)?;
        let host = uri.host().ok_or(PostError::Url)?;
        let ip = host.trim_start_matches('[').trim_end_matches(']');
        let is_local = host == "localhost" || ip.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if is_local => {}
            Some("http") => return Err(PostError::NotPrivate),
            _ => return Err(PostError::Url),
        }
        let key = key.to_vec();
        Ok(Self { uri, key })
    }

    /// A post of JSON.
    pub(crate) fn post(&self, body: Bytes) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        Request::post(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(SIGNATURE, sign(&self.key, &body))
            .body(Full::new(body))
    }
}

/// What posts, and keeps so many connections for the next time.
pub(crate) fn client(tls: &rustls::ClientConfig, idle_max: usize, idle: Duration) -> HttpClient {
    let mut http = HttpConnector::new_with_resolver(Resolver::new());
    // That is for what is above it to say.
    http.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls.clone())
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(idle_max)
        .pool_idle_timeout(idle)
        .build(connector)
}

pub(crate) fn unix_now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Names a life of a node: later ones are greater.
pub(crate) fn life() -> u64 {
    u64::try_from(unix_now().as_micros()).unwrap_or(u64::MAX)
}

fn sign(key: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(b"tombolo-webhook\n");
    mac.update(body);
    let mut text = "sha256=".to_owned();
    for byte in mac.finalize().into_bytes() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Of the signature, as hooks of the TURN server have it.
const SIGNATURE: &str = "tombolo-signature";
/// As many as a key of 128 bits.
const KEY_BYTES_MIN: usize = 16;
