//! Rooms that have closed, whose logs are retired, and that are opened anew.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{Expect, Key, Local, Log as _, Offset, Purpose, TailEvent};
use tombolo_room::{Act, Body, Entry, Join, Membership, OperationId, SessionId, Settings, Time};
use tombolo_services::{NamedOperation, NewRoom, Reject, ServerActed, Services};
use tombolo_wire::v1::{self, ErrorCode, JoinMode, room_act};
use tombolo_wire::{PublicKeys, RoomId, UserId};

use crate::cluster::{cluster, epoch_of, members};

#[tokio::test(start_paused = true)]
async fn a_closed_room_is_forgotten_once_before_its_log_is_retired() {
    let ([node], local) = cluster::<1>().await;
    let is_away = |is_away| node.wire.retires_nothing.store(is_away, Ordering::Relaxed);
    is_away(true);
    let mut alice = node.lab.device("alice").await;
    alice.join("r", JoinMode::Create).await.unwrap();
    alice.drain().await;
    alice.leave("r").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (last, body) = last(&local).await;
    assert_eq!(body, Body::Forgotten);
    let joined = alice.join("r", JoinMode::Join).await;
    assert_eq!(joined, Err(ErrorCode::NoSuchRoom));
    assert!(matches!(begins(&local).await, TailEvent::Entry { .. }));
    is_away(false);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(begins(&local).await, TailEvent::Retired { at: last });
    alice.join("r", JoinMode::Create).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_closed_room_at_which_a_server_looks_before_it_is_retired_is_listed_no_longer() {
    let ([node], _) = cluster::<1>().await;
    let services = &node.lab.services;
    node.wire.retires_nothing.store(true, Ordering::Relaxed);
    let mut alice = node.lab.device("alice").await;
    alice.join("r", JoinMode::Create).await.unwrap();
    alice.leave("r").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seen = services.view_room(&room()).await;
    assert_eq!(seen.unwrap_err().code, ErrorCode::NoSuchRoom);
    assert_eq!(names(services).await, [room()]);
    node.wire.retires_nothing.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(names(services).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_a_node_did_not_come_to_retire_is_retired_by_its_heir() {
    let (nodes, local) = cluster::<2>().await;
    nodes[0].wire.retires_nothing.store(true, Ordering::Relaxed);
    let mut alice = nodes[0].lab.device("alice").await;
    alice.join("r", JoinMode::Create).await.unwrap();
    alice.leave("r").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(last(&local).await.1, Body::Forgotten);
    nodes[0].lab.services.kill();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(matches!(begins(&local).await, TailEvent::Retired { .. }));
    assert_eq!(names(&nodes[1].lab.services).await, []);
}

#[tokio::test(start_paused = true)]
async fn when_many_rooms_close_a_few_logs_are_retired_at_the_same_time() {
    let ([node], _) = cluster::<1>().await;
    let services = &node.lab.services;
    open_many(services, 100).await;
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!(node.wire.retires_most.load(Ordering::Relaxed), 8);
    assert_eq!(names(services).await, []);
}

#[tokio::test(start_paused = true)]
async fn when_more_rooms_close_than_logs_may_wait_all_are_retired_by_the_same_node() {
    let ([node], local) = cluster::<1>().await;
    let services = &node.lab.services;
    node.wire.retires_nothing.store(true, Ordering::Relaxed);
    open_many(services, 4_200).await;
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert!(services.stats().logs_left > 0);
    node.wire.retires_nothing.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(names(services).await, []);
    for number in 0..4_200 {
        let log = Key::new(["room", room_of(number).as_str()]).unwrap();
        let mut tail = local.tail(&log, None).await.unwrap();
        let first = tail.next().await.unwrap();
        assert!(matches!(first, TailEvent::Retired { .. }), "{first:?}");
    }
}

/// Opens rooms that close after a minute.
async fn open_many(services: &Services, count: usize) {
    for number in 0..count {
        let kept = Settings {
            empty_kept: Duration::from_secs(60),
            ..Settings::default()
        };
        let new = NewRoom {
            settings: kept,
            ..NewRoom::default()
        };
        let room = room_of(number);
        services.create_room(&room, new, None).await.unwrap();
    }
    assert_eq!(names(services).await.len(), count.min(1000));
}

fn room_of(number: usize) -> RoomId {
    RoomId::parse(&format!("room-{number}")).unwrap()
}

/// The rooms that are listed as hosted somewhere.
async fn names(services: &Services) -> Vec<RoomId> {
    services.list_rooms(None, 1000).await.unwrap().rooms
}

#[tokio::test(start_paused = true)]
async fn a_room_stays_whose_log_a_node_gives_up_reading() {
    let (nodes, local) = cluster::<2>().await;
    let [mut alice] = members(&nodes, "r", [("alice", 0)]).await;
    nodes[1].wire.is_endless.store(true, Ordering::Relaxed);
    let mut bob = nodes[1].lab.device("bob").await;
    let asked = bob.ask_join("r", JoinMode::Join, 0);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let joined = bob.next_response(asked).await;
    assert_eq!(joined, Err(ErrorCode::Unavailable));
    assert!(matches!(begins(&local).await, TailEvent::Entry { .. }));
    nodes[1].wire.is_endless.store(false, Ordering::Relaxed);
    bob.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(alice.next_event().await, "+bob");
}

#[tokio::test(start_paused = true)]
async fn who_repeats_what_a_forgotten_room_may_have_done_is_told_that_nobody_knows() {
    let ([node], _) = cluster::<1>().await;
    let mut alice = node.lab.device("alice").await;
    let said = |wanted_for_ms| v1::RoomRequest {
        room: "r".into(),
        act: Some(v1::RoomAct {
            kind: Some(room_act::Kind::Say(v1::Say {
                payload: Bytes::from_static(b"once"),
                ..v1::Say::default()
            })),
        }),
        operation: Bytes::from_static(&[7; 16]),
        wanted_for_ms,
    };
    alice.hears_all = true;
    alice.join("r", JoinMode::Create).await.unwrap();
    assert_eq!(alice.act_as(said(0)).await.unwrap().message, 1);
    alice.leave("r").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    alice.join("r", JoinMode::Create).await.unwrap();
    let again = alice.act_as(said(2_000)).await;
    assert_eq!(again.unwrap_err(), ErrorCode::Unsure);
    assert_eq!(alice.act_as(said(0)).await.unwrap().message, 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_repeats_what_a_forgotten_room_may_have_done_is_told_that_nobody_knows() {
    let ([node], _) = cluster::<1>().await;
    let services = &node.lab.services;
    open(services).await;
    close(services, Duration::ZERO).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again = close(services, Duration::from_secs(2)).await;
    assert_eq!(again.unwrap_err().code, ErrorCode::Unsure);
    let anew = close(services, Duration::ZERO).await;
    assert_eq!(anew.unwrap_err().code, ErrorCode::NoSuchRoom);
    open(services).await;
    let again = close(services, Duration::from_secs(2)).await;
    assert_eq!(again.unwrap_err().code, ErrorCode::Unsure);
    close(services, Duration::ZERO).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_node_wrote_and_comes_late_leaves_no_ghost_in_a_room_that_was_opened_anew() {
    let (nodes, local) = cluster::<2>().await;
    let membership = Membership {
        session: SessionId([9; 16]),
        keys: PublicKeys {
            identity: [9; 32],
            seal: [9; 32],
        },
        node: "node-1".parse().unwrap(),
        incarnation: epoch_of(&local, "node-1").await,
        life: 1,
    };
    nodes[1].lab.services.kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let [mut alice] = members(&nodes, "r", [("alice", 0)]).await;
    let bob = UserId::parse("bob").unwrap();
    append(&local, Body::Joined(Join::new(bob, membership))).await;
    assert_eq!(alice.next_event().await, "+bob");
    assert_eq!(alice.next_event().await, "?bob");
    alice.is_quiet().await;
}

/// What one hears first who begins to read the log.
async fn begins(local: &Local) -> TailEvent {
    let mut tail = local.tail(&log(), None).await.unwrap();
    tail.next().await.unwrap()
}

/// The last entry of the log.
async fn last(local: &Local) -> (Offset, Body) {
    let mut tail = local.tail(&log(), None).await.unwrap();
    let mut last = None;
    while let Some(TailEvent::Entry { at, entry }) = tail.next().await {
        last = Some((at, Entry::decode(&entry).unwrap().body));
    }
    last.unwrap()
}

async fn append(local: &Local, body: Body) {
    let operation = OperationId(rand::random());
    let time = Time::ZERO;
    let entry = Entry {
        operation,
        time,
        node: None,
        incarnation: 0,
        body,
    };
    let (log, operation) = (log(), tombolo_engine::OperationId(operation.0));
    let append = local.append(&log, entry.encode(), Purpose::More, Expect::Any, operation);
    append.await.unwrap();
}

async fn open(services: &Services) {
    let new = NewRoom {
        settings: Settings {
            empty_kept: Duration::from_secs(300),
            ..Settings::default()
        },
        ..NewRoom::default()
    };
    services.create_room(&room(), new, None).await.unwrap();
}

async fn close(services: &Services, wanted_for: Duration) -> Result<ServerActed, Reject> {
    let id = [5; 16];
    let named = Some(NamedOperation { id, wanted_for });
    services.act_for_server(&room(), Act::Close, named).await
}

fn room() -> RoomId {
    RoomId::parse("r").unwrap()
}

fn log() -> Key {
    Key::new(["room", "r"]).unwrap()
}
