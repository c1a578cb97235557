//! TURN over TCP and TLS.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tombolo_relay::{IoStats, Relay, RelayConfig, ShardStats, StreamStats};
use tombolo_stun::{Method, RequestedTransport};
use tombolo_turn::{client::Event, server::Transport};

use crate::asker::{Asker, code};
use crate::device::{Device, Echo, Link, connect_from, relay_config, relay_with_tls, v4};

#[test]
fn packets_travel_over_tcp() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    assert_echoes(Device::tcp(&relay, "alice"));
    assert_eq!(relay.stats().streams.accepted, 1);
}

#[test]
fn packets_travel_over_tls() {
    let (relay, trust) = relay_with_tls(relay_config(v4()));
    assert_echoes(Device::tls(&relay, "alice", trust));
}

#[test]
fn udp_and_tcp_clients_reach_each_other() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    let mut alice = Device::udp(&relay, "alice");
    let mut bob = Device::tcp(&relay, "bob");
    let (alice_relayed, bob_relayed) = (alice.allocate(), bob.allocate());
    alice.bind(bob_relayed);
    bob.bind(alice_relayed);
    alice.send(bob_relayed, b"to bob");
    assert_eq!(bob.receive(), (alice_relayed, b"to bob".to_vec()));
    bob.send(alice_relayed, b"to alice");
    assert_eq!(alice.receive(), (bob_relayed, b"to alice".to_vec()));
}

#[test]
fn a_closed_connection_ends_its_allocation() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    let mut device = Device::tcp(&relay, "alice");
    device.allocate();
    let ports = || {
        relay
            .stats()
            .shards
            .iter()
            .map(|s| s.io.relay_ports)
            .sum::<u64>()
    };
    assert_eq!(ports(), 1);
    drop(device);
    wait_until(|| ports() == 0);
}

#[test]
fn connections_from_one_source_are_limited() {
    let config = RelayConfig {
        connections_per_source_max: 2,
        ..relay_config(v4())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let kept: Vec<TcpStream> = (0..2).map(|_| connect(&relay)).collect();
    wait_for(&relay, |streams| streams.open == 2);
    assert_closed(connect(&relay));
    drop(kept);
    wait_for(&relay, |streams| streams.open == 0 && streams.refused == 1);
    Device::tcp(&relay, "alice").allocate();
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let config = RelayConfig {
        first_frame_timeout: Duration::from_millis(50),
        ..relay_config(v4())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let mut slow = connect(&relay);
    slow.write_all(&[0, 1, 0]).expect("the connection is open");
    assert_closed(slow);
    wait_for(&relay, |streams| streams.timed_out == 1);
}

#[test]
fn only_a_client_with_an_allocation_may_be_silent() {
    let config = RelayConfig {
        allocation_timeout: Duration::from_millis(500),
        ..relay_config(v4())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let mut silent = Device::tcp(&relay, "alice");
    silent.allocate();
    let mut idle = connect(&relay);
    idle.write_all(BINDING_REQUEST)
        .expect("the connection is open");
    idle.read_exact(&mut [0; 32]).expect("it is answered");
    assert_closed(idle);
    let echo = Echo::start(v4());
    silent.bind(echo.address);
}

#[test]
fn frames_do_not_keep_a_connection_open_that_gets_no_allocation() {
    let config = RelayConfig {
        allocation_timeout: Duration::from_millis(200),
        ..relay_config(v4())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let mut busy = connect(&relay);
    let mut ask = || {
        busy.write_all(BINDING_REQUEST)?;
        busy.read_exact(&mut [0; 32])
    };
    ask().expect("it is answered at first");
    wait_until(|| ask().is_err());
    wait_for(&relay, |streams| streams.timed_out == 1);
}

#[test]
fn a_connection_that_is_not_turn_is_closed() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    let mut web = connect(&relay);
    // The beginning of a TLS handshake, on the port that has none.
    web.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1])
        .expect("the connection is open");
    assert_closed(web);
    wait_for(&relay, |streams| streams.malformed == 1);
}

#[test]
fn a_client_that_stops_reading_loses_packets_and_then_its_connection() {
    let config = RelayConfig {
        write_timeout: Duration::from_millis(100),
        ..relay_config(v4())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let mut deaf = Device::tcp(&relay, "alice");
    let mut sender = Device::udp(&relay, "bob");
    let (at_deaf, at_sender) = (deaf.allocate(), sender.allocate());
    deaf.bind(at_sender);
    sender.bind(at_deaf);
    wait_until(|| {
        for _ in 0..100 {
            sender.send(at_deaf, &[7; 1200]);
        }
        relay.stats().streams.slow_readers == 1
    });
    let stats = relay.stats();
    let dropped: u64 = stats
        .shards
        .iter()
        .map(|s| s.io.stream_frames_dropped)
        .sum();
    assert!(dropped > 0, "{stats:?}");
    Device::tcp(&relay, "alice").allocate();
}

#[test]
fn a_peer_that_floods_a_slow_client_does_not_cost_it_its_connection() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    let mut slow = Device::tcp(&relay, "alice");
    let relayed = slow.allocate();
    let peer = UdpSocket::bind("127.0.0.2:0").expect("loopback is there");
    slow.bind(peer.local_addr().expect("it is bound"));
    let counted = |count: fn(&IoStats) -> u64| -> u64 {
        let stats = relay.stats();
        stats.shards.iter().map(|shard| count(&shard.io)).sum()
    };
    let flood = || {
        let before = counted(|io| io.stream_frames_dropped);
        wait_until(|| {
            for _ in 0..100 {
                peer.send_to(&[7; 172], relayed).expect("loopback takes it");
            }
            counted(|io| io.stream_frames_dropped) > before
        });
    };
    for other in 3..8 {
        flood();
        let other = SocketAddr::from(([127, 0, 0, other], 9));
        slow.client.connect_peer(Instant::now(), other);
        let before = counted(|io| io.stream_frames);
        slow.send_due();
        wait_until(|| counted(|io| io.stream_frames) > before);
        flood();
        slow.event(|event| *event == Event::ChannelBound(other));
    }
}

#[test]
fn a_failed_handshake_is_counted() {
    let (relay, _) = relay_with_tls(relay_config(v4()));
    let mut wrong = TcpStream::connect(relay.addrs().turns[0]).expect("the relay listens");
    wrong
        .write_all(&[&[0x16], BINDING_REQUEST].concat())
        .expect("the connection is open");
    wait_for(&relay, |streams| streams.tls_failed == 1);
}

#[test]
fn plain_and_tls_are_told_apart_at_every_address() {
    let (relay, trust) = relay_with_tls(relay_config(v4()));
    let addrs = relay.addrs();
    for server in [addrs.turn[0], addrs.turns[0]] {
        let tcp = (Link::tcp(server), Transport::Tcp);
        let tls = (Link::tls(v4(), server, trust.clone()), Transport::Tls);
        for (link, transport) in [tcp, tls] {
            assert_echoes(Device::over(link, transport, server, "alice"));
        }
    }
    assert_eq!(relay.stats().streams.tls_failed, 0);
}

#[test]
fn handshakes_with_one_source_are_limited() {
    let (relay, trust) = relay_with_tls(RelayConfig {
        handshakes_per_source_max: 2,
        ..relay_config(v4())
    });
    let begin = || {
        let mut stream = TcpStream::connect(relay.addrs().turns[0]).expect("the relay listens");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("it is not zero");
        stream.write_all(&[0x16]).expect("the connection is open");
        stream
    };
    let kept = [begin(), begin()];
    wait_for(&relay, |streams| streams.handshakes == 2);
    assert_closed(begin());
    wait_for(&relay, |streams| streams.handshakes_refused == 1);
    drop(kept);
    wait_for(&relay, |streams| streams.handshakes == 0);
    Device::tls(&relay, "alice", trust).allocate();
}

/// The thread that makes handshakes serves all streams.
#[test]
fn a_source_whose_tls_handshakes_fail_at_once_leaves_some_for_others() {
    let (relay, trust) = relay_with_tls(RelayConfig {
        handshakes_per_second_max: 10,
        ..relay_config(v4())
    });
    let start = Instant::now();
    while relay.stats().streams.handshakes_refused == 0 {
        for _ in 0..16 {
            let stream = connect_from(v4(), relay.addrs().turns[0]);
            // Those that are refused may be gone already.
            let _ = (&stream).write_all(&[0x16]);
        }
        assert!(start.elapsed() < PATIENCE, "all handshakes are begun");
    }
    let elsewhere = Ipv4Addr::new(127, 9, 0, 1).into();
    Device::tls_from(elsewhere, &relay, "alice", trust).allocate();
}

#[test]
fn frames_may_arrive_in_pieces_and_together() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    let mut stream = connect(&relay);
    let three = BINDING_REQUEST.repeat(3);
    for piece in three.chunks(7) {
        stream.write_all(piece).expect("the connection is open");
    }
    let mut replies = [0; 3 * 32];
    stream.read_exact(&mut replies).expect("each is answered");
    for reply in replies.chunks(32) {
        assert_eq!(reply[..4], [0x01, 0x01, 0x00, 0x0c]);
    }
}

#[test]
fn a_client_that_sends_nothing_more_gets_its_answers_over_tcp_and_tls() {
    let (relay, trust) = relay_with_tls(relay_config(v4()));
    let server = relay.addrs().turn[0];
    for link in [Link::tcp(server), Link::tls(v4(), server, trust)] {
        let mut client = Asker::over(link);
        for _ in 0..3 {
            client.link.send(BINDING_REQUEST);
        }
        client.link.finish();
        for _ in 0..3 {
            assert_eq!(client.receive()[..2], [0x01, 0x01]);
        }
        client.link.wait_for_end();
    }
    wait_for(&relay, |streams| streams.open == 0);
}

#[test]
fn a_client_that_sends_nothing_more_keeps_no_allocation() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    let mut client = Asker::over(Link::tcp(relay.addrs().turn[0]));
    client.ask_last(Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    assert_eq!(code(&client.receive()), None);
    client.link.wait_for_end();
    let ports = |shard: &ShardStats| shard.io.relay_ports;
    wait_until(|| relay.stats().shards.iter().map(ports).sum::<u64>() == 0);
}

/// See RFC 8489 §6.2.2.
#[test]
fn a_client_that_hangs_up_before_its_answer_is_not_called_back() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    let (mut client, listener) = connect_and_listen(relay.addrs().turn[0]);
    client
        .write_all(BINDING_REQUEST)
        .expect("the connection is open");
    drop(client);
    wait_until(|| {
        let shards = relay.stats().shards;
        shards.iter().map(|shard| shard.turn.replies).sum::<u64>() == 1
    });
    wait_for(&relay, |streams| streams.open == 0);
    // Whatever the server had to do for the first one comes before what the next one gets.
    Device::tcp(&relay, "alice").allocate();
    listener.set_nonblocking(true).expect("it can be");
    let called = listener.accept().map(|(_, from)| from);
    assert!(called.is_err(), "{called:?}");
}

/// A connection to a server, and who listens at its own address.
fn connect_and_listen(server: SocketAddr) -> (TcpStream, TcpListener) {
    let reusable = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are descriptors");
        socket.set_reuse_address(true).expect("it can be");
        socket
    };
    let (client, listener) = (reusable(), reusable());
    let any = SocketAddr::new(v4(), 0);
    client.bind(&any.into()).expect("there are free ports");
    client.connect(&server.into()).expect("the relay listens");
    let address = client.local_addr().expect("it is bound");
    listener.bind(&address).expect("nobody listens there");
    listener.listen(1).expect("it is bound");
    (client.into(), listener.into())
}

fn assert_echoes(mut device: Device) {
    let echo = Echo::start(v4());
    device.allocate();
    device.bind(echo.address);
    for len in [0, 1, 2, 3, 4, 1200, 30_000] {
        let payload = vec![len as u8; len];
        device.send(echo.address, &payload);
        assert_eq!(device.receive(), (echo.address, payload));
    }
}

fn connect(relay: &Relay) -> TcpStream {
    let stream = TcpStream::connect(relay.addrs().turn[0]).expect("the relay listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("it is not zero");
    stream
}

#[track_caller]
pub(crate) fn assert_closed(mut stream: TcpStream) {
    let result = stream.read(&mut [0; 1]);
    let is_reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    assert!(
        matches!(&result, Ok(0)) || result.as_ref().is_err_and(is_reset),
        "{result:?}"
    );
}

#[track_caller]
pub(crate) fn wait_for(relay: &Relay, is_true: impl Fn(&StreamStats) -> bool) {
    wait_until(|| is_true(&relay.stats().streams));
}

#[track_caller]
fn wait_until(mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < PATIENCE, "it did not happen");
        std::thread::yield_now();
    }
}

const BINDING_REQUEST: &[u8] = &[
    0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
];
const PATIENCE: Duration = Duration::from_secs(20);
