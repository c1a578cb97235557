use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{Expect, Key, Local, LocalConfig, Log as _, Purpose, TailEvent};
use tombolo_room::{
    Act, Actor, Audience, Body, Entry, HISTORY_BYTES_MAX, OperationId, Settings, Time,
};
use tombolo_wire::frame::SERVER_FRAME_BYTES_MAX;
use tombolo_wire::v1::{self, ErrorCode, JoinMode, client_frame, request, response, room_act};

use crate::lab::{Device, Lab, UNIX_NOW, members};

#[tokio::test(start_paused = true)]
async fn each_join_mode_finds_or_makes_a_room_or_says_why_not() {
    let lab = Lab::new();
    let mut alice = lab.device("alice").await;
    let mut bob = lab.device("bob").await;

    assert_eq!(
        alice.join("r", JoinMode::Join).await,
        Err(ErrorCode::NoSuchRoom)
    );
    let created = alice.join_up_to("r", JoinMode::Create, 5).await.unwrap();
    assert_eq!(
        (members(&created), created.members_max, created.created),
        (vec!["alice"], 5, true)
    );
    assert_eq!(
        bob.join("r", JoinMode::Create).await,
        Err(ErrorCode::RoomExists)
    );
    let joined = bob.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(
        (members(&joined), joined.created),
        (vec!["alice", "bob"], false)
    );
    assert_eq!(joined.members[0].keys, Some(alice.keys.clone()));
    assert_eq!(alice.next_event().await, "+bob");

    // Whoever is in already is told so, and nobody else hears of it.
    let again = bob.join("r", JoinMode::JoinOrCreate).await.unwrap();
    assert_eq!(
        (members(&again), again.created),
        (vec!["alice", "bob"], false)
    );
    alice.is_quiet().await;
    assert!(bob.join("s", JoinMode::JoinOrCreate).await.unwrap().created);
    for code in [ErrorCode::NoSuchRoom, ErrorCode::RoomExists] {
        assert_eq!(lab.refused(code), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_not_in_order_say_what_is_wrong() {
    let lab = Lab::with(|config| {
        config.members_max = 10;
        config.rooms_per_session_max = 2;
    });
    let mut alice = lab.device("alice").await;
    for room in ["", "a b", "a/b", "a*", "ä", &"r".repeat(129)] {
        let joined = alice.join(room, JoinMode::JoinOrCreate).await;
        assert_eq!(joined, Err(ErrorCode::BadName), "{room:?}");
        assert_eq!(alice.leave(room).await, Err(ErrorCode::BadName), "{room:?}");
    }
    let joined = alice.join("r", JoinMode::Unspecified).await;
    assert_eq!(joined, Err(ErrorCode::BadFrame));
    let joined = alice.join_up_to("r", JoinMode::Create, 11).await;
    assert_eq!(joined, Err(ErrorCode::Limit));
    let id = alice.request(None);
    assert_eq!(alice.next_response(id).await, Err(ErrorCode::BadFrame));
    assert_eq!(alice.leave("r").await, Err(ErrorCode::NotAMember));

    for room in ["1", "2"] {
        alice.join(room, JoinMode::Create).await.unwrap();
    }
    assert_eq!(
        alice.join("3", JoinMode::Create).await,
        Err(ErrorCode::Limit)
    );
    assert!(alice.join("2", JoinMode::Join).await.is_ok());
    let longest = "r".repeat(128);
    alice.leave("1").await.unwrap();
    assert!(alice.join(&longest, JoinMode::Create).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn members_hear_of_comings_and_goings_in_the_same_order() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let mut carol = lab.device("carol").await;
    carol.join("r", JoinMode::Join).await.unwrap();
    carol.leave("r").await.unwrap();
    carol.join("r", JoinMode::Join).await.unwrap();
    carol
        .send(client_frame::Body::Goodbye(v1::Goodbye {}))
        .unwrap();
    assert_eq!(carol.next_close().await, None);

    for device in [&mut alice, &mut bob] {
        for event in ["+carol", "-carol left", "+carol", "-carol left"] {
            assert_eq!(device.next_event().await, event);
        }
        device.is_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_room_takes_as_many_as_its_creator_said() {
    let lab = Lab::new();
    let mut alice = lab.device("alice").await;
    alice.join_up_to("r", JoinMode::Create, 2).await.unwrap();
    let mut bob = lab.device("bob").await;
    bob.join_up_to("r", JoinMode::JoinOrCreate, 99)
        .await
        .unwrap();
    let mut carol = lab.device("carol").await;
    assert_eq!(
        carol.join("r", JoinMode::JoinOrCreate).await,
        Err(ErrorCode::RoomFull)
    );
    bob.leave("r").await.unwrap();
    assert!(carol.join("r", JoinMode::Join).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn of_many_who_come_at_once_one_creates_and_all_get_in() {
    let lab = Lab::new();
    let mut devices = Vec::new();
    for number in 0..40 {
        devices.push(lab.device(&format!("user-{number}")).await);
    }
    let ids: Vec<_> = devices
        .iter_mut()
        .map(|device| device.ask_join("r", JoinMode::JoinOrCreate, 64))
        .collect();
    let mut created = 0;
    for (device, id) in devices.iter_mut().zip(ids) {
        let Ok(response::Result::Joined(joined)) = device.next_response(id).await else {
            panic!("everybody gets in");
        };
        created += usize::from(joined.created);
        // From the response on, events tell of everybody who is not in it.
        let mut known = joined.members.len();
        while known < 40 {
            assert!(device.next_event().await.starts_with('+'));
            known += 1;
        }
        device.is_quiet().await;
    }
    assert_eq!(created, 1);
}

#[tokio::test(start_paused = true)]
async fn an_empty_room_vanishes_and_may_be_made_again() {
    let lab = Lab::new();
    let [mut alice] = lab.members("r", ["alice"]).await;
    for _ in 0..3 {
        alice.leave("r").await.unwrap();
        assert_eq!(
            alice.join("r", JoinMode::Join).await,
            Err(ErrorCode::NoSuchRoom)
        );
        let created = alice.join_up_to("r", JoinMode::Create, 3).await.unwrap();
        assert_eq!((created.created, created.members_max), (true, 3));
    }
    alice.leave("r").await.unwrap();
    alice.is_quiet().await;
    assert_eq!(lab.services.stats().rooms, 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_session_of_a_user_replaces_the_first() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let mut second = lab.device("alice").await;
    let joined = second.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(members(&joined), ["alice", "bob"], "in its place");

    assert_eq!(bob.next_event().await, "-alice replaced");
    assert_eq!(bob.next_event().await, "+alice");
    assert_eq!(alice.next_event().await, "-alice replaced");
    alice.is_quiet().await;
    assert_eq!(alice.leave("r").await, Err(ErrorCode::NotAMember));

    // The first session's end is no news to the room.
    alice
        .send(client_frame::Body::Goodbye(v1::Goodbye {}))
        .unwrap();
    bob.is_quiet().await;
    second.leave("r").await.unwrap();
    assert_eq!(bob.next_event().await, "-alice left");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_goes_while_it_joins_is_no_member() {
    let lab = Lab::new();
    let [mut alice] = lab.members("r", ["alice"]).await;
    let mut bob = lab.device("bob").await;
    bob.ask_join("r", JoinMode::Join, 0);
    bob.send(client_frame::Body::Goodbye(v1::Goodbye {}))
        .unwrap();
    drop(bob);
    alice.drain().await;
    let mut carol = lab.device("carol").await;
    let joined = carol.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(members(&joined), ["alice", "carol"]);
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_are_bounded() {
    let lab = Lab::with(|config| config.requests_max = 4);
    let mut alice = lab.device("alice").await;
    for number in 0..20 {
        alice.ask_join(&format!("r{number}"), JoinMode::Create, 0);
    }
    alice.drain().await;
    assert_eq!(lab.refused(ErrorCode::Limit), 16);
    assert_eq!(lab.services.stats().rooms, 4);
}

#[tokio::test(start_paused = true)]
async fn ice_servers_are_refreshed_on_request() {
    let lab = Lab::new();
    let mut alice = lab.device("alice").await;
    let id = alice.request(Some(request::Kind::IceServers(
        v1::RefreshIceServers::default(),
    )));
    let Ok(response::Result::IceServers(servers)) = alice.next_response(id).await else {
        panic!("the response holds servers");
    };
    assert_eq!(servers.servers[0].username, "1:alice");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_no_connection_carries_fails_its_request_and_not_the_session() {
    let lab = Lab::new();
    let mut alice = lab.device("alice").await;
    *lab.relay.urls.lock().unwrap() = vec!["u".repeat(SERVER_FRAME_BYTES_MAX)];
    let id = alice.request(Some(request::Kind::IceServers(
        v1::RefreshIceServers::default(),
    )));
    assert_eq!(alice.next_response(id).await, Err(ErrorCode::TooLarge));
    assert!(alice.join("r", JoinMode::Create).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_long_lived_room_is_the_same_for_who_comes_late() {
    let engine = Arc::new(Local::new(LocalConfig::default()));
    let first = Lab::on(engine.clone(), |config| {
        config.node = "one".parse().unwrap();
        config.joins.burst = 1_000;
    });
    let second = Lab::on(engine, |config| config.node = "two".parse().unwrap());
    let [mut alice] = first.members("r", ["alice"]).await;
    let mut bob = first.device("bob").await;
    for _ in 0..400 {
        bob.join("r", JoinMode::Join).await.unwrap();
        bob.leave("r").await.unwrap();
    }
    alice.drain().await;

    // The second node reads a snapshot and what followed.
    let mut carol = second.device("carol").await;
    let joined = carol.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(members(&joined), ["alice", "carol"]);
    assert_eq!(alice.next_event().await, "+carol");

    carol.connection = None;
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(alice.next_event().await, "?carol");
    assert_eq!(alice.next_event().await, "-carol disconnected");
}

#[tokio::test(start_paused = true)]
async fn the_log_of_a_room_with_much_to_say_stays_short() {
    let engine = Arc::new(Local::new(LocalConfig::default()));
    let lab = Lab::on(engine.clone(), |_| {});
    let [mut alice] = lab.members("r", ["alice"]).await;
    for _ in 0..200 {
        alice.act("r", say(16 * 1024)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // What a room remembers, as a snapshot and as entries.
    let bytes = log_bytes(&engine).await;
    assert!(bytes < 2 * HISTORY_BYTES_MAX + 300_000, "{bytes}");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_has_become_long_is_shorter_once_a_node_has_read_it() {
    let engine = Arc::new(Local::new(LocalConfig::default()));
    let settings = Settings {
        empty_kept: Duration::from_secs(3600),
        history_max: 1,
        ..Settings::default()
    };
    let opened = Body::Created {
        settings,
        first: None,
        properties: Vec::new(),
        reserve: None,
        code: None,
    };
    append(&engine, opened).await;
    for _ in 0..40 {
        let act = Act::Say {
            audience: Audience::All,
            payload: Bytes::from(vec![0; 16 * 1024]),
        };
        let actor = Actor::Server;
        append(&engine, Body::Act { actor, act }).await;
    }
    let lab = Lab::on(engine.clone(), |_| {});
    let mut alice = lab.device("alice").await;
    let exists = alice.join("r", JoinMode::Create).await;
    assert_eq!(exists, Err(ErrorCode::RoomExists));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let bytes = log_bytes(&engine).await;
    assert!(bytes < 100_000, "{bytes}");
}

#[tokio::test(start_paused = true)]
async fn members_leave_rooms_that_have_filled_the_node_and_make_place_so() {
    let mut bounds = LocalConfig::default();
    bounds.log_bytes_max = 400_000;
    let lab = Lab::on(Arc::new(Local::new(bounds)), |_| {});
    let mut members = lab.members("r", ["a", "b", "c", "d", "e", "f"]).await;
    for bytes in [16 * 1024, 1024, 1] {
        while members[0].act("r", say(bytes)).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    // Who may not put anybody out takes no place by trying.
    let kick = || {
        room_act::Kind::Kick(v1::Kick {
            user: "c".to_owned(),
        })
    };
    assert_eq!(
        members[1].act("r", kick()).await,
        Err(ErrorCode::Unavailable)
    );
    let mut carol = lab.device("carol").await;
    let full = carol.join("other", JoinMode::Create).await;
    assert_eq!(full, Err(ErrorCode::Unavailable));
    for device in &mut members {
        device.drain().await;
        device.leave("r").await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    carol.join("other", JoinMode::Create).await.unwrap();
}

fn say(bytes: usize) -> room_act::Kind {
    room_act::Kind::Say(v1::Say {
        payload: Bytes::from(vec![0; bytes]),
        ..v1::Say::default()
    })
}

/// What there is to read of the room's log.
async fn log_bytes(engine: &Local) -> usize {
    let mut tail = engine.tail(&room_log(), None).await.unwrap();
    let mut bytes = 0;
    loop {
        bytes += match tail.next().await.unwrap() {
            TailEvent::Snapshot { state, .. } => state.len(),
            TailEvent::Entry { entry, .. } => entry.len(),
            _ => return bytes,
        };
    }
}

async fn append(engine: &Local, body: Body) {
    let operation = OperationId(rand::random());
    let time = Time::from_millis(u64::try_from(UNIX_NOW.as_millis()).unwrap());
    let entry = Entry {
        operation,
        time,
        node: None,
        incarnation: 0,
        body,
    };
    let id = tombolo_engine::OperationId(operation.0);
    let (log, entry) = (room_log(), entry.encode());
    let append = engine.append(&log, entry, Purpose::More, Expect::Any, id);
    append.await.unwrap();
}

fn room_log() -> Key {
    Key::new(["room", "r"]).unwrap()
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_and_goes_too_often_is_refused_for_a_while() {
    let lab = Lab::with(|config| config.joins.burst = 10);
    let [mut alice] = lab.members("r", ["alice"]).await;
    let mut bob = lab.device("bob").await;
    for _ in 0..10 {
        bob.join("r", JoinMode::Join).await.unwrap();
        bob.leave("r").await.unwrap();
    }
    assert_eq!(bob.join("r", JoinMode::Join).await, Err(ErrorCode::Limit));
    // Another session of his is no way around it.
    let mut second = lab.device("bob").await;
    assert_eq!(
        second.join("r", JoinMode::Join).await,
        Err(ErrorCode::Limit)
    );
    for _ in 0..10 {
        assert_eq!(alice.next_event().await, "+bob");
        assert_eq!(alice.next_event().await, "-bob left");
    }
    alice.is_quiet().await;
    assert!(bob.join("r", JoinMode::Join).await.is_ok());
}

/// Nobody proves to have the private key of the identity that a `Hello` claims. What a copied one is
/// good for: nothing in a room where its owner is, and elsewhere to be somebody with whom no link
/// comes about, because a link proves the key.
#[tokio::test(start_paused = true)]
async fn a_copied_identity_key_does_not_get_into_the_room_of_the_first() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let mut mallory = Device::new("mallory");
    mallory.keys.identity = bob.keys.identity.clone();
    mallory.connect(&lab).await.unwrap();
    assert_eq!(
        mallory.join("r", JoinMode::JoinOrCreate).await,
        Err(ErrorCode::KeyTaken)
    );
    for device in [&mut alice, &mut bob] {
        device.is_quiet().await;
    }

    // Whoever asks at the same time as the owner does not get in beside it.
    let mut owner = lab.device("owner").await;
    let mut thief = Device::new("thief");
    thief.keys.identity = owner.keys.identity.clone();
    thief.connect(&lab).await.unwrap();
    let ids = [
        owner.ask_join("r", JoinMode::Join, 0),
        thief.ask_join("r", JoinMode::Join, 0),
    ];
    assert!(owner.next_response(ids[0]).await.is_ok());
    owner.drain().await;
    assert_eq!(thief.next_response(ids[1]).await, Err(ErrorCode::KeyTaken));
    alice.drain().await;
    let members_now = alice.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(members(&members_now), ["alice", "bob", "owner"]);

    // The same user's next session may have the same keys.
    let mut second = Device::new("bob");
    second.connect(&lab).await.unwrap();
    assert!(second.join("r", JoinMode::Join).await.is_ok());
}
