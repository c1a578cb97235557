//! Fields that a device is not to be in any more.

use tombolo_client::{Device, ErrorCode, Field};
use tombolo_wire::v1::{
    EnteredField, FieldResponse, LeftField, Request, field_request, field_response, request,
    response,
};

use crate::lab::soon;
use crate::script::{Line, Script, given_up};

#[tokio::test]
async fn a_field_that_nobody_waits_to_be_in_is_left() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let enter = given_up(device.field("plaza").enter([0.0, 0.0], ""), &mut line).await;
    line.answer(&enter, entered()).await;
    let leave = leaves(&mut line).await;
    line.answer(&leave, left()).await;
    // And it may be entered again.
    drop(enters(&device, &mut line).await);
    leaves(&mut line).await;
}

#[tokio::test]
async fn a_field_is_left_again_when_the_node_did_not_take_that() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    for is_waited_for in [true, false] {
        let field = enters(&device, &mut line).await;
        let leaving = async {
            if is_waited_for {
                field.leave().await.unwrap();
            } else {
                drop(field);
            }
        };
        let answering = async {
            for code in [ErrorCode::Limit, ErrorCode::NotInField] {
                let leave = leaves(&mut line).await;
                line.refuse(&leave, code).await;
            }
        };
        soon(async { tokio::join!(leaving, answering) }).await;
    }
}

pub(crate) async fn enters(device: &Device, line: &mut Line) -> Field {
    let entering = device.field("plaza").enter([0.0, 0.0], "");
    let answering = async {
        let enter = line.request().await;
        line.answer(&enter, entered()).await;
    };
    soon(async { tokio::join!(entering, answering).0 })
        .await
        .unwrap()
}

/// The device's next request, which is to leave the field.
async fn leaves(line: &mut Line) -> Request {
    let request = line.request().await;
    let Some(request::Kind::Field(asked)) = &request.kind else {
        panic!("a field should have been left, not {request:?}");
    };
    let is_leave = matches!(asked.kind, Some(field_request::Kind::Leave(_)));
    assert!(is_leave && asked.field == "plaza", "{asked:?}");
    request
}

pub(crate) fn entered() -> response::Result {
    answer(field_response::Result::Entered(EnteredField {
        seat: 1,
        entity: 1,
        ..EnteredField::default()
    }))
}

fn left() -> response::Result {
    answer(field_response::Result::Left(LeftField {}))
}

pub(crate) fn answer(result: field_response::Result) -> response::Result {
    response::Result::Field(FieldResponse {
        field: "plaza".into(),
        result: Some(result),
    })
}
