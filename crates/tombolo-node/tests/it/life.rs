use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tombolo_engine::{Local, LocalConfig};
use tombolo_node::{Hooks, Node, NodeBuilder, StartError};
use tombolo_wire::NodeId;
use tombolo_wire::token::{KeySet, VerifyingKey};

use crate::https::{PATIENCE, request, token};
use crate::turn::addr_of;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_started_node_says_where_it_is_and_takes_devices() {
    let node = start().await;
    let ready = node.ready();
    assert!(ready.url.pin.is_some());
    assert_eq!(ready.http, format!("https://{}", ready.url.authority()));
    let stun: Vec<SocketAddr> = ready.stun.iter().map(|uri| addr_of(uri)).collect();
    assert!(stun.len() >= 2, "{stun:?}");
    assert_ne!(stun[0], stun[1]);
    let ends = ["?transport=udp", "?transport=tcp", "?transport=tcp"];
    let begins = ["turn:127.0.0.1:", "turn:127.0.0.1:", "turns:127.0.0.1:"];
    assert_eq!(ready.turn.len(), 3);
    for ((uri, begin), end) in ready.turn.iter().zip(begins).zip(ends) {
        assert!(uri.starts_with(begin) && uri.ends_with(end), "{uri}");
    }
    assert_eq!(request(&node, "GET", "/readyz", "").await.0, 200);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_frees_every_port() {
    let node = start().await;
    token(&node, "alice").await;
    let ready = node.ready().clone();
    node.shutdown().await;

    let gateway = SocketAddr::new(ready.url.ip().expect("an IP"), ready.url.port);
    let udp = ready.stun.iter().map(|uri| addr_of(uri)).chain([gateway]);
    let tcp = ready.turn[1..]
        .iter()
        .map(|uri| addr_of(uri))
        .chain([gateway]);
    for addr in udp {
        // The transport's own task lets go of its socket a moment after it was told to.
        until(|| UdpSocket::bind(addr).is_ok()).await;
    }
    for addr in tcp {
        until(|| TcpListener::bind(addr).is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_run_side_by_side() {
    let (one, other) = (start().await, start().await);
    assert_ne!(one.ready().url, other.ready().url);
    assert_ne!(one.ready().url.pin, other.ready().url.pin);
    let alice = token(&one, "alice").await;
    let authorization = format!("Authorization: Bearer {alice}");
    assert_eq!(
        request(&one, "GET", "/v1/ice-servers", &authorization)
            .await
            .0,
        200
    );
    let (status, body) = request(&other, "GET", "/v1/ice-servers", &authorization).await;
    assert_eq!(
        status, 401,
        "a token of one node is none on the other: {body}"
    );
    one.shutdown().await;
    assert_eq!(request(&other, "GET", "/readyz", "").await.0, 200);
    other.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_named_with_the_flag_that_chooses_another() {
    let node = start().await;
    let ready = node.ready();
    let turn = addr_of(&ready.turn[0]).port();
    let turns = addr_of(&ready.turn[2]).port();
    let table = [
        (builder().port(ready.url.port), ready.url.port, "--port"),
        (builder().turn_port(turn), turn, "--turn-port"),
        (builder().turns_port(turns), turns, "--turns-port"),
    ];
    for (builder, port, flag) in table {
        let message = match builder.start().await {
            Err(error) => error.to_string(),
            Ok(node) => panic!("started at {:?}", node.ready()),
        };
        assert!(message.contains(&port.to_string()), "{message}");
        assert!(message.ends_with(flag), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_another_machine_is_named_with_what_to_do() {
    let elsewhere = Ipv4Addr::new(192, 0, 2, 1);
    let error = builder()
        .listen(elsewhere.into())
        .start()
        .await
        .expect_err("it is not here");
    assert!(
        matches!(error, StartError::NotHere { ip } if ip == elsewhere),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_dev_a_node_needs_keys_and_gives_no_tokens() {
    let bare = || {
        let builder = Node::builder().listen(LOOPBACK);
        builder.port(0).turn_port(0).turns_port(0)
    };
    let error = bare().start().await.expect_err("nobody could get in");
    assert!(matches!(error, StartError::NoTokenKeys), "{error}");

    let mut keys = KeySet::new();
    keys.insert("one", VerifyingKey::hs256(&[1; 32]).expect("long enough"));
    let node = bare()
        .token_keys(keys)
        .start()
        .await
        .expect("loopback has free ports");
    let more = "Content-Type: application/json\r\n\r\n{\"user\": \"alice\"}";
    assert_eq!(request(&node, "POST", "/v1/tokens", more).await.0, 404);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unspecified_address_is_told_as_concrete_ones() {
    let unspecified = Ipv4Addr::UNSPECIFIED.into();
    let builder = Node::builder()
        .dev()
        .listen(unspecified)
        .port(0)
        .turn_port(0)
        .turns_port(0);
    let node = builder.start().await.expect("this machine has addresses");
    let ready = node.ready();
    assert!(!ready.url.ip().expect("an IP").is_unspecified());
    assert!(
        ready
            .stun
            .iter()
            .all(|uri| !addr_of(uri).ip().is_unspecified())
    );
    assert_eq!(request(&node, "GET", "/readyz", "").await.0, 200);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_one_of_whose_tasks_panics_is_broken_and_says_which() {
    let node = builder().hooks(Wild).start().await;
    let node = node.expect("loopback has free ports");
    let broken = tokio::time::timeout(PATIENCE, node.broken()).await;
    let broken = broken.expect("its rooms are to tick");
    let why = "a task of the node has panicked: rooms' ticks";
    assert_eq!(broken.to_string(), why);
    assert_eq!(node.check(), Err(broken));
    assert_eq!(node.in_cluster().await, Err(why.to_owned()));
    let (status, body) = request(&node, "GET", "/readyz", "").await;
    assert_eq!(status, 503);
    assert!(body.contains(why), "{body}");
    node.shutdown().await;
}

/// A game whose code panics when it is asked how often its rooms tick.
struct Wild;

impl Hooks for Wild {
    fn tick_interval(&self) -> Option<Duration> {
        panic!("whenever it likes")
    }
}

/// A development node on loopback, all ports free.
pub(crate) async fn start() -> Node {
    builder().start().await.expect("loopback has free ports")
}

pub(crate) fn builder() -> NodeBuilder {
    Node::builder()
        .dev()
        .listen(LOOPBACK)
        .port(0)
        .turn_port(0)
        .turns_port(0)
}

/// Two nodes of one cluster, `node-1` and `node-2`.
pub(crate) async fn two() -> (Node, Node) {
    let engine = Local::new(LocalConfig::default());
    let start = |name: &str| {
        builder()
            .name(NodeId::parse(name).expect("a name"))
            .engine(Arc::new(engine.clone()))
            .start()
    };
    let first = start("node-1").await.expect("loopback has free ports");
    (
        first,
        start("node-2").await.expect("loopback has free ports"),
    )
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("it becomes so in time");
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
