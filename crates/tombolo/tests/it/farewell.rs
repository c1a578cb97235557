//! How commands end that are devices: the node need not be there, and is told when it is.

use serde_json::Value;

use crate::command::{Running, node, node_with, start};
use crate::folder::Folder;
use crate::pools;

/// A device in a field.
fn walker(url: &str, more: &[&str]) -> Running {
    let args = ["field", "--server", url, "--user", "bob", "--field", "z"];
    start(&[&args[..], &["--json"], more].concat())
}

#[tokio::test]
async fn a_device_in_a_field_ends_when_it_is_told_to_though_its_node_is_dead() {
    let (mut serve, url) = node().await;
    let mut told = walker(&url, &["--put", "1=2,2", "--remove-after", "2"]);
    told.event("put").await;
    serve.signal("KILL");
    serve.ended().await;
    told.signal("INT");
    let ended = told.ended().await;
    assert_eq!(ended.status, Some(0), "{}", ended.complaints);
    let last = ended.events.last();
    assert_eq!(last.map(|event| &event["event"]), Some(&"summary".into()));
}

#[tokio::test]
async fn a_device_that_is_refused_says_goodbye() {
    let folder = Folder::new("farewell");
    let admin = folder.path("node.sock");
    let (_serve, url) = node_with(&["--admin", &admin]).await;
    let peer = |user: &str, password: &str| {
        let args = ["peer", "--server", &url, "--user", user, "--room", "r"];
        start(&[&args[..], &["--json", "--password", password]].concat())
    };
    let mut alice = peer("alice", "right");
    alice.event("joined").await;
    let refused = peer("bob", "wrong").ended().await;
    assert_eq!(refused.status, Some(1), "{}", refused.complaints);
    let refused = walker(&url, &["--class", "9"]).ended().await;
    assert_eq!(refused.status, Some(1), "{}", refused.complaints);
    // Whoever does not say goodbye is away after a while, and for longer than that.
    loop {
        let users = start(&["users", "--admin", &admin, "--json"]).ended().await;
        let users = users.events[0]["items"].as_array().unwrap().clone();
        let bobs: Vec<&Value> = users.iter().filter(|item| item["user"] == "bob").collect();
        if bobs.is_empty() {
            break;
        }
        assert!(bobs.iter().all(|bob| bob["connected"] == true), "{users:?}");
    }
}

#[tokio::test]
async fn who_gives_up_looking_for_a_match_is_told_so_and_may_look_again() {
    let folder = Folder::new("gives-up");
    let server = pools::server(&folder, "name = \"duel\"\nplayers = { min = 2, max = 2 }\n").await;
    let url = server.ready["url"].as_str().unwrap();
    for _ in 0..2 {
        let args = [
            "match", "--server", url, "--user", "alice", "--pool", "duel",
        ];
        let mut seeker = start(&[&args[..], &["--duration", "1", "--json"]].concat());
        seeker.event("waits").await;
        let ended = seeker.ended().await;
        assert_eq!(ended.status, Some(1), "{}", ended.complaints);
        let last = ended.events.last().unwrap();
        assert_eq!(
            (&last["event"], &last["reason"]),
            (&"ended".into(), &"cancelled".into())
        );
    }
}
