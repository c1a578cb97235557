//! What a webhook's server sees: one that works, one that hangs, one that fails and recovers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tombolo_engine::{Local, LocalConfig};
use tombolo_node::{Node, NodeBuilder, WebhookConfig, WebhookStats};
use tombolo_wire::NodeId;
use tombolo_wire::v1::client_frame::Body as Up;
use tombolo_wire::v1::{
    Goodbye, Join, JoinMode, Leave, RoomAct, RoomRequest, Say, request, room_act,
};

use crate::caller::{Caller, token_keys};
use crate::https::PATIENCE;
use crate::introduction::Device;
use crate::life;
use crate::posts::{KEY, Server, Stream, read_post, trusting};

impl Server {
    /// Takes one post, answers it, and returns its body if its signature is right.
    async fn answer(&self, status: &str) -> Value {
        self.answer_with(status, "Content-Length: 0\r\nConnection: close\r\n\r\n")
            .await
            .0
    }

    /// The same with what comes after the status; the connection stays open for as long as it is kept.
    async fn answer_with(&self, status: &str, rest: &str) -> (Value, Box<dyn Stream>) {
        let mut stream = self.accept().await;
        let body = read_post(stream.as_mut()).await.expect("a request");
        let answer = format!("HTTP/1.1 {status}\r\n{rest}");
        // Nobody has to read all of it.
        let _ = stream.write_all(answer.as_bytes()).await;
        (body, stream)
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
        let mut config = WebhookConfig::new(self.url(), KEY.to_vec(), trusting(trusted));
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

    let mut alice = Caller::new("alice");
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
        let mut alice = Caller::new("alice");
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
