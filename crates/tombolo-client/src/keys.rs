//! Who a device is: an Ed25519 key for its peer links, an X25519 key for what it is told first.
//!
//! A peer link is TLS 1.3 with raw public keys (RFC 7250). Both ends pin the key that the
//! introduction named, so whoever carries the packets can neither read nor impersonate.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use noq::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use tombolo_wire::PublicKeys;

use crate::tls;

/// Application protocol of a peer link.
const PEER_ALPN: &[u8] = b"tombolo-peer/1";
/// DER in front of the 32 bytes of an Ed25519 public key (RFC 8410 §4).
const ED25519_SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// An Ed25519 public key: what an introduction names and a link pins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PublicKey(pub(crate) [u8; 32]);

impl PublicKey {
    /// Reads a key from a peer's certificate, which holds nothing but the key.
    pub(crate) fn from_spki(spki: &[u8]) -> Option<Self> {
        let key = spki.strip_prefix(&ED25519_SPKI_PREFIX)?;
        Some(Self(key.try_into().ok()?))
    }

    fn to_spki(self) -> Vec<u8> {
        [ED25519_SPKI_PREFIX.as_slice(), &self.0].concat()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..6] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…")
    }
}

/// A device's own keys; made anew for each [`crate::Device`].
pub(crate) struct Keys {
    certified: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    pub(crate) identity: PublicKey,
    pub(crate) seal: snow::Keypair,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Makes new keys from the operating system's entropy.
    pub(crate) fn generate() -> Result<Self, KeyError> {
        let provider = Arc::new(tls::provider());
        let pkcs8 =
            ring::signature::Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new())
                .map_err(|_| KeyError::Entropy)?;
        let key = PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec());
        let signer = provider.key_provider.load_private_key(key.into())?;
        let spki = signer.public_key().ok_or(KeyError::Entropy)?.to_vec();
        let identity = PublicKey::from_spki(&spki).ok_or(KeyError::Entropy)?;
        let certified = Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], signer));
        Ok(Self {
            certified,
            provider,
            identity,
            seal: crate::seal::generate()?,
        })
    }

    /// What the device tells others of itself.
    pub(crate) fn public(&self) -> PublicKeys {
        let seal = self
            .seal
            .public
            .as_slice()
            .try_into()
            .expect("X25519 keys have 32 bytes");
        PublicKeys {
            identity: self.identity.0,
            seal,
        }
    }

    /// The TLS end that opens a link to exactly `peer`.
    pub(crate) fn client_config(&self, peer: PublicKey) -> Result<QuicClientConfig, KeyError> {
        let verifier = Arc::new(PinnedPeers {
            accepted: Accepted::only(peer),
            algorithms: self.provider.signature_verification_algorithms,
        });
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                self.certified.clone(),
            )));
        config.enable_sni = false;
        config.alpn_protocols = vec![PEER_ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        QuicClientConfig::try_from(config).map_err(|_| KeyError::CipherSuite)
    }

    /// The TLS end that answers links from whoever is in `accepted` at that moment.
    pub(crate) fn server_config(&self, accepted: Accepted) -> Result<QuicServerConfig, KeyError> {
        let verifier = Arc::new(PinnedPeers {
            accepted,
            algorithms: self.provider.signature_verification_algorithms,
        });
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                self.certified.clone(),
            )));
        config.alpn_protocols = vec![PEER_ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        QuicServerConfig::try_from(config).map_err(|_| KeyError::CipherSuite)
    }
}

/// Keys could not be made or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// The operating system gave no entropy, or the key made from it is unusable.
    #[error("could not make device keys from the system's entropy")]
    Entropy,
    /// The TLS provider lacks what QUIC's first packets are protected with.
    #[error("the TLS provider lacks the cipher suite of QUIC's first packets")]
    CipherSuite,
    /// The TLS library refused the configuration.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The sealing library refused the configuration.
    #[error(transparent)]
    Seal(#[from] snow::Error),
}

/// The identities that introductions have named and whose links are not over, by count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accepted(Arc<Mutex<HashMap<PublicKey, usize>>>);

impl Accepted {
    fn only(key: PublicKey) -> Self {
        let accepted = Self::default();
        accepted.insert(key);
        accepted
    }

    /// Accepts links from `key` until as many [`Accepted::remove`] calls have been made.
    pub(crate) fn insert(&self, key: PublicKey) {
        *self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key)
            .or_default() += 1;
    }

    pub(crate) fn remove(&self, key: PublicKey) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = keys.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                keys.remove(&key);
            }
        }
    }

    fn contains(&self, key: PublicKey) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&key)
    }
}

/// Accepts a raw public key if, and only if, it is pinned.
#[derive(Debug)]
struct PinnedPeers {
    accepted: Accepted,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedPeers {
    fn check(&self, spki: &[u8]) -> Result<(), rustls::Error> {
        let refused = rustls::Error::from(CertificateError::ApplicationVerificationFailure);
        let Some(key) = PublicKey::from_spki(spki) else {
            return Err(refused);
        };
        if !self.accepted.contains(key) {
            tracing::debug!(
                ?key,
                reason = "no introduction named this key",
                "peer refused"
            );
            return Err(refused);
        }
        debug_assert_eq!(key.to_spki(), spki);
        Ok(())
    }

    fn check_signature(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signature, &self.algorithms)
    }
}

impl ServerCertVerifier for PinnedPeers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for PinnedPeers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// A QUIC end on loopback; `accepted` are the keys it lets in.
    fn endpoint(keys: &Keys, accepted: &Accepted) -> noq::Endpoint {
        let crypto = Arc::new(keys.server_config(accepted.clone()).unwrap());
        let config = noq::ServerConfig::with_crypto(crypto);
        noq::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap()
    }

    /// Lets `from` open a connection to `to` and send on it, believing that `to` is `expected`.
    /// Returns what `to` receives.
    async fn received(
        from: &Keys,
        to: &Keys,
        accepted: &Accepted,
        expected: PublicKey,
    ) -> Option<Vec<u8>> {
        let server = endpoint(to, accepted);
        let client = endpoint(from, &Accepted::default());
        let config = noq::ClientConfig::new(Arc::new(from.client_config(expected).unwrap()));
        let address = server.local_addr().unwrap();
        let sending = async {
            let connection = client
                .connect_with(config, address, "peer")
                .unwrap()
                .await
                .ok()?;
            let mut stream = connection.open_uni().await.ok()?;
            stream.write_all(b"let me in").await.ok()?;
            stream.finish().ok()?;
            connection.closed().await;
            Some(())
        };
        let receiving = async {
            let connection = server.accept().await?.accept().ok()?.await.ok()?;
            connection
                .accept_uni()
                .await
                .ok()?
                .read_to_end(64)
                .await
                .ok()
        };
        tokio::select! {
            biased;
            received = receiving => received,
            Some(()) = sending => None,
        }
    }

    #[tokio::test]
    async fn only_an_introduced_key_gets_a_word_in() {
        let [alice, bob, mallory] = [(); 3].map(|()| Keys::generate().unwrap());
        let accepted = Accepted::default();
        accepted.insert(alice.identity);

        let heard = received(&alice, &bob, &accepted, bob.identity).await;
        assert_eq!(heard.as_deref(), Some(b"let me in".as_slice()));
        let heard = received(&mallory, &bob, &accepted, bob.identity).await;
        assert_eq!(heard, None, "nobody introduced mallory");

        accepted.remove(alice.identity);
        let heard = received(&alice, &bob, &accepted, bob.identity).await;
        assert_eq!(heard, None, "the link is over, and so is the acceptance");
    }

    #[tokio::test]
    async fn a_link_is_not_opened_to_another_key_than_the_introduced_one() {
        let [alice, bob, mallory] = [(); 3].map(|()| Keys::generate().unwrap());
        let accepted = Accepted::default();
        accepted.insert(alice.identity);
        let heard = received(&alice, &mallory, &accepted, bob.identity).await;
        assert_eq!(heard, None, "mallory answers in bob's place");
    }
}
