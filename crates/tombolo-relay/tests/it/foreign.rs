//! Coturn's client against the relay. Runs where `turnutils_uclient` is installed (Debian: coturn).

use std::process::{Command, Stdio};

use tombolo_relay::{Relay, RelayConfig};

use crate::device::{Echo, certificate, relay_config, shared_realm, v4};

#[test]
fn coturns_client_reaches_a_peer() {
    assert_lossless(Port::Plain, &["-c"], WithPeer::Yes);
}

/// Without `-c` it wants a pair of ports for RTP and RTCP: EVEN-PORT and RESERVATION-TOKEN. A token is
/// good on the shard that gave it, so there is only one.
#[test]
fn coturns_clients_reach_each_other_on_pairs_of_ports() {
    assert_lossless(Port::Plain, &["-y"], WithPeer::No);
}

#[test]
fn coturns_client_reaches_a_peer_over_tcp() {
    assert_lossless(Port::Plain, &["-c", "-t"], WithPeer::Yes);
}

#[test]
fn coturns_client_reaches_a_peer_over_tls() {
    assert_lossless(Port::Tls, &["-c", "-t", "-S"], WithPeer::Yes);
}

#[derive(PartialEq, Eq)]
enum Port {
    Plain,
    Tls,
}

#[derive(PartialEq, Eq)]
enum WithPeer {
    Yes,
    No,
}

#[track_caller]
#[expect(clippy::print_stderr, reason = "a skipped test must say why")]
fn assert_lossless(port: Port, flags: &[&str], with_peer: WithPeer) {
    let (tls, _) = certificate();
    let config = RelayConfig {
        tls: Some(tls),
        listen_tls: vec![(v4(), 0).into()],
        realm: shared_realm(),
        shards: Some(if with_peer == WithPeer::Yes { 2 } else { 1 }),
        ..relay_config(v4())
    };
    let relay = Relay::bind(config).expect("there are free ports");
    let echo = Echo::start(v4());
    let server = match port {
        Port::Plain => relay.addrs().turn[0],
        Port::Tls => relay.addrs().turns[0],
    };
    let mut client = Command::new("turnutils_uclient");
    // Two clients, twenty messages of 200 bytes, 5 ms apart, on channels with the numbers of
    // RFC 5766.
    client.args("-m 2 -n 20 -l 200 -z 5 -u carol -W shared".split(' '));
    client.args(flags).arg("-p").arg(server.port().to_string());
    if with_peer == WithPeer::Yes {
        client.arg("-e").arg(echo.address.ip().to_string());
        client.arg("-r").arg(echo.address.port().to_string());
    }
    let output = match client
        .arg(server.ip().to_string())
        .stdin(Stdio::null())
        .output()
    {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: turnutils_uclient cannot be run: {error}");
            return;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}{errors}", output.status);
    let is_something = text.contains("tot_send_msgs=40,") || text.contains("tot_send_msgs=80,");
    let is_lossless = text.contains("Total lost packets 0 ");
    let stats = relay.stats();
    assert!(is_something && is_lossless, "{text}{errors}\n{stats:?}");
}
