//! Requests about inboxes and groups that nobody should make.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_services::Outgoing;
use tombolo_wire::v1::{
    self, ClientFrame, client_frame, direct_event, direct_request, group_request, request,
    server_frame, social_event, social_request,
};

use crate::lab::{Device, Lab};

#[tokio::test(start_paused = true)]
async fn whatever_is_asked_about_inboxes_and_groups_others_are_served() {
    for seed in 0..10 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let lab = Lab::new();
        let mut bob = lab.device("bob").await;
        let open = direct_request::Kind::Open(v1::OpenInbox { after: None });
        bob.request(direct(open));
        bob.drain().await;

        let mut mallory = lab.device("mallory").await;
        for number in 0..600 {
            let frame = ClientFrame {
                seq: 0,
                ack: 0,
                body: Some(client_frame::Body::Request(v1::Request {
                    id: number,
                    kind: any(&mut random),
                })),
            };
            let frame = if number % 3 == 0 {
                damaged(&mut random, &frame)
            } else {
                frame
            };
            if mallory.connection().receive(frame, true).is_err() {
                mallory = lab.device("mallory").await;
            }
            if number % 40 == 0 {
                tokio::time::sleep(Duration::from_secs(5)).await;
                hear(&mut mallory).await;
            }
        }
        let refused: u64 = lab.services.stats().refused.values().sum();
        assert!(refused > 50, "seed {seed}: {refused} requests are refused");
        mallory.connection = None;

        let mut alice = lab.device("alice").await;
        alice.request(direct(send("bob", 99, b"still served")));
        alice.drain().await;
        assert!(hear(&mut bob).await, "seed {seed}");
    }
}

/// Takes in all that comes; whether alice's message is in it.
async fn hear(device: &mut Device) -> bool {
    let mut is_served = false;
    while let Some(Outgoing::Reliable(frame)) = device.next_frame().await {
        if let Some(server_frame::Body::Social(v1::SocialEvent {
            kind:
                Some(social_event::Kind::Direct(v1::DirectEvent {
                    kind: Some(direct_event::Kind::Message(message)),
                })),
        })) = frame.body
        {
            is_served |= message.from == "alice" && message.payload == "still served";
        }
    }
    is_served
}

fn any(random: &mut ChaCha8Rng) -> Option<request::Kind> {
    let user = ["bob", "mallory", "nobody", "", "no user"][random.random_range(0..5)].to_owned();
    let place = random.random_bool(0.5).then(|| v1::Place {
        epoch: vec![random.random(); random.random_range(15..18)].into(),
        offset: [0, 1, u64::MAX][random.random_range(0..3)],
    });
    let (number, limit) = ([0, 1, u64::MAX][random.random_range(0..3)], random.random());
    let payload = Bytes::from(vec![0; random.random_range(0..20_000)]);
    let id = Bytes::from(vec![random.random(); random.random_range(14..18)]);
    if random.random_bool(0.5) {
        use direct_request::Kind;

        return direct(match random.random_range(0..7) {
            0 => Kind::Open(v1::OpenInbox { after: place }),
            1 => Kind::Close(v1::CloseInbox {}),
            2 => Kind::Read(v1::ReadInbox { offset: number }),
            3 => Kind::Block(v1::SetBlocked {
                user,
                blocked: random.random(),
            }),
            4 => Kind::History(v1::DirectHistory {
                before: number,
                limit,
            }),
            _ => Kind::Send(v1::DirectSend {
                to: user,
                id,
                payload,
                copy: false,
            }),
        });
    }
    let kind = any_of_group(random, user, place, number, limit, id, payload);
    let group = ["g", "h", "", "no/group"][random.random_range(0..4)].to_owned();
    let group = v1::GroupRequest {
        group,
        kind: random.random_bool(0.95).then_some(kind),
    };
    social(social_request::Kind::Group(group))
}

fn any_of_group(
    random: &mut ChaCha8Rng,
    user: String,
    after: Option<v1::Place>,
    before: u64,
    limit: u32,
    id: Bytes,
    payload: Bytes,
) -> group_request::Kind {
    use group_request::Kind;

    let settings = v1::GroupSettings {
        title: "t".repeat(random.random_range(0..400)),
        open: random.random(),
        roles: vec![v1::GroupRole::default(); [0, 0, 1, 2, 40][random.random_range(0..5)]],
    };
    match random.random_range(0..14) {
        0 | 1 => Kind::Create(v1::CreateGroup {
            settings: random.random_bool(0.8).then_some(settings),
        }),
        2 => Kind::Join(v1::JoinGroup {}),
        3 => Kind::Leave(v1::LeaveGroup {}),
        4 => Kind::Open(v1::OpenGroup { after }),
        5 => Kind::Close(v1::CloseGroup {}),
        6 => Kind::Post(v1::GroupPost { id, payload }),
        7 => Kind::History(v1::GroupHistory { before, limit }),
        8 => Kind::Members(v1::GroupMembers {
            after: ["", ":", "ff:bob", "x", "0123456789abcdef0:"][random.random_range(0..5)].into(),
            limit,
        }),
        9 => Kind::Add(v1::AddMember { user }),
        10 => Kind::Remove(v1::RemoveMember {
            user,
            ban: random.random(),
        }),
        11 => Kind::SetRole(v1::SetRole {
            user,
            role: ["owner", "member", ""][random.random_range(0..3)].into(),
        }),
        12 => Kind::Configure(settings),
        _ => Kind::End(v1::EndGroup {}),
    }
}

fn send(to: &str, id: u8, payload: &[u8]) -> direct_request::Kind {
    direct_request::Kind::Send(v1::DirectSend {
        copy: false,
        to: to.into(),
        id: vec![id; 16].into(),
        payload: Bytes::copy_from_slice(payload),
    })
}

fn direct(kind: direct_request::Kind) -> Option<request::Kind> {
    social(social_request::Kind::Direct(v1::DirectRequest {
        kind: Some(kind),
    }))
}

fn social(kind: social_request::Kind) -> Option<request::Kind> {
    Some(request::Kind::Social(v1::SocialRequest {
        kind: Some(kind),
    }))
}

/// A frame with a few bits flipped, or the frame itself when that is none.
fn damaged(random: &mut ChaCha8Rng, frame: &ClientFrame) -> ClientFrame {
    let mut bytes = frame.encode_to_vec();
    for _ in 0..3 {
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
    }
    ClientFrame::decode(&bytes[..]).unwrap_or_else(|_| frame.clone())
}
