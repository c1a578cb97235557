//! What a room knows, as the SDK shows it.

use std::time::Duration;

use tombolo_client::{
    Act, Audience, Change, ErrorCode, Expectation, ObjectPlan, Operation, PropertyKey, Room,
    RoomEvent, RoomOptions, RoomSettings, Takeover, Target, Value,
};

use crate::lab::{device, node, soon, user};

#[tokio::test]
async fn members_share_properties_objects_and_durable_messages() {
    let node = node().await;
    let (alice, bob) = (device(&node, "alice").await, device(&node, "bob").await);
    let options = RoomOptions {
        properties: vec![Change::set(key("map"), Value::Integer(3))],
        ..RoomOptions::default()
    };
    let a = alice.rooms().create("hall", options).await.unwrap();
    let ball = ObjectPlan {
        kind: key("ball"),
        takeover: Takeover::Taken,
        stays: false,
        group: None,
        properties: vec![Change::set(key("x"), Value::Number(0.5))],
    };
    let ball = a.create_object(ball).await.unwrap();
    assert_eq!(a.say(Audience::All, "before bob").await.unwrap(), 1);

    let mut b = join(&bob, "hall", RoomOptions::default()).await;
    assert!(!synced(&mut b).await, "nothing was lost");
    b.read(|room| {
        assert_eq!(room.properties[&key("map")].value, Value::Integer(3));
        assert_eq!(room.owner, Some(user("alice")));
        assert_eq!(
            room.objects[&ball].properties[&key("x")].value,
            Value::Number(0.5)
        );
        assert_eq!(room.members[&user("bob")].seat, 1);
    });

    let count = Change {
        operation: Operation::Add(1),
        ..Change::set(key("count"), Value::Integer(0))
    };
    a.change(Target::Room, vec![count.clone()]).await.unwrap();
    b.change(Target::Room, vec![count]).await.unwrap();
    b.read(|room| assert_eq!(room.properties[&key("count")].value, Value::Integer(2)));
    b.own_object(ball, Some(user("bob"))).await.unwrap();
    assert_eq!(b.say(Audience::Others, "to alice").await.unwrap(), 2);

    let history = b.history(None, 10).await.unwrap();
    let numbers: Vec<_> = history.messages.iter().map(|said| said.number).collect();
    assert_eq!((numbers, history.more), (vec![2, 1], false));
    node.shutdown().await;
}

#[tokio::test]
async fn only_one_of_two_that_expect_the_same_gets_it() {
    let node = node().await;
    let (alice, bob) = (device(&node, "alice").await, device(&node, "bob").await);
    let a = join(&alice, "hall", RoomOptions::default()).await;
    let b = join(&bob, "hall", RoomOptions::default()).await;
    let claim = |value: &str| {
        vec![Change {
            expect: Expectation::Absent,
            ..Change::set(key("flag"), Value::Text(value.into()))
        }]
    };
    let (first, second) = tokio::join!(
        a.change(Target::Room, claim("a")),
        b.change(Target::Room, claim("b")),
    );
    let codes = [first, second].map(|result| result.err().map(|error| error.code()));
    assert!(codes.contains(&None) && codes.contains(&Some(Some(ErrorCode::Conflict))));
    node.shutdown().await;
}

#[tokio::test]
async fn a_room_with_a_password_lets_in_who_knows_it() {
    let node = node().await;
    let (alice, bob) = (device(&node, "alice").await, device(&node, "bob").await);
    let with = |password: &str| RoomOptions {
        password: Some(password.to_owned()),
        settings: Some(RoomSettings {
            members_max: 4,
            seat_kept: Duration::from_secs(5),
            ..RoomSettings::default()
        }),
        ..RoomOptions::default()
    };
    let a = alice.rooms().create("secret", with("open")).await.unwrap();
    for wrong in [RoomOptions::default(), with("sesame")] {
        let refused = bob.rooms().join("secret", wrong).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::WrongPassword));
        assert!(!refused.is_temporary());
    }
    let b = join(&bob, "secret", with("open")).await;
    let refused = b.kick(&user("alice")).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NotOwner));
    a.perform(Act::SetOwner(Some(user("bob")))).await.unwrap();
    let owner = loop {
        if let RoomEvent::Owner(owner) = soon(b.next_event()).await.unwrap() {
            break owner;
        }
    };
    assert_eq!(owner, Some(user("bob")));
    b.kick(&user("alice")).await.unwrap();
    node.shutdown().await;
}

async fn join(device: &tombolo_client::Device, room: &str, options: RoomOptions) -> Room {
    device.rooms().join_or_create(room, options).await.unwrap()
}

/// Waits until the whole room is known; whether messages were lost.
async fn synced(room: &mut Room) -> bool {
    loop {
        if let RoomEvent::Synced { lost } = soon(room.next_event()).await.unwrap() {
            return lost;
        }
    }
}

fn key(text: &str) -> PropertyKey {
    text.parse().unwrap()
}
