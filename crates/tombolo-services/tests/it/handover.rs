//! Sessions that go on over another node.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tombolo_engine::{Bus as _, Key, Local, LocalConfig, Pattern};
use tombolo_services::{Outgoing, SessionEvent};
use tombolo_wire::v1::{self, ClientFrame, ErrorCode, JoinMode, client_frame, server_frame};

use crate::changes::next_session_change;
use crate::cluster::{Member, cluster, members, start_with};
use crate::lab::{Device, message, told};

#[tokio::test(start_paused = true)]
async fn a_session_goes_on_over_another_node_with_its_rooms_and_all_that_waited_for_it() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("anna", 0), ("bob", 1)];
    let [mut alice, mut anna, mut bob] = members(&nodes, "r", users).await;
    alice.connection = None;
    for number in 0..3_u8 {
        anna.send(message("r", &["alice"], &[number])).unwrap();
        bob.send(message("r", &["alice"], &[10 + number])).unwrap();
        push(&mut alice, message("r", &[], &[20 + number]));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;

    let welcome = alice.connect(&nodes[1].lab).await.unwrap();
    assert_eq!((welcome.resumed, welcome.node.as_str()), (true, "node-1"));
    let mut heard = Vec::new();
    for _ in 0..6 {
        heard.push(alice.next_delivery().await);
    }
    for (from, first) in [("anna", 0), ("bob", 10)] {
        let of_one = heard.iter().filter(|(user, _)| user == from);
        let payloads: Vec<_> = of_one.map(|(_, payload)| payload[0]).collect();
        assert_eq!(payloads, [first, first + 1, first + 2]);
    }
    for device in [&mut anna, &mut bob] {
        for number in 20..23_u8 {
            let (from, payload) = device.next_delivery().await;
            assert_eq!((from.as_str(), payload[0]), ("alice", number));
        }
    }
    anna.send(message("r", &[], b"there")).unwrap();
    assert_eq!(alice.next_delivery().await.1, "there");
    assert_eq!(bob.next_delivery().await.1, "there");
    for device in [&mut alice, &mut anna, &mut bob] {
        device.is_quiet().await;
    }
    assert_eq!(moves(&nodes), [(1, 0), (0, 1)]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    for device in [&mut alice, &mut anna, &mut bob] {
        device.is_quiet().await;
    }
    let sessions = nodes.iter().map(|node| node.lab.services.stats().sessions);
    assert_eq!(sessions.collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_session_may_move_while_its_connection_lives_and_back_again() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    for turn in 0..6_u8 {
        let old = alice.connection.take().unwrap();
        let node = &nodes[usize::from(1 - turn % 2)];
        bob.send(message("r", &[], &[turn])).unwrap();
        assert!(alice.connect(&node.lab).await.unwrap().resumed);
        // It is closed, but not told that it was replaced.
        while let Outgoing::Reliable(_) = old.next_outgoing().await {}
        assert_eq!(old.next_outgoing().await, Outgoing::Close(None));
        drop(old);
        let (_, payload) = alice.next_delivery().await;
        assert_eq!(payload[0], turn);
        alice.send(message("r", &[], &[turn])).unwrap();
        let (_, payload) = bob.next_delivery().await;
        assert_eq!(payload[0], turn);
    }
    alice.is_quiet().await;
    bob.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_to_the_node_that_a_member_was_on_follows_it() {
    let (nodes, _) = cluster::<3>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 2)]).await;
    // Bob's node does not see for a while that alice goes on elsewhere.
    nodes[2].wire.is_slow.store(true, Ordering::Relaxed);
    let slow = std::sync::Arc::clone(&nodes[2].wire.is_slow);
    alice.connection = None;
    let connect = async {
        assert!(alice.connect(&nodes[1].lab).await.unwrap().resumed);
    };
    let talk = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        bob.send(message("r", &[], b"first")).unwrap();
        bob.send(message("r", &["alice"], b"second")).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        slow.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
        bob.send(message("r", &["alice"], b"third")).unwrap();
    };
    tokio::join!(connect, talk);
    for expected in ["first", "second", "third"] {
        assert_eq!(alice.next_delivery().await.1, expected);
    }
    alice.is_quiet().await;
    bob.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_takes_anothers_session_by_way_of_another_node() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    let mut thief = Device::new("mallory");
    thief.resume_token = alice.resume_token.clone();
    let refused = thief.connect(&nodes[1].lab).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotResumable);
    let mut other_keys = Device::new("alice");
    other_keys.keys = thief.keys.clone();
    other_keys.resume_token = alice.resume_token.clone();
    let refused = other_keys.connect(&nodes[1].lab).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotResumable);
    alice.send(message("r", &[], b"still here")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "still here");
    assert_eq!(refusals(&nodes[1], "session is another device's"), 2);

    // A token that was good once is not good again.
    let old = alice.resume_token.clone();
    alice.connection = None;
    assert!(alice.connect(&nodes[1].lab).await.unwrap().resumed);
    alice.send(message("r", &[], b"heard")).unwrap();
    for node in [0, 1] {
        let mut late = Device::new("alice");
        late.keys = alice.keys.clone();
        late.resume_token.clone_from(&old);
        assert!(!late.connect(&nodes[node].lab).await.unwrap().resumed);
    }
    let replayed = "token was used before";
    assert!(refusals(&nodes[0], replayed) + refusals(&nodes[1], replayed) >= 1);
    alice.send(message("r", &[], b"unharmed")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "heard");
    assert_eq!(bob.next_delivery().await.1, "unharmed");
}

#[tokio::test(start_paused = true)]
async fn tokens_that_name_nobody_or_nonsense_begin_a_new_session_and_are_counted() {
    let (nodes, _) = cluster::<2>().await;
    let secret = [7; 32];
    for (token, reason) in [
        (vec![], "token is malformed"),
        (vec![1; 31], "token is malformed"),
        ([&secret[..], b"a b"].concat(), "token is malformed"),
        ([&secret[..], &[0xff; 200]].concat(), "token is malformed"),
        ([&secret[..], b"node-9"].concat(), "session's node is gone"),
        ([&secret[..], b"node-1"].concat(), "session is not known"),
        ([&secret[..], b"node-0"].concat(), "session is not known"),
    ] {
        let before = refusals(&nodes[0], reason);
        let mut device = Device::new("mallory");
        device.resume_token = Some(token.into());
        let welcome = device.connect(&nodes[0].lab).await.unwrap();
        assert!(!welcome.resumed);
        assert_eq!(refusals(&nodes[0], reason), before + 1, "{reason}");
        device
            .send(client_frame::Body::Goodbye(v1::Goodbye {}))
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_of_a_dead_node_is_honestly_not_resumed_and_has_its_seat_again() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("bob", 1), ("alice", 0)];
    let [mut bob, mut alice] = members(&nodes, "r", users).await;
    nodes[0].lab.services.kill();
    alice.connection = None;
    let died = tokio::time::Instant::now();
    assert!(!alice.connect(&nodes[1].lab).await.unwrap().resumed);
    let joined = alice.join("r", JoinMode::Join).await.unwrap();
    assert!(died.elapsed() < Duration::from_secs(2));
    let of_alice = joined.members.iter().find(|member| member.user == "alice");
    assert_eq!(of_alice.unwrap().seat, 1);
    assert_eq!(bob.next_event().await, "?alice");
    assert_eq!(bob.next_event().await, "!alice");
    bob.send(message("r", &[], b"again")).unwrap();
    assert_eq!(alice.next_delivery().await.1, "again");
}

#[tokio::test(start_paused = true)]
async fn a_node_takes_no_session_over_before_the_end_of_its_life_before_is_known() {
    let (nodes, local) = cluster::<2>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 0)]).await;
    nodes[1].lab.services.kill();
    let again = start_with(&local, 1, |_| {});
    alice.connection = None;
    let asked = again.lab.attach(alice.hello());
    let answer = tokio::time::timeout(Duration::from_millis(200), asked).await;
    assert!(answer.is_err());
    bob.send(message("r", &[], b"meanwhile")).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let welcome = alice.connect(&again.lab).await.unwrap();
    assert_eq!((welcome.resumed, welcome.node.as_str()), (true, "node-1"));
    assert_eq!(alice.next_delivery().await.1, "meanwhile");
    bob.send(message("r", &[], b"there")).unwrap();
    assert_eq!(alice.next_delivery().await.1, "there");
}

#[tokio::test(start_paused = true)]
async fn a_node_gives_no_session_to_a_life_of_which_it_has_not_read() {
    let local = Local::new(LocalConfig::default());
    let nodes = [0, 1].map(|number| {
        start_with(&local, number, |config| {
            config.drop_after = Duration::from_secs(10);
        })
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 0)]).await;
    nodes[0].wire.is_blind.store(true, Ordering::Relaxed);
    nodes[0].wire.is_slow.store(true, Ordering::Relaxed);
    // The next life of the other one begins just before this one would put the last out.
    let beats = Pattern::Exactly(Key::new(["beat", "node-1"]).unwrap());
    let mut beats = local.subscribe(&beats, 16).await.unwrap();
    beats.next().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let again = start_with(&local, 1, |_| {});
    beats.next().await;
    nodes[1].lab.services.kill();
    alice.connection = None;
    let connect = alice.connect(&again.lab);
    let read = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        nodes[0].wire.is_slow.store(false, Ordering::Relaxed);
        nodes[0].wire.is_blind.store(false, Ordering::Relaxed);
    };
    let (welcome, ()) = tokio::join!(connect, read);
    assert!(welcome.unwrap().resumed);
    bob.send(message("r", &[], b"there")).unwrap();
    assert_eq!(alice.next_delivery().await.1, "there");
    alice.is_quiet().await;
    bob.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn devices_of_a_dead_node_are_let_in_elsewhere_as_soon_as_its_death_is_known() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 0), ("carol", 0)];
    let [mut alice, mut bob, mut carol] = members(&nodes, "r", users).await;
    nodes[0].lab.services.kill();
    let come = async |device: &mut Device, after_ms: u64| {
        device.connection = None;
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        assert!(!device.connect(&nodes[1].lab).await.unwrap().resumed);
        tokio::time::Instant::now()
    };
    let let_in = tokio::join!(
        come(&mut alice, 0),
        come(&mut bob, 37),
        come(&mut carol, 74)
    );
    assert_eq!((let_in.1, let_in.2), (let_in.0, let_in.0));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_back_before_its_session_is_taken_has_it_where_it_was() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 0)]).await;
    alice.connection = None;
    // The offer is made, and nothing more comes through.
    nodes[1].wire.answers_left.store(1, Ordering::Relaxed);
    let hello = alice.hello();
    let asked = nodes[1].lab.attach(hello);
    assert!(
        tokio::time::timeout(Duration::from_secs(1), asked)
            .await
            .is_err()
    );
    bob.send(message("r", &[], b"meanwhile")).unwrap();
    let welcome = alice.connect(&nodes[0].lab).await.unwrap();
    assert_eq!((welcome.resumed, welcome.node.as_str()), (true, "node-0"));
    nodes[1]
        .wire
        .answers_left
        .store(u64::MAX, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(alice.next_delivery().await.1, "meanwhile");
    alice.send(message("r", &[], b"here")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "here");
    alice.is_quiet().await;
    bob.is_quiet().await;
    assert_eq!(moves(&nodes), [(0, 0), (0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_offered_outlives_what_others_were_told_has_no_place() {
    let local = Local::new(LocalConfig::default());
    let nodes = [0, 1].map(|number| {
        start_with(&local, number, |config| {
            config.outbox.frames_max = 16;
        })
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 0)]).await;
    alice.connection = None;
    nodes[1].wire.answers_left.store(1, Ordering::Relaxed);
    let asked = nodes[1].lab.attach(alice.hello());
    let asked = tokio::time::timeout(Duration::from_secs(1), asked).await;
    assert!(asked.is_err());
    let mut refused = 0;
    for number in 0..20_u8 {
        bob.send(message("r", &["alice"], &[number])).unwrap();
        while let Some(Outgoing::Reliable(frame)) = bob.next_frame().await {
            refused += usize::from(matches!(frame.body, Some(server_frame::Body::Refused(_))));
        }
    }
    assert_eq!(
        refused, 12,
        "others may have half of what waits for a device"
    );
    let welcome = alice.connect(&nodes[0].lab).await.unwrap();
    assert!(welcome.resumed);
    for number in 0..8_u8 {
        assert_eq!(alice.next_delivery().await.1[0], number);
    }
    alice.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_offered_session_has_no_place_for_what_its_node_says_begins_anew_in_its_seats()
 {
    let local = Local::new(LocalConfig::default());
    let nodes = [0, 1].map(|number| {
        start_with(&local, number, |config| {
            config.outbox.frames_max = if number == 0 { 16 } else { 4096 };
        })
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    for (back, room) in [(0, "r"), (1, "s")] {
        let users = [("bob", 1), ("alice", 0)];
        let [mut bob, mut alice] = members(&nodes, room, users).await;
        alice.connection = None;
        nodes[1].wire.answers_left.store(1, Ordering::Relaxed);
        let asked = nodes[1].lab.attach(alice.hello());
        let asked = tokio::time::timeout(Duration::from_secs(1), asked).await;
        assert!(
            asked.is_err(),
            "the offer is made, and nothing more comes through"
        );
        for number in 0..10 {
            let mut guest = nodes[1].lab.device(&format!("guest{number}")).await;
            guest.hears_all = true;
            guest.join(room, JoinMode::Join).await.unwrap();
            guest.leave(room).await.unwrap();
        }
        bob.drain().await;
        for node in &nodes {
            node.wire.answers_left.store(1000, Ordering::Relaxed);
        }
        let begun = tokio::time::Instant::now();
        let welcome = alice.connect(&nodes[back].lab).await.unwrap();
        assert!(!welcome.resumed);
        assert!(!welcome.resumed);
        // The question that was lost is given up first.
        assert!(begun.elapsed() < Duration::from_secs(1));
        let left = nodes
            .iter()
            .map(|node| node.wire.answers_left.load(Ordering::Relaxed));
        let left: Vec<_> = left.collect();
        assert!(
            left.iter().sum::<u64>() >= 1990,
            "a node asks without end: {left:?}"
        );
        let joined = alice.join(room, JoinMode::Join).await.unwrap();
        let of_alice = joined.members.iter().find(|member| member.user == "alice");
        assert_eq!(of_alice.unwrap().seat, 1);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(bob.next_event().await, "!alice");
        bob.is_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_taken_late_is_found_by_the_token_that_its_device_has_by_then() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice] = members(&nodes, "r", [("alice", 0)]).await;
    alice.connection = None;
    nodes[1].wire.answers_left.store(0, Ordering::Relaxed);
    let mut asked = std::pin::pin!(nodes[1].lab.attach(alice.hello()));
    let waited = tokio::time::timeout(Duration::from_millis(500), asked.as_mut()).await;
    assert!(waited.is_err());
    // The device has turned back, and has another token; the node that it has left does not know.
    assert!(alice.connect(&nodes[0].lab).await.unwrap().resumed);
    nodes[1]
        .wire
        .answers_left
        .store(u64::MAX, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(moves(&nodes), [(1, 0), (0, 1)]);
    alice.connection = None;
    assert!(alice.connect(&nodes[0].lab).await.unwrap().resumed);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_not_drained_before_a_session_that_is_on_its_way_to_it_is_there() {
    let (nodes, _) = cluster::<3>().await;
    let [mut alice] = members(&nodes, "r", [("alice", 0)]).await;
    alice.connection = None;
    nodes[1].wire.answers_left.store(0, Ordering::Relaxed);
    let mut connect = Box::pin(alice.connect(&nodes[1].lab));
    let waited = tokio::time::timeout(Duration::from_millis(500), connect.as_mut()).await;
    assert!(waited.is_err());
    let services = nodes[1].lab.services.clone();
    let drain = tokio::spawn(async move { services.drain(Duration::from_secs(30)).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    nodes[1]
        .wire
        .answers_left
        .store(u64::MAX, Ordering::Relaxed);
    assert!(connect.await.unwrap().resumed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(alice.next().await, server_frame::Body::GoAway(_)));
    alice.connection = None;
    assert!(alice.connect(&nodes[2].lab).await.unwrap().resumed);
    let drained = drain.await.unwrap();
    assert_eq!(drained.left, 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_new_node_dies_before_its_rooms_know_of_it_leaves_no_ghost() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("bob", 0), ("alice", 0)];
    let [mut bob, mut alice] = members(&nodes, "r", users).await;
    taken_but_not_told(&nodes, &mut alice).await;
    nodes[1].lab.services.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(bob.next_event().await, "?alice");
    let mut alice = nodes[0].lab.device("alice").await;
    let joined = alice.join("r", JoinMode::Join).await.unwrap();
    let of_alice = joined.members.iter().find(|member| member.user == "alice");
    assert_eq!(of_alice.unwrap().seat, 1);
    assert_eq!(bob.next_event().await, "!alice");
    tokio::time::sleep(Duration::from_secs(60)).await;
    bob.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_offered_when_its_node_is_put_out_is_said_to_have_ended() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice] = members(&nodes, "r", [("alice", 0)]).await;
    let mut changes = nodes[0].lab.services.changes();
    alice.connection = None;
    // The offer is made, and nothing more comes through.
    nodes[1].wire.answers_left.store(1, Ordering::Relaxed);
    let asked = nodes[1].lab.attach(alice.hello());
    let asked = tokio::time::timeout(Duration::from_millis(500), asked).await;
    assert!(asked.is_err());
    nodes[0].wire.cut(true);
    tokio::time::sleep(Duration::from_secs(5)).await;
    nodes[0].wire.cut(false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let told = next_session_change(&mut changes).map(|change| change.event);
    assert_eq!(told, Some(SessionEvent::Ended));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_lost_while_it_arrives_leaves_no_ghost() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("bob", 0), ("alice", 0)];
    let [mut bob, mut alice] = members(&nodes, "r", users).await;
    taken_but_not_told(&nodes, &mut alice).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(nodes[1].lab.services.stats().sessions, 0);
    assert_eq!(bob.next_event().await, "?alice");
}

#[tokio::test(start_paused = true)]
async fn senders_are_told_that_a_session_is_lost_with_the_node_that_it_went_to() {
    let (nodes, _) = cluster::<3>().await;
    let users = [("bob", 0), ("alice", 0), ("carol", 2)];
    let [mut bob, mut alice, mut carol] = members(&nodes, "r", users).await;
    taken_but_not_told(&nodes[..2], &mut alice).await;
    nodes[0].wire.lose_percent.store(100, Ordering::Relaxed);
    for device in [&mut bob, &mut carol] {
        device.send(message("r", &["alice"], b"lost")).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    nodes[1].lab.services.kill();
    nodes[0].wire.lose_percent.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(3)).await;
    for device in [&mut bob, &mut carol] {
        let sent = device.outbox.last();
        let mut told = Vec::new();
        while let Some(Outgoing::Reliable(frame)) = device.next_frame().await {
            if let Some(server_frame::Body::Refused(refused)) = frame.body {
                told.push((refused.seq, refused.code()));
            }
        }
        assert_eq!(told, [(sent, ErrorCode::Unavailable)], "{}", device.user);
    }
}

/// Has the second node take a session from the first, and none of its rooms be told.
async fn taken_but_not_told(nodes: &[Member], device: &mut Device) {
    nodes[1].wire.is_slow.store(true, Ordering::Relaxed);
    device.connection = None;
    let asked = nodes[1].lab.attach(device.hello());
    assert!(
        tokio::time::timeout(Duration::from_secs(1), asked)
            .await
            .is_err()
    );
    assert_eq!(moves(nodes), [(1, 0), (0, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_cannot_be_told_all_of_a_room_after_it_went_leaves_the_room() {
    let local = Local::new(LocalConfig::default());
    let nodes = [0, 1].map(|number| {
        start_with(&local, number, |config| {
            config.rate.frames_burst = 100_000;
            config.rate.bytes_burst = u32::MAX;
        })
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let users = [("anna", 0), ("alice", 0), ("bob", 1)];
    let [mut anna, mut alice, mut bob] = members(&nodes, "r", users).await;
    // The first node reads late that somebody joins, and then that alice goes on over the second.
    nodes[0].wire.is_slow.store(true, Ordering::Relaxed);
    nodes[0].wire.lose_percent.store(100, Ordering::Relaxed);
    // Until nothing has place in the link between the two.
    for bytes in [60_000, 1_000, 10, 0] {
        let before = nodes[0].lab.refused(ErrorCode::Limit);
        while nodes[0].lab.refused(ErrorCode::Limit) == before {
            for _ in 0..30 {
                anna.send(message("r", &["bob"], &vec![0; bytes])).unwrap();
            }
            anna.drain().await;
        }
    }
    let mut carol = nodes[1].lab.device("carol").await;
    carol.join("r", JoinMode::Join).await.unwrap();
    alice.connection = None;
    let asked = nodes[1].lab.attach(alice.hello());
    assert!(
        tokio::time::timeout(Duration::from_secs(1), asked)
            .await
            .is_err()
    );
    assert_eq!(moves(&nodes), [(1, 0), (0, 1)]);
    nodes[0].wire.is_slow.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(500)).await;
    nodes[0].wire.lose_percent.store(0, Ordering::Relaxed);
    assert!(alice.connect(&nodes[1].lab).await.unwrap().resumed);
    let mut heard = Vec::new();
    alice.hears_all = true;
    while let Some(Outgoing::Reliable(frame)) = alice.next_frame().await {
        if let Some(server_frame::Body::RoomEvent(event)) = frame.body {
            heard.push(told(&event));
        }
    }
    assert_eq!(heard, ["-alice disconnected"], "and nothing with a gap");
    bob.drain().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_may_not_have_a_session_back_does_not_keep_it_from_its_end() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 0)]).await;
    alice.connection = None;
    // The offer is made, and nothing more comes through.
    nodes[1].wire.answers_left.store(1, Ordering::Relaxed);
    let asked = nodes[1].lab.attach(alice.hello());
    assert!(
        tokio::time::timeout(Duration::from_secs(1), asked)
            .await
            .is_err()
    );
    let mut hello = alice.hello();
    hello.ack = u64::MAX;
    let refused = nodes[0].lab.attach(hello).await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::NotResumable);
    let mut thief = Device::new("alice");
    thief.keys = Device::new("mallory").keys;
    thief.resume_token.clone_from(&alice.resume_token);
    let refused = thief.connect(&nodes[0].lab).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotResumable);

    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bob.next_event().await, "?alice");
    assert_eq!(nodes[0].lab.services.stats().sessions, 1);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(bob.next_event().await, "-alice disconnected");
}

#[tokio::test(start_paused = true)]
async fn a_node_is_not_drained_before_its_last_session_has_gone_over() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice] = members(&nodes, "r", [("alice", 0)]).await;
    let services = nodes[0].lab.services.clone();
    let drain = tokio::spawn(async move { services.drain(Duration::from_secs(30)).await });
    assert!(matches!(alice.next().await, server_frame::Body::GoAway(_)));
    // Its rooms are told a while after it was taken.
    nodes[1].wire.is_slow.store(true, Ordering::Relaxed);
    let slow = std::sync::Arc::clone(&nodes[1].wire.is_slow);
    alice.connection = None;
    let connect = alice.connect(&nodes[1].lab);
    let read = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!drain.is_finished());
        slow.store(false, Ordering::Relaxed);
    };
    let (welcome, ()) = tokio::join!(connect, read);
    assert!(welcome.unwrap().resumed);
    let drained = drain.await.unwrap();
    assert_eq!((drained.moved, drained.left), (1, 0));
    tokio::time::sleep(Duration::from_secs(5)).await;
    alice.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_has_no_place_to_hear_that_its_node_is_drained_hears_it_later() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice] = members(&nodes, "r", [("alice", 0)]).await;
    for _ in 0..16 {
        let ping = client_frame::Body::Ping(v1::Ping::default());
        alice.send_unreliably(ping).unwrap();
    }
    let services = nodes[0].lab.services.clone();
    let drain = tokio::spawn(async move { services.drain(Duration::from_secs(5)).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut heard = Vec::new();
    while let Some(Outgoing::Reliable(frame)) = alice.next_frame().await {
        heard.push(frame.body.unwrap());
    }
    let is_told = |body: &server_frame::Body| matches!(body, server_frame::Body::GoAway(_));
    assert!(heard.iter().any(is_told), "{heard:?}");
    drain.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drained_nodes_devices_go_on_elsewhere_and_nobody_sees_it() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 1)];
    let [mut alice, mut bob] = members(&nodes, "r", users).await;
    let services = nodes[0].lab.services.clone();
    let mut changes = services.changes();
    let drain = tokio::spawn(async move { services.drain(Duration::from_secs(30)).await });
    bob.send(message("r", &[], b"one")).unwrap();
    let mut heard = Vec::new();
    while let Some(Outgoing::Reliable(frame)) = alice.next_frame().await {
        match frame.body {
            Some(server_frame::Body::GoAway(_)) => break,
            Some(server_frame::Body::Delivery(delivery)) => heard.push(delivery.payload),
            other => panic!("alice hears {other:?}"),
        }
    }
    let old = alice.connection.take();
    assert!(alice.connect(&nodes[1].lab).await.unwrap().resumed);
    drop(old);
    let drained = drain.await.unwrap();
    assert_eq!((drained.moved, drained.left), (1, 0));
    let told = next_session_change(&mut changes).unwrap();
    assert_eq!(told.event, SessionEvent::Moved);
    bob.send(message("r", &[], b"two")).unwrap();
    while heard.len() < 2 {
        heard.push(alice.next_delivery().await.1);
    }
    assert_eq!(heard, ["one", "two"]);
    bob.hears_all = true;
    bob.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_cut_off_while_its_session_leaves_a_drained_node_finds_it_elsewhere() {
    for (begins_anew, back) in [(false, 2), (true, 2), (true, 0)] {
        let (mut nodes, local) = cluster::<3>().await;
        let users = [("alice", 0), ("bob", 1)];
        let [mut alice, mut bob] = members(&nodes, "r", users).await;
        let services = nodes[0].lab.services.clone();
        let drain = tokio::spawn(async move { services.drain(Duration::from_secs(30)).await });
        assert!(matches!(alice.next().await, server_frame::Body::GoAway(_)));
        // It is welcome on the other node, and does not hear it.
        drop(nodes[1].lab.attach(alice.hello()).await.unwrap());
        alice.connection = None;
        let drained = drain.await.unwrap();
        assert_eq!((drained.moved, drained.left), (1, 0));
        nodes[0].lab.services.kill();
        bob.send(message("r", &[], b"meanwhile")).unwrap();
        if begins_anew {
            nodes[0] = start_with(&local, 0, |_| {});
        }
        tokio::time::sleep(Duration::from_secs(5)).await;

        let welcome = alice.connect(&nodes[back].lab).await.unwrap();
        assert!(welcome.resumed, "{begins_anew} {back}");
        assert_eq!(alice.next_delivery().await.1, "meanwhile");
        for expected in ["?alice", "!alice"] {
            assert_eq!(bob.next_event().await, expected);
        }
        bob.is_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_are_asked_for_a_lost_session_together_do_not_wait_for_each_other() {
    let (nodes, _) = cluster::<3>().await;
    let [mut alice] = members(&nodes, "r", [("alice", 0)]).await;
    nodes[0].lab.services.kill();
    alice.connection = None;
    let hellos = [alice.hello(), alice.hello()];
    let [one, other] = hellos;
    let died = tokio::time::Instant::now();
    let welcome = tokio::join!(nodes[1].lab.attach(one), nodes[2].lab.attach(other));
    assert!(welcome.0.is_ok() && welcome.1.is_ok());
    assert!(died.elapsed() < Duration::from_secs(2));
}

/// Has the device say something once it is connected.
pub(crate) fn push(device: &mut Device, body: client_frame::Body) {
    let frame = ClientFrame {
        body: Some(body),
        ..Default::default()
    };
    device.outbox.push(frame).unwrap();
}

/// How many sessions each node gave away, and took.
fn moves(nodes: &[Member]) -> Vec<(u64, u64)> {
    let cluster = nodes.iter().map(|node| node.lab.services.stats().cluster);
    cluster
        .map(|stats| (stats.sessions_given, stats.sessions_taken))
        .collect()
}

pub(crate) fn refusals(node: &Member, reason: &str) -> u64 {
    let refused = node.lab.services.stats().resumes_refused;
    refused.get(reason).copied().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_session_does_not_come_to_a_node_that_was_put_out_while_it_was_on_its_way() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, _bob] = members(&nodes, "r", [("alice", 0), ("bob", 0)]).await;
    alice.connection = None;
    // The last piece waits in its socket: what is forwarded to this life of the node meanwhile is lost with it.
    nodes[1].wire.unread_ms.store(3_000, Ordering::Relaxed);
    let asked = nodes[1].lab.attach(alice.hello());
    let waited = tokio::time::timeout(Duration::from_secs(1), asked).await;
    assert!(waited.is_err());
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(moves(&nodes)[0], (1, 0));
    nodes[1].wire.is_hoarse.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(nodes[1].lab.services.stats().cluster.fenced, 1);
    nodes[1].wire.is_hoarse.store(false, Ordering::Relaxed);
    nodes[1].wire.unread_ms.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(moves(&nodes), [(1, 0), (0, 0)]);
    assert_eq!(nodes[1].lab.services.stats().sessions, 0);
    assert!(!alice.connect(&nodes[1].lab).await.unwrap().resumed);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_goes_from_node_to_node_too_often_is_refused_for_a_while() {
    let local = Local::new(LocalConfig::default());
    let nodes = [0, 1].map(|number| start_with(&local, number, |config| config.moves.burst = 2));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let [mut alice] = members(&nodes, "r", [("alice", 0)]).await;
    for turn in 1..=4 {
        alice.connection = None;
        let welcome = alice.connect(&nodes[turn % 2].lab).await.unwrap();
        assert!(welcome.resumed, "turn {turn}");
    }
    alice.connection = None;
    let refused = alice.connect(&nodes[1].lab).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Limit);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(alice.connect(&nodes[1].lab).await.unwrap().resumed);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_not_given_to_a_life_of_a_node_that_is_over() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 0)]).await;
    alice.connection = None;
    // It was offered the session, stands still, and does not know yet that it is put out.
    nodes[1].wire.unread_ms.store(3_000, Ordering::Relaxed);
    let asked = nodes[1].lab.attach(alice.hello());
    let waited = tokio::time::timeout(Duration::from_millis(100), asked).await;
    assert!(waited.is_err());
    nodes[1].wire.is_blind.store(true, Ordering::Relaxed);
    nodes[1].wire.cut(true);
    tokio::time::sleep(Duration::from_millis(2_895)).await;
    nodes[1].wire.cut(false);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(moves(&nodes), [(0, 0), (0, 0)]);
    bob.send(message("r", &["alice"], b"kept")).unwrap();
    assert!(alice.connect(&nodes[0].lab).await.unwrap().resumed);
    assert_eq!(alice.next_delivery().await.1, "kept");
}
