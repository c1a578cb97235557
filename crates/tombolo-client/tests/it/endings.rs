//! Sessions, rooms and devices that end, and those that must not yet.

use std::time::Duration;

use bytes::Bytes;
use tombolo_client::{Audience, Lane, Query, RoomEvent, RoomOptions};
use tombolo_wire::v1::{Acted, ErrorCode, Goodbye, Request, client_frame, request, response};

use crate::lab::{device, message, node, soon, user};
use crate::script::{Script, enter};

#[tokio::test]
async fn rooms_end_with_their_session() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let mut room = enter(&device, &mut line, "room", &["alice"]).await;
    line.deliver("room", "last").await;
    line.reject(ErrorCode::Replaced).await;
    assert_eq!(soon(message(&mut room)).await.1, "last");
    assert!(soon(room.next_event()).await.is_none());
    let error = soon(room.broadcast(Lane::Reliable, "late")).await;
    assert!(error.unwrap_err().is_closed());
    soon(device.close()).await;
}

#[tokio::test]
async fn an_unread_room_holds_up_nobody() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let unread = enter(&device, &mut line, "unread", &["alice", "bob"]).await;
    let mut read = enter(&device, &mut line, "read", &["alice", "bob"]).await;
    for _ in 0..5000 {
        line.deliver("unread", "ignored").await;
    }
    line.member_left("unread", "bob").await;
    line.deliver("read", "heard").await;
    assert_eq!(soon(message(&mut read)).await.1, "heard");

    let mut messages = 0;
    let missed = loop {
        let event = soon(unread.next_event()).await.unwrap();
        if let RoomEvent::Lagged { missed } = event {
            break missed;
        }
        assert!(matches!(event, RoomEvent::Message { .. }), "{event:?}");
        messages += 1;
    };
    assert_eq!(messages + missed, 5000);
    let left = soon(unread.next_event()).await.unwrap();
    assert!(matches!(left, RoomEvent::Left { .. }), "{left:?}");
    assert_eq!(unread.members(), [user("alice")]);
    soon(device.close()).await;
}

#[tokio::test]
async fn a_node_that_drains_is_tried_again() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let mut sessions = device.watch_session();
    sessions.mark_unchanged();
    line.go_away(&[]).await;
    line.reject(ErrorCode::Unavailable).await;
    for code in [ErrorCode::Unavailable, ErrorCode::Limit] {
        script.accept().await.reject(code).await;
    }
    script.accept().await.welcome(true).await;
    soon(sessions.changed()).await.unwrap();
    assert!(device.session().resumed);
}

#[tokio::test]
async fn members_are_known_before_their_changes_come() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    for number in 0..50 {
        let name = format!("room-{number}");
        let joining = device.rooms();
        let joining = joining.join(&name, RoomOptions::default());
        let let_in = async {
            let request = line.request().await;
            line.joined(&request, &["alice", "bob"]).await;
            line.member_left(&name, "bob").await;
        };
        let (room, ()) = soon(async { tokio::join!(joining, let_in) }).await;
        let room = room.unwrap();
        let left = soon(room.next_event()).await.unwrap();
        assert!(matches!(left, RoomEvent::Left { .. }), "{left:?}");
        assert_eq!(room.members(), [user("alice")], "bob is not forgotten");
        drop(room);
        line.left(&name).await;
    }
}

#[tokio::test]
async fn changes_during_a_lost_session_are_told_after_it() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    let life = line.life;
    drop(line);
    let mut line = script.accept().await;
    assert!(line.life > life, "the new session is known to be newer");
    line.welcome(false).await;
    let rejoin = line.request().await;
    line.joined(&rejoin, &["alice", "carol"]).await;
    line.member_joined("room", "dave").await;

    let left = soon(room.next_event()).await.unwrap();
    assert!(matches!(left, RoomEvent::Left { user: who, .. } if who == user("bob")));
    for name in ["carol", "dave"] {
        let joined = soon(room.next_event()).await.unwrap();
        assert!(matches!(joined, RoomEvent::Joined(who) if who == user(name)));
    }
    assert_eq!(room.members(), [user("alice"), user("carol"), user("dave")]);
}

#[tokio::test]
async fn what_a_lost_session_was_asked_may_be_asked_again() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let rooms = device.rooms();
    let joining = rooms.join("room", RoomOptions::default());
    let lost = async {
        line.request().await;
        drop(line);
        let mut line = script.accept().await;
        line.welcome(false).await;
        line
    };
    let (error, mut line) = soon(async { tokio::join!(joining, lost) }).await;
    let error = error.unwrap_err();
    assert!(error.is_unreachable(), "the session goes on: {error}");
    enter(&device, &mut line, "room", &["alice"]).await;
}

#[tokio::test]
async fn what_was_said_when_the_session_was_lost_is_asked_for_again_by_its_name() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    let said = room.say(Audience::All, "once");
    let lost = async {
        let first = name_of(&line.request().await);
        let mut line = script.forget(line).await;
        let mut is_in = false;
        loop {
            let request = line.request().await;
            match &request.kind {
                Some(request::Kind::Join(_)) => {
                    line.joined(&request, &["alice", "bob"]).await;
                    is_in = true;
                }
                _ if !is_in => line.refuse(&request, ErrorCode::NotAMember).await,
                _ => {
                    assert_eq!(name_of(&request), first);
                    let acted = Acted {
                        message: 7,
                        ..Acted::default()
                    };
                    line.answer(&request, response::Result::Acted(acted)).await;
                    break line;
                }
            }
        }
    };
    let (number, mut line) = soon(async { tokio::join!(said, lost) }).await;
    assert_eq!(number.unwrap(), 7);

    // Out of the room nobody will say what came of it.
    let said = room.say(Audience::All, "perhaps");
    let put_out = async {
        let request = line.request().await;
        line.refuse(&request, ErrorCode::Unsure).await;
        let request = line.request().await;
        line.member_left("room", "alice").await;
        line.refuse(&request, ErrorCode::NotAMember).await;
    };
    let (error, ()) = soon(async { tokio::join!(said, put_out) }).await;
    assert!(error.unwrap_err().is_unsure());
}

/// By which an act is known when it is asked for again.
fn name_of(request: &Request) -> Bytes {
    let Some(request::Kind::Room(wanted)) = &request.kind else {
        panic!("an act should have come, not {request:?}");
    };
    assert_eq!(wanted.operation.len(), 16);
    wanted.operation.clone()
}

#[tokio::test]
async fn a_join_that_nobody_waits_for_is_undone() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let request = {
        let rooms = device.rooms();
        let joining = rooms.join("room", RoomOptions::default());
        tokio::pin!(joining);
        tokio::select! {
            _ = &mut joining => panic!("nobody has answered"),
            request = line.request() => request,
        }
    };
    line.joined(&request, &["alice"]).await;
    line.left("room").await;
    enter(&device, &mut line, "room", &["alice"]).await;
    line.left("room").await;
}

#[tokio::test]
async fn a_room_that_was_looked_for_is_left_when_nobody_takes_it() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let mut other = enter(&device, &mut line, "other", &["alice", "bob"]).await;
    {
        let (rooms, query) = (device.rooms(), Query::default());
        let joining = rooms.join_random(&query, RoomOptions::default());
        tokio::pin!(joining);
        let request = tokio::select! {
            _ = &mut joining => panic!("nobody has answered"),
            request = line.request() => request,
        };
        line.joined_in(&request, "found", &["alice", "bob"]).await;
        // The answer has come by then, and nobody has asked for it.
        line.deliver("other", "later").await;
        assert_eq!(soon(message(&mut other)).await.1, "later");
    }
    line.left("found").await;
    enter(&device, &mut line, "found", &["alice"]).await;
}

#[tokio::test]
async fn closing_delivers_the_last_messages_and_the_goodbye() {
    const MESSAGES: usize = 200;
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice"]).await;
    for _ in 0..MESSAGES {
        room.broadcast(Lane::Reliable, vec![0; 1000]).await.unwrap();
    }
    let heard = async {
        let mut messages = 0;
        loop {
            let body = line.receive().await.expect("the goodbye comes first");
            if body == client_frame::Body::Goodbye(Goodbye {}) {
                break messages;
            }
            assert!(matches!(body, client_frame::Body::Send(_)), "{body:?}");
            messages += 1;
        }
    };
    let (messages, ()) = soon(async { tokio::join!(heard, device.close()) }).await;
    assert_eq!(messages, MESSAGES);
    drop(room);
}

#[tokio::test]
async fn who_else_has_a_device_that_was_closed_can_see_that() {
    let script = Script::new().await;
    let (device, _line) = script.device().await;
    let other = device.clone();
    assert_eq!(other.ended(), None);
    soon(device.close()).await;
    assert!(other.ended().is_some());
}

#[tokio::test]
async fn closing_without_a_connection_does_not_wait_for_one() {
    let script = Script::new().await;
    let (device, line) = script.device().await;
    drop(line);
    // The device connects again, and hears nothing.
    let _line = script.accept().await;
    let closed = tokio::time::timeout(Duration::from_secs(9), device.close());
    closed.await.expect("sooner than the greeting is given up");
}

#[tokio::test]
async fn dropped_devices_say_goodbye() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice"]).await;
    drop((device, room));
    line.left("room").await;
    let goodbye = line.receive().await;
    assert!(matches!(goodbye, Some(client_frame::Body::Goodbye(_))));

    let node = node().await;
    let (alice, bob) = (
        device_in(&node, "alice").await,
        device_in(&node, "bob").await,
    );
    let (_alice, room) = alice;
    drop(bob);
    loop {
        if let RoomEvent::Left { user: who, reason } = soon(room.next_event()).await.unwrap() {
            assert_eq!((who, reason.as_str()), (user("bob"), "left"));
            break;
        }
    }
    node.shutdown().await;
}

async fn device_in(
    node: &tombolo_node::Node,
    name: &str,
) -> (tombolo_client::Device, tombolo_client::Room) {
    let device = device(node, name).await;
    let rooms = device.rooms();
    let room = rooms.join_or_create("room", RoomOptions::default());
    let room = soon(room).await.unwrap();
    (device, room)
}
