use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tombolo_wire::v1::client_frame::Body as Up;
use tombolo_wire::v1::request::Kind;
use tombolo_wire::v1::response::Result as Answer;
use tombolo_wire::v1::room_event::Kind as Event;
use tombolo_wire::v1::server_frame::Body as Down;
use tombolo_wire::v1::{
    ClientFrame, ErrorCode, Goodbye, Join, JoinMode, Ping, Request, Send, ServerFrame, Welcome,
};

use crate::device::{Device, PATIENCE, TRANSPORTS, Transport};
use crate::fixture::{Fixture, token};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_welcomed_as_who_its_token_says() {
    let fixture = Fixture::start();
    for transport in TRANSPORTS {
        let mut device = fixture.connect(transport).await;
        let welcome = device.hello(&token("alice")).await;
        assert_eq!(welcome.user, "alice");
        assert!(!welcome.resumed);
        assert!(welcome.resume_token.len() > 32);
        assert_eq!(welcome.ice_servers.expect("ICE servers").ttl_s, 60);
    }
    let stats = fixture.gateway.stats();
    assert_eq!(stats.attached, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_is_answered_over_both_transports() {
    let fixture = Fixture::start();
    for transport in TRANSPORTS {
        let mut device = fixture.connect(transport).await;
        device.hello(&token("alice")).await;
        device.send(Up::Ping(Ping { nonce: 42 }), 0).await;
        let nonce = device
            .receive_until(|frame| match frame.body {
                Some(Down::Pong(pong)) => Some(pong.nonce),
                _ => None,
            })
            .await;
        assert_eq!(nonce, 42);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_room_exchange_messages_across_transports() {
    let fixture = Fixture::start();
    let mut alice = Member::join(&fixture, Transport::Quic, "alice").await;
    let mut bob = Member::join(&fixture, Transport::WebSocket, "bob").await;
    alice.sees("bob").await;

    alice.send("hello bob").await;
    assert_eq!(
        bob.delivery().await,
        ("alice".to_owned(), "hello bob".to_owned())
    );
    bob.send("hello alice").await;
    assert_eq!(
        alice.delivery().await,
        ("bob".to_owned(), "hello alice".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreliable_messages_arrive_as_datagrams_and_as_messages() {
    let fixture = Fixture::start();
    let mut alice = Member::join(&fixture, Transport::Quic, "alice").await;
    let mut bob = Member::join(&fixture, Transport::Quic, "bob").await;
    let mut carol = Member::join(&fixture, Transport::WebSocket, "carol").await;

    alice.send_datagram("fast");
    for member in [&mut bob, &mut carol] {
        assert_eq!(
            member.delivery().await,
            ("alice".to_owned(), "fast".to_owned())
        );
    }
    carol.send_unreliable("slow").await;
    for member in [&mut alice, &mut bob] {
        assert_eq!(
            member.delivery().await,
            ("carol".to_owned(), "slow".to_owned())
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_session_loses_and_repeats_nothing() {
    for from in TRANSPORTS {
        for to in TRANSPORTS {
            let fixture = Fixture::start();
            let mut alice = Member::join(&fixture, from, "alice").await;
            let mut bob = Member::join(&fixture, Transport::Quic, "bob").await;
            alice.sees("bob").await;

            // Both send; alice gets some of bob's messages and sees none of hers acknowledged.
            for number in 0..10 {
                bob.send(&format!("b{number}")).await;
                alice.send(&format!("a{number}")).await;
            }
            let mut from_bob = Vec::new();
            for _ in 0..4 {
                from_bob.push(alice.delivery().await.1);
            }
            let alice = alice.vanish();
            for number in 10..20 {
                bob.send(&format!("b{number}")).await;
            }
            let mut alice = alice.resume(&fixture, to).await;
            for number in 10..20 {
                alice.send(&format!("a{number}")).await;
            }

            while from_bob.len() < 20 {
                from_bob.push(alice.delivery().await.1);
            }
            let mut from_alice = Vec::new();
            while from_alice.len() < 20 {
                from_alice.push(bob.delivery().await.1);
            }
            let expected = |name: char| {
                (0..20)
                    .map(move |n| format!("{name}{n}"))
                    .collect::<Vec<_>>()
            };
            assert_eq!(from_bob, expected('b'), "{from:?} to {to:?}");
            assert_eq!(from_alice, expected('a'), "{from:?} to {to:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_connection_takes_the_session_over_and_the_first_is_told() {
    let fixture = Fixture::start();
    for (from, to) in [
        (Transport::Quic, Transport::WebSocket),
        (Transport::WebSocket, Transport::Quic),
    ] {
        let mut first = fixture.connect(from).await;
        let welcome = first.hello(&token("alice")).await;
        let mut second = fixture.connect(to).await;
        let answer = second.resume(&token("alice"), &welcome, 0).await;
        let Some(Down::Welcome(second_welcome)) = answer.body else {
            panic!("no welcome but {answer:?}");
        };
        assert!(second_welcome.resumed);
        assert_eq!(second_welcome.session_id, welcome.session_id);
        assert_eq!(first.rejected().await.0, ErrorCode::Replaced);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_goodbye_the_node_closes_and_the_session_is_over() {
    let fixture = Fixture::start();
    for transport in TRANSPORTS {
        let mut device = fixture.connect(transport).await;
        let welcome = device.hello(&token("alice")).await;
        device.send(Up::Goodbye(Goodbye {}), 0).await;
        assert_eq!(device.receive().await, None);

        let mut device = fixture.connect(transport).await;
        let answer = device.resume(&token("alice"), &welcome, 0).await;
        let Some(Down::Welcome(other)) = answer.body else {
            panic!("no welcome but {answer:?}");
        };
        assert!(!other.resumed);
        assert_ne!(other.session_id, welcome.session_id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_device_is_given_up_after_the_idle_timeout() {
    let fixture = Fixture::start_with(|config| {
        config.limits.idle_timeout = Duration::from_millis(1_200);
        config.limits.keep_alive_interval = Duration::from_millis(300);
    });
    for transport in TRANSPORTS {
        let mut device = fixture.connect(transport).await;
        device.hello(&token("alice")).await;
        fixture
            .stats_when(|stats| stats.sessions_quic + stats.sessions_websocket == 1)
            .await;
        // The WebSocket stays open, but nobody reads it and so nobody answers pings.
        let silent = device.fall_silent();
        fixture
            .stats_when(|stats| stats.sessions_quic + stats.sessions_websocket == 0)
            .await;
        drop(silent);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_answers_pings_and_reads_nothing_is_given_up() {
    let fixture = Fixture::start_with(|config| {
        config.limits.idle_timeout = Duration::from_millis(1_200);
        config.limits.keep_alive_interval = Duration::from_millis(300);
    });
    let mut others = Vec::new();
    for user in ["alice", "carol", "dave", "erin"] {
        others.push(Member::join(&fixture, Transport::Quic, user).await);
    }
    // QUIC's own machinery goes on behind its back.
    let _bob = Member::join(&fixture, Transport::Quic, "bob").await;
    let to_bob = Send {
        to: vec!["bob".to_owned()],
        ..message(&"x".repeat(16_000))
    };
    let talking = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while fixture.gateway.stats().sessions_quic > 4 {
            ticks.tick().await;
            for other in &mut others {
                other.send_reliable(Up::Send(to_bob.clone())).await;
            }
        }
    };
    let over = tokio::time::timeout(PATIENCE, talking).await;
    assert!(over.is_ok(), "{:?}", fixture.gateway.stats());
}

/// A device in the room, with its end of the reliable sequences.
struct Member {
    device: Device,
    user: &'static str,
    welcome: Welcome,
    sent: u64,
    received: u64,
    /// Reliable frames of this device that the node has not acknowledged.
    unacknowledged: Vec<ClientFrame>,
    seen: BTreeSet<u64>,
}

/// What is left of a member without a connection.
struct Vanished {
    user: &'static str,
    welcome: Welcome,
    sent: u64,
    received: u64,
    unacknowledged: Vec<ClientFrame>,
    seen: BTreeSet<u64>,
}

impl Member {
    async fn join(fixture: &Fixture, transport: Transport, user: &'static str) -> Self {
        let mut device = fixture.connect(transport).await;
        let welcome = device.hello(&token(user)).await;
        let mut member = Self {
            device,
            user,
            welcome,
            sent: 0,
            received: 0,
            unacknowledged: Vec::new(),
            seen: BTreeSet::new(),
        };
        let join = Join {
            room: ROOM.to_owned(),
            mode: JoinMode::JoinOrCreate.into(),
            ..Join::default()
        };
        member
            .send_reliable(Up::Request(Request {
                id: 1,
                kind: Some(Kind::Join(join)),
            }))
            .await;
        let joined = member
            .receive_until(|frame| match &frame.body {
                Some(Down::Response(response)) => Some(response.result.clone()),
                _ => None,
            })
            .await;
        assert!(matches!(joined, Some(Answer::Joined(_))), "{joined:?}");
        member
    }

    async fn send_reliable(&mut self, body: Up) {
        self.sent += 1;
        let frame = ClientFrame {
            seq: self.sent,
            ack: self.received,
            body: Some(body),
        };
        self.device.send_frame(&frame).await;
        self.unacknowledged.push(frame);
    }

    async fn send(&mut self, text: &str) {
        self.send_reliable(Up::Send(message(text))).await;
    }

    async fn send_unreliable(&mut self, text: &str) {
        self.device.send(Up::Send(message(text)), 0).await;
    }

    fn send_datagram(&mut self, text: &str) {
        let frame = ClientFrame {
            seq: 0,
            ack: 0,
            body: Some(Up::Send(message(text))),
        };
        let Device::Quic(device) = &self.device else {
            panic!("only QUIC has datagrams");
        };
        let datagram = tombolo_wire::frame::encode_datagram(&frame).expect("it is small");
        device
            .connection
            .send_datagram(datagram)
            .expect("the node takes datagrams");
    }

    async fn receive_until<T>(&mut self, pick: impl Fn(&ServerFrame) -> Option<T>) -> T {
        loop {
            let frame = self.device.receive().await.expect("the connection goes on");
            self.unacknowledged.retain(|own| own.seq > frame.ack);
            if frame.seq != 0 {
                assert!(
                    self.seen.insert(frame.seq),
                    "frame {} came twice",
                    frame.seq
                );
                assert_eq!(frame.seq, self.received + 1, "a frame is missing");
                self.received = frame.seq;
            }
            if let Some(picked) = pick(&frame) {
                return picked;
            }
        }
    }

    async fn delivery(&mut self) -> (String, String) {
        self.receive_until(|frame| match &frame.body {
            Some(Down::Delivery(delivery)) => Some((
                delivery.from.clone(),
                String::from_utf8(delivery.payload.to_vec()).expect("tests send text"),
            )),
            _ => None,
        })
        .await
    }

    /// Waits until `user` has joined.
    async fn sees(&mut self, user: &str) {
        self.receive_until(|frame| match &frame.body {
            Some(Down::RoomEvent(event)) => match &event.kind {
                Some(Event::Joined(member)) if member.user == user => Some(()),
                _ => None,
            },
            _ => None,
        })
        .await;
    }

    fn vanish(self) -> Vanished {
        let Self {
            device,
            user,
            welcome,
            sent,
            received,
            unacknowledged,
            seen,
        } = self;
        device.vanish();
        Vanished {
            user,
            welcome,
            sent,
            received,
            unacknowledged,
            seen,
        }
    }
}

impl Vanished {
    async fn resume(self, fixture: &Fixture, transport: Transport) -> Member {
        let mut device = fixture.connect(transport).await;
        let answer = device
            .resume(&token(self.user), &self.welcome, self.received)
            .await;
        let ack = answer.ack;
        let Some(Down::Welcome(welcome)) = answer.body else {
            panic!("no welcome but {answer:?}");
        };
        assert!(welcome.resumed);
        let Self {
            user,
            sent,
            received,
            unacknowledged,
            seen,
            ..
        } = self;
        for frame in unacknowledged.iter().filter(|own| own.seq > ack) {
            device.send_frame(frame).await;
        }
        Member {
            device,
            user,
            welcome,
            sent,
            received,
            unacknowledged,
            seen,
        }
    }
}

fn message(text: &str) -> Send {
    Send {
        room: ROOM.to_owned(),
        to: Vec::new(),
        payload: Bytes::copy_from_slice(text.as_bytes()),
        ..Send::default()
    }
}

const ROOM: &str = "lobby";
