use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tombolo_wire::CertificatePin;

/// What the node proves itself with, over QUIC and TLS alike.
pub(crate) struct Certificate {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Certificate {
    /// Makes a key and certifies it oneself, for these addresses. Devices trust it by its pin.
    ///
    /// # Errors
    ///
    /// The system has no entropy.
    pub(crate) fn self_signed(addresses: &BTreeSet<IpAddr>) -> Result<Self, rcgen::Error> {
        let names: Vec<_> = addresses
            .iter()
            .map(ToString::to_string)
            .chain(["localhost".to_owned()])
            .collect();
        let certified = rcgen::generate_simple_self_signed(names)?;
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        Ok(Self {
            chain: vec![certified.cert.der().clone()],
            key: key.into(),
        })
    }

    /// TLS for the relay's TCP clients; any application protocol.
    ///
    /// # Errors
    /// The key does not go with the certificate.
    pub(crate) fn for_turns(&self) -> Result<rustls::ServerConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
    }

    pub(crate) fn pin(&self) -> CertificatePin {
        let own = self
            .chain
            .first()
            .expect("a certificate has at least itself in its chain");
        CertificatePin::of(own)
    }
}

impl fmt::Debug for Certificate {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("pin", &self.pin())
            .finish_non_exhaustive()
    }
}
