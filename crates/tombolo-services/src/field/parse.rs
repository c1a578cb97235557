//! What devices say of fields, to what is in order.

use bytes::Bytes;
use tombolo_field::{
    BUDGET_MIN, Dimensions, EntityId, PAYLOAD_MAX, POSITION_MAX, RANGE_MAX, Watch,
};
use tombolo_wire::v1::{self, field_request};
use tombolo_wire::{FIELD_KNOWN_BYTES, FIELD_KNOWN_MAX, FieldId};

use super::refusal::Refusal;
use super::seat::Seat;
use crate::config::{FIELD_BATCH_BYTES_MAX, FieldConfig};
use crate::reject::Reject;

/// A request that was found to be in order.
pub(crate) struct FieldRequest {
    pub(super) field: FieldId,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Enter(Box<Enter>),
    Leave,
    Meet(EntityId),
    Remove(u32),
}

/// A device wants to come in.
#[derive(Clone)]
pub(super) struct Enter {
    pub(super) dimensions: Dimensions,
    pub(super) class: u8,
    pub(super) watch: Watch,
    pub(super) report: OwnReport,
    pub(super) known: Vec<(EntityId, u32)>,
}

/// Where something is that belongs to a device.
#[derive(Clone, Debug)]
pub(super) struct OwnReport {
    /// 0: the device itself.
    pub(super) own: u32,
    pub(super) sequence: u32,
    pub(super) class: u8,
    pub(super) position: [f64; 3],
    pub(super) payload: Bytes,
}

pub(super) fn request(
    config: &FieldConfig,
    request: v1::FieldRequest,
) -> Result<FieldRequest, ParseError> {
    let field = FieldId::parse(&request.field)
        .map_err(|error| ParseError::Name(Reject::new(error.code(), error)))?;
    let kind = match request.kind.ok_or(Refusal::Malformed)? {
        field_request::Kind::Enter(wanted) => Kind::Enter(Box::new(enter(config, wanted)?)),
        field_request::Kind::Leave(_) => Kind::Leave,
        field_request::Kind::Meet(meet) => Kind::Meet(EntityId(meet.entity)),
        field_request::Kind::Remove(remove) if remove.own != 0 => Kind::Remove(remove.own),
        field_request::Kind::Remove(_) => return Err(Refusal::Malformed.into()),
    };
    Ok(FieldRequest { field, kind })
}

/// Why a request is not in order.
pub(super) enum ParseError {
    Name(Reject),
    Refused(Refusal),
}

impl From<Refusal> for ParseError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn enter(config: &FieldConfig, wanted: v1::EnterField) -> Result<Enter, Refusal> {
    let dimensions = match wanted.dimensions {
        2 => Dimensions::Two,
        3 => Dimensions::Three,
        _ => return Err(Refusal::Dimensions),
    };
    let class = u8::try_from(wanted.class).map_err(|_| Refusal::Class)?;
    let budget_max = config.budget.min(FIELD_BATCH_BYTES_MAX);
    let budget = match wanted.budget as usize {
        0 => budget_max,
        budget if (BUDGET_MIN..=budget_max).contains(&budget) => budget,
        _ => return Err(Refusal::Budget),
    };
    let range = match wanted.range {
        0.0 => f64::INFINITY,
        // What is not a number is in no range.
        range if (0.0..=RANGE_MAX).contains(&range) => range,
        _ => return Err(Refusal::Range),
    };
    let wanted_report = wanted.report.ok_or(Refusal::Malformed)?;
    let report = OwnReport {
        class,
        ..any_report(dimensions, wanted_report)?
    };
    if report.own != 0 {
        return Err(Refusal::Malformed);
    }
    Ok(Enter {
        dimensions,
        class,
        watch: Watch {
            budget,
            range,
            is_reliable: false,
        },
        report,
        known: known(&wanted.known)?,
    })
}

/// A report of a device that is in a field.
pub(super) fn report(seat: &Seat, report: v1::FieldReport) -> Result<OwnReport, Refusal> {
    let mut report = any_report(seat.dimensions, report)?;
    if report.own == 0 {
        report.class = seat.class;
    } else if !seat.puts(report.class) {
        return Err(Refusal::ClassPut);
    }
    Ok(report)
}

fn any_report(dimensions: Dimensions, report: v1::FieldReport) -> Result<OwnReport, Refusal> {
    let count = match dimensions {
        Dimensions::Two => 2,
        Dimensions::Three => 3,
    };
    // What is not a number is not within.
    let is_within = |coordinate: &f64| coordinate.abs() <= POSITION_MAX;
    if report.position.len() != count || !report.position.iter().all(is_within) {
        return Err(Refusal::Position);
    }
    if report.payload.len() > PAYLOAD_MAX {
        return Err(Refusal::Payload);
    }
    let mut position = [0.0; 3];
    position[..count].copy_from_slice(&report.position);
    Ok(OwnReport {
        own: report.own,
        sequence: report.sequence,
        class: u8::try_from(report.class).map_err(|_| Refusal::Class)?,
        position,
        payload: report.payload,
    })
}

fn known(bytes: &[u8]) -> Result<Vec<(EntityId, u32)>, Refusal> {
    let (entries, rest) = bytes.as_chunks::<FIELD_KNOWN_BYTES>();
    if !rest.is_empty() || entries.len() > FIELD_KNOWN_MAX {
        return Err(Refusal::Known);
    }
    let entry = |entry: &[u8; FIELD_KNOWN_BYTES]| {
        let (entity, sequence) = entry.split_first_chunk()?;
        let sequence = u32::from_be_bytes(sequence.try_into().ok()?);
        Some((EntityId(u64::from_be_bytes(*entity)), sequence))
    };
    let known = entries.iter().map(entry).collect::<Option<_>>();
    known.ok_or(Refusal::Known)
}
