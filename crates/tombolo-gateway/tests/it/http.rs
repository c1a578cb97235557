use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tombolo_wire::token::Claims;

use crate::device::{PATIENCE, Server, Transport};
use crate::fixture::{Fixture, signing_key, token, unix_now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_readiness_are_told_apart() {
    let fixture = Fixture::start_unready(|_| {});
    assert_eq!(fixture.server.get("/healthz", "").await.status, 200);
    let reply = fixture.server.get("/readyz", "").await;
    assert_eq!(
        (reply.status, reply.code()),
        (503, "unavailable".to_owned())
    );
    fixture.gateway.set_ready();
    assert_eq!(fixture.server.get("/readyz", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ice_servers_have_the_shape_of_webrtc() {
    let fixture = Fixture::start();
    let authorization = format!("Authorization: Bearer {}\r\n", token("alice"));
    for method in ["GET", "POST"] {
        let reply = fixture
            .server
            .request(method, "/v1/ice-servers", &authorization, "")
            .await;
        assert_eq!(reply.status, 200);
        let expected = json!({
            "iceServers": [
                {"urls": ["stun:192.0.2.1:3478", "stun:192.0.2.1:3479"]},
                {
                    "urls": ["turn:192.0.2.1:3478?transport=udp"],
                    "username": "1:alice",
                    "credential": "secret",
                },
            ],
            "ttl": 60,
        });
        assert_eq!(reply.json(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ice_servers_are_for_token_holders_only() {
    let fixture = Fixture::start();
    let expired = Claims::new("alice".parse().expect("a user"), unix_now());
    let expired = signing_key().mint(&expired).expect("the key signs");
    let table = [
        (String::new(), "token_missing"),
        ("Authorization: Basic YTpi\r\n".to_owned(), "token_missing"),
        ("Authorization: Bearer x\r\n".to_owned(), "token_invalid"),
        (
            format!("Authorization: Bearer {expired}\r\n"),
            "token_expired",
        ),
    ];
    for (headers, code) in table {
        let reply = fixture.server.get("/v1/ice-servers", &headers).await;
        assert_eq!((reply.status, reply.code().as_str()), (401, code));
        assert!(
            reply.head.contains("www-authenticate: Bearer"),
            "{}",
            reply.head
        );
    }
    assert_eq!(fixture.gateway.stats().http_errors, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_from_a_development_node_opens_a_session() {
    let fixture = Fixture::start_with(|config| config.dev_tokens = Some(signing_key()));
    let reply = fixture
        .server
        .post("/v1/tokens", r#"{"user": "alice", "ttl_s": 60}"#)
        .await;
    assert_eq!(reply.status, 200);
    let reply = reply.json();
    let lifetime = reply["expires"].as_u64().expect("a number") - unix_now().as_secs();
    assert!((50..=60).contains(&lifetime), "{lifetime}");
    let mut device = fixture.connect(Transport::Quic).await;
    let welcome = device.hello(reply["token"].as_str().expect("a text")).await;
    assert_eq!(welcome.user, "alice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_has_begun_is_answered_although_its_connection_is_due_to_end() {
    let fixture = Fixture::start_with(|config| {
        config.dev_tokens = Some(signing_key());
        config.limits.http_timeout = Duration::from_secs(1);
    });
    let [first, rest] = [r#"{"user": "#, r#""alice"}"#];
    let length = first.len() + rest.len();
    let request = format!(
        "POST /v1/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{first}"
    );
    let mut tls = fixture.server.connect_tls().await;
    tls.write_all(request.as_bytes()).await.expect("it is open");
    // One that came later and asks nothing is at its end.
    let mut idle = fixture.server.connect_tls().await;
    let mut nothing = String::new();
    let ended = tokio::time::timeout(PATIENCE, idle.read_to_string(&mut nothing)).await;
    let _ = ended.expect("it ends");
    tls.write_all(rest.as_bytes()).await.expect("it is open");
    let mut reply = String::new();
    let answered = tokio::time::timeout(PATIENCE, tls.read_to_string(&mut reply)).await;
    answered.expect("an answer in time").expect("an answer");
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(reply.contains("connection: close"), "{reply}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_exist_in_development_only() {
    let fixture = Fixture::start();
    let reply = fixture
        .server
        .post("/v1/tokens", r#"{"user": "alice"}"#)
        .await;
    assert_eq!((reply.status, reply.code()), (404, "not_found".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_token_requests_are_told_what_is_wrong() {
    let fixture = Fixture::start_with(|config| config.dev_tokens = Some(signing_key()));
    let table = [
        (r#"{"user": "a b"}"#.to_owned(), 400, "bad_name"),
        (r#"{"user": ""}"#.to_owned(), 400, "bad_name"),
        (
            r#"{"user": "alice", "ttl_s": 0}"#.to_owned(),
            400,
            "bad_ttl",
        ),
        (
            r#"{"user": "alice", "ttl_s": 99999999}"#.to_owned(),
            400,
            "bad_ttl",
        ),
        ("{".to_owned(), 400, "bad_request"),
        ("{}".to_owned(), 422, "bad_request"),
        (
            r#"{"user": "alice", "admin": true}"#.to_owned(),
            422,
            "bad_request",
        ),
        (
            format!(r#"{{"user": "{}"}}"#, "a".repeat(8 * 1024)),
            413,
            "bad_request",
        ),
    ];
    for (body, status, code) in table {
        let reply = fixture.server.post("/v1/tokens", &body).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{body}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_exist_is_said_in_json() {
    let fixture = Fixture::start();
    let reply = fixture.server.get("/v2/nothing", "").await;
    assert_eq!((reply.status, reply.code()), (404, "not_found".to_owned()));
    let reply = fixture.server.post("/healthz", "").await;
    assert_eq!(
        (reply.status, reply.code()),
        (405, "method_not_allowed".to_owned())
    );
    let reply = fixture.server.get("/v1/session", "").await;
    assert_eq!(
        (reply.status, reply.code()),
        (400, "bad_request".to_owned())
    );
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    fn code(&self) -> String {
        self.json()["code"]
            .as_str()
            .expect("errors have a code")
            .to_owned()
    }
}

impl Server {
    pub(crate) async fn get(&self, path: &str, headers: &str) -> Reply {
        self.request("GET", path, headers, "").await
    }

    async fn post(&self, path: &str, body: &str) -> Reply {
        self.request("POST", path, "Content-Type: application/json\r\n", body)
            .await
    }

    async fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             {headers}Content-Length: {length}\r\n\r\n{body}"
        );
        let mut tls = self.connect_tls().await;
        tls.write_all(request.as_bytes())
            .await
            .expect("the connection is there");
        let mut reply = String::new();
        tokio::time::timeout(PATIENCE, tls.read_to_string(&mut reply))
            .await
            .expect("an answer in time")
            .expect("an answer");
        let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).expect("a status line");
        Reply {
            status: status.parse().expect("a number"),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }
}
