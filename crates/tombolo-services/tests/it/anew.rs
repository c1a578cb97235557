//! Logs that begin anew: nobody who reads one is told what is not so, and what comes under numbers that come again is told.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{Expect, Key, Local, LocalConfig, Log as _, OperationId, Purpose, TailEvent};
use tombolo_social::inbox::{Body, Entry};
use tombolo_social::{MessageId, Time, board};
use tombolo_wire::UserId;
use tombolo_wire::v1::{ErrorCode, GroupMembers, direct_response, group_request};

use crate::cluster::start;
use crate::{direct, groups, notices};

#[tokio::test(start_paused = true)]
async fn while_logs_are_read_anew_a_group_goes_on_and_users_are_there() {
    let local = Local::new(LocalConfig::default());
    let node = start(&local, 0);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut alice = groups::Talker::new(&node.lab, "alice").await;
    alice.create(true).await.unwrap();
    alice.open(None).await.unwrap();
    alice.post(1, b"before").await.unwrap();
    let mut bob = direct::Talker::new(&node.lab, "bob").await;
    bob.open(None).await.unwrap();
    let mut carol = direct::Talker::new(&node.lab, "carol").await;

    node.wire.is_slow.store(true, Ordering::Relaxed);
    node.wire.restore(&local);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = carol.ask_direct("bob", 1, b"meanwhile");
    let members = GroupMembers::default();
    let listed = alice.ask(group_request::Kind::Members(members));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(alice.heard().await, ["1 alice before"]);
    assert!(bob.directs().await.is_empty());
    node.wire.is_slow.store(false, Ordering::Relaxed);
    carol.direct_response(asked).await.unwrap();
    assert_eq!(bob.directs().await, ["1 carol meanwhile"]);
    alice.response(listed).await.unwrap();
    alice.post(2, b"after").await.unwrap();
    assert_eq!(alice.heard().await, ["2 alice after"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_answered_when_the_log_that_is_read_anew_has_been_read() {
    let local = Local::new(LocalConfig::default());
    let node = start(&local, 0);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut alice = direct::Talker::new(&node.lab, "alice").await;
    let nobody = alice.direct("bob", 1, b"hello").await;
    assert_eq!(nobody, Err(ErrorCode::NoSuchUser));
    let mut bob = direct::Talker::new(&node.lab, "bob").await;

    node.wire.is_slow.store(true, Ordering::Relaxed);
    let asked = bob.ask_open();
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The node begins anew before it is told of its entry, and then reads all but that this is all.
    node.wire.restore(&local);
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.wire.is_endless.store(true, Ordering::Relaxed);
    node.wire.is_slow.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.wire.is_endless.store(false, Ordering::Relaxed);
    let direct_response::Result::Opened(opened) = bob.direct_response(asked).await.unwrap() else {
        panic!("it asked to open its inbox");
    };
    assert!(opened.last.is_some(), "its inbox is there");
}

#[tokio::test(start_paused = true)]
async fn letters_that_come_under_the_numbers_of_lost_ones_are_told() {
    let local = Local::new(LocalConfig::default());
    let node = start(&local, 0);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut bob = direct::Talker::new(&node.lab, "bob").await;
    bob.open(None).await.unwrap();
    let mut alice = direct::Talker::new(&node.lab, "alice").await;
    for id in 1..=2 {
        alice.direct("bob", id, b"kept").await.unwrap();
    }
    let inbox = Key::new(["inbox", "bob"]).unwrap();
    let backup = backup(&local, std::slice::from_ref(&inbox)).await;
    for id in 3..=5 {
        alice.direct("bob", id, b"lost").await.unwrap();
    }
    assert_eq!(bob.directs().await.len(), 5);
    // Somebody is faster than this node.
    let other = Entry {
        operation: tombolo_social::OperationId([9; 16]),
        time: Time::from_millis(1),
        body: Body::Sent {
            to: None,
            from: UserId::parse("carol").unwrap(),
            id: MessageId([9; 16]),
            payload: "hello".into(),
        },
    };
    append(&backup, &inbox, other.encode(), 99).await;
    node.wire.restore(&backup);
    let told = [
        "place none lost true",
        "place 2 lost false",
        "3 carol hello",
    ];
    assert_eq!(bob.directs().await, told);
    assert!(!alice.direct("bob", 4, b"again").await.unwrap().repeated);
    assert_eq!(bob.directs().await, ["4 alice again"]);
}

#[tokio::test(start_paused = true)]
async fn posts_that_come_under_the_numbers_of_lost_ones_are_told() {
    let local = Local::new(LocalConfig::default());
    let node = start(&local, 0);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut alice = groups::Talker::new(&node.lab, "alice").await;
    alice.create(true).await.unwrap();
    let epoch = alice.open(None).await.unwrap().last.unwrap().epoch;
    alice.post(1, b"kept").await.unwrap();
    let tag: String = epoch[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let keys = [
        Key::new(["group", "guild"]).unwrap(),
        Key::new(["roster", "guild", &tag, "r"]).unwrap(),
        Key::new(["posts", "guild", &tag, "0"]).unwrap(),
    ];
    let backup = backup(&local, &keys).await;
    for id in 2..=3 {
        alice.post(id, b"lost").await.unwrap();
    }
    assert_eq!(alice.heard().await.len(), 3);
    node.wire.restore(&backup);
    assert_eq!(alice.heard().await, ["place lost true", "place lost false"]);
    assert_eq!(alice.post(4, b"new").await.unwrap().number, 2);
    assert_eq!(alice.heard().await, ["2 alice new"]);
}

#[tokio::test(start_paused = true)]
async fn notices_that_come_under_the_numbers_of_lost_ones_are_told() {
    let local = Local::new(LocalConfig::default());
    let node = start(&local, 0);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut alice = node.lab.device("alice").await;
    notices::open(&mut alice, &[]).await.unwrap();
    for id in 1..=2 {
        notices::notify(&node.lab, "all", id, "kept").await.unwrap();
    }
    let board = Key::new(["notices", "all"]).unwrap();
    let backup = backup(&local, std::slice::from_ref(&board)).await;
    for id in 3..=4 {
        notices::notify(&node.lab, "all", id, "lost").await.unwrap();
    }
    assert_eq!(notices::told(&mut alice).await.0.len(), 4);
    // Somebody is faster than this node, by as many as were lost.
    for id in 5..=6 {
        let other = board::Entry {
            operation: tombolo_social::OperationId([id; 16]),
            time: Time::from_millis(1),
            expires: Time::from_millis(u64::MAX),
            id: MessageId([id; 16]),
            payload: "other".into(),
        };
        append(&backup, &board, other.encode(), id).await;
    }
    node.wire.restore(&backup);
    let told = ["all lost", "all 3 other", "all 4 other"];
    assert_eq!(notices::told(&mut alice).await.0, told);
}

/// Logs as they are now.
async fn backup(local: &Local, keys: &[Key]) -> Local {
    let backup = Local::new(LocalConfig::default());
    for key in keys {
        let mut tail = local.tail(key, None).await.unwrap();
        let mut number = 0;
        while let Some(TailEvent::Entry { entry, .. }) = tail.next().await {
            number += 1;
            append(&backup, key, entry, number).await;
        }
    }
    backup
}

async fn append(local: &Local, key: &Key, entry: Bytes, number: u8) {
    let operation = OperationId([number; 16]);
    let appended = local
        .append(key, entry, Purpose::More, Expect::Any, operation)
        .await;
    appended.unwrap();
}
