//! TLS as the two transports need it: one certificate, two application protocols.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

/// What the gateway proves itself with, replaceable while it is in use. Connections that are open keep
/// the certificate that they began with.
#[derive(Debug)]
pub(crate) struct Identity(RwLock<Arc<CertifiedKey>>);

impl Identity {
    /// Takes a chain, the gateway's own certificate first, and the key of that one.
    ///
    /// # Errors
    /// The two do not go together, or are of no use.
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, rustls::Error> {
        let certified = CertifiedKey::from_der(chain, key, &provider())?;
        Ok(Self(RwLock::new(Arc::new(certified))))
    }

    /// Takes over another one's.
    pub(crate) fn replace(&self, with: Self) {
        let new = with.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Nobody panics while holding the lock, and a whole value is all that is written under it.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

/// TLS 1.3 for QUIC. Early data stays off: a `Hello` must not be replayable.
pub(crate) fn for_quic(identity: &Arc<Identity>) -> Result<rustls::ServerConfig, rustls::Error> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::<Identity>::clone(identity));
    config.alpn_protocols = vec![tombolo_wire::ALPN.to_vec()];
    // Devices come back to another node, if they come back: what a ticket costs would be for nothing.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// TLS 1.2 and 1.3 for HTTP and WebSocket; browsers and proxies come here.
pub(crate) fn for_https(identity: &Arc<Identity>) -> Result<rustls::ServerConfig, rustls::Error> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::<Identity>::clone(identity));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}
