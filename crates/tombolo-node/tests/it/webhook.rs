//! What a webhook's server sees: one that works, one that hangs, one that fails and recovers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tombolo_engine::{Local, LocalConfig};
use tombolo_node::{Node, NodeBuilder, WebhookConfig, WebhookStats};
use tombolo_wire::token::{Claims, KeySet, SigningKey, VerifyingKey};
use tombolo_wire::v1::client_frame::Body as Up;
use tombolo_wire::v1::server_frame::Body as Down;
use tombolo_wire::v1::{
    Goodbye, Hello, Join, JoinMode, Leave, Request, Resume, RoomAct, RoomRequest, Say, request,
    room_act,
};
use tombolo_wire::{NodeId, UserId, VERSION};

use crate::https::PATIENCE;
use crate::introduction::{Device, Socket, dial, keys, receive_until, send};
use crate::life;

const KEY: &[u8] = b"a key of at least 16 bytes";

/// A server that says yes or no when it is told to.
struct Server {
    listener: TcpListener,
    address: SocketAddr,
    /// Without, it speaks HTTP in the clear.
    tls: Option<TlsAcceptor>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        Self {
            listener,
            address,
            tls: None,
        }
    }

    /// One that speaks TLS, and the certificate by which it is known as `localhost`.
    async fn start_tls() -> (Self, CertificateDer<'static>) {
        let names = ["localhost".to_owned()];
        let certified = rcgen::generate_simple_self_signed(names).expect("entropy");
        let certificate = certified.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the versions are known")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .expect("they go together");
        let tls = Some(TlsAcceptor::from(Arc::new(config)));
        let server = Self::start().await;
        (Self { tls, ..server }, certificate)
    }

    /// The next connection; over TLS the next one of which the other side trusts the certificate.
    async fn accept(&self) -> Box<dyn Stream> {
        let accept = async {
            loop {
                let (stream, _) = self.listener.accept().await.expect("a connection");
                let Some(tls) = &self.tls else {
                    return Box::new(stream) as Box<dyn Stream>;
                };
                if let Ok(stream) = tls.accept(stream).await {
                    return Box::new(stream);
                }
            }
        };
        tokio::time::timeout(PATIENCE, accept)
            .await
            .expect("a post in time")
    }

    /// Takes one post, answers it, and returns its body if its signature is right.
    async fn answer(&self, status: &str) -> Value {
        self.answer_with(status, "Content-Length: 0\r\nConnection: close\r\n\r\n")
            .await
            .0
    }

    /// The same with what comes after the status; the connection stays open for as long as it is kept.
    async fn answer_with(&self, status: &str, rest: &str) -> (Value, Box<dyn Stream>) {
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
        let builder = life::builder().webhook(self.config(&[], change));
        builder.start().await.expect("loopback has free ports")
    }

    fn config(
        &self,
        trusted: &[CertificateDer<'static>],
        change: impl FnOnce(&mut WebhookConfig),
    ) -> WebhookConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the versions are known")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let url = match self.tls {
            Some(_) => format!("https://localhost:{}/events", self.address.port()),
            None => format!("http://{}/events", self.address),
        };
        let mut config = WebhookConfig::new(url, KEY.to_vec(), Arc::new(tls));
        config.pause_min = Duration::from_millis(1);
        change(&mut config);
        config
    }

    /// Takes posts until something of a kind is told; returns what is told until then.
    async fn told(&self, kind: &str) -> Vec<Value> {
        let mut told = Vec::new();
        loop {
            let batch = self.answer("200 OK").await;
            told.extend(batch["events"].as_array().expect("a list").iter().cloned());
            if told.iter().any(|event| event["event"] == kind) {
                return told;
            }
        }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_event_is_told_with_whom_and_where() {
    let servers = [Server::start().await, Server::start().await];
    let engine = Local::new(LocalConfig::default());
    let start = async |number: usize| {
        let builder: NodeBuilder = life::builder()
            .name(NodeId::parse(&format!("node-{number}")).expect("a name"))
            .engine(Arc::new(engine.clone()))
            .token_keys(token_keys())
            .webhook(servers[number].config(&[], |_| {}));
        builder.start().await.expect("loopback has free ports")
    };
    let nodes = [start(0).await, start(1).await];
    for node in &nodes {
        node.in_cluster().await.expect("nothing is in the way");
    }
    let [here, there] = &servers;

    let mut alice = Caller::default();
    alice.hello(&nodes[0]).await;
    let began = here.told("session_began").await;
    let session = began[0]["session"].clone();
    assert!(session.is_string(), "{began:?}");
    assert_eq!(words(&began), ["session_began alice"]);
    let join = Join {
        room: "lobby".to_owned(),
        mode: JoinMode::Create.into(),
        ..Join::default()
    };
    alice.ask(request::Kind::Join(join)).await;
    let came = here.told("member_joined").await;
    let words_of = ["room_opened alice in lobby", "member_joined alice in lobby"];
    assert_eq!(words(&came), words_of);
    let room = "lobby".to_owned();
    alice.ask(request::Kind::Leave(Leave { room })).await;
    let went = here.told("room_closed").await;
    let words_of = ["member_left alice in lobby", "room_closed in lobby"];
    assert_eq!(words(&went), words_of);
    alice.socket = None;
    let dropped = here.told("session_dropped").await;
    assert_eq!(words(&dropped), ["session_dropped alice"]);
    alice.hello(&nodes[0]).await;
    let back = here.told("session_returned").await;
    assert_eq!(words(&back), ["session_returned alice"]);
    alice.hello(&nodes[1]).await;
    let moved = here.told("session_moved").await;
    assert_eq!(words(&moved), ["session_moved alice"]);
    let began = there.told("session_began").await;
    assert_eq!(words(&began), ["session_began alice"]);
    alice.say(Up::Goodbye(Goodbye {})).await;
    let ended = there.told("session_ended").await;
    assert_eq!(words(&ended), ["session_ended alice"]);
    for event in [&dropped, &back, &moved, &began, &ended] {
        assert_eq!(event[0]["session"], session);
    }
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn durable_messages_are_told_where_that_is_wished() {
    for wished in [true, false] {
        let server = Server::start().await;
        let config = server.config(&[], |config| config.messages = wished);
        let builder = life::builder().token_keys(token_keys()).webhook(config);
        let node = builder.start().await.expect("loopback has free ports");
        let mut alice = Caller::default();
        alice.hello(&node).await;
        let join = Join {
            room: "lobby".to_owned(),
            mode: JoinMode::Create.into(),
            ..Join::default()
        };
        alice.ask(request::Kind::Join(join)).await;
        alice.ask(say("lobby", b"go")).await;
        let room = "lobby".to_owned();
        alice.ask(request::Kind::Leave(Leave { room })).await;
        let told = server.told("room_closed").await;
        let mut expected = vec![
            "session_began alice",
            "room_opened alice in lobby",
            "member_joined alice in lobby",
            "room_message alice in lobby",
            "member_left alice in lobby",
            "room_closed in lobby",
        ];
        if wished {
            let said = (&told[3]["number"], &told[3]["base64"]);
            assert_eq!(said, (&Value::from(1), &Value::from("Z28=")));
        } else {
            expected.remove(3);
        }
        assert_eq!(words(&told), expected);
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_https_only_the_server_of_a_trusted_certificate_is_told_and_a_reload_says_which() {
    let (server, certificate) = Server::start_tls().await;
    let (_, another) = Server::start_tls().await;
    let builder = |trusted| {
        let config = server.config(&[trusted], |config| config.retries_max = 100_000);
        life::builder().webhook(config)
    };
    let node = builder(another).start().await.expect("free ports");
    let trusting = builder(certificate);
    let _alice = Device::join(&node, "alice").await;
    let taking = tokio::spawn(async move { server.answer("200 OK").await });
    let stats = stats_when(&node, |stats| stats.failures > 0).await;
    assert_eq!(stats.delivered, 0);
    let node = Arc::new(node);
    let reloading = Arc::clone(&node);
    let reloaded = tokio::task::spawn_blocking(move || reloading.reload(trusting));
    reloaded.await.expect("it ends").expect("it is taken over");
    let batch = taking.await.expect("a post");
    assert_eq!(batch["events"][0]["user"], "alice");
    let node = Arc::into_inner(node).expect("nobody else has it");
    node.shutdown().await;
}

/// A device that says no more than it has to.
#[derive(Default)]
struct Caller {
    socket: Option<Socket>,
    sent: u64,
    resume: Option<Bytes>,
}

impl Caller {
    /// Begins a session, or goes on with it, at a node.
    async fn hello(&mut self, node: &Node) {
        let unix_now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let expires = unix_now.expect("after 1970") + Duration::from_secs(600);
        let claims = Claims::new(UserId::parse("alice").expect("a name"), expires);
        let key = SigningKey::hs256("one", TOKEN_KEY).expect("long enough");
        let hello = Hello {
            version: VERSION,
            token: key.mint(&claims).expect("it is small"),
            keys: Some(keys("alice")),
            resume: self.resume.take().map(|token| Resume { token }),
            ..Hello::default()
        };
        let mut socket = dial(node).await;
        send(&mut socket, 0, Up::Hello(hello)).await;
        let token = receive_until(&mut socket, |body| {
            if let Down::Welcome(welcome) = body {
                Some(welcome.resume_token)
            } else {
                None
            }
        });
        self.resume = Some(token.await);
        self.socket = Some(socket);
    }

    async fn ask(&mut self, kind: request::Kind) {
        let request = Request {
            id: self.sent + 1,
            kind: Some(kind),
        };
        self.say(Up::Request(request)).await;
    }

    async fn say(&mut self, body: Up) {
        self.sent += 1;
        let socket = self.socket.as_mut().expect("it is connected");
        send(socket, self.sent, body).await;
    }
}

fn say(room: &str, text: &[u8]) -> request::Kind {
    let said = room_act::Kind::Say(Say {
        audience: None,
        payload: Bytes::copy_from_slice(text),
    });
    request::Kind::Room(RoomRequest {
        room: room.to_owned(),
        act: Some(RoomAct { kind: Some(said) }),
        ..RoomRequest::default()
    })
}

/// What is told, of whom, and of which room.
fn words(events: &[Value]) -> Vec<String> {
    let words = events.iter().map(|event| {
        let word = event["event"].as_str().expect("a kind");
        let user = event["user"].as_str().map(|user| format!(" {user}"));
        let room = event["room"].as_str().map(|room| format!(" in {room}"));
        format!(
            "{word}{}{}",
            user.unwrap_or_default(),
            room.unwrap_or_default()
        )
    });
    words.collect()
}

fn token_keys() -> KeySet {
    let mut keys = KeySet::new();
    keys.insert("one", VerifyingKey::hs256(TOKEN_KEY).expect("long enough"));
    keys
}

const TOKEN_KEY: &[u8] = &[1; 32];

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
