//! `tombolo turn`.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::command::{start, start_without_rights, turn};
use crate::folder::Folder;
use crate::operating::{certificate, shows};

/// A Binding request (RFC 8489 §5) with nothing in it.
const BINDING: [u8; 20] = [
    0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
];

fn is_answered(server: SocketAddr) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket.send_to(&BINDING, server).unwrap();
    let mut reply = [0; 1500];
    let (_, from) = socket.recv_from(&mut reply).unwrap();
    from == server && reply[..2] == [1, 1] && reply[8..20] == BINDING[8..20]
}

#[tokio::test]
async fn the_first_line_says_where_the_server_is_and_then_it_is_there() {
    let listen = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
    let more = ["--relay-ip", "127.0.0.1", "--shards", "2"];
    let (mut server, ready) = turn(&[&listen[..], &more].concat()).await;
    assert_eq!(ready["relay"], json!(["127.0.0.1"]));
    assert_eq!(ready["io"], "sockets");
    assert_eq!(ready["shards"], 2);
    let address: SocketAddr = ready["listen"][0].as_str().unwrap().parse().unwrap();
    assert!(is_answered(address));
    TcpStream::connect(address).unwrap();
    server.terminate();
    let ended = server.ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    UdpSocket::bind(address).expect("the port is free again");
}

#[tokio::test]
async fn what_cannot_be_served_is_a_failure_that_says_why() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let cases: [(&[&str], i32, &str); 10] = [
        (&["--listen", &taken], 1, "is in use"),
        (&["--listen", "0.0.0.0:0"], 1, "relay"),
        (
            &["--listen", "example.org:3478"],
            2,
            "names are not looked up",
        ),
        (
            &["--listen", "127.0.0.1:0", "--secret", ""],
            1,
            "empty secret",
        ),
        (
            &["--listen", "127.0.0.1:0", "--user", "hunter2"],
            1,
            "NAME:PASSWORD",
        ),
        (
            &[
                "--listen",
                "127.0.0.1:0",
                "--tls",
                "/nonexistent",
                "/nonexistent",
            ],
            1,
            "/nonexistent",
        ),
        (&[], 2, "--listen"),
        (
            &["--listen", "127.0.0.1:0", "--relay-ip", "198.51.100.7"],
            1,
            "198.51.100.7: no interface",
        ),
        (
            &[
                "--listen",
                "127.0.0.1:0",
                "--public-ip",
                "203.0.113.1/198.51.100.7",
            ],
            1,
            "198.51.100.7: no interface",
        ),
        (
            &[
                "--listen",
                "127.0.0.1:0",
                "--drain-timeout",
                "18446744073709551615",
            ],
            2,
            "a year",
        ),
    ];
    for (args, status, says) in cases {
        let ended = start(&[&["turn"], args].concat()).ended().await;
        assert_eq!(ended.status, Some(status), "{args:?}");
        assert!(ended.complaints.contains(says), "{}", ended.complaints);
        assert!(ended.lines.is_empty(), "{:?}", ended.lines);
        assert!(!ended.complaints.contains("hunter2"), "a secret is shown");
    }
}

#[tokio::test]
async fn steering_without_the_rights_for_it_is_a_failure_that_says_so() {
    let steered = ["--listen", "127.0.0.1:0", "--io", "steered"];
    let mut server = start_without_rights(&[&["turn"], &steered[..]].concat());
    let ended = server.ended().await;
    assert_eq!(ended.status, Some(1), "{}", ended.complaints);
    let says = "relay ports cannot be steered here";
    assert!(ended.complaints.contains(says), "{}", ended.complaints);
    assert!(!ended.complaints.contains("panicked"));
}

/// What Debian's coturn comes with: every option of its version is in it, most in comments. Small
/// systems leave out the documentation.
fn sample() -> &'static str {
    let samples = [
        "/usr/share/doc/coturn/examples/etc/turnserver.conf",
        "/etc/turnserver.conf",
    ];
    let there = samples.into_iter().find(|path| Path::new(path).exists());
    there.expect("coturn is installed: see scripts/install-packages.sh")
}

/// The sample with the comments taken away from what looks like an option.
fn sample_with_all_options() -> String {
    let sample = std::fs::read_to_string(sample()).unwrap();
    let is_option = |line: &str| {
        let name = line.split(['=', ' ']).next().unwrap_or_default();
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        let has_value = line[name.len()..].starts_with(['=', ' ']) && line.contains(['=', '"']);
        !name.is_empty() && name.chars().all(is_name) && (has_value || line == name)
    };
    let uncommented = sample.lines().map(|line| match line.strip_prefix('#') {
        Some(option) if is_option(option) => option,
        _ => line,
    });
    uncommented.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn every_option_of_debians_sample_is_known() {
    let folder = Folder::new("import-sample");
    let conf = folder.write("turnserver.conf", &sample_with_all_options());
    let ended = start(&["turn", "--import", &conf, "--json"]).ended().await;
    let lines: Vec<_> = ended
        .events
        .iter()
        .filter(|event| event["event"] == "line")
        .collect();
    assert!(lines.len() > 110, "{} lines", lines.len());
    for line in &lines {
        assert_ne!(line["option"], "?", "{line}");
        assert!(line["line"].is_u64(), "{line}");
        assert!(
            line["as"].is_string() || line["because"].is_string(),
            "{line}"
        );
    }
    let summary = ended.events.last().unwrap();
    assert_eq!(summary["event"], "imported");
    let counts = ["taken", "not_needed", "not_supported", "invalid"];
    let sum: u64 = counts
        .iter()
        .map(|name| summary[name].as_u64().unwrap())
        .sum();
    assert_eq!(sum, lines.len() as u64);
}

#[tokio::test]
async fn debians_configuration_is_taken_as_it_is_shipped() {
    let ended = start(&["turn", "--import", sample()]).ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    assert!(
        ended
            .lines
            .iter()
            .any(|line| line.contains("syslog: not needed"))
    );
}

#[tokio::test]
async fn an_imported_configuration_serves_and_is_the_same_when_written() {
    let folder = Folder::new("import-run");
    let conf = "listening-ip=127.0.0.1\nlt-cred-mech\nuser=alice:hunter2\nrealm=example.org\n";
    let conf = folder.write("turnserver.conf", conf);
    let toml = folder.path("turn.toml");
    let any = ["--listen", "127.0.0.1:0", "--json"];
    let import = ["turn", "--import", &conf, "--write", &toml, "--run"];
    let mut server = start(&[&import[..], &any].concat());
    let ready = server.event("ready").await;
    let address = ready["listen"][0].as_str().unwrap().parse().unwrap();
    assert!(is_answered(address));
    server.terminate();
    let ended = server.ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    assert!(
        !ended.lines.concat().contains("hunter2"),
        "a secret is shown"
    );
    let events = ended.events.iter().map(|event| event["event"].as_str());
    let events: Vec<_> = events.take(2).collect();
    assert_eq!(events, [Some("ready"), Some("line")]);

    let written = std::fs::read_to_string(&toml).unwrap();
    assert!(written.contains("hunter2"), "{written}");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&toml).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else reads the secrets");
    let (mut server, ready) = turn(&["--config", &toml, "--listen", "127.0.0.1:0"]).await;
    let address = ready["listen"][0].as_str().unwrap().parse().unwrap();
    assert!(is_answered(address));
    server.terminate();
    assert_eq!(server.ended().await.status, Some(0));

    let again = start(&import[..5]).ended().await;
    assert_eq!(
        again.status,
        Some(1),
        "a file that is there is not overwritten"
    );
}

#[tokio::test]
async fn an_imported_configuration_that_is_printed_stands_alone() {
    let folder = Folder::new("import-print");
    let conf = "listening-ip=127.0.0.1\nlt-cred-mech\nuser=alice:hunter2\nrealm=example.org\n";
    let conf = folder.write("turnserver.conf", conf);
    for style in [&[][..], &["--json"]] {
        let import = ["turn", "--import", &conf, "--write", "-"];
        let ended = start(&[&import[..], style].concat()).ended().await;
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
        assert!(
            ended.complaints.contains("listening-ip"),
            "{}",
            ended.complaints
        );
        let toml = folder.write("turn.toml", &ended.lines.join("\n"));
        let (_server, _) = turn(&["--config", &toml, "--listen", "127.0.0.1:0"]).await;
    }
}

#[tokio::test]
async fn a_certificate_alone_has_tls_served_beside_plain_turn() {
    let folder = Folder::new("turn-tls");
    let made = certificate(&folder);
    let (chain, key) = (folder.path("cert.pem"), folder.path("key.pem"));
    let (_server, ready) = turn(&["--listen", "127.0.0.1:0", "--tls", &chain, &key]).await;
    let address = ready["listen"][0].as_str().unwrap().parse().unwrap();
    assert!(shows(address, &made));
}

#[tokio::test]
async fn an_invalid_line_makes_the_import_fail() {
    let folder = Folder::new("import-invalid");
    let conf = folder.write("turnserver.conf", "realm=x\nmin-port=many\n");
    let ended = start(&["turn", "--import", &conf]).ended().await;
    assert_eq!(ended.status, Some(1));
    assert!(
        ended
            .lines
            .contains(&"line 2: min-port: invalid: not a port".to_owned())
    );
}
