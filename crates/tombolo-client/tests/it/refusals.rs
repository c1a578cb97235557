//! Nodes that do not let a device back to where its lost session was, yet or at all.

use bytes::Bytes;
use tombolo_client::{Device, ErrorCode, Field, FieldEvent, RoomEvent};
use tombolo_wire::v1::{
    EnteredField, FieldResponse, FieldUpdate, Request, client_frame, field_request, field_response,
    request, response,
};

use crate::lab::{message, soon, user};
use crate::script::{Line, Script, enter};

#[tokio::test]
async fn a_node_that_cannot_let_a_device_in_at_the_moment_is_asked_again() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let rooms = [
        enter(&device, &mut line, "one", &["alice", "bob"]).await,
        enter(&device, &mut line, "two", &["alice", "bob"]).await,
    ];
    let mut line = script.forget(line).await;
    for code in [ErrorCode::Unavailable, ErrorCode::Limit] {
        for _ in &rooms {
            let join = line.request().await;
            line.refuse(&join, code).await;
        }
    }
    for _ in &rooms {
        let join = line.request().await;
        line.joined(&join, &["alice", "bob", "carol"]).await;
    }
    for room in &rooms {
        let event = soon(room.next_event()).await;
        assert!(matches!(&event, Some(RoomEvent::Joined(who)) if *who == user("carol")));
    }
}

#[tokio::test]
async fn a_room_that_does_not_let_a_device_in_again_ends_and_can_be_joined_anew() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    let mut line = script.forget(line).await;
    let join = line.request().await;
    line.refuse(&join, ErrorCode::RoomFull).await;
    let event = soon(room.next_event()).await;
    assert!(matches!(event, Some(RoomEvent::Refused(_))), "{event:?}");
    assert!(soon(room.next_event()).await.is_none());

    let mut again = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    drop(room);
    line.deliver("room", "welcome back").await;
    assert_eq!(soon(message(&mut again)).await.1, "welcome back");
}

#[tokio::test]
async fn a_field_is_entered_again_until_a_node_lets_the_device_in() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let field = come_in(&device, &mut line).await;
    let mut line = script.forget(line).await;
    let enter = line.request().await;
    line.refuse(&enter, ErrorCode::Unavailable).await;
    line.request().await;
    // That session, too, is lost.
    let mut line = script.forget(line).await;
    let enter = line.request().await;
    line.answer(&enter, entered(&enter, 7)).await;
    let reported = loop {
        field.update([1.0, 0.0], "here").unwrap();
        let said = line.receive().await.expect("the session goes on");
        if let client_frame::Body::FieldUpdate(update) = said {
            break update;
        }
    };
    assert!(matches!(reported, FieldUpdate { seat: 7, .. }));
}

#[tokio::test]
async fn a_field_that_does_not_let_a_device_in_again_ends() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let field = come_in(&device, &mut line).await;
    let mut line = script.forget(line).await;
    let enter = line.request().await;
    line.refuse(&enter, ErrorCode::NotPermitted).await;
    let event = soon(field.next_event()).await;
    assert!(matches!(event, Some(FieldEvent::Refused(_))), "{event:?}");
    assert!(soon(field.next_event()).await.is_none());
}

async fn come_in(device: &Device, line: &mut Line) -> Field {
    let entering = device.field("plaza").enter([0.0, 0.0], Bytes::new());
    let let_in = async {
        let enter = line.request().await;
        line.answer(&enter, entered(&enter, 1)).await;
    };
    let (field, ()) = soon(async { tokio::join!(entering, let_in) }).await;
    field.unwrap()
}

fn entered(enter: &Request, seat: u32) -> response::Result {
    let Some(request::Kind::Field(request)) = &enter.kind else {
        panic!("not about a field: {enter:?}");
    };
    assert!(matches!(request.kind, Some(field_request::Kind::Enter(_))));
    let entered = EnteredField {
        seat,
        entity: 1,
        ..EnteredField::default()
    };
    response::Result::Field(FieldResponse {
        field: request.field.clone(),
        result: Some(field_response::Result::Entered(entered)),
    })
}
