//! A TURN client on a real socket, with a clock that can be put forward.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tombolo_stun::stream::frame_len;
use tombolo_turn::client::{AllocateError, Client, Config, Event, Family, Patience, Stats, Timer};
use tombolo_turn::server::Transport;

use crate::association::Association;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for a packet before timers are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(20);
/// Shorter than the time that a client leaves itself to refresh anything.
const STEP: Duration = Duration::from_secs(15);

pub(crate) struct Caller {
    client: Client,
    link: Link,
    /// How far its clock is ahead of that of the system.
    ahead: Duration,
    events: VecDeque<Event>,
    packets: VecDeque<(SocketAddr, Vec<u8>)>,
}

/// How a caller gets to its server.
pub(crate) enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream, Vec<u8>),
    Tls(
        Box<StreamOwned<ClientConnection, TcpStream>>,
        Vec<u8>,
        SocketAddr,
    ),
    Dtls(Box<Association>),
}

impl Caller {
    /// Calls over UDP, for an IPv4 address.
    pub(crate) fn new(server: SocketAddr, user: &str, password: &str) -> Self {
        Self::over(Link::udp(server), Family::V4, user, password)
    }

    pub(crate) fn over(link: Link, family: Family, user: &str, password: &str) -> Self {
        let (transport, server, local) = match &link {
            Link::Udp(socket) => (Transport::Udp, socket.peer_addr(), socket.local_addr()),
            Link::Tcp(stream, _) => (Transport::Tcp, stream.peer_addr(), stream.local_addr()),
            Link::Tls(stream, _, server) => (Transport::Tls, Ok(*server), stream.sock.local_addr()),
            Link::Dtls(association) => {
                let socket = association.socket();
                (Transport::Dtls, socket.peer_addr(), socket.local_addr())
            }
        };
        let config = Config {
            server: server.unwrap(),
            transport,
            username: user.to_owned(),
            password: password.to_owned(),
            family,
            lifetime: Duration::from_secs(600),
            patience: Patience::default(),
        };
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&local.unwrap().port().to_be_bytes());
        Self {
            client: Client::new(config, seed, Instant::now()),
            link,
            ahead: Duration::ZERO,
            events: VecDeque::new(),
            packets: VecDeque::new(),
        }
    }

    /// Its address, as the server sees it.
    pub(crate) fn address(&self) -> SocketAddr {
        let address = match &self.link {
            Link::Udp(socket) => socket.local_addr(),
            Link::Tcp(stream, _) => stream.local_addr(),
            Link::Tls(stream, ..) => stream.sock.local_addr(),
            Link::Dtls(association) => association.socket().local_addr(),
        };
        address.unwrap()
    }

    /// Whether the server makes an allocation for it.
    pub(crate) fn allocates(&mut self) -> bool {
        self.allocate().is_ok()
    }

    /// Its relayed address and its own one as the server sees it, or why there are none.
    pub(crate) fn allocate(&mut self) -> Result<(SocketAddr, SocketAddr), AllocateError> {
        let event = self.next();
        if let Event::Allocated { relayed, mapped } = event {
            return Ok((relayed, mapped));
        }
        let Event::Failed(why) = event else {
            panic!("{event:?}");
        };
        Err(why)
    }

    /// Gets a channel to a peer, or the code with which the server refuses it.
    pub(crate) fn connect(&mut self, peer: SocketAddr) -> Result<(), u16> {
        self.client.connect_peer(self.now(), peer);
        let event = self.next();
        if event == Event::ChannelBound(peer) {
            return Ok(());
        }
        let Event::PeerRefused {
            peer: refused,
            code,
        } = event
        else {
            panic!("{event:?}");
        };
        assert_eq!(refused, peer);
        Err(code)
    }

    /// Sends on a channel where there is one, else by an indication.
    pub(crate) fn send(&mut self, peer: SocketAddr, payload: &[u8]) {
        let header = self.client.send(self.now(), peer, payload.len()).unwrap();
        let padding = vec![0; header.padding()];
        self.link.send(&[&header[..], payload, &padding].concat());
    }

    /// The next packet, and the peer that it is from.
    pub(crate) fn receive(&mut self) -> (SocketAddr, Vec<u8>) {
        self.until("a packet comes", |caller| caller.packets.pop_front())
    }

    /// Sends, and waits for the same to come back.
    pub(crate) fn echoes(&mut self, peer: SocketAddr, payload: &[u8]) {
        self.send(peer, payload);
        assert_eq!(self.receive(), (peer, payload.to_vec()));
    }

    /// Puts its clock forward step by step, and does what is due at each, until the server has
    /// answered.
    pub(crate) fn advance(&mut self, by: Duration) {
        let end = self.ahead + by;
        while self.ahead < end {
            self.ahead = end.min(self.ahead + STEP);
            self.client.handle_timeout(self.now());
            self.until("the server answers", |caller| {
                let is_waiting = |(_, timer)| matches!(timer, Timer::Retransmit(_));
                (!caller.client.poll_timeout().is_some_and(is_waiting)).then_some(())
            });
        }
        assert!(self.events.is_empty(), "{:?}", self.events);
    }

    pub(crate) fn stats(&self) -> Stats {
        self.client.stats()
    }

    /// Gives its allocation back.
    pub(crate) fn close(&mut self) {
        self.client.close(self.now());
        assert_eq!(self.next(), Event::Closed);
    }

    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    fn next(&mut self) -> Event {
        self.until("something happens", |caller| caller.events.pop_front())
    }

    /// Keeps going until there is what is looked for.
    fn until<T>(&mut self, what: &str, look: impl Fn(&mut Self) -> Option<T>) -> T {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            self.events
                .extend(std::iter::from_fn(|| self.client.poll_event()));
            while let Some(bytes) = self.client.poll_transmit() {
                self.link.send(&bytes);
            }
            if let Some(found) = look(self) {
                return found;
            }
            for frame in self.link.receive() {
                let now = self.now();
                if let Some(received) = self.client.handle_datagram(now, &frame) {
                    let payload = frame[received.range].to_vec();
                    self.packets.push_back((received.peer, payload));
                }
            }
            self.client.handle_timeout(self.now());
        }
        panic!("never: {what}");
    }
}

impl Link {
    pub(crate) fn udp(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((server.ip(), 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(TICK)).unwrap();
        Self::Udp(socket)
    }

    pub(crate) fn tcp(server: SocketAddr) -> Self {
        Self::Tcp(stream(server), Vec::new())
    }

    /// TLS, with a server whose certificate is in this PEM file.
    pub(crate) fn tls(server: SocketAddr, certificate: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(read(certificate)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), server.ip().into()).unwrap();
        let stream = StreamOwned::new(connection, stream(server));
        Self::Tls(Box::new(stream), Vec::new(), server)
    }

    /// DTLS, with a server whose certificate is in this PEM file.
    pub(crate) fn dtls(server: SocketAddr, certificate: &Path) -> Self {
        Self::Dtls(Box::new(Association::new(server, &read(certificate))))
    }

    fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Udp(socket) => {
                socket.send(bytes).unwrap();
            }
            Self::Tcp(stream, _) => stream.write_all(bytes).unwrap(),
            Self::Tls(stream, ..) => stream.write_all(bytes).unwrap(),
            Self::Dtls(association) => association.send(bytes),
        }
    }

    /// What comes within a tick, cut into messages.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut buffer = [0; 4096];
        let (read, rest) = match self {
            Self::Udp(socket) => {
                let length = or_nothing(socket.recv(&mut buffer));
                return length
                    .map(|length| buffer[..length].to_vec())
                    .into_iter()
                    .collect();
            }
            Self::Tcp(stream, rest) => (stream.read(&mut buffer), rest),
            Self::Tls(stream, rest, _) => (stream.read(&mut buffer), rest),
            Self::Dtls(association) => return association.receive(),
        };
        let Some(length) = or_nothing(read) else {
            return Vec::new();
        };
        assert_ne!(length, 0, "the server hangs up");
        rest.extend_from_slice(&buffer[..length]);
        let mut frames = Vec::new();
        while let Some(length) = frame_len(rest).unwrap()
            && length <= rest.len()
        {
            frames.push(rest.drain(..length).collect());
        }
        frames
    }
}

fn read(certificate: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(certificate).unwrap()
}

fn stream(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(TICK)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// `None` where nothing came in time.
pub(crate) fn or_nothing(read: std::io::Result<usize>) -> Option<usize> {
    match read {
        Ok(length) => Some(length),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        // A server that has ended: its client notices by itself.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
        Err(error) => panic!("{error}"),
    }
}
