//! Devices that lost their session, and how their rooms are by then.

use bytes::Bytes;
use tombolo_client::{ErrorCode, Lane, RoomEvent, RoomOptions};
use tombolo_wire::v1::{Join, JoinMode, Request, request};

use crate::lab::{soon, user};
use crate::script::{OPENING, Script, enter};

fn join_of(request: &Request) -> &Join {
    match &request.kind {
        Some(request::Kind::Join(join)) => join,
        other => panic!("not a join: {other:?}"),
    }
}

#[tokio::test]
async fn a_device_comes_back_to_the_room_that_it_was_in_however_it_came_there() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let joining = device.rooms();
    let joining = joining.join_or_create("room", RoomOptions::default());
    let let_in = async {
        let request = line.request().await;
        assert_eq!(join_of(&request).mode(), JoinMode::JoinOrCreate);
        assert_eq!(join_of(&request).returns_to, Bytes::new());
        line.joined(&request, &["alice"]).await;
    };
    let (room, ()) = soon(async { tokio::join!(joining, let_in) }).await;
    let mut line = script.forget(line).await;
    let request = line.request().await;
    assert_eq!(join_of(&request).mode(), JoinMode::Join);
    assert_eq!(join_of(&request).returns_to, OPENING);
    drop(room);
}

#[tokio::test]
async fn a_device_whose_room_ended_without_it_is_told_as_if_it_had_been_there() {
    let table = [
        (ErrorCode::NoSuchRoom, "closed"),
        (ErrorCode::Kicked, "kicked"),
        (ErrorCode::Banned, "banned"),
        (ErrorCode::Replaced, "replaced"),
    ];
    for (code, word) in table {
        let script = Script::new().await;
        let (device, mut line) = script.device().await;
        let room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
        drop(line);
        let mut line = script.accept().await;
        let sent = room.broadcast(Lane::Reliable, "late").await.unwrap();
        line.welcome(false).await;
        let request = line.request().await;
        line.refuse(&request, code).await;
        match soon(room.next_event()).await {
            Some(RoomEvent::Unsent { numbers, code, .. }) => {
                assert_eq!((numbers, code), (vec![sent], Some(ErrorCode::NotAMember)));
            }
            other => panic!("the message was not sent, but {other:?}"),
        }
        match soon(room.next_event()).await {
            Some(RoomEvent::Left { user: who, reason }) => {
                assert_eq!((who, reason.as_str()), (user("alice"), word));
            }
            other => panic!("{code:?} is not told, but {other:?}"),
        }
        assert!(soon(room.next_event()).await.is_none());
        assert_eq!(room.members(), [user("bob")]);

        // The application may join anew: that is no return.
        let joining = device.rooms();
        let joining = joining.join("room", RoomOptions::default());
        let let_in = async {
            let request = line.request().await;
            assert_eq!(join_of(&request).returns_to, Bytes::new());
            line.joined(&request, &["alice", "bob"]).await;
        };
        let (again, ()) = soon(async { tokio::join!(joining, let_in) }).await;
        again.unwrap();
    }
}
