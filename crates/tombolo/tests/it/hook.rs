//! An HTTP server that knows users, asked by `tombolo turn`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::serve::Listener;
use ring::hmac;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::folder::Folder;
use crate::operating::Server;

const KEY: &str = "a key of more than 16 bytes";

/// TLS on loopback, which counts its connections.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    connections: Arc<AtomicUsize>,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, from) = self.tcp.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                self.connections.fetch_add(1, Ordering::Relaxed);
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// Starts a server that knows users, and says where it is and how many connections it had. Puts its
/// certificate into the folder.
async fn users(folder: &Folder) -> (SocketAddr, Arc<AtomicUsize>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    folder.write("ca.pem", &made.cert.pem());
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.into()], PrivateKeyDer::from(key))
        .unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let listener = TlsListener {
        tcp: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        acceptor: TlsAcceptor::from(Arc::new(config)),
        connections: Arc::clone(&connections),
    };
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/turn", post(answer));
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    (address, connections)
}

fn sign(what: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes());
    let tag = hmac::sign(&key, format!("{what}\n{body}").as_bytes());
    let hex: Vec<_> = tag
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256={}", hex.concat())
}

/// Answers as the username asks for.
async fn answer(headers: HeaderMap, body: Bytes) -> Response {
    let body = String::from_utf8(body.to_vec()).unwrap();
    let signature = headers.get("tombolo-signature").unwrap();
    assert_eq!(*signature, sign("tombolo-hook-question", &body));
    let question: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(question["realm"], "example.org");
    assert_eq!(question["transport"], "udp");
    assert!(
        question["client"]
            .as_str()
            .unwrap()
            .starts_with("127.0.0.1:")
    );
    let nonce = &question["nonce"];
    let known = json!({"nonce": nonce, "password": "hunter2", "lifetime": 60});
    let answer = match question["username"].as_str().unwrap() {
        "dora" | "fred" | "gina" => known,
        "eve" => json!({"nonce": nonce, "refused": true}),
        "late" => std::future::pending().await,
        "broken" => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "replayed" => json!({"nonce": "an old one", "password": "hunter2"}),
        "unclear" => json!({"nonce": nonce}),
        "forged" => {
            let signature = sign("tombolo-hook-answer", "something else");
            return ([("tombolo-signature", signature)], known.to_string()).into_response();
        }
        other => panic!("nobody asked for {other}"),
    };
    let answer = answer.to_string();
    let signature = sign("tombolo-hook-answer", &answer);
    ([("tombolo-signature", signature)], answer).into_response()
}

async fn server(name: &str, hook: SocketAddr, folder: &Folder) -> Server {
    let config = format!(
        "listen = ['127.0.0.1:0']
        shards = 1
        [hook]
        url = 'https://{hook}/turn'
        key = '{KEY}'
        ca = '{}'
        timeout = 1
        [[realm]]
        name = 'example.org'
        hook = true
        users = {{ alice = 'hunter2' }}",
        folder.path("ca.pem")
    );
    Server::start(name, &config, &[]).await
}

fn metric(server: &Server, line: &str) -> u64 {
    let (_, body) = server.get("/metrics");
    let found = body.lines().find_map(|found| found.strip_prefix(line));
    found.expect("the metric is there").trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_the_hook_come_in_over_one_connection() {
    let folder = Folder::new("hook-files");
    let (hook, connections) = users(&folder).await;
    let server = server("hook", hook, &folder).await;
    assert!(server.caller("alice").allocates(), "the file's users first");
    assert_eq!(metric(&server, "tombolo_relay_hook_questions_total"), 0);
    for user in ["dora", "fred", "gina", "dora"] {
        assert!(server.caller(user).allocates(), "{user}");
    }
    assert_eq!(metric(&server, "tombolo_relay_hook_questions_total"), 3);
    assert_eq!(metric(&server, "tombolo_relay_hook_admitted_total"), 3);
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    assert!(!server.caller("eve").allocates());
    assert_eq!(metric(&server, "tombolo_relay_hook_refused_total"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_nobody_comes_in_and_the_reason_is_counted() {
    let folder = Folder::new("hook-failures-files");
    let (hook, _) = users(&folder).await;
    let server = server("hook-failures", hook, &folder).await;
    for (user, reason) in [
        ("late", "no answer in time"),
        ("broken", "unexpected status"),
        ("replayed", "answer to another question"),
        ("forged", "wrong signature"),
        ("unclear", "malformed answer"),
    ] {
        let line = format!("tombolo_relay_hook_failures_total{{reason=\"{reason}\"}}");
        let before = metric(&server, &line);
        assert!(!server.caller(user).allocates(), "{user}");
        assert!(metric(&server, &line) > before, "{user}");
    }
    assert!(server.caller("dora").allocates(), "others still do");
    let text = std::fs::read_to_string(server.folder.path("turn.toml")).unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let text = text.replace(&hook.to_string(), &nowhere);
    server.folder.write("turn.toml", &text);
    server.answer(&["reload"]).await;
    assert!(!server.caller("fred").allocates());
    let line = "tombolo_relay_hook_failures_total{reason=\"not reachable\"}";
    assert!(metric(&server, line) > 0);
}
