//! Messages that do not arrive, and of which the application is told.

use bytes::Bytes;
use tombolo_client::{ErrorCode, Lane, Room, RoomEvent, RoomOptions};
use tombolo_wire::v1::{Joined, MessagePosition, Request, client_frame, request, response};

use crate::lab::{device, node, soon, user};
use crate::script::{Line, Script, enter};

/// What the room tells next is that these messages were not sent, and why.
async fn unsent(room: &Room) -> (Vec<u64>, Option<ErrorCode>) {
    match soon(room.next_event()).await {
        Some(RoomEvent::Unsent { numbers, code, .. }) => (numbers, code),
        other => panic!("messages should not have been sent, but {other:?}"),
    }
}

/// Says something in the room; returns its number.
async fn say(room: &Room, payload: &'static str) -> u64 {
    soon(room.broadcast(Lane::Reliable, payload)).await.unwrap()
}

/// The device's next message, and its frame's number.
async fn said(line: &mut Line) -> (Bytes, u64) {
    let frame = line.receive_frame().await.expect("the session goes on");
    let Some(client_frame::Body::Send(send)) = frame.body else {
        panic!("a message should have come, not {frame:?}");
    };
    (send.payload, frame.seq)
}

/// Lets the device into a room again, which may be another one by its name.
async fn let_in(line: &mut Line, join: &Request, opening: &'static [u8]) {
    let Some(request::Kind::Join(wanted)) = &join.kind else {
        panic!("not a join: {join:?}");
    };
    let joined = Joined {
        room: wanted.room.clone(),
        last: Some(MessagePosition {
            opening: Bytes::from_static(opening),
            number: 0,
        }),
        ..Joined::default()
    };
    line.answer(join, response::Result::Joined(joined)).await;
}

#[tokio::test]
async fn a_message_that_the_node_refuses_is_told_by_its_number_however_late() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    let numbers = [say(&room, "one").await, say(&room, "two").await];
    let ((_, first), (_, second)) = (said(&mut line).await, said(&mut line).await);
    line.refuse_frame(second, ErrorCode::Limit).await;
    assert_eq!(
        unsent(&room).await,
        (vec![numbers[1]], Some(ErrorCode::Limit))
    );
    // It goes on over another connection.
    let seq = line.seq;
    drop(line);
    let mut line = script.accept().await;
    line.seq = seq;
    line.welcome(true).await;
    line.refuse_frame(first, ErrorCode::Unavailable).await;
    assert_eq!(
        unsent(&room).await,
        (vec![numbers[0]], Some(ErrorCode::Unavailable))
    );
}

#[tokio::test]
async fn a_message_to_nobody_is_told_as_such() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let rooms = alice.rooms();
    let room = rooms.create("room", RoomOptions::default()).await.unwrap();
    let sent = room.send(&[user("nobody")], Lane::Reliable, "hello").await;
    let told = soon(async {
        loop {
            if let Some(RoomEvent::Unsent { numbers, code, .. }) = room.next_event().await {
                break (numbers, code);
            }
        }
    })
    .await;
    assert_eq!(told, (vec![sent.unwrap()], Some(ErrorCode::NoSuchMember)));
    node.shutdown().await;
}

#[tokio::test]
async fn of_a_lost_session_what_had_left_is_told_and_what_had_not_is_sent_once_the_room_is_back() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice"]).await;
    let left = say(&room, "left").await;
    said(&mut line).await;
    drop(line);

    // Greeted and not welcomed: there is no connection.
    let mut line = script.accept().await;
    say(&room, "one").await;
    say(&room, "two").await;
    line.welcome(false).await;
    assert_eq!(unsent(&room).await, (vec![left], None));
    // The session stands, but nobody is in the room yet.
    let join = line.request().await;
    say(&room, "three").await;
    line.joined(&join, &["alice"]).await;
    for payload in ["one", "two", "three"] {
        assert_eq!(said(&mut line).await.0, payload);
    }
    say(&room, "four").await;
    assert_eq!(said(&mut line).await.0, "four");
}

#[tokio::test]
async fn what_waits_for_a_room_outlives_another_session() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice"]).await;
    drop(line);
    let mut line = script.accept().await;
    say(&room, "one").await;
    line.welcome(false).await;
    line.request().await;
    say(&room, "two").await;
    let mut line = script.forget(line).await;
    let join = line.request().await;
    line.joined(&join, &["alice"]).await;
    for payload in ["one", "two"] {
        assert_eq!(said(&mut line).await.0, payload);
    }
}

#[tokio::test]
async fn what_waited_for_a_room_is_not_said_in_another_of_its_name() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice"]).await;
    drop(line);
    let mut line = script.accept().await;
    let number = say(&room, "one").await;
    line.welcome(false).await;
    let join = line.request().await;
    let_in(&mut line, &join, b"another").await;
    loop {
        match soon(room.next_event()).await {
            Some(RoomEvent::Unsent { numbers, code, .. }) => {
                assert_eq!(numbers, [number]);
                assert_eq!(code, Some(ErrorCode::NotAMember));
                break;
            }
            Some(RoomEvent::Left { .. }) => {}
            other => panic!("the message should not have been sent, but {other:?}"),
        }
    }
    say(&room, "two").await;
    assert_eq!(said(&mut line).await.0, "two");
}

#[tokio::test]
async fn what_waited_for_a_room_that_does_not_let_the_device_in_is_told_before_it_ends() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice"]).await;
    drop(line);
    let mut line = script.accept().await;
    let numbers = vec![say(&room, "one").await, say(&room, "two").await];
    line.welcome(false).await;
    let join = line.request().await;
    line.refuse(&join, ErrorCode::RoomFull).await;
    let told = unsent(&room).await;
    assert_eq!(told, (numbers, Some(ErrorCode::RoomFull)));
    let event = soon(room.next_event()).await;
    assert!(matches!(event, Some(RoomEvent::Refused(_))), "{event:?}");
}

#[tokio::test]
async fn what_a_session_that_is_over_has_not_sent_is_told_before_its_rooms_end() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice"]).await;
    drop(line);
    let mut line = script.accept().await;
    let number = say(&room, "one").await;
    line.reject(ErrorCode::Version).await;
    assert_eq!(unsent(&room).await, (vec![number], None));
    assert!(soon(room.next_event()).await.is_none());
}

#[tokio::test]
async fn a_link_whose_introduction_finds_no_place_says_so() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    // The script acknowledges nothing, so requests that are given up still wait for that.
    for bytes in [32 * 1024, 2048, 128, 0] {
        let error = loop {
            tokio::select! {
                answer = device.command("fill", vec![0; bytes]) => break answer.unwrap_err(),
                _ = line.request() => {}
            }
        };
        assert!(error.is_temporary(), "{error}");
    }
    let error = soon(room.peer(&user("bob")).connect()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("too much waits for the node"), "{text}");
}
