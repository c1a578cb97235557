//! ICMP errors on their way to clients, from the kernel and from those who make them up, whichever
//! way packets move. See RFC 8656 §11.5.

use std::{
    io::Read as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};
use tombolo_natlab::{in_namespace, ip_command};
use tombolo_relay::{IoMode, Relay, RelayConfig};
use tombolo_stun::{AttributeType, Class, Icmp, Message, Method, XorPeerAddress};
use tombolo_turn::server::Refusal;

use crate::{
    device::{Device, Echo, relay_config, v4},
    moving::start,
};

const WAYS: [IoMode; 2] = [IoMode::Sockets, IoMode::Steered];

#[test]
fn a_client_is_told_that_a_peers_port_is_closed_and_another_peer_misses_nothing() {
    in_namespace(|| {
        for io in WAYS {
            for ip in [v4(), Ipv6Addr::LOCALHOST.into()] {
                let relay = start(ip, io);
                let mut alice = Device::udp(&relay, "alice");
                alice.allocate();
                let living = Echo::start(ip);
                let closed = closed_port(ip);
                alice.bind(closed);
                alice.bind(living.address);
                for i in 0..8 {
                    alice.send(closed, b"anybody?");
                    alice.send(living.address, &[i]);
                }
                for i in 0..8 {
                    assert_eq!(alice.receive(), (living.address, vec![i]), "{io:?} {ip}");
                }
                let (kind, code) = if ip.is_ipv4() { (3, 3) } else { (1, 4) };
                let expected = (closed, icmp(kind, code, 0));
                assert_eq!(told(&mut alice), expected, "{io:?} {ip}");
                let stats = relay.stats();
                let lost: u64 = stats.shards.iter().map(|shard| shard.io.unsendable).sum();
                assert_eq!(lost, 0, "{io:?} {ip}");
            }
        }
    });
}

#[test]
fn a_client_over_a_stream_is_told_too() {
    in_namespace(|| {
        for io in WAYS {
            let relay = start(v4(), io);
            let mut alice = Device::tcp(&relay, "alice");
            alice.allocate();
            let closed = closed_port(v4());
            alice.bind(closed);
            alice.send(closed, b"anybody?");
            assert_eq!(told(&mut alice), (closed, icmp(3, 3, 0)), "{io:?}");
        }
    });
}

#[test]
fn a_client_is_told_how_big_its_datagrams_may_be_by_whichever_router() {
    in_namespace(|| {
        for io in WAYS {
            for (ip, at, expected) in [
                (v4(), "127.0.0.9", icmp(3, 4, 1400)),
                (Ipv6Addr::LOCALHOST.into(), "::1", icmp(2, 0, 1400)),
            ] {
                let relay = start(ip, io);
                let mut alice = Device::udp(&relay, "alice");
                let relayed = alice.allocate();
                let peer = Echo::start(ip);
                alice.bind(peer.address);
                let router = Router::at(at);
                router.send(relayed, &too_big(relayed, peer.address, 1400));
                assert_eq!(told(&mut alice), (peer.address, expected), "{io:?} {ip}");
            }
        }
    });
}

/// No router says so.
#[test]
fn a_client_is_told_that_what_must_not_be_cut_up_is_too_big_for_the_first_step() {
    in_namespace(|| {
        for io in WAYS {
            for (ip, expected) in [
                (v4(), icmp(3, 4, 1500)),
                (Ipv6Addr::LOCALHOST.into(), icmp(2, 0, 1500)),
            ] {
                let relay = start(ip, io);
                let peer = Echo::start(ip);
                // Frames of a stream leave one by one, and datagrams in batches.
                let mut devices = vec![Device::tcp(&relay, "alice")];
                if ip.is_ipv4() {
                    devices.push(Device::udp(&relay, "bob"));
                }
                for mut device in devices {
                    device.allocate();
                    device.bind(peer.address);
                    device.send(peer.address, b"before");
                    device.send_undivided(peer.address, &[7; 4000]);
                    assert_eq!(told(&mut device), (peer.address, expected), "{io:?} {ip}");
                }
            }
        }
    });
}

#[test]
fn errors_about_strangers_and_of_no_meaning_reach_nobody() {
    in_namespace(|| {
        for io in WAYS {
            let relay = start(v4(), io);
            let mut alice = Device::udp(&relay, "alice");
            let relayed = alice.allocate();
            let peer = Echo::start(v4());
            alice.bind(peer.address);
            let router = Router::at("127.0.0.9");
            let stranger = "127.0.0.3:9".parse().expect("a literal");
            router.send(relayed, &too_big(relayed, stranger, 1400));
            let nobodys = SocketAddr::new(relayed.ip(), relayed.port() ^ 1);
            router.send(relayed, &too_big(nobodys, peer.address, 1400));
            router.send(relayed, &too_big(relayed, peer.address, 1400)[..20]);
            router.send(relayed, &[3; 8]);
            router.send(relayed, &echo_request());
            // What is told first is the only one that means something.
            router.send(relayed, &too_big(relayed, peer.address, 1300));
            assert_eq!(told(&mut alice), (peer.address, icmp(3, 4, 1300)), "{io:?}");
            alice.send(peer.address, b"still here");
            assert_eq!(alice.receive(), (peer.address, b"still here".to_vec()));
            let refused = refused(&relay, Refusal::PeerNotPermitted);
            assert_eq!(refused, 1, "{io:?}");
        }
    });
}

#[test]
fn made_up_errors_are_told_a_few_times_in_a_second_and_hold_nothing_up() {
    in_namespace(|| {
        for io in WAYS {
            let relay = start(v4(), io);
            let mut alice = Device::udp(&relay, "alice");
            let relayed = alice.allocate();
            let peer = Echo::start(v4());
            alice.bind(peer.address);
            let router = Router::at("127.0.0.9");
            let error = too_big(relayed, peer.address, 68);
            let start = std::time::Instant::now();
            for i in 0..1000u32 {
                router.send(relayed, &error);
                if i % 100 == 0 {
                    let payload = i.to_be_bytes();
                    alice.send(peer.address, &payload);
                    assert_eq!(alice.receive(), (peer.address, payload.to_vec()));
                }
            }
            // What the kernel tells of may take a moment to get there.
            let mut told = 0;
            while told == 0 && start.elapsed() < TOLD_WITHIN_MAX {
                let shards = relay.stats().shards;
                told = shards.iter().map(|shard| shard.turn.icmp_errors).sum();
            }
            let seconds = start.elapsed().as_secs() + 2;
            assert!((1..=16 * seconds).contains(&told), "{io:?}: {told}");
        }
    });
}

/// Anybody can send one, and the kernel takes some of them for true.
#[test]
fn made_up_errors_have_no_packets_of_others_cut_up() {
    in_namespace(|| {
        // The way to peers, which are no hosts.
        ip_command(&["link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
        ip_command(&["address", "add", "10.9.0.1/16", "dev", "v0"]);
        ip_command(&["link", "set", "v0", "up"]);
        ip_command(&["link", "set", "v1", "up"]);
        for (io, last) in WAYS.into_iter().zip(8..) {
            // The kernel believes for ten minutes.
            let peer = Ipv4Addr::new(10, 9, 9, last).to_string();
            let mac = ["lladdr", "02:00:00:00:00:99", "dev", "v0"];
            ip_command(&[&["neigh", "add", &peer], &mac[..]].concat());
            assert_nothing_is_cut_up(io, format!("{peer}:9").parse().expect("it is one"));
        }
    });
}

fn assert_nothing_is_cut_up(io: IoMode, peer: SocketAddr) {
    let here = Ipv4Addr::new(10, 9, 0, 1).into();
    let relay = Relay::bind(RelayConfig {
        io,
        allow_peers: vec!["10.9.0.0/16".parse().expect("a literal")],
        ..relay_config(here)
    });
    let relay = relay.expect("steering is possible");
    let (mut alice, mut bob) = (Device::udp(&relay, "alice"), Device::udp(&relay, "bob"));
    alice.allocate();
    alice.bind(peer);
    let router = Router::at("10.9.0.1");

    let at_bob = bob.allocate();
    router.send(at_bob, &too_big(at_bob, peer, 552));
    let other = UdpSocket::bind((here, 0)).expect("there are free ports");
    let of_other = || lengths(peer, |payload| _ = other.send_to(payload, peer));
    assert_eq!(of_other(), [1228], "{io:?}: the kernel has not believed it");

    let at_other = other.local_addr().expect("it is bound");
    router.send(at_other, &too_big(at_other, peer, 552));
    assert_eq!(of_other(), [548, 548, 172], "{io:?}: it has this one");
    let of_alice = lengths(peer, |payload| alice.send(peer, payload));
    assert_eq!(of_alice, [1228], "{io:?}");
    let undivided = lengths(peer, |payload| alice.send_undivided(peer, payload));
    assert_eq!(undivided, [1228], "{io:?}");
}

/// Of IPv6 the kernel has to believe what it hears, since nobody else cuts up.
#[test]
fn made_up_errors_over_ipv6_lose_nothing_that_must_not_be_cut_up() {
    in_namespace(|| {
        ip_command(&["link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
        ip_command(&["address", "add", "fd09::1/64", "dev", "v0", "nodad"]);
        ip_command(&["link", "set", "v0", "up"]);
        ip_command(&["link", "set", "v1", "up"]);
        for (io, last) in WAYS.into_iter().zip(8..) {
            let peer = format!("fd09::9{last}");
            let mac = ["lladdr", "02:00:00:00:00:99", "dev", "v0"];
            ip_command(&[&["neigh", "add", &peer], &mac[..]].concat());
            let peer: SocketAddr = format!("[{peer}]:9").parse().expect("it is one");
            let here: IpAddr = "fd09::1".parse().expect("a literal");
            let relay = Relay::bind(RelayConfig {
                io,
                allow_peers: vec!["fd09::/64".parse().expect("a literal")],
                ..relay_config(here)
            });
            let relay = relay.expect("steering is possible");
            let mut alice = Device::tcp(&relay, "alice");
            let at_alice = alice.allocate();
            alice.bind(peer);
            let router = Router::at("fd09::1");
            let other = UdpSocket::bind((here, 0)).expect("there are free ports");
            let at_other = other.local_addr().expect("it is bound");
            for victim in [at_alice, at_other] {
                router.send(victim, &too_big(victim, peer, 1280));
            }
            let of_other = lengths(peer, |payload| _ = other.send_to(payload, peer));
            assert_eq!(of_other.len(), 2, "{io:?}: the kernel has this one");
            let undivided = lengths(peer, |payload| alice.send_undivided(peer, payload));
            assert_eq!(undivided, [40 + 8 + 1300], "{io:?}");
        }
    });
}

/// The lengths of the packets to a peer that bring a payload of 1200 bytes there, over IPv6 of 1300, and of
/// those before.
fn lengths(peer: SocketAddr, send: impl FnOnce(&[u8])) -> Vec<usize> {
    // What comes in at the other end of the way.
    let (kind, destination, bytes): (u16, _, u32) = match peer.ip() {
        IpAddr::V4(ip) => (0x0800, (16, ip.octets().to_vec()), 1200),
        IpAddr::V6(ip) => (0x86dd, (24, ip.octets().to_vec()), 1300),
    };
    let ip = Protocol::from(i32::from(kind.to_be()));
    let mut wire = Socket::new(Domain::PACKET, Type::DGRAM, Some(ip)).expect("it is permitted");
    let is_set = wire.set_read_timeout(Some(TOLD_WITHIN_MAX));
    is_set.expect("it is not zero");
    let payload: Vec<u8> = (0..bytes).map(|i| i as u8).collect();
    send(&payload);
    let (at, to) = destination;
    let mut lengths = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        let length = wire.read(&mut buffer).expect("it comes");
        let packet = &buffer[..length];
        if packet[at..].starts_with(&to) {
            lengths.push(length);
            if packet.ends_with(&payload[payload.len() - 50..]) {
                return lengths;
            }
        }
    }
}

/// Ends the wait where the test has failed already.
const TOLD_WITHIN_MAX: std::time::Duration = std::time::Duration::from_secs(30);

/// What the client is told next of an ICMP error: about whom, and what.
#[track_caller]
fn told(device: &mut Device) -> (SocketAddr, Icmp) {
    let indication = device.told(|bytes| {
        let Ok(message) = Message::decode(bytes) else {
            return false;
        };
        let is_data = (message.class(), message.method()) == (Class::Indication, Method::DATA);
        is_data && message.has(AttributeType::ICMP)
    });
    let message = Message::decode(&indication).expect("it was decoded before");
    let XorPeerAddress(peer) = message.required().expect("it says about whom");
    (peer, message.required().expect("it says what"))
}

fn icmp(icmp_type: u8, icmp_code: u16, mtu: u32) -> Icmp {
    Icmp {
        icmp_type,
        icmp_code,
        error_data: mtu.to_be_bytes(),
    }
}

fn refused(relay: &Relay, refusal: Refusal) -> u64 {
    let shards = relay.stats().shards;
    shards.iter().map(|shard| shard.turn.refused(refusal)).sum()
}

/// A port of which nobody listens, where peers may be.
fn closed_port(ip: IpAddr) -> SocketAddr {
    match ip {
        IpAddr::V4(_) => "127.0.0.2:9".parse().expect("a literal"),
        IpAddr::V6(_) => {
            let port = (61_000..=65_535).find(|port| UdpSocket::bind((ip, *port)).is_ok());
            SocketAddr::new(ip, port.expect("there are free ports"))
        }
    }
}

/// Somebody who sends ICMP.
struct Router(Socket);

impl Router {
    fn at(ip: &str) -> Self {
        let ip: IpAddr = ip.parse().expect("a literal");
        let (domain, protocol) = match ip {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol));
        let socket = socket.expect("the namespace is ours");
        let bound = socket.bind(&SocketAddr::new(ip, 0).into());
        bound.expect("loopback is there");
        Self(socket)
    }

    fn send(&self, to: SocketAddr, message: &[u8]) {
        let to = SocketAddr::new(to.ip(), 0);
        self.0
            .send_to(message, &to.into())
            .expect("loopback takes it");
    }
}

/// "Fragmentation needed" about a datagram, or "packet too big".
fn too_big(from: SocketAddr, to: SocketAddr, mtu: u16) -> Vec<u8> {
    let mut quoted = match from {
        SocketAddr::V4(_) => vec![0x45, 0, 5, 220, 0, 1, 0x40, 0, 64, 17, 0, 0],
        SocketAddr::V6(_) => vec![0x60, 0, 0, 0, 5, 200, 17, 64],
    };
    for address in [from, to] {
        match address.ip() {
            IpAddr::V4(ip) => quoted.extend(ip.octets()),
            IpAddr::V6(ip) => quoted.extend(ip.octets()),
        }
    }
    quoted.extend(from.port().to_be_bytes());
    quoted.extend(to.port().to_be_bytes());
    quoted.extend([5, 200, 0, 0]);
    let [high, low] = mtu.to_be_bytes();
    if from.is_ipv6() {
        // The kernel makes the checksum.
        return [&[2, 0, 0, 0, 0, 0, high, low], &quoted[..]].concat();
    }
    let message = [&[3, 4, 0, 0, 0, 0, high, low], &quoted[..]].concat();
    with_checksum(message)
}

fn echo_request() -> Vec<u8> {
    with_checksum(vec![8, 0, 0, 0, 0, 1, 0, 1])
}

/// See RFC 1071.
fn with_checksum(mut message: Vec<u8>) -> Vec<u8> {
    let words = message.chunks(2);
    let words = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    message
}
