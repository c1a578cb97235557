//! Coturn's tools for what the `tombolo` program has no flags for, or needs several addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tombolo_natlab::{in_namespace, ip_command, skip};
use tombolo_relay::{Relay, RelayConfig};
use tombolo_stun::{
    AccessToken, Class, Key, MessageWriter, Method, Nonce, Realm, RequestedTransport,
    TransactionId, Username,
};
use tombolo_turn::server::{OAuth, Refusal, TokenKey};

use crate::asker::{Asker, code, message};
use crate::device::{Echo, certificate, relay_config, v4};

#[test]
fn uclient_relays_with_the_tokens_of_an_authorization_server() {
    if is_installed("turnutils_uclient") {
        assert_relays_with_tokens(v4());
    }
}

#[test]
fn uclient_relays_with_tokens_over_ipv6() {
    if is_installed("turnutils_uclient") {
        assert_relays_with_tokens(Ipv6Addr::LOCALHOST.into());
    }
}

fn assert_relays_with_tokens(ip: IpAddr) {
    let relay = relay_of_tokens(ip);
    let echo = Echo::start(ip);
    let family = match ip {
        IpAddr::V4(_) => &[][..],
        IpAddr::V6(_) => &["-x"],
    };
    // UDP, TCP, TLS and DTLS, all on one port.
    for way in [&[][..], &["-t"], &["-t", "-S"], &["-S"]] {
        let text = run(program("turnutils_uclient")
            .args("-J -c -m 4 -n 20 -l 200 -z 5".split(' '))
            .args(family)
            .args(way)
            .args(["-e", &echo.address.ip().to_string()])
            .args(["-r", &echo.address.port().to_string()])
            .args(["-p", &relay.addrs().turn[0].port().to_string()])
            .arg(ip.to_string()));
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
fn tokens_that_turnutils_oauth_makes_let_clients_in() {
    if !is_installed("turnutils_oauth") {
        return;
    }
    let relay = relay_of_tokens(v4());
    for (kid, key, algorithm) in [
        ("north", &NORTH[..], "A256GCM"),
        ("union", &UNION, "A128GCM"),
    ] {
        let mut client = Asker::udp(&relay);
        client.link.send(&allocate_request(None));
        let challenge = client.receive();
        let token = made_token(kid, key, algorithm);
        client
            .link
            .send(&allocate_request(Some((&challenge, kid, &token))));
        let reply = client.receive();
        assert_eq!(code(&reply), None, "{algorithm}");
        let session_key = Key::from_bytes(SESSION_KEY);
        assert_eq!(message(&reply).check_integrity(&session_key), Ok(()));
    }
}

/// By the tool, as the authorization server would: under a key that it shares with the relay.
fn made_token(kid: &str, key: &[u8], algorithm: &str) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("it is later").as_secs().to_string();
    let (key, session_key) = (BASE64.encode(key), BASE64.encode(SESSION_KEY));
    let text = run(program("turnutils_oauth")
        .args(["-e", "-i", SERVER_NAME, "-j", kid, "-k", &key])
        .args(["-l", &now, "-m", "3600", "-n", algorithm])
        .args(["-o", "MTIzNDU2Nzg5MDEy", "-p", &session_key]));
    let (_, rest) = text
        .split_once("\"access_token\":\"")
        .expect("it says the token");
    let (token, _) = rest.split_once('"').expect("it is a text");
    BASE64.decode(token).expect("it is Base64")
}

/// Without credentials, or in answer to a challenge, with a token and the name of its key.
fn allocate_request(credentials: Option<(&[u8], &str, &[u8])>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (class, transaction) = (Class::Request, TransactionId([1; 12]));
    let mut writer = MessageWriter::new(&mut bytes, class, Method::ALLOCATE, transaction);
    writer.attribute(&RequestedTransport::UDP);
    if let Some((challenge, kid, token)) = credentials {
        let challenge = message(challenge);
        let realm: Realm<'_> = challenge.required().expect("it is there");
        let nonce: Nonce<'_> = challenge.required().expect("it is there");
        writer
            .attribute(&AccessToken::new(token).expect("it is short"))
            .attribute(&Username::new(kid).expect("it is short"))
            .attribute(&realm)
            .attribute(&nonce)
            .integrity(&Key::from_bytes(SESSION_KEY));
    }
    bytes
}

/// One that takes tokens over every transport, under the keys that coturn's client has built in.
fn relay_of_tokens(ip: IpAddr) -> Relay {
    let mut config = relay_config(ip);
    config.realm.users.clear();
    let mut oauth = OAuth::new(SERVER_NAME);
    oauth.keys = [
        ("north", TokenKey::Aes256Gcm(NORTH)),
        ("union", TokenKey::Aes128Gcm(UNION)),
        ("oldempire", TokenKey::Aes256Gcm(OLD_EMPIRE)),
    ]
    .map(|(kid, key)| (kid.to_owned(), key))
    .into();
    config.realm.oauth = Some(oauth);
    let (certificates, _) = certificate();
    config.tls = Some(certificates);
    Relay::bind(config).expect("there are free ports")
}

#[test]
fn natdiscovery_finds_no_nat_on_one_machine() {
    if is_installed("turnutils_natdiscovery") {
        assert_finds_no_nat([1, 3].map(|last| Ipv4Addr::new(127, 0, 0, last).into()));
    }
}

#[test]
fn natdiscovery_finds_no_nat_on_one_machine_over_ipv6() {
    if is_installed("turnutils_natdiscovery") {
        in_namespace(|| {
            let ips = ["fd09::1", "fd09::3"];
            for ip in ips {
                ip_command(&["address", "add", ip, "dev", "lo", "nodad"]);
            }
            assert_finds_no_nat(ips.map(|ip| ip.parse().expect("a literal")));
        });
    }
}

/// For a relay at two addresses.
fn assert_finds_no_nat(ips: [IpAddr; 2]) {
    let ports = two_ports_of(ips);
    let at = |port| ips.map(|ip| SocketAddr::new(ip, port)).to_vec();
    let relay = Relay::bind(RelayConfig {
        listen: at(ports[0]),
        listen_udp: at(ports[1]),
        ..relay_config(ips[0])
    });
    let _relay = relay.expect("the ports are free");
    let none = [
        "NAT with Endpoint Independent Mapping",
        "NAT with Endpoint Independent Filtering",
    ];
    for (flags, found) in [
        ("-m -f", &none[..]),
        ("-m -f -P", &none),
        // It sends a request to the address that it was told, which is its own.
        ("-H", &["successful hairpinning"]),
    ] {
        let text = run(program("turnutils_natdiscovery")
            .args(flags.split(' '))
            .args(["-L", &ips[0].to_string()])
            .args(["-p", &ports[0].to_string(), &ips[0].to_string()]));
        let is_found = found.iter().all(|found| text.contains(found));
        assert!(is_found, "{flags}: {text}");
    }
}

/// Two ports in a row that are free on both.
fn two_ports_of(ips: [IpAddr; 2]) -> [u16; 2] {
    let is_free = |port: u16| ips.iter().all(|ip| UdpSocket::bind((*ip, port)).is_ok());
    let mut ports = (23_478..24_000).step_by(2);
    let first = ports.find(|port| is_free(*port) && is_free(port + 1));
    let first = first.expect("there are free ports");
    [first, first + 1]
}

/// Makes the command of a program that ends after half a minute at the latest.
fn program(name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["30", name]);
    command
}

/// Runs a program to its end, which must be a success, and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.expect("it is installed");
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let (text, status) = (format!("{out}{err}"), output.status);
    assert!(status.success(), "{command:?}: {status}\n{text}");
    text
}

/// Whether a program can be run; says so for the calling test if not.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !is_there {
        skip(&format!(
            "{program} is missing: scripts/install-packages.sh"
        ));
    }
    is_there
}

/// What the tokens are for.
const SERVER_NAME: &str = "blackdow.carleon.gov";
const NORTH: [u8; 32] = *b"01234567890123456789012345678901";
const UNION: [u8; 16] = *b"1234567890123456";
const OLD_EMPIRE: [u8; 32] = *b"12345678901234567890123456789012";
/// Of the client and the relay.
const SESSION_KEY: &[u8] = b"abcdefghijklmnopqrst";
