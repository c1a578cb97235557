//! A device in a field, without sockets.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tombolo_field::{Change, EntityId, Mirror};
use tombolo_services::Outgoing;
use tombolo_wire::v1::{
    self, ErrorCode, client_frame, field_request, field_response, request, response, server_frame,
};

use crate::lab::{Device, Lab};

/// A device that is in a field.
pub(crate) struct Walker {
    pub(crate) device: Device,
    pub(crate) mirror: Mirror,
    pub(crate) seat: u32,
    pub(crate) entity: EntityId,
    pub(crate) sequence: u32,
    /// The longest batch that has come.
    pub(crate) largest: usize,
    pub(crate) refusals: Vec<ErrorCode>,
    pub(crate) introduced: Vec<v1::Introduced>,
    /// All batches that have come.
    pub(crate) batches: Vec<Bytes>,
}

impl Walker {
    pub(crate) async fn new(lab: &Lab, user: &str, at: &[f64]) -> Self {
        let mut walker = Self::outside(lab.device(user).await);
        walker.enter(at).await.unwrap();
        walker
    }

    /// One that has not entered the field yet.
    pub(crate) fn outside(device: Device) -> Self {
        Self {
            device,
            mirror: Mirror::new(),
            seat: 0,
            entity: EntityId(0),
            sequence: 0,
            largest: 0,
            refusals: Vec::new(),
            introduced: Vec::new(),
            batches: Vec::new(),
        }
    }

    pub(crate) async fn enter(&mut self, at: &[f64]) -> Result<(), ErrorCode> {
        let known = self.mirror.knowledge().into_iter();
        let known = known
            .flat_map(|(id, sequence)| [&id.0.to_be_bytes()[..], &sequence.to_be_bytes()].concat());
        let wanted = v1::EnterField {
            dimensions: at.len() as u32,
            report: Some(self.report(at)),
            known: known.collect::<Vec<_>>().into(),
            ..v1::EnterField::default()
        };
        let entered = enter(&mut self.device, wanted).await?;
        self.mirror.restart();
        self.seat = entered.seat;
        self.entity = EntityId(entered.entity);
        Ok(())
    }

    pub(crate) fn report(&mut self, at: &[f64]) -> v1::FieldReport {
        self.sequence += 1;
        v1::FieldReport {
            sequence: self.sequence,
            position: at.to_vec(),
            payload: "p".into(),
            ..v1::FieldReport::default()
        }
    }

    pub(crate) fn go(&mut self, at: &[f64]) {
        let report = self.report(at);
        self.tell(Some(report));
    }

    pub(crate) fn tell(&mut self, report: Option<v1::FieldReport>) {
        let ticks = self.mirror.ticks();
        let update = v1::FieldUpdate {
            seat: self.seat,
            report,
            ack: ticks.last,
            ack_before: ticks.before,
        };
        self.device
            .send_unreliably(client_frame::Body::FieldUpdate(update))
            .unwrap();
    }

    /// What changes until nothing has come for longer than something lost takes to be told again.
    pub(crate) async fn hear(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(some) = self.hear_one(Duration::from_millis(260)).await {
            changes.extend(some);
        }
        changes
    }

    pub(crate) async fn hear_one(&mut self, patience: Duration) -> Option<Vec<Change>> {
        let frame = timeout(patience, self.device.connection().next_outgoing());
        let (frame, is_reliable) = match frame.await.ok()? {
            Outgoing::Reliable(frame) => (frame, true),
            Outgoing::Unreliable(frame) => (frame, false),
            Outgoing::Close(reject) => panic!("{} is closed: {reject:?}", self.device.user),
        };
        if is_reliable {
            let now = Instant::now().into_std();
            self.device.inbox.handle_frame(now, frame.seq).unwrap();
        }
        match frame.body {
            Some(server_frame::Body::FieldBatch(batch)) if batch.seat == self.seat => {
                self.largest = self.largest.max(batch.batch.len());
                let changes = self.mirror.apply(&batch.batch).unwrap();
                self.batches.push(batch.batch);
                self.tell(None);
                Some(changes)
            }
            Some(server_frame::Body::Refused(refused)) => {
                self.refusals.push(refused.code());
                Some(Vec::new())
            }
            Some(server_frame::Body::Introduced(introduced)) => {
                self.introduced.push(introduced);
                Some(Vec::new())
            }
            _ => Some(Vec::new()),
        }
    }

    pub(crate) fn seen(&self) -> Vec<EntityId> {
        self.mirror.seen().map(|(id, _)| id).collect()
    }

    pub(crate) fn place_of(&self, other: &Self) -> [f64; 3] {
        let mut seen = self.mirror.seen();
        seen.find(|(id, _)| *id == other.entity).unwrap().1.position
    }

    pub(crate) async fn ask(
        &mut self,
        kind: field_request::Kind,
    ) -> Result<field_response::Result, ErrorCode> {
        ask(&mut self.device, kind).await
    }

    pub(crate) fn introduce(&mut self, to: EntityId, introduction: v1::Introduction) {
        let introduce = v1::Introduce {
            field: "plaza".into(),
            entity: to.0,
            introduction: Some(introduction),
            ..v1::Introduce::default()
        };
        self.device
            .send(client_frame::Body::Introduce(introduce))
            .unwrap();
    }
}

async fn ask(
    device: &mut Device,
    kind: field_request::Kind,
) -> Result<field_response::Result, ErrorCode> {
    let field = "plaza".to_owned();
    let kind = Some(kind);
    let id = device.request(Some(request::Kind::Field(v1::FieldRequest { field, kind })));
    loop {
        match device.next_frame().await {
            Some(Outgoing::Reliable(frame)) => {
                let Some(server_frame::Body::Response(response)) = frame.body else {
                    continue;
                };
                assert_eq!(response.id, id);
                return match response.result.unwrap() {
                    response::Result::Field(response) => Ok(response.result.unwrap()),
                    response::Result::Failure(failure) => Err(failure.code()),
                    other => panic!("{other:?}"),
                };
            }
            Some(Outgoing::Unreliable(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn enter(
    device: &mut Device,
    wanted: v1::EnterField,
) -> Result<v1::EnteredField, ErrorCode> {
    match ask(device, field_request::Kind::Enter(wanted)).await? {
        field_response::Result::Entered(entered) => Ok(entered),
        other => panic!("{other:?}"),
    }
}
