//! What nodes of the release before say on the bus and write into the directory: this one reads the same in it.

use bytes::Bytes;
use prost::Message as _;
use tombolo_engine::{Epoch, Offset};
use tombolo_room::{GroupId, SessionId};
use tombolo_wire::v1::{self, ErrorCode, server_frame};
use tombolo_wire::{RoomId, UserId};

use super::generated::{Frame, Item};
use super::record::Heartbeat;
use super::record::tests::samples;
use super::{Record, Sender, VERSION, arrival};
use crate::before::{OTHER_MEANING, kept};
use crate::forward::Manner;
use crate::reject::Reject;

#[test]
fn items_of_the_release_before_say_the_same() {
    let frame = Frame {
        version: VERSION,
        from: "node-1".into(),
        epoch: 7,
        to_epoch: 8,
        ack: 9,
        missing: true,
        first: 10,
        items: items(),
        loose: vec![message(0, &Manner::Unreliable)],
    };
    let bytes = kept("frame", &frame.encode_to_vec());
    let (from, before) = super::decode(&bytes).unwrap();
    assert_eq!(from.as_str(), "node-1");
    assert_eq!(before.encode_to_vec(), bytes, "something is lost of it");
    assert_eq!(before.items.len(), frame.items.len());
    let all = |frame: Frame| frame.items.into_iter().chain(frame.loose);
    for (before, now) in all(before).zip(all(frame)) {
        let before = arrival::parse(before);
        assert!(before.is_ok(), "{before:?}");
        assert_eq!(before, arrival::parse(now), "{OTHER_MEANING}");
    }
}

#[test]
fn records_and_heartbeats_of_the_release_before_say_the_same() {
    let (record, beat) = samples();
    let before = kept("record", &record.encode());
    assert_eq!(Record::decode(&before), Ok(record), "{OTHER_MEANING}");
    let before = kept("heartbeat", &beat.encode());
    assert_eq!(Heartbeat::decode(&before), Ok(beat), "{OTHER_MEANING}");
}

fn items() -> Vec<Item> {
    let (sender, session) = (sender(70), SessionId([1; 16]));
    let introduction = v1::Introduction {
        attempt: 5,
        ufrag: "ufrag".into(),
        password: "a password that is long".into(),
        ..v1::Introduction::default()
    };
    let frame = v1::ServerFrame {
        body: Some(server_frame::Body::Pong(v1::Ping { nonce: 6 })),
        ..v1::ServerFrame::default()
    };
    let reject = Reject::new(ErrorCode::Limit, "too fast");
    let ips = ["192.0.2.1".parse().unwrap()];
    vec![
        message(70, &Manner::Ordered),
        message(71, &Manner::Unordered),
        super::introduction_item(&sender, &user("bob"), &introduction, &ips),
        super::refusal_item(session, 70, &reject),
        super::forward_item(session, &frame, true, Some(&sender)),
        super::moved_item(&sender),
        super::passed_item(session, &sender.room),
        super::settled_item(session, &sender.room),
    ]
}

fn message(seq: u64, manner: &Manner) -> Item {
    let group = std::num::NonZeroU32::new(4).map(GroupId);
    let payload = Bytes::from_static(b"kept");
    super::message_item(&sender(seq), &[user("bob")], group, manner, &payload)
}

fn sender(seq: u64) -> Sender {
    Sender {
        room: RoomId::parse("lobby").unwrap(),
        at: Offset {
            epoch: Epoch(2),
            seq: 17,
        },
        user: user("alice"),
        session: SessionId([1; 16]),
        seq,
    }
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}
