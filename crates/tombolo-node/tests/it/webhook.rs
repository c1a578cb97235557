//! What a webhook's server sees: one that works, one that hangs, one that fails and recovers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tombolo_node::{Node, WebhookConfig, WebhookStats};

use crate::https::PATIENCE;
use crate::introduction::Device;

const KEY: &[u8] = b"a key of at least 16 bytes";

/// A server that says yes or no when it is told to.
struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        Self { listener, address }
    }

    async fn accept(&self) -> TcpStream {
        let accepted = tokio::time::timeout(PATIENCE, self.listener.accept());
        accepted
            .await
            .expect("a post in time")
            .expect("a connection")
            .0
    }

    /// Takes one post, answers it, and returns its body if its signature is right.
    async fn answer(&self, status: &str) -> Value {
        self.answer_with(status, "Content-Length: 0\r\nConnection: close\r\n\r\n")
            .await
            .0
    }

    /// The same with what comes after the status; the connection stays open for as long as it is kept.
    async fn answer_with(&self, status: &str, rest: &str) -> (Value, TcpStream) {
        let mut stream = self.accept().await;
        let mut request = Vec::new();
        let (head, body) = loop {
            let mut buffer = [0; 4096];
            let count = tokio::time::timeout(PATIENCE, stream.read(&mut buffer));
            let count = count.await.expect("in time").expect("it is open");
            assert_ne!(count, 0, "the request broke off");
            request.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&request).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = header(head, "content-length").parse().expect("a number");
                if body.len() >= length {
                    break (head.to_owned(), body.to_owned());
                }
            }
        };
        assert!(head.starts_with("POST /events HTTP/1.1"), "{head}");
        let mut mac = Hmac::<Sha256>::new_from_slice(KEY).expect("any length");
        mac.update(b"tombolo-webhook\n");
        mac.update(body.as_bytes());
        let digest: Vec<_> = mac.finalize().into_bytes().iter().copied().collect();
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(header(&head, "tombolo-signature"), format!("sha256={hex}"));
        let answer = format!("HTTP/1.1 {status}\r\n{rest}");
        // Nobody has to read all of it.
        let _ = stream.write_all(answer.as_bytes()).await;
        (serde_json::from_str(&body).expect("JSON"), stream)
    }

    async fn node(&self, change: impl FnOnce(&mut WebhookConfig)) -> Node {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the versions are known")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let url = format!("http://{}/events", self.address);
        let mut config = WebhookConfig::new(url, KEY.to_vec(), Arc::new(tls));
        config.pause_min = Duration::from_millis(1);
        change(&mut config);
        let builder = Node::builder().dev().listen([127, 0, 0, 1].into());
        let builder = builder.port(0).turn_port(0).turns_port(0).webhook(config);
        builder.start().await.expect("loopback has free ports")
    }
}

fn header(head: &str, name: &str) -> String {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
    found
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_is_asked_again_until_it_takes_the_same_events() {
    let server = Server::start().await;
    let node = server.node(|_| {}).await;
    let _alice = Device::join(&node, "alice").await;
    let first = server.answer("503 Service Unavailable").await;
    let mut batch = server.answer("200 OK").await;
    assert_eq!(first, batch, "the same batch comes again");
    assert_eq!(
        (&batch["batch"], &batch["node"]),
        (&1.into(), &"node".into())
    );
    let began = &batch["events"][0];
    assert_eq!(
        (&began["event"], &began["user"]),
        (&"session_began".into(), &"alice".into())
    );
    loop {
        let events = batch["events"].as_array().expect("a list").clone();
        if let Some(joined) = events
            .iter()
            .find(|event| event["event"] == "member_joined")
        {
            assert_eq!(joined["user"], "alice");
            assert!(joined["room"].is_string(), "{joined}");
            break;
        }
        batch = server.answer("200 OK").await;
    }
    let stats = stats_when(&node, |stats| stats.delivered >= 2).await;
    assert_eq!((stats.failures, stats.given_up, stats.dropped), (1, 0, 0));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_nothing_up_and_recovers() {
    let server = Server::start().await;
    let node = server
        .node(|config| {
            config.timeout = Duration::from_millis(100);
            config.retries_max = 100_000;
            config.queue_max = 1;
        })
        .await;
    // It takes connections and says nothing.
    let mut hanging = Vec::new();
    let _alice = Device::join(&node, "alice").await;
    hanging.push(server.accept().await);
    let _bob = Device::join(&node, "bob").await;
    let _carol = Device::join(&node, "carol").await;
    let stats = stats_when(&node, |stats| stats.failures > 0 && stats.dropped > 0).await;
    assert_eq!((stats.delivered, stats.given_up), (0, 0));
    while stats_when(&node, |_| true).await.failures < 2 {
        hanging.push(server.accept().await);
    }
    drop(hanging);
    let recovered = server.answer("204 No Content").await;
    assert_eq!(recovered["batch"], 1);
    assert_eq!(recovered["events"][0]["user"], "alice");
    stats_when(&node, |stats| stats.delivered > 0).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_sends_elsewhere_is_asked_again() {
    let server = Server::start().await;
    let node = server.node(|_| {}).await;
    let _alice = Device::join(&node, "alice").await;
    let first = server.answer("302 Found").await;
    assert_eq!(first, server.answer("200 OK").await);
    let stats = stats_when(&node, |stats| stats.delivered > 0).await;
    assert_eq!((stats.failures, stats.given_up), (1, 0));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_says_beside_its_yes_does_not_matter() {
    for rest in [
        format!("Content-Length: 100000\r\n\r\n{}", "x".repeat(100_000)),
        "Content-Length: 10\r\n\r\nand then".to_owned(),
    ] {
        let server = Server::start().await;
        let node = server
            .node(|config| config.timeout = Duration::from_millis(500))
            .await;
        let _alice = Device::join(&node, "alice").await;
        let (batch, _open) = server.answer_with("200 OK", &rest).await;
        assert_eq!(batch["batch"], 1);
        let stats = stats_when(&node, |stats| stats.delivered > 0).await;
        assert_eq!((stats.failures, stats.given_up), (0, 0));
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_a_server_does_not_want_are_given_up_at_once() {
    let server = Server::start().await;
    let node = server.node(|_| {}).await;
    let _alice = Device::join(&node, "alice").await;
    server.answer("400 Bad Request").await;
    let stats = stats_when(&node, |stats| stats.given_up > 0).await;
    assert_eq!((stats.failures, stats.delivered), (1, 0));
    node.shutdown().await;
}

async fn stats_when(node: &Node, is_wished: impl Fn(WebhookStats) -> bool) -> WebhookStats {
    let begin = std::time::Instant::now();
    loop {
        let stats = node.stats().webhook;
        if is_wished(stats) {
            return stats;
        }
        assert!(begin.elapsed() < PATIENCE, "never so: {stats:?}");
        tokio::task::yield_now().await;
    }
}
