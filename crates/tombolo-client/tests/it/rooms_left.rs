//! Rooms that a device is not to be in any more, whatever the node can do at the moment.

use tombolo_client::{Device, Error, ErrorCode, Room, RoomOptions};
use tombolo_wire::v1::{Request, request};

use crate::lab::soon;
use crate::script::{Line, Script, enter};

/// The device's next request, which is to leave a room.
async fn leaves(line: &mut Line, room: &str) -> Request {
    let request = line.request().await;
    match &request.kind {
        Some(request::Kind::Leave(leave)) => assert_eq!(leave.room, room),
        other => panic!("{room} should have been left, not {other:?}"),
    }
    request
}

/// Joins a room, which the node refuses for the time being.
async fn refused(device: &Device, line: &mut Line, room: &str) -> Result<Room, Error> {
    let rooms = device.rooms();
    let joining = rooms.join(room, RoomOptions::default());
    let refusing = async {
        let request = line.request().await;
        line.refuse(&request, ErrorCode::Unavailable).await;
    };
    soon(async { tokio::join!(joining, refusing).0 }).await
}

#[tokio::test]
async fn a_room_is_left_again_when_the_node_could_not_do_it() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    for is_waited_for in [true, false] {
        let room = enter(&device, &mut line, "room", &["alice"]).await;
        let leaving = async {
            if is_waited_for {
                room.leave().await.unwrap();
            } else {
                drop(room);
            }
        };
        let answering = async {
            let first = leaves(&mut line, "room").await;
            line.refuse(&first, ErrorCode::Unavailable).await;
            let second = leaves(&mut line, "room").await;
            // The first was done after all.
            line.refuse(&second, ErrorCode::NotAMember).await;
        };
        soon(async { tokio::join!(leaving, answering) }).await;
    }
}

#[tokio::test]
async fn a_room_that_is_joined_again_meanwhile_is_not_left() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    drop(enter(&device, &mut line, "room", &["alice"]).await);
    let first = leaves(&mut line, "room").await;
    line.refuse(&first, ErrorCode::Unavailable).await;
    let _room = enter(&device, &mut line, "room", &["alice"]).await;
    // Nothing else is asked for before this.
    drop(enter(&device, &mut line, "another", &["alice"]).await);
    leaves(&mut line, "another").await;
}

#[tokio::test]
async fn a_room_whose_join_has_failed_for_the_time_being_is_left() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let error = refused(&device, &mut line, "room").await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    let leave = leaves(&mut line, "room").await;
    line.refuse(&leave, ErrorCode::NotAMember).await;
    // The join comes all the same, later still.
    line.member_joined("room", "bob").await;
    leaves(&mut line, "room").await;
}

#[tokio::test]
async fn a_room_of_which_the_application_knows_nothing_is_left() {
    let script = Script::new().await;
    let (_device, mut line) = script.device().await;
    line.deliver("room", "to a ghost").await;
    leaves(&mut line, "room").await;
}
