use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use tombolo_wire::v1::{
    self, Address, Candidate, CandidateKind, ErrorCode, Introduction, client_frame, server_frame,
};
use tombolo_wire::{CANDIDATES_MAX, EARLY_BYTES_MAX};

use crate::lab::{Device, Lab, message};

#[tokio::test(start_paused = true)]
async fn an_introduction_carries_the_senders_true_keys() {
    let lab = Lab::new();
    let [mut alice, mut bob, mut carol] = lab.members("r", ["alice", "bob", "carol"]).await;
    let mut forged = introduction();
    forged.keys = Some(carol.keys.clone());
    forged.early = "first".into();
    introduce(&mut alice, "r", "bob", Some(forged.clone()));

    let server_frame::Body::Introduced(introduced) = bob.next().await else {
        panic!("bob gets the introduction");
    };
    assert_eq!(
        (introduced.room.as_str(), introduced.from.as_str()),
        ("r", "alice")
    );
    let genuine = Introduction {
        keys: Some(alice.keys.clone()),
        ..forged
    };
    assert_eq!(introduced.introduction, Some(genuine));
    carol.is_quiet().await;
    alice.is_quiet().await;
    assert_eq!(lab.services.stats().introduced, 1);
}

#[tokio::test(start_paused = true)]
async fn the_relay_lets_both_through_before_the_introduction_arrives() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let mut sent = introduction();
    sent.candidates = vec![
        candidate(CandidateKind::Host, "10.0.0.1:1"),
        candidate(CandidateKind::Relayed, "198.51.100.7:50000"),
        candidate(CandidateKind::ServerReflexive, "192.0.2.9:2"),
    ];
    introduce(&mut alice, "r", "bob", Some(sent));

    // Nobody has asked bob's connection for frames yet. What alice calls a relay is none: the node's
    // own is all that either lets in.
    let own: Vec<IpAddr> = vec!["203.0.113.1".parse().unwrap()];
    let expected = [("bob".to_owned(), own.clone()), ("alice".to_owned(), own)];
    assert_eq!(*lab.relay.permits.lock().unwrap(), expected);
    assert!(matches!(
        bob.next().await,
        server_frame::Body::Introduced(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn only_members_of_the_room_are_introduced_to_each_other() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let [mut carol] = lab.members("s", ["carol"]).await;
    let table = [
        ("r", "carol", ErrorCode::NoSuchMember),
        ("r", "nobody", ErrorCode::NoSuchMember),
        ("r", "alice", ErrorCode::NoSuchMember),
        ("s", "carol", ErrorCode::NotAMember),
        ("none", "bob", ErrorCode::NotAMember),
        ("r/", "bob", ErrorCode::BadName),
        ("r", "b b", ErrorCode::BadName),
    ];
    for (room, to, code) in table {
        introduce(&mut alice, room, to, Some(introduction()));
        assert_eq!(
            alice.next_refused().await,
            (alice.outbox.last(), code),
            "{room} {to}"
        );
    }
    bob.is_quiet().await;
    carol.is_quiet().await;
    assert!(lab.relay.permits.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn introductions_to_a_full_room_pass_at_once_and_a_flood_does_not() {
    let lab = Lab::with(|config| {
        config.introductions.per_second = 10;
        config.introductions.burst = 63;
    });
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    for _ in 0..70 {
        introduce(&mut alice, "r", "bob", Some(introduction()));
    }
    for _ in 63..70 {
        assert_eq!(alice.next_refused().await.1, ErrorCode::Limit);
    }
    // Messages have a bucket of their own.
    alice.send(message("r", &["bob"], b"all the same")).unwrap();
    for _ in 0..63 {
        let body = bob.next().await;
        assert!(matches!(body, server_frame::Body::Introduced(_)));
    }
    assert_eq!(bob.next_delivery().await.1, "all the same");
    assert_eq!(lab.relay.permits.lock().unwrap().len(), 2 * 63);

    tokio::time::sleep(Duration::from_secs(1)).await;
    introduce(&mut alice, "r", "bob", Some(introduction()));
    let body = bob.next().await;
    assert!(matches!(body, server_frame::Body::Introduced(_)));
}

#[tokio::test(start_paused = true)]
async fn an_introduction_to_a_device_that_is_behind_is_refused() {
    let lab = Lab::with(|config| config.outbox.frames_max = 20);
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let before = bob.inbox.received();
    for number in before..10 + 5 {
        introduce(&mut alice, "r", "bob", Some(introduction()));
        if number >= 10 {
            assert_eq!(alice.next_refused().await.1, ErrorCode::Limit);
        }
    }
    assert_eq!(lab.services.stats().introduced, 10 - before);
    bob.drain().await;
    assert!(bob.connection.is_some());
    assert_eq!(lab.services.stats().sessions, 2);
}

#[tokio::test(start_paused = true)]
async fn an_introduction_that_is_not_in_order_is_refused() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let changed = |change: &dyn Fn(&mut Introduction)| {
        let mut introduction = introduction();
        change(&mut introduction);
        Some(introduction)
    };
    let bad_address = Address {
        ip: Bytes::from_static(&[1, 2, 3]),
        port: 1,
    };
    let bad = Candidate {
        address: Some(bad_address),
        ..Candidate::default()
    };
    let good = candidate(CandidateKind::Host, "10.0.0.1:1");
    let table = [
        (None, ErrorCode::BadFrame),
        (changed(&|it| it.attempt = 0), ErrorCode::BadFrame),
        (
            changed(&|it| it.candidates = vec![Candidate::default()]),
            ErrorCode::BadFrame,
        ),
        (
            changed(&|it| it.candidates = vec![bad.clone()]),
            ErrorCode::BadFrame,
        ),
        (
            changed(&|it| it.candidates = vec![good.clone(); CANDIDATES_MAX + 1]),
            ErrorCode::Limit,
        ),
        (
            changed(&|it| it.early = vec![0; EARLY_BYTES_MAX + 1].into()),
            ErrorCode::TooLarge,
        ),
        (
            changed(&|it| it.ufrag = "u".repeat(257)),
            ErrorCode::TooLarge,
        ),
        (
            changed(&|it| it.password = "p".repeat(257)),
            ErrorCode::TooLarge,
        ),
    ];
    for (number, (introduction, code)) in table.into_iter().enumerate() {
        introduce(&mut alice, "r", "bob", introduction);
        assert_eq!(
            alice.next_refused().await,
            (alice.outbox.last(), code),
            "row {number}"
        );
    }
    bob.is_quiet().await;
}

fn introduce(device: &mut Device, room: &str, to: &str, introduction: Option<Introduction>) {
    let introduce = v1::Introduce {
        room: room.into(),
        to: to.into(),
        introduction,
        ..v1::Introduce::default()
    };
    device
        .send(client_frame::Body::Introduce(introduce))
        .unwrap();
}

fn introduction() -> Introduction {
    Introduction {
        attempt: 7,
        ufrag: "ufrag".into(),
        password: "password".into(),
        candidates: vec![candidate(CandidateKind::Host, "10.0.0.1:1")],
        ..Introduction::default()
    }
}

fn candidate(kind: CandidateKind, address: &str) -> Candidate {
    let address = Address::from(address.parse::<std::net::SocketAddr>().unwrap());
    Candidate {
        kind: kind.into(),
        address: Some(address),
        priority: 1,
    }
}
