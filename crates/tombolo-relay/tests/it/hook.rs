//! Users that an HTTP server is to be asked about.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use rustls::{ClientConfig, RootCertStore};
use socket2::{Domain, Socket, Type};
use tombolo_relay::{HookConfig, Relay, RelayConfig};
use tombolo_stun::{Method, RequestedTransport};
use tombolo_turn::server::HookMode;

use crate::asker::{Asker, code};
use crate::device::{Device, Link, relay_config, v4};
use crate::log;

#[test]
fn a_client_that_sends_nothing_more_is_told_what_came_of_asking_about_it() {
    let listener = TcpListener::bind((v4(), 0)).expect("there are free ports");
    let relay = relay_asking(listener.local_addr().expect("it is bound"));
    let mut stranger = Asker::over(Link::tcp(relay.addrs().turn[0]));
    stranger.user = "carol".to_owned();
    stranger.ask_last(Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    let question = listener.accept().expect("she is asked about");
    // What another client gets comes after the end of what she sends.
    Device::tcp(&relay, "alice").allocate();
    drop(listener);
    drop(question);
    assert!(code(&stranger.receive()).is_some(), "nobody knows her");
    stranger.link.wait_for_end();
}

#[test]
fn strangers_do_not_fill_the_log_while_nobody_can_be_asked() {
    // Bound and not listened at, so that connections are refused.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are descriptors");
    let any = SocketAddr::new(v4(), 0);
    socket.bind(&any.into()).expect("there are free ports");
    let bound = socket.local_addr().expect("it is bound").as_socket();
    log::keep();
    let relay = relay_asking(bound.expect("it has a port"));

    let mut stranger = Asker::udp(&relay);
    for number in 0..100 {
        stranger.user = format!("stranger {number}");
        let reply = stranger.ask(Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
        });
        assert!(code(&reply).is_some(), "nobody comes in");
    }
    assert_eq!(relay.stats().hook.asked, 100);
    let warnings = log::warnings("the hook cannot be reached");
    assert!((1..10).contains(&warnings), "{warnings}");
}

/// A relay that asks about users whom it does not know.
fn relay_asking(server: SocketAddr) -> Relay {
    let tls = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let url = format!("http://{server}/turn");
    let mut config = RelayConfig {
        hook: Some(HookConfig::new(url, vec![7; 16], Arc::new(tls))),
        ..relay_config(v4())
    };
    config.realm.hook = HookMode::Unknown;
    Relay::bind(config).expect("there are free ports")
}
