//! Certificates from files.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Reads a certificate chain and its key.
pub(crate) fn load(chain: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
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
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, private)
        .with_context(|| {
            format!(
                "{} and {} do not go together",
                chain.display(),
                key.display()
            )
        })?;
    Ok(Arc::new(config))
}
