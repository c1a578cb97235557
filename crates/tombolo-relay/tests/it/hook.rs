//! Users that an HTTP server is to be asked about.

use std::{net::SocketAddr, sync::Arc};

use rustls::{ClientConfig, RootCertStore};
use socket2::{Domain, Socket, Type};
use tombolo_relay::{HookConfig, Relay, RelayConfig};
use tombolo_stun::{Method, RequestedTransport};
use tombolo_turn::server::HookMode;

use crate::asker::{Asker, code};
use crate::device::{relay_config, v4};
use crate::log;

#[test]
fn strangers_do_not_fill_the_log_while_nobody_can_be_asked() {
    // Bound and not listened at, so that connections are refused.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are descriptors");
    let any = SocketAddr::new(v4(), 0);
    socket.bind(&any.into()).expect("there are free ports");
    let bound = socket.local_addr().expect("it is bound").as_socket();
    let url = format!("http://{}/turn", bound.expect("it has a port"));
    let tls = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut config = RelayConfig {
        hook: Some(HookConfig::new(url, vec![7; 16], Arc::new(tls))),
        ..relay_config(v4())
    };
    config.realm.hook = HookMode::Unknown;
    log::keep();
    let relay = Relay::bind(config).expect("there are free ports");

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
