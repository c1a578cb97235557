use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tombolo_relay::{CertificateError, Certificates};
use tombolo_wire::CertificatePin;

/// What the node proves itself with, over QUIC and TLS alike.
pub struct Certificate {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Certificate {
    /// Reads a chain, the node's own certificate first, and the private key of that one from PEM files.
    ///
    /// # Errors
    /// A file cannot be read, has nothing of the kind in it, or the two do not go together.
    pub fn from_pem_files(chain: &Path, key: &Path) -> Result<Self, CertificateError> {
        let (chain, key) = tombolo_relay::read_certificate(chain, key)?;
        let certificate = Self { chain, key };
        certificate.for_turns()?;
        Ok(certificate)
    }

    /// Whether it is for a DNS name.
    #[must_use]
    pub fn is_for(&self, name: &str) -> bool {
        let own = self.chain.first().map(ParsedCertificate::try_from);
        match (own, ServerName::try_from(name)) {
            (Some(Ok(own)), Ok(name)) => verify_server_name(&own, &name).is_ok(),
            _ => false,
        }
    }

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

    /// TLS and DTLS for the relay's clients.
    ///
    /// # Errors
    /// The key does not go with the certificate.
    pub(crate) fn for_turns(&self) -> Result<Certificates, CertificateError> {
        Certificates::new(self.chain.clone(), self.key.clone_key())
    }

    pub(crate) fn pin(&self) -> CertificatePin {
        let own = self
            .chain
            .first()
            .expect("a certificate has at least itself in its chain");
        CertificatePin::of(own)
    }
}

impl Clone for Certificate {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
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
