//! The protocols that clients name when they begin with TLS. See RFC 7443.

use std::{io, net::TcpStream, sync::Arc, time::Duration};

use rustls::{ClientConnection, pki_types::ServerName};

use crate::device::{relay_config, relay_with_tls, v4};

#[test]
fn a_client_is_told_which_of_the_protocols_that_it_names_is_spoken() {
    let (relay, trust) = relay_with_tls(relay_config(v4()));
    let shake = |named: &[&str]| -> io::Result<Option<String>> {
        let server = relay.addrs().turns[0];
        let mut config = (*trust).clone();
        config.alpn_protocols = named.iter().map(|name| (*name).into()).collect();
        let name = ServerName::from(server.ip());
        let connection = ClientConnection::new(Arc::new(config), name);
        let mut connection = connection.expect("the name is valid");
        let mut stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        let chosen = connection.alpn_protocol();
        Ok(chosen.map(|name| String::from_utf8_lossy(name).into_owned()))
    };
    for (named, chosen) in [
        (&["stun.turn"][..], Some("stun.turn")),
        (&["h2", "stun.nat-discovery"], Some("stun.nat-discovery")),
        (&[], None),
    ] {
        let told = shake(named).expect("it is served");
        assert_eq!(told.as_deref(), chosen, "{named:?}");
    }
    // Whoever names none of ours has come to the wrong server.
    assert!(shake(&["http/1.1"]).is_err(), "it is not served");
}
