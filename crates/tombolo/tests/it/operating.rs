//! What operators do to `tombolo turn`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::{Value, json};
use tombolo_natlab::{in_namespace, ip_command};
use tombolo_turn::client::AllocateError;

use crate::caller::Caller;
use crate::command::{Ended, Running, start, turn};
use crate::folder::Folder;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const ALICE: &str = "listen = ['127.0.0.1:0']
[[realm]]
name = 'example.org'
users = { alice = 'hunter2' }
";
const ALICE_AND_CAROL: &str = "listen = ['127.0.0.1:0']
[[realm]]
name = 'example.org'
users = { alice = 'hunter2', carol = 'hunter2' }
";

/// A server with an admin socket, a configuration file, and an address for metrics.
pub(crate) struct Server {
    pub(crate) running: Running,
    pub(crate) folder: Folder,
    address: SocketAddr,
    metrics: SocketAddr,
    admin: String,
}

impl Server {
    pub(crate) async fn start(name: &str, config: &str, more: &[&str]) -> Self {
        let folder = Folder::new(name);
        let config = folder.write("turn.toml", config);
        let admin = folder.path("turn.sock");
        let args = ["--config", &config, "--admin", &admin];
        let metrics = ["--metrics", "127.0.0.1:0"];
        let (running, ready) = turn(&[&args[..], &metrics, more].concat()).await;
        let address = |value: &Value| value.as_str().unwrap().parse().unwrap();
        Self {
            running,
            folder,
            address: address(&ready["listen"][0]),
            metrics: address(&ready["metrics"]),
            admin,
        }
    }

    async fn command(&self, command: &[&str]) -> Ended {
        let at = ["--admin", &self.admin, "--json"];
        start(&[&["turn"], command, &at].concat()).ended().await
    }

    /// What a command that works prints.
    pub(crate) async fn answer(&self, command: &[&str]) -> Value {
        let ended = self.command(command).await;
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
        ended.events[0].clone()
    }

    pub(crate) fn caller(&self, user: &str) -> Caller {
        Caller::new(self.address, user, "hunter2")
    }

    /// Where a client is sent that wants an allocation.
    fn newcomers_go_to(&self) -> Option<String> {
        match self.caller("alice").allocate() {
            Err(AllocateError::TryAlternate { server, .. }) => Some(server.to_string()),
            _ => None,
        }
    }

    /// Head and body of the answer to a GET.
    pub(crate) fn get(&self, path: &str) -> (String, String) {
        get(self.metrics, path)
    }

    fn is_ready(&self) -> bool {
        self.get("/readyz").0.starts_with("HTTP/1.1 200")
    }

    async fn ends(mut self) {
        let ended = self.running.ended().await;
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
        assert!(!ended.complaints.contains("hunter2"), "a secret is logged");
        assert!(!std::path::Path::new(&self.admin).exists());
    }
}

/// Head and body of the answer to a GET.
pub(crate) fn get(server: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn allocations_are_listed_inspected_and_ended() {
    let server = Server::start("operate-list", ALICE_AND_CAROL, &[]).await;
    let mode = std::fs::metadata(&server.admin).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let (mut alice, mut carol) = (server.caller("alice"), server.caller("carol"));
    assert!(alice.allocates() && carol.allocates());

    let page = server.answer(&["list"]).await;
    assert_eq!(page["event"], "allocations");
    assert_eq!(page["total"], 2);
    assert_eq!(page["allocations"][0]["user"], "alice");
    assert_eq!(page["allocations"][1]["user"], "carol");
    let page = server
        .answer(&["list", "--skip", "1", "--count", "1"])
        .await;
    assert_eq!(page["allocations"].as_array().unwrap().len(), 1);
    assert_eq!(page["allocations"][0]["user"], "carol");
    let of_realm = ["list", "--realm", "example.org", "--user", "alice"];
    assert_eq!(server.answer(&of_realm).await["total"], 1);
    assert_eq!(
        server.answer(&["list", "--client", "127.0.0.9"]).await["total"],
        0
    );

    let client = alice.address().to_string();
    let allocation = server.answer(&["inspect", &client]).await;
    assert_eq!(allocation["client"], client.as_str());
    assert_eq!(allocation["transport"], "udp");
    assert_eq!(allocation["realm"], "example.org");
    assert_eq!(allocation["to_peer"], json!({"packets": 0, "bytes": 0}));
    assert!(allocation["expires_in_s"].as_f64().unwrap() > 500.0);

    assert_eq!(server.command(&["end"]).await.status, Some(1), "end whom?");
    assert_eq!(server.answer(&["end", "--user", "alice"]).await["ended"], 1);
    let gone = server.command(&["inspect", &client]).await;
    assert_eq!(gone.status, Some(1));
    assert!(
        gone.complaints.contains("no allocation"),
        "{}",
        gone.complaints
    );
    assert_eq!(server.answer(&["end", "--all"]).await["ended"], 1);
    let stats = server.answer(&["stats"]).await;
    assert_eq!(stats["allocations"], 0);
    assert_eq!(stats["allocations_created"], 2);
    assert!(stats["refusals"]["credentials required"].as_u64().unwrap() >= 2);
    server.running.terminate();
    server.ends().await;
}

#[tokio::test]
async fn a_drained_server_is_not_ready_and_undrained_it_is() {
    let server = Server::start("operate-drain", ALICE, &[]).await;
    let mut alice = server.caller("alice");
    assert!(alice.allocates());
    assert!(server.is_ready());
    let left = server.answer(&["drain"]).await;
    assert_eq!(
        (&left["draining"], &left["allocations"]),
        (&json!(true), &json!(1))
    );
    assert!(!server.is_ready());
    assert!(server.get("/healthz").0.starts_with("HTTP/1.1 200"));
    assert!(!server.caller("alice").allocates(), "no newcomers");

    let waited = server.command(&["drain", "--wait", "0"]).await;
    assert_eq!(waited.status, Some(1), "one is left");
    alice.close();
    let waited = server
        .command(&["drain", "--to", "192.0.2.1:3478", "--wait"])
        .await;
    assert_eq!(waited.status, Some(0), "{}", waited.complaints);
    assert_eq!(waited.events.last().unwrap()["allocations"], 0);

    let left = server.answer(&["undrain"]).await;
    assert_eq!(left["draining"], false);
    assert!(server.is_ready());
    assert!(server.caller("alice").allocates());
    server.running.terminate();
    server.ends().await;
}

#[tokio::test]
async fn a_server_that_is_to_end_sends_newcomers_where_its_drain_or_its_file_says() {
    let file = format!("drain-timeout = 60\ndrain-to = ['192.0.2.9:3478']\n{ALICE}");
    for (name, before, to) in [
        (
            "drained",
            &["drain", "--to", "192.0.2.1:3478"][..],
            "192.0.2.1:3478",
        ),
        ("alone", &["undrain"][..], "192.0.2.9:3478"),
    ] {
        let server = Server::start(&format!("operate-end-{name}"), &file, &[]).await;
        let mut alice = server.caller("alice");
        assert!(alice.allocates());
        server.answer(before).await;
        server.running.terminate();
        let start = Instant::now();
        // Until it has heard of its end.
        while server.is_ready() || server.newcomers_go_to().as_deref() != Some(to) {
            assert!(start.elapsed() < PATIENCE, "{name}: never");
        }
        server.answer(&["undrain"]).await;
        let start = Instant::now();
        // Nobody who came in now could stay.
        while server.is_ready() || server.newcomers_go_to().as_deref() != Some("192.0.2.9:3478") {
            assert!(start.elapsed() < PATIENCE, "{name}: newcomers come in");
        }
        alice.close();
        server.ends().await;
    }
}

#[tokio::test]
async fn who_looks_how_a_drain_goes_takes_no_servers_from_it() {
    let server = Server::start("operate-drain-twice", ALICE, &[]).await;
    server.answer(&["drain", "--to", "192.0.2.1:3478"]).await;
    let left = server.answer(&["drain", "--wait"]).await;
    assert_eq!(
        (&left["draining"], &left["allocations"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(server.newcomers_go_to().as_deref(), Some("192.0.2.1:3478"));
    server.answer(&["drain", "--to", "192.0.2.2:3478"]).await;
    assert_eq!(server.newcomers_go_to().as_deref(), Some("192.0.2.2:3478"));
}

#[tokio::test]
async fn another_address_for_metrics_is_taken_at_the_next_start() {
    let server = Server::start("operate-metrics-moved", ALICE, &[]).await;
    let file = format!("metrics = '127.0.0.1:1'\n{ALICE_AND_CAROL}");
    server.folder.write("turn.toml", &file);
    assert_eq!(server.answer(&["reload"]).await["event"], "reloaded");
    assert!(server.caller("carol").allocates());
}

#[tokio::test]
async fn metrics_are_open_metrics_without_users() {
    let server = Server::start("operate-metrics", ALICE, &["--shards", "1"]).await;
    assert!(server.caller("alice").allocates());
    let (head, body) = server.get("/metrics");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(body.ends_with("# EOF\n"), "{body}");
    let of_realm = "\ntombolo_turn_realm_allocations{realm=\"example.org\"} 1\n";
    assert!(body.contains(of_realm), "{body}");
    assert!(
        body.contains("\ntombolo_turn_allocations{shard=\"0\"} 1\n"),
        "{body}"
    );
    assert!(
        body.contains("reason=\"stale nonce\",code=\"438\"} 0\n"),
        "{body}"
    );
    assert!(!body.contains("alice"), "{body}");
    assert!(
        server.get("/v1/stats").0.starts_with("HTTP/1.1 404"),
        "it only tells"
    );
}

#[tokio::test]
async fn a_node_has_metrics_of_its_relay_too() {
    let ports = ["--port", "0", "--turn-port", "0", "--turns-port", "0"];
    let more = [
        "--listen",
        "127.0.0.1",
        "--metrics",
        "127.0.0.1:0",
        "--json",
    ];
    let mut node = start(&[&["serve", "--dev"], &ports[..], &more].concat());
    let ready = node.event("ready").await;
    let address = ready["metrics"].as_str().unwrap().parse().unwrap();
    let (_, body) = get(address, "/metrics");
    assert!(body.contains("tombolo_turn_allocations{shard=\"0\"} 0\n"));
    assert!(get(address, "/readyz").0.starts_with("HTTP/1.1 200"));
    node.terminate();
    assert_eq!(node.ended().await.status, Some(0));
}

#[tokio::test]
async fn the_allocations_of_a_nodes_relay_are_listed_and_ended_too() {
    let folder = Folder::new("operate-node");
    let admin = folder.path("node.sock");
    let config = folder.write(
        "node.toml",
        "[[relay.realm]]\nname = 'example.org'\nusers = { alice = 'hunter2', carol = 'hunter2' }\n",
    );
    let ports = ["--port", "0", "--turn-port", "0", "--turns-port", "0"];
    let more = [
        "--listen",
        "127.0.0.1",
        "--admin",
        &admin,
        "--config",
        &config,
        "--json",
    ];
    let mut node = start(&[&["serve", "--dev"], &ports[..], &more].concat());
    let ready = node.event("ready").await;
    let turn = ready["turn"][0].as_str().unwrap();
    let (_, turn) = turn.split_once(':').unwrap();
    let turn = turn.split('?').next().unwrap().parse().unwrap();
    let [mut alice, mut carol] = ["alice", "carol"].map(|user| Caller::new(turn, user, "hunter2"));
    assert!(alice.allocates() && carol.allocates());

    let ask = async |command: &[&str]| {
        let at = ["--admin", &admin, "--json"];
        start(&[&["turn"], command, &at].concat()).ended().await
    };
    let page = ask(&["list"]).await.events[0].clone();
    assert_eq!(page["total"], 2);
    assert_eq!(page["allocations"][0]["user"], "alice");
    let client = alice.address().to_string();
    assert_eq!(ask(&["inspect", &client]).await.events[0]["user"], "alice");
    assert_eq!(ask(&["end", "--user", "alice"]).await.events[0]["ended"], 1);
    assert_eq!(ask(&["stats"]).await.events[0]["allocations"], 1);
    let refused = ask(&["drain"]).await;
    assert_eq!(refused.status, Some(1));
    assert!(
        refused.complaints.contains("tombolo drain"),
        "{}",
        refused.complaints
    );
    node.terminate();
    assert_eq!(node.ended().await.status, Some(0));
}

#[tokio::test]
async fn a_reload_lets_others_in_and_a_wrong_one_changes_nothing() {
    let mut server = Server::start("operate-reload", ALICE, &[]).await;
    let mut alice = server.caller("alice");
    assert!(alice.allocates());
    assert!(!server.caller("carol").allocates());
    server.folder.write("turn.toml", ALICE_AND_CAROL);
    assert_eq!(server.answer(&["reload"]).await["event"], "reloaded");
    assert!(server.caller("carol").allocates());
    let of_alice = server.answer(&["list", "--user", "alice"]).await;
    assert_eq!(of_alice["total"], 1, "allocations stay");

    let at_start = format!("drain-timeout = 7\n{ALICE_AND_CAROL}");
    server.folder.write("turn.toml", &at_start);
    assert_eq!(server.answer(&["reload"]).await["event"], "reloaded");
    let unchanged = "only a restart changes drain-timeout";
    server.running.complains(unchanged).await;

    for (config, says) in [
        ("listen = ['127.0.0.1:0']\nreelm = 1\n", "line 2"),
        ("listen = ['127.0.0.1:0']\nshards = 0\n", "line 2, shards: "),
        (
            "listen = ['127.0.0.1:1']\n",
            "only a restart changes where it listens (`listen`)",
        ),
        (
            "listen = ['127.0.0.1:0']\ntls = { key = 'k' }\n",
            "certificate",
        ),
    ] {
        server.folder.write("turn.toml", config);
        let refused = server.command(&["reload"]).await;
        assert_eq!(refused.status, Some(1), "{config}");
        assert!(refused.complaints.contains(says), "{}", refused.complaints);
        assert!(server.caller("carol").allocates(), "what was stays");
    }
}

#[tokio::test]
async fn the_log_says_why_somebody_was_refused_to_those_who_debug() {
    for (level, is_there) in [("debug", true), ("info", false)] {
        let more = ["--log", level];
        let mut server = Server::start(&format!("operate-log-{level}"), ALICE, &more).await;
        let mallory = Caller::new(server.address, "alice", "a guess").allocates();
        assert!(!mallory);
        server.running.terminate();
        let complaints = server.running.ended().await.complaints;
        let reason = "message integrity does not match";
        assert_eq!(complaints.contains(reason), is_there, "{complaints}");
        assert!(complaints.contains("relay listens"), "{complaints}");
        assert!(!complaints.contains("hunter2"), "a secret is logged");
    }
}

#[tokio::test]
async fn a_hangup_reloads_too_and_so_does_what_coturns_operators_send() {
    for signal in ["HUP", "USR2"] {
        let server = Server::start(&format!("operate-{signal}"), ALICE, &[]).await;
        server.folder.write("turn.toml", ALICE_AND_CAROL);
        server.running.signal(signal);
        let start = Instant::now();
        while !server.caller("carol").allocates() {
            assert!(start.elapsed() < PATIENCE, "carol never came in");
        }
    }
}

#[tokio::test]
async fn what_coturns_operators_send_to_drain_waits_for_all_allocations() {
    let server = Server::start("operate-usr1", ALICE, &[]).await;
    let mut alice = server.caller("alice");
    assert!(alice.allocates());
    server.running.signal("USR1");
    let start = Instant::now();
    while server.is_ready() {
        assert!(start.elapsed() < PATIENCE, "it never drained");
    }
    server.running.signal("USR1");
    assert!(!server.caller("alice").allocates());
    assert_eq!(server.answer(&["list"]).await["total"], 1, "it stays");
    alice.close();
    server.ends().await;

    let server = Server::start("operate-usr1-term", ALICE, &[]).await;
    assert!(server.caller("alice").allocates());
    server.running.signal("USR1");
    let start = Instant::now();
    while server.is_ready() {
        assert!(start.elapsed() < PATIENCE, "it never drained");
    }
    server.running.terminate();
    server.ends().await;
}

#[tokio::test]
async fn a_termination_waits_for_allocations_and_a_second_one_does_not() {
    let more = ["--drain-timeout", "3600"];
    let server = Server::start("operate-term", ALICE, &more).await;
    let mut alice = server.caller("alice");
    assert!(alice.allocates());
    server.running.terminate();
    let start = Instant::now();
    while server.is_ready() {
        assert!(start.elapsed() < PATIENCE, "it never drained");
    }
    alice.close();
    server.ends().await;

    let server = Server::start("operate-term-twice", ALICE, &more).await;
    assert!(server.caller("alice").allocates());
    server.running.terminate();
    let start = Instant::now();
    while server.is_ready() {
        assert!(start.elapsed() < PATIENCE, "it never drained");
    }
    server.running.terminate();
    server.ends().await;
}

#[tokio::test]
async fn a_certificate_is_replaced_without_a_restart() {
    let folder = Folder::new("operate-certificate-files");
    let first = certificate(&folder);
    let (cert, key) = (folder.path("cert.pem"), folder.path("key.pem"));
    let config = format!(
        "{}[tls]\ncertificate = '{cert}'\nkey = '{key}'\nlisten = ['127.0.0.1:0']\n",
        ALICE
    );
    let folder_of_server = Folder::new("operate-certificate");
    let file = folder_of_server.write("turn.toml", &config);
    let admin = folder_of_server.path("turn.sock");
    let (_running, ready) = turn(&["--config", &file, "--admin", &admin]).await;
    let address = ready["tls"][0].as_str().unwrap().parse().unwrap();
    assert!(shows(address, &first));
    let second = certificate(&folder);
    assert!(!shows(address, &second));
    let reload = ["turn", "reload", "--admin", &admin];
    assert_eq!(start(&reload).ended().await.status, Some(0));
    assert!(shows(address, &second));
    assert!(!shows(address, &first));
    let elsewhere = config.replacen("127.0.0.1:0", "127.0.0.1:1", 1);
    folder_of_server.write("turn.toml", &elsewhere);
    let third = certificate(&folder);
    let ended = start(&reload).ended().await;
    assert_eq!(ended.status, Some(1));
    let says = "took the certificate over and nothing else: only a restart changes";
    assert!(ended.complaints.contains(says), "{}", ended.complaints);
    assert!(shows(address, &third), "it would run out");
    std::fs::write(&key, "no key").unwrap();
    assert_eq!(start(&reload).ended().await.status, Some(1));
    assert!(shows(address, &third), "what was stays");
}

#[test]
fn an_import_that_names_no_address_is_read_again_though_the_machine_has_others() {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let folder = Folder::new("operate-import");
            let first = certificate(&folder);
            let conf = "realm=r\nuser=alice:hunter2\ncert=cert.pem\npkey=key.pem\n";
            let conf = folder.write("turnserver.conf", conf);
            let admin = folder.path("turn.sock");
            let import = ["--import", &conf, "--run", "--admin", &admin];
            let (_running, ready) = turn(&import).await;
            let address = ready["tls"][0].as_str().unwrap().parse().unwrap();
            assert!(shows(address, &first));
            ip_command(&["address", "add", "192.0.2.1/32", "dev", "lo"]);
            let second = certificate(&folder);
            let ended = start(&["turn", "reload", "--admin", &admin]).ended().await;
            assert_eq!(ended.status, Some(0), "{}", ended.complaints);
            assert!(shows(address, &second));
        });
    });
}

/// Puts a new certificate into the folder.
pub(crate) fn certificate(folder: &Folder) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    folder.write("cert.pem", &made.cert.pem());
    folder.write("key.pem", &made.signing_key.serialize_pem());
    made.cert.into()
}

/// Whether a server proves itself with this certificate.
pub(crate) fn shows(address: SocketAddr, certificate: &CertificateDer<'static>) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::from(address.ip());
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    while connection.is_handshaking() {
        if connection.complete_io(&mut stream).is_err() {
            return false;
        }
    }
    true
}
