//! Seats that are kept for members whose sessions are over.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tombolo_engine::{Expect, Key, Local, Log as _, Purpose, TailEvent};
use tombolo_room::{Body, Entry, OperationId, Settings};
use tombolo_services::{NewRoom, RoomEvent, Services};
use tombolo_wire::RoomId;
use tombolo_wire::v1::{self, ErrorCode, JoinMode};

use crate::acts::set;
use crate::changes::next_room_change;
use crate::cluster::{Member, cluster};
use crate::lab::{Device, Lab, members, message};

/// A device of each user in a room that keeps seats for so long, each on the node of its number.
async fn seated<const N: usize>(
    nodes: &[Member],
    kept: Duration,
    users: [(&str, usize); N],
) -> [Device; N] {
    let mut devices = Vec::new();
    for (user, node) in users {
        let mut device = nodes[node].lab.device(user).await;
        device.join_as(keeping("r", kept)).await.unwrap();
        devices.push(device);
    }
    for device in &mut devices {
        device.drain().await;
    }
    devices.try_into().ok().unwrap()
}

fn keeping(room: &str, kept: Duration) -> v1::Join {
    v1::Join {
        room: room.into(),
        mode: JoinMode::JoinOrCreate.into(),
        settings: Some(v1::RoomSettings {
            seat_kept_ms: u64::try_from(kept.as_millis()).unwrap(),
            ..v1::RoomSettings::default()
        }),
        ..v1::Join::default()
    }
}

fn sessions(services: &Services) -> usize {
    services.stats().sessions
}

#[tokio::test(start_paused = true)]
async fn a_seat_outlives_its_session_and_another_one_comes_back_to_it() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 0), ("carol", 1)];
    let kept = Duration::from_secs(600);
    let [mut alice, mut bob, mut carol] = seated(&nodes, kept, users).await;
    bob.act("r", set("bob", 0, "score", 7)).await.unwrap();
    alice.drain().await;
    carol.drain().await;
    bob.connection = None;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(sessions(&nodes[0].lab.services), 1);
    for device in [&mut alice, &mut carol] {
        assert_eq!(device.next_event().await, "?bob");
        device.is_quiet().await;
    }
    // Nothing is kept for him but the seat, and whoever has something for him is told so; others have it.
    let (mut from, mut to) = (&mut alice, &mut carol);
    for _ in 0..2 {
        for whom in [&["bob"][..], &[]] {
            from.send(message("r", whom, b"where")).unwrap();
            let (_, code) = from.next_refused().await;
            assert_eq!(code, ErrorCode::Unavailable, "{} to {whom:?}", from.user);
        }
        assert_eq!(to.next_delivery().await.1, "where");
        // Of what may get lost nobody is told so each time.
        from.send_unreliably(message("r", &[], b"here")).unwrap();
        to.next_unreliable().await;
        from.is_quiet().await;
        std::mem::swap(&mut from, &mut to);
    }

    for (at, other) in [(0, "alice"), (1, "carol")] {
        let mut again = nodes[at].lab.device("bob").await;
        let joined = again.join("r", JoinMode::Join).await.unwrap();
        let seat = |user| {
            let mut all = joined.members.iter();
            all.find(|member| member.user == user).unwrap().seat
        };
        assert_eq!((seat("bob"), members(&joined)[1]), (1, "bob"), "by {other}");
        again.hears_all = true;
        let told = again.events_until_synced().await;
        assert!(told.contains(&"bob score=7".to_owned()), "{told:?}");
        for device in [&mut alice, &mut carol] {
            assert_eq!(device.next_event().await, "!bob");
        }
        alice.send(message("r", &[], b"there")).unwrap();
        for device in [&mut again, &mut carol] {
            assert_eq!(device.next_delivery().await.1, "there");
        }
        alice.is_quiet().await;
        again.connection = None;
        tokio::time::sleep(Duration::from_secs(60)).await;
        for device in [&mut alice, &mut carol] {
            assert_eq!(device.next_event().await, "?bob");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_seat_is_given_up_when_its_time_is_over_and_the_node_of_its_session_tells_it() {
    let (nodes, _) = cluster::<2>().await;
    let kept = Duration::from_secs(600);
    let [bob, mut carol] = seated(&nodes, kept, [("bob", 0), ("carol", 1)]).await;
    let mut changes = nodes[0].lab.services.changes();
    drop(bob);
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert_eq!(carol.next_event().await, "?bob");
    carol.is_quiet().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(carol.next_event().await, "-bob disconnected");
    let change = next_room_change(&mut changes).unwrap();
    assert_eq!(change.event, RoomEvent::Left);
    assert_eq!(change.user.unwrap().as_str(), "bob");
    assert_eq!(next_room_change(&mut changes), None);
    assert_eq!(nodes[0].lab.services.stats().rooms, 0);
}

#[tokio::test(start_paused = true)]
async fn a_room_whose_members_are_all_away_is_there_until_their_seats_are_given_up() {
    let (nodes, _) = cluster::<1>().await;
    let lab = &nodes[0].lab;
    let kept = Duration::from_secs(600);
    let [bob] = seated(&nodes, kept, [("bob", 0)]).await;
    drop(bob);
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert_eq!(
        (sessions(&lab.services), lab.services.stats().rooms),
        (0, 1)
    );
    let mut bob = lab.device("bob").await;
    let joined = bob.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(joined.members[0].seat, 0);
    drop(bob);
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert_eq!(lab.services.stats().rooms, 0);
    let mut bob = lab.device("bob").await;
    let gone = bob.join("r", JoinMode::Join).await;
    assert_eq!(gone.map(drop), Err(ErrorCode::NoSuchRoom));
}

#[tokio::test(start_paused = true)]
async fn rooms_without_sessions_stay_while_their_logs_are_read_anew() {
    let (nodes, local) = cluster::<1>().await;
    let services = &nodes[0].lab.services;
    let kept = Duration::from_secs(600);
    let [bob] = seated(&nodes, kept, [("bob", 0)]).await;
    drop(bob);
    let settings = Settings {
        empty_kept: kept,
        ..Settings::default()
    };
    let new = NewRoom {
        settings,
        ..NewRoom::default()
    };
    let empty = RoomId::parse("empty").unwrap();
    services.create_room(&empty, new, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((sessions(services), services.stats().rooms), (0, 2));
    nodes[0].wire.restore(&local);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(services.stats().rooms, 2);
    let listed = services.list_rooms(None, 10).await.unwrap().rooms;
    assert_eq!(listed, [empty, RoomId::parse("r").unwrap()]);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(services.stats().rooms, 0, "somebody says that time passes");
}

#[tokio::test(start_paused = true)]
async fn a_member_is_dropped_again_of_whom_it_was_written_late_that_it_had_returned() {
    // While its session waits to be resumed, and after that.
    for away in [5, 40].map(Duration::from_secs) {
        let (nodes, local) = cluster::<1>().await;
        let kept = Duration::from_secs(120);
        let users = [("alice", 0), ("bob", 0)];
        let [mut alice, mut bob] = seated(&nodes, kept, users).await;
        bob.connection = None;
        tokio::time::sleep(away).await;
        assert_eq!(alice.next_event().await, "?bob");
        append_late_return(&local, "bob").await;
        for expected in ["!bob", "?bob"] {
            assert_eq!(alice.next_event().await, expected, "away for {away:?}");
        }
        tokio::time::sleep(kept - Duration::from_secs(10)).await;
        alice.is_quiet().await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(alice.next_event().await, "-bob disconnected");
    }
}

/// What a user's node had to say of it, and what the engine took in late.
async fn append_late_return(local: &Local, user: &str) {
    let key = Key::new(["room", "r"]).unwrap();
    let mut tail = local.tail(&key, None).await.unwrap();
    let (mut late, join) = loop {
        if let TailEvent::Entry { entry, .. } = tail.next().await.unwrap()
            && let Ok(entry) = Entry::decode(&entry)
            && let Body::Joined(join) = entry.body.clone()
            && join.user.as_str() == user
        {
            break (entry, join);
        }
    };
    late.operation = OperationId([9; 16]);
    late.body = Body::Returned {
        user: join.user,
        session: join.membership.session,
        node: join.membership.node,
        incarnation: join.membership.incarnation,
    };
    let operation = tombolo_engine::OperationId(late.operation.0);
    let appended = local.append(&key, late.encode(), Purpose::More, Expect::Any, operation);
    appended.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_and_is_gone_before_that_is_read_still_has_its_seat() {
    come_back_unread(false).await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_and_is_gone_before_the_log_is_read_anew_still_has_its_seat() {
    come_back_unread(true).await;
}

/// Bob, whose seat is kept, comes back and is gone while his node reads nothing; then it reads what there is, or all anew.
async fn come_back_unread(is_read_anew: bool) {
    let (nodes, _) = cluster::<1>().await;
    let users = [("alice", 0), ("bob", 0)];
    let [mut alice, bob] = seated(&nodes, Duration::from_secs(600), users).await;
    drop(bob);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(alice.next_event().await, "?bob");
    let mut again = nodes[0].lab.device("bob").await;
    nodes[0].wire.is_slow.store(true, Ordering::Relaxed);
    again.ask_join("r", JoinMode::Join, 0);
    tokio::time::sleep(Duration::from_millis(10)).await;
    again.connection = None;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(sessions(&nodes[0].lab.services), 1);
    nodes[0].wire.is_void.store(is_read_anew, Ordering::Relaxed);
    nodes[0].wire.is_slow.store(false, Ordering::Relaxed);
    let expected: &[&str] = match is_read_anew {
        true => &["-bob disconnected", "+bob", "?bob"],
        false => &["!bob", "?bob"],
    };
    for expected in expected {
        assert_eq!(alice.next_event().await, *expected);
    }
    tokio::time::sleep(Duration::from_secs(300)).await;
    alice.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_away_when_the_time_of_a_drain_is_up_finds_its_seat_over_another_node() {
    let (nodes, _) = cluster::<2>().await;
    let kept = Duration::from_secs(600);
    let [mut bob, mut carol] = seated(&nodes, kept, [("bob", 0), ("carol", 1)]).await;
    bob.connection = None;
    let drained = nodes[0].lab.services.drain(Duration::from_secs(5)).await;
    assert_eq!((drained.moved, drained.left), (0, 1));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!bob.connect(&nodes[1].lab).await.unwrap().resumed);
    let joined = bob.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(members(&joined), ["bob", "carol"]);
    assert_eq!(joined.members[0].seat, 0);
    assert_eq!(carol.next_event().await, "?bob");
    assert_eq!(carol.next_event().await, "!bob");
    carol.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_in_place_of_a_session_that_is_away_finds_its_seat() {
    let lab = Lab::with(|config| config.sessions_per_user_max = 1);
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    bob.connection = None;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(alice.next_event().await, "?bob");
    let mut again = lab.device("bob").await;
    alice.is_quiet().await;
    let joined = again.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(members(&joined), ["alice", "bob"]);
    assert_eq!(alice.next_event().await, "!bob");
    // Who says goodbye keeps no seat.
    let goodbye = v1::client_frame::Body::Goodbye(v1::Goodbye {});
    again.send(goodbye).unwrap();
    assert_eq!(alice.next_event().await, "-bob left");
}

#[tokio::test(start_paused = true)]
async fn a_room_is_counted_once_also_where_the_first_node_has_only_kept_seats_or_is_lost() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 1)];
    let [alice, _bob] = seated(&nodes, Duration::from_secs(600), users).await;
    let counted = || {
        nodes
            .each_ref()
            .map(|node| node.lab.services.rooms_counted())
    };
    assert_eq!(counted(), [1, 0]);
    drop(alice);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(sessions(&nodes[0].lab.services), 0);
    assert_eq!(counted(), [1, 0]);
    nodes[0].lab.services.kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(counted()[1], 1);
}

#[tokio::test(start_paused = true)]
async fn rooms_in_which_only_seats_are_kept_are_bounded_like_empty_ones() {
    let lab = Lab::with(|config| config.empty_rooms_max = 4);
    let kept = Duration::from_secs(3600);
    let mut alice = lab.device("alice").await;
    for room in ["a", "b", "c", "d", "e"] {
        alice.join_as(keeping(room, kept)).await.unwrap();
    }
    drop(alice);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let stats = lab.services.stats();
    assert_eq!((stats.rooms, stats.rooms_crowded_out), (4, 1));
}
