//! A device without sockets for peers, without links, and without a memory of what it heard.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use noq::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tombolo_wire::frame::{self, Decoder};
use tombolo_wire::v1::{
    self, ClientFrame, DeviceKeys, Hello, ServerFrame, client_frame, request, server_frame,
};
use tombolo_wire::{ALPN, ServerUrl, VERSION, WEBSOCKET_PATH};

use super::Transport;

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Where devices come from.
pub(crate) struct Network {
    url: ServerUrl,
    node: SocketAddr,
    transport: Transport,
    tls: Arc<ClientConfig>,
    endpoints: Vec<noq::Endpoint>,
    token_by_user: Mutex<HashMap<String, String>>,
}

/// What a device says.
pub(crate) struct Sender {
    line: Mutex<Line>,
    quic: Option<noq::Connection>,
    seq: AtomicU64,
    /// What was heard last of what the node wants to be sure of.
    heard: Arc<AtomicU64>,
    /// WebSocket has no way that does not wait: what is to be sent waits here.
    waiting: Option<tokio::sync::mpsc::Sender<ClientFrame>>,
}

enum Line {
    Quic(noq::SendStream),
    /// Written by a task.
    Websocket,
}

/// What a device hears.
pub(crate) enum Bot {
    Quic(noq::Connection, noq::RecvStream, Arc<AtomicU64>),
    Websocket(SplitStream<Socket>, tokio::sync::mpsc::Sender<ClientFrame>),
}

impl Network {
    pub(crate) async fn new(url: &str, transport: Transport) -> anyhow::Result<Self> {
        let url: ServerUrl = url.parse().context("the node's URL")?;
        let node = tokio::net::lookup_host((url.host(), url.port))
            .await?
            .next()
            .context("the node's address")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OwnNode(provider)))
            .with_no_client_auth();
        if transport == Transport::Quic {
            tls.alpn_protocols = vec![ALPN.to_vec()];
        }
        let sources = (0..SOURCES).map(source);
        let endpoints = sources.map(|ip| noq::Endpoint::client(SocketAddr::new(ip, 0)));
        Ok(Self {
            url,
            node,
            transport,
            tls: Arc::new(tls),
            endpoints: endpoints.collect::<Result<_, _>>().context("a socket")?,
            token_by_user: Mutex::default(),
        })
    }

    /// Opens a session for a user.
    pub(crate) async fn enter(&self, user: &str, number: usize) -> anyhow::Result<(Sender, Bot)> {
        let mut identity = [9; 32];
        identity[..8].copy_from_slice(&number.to_be_bytes());
        let hello = Hello {
            version: VERSION,
            token: self.token(user).await?,
            keys: Some(DeviceKeys {
                identity: Bytes::copy_from_slice(&identity),
                seal: Bytes::copy_from_slice(&identity),
            }),
            ..Hello::default()
        };
        let hello = ClientFrame {
            body: Some(client_frame::Body::Hello(hello)),
            ..ClientFrame::default()
        };
        match self.transport {
            Transport::Quic => self.enter_quic(hello, number).await,
            Transport::Websocket => self.enter_websocket(hello, number).await,
        }
    }

    async fn enter_quic(&self, hello: ClientFrame, number: usize) -> anyhow::Result<(Sender, Bot)> {
        let crypto = QuicClientConfig::try_from(Arc::clone(&self.tls))?;
        let mut config = noq::ClientConfig::new(Arc::new(crypto));
        let mut transport = noq::TransportConfig::default();
        transport
            .keep_alive_interval(Some(std::time::Duration::from_secs(4)))
            .datagram_receive_buffer_size(Some(4 << 20));
        config.transport_config(Arc::new(transport));
        let endpoint = &self.endpoints[number % SOURCES];
        let connection = endpoint.connect_with(config, self.node, self.url.host())?;
        let connection = connection.await.context("a QUIC connection")?;
        let (mut send, mut receive) = connection.open_bi().await?;
        let mut bytes = BytesMut::new();
        frame::write(&hello, &mut bytes)?;
        send.write_all(&bytes).await?;
        let mut decoder = Decoder::new();
        let welcome = loop {
            let mut chunk = receive
                .read_chunk(1 << 16)
                .await?
                .context("the node has closed")?;
            if let Some(welcome) = decoder.decode::<ServerFrame>(&mut chunk)? {
                break welcome;
            }
        };
        check(welcome)?;
        let heard = Arc::default();
        let sender = Sender {
            line: Mutex::new(Line::Quic(send)),
            quic: Some(connection.clone()),
            seq: AtomicU64::new(0),
            heard: Arc::clone(&heard),
            waiting: None,
        };
        Ok((sender, Bot::Quic(connection, receive, heard)))
    }

    async fn enter_websocket(
        &self,
        hello: ClientFrame,
        number: usize,
    ) -> anyhow::Result<(Sender, Bot)> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(source(number % SOURCES), 0))?;
        let stream = socket
            .connect(self.node)
            .await
            .context("a TCP connection")?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(self.url.host().to_owned())?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, stream).await.context("TLS")?;
        let url = format!("wss://{}{WEBSOCKET_PATH}", self.node);
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await?;
        let (mut sink, mut stream) = socket.split();
        sink.send(Message::Binary(frame::encode(&hello)?)).await?;
        let welcome = loop {
            match stream.next().await.context("the node has closed")?? {
                Message::Binary(bytes) => break frame::decode::<ServerFrame>(bytes)?,
                Message::Ping(_) | Message::Pong(_) => {}
                other @ (Message::Text(_) | Message::Close(_) | Message::Frame(_)) => {
                    bail!("the node says {other}")
                }
            }
        };
        check(welcome)?;
        let (waiting, frames) = tokio::sync::mpsc::channel(1024);
        tokio::spawn(write(sink, frames));
        let sender = Sender {
            line: Mutex::new(Line::Websocket),
            quic: None,
            seq: AtomicU64::new(0),
            heard: Arc::default(),
            waiting: Some(waiting.clone()),
        };
        Ok((sender, Bot::Websocket(stream, waiting)))
    }

    async fn token(&self, user: &str) -> anyhow::Result<String> {
        let mut tokens = self.token_by_user.lock().await;
        if let Some(token) = tokens.get(user) {
            return Ok(token.clone());
        }
        let token = tombolo_client::development_token(&self.url, user).await?;
        tokens.insert(user.to_owned(), token.clone());
        Ok(token)
    }
}

impl Sender {
    /// Asks for something and returns the question's number; the answer is not waited for.
    pub(crate) async fn request(&self, kind: request::Kind) -> anyhow::Result<u64> {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed) + 1;
        let request = v1::Request {
            id: seq,
            kind: Some(kind),
        };
        let asked = ClientFrame {
            seq,
            ack: self.heard.load(Ordering::Relaxed),
            body: Some(client_frame::Body::Request(request)),
        };
        match &mut *self.line.lock().await {
            Line::Quic(stream) => {
                let mut bytes = BytesMut::new();
                frame::write(&asked, &mut bytes)?;
                stream.write_all(&bytes).await?;
            }
            Line::Websocket => {
                let waiting = self.waiting.as_ref().context("a WebSocket")?;
                waiting.send(asked).await?;
            }
        }
        Ok(seq)
    }

    pub(crate) fn send_unreliably(&self, body: client_frame::Body) -> anyhow::Result<()> {
        let sent = ClientFrame {
            body: Some(body),
            ..ClientFrame::default()
        };
        match (&self.quic, &self.waiting) {
            (Some(quic), _) => quic.send_datagram(frame::encode_datagram(&sent)?)?,
            // What finds no place is lost, as unreliable messages may be.
            (None, Some(waiting)) => drop(waiting.try_send(sent)),
            (None, None) => bail!("a device has a connection"),
        }
        Ok(())
    }
}

impl Bot {
    /// Counts the messages that come until the connection ends.
    pub(crate) async fn read(self, heard: Arc<AtomicU64>) -> anyhow::Result<()> {
        match self {
            Self::Quic(connection, mut stream, _) => {
                let news = async {
                    // Nothing is acknowledged: what the node has to say of the room is little.
                    while let Ok(Some(_)) = stream.read_chunk(1 << 16).await {}
                };
                let messages = async {
                    while let Ok(datagram) = connection.read_datagram().await {
                        if let Ok(frame) = frame::decode::<ServerFrame>(datagram) {
                            heard.fetch_add(deliveries(&frame), Ordering::Relaxed);
                        }
                    }
                };
                tokio::join!(news, messages);
            }
            Self::Websocket(mut stream, _waiting) => {
                while let Some(Ok(message)) = stream.next().await {
                    if let Message::Binary(bytes) = message
                        && let Ok(frame) = frame::decode::<ServerFrame>(bytes)
                    {
                        heard.fetch_add(deliveries(&frame), Ordering::Relaxed);
                    }
                }
            }
        }
        Ok(())
    }

    /// Hands over all that is told reliably until the connection ends. Only of QUIC.
    pub(crate) async fn listen(self, mut on: impl FnMut(server_frame::Body)) -> anyhow::Result<()> {
        let Self::Quic(_connection, mut stream, heard) = self else {
            bail!("a QUIC connection is listened to");
        };
        let mut decoder = Decoder::new();
        while let Some(mut chunk) = stream.read_chunk(1 << 16).await? {
            while let Some(frame) = decoder.decode::<ServerFrame>(&mut chunk)? {
                // With the next question the node learns of it, and keeps it no longer.
                heard.fetch_max(frame.seq, Ordering::Relaxed);
                frame.body.into_iter().for_each(&mut on);
            }
        }
        Ok(())
    }

    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Quic(connection, ..) => connection.close_reason().is_none(),
            Self::Websocket(_, waiting) => !waiting.is_closed(),
        }
    }
}

fn deliveries(frame: &ServerFrame) -> u64 {
    let Some(server_frame::Body::Delivery(delivery)) = &frame.body else {
        return 0;
    };
    1 + delivery.more.len() as u64
}

fn check(welcome: ServerFrame) -> anyhow::Result<()> {
    ensure!(
        matches!(welcome.body, Some(server_frame::Body::Welcome(_))),
        "the node turns a device away: {welcome:?}"
    );
    Ok(())
}

async fn write(
    mut sink: SplitSink<Socket, Message>,
    mut frames: tokio::sync::mpsc::Receiver<ClientFrame>,
) {
    while let Some(next) = frames.recv().await {
        let Ok(bytes) = frame::encode(&next) else {
            return;
        };
        if sink.send(Message::Binary(bytes)).await.is_err() {
            return;
        }
    }
}

/// A node lets so many connections come from one network and no more.
fn source(number: usize) -> IpAddr {
    let number = u8::try_from(number).unwrap_or_default();
    Ipv4Addr::new(127, 0, 100 + number, 1).into()
}

const SOURCES: usize = 8;

/// Trusts whoever answers: it is the node that the harness has started.
#[derive(Debug)]
struct OwnNode(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for OwnNode {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
