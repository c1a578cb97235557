//! Starting and stopping.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use tombolo_relay::{BindError, Relay, RelayConfig};

use crate::device::{relay_config, relay_with_tls, v4};

#[test]
fn any_free_port_is_taken_for_udp_and_tcp_alike() {
    let (relay, _) = relay_with_tls(relay_config(v4()));
    let addrs = relay.addrs();
    assert_eq!(
        (addrs.turn.len(), addrs.alternate.len(), addrs.turns.len()),
        (1, 1, 1)
    );
    assert_ne!(addrs.turn[0].port(), addrs.alternate[0].port());
    std::net::TcpStream::connect(addrs.turn[0]).expect("TCP listens on the port of UDP");
}

#[test]
fn a_port_that_another_program_has_is_named_in_the_error() {
    let other = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
    let address = other.local_addr().expect("it is bound");
    let config = RelayConfig {
        listen: vec![address],
        ..relay_config(v4())
    };
    let error = Relay::bind(config)
        .map(drop)
        .expect_err("the port is taken");
    let text = error.to_string();
    assert!(text.contains(&format!("UDP {address} is in use")), "{text}");
    assert!(text.contains("choose another port"), "{text}");
}

#[test]
fn two_relays_never_share_a_port() {
    let first = Relay::bind(relay_config(v4())).expect("there are free ports");
    let address = first.addrs().turn[0];
    let second = Relay::bind(RelayConfig {
        listen: vec![address],
        ..relay_config(v4())
    })
    .map(drop);
    assert!(matches!(second, Err(BindError::InUse { .. })), "{second:?}");
}

#[test]
fn a_shutdown_frees_the_ports() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    let addrs = relay.addrs().clone();
    relay.shutdown();
    UdpSocket::bind(addrs.turn[0]).expect("UDP is free again");
    UdpSocket::bind(addrs.alternate[0]).expect("the alternate port is free again");
    TcpListener::bind(addrs.turn[0]).expect("TCP is free again");
}

#[test]
fn an_address_of_another_machine_is_named_in_the_error() {
    let config = relay_config("192.0.2.1".parse().expect("a literal"));
    let error = Relay::bind(config)
        .map(drop)
        .expect_err("it is nobody's address");
    assert!(
        error
            .to_string()
            .contains("no interface of this machine has that IP"),
        "{error}"
    );
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let refused = |config| Relay::bind(config).map(drop).expect_err("it cannot work");
    let nothing = refused(RelayConfig::default());
    assert!(matches!(nothing, BindError::NothingToListenOn), "{nothing}");
    let everywhere = refused(relay_config(Ipv4Addr::UNSPECIFIED.into()));
    assert!(
        matches!(everywhere, BindError::NothingToRelayFrom),
        "{everywhere}"
    );
    let no_certificate = refused(RelayConfig {
        listen_tls: vec![(v4(), 0).into()],
        ..relay_config(v4())
    });
    assert!(
        matches!(no_certificate, BindError::NoCertificate),
        "{no_certificate}"
    );
    let ports = refused(RelayConfig {
        relay_ports: 80..=90,
        ..relay_config(v4())
    });
    assert!(matches!(ports, BindError::RelayPorts), "{ports}");
}
