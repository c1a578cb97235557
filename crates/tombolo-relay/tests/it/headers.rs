//! The headers of relayed packets, as whoever listens on the way sees them.

use std::{
    io::Read as _,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tombolo_natlab::in_namespace;
use tombolo_relay::{IoMode, Relay, RelayConfig};
use tombolo_turn::client::Family;

use crate::device::{Device, Echo, MARK_CLASS, MARK_HOPS, mark, relay_config, v4};

/// The alternate behaviour of RFC 8656 §13 and §14, whatever the packets that come are marked with.
#[test]
fn nothing_in_a_header_is_of_the_packet_that_came_whichever_families_and_way() {
    in_namespace(|| {
        for io in [IoMode::Sockets, IoMode::Steered] {
            for server in [v4(), v6()] {
                for (family, peer) in [(Family::V4, v4()), (Family::V6, v6())] {
                    assert_headers_are_our_own(&start(server, io), family, peer);
                }
            }
        }
    });
}

fn assert_headers_are_our_own(relay: &Relay, family: Family, peer: IpAddr) {
    let mut wire = tap();
    let mut device = Device::marked(relay, "alice", family);
    let server = relay.addrs().turn[0];
    let peer = Echo::socket(peer);
    mark(&peer);
    let address = peer.local_addr().expect("it is bound");
    let relayed = device.allocate();
    device.bind(address);

    device.send(address, b"to the peer");
    let to_peer = header(&mut wire, relayed, b"to the peer");
    assert_eq!(class_and_hops(&to_peer), PLAIN, "to the peer");
    assert!(!is_undivided(&to_peer));

    let sent = peer.send_to(b"to the client", relayed);
    sent.expect("loopback takes it");
    let from_peer = header(&mut wire, address, b"to the client");
    assert_eq!(class_and_hops(&from_peer), (MARK_CLASS, MARK_HOPS));
    let to_client = header(&mut wire, server, b"to the client");
    assert_eq!(class_and_hops(&to_client), PLAIN, "to the client");
    assert!(!is_undivided(&to_client));

    device.send_undivided(address, b"undivided");
    let to_peer = header(&mut wire, relayed, b"undivided");
    let is_translated = server.is_ipv4() != relayed.is_ipv4();
    let may_be = relayed.is_ipv4() && !is_translated;
    assert_eq!(is_undivided(&to_peer), may_be, "{server} to {relayed}");
}

/// DSCP and ECN; TTL or hop limit.
fn class_and_hops(header: &[u8]) -> (u8, u8) {
    match header[0] >> 4 {
        4 => (header[1], header[8]),
        _ => (header[0] << 4 | header[1] >> 4, header[7]),
    }
}

/// DF, which IPv6 does without.
fn is_undivided(header: &[u8]) -> bool {
    header[0] >> 4 == 4 && header[6] & 0x40 != 0
}

/// Hears all packets of the namespace, from their IP headers on.
fn tap() -> Socket {
    let all = Protocol::from(i32::from(3_u16.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(all)).expect("it is permitted");
    let is_set = socket.set_read_timeout(Some(PATIENCE));
    is_set.expect("it is not zero");
    socket
}

/// Waits for the packet from a port that ends with these bytes.
fn header(wire: &mut Socket, from: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 2048];
    loop {
        let length = wire.read(&mut buffer).expect("it comes");
        let packet = &buffer[..length];
        let (header, rest) = packet.split_at(if packet[0] >> 4 == 4 { 20 } else { 40 });
        if rest.starts_with(&from.port().to_be_bytes()) && rest.ends_with(payload) {
            return header.to_vec();
        }
    }
}

fn start(server: IpAddr, io: IoMode) -> Relay {
    let config = RelayConfig {
        io,
        relay_ips: vec![v4(), v6()],
        ..relay_config(server)
    };
    Relay::bind(config).expect("steering is possible")
}

fn v6() -> IpAddr {
    Ipv6Addr::LOCALHOST.into()
}

/// What the kernel gives by itself.
const PLAIN: (u8, u8) = (0, 64);
const PATIENCE: Duration = Duration::from_secs(20);
