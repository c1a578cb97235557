use bytes::Bytes;
use prost::Message as _;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_services::Outgoing;
use tombolo_wire::v1::{self, ClientFrame, client_frame, request};

use crate::lab::{Device, Lab, message};

/// Devices that send whatever frames decode, in order or not. Those who behave don't notice.
#[tokio::test(start_paused = true)]
async fn whatever_frames_come_nothing_panics_and_others_are_served() {
    for seed in 0..20 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let lab = Lab::with(|config| config.hellos.burst = 1_000);
        let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
        let mut mallory = lab.device("mallory").await;
        let mut broken = 0;
        for number in 0..400 {
            let mut frame = frame(&mut random);
            if random.random_bool(0.8) {
                (frame.seq, frame.ack) = (0, 0);
            }
            if number % 3 == 0 {
                frame = damaged(&mut random, &frame);
            }
            if mallory
                .connection()
                .receive(frame, random.random_bool(0.9))
                .is_err()
            {
                broken += 1;
                mallory = lab.device("mallory").await;
            }
            for _ in 0..random.random_range(0..3) {
                tokio::task::yield_now().await;
            }
        }
        assert!(broken > 10, "seed {seed}: some frames break the contract");
        mallory.connection = None;

        alice.send(message("r", &["bob"], b"still served")).unwrap();
        let mut is_served = false;
        while let Some(Outgoing::Reliable(frame)) = bob.next_frame().await {
            if let Some(v1::server_frame::Body::Delivery(delivery)) = frame.body {
                is_served |= delivery.from == "alice" && delivery.payload == "still served";
            }
        }
        assert!(is_served, "seed {seed}");
    }
}

fn frame(random: &mut ChaCha8Rng) -> ClientFrame {
    let room = || ["r", "s", "t", "", "no/room"];
    let user = || ["alice", "bob", "mallory", "", "no user"];
    let mut pick = |from: [&str; 5]| from[random.random_range(0..5)].to_owned();
    let (room, to) = (pick(room()), pick(user()));
    let body = match random.random_range(0..9) {
        0 => client_frame::Body::Ping(v1::Ping {
            nonce: random.random(),
        }),
        1 => client_frame::Body::Acknowledge(v1::Ack {}),
        2 if random.random_bool(0.1) => client_frame::Body::Goodbye(v1::Goodbye {}),
        3 if random.random_bool(0.1) => Device::new("mallory")
            .hello()
            .body
            .expect("a hello has a body"),
        4 | 5 => {
            let join = v1::Join {
                room,
                mode: random.random_range(-1..6),
                members_max: [0, 1, 2, u32::MAX][random.random_range(0..4)],
                ..v1::Join::default()
            };
            let kind = match random.random_range(0..4) {
                0 => Some(request::Kind::Leave(v1::Leave { room: join.room })),
                1 => Some(request::Kind::IceServers(v1::RefreshIceServers::default())),
                _ => Some(request::Kind::Join(join)),
            };
            client_frame::Body::Request(v1::Request {
                id: random.random(),
                kind,
            })
        }
        6 | 7 => {
            let payload = Bytes::from(vec![0; random.random_range(0..70_000)]);
            let to = vec![to; random.random_range(0..300)];
            client_frame::Body::Send(v1::Send {
                room,
                to,
                payload,
                audience: random.random_bool(0.3).then(|| v1::Audience {
                    others: random.random_bool(0.5),
                    users: Vec::new(),
                    group: random.random_range(0..3),
                }),
                unordered: random.random_bool(0.3),
                latest: ["", "x", "no good"][random.random_range(0..3)].to_owned(),
            })
        }
        _ => client_frame::Body::Introduce(introduce(random, room, to)),
    };
    ClientFrame {
        seq: random.random_range(0..4),
        ack: random.random_range(0..4),
        body: Some(body),
    }
}

fn introduce(random: &mut ChaCha8Rng, room: String, to: String) -> v1::Introduce {
    let candidate = v1::Candidate {
        kind: random.random_range(-1..5),
        address: random.random_bool(0.9).then(|| v1::Address {
            ip: Bytes::from(vec![1; random.random_range(3..6)]),
            port: random.random_range(0..70_000),
        }),
        priority: random.random(),
    };
    let introduction = v1::Introduction {
        attempt: random.random_range(0..3),
        candidates: vec![candidate; random.random_range(0..40)],
        early: Bytes::from(vec![0; random.random_range(0..40_000)]),
        ..v1::Introduction::default()
    };
    v1::Introduce {
        room,
        to,
        introduction: random.random_bool(0.9).then_some(introduction),
        ..v1::Introduce::default()
    }
}

/// A frame with a few bits flipped, or the frame itself when that is none.
fn damaged(random: &mut ChaCha8Rng, frame: &ClientFrame) -> ClientFrame {
    let mut bytes = frame.encode_to_vec();
    for _ in 0..3 {
        if bytes.is_empty() {
            break;
        }
        let at = random.random_range(0..bytes.len().min(200));
        bytes[at] ^= 1 << random.random_range(0..8);
    }
    ClientFrame::decode(&bytes[..]).unwrap_or_else(|_| frame.clone())
}
