//! Kinds of messages and their audiences, and members that do not read.

use std::time::Duration;

use bytes::Bytes;
use tombolo_services::Outgoing;
use tombolo_wire::resend::Limits;
use tombolo_wire::v1::{self, ErrorCode, client_frame, room_act, server_frame};

use crate::cluster::{cluster, members};
use crate::lab::{Device, Lab, message};

#[tokio::test(start_paused = true)]
async fn a_message_reaches_its_audience_on_every_node() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 0), ("carol", 1), ("dave", 1)];
    let mut all = members(&nodes, "r", users).await;
    for member in [0, 1, 2] {
        enter_group(&mut all[member], 7).await;
    }
    let audience = |others, users: &[&str], group| v1::Audience {
        others,
        users: users.iter().map(|&user| user.to_owned()).collect(),
        group,
    };
    let cases = [
        (audience(false, &[], 0), &[0, 1, 2, 3][..]),
        (audience(true, &[], 0), &[1, 2, 3]),
        (audience(false, &["bob", "dave"], 0), &[1, 3]),
        (audience(false, &[], 7), &[0, 1, 2]),
        (audience(false, &[], 8), &[]),
    ];
    for device in &mut all {
        device.drain().await;
    }
    for (number, (audience, hearers)) in cases.into_iter().enumerate() {
        for reliable in [true, false] {
            let sent = v1::Send {
                audience: Some(audience.clone()),
                payload: vec![u8::try_from(number).unwrap()].into(),
                ..in_room()
            };
            let sent = client_frame::Body::Send(sent);
            if reliable {
                all[0].send(sent).unwrap();
            } else {
                all[0].send_unreliably(sent).unwrap();
            }
            for (member, device) in all.iter_mut().enumerate() {
                let heard = device.next_payloads().await;
                let expected = usize::from(hearers.contains(&member));
                assert_eq!(heard.len(), expected, "case {number} at {member}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_value_a_member_that_reads_late_gets_the_latest_alone() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 0), ("carol", 1)];
    let [mut alice, mut bob, mut carol] = members(&nodes, "r", users).await;
    for number in 0..100_u8 {
        alice.send(latest("x", number)).unwrap();
        alice.send(latest("y", number)).unwrap();
    }
    alice.send(message("r", &[], b"in order")).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for device in [&mut bob, &mut carol] {
        let mut heard = device.next_payloads().await;
        heard.sort();
        assert_eq!(heard.len(), 3, "{heard:?}");
        assert_eq!(heard[0], [99][..]);
        assert_eq!(heard[1], [99][..]);
    }
    let coalesced: u64 = nodes
        .iter()
        .map(|node| node.lab.services.stats().coalesced)
        .sum();
    assert_eq!(coalesced, 2 * 2 * 99, "each older value, for each receiver");
    for node in &nodes {
        assert_eq!(node.lab.services.stats().dropped, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn values_of_different_members_and_names_do_not_replace_each_other() {
    let lab = Lab::new();
    let [mut alice, mut bob, mut carol] = lab.members("r", ["alice", "bob", "carol"]).await;
    alice.send(latest("x", 1)).unwrap();
    bob.send(latest("x", 2)).unwrap();
    alice.send(latest("z", 3)).unwrap();
    let mut heard = carol.next_payloads().await;
    heard.sort();
    assert_eq!(heard, [&[1][..], &[2], &[3]]);
}

#[tokio::test(start_paused = true)]
async fn the_last_value_survives_a_broken_connection() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    bob.connection = None;
    for number in 0..10 {
        alice.send(latest("x", number)).unwrap();
    }
    assert!(bob.connect(&lab).await.unwrap().resumed);
    assert_eq!(bob.next_payloads().await, [&[9][..]]);
}

#[tokio::test(start_paused = true)]
async fn unordered_messages_arrive_once_and_do_not_hold_up_those_in_order() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    nodes[0]
        .wire
        .lose_percent
        .store(30, std::sync::atomic::Ordering::Relaxed);
    for number in 0..200_u8 {
        let sent = v1::Send {
            unordered: true,
            payload: vec![number].into(),
            ..in_room()
        };
        alice.send(client_frame::Body::Send(sent)).unwrap();
    }
    for number in 200..=255_u8 {
        alice.send(message("r", &[], &[number])).unwrap();
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    let heard = bob.next_payloads().await;
    let numbers: Vec<_> = heard.iter().map(|payload| payload[0]).collect();
    let ordered: Vec<_> = numbers
        .iter()
        .copied()
        .filter(|number| *number >= 200)
        .collect();
    assert_eq!(ordered, (200..=255).collect::<Vec<_>>());
    let last_in_order = numbers.iter().rposition(|number| *number >= 200).unwrap();
    assert!(last_in_order < 150, "they share the way: {last_in_order}");
    let mut all = numbers;
    all.sort_unstable();
    assert_eq!(all, (0..=255).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn kinds_that_make_no_sense_are_refused() {
    let lab = Lab::new();
    let [mut alice, _bob] = lab.members("r", ["alice", "bob"]).await;
    let send = |change: fn(&mut v1::Send)| {
        let mut send = in_room();
        change(&mut send);
        client_frame::Body::Send(send)
    };
    let refused = [
        (
            send(|send| send.latest = "no good".into()),
            ErrorCode::BadName,
        ),
        (
            send(|send| {
                send.to = vec!["bob".into()];
                send.audience = Some(v1::Audience::default());
            }),
            ErrorCode::BadFrame,
        ),
        (
            send(|send| {
                send.audience = Some(v1::Audience {
                    others: true,
                    users: Vec::new(),
                    group: 1,
                });
            }),
            ErrorCode::BadFrame,
        ),
    ];
    for (body, code) in refused {
        alice.send(body).unwrap();
        assert_eq!(alice.next_refused().await.1, code);
    }
    alice.send_unreliably(latest("x", 1)).unwrap();
    let server_frame::Body::Refused(refused) = alice.next_unreliable().await else {
        panic!("what may get lost is no latest value");
    };
    assert_eq!(refused.code(), ErrorCode::BadFrame);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_does_not_read_costs_bounded_memory_and_is_disconnected() {
    let lab = Lab::with(|config| {
        config.outbox = Limits {
            frames_max: 1000,
            bytes_max: 200_000,
        };
        config.unreliable_bytes_max = 20_000;
        config.behind_max = Duration::from_secs(10);
        config.rate.frames_burst = 100_000;
        config.deliveries.frames_burst = 100_000;
    });
    let [mut alice, mut bob, mut carol] = lab.members("r", ["alice", "bob", "carol"]).await;

    // First what may be left out: older values, then what may get lost.
    for number in 0..200_u8 {
        alice.send(latest("x", number)).unwrap();
        alice
            .send_unreliably(message("r", &[], &[0; 1000]))
            .unwrap();
        carol.drain_now();
    }
    let stats = lab.services.stats();
    assert_eq!(stats.coalesced, 199, "carol reads, bob does not");
    assert!((170..200).contains(&stats.dropped), "{}", stats.dropped);

    // Then the sender is told, and when nothing is taken for long, that is it.
    let mut refused = 0;
    for _ in 0..30 {
        for _ in 0..20 {
            alice.send(message("r", &[], &[0; 1000])).unwrap();
            carol.drain_now();
        }
        refused += alice.drain_now();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(refused > 0, "the sender knows");
    assert_eq!(bob.next_close().await, Some(ErrorCode::Limit));
    let stats = lab.services.stats();
    assert_eq!((stats.behind, stats.sessions), (1, 2));
    carol.drain().await;
    alice.drain().await;
    alice.send(message("r", &[], b"still here")).unwrap();
    assert_eq!(carol.next_payloads().await, [&b"still here"[..]]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_reads_slowly_is_not_disconnected() {
    let lab = Lab::with(|config| {
        config.outbox = Limits {
            frames_max: 100,
            bytes_max: 200_000,
        };
        config.behind_max = Duration::from_secs(10);
    });
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    for _ in 0..60 {
        for _ in 0..10 {
            alice.send(message("r", &[], b"x")).unwrap();
        }
        alice.drain_now();
        assert!(bob.next_frame().await.is_some());
        bob.acknowledge();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(lab.services.stats().behind, 0);
    assert!(
        lab.refused(ErrorCode::Limit) > 0,
        "there was no place now and then"
    );
}

impl Device {
    /// The payloads of all messages that come until it is quiet.
    async fn next_payloads(&mut self) -> Vec<Bytes> {
        let mut payloads = Vec::new();
        while let Some(outgoing) = self.next_frame().await {
            let (Outgoing::Reliable(frame) | Outgoing::Unreliable(frame)) = outgoing else {
                panic!("{} is not to end: {outgoing:?}", self.user);
            };
            if let Some(server_frame::Body::Delivery(delivery)) = frame.body {
                payloads.push(delivery.payload);
                payloads.extend(delivery.more.into_iter().map(|more| more.payload));
            }
            self.acknowledge();
        }
        payloads
    }

    /// Tells the node what has come.
    fn acknowledge(&mut self) {
        let ack = client_frame::Body::Acknowledge(v1::Ack {});
        self.send_unreliably(ack).unwrap();
    }

    /// Takes what is there without waiting; returns how many refusals there were.
    fn drain_now(&mut self) -> usize {
        use std::task::{Context, Poll, Waker};

        let mut refused = 0;
        loop {
            let outgoing = {
                let next = std::pin::pin!(self.connection().next_outgoing());
                let mut context = Context::from_waker(Waker::noop());
                match next.poll(&mut context) {
                    Poll::Ready(outgoing) => outgoing,
                    Poll::Pending => break,
                }
            };
            if let Outgoing::Reliable(frame) = outgoing {
                self.outbox.handle_ack(frame.ack).unwrap();
                let now = tokio::time::Instant::now().into_std();
                self.inbox.handle_frame(now, frame.seq).unwrap();
                refused += usize::from(matches!(frame.body, Some(server_frame::Body::Refused(_))));
            }
        }
        self.acknowledge();
        refused
    }
}

fn in_room() -> v1::Send {
    v1::Send {
        room: "r".into(),
        ..v1::Send::default()
    }
}

fn latest(key: &str, number: u8) -> client_frame::Body {
    client_frame::Body::Send(v1::Send {
        latest: key.into(),
        payload: vec![number].into(),
        ..in_room()
    })
}

async fn enter_group(device: &mut Device, group: u32) {
    let change = v1::ChangeGroups {
        enter: vec![group],
        exit: Vec::new(),
    };
    device
        .act("r", room_act::Kind::Groups(change))
        .await
        .unwrap();
}
