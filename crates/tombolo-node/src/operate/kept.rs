//! What nodes of the release before ask each other for operators, and answer: this one reads the same in it.

use std::fmt::Debug;
use std::path::PathBuf;

use super::*;

#[test]
fn questions_of_the_release_before_ask_for_the_same() {
    let after = || "alice".to_owned();
    check(
        "asks.json",
        &[
            Ask::Now,
            Ask::Drain { timeout_ms: 30_000 },
            Ask::Users { skip: 1, count: 2 },
            Ask::Rooms {
                skip: 1,
                count: 2,
                total: Total::OfNode,
            },
            Ask::UsersAfter {
                after: after(),
                count: 2,
            },
            Ask::RoomsAfter {
                after: after(),
                count: 2,
                total: Total::OfCluster,
            },
            Ask::Move { count: 3 },
            Ask::Turn,
        ],
    );
}

#[test]
fn answers_of_the_release_before_say_the_same() {
    let drain = Some(Draining {
        is_over: true,
        moved: 3,
        sessions_left: 2,
        allocations_left: 1,
    });
    let now = Now {
        sessions: 5,
        rooms: 4,
        allocations: 3,
        drain,
    };
    check("now.json", &[now, Now::default()]);
    let user = UserStatus {
        user: "alice".into(),
        node: "node-1".into(),
        connected: true,
        rooms: 2,
    };
    check("users.json", &[Page::new(7, vec![user])]);
    let room = RoomStatus {
        room: "lobby".into(),
        members: 2,
        members_max: 12,
        nodes: vec!["node-1".into()],
    };
    check("rooms.json", &[Page::new(7, vec![room])]);
    check("moved.json", &[9_usize]);
    let turn: Vec<SocketAddr> = vec!["192.0.2.1:3478".parse().unwrap()];
    check("turn.json", &[turn]);
}

/// With `TOMBOLO_KEEP` set, what this release says is kept first.
fn check<T: Debug + DeserializeOwned + PartialEq + Serialize>(name: &str, now: &[T]) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kept");
    if std::env::var_os("TOMBOLO_KEEP").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        let mut text = serde_json::to_string_pretty(now).unwrap();
        text.push('\n');
        std::fs::write(folder.join(name), text).unwrap();
    }
    let before = std::fs::read(folder.join(name)).unwrap();
    let before: Vec<T> = serde_json::from_slice(&before).unwrap();
    assert_eq!(
        before, now,
        "{name} is read otherwise than the release before meant it"
    );
}
