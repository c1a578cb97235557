//! Sessions over QUIC: one bidirectional stream that the device opens, and datagrams.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use noq::crypto::rustls::QuicServerConfig;
use noq::{
    AsyncTimer, AsyncUdpSocket, Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming,
    MtuDiscoveryConfig, RecvStream, SendDatagramError, SendStream, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tombolo_services::{ConnectionInfo, TransportKind};
use tombolo_wire::frame::{self, DATAGRAM_BYTES_MAX, FRAME_BYTES_MAX};
use tombolo_wire::v1::{ErrorCode, ServerFrame};
use tracing::debug;

use crate::admission::Ticket;
use crate::config::Limits;
use crate::connection::{self, Caller};
use crate::error::BindError;
use crate::shared::Shared;
use crate::transport::{Farewell, FrameReceiver, FrameSender, ReceiveError, Received, SendError};

/// Tokio, and an eye on who still uses it: the transport's own tasks hold the sockets.
#[derive(Debug)]
pub(crate) struct WatchedRuntime {
    in_use: mpsc::Sender<()>,
}

impl WatchedRuntime {
    /// The receiver says `None` when the last user of the runtime is gone, sockets included.
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<()>) {
        let (in_use, released) = mpsc::channel(1);
        (Arc::new(Self { in_use }), released)
    }
}

impl noq::Runtime for WatchedRuntime {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let in_use = self.in_use.clone();
        tokio::spawn(async move {
            future.await;
            drop(in_use);
        });
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Box<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> std::time::Instant {
        TokioRuntime.now()
    }
}

/// Puts an endpoint on the socket.
///
/// # Errors
///
/// The certificate cannot be used with QUIC, or the runtime does not take the socket.
pub(crate) fn endpoint(
    socket: UdpSocket,
    tls: &Arc<rustls::ServerConfig>,
    limits: &Limits,
    runtime: Arc<WatchedRuntime>,
) -> Result<Endpoint, BindError> {
    let crypto = QuicServerConfig::try_from(Arc::clone(tls)).map_err(|_| BindError::CipherSuite)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport_config(limits)?))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    let addr = socket.local_addr().map_err(BindError::Runtime)?;
    Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)
        .map_err(|source| BindError::Udp { addr, source })
}

fn transport_config(limits: &Limits) -> Result<TransportConfig, BindError> {
    let idle_timeout =
        IdleTimeout::try_from(limits.idle_timeout).map_err(|_| BindError::IdleTimeout)?;
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(PACKET_BYTES_MAX)
        .minimum_change(PACKET_BYTES_MAX - INITIAL_MTU);
    let mut config = TransportConfig::default();
    config
        .initial_mtu(INITIAL_MTU)
        .mtu_discovery_config(Some(mtu))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(RECEIVE_WINDOW)
        .receive_window(RECEIVE_WINDOW)
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES)
        .max_idle_timeout(Some(idle_timeout))
        .keep_alive_interval(Some(limits.keep_alive_interval));
    Ok(config)
}

/// Accepts until the gateway is closed: while it drains, devices are told so.
pub(crate) async fn serve(endpoint: Endpoint, shared: Arc<Shared>) {
    let mut phase = shared.phase();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = phase.closed() => None,
        };
        let Some(incoming) = incoming else { return };
        admit(incoming, &shared);
    }
}

fn admit(incoming: Incoming, shared: &Arc<Shared>) {
    let addr = incoming.remote_address();
    let now = Instant::now().into_std();
    if !incoming.remote_address_validated() && shared.admission.wants_validation(now, addr.ip()) {
        shared.counters.retries.add();
        if incoming.retry().is_err() {
            debug!(%addr, "cannot ask for address validation");
        }
        return;
    }
    let ticket = match shared.admission.admit(now, addr.ip()) {
        Ok(ticket) => ticket,
        Err(refusal) => {
            shared.counters.refuse(refusal);
            debug!(%addr, ?refusal, "connection refused");
            incoming.refuse();
            return;
        }
    };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let conversation = converse(incoming, addr, &ticket, &shared);
        shared.hold(&ticket, conversation).await;
    });
}

async fn converse(incoming: Incoming, addr: SocketAddr, ticket: &Ticket, shared: &Arc<Shared>) {
    let deadline = Instant::now() + shared.limits.hello_timeout;
    let connection = match timeout_at(deadline, async { incoming.accept()?.await }).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            shared.counters.handshakes_failed.add();
            debug!(%addr, %error, "QUIC handshake failed");
            return;
        }
        Err(_) => {
            shared.counters.handshakes_failed.add();
            debug!(%addr, "QUIC handshake took too long");
            return;
        }
    };
    let (send, recv) = match timeout_at(deadline, connection.accept_bi()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(%addr, %error, "connection ended before it had a stream");
            return;
        }
        Err(_) => {
            // Without a stream there is nothing to carry a `Reject`.
            shared.counters.hellos_late.add();
            let farewell = Farewell::Rejected(ErrorCode::BadFrame);
            connection.close(farewell.quic_code(), connection::HELLO_LATE.as_bytes());
            return;
        }
    };
    let sender = QuicSender {
        connection: connection.clone(),
        stream: send,
        buffer: BytesMut::new(),
    };
    let receiver = QuicReceiver {
        connection,
        stream: recv,
        decoder: frame::Decoder::new(),
        undecoded: Bytes::new(),
    };
    let info = ConnectionInfo {
        remote: addr,
        transport: TransportKind::Quic,
    };
    let caller = Caller {
        info,
        ticket,
        hello_deadline: deadline,
    };
    connection::run(caller, sender, receiver, shared).await;
}

#[derive(Debug)]
struct QuicReceiver {
    connection: Connection,
    stream: RecvStream,
    decoder: frame::Decoder,
    /// What the stream gave and the decoder has not taken.
    undecoded: Bytes,
}

impl FrameReceiver for QuicReceiver {
    async fn receive(&mut self) -> Result<Received, ReceiveError> {
        loop {
            if let Some(frame) = self
                .decoder
                .decode(&mut self.undecoded)
                .map_err(ReceiveError::Offence)?
            {
                return Ok(Received::InOrder(frame));
            }
            tokio::select! {
                chunk = self.stream.read_chunk(FRAME_BYTES_MAX) => match chunk {
                    Ok(Some(bytes)) => self.undecoded = bytes,
                    Ok(None) | Err(_) => return Err(ReceiveError::Lost),
                },
                // When the connection is gone the stream still gives what had arrived on it.
                Ok(bytes) = self.connection.read_datagram() => {
                    let frame = frame::decode_datagram(bytes).map_err(ReceiveError::Offence)?;
                    return Ok(Received::Datagram(frame));
                }
            }
        }
    }

    async fn drain(&mut self) {
        // QUIC keeps apart what comes and what goes.
    }
}

#[derive(Debug)]
struct QuicSender {
    connection: Connection,
    stream: SendStream,
    /// Empty between calls; keeps its memory.
    buffer: BytesMut,
}

impl FrameSender for QuicSender {
    async fn send(&mut self, frame: &ServerFrame) -> Result<(), SendError> {
        frame::write(frame, &mut self.buffer).map_err(SendError::Encode)?;
        let bytes = self.buffer.split().freeze();
        self.stream
            .write_chunk(bytes)
            .await
            .map_err(|_| SendError::Lost)
    }

    async fn send_unreliable(&mut self, frame: &ServerFrame) -> Result<(), SendError> {
        let Ok(datagram) = frame::encode_datagram(frame) else {
            return self.send(frame).await;
        };
        match self.connection.send_datagram(datagram) {
            Ok(()) => Ok(()),
            // Paths of the smallest MTU, and devices without datagrams, get it in order.
            Err(
                SendDatagramError::TooLarge
                | SendDatagramError::UnsupportedByPeer
                | SendDatagramError::Disabled,
            ) => self.send(frame).await,
            Err(SendDatagramError::ConnectionLost(_)) => Err(SendError::Lost),
        }
    }

    async fn keep_alive(&mut self) -> Result<(), SendError> {
        // The transport's own keep-alive does it.
        Ok(())
    }

    async fn close(&mut self, farewell: Farewell) {
        let closing = ClosesOnDrop {
            connection: &self.connection,
            farewell,
        };
        // A close drops what has not been sent yet; so wait until all is acknowledged.
        if self.stream.finish().is_ok() {
            let _ = self.stream.stopped().await;
        }
        drop(closing);
    }
}

/// Closes the connection also when the wait for acknowledgements is given up.
struct ClosesOnDrop<'a> {
    connection: &'a Connection,
    farewell: Farewell,
}

impl Drop for ClosesOnDrop<'_> {
    fn drop(&mut self) {
        self.connection
            .close(self.farewell.quic_code(), self.farewell.reason().as_bytes());
    }
}

/// What fits through every path that carries QUIC.
const INITIAL_MTU: u16 = 1200;
/// Packets are this long where the path carries them, which one packet finds out: looking for the longest
/// takes four, and as many answers, of each device that comes. The largest datagram has room in it.
const PACKET_BYTES_MAX: u16 = 1408;
/// What a packet has beside the datagram: a header with the device's id for the connection, the frame's type and
/// length, and the seal.
const PACKET_OVERHEAD: usize = 1 + 20 + 4 + 3 + 16;
const _: () = assert!(DATAGRAM_BYTES_MAX + PACKET_OVERHEAD <= PACKET_BYTES_MAX as usize);

/// Two largest frames: one can be on its way while the other is being handled.
const RECEIVE_WINDOW: VarInt = VarInt::from_u32(2 * FRAME_BYTES_MAX as u32);
const SEND_WINDOW: u64 = 4 * FRAME_BYTES_MAX as u64;
const DATAGRAM_BUFFER_BYTES: usize = 64 * 1024;
/// Connections between their first packet and our first look at it, which comes at once.
const INCOMING_MAX: usize = 4_096;
const INCOMING_BYTES: u64 = 16 * 1024;
const INCOMING_BYTES_TOTAL: u64 = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use noq::PathId;
    use noq::crypto::rustls::QuicClientConfig;
    use rustls::pki_types::PrivateKeyDer;

    use super::*;
    use crate::tls::{self, Identity};

    #[tokio::test]
    async fn one_packet_finds_out_whether_the_largest_datagram_reaches_a_newcomer() {
        let made = rcgen::generate_simple_self_signed(vec!["node".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let identity = Arc::new(Identity::new(vec![certificate.clone()], key).unwrap());
        let tls = Arc::new(tls::for_quic(&identity).unwrap());
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (runtime, _released) = WatchedRuntime::new();
        let gateway = endpoint(socket, &tls, &Limits::default(), runtime).unwrap();

        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![tombolo_wire::ALPN.to_vec()];
        let crypto = Arc::new(QuicClientConfig::try_from(tls).unwrap());
        let config = noq::ClientConfig::new(crypto);
        let device = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = gateway.local_addr().unwrap();
        let connecting = device.connect_with(config, address, "node").unwrap();
        let accepted = async { gateway.accept().await.unwrap().await.unwrap() };
        let (_device, newcomer) = tokio::join!(connecting, accepted);

        while newcomer.max_datagram_size().unwrap() < DATAGRAM_BYTES_MAX {
            tokio::task::yield_now().await;
        }
        let stats = newcomer.path_stats(PathId::ZERO).unwrap();
        assert_eq!((stats.sent_plpmtud_probes, stats.current_mtu), (1, 1408));
    }
}
