//! What servers put into fields.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tombolo_services::FieldThing;
use tombolo_wire::FieldId;

use super::body::Done;
use super::once::Read;
use super::{FieldsPut, Holder, Node, bad, decode};
use crate::http::ApiError;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutBody {
    position: Vec<f64>,
    #[serde(default)]
    class: u8,
    text: Option<String>,
    base64: Option<String>,
    #[serde(default)]
    marks: u64,
    lasts_s: Option<u64>,
}

#[derive(Debug, Serialize)]
struct EntityBody {
    entity: String,
}

/// Puts something there, or moves it; to do so again does no harm.
pub(super) async fn put(
    State(shared): Node,
    _: Holder<FieldsPut>,
    names: Result<Path<(String, String)>, PathRejection>,
    Read { body, .. }: Read<PutBody>,
) -> Result<Response, ApiError> {
    let (field, name) = parse(names)?;
    let payload = match (body.text, body.base64) {
        (Some(text), None) => Bytes::from(text),
        (None, Some(text)) => decode(&text)?,
        (None, None) => Bytes::new(),
        (Some(_), Some(_)) => return Err(bad("an entity has text or base64, not both")),
    };
    let thing = FieldThing {
        name,
        class: body.class,
        position: body.position,
        payload,
        marks: body.marks,
        lasts: body.lasts_s.map_or(LASTS, Duration::from_secs),
    };
    let entity = shared.services.put_into_field(&field, thing).await?;
    let entity = format!("{:016x}", entity.0);
    Ok(Json(EntityBody { entity }).into_response())
}

pub(super) async fn take(
    State(shared): Node,
    _: Holder<FieldsPut>,
    names: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<Done>, ApiError> {
    let (field, name) = parse(names)?;
    shared.services.take_from_field(&field, &name).await?;
    Ok(Json(Done::default()))
}

fn parse(
    names: Result<Path<(String, String)>, PathRejection>,
) -> Result<(FieldId, String), ApiError> {
    let Path((field, name)) = names.map_err(|rejection| bad(&rejection.body_text()))?;
    let field = FieldId::parse(&field).map_err(|error| {
        let status = axum::http::StatusCode::BAD_REQUEST;
        ApiError::of_contract(status, error.code(), error)
    })?;
    Ok((field, name))
}

/// Unless the server says otherwise.
const LASTS: Duration = Duration::from_secs(30);
