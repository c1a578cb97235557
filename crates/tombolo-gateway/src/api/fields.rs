//! What servers put into fields.

use std::collections::BTreeMap;
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
use super::{FieldsPut, Holder, Node, bad, decode, parse_user};
use crate::http::{ApiError, ErrorBody};
use crate::shared::Shared;

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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutAllBody {
    entities: BTreeMap<String, PutBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MarkBody {
    user: String,
    marks: u64,
}

#[derive(Debug, Serialize)]
struct EntityBody {
    entity: String,
}

#[derive(Debug, Default, Serialize)]
struct EntitiesBody {
    /// By name.
    entities: BTreeMap<String, String>,
    refused: BTreeMap<String, ErrorBody>,
}

/// Puts something there, or moves it; to do so again does no harm.
pub(super) async fn put(
    State(shared): Node,
    _: Holder<FieldsPut>,
    names: Result<Path<(String, String)>, PathRejection>,
    Read { body, .. }: Read<PutBody>,
) -> Result<Response, ApiError> {
    let (field, name) = parse(names)?;
    let entity = put_one(&shared, &field, name, body).await?;
    Ok(Json(EntityBody { entity }).into_response())
}

/// Puts many things there, or moves them: what is wrong with one disturbs no other.
pub(super) async fn put_all(
    State(shared): Node,
    _: Holder<FieldsPut>,
    field: Result<Path<String>, PathRejection>,
    Read { body, .. }: Read<PutAllBody>,
) -> Result<Response, ApiError> {
    let Path(field) = field.map_err(|rejection| bad(&rejection.body_text()))?;
    let field = parse_field(&field)?;
    if body.entities.len() > AT_ONCE_MAX {
        return Err(bad("at most 500 entities are put there at once"));
    }
    let mut done = EntitiesBody::default();
    for (name, body) in body.entities {
        match put_one(&shared, &field, name.clone(), body).await {
            Ok(entity) => drop(done.entities.insert(name, entity)),
            Err(error) => drop(done.refused.insert(name, error.into())),
        }
    }
    Ok(Json(done).into_response())
}

/// Puts something there, and returns its number.
async fn put_one(
    shared: &Shared,
    field: &FieldId,
    name: String,
    body: PutBody,
) -> Result<String, ApiError> {
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
    let entity = shared.services.put_into_field(field, thing).await?;
    Ok(format!("{:016x}", entity.0))
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

/// Marks a user's devices; to do so again does no harm.
pub(super) async fn mark(
    State(shared): Node,
    _: Holder<FieldsPut>,
    field: Result<Path<String>, PathRejection>,
    Read { body, .. }: Read<MarkBody>,
) -> Result<Json<Done>, ApiError> {
    let Path(field) = field.map_err(|rejection| bad(&rejection.body_text()))?;
    let (field, user) = (parse_field(&field)?, parse_user(&body.user)?);
    let marked = shared.services.mark_in_field(&field, &user, body.marks);
    marked.await?;
    Ok(Json(Done::default()))
}

fn parse(
    names: Result<Path<(String, String)>, PathRejection>,
) -> Result<(FieldId, String), ApiError> {
    let Path((field, name)) = names.map_err(|rejection| bad(&rejection.body_text()))?;
    Ok((parse_field(&field)?, name))
}

fn parse_field(field: &str) -> Result<FieldId, ApiError> {
    FieldId::parse(field).map_err(|error| {
        let status = axum::http::StatusCode::BAD_REQUEST;
        ApiError::of_contract(status, error.code(), error)
    })
}

/// About as many as there is place for in a body.
const AT_ONCE_MAX: usize = 500;

/// Unless the server says otherwise.
const LASTS: Duration = Duration::from_secs(30);
