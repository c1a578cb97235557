//! The README's first steps: the SDK's example, beside `tombolo peer`.

use crate::command::{node, start};

#[path = "../../../tombolo-client/examples/hello.rs"]
#[expect(dead_code, reason = "its `main` is for people")]
mod example;

const README: &str = include_str!("../../../../README.md");
const EXAMPLE: &str = include_str!("../../../tombolo-client/examples/hello.rs");

#[tokio::test]
async fn the_example_of_the_sdk_and_a_peer_hear_each_other() {
    let (_serve, url) = node().await;
    let args = ["peer", "--server", &url, "--user", "alice", "--json"];
    let mut alice = start(&[&args[..], &["--room", "lobby"]].concat());
    alice.event("joined").await;
    example::hello(&url).await.unwrap();
    let heard = alice.event("recv").await;
    assert_eq!(
        (&heard["user"], &heard["text"], &heard["bytes"]),
        (&"bob".into(), &"hi".into(), &2.into()),
        "{heard}"
    );
    assert_eq!(heard.get("seq"), None, "it is no numbered one");
    alice.signal("INT");
    assert_eq!(alice.ended().await.status, Some(0));
}

#[test]
fn the_readme_shows_lines_of_the_example() {
    let plain = |text: &str| text.split_whitespace().collect::<String>();
    let example = plain(EXAMPLE);
    let shown = README.split("```rust,ignore\n").nth(1).unwrap();
    let shown = shown.split("```").next().unwrap();
    let lines = shown.lines().map(|line| line.split(" //").next().unwrap());
    for line in lines {
        assert!(example.contains(&plain(line)), "{line}");
    }
    assert!(shown.lines().count() > 4, "{shown}");
}
