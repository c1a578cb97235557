//! Coturn's command line tools.
//!
//! Over DTLS `turnutils_uclient` picks version 1.0 or 1.2 by chance for each connection, and waits
//! forever where a server has no 1.0, which RFC 8996 forbids. So DTLS is met with OpenSSL instead.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::process::Command;

use super::{Server, is_installed, run};

const V4: &str = "127.0.0.1";
const V6: &str = "::1";

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
    uclient_reaches_a_peer_over_tcp: V4, Plain, Echo, ["-c", "-t"];
    uclient_reaches_a_peer_over_tcp_by_send_indications: V4, Plain, Echo, ["-c", "-s", "-t"];
    uclient_reaches_a_peer_over_tls: V4, Tls, Echo, ["-c", "-t", "-S"];
    uclient_reaches_a_peer_over_tls_on_the_plain_port: V4, Plain, Echo, ["-c", "-t", "-S"];
    uclient_repeats_its_requests: V4, Plain, Echo, ["-c", "-G"];
    uclients_reach_each_other: V4, Plain, EachOther, ["-c", "-y"];
    uclients_reach_each_other_over_ipv6: V6, Plain, EachOther, ["-c", "-y", "-x"];
    uclients_reach_each_other_over_ipv6_and_tcp: V6, Plain, EachOther, ["-c", "-y", "-x", "-t"];
    uclients_reach_each_other_over_ipv6_and_tls: V6, Tls, EachOther, ["-c", "-y", "-x", "-t", "-S"];
    uclients_reach_each_other_on_pairs_of_ports: V4, Plain, EachOther, ["-y"];
    uclients_reach_each_other_after_they_moved: V4, Plain, EachOther, ["-c", "-y", "-M"];
    uclients_reach_each_other_after_they_moved_over_tcp: V4, Plain, EachOther, ["-c", "-y", "-M", "-t"];
    uclients_reach_each_other_without_fragments: V4, Plain, EachOther, ["-c", "-y", "-g"];
    uclients_reach_each_other_over_tcp_relayed: V4, Plain, EachOther, ["-T", "-y", "-c"];
    uclients_reach_each_other_over_tcp_relayed_from_tls: V4, Tls, EachOther, ["-T", "-S", "-y", "-c"];
    uclients_reach_each_other_over_ipv6_and_tcp_relayed: V6, Plain, EachOther, ["-T", "-x", "-y", "-c"];
}

#[tokio::test]
async fn stunclient_learns_its_address() {
    if !is_installed("turnutils_stunclient") {
        return;
    }
    let server = Server::start(V4, &[]).await;
    let mut client = Command::new("turnutils_stunclient");
    client.args(["-p", &server.plain.port().to_string(), V4]);
    let text = run(client).await;
    assert!(
        text.contains("IPv4. UDP reflexive addr: 127.0.0.1:"),
        "{text}"
    );
    server.stop().await;
}

/// Two clients send twenty messages of 200 bytes each, 5 ms apart, and get all of them back.
async fn assert_lossless(ip: &str, port: Port, to: To, flags: &[&str]) {
    if !is_installed("turnutils_uclient") {
        return;
    }
    let server = Server::start(ip, &["--shards", "2", "--relay-tcp"]).await;
    let echo = Echo::start();
    let address = match port {
        Port::Plain => server.plain,
        Port::Tls => server.tls,
    };
    let mut client = Command::new("turnutils_uclient");
    client.args("-m 2 -n 20 -l 200 -z 5 -u carol".split(' '));
    if !flags.contains(&"-W") {
        client.args(["-w", "her password"]);
    }
    client.args(flags).args(["-p", &address.port().to_string()]);
    if to == To::Echo {
        let peer = echo.address;
        client.args(["-e", &peer.ip().to_string(), "-r", &peer.port().to_string()]);
    }
    let text = {
        client.arg(ip);
        run(client)
    }
    .await;
    let is_something = text.contains("tot_send_msgs=40,") || text.contains("tot_send_msgs=80,");
    assert!(
        is_something && text.contains("Total lost packets 0 "),
        "{text}"
    );
    server.stop().await;
}

/// A peer on a thread that sends every datagram back; ends with the value.
struct Echo {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
}

impl Echo {
    fn start() -> Self {
        // The server's own address is no peer.
        let socket = UdpSocket::bind("127.0.0.9:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let address = socket.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_over);
        std::thread::spawn(move || {
            let mut datagram = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                    let _ = socket.send_to(&datagram[..length], from);
                }
            }
        });
        Self { address, is_over }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
