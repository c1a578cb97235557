//! The ways to move packets, each in a network namespace of its own with a short MTU.

use std::{
    net::{IpAddr, Ipv6Addr, UdpSocket},
    time::{Duration, Instant},
};

use dimpl::Dtls;
use tombolo_natlab::{in_namespace, ip_command};
use tombolo_relay::{BindError, IoMode, Relay, RelayConfig, RelayStats, SteeringError};
use tombolo_turn::{client::Event, server::Transport};

use crate::device::{Device, Echo, Link, certificate, relay_config, v4};

#[test]
fn steered_packets_reach_a_peer_and_come_back_over_ipv4_and_ipv6() {
    in_namespace(|| {
        for ip in [v4(), Ipv6Addr::LOCALHOST.into()] {
            let relay = start(ip, IoMode::Steered);
            let echo = Echo::start(ip);
            let mut alice = Device::udp(&relay, "alice");
            alice.allocate();
            alice.bind(echo.address);
            for payload in [&b"hello"[..], b"", b"odd"] {
                alice.send(echo.address, payload);
                assert_eq!(alice.receive(), (echo.address, payload.to_vec()));
            }
            let io = sum(&relay.stats());
            assert_eq!(
                (io.unsendable, io.receive_errors, io.relay_ports),
                (0, 0, 1)
            );
        }
    });
}

#[test]
fn steered_ports_are_in_no_socket_table_and_relay_for_streams_too() {
    in_namespace(|| {
        let relay = start(v4(), IoMode::Steered);
        let echo = Echo::start(v4());
        let sockets = socket_count();
        let mut devices: Vec<Device> = (0..4).map(|_| Device::tcp(&relay, "alice")).collect();
        for device in &mut devices {
            device.allocate();
            device.bind(echo.address);
            device.send(echo.address, b"through a stream");
            assert_eq!(
                device.receive(),
                (echo.address, b"through a stream".to_vec())
            );
        }
        assert_eq!(socket_count(), sockets, "an allocation takes no socket");
    });
}

#[test]
fn clients_over_tcp_tls_and_dtls_are_relayed_for_over_ipv4_and_ipv6_whichever_way_packets_take() {
    in_namespace(|| {
        for io in [IoMode::Sockets, IoMode::Steered] {
            for ip in [v4(), Ipv6Addr::LOCALHOST.into()] {
                let (tls, trust) = certificate();
                let config = RelayConfig {
                    io,
                    tls: Some(tls),
                    ..relay_config(ip)
                };
                let relay = Relay::bind(config).expect("steering is possible");
                let echo = Echo::start(ip);
                let server = relay.addrs().turn[0];
                for (link, transport) in [
                    (Link::tcp(server), Transport::Tcp),
                    (Link::tls(ip, server, trust), Transport::Tls),
                    (Link::dtls(Dtls::new_12, server), Transport::Dtls),
                    (Link::dtls(Dtls::new_13, server), Transport::Dtls),
                ] {
                    let mut alice = Device::over(link, transport, server, "alice");
                    assert_eq!(alice.allocate().ip(), ip);
                    alice.bind(echo.address);
                    for payload in [&b"hello"[..], b"odd", &[7; 1100]] {
                        alice.send(echo.address, payload);
                        let received = alice.receive();
                        assert_eq!(received, (echo.address, payload.to_vec()), "{transport:?}");
                    }
                }
                let counts = sum(&relay.stats());
                assert_eq!(
                    (counts.unsendable, counts.receive_errors),
                    (0, 0),
                    "{io:?} {ip}"
                );
            }
        }
    });
}

#[test]
fn bursts_with_a_shorter_end_arrive_whole_and_in_order_both_ways() {
    in_namespace(|| {
        for io in [IoMode::Sockets, IoMode::Steered] {
            let relay = start(v4(), io);
            let mut alice = Device::udp(&relay, "alice");
            let relayed = alice.allocate();
            let peer = UdpSocket::bind("127.0.0.2:0").expect("loopback is there");
            peer.set_read_timeout(Some(PATIENCE))
                .expect("it is not zero");
            let address = peer.local_addr().expect("it is bound");
            alice.bind(address);

            let payloads: Vec<Vec<u8>> = (0..16)
                .map(|i| vec![i; if i == 15 { 33 } else { 200 }])
                .collect();
            alice.send_burst(address, &payloads);
            for payload in &payloads {
                let mut buffer = [0; 2048];
                let (len, from) = peer.recv_from(&mut buffer).expect("it arrives");
                assert_eq!((&buffer[..len], from), (&payload[..], relayed));
            }
            crate::device::send_segments(&peer, relayed, &payloads);
            for payload in &payloads {
                assert_eq!(alice.receive(), (address, payload.clone()));
            }
            let counts = sum(&relay.stats());
            assert!(counts.sent_in_trains >= 32, "{io:?}: {counts:?}");
            assert_eq!(counts.unsendable + counts.too_long + counts.congested, 0);
        }
    });
}

#[test]
fn datagrams_longer_than_the_way_are_cut_up_whichever_way_they_take() {
    in_namespace(|| {
        for io in [IoMode::Sockets, IoMode::Steered] {
            for ip in [v4(), Ipv6Addr::LOCALHOST.into()] {
                let relay = start(ip, io);
                let echo = Echo::start(ip);
                let mut alice = Device::udp(&relay, "alice");
                alice.allocate();
                alice.bind(echo.address);
                let long: Vec<u8> = (0..4000u32).map(|i| i as u8).collect();
                alice.send(echo.address, &long);
                assert_eq!(alice.receive(), (echo.address, long));
                assert_eq!(sum(&relay.stats()).too_long, 0, "{io:?} {ip}");
            }
        }
    });
}

#[test]
fn datagrams_that_must_not_be_cut_up_are_not_whichever_way_they_take() {
    in_namespace(|| {
        for io in [IoMode::Sockets, IoMode::Steered] {
            for ip in [v4(), Ipv6Addr::LOCALHOST.into()] {
                let relay = start(ip, io);
                let echo = Echo::start(ip);
                let mut alice = Device::tcp(&relay, "alice");
                alice.allocate();
                alice.bind(echo.address);
                alice.send_undivided(echo.address, &[7; 4000]);
                alice.send_undivided(echo.address, b"short");
                assert_eq!(alice.receive(), (echo.address, b"short".to_vec()));
                assert_eq!(sum(&relay.stats()).too_long, 1, "{io:?} {ip}");
            }
        }
    });
}

#[test]
fn nothing_is_steered_any_more_when_the_relay_has_ended() {
    in_namespace(|| {
        let relay = start(v4(), IoMode::Steered);
        let mut alice = Device::udp(&relay, "alice");
        let relayed = alice.allocate();
        relay.shutdown();

        let successor = UdpSocket::bind(relayed).expect("the port is free");
        successor
            .set_read_timeout(Some(PATIENCE))
            .expect("it is not zero");
        let peer = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
        peer.send_to(b"for the next one", relayed)
            .expect("loopback takes it");
        let mut buffer = [0; 64];
        let (len, _) = successor.recv_from(&mut buffer).expect("it arrives");
        assert_eq!(&buffer[..len], b"for the next one");
    });
}

#[test]
fn a_port_that_a_steered_allocation_gave_back_steers_nothing() {
    in_namespace(|| {
        let relay = start(v4(), IoMode::Steered);
        let mut alice = Device::udp(&relay, "alice");
        let relayed = alice.allocate();
        alice.client.close(Instant::now());
        let start = Instant::now();
        while sum(&relay.stats()).relay_ports > 0 {
            alice.turn();
            assert!(start.elapsed() < PATIENCE, "the allocation did not end");
        }
        let successor = UdpSocket::bind(relayed).expect("the port is free");
        successor
            .set_read_timeout(Some(PATIENCE))
            .expect("it is not zero");
        let peer = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
        peer.send_to(b"not for the relay", relayed)
            .expect("loopback takes it");
        let mut buffer = [0; 64];
        let (len, _) = successor.recv_from(&mut buffer).expect("it arrives");
        assert_eq!(&buffer[..len], b"not for the relay");
    });
}

#[test]
fn ports_that_other_programs_have_are_not_steered_away_from_them() {
    in_namespace(|| {
        let other = UdpSocket::bind("127.0.0.1:61000").expect("the port is free");
        other
            .set_read_timeout(Some(PATIENCE))
            .expect("it is not zero");
        let config = RelayConfig {
            relay_ports: 61_000..=61_001,
            shards: Some(1),
            io: IoMode::Steered,
            ..relay_config(v4())
        };
        let relay = Relay::bind(config).expect("steering is possible");
        let mut alice = Device::udp(&relay, "alice");
        assert_eq!(alice.allocate().port(), 61_001);
        let peer = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
        peer.send_to(b"hello", "127.0.0.1:61000")
            .expect("loopback takes it");
        let mut buffer = [0; 64];
        let (len, _) = other.recv_from(&mut buffer).expect("it arrives");
        assert_eq!(&buffer[..len], b"hello");
    });
}

#[test]
fn a_steered_port_that_another_socket_has_is_passed_over_and_is_no_error() {
    in_namespace(|| {
        let _other = UdpSocket::bind("127.0.0.1:61000").expect("the port is free");
        let config = RelayConfig {
            // It is the only choice.
            relay_ports: 61_000..=61_000,
            io: IoMode::Steered,
            ..relay_config(v4())
        };
        let relay = Relay::bind(config).expect("steering is possible");
        let mut alice = Device::udp(&relay, "alice");
        alice.event(|event| matches!(event, Event::Failed(_)));
        assert_eq!(sum(&relay.stats()).relay_port_errors, 0);
    });
}

#[test]
fn a_second_relay_that_would_steer_the_same_ip_is_told_so() {
    in_namespace(|| {
        let _first = start(v4(), IoMode::Steered);
        let config = RelayConfig {
            io: IoMode::Steered,
            ..relay_config(v4())
        };
        let second = Relay::bind(config).map(|_| ());
        assert!(
            matches!(
                second,
                Err(BindError::NoSteering(SteeringError::InUse(ip))) if ip == v4()
            ),
            "{second:?}"
        );
    });
}

#[test]
fn a_relay_left_to_itself_steers_unless_the_ip_is_everybodys() {
    in_namespace(|| {
        assert_eq!(start(v4(), IoMode::Auto).io(), IoMode::Sockets);
        ip_command(&["address", "add", "192.0.2.1/32", "dev", "lo"]);
        let ip = "192.0.2.1".parse().expect("a literal");
        let relay = start(ip, IoMode::Auto);
        assert_eq!(relay.io(), IoMode::Steered);
        assert_eq!(start(ip, IoMode::Sockets).io(), IoMode::Sockets);
    });
}

#[test]
fn programs_of_the_machine_are_not_reached_at_a_relay_ip_and_other_clients_are() {
    in_namespace(|| {
        ip_command(&["address", "add", "192.0.2.1/32", "dev", "lo"]);
        let ip = "192.0.2.1".parse().expect("a literal");
        let program = UdpSocket::bind((ip, 61_500)).expect("the port is free");
        for io in [IoMode::Sockets, IoMode::Steered] {
            let relay = start(ip, io);
            let mut alice = Device::udp(&relay, "alice");
            let mut bob = Device::udp(&relay, "bob");
            let (at_alice, at_bob) = (alice.allocate(), bob.allocate());
            let address = program.local_addr().expect("it is bound");
            alice.bind(address);
            alice.bind(at_bob);
            bob.bind(at_alice);
            alice.send(address, b"for nobody");
            // What came before the second one has been sent, if it was to be sent.
            for payload in [b"to bob", b"to him"] {
                alice.send(at_bob, payload);
                assert_eq!(bob.receive(), (at_alice, payload.to_vec()));
            }
            program.set_nonblocking(true).expect("it can be");
            let received = program.recv(&mut [0; 64]);
            assert!(received.is_err(), "{io:?}: {received:?}");
        }
    });
}

pub(crate) fn start(ip: IpAddr, io: IoMode) -> Relay {
    let config = RelayConfig {
        io,
        ..relay_config(ip)
    };
    let relay = Relay::bind(config).expect("steering is possible");
    assert!(io == IoMode::Auto || relay.io() == io);
    relay
}

/// What all shards have counted.
fn sum(stats: &RelayStats) -> tombolo_relay::IoStats {
    let mut sum = tombolo_relay::IoStats::default();
    for shard in &stats.shards {
        sum.sent_in_trains += shard.io.sent_in_trains;
        sum.congested += shard.io.congested;
        sum.too_long += shard.io.too_long;
        sum.unsendable += shard.io.unsendable;
        sum.receive_errors += shard.io.receive_errors;
        sum.relay_ports += shard.io.relay_ports;
        sum.relay_port_errors += shard.io.relay_port_errors;
    }
    sum
}

/// UDP sockets in this namespace.
fn socket_count() -> usize {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    let tables = ["udp", "udp6"].map(|name| read(name).expect("procfs is there"));
    tables.iter().map(|table| table.lines().count()).sum()
}

const PATIENCE: Duration = Duration::from_secs(20);
