//! The binary, as scripts use it.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod abuse;
mod api;
mod association;
mod bots;
mod caller;
mod cluster;
mod command;
mod demo;
mod farewell;
mod folder;
mod game;
mod hello;
mod hook;
mod interop;
mod operating;
mod pools;
mod serve;
mod social;
mod turn;

use serde_json::{Value, json};

use command::{Ended, Running, node, start};

/// Fields of each event that `docs/cli.md` gives.
const FIELDS_BY_EVENT: [(&str, &[&str]); 10] = [
    ("session", &["node", "transport"]),
    ("nat", &["mapping", "filtering", "public"]),
    ("joined", &["room", "members"]),
    ("left", &["user", "reason"]),
    ("said", &["number", "from", "text"]),
    ("room", &["what", "by", "about", "detail"]),
    ("peer", &["user", "state", "local", "remote", "rtt_ms"]),
    (
        "recv",
        &["user", "lane", "seq", "bytes", "via", "one_way_ms"],
    ),
    ("why", &["user", "verdict", "detail"]),
    ("summary", &["peers"]),
];

/// Fields of a summary that are exact here.
const COUNTS: [&str; 5] = ["sent", "received", "lost", "duplicated", "reordered"];

fn peer(url: &str, user: &str, more: &[&str]) -> Running {
    let args = ["peer", "--server", url, "--user", user, "--room", "r"];
    start(&[&args[..], &["--json"], more].concat())
}

fn events<'a>(ended: &'a Ended, name: &str) -> Vec<&'a Value> {
    let is_named = |line: &&Value| line["event"] == name;
    ended.events.iter().filter(is_named).collect()
}

/// Checks what holds for every event: its time and the documented fields.
fn check(ended: &Ended) {
    for event in &ended.events {
        assert!(event["t"].is_f64(), "{event}");
        let name = event["event"].as_str().unwrap();
        let documented = FIELDS_BY_EVENT.iter().find(|(known, _)| *known == name);
        let (_, fields) = documented.expect("only documented events");
        for field in *fields {
            assert!(event.get(*field).is_some(), "{field} is missing in {event}");
        }
        assert_eq!(
            event.as_object().unwrap().len(),
            fields.len() + 2,
            "{event}"
        );
    }
}

#[tokio::test]
async fn two_peers_meet_and_count_each_other() {
    let (mut serve, url) = node().await;
    let more = ["--count", "5", "--send-every", "50"];
    let mut alice = peer(&url, "alice", &more);
    let mut bob = peer(&url, "bob", &more);
    for (ended, own, other) in [
        (alice.ended().await, "alice", "bob"),
        (bob.ended().await, "bob", "alice"),
    ] {
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
        check(&ended);
        assert_eq!(ended.events[0]["event"], "session");
        assert_eq!(ended.events[0]["transport"], "quic");
        for name in ["nat", "joined", "peer", "recv", "why"] {
            assert!(!events(&ended, name).is_empty(), "{own} told no {name}");
        }
        let joined = events(&ended, "joined");
        assert!(
            joined
                .iter()
                .any(|event| event["members"] == json!(["alice", "bob"]))
        );
        let seqs: Vec<_> = events(&ended, "recv")
            .iter()
            .map(|event| {
                assert_eq!(
                    (&event["user"], &event["bytes"]),
                    (&json!(other), &json!(64))
                );
                event["seq"].as_u64().unwrap()
            })
            .collect();
        assert_eq!(seqs, [1, 2, 3, 4, 5]);
        let summary = &ended.events.last().unwrap()["peers"][other];
        let counts = COUNTS.map(|count| summary[count].as_u64().unwrap());
        assert_eq!(counts, [5, 5, 0, 0, 0], "{summary}");
        assert!(summary["first_byte_ms"].is_f64(), "{summary}");
        for field in ["direct_ms", "longest_gap_ms", "rtt_ms"] {
            assert!(summary.get(field).is_some(), "{summary}");
        }
    }
    serve.terminate();
    assert_eq!(serve.ended().await.status, Some(0));
}

#[tokio::test]
async fn devices_meet_in_a_field_and_are_linked() {
    let (mut serve, url) = node().await;
    let device = |user: &str, more: &[&str]| {
        let args = [
            "field", "--server", &url, "--user", user, "--field", "plaza",
        ];
        start(&[&args[..], &["--duration", "6", "--json"], more].concat())
    };
    let walk = ["--at", "-5,0", "--walk", "5,0", "--say", "hi", "--connect"];
    let mut alice = device("alice", &walk);
    let mut bob = device("bob", &["--at", "0,3", "--moves"]);
    for (mut ended, other) in [(alice.ended().await, "bob"), (bob.ended().await, "alice")] {
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
        for name in ["in", "entered", "linked"] {
            assert!(!events(&ended, name).is_empty(), "no {name} beside {other}");
        }
        assert_eq!(events(&ended, "linked")[0]["user"], other);
        let summary = ended.events.pop().unwrap();
        assert_eq!(summary["event"], "summary");
        if other == "alice" {
            assert_eq!(events(&ended, "entered")[0]["text"], "hi");
            assert!(!events(&ended, "moved").is_empty());
            assert!(summary["moved"].as_u64() > Some(5), "{summary}");
        }
    }
    serve.terminate();
    assert_eq!(serve.ended().await.status, Some(0));
}

#[tokio::test]
async fn a_device_puts_something_else_into_a_field_and_takes_it_away() {
    let (_serve, url) = node().await;
    let device = |user: &str, more: &[&str]| {
        let args = [
            "field", "--server", &url, "--user", user, "--field", "plaza", "--json",
        ];
        start(&[&args[..], more].concat())
    };
    let mut bob = device("bob", &[]);
    bob.event("in").await;
    let thing = ["--put", "7=1,-1", "--remove-after", "2", "--say", "door"];
    let mut alice = device("alice", &thing);
    for told in ["put", "removed"] {
        assert_eq!(alice.event(told).await["number"], 7);
    }
    let mut entered = [bob.event("entered").await, bob.event("entered").await];
    entered.sort_by_key(|event| event["position"][0].as_f64().map(f64::to_bits));
    assert_eq!(entered[1]["position"], json!([1.0, -1.0, 0.0]));
    assert_eq!(entered[1]["text"], "door");
    assert_eq!(bob.event("left").await["entity"], entered[1]["entity"]);
}

#[tokio::test]
async fn what_is_said_durably_is_told_to_who_watches() {
    let (mut serve, url) = node().await;
    let mut bob = peer(&url, "bob", &["--watch", "--count", "1"]);
    let says = ["--durable", "gg", "--durable", "wp", "--count", "1"];
    let mut alice = peer(&url, "alice", &says);
    let (alice, bob) = (alice.ended().await, bob.ended().await);
    for ended in [&alice, &bob] {
        assert_eq!(ended.status, Some(0), "{}", ended.complaints);
        check(ended);
        let synced = |event: &&&Value| event["what"] == "synced";
        assert!(events(ended, "room").iter().any(|event| synced(&event)));
    }
    let said = |ended: &Ended| -> Vec<Value> {
        let said = events(ended, "said").into_iter();
        said.map(|event| json!([event["number"], event["from"], event["text"]]))
            .collect()
    };
    // Whoever came first opened the room; both heard what was said since they were in it.
    let all = [json!([1, "alice", "gg"]), json!([2, "alice", "wp"])];
    assert_eq!(said(&alice), all);
    assert!(all.ends_with(&said(&bob)));
    serve.terminate();
    assert_eq!(serve.ended().await.status, Some(0));
}

#[tokio::test]
async fn a_peer_that_is_gone_is_not_waited_for() {
    let (_serve, url) = node().await;
    let mut alice = peer(&url, "alice", &["--count", "100000"]);
    let mut bob = peer(&url, "bob", &[]);
    alice.event("recv").await;
    bob.terminate();
    assert_eq!(bob.ended().await.status, Some(0));
    let ended = alice.ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    assert_eq!(events(&ended, "left")[0]["user"], "bob");
    check(&ended);
}

#[tokio::test]
async fn messages_that_their_lane_does_not_carry_are_a_failure() {
    let (_serve, url) = node().await;
    let large = ["--lane", "unreliable", "--size", "60000"];
    let mut alice = peer(&url, "alice", &large);
    let mut bob = peer(&url, "bob", &large);
    for ended in [alice.ended().await, bob.ended().await] {
        assert_eq!(ended.status, Some(1), "{}", ended.complaints);
        let reason = ended.complaints.lines().last().unwrap();
        assert!(
            reason.contains("60000") && reason.contains("limit"),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn a_peer_whose_user_comes_from_elsewhere_fails() {
    let (_serve, url) = node().await;
    let mut first = peer(&url, "alice", &[]);
    first.event("joined").await;
    let mut second = peer(&url, "alice", &[]);
    second.event("joined").await;
    let ended = first.ended().await;
    assert_eq!(ended.status, Some(1), "{}", ended.complaints);
    assert!(
        ended.complaints.contains("elsewhere"),
        "{}",
        ended.complaints
    );
    let left = events(&ended, "left");
    assert_eq!(left[0]["reason"], "replaced");
    check(&ended);
}

#[tokio::test]
async fn tokens_let_in_and_stand_alone_on_a_line() {
    let (_serve, url) = node().await;
    let token = start(&["token", "--server", &url, "--user", "alice"])
        .ended()
        .await;
    assert_eq!(token.status, Some(0), "{}", token.complaints);
    let [jwt] = token.lines.as_slice() else {
        panic!("a token stands alone: {:?}", token.lines);
    };
    let args = ["peer", "--server", &url, "--token", jwt, "--room", "r"];
    let mut alice = start(&[&args[..], &["--json"]].concat());
    let joined = alice.event("joined").await;
    assert_eq!(joined["members"], json!(["alice"]));
    alice.terminate();
    let ended = alice.ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    assert_eq!(ended.events.last().unwrap()["event"], "summary");
}

#[tokio::test]
async fn the_doctor_tells_session_and_nat() {
    let (_serve, url) = node().await;
    let ended = start(&["doctor", "--server", &url, "--json"]).ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    check(&ended);
    let names: Vec<_> = ended.events.iter().map(|event| &event["event"]).collect();
    assert_eq!(names, ["session", "nat"]);
}

#[tokio::test]
async fn a_wrong_server_url_is_a_failure_that_says_so() {
    for (url, says) in [
        ("http://127.0.0.1:1", "tombolo://"),
        ("tombolo://127.0.0.1:9?pin=short", "pin"),
        ("tombolo://127.0.0.1:9", "127.0.0.1:9"),
        ("tombolo://127.0.0.1:9", "WebSocket: Connection refused"),
    ] {
        let ended = start(&["doctor", "--server", url]).ended().await;
        assert_eq!(ended.status, Some(1), "{url}");
        let reason = ended.complaints.lines().last().unwrap();
        assert!(
            reason.starts_with("tombolo: ") && reason.contains(says),
            "{reason}"
        );
        assert!(ended.lines.is_empty(), "{:?}", ended.lines);
    }
}
