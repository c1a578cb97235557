//! Members whose connections break for longer than a moment.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tombolo_services::SessionEvent;
use tombolo_wire::v1::{self, JoinMode, client_frame, request};

use crate::changes::next_session_change;
use crate::cluster::{cluster, members};
use crate::lab::{Lab, message};

#[tokio::test(start_paused = true)]
async fn who_drops_or_returns_while_a_node_does_not_read_is_told_when_it_reads_anew() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    alice.hears_all = true;
    for is_back in [false, true] {
        alice.drain().await;
        nodes[0].wire.is_slow.store(true, Ordering::Relaxed);
        if is_back {
            assert!(bob.connect(&nodes[1].lab).await.unwrap().resumed);
        } else {
            bob.connection = None;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        nodes[0].wire.is_void.store(true, Ordering::Relaxed);
        nodes[0].wire.is_slow.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let told = alice.events_until_synced().await;
        let expected = if is_back { "!bob" } else { "?bob" };
        assert!(told.contains(&expected.to_owned()), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_in_which_a_node_stood_still_does_not_count_for_devices_that_were_away() {
    let lab = Lab::new();
    let mut bob = lab.device("bob").await;
    let join = v1::Join {
        room: "r".into(),
        mode: JoinMode::Create.into(),
        settings: Some(v1::RoomSettings {
            seat_kept_ms: 600_000,
            ..v1::RoomSettings::default()
        }),
        ..v1::Join::default()
    };
    let id = bob.request(Some(request::Kind::Join(join)));
    bob.next_response(id).await.unwrap();
    let [mut alice, mut carol] = lab.members("r", ["alice", "carol"]).await;
    (alice.connection, carol.connection) = (None, None);
    tokio::time::sleep(Duration::from_secs(5)).await;
    bob.drain().await;
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(alice.connect(&lab).await.unwrap().resumed);
    assert_eq!(bob.next_event().await, "!alice");
    // Of her 30 s five were over before.
    tokio::time::sleep(Duration::from_secs(18)).await;
    assert_eq!(lab.services.stats().sessions, 3);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(lab.services.stats().sessions, 2);
    // Her session is over, and her seat is kept.
    bob.is_quiet().await;
    assert!(!carol.connect(&lab).await.unwrap().resumed);
    let joined = carol.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(joined.members[2].seat, 2);
    assert_eq!(bob.next_event().await, "!carol");
}

#[tokio::test(start_paused = true)]
async fn a_member_is_dropped_after_a_moment_and_returns_to_its_seat() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 0), ("carol", 1)];
    let [mut alice, mut bob, mut carol] = members(&nodes, "r", users).await;
    bob.connection = None;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for device in [&mut alice, &mut carol] {
        assert_eq!(device.next_event().await, "?bob");
    }
    alice.send(message("r", &["bob"], b"near")).unwrap();
    carol.send(message("r", &["bob"], b"far")).unwrap();
    assert!(bob.connect(&nodes[0].lab).await.unwrap().resumed);
    for device in [&mut alice, &mut carol] {
        assert_eq!(device.next_event().await, "!bob");
    }
    assert_eq!(bob.next_delivery().await.1, "near");
    assert_eq!(bob.next_delivery().await.1, "far");
    bob.send(message("r", &[], b"back")).unwrap();
    for device in [&mut alice, &mut carol] {
        assert_eq!(device.next_delivery().await.1, "back");
    }
    let mut dave = nodes[1].lab.device("dave").await;
    let joined = dave.join("r", JoinMode::Join).await.unwrap();
    let of_bob = joined.members.iter().find(|member| member.user == "bob");
    assert_eq!(of_bob.map(|bob| (bob.seat, bob.dropped)), Some((1, false)));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_back_within_a_moment_is_nobodys_business() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    for _ in 0..5 {
        bob.connection = None;
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(bob.connect(&lab).await.unwrap().resumed);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    alice.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn however_often_a_connection_breaks_the_rooms_know_how_it_is_in_the_end() {
    let (nodes, _) = cluster::<1>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 0)]).await;
    // What is to be said of bob meanwhile waits for the engine.
    nodes[0].wire.cut(true);
    for _ in 0..3 {
        bob.connection = None;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(bob.connect(&nodes[0].lab).await.unwrap().resumed);
    }
    nodes[0].wire.cut(false);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let mut heard = Vec::new();
    while let Some(tombolo_services::Outgoing::Reliable(frame)) = alice.next_frame().await {
        if let Some(v1::server_frame::Body::RoomEvent(event)) = frame.body {
            heard.push(crate::lab::told(&event));
        }
    }
    assert_eq!(heard.last().map(String::as_str), Some("!bob"), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_loses_its_connection_while_it_joins_is_dropped_too() {
    let (nodes, _) = cluster::<1>().await;
    let [mut alice] = members(&nodes, "r", [("alice", 0)]).await;
    let mut bob = nodes[0].lab.device("bob").await;
    nodes[0].wire.is_slow.store(true, Ordering::Relaxed);
    bob.ask_join("r", JoinMode::Join, 0);
    tokio::time::sleep(Duration::from_millis(10)).await;
    bob.connection = None;
    tokio::time::sleep(Duration::from_secs(2)).await;
    nodes[0].wire.is_slow.store(false, Ordering::Relaxed);
    assert_eq!(alice.next_event().await, "+bob");
    assert_eq!(alice.next_event().await, "?bob");
}

#[tokio::test(start_paused = true)]
async fn whoever_wants_to_know_hears_what_becomes_of_sessions_in_order() {
    let lab = Lab::new();
    let mut changes = lab.services.changes();
    let mut alice = lab.device("alice").await;
    alice.connection = None;
    tokio::time::sleep(Duration::from_secs(2)).await;
    alice.connect(&lab).await.unwrap();
    alice
        .send(client_frame::Body::Goodbye(v1::Goodbye {}))
        .unwrap();
    let mut heard = Vec::new();
    while let Some(change) = next_session_change(&mut changes) {
        assert_eq!(change.user.as_str(), "alice");
        heard.push(change.event);
    }
    let expected = [
        SessionEvent::Began,
        SessionEvent::Dropped,
        SessionEvent::Returned,
        SessionEvent::Ended,
    ];
    assert_eq!(heard, expected);
}

#[tokio::test(start_paused = true)]
async fn some_devices_are_asked_to_go_when_there_is_somewhere_to_go() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 0), ("carol", 0)];
    let [mut alice, mut bob, mut carol] = members(&nodes, "r", users).await;
    assert_eq!(nodes[0].lab.services.rebalance(2), 0);
    nodes[1].lab.services.announce("tombolo://node-1").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(nodes[0].lab.services.rebalance(2), 2);
    let mut asked = 0;
    for device in [&mut alice, &mut bob, &mut carol] {
        while let Some(tombolo_services::Outgoing::Reliable(frame)) = device.next_frame().await {
            if let Some(v1::server_frame::Body::GoAway(go_away)) = frame.body {
                assert_eq!(go_away.nodes, ["tombolo://node-1"]);
                asked += 1;
            }
        }
    }
    assert_eq!(asked, 2);
    assert!(nodes[0].lab.device("dave").await.connection.is_some());
}

#[tokio::test(start_paused = true)]
async fn devices_that_are_asked_to_share_the_load_move_and_others_are_asked_next() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 0), ("carol", 0)];
    let mut devices = members(&nodes, "r", users).await;
    nodes[1].lab.services.announce("tombolo://node-1").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut asked = Vec::new();
    for _ in 0..2 {
        assert_eq!(nodes[0].lab.services.rebalance(1), 1);
        for device in &mut devices {
            while let Some(tombolo_services::Outgoing::Reliable(frame)) = device.next_frame().await
            {
                if let Some(v1::server_frame::Body::GoAway(_)) = frame.body {
                    asked.push(device.user.clone());
                }
            }
        }
    }
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0], asked[1]);
    for device in devices
        .iter_mut()
        .filter(|device| asked.contains(&device.user))
    {
        let old = device.connection.take();
        assert!(device.connect(&nodes[1].lab).await.unwrap().resumed);
        drop(old);
    }
    let sessions = nodes
        .each_ref()
        .map(|node| node.lab.services.stats().sessions);
    assert_eq!(sessions, [1, 2]);
    for device in &mut devices {
        device.is_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_seat_another_device_of_its_user_takes_is_told_when_it_is_back() {
    let lab = Lab::new();
    let [mut bob, mut first] = lab.members("r", ["bob", "alice"]).await;
    first.connection = None;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bob.next_event().await, "?alice");
    let mut second = lab.device("alice").await;
    second.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(bob.next_event().await, "!alice");

    assert!(first.connect(&lab).await.unwrap().resumed);
    assert_eq!(first.next_event().await, "-alice replaced");
    first.is_quiet().await;
    second.send(message("r", &[], b"mine")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "mine");
    bob.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_device_has_not_read_when_its_session_ends_is_counted() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 0), ("carol", 1)];
    let [mut alice, mut bob, mut carol] = members(&nodes, "r", users).await;
    let unread = || nodes[0].lab.services.stats().unread;
    alice.send(message("r", &["bob"], b"read")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "read");
    bob.transmit().unwrap();
    bob.send(message("r", &["alice"], b"acknowledges")).unwrap();
    bob.connection = None;
    alice.send(message("r", &["bob"], b"first")).unwrap();
    carol.send(message("r", &["bob"], b"second")).unwrap();
    for payload in ["old", "new"] {
        let latest = v1::Send {
            room: "r".into(),
            to: vec!["bob".into()],
            payload: payload.into(),
            latest: "value".into(),
            ..v1::Send::default()
        };
        alice.send(client_frame::Body::Send(latest)).unwrap();
    }
    alice
        .send_unreliably(message("r", &["bob"], b"lost"))
        .unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(unread(), 0);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(unread(), 3);
}
