//! A device in a crowd of thousands loses its session, and comes back to it.

use std::time::Duration;

use tombolo_client::{ErrorCode, Field, FieldEvent};
use tombolo_field::{EntityId, Everything, Mirror, Report, Settings, Watch};
use tombolo_wire::v1::{EnterField, FieldBatch, field_request, request, server_frame};
use tombolo_wire::{FIELD_KNOWN_BYTES, FIELD_KNOWN_MAX};

use crate::fields_left::{entered, enters};
use crate::fields_put::asks;
use crate::lab::soon;
use crate::script::{Line, Script};

#[tokio::test]
async fn a_device_says_all_that_it_knows_of_a_crowd_and_is_told_the_difference() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let field = enters(&device, &mut line).await;
    let mut crowd = Crowd::new(FIELD_KNOWN_MAX);
    crowd.comes(&field, &mut line).await;
    let mut line = script.forget(line).await;
    let (asked, enter) = asks_to_enter(&mut line).await;
    let mut known: Vec<_> = enter.known.chunks(FIELD_KNOWN_BYTES).map(id_of).collect();
    known.sort_unstable();
    let all: Vec<_> = (1..=FIELD_KNOWN_MAX as u64).collect();
    assert_eq!(known, all);

    line.answer(&asked, entered()).await;
    let moves = crowd.moves(7);
    let [moved] = &moves[..] else {
        panic!("one that moves goes into one batch");
    };
    tell(&mut line, moved).await;
    let told = soon(field.next_event()).await.unwrap();
    let FieldEvent::Updated(neighbour) = told else {
        panic!("one has moved, and nobody has come or gone: {told:?}");
    };
    assert_eq!(neighbour.entity(), EntityId(7));
    assert_eq!(field.neighbours().len(), FIELD_KNOWN_MAX);
}

#[tokio::test]
async fn a_device_is_told_everything_anew_by_a_node_that_takes_less_of_what_it_knows() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let field = enters(&device, &mut line).await;
    Crowd::new(3).comes(&field, &mut line).await;
    let mut line = script.forget(line).await;
    let (asked, enter) = asks_to_enter(&mut line).await;
    assert_eq!(enter.known.len(), 3 * FIELD_KNOWN_BYTES);
    line.refuse(&asked, ErrorCode::BadFrame).await;
    let (asked, enter) = asks_to_enter(&mut line).await;
    assert!(enter.known.is_empty());
    line.answer(&asked, entered()).await;

    // Of the three, one has gone meanwhile.
    let mut crowd = Crowd::new(2);
    for batch in crowd.tick() {
        tell(&mut line, &batch).await;
    }
    while field.neighbours().len() != 2 {
        soon(field.next_event()).await.unwrap();
    }
}

/// What the script tells a device that stands at zero among so many others.
pub(crate) struct Crowd {
    pub(crate) field: tombolo_field::Field,
    others: usize,
}

impl Crowd {
    pub(crate) fn new(others: usize) -> Self {
        let mut field = tombolo_field::Field::new(Settings::default()).unwrap();
        for id in 0..=others as u64 {
            let report = Report::at([id as f64 * 0.01, 0.0, 0.0]);
            field.report(Duration::ZERO, EntityId(id), &report).unwrap();
        }
        let watch = Watch {
            budget: 16 * 1024,
            is_reliable: true,
            ..Watch::default()
        };
        field.observe(EntityId(0), watch).unwrap();
        Self { field, others }
    }

    pub(crate) fn tick(&mut self) -> Vec<Vec<u8>> {
        let mut batches = Vec::new();
        self.field.tick(Duration::ZERO, &Everything, |_, batch| {
            batches.push(batch.to_vec());
        });
        batches
    }

    /// Tells of all, as fast as the application reads.
    async fn comes(&mut self, field: &Field, line: &mut Line) {
        let mut mirror = Mirror::new();
        while mirror.seen().len() < self.others {
            for batch in self.tick() {
                let changes = mirror.apply(&batch).unwrap();
                tell(line, &batch).await;
                for _ in changes {
                    let told = soon(field.next_event()).await.unwrap();
                    assert!(matches!(told, FieldEvent::Entered(_)), "{told:?}");
                }
            }
        }
    }

    fn moves(&mut self, id: u64) -> Vec<Vec<u8>> {
        let report = Report {
            sequence: 2,
            ..Report::at([0.0, 5.0, 0.0])
        };
        let moved = self.field.report(Duration::ZERO, EntityId(id), &report);
        moved.unwrap();
        self.tick()
    }
}

pub(crate) async fn tell(line: &mut Line, batch: &[u8]) {
    let batch = FieldBatch {
        seat: 1,
        batch: batch.to_vec().into(),
    };
    line.tell(server_frame::Body::FieldBatch(batch)).await;
}

/// The device's next request, by which it comes back.
async fn asks_to_enter(line: &mut Line) -> (tombolo_wire::v1::Request, EnterField) {
    let asked = asks(line).await;
    let Some(request::Kind::Field(field)) = &asked.kind else {
        panic!("it should enter, not {asked:?}");
    };
    let Some(field_request::Kind::Enter(enter)) = &field.kind else {
        panic!("it should enter, not {asked:?}");
    };
    let enter = enter.clone();
    (asked, enter)
}

fn id_of(known: &[u8]) -> u64 {
    let (id, _) = known.split_first_chunk().unwrap();
    u64::from_be_bytes(*id)
}
