//! Packets through the relay over UDP.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tombolo_natlab::in_namespace;
use tombolo_relay::{IoMode, Relay, RelayConfig};
use tombolo_turn::{client::Event, server::Refusal};

use crate::device::{Device, Echo, relay_config, shared_realm, v4};
use crate::moving;

#[test]
fn packets_reach_a_peer_and_come_back_over_ipv4() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    assert_echoes(&mut Device::udp(&relay, "alice"), v4());
}

#[test]
fn packets_reach_a_peer_and_come_back_over_ipv6() {
    let ip: IpAddr = Ipv6Addr::LOCALHOST.into();
    if UdpSocket::bind((ip, 0)).is_err() {
        eprintln!("skipped: this machine has no ::1");
        return;
    }
    let relay = Relay::bind(relay_config(ip)).expect("there are free ports");
    assert_echoes(&mut Device::udp(&relay, "alice"), ip);
}

#[test]
fn a_relay_that_listens_on_all_addresses_answers_from_the_one_that_was_asked() {
    let config = RelayConfig {
        relay_ips: vec![v4()],
        ..relay_config(Ipv4Addr::UNSPECIFIED.into())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let server: SocketAddr = ([127, 0, 0, 9], relay.addrs().turn[0].port()).into();
    assert_echoes(&mut Device::udp_to(server, "alice"), v4());
}

#[test]
fn time_limited_credentials_are_accepted_until_they_expire() {
    let config = RelayConfig {
        realm: shared_realm(),
        ..relay_config(v4())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let fresh = "4102444800:alice";
    let mut device = Device::udp_with(&relay, fresh, &time_limited_password("shared", fresh));
    device.allocate();

    let stale = "1:alice";
    let mut device = Device::udp_with(&relay, stale, &time_limited_password("shared", stale));
    device.event(|event| matches!(event, Event::Failed(_)));
}

#[test]
fn two_allocations_of_one_relay_exchange_packets() {
    for shards in [1, 2] {
        // Loopback is special and not allowed here: the relay's own relay ports still are.
        let config = RelayConfig {
            shards: Some(shards),
            allow_peers: Vec::new(),
            ..relay_config(v4())
        };
        let relay = Relay::bind(config).expect("there are free ports");
        let mut alice = Device::udp(&relay, "alice");
        let mut bob = Device::udp(&relay, "bob");
        let (alice_relayed, bob_relayed) = (alice.allocate(), bob.allocate());
        alice.bind(bob_relayed);
        bob.bind(alice_relayed);

        alice.send(bob_relayed, b"to bob");
        assert_eq!(bob.receive(), (alice_relayed, b"to bob".to_vec()));
        bob.send(alice_relayed, b"to alice");
        assert_eq!(alice.receive(), (bob_relayed, b"to alice".to_vec()));

        let handed_over: u64 = relay.stats().shards.iter().map(|s| s.io.handed_over).sum();
        assert_eq!(handed_over, 2, "the kernel does not lie between them");
    }
}

#[test]
fn allocations_on_different_shards_exchange_all_packets_in_memory_and_in_order() {
    let config = RelayConfig {
        shards: Some(2),
        allow_peers: Vec::new(),
        ..relay_config(v4())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let shard_of = |stats: &tombolo_relay::RelayStats| {
        let allocations = stats.shards.iter().map(|shard| shard.turn.allocations);
        allocations.collect::<Vec<_>>()
    };
    // The kernel spreads clients by their addresses, so some two of a few differ.
    let mut devices: Vec<(Device, SocketAddr, usize)> = Vec::new();
    while devices.iter().all(|device| device.2 == devices[0].2) {
        let before = shard_of(&relay.stats());
        let user = if devices.len() < 8 { "alice" } else { "bob" };
        let mut device = Device::udp(&relay, user);
        let relayed = device.allocate();
        let after = shard_of(&relay.stats());
        let shard = (0..2)
            .find(|i| after[*i] > before[*i])
            .expect("it is somewhere");
        devices.push((device, relayed, shard));
    }
    let (mut last, last_relayed, _) = devices.pop().expect("there are two at least");
    let (mut first, first_relayed, _) = devices.swap_remove(0);
    first.bind(last_relayed);
    last.bind(first_relayed);

    let payloads: Vec<Vec<u8>> = (0..100u8).map(|i| vec![i; 1 + usize::from(i)]).collect();
    for payload in &payloads {
        first.send(last_relayed, payload);
    }
    for payload in &payloads {
        assert_eq!(last.receive(), (first_relayed, payload.clone()));
    }
    let stats = relay.stats();
    let handed_over: u64 = stats.shards.iter().map(|shard| shard.io.handed_over).sum();
    assert_eq!(handed_over, 100);
}

#[test]
fn special_networks_are_denied_unless_they_are_allowed() {
    let config = RelayConfig {
        allow_peers: Vec::new(),
        ..relay_config(v4())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let mut device = Device::udp(&relay, "alice");
    device.allocate();
    for peer in [
        "127.0.0.1:9",
        "10.0.0.1:9",
        "169.254.1.1:9",
        "192.168.1.1:9",
        "224.0.0.1:9",
    ] {
        let peer: SocketAddr = peer.parse().expect("a literal");
        device.client.connect_peer(Instant::now(), peer);
        device.event(|event| *event == Event::PeerRefused { peer, code: 403 });
    }
}

#[test]
fn the_relays_own_service_ports_are_no_peers() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    let mut device = Device::udp(&relay, "alice");
    device.allocate();
    let peer = relay.addrs().turn[0];
    device.client.connect_peer(Instant::now(), peer);
    device.event(|event| *event == Event::PeerRefused { peer, code: 403 });
}

#[test]
fn no_range_of_relay_ports_opens_the_ports_that_the_machine_listens_at() {
    let other_service = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
    let other_service = other_service.local_addr().expect("it is bound");
    let config = RelayConfig {
        relay_ports: 1024..=65_535,
        own_ports: vec![other_service.port()],
        ..relay_config(v4())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let mut device = Device::udp(&relay, "alice");
    device.allocate();
    for peer in [
        relay.addrs().turn[0],
        relay.addrs().alternate[0],
        other_service,
    ] {
        device.client.connect_peer(Instant::now(), peer);
        device.event(|event| *event == Event::PeerRefused { peer, code: 403 });
    }
}

#[test]
fn an_introduction_lets_packets_flow_that_no_client_asked_for() {
    let config = RelayConfig {
        realm: shared_realm(),
        allow_peers: Vec::new(),
        ..relay_config(v4())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let [mut alice, mut bob] = ["4102444800:alice", "4102444800:bob"].map(|username| {
        let password = time_limited_password("shared", username);
        Device::udp_with(&relay, username, &password)
    });
    let (alice_relayed, bob_relayed) = (alice.allocate(), bob.allocate());

    assert!(relay.permit("alice", bob_relayed.ip()));
    assert!(relay.permit("bob", alice_relayed.ip()));
    // The answer to a question asked later proves that the permissions are in place.
    assert_eq!(relay.stats().shards.len(), 2);
    alice.send(bob_relayed, b"first");
    assert_eq!(bob.receive(), (alice_relayed, b"first".to_vec()));
}

#[test]
fn garbage_is_counted_and_hurts_nobody() {
    in_namespace(|| {
        for io in [IoMode::Sockets, IoMode::Steered] {
            assert_unhurt_by_garbage(&moving::start(v4(), io));
        }
    });
}

fn assert_unhurt_by_garbage(relay: &Relay) {
    let mut device = Device::udp(relay, "alice");
    let relayed = device.allocate();
    let attacker = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
    let mut sent = 0;
    for len in 0..600usize {
        let mut bytes = vec![0; len];
        getrandom::fill(&mut bytes).expect("the system has randomness");
        if let Some(first) = bytes.first_mut() {
            // A quarter each of STUN, channel data and the two that are nothing.
            *first = (*first & 0x3f) | (((len % 4) as u8) << 6);
        }
        for target in [relay.addrs().turn[0], relay.addrs().alternate[0], relayed] {
            attacker.send_to(&bytes, target).expect("loopback takes it");
            sent += 1;
        }
        if len % 16 == 0 {
            device.turn();
        }
    }
    let echo = Echo::start(v4());
    device.bind(echo.address);
    device.send(echo.address, b"still here");
    assert_eq!(device.receive(), (echo.address, b"still here".to_vec()));

    let stats = relay.stats();
    let refused = |refusal| {
        stats
            .shards
            .iter()
            .map(|s| s.turn.refused(refusal))
            .sum::<u64>()
    };
    assert!(refused(Refusal::NotStun) > 100, "of {sent}: {stats:?}");
    assert!(
        refused(Refusal::PeerNotPermitted) > 100,
        "of {sent}: {stats:?}"
    );
}

#[test]
fn a_flood_at_one_relay_port_does_not_starve_the_others() {
    in_namespace(|| {
        for io in [IoMode::Sockets, IoMode::Steered] {
            let config = RelayConfig {
                shards: Some(1),
                io,
                ..relay_config(v4())
            };
            let relay = Relay::bind(config).expect("steering is possible");
            let mut alice = Device::udp(&relay, "alice");
            let mut bob = Device::udp(&relay, "bob");
            let echo = Echo::start(v4());
            alice.allocate();
            alice.bind(echo.address);
            flooding(bob.allocate(), || {
                for payload in (0..200).map(|i| vec![i; 100]) {
                    // Where all ports share one buffer, a flood takes of others' what it takes on the way, too.
                    if io == IoMode::Steered {
                        alice.send_until_echoed(echo.address, &payload);
                    } else {
                        alice.send(echo.address, &payload);
                        assert_eq!(alice.receive(), (echo.address, payload));
                    }
                }
            });
            let stats = relay.stats();
            let refused = stats.shards[0].turn.refused(Refusal::PeerNotPermitted);
            assert!(refused > 0, "{stats:?}");
        }
    });
}

/// Does something while an address is sent as much as one thread can.
fn flooding(to: SocketAddr, meanwhile: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    let begin = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let attacker = UdpSocket::bind("127.0.0.3:0").expect("loopback is there");
            let _ = attacker.send_to(&[0; 1200], to);
            begin.wait();
            let start = Instant::now();
            while !is_over.load(Ordering::Relaxed) && start.elapsed() < FLOOD_TIME_MAX {
                // What does not fit is lost, as it would be on the way.
                let _ = attacker.send_to(&[0; 1200], to);
            }
        });
        begin.wait();
        meanwhile();
        is_over.store(true, Ordering::Relaxed);
    })
}

#[test]
fn a_released_allocation_frees_its_port() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    let mut device = Device::udp(&relay, "alice");
    let relayed = device.allocate();
    let ports = || {
        relay
            .stats()
            .shards
            .iter()
            .map(|s| s.io.relay_ports)
            .sum::<u64>()
    };
    assert_eq!(ports(), 1);
    device.client.close(Instant::now());
    device.event(|event| *event == Event::Closed);
    assert_eq!(ports(), 0);
    UdpSocket::bind(relayed).expect("the port is free again");
}

#[test]
fn a_public_ip_is_what_clients_are_told() {
    let public: IpAddr = "203.0.113.77".parse().expect("a literal");
    let config = RelayConfig {
        public_ips: vec![(v4(), public)],
        shards: Some(1),
        ..relay_config(v4())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let mut alice = Device::udp(&relay, "alice");
    let mut bob = Device::udp(&relay, "bob");
    let (alice_relayed, bob_relayed) = (alice.allocate(), bob.allocate());
    assert_eq!((alice_relayed.ip(), bob_relayed.ip()), (public, public));

    alice.bind(bob_relayed);
    bob.bind(alice_relayed);
    alice.send(bob_relayed, b"around the corner");
    assert_eq!(
        bob.receive(),
        (alice_relayed, b"around the corner".to_vec())
    );
}

fn assert_echoes(device: &mut Device, ip: IpAddr) {
    let echo = Echo::start(ip);
    device.allocate();
    // First as Send and Data indications, then on a channel.
    device.client.connect_peer(Instant::now(), echo.address);
    device.event(|event| *event == Event::ChannelBound(echo.address));
    for len in [0, 1, 3, 100, 1200, 9000] {
        let payload = vec![len as u8; len];
        device.send(echo.address, &payload);
        assert_eq!(device.receive(), (echo.address, payload));
    }
}

fn time_limited_password(secret: &str, username: &str) -> String {
    tombolo_turn::server::password_of(secret.as_bytes(), username)
}

/// Ends the flood where the test has failed already.
const FLOOD_TIME_MAX: Duration = Duration::from_secs(30);
