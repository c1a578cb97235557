//! Nodes that die, are cut off, come back, and are emptied.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{Bus as _, Key, Kv as _, Local, LocalConfig};
use tombolo_services::{Drained, Outgoing};
use tombolo_wire::v1::{self, ErrorCode, JoinMode, client_frame, request, server_frame};

use crate::cluster::{Member, cluster, epoch_of, members, start, start_with};
use crate::lab::{Device, message, told};

#[tokio::test(start_paused = true)]
async fn a_killed_nodes_members_are_dropped_from_all_of_its_rooms_within_two_seconds() {
    let (nodes, _) = cluster::<3>().await;
    let users = [("alice", 0), ("bob", 1), ("carol", 2)];
    let [alice, mut bob, mut carol] = members(&nodes, "shared", users).await;
    let [dave, erin] = members(&nodes, "alone", [("dave", 0), ("erin", 0)]).await;

    nodes[0].lab.services.kill();
    drop((alice, dave, erin));
    tokio::time::sleep(Duration::from_secs(2)).await;
    for device in [&mut bob, &mut carol] {
        assert!(events(device).await.contains(&"?alice".to_owned()));
    }
    // Nobody else hosted it: its heir knows it from the list.
    let mut frank = nodes[1].lab.device("frank").await;
    let joined = frank.join("alone", JoinMode::Join).await.unwrap();
    assert_eq!(dropped(&joined), ["dave", "erin"]);
    let heirs = nodes[1..].iter().map(inherited).sum::<u64>();
    assert_eq!(heirs, 1);

    let mut alice = nodes[2].lab.device("alice").await;
    alice.join("shared", JoinMode::Join).await.unwrap();
    let seen = events(&mut bob).await;
    assert!(seen.contains(&"!alice".to_owned()), "{seen:?}");
    alice.send(message("shared", &[], b"back")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "back");
}

#[tokio::test(start_paused = true)]
async fn members_are_told_that_a_dead_nodes_reliable_messages_may_be_missing() {
    let (nodes, _) = cluster::<3>().await;
    let users = [("alice", 0), ("bob", 1), ("carol", 2)];
    let [mut alice, mut bob, mut carol] = members(&nodes, "r", users).await;
    nodes[0].wire.cut(true);
    alice.send(message("r", &[], b"lost")).unwrap();
    alice.drain().await;
    assert!(alice.outbox.is_empty(), "its node has taken the message");

    nodes[0].lab.services.kill();
    drop(alice);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for device in [&mut bob, &mut carol] {
        let heard = events(device).await;
        let lost = heard.iter().position(|event| event == "lost from alice");
        let dropped = heard.iter().position(|event| event == "?alice");
        assert!(lost.is_some() && lost < dropped, "{heard:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_cut_off_goes_on_locally_and_stops_when_it_learns_that_it_is_out() {
    let (nodes, local) = cluster::<3>().await;
    let users = [("alice", 0), ("anna", 0), ("bob", 1)];
    let [mut alice, mut anna, mut bob] = members(&nodes, "r", users).await;
    let before = epoch_of(&local, "node-0").await;

    nodes[0].wire.cut(true);
    tokio::time::sleep(Duration::from_secs(5)).await;
    alice.send(message("r", &["anna"], b"here")).unwrap();
    assert_eq!(anna.next_delivery().await.1, "here");
    let seen = events(&mut bob).await;
    assert!(seen.contains(&"?alice".to_owned()) && seen.contains(&"?anna".to_owned()));
    assert_eq!(fenced(&nodes[0]), 0);

    nodes[0].wire.cut(false);
    assert_eq!(alice.next_close().await, Some(ErrorCode::Elsewhere));
    assert_eq!(anna.next_close().await, Some(ErrorCode::Elsewhere));
    assert_eq!(fenced(&nodes[0]), 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(epoch_of(&local, "node-0").await > before);
    let [mut alice] = members(&nodes, "r", [("alice", 0)]).await;
    let seen = events(&mut bob).await;
    assert!(seen.contains(&"!alice".to_owned()), "{seen:?}");
    alice.send(message("r", &[], b"back")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "back");
}

#[tokio::test(start_paused = true)]
async fn without_the_engine_nobody_is_put_out_and_all_is_as_before_when_it_is_back() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("anna", 0), ("bob", 1)];
    let [mut alice, mut anna, mut bob] = members(&nodes, "r", users).await;
    for node in &nodes {
        node.wire.cut(true);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    alice.send(message("r", &[], b"local")).unwrap();
    assert_eq!(anna.next_delivery().await.1, "local");
    for node in &nodes {
        node.wire.cut(false);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bob.next_delivery().await.1, "local");
    for node in &nodes {
        assert_eq!((fenced(node), inherited(node)), (0, 0));
    }
    for device in [&mut alice, &mut anna, &mut bob] {
        device.is_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_again_under_its_name_leaves_no_ghosts_of_its_last_life() {
    let (nodes, local) = cluster::<1>().await;
    let [alice] = members(&nodes, "r", [("alice", 0)]).await;
    let before = epoch_of(&local, "node-0").await;
    nodes[0].lab.services.kill();
    drop(alice);

    let again = [start(&local, 0)];
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(epoch_of(&local, "node-0").await > before);
    let mut bob = again[0].lab.device("bob").await;
    let joined = bob.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(dropped(&joined), ["alice"]);
    let mut alice = again[0].lab.device("alice").await;
    let joined = alice.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(dropped(&joined), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_did_not_reach_a_dead_node_is_refused_to_its_senders() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    nodes[1].lab.services.kill();
    alice.send(message("r", &["bob"], b"too late")).unwrap();
    let seq = alice.outbox.last();
    drop(bob);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut told = Vec::new();
    while let Some(Outgoing::Reliable(frame)) = alice.next_frame().await {
        match frame.body {
            Some(server_frame::Body::Refused(refused)) => {
                told.push((refused.seq, refused.code()));
            }
            Some(server_frame::Body::RoomEvent(_)) => {}
            other => panic!("alice hears {other:?}"),
        }
    }
    assert_eq!(told, [(seq, ErrorCode::Unavailable)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_for_members_of_a_dead_node_is_refused_until_they_are_back() {
    let (nodes, local) = cluster::<2>().await;
    let users = [("alice", 0), ("anna", 0), ("bob", 1)];
    let [mut alice, mut anna, bob] = members(&nodes, "r", users).await;
    nodes[1].lab.services.kill();
    drop(bob);
    tokio::time::sleep(Duration::from_secs(2)).await;
    alice.drain().await;
    let mut refused = Vec::new();
    for to in [&["bob"][..], &[]] {
        alice.send(message("r", to, b"too late")).unwrap();
        refused.push((alice.outbox.last(), ErrorCode::Unavailable));
    }
    for expected in refused {
        assert_eq!(alice.next_refused().await, expected);
    }
    while let Some(Outgoing::Reliable(frame)) = anna.next_frame().await {
        if let Some(server_frame::Body::Delivery(delivery)) = frame.body {
            assert_eq!(delivery.payload, "too late", "the others get it");
        }
    }

    let again = start(&local, 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut bob = again.lab.device("bob").await;
    bob.join("r", JoinMode::Join).await.unwrap();
    alice.drain().await;
    alice.send(message("r", &[], b"now")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "now");
    alice.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn malformed_records_and_heartbeats_are_counted_and_change_nothing() {
    let (nodes, local) = cluster::<2>().await;
    let key = Key::new(["nodes", "mallory"]).unwrap();
    local
        .cas(&key, None, Some(vec![0xff; 9].into()))
        .await
        .unwrap();
    let beat = Key::new(["beat", "mallory"]).unwrap();
    local.publish(&beat, vec![0xff; 9].into()).await.unwrap();
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    alice.send(message("r", &[], b"hello")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "hello");
    for node in &nodes {
        assert_eq!(node.lab.services.stats().cluster.records_refused, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_with_more_addresses_than_a_record_has_place_for_does_not_keep_its_node_out() {
    let local = Local::new(LocalConfig::default());
    let nodes = [start(&local, 0), start(&local, 1)];
    let ips = (1..=40).map(|number| [203, 0, 113, number].into());
    *nodes[0].lab.relay.ips.lock().unwrap() = ips.collect();
    announce(&nodes).await;
    for (node, other) in [
        (&nodes[0], "tombolo://node-1"),
        (&nodes[1], "tombolo://node-0"),
    ] {
        assert_eq!(node.lab.services.other_nodes(), [other]);
        assert_eq!(node.lab.services.stats().cluster.records_refused, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn devices_are_told_of_other_nodes_that_take_newcomers() {
    let (nodes, _) = cluster::<3>().await;
    announce(&nodes).await;
    let mut alice = Device::new("alice");
    // Nodes that are as good take turns.
    for expected in [["1", "2"], ["2", "1"], ["1", "2"]] {
        let welcome = alice.connect(&nodes[0].lab).await.unwrap();
        let expected = expected.map(|number| format!("tombolo://node-{number}"));
        assert_eq!(welcome.nodes, expected);
    }

    let drained = nodes[1].lab.services.drain(Duration::from_secs(1)).await;
    assert_eq!(drained, Drained::default());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut bob = Device::new("bob");
    let welcome = bob.connect(&nodes[0].lab).await.unwrap();
    assert_eq!(welcome.nodes, ["tombolo://node-2"]);
    assert_eq!(nodes.iter().map(inherited).sum::<u64>(), 1);
}

#[tokio::test(start_paused = true)]
async fn devices_that_came_first_are_told_when_other_nodes_come_and_go() {
    let local = Local::new(LocalConfig::default());
    let first = start(&local, 0);
    let mut alice = Device::new("alice");
    alice.hears_all = true;
    let welcome = alice.connect(&first.lab).await.unwrap();
    assert_eq!(welcome.nodes, [""; 0], "there is no other");

    let second = start(&local, 1);
    second.lab.services.announce("tombolo://node-1").await;
    assert_eq!(other_nodes(&mut alice).await, ["tombolo://node-1"]);
    second.lab.services.drain(Duration::from_secs(1)).await;
    assert_eq!(other_nodes(&mut alice).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_has_no_place_to_hear_of_another_node_hears_it_later() {
    let ([first], local) = cluster::<1>().await;
    let mut alice = first.lab.device("alice").await;
    for _ in 0..16 {
        let ping = client_frame::Body::Ping(v1::Ping::default());
        alice.send_unreliably(ping).unwrap();
    }
    let second = start(&local, 1);
    second.lab.services.announce("tombolo://node-1").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    alice.hears_all = true;
    let mut heard = Vec::new();
    while let Some(Outgoing::Reliable(frame)) = alice.next_frame().await {
        if let Some(server_frame::Body::OtherNodes(others)) = frame.body {
            heard.push(others.urls);
        }
    }
    assert_eq!(heard, [["tombolo://node-1"]]);
}

async fn other_nodes(device: &mut Device) -> Vec<String> {
    let Some(Outgoing::Reliable(frame)) = device.next_frame().await else {
        panic!("a device is told");
    };
    let Some(server_frame::Body::OtherNodes(others)) = frame.body else {
        panic!("a device is told of other nodes, not {frame:?}");
    };
    others.urls
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_sends_its_devices_elsewhere_and_says_what_was_left() {
    let (nodes, _) = cluster::<2>().await;
    announce(&nodes).await;
    let users = [("alice", 0), ("bob", 1), ("carol", 0)];
    let [mut alice, mut bob, mut carol] = members(&nodes, "r", users).await;
    let services = nodes[0].lab.services.clone();
    let drain = tokio::spawn(async move { services.drain(Duration::from_secs(10)).await });

    for device in [&mut alice, &mut carol] {
        let Some(Outgoing::Reliable(frame)) = device.next_frame().await else {
            panic!("a device is told to go");
        };
        let Some(server_frame::Body::GoAway(go_away)) = frame.body else {
            panic!("a device is told to go, not {frame:?}");
        };
        assert_eq!(go_away.nodes, ["tombolo://node-1"]);
    }
    let mut late = Device::new("late");
    let refused = late.connect(&nodes[0].lab).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Elsewhere);
    assert_eq!(refused.nodes, ["tombolo://node-1"]);

    // Alice goes; carol stays until the time is up.
    let mut moved = nodes[1].lab.device("alice").await;
    moved.join("r", JoinMode::Join).await.unwrap();
    drop(alice);
    let seen = events(&mut bob).await;
    assert!(seen.contains(&"+alice".to_owned()), "{seen:?}");
    let drained = drain.await.unwrap();
    assert_eq!((drained.moved, drained.left), (1, 1));
    assert_eq!(carol.next_close().await, Some(ErrorCode::Elsewhere));
    let seen = events(&mut bob).await;
    assert!(seen.iter().any(|event| event.contains("carol")), "{seen:?}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(inherited(&nodes[1]), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_heard_for_a_moment_and_answers_knocks_stays_in() {
    let (nodes, local) = cluster::<3>().await;
    let [_alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    let before = epoch_of(&local, "node-0").await;
    for node in &nodes[1..] {
        node.wire.answers_left.store(1000, Ordering::Relaxed);
    }
    nodes[0].wire.is_hoarse.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(500)).await;
    nodes[0].wire.is_hoarse.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    for node in &nodes[1..] {
        let knocks = 1000 - node.wire.answers_left.load(Ordering::Relaxed);
        assert!(knocks >= 2, "{knocks}");
    }
    assert_eq!(fenced(&nodes[0]), 0);
    assert_eq!(epoch_of(&local, "node-0").await, before);
    assert!(events(&mut bob).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_has_its_members_dropped_at_once() {
    let (nodes, local) = cluster::<2>().await;
    let [_alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    let before = epoch_of(&local, "node-0").await;
    nodes[0].lab.services.leave().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let seen = events(&mut bob).await;
    assert!(seen.contains(&"?alice".to_owned()), "{seen:?}");
    assert_eq!(fenced(&nodes[0]), 0);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(epoch_of(&local, "node-0").await, before);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_put_out_gives_no_seat_away_that_is_kept() {
    let (nodes, _) = cluster::<2>().await;
    let mut bob = nodes[1].lab.device("bob").await;
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
    let mut alice = nodes[0].lab.device("alice").await;
    alice.join("r", JoinMode::Join).await.unwrap();
    nodes[0].wire.cut(true);
    alice.connection = None;
    // Its session has ended where the log cannot be told of it.
    tokio::time::sleep(Duration::from_secs(45)).await;
    nodes[0].wire.cut(false);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let seen = events(&mut bob).await;
    assert!(seen.contains(&"?alice".to_owned()), "{seen:?}");
    assert!(
        !seen.contains(&"-alice disconnected".to_owned()),
        "{seen:?}"
    );
}

/// What a device is told of its rooms until it is told nothing more.
pub(crate) async fn events(device: &mut Device) -> Vec<String> {
    let mut events = Vec::new();
    device.hears_all = true;
    while let Some(outgoing) = device.next_frame().await {
        let Outgoing::Reliable(frame) = outgoing else {
            panic!("an event is waited for, not {outgoing:?}");
        };
        match frame.body {
            Some(server_frame::Body::RoomEvent(event)) => events.push(told(&event)),
            Some(server_frame::Body::OtherNodes(_)) => {}
            other => panic!("an event is waited for, not {other:?}"),
        }
    }
    events
}

/// The members whose seats are kept.
fn dropped(joined: &v1::Joined) -> Vec<&str> {
    let members = joined.members.iter().filter(|member| member.dropped);
    members.map(|member| member.user.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn newcomers_go_to_nodes_that_have_much_less_to_do() {
    let local = Local::new(LocalConfig::default());
    let nodes: Vec<_> = (0..3)
        .map(|number| {
            start_with(&local, number, |config| {
                config.spread_min = 4;
                if number == 2 {
                    config.region = "elsewhere".to_owned();
                }
            })
        })
        .collect();
    announce(&nodes).await;
    let busy = &nodes[0].lab;
    let mut devices = Vec::new();
    for number in 0..4 {
        devices.push(busy.device(&format!("early-{number}")).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;

    let mut late = Device::new("late");
    let refused = late.connect(busy).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Elsewhere);
    assert_eq!(
        refused.nodes,
        ["tombolo://node-1"],
        "no node of another region"
    );
    // Whoever was sent from another node is not sent on.
    late.is_sent = true;
    late.connect(busy).await.unwrap();
    // Nor is a device that goes on, or has lost its session and begins another.
    let early = &mut devices[0];
    early.connect(busy).await.unwrap();
    let mut unknown = early.resume_token.take().unwrap().to_vec();
    unknown[0] ^= 1;
    early.resume_token = Some(Bytes::from(unknown));
    early.connect(busy).await.unwrap();

    // Six here, so five there are enough for it not to be worth it.
    for number in 0..5 {
        devices.push(nodes[1].lab.device(&format!("there-{number}")).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    devices.push(busy.device("latest").await);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_since_a_node_is_nearer_stays_away_from_one_that_has_much_to_do() {
    let local = Local::new(LocalConfig::default());
    let nodes: Vec<_> = (0..2)
        .map(|number| start_with(&local, number, |config| config.spread_min = 2))
        .collect();
    announce(&nodes).await;
    let mut alice = nodes[1].lab.device("alice").await;
    alice.join("r", JoinMode::Create).await.unwrap();
    alice.comes_nearer = true;
    assert!(alice.connect(&nodes[0].lab).await.unwrap().resumed);

    let mut early = Vec::new();
    for number in 0..2 {
        early.push(nodes[0].lab.device(&format!("early-{number}")).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut bob = nodes[1].lab.device("bob").await;
    bob.comes_nearer = true;
    let refused = bob.connect(&nodes[0].lab).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Elsewhere);
    // Its session is where it was.
    bob.comes_nearer = false;
    assert!(bob.connect(&nodes[1].lab).await.unwrap().resumed);
    // It begins no other one by that.
    alice.resume_token = Some(Bytes::from_static(&[1; 38]));
    early.clear();
    let refused = alice.connect(&nodes[1].lab).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn devices_are_told_of_the_best_node_of_each_other_region() {
    let local = Local::new(LocalConfig::default());
    let nodes: Vec<_> = (0..7)
        .map(|number| {
            start_with(&local, number, |config| {
                let far = ["", "", "", "", "", "far", "farther"];
                config.region = far[number].to_owned();
            })
        })
        .collect();
    announce(&nodes).await;
    let urls = nodes[0].lab.services.other_nodes();
    assert_eq!(urls.len(), 5, "{urls:?}");
    assert_eq!(urls[3..], ["tombolo://node-5", "tombolo://node-6"]);
}

async fn announce(nodes: &[Member]) {
    for (number, node) in nodes.iter().enumerate() {
        let url = format!("tombolo://node-{number}");
        node.lab.services.announce(&url).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
}

fn inherited(node: &Member) -> u64 {
    node.lab.services.stats().cluster.inherited
}

fn fenced(node: &Member) -> u64 {
    node.lab.services.stats().cluster.fenced
}
