//! One connection to a node: frames in, frames out, over QUIC or WebSocket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use noq::crypto::rustls::QuicClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tombolo_wire::frame::{self, Decoder};
use tombolo_wire::v1::{ClientFrame, ServerFrame};
use tombolo_wire::{ServerUrl, WEBSOCKET_PATH};

use crate::error::Error;
use crate::net::{has_route, lookup, mapped};
use crate::tls;

/// WebSocket starts this much after QUIC, and wins where UDP is blocked.
const WEBSOCKET_DELAY: Duration = Duration::from_millis(300);
/// Between attempts at several addresses of one name.
const ADDRESS_DELAY: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ADDRESSES_MAX: usize = 4;
/// Frames between the session and a slow connection, each way.
const FRAMES_MAX: usize = 256;
/// Keep-alives in the time after which a silent connection is given up.
const KEEP_ALIVES: u32 = 10;
/// The part of that time after which the node is suspected: longer than between two keep-alives.
const SUSPICIONS: u32 = 6;
const _: () = assert!(SUSPICIONS < KEEP_ALIVES);
/// A node is suspected no sooner, however little patience there is.
const SUSPICION_MIN: Duration = Duration::from_millis(300);

/// How long a silent connection is borne with: then the session is resumed on another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience(pub(crate) Duration);

impl Patience {
    /// How often a connection without anything to say says so.
    pub(super) fn keep_alive(self) -> Duration {
        self.0 / KEEP_ALIVES
    }

    /// After how long a silence another node is tried beside the silent one.
    pub(super) fn suspicion(self) -> Duration {
        (self.0 / SUSPICIONS).max(SUSPICION_MIN)
    }
}

/// How a session reaches its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// WebSocket over TLS, where UDP is blocked.
    WebSocket,
}

impl Transport {
    /// The name in events and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::WebSocket => "websocket",
        }
    }
}

/// An open connection; dropping it breaks it.
pub(crate) struct Connection {
    pub(crate) transport: Transport,
    pub(super) outgoing: mpsc::Sender<ClientFrame>,
    pub(super) incoming: mpsc::Receiver<ServerFrame>,
    quic: Option<noq::Connection>,
    /// Messages that came, where the transport does not count packets.
    messages: Arc<AtomicU64>,
    writer: JoinSet<()>,
    _reader: JoinSet<()>,
}

impl Connection {
    /// Opens a connection by whichever transport answers first, QUIC having the start.
    pub(crate) async fn open(
        endpoint: &noq::Endpoint,
        url: &ServerUrl,
        patience: Patience,
    ) -> Result<Self, Error> {
        let addresses = resolve(url).await?;
        let mut attempts = JoinSet::new();
        for (index, address) in addresses.into_iter().enumerate() {
            let delay = ADDRESS_DELAY * u32::try_from(index).unwrap_or(u32::MAX);
            let (quic_endpoint, quic_url) = (endpoint.clone(), url.clone());
            attempts.spawn(async move {
                tokio::time::sleep(delay).await;
                open_quic(&quic_endpoint, &quic_url, address, patience).await
            });
            let websocket_url = url.clone();
            attempts.spawn(async move {
                tokio::time::sleep(delay + WEBSOCKET_DELAY).await;
                open_websocket(&websocket_url, address, patience).await
            });
        }
        let first = async {
            // Which of them says what is wrong is for whoever reads it: in one network it is UDP, in another TCP.
            let mut reasons = Vec::new();
            while let Some(attempt) = attempts.join_next().await {
                match attempt {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(reason)) => reasons.push(reason),
                    Err(error) => return Err(Error::local(error)),
                }
            }
            Err(match reasons.is_empty() {
                true => Error::unreachable(url, "the name has no usable address"),
                false => Error::unreachable(url, &reasons.join("; ")),
            })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, first)
            .await
            .unwrap_or_else(|_| {
                Err(Error::unreachable(
                    url,
                    "no answer over UDP or TCP within 10 s",
                ))
            })
    }

    /// Sends a frame in order; waits while the connection is slow. False when it is broken.
    pub(crate) async fn send(&self, frame: ClientFrame) -> bool {
        self.outgoing.send(frame).await.is_ok()
    }

    /// Sends a frame that may be lost, and that is dropped rather than queued.
    pub(crate) fn send_unreliable(&self, frame: ClientFrame) {
        let dropped = match &self.quic {
            Some(quic) => match frame::encode_datagram(&frame) {
                Ok(bytes) => quic.send_datagram(bytes).is_err(),
                Err(_) => true,
            },
            None => self.outgoing.try_send(frame).is_err(),
        };
        if dropped {
            tracing::trace!("unreliable frame dropped: the connection is full");
        }
    }

    /// The next frame; `None` when the connection is broken.
    pub(crate) async fn receive(&mut self) -> Option<ServerFrame> {
        self.incoming.recv().await
    }

    /// Whether it takes no frame at the moment.
    pub(super) fn is_full(&self) -> bool {
        self.outgoing.capacity() == 0
    }

    /// How much has come: whatever it was, it says that the node lives.
    pub(super) fn received(&self) -> u64 {
        match &self.quic {
            Some(quic) => quic.stats().udp_rx.datagrams,
            None => self.messages.load(Ordering::Relaxed),
        }
    }

    /// A connection whose other end is the test's.
    #[cfg(test)]
    pub(super) fn pretend(
        outgoing: mpsc::Sender<ClientFrame>,
        incoming: mpsc::Receiver<ServerFrame>,
    ) -> Self {
        Self {
            transport: Transport::Quic,
            outgoing,
            incoming,
            quic: None,
            messages: Arc::default(),
            writer: JoinSet::new(),
            _reader: JoinSet::new(),
        }
    }

    /// Ends the connection once the node has everything that was sent.
    pub(crate) async fn finish(self) {
        let Self {
            outgoing,
            mut incoming,
            quic,
            mut writer,
            _reader,
            ..
        } = self;
        drop(outgoing);
        _ = writer.join_next().await;
        match quic {
            Some(quic) => quic.close(0u8.into(), b"goodbye"),
            // The node's end confirms; a socket closed with unread bytes could lose ours.
            None => while incoming.recv().await.is_some() {},
        }
    }
}

pub(super) async fn resolve(url: &ServerUrl) -> Result<Vec<SocketAddr>, Error> {
    let addresses = lookup(url.host(), url.port)
        .await
        .map_err(|error| Error::unreachable(url, &error.to_string()))?;
    Ok(addresses
        .into_iter()
        .filter(|address| has_route(*address))
        .take(ADDRESSES_MAX)
        .collect())
}

async fn open_quic(
    endpoint: &noq::Endpoint,
    url: &ServerUrl,
    address: SocketAddr,
    patience: Patience,
) -> Result<Connection, String> {
    let failed = |error: &dyn std::fmt::Display| format!("QUIC: {error}");
    let tls =
        tls::client_config(url.pin.as_ref(), Some(tombolo_wire::ALPN)).map_err(|e| failed(&e))?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|e| failed(&e))?;
    let mut transport = noq::TransportConfig::default();
    transport.keep_alive_interval(Some(patience.keep_alive()));
    transport.max_idle_timeout(Some(patience.0.try_into().map_err(|e| failed(&e))?));
    let mut config = noq::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    let connection = endpoint
        .connect_with(config, mapped(address), url.host())
        .map_err(|e| failed(&e))?
        .await
        .map_err(|e| failed(&e))?;
    let (send, receive) = connection.open_bi().await.map_err(|e| failed(&e))?;
    let (outgoing, outgoing_rx) = mpsc::channel(FRAMES_MAX);
    let (incoming_tx, incoming) = mpsc::channel(FRAMES_MAX);
    let (mut writer, mut reader) = (JoinSet::new(), JoinSet::new());
    writer.spawn(write_stream(send, outgoing_rx));
    reader.spawn(read_quic(connection.clone(), receive, incoming_tx));
    Ok(Connection {
        transport: Transport::Quic,
        outgoing,
        incoming,
        quic: Some(connection),
        messages: Arc::default(),
        writer,
        _reader: reader,
    })
}

async fn write_stream(mut stream: noq::SendStream, mut frames: mpsc::Receiver<ClientFrame>) {
    let mut bytes = BytesMut::new();
    while let Some(frame) = frames.recv().await {
        if let Err(error) = frame::write(&frame, &mut bytes) {
            tracing::error!(%error, "frame not sent");
            continue;
        }
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
        bytes.clear();
    }
    _ = stream.finish();
    _ = stream.stopped().await;
}

/// Reads the stream and datagrams into one queue, until either ends.
async fn read_quic(
    connection: noq::Connection,
    mut stream: noq::RecvStream,
    frames: mpsc::Sender<ServerFrame>,
) {
    let reliable = async {
        let mut decoder = Decoder::new();
        while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX).await {
            let mut bytes = chunk;
            loop {
                match decoder.decode(&mut bytes) {
                    Ok(Some(frame)) => {
                        if frames.send(frame).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return tracing::warn!(%error, "the node broke the contract"),
                }
            }
        }
    };
    let unreliable = async {
        while let Ok(bytes) = connection.read_datagram().await {
            match frame::decode_datagram(bytes) {
                Ok(frame) => drop(frames.try_send(frame)),
                Err(error) => tracing::debug!(%error, "datagram dropped"),
            }
        }
    };
    tokio::select! {
        () = reliable => {}
        // Its end tells nothing: the stream may still hold what came before the close.
        Some(()) = async { unreliable.await; None } => {}
    }
}

async fn open_websocket(
    url: &ServerUrl,
    address: SocketAddr,
    patience: Patience,
) -> Result<Connection, String> {
    let failed = |error: &dyn std::fmt::Display| format!("WebSocket: {error}");
    let tls = tls::client_config(url.pin.as_ref(), Some(b"http/1.1")).map_err(|e| failed(&e))?;
    let name = ServerName::try_from(url.host().to_owned()).map_err(|e| failed(&e))?;
    let tcp = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
    tcp.set_nodelay(true).map_err(|e| failed(&e))?;
    let stream = TlsConnector::from(Arc::new(tls))
        .connect(name, tcp)
        .await
        .map_err(|e| failed(&e))?;
    let mut limits = WebSocketConfig::default();
    limits.max_message_size = Some(frame::SERVER_FRAME_BYTES_MAX);
    limits.max_frame_size = Some(frame::SERVER_FRAME_BYTES_MAX);
    let uri = format!("wss://{}{WEBSOCKET_PATH}", url.authority());
    let (socket, _) = tokio_tungstenite::client_async_with_config(uri, stream, Some(limits))
        .await
        .map_err(|e| failed(&e))?;
    let (sink, stream) = socket.split();
    let (outgoing, outgoing_rx) = mpsc::channel(FRAMES_MAX);
    let (incoming_tx, incoming) = mpsc::channel(FRAMES_MAX);
    let (mut writer, mut reader) = (JoinSet::new(), JoinSet::new());
    writer.spawn(write_websocket(sink, outgoing_rx, patience));
    let messages = Arc::<AtomicU64>::default();
    let read = read_websocket(stream, incoming_tx, patience, Arc::clone(&messages));
    reader.spawn(read);
    Ok(Connection {
        transport: Transport::WebSocket,
        outgoing,
        incoming,
        quic: None,
        messages,
        writer,
        _reader: reader,
    })
}

async fn write_websocket(
    mut sink: impl SinkExt<Message> + Unpin + Send,
    mut frames: mpsc::Receiver<ClientFrame>,
    patience: Patience,
) {
    let mut keep_alive = tokio::time::interval(patience.keep_alive());
    loop {
        let message = tokio::select! {
            frame = frames.recv() => match frame {
                Some(frame) => match frame::encode(&frame) {
                    Ok(bytes) => Message::Binary(bytes),
                    Err(error) => {
                        tracing::error!(%error, "frame not sent");
                        continue;
                    }
                },
                None => break,
            },
            _ = keep_alive.tick() => Message::Ping(Bytes::new()),
        };
        // TCP alone would try for a quarter of an hour to send into a network that has gone silent.
        let sent = tokio::time::timeout(patience.0, sink.send(message)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
    _ = sink.close().await;
}

async fn read_websocket<S, E>(
    mut stream: S,
    frames: mpsc::Sender<ServerFrame>,
    patience: Patience,
    messages: Arc<AtomicU64>,
) where
    S: StreamExt<Item = Result<Message, E>> + Unpin + Send,
{
    loop {
        // Our own pings are answered, so silence means that the connection is broken.
        let Ok(Some(Ok(message))) = tokio::time::timeout(patience.0, stream.next()).await else {
            return;
        };
        messages.fetch_add(1, Ordering::Relaxed);
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) | Message::Text(_) | Message::Frame(_) => continue,
        };
        match frame::decode(bytes) {
            Ok(frame) => {
                if frames.send(frame).await.is_err() {
                    return;
                }
            }
            Err(error) => return tracing::warn!(%error, "the node broke the contract"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_websocket_that_takes_nothing_more_is_given_up() {
        let patience = Patience(Duration::from_secs(6));
        // Nobody reads the other end, and nobody closes it.
        let (near, _far) = tokio::io::duplex(64);
        let socket = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        let (frames, waiting) = mpsc::channel(FRAMES_MAX);
        let writing = write_websocket(socket.split().0, waiting, patience);
        let given_up = tokio::time::timeout(10 * patience.0, writing).await;
        assert!(given_up.is_ok(), "the session waits for it");
        assert!(frames.send(ClientFrame::default()).await.is_err());
    }
}
