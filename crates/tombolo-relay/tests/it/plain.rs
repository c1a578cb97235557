//! What is served without TLS and DTLS, and that it need not be.

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
};

use dimpl::Dtls;
use tombolo_relay::{BindError, Relay, RelayConfig};
use tombolo_turn::server::Transport;

use crate::{
    device::{Device, Link, relay_config, relay_with_tls, v4},
    dtls::{BINDING, Client},
};

#[test]
fn where_plain_tcp_is_off_tls_alone_is_served_at_all_addresses() {
    let (relay, trust) = relay_with_tls(RelayConfig {
        plain_tcp: false,
        ..relay_config(v4())
    });
    let addrs = relay.addrs();
    for (refused, server) in (1..).zip([addrs.turn[0], addrs.turns[0]]) {
        let mut plain = TcpStream::connect(server).expect("it listens");
        plain.write_all(&BINDING).expect("the connection is open");
        let mut answer = Vec::new();
        // What it had not read may make it a reset.
        let _ = plain.read_to_end(&mut answer);
        assert_eq!(answer, [0; 0], "{server}");
        let streams = relay.stats().streams;
        assert_eq!(streams.plain_tcp_refused, refused);
        let link = Link::tls(v4(), server, trust.clone());
        Device::over(link, Transport::Tls, server, "alice").allocate();
    }
    Device::udp(&relay, "bob").allocate();
}

#[test]
fn where_plain_udp_is_off_dtls_alone_is_served_at_all_addresses() {
    let (relay, _) = relay_with_tls(RelayConfig {
        plain_udp: false,
        shards: Some(1),
        ..relay_config(v4())
    });
    let addrs = relay.addrs();
    for (refused, server) in (1..).zip([addrs.turn[0], addrs.turns[0]]) {
        let plain = UdpSocket::bind((v4(), 0)).expect("there are free ports");
        plain.send_to(&BINDING, server).expect("loopback takes it");
        // It would have been answered before this one.
        let mut client = Client::new(Dtls::new_12, server);
        client.connect();
        assert_eq!(client.ask(&BINDING)[..2], [1, 1], "a success");
        plain.set_nonblocking(true).expect("it can be");
        assert!(plain.recv(&mut [0; 512]).is_err(), "{server}");
        assert_eq!(relay.stats().streams.plain_udp_refused, refused);
    }
    Device::tcp(&relay, "alice").allocate();
}

#[test]
fn without_tls_no_port_is_open_for_what_is_off() {
    let with = |plain_udp, plain_tcp| {
        Relay::bind(RelayConfig {
            plain_udp,
            plain_tcp,
            listen_udp: Vec::new(),
            ..relay_config(v4())
        })
    };
    let relay = with(true, false).expect("there are free ports");
    Device::udp(&relay, "alice").allocate();
    let refused = TcpStream::connect(relay.addrs().turn[0]);
    assert!(refused.is_err(), "{refused:?}");

    let relay = with(false, true).expect("there are free ports");
    let mut alice = Device::tcp(&relay, "alice");
    let mut bob = Device::tcp(&relay, "bob");
    let (at_alice, at_bob) = (alice.allocate(), bob.allocate());
    alice.bind(at_bob);
    bob.bind(at_alice);
    alice.send(at_bob, b"to bob");
    assert_eq!(bob.receive(), (at_alice, b"to bob".to_vec()));
    UdpSocket::bind(relay.addrs().turn[0]).expect("nobody has the port");

    let nothing = with(false, false).map(|_| ());
    assert!(
        matches!(nothing, Err(BindError::NothingServed)),
        "{nothing:?}"
    );
    let no_udp = Relay::bind(RelayConfig {
        plain_udp: false,
        ..relay_config(v4())
    });
    let no_udp = no_udp.map(|_| ());
    assert!(matches!(no_udp, Err(BindError::NoUdp)), "{no_udp:?}");
}
