//! What an application is told of a field that reads its events late.

use std::time::Duration;

use tombolo_client::{Field, FieldEvent};
use tombolo_field::{EntityId, Report};
use tombolo_wire::v1::client_frame;

use crate::fields_crowd::{Crowd, tell};
use crate::fields_left::enters;
use crate::lab::soon;
use crate::script::{Line, Script};

/// Has the device know what is new, as its acknowledgement says.
async fn told(crowd: &mut Crowd, line: &mut Line) {
    for batch in crowd.tick() {
        tell(line, &batch).await;
    }
    let tick = crowd.field.ticks();
    soon(async {
        loop {
            if let Some(client_frame::Body::FieldUpdate(update)) = line.receive().await
                && update.ack == tick
            {
                return;
            }
        }
    })
    .await;
}

fn comes(crowd: &mut Crowd, id: u64) {
    let report = Report::at([id as f64, 0.0, 0.0]);
    let field = &mut crowd.field;
    field.report(Duration::ZERO, EntityId(id), &report).unwrap();
}

async fn event(field: &Field) -> FieldEvent {
    soon(field.next_event()).await.expect("the field goes on")
}

#[tokio::test]
async fn of_what_comes_and_goes_unheard_nothing_is_told() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let field = enters(&device, &mut line).await;
    let mut crowd = Crowd::new(0);
    comes(&mut crowd, 1);
    comes(&mut crowd, 2);
    told(&mut crowd, &mut line).await;
    crowd.field.remove(EntityId(1));
    told(&mut crowd, &mut line).await;
    // It is back, and once more it goes: only that it is there is told.
    comes(&mut crowd, 1);
    told(&mut crowd, &mut line).await;
    let ids = async |count: usize| {
        let mut ids = Vec::new();
        for _ in 0..count {
            let told = event(&field).await;
            let FieldEvent::Entered(neighbour) = told else {
                panic!("nobody is told to have left: {told:?}");
            };
            ids.push(neighbour.entity().0);
        }
        ids
    };
    assert_eq!(ids(2).await, [2, 1]);
    comes(&mut crowd, 3);
    told(&mut crowd, &mut line).await;
    crowd.field.remove(EntityId(3));
    crowd.field.remove(EntityId(1));
    told(&mut crowd, &mut line).await;
    let FieldEvent::Left(left) = event(&field).await else {
        panic!("one that was told to have come has gone");
    };
    assert_eq!(left, EntityId(1));

    // Who is seen among the neighbours is told to have left.
    comes(&mut crowd, 4);
    told(&mut crowd, &mut line).await;
    assert_eq!(field.neighbours().len(), 2);
    crowd.field.remove(EntityId(4));
    told(&mut crowd, &mut line).await;
    let FieldEvent::Left(left) = event(&field).await else {
        panic!("one that was seen has gone");
    };
    assert_eq!(left, EntityId(4));
}
