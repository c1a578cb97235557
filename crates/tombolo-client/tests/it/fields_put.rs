//! What a device puts into a field beside itself.

use tombolo_wire::v1::{
    FieldReport, RemovedEntity, Request, client_frame, field_request, field_response, request,
};

use crate::fields_left::{answer, entered, enters};
use crate::lab::soon;
use crate::script::{Line, Script};

#[tokio::test]
async fn what_a_device_puts_there_is_said_again_and_again_though_reports_get_lost() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let field = enters(&device, &mut line).await;
    field.put(7, 0, [1.0, 2.0], "chest").unwrap();
    let mut last = 0;
    // Once, once soon, and then now and then.
    for _ in 0..3 {
        let said = thing(&mut line).await;
        assert_eq!((said.own, said.position), (7, vec![1.0, 2.0]));
        assert_eq!(said.payload, "chest");
        assert!(said.sequence > last, "it counts as the latest");
        last = said.sequence;
    }
}

#[tokio::test]
async fn what_a_device_has_put_there_is_said_after_a_lost_session_unless_it_was_removed() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let field = enters(&device, &mut line).await;
    field.put(7, 0, [1.0, 0.0], "shut").unwrap();
    field.put(8, 0, [3.0, 0.0], "").unwrap();
    field.put(7, 0, [2.0, 0.0], "open").unwrap();
    let mut line = enters_again(&script, line).await;
    let said = thing(&mut line).await;
    assert_eq!((said.own, said.payload.as_ref()), (7, &b"open"[..]));
    assert_eq!(thing(&mut line).await.own, 8);

    let removing = async {
        let asked = asks(&mut line).await;
        let Some(request::Kind::Field(field)) = &asked.kind else {
            panic!("something should be removed, not {asked:?}");
        };
        assert!(matches!(field.kind, Some(field_request::Kind::Remove(_))));
        let removed = answer(field_response::Result::Removed(RemovedEntity {}));
        line.answer(&asked, removed).await;
    };
    let (removed, ()) = soon(async { tokio::join!(field.remove(7), removing) }).await;
    removed.unwrap();
    let mut line = enters_again(&script, line).await;
    assert_eq!(thing(&mut line).await.own, 8);
}

/// The node forgets the device, which enters its field again.
async fn enters_again(script: &Script, line: Line) -> Line {
    let mut line = script.forget(line).await;
    let enter = asks(&mut line).await;
    line.answer(&enter, entered()).await;
    line
}

/// The device's next request; what it reports meanwhile is lost.
pub(crate) async fn asks(line: &mut Line) -> Request {
    loop {
        if let client_frame::Body::Request(request) = line.receive().await.unwrap() {
            return request;
        }
    }
}

/// What the device says next of something that it has put there.
async fn thing(line: &mut Line) -> FieldReport {
    soon(async {
        loop {
            if let client_frame::Body::FieldUpdate(update) = line.receive().await.unwrap()
                && let Some(report) = update.report
                && report.own != 0
            {
                return report;
            }
        }
    })
    .await
}
