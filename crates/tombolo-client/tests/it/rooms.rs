//! Rooms, as the SDK shows them.

use tombolo_client::{
    Aspect, Change, Comparison, ErrorCode, Lane, PropertyKey, Query, RoomEvent, RoomOptions,
    SettingsChange,
};

use crate::lab::{device, message, node, soon, user};

#[tokio::test]
async fn members_hear_of_each_other_and_hear_each_other() {
    let node = node().await;
    let (alice, bob, carol) = (
        device(&node, "alice").await,
        device(&node, "bob").await,
        device(&node, "carol").await,
    );
    let options = RoomOptions::default;
    let mut a = alice.rooms().create("hall", options()).await.unwrap();
    let mut b = bob.rooms().join("hall", options()).await.unwrap();
    let mut c = carol
        .rooms()
        .join_or_create("hall", options())
        .await
        .unwrap();
    assert_eq!(c.members(), [user("alice"), user("bob"), user("carol")]);

    c.broadcast(Lane::Reliable, "to all").await.unwrap();
    for room in [&mut a, &mut b] {
        assert_eq!(soon(message(room)).await, (user("carol"), "to all".into()));
    }
    a.send(&[user("carol")], Lane::Reliable, "to one")
        .await
        .unwrap();
    b.broadcast(Lane::Unreliable, "maybe").await.unwrap();
    let mut heard = [soon(message(&mut c)).await, soon(message(&mut c)).await];
    heard.sort();
    assert_eq!(
        heard,
        [
            (user("alice"), "to one".into()),
            (user("bob"), "maybe".into())
        ]
    );

    b.leave().await.unwrap();
    let left = loop {
        if let RoomEvent::Left { user, reason } = soon(c.next_event()).await.unwrap() {
            break (user, reason);
        }
    };
    assert_eq!(left, (user("bob"), "left".to_owned()));
    assert_eq!(c.members(), [user("alice"), user("carol")]);
    node.shutdown().await;
}

#[tokio::test]
async fn rooms_are_found_joined_and_made_by_what_is_public_about_them() {
    let node = node().await;
    let (alice, bob, carol) = (
        device(&node, "alice").await,
        device(&node, "bob").await,
        device(&node, "carol").await,
    );
    let key = |key: &str| PropertyKey::parse(key).unwrap();
    let duel = Comparison::Equal(vec!["duel".into()]);
    let duels = Query::default().with(Aspect::Property(key("mode")), duel);
    let options = || RoomOptions {
        properties: vec![Change::publish(key("mode"), "duel".into())],
        with_code: true,
        ..RoomOptions::default()
    };
    let none = alice.rooms().join_random(&duels, options()).await;
    assert_eq!(none.unwrap_err().code(), Some(ErrorCode::NoSuchRoom));
    let mut a = alice
        .rooms()
        .join_random_or_create(&duels, options())
        .await
        .unwrap();
    let b = bob.rooms().join_best(&duels, options()).await.unwrap();
    assert_eq!((a.id(), a.code()), (b.id(), b.code()));
    let code = a.code().unwrap();

    let hidden = SettingsChange {
        is_hidden: Some(true),
        ..SettingsChange::default()
    };
    let found = carol.rooms().list(&duels).await.unwrap();
    assert_eq!(found.rooms.len(), 1);
    assert_eq!(found.rooms[0].members, 2);
    assert!(found.next.is_none());
    a.configure(hidden).await.unwrap();
    let found = carol.rooms().list(&duels).await.unwrap();
    assert!(found.rooms.is_empty());
    let c = carol.rooms().join_code(code, options()).await.unwrap();
    assert_eq!(c.members().len(), 3);
    c.broadcast(Lane::Reliable, "found you").await.unwrap();
    assert_eq!(
        soon(message(&mut a)).await,
        (user("carol"), "found you".into())
    );
    let again = carol.rooms().join_code(code, options()).await;
    assert!(again.is_err(), "it is in the room already");
    c.broadcast(Lane::Reliable, "still here").await.unwrap();
    assert_eq!(
        soon(message(&mut a)).await,
        (user("carol"), "still here".into())
    );
    node.shutdown().await;
}

#[tokio::test]
async fn a_room_with_a_password_is_joined_by_its_code_and_by_what_is_public_about_it() {
    let node = node().await;
    let (alice, bob, carol) = (
        device(&node, "alice").await,
        device(&node, "bob").await,
        device(&node, "carol").await,
    );
    let key = PropertyKey::parse("mode").unwrap();
    let duel = Comparison::Equal(vec!["duel".into()]);
    let duels = Query::default().with(Aspect::Property(key.clone()), duel);
    let options = |password: &str| RoomOptions {
        properties: vec![Change::publish(key.clone(), "duel".into())],
        with_code: true,
        password: Some(password.to_owned()),
        ..RoomOptions::default()
    };
    let rooms = alice.rooms();
    let made = rooms.join_random_or_create(&duels, options("secret"));
    let a = made.await.unwrap();
    let refused = |error: tombolo_client::Error| error.code().unwrap();
    let found = bob.rooms().join_best(&duels, options("guess")).await;
    assert_eq!(refused(found.unwrap_err()), ErrorCode::NoSuchRoom);
    let found = bob.rooms().join_random(&duels, options("secret")).await;
    let b = found.unwrap();
    assert_eq!(b.id(), a.id());

    let hidden = SettingsChange {
        is_hidden: Some(true),
        ..SettingsChange::default()
    };
    a.configure(hidden).await.unwrap();
    let code = a.code().unwrap();
    let guessed = carol.rooms().join_code(code, options("guess")).await;
    assert_eq!(refused(guessed.unwrap_err()), ErrorCode::WrongPassword);
    let without = RoomOptions::default();
    let without = carol.rooms().join_code(code, without).await;
    assert_eq!(refused(without.unwrap_err()), ErrorCode::WrongPassword);
    let c = carol.rooms().join_code(code, options("secret")).await;
    assert_eq!(c.unwrap().members().len(), 3);
    node.shutdown().await;
}

#[tokio::test]
async fn what_the_node_refuses_comes_back_with_its_code() {
    use tombolo_wire::v1::ErrorCode;
    let node = node().await;
    let alice = device(&node, "alice").await;
    let bob = device(&node, "bob").await;
    let small = RoomOptions {
        members_max: 1,
        ..RoomOptions::default()
    };
    let _room = alice.rooms().create("small", small).await.unwrap();
    let refused = |error: tombolo_client::Error| error.code().unwrap();
    let options = RoomOptions::default;

    let error = bob.rooms().create("small", options()).await.unwrap_err();
    assert_eq!(refused(error), ErrorCode::RoomExists);
    let error = bob.rooms().join("small", options()).await.unwrap_err();
    assert_eq!(refused(error), ErrorCode::RoomFull);
    let error = bob.rooms().join("nowhere", options()).await.unwrap_err();
    assert_eq!(refused(error), ErrorCode::NoSuchRoom);
    let error = bob.rooms().join("bad name!", options()).await.unwrap_err();
    assert_eq!(error.code(), None, "refused before it is sent: {error}");
    let error = alice.rooms().join("small", options()).await.unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
    node.shutdown().await;
}

#[tokio::test]
async fn messages_over_the_limit_are_refused_with_the_limit() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let room = alice
        .rooms()
        .create("room", RoomOptions::default())
        .await
        .unwrap();
    for (lane, limit) in [(Lane::Reliable, 64 * 1024), (Lane::Unreliable, 1100)] {
        room.broadcast(lane, vec![0; limit]).await.unwrap();
        let error = room.broadcast(lane, vec![0; limit + 1]).await.unwrap_err();
        assert!(error.to_string().contains(&limit.to_string()), "{error}");
    }
    node.shutdown().await;
}
