//! Coturn's command line tools.
//!
//! `-S` alone is DTLS. For each connection `turnutils_uclient` picks version 1.0 or 1.2 by chance, and
//! tries again with another pick when the server says that it has no 1.0.
//!
//! `-M` goes without `-S`: one time in four, as it moves, the tool frees its TLS session before the new
//! one is made and ends it once more afterwards, by when the memory may be the new one's. It then ends
//! with `send: Success`, whichever server it talks to.

use std::net::SocketAddr;

use tokio::process::Command;
use tombolo_natlab::in_namespace;

use super::echo::Echo;
use super::{Server, is_installed, run};

const V4: &str = "127.0.0.1";
const V6: &str = "::1";
/// The server's own address is no peer. IPv6 has no other one on loopback, so that its clients meet
/// only each other.
const ECHO_IP: &str = "127.0.0.9";
const PASSWORD: &str = "her password";

/// Which port of the server a client goes to.
#[derive(Clone, Copy)]
enum Port {
    Plain,
    Tls,
}

/// Whom the clients send to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Echo,
    EachOther,
}

macro_rules! lossless {
    ($($name:ident: $ip:expr, $port:ident, $to:ident, $flags:expr;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                assert_lossless($ip, Port::$port, To::$to, &$flags).await;
            }
        )*
    };
}

lossless! {
    uclient_reaches_a_peer_on_channels: V4, Plain, Echo, ["-c"];
    uclient_reaches_a_peer_by_send_indications: V4, Plain, Echo, ["-c", "-s"];
    uclient_reaches_a_peer_with_padded_channel_data: V4, Plain, Echo, ["-c", "-D"];
    uclient_reaches_a_peer_with_a_secret: V4, Plain, Echo, ["-c", "-W", "shared"];
    uclient_without_a_name_reaches_a_peer_with_a_secret: V4, Plain, Echo, ["-c", "-u", "", "-W", "shared"];
    uclient_reaches_a_peer_over_tcp: V4, Plain, Echo, ["-c", "-t"];
    uclient_reaches_a_peer_over_tcp_by_send_indications: V4, Plain, Echo, ["-c", "-s", "-t"];
    uclient_reaches_a_peer_over_tls: V4, Tls, Echo, ["-c", "-t", "-S"];
    uclient_reaches_a_peer_over_tls_on_the_plain_port: V4, Plain, Echo, ["-c", "-t", "-S"];
    uclient_reaches_a_peer_over_dtls: V4, Plain, Echo, ["-c", "-S"];
    uclient_reaches_a_peer_over_dtls_by_send_indications: V4, Plain, Echo, ["-c", "-s", "-S"];
    uclient_repeats_its_requests: V4, Plain, Echo, ["-c", "-G"];
    uclients_reach_each_other: V4, Plain, EachOther, ["-c", "-y"];
    uclients_reach_each_other_over_ipv6: V6, Plain, EachOther, ["-c", "-y", "-x"];
    uclients_reach_each_other_over_ipv6_and_tcp: V6, Plain, EachOther, ["-c", "-y", "-x", "-t"];
    uclients_reach_each_other_over_ipv6_and_tls: V6, Tls, EachOther, ["-c", "-y", "-x", "-t", "-S"];
    uclients_reach_each_other_over_dtls: V4, Plain, EachOther, ["-c", "-y", "-S"];
    uclients_reach_each_other_over_dtls_on_the_port_of_tls: V4, Tls, EachOther, ["-c", "-y", "-S"];
    uclients_reach_each_other_over_ipv6_and_dtls: V6, Plain, EachOther, ["-c", "-y", "-x", "-S"];
    uclients_reach_each_other_over_ipv4_asked_for_by_name: V4, Plain, EachOther, ["-c", "-y", "-X"];
    uclients_reach_each_other_on_pairs_of_ports: V4, Plain, EachOther, ["-y"];
    uclients_reach_each_other_after_they_moved: V4, Plain, EachOther, ["-c", "-y", "-M"];
    uclients_reach_each_other_after_they_moved_over_tcp: V4, Plain, EachOther, ["-c", "-y", "-M", "-t"];
    uclients_reach_each_other_after_they_moved_over_ipv6: V6, Plain, EachOther, ["-c", "-y", "-x", "-M"];
    uclients_reach_each_other_without_fragments: V4, Plain, EachOther, ["-c", "-y", "-g"];
    uclients_reach_each_other_over_tcp_relayed: V4, Plain, EachOther, ["-T", "-y", "-c"];
    uclients_reach_each_other_over_tcp_relayed_from_tls: V4, Tls, EachOther, ["-T", "-S", "-y", "-c"];
    uclients_reach_each_other_over_ipv6_and_tcp_relayed: V6, Plain, EachOther, ["-T", "-x", "-y", "-c"];
}

/// On loopback a server left to itself takes the other way.
#[test]
fn uclient_reaches_a_peer_where_ports_are_steered() {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let steered = ["--io", "steered", "--shards", "2"];
            for (port, flags) in [
                (Port::Plain, &["-c"][..]),
                (Port::Plain, &["-c", "-s"]),
                (Port::Plain, &["-c", "-t"]),
                (Port::Tls, &["-c", "-t", "-S"]),
                (Port::Plain, &["-c", "-S"]),
            ] {
                assert_lossless_with(&steered, V4, port, To::Echo, flags).await;
            }
        });
    });
}

/// With a certificate of its own the tool checks that of the server too.
#[tokio::test]
async fn uclient_checks_the_certificate_over_tls_and_dtls() {
    if !is_installed("turnutils_uclient") {
        return;
    }
    let server = Server::start(V4, &[]).await;
    let echo = Echo::start(ECHO_IP);
    for way in [&["-S", "-t"][..], &["-S"]] {
        let mut client = uclient(server.plain, way);
        client.args(["-w", PASSWORD, "-c"]);
        client.arg("-i").arg(&server.certificate);
        client.arg("-k").arg(&server.key);
        client.arg("-E").arg(&server.certificate);
        to_peer(&mut client, &echo);
        assert_nothing_is_lost(&run(client).await);
    }
    server.stop().await;
}

/// Peers of the tool connect to its clients (RFC 6062 §4.4), and only one side of each pair counts what
/// it gets; so it is with coturn's own server.
#[tokio::test]
async fn uclient_is_connected_to_by_peers_over_tcp() {
    if !is_installed("turnutils_uclient") {
        return;
    }
    let server = Server::start(V4, &["--relay-tcp"]).await;
    let mut client = uclient(server.plain, &["-P", "-y", "-c", "-L", ECHO_IP]);
    client.args(["-w", PASSWORD]);
    let text = run(client).await;
    assert!(
        text.contains("tot_send_msgs=40, tot_recv_msgs=20"),
        "{text}"
    );
    server.stop().await;
}

#[tokio::test]
async fn stunclient_learns_its_address() {
    if !is_installed("turnutils_stunclient") {
        return;
    }
    for (ip, says) in [
        (V4, "IPv4. UDP reflexive addr: 127.0.0.1:"),
        (V6, "IPv6. UDP reflexive addr: ::1:"),
    ] {
        let server = Server::start(ip, &[]).await;
        let mut client = Command::new("turnutils_stunclient");
        client.args(["-p", &server.plain.port().to_string(), ip]);
        let text = run(client).await;
        assert!(text.contains(says), "{text}");
        server.stop().await;
    }
}

/// Two clients send twenty messages of 200 bytes each, 5 ms apart, and get all of them back.
async fn assert_lossless(ip: &str, port: Port, to: To, flags: &[&str]) {
    let options = ["--shards", "2", "--relay-tcp"];
    assert_lossless_with(&options, ip, port, to, flags).await;
}

/// The same through a server with these options.
async fn assert_lossless_with(options: &[&str], ip: &str, port: Port, to: To, flags: &[&str]) {
    if !is_installed("turnutils_uclient") {
        return;
    }
    let server = Server::start(ip, options).await;
    let echo = Echo::start(ECHO_IP);
    let address = match port {
        Port::Plain => server.plain,
        Port::Tls => server.tls,
    };
    let mut client = uclient(address, flags);
    if !flags.contains(&"-W") {
        client.args(["-w", PASSWORD]);
    }
    if to == To::Echo {
        to_peer(&mut client, &echo);
    }
    assert_nothing_is_lost(&run(client).await);
    server.stop().await;
}

/// The tool, which takes its options in any order.
fn uclient(server: SocketAddr, flags: &[&str]) -> Command {
    let mut client = Command::new("turnutils_uclient");
    client
        .args("-m 2 -n 20 -l 200 -z 5 -u carol".split(' '))
        .args(flags)
        .args(["-p", &server.port().to_string(), &server.ip().to_string()]);
    client
}

fn to_peer(client: &mut Command, echo: &Echo) {
    let peer = echo.address;
    client.args(["-e", &peer.ip().to_string(), "-r", &peer.port().to_string()]);
}

fn assert_nothing_is_lost(text: &str) {
    let is_something = text.contains("tot_send_msgs=40,") || text.contains("tot_send_msgs=80,");
    assert!(
        is_something && text.contains("Total lost packets 0 "),
        "{text}"
    );
}
