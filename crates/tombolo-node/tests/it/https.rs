//! An HTTPS client that trusts a node by the pin in its URL.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tombolo_node::Node;
use tombolo_wire::{CertificatePin, ServerUrl};

/// No test waits that long unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Sends one request; gives status and body.
pub(crate) async fn request(node: &Node, method: &str, path: &str, more: &str) -> (u16, String) {
    let url = &node.ready().url;
    let host = url.authority();
    let (headers, body) = more.split_once("\r\n\r\n").unwrap_or((more, ""));
    let length = body.len();
    let headers = if headers.is_empty() {
        String::new()
    } else {
        format!("{headers}\r\n")
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         {headers}Content-Length: {length}\r\n\r\n{body}"
    );
    let mut tls = connect(url, SocketAddr::new(url.ip().expect("an IP"), url.port)).await;
    tls.write_all(request.as_bytes())
        .await
        .expect("the node reads");
    let mut reply = String::new();
    tokio::time::timeout(PATIENCE, tls.read_to_string(&mut reply))
        .await
        .expect("an answer in time")
        .expect("an answer");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
    (status.expect("a status line"), body.to_owned())
}

/// A development token for `user`.
pub(crate) async fn token(node: &Node, user: &str) -> String {
    let more = format!("Content-Type: application/json\r\n\r\n{{\"user\": \"{user}\"}}");
    let (status, body) = request(node, "POST", "/v1/tokens", &more).await;
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    body["token"].as_str().expect("a text").to_owned()
}

/// What `/v1/ice-servers` gives to `user`.
pub(crate) async fn ice_servers(node: &Node, user: &str) -> Value {
    let authorization = format!("Authorization: Bearer {}", token(node, user).await);
    let (status, body) = request(node, "GET", "/v1/ice-servers", &authorization).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// Opens TLS to any port of the node.
pub(crate) async fn connect(url: &ServerUrl, addr: SocketAddr) -> TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pin = url.pin.expect("a node's URL pins its certificate");
    let verifier = Pinned {
        pin,
        provider: Arc::clone(&provider),
    };
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let tcp = TcpStream::connect(addr).await.expect("the node listens");
    let name = ServerName::IpAddress(addr.ip().into());
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .expect("the pin fits")
}

#[derive(Debug)]
struct Pinned {
    pin: CertificatePin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if CertificatePin::of(end_entity) == self.pin {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General("another certificate".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
