//! Links between two devices.

use bytes::Bytes;
use futures_util::FutureExt;
use tombolo_client::{Lane, LinkState, Policy, RELIABLE_BYTES_MAX, RoomOptions, SendError, Via};

use crate::lab::{Pair, device, incoming, joined, met, node, reach, recv, soon, user};
use crate::script::{Script, enter};

fn with_policy(policy: Policy) -> RoomOptions {
    RoomOptions {
        policy,
        ..RoomOptions::default()
    }
}

#[tokio::test]
async fn two_devices_talk_on_every_lane() {
    let node = node().await;
    let pair = Pair::new(&node, RoomOptions::default()).await;
    for lane in [Lane::Unreliable, Lane::Reliable, Lane::ReliableUnordered] {
        pair.to_bob.send(lane, "ping").unwrap();
        let message = recv(&pair.to_alice).await;
        assert_eq!((message.lane, message.payload), (lane, Bytes::from("ping")));
        pair.to_alice.send(lane, "pong").unwrap();
        let message = recv(&pair.to_bob).await;
        assert_eq!((message.lane, message.payload), (lane, Bytes::from("pong")));
    }
    reach(&pair.to_bob, LinkState::Direct).await;
    node.shutdown().await;
}

#[tokio::test]
async fn first_messages_of_both_ends_cross_and_arrive_before_later_ones() {
    let node = node().await;
    let (alice, bob) = (device(&node, "a").await, device(&node, "b").await);
    let alice_room = alice
        .rooms()
        .join_or_create("x", RoomOptions::default())
        .await
        .unwrap();
    let bob_room = bob
        .rooms()
        .join_or_create("x", RoomOptions::default())
        .await
        .unwrap();
    let link = |room: &tombolo_client::Room, to: &str| {
        let builder = room.peer(&user(to)).first_message(Lane::Reliable, "1");
        let peer = builder.first_message(Lane::Reliable, "2").open().unwrap();
        peer.send(Lane::Reliable, "3").unwrap();
        peer
    };
    // Both begin at the same time: one link comes of it.
    let (to_bob, to_alice) = (link(&alice_room, "b"), link(&bob_room, "a"));
    for peer in [&to_bob, &to_alice] {
        for expected in ["1", "2", "3"] {
            assert_eq!(recv(peer).await.payload, expected);
        }
    }
    node.shutdown().await;
}

#[tokio::test]
async fn long_messages_arrive_whole_and_longer_ones_are_refused_with_the_limit() {
    let node = node().await;
    let pair = Pair::new(&node, RoomOptions::default()).await;
    let longest: Bytes = (0..RELIABLE_BYTES_MAX)
        .map(|i| (i % 251) as u8)
        .collect::<Vec<_>>()
        .into();
    for lane in [Lane::Reliable, Lane::ReliableUnordered] {
        pair.to_bob.send(lane, longest.clone()).unwrap();
        assert_eq!(recv(&pair.to_alice).await.payload, longest);
        let over = pair.to_bob.send(lane, vec![0; RELIABLE_BYTES_MAX + 1]);
        let expected = SendError::TooLarge {
            bytes: RELIABLE_BYTES_MAX + 1,
            bytes_max: RELIABLE_BYTES_MAX,
        };
        assert_eq!(over, Err(expected));
    }
    let limit = pair.to_bob.unreliable_max();
    pair.to_bob.send(Lane::Unreliable, vec![7; limit]).unwrap();
    assert_eq!(recv(&pair.to_alice).await.payload.len(), limit);
    let over = pair.to_bob.send(Lane::Unreliable, vec![7; limit + 1]);
    assert_eq!(
        over,
        Err(SendError::TooLarge {
            bytes: limit + 1,
            bytes_max: limit
        })
    );
    let text = over.unwrap_err().to_string();
    assert!(
        text.contains(&limit.to_string()),
        "the error says the limit: {text}"
    );
    node.shutdown().await;
}

#[tokio::test]
async fn the_relay_takes_over_when_the_direct_path_dies_and_nothing_is_lost() {
    const MESSAGES: u32 = 400;
    let node = node().await;
    let pair = Pair::new(&node, RoomOptions::default()).await;
    reach(&pair.to_bob, LinkState::Direct).await;
    reach(&pair.to_alice, LinkState::Direct).await;

    let sending = async {
        for number in 0..MESSAGES {
            for peer in [&pair.to_bob, &pair.to_alice] {
                peer.send_when_ready(Lane::Reliable, number.to_be_bytes().to_vec())
                    .await
                    .unwrap();
            }
            if number == MESSAGES / 4 {
                pair.alice.block_direct(true);
                reach(&pair.to_bob, LinkState::Relayed).await;
            }
            if number == MESSAGES / 2 {
                pair.alice.block_direct(false);
                reach(&pair.to_bob, LinkState::Direct).await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let receiving = |peer: tombolo_client::Peer| async move {
        let mut ways = Vec::new();
        for number in 0..MESSAGES {
            let message = recv(&peer).await;
            assert_eq!(
                message.payload,
                number.to_be_bytes().as_slice(),
                "in order, none twice"
            );
            if ways.last() != Some(&message.via) {
                ways.push(message.via);
            }
        }
        ways
    };
    let (_, bob_heard, alice_heard) = tokio::join!(
        sending,
        receiving(pair.to_alice.clone()),
        receiving(pair.to_bob.clone())
    );
    for ways in [bob_heard, alice_heard] {
        assert!(
            ways.contains(&Via::Relay),
            "the relay carried some: {ways:?}"
        );
        assert_eq!(
            ways.last(),
            Some(&Via::Direct),
            "and the direct path the last: {ways:?}"
        );
    }
    node.shutdown().await;
}

#[tokio::test]
async fn relay_only_links_tell_no_address_and_never_go_direct() {
    let node = node().await;
    let pair = Pair::new(&node, with_policy(Policy::Relay)).await;
    for number in 0..50u8 {
        pair.to_bob.send(Lane::Reliable, vec![number]).unwrap();
        assert_eq!(recv(&pair.to_alice).await.via, Via::Relay);
    }
    assert_eq!(pair.to_bob.status().state, LinkState::Relayed);
    let explanation = pair.to_bob.explain().unwrap();
    assert_eq!(
        explanation.verdict,
        tombolo_client::Verdict::RelayedByPolicy
    );
    assert!(
        explanation.pairs.is_empty(),
        "bob told no address: {explanation:?}"
    );
    node.shutdown().await;
}

#[tokio::test]
async fn direct_only_links_work_without_the_relay() {
    let node = node().await;
    let pair = Pair::new(&node, with_policy(Policy::Direct)).await;
    for number in 0..50u8 {
        pair.to_bob.send(Lane::Reliable, vec![number]).unwrap();
        assert_eq!(recv(&pair.to_alice).await.via, Via::Direct);
    }
    node.shutdown().await;
}

#[tokio::test]
async fn a_link_outlives_the_node() {
    let node = node().await;
    let pair = Pair::new(&node, RoomOptions::default()).await;
    reach(&pair.to_bob, LinkState::Direct).await;
    reach(&pair.to_alice, LinkState::Direct).await;
    node.shutdown().await;
    for number in 0..20u8 {
        pair.to_bob.send(Lane::Reliable, vec![number]).unwrap();
        assert_eq!(recv(&pair.to_alice).await.payload, vec![number]);
    }
}

#[tokio::test]
async fn closing_a_link_delivers_what_was_sent_and_tells_the_peer() {
    let node = node().await;
    let pair = Pair::new(&node, RoomOptions::default()).await;
    for number in 0..100u8 {
        pair.to_bob
            .send(Lane::Reliable, vec![number; 1000])
            .unwrap();
    }
    pair.to_bob.close();
    for number in 0..100u8 {
        assert_eq!(recv(&pair.to_alice).await.payload[0], number);
    }
    reach(&pair.to_alice, LinkState::Lost).await;
    assert_eq!(soon(pair.to_alice.recv()).await, None);
    assert_eq!(
        pair.to_bob.send(Lane::Reliable, "late"),
        Err(SendError::Closed)
    );
    node.shutdown().await;
}

#[tokio::test]
async fn a_link_that_is_opened_right_after_another_was_closed_lets_that_one_deliver_first() {
    let node = node().await;
    let mut pair = Pair::new(&node, RoomOptions::default()).await;
    for number in 0..100u8 {
        let payload = vec![number; 100_000];
        let sent = pair.to_bob.send_when_ready(Lane::Reliable, payload);
        sent.await.unwrap();
    }
    pair.to_bob.close();
    let again = pair.alice_room.peer(&user("bob"));
    let again = again.first_message(Lane::Reliable, "again");
    let again = again.open().unwrap();
    for number in 0..100u8 {
        assert_eq!(recv(&pair.to_alice).await.payload[0], number);
    }
    assert_eq!(soon(pair.to_alice.recv()).await, None);
    let to_alice = soon(incoming(&mut pair.bob_room)).await;
    assert_eq!(recv(&to_alice).await.payload, "again");
    soon(again.ready()).await.unwrap();
    node.shutdown().await;
}

#[tokio::test]
async fn first_messages_of_a_link_that_exists_are_all_sent_or_none() {
    let node = node().await;
    let pair = Pair::new(&node, RoomOptions::default()).await;
    let link = pair.alice_room.peer(&user("bob"));
    let link = link.first_message(Lane::Reliable, "one");
    let link = link.first_message(Lane::Reliable, vec![0; RELIABLE_BYTES_MAX + 1]);
    link.open().unwrap_err();
    let link = pair.alice_room.peer(&user("bob"));
    let link = link.first_message(Lane::Reliable, "two");
    let link = link.first_message(Lane::Reliable, "three");
    assert_eq!(link.open().unwrap(), pair.to_bob);
    for expected in ["two", "three"] {
        assert_eq!(recv(&pair.to_alice).await.payload, expected);
    }
    node.shutdown().await;
}

#[tokio::test]
async fn a_member_that_comes_back_gets_a_new_link() {
    let node = node().await;
    let Pair {
        alice_room,
        mut bob_room,
        to_bob,
        to_alice,
        alice,
        ..
    } = Pair::new(&node, RoomOptions::default()).await;
    drop((alice_room, to_bob));
    soon(alice.close()).await;
    reach(&to_alice, LinkState::Lost).await;

    let alice = device(&node, "alice").await;
    let room = alice
        .rooms()
        .join_or_create("pair", RoomOptions::default())
        .await
        .unwrap();
    let to_bob = soon(room.peer(&user("bob")).connect()).await.unwrap();
    let to_alice = soon(incoming(&mut bob_room)).await;
    to_bob.send(Lane::Reliable, "again").unwrap();
    assert_eq!(recv(&to_alice).await.payload, "again");
    node.shutdown().await;
}

#[tokio::test]
async fn a_member_that_does_not_exist_cannot_be_reached() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let room = alice
        .rooms()
        .join_or_create("alone", RoomOptions::default())
        .await
        .unwrap();
    assert!(
        room.peer(&user("alice")).open().is_err(),
        "a device has no link to itself"
    );
    let error = soon(room.peer(&user("nobody")).connect())
        .await
        .unwrap_err();
    assert!(
        error.is_closed() && error.to_string().contains("not in room"),
        "{error}"
    );
    node.shutdown().await;
}

#[tokio::test]
async fn more_first_messages_than_an_introduction_takes_go_over_the_link() {
    let node = node().await;
    let (_devices, [alice_room, mut bob_room]) = met(&node).await;
    let mut link = alice_room.peer(&user("bob"));
    for number in 0..100u8 {
        link = link.first_message(Lane::Reliable, vec![number]);
    }
    let _to_bob = link.open().unwrap();
    let to_alice = soon(incoming(&mut bob_room)).await;
    for number in 0..100u8 {
        assert_eq!(recv(&to_alice).await.payload, vec![number]);
    }
    node.shutdown().await;
}

#[tokio::test]
async fn a_link_that_is_over_takes_nothing_more_however_many_first_messages_it_had() {
    for first_messages in [1, 100] {
        let node = node().await;
        let (_devices, [alice_room, mut bob_room]) = met(&node).await;
        let mut link = alice_room.peer(&user("bob"));
        for _ in 0..first_messages {
            link = link.first_message(Lane::Reliable, "first");
        }
        let to_bob = link.open().unwrap();
        let to_alice = soon(incoming(&mut bob_room)).await;
        soon(to_bob.ready()).await.unwrap();
        to_alice.close();
        soon(to_bob.closed()).await;
        let late = to_bob.send(Lane::Reliable, "late");
        assert_eq!(late, Err(SendError::Closed));
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_link_that_is_let_go_at_once_still_delivers() {
    let node = node().await;
    let (_devices, [alice_room, mut bob_room]) = met(&node).await;
    let to_bob = alice_room.peer(&user("bob")).open().unwrap();
    to_bob.send(Lane::Reliable, "a word in passing").unwrap();
    drop(to_bob);
    let to_alice = soon(incoming(&mut bob_room)).await;
    assert_eq!(recv(&to_alice).await.payload, "a word in passing");
    reach(&to_alice, LinkState::Lost).await;
    node.shutdown().await;
}

#[tokio::test]
async fn what_has_arrived_is_read_even_after_the_link_is_over() {
    // More than the application's queue holds, so that the rest waits inside QUIC.
    const MESSAGES: u16 = 3000;
    let node = node().await;
    let pair = Pair::new(&node, RoomOptions::default()).await;
    for number in 0..MESSAGES {
        let payload = number.to_be_bytes().to_vec();
        pair.to_bob
            .send_when_ready(Lane::Reliable, payload)
            .await
            .unwrap();
    }
    pair.to_bob.close();
    soon(pair.to_bob.closed()).await;
    for number in 0..MESSAGES {
        assert_eq!(
            recv(&pair.to_alice).await.payload,
            number.to_be_bytes().as_slice()
        );
    }
    assert_eq!(soon(pair.to_alice.recv()).await, None);
    node.shutdown().await;
}

#[tokio::test]
async fn first_messages_over_the_limit_are_refused() {
    let node = node().await;
    let pair = Pair::new(&node, RoomOptions::default()).await;
    let carol = device(&node, "carol").await;
    let _room = carol
        .rooms()
        .join("pair", RoomOptions::default())
        .await
        .unwrap();
    soon(joined(&pair.alice_room, "carol")).await;
    let too_long = vec![0; RELIABLE_BYTES_MAX + 1];
    let link = pair
        .alice_room
        .peer(&user("carol"))
        .first_message(Lane::Reliable, too_long);
    let error = link.open().unwrap_err();
    assert!(
        error.to_string().contains(&RELIABLE_BYTES_MAX.to_string()),
        "{error}"
    );
    node.shutdown().await;
}

#[tokio::test]
async fn two_devices_have_one_link_in_however_many_rooms_they_meet() {
    let node = node().await;
    let pair = Pair::new(&node, RoomOptions::default()).await;
    let options = RoomOptions::default;
    let other = pair.alice.rooms().create("other", options()).await.unwrap();
    let _bob_other = pair.bob.rooms().join("other", options()).await.unwrap();
    soon(joined(&other, "bob")).await;
    let again = other
        .peer(&user("bob"))
        .first_message(Lane::Reliable, "again")
        .open()
        .unwrap();
    assert_eq!(recv(&pair.to_alice).await.payload, "again");
    drop((again, pair.to_bob));
    soon(pair.to_alice.closed()).await;
    node.shutdown().await;
}

#[tokio::test]
async fn what_is_unreliable_waits_too_while_the_queue_of_a_link_that_is_set_up_is_full() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "r", &["alice", "bob"]).await;
    let to_bob = room.peer(&user("bob")).open().unwrap();
    let refused = loop {
        if let Err(error) = to_bob.send(Lane::Unreliable, vec![7; 1000]) {
            break error;
        }
    };
    assert_eq!(refused, SendError::Full);
    let waiting = to_bob.send_when_ready(Lane::Unreliable, vec![7; 1000]);
    assert_eq!(waiting.now_or_never(), None);
}
