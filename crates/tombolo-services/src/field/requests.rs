//! Requests about fields.

use std::sync::Arc;

use tokio::sync::oneshot;
use tombolo_field::{EntityId, RANGE_MAX, Settings};
use tombolo_wire::FieldId;
use tombolo_wire::v1::{self, ErrorCode, field_response, response};

use super::driver::Input;
use super::meet;
use super::parse::{self, Enter, FieldRequest, Kind, ParseError};
use super::refusal::Refusal;
use super::refused;
use super::seat::Seat;
use crate::node::Node;
use crate::reject::Reject;
use crate::requests;
use crate::session::Session;

/// Reads a request.
pub(crate) fn parse(
    node: &Node,
    session: &Session,
    request: v1::FieldRequest,
    now: std::time::Instant,
) -> Result<FieldRequest, Reject> {
    if !session.account().reports.take(now, 1) {
        return Err(refused(node, Refusal::Rate));
    }
    let request = parse::request(&node.config.fields, request).map_err(|error| match error {
        ParseError::Name(reject) => reject,
        ParseError::Refused(refusal) => refused(node, refusal),
    })?;
    if matches!(request.kind, Kind::Enter(_)) && !session.account().joins.take(now, 1) {
        return Err(refused(node, Refusal::Rate));
    }
    Ok(request)
}

/// Carries a request out and answers it, unless it fails.
pub(crate) async fn carry_out(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    request: FieldRequest,
) -> Result<(), Reject> {
    let FieldRequest { field, kind } = request;
    let name = field.to_string();
    let result = match kind {
        Kind::Enter(wanted) => enter(node, session, field, wanted).await?,
        Kind::Leave => {
            if !session.lock().seats.leave(&field) {
                return Err(refused(node, Refusal::NotInField));
            }
            field_response::Result::Left(v1::LeftField {})
        }
        Kind::Meet(entity) => {
            let seat = seat(node, session, &field)?;
            let card = meet::card(node, &seat, entity).await?;
            field_response::Result::Met(card)
        }
        Kind::Remove(own) => {
            let seat = seat(node, session, &field)?;
            let remove = Input::Remove(Arc::clone(&seat), own);
            let sent = seat.inputs.send(remove).await;
            sent.map_err(|_| refused(node, Refusal::NotInField))?;
            field_response::Result::Removed(v1::RemovedEntity {})
        }
    };
    let response = v1::FieldResponse {
        field: name,
        result: Some(result),
    };
    let body = requests::answer(id, response::Result::Field(response));
    node.push(session, body);
    Ok(())
}

/// The session's seat in a field.
pub(super) fn seat(node: &Node, session: &Session, field: &FieldId) -> Result<Arc<Seat>, Reject> {
    let seat = session.lock().seats.of(field);
    seat.ok_or_else(|| refused(node, Refusal::NotInField))
}

async fn enter(
    node: &Arc<Node>,
    session: &Arc<Session>,
    field: FieldId,
    enter: Box<Enter>,
) -> Result<field_response::Result, Reject> {
    let config = &node.config.fields;
    if usize::from(enter.class) >= config.settings.classes.len() {
        return Err(refused(node, Refusal::Class));
    }
    if !config.lets_in(enter.class) {
        return Err(refused(node, Refusal::ClassEntered));
    }
    if session.lock().seats.others(&field) >= config.per_session_max {
        return Err(refused(node, Refusal::TooManySeats));
    }
    let pass = node
        .authorize_field(&session.user, &field, enter.class)
        .await?;
    let puts = config.puts(enter.class, &pass);
    let ranges = config.settings.classes.iter();
    let ranges = ranges.map(|class| class.range.min(RANGE_MAX)).collect();
    let linked_within = linked_within(&config.settings);
    let tick_ms = u32::try_from(config.tick.as_millis()).unwrap_or(u32::MAX);
    for _ in 0..ATTEMPTS_MAX {
        let inputs = node.fields.open(node, &field, enter.dimensions);
        let inputs = inputs.map_err(|refusal| refused(node, refusal))?;
        let number = session.lock().seats.next_number();
        let seat = Seat::new(
            number,
            field.clone(),
            &enter,
            pass.marks,
            puts.clone(),
            session,
            inputs.clone(),
        );
        let seat = Arc::new(seat);
        let (reply, entered) = oneshot::channel();
        let input = Input::Enter {
            seat: Arc::clone(&seat),
            enter: enter.clone(),
            reply,
        };
        // A field that ends at this moment takes nobody in: then there is another.
        if inputs.send(input).await.is_err() {
            continue;
        }
        let Ok(entered) = entered.await else {
            continue;
        };
        entered.map_err(|refusal| refused(node, refusal))?;
        let entity = seat.entity;
        take(session, seat)?;
        // Those that were seated when the task failed have been told.
        if inputs.is_closed() {
            continue;
        }
        return Ok(field_response::Result::Entered(v1::EnteredField {
            seat: number,
            entity: entity.0,
            tick_ms,
            ranges,
            linked_within,
        }));
    }
    Err(refused(node, Refusal::Behind))
}

/// How near devices of each class are linked; nothing when none are.
fn linked_within(settings: &Settings) -> Vec<f64> {
    let classes = settings.classes.iter();
    let within: Vec<_> = classes
        .map(|class| class.linked_within.unwrap_or_default())
        .collect();
    if within.iter().any(|within| *within > 0.0) {
        within
    } else {
        Vec::new()
    }
}

/// Gives the session its seat, if it is still there.
fn take(session: &Session, seat: Arc<Seat>) -> Result<(), Reject> {
    let mut state = session.lock();
    state.seats.take(seat);
    if state.ended().is_some() || state.moved.is_some() {
        state.seats.move_all();
        let message = "the session goes on elsewhere";
        return Err(Reject::new(ErrorCode::Elsewhere, message));
    }
    Ok(())
}

/// Who another entity is.
pub(super) fn card_of(seat: &Seat) -> v1::MetEntity {
    v1::MetEntity {
        user: seat.user.to_string(),
        identity: bytes::Bytes::copy_from_slice(&seat.keys.identity),
        seal: bytes::Bytes::copy_from_slice(&seat.keys.seal),
    }
}

/// Asks the field's task where another entity is that the seat sees, or was called by.
pub(super) async fn locate(
    node: &Node,
    seat: &Arc<Seat>,
    entity: EntityId,
) -> Result<super::seat::Place, Reject> {
    let (reply, place) = oneshot::channel();
    let input = Input::Locate {
        seat: Arc::clone(seat),
        entity,
        reply,
    };
    let sent = seat.inputs.send(input).await;
    sent.map_err(|_| refused(node, Refusal::NotInField))?;
    let place = place.await.ok().flatten();
    place.ok_or_else(|| refused(node, Refusal::NotSeen))
}

/// How often a field is looked for.
const ATTEMPTS_MAX: usize = 8;
