//! Rooms that somebody wants to blow up: every limit is refused with a reason, and the room goes on.

use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{Key, Local, LocalConfig};
use tombolo_room::{
    KEY_BYTES_MAX, OBJECTS_PER_MEMBER_MAX, OWNER_STATE_BYTES_MAX, PAYLOAD_BYTES_MAX,
    PROPERTIES_MAX, PROPERTY_CHANGES_MAX, Settings, VALUE_BYTES_MAX,
};
use tombolo_services::{Config, NewRoom};
use tombolo_wire::RoomId;
use tombolo_wire::v1::{self, ErrorCode, JoinMode, request, response, room_act::Kind};

use crate::cluster::{start, start_with};
use crate::lab::Lab;

#[tokio::test(start_paused = true)]
async fn a_room_takes_no_more_members_than_the_node_allows() {
    let lab = Lab::with(|config| config.members_max = 3);
    let mut alice = lab.device("alice").await;
    let refused = alice.join_up_to("r", JoinMode::Create, 4).await;
    assert_eq!(refused, Err(ErrorCode::Limit));
    alice.join_up_to("r", JoinMode::Create, 3).await.unwrap();
    let mut bob = lab.device("bob").await;
    let mut carol = lab.device("carol").await;
    for device in [&mut bob, &mut carol] {
        device.join("r", JoinMode::Join).await.unwrap();
    }
    let mut dave = lab.device("dave").await;
    assert_eq!(
        dave.join("r", JoinMode::Join).await,
        Err(ErrorCode::RoomFull)
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_opens_many_rooms_has_to_wait_and_whoever_joins_has_not() {
    let lab = Lab::with(|config| config.opens.burst = 3);
    let mut alice = lab.device("alice").await;
    let mut bob = lab.device("bob").await;
    bob.join("his", JoinMode::Create).await.unwrap();
    for room in ["a", "b", "c"] {
        alice.join(room, JoinMode::JoinOrCreate).await.unwrap();
    }
    let refused = alice.join("d", JoinMode::JoinOrCreate).await;
    assert_eq!(refused.map(drop), Err(ErrorCode::Limit));
    alice.join("his", JoinMode::JoinOrCreate).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    alice.join("d", JoinMode::JoinOrCreate).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_rooms_that_nobody_is_in_the_oldest_are_closed() {
    let lab = Lab::with(|config| config.empty_rooms_max = 4);
    let mut alice = lab.device("alice").await;
    let rooms = ["a", "b", "c", "d", "e"];
    for room in rooms {
        let settings = Some(v1::RoomSettings {
            empty_kept_ms: 3_600_000,
            ..v1::RoomSettings::default()
        });
        let join = v1::Join {
            room: room.into(),
            mode: JoinMode::Create.into(),
            settings,
            ..v1::Join::default()
        };
        alice.join_as(join).await.unwrap();
        alice.leave(room).await.unwrap();
        // It is in use again, and so not the oldest.
        if room == "b" {
            alice.join("a", JoinMode::Join).await.unwrap();
            alice.leave("a").await.unwrap();
        }
    }
    alice.drain().await;
    let gone = alice.join("b", JoinMode::Join).await;
    assert_eq!(gone.map(drop), Err(ErrorCode::NoSuchRoom));
    for room in ["a", "c", "d", "e"] {
        alice.join(room, JoinMode::Join).await.unwrap();
    }
    assert_eq!(lab.services.stats().rooms_crowded_out, 1);
}

#[tokio::test(start_paused = true)]
async fn a_room_into_which_somebody_has_come_over_another_node_is_not_closed_as_an_empty_one() {
    let local = Local::new(LocalConfig::default());
    let first = start_with(&local, 0, |config| config.empty_rooms_max = 1);
    let second = start(&local, 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let services = &first.lab.services;
    let open = async |room: &str| {
        let settings = Settings {
            empty_kept: Duration::from_secs(600),
            ..Settings::default()
        };
        let new = NewRoom {
            settings,
            ..NewRoom::default()
        };
        let room = RoomId::parse(room).unwrap();
        services.create_room(&room, new, None).await.unwrap();
    };
    open("old").await;
    // Its node does not read that he has come.
    let slow_log = |log| *first.wire.slow_log.lock().unwrap() = log;
    slow_log(Some(Key::new(["room", "old"]).unwrap()));
    let mut bob = second.lab.device("bob").await;
    bob.join("old", JoinMode::Join).await.unwrap();
    bob.drain().await;
    open("new").await;
    bob.is_quiet().await;
    slow_log(None);
    tokio::time::sleep(Duration::from_secs(5)).await;
    bob.is_quiet().await;
    let stats = services.stats();
    assert_eq!((stats.rooms, stats.rooms_crowded_out), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn properties_are_bounded_in_number_and_size() {
    let lab = Lab::with(lavish);
    let [mut alice] = lab.members("r", ["alice"]).await;
    let all: Vec<_> = (0..PROPERTIES_MAX)
        .map(|number| text(&format!("p{number}"), 1))
        .collect();
    for some in all.chunks(PROPERTY_CHANGES_MAX) {
        alice.act("r", change(some.to_vec())).await.unwrap();
    }
    let refused = [
        (change(vec![text("more", 1)]), ErrorCode::Limit),
        (
            change(vec![text("p0", VALUE_BYTES_MAX + 1)]),
            ErrorCode::Limit,
        ),
        (
            change(vec![text(&"k".repeat(KEY_BYTES_MAX + 1), 1)]),
            ErrorCode::BadFrame,
        ),
        (
            change(vec![text("p0", 1); PROPERTY_CHANGES_MAX + 1]),
            ErrorCode::BadFrame,
        ),
        (
            Kind::KeepState(v1::KeepState {
                state: zeros(OWNER_STATE_BYTES_MAX + 1),
            }),
            ErrorCode::BadFrame,
        ),
        (
            Kind::Say(v1::Say {
                audience: None,
                payload: zeros(PAYLOAD_BYTES_MAX + 1),
            }),
            ErrorCode::BadFrame,
        ),
    ];
    for (act, code) in refused {
        assert_eq!(alice.act("r", act).await, Err(code));
    }
    alice
        .act("r", change(vec![text("p0", VALUE_BYTES_MAX)]))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn all_properties_together_are_bounded_in_bytes() {
    let lab = Lab::with(lavish);
    let [mut alice] = lab.members("r", ["alice"]).await;
    let mut taken = 0;
    let refused = loop {
        let large: Vec<_> = (0..4)
            .map(|at| text(&format!("p{}", 4 * taken + at), 16_000))
            .collect();
        match alice.act("r", change(large)).await {
            Ok(_) => taken += 1,
            Err(code) => break code,
        }
    };
    assert_eq!(refused, ErrorCode::Limit);
    assert!(
        (30..34).contains(&taken),
        "2 MiB hold about 32 times four: {taken}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_member_owns_so_many_objects_and_no_more() {
    let lab = Lab::with(lavish);
    let [mut alice] = lab.members("r", ["alice"]).await;
    let object = |properties| {
        Kind::CreateObject(v1::CreateObject {
            kind: "ball".into(),
            takeover: v1::Takeover::Fixed.into(),
            properties,
            ..v1::CreateObject::default()
        })
    };
    for _ in 0..OBJECTS_PER_MEMBER_MAX {
        alice.act("r", object(Vec::new())).await.unwrap();
    }
    assert_eq!(
        alice.act("r", object(Vec::new())).await,
        Err(ErrorCode::Limit)
    );
    let large = vec![text("x", VALUE_BYTES_MAX + 1)];
    assert_eq!(alice.act("r", object(large)).await, Err(ErrorCode::Limit));
}

#[tokio::test(start_paused = true)]
async fn acts_are_bounded_per_second_and_by_what_members_are_told() {
    let lab = Lab::with(|config| config.acts.burst = 3);
    let [mut alice, _bob] = lab.members("r", ["alice", "bob"]).await;
    for _ in 0..3 {
        alice.act("r", change(vec![text("x", 1)])).await.unwrap();
    }
    let refused = alice.act("r", change(vec![text("x", 1)])).await;
    assert_eq!(refused, Err(ErrorCode::Limit));
    tokio::time::sleep(Duration::from_secs(1)).await;
    alice.act("r", change(vec![text("x", 1)])).await.unwrap();

    let lab = Lab::with(|config| config.deliveries.bytes_burst = 50_000);
    let [mut alice, _bob, _carol] = lab.members("r", ["alice", "bob", "carol"]).await;
    alice
        .act("r", change(vec![text("x", 10_000)]))
        .await
        .unwrap();
    let refused = alice.act("r", change(vec![text("x", 10_000)])).await;
    assert_eq!(
        refused,
        Err(ErrorCode::Limit),
        "20,000 bytes are left for 30,000"
    );
    assert_eq!(lab.refused(ErrorCode::Limit), 1);
}

#[tokio::test(start_paused = true)]
async fn a_join_that_says_too_much_is_refused_as_a_whole() {
    let lab = Lab::new();
    let mut alice = lab.device("alice").await;
    let wanted = || v1::Join {
        room: "r".into(),
        mode: JoinMode::Create.into(),
        ..v1::Join::default()
    };
    let many_seats = v1::Reserve {
        users: (0..300).map(|number| format!("user-{number}")).collect(),
        lasts_ms: 1000,
    };
    let more_seats_than_places = v1::Reserve {
        users: (0..70).map(|number| format!("user-{number}")).collect(),
        lasts_ms: 1000,
    };
    let refused = [
        (
            v1::Join {
                reserve: Some(many_seats),
                ..wanted()
            },
            ErrorCode::BadFrame,
        ),
        (
            v1::Join {
                reserve: Some(more_seats_than_places),
                ..wanted()
            },
            ErrorCode::RoomFull,
        ),
        (
            v1::Join {
                room_properties: vec![text("x", 1); 65],
                ..wanted()
            },
            ErrorCode::BadFrame,
        ),
        (
            v1::Join {
                room_properties: vec![text("x", VALUE_BYTES_MAX + 1)],
                ..wanted()
            },
            ErrorCode::Limit,
        ),
        (
            v1::Join {
                member_properties: vec![text("x", VALUE_BYTES_MAX + 1)],
                ..wanted()
            },
            ErrorCode::Limit,
        ),
        (
            v1::Join {
                password: zeros(31),
                ..wanted()
            },
            ErrorCode::BadFrame,
        ),
        (
            v1::Join {
                settings: Some(v1::RoomSettings {
                    history_max: u32::MAX,
                    ..v1::RoomSettings::default()
                }),
                ..wanted()
            },
            ErrorCode::Limit,
        ),
    ];
    for (join, code) in refused {
        let id = alice.request(Some(request::Kind::Join(join)));
        assert_eq!(alice.response_among_events(id).await, Err(code));
    }
    let id = alice.request(Some(request::Kind::Join(wanted())));
    let joined = alice.response_among_events(id).await;
    assert!(
        matches!(joined, Ok(response::Result::Joined(_))),
        "{joined:?}"
    );
}

/// So much that only the room's own limits count.
fn lavish(config: &mut Config) {
    config.acts.burst = 1_000_000;
    config.act_bytes.burst = u32::MAX;
    config.rate.frames_burst = 1_000_000;
    config.rate.bytes_burst = u32::MAX;
    config.deliveries.frames_burst = 1_000_000;
    config.deliveries.bytes_burst = u32::MAX;
}

fn change(changes: Vec<v1::PropertyChange>) -> Kind {
    Kind::Change(v1::ChangeProperties {
        changes,
        ..v1::ChangeProperties::default()
    })
}

fn text(key: &str, length: usize) -> v1::PropertyChange {
    let kind = Some(v1::property_value::Kind::Text("x".repeat(length)));
    let value = v1::PropertyValue { kind };
    v1::PropertyChange {
        key: key.into(),
        operation: Some(v1::property_change::Operation::Set(value)),
        ..v1::PropertyChange::default()
    }
}

fn zeros(length: usize) -> Bytes {
    vec![0; length].into()
}
