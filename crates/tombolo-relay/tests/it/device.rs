//! A TURN client on a real socket, for one test thread.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use socket2::{Domain, SockRef, Socket, Type};
use tombolo_relay::{Certificates, Relay, RelayConfig};
use tombolo_stun::{
    Class, Data, DontFragment, MessageWriter, Method, TransactionId, XorPeerAddress,
    stream::frame_len,
};
use tombolo_turn::{
    client::{Client, Config, Event, Family, Patience},
    server::{Realm, Transport},
};

use crate::dtls;

/// How long a test waits for what must happen before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A relay on loopback with the users alice and bob, who may reach loopback addresses.
pub(crate) fn relay_config(ip: IpAddr) -> RelayConfig {
    let users = [("alice", "alice's password"), ("bob", "bob's password")];
    let mut realm = Realm::new("tombolo");
    realm.users = users
        .map(|(user, password)| (user.to_owned(), password.to_owned()))
        .into();
    RelayConfig {
        listen: vec![SocketAddr::new(ip, 0)],
        listen_udp: vec![SocketAddr::new(ip, 0)],
        realm,
        allow_peers: ["127.0.0.0/8", "::1/128"]
            .map(|cidr| cidr.parse().expect("a literal"))
            .into(),
        shards: Some(2),
        // Beyond the ports that the kernel gives out by itself.
        relay_ports: 61_000..=65_535,
        ..RelayConfig::default()
    }
}

/// A realm of time-limited credentials with the secret "shared".
pub(crate) fn shared_realm() -> Realm {
    let mut realm = Realm::new("tombolo");
    realm.secrets.push(b"shared".to_vec());
    realm
}

pub(crate) fn v4() -> IpAddr {
    "127.0.0.1".parse().expect("a literal")
}

/// A certificate for 127.0.0.1 and ::1, for the server and for those who trust it.
pub(crate) fn certificate() -> (Certificates, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1", "::1"].map(str::to_owned))
        .expect("it is valid");
    let certificate = CertificateDer::from(made.cert);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("it is valid");
    let server = Certificates::new(vec![certificate], key).expect("the key fits");
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, Arc::new(client))
}

/// A relay that serves TLS and DTLS, at an address of their own too, and whom its clients trust.
pub(crate) fn relay_with_tls(config: RelayConfig) -> (Relay, Arc<ClientConfig>) {
    let (tls, trust) = certificate();
    let relay = Relay::bind(RelayConfig {
        tls: Some(tls),
        listen_tls: vec![(v4(), 0).into()],
        ..config
    });
    (relay.expect("there are free ports"), trust)
}

/// A client core and its socket.
pub(crate) struct Device {
    pub(crate) client: Client,
    link: Link,
    /// Packets that came while something else was waited for.
    received: Vec<(SocketAddr, Vec<u8>)>,
    events: Vec<Event>,
    /// What came that carries no packet, the last of it.
    others: VecDeque<Vec<u8>>,
}

/// A way to the server.
pub(crate) enum Link {
    Udp(UdpSocket),
    Stream(Box<dyn Stream>, Vec<u8>),
    Dtls(Box<dtls::Client>),
}

pub(crate) trait Stream: Read + Write {
    /// Says that nothing more is sent, and reads on.
    fn finish(&mut self);
}

impl Stream for TcpStream {
    fn finish(&mut self) {
        self.shutdown(Shutdown::Write)
            .expect("the connection is open");
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn finish(&mut self) {
        self.conn.send_close_notify();
        self.flush().expect("the connection is open");
        self.sock.finish();
    }
}

impl Device {
    pub(crate) fn udp(relay: &Relay, user: &str) -> Self {
        Self::udp_to(relay.addrs().turn[0], user)
    }

    pub(crate) fn udp_with(relay: &Relay, user: &str, password: &str) -> Self {
        let server = relay.addrs().turn[0];
        Self::new(server, Transport::Udp, user, password, Link::udp(server))
    }

    pub(crate) fn udp_to(server: SocketAddr, user: &str) -> Self {
        Self::over(Link::udp(server), Transport::Udp, server, user)
    }

    pub(crate) fn tcp(relay: &Relay, user: &str) -> Self {
        let server = relay.addrs().turn[0];
        Self::over(Link::tcp(server), Transport::Tcp, server, user)
    }

    pub(crate) fn tls(relay: &Relay, user: &str, config: Arc<ClientConfig>) -> Self {
        Self::tls_from(v4(), relay, user, config)
    }

    /// One with an IP of its own.
    pub(crate) fn tls_from(
        ip: IpAddr,
        relay: &Relay,
        user: &str,
        config: Arc<ClientConfig>,
    ) -> Self {
        let server = relay.addrs().turns[0];
        let link = Link::tls(ip, server, config);
        Self::over(link, Transport::Tls, server, user)
    }

    pub(crate) fn over(link: Link, transport: Transport, server: SocketAddr, user: &str) -> Self {
        let password = format!("{user}'s password");
        Self::new(server, transport, user, &password, link)
    }

    /// One that asks for an address of this family, and marks what it sends.
    pub(crate) fn marked(relay: &Relay, user: &str, family: Family) -> Self {
        let server = relay.addrs().turn[0];
        let link = Link::udp(server);
        if let Link::Udp(socket) = &link {
            mark(socket);
        }
        let config = config(server, Transport::Udp, user, &format!("{user}'s password"));
        Self::with(Config { family, ..config }, link)
    }

    fn new(
        server: SocketAddr,
        transport: Transport,
        user: &str,
        password: &str,
        link: Link,
    ) -> Self {
        Self::with(config(server, transport, user, password), link)
    }

    fn with(config: Config, link: Link) -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("the system has randomness");
        let client = Client::new(config, seed, Instant::now());
        Self {
            client,
            link,
            received: Vec::new(),
            events: Vec::new(),
            others: VecDeque::new(),
        }
    }

    /// Waits for the allocation and returns the relayed address.
    #[track_caller]
    pub(crate) fn allocate(&mut self) -> SocketAddr {
        let event = self.event(|event| matches!(event, Event::Allocated { .. }));
        let Event::Allocated { relayed, .. } = event else {
            unreachable!("it was asked for")
        };
        relayed
    }

    /// Connects a peer and waits for its channel.
    #[track_caller]
    pub(crate) fn bind(&mut self, peer: SocketAddr) {
        self.client.connect_peer(Instant::now(), peer);
        self.event(|event| *event == Event::ChannelBound(peer));
    }

    /// Waits for an event; others that are no failure are passed over.
    #[track_caller]
    pub(crate) fn event(&mut self, is_wanted: impl Fn(&Event) -> bool) -> Event {
        let start = Instant::now();
        loop {
            self.turn();
            while let Some(event) = self.client.poll_event() {
                self.events.push(event);
            }
            if let Some(found) = self.events.iter().position(&is_wanted) {
                return self.events.remove(found);
            }
            assert!(
                start.elapsed() < PATIENCE,
                "it did not happen; seen: {:?}",
                self.events
            );
        }
    }

    pub(crate) fn send(&mut self, peer: SocketAddr, payload: &[u8]) {
        let header = self
            .client
            .send(Instant::now(), peer, payload.len())
            .expect("it fits");
        let mut bytes = [&*header, payload].concat();
        bytes.resize(bytes.len() + header.padding(), 0);
        self.link.send(&bytes);
    }

    /// Sends a packet to a peer that no router may cut up.
    pub(crate) fn send_undivided(&mut self, peer: SocketAddr, payload: &[u8]) {
        let mut bytes = Vec::new();
        let (class, id) = (Class::Indication, TransactionId([1; 12]));
        MessageWriter::new(&mut bytes, class, Method::SEND, id)
            .attribute(&XorPeerAddress(peer))
            .attribute(&DontFragment)
            .attribute(&Data(payload));
        self.link.send(&bytes);
    }

    /// Sends ChannelData to a peer, all in one system call and of one length but for the last.
    pub(crate) fn send_burst(&mut self, peer: SocketAddr, payloads: &[Vec<u8>]) {
        let now = Instant::now();
        let frames = payloads.iter().map(|payload| {
            let header = self.client.send(now, peer, payload.len()).expect("it fits");
            [&*header, payload].concat()
        });
        let frames: Vec<Vec<u8>> = frames.collect();
        self.link.send_burst(&frames);
    }

    /// Waits for a packet.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> (SocketAddr, Vec<u8>) {
        let start = Instant::now();
        while self.received.is_empty() {
            self.turn();
            assert!(
                start.elapsed() < PATIENCE,
                "no packet came; events: {:?}",
                self.events
            );
        }
        self.received.remove(0)
    }

    /// Sends a packet to a peer that sends everything back, again after each short wait, until it has
    /// come back.
    #[track_caller]
    pub(crate) fn send_until_echoed(&mut self, peer: SocketAddr, payload: &[u8]) {
        let start = Instant::now();
        let wanted = (peer, payload.to_vec());
        // What else comes is one of before, once more.
        while !std::mem::take(&mut self.received).contains(&wanted) {
            assert!(start.elapsed() < PATIENCE, "it never came back");
            self.send(peer, payload);
            self.turn();
        }
    }

    /// Waits for a message of the server that carries no packet.
    #[track_caller]
    pub(crate) fn told(&mut self, is_wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let start = Instant::now();
        loop {
            if let Some(found) = self.others.iter().position(|other| is_wanted(other)) {
                return self.others.remove(found).expect("it was found");
            }
            assert!(start.elapsed() < PATIENCE, "no such message came");
            self.turn();
        }
    }

    /// Sends what is due, and reads nothing.
    pub(crate) fn send_due(&mut self) {
        self.client.handle_timeout(Instant::now());
        while let Some(bytes) = self.client.poll_transmit() {
            self.link.send(&bytes);
        }
    }

    /// Sends what is due and handles what has come, with a short wait.
    pub(crate) fn turn(&mut self) {
        self.send_due();
        while let Some(bytes) = self.link.receive() {
            if let Some(received) = self.client.handle_datagram(Instant::now(), &bytes) {
                self.received
                    .push((received.peer, bytes[received.range].to_vec()));
            } else {
                self.others.truncate(OTHERS_MAX - 1);
                self.others.push_front(bytes);
            }
            if !self.received.is_empty() || !matches!(self.link, Link::Stream(..)) {
                break;
            }
        }
    }
}

impl Link {
    pub(crate) fn udp(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((server.ip(), 0)).expect("loopback is there");
        socket.connect(server).expect("it is reachable");
        socket.set_read_timeout(Some(TICK)).expect("it is not zero");
        Self::Udp(socket)
    }

    pub(crate) fn tcp(server: SocketAddr) -> Self {
        Self::Stream(Box::new(connect(server)), Vec::new())
    }

    pub(crate) fn tls(ip: IpAddr, server: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let name = ServerName::from(server.ip());
        let mut connection = ClientConnection::new(config, name).expect("the name is valid");
        let mut stream = connect_from(ip, server);
        let patience = |stream: &TcpStream, time| {
            stream.set_read_timeout(Some(time)).expect("it is not zero");
        };
        patience(&stream, PATIENCE);
        connection.complete_io(&mut stream).expect("a handshake");
        patience(&stream, TICK);
        Self::Stream(Box::new(StreamOwned::new(connection, stream)), Vec::new())
    }

    pub(crate) fn dtls(version: dtls::Version, server: SocketAddr) -> Self {
        let mut client = dtls::Client::new(version, server);
        client.connect();
        client.set_patience(TICK);
        Self::Dtls(Box::new(client))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Udp(socket) => {
                socket.send(bytes).expect("loopback takes it");
            }
            Self::Stream(stream, _) => stream.write_all(bytes).expect("the connection is open"),
            Self::Dtls(client) => client.send_data(bytes),
        }
    }

    /// Sends nothing more.
    pub(crate) fn finish(&mut self) {
        let Self::Stream(stream, _) = self else {
            unreachable!("others have no end")
        };
        stream.finish();
    }

    /// Sends datagrams in one system call, all of one length but for the last.
    pub(crate) fn send_burst(&self, datagrams: &[Vec<u8>]) {
        let Self::Udp(socket) = self else {
            unreachable!("others have no bursts")
        };
        let server = socket.peer_addr().expect("it is connected");
        send_segments(socket, server, datagrams);
    }

    /// Waits until the server has closed the connection; what comes before is passed over.
    #[track_caller]
    pub(crate) fn wait_for_end(&mut self) {
        let Self::Stream(stream, _) = self else {
            unreachable!("others have no end")
        };
        let start = Instant::now();
        loop {
            match stream.read(&mut [0; 512]) {
                Ok(0) => return,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                result => drop(unless_late(result)),
            }
            assert!(start.elapsed() < PATIENCE, "it goes on");
        }
    }

    /// One datagram or frame, if one comes soon.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        let mut chunk = [0; 65_536];
        match self {
            Self::Udp(socket) => {
                let len = unless_late(socket.recv(&mut chunk))?;
                Some(chunk[..len].to_vec())
            }
            Self::Stream(stream, buffer) => loop {
                let len = frame_len(buffer).expect("the server sends frames");
                if let Some(len) = len.filter(|len| *len <= buffer.len()) {
                    return Some(buffer.drain(..len).collect());
                }
                let len = unless_late(stream.read(&mut chunk))?;
                assert!(len > 0, "the server closed the connection");
                buffer.extend_from_slice(&chunk[..len]);
            },
            Self::Dtls(client) => client.data_soon(),
        }
    }
}

/// For an address of the server's family.
fn config(server: SocketAddr, transport: Transport, user: &str, password: &str) -> Config {
    Config {
        server,
        transport,
        username: user.to_owned(),
        password: password.to_owned(),
        family: if server.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        },
        lifetime: Duration::from_secs(600),
        patience: Patience::default(),
    }
}

/// Gives all that a socket sends a DSCP, an ECN and a hop limit that nothing else has.
pub(crate) fn mark(socket: &UdpSocket) {
    let (class, hops) = (u32::from(MARK_CLASS), u32::from(MARK_HOPS));
    let is_v4 = socket.local_addr().expect("it is bound").is_ipv4();
    let socket = SockRef::from(socket);
    let (marked, counted) = if is_v4 {
        (socket.set_tos_v4(class), socket.set_ttl_v4(hops))
    } else {
        (
            socket.set_tclass_v6(class),
            socket.set_unicast_hops_v6(hops),
        )
    };
    marked.expect("it is a byte");
    counted.expect("it is a byte");
}

/// Sends datagrams of one length, but for the last, as one message that the kernel cuts apart.
pub(crate) fn send_segments(socket: &UdpSocket, to: SocketAddr, datagrams: &[Vec<u8>]) {
    let bytes = datagrams.concat();
    let segment = u16::try_from(datagrams[0].len()).expect("it fits");
    let vectors = [io::IoSlice::new(&bytes)];
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let flags = MsgFlags::empty();
    // A connected socket takes no address.
    let sent = match socket.peer_addr() {
        Ok(_) => sendmsg::<()>(socket.as_raw_fd(), &vectors, &control, flags, None),
        Err(_) => {
            let to = SockaddrStorage::from(to);
            sendmsg(socket.as_raw_fd(), &vectors, &control, flags, Some(&to))
        }
    };
    assert_eq!(sent, Ok(bytes.len()));
}

fn connect(server: SocketAddr) -> TcpStream {
    let ip = match server {
        SocketAddr::V4(_) => v4(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    connect_from(ip, server)
}

pub(crate) fn connect_from(ip: IpAddr, server: SocketAddr) -> TcpStream {
    let domain = Domain::for_address(server);
    let socket = Socket::new(domain, Type::STREAM, None).expect("there are descriptors");
    let from = SocketAddr::new(ip, 0);
    socket.bind(&from.into()).expect("it is a local one");
    socket.connect(&server.into()).expect("the relay listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TICK)).expect("it is not zero");
    stream.set_nodelay(true).expect("it is a socket");
    stream
}

pub(crate) fn unless_late(result: io::Result<usize>) -> Option<usize> {
    match result {
        Ok(len) => Some(len),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(error) => panic!("the socket failed: {error}"),
    }
}

/// A peer that sends everything back, until it is dropped.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Echo {
    pub(crate) fn start(ip: IpAddr) -> Self {
        let socket = Self::socket(ip);
        let address = socket.local_addr().expect("it is bound");
        socket.set_read_timeout(Some(TICK)).expect("it is not zero");
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while !is_stopped.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    // A full buffer loses a packet; the test will say so.
                    let _ = socket.send_to(&buffer[..len], from);
                }
            }
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }
}

impl Echo {
    /// On the relay's own IP only relay ports are peers, and there is but one loopback IPv6 address.
    pub(crate) fn socket(ip: IpAddr) -> UdpSocket {
        match ip {
            IpAddr::V4(_) => UdpSocket::bind("127.0.0.2:0").expect("loopback is there"),
            IpAddr::V6(_) => (61_000..=65_535)
                .find_map(|port| UdpSocket::bind((ip, port)).ok())
                .expect("there are free ports"),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the echo does not panic");
        }
    }
}

/// Expedited forwarding, and a mark of congestion.
pub(crate) const MARK_CLASS: u8 = 0xbb;
pub(crate) const MARK_HOPS: u8 = 9;
/// How long one look at a socket takes at most.
const TICK: Duration = Duration::from_millis(20);
/// Messages that are kept for [`Device::told`].
const OTHERS_MAX: usize = 64;
