//! Direct messages, on one node and on several.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{Expect, Key, Local, LocalConfig, Log as _, OperationId, Purpose, TailEvent};
use tombolo_services::Outgoing;
use tombolo_social::inbox::{Body, Entry, PAYLOAD_BYTES_MAX, UNREAD_PER_SENDER_MAX};
use tombolo_social::{MessageId, Time};
use tombolo_wire::UserId;
use tombolo_wire::v1::{
    self, ErrorCode, Place, direct_event, direct_request, direct_response, request, response,
    server_frame, social_event, social_request, social_response,
};

use crate::cluster::{cluster, start};
use crate::lab::{Device, Lab, UNIX_NOW};

#[tokio::test(start_paused = true)]
async fn a_message_reaches_every_device_of_its_receiver_on_whatever_node() {
    let (nodes, _) = cluster::<3>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    let mut bob2 = Talker::new(&nodes[2].lab, "bob").await;
    for device in [&mut bob, &mut bob2] {
        let opened = device.open(None).await.unwrap();
        assert_eq!((opened.last.unwrap().offset, opened.recovered), (0, false));
    }
    assert!(!alice.direct("bob", 1, b"hi").await.unwrap().repeated);
    for device in [&mut bob, &mut bob2] {
        assert_eq!(device.next_direct().await, "1 alice hi");
    }
    bob.read(1).await.unwrap();
    assert_eq!(bob2.next_direct().await, "read 1");
    assert_eq!(nodes[0].lab.services.stats().directs, 1);
}

#[tokio::test(start_paused = true)]
async fn what_came_while_the_user_was_away_is_told_when_it_is_back() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[0].lab, "bob").await;
    bob.open(None).await.unwrap();
    drop(bob);
    tokio::time::sleep(Duration::from_secs(60)).await;
    for id in 1..=3 {
        alice.direct("bob", id, b"x").await.unwrap();
    }

    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    let last = bob.open(None).await.unwrap().last.unwrap();
    assert_eq!(bob.directs().await, ["1 alice x", "2 alice x", "3 alice x"]);
    bob.read(2).await.unwrap();
    assert_eq!(bob.next_direct().await, "read 2");

    // Without a place a device is told what is unread, with one what it has not got.
    bob.open(None).await.unwrap();
    assert_eq!(bob.directs().await, ["3 alice x"]);
    let after = Place {
        offset: 1,
        ..last.clone()
    };
    assert!(bob.open(Some(after)).await.unwrap().recovered);
    assert_eq!(bob.directs().await, ["2 alice x", "3 alice x"]);
    let foreign = Place {
        epoch: vec![7; 16].into(),
        offset: 1,
    };
    assert!(!bob.open(Some(foreign)).await.unwrap().recovered);
    // Another node might have told so much; this one gives the log some time.
    let after = Some(Place { offset: 9, ..last });
    let open = bob.ask(direct_request::Kind::Open(v1::OpenInbox { after }));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let opened = bob.direct_response(open).await.unwrap();
    let direct_response::Result::Opened(opened) = opened else {
        panic!("it is opened");
    };
    assert!(!opened.recovered);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_behind_goes_on_from_where_another_one_has_told() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    let begun = bob.open(None).await.unwrap().last.unwrap();

    nodes[1].wire.is_slow.store(true, Ordering::Relaxed);
    alice.direct("bob", 1, b"first").await.unwrap();
    let offset = begun.offset + 1;
    let after = Some(Place { offset, ..begun });
    let open = || {
        let after = after.clone();
        direct_request::Kind::Open(v1::OpenInbox { after })
    };
    let late = bob.ask(open());
    tokio::time::sleep(Duration::from_secs(5)).await;
    nodes[1].wire.is_slow.store(false, Ordering::Relaxed);
    let late = bob.direct_response(late).await;
    assert_eq!(late.err(), Some(ErrorCode::Unavailable));
    let open = bob.ask(open());
    let opened = bob.direct_response(open).await.unwrap();
    let direct_response::Result::Opened(opened) = opened else {
        panic!("it is opened");
    };
    assert!(opened.recovered);
    alice.direct("bob", 2, b"second").await.unwrap();
    assert_eq!(bob.directs().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_user_sends_is_kept_for_its_other_devices_if_it_has_an_inbox() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut other = Talker::new(&nodes[1].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    bob.open(None).await.unwrap();
    // Whoever has no inbox gets no copy.
    alice.copied("bob", 1).await.unwrap();
    other.open(None).await.unwrap();
    for _ in 0..2 {
        alice.copied("bob", 2).await.unwrap();
    }
    alice.direct("bob", 3, b"x").await.unwrap();
    assert_eq!(other.directs().await, ["1 alice to bob x"]);
    assert_eq!(bob.directs().await.len(), 3);
    // What was refused is not copied.
    bob.block("alice", true).await.unwrap();
    let refused = alice.copied("bob", 4).await;
    assert_eq!(refused.unwrap_err(), ErrorCode::Blocked);
    assert!(other.directs().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_by_a_month_loses_and_repeats_nothing() {
    static DAYS: AtomicU64 = AtomicU64::new(100);
    let local = Local::new(LocalConfig::default());
    let lab = Lab::on(Arc::new(local.clone()), |config| {
        config.unix_now = || UNIX_NOW + Duration::from_secs(86_400) * days();
    });
    fn days() -> u32 {
        u32::try_from(DAYS.load(Ordering::Relaxed)).unwrap()
    }
    let mut talkers = Vec::new();
    for user in ["alice", "bob"] {
        let mut device = Device::new(user);
        device.token_expires = UNIX_NOW * 2;
        device.connect(&lab).await.unwrap();
        let told = VecDeque::new();
        talkers.push(Talker { device, told });
    }
    let [alice, bob] = talkers.as_mut_slice() else {
        panic!("there are two");
    };
    bob.open(None).await.unwrap();
    alice.direct("bob", 0, b"x").await.unwrap();
    assert_eq!(bob.directs().await, ["1 alice x"]);
    let last = bob.open(None).await.unwrap().last.unwrap();
    bob.directs().await;
    for (number, day) in [140, 0, 1000].into_iter().enumerate() {
        DAYS.store(day, Ordering::Relaxed);
        for id in 0..25 {
            let id = u8::try_from(1 + 25 * number + id).unwrap();
            alice.direct("bob", id, b"x").await.unwrap();
        }
    }
    let told = bob.directs().await;
    assert_eq!(told.len(), 75);
    assert_eq!(told.last().unwrap(), "76 alice x");
    let opened = bob.open(Some(last)).await.unwrap();
    assert!(opened.recovered);
    assert_eq!(bob.directs().await, told);
    bob.open(None).await.unwrap();
    assert_eq!(bob.directs().await.len(), 76, "nothing has expired");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_sent_again_from_anywhere_arrives_once() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut elsewhere = Talker::new(&nodes[1].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    bob.open(None).await.unwrap();
    let first = alice.direct("bob", 7, b"once").await.unwrap();
    for device in [&mut alice, &mut elsewhere] {
        let again = device.direct("bob", 7, b"once").await.unwrap();
        assert_eq!((again.repeated, again.time_ms), (true, first.time_ms));
    }
    assert_eq!(bob.directs().await, ["1 alice once"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_dies_after_the_append_has_delivered_all_the_same() {
    let (nodes, local) = cluster::<2>().await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    bob.open(None).await.unwrap();
    bob.directs().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    alice.direct("bob", 0, b"first").await.unwrap();
    assert_eq!(bob.next_direct().await, "1 alice first");
    // The append succeeds, but the node never learns of it.
    nodes[0].wire.is_slow.store(true, Ordering::Relaxed);
    alice.ask_direct("bob", 1, b"last words");
    tokio::time::sleep(Duration::from_millis(10)).await;
    nodes[0].lab.services.kill();
    drop(alice);
    assert_eq!(bob.next_direct().await, "2 alice last words");

    // The device has no answer, so it sends the message again, over another node.
    let mut alice = Talker::new(&nodes[1].lab, "alice").await;
    assert!(
        alice
            .direct("bob", 1, b"last words")
            .await
            .unwrap()
            .repeated
    );
    assert_eq!(bob.directs().await, [""; 0]);
    drop(local);
}

#[tokio::test(start_paused = true)]
async fn a_receivers_node_that_dies_before_it_delivered_loses_nothing() {
    let (nodes, _) = cluster::<2>().await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    let last = bob.open(None).await.unwrap().last.unwrap();
    nodes[1].wire.is_slow.store(true, Ordering::Relaxed);
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    alice.direct("bob", 1, b"hold on").await.unwrap();
    nodes[1].lab.services.kill();
    drop(bob);

    let mut bob = Talker::new(&nodes[0].lab, "bob").await;
    assert!(bob.open(Some(last)).await.unwrap().recovered);
    assert_eq!(bob.next_direct().await, "1 alice hold on");
}

#[tokio::test(start_paused = true)]
async fn a_blocked_sender_is_refused_and_all_devices_know_the_list() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[0].lab, "bob").await;
    let mut bob2 = Talker::new(&nodes[1].lab, "bob").await;
    bob.open(None).await.unwrap();
    bob2.open(None).await.unwrap();
    bob.block("alice", true).await.unwrap();
    assert_eq!(bob2.next_direct().await, "blocked alice");
    assert_eq!(alice.direct("bob", 1, b"x").await, Err(ErrorCode::Blocked));
    let opened = bob2.open(None).await.unwrap();
    assert_eq!(opened.blocked, ["alice"]);
    bob2.block("alice", false).await.unwrap();
    alice.direct("bob", 1, b"x").await.unwrap();
    assert_eq!(
        bob.directs().await,
        ["blocked alice", "blocked ", "1 alice x"]
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_for_users_that_never_opened_an_inbox() {
    let local = Local::new(LocalConfig::default());
    let lab = Lab::on(Arc::new(local.clone()), |_| {});
    let mut alice = Talker::new(&lab, "alice").await;
    assert_eq!(
        alice.direct("nobody", 1, b"x").await,
        Err(ErrorCode::NoSuchUser)
    );
    let key = Key::new(["inbox", "nobody"]).unwrap();
    let mut tail = local.tail(&key, None).await.unwrap();
    assert_eq!(
        tail.next().await,
        Some(TailEvent::Synced),
        "nothing was written"
    );
}

#[tokio::test(start_paused = true)]
async fn whom_a_user_has_blocked_writes_nothing_into_its_log() {
    let local = Local::new(LocalConfig::default());
    let lab = Lab::on(Arc::new(local.clone()), |_| {});
    let mut alice = Talker::new(&lab, "alice").await;
    let mut carol = Talker::new(&lab, "carol").await;
    let mut bob = Talker::new(&lab, "bob").await;
    bob.open(None).await.unwrap();
    bob.block("alice", true).await.unwrap();
    let key = Key::new(["inbox", "bob"]).unwrap();
    let mut tail = local.tail(&key, None).await.unwrap();
    while tail.next().await != Some(TailEvent::Synced) {}
    let refused = alice.direct("bob", 1, b"unwanted").await;
    assert_eq!(refused, Err(ErrorCode::Blocked));
    carol.direct("bob", 2, b"wanted").await.unwrap();
    let Some(TailEvent::Entry { entry, .. }) = tail.next().await else {
        panic!("the log goes on with what was wanted");
    };
    let Body::Sent { from, .. } = Entry::decode(&entry).unwrap().body else {
        panic!("what is written is a message");
    };
    assert_eq!(from.as_str(), "carol");
}

#[tokio::test(start_paused = true)]
async fn one_sender_fills_its_part_of_an_inbox_and_no_more() {
    let lab = Lab::with(|config| config.directs.burst = 1000);
    let mut alice = Talker::new(&lab, "alice").await;
    let mut carol = Talker::new(&lab, "carol").await;
    let mut bob = Talker::new(&lab, "bob").await;
    bob.open(None).await.unwrap();
    for id in 0..UNREAD_PER_SENDER_MAX as u8 {
        alice.direct("bob", id, b"").await.unwrap();
    }
    assert_eq!(
        alice.direct("bob", 200, b"").await,
        Err(ErrorCode::InboxFull)
    );
    carol.direct("bob", 1, b"").await.unwrap();
    bob.directs().await;
    bob.read(1).await.unwrap();
    alice.direct("bob", 200, b"").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_not_in_order_say_what_is_wrong() {
    use direct_request::Kind;

    let lab = Lab::with(|config| config.directs.burst = 3);
    let mut alice = Talker::new(&lab, "alice").await;
    let send = |to: &str, id: &[u8], payload: usize| {
        Kind::Send(v1::DirectSend {
            copy: false,
            to: to.into(),
            id: Bytes::copy_from_slice(id),
            payload: vec![0; payload].into(),
        })
    };
    let place = Place {
        epoch: "short".into(),
        offset: 0,
    };
    let cases = [
        (send("not a name", &[0; 16], 0), ErrorCode::BadName),
        (send("bob", &[0; 15], 0), ErrorCode::BadFrame),
        (
            send("bob", &[0; 16], PAYLOAD_BYTES_MAX + 1),
            ErrorCode::TooLarge,
        ),
        (
            Kind::Block(v1::SetBlocked {
                user: String::new(),
                blocked: true,
            }),
            ErrorCode::BadName,
        ),
        (
            Kind::Open(v1::OpenInbox { after: Some(place) }),
            ErrorCode::BadFrame,
        ),
    ];
    for (kind, code) in cases {
        let id = alice.ask_social(Some(social_request::Kind::Direct(v1::DirectRequest {
            kind: Some(kind.clone()),
        })));
        assert_eq!(alice.direct_response(id).await, Err(code), "{kind:?}");
    }
    for nothing in [
        None,
        Some(social_request::Kind::Direct(v1::DirectRequest {
            kind: None,
        })),
    ] {
        let id = alice.ask_social(nothing);
        assert_eq!(alice.direct_response(id).await, Err(ErrorCode::BadFrame));
    }
    for id in 0..3 {
        assert_eq!(
            alice.direct("bob", id, b"").await,
            Err(ErrorCode::NoSuchUser)
        );
    }
    assert_eq!(alice.direct("bob", 3, b"").await, Err(ErrorCode::Limit));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        alice.direct("bob", 3, b"").await,
        Err(ErrorCode::NoSuchUser)
    );
}

#[tokio::test(start_paused = true)]
async fn a_device_that_does_not_keep_up_is_told_the_rest_later() {
    let lab = Lab::with(|config| {
        config.directs.burst = 1000;
        config.outbox.frames_max = 16;
    });
    let mut alice = Talker::new(&lab, "alice").await;
    let mut bob = Talker::new(&lab, "bob").await;
    bob.open(None).await.unwrap();
    for id in 0..60 {
        alice.direct("bob", id, b"x").await.unwrap();
    }
    let mut heard = Vec::new();
    while heard.len() < 60 {
        heard.extend(bob.directs().await);
        let ack = v1::client_frame::Body::Acknowledge(v1::Ack {});
        bob.device.send_unreliably(ack).unwrap();
    }
    let expected: Vec<_> = (1..=60).map(|number| format!("{number} alice x")).collect();
    assert_eq!(heard, expected);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_paged_from_the_newest() {
    let lab = Lab::with(|config| config.directs.burst = 1000);
    let mut alice = Talker::new(&lab, "alice").await;
    let mut carol = Talker::new(&lab, "carol").await;
    let mut bob = Talker::new(&lab, "bob").await;
    bob.open(None).await.unwrap();
    let payload = vec![b'x'; PAYLOAD_BYTES_MAX];
    for id in 0..6 {
        alice.direct("bob", id, &payload).await.unwrap();
        carol.direct("bob", id, &payload).await.unwrap();
    }
    bob.directs().await;
    let (mut before, mut numbers, mut pages) = (0, Vec::new(), 0);
    loop {
        let page = bob.letters(before, 0).await;
        numbers.extend(page.messages.iter().map(|message| message.number));
        pages += 1;
        before = *numbers.last().unwrap();
        if !page.more {
            break;
        }
    }
    assert_eq!(numbers, (1..=12).rev().collect::<Vec<_>>());
    assert!(pages > 1, "so much does not fit into a frame");
    let page = bob.letters(5, 2).await;
    let found: Vec<_> = page.messages.iter().map(|message| message.number).collect();
    assert_eq!((found, page.more), (vec![4, 3], true));
}

#[tokio::test(start_paused = true)]
async fn an_inbox_whose_log_was_lost_says_so() {
    let local = Local::new(LocalConfig::default());
    let node = start(&local, 0);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut bob = Talker::new(&node.lab, "bob").await;
    let last = bob.open(None).await.unwrap().last.unwrap();

    let other = Local::new(LocalConfig::default());
    let node = start(&other, 0);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut bob = Talker::new(&node.lab, "bob").await;
    let opened = bob.open(Some(last.clone())).await.unwrap();
    assert!(!opened.recovered);
    assert_ne!(opened.last.unwrap().epoch, last.epoch);
}

#[tokio::test(start_paused = true)]
async fn without_the_engine_senders_are_told_and_nothing_is_half_done() {
    let (nodes, _) = cluster::<2>().await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    bob.open(None).await.unwrap();
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    alice.direct("bob", 0, b"before").await.unwrap();
    nodes[0].wire.cut(true);
    assert_eq!(
        alice.direct("bob", 1, b"x").await,
        Err(ErrorCode::Unavailable)
    );
    nodes[0].wire.cut(false);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    assert!(!alice.direct("bob", 1, b"x").await.unwrap().repeated);
    assert_eq!(bob.directs().await, ["1 alice before", "2 alice x"]);
}

#[tokio::test(start_paused = true)]
async fn bad_entries_in_a_log_change_nothing() {
    let local = Local::new(LocalConfig::default());
    let lab = Lab::on(Arc::new(local.clone()), |_| {});
    let mut bob = Talker::new(&lab, "bob").await;
    bob.open(None).await.unwrap();
    let key = Key::new(["inbox", "bob"]).unwrap();
    let good = Entry {
        operation: tombolo_social::OperationId([3; 16]),
        time: Time::from_millis(1),
        body: Body::Sent {
            to: None,
            from: UserId::parse("alice").unwrap(),
            id: MessageId([4; 16]),
            payload: "good".into(),
        },
    };
    for (number, entry) in [Bytes::from("bad"), Bytes::new(), good.encode()]
        .into_iter()
        .enumerate()
    {
        let operation = OperationId([number as u8; 16]);
        local
            .append(&key, entry, Purpose::More, Expect::Any, operation)
            .await
            .unwrap();
    }
    assert_eq!(bob.directs().await, ["1 alice good"]);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_a_later_release_wrote_to_is_reported_and_read_again_later() {
    let local = Local::new(LocalConfig::default());
    let lab = Lab::on(Arc::new(local.clone()), |_| {});
    let mut alice = Talker::new(&lab, "alice").await;
    let mut bob = Talker::new(&lab, "bob").await;
    bob.open(None).await.unwrap();
    alice.direct("bob", 1, b"before").await.unwrap();
    // A snapshot makes up for what this release could not read.
    let inbox = Key::new(["inbox", "bob"]).unwrap();
    let mut tail = local.tail(&inbox, None).await.unwrap();
    let mut known = tombolo_social::inbox::Inbox::new();
    while let Some(TailEvent::Entry { entry, .. }) = tail.next().await {
        known.apply(&Entry::decode(&entry).unwrap()).unwrap();
    }
    // Its version is its first field.
    let later = Bytes::from_static(&[0x08, 0x07]);
    let at = local.append(
        &inbox,
        later,
        Purpose::More,
        Expect::Any,
        OperationId([5; 16]),
    );
    let at = at.await.unwrap();
    let refused = alice.direct("bob", 2, b"unread").await;
    assert_eq!(refused.unwrap_err(), ErrorCode::Unavailable);
    assert_eq!(lab.services.stats().logs_unreadable, 1);
    local.snapshot(&inbox, at, known.snapshot()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    alice.direct("bob", 3, b"after").await.unwrap();
    assert_eq!(bob.directs().await, ["1 alice before", "2 alice after"]);
    assert_eq!(lab.services.stats().logs_unreadable, 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_writes_to_many_strangers_does_not_fill_the_node() {
    let lab = Lab::with(|config| config.directs.burst = 1_000);
    let mut mallory = Talker::new(&lab, "mallory").await;
    for number in 0..600 {
        let nobody = format!("nobody-{number}");
        let refused = mallory.direct(&nobody, 1, b"hello").await;
        assert_eq!(refused.unwrap_err(), ErrorCode::NoSuchUser);
        assert!(lab.services.stats().logs <= 257);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_lived_inbox_is_the_same_for_who_comes_late() {
    let (nodes, _) = cluster::<2>().await;
    let mut bob = Talker::new(&nodes[0].lab, "bob").await;
    let last = bob.open(None).await.unwrap().last.unwrap();
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    for round in 0..4_u64 {
        for number in 80 * round + 1..=80 * (round + 1) {
            let text = number.to_string();
            let message = send("bob", u128::from(number), text.as_bytes());
            alice.ask_and_wait(message).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        bob.directs().await;
        bob.read(80 * (round + 1)).await.unwrap();
    }
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    let opened = bob.open(Some(last)).await.unwrap();
    assert_eq!((opened.recovered, opened.read), (true, 320));
    let heard = bob.directs().await;
    assert_eq!(heard.len(), 320);
    assert_eq!(heard[319], "320 alice 320");
}

#[tokio::test(start_paused = true)]
async fn an_inbox_stays_open_when_its_session_comes_back_to_the_node_that_offered_it() {
    let (nodes, _) = cluster::<2>().await;
    let mut bob = Talker::new(&nodes[0].lab, "bob").await;
    bob.open(None).await.unwrap();
    let mut alice = Talker::new(&nodes[1].lab, "alice").await;
    bob.device.connection = None;
    // The offer is made, and nothing more comes through.
    nodes[1].wire.answers_left.store(1, Ordering::Relaxed);
    let hello = bob.device.hello();
    let asked = nodes[1].lab.attach(hello);
    let asked = tokio::time::timeout(Duration::from_secs(1), asked).await;
    assert!(asked.is_err());
    alice.direct("bob", 1, b"meanwhile").await.unwrap();
    let welcome = bob.device.connect(&nodes[0].lab).await.unwrap();
    assert!(welcome.resumed);
    assert_eq!(bob.next_direct().await, "1 alice meanwhile");
    alice.direct("bob", 2, b"here").await.unwrap();
    assert_eq!(bob.next_direct().await, "2 alice here");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_gave_a_session_away_tells_it_nothing_more() {
    let (nodes, _) = cluster::<2>().await;
    let mut bob = Talker::new(&nodes[0].lab, "bob").await;
    let mut alice = Talker::new(&nodes[1].lab, "alice").await;
    let last = bob.open(None).await.unwrap().last.unwrap();
    bob.device.connection = None;
    let welcome = bob.device.connect(&nodes[1].lab).await.unwrap();
    assert_eq!((welcome.resumed, welcome.node.as_str()), (true, "node-1"));
    alice.direct("bob", 1, b"hi").await.unwrap();
    assert!(bob.directs().await.is_empty(), "it opens it again");
    bob.open(Some(last)).await.unwrap();
    assert_eq!(bob.directs().await, ["1 alice hi"]);
}

/// A device, and what it was told of its inbox before an answer came.
pub(crate) struct Talker {
    pub(crate) device: Device,
    told: VecDeque<String>,
}

impl Talker {
    pub(crate) async fn new(lab: &Lab, user: &str) -> Self {
        Self {
            device: lab.device(user).await,
            told: VecDeque::new(),
        }
    }

    pub(crate) fn ask_open(&mut self) -> u64 {
        let after = None;
        self.ask(direct_request::Kind::Open(v1::OpenInbox { after }))
    }

    pub(crate) async fn open(
        &mut self,
        after: Option<Place>,
    ) -> Result<v1::InboxOpened, ErrorCode> {
        let open = direct_request::Kind::Open(v1::OpenInbox { after });
        match self.ask_and_wait(open).await? {
            direct_response::Result::Opened(opened) => Ok(opened),
            other => panic!("an opening is not answered by {other:?}"),
        }
    }

    async fn read(&mut self, offset: u64) -> Result<(), ErrorCode> {
        let read = direct_request::Kind::Read(v1::ReadInbox { offset });
        self.ask_and_wait(read).await.map(drop)
    }

    async fn block(&mut self, user: &str, blocked: bool) -> Result<(), ErrorCode> {
        let user = user.to_owned();
        let block = direct_request::Kind::Block(v1::SetBlocked { user, blocked });
        self.ask_and_wait(block).await.map(drop)
    }

    async fn letters(&mut self, before: u64, limit: u32) -> v1::DirectPage {
        let history = direct_request::Kind::History(v1::DirectHistory { before, limit });
        match self.ask_and_wait(history).await.unwrap() {
            direct_response::Result::History(page) => page,
            other => panic!("a question for history is not answered by {other:?}"),
        }
    }

    pub(crate) fn ask_direct(&mut self, to: &str, id: u8, payload: &[u8]) -> u64 {
        self.ask(send(to, u128::from(id), payload))
    }

    pub(crate) async fn direct(
        &mut self,
        to: &str,
        id: u8,
        payload: &[u8],
    ) -> Result<v1::DirectSent, ErrorCode> {
        match self.ask_and_wait(send(to, u128::from(id), payload)).await? {
            direct_response::Result::Sent(sent) => Ok(sent),
            other => panic!("a message is not answered by {other:?}"),
        }
    }

    async fn copied(&mut self, to: &str, id: u8) -> Result<(), ErrorCode> {
        let direct_request::Kind::Send(message) = send(to, u128::from(id), b"x") else {
            panic!("it is sent");
        };
        let message = v1::DirectSend {
            copy: true,
            ..message
        };
        let sent = self.ask_and_wait(direct_request::Kind::Send(message)).await;
        sent.map(drop)
    }

    fn ask(&mut self, kind: direct_request::Kind) -> u64 {
        let request = v1::DirectRequest { kind: Some(kind) };
        self.ask_social(Some(social_request::Kind::Direct(request)))
    }

    fn ask_social(&mut self, kind: Option<social_request::Kind>) -> u64 {
        self.device
            .request(Some(request::Kind::Social(v1::SocialRequest { kind })))
    }

    async fn ask_and_wait(
        &mut self,
        kind: direct_request::Kind,
    ) -> Result<direct_response::Result, ErrorCode> {
        let id = self.ask(kind);
        self.direct_response(id).await
    }

    pub(crate) async fn direct_response(
        &mut self,
        id: u64,
    ) -> Result<direct_response::Result, ErrorCode> {
        loop {
            let body = self.device.next().await;
            let server_frame::Body::Response(response) = body else {
                self.told.push_back(told(&body));
                continue;
            };
            assert_eq!(response.id, id);
            return match response.result.unwrap() {
                response::Result::Social(v1::SocialResponse {
                    result: Some(social_response::Result::Direct(response)),
                }) => Ok(response.result.unwrap()),
                response::Result::Failure(failure) => Err(failure.code()),
                other => panic!("a request is not answered by {other:?}"),
            };
        }
    }

    /// The next that is told of the inbox, in a few words.
    async fn next_direct(&mut self) -> String {
        match self.told.pop_front() {
            Some(told) => told,
            None => told(&self.device.next().await),
        }
    }

    /// All that is told of the inbox until nothing comes for a while.
    pub(crate) async fn directs(&mut self) -> Vec<String> {
        let mut heard = Vec::from_iter(self.told.drain(..));
        while let Some(outgoing) = self.device.next_frame().await {
            let Outgoing::Reliable(frame) = outgoing else {
                panic!("{outgoing:?} is not about an inbox");
            };
            heard.push(told(&frame.body.unwrap()));
        }
        heard
    }
}

fn send(to: &str, id: u128, payload: &[u8]) -> direct_request::Kind {
    direct_request::Kind::Send(v1::DirectSend {
        copy: false,
        to: to.into(),
        id: Bytes::copy_from_slice(&id.to_be_bytes()),
        payload: Bytes::copy_from_slice(payload),
    })
}

fn told(body: &server_frame::Body) -> String {
    let server_frame::Body::Social(v1::SocialEvent {
        kind: Some(social_event::Kind::Direct(event)),
    }) = body
    else {
        panic!("{body:?} is not about an inbox");
    };
    match event.kind.as_ref().unwrap() {
        direct_event::Kind::Message(message) => {
            let to = match message.to.as_str() {
                "" => String::new(),
                to => format!("to {to} "),
            };
            let text = String::from_utf8_lossy(&message.payload);
            format!("{} {} {to}{text}", message.number, message.from)
        }
        direct_event::Kind::Read(read) => format!("read {}", read.offset),
        direct_event::Kind::Blocked(blocked) => format!("blocked {}", blocked.users.join(" ")),
        direct_event::Kind::Place(place) => {
            let at = place.at.as_ref().map(|at| at.offset.to_string());
            let at = at.unwrap_or_else(|| "none".to_owned());
            format!("place {at} lost {}", place.lost)
        }
    }
}
