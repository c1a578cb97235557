//! Coturn's tools for what the `tombolo` program has no flags for, or needs several addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use tombolo_relay::{Relay, RelayConfig};
use tombolo_turn::server::{OAuth, Refusal, TokenKey};

use crate::device::{Echo, certificate, relay_config, v4};

#[test]
fn uclient_relays_with_the_tokens_of_an_authorization_server() {
    if !is_installed("turnutils_uclient") {
        return;
    }
    let mut config = relay_config(v4());
    config.realm.users.clear();
    let mut oauth = OAuth::new("blackdow.carleon.gov");
    // The keys that the tool has built in.
    let keys = &mut oauth.keys;
    keys.insert(
        "north".to_owned(),
        TokenKey::Aes256Gcm(*b"01234567890123456789012345678901"),
    );
    keys.insert(
        "union".to_owned(),
        TokenKey::Aes128Gcm(*b"1234567890123456"),
    );
    keys.insert(
        "oldempire".to_owned(),
        TokenKey::Aes256Gcm(*b"12345678901234567890123456789012"),
    );
    config.realm.oauth = Some(oauth);
    let (certificates, _) = certificate();
    config.tls = Some(certificates);
    let relay = Relay::bind(config).expect("there are free ports");
    let echo = Echo::start(v4());
    // UDP, TCP, TLS and DTLS, all on one port.
    for way in [&[][..], &["-t"], &["-t", "-S"], &["-S"]] {
        let text = run(program("turnutils_uclient")
            .args("-J -c -m 4 -n 20 -l 200 -z 5 -e 127.0.0.2".split(' '))
            .args(way)
            .args(["-r", &echo.address.port().to_string()])
            .args(["-p", &relay.addrs().turn[0].port().to_string()])
            .arg("127.0.0.1"));
        assert!(text.contains("tot_send_msgs=80,"), "{way:?}: {text}");
        assert!(text.contains("Total lost packets 0 "), "{way:?}: {text}");
    }
    let refused = |refusal| -> u64 {
        let shards = relay.stats().shards;
        shards.iter().map(|shard| shard.turn.refused(refusal)).sum()
    };
    assert_eq!(refused(Refusal::TokenWrong), 0);
    assert_eq!(refused(Refusal::IntegrityWrong), 0);
}

#[test]
fn natdiscovery_finds_no_nat_on_one_machine() {
    if !is_installed("turnutils_natdiscovery") {
        return;
    }
    let (ips, ports) = two_of_each();
    let at = |port| ips.map(|ip| SocketAddr::new(ip, port)).to_vec();
    let relay = Relay::bind(RelayConfig {
        listen: at(ports[0]),
        listen_udp: at(ports[1]),
        ..relay_config(ips[0])
    });
    let _relay = relay.expect("the ports are free");
    for flags in ["-m -f", "-m -f -P", "-H"] {
        let text = run(program("turnutils_natdiscovery")
            .args(flags.split(' '))
            .args(["-L", "127.0.0.1"])
            .args(["-p", &ports[0].to_string(), &ips[0].to_string()]));
        if flags.contains("-m") {
            assert!(
                text.contains("NAT with Endpoint Independent Mapping"),
                "{text}"
            );
            assert!(
                text.contains("NAT with Endpoint Independent Filtering"),
                "{text}"
            );
        } else {
            // It sends a request to the address that it was told, which is its own.
            assert!(text.contains("successful hairpinning"), "{text}");
        }
    }
}

/// Two addresses of loopback, and two ports that are free on both.
fn two_of_each() -> ([IpAddr; 2], [u16; 2]) {
    let ips = [1, 3].map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)));
    let is_free = |port: u16| ips.iter().all(|ip| UdpSocket::bind((*ip, port)).is_ok());
    let first = (23_478..24_000)
        .step_by(2)
        .find(|port| is_free(*port) && is_free(port + 1));
    let first = first.expect("there are free ports");
    (ips, [first, first + 1])
}

/// Makes the command of a program that ends after half a minute at the latest.
fn program(name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["30", name]);
    command
}

/// Runs a program to its end and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.expect("it is installed");
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

/// Says so where a program is missing; `scripts/install-packages.sh` installs it.
#[allow(
    clippy::print_stdout,
    reason = "whoever runs the tests is told what is skipped"
)]
fn is_installed(program: &str) -> bool {
    let is_there = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| is_file(&dir, program)));
    if !is_there {
        println!("{program} is missing: skipped");
    }
    is_there
}

fn is_file(dir: &Path, program: &str) -> bool {
    dir.join(program).is_file()
}
