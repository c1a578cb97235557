use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tombolo_services::Outgoing;
use tombolo_wire::resend::{ACK_DELAY_MAX, ACK_FRAMES_MAX};
use tombolo_wire::token::KeySet;
use tombolo_wire::v1::{
    self, ClientFrame, ErrorCode, JoinMode, Ping, client_frame, request, response, server_frame,
};

use crate::lab::{Device, Lab, message, token, token_until};

#[tokio::test(start_paused = true)]
async fn a_welcome_says_who_and_where_one_is() {
    let lab = Lab::with(|config| config.node = "node-1".parse().unwrap());
    let mut alice = Device::new("alice");
    let welcome = alice.connect(&lab).await.unwrap();
    assert_eq!(
        (welcome.user.as_str(), welcome.node.as_str()),
        ("alice", "node-1")
    );
    assert_eq!(
        (welcome.session_id.len(), welcome.resume_token.len()),
        (16, 32 + "node-1".len())
    );
    assert_eq!((welcome.resumed, welcome.resume_window_ms), (false, 30_000));
    assert_eq!(welcome.ice_servers.unwrap().servers[0].username, "1:alice");
    assert_eq!(alice.connection().user().as_str(), "alice");
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_is_not_in_order_is_turned_away() {
    let lab = Lab::new();
    type Change = fn(&mut v1::Hello);
    let table: [(Change, ErrorCode); 7] = [
        (|hello| hello.version = 0, ErrorCode::Version),
        (|hello| hello.version = 2, ErrorCode::Version),
        (|hello| hello.token = String::new(), ErrorCode::TokenInvalid),
        (|hello| hello.token.push('x'), ErrorCode::TokenInvalid),
        (|hello| hello.keys = None, ErrorCode::BadFrame),
        (
            |hello| hello.keys = Some(v1::DeviceKeys::default()),
            ErrorCode::BadFrame,
        ),
        (
            |hello| hello.token = "a".repeat(10_000),
            ErrorCode::TokenInvalid,
        ),
    ];
    for (number, (change, code)) in table.into_iter().enumerate() {
        let mut frame = Device::new("alice").hello();
        let Some(client_frame::Body::Hello(hello)) = &mut frame.body else {
            unreachable!()
        };
        change(hello);
        let reject = lab.attach(frame).await.err().unwrap();
        assert_eq!(reject.code, code, "row {number}");
    }

    let mut repeatable = Device::new("alice").hello();
    repeatable.seq = 1;
    let ping = client_frame::Body::Ping(Ping { nonce: 1 });
    for frame in [
        repeatable,
        ClientFrame::default(),
        ClientFrame {
            body: Some(ping),
            ..ClientFrame::default()
        },
    ] {
        assert_eq!(
            lab.attach(frame).await.err().unwrap().code,
            ErrorCode::BadFrame
        );
    }
    assert_eq!(lab.refused(ErrorCode::BadFrame), 5);
    assert_eq!(lab.refused(ErrorCode::TokenInvalid), 3);
    assert_eq!(lab.services.stats().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_checked_against_the_keys_of_now() {
    let lab = Lab::new();
    assert_eq!(
        lab.services
            .authenticate(&token("alice"))
            .unwrap()
            .user
            .as_str(),
        "alice"
    );
    let _alice = lab.device("alice").await;
    lab.services.set_tokens(KeySet::new());
    assert!(lab.services.authenticate(&token("alice")).is_err());
    let turned_away = Device::new("bob").connect(&lab).await.err().unwrap();
    assert_eq!(turned_away.code, ErrorCode::TokenInvalid);

    let late = Lab::with(|config| config.unix_now = || crate::lab::UNIX_NOW * 2);
    let turned_away = Device::new("bob").connect(&late).await.err().unwrap();
    assert_eq!(turned_away.code, ErrorCode::TokenExpired);
}

#[tokio::test(start_paused = true)]
async fn there_are_only_so_many_sessions() {
    let lab = Lab::with(|config| config.sessions_max = 2);
    let mut alice = lab.device("alice").await;
    let _bob = lab.device("bob").await;
    let turned_away = Device::new("carol").connect(&lab).await.err().unwrap();
    assert_eq!(turned_away.code, ErrorCode::Limit);

    // Those who were there come back.
    alice.connection = None;
    assert!(alice.connect(&lab).await.unwrap().resumed);
    alice
        .send(client_frame::Body::Goodbye(v1::Goodbye {}))
        .unwrap();
    assert!(Device::new("carol").connect(&lab).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn pings_come_back_and_are_bounded() {
    let lab = Lab::new();
    let mut alice = lab.device("alice").await;
    for nonce in 0..100 {
        alice
            .send_unreliably(client_frame::Body::Ping(Ping { nonce }))
            .unwrap();
    }
    let mut pongs = 0;
    while let Some(Outgoing::Reliable(frame)) = alice.next_frame().await {
        assert_eq!(
            frame.body,
            Some(server_frame::Body::Pong(Ping { nonce: pongs }))
        );
        pongs += 1;
    }
    assert!((1..100).contains(&pongs));
}

#[tokio::test(start_paused = true)]
async fn reliable_frames_are_acknowledged_after_a_while_or_after_many() {
    let lab = Lab::new();
    let mut alice = lab.device("alice").await;
    let begin = tokio::time::Instant::now();
    let ack = client_frame::Body::Acknowledge(v1::Ack {});
    alice.send(ack.clone()).unwrap();
    let Outgoing::Reliable(frame) = alice.connection().next_outgoing().await else {
        panic!("an acknowledgement comes");
    };
    assert_eq!((frame.seq, frame.ack), (0, 1));
    // Timers of tokio count whole milliseconds.
    assert!(begin.elapsed() <= ACK_DELAY_MAX + Duration::from_millis(1));

    let begin = tokio::time::Instant::now();
    for _ in 0..ACK_FRAMES_MAX {
        alice.send(ack.clone()).unwrap();
    }
    let Outgoing::Reliable(frame) = alice.connection().next_outgoing().await else {
        panic!("an acknowledgement comes");
    };
    assert_eq!((frame.seq, frame.ack), (0, 1 + ACK_FRAMES_MAX));
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn whoever_breaks_the_contract_is_cut_off_and_leaves() {
    let ping = || Some(client_frame::Body::Ping(Ping { nonce: 1 }));
    let hello = || Device::new("bob").hello().body;
    let join = || {
        let kind = None;
        Some(client_frame::Body::Request(v1::Request { id: 1, kind }))
    };
    let table = [
        (
            ClientFrame {
                seq: 9,
                ack: 0,
                body: ping(),
            },
            true,
        ),
        (
            ClientFrame {
                seq: 0,
                ack: 99,
                body: ping(),
            },
            true,
        ),
        (
            ClientFrame {
                seq: 0,
                ack: u64::MAX,
                body: None,
            },
            true,
        ),
        (
            ClientFrame {
                seq: 0,
                ack: 0,
                body: hello(),
            },
            true,
        ),
        (
            ClientFrame {
                seq: 0,
                ack: 0,
                body: join(),
            },
            false,
        ),
    ];
    for (number, (frame, reliable)) in table.into_iter().enumerate() {
        let lab = Lab::new();
        let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
        let reject = bob.connection().receive(frame, reliable).err().unwrap();
        assert_eq!(reject.code, ErrorCode::BadFrame, "row {number}");
        assert_eq!(
            bob.next_close().await,
            Some(ErrorCode::BadFrame),
            "row {number}"
        );
        assert_eq!(
            alice.next_event().await,
            "-bob disconnected",
            "row {number}"
        );
        assert!(!bob.connect(&lab).await.unwrap().resumed, "row {number}");
        assert_eq!(lab.refused(ErrorCode::BadFrame), 1, "row {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_later_contract_added_is_ignored() {
    let lab = Lab::new();
    let mut alice = lab.device("alice").await;
    alice.outbox.push(ClientFrame::default()).unwrap();
    assert_eq!(alice.transmit(), Ok(()));
    alice.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_resumed_in_time_is_over_and_leaves_its_rooms_when_seats_are_given_up()
 {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    bob.connection = None;
    tokio::time::sleep(Duration::from_millis(28_000)).await;
    assert_eq!(alice.next_event().await, "?bob");
    alice.is_quiet().await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(lab.services.stats().expired, 1);
    assert_eq!(alice.next_event().await, "-bob disconnected");

    let welcome = bob.connect(&lab).await.unwrap();
    assert!(!welcome.resumed);
    bob.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(alice.next_event().await, "+bob");
}

#[tokio::test(start_paused = true)]
async fn the_window_begins_with_the_last_connection() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    for _ in 0..5 {
        bob.connection = None;
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert!(bob.connect(&lab).await.unwrap().resumed);
    }
    tokio::time::sleep(Duration::from_secs(100)).await;
    for _ in 0..5 {
        assert_eq!(alice.next_event().await, "?bob");
        assert_eq!(alice.next_event().await, "!bob");
    }
    alice.is_quiet().await;
    assert_eq!(lab.services.stats().resumed, 5);
}

#[tokio::test(start_paused = true)]
async fn goodbye_leaves_at_once() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    bob.send(client_frame::Body::Goodbye(v1::Goodbye {}))
        .unwrap();
    let said = tokio::time::Instant::now();
    assert_eq!(alice.next_event().await, "-bob left");
    assert_eq!(said.elapsed(), Duration::ZERO);
    assert_eq!(bob.next_close().await, None);
    bob.connection = None;
    assert!(!bob.connect(&lab).await.unwrap().resumed);
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_takes_the_session_over() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let old = bob.connection.take().unwrap();
    assert!(bob.connect(&lab).await.unwrap().resumed);
    let Outgoing::Close(Some(reject)) = old.next_outgoing().await else {
        panic!("the old connection is closed");
    };
    assert_eq!(reject.code, ErrorCode::Replaced);
    let late = old.receive(ClientFrame::default(), true).err().unwrap();
    assert_eq!(late.code, ErrorCode::Replaced);
    drop(old);
    tokio::time::sleep(Duration::from_secs(100)).await;

    alice.is_quiet().await;
    alice.send(message("r", &[], b"still here")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "still here");
}

#[tokio::test(start_paused = true)]
async fn a_session_is_resumed_by_its_device_only() {
    let lab = Lab::new();
    let [_alice, bob] = lab.members("r", ["alice", "bob"]).await;
    let mut thief = Device::new("mallory");
    thief.resume_token = bob.resume_token.clone();
    assert_eq!(
        thief.connect(&lab).await.err().unwrap().code,
        ErrorCode::NotResumable
    );

    let mut other_keys = Device::new("bob");
    other_keys.keys.identity = Bytes::from_static(&[0; 32]);
    other_keys.resume_token = bob.resume_token.clone();
    assert_eq!(
        other_keys.connect(&lab).await.err().unwrap().code,
        ErrorCode::NotResumable
    );

    let mut liar = Device::new("bob");
    liar.resume_token = bob.resume_token.clone();
    let mut hello = liar.hello();
    hello.ack = 1_000;
    assert_eq!(
        lab.attach(hello).await.err().unwrap().code,
        ErrorCode::NotResumable
    );

    for token in [
        Bytes::new(),
        Bytes::from_static(&[0; 32]),
        Bytes::from_static(&[0; 999]),
    ] {
        let mut guesser = Device::new("bob");
        guesser.resume_token = Some(token);
        assert!(!guesser.connect(&lab).await.unwrap().resumed);
    }
    assert_eq!(lab.refused(ErrorCode::NotResumable), 3);
}

#[tokio::test(start_paused = true)]
async fn a_resume_token_is_good_until_its_successor_has_arrived() {
    let lab = Lab::new();
    let mut alice = lab.device("alice").await;
    let first = alice.resume_token.clone();

    // Two welcomes get lost.
    for _ in 0..2 {
        alice.connection = None;
        let hello = alice.hello();
        drop(lab.attach(hello).await.unwrap());
    }
    assert!(alice.connect(&lab).await.unwrap().resumed);

    // Once the device has been heard with the new one, the old one is worth nothing.
    alice
        .send(client_frame::Body::Acknowledge(v1::Ack {}))
        .unwrap();
    let mut thief = Device::new("alice");
    thief.resume_token = first;
    assert!(!thief.connect(&lab).await.unwrap().resumed);
    alice.connection = None;
    assert!(alice.connect(&lab).await.unwrap().resumed);
}

#[tokio::test(start_paused = true)]
async fn a_user_has_so_many_sessions_and_a_new_one_takes_the_place_of_a_broken_one() {
    let lab = Lab::with(|config| config.sessions_per_user_max = 2);
    let (mut first, mut second) = (lab.device("alice").await, lab.device("alice").await);
    let turned_away = Device::new("alice").connect(&lab).await.err().unwrap();
    assert_eq!(turned_away.code, ErrorCode::Limit);
    assert!(Device::new("bob").connect(&lab).await.is_ok());

    // A resume is no new session.
    second.connection = None;
    assert!(second.connect(&lab).await.unwrap().resumed);

    // Of two that are broken the older goes.
    second.join("r", JoinMode::Create).await.unwrap();
    first.connection = None;
    second.connection = None;
    let mut third = lab.device("alice").await;
    assert!(second.connect(&lab).await.unwrap().resumed);
    let turned_away = first.connect(&lab).await.err().unwrap();
    assert_eq!(turned_away.code, ErrorCode::Limit);
    third
        .send(client_frame::Body::Goodbye(v1::Goodbye {}))
        .unwrap();
    assert!(!first.connect(&lab).await.unwrap().resumed);
}

#[tokio::test(start_paused = true)]
async fn a_users_sessions_share_what_the_user_may_send_and_a_new_one_adds_nothing() {
    let lab = Lab::with(|config| {
        config.rate.frames_per_second = 1;
        config.rate.frames_burst = 10;
    });
    let [mut bob] = lab.members("r", ["bob"]).await;
    let [mut first] = lab.members("r", ["alice"]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    bob.drain().await;
    for _ in 0..10 {
        first.send(message("r", &["bob"], b"x")).unwrap();
    }
    first
        .send(client_frame::Body::Goodbye(v1::Goodbye {}))
        .unwrap();
    assert_eq!(first.next_close().await, None);

    let mut second = lab.device("alice").await;
    let joined = second.join("r", JoinMode::Join).await;
    assert_eq!(joined, Err(ErrorCode::Limit));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(second.join("r", JoinMode::Join).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn relay_credentials_end_soon_after_the_token_and_a_new_token_renews_them() {
    thread_local! {
        static UNIX_NOW: Cell<Duration> = const { Cell::new(crate::lab::UNIX_NOW) };
    }
    let lab = Lab::with(|config| config.unix_now = || UNIX_NOW.get());
    let mut alice = Device::new("alice");
    let welcome = alice.connect(&lab).await.unwrap();
    // The token is good for 60 s.
    assert_eq!(welcome.ice_servers.unwrap().ttl_s, 360);
    UNIX_NOW.set(crate::lab::UNIX_NOW + Duration::from_secs(59));
    assert_eq!(refresh(&mut alice, "").await, Ok((301, 1)));
    UNIX_NOW.set(crate::lab::UNIX_NOW + Duration::from_secs(60));
    let expired = Err(ErrorCode::TokenExpired);
    assert_eq!(refresh(&mut alice, "").await, expired);

    alice.token_expires = crate::lab::UNIX_NOW + Duration::from_secs(100);
    alice.connection = None;
    assert!(alice.connect(&lab).await.unwrap().resumed);
    assert_eq!(refresh(&mut alice, "").await, Ok((340, 40)));
}

#[tokio::test(start_paused = true)]
async fn a_session_goes_on_with_a_newer_token_of_its_user_and_of_nobody_else() {
    thread_local! {
        static UNIX_NOW: Cell<Duration> = const { Cell::new(crate::lab::UNIX_NOW) };
    }
    let lab = Lab::with(|config| config.unix_now = || UNIX_NOW.get());
    let mut alice = lab.device("alice").await;
    let later = crate::lab::UNIX_NOW + Duration::from_secs(100);
    let old = token_until("alice", UNIX_NOW.get() + Duration::from_secs(10), &[]);
    UNIX_NOW.set(crate::lab::UNIX_NOW + Duration::from_secs(60));
    let invalid = Err(ErrorCode::TokenInvalid);
    let of_bob = token_until("bob", later, &[]);
    assert_eq!(refresh(&mut alice, &of_bob).await, invalid);
    assert_eq!(refresh(&mut alice, "no.token.atall").await, invalid);
    let expired = Err(ErrorCode::TokenExpired);
    assert_eq!(refresh(&mut alice, &old).await, expired);
    assert_eq!(refresh(&mut alice, "").await, expired);

    let newer = token_until("alice", later, &[]);
    assert_eq!(refresh(&mut alice, &newer).await, Ok((340, 40)));
    assert_eq!(refresh(&mut alice, "").await, Ok((340, 40)));
}

/// Asks for new credentials, with a newer token if there is one; returns how long they are good, and
/// the token.
async fn refresh(alice: &mut Device, token: &str) -> Result<(u32, u32), ErrorCode> {
    let token = token.to_owned();
    let kind = request::Kind::IceServers(v1::RefreshIceServers { token });
    let id = alice.request(Some(kind));
    match alice.next_response(id).await? {
        response::Result::IceServers(servers) => Ok((servers.ttl_s, servers.token_ttl_s)),
        other => panic!("not answered by {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_comes_and_goes_leaves_no_timers_behind() {
    let lab = Lab::new();
    let [mut alice] = lab.members("r", ["alice"]).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..100 {
        alice.connection = None;
        assert!(alice.connect(&lab).await.unwrap().resumed);
        tokio::task::yield_now().await;
    }
    alice.is_quiet().await;
    assert_eq!(tasks(), before);
}
