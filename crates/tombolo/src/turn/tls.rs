//! Certificates from files, which can be replaced while they are in use.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A certificate with its key. New handshakes take the one that was put in last.
pub(crate) struct Certificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    pub(crate) fn new(certified: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self {
            current: RwLock::new(certified),
        })
    }

    pub(crate) fn replace(&self, certified: Arc<CertifiedKey>) {
        // Nobody panics while holding the lock.
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = certified;
    }

    /// TLS that always shows the current certificate.
    pub(crate) fn server_config(self: &Arc<Self>) -> anyhow::Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let resolver: Arc<dyn ResolvesServerCert> = self.clone();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

impl fmt::Debug for Certificate {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

/// TLS towards others: whom the web trusts, or those whose certificates are in the file.
pub(crate) fn client(ca: Option<&Path>) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    match ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let cannot = || format!("{}: cannot read the certificates", path.display());
            for certificate in CertificateDer::pem_file_iter(path).with_context(cannot)? {
                let added = certificate.map(|certificate| roots.add(certificate));
                added.with_context(cannot)?.with_context(cannot)?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Reads a certificate chain and its key, and checks that they go together.
pub(crate) fn load(chain: &Path, key: &Path) -> anyhow::Result<Arc<CertifiedKey>> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .with_context(|| format!("{}: cannot read the certificate", chain.display()))?;
    anyhow::ensure!(
        !certificates.is_empty(),
        "{}: there is no certificate in it (PEM is expected)",
        chain.display()
    );
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("{}: cannot read the private key", key.display()))?;
    let provider = rustls::crypto::ring::default_provider();
    let certified =
        CertifiedKey::from_der(certificates, private, &provider).with_context(|| {
            format!(
                "{} and {} do not go together",
                chain.display(),
                key.display()
            )
        })?;
    Ok(Arc::new(certified))
}
