//! `tombolo serve` with a configuration of its own, as operators run it.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::cluster::nats_server;
use crate::command::{Running, node_with, start, start_on_a_disk_that_fills};
use crate::folder::Folder;
use crate::operating::{certificate, get, shows};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OTHER_SECRET: &str = "fedcba9876543210fedcba9876543210";

/// A node's file: its own certificate, one key of tokens, any ports of loopback.
fn config(folder: &Folder, more: &str, tables: &str) -> String {
    folder.write("token.key", SECRET);
    folder.write("other.key", OTHER_SECRET);
    let text = format!(
        "listen = ['127.0.0.1']\nport = 0\nturn-port = 0\nturns-port = 0\n{more}\n\
         [tls]\ncertificate = 'cert.pem'\nkey = 'key.pem'\n{tables}\n\
         [relay.peers]\nallow = ['127.0.0.0/8']\n"
    );
    folder.write("node.toml", &text)
}

async fn serve(args: &[&str]) -> (Running, Value) {
    let mut node = start(&[&["serve", "--json"], args].concat());
    let ready = node.event("ready").await;
    (node, ready)
}

/// A token that the folder's key signs.
async fn token(folder: &Folder, key: &str, user: &str) -> String {
    let key = format!("{key}={}", folder.path(&format!("{key}.key")));
    let args = ["token", "--key", &key, "--user", user];
    let made = start(&args).ended().await;
    assert_eq!(made.status, Some(0), "{}", made.complaints);
    made.lines[0].clone()
}

fn peer(url: &str, token: &str, more: &[&str]) -> Running {
    let args = [
        "peer", "--server", url, "--token", token, "--room", "r", "--json",
    ];
    start(&[&args[..], more].concat())
}

fn gateway(ready: &Value) -> SocketAddr {
    let http = ready["http"].as_str().unwrap();
    http.strip_prefix("https://").unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_node_with_a_certificate_and_a_key_lets_devices_in_with_tokens_of_it() {
    let folder = Folder::new("serve-config");
    let own = certificate(&folder);
    let config = config(
        &folder,
        "name = 'north'",
        "pin = true\n[token-keys]\ntoken = 'token.key'",
    );
    let (mut node, ready) = serve(&["--config", &config]).await;
    assert_eq!(ready["name"], "north");
    assert!(shows(gateway(&ready), &own));
    let url = ready["url"].as_str().unwrap();
    assert!(url.contains("?pin="), "{url}");

    let mut alice = peer(
        url,
        &token(&folder, "token", "alice").await,
        &["--count", "3"],
    );
    let mut bob = peer(
        url,
        &token(&folder, "token", "bob").await,
        &["--count", "3"],
    );
    assert_eq!(alice.event("session").await["node"], "north");
    for ended in [alice.ended().await, bob.ended().await] {
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    }
    let mut mallory = peer(url, &token(&folder, "other", "mallory").await, &[]);
    let ended = mallory.ended().await;
    assert_eq!(ended.status, Some(1));
    let developer = ["token", "--server", url, "--user", "alice"];
    let refused = start(&developer).ended().await;
    assert_eq!(refused.status, Some(1), "nobody gets tokens for the asking");
    node.terminate();
    let ended = node.ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    assert!(!ended.complaints.contains(SECRET), "a secret is logged");
}

#[tokio::test]
async fn a_hangup_changes_keys_and_certificate_and_a_wrong_file_changes_nothing() {
    let folder = Folder::new("serve-reload");
    let first = certificate(&folder);
    let one_key = "[token-keys]\ntoken = 'token.key'";
    let path = config(&folder, "", one_key);
    let (mut node, ready) = serve(&["--config", &path]).await;
    let url = ready["url"].as_str().unwrap();
    assert!(!url.contains("pin"), "the web vouches for it: {url}");
    let at = gateway(&ready);
    assert!(shows(at, &first));

    let second = certificate(&folder);
    config(&folder, "", &format!("{one_key}\nother = 'other.key'"));
    node.signal("HUP");
    until(|| shows(at, &second)).await;
    assert!(!shows(at, &first));

    // Each of these is wrong in another way.
    for (more, tables) in [
        ("prot = 1", one_key),
        ("", "[token-keys]\ntoken = 'nonexistent.key'"),
        ("", ""),
    ] {
        config(&folder, more, tables);
        let third = certificate(&folder);
        node.signal("HUP");
        config_is_kept(&mut node, at, &second, &third).await;
    }
    // What needs a restart may have to wait longer than a certificate lasts.
    config(&folder, "region = 'elsewhere'", one_key);
    let fourth = certificate(&folder);
    node.signal("HUP");
    let says = "took the certificate over and nothing else: only a restart changes the region";
    node.complains(says).await;
    assert!(shows(at, &fourth) && !shows(at, &second));
    // It is right again, so that it is known when the others have been read.
    config(&folder, "drain-timeout = 7", one_key);
    node.signal("HUP");
    node.complains("only a restart changes drain-timeout").await;
    node.terminate();
    let complaints = node.ended().await.complaints;
    for says in [
        "line 5: unknown field `prot`",
        "token-keys.token: ",
        "[token-keys]",
    ] {
        assert!(complaints.contains(says), "{says}: {complaints}");
    }
}

/// Waits until the node has said that it keeps its configuration, and checks that it does.
async fn config_is_kept(
    node: &mut Running,
    at: SocketAddr,
    current: &rustls::pki_types::CertificateDer<'static>,
    new: &rustls::pki_types::CertificateDer<'static>,
) {
    node.complains("kept the configuration").await;
    assert!(shows(at, current) && !shows(at, new));
}

#[tokio::test]
async fn what_a_node_lacks_is_said_before_it_starts() {
    let folder = Folder::new("serve-lacking");
    let nothing = start(&["serve"]).ended().await;
    assert_eq!(nothing.status, Some(1));
    for says in ["--dev", "--tls CERT KEY", "--token-key NAME=FILE"] {
        assert!(nothing.complaints.contains(says), "{}", nothing.complaints);
    }
    certificate(&folder);
    let path = config(&folder, "", "");
    let no_keys = start(&["serve", "--config", &path]).ended().await;
    assert_eq!(no_keys.status, Some(1));
    assert!(
        !no_keys.complaints.contains("--tls"),
        "{}",
        no_keys.complaints
    );
    let path = config(&folder, "public = '0.0.0.0'", "");
    let wrong = start(&["serve", "--config", &path, "--dev"]).ended().await;
    assert_eq!(wrong.status, Some(1));
    let says = format!("{path}: line 5, public: ");
    assert!(wrong.complaints.contains(&says), "{}", wrong.complaints);
}

/// What a node that keeps rooms is told.
fn keeping(data: &str) -> [&str; 15] {
    [
        "--dev",
        "--name",
        "south",
        "--data",
        data,
        "--listen",
        "127.0.0.1",
        "--port",
        "0",
        "--turn-port",
        "0",
        "--turns-port",
        "0",
        "--allow-peer",
        "127.0.0.0/8",
    ]
}

/// A device that says something durable.
fn says(url: &str, text: &str) -> Running {
    let args = [
        "peer", "--server", url, "--user", "alice", "--room", "r", "--json",
    ];
    start(&[&args[..], &["--durable", text]].concat())
}

#[tokio::test]
async fn a_node_whose_disk_is_full_ends_and_goes_on_when_it_is_started_again() {
    let folder = Folder::new("serve-full");
    let data = folder.path("data");
    let args = keeping(&data);
    let mut node = start_on_a_disk_that_fills(&[&["serve", "--json"], &args[..]].concat());
    let ready = node.event("ready").await;
    let mut alice = says(ready["url"].as_str().unwrap(), "gg");
    assert_eq!(alice.event("said").await["number"], 1);
    let id = node.id().to_string();
    let mut limit = std::process::Command::new("prlimit");
    let status = limit.args(["--pid", &id, "--fsize=0"]).status();
    assert!(status.unwrap().success());

    let _bob = says(ready["url"].as_str().unwrap(), "lost");
    let ended = node.ended().await;
    assert_eq!(ended.status, Some(1), "{}", ended.complaints);
    let why = "cannot be written any more (--data): is the disk full?";
    assert!(ended.complaints.contains(why), "{}", ended.complaints);
    let (_node, ready) = serve(&args).await;
    let mut alice = says(ready["url"].as_str().unwrap(), "wp");
    assert_eq!(alice.event("said").await["number"], 2);
}

#[tokio::test]
async fn a_room_outlives_a_node_that_is_killed_and_started_again() {
    let folder = Folder::new("serve-data");
    let data = folder.path("data");
    let args = keeping(&data);
    let (mut node, ready) = serve(&args).await;
    let mut alice = says(ready["url"].as_str().unwrap(), "gg");
    let said = alice.event("said").await;
    assert_eq!((&said["number"], &said["text"]), (&json!(1), &json!("gg")));
    node.signal("KILL");
    assert_eq!(node.ended().await.status, None, "it was killed");
    drop(alice);

    let (mut node, ready) = serve(&args).await;
    assert_eq!(ready["name"], "south");
    let mut alice = says(ready["url"].as_str().unwrap(), "wp");
    let said = alice.event("said").await;
    assert_eq!(said["number"], 2, "the room counts on: {said}");
    alice.terminate();
    assert_eq!(alice.ended().await.status, Some(0));
    node.terminate();
    assert_eq!(node.ended().await.status, Some(0));
}

#[tokio::test]
async fn a_node_tells_those_who_collect_metrics_what_it_does() {
    let args = [
        "--dev",
        "--listen",
        "127.0.0.1",
        "--metrics",
        "127.0.0.1:0",
        "--allow-peer",
        "127.0.0.0/8",
    ];
    let ports = ["--port", "0", "--turn-port", "0", "--turns-port", "0"];
    let (mut node, ready) = serve(&[&args[..], &ports].concat()).await;
    let metrics = ready["metrics"].as_str().unwrap().parse().unwrap();
    let tells = |line: &str| get(metrics, "/metrics").1.lines().any(|told| told == line);
    assert!(tells("tombolo_services_sessions 0"));
    assert!(
        get(metrics, "/metrics")
            .0
            .contains("application/openmetrics-text")
    );

    let url = ready["url"].as_str().unwrap();
    let args = [
        "peer", "--server", url, "--user", "alice", "--room", "r", "--json",
    ];
    let mut alice = start(&[&args[..], &["--durable", "hello"]].concat());
    alice.event("said").await;
    for line in [
        "tombolo_services_sessions 1",
        "tombolo_services_rooms 1",
        "tombolo_gateway_connections{transport=\"quic\"} 1",
        "tombolo_gateway_attached_total 1",
        "tombolo_cluster_fenced_total 0",
        "tombolo_webhook_failures_total 0",
    ] {
        assert!(tells(line), "{line} in {}", get(metrics, "/metrics").1);
    }
    alice.terminate();
    alice.ended().await;
    node.terminate();
    assert_eq!(node.ended().await.status, Some(0));
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "it never was so");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_node_that_waits_for_nats_ends_when_it_is_told_to_and_its_socket_with_it() {
    let folder = Folder::new("serve-waits");
    let admin = folder.path("node.sock");
    // It takes connections, and says nothing.
    let nats = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", nats.local_addr().unwrap());
    let any = [
        "--listen",
        "127.0.0.1",
        "--port",
        "0",
        "--turn-port",
        "0",
        "--turns-port",
        "0",
    ];
    let args = ["serve", "--dev", "--nats", &url, "--admin", &admin];
    let mut node = start(&[&args[..], &any].concat());
    let _connection = nats.accept().await.unwrap();
    node.terminate();
    let ended = node.ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);

    let args = ["--dev", "--admin", &admin];
    let (mut node, _) = serve(&[&args[..], &any].concat()).await;
    assert!(std::path::Path::new(&admin).exists());
    node.terminate();
    assert_eq!(node.ended().await.status, Some(0));
    assert!(!std::path::Path::new(&admin).exists());
}

#[tokio::test]
async fn a_node_whose_nats_server_runs_without_jetstream_says_so_while_it_waits() {
    let mut nats = tokio::process::Command::new(nats_server());
    let nats = nats.args(["--addr", "127.0.0.1", "--port", "-1"]);
    let nats = nats.kill_on_drop(true).stderr(Stdio::piped());
    let mut nats = nats.spawn().unwrap();
    let mut said = BufReader::new(nats.stderr.take().unwrap()).lines();
    let address = loop {
        let line = said.next_line().await.unwrap().unwrap();
        if let Some((_, address)) = line.split_once("client connections on ") {
            break address.to_owned();
        }
    };
    let mut node = start(&["serve", "--dev", "--nats", &format!("nats://{address}")]);
    node.complains("runs without JetStream").await;
    node.terminate();
    assert_eq!(node.ended().await.status, Some(0));
}

#[tokio::test]
async fn a_drained_node_that_is_alone_has_moved_nobody() {
    let folder = Folder::new("serve-lone-drain");
    let admin = folder.path("node.sock");
    let (_node, url) = node_with(&["--admin", &admin]).await;
    let args = [
        "peer", "--server", &url, "--user", "alice", "--room", "r", "--json",
    ];
    let mut alice = start(&args);
    alice.event("joined").await;
    let drain = ["drain", "node", "--timeout", "3600", "--admin", &admin];
    let mut drain = start(&[&drain[..], &["--json"]].concat());
    assert_eq!(drain.event("drain").await["sessions"], 1);
    alice.terminate();
    assert_eq!(alice.ended().await.status, Some(0));
    let drained = drain.event("drained").await;
    assert_eq!(
        (&drained["moved"], &drained["sessions_left"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(drain.ended().await.status, Some(0));
}

#[tokio::test]
async fn addresses_and_names_that_no_device_could_use_are_refused() {
    let folder = Folder::new("serve-names");
    certificate(&folder);
    let (chain, key) = (folder.path("cert.pem"), folder.path("key.pem"));
    let any = [
        "--listen",
        "127.0.0.1",
        "--port",
        "0",
        "--turn-port",
        "0",
        "--turns-port",
        "0",
    ];
    for (args, says) in [
        (&["--public", "203.0.113.1"][..], "203.0.113.1"),
        (&["--public", "::1"], "::1"),
        (
            &["--host", "other.example", "--tls", &chain, &key],
            "the certificate is not for other.example",
        ),
    ] {
        let ended = start(&[&["serve", "--dev"], args, &any].concat())
            .ended()
            .await;
        assert_eq!(ended.status, Some(1), "{args:?}: {}", ended.complaints);
        assert!(ended.complaints.contains(says), "{}", ended.complaints);
    }
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    folder.write("cert.pem", &own.cert.pem());
    folder.write("key.pem", &own.signing_key.serialize_pem());
    let args = ["--host", "localhost", "--tls", &chain, &key, "--dev"];
    let (_node, ready) = serve(&[&args[..], &any].concat()).await;
    assert!(
        ready["url"]
            .as_str()
            .unwrap()
            .starts_with("tombolo://localhost:"),
        "{ready}"
    );
}
