//! TCP between clients and peers. See RFC 6062.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};
use tombolo_natlab::{in_namespace, ip_command};
use tombolo_relay::{AllocationFilter, Relay, RelayConfig};
use tombolo_stun::{
    Class, ConnectionId, ErrorCode, HEADER_BYTES, Key, Lifetime, Message, MessageWriter, Method,
    Nonce, Realm, RequestedAddressFamily, RequestedTransport, TransactionId, Username,
    XorPeerAddress, XorRelayedAddress, stream::frame_len,
};
use tombolo_turn::server::{Bandwidth, Traffic};

use crate::device::{relay_config, relay_with_tls, v4};

#[test]
fn a_client_connects_to_a_peer_and_both_talk() {
    let relay = tcp_relay(v4());
    let mut alice = Client::tcp(&relay);
    let at = alice.allocate();
    let peer = TcpListener::bind("127.0.0.2:0").expect("loopback is there");
    let id = alice.connect(local(&peer)).expect("the peer listens");
    let (mut peer_side, from) = peer.accept().expect("it was connected to");
    assert_eq!(from, at, "from the relayed address");
    peer_side.write_all(b"early").expect("it is open");
    let mut data = Client::tcp(&relay);
    data.bind(id).expect("it waits");
    assert_eq!(read(&mut data.stream, 5), b"early");
    assert_talk(&mut data.stream, &mut peer_side);
    assert_eq!(relay.stats().streams.joined, 1);
}

#[test]
fn a_permitted_peer_connects_to_a_client() {
    let relay = tcp_relay(v4());
    let mut alice = Client::tcp(&relay);
    let at = alice.allocate();
    let stranger = TcpStream::connect(at).expect("it listens");
    assert_over(stranger);
    let mut peer_side = connect_from("127.0.0.2", at, &mut alice);
    peer_side.write_all(b"early").expect("it is open");
    let (id, from) = alice.attempt();
    assert_eq!(from, peer_side.local_addr().expect("it is connected"));
    let mut data = Client::tcp(&relay);
    data.bind(id).expect("it waits");
    assert_eq!(read(&mut data.stream, 5), b"early");
    assert_talk(&mut data.stream, &mut peer_side);
}

#[test]
fn a_relayed_address_listens_and_connects_to_several_peers_at_once() {
    let relay = tcp_relay(v4());
    let mut alice = Client::tcp(&relay);
    let at = alice.allocate();
    let peers: Vec<_> = (2..5)
        .map(|host| TcpListener::bind((format!("127.0.0.{host}"), 0)).expect("loopback is there"))
        .collect();
    let mut pairs = Vec::new();
    for peer in &peers {
        let id = alice.connect(local(peer)).expect("the peer listens");
        let (peer_side, from) = peer.accept().expect("it was connected to");
        assert_eq!(from, at);
        let mut data = Client::tcp(&relay);
        data.bind(id).expect("it waits");
        pairs.push((data, peer_side));
    }
    let mut other = connect_from("127.0.0.9", at, &mut alice);
    let (id, _) = alice.attempt();
    let mut data = Client::tcp(&relay);
    data.bind(id).expect("it waits");
    assert_talk(&mut data.stream, &mut other);
    for (data, peer_side) in &mut pairs {
        assert_talk(&mut data.stream, peer_side);
    }
}

#[test]
fn tcp_is_relayed_over_ipv6() {
    let ip = "::1".parse().expect("a literal");
    let relay = tcp_relay(ip);
    let mut alice = Client::tcp(&relay);
    let at = alice.allocate();
    assert!(at.is_ipv6());
    // There is but one loopback address, on which only relay ports are peers.
    let peer = (61_000..=65_535)
        .find_map(|port| TcpListener::bind((ip, port)).ok())
        .expect("there are free ports");
    let id = alice.connect(local(&peer)).expect("the peer listens");
    let (mut peer_side, _) = peer.accept().expect("it was connected to");
    let mut data = Client::tcp(&relay);
    data.bind(id).expect("it waits");
    assert_talk(&mut data.stream, &mut peer_side);
}

#[test]
fn a_connection_to_a_client_over_tls_is_joined_too() {
    let (relay, trust) = relay_with_tls(RelayConfig {
        relay_tcp: true,
        ..relay_config(v4())
    });
    let mut alice = Client::tcp(&relay);
    alice.allocate();
    let peer = TcpListener::bind("127.0.0.2:0").expect("loopback is there");
    let id = alice.connect(local(&peer)).expect("the peer listens");
    let (mut peer_side, _) = peer.accept().expect("it was connected to");
    let server = relay.addrs().turns[0];
    let connection =
        ClientConnection::new(trust, ServerName::from(server.ip())).expect("the name is valid");
    let mut data = Client::over(StreamOwned::new(connection, stream_to(server)));
    data.bind(id).expect("it waits");
    assert_talk(&mut data.stream, &mut peer_side);
}

#[test]
fn bytes_right_behind_a_connection_bind_reach_the_peer() {
    let relay = tcp_relay(v4());
    let mut alice = Client::tcp(&relay);
    alice.allocate();
    let peer = TcpListener::bind("127.0.0.2:0").expect("loopback is there");
    let id = alice.connect(local(&peer)).expect("the peer listens");
    let (mut peer_side, _) = peer.accept().expect("it was connected to");
    let mut data = Client::tcp(&relay);
    // No connection of the same shard, but it brings a nonce.
    assert_eq!(data.bind(id ^ 0x100), Err(400));
    // Some of them look like the length of a frame that never ends.
    let mut bytes = data.request(Method::CONNECTION_BIND, |writer| {
        writer.attribute(&ConnectionId(id));
    });
    bytes.extend_from_slice(&[0x40, 0, 0xff, 0xff, 0xff, 1, 2, 3]);
    data.stream.write_all(&bytes).expect("it is open");
    assert_eq!(data.reply().code(), None);
    assert_eq!(
        read(&mut peer_side, 8),
        [0x40, 0, 0xff, 0xff, 0xff, 1, 2, 3]
    );
    assert_talk(&mut data.stream, &mut peer_side);
}

#[test]
fn what_is_sent_before_the_other_side_reads_is_held_back_and_not_lost() {
    let relay = tcp_relay(v4());
    let mut alice = Client::tcp(&relay);
    alice.allocate();
    let (mut data, mut peer_side) = joined(&relay, &mut alice);
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|i| (i / 7) as u8).collect();
    let expected = bytes.clone();
    let sender = std::thread::spawn(move || {
        data.stream.write_all(&bytes).expect("it is open");
        data.stream
            .shutdown(Shutdown::Write)
            .expect("it is connected");
        data
    });
    let mut received = Vec::new();
    peer_side.read_to_end(&mut received).expect("it is open");
    assert!(received == expected, "all of it came, in order");
    // The other way is still open.
    let mut data = sender.join().expect("the sender does not panic");
    peer_side.write_all(b"thanks").expect("it is open");
    assert_eq!(read(&mut data.stream, 6), b"thanks");
    drop(peer_side);
    assert_over(data.stream);
}

#[test]
fn all_bytes_of_joined_connections_are_counted_while_they_are_open_and_when_they_are_not() {
    let relay = tcp_relay(v4());
    let mut alice = Client::tcp(&relay);
    alice.allocate();
    let (mut first, mut first_peer) = joined(&relay, &mut alice);
    let (mut second, mut second_peer) = joined(&relay, &mut alice);
    assert_passes(&mut first.stream, &mut first_peer, 1_000_003);
    assert_passes(&mut second.stream, &mut second_peer, 11);
    assert_passes(&mut second_peer, &mut second.stream, 500_009);
    assert_counted(&relay, (1_000_014, 500_009));
    // What has gone since the last look is told at the end, whoever ends it.
    assert_passes(&mut first.stream, &mut first_peer, 100);
    drop(first);
    assert_passes(&mut second_peer, &mut second.stream, 1000);
    drop(second_peer);
    assert_counted(&relay, (1_000_114, 501_009));
    let (mut third, mut third_peer) = joined(&relay, &mut alice);
    assert_passes(&mut third.stream, &mut third_peer, 70_000);
    drop(alice);
    assert_over(third.stream);
    let start = Instant::now();
    while of_node(&relay) != (1_070_114, 501_009) {
        assert!(start.elapsed() < PATIENCE, "{:?}", of_node(&relay));
        std::thread::yield_now();
    }
}

#[test]
fn a_limited_allocation_loses_no_byte_in_either_direction() {
    let relay = limited_relay(of_all, 1_000_000, 50_000);
    let mut alice = Client::tcp(&relay);
    alice.allocate();
    let (mut data, mut peer_side) = joined(&relay, &mut alice);
    assert_passes(&mut data.stream, &mut peer_side, 300_000);
    assert_passes(&mut peer_side, &mut data.stream, 300_000);
    assert_counted(&relay, (300_000, 300_000));
}

#[test]
fn a_limit_holds_all_connections_of_an_allocation_back_until_another_one_is_set() {
    assert_held_back_by(of_all);
}

#[test]
fn the_limit_of_a_realm_holds_its_connections_back_until_another_one_is_set() {
    assert_held_back_by(of_realm);
}

fn assert_held_back_by(limit: Limit) {
    // What is left after the burst would take most of an hour.
    let relay = limited_relay(limit, 1, 2000);
    let mut alice = Client::tcp(&relay);
    alice.allocate();
    let (mut first, mut first_peer) = joined(&relay, &mut alice);
    first.stream.write_all(&[1; 3600]).expect("it is open");
    assert_eq!(read(&mut first_peer, 2000), [1; 2000]);
    let (mut second, mut second_peer) = joined(&relay, &mut alice);
    second.stream.write_all(&[2; 1000]).expect("it is open");
    // The other direction has a burst of its own.
    second_peer.write_all(&[3; 8]).expect("it is open");
    assert_eq!(read(&mut second.stream, 8), [3; 8]);
    let start = Instant::now();
    while traffic(&relay).to_client.bytes < 8 {
        assert!(start.elapsed() < PATIENCE, "it is counted");
        std::thread::yield_now();
    }
    // A new connection brings no new burst.
    let held_back = 4600 - traffic(&relay).to_peer.bytes;
    assert!(held_back > 2000, "{held_back} bytes");

    relay
        .reload(&tcp_config(v4()))
        .expect("nothing of a socket changed");
    assert_eq!(read(&mut first_peer, 1600), [1; 1600]);
    assert_eq!(read(&mut second_peer, 1000), [2; 1000]);
}

#[test]
fn either_end_of_a_joined_connection_ends_with_the_other_and_with_the_allocation() {
    let relay = tcp_relay(v4());
    let mut alice = Client::tcp(&relay);
    alice.allocate();
    let (data, peer_side) = joined(&relay, &mut alice);
    drop(data);
    assert_over(peer_side);
    let (data, peer_side) = joined(&relay, &mut alice);
    drop(peer_side);
    assert_over(data.stream);
    let (data, peer_side) = joined(&relay, &mut alice);
    drop(alice);
    assert_over(peer_side);
    assert_over(data.stream);
}

#[test]
fn the_relayed_port_is_free_again_when_the_allocation_ends() {
    let relay = tcp_relay(v4());
    let ports = || -> u64 {
        let stats = relay.stats();
        stats.shards.iter().map(|shard| shard.io.relay_ports).sum()
    };
    let mut alice = Client::tcp(&relay);
    let at = alice.allocate();
    assert_eq!(ports(), 1);
    assert!(TcpListener::bind(at).is_err(), "it is the client's alone");
    let refresh = alice.ask(Method::REFRESH, |writer| {
        writer.attribute(&Lifetime(0));
    });
    assert_eq!(refresh.code(), None);
    assert_eq!(ports(), 0);
    let start = Instant::now();
    while TcpListener::bind(at).is_err() {
        assert!(start.elapsed() < PATIENCE, "nobody has it any more");
        std::thread::yield_now();
    }
}

#[test]
fn a_connect_that_the_peer_refuses_fails() {
    let relay = tcp_relay(v4());
    let mut alice = Client::tcp(&relay);
    let at = alice.allocate();
    let nobody = TcpListener::bind("127.0.0.2:0").expect("loopback is there");
    let address = local(&nobody);
    drop(nobody);
    assert_eq!(alice.connect(address), Err(447));
    assert_eq!(alice.connect(at), Err(447), "it is no peer of itself");
    // The connection is as good as before.
    let peer = TcpListener::bind("127.0.0.2:0").expect("loopback is there");
    alice.connect(local(&peer)).expect("the peer listens");
}

#[test]
fn a_refused_connection_bind_leaves_the_connection_in_frames() {
    let relay = tcp_relay(v4());
    let mut alice = Client::tcp(&relay);
    alice.allocate();
    let mut data = Client::tcp(&relay);
    assert_eq!(data.bind(7), Err(400));
    assert_eq!(data.bind(7), Err(400));
    data.allocate();
}

#[test]
fn two_tcp_allocations_of_one_relay_reach_each_other() {
    let relay = tcp_relay(v4());
    let mut alice = Client::tcp(&relay);
    let mut bob = Client::tcp(&relay);
    let (at_alice, at_bob) = (alice.allocate(), bob.allocate());
    bob.permit(at_alice);
    let id = alice
        .connect(at_bob)
        .expect("bob's relayed address listens");
    let (bobs_id, from) = bob.attempt();
    assert_eq!(from, at_alice);
    let (mut data, mut bobs_data) = (Client::tcp(&relay), Client::tcp(&relay));
    data.bind(id).expect("it waits");
    bobs_data.bind(bobs_id).expect("it waits");
    assert_talk(&mut data.stream, &mut bobs_data.stream);
}

#[test]
fn programs_of_the_machine_are_not_connected_to_at_a_relay_ip_and_other_clients_are() {
    in_namespace(|| {
        ip_command(&["address", "add", "192.0.2.1/32", "dev", "lo"]);
        let ip = "192.0.2.1".parse().expect("a literal");
        let program = TcpListener::bind((ip, 61_500)).expect("the port is free");
        let relay = tcp_relay(ip);
        let mut alice = Client::tcp(&relay);
        let mut bob = Client::tcp(&relay);
        let (at_alice, at_bob) = (alice.allocate(), bob.allocate());
        bob.permit(at_alice);
        assert_eq!(alice.connect(local(&program)), Err(447));
        alice.connect(at_bob).expect("it listens");
        assert_eq!(bob.attempt().1, at_alice);
    });
}

#[test]
fn tcp_is_not_relayed_unless_it_is_switched_on() {
    let mut config = relay_config(v4());
    let relay = Relay::bind(config.clone()).expect("there are free ports");
    for (relay_tcp, code) in [(false, Some(442)), (true, None), (false, Some(442))] {
        config.relay_tcp = relay_tcp;
        relay.reload(&config).expect("nothing of a socket changed");
        let mut alice = Client::tcp(&relay);
        let reply = alice.ask(Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::TCP);
        });
        assert_eq!(reply.code(), code, "TCP is relayed: {relay_tcp}");
    }
}

fn tcp_relay(ip: IpAddr) -> Relay {
    Relay::bind(tcp_config(ip)).expect("there are free ports")
}

/// Who says how many bytes go through an allocation.
type Limit = fn(&mut RelayConfig) -> &mut Option<Bandwidth>;

fn of_all(config: &mut RelayConfig) -> &mut Option<Bandwidth> {
    &mut config.limits.bandwidth
}

fn of_realm(config: &mut RelayConfig) -> &mut Option<Bandwidth> {
    &mut config.realm.bandwidth
}

/// A relay that lets so many bytes of an allocation through.
fn limited_relay(limit: Limit, bytes_per_second: u32, burst_bytes: u32) -> Relay {
    let mut config = tcp_config(v4());
    *limit(&mut config) = Some(Bandwidth {
        bytes_per_second,
        burst_bytes,
    });
    Relay::bind(config).expect("there are free ports")
}

fn tcp_config(ip: IpAddr) -> RelayConfig {
    RelayConfig {
        relay_tcp: true,
        ..relay_config(ip)
    }
}

/// What went through the only allocation.
fn traffic(relay: &Relay) -> Traffic {
    let page = relay.allocations(&AllocationFilter::default(), 0, 2);
    assert_eq!(page.total, 1);
    let (_, info) = &page.allocations[0];
    info.traffic
}

/// Bytes that went to peers and to clients.
fn of_node(relay: &Relay) -> (u64, u64) {
    let shards = relay.stats().shards;
    let to_peer = shards.iter().map(|shard| shard.turn.to_peer_bytes);
    let to_client = shards.iter().map(|shard| shard.turn.to_client_bytes);
    (to_peer.sum(), to_client.sum())
}

/// Waits until exactly so many bytes are counted for the only allocation and the node.
#[track_caller]
fn assert_counted(relay: &Relay, (to_peer, to_client): (u64, u64)) {
    let start = Instant::now();
    loop {
        let Traffic {
            to_peer: to_peer_now,
            to_client: to_client_now,
            ..
        } = traffic(relay);
        let counted = (to_peer_now.bytes, to_client_now.bytes);
        if counted == (to_peer, to_client) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{counted:?} are counted");
        std::thread::yield_now();
    }
    assert_eq!(of_node(relay), (to_peer, to_client));
}

/// Sends so many bytes, and checks that they come as they are.
#[track_caller]
fn assert_passes(from: &mut TcpStream, to: &mut TcpStream, len: usize) {
    let bytes: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
    let received = std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(&bytes).expect("it is open"));
        read(to, len)
    });
    assert!(received == bytes, "all of it came, in order");
}

fn joined(relay: &Relay, control: &mut Client<TcpStream>) -> (Client<TcpStream>, TcpStream) {
    let peer = TcpListener::bind("127.0.0.2:0").expect("loopback is there");
    let id = control.connect(local(&peer)).expect("the peer listens");
    let (peer_side, _) = peer.accept().expect("it was connected to");
    peer_side
        .set_read_timeout(Some(PATIENCE))
        .expect("it is not zero");
    let mut data = Client::tcp(relay);
    data.bind(id).expect("it waits");
    (data, peer_side)
}

/// Connects from a loopback IP that the client permits.
fn connect_from(ip: &str, at: SocketAddr, client: &mut Client<TcpStream>) -> TcpStream {
    let local = SocketAddr::new(ip.parse().expect("a literal"), 0);
    client.permit(local);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
        .expect("there are descriptors");
    socket.bind(&local.into()).expect("loopback is there");
    socket.connect(&at.into()).expect("it listens");
    let stream = TcpStream::from(socket);
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("it is not zero");
    stream
}

#[track_caller]
fn assert_talk(one: &mut impl Stream, other: &mut impl Stream) {
    one.write_all(b"there").expect("it is open");
    assert_eq!(read(other, 5), b"there");
    other.write_all(b"and back").expect("it is open");
    assert_eq!(read(one, 8), b"and back");
}

#[track_caller]
fn assert_over(mut stream: TcpStream) {
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("it is not zero");
    match stream.read(&mut [0; 1]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("it goes on: {other:?}"),
    }
}

#[track_caller]
fn read(stream: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).expect("it comes");
    bytes
}

fn local(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("it is bound")
}

fn stream_to(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).expect("the relay listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("it is not zero");
    stream.set_nodelay(true).expect("it is a socket");
    stream
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Alice, as far as RFC 6062 needs her.
struct Client<S> {
    stream: S,
    nonce: String,
    transaction: u8,
}

struct Reply(Vec<u8>);

impl Reply {
    fn message(&self) -> Message<'_> {
        Message::decode(&self.0).expect("it is well formed")
    }

    fn connection(&self) -> u32 {
        let ConnectionId(id) = self.message().required().expect("it is there");
        id
    }

    fn code(&self) -> Option<u16> {
        let code = self.message().attribute::<ErrorCode<'_>>();
        code.expect("it is well formed").map(|error| error.code())
    }
}

impl Client<TcpStream> {
    fn tcp(relay: &Relay) -> Self {
        Self::over(stream_to(relay.addrs().turn[0]))
    }
}

impl<S: Stream> Client<S> {
    fn over(stream: S) -> Self {
        Self {
            stream,
            nonce: String::new(),
            transaction: 0,
        }
    }

    fn allocate(&mut self) -> SocketAddr {
        let reply = self.ask(Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::TCP);
        });
        let reply = if reply.code() == Some(443) || reply.code() == Some(440) {
            self.ask(Method::ALLOCATE, |writer| {
                writer
                    .attribute(&RequestedTransport::TCP)
                    .attribute(&RequestedAddressFamily(tombolo_stun::AddressFamily::V6));
            })
        } else {
            reply
        };
        assert_eq!(reply.code(), None);
        let XorRelayedAddress(at) = reply.message().required().expect("it is there");
        at
    }

    fn permit(&mut self, peer: SocketAddr) {
        let reply = self.ask(Method::CREATE_PERMISSION, |writer| {
            writer.attribute(&XorPeerAddress(peer));
        });
        assert_eq!(reply.code(), None);
    }

    fn connect(&mut self, peer: SocketAddr) -> Result<u32, u16> {
        let reply = self.ask(Method::CONNECT, |writer| {
            writer.attribute(&XorPeerAddress(peer));
        });
        reply.code().map_or_else(|| Ok(reply.connection()), Err)
    }

    fn bind(&mut self, id: u32) -> Result<(), u16> {
        let reply = self.ask(Method::CONNECTION_BIND, |writer| {
            writer.attribute(&ConnectionId(id));
        });
        reply.code().map_or(Ok(()), Err)
    }

    /// Waits to be told of a peer's connection.
    fn attempt(&mut self) -> (u32, SocketAddr) {
        let reply = self.reply();
        let message = reply.message();
        assert_eq!(message.class(), Class::Indication);
        assert_eq!(message.method(), Method::CONNECTION_ATTEMPT);
        let ConnectionId(id) = message.required().expect("it is there");
        let XorPeerAddress(peer) = message.required().expect("it is there");
        (id, peer)
    }

    /// Asks, and again if that only brings a nonce.
    fn ask(&mut self, method: Method, write: impl Fn(&mut MessageWriter<'_>)) -> Reply {
        loop {
            let is_first = self.nonce.is_empty();
            let request = self.request(method, &write);
            self.stream.write_all(&request).expect("it is open");
            let reply = self.reply();
            if !is_first {
                return reply;
            }
            assert_eq!(reply.code(), Some(401));
            let nonce: Nonce<'_> = reply.message().required().expect("it is there");
            self.nonce = nonce.as_str().to_owned();
        }
    }

    fn request(&mut self, method: Method, write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.transaction += 1;
        let transaction = TransactionId([self.transaction; 12]);
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, transaction);
        write(&mut writer);
        if !self.nonce.is_empty() {
            writer
                .attribute(&Username::new("alice").expect("it is short"))
                .attribute(&Realm::new("tombolo").expect("it is short"))
                .attribute(&Nonce::new(&self.nonce).expect("it is short"))
                .integrity(&Key::long_term("alice", "tombolo", "alice's password"));
        }
        writer.finish();
        bytes
    }

    /// Reads one message and not a byte of what follows.
    fn reply(&mut self) -> Reply {
        let mut bytes = read(&mut self.stream, HEADER_BYTES);
        let len = frame_len(&bytes).expect("the server sends messages");
        let rest = len.expect("the header is whole") - HEADER_BYTES;
        bytes.extend(read(&mut self.stream, rest));
        Reply(bytes)
    }
}

const PATIENCE: Duration = Duration::from_secs(20);
