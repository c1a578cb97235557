//! A server of the game that signed posts go to.

use std::net::SocketAddr;
use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::https::PATIENCE;

pub(crate) const KEY: &[u8] = b"a key of at least 16 bytes";

/// A server, not yet asked.
pub(crate) struct Server {
    listener: TcpListener,
    address: SocketAddr,
    /// Without, it speaks HTTP in the clear.
    tls: Option<TlsAcceptor>,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        Self {
            listener,
            address,
            tls: None,
        }
    }

    /// One that speaks TLS, and the certificate by which it is known as `localhost`.
    pub(crate) async fn start_tls() -> (Self, CertificateDer<'static>) {
        let names = ["localhost".to_owned()];
        let certified = rcgen::generate_simple_self_signed(names).expect("entropy");
        let certificate = certified.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the versions are known")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .expect("they go together");
        let tls = Some(TlsAcceptor::from(Arc::new(config)));
        let server = Self::start().await;
        (Self { tls, ..server }, certificate)
    }

    /// The next connection; over TLS the next one of which the other side trusts the certificate.
    pub(crate) async fn accept(&self) -> Box<dyn Stream> {
        let accept = async {
            loop {
                let (stream, _) = self.listener.accept().await.expect("a connection");
                let Some(tls) = &self.tls else {
                    return Box::new(stream) as Box<dyn Stream>;
                };
                if let Ok(stream) = tls.accept(stream).await {
                    return Box::new(stream);
                }
            }
        };
        tokio::time::timeout(PATIENCE, accept)
            .await
            .expect("a post in time")
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        match self.tls {
            Some(_) => format!("https://localhost:{}/events", self.address.port()),
            None => format!("http://{}/events", self.address),
        }
    }
}

/// Whom a node trusts over TLS.
pub(crate) fn trusting(trusted: &[CertificateDer<'static>]) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the versions are known")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(tls)
}

/// The body of the next post over a connection, if its signature is right; `None` when the other side has closed it.
pub(crate) async fn read_post(stream: &mut dyn Stream) -> Option<Value> {
    let mut request = Vec::new();
    let (head, body) = loop {
        let mut buffer = [0; 4096];
        let count = tokio::time::timeout(PATIENCE, stream.read(&mut buffer));
        let count = count.await.expect("in time").unwrap_or_default();
        if count == 0 {
            assert!(request.is_empty(), "the request broke off");
            return None;
        }
        request.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = header(head, "content-length").parse().expect("a number");
            if body.len() >= length {
                break (head.to_owned(), body.to_owned());
            }
        }
    };
    assert!(head.starts_with("POST /events HTTP/1.1"), "{head}");
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY).expect("any length");
    mac.update(b"tombolo-webhook\n");
    mac.update(body.as_bytes());
    let digest: Vec<_> = mac.finalize().into_bytes().iter().copied().collect();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(header(&head, "tombolo-signature"), format!("sha256={hex}"));
    Some(serde_json::from_str(&body).expect("JSON"))
}

fn header(head: &str, name: &str) -> String {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
    found
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}
