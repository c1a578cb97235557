use std::time::Duration;

use tombolo_services::Outgoing;
use tombolo_wire::v1::{self, ErrorCode, JoinMode, client_frame, server_frame};
use tombolo_wire::{RECIPIENTS_MAX, RELIABLE_BYTES_MAX, UNRELIABLE_BYTES_MAX};

use crate::lab::{Lab, message};

#[tokio::test(start_paused = true)]
async fn a_broadcast_reaches_every_other_member_and_a_targeted_message_only_its_targets() {
    let lab = Lab::new();
    let [mut alice, mut bob, mut carol] = lab.members("r", ["alice", "bob", "carol"]).await;
    let mut stranger = lab.device("stranger").await;
    stranger.join("other", JoinMode::Create).await.unwrap();

    alice.send(message("r", &[], b"to all")).unwrap();
    alice
        .send(message("r", &["carol", "carol"], b"to carol"))
        .unwrap();
    assert_eq!(
        bob.next_delivery().await,
        ("alice".to_owned(), "to all".into())
    );
    assert_eq!(
        carol.next_delivery().await,
        ("alice".to_owned(), "to all".into())
    );
    assert_eq!(
        carol.next_delivery().await,
        ("alice".to_owned(), "to carol".into())
    );
    for device in [&mut alice, &mut bob, &mut carol, &mut stranger] {
        device.is_quiet().await;
    }
    assert_eq!(lab.services.stats().delivered, 3);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_there_when_the_call_that_brought_it_returns() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let before = tokio::time::Instant::now();
    alice.send(message("r", &[], b"now")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "now");
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn messages_of_one_sender_come_in_order() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    for number in 0..100_u8 {
        alice.send(message("r", &[], &[number])).unwrap();
    }
    for number in 0..100_u8 {
        assert_eq!(bob.next_delivery().await.1[..], [number]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_sent_again_is_carried_out_once() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    alice.send(message("r", &[], b"once")).unwrap();
    alice.outbox.rewind();
    alice.transmit().unwrap();
    assert_eq!(bob.next_delivery().await.1, "once");
    bob.is_quiet().await;
    alice.is_quiet().await;
    assert!(alice.outbox.is_empty(), "the repetition is acknowledged");
}

#[tokio::test(start_paused = true)]
async fn unreliable_messages_stay_unreliable() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    alice
        .send_unreliably(message("r", &["bob"], b"position"))
        .unwrap();
    let server_frame::Body::Delivery(delivery) = bob.next_unreliable().await else {
        panic!("bob gets the message");
    };
    assert_eq!(
        (delivery.from.as_str(), &delivery.payload[..]),
        ("alice", &b"position"[..])
    );

    // What comes while bob is away is not kept for him.
    bob.connection = None;
    alice
        .send_unreliably(message("r", &["bob"], b"gone"))
        .unwrap();
    alice.send(message("r", &["bob"], b"kept")).unwrap();
    assert!(bob.connect(&lab).await.unwrap().resumed);
    assert_eq!(bob.next_delivery().await.1, "kept");
    bob.is_quiet().await;
    assert_eq!(lab.services.stats().dropped, 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_connection_loses_old_unreliable_messages_and_they_are_counted() {
    let lab = Lab::with(|config| config.unreliable_queue_max = 10);
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    for number in 0..100_u8 {
        alice.send_unreliably(message("r", &[], &[number])).unwrap();
    }
    // They share a datagram.
    let server_frame::Body::Delivery(first) = bob.next_unreliable().await else {
        panic!("bob gets the newest messages");
    };
    let heard = std::iter::once(&first).chain(&first.more);
    let heard: Vec<_> = heard.map(|delivery| delivery.payload[0]).collect();
    assert_eq!(heard, (90..100).collect::<Vec<_>>());
    bob.is_quiet().await;
    assert_eq!(lab.services.stats().dropped, 90);
}

#[tokio::test(start_paused = true)]
async fn neither_kind_of_message_starves_the_other() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    for number in 0..50_u8 {
        alice.send(message("r", &[], &[number])).unwrap();
        // So large that each has a datagram of its own.
        let payload = [number; 1000];
        alice.send_unreliably(message("r", &[], &payload)).unwrap();
    }
    let mut reliable = 0;
    for _ in 0..50 {
        reliable += usize::from(matches!(
            bob.next_frame().await,
            Some(Outgoing::Reliable(_))
        ));
    }
    assert!(
        (20..=30).contains(&reliable),
        "{reliable} of the first 50 are reliable"
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_carried_out_is_refused_by_its_number() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let mut refused = async |body, code| {
        alice.send(body).unwrap();
        assert_eq!(alice.next_refused().await, (alice.outbox.last(), code));
    };
    let large = vec![0; RELIABLE_BYTES_MAX + 1];
    refused(message("r", &[], &large), ErrorCode::TooLarge).await;
    refused(message("other", &[], b"x"), ErrorCode::NotAMember).await;
    refused(message("b/d", &[], b"x"), ErrorCode::BadName).await;
    refused(message("r", &["b d"], b"x"), ErrorCode::BadName).await;
    refused(message("r", &["nobody"], b"x"), ErrorCode::NoSuchMember).await;
    let many = vec!["bob"; RECIPIENTS_MAX + 1];
    refused(message("r", &many, b"x"), ErrorCode::Limit).await;
    bob.is_quiet().await;

    // Who is there gets it all the same.
    refused(
        message("r", &["bob", "nobody"], b"y"),
        ErrorCode::NoSuchMember,
    )
    .await;
    assert_eq!(bob.next_delivery().await.1, "y");
    alice.send(message("r", &[], &large[1..])).unwrap();
    assert_eq!(bob.next_delivery().await.1.len(), RELIABLE_BYTES_MAX);
    assert_eq!(lab.refused(ErrorCode::NoSuchMember), 2);
    assert_eq!(lab.refused(ErrorCode::TooLarge), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unreliable_message_that_is_too_large_is_refused_unreliably() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let large = vec![0; UNRELIABLE_BYTES_MAX + 1];
    alice.send_unreliably(message("r", &[], &large)).unwrap();
    let server_frame::Body::Refused(refused) = alice.next_unreliable().await else {
        panic!("alice is told");
    };
    assert_eq!((refused.seq, refused.code()), (0, ErrorCode::TooLarge));
    bob.is_quiet().await;
    alice
        .send_unreliably(message("r", &[], &large[1..]))
        .unwrap();
    bob.next_unreliable().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_sends_too_much_is_refused_until_time_has_passed() {
    let lab = Lab::with(|config| {
        config.rate.frames_per_second = 10;
        config.rate.frames_burst = 20;
    });
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    for _ in 0..25 {
        alice.send(message("r", &[], b"x")).unwrap();
    }
    for _ in 0..5 {
        assert_eq!(alice.next_refused().await.1, ErrorCode::Limit);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    alice.send(message("r", &[], b"later")).unwrap();
    alice.is_quiet().await;
    for _ in 0..20 {
        bob.next_delivery().await;
    }
    assert_eq!(bob.next_delivery().await.1, "later");
}

#[tokio::test(start_paused = true)]
async fn nobody_ends_the_session_of_a_member_that_is_behind_by_sending_to_it() {
    let lab = Lab::with(|config| config.outbox.frames_max = 50);
    let [mut alice, mut bob, mut carol] = lab.members("r", ["alice", "bob", "carol"]).await;
    // Bob takes no notice of anything, carol of all.
    let bobs = 25 - bob.inbox.received();
    for number in 0..40_u64 {
        alice.send(message("r", &[], b"x")).unwrap();
        assert_eq!(carol.next_delivery().await.1, "x");
        carol.send(acknowledge()).unwrap();
        if number >= bobs {
            let server_frame::Body::Refused(refused) = alice.next().await else {
                panic!("alice is told");
            };
            assert_eq!(refused.seq, alice.outbox.last());
            assert_eq!(refused.code(), ErrorCode::Limit);
            assert!(refused.message.contains("bob"), "{}", refused.message);
        }
    }
    assert_eq!(lab.services.stats().delivered, 40 + bobs);

    // What the node itself says still gets through, and so does everything once bob is back.
    let mut dave = lab.device("dave").await;
    dave.join("r", JoinMode::Join).await.unwrap();
    for _ in 0..bobs {
        assert_eq!(bob.next_delivery().await.1, "x");
    }
    assert_eq!(bob.next_event().await, "+dave");
    bob.send(acknowledge()).unwrap();
    alice.drain().await;
    alice.send(message("r", &["bob"], b"again")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "again");
    alice.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_takes_none_of_its_answers_is_disconnected_and_leaves() {
    let lab = Lab::with(|config| config.outbox.frames_max = 50);
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let unknown = v1::Request { id: 1, kind: None };
    let mut asked = 0;
    while bob
        .send(client_frame::Body::Request(unknown.clone()))
        .is_ok()
    {
        asked += 1;
        assert!(asked <= 51);
    }
    assert_eq!(bob.next_close().await, Some(ErrorCode::Limit));
    assert_eq!(alice.next_event().await, "-bob disconnected");
    assert!(!bob.connect(&lab).await.unwrap().resumed);
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_counts_as_often_as_it_is_handed_over() {
    let lab = Lab::with(|config| {
        config.deliveries.frames_per_second = 2;
        config.deliveries.frames_burst = 10;
        config.deliveries.bytes_per_second = 100;
        config.deliveries.bytes_burst = 1_000;
    });
    let [mut alice, mut bob, mut carol] = lab.members("r", ["alice", "bob", "carol"]).await;
    for number in 0..7 {
        alice.send(message("r", &[], b"x")).unwrap();
        if number >= 5 {
            assert_eq!(alice.next_refused().await.1, ErrorCode::Limit);
        }
    }
    for device in [&mut bob, &mut carol] {
        for _ in 0..5 {
            device.next_delivery().await;
        }
        device.is_quiet().await;
    }

    tokio::time::sleep(Duration::from_secs(100)).await;
    alice.send(message("r", &["bob"], &[0; 600])).unwrap();
    alice.send(message("r", &[], &[0; 201])).unwrap();
    assert_eq!(alice.next_refused().await.1, ErrorCode::Limit);
    alice.send(message("r", &[], &[0; 200])).unwrap();
    alice.is_quiet().await;
    assert_eq!(lab.services.stats().delivered, 10 + 1 + 2);
}

fn acknowledge() -> client_frame::Body {
    client_frame::Body::Acknowledge(v1::Ack {})
}
