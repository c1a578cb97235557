//! Clients behind a proxy that says whose connection it is.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};
use tombolo_relay::{Relay, RelayConfig};
use tombolo_stun::{Message, XorMappedAddress};

use crate::{
    device::{relay_config, relay_with_tls, v4},
    streams::{assert_closed, wait_for},
};

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.1 4321 3478\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\x00\x71\x07\xc6\x33\x64\x01\x10\xe1\x0d\x96";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[test]
fn a_client_is_who_the_proxy_says() {
    let relay = relay_behind("127.0.0.1/32");
    let client: SocketAddr = "203.0.113.7:4321".parse().expect("a literal");
    for header in [V1, V2] {
        let mut stream = connect(&relay);
        stream.write_all(header).expect("it is open");
        assert_eq!(mapped(&mut stream), client);
    }
}

#[test]
fn a_client_over_ipv6_is_who_the_proxy_says_over_ipv6() {
    let relay = Relay::bind(RelayConfig {
        proxy_protocol: vec!["::1/128".parse().expect("a literal")],
        ..relay_config(Ipv6Addr::LOCALHOST.into())
    });
    let relay = relay.expect("there are free ports");
    let (client, proxied) = ("2001:db8::7", "2001:db8::1");
    let v1 = format!("PROXY TCP6 {client} {proxied} 4321 3478\r\n");
    let octets = |ip: &str| ip.parse::<Ipv6Addr>().expect("a literal").octets();
    let v2 = [
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24"[..],
        &octets(client),
        &octets(proxied),
        &[0x10, 0xe1, 0x0d, 0x96],
    ];
    for header in [v1.into_bytes(), v2.concat()] {
        let mut stream = connect(&relay);
        stream.write_all(&header).expect("it is open");
        assert_eq!(mapped(&mut stream).to_string(), "[2001:db8::7]:4321");
    }
    let mut stream = connect(&relay);
    stream.write_all(LOCAL).expect("it is open");
    let own = stream.local_addr().expect("it is connected");
    assert_eq!(mapped(&mut stream), own);
}

#[test]
fn a_header_may_come_in_pieces_and_together_with_the_first_request() {
    let relay = relay_behind("127.0.0.0/8");
    for header in [V1, V2] {
        let all = [header, BINDING_REQUEST].concat();
        let mut stream = connect(&relay);
        for byte in &all {
            stream.write_all(&[*byte]).expect("it is open");
        }
        assert_eq!(read_mapped(&mut stream).port(), 4321);
        let mut stream = connect(&relay);
        stream.write_all(&all).expect("it is open");
        assert_eq!(read_mapped(&mut stream).port(), 4321);
    }
}

#[test]
fn a_proxy_that_speaks_for_itself_is_the_client() {
    let relay = relay_behind("127.0.0.1/32");
    for header in [LOCAL, b"PROXY UNKNOWN\r\n"] {
        let mut stream = connect(&relay);
        stream.write_all(header).expect("it is open");
        let own = stream.local_addr().expect("it is connected");
        assert_eq!(mapped(&mut stream), own);
    }
}

#[test]
fn a_header_stands_in_front_of_tls() {
    let (relay, trust) = relay_with_tls(RelayConfig {
        proxy_protocol: vec!["127.0.0.1/32".parse().expect("a literal")],
        ..relay_config(v4())
    });
    for server in [relay.addrs().turns[0], relay.addrs().turn[0]] {
        let mut stream = connect_to(server);
        stream.write_all(V2).expect("it is open");
        let name = ServerName::from(IpAddr::from([127, 0, 0, 1]));
        let connection = ClientConnection::new(trust.clone(), name).expect("the name is valid");
        let mut stream = StreamOwned::new(connection, stream);
        stream.write_all(BINDING_REQUEST).expect("it is open");
        assert_eq!(read_mapped(&mut stream).port(), 4321);
    }
}

#[test]
fn whom_nobody_trusts_cannot_say_who_the_client_is() {
    for relay in [
        relay_behind("192.0.2.0/24"),
        Relay::bind(relay_config(v4())).expect("there are free ports"),
    ] {
        for header in [V1, V2] {
            let mut stream = connect(&relay);
            stream
                .write_all(&[header, BINDING_REQUEST].concat())
                .expect("it is open");
            assert_closed(stream);
        }
        wait_for(&relay, |streams| streams.proxy_untrusted == 2);
        let mut stream = connect(&relay);
        assert_eq!(
            mapped(&mut stream),
            stream.local_addr().expect("it is connected")
        );
    }
}

#[test]
fn a_proxy_that_does_not_say_who_the_client_is_is_refused() {
    let relay = relay_behind("127.0.0.1/32");
    let long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &[0xff; 2]].concat();
    let wrong: [&[u8]; 4] = [
        BINDING_REQUEST,
        b"PROXY TCP4 nobody\r\n",
        b"PROXY TCP4 0.0.0.0 198.51.100.1 1 1\r\n",
        &long,
    ];
    for bytes in wrong {
        let mut stream = connect(&relay);
        stream.write_all(bytes).expect("it is open");
        assert_closed(stream);
    }
    wait_for(&relay, |streams| streams.proxy_malformed == 4);
}

#[test]
fn a_header_that_does_not_end_is_not_waited_for() {
    let mut config = config_behind("127.0.0.1/32");
    config.first_frame_timeout = Duration::from_millis(50);
    let relay = Relay::bind(config).expect("there are free ports");
    for header in [V1, V2] {
        let mut stream = connect(&relay);
        stream
            .write_all(&header[..header.len() - 1])
            .expect("it is open");
        assert_closed(stream);
    }
    wait_for(&relay, |streams| streams.timed_out == 2);
}

#[test]
fn connections_are_limited_by_the_source_that_the_proxy_names() {
    let mut config = config_behind("127.0.0.1/32");
    config.connections_per_source_max = 1;
    let relay = Relay::bind(config).expect("there are free ports");
    let from = |host: u8| {
        let mut stream = connect(&relay);
        let header = format!("PROXY TCP4 203.0.113.{host} 198.51.100.1 4321 3478\r\n");
        stream.write_all(header.as_bytes()).expect("it is open");
        stream
    };
    let mut kept: Vec<_> = (1..4).map(from).collect();
    for stream in &mut kept {
        mapped(stream);
    }
    assert_closed(from(2));
    wait_for(&relay, |streams| streams.refused == 1 && streams.open == 3);
}

fn config_behind(proxies: &str) -> RelayConfig {
    RelayConfig {
        proxy_protocol: vec![proxies.parse().expect("a literal")],
        ..relay_config(v4())
    }
}

fn relay_behind(proxies: &str) -> Relay {
    Relay::bind(config_behind(proxies)).expect("there are free ports")
}

fn connect(relay: &Relay) -> TcpStream {
    connect_to(relay.addrs().turn[0])
}

fn connect_to(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).expect("the relay listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("it is not zero");
    stream.set_nodelay(true).expect("it is a socket");
    stream
}

/// Who the relay thinks the client is.
fn mapped(stream: &mut TcpStream) -> SocketAddr {
    stream.write_all(BINDING_REQUEST).expect("it is open");
    read_mapped(stream)
}

fn read_mapped(stream: &mut impl std::io::Read) -> SocketAddr {
    let mut reply = vec![0; 20];
    stream.read_exact(&mut reply).expect("it is answered");
    reply.resize(20 + usize::from(reply[3]), 0);
    let attributes = &mut reply[20..];
    stream.read_exact(attributes).expect("it is answered");
    let message = Message::decode(&reply).expect("it is well formed");
    let XorMappedAddress(mapped) = message.required().expect("it is there");
    mapped
}

const BINDING_REQUEST: &[u8] = &[
    0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
];
const PATIENCE: Duration = Duration::from_secs(20);
