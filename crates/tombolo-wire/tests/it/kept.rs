//! Frames that the release before sent: this one understands all that they say.
//!
//! `cargo xtask proto --check` compares the contracts; this compares bytes.

use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use tombolo_wire::frame::{Decoder, Frame, write};
use tombolo_wire::v1::{
    self, ClientFrame, ErrorCode, JoinMode, ServerFrame, client_frame, property_change,
    property_value, request, response, room_act, room_event, server_frame,
};

#[test]
fn what_devices_of_the_release_before_say_is_understood() {
    check("client.frames", client_frames());
}

#[test]
fn what_nodes_of_the_release_before_say_is_understood() {
    check("server.frames", server_frames());
}

/// Nothing is lost of what was kept: it is written again as it was. With `TOMBOLO_KEEP` set, once a
/// release is made, the frames of this one are kept.
fn check<F: Frame + PartialEq + std::fmt::Debug>(name: &str, frames: Vec<F>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/kept")
        .join(name);
    if std::env::var_os("TOMBOLO_KEEP").is_some() {
        let mut kept = BytesMut::new();
        for frame in &frames {
            write(frame, &mut kept).unwrap();
        }
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &kept).unwrap();
    }
    let kept = std::fs::read(&path).unwrap();
    let mut decoder = Decoder::new();
    let mut rest = Bytes::from(kept.clone());
    let mut again = BytesMut::new();
    let mut count = 0;
    while let Some(frame) = decoder.decode::<F>(&mut rest).unwrap() {
        write(&frame, &mut again).unwrap();
        count += 1;
    }
    assert!(count > 5, "{count} frames were kept");
    assert_eq!(again, kept);
}

fn client(body: client_frame::Body) -> ClientFrame {
    ClientFrame {
        seq: 70,
        ack: 69,
        body: Some(body),
    }
}

fn server(body: server_frame::Body) -> ServerFrame {
    ServerFrame {
        seq: 70,
        ack: 69,
        body: Some(body),
    }
}

fn keys() -> v1::DeviceKeys {
    v1::DeviceKeys {
        identity: Bytes::from_static(&[1; 32]),
        seal: Bytes::from_static(&[2; 32]),
    }
}

fn change() -> v1::PropertyChange {
    v1::PropertyChange {
        key: "level".into(),
        operation: Some(property_change::Operation::Set(integer(7))),
        expect: Some(property_change::Expect::Revision(3)),
        lasts_ms: 5000,
        public: Some(true),
    }
}

fn integer(value: i64) -> v1::PropertyValue {
    v1::PropertyValue {
        kind: Some(property_value::Kind::Integer(value)),
    }
}

fn settings() -> v1::RoomSettings {
    v1::RoomSettings {
        members_max: 12,
        password: Bytes::from_static(&[3; 32]),
        locked: true,
        hidden: true,
        seat_kept_ms: 60_000,
        empty_kept_ms: 30_000,
        owner_policy: v1::OwnerPolicy::Manual.into(),
        writers: v1::Writers::Owner.into(),
        history_max: 100,
    }
}

fn introduction() -> v1::Introduction {
    v1::Introduction {
        attempt: 5,
        answers: 4,
        keys: Some(keys()),
        ufrag: "ufrag".into(),
        password: "a password that is long".into(),
        candidates: vec![v1::Candidate {
            kind: v1::CandidateKind::Relayed.into(),
            address: Some(v1::Address {
                ip: Bytes::from_static(&[192, 0, 2, 1]),
                port: 49_152,
            }),
            priority: 1,
        }],
        early: Bytes::from_static(b"early"),
        update: true,
        nat: Some(v1::Nat {
            mapping: v1::NatMapping::Dependent.into(),
            filtering: v1::NatFiltering::AddressDependent.into(),
            udp_blocked: true,
        }),
    }
}

fn client_frames() -> Vec<ClientFrame> {
    let request = |kind| {
        let kind = Some(kind);
        client(client_frame::Body::Request(v1::Request { id: 9, kind }))
    };
    let act = |kind| {
        request(request::Kind::Room(v1::RoomRequest {
            room: "lobby".into(),
            act: Some(v1::RoomAct { kind: Some(kind) }),
            ..v1::RoomRequest::default()
        }))
    };
    let join = v1::Join {
        room: "lobby".into(),
        mode: JoinMode::JoinOrCreate.into(),
        members_max: 4,
        settings: Some(settings()),
        room_properties: vec![change()],
        password: Bytes::from_static(&[3; 32]),
        member_properties: vec![change()],
        reachability: 8,
        after: Some(v1::MessagePosition {
            opening: Bytes::from_static(&[4; 16]),
            number: 17,
        }),
        ..v1::Join::default()
    };
    vec![
        client(client_frame::Body::Hello(v1::Hello {
            version: 1,
            token: "token".into(),
            keys: Some(keys()),
            resume: Some(v1::Resume {
                token: Bytes::from_static(&[5; 32]),
            }),
            agent: "kept".into(),
            life: 0,
            sent_here: false,
            comes_nearer: false,
        })),
        client(client_frame::Body::Ping(v1::Ping { nonce: 6 })),
        request(request::Kind::Join(join)),
        request(request::Kind::Leave(v1::Leave {
            room: "lobby".into(),
        })),
        request(request::Kind::IceServers(v1::RefreshIceServers::default())),
        request(request::Kind::History(v1::HistoryRequest {
            room: "lobby".into(),
            before: 40,
            limit: 10,
        })),
        act(room_act::Kind::Say(v1::Say {
            audience: Some(v1::Audience {
                others: true,
                ..v1::Audience::default()
            }),
            payload: Bytes::from_static(b"kept"),
        })),
        act(room_act::Kind::Change(v1::ChangeProperties {
            member: "alice".into(),
            object: 0,
            changes: vec![change()],
        })),
        act(room_act::Kind::Kick(v1::Kick { user: "bob".into() })),
        client(client_frame::Body::Send(v1::Send {
            room: "lobby".into(),
            to: vec!["bob".into()],
            payload: Bytes::from_static(b"plain"),
            ..v1::Send::default()
        })),
        client(client_frame::Body::Introduce(v1::Introduce {
            room: "lobby".into(),
            to: "bob".into(),
            introduction: Some(introduction()),
            ..v1::Introduce::default()
        })),
        client(client_frame::Body::Goodbye(v1::Goodbye {})),
        client(client_frame::Body::Acknowledge(v1::Ack {})),
    ]
}

fn server_frames() -> Vec<ServerFrame> {
    let response = |result| {
        let result = Some(result);
        server(server_frame::Body::Response(v1::Response { id: 9, result }))
    };
    let event = |kind| {
        server(server_frame::Body::RoomEvent(v1::RoomEvent {
            room: "lobby".into(),
            kind: Some(kind),
            by: "alice".into(),
        }))
    };
    let member = || v1::Member {
        user: "alice".into(),
        keys: Some(keys()),
        seat: 3,
        dropped: true,
    };
    let servers = v1::IceServers {
        servers: vec![v1::IceServer {
            urls: vec!["turn:192.0.2.1".into()],
            username: "name".into(),
            credential: "secret".into(),
        }],
        ttl_s: 600,
        ..v1::IceServers::default()
    };
    vec![
        server(server_frame::Body::Welcome(v1::Welcome {
            session_id: Bytes::from_static(&[6; 16]),
            resume_token: Bytes::from_static(&[7; 32]),
            resumed: true,
            node: "node-1".into(),
            user: "alice".into(),
            ice_servers: Some(servers.clone()),
            resume_window_ms: 30_000,
            nodes: vec!["tombolo://192.0.2.2:8443".into()],
        })),
        server(server_frame::Body::Reject(v1::Reject {
            code: ErrorCode::Elsewhere.into(),
            message: "this node is leaving".into(),
            nodes: vec!["tombolo://192.0.2.2:8443".into()],
        })),
        server(server_frame::Body::Pong(v1::Ping { nonce: 6 })),
        response(response::Result::Failure(v1::Failure {
            code: ErrorCode::RoomFull.into(),
            message: "the room is full".into(),
        })),
        response(response::Result::Joined(v1::Joined {
            room: "lobby".into(),
            members: vec![member()],
            members_max: 12,
            created: true,
            last: Some(v1::MessagePosition {
                opening: Bytes::from_static(&[4; 16]),
                number: 17,
            }),
            recovered: true,
            ..v1::Joined::default()
        })),
        response(response::Result::Acted(v1::Acted {
            object: 5,
            message: 18,
        })),
        event(room_event::Kind::Joined(member())),
        event(room_event::Kind::Returned(member())),
        event(room_event::Kind::Left(v1::MemberLeft {
            user: "bob".into(),
            reason: "left".into(),
        })),
        event(room_event::Kind::Settings(settings())),
        event(room_event::Kind::Properties(v1::PropertiesChanged {
            member: "alice".into(),
            object: 0,
            set: vec![v1::Property {
                key: "level".into(),
                value: Some(integer(7)),
                revision: 4,
                expires_ms: Some(1),
                public: true,
            }],
            deleted: vec!["old".into()],
        })),
        event(room_event::Kind::Said(v1::RoomMessage {
            number: 18,
            time_ms: 1_800_000_000_000,
            from: "alice".into(),
            payload: Bytes::from_static(b"kept"),
            ..v1::RoomMessage::default()
        })),
        event(room_event::Kind::Synced(v1::Synced { lost: true })),
        event(room_event::Kind::Reset(v1::RoomReset {})),
        server(server_frame::Body::Delivery(v1::Delivery {
            room: "lobby".into(),
            from: "bob".into(),
            payload: Bytes::from_static(b"plain"),
            ..v1::Delivery::default()
        })),
        server(server_frame::Body::Introduced(v1::Introduced {
            room: "lobby".into(),
            from: "bob".into(),
            introduction: Some(introduction()),
            ..v1::Introduced::default()
        })),
        server(server_frame::Body::Refused(v1::Refused {
            seq: 70,
            code: ErrorCode::Limit.into(),
            message: "too fast".into(),
        })),
        server(server_frame::Body::GoAway(v1::GoAway {
            reason: "drained".into(),
            nodes: vec!["tombolo://192.0.2.2:8443".into()],
        })),
        server(server_frame::Body::IceServers(servers)),
        server(server_frame::Body::Acknowledge(v1::Ack {})),
    ]
}
