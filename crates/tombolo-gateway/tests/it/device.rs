//! A device's end of the contract, bare: what it sends and gets is up to the test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use noq::crypto::rustls::QuicClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tombolo_wire::frame;
use tombolo_wire::v1::client_frame::Body as Up;
use tombolo_wire::v1::server_frame::Body as Down;
use tombolo_wire::v1::{
    ClientFrame, DeviceKeys, ErrorCode, Hello, Reject, Resume, ServerFrame, Welcome,
};

/// One connection of a device.
pub(crate) enum Device {
    Quic(Box<QuicDevice>),
    WebSocket(Box<WebSocketDevice>),
}

pub(crate) struct QuicDevice {
    pub(crate) connection: noq::Connection,
    pub(crate) send: noq::SendStream,
    recv: noq::RecvStream,
    decoder: frame::Decoder,
    undecoded: Bytes,
    endpoint: noq::Endpoint,
    /// Runs the connection, so that it can vanish without a word.
    runtime: Option<Runtime>,
}

pub(crate) struct WebSocketDevice {
    pub(crate) socket: WebSocketStream<TlsStream<TcpStream>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Quic,
    WebSocket,
}

pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Quic, Transport::WebSocket];

/// Where to connect, and whom to trust.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) certificate: CertificateDer<'static>,
}

impl Server {
    pub(crate) async fn connect(&self, transport: Transport) -> Device {
        match transport {
            Transport::Quic => self
                .connect_quic(b"tombolo/1")
                .await
                .expect("QUIC connects"),
            Transport::WebSocket => self.connect_websocket().await,
        }
    }

    /// Connects over QUIC with an application protocol of choice.
    pub(crate) async fn connect_quic(&self, alpn: &[u8]) -> Result<Device, noq::ConnectionError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let tls = self.tls(alpn);
        let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3");
        let config = noq::ClientConfig::new(Arc::new(crypto));
        let (endpoint, connecting) = {
            let _entered = runtime.enter();
            let local = SocketAddr::new(self.addr.ip(), 0);
            let endpoint = noq::Endpoint::client(local).expect("a port");
            let connecting = endpoint.connect_with(config, self.addr, "localhost");
            (endpoint, connecting.expect("a valid configuration"))
        };
        let connection = connecting.await;
        let connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let (send, recv) = connection.open_bi().await?;
        Ok(Device::Quic(Box::new(QuicDevice {
            connection,
            send,
            recv,
            decoder: frame::Decoder::new(),
            undecoded: Bytes::new(),
            endpoint,
            runtime: Some(runtime),
        })))
    }

    async fn connect_websocket(&self) -> Device {
        let tls = self.connect_tls().await;
        let url = format!("wss://localhost:{}/v1/session", self.addr.port());
        let (socket, _) = tokio_tungstenite::client_async(url, tls)
            .await
            .expect("an upgrade");
        Device::WebSocket(Box::new(WebSocketDevice { socket }))
    }

    pub(crate) async fn connect_tls(&self) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.addr).await.expect("TCP connects");
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(Arc::new(self.tls(b"http/1.1")));
        connector.connect(name, tcp).await.expect("TLS handshake")
    }

    fn tls(&self, alpn: &[u8]) -> rustls::ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }
}

impl Device {
    pub(crate) async fn send(&mut self, body: Up, seq: u64) {
        let frame = ClientFrame {
            seq,
            ack: 0,
            body: Some(body),
        };
        self.send_frame(&frame).await;
    }

    pub(crate) async fn send_frame(&mut self, frame: &ClientFrame) {
        match self {
            Self::Quic(device) => {
                let mut bytes = BytesMut::new();
                frame::write(frame, &mut bytes).expect("a frame within bounds");
                device
                    .send
                    .write_all(&bytes)
                    .await
                    .expect("the connection is there");
            }
            Self::WebSocket(device) => {
                let bytes = frame::encode(frame).expect("a frame within bounds");
                device
                    .socket
                    .send(Message::Binary(bytes))
                    .await
                    .expect("the connection is there");
            }
        }
    }

    /// Sends bytes where a frame should be.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        match self {
            Self::Quic(device) => {
                let length = u32::try_from(bytes.len()).expect("short").to_be_bytes();
                // The node may hang up before it has all.
                let _ = device.send.write_all(&length).await;
                let _ = device.send.write_all(bytes).await;
            }
            Self::WebSocket(device) => {
                let bytes = Bytes::copy_from_slice(bytes);
                let _ = device.socket.send(Message::Binary(bytes)).await;
            }
        }
    }

    /// The next frame; `None` when the node has closed the connection.
    pub(crate) async fn receive(&mut self) -> Option<ServerFrame> {
        timeout(PATIENCE, self.receive_patiently())
            .await
            .expect("a frame, or the end")
    }

    async fn receive_patiently(&mut self) -> Option<ServerFrame> {
        match self {
            Self::Quic(device) => loop {
                if let Some(frame) = device
                    .decoder
                    .decode(&mut device.undecoded)
                    .expect("nodes send frames")
                {
                    return Some(frame);
                }
                tokio::select! {
                    chunk = device.recv.read_chunk(usize::MAX) => {
                        device.undecoded = chunk.ok()??;
                    }
                    Ok(datagram) = device.connection.read_datagram() => {
                        let frame = frame::decode_datagram(datagram);
                        return Some(frame.expect("nodes send frames"));
                    }
                }
            },
            Self::WebSocket(device) => loop {
                match device.socket.next().await?.ok()? {
                    Message::Binary(bytes) => {
                        return Some(frame::decode(bytes).expect("nodes send frames"));
                    }
                    // Reading on answers a close; then there is nothing more to read.
                    Message::Close(_)
                    | Message::Text(_)
                    | Message::Ping(_)
                    | Message::Pong(_)
                    | Message::Frame(_) => {}
                }
            },
        }
    }

    /// The next frame that `pick` takes; others are passed over.
    pub(crate) async fn receive_until<T>(&mut self, pick: impl Fn(ServerFrame) -> Option<T>) -> T {
        loop {
            let frame = self.receive().await.expect("the connection goes on");
            if let Some(picked) = pick(frame) {
                return picked;
            }
        }
    }

    pub(crate) async fn hello(&mut self, token: &str) -> Welcome {
        self.send_frame(&hello(token)).await;
        self.welcome().await
    }

    /// Continues a session, having received everything up to `ack`.
    pub(crate) async fn resume(&mut self, token: &str, welcome: &Welcome, ack: u64) -> ServerFrame {
        let mut frame = hello(token);
        frame.ack = ack;
        if let Some(Up::Hello(hello)) = &mut frame.body {
            hello.resume = Some(Resume {
                token: welcome.resume_token.clone(),
            });
        }
        self.send_frame(&frame).await;
        self.receive().await.expect("an answer to hello")
    }

    pub(crate) async fn welcome(&mut self) -> Welcome {
        match self.receive().await.expect("an answer to hello").body {
            Some(Down::Welcome(welcome)) => welcome,
            other => panic!("no welcome but {other:?}"),
        }
    }

    /// Expects to be refused, and the end of the connection after that.
    pub(crate) async fn rejected(&mut self) -> (ErrorCode, String) {
        let pick = |frame: ServerFrame| match frame.body {
            Some(Down::Reject(reject)) => Some(reject),
            _ => None,
        };
        let Reject { code, message, .. } = self.receive_until(pick).await;
        assert_eq!(self.receive().await, None, "nothing follows a reject");
        (
            ErrorCode::try_from(code).expect("a code of the contract"),
            message,
        )
    }

    /// Closes the connection without a goodbye to the session.
    pub(crate) async fn close(self) {
        match self {
            Self::Quic(device) => {
                device.connection.close(0_u32.into(), b"");
                device.endpoint.wait_all_draining().await;
            }
            Self::WebSocket(mut device) => {
                // It may be closed already.
                let _ = device.socket.close(None).await;
            }
        }
    }

    /// Keeps what the node sees of the connection open, and does nothing any more.
    pub(crate) fn fall_silent(self) -> Option<Box<WebSocketDevice>> {
        match self {
            Self::Quic(_) => {
                self.vanish();
                None
            }
            Self::WebSocket(device) => Some(device),
        }
    }

    /// Ends without a word: no farewell, no packet. The node has to find out by itself.
    pub(crate) fn vanish(self) {
        match self {
            Self::Quic(mut device) => {
                device
                    .runtime
                    .take()
                    .expect("it has one until now")
                    .shutdown_background();
            }
            Self::WebSocket(device) => {
                let (tcp, _) = device.socket.into_inner().into_inner();
                tcp.set_zero_linger().expect("a TCP option");
            }
        }
    }
}

impl Drop for QuicDevice {
    fn drop(&mut self) {
        // A runtime must not be waited for inside another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The same for all tokens of a user, and another for each user.
fn identity(token: &str) -> Bytes {
    let payload = token.split('.').nth(1).unwrap_or_default();
    let payload = URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
    let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap_or_default();
    let user = claims["sub"].as_str().unwrap_or_default().as_bytes();
    let mut identity = [0; 32];
    for (byte, of_user) in identity.iter_mut().zip(user) {
        *byte = *of_user;
    }
    Bytes::copy_from_slice(&identity)
}

pub(crate) fn hello(token: &str) -> ClientFrame {
    let keys = DeviceKeys {
        identity: identity(token),
        seal: Bytes::from_static(&[2; 32]),
    };
    let hello = Hello {
        version: tombolo_wire::VERSION,
        token: token.to_owned(),
        keys: Some(keys),
        resume: None,
        agent: "test".to_owned(),
        life: 0,
        sent_here: false,
        comes_nearer: false,
    };
    ClientFrame {
        seq: 0,
        ack: 0,
        body: Some(Up::Hello(hello)),
    }
}

/// No test waits that long unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
