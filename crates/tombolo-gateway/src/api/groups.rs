//! Groups, for operators and game servers.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use tombolo_wire::GroupName;
use tombolo_wire::v1::ErrorCode;
use tracing::info;

use super::{GroupsEnd, GroupsRead, Holder, NO_BODY, Node, PAGE, PAGE_MAX, bad, parse_user, path};
use crate::groups::{GroupPage, GroupStatus};
use crate::http::ApiError;

pub(super) async fn list(
    State(shared): Node,
    _: Holder<GroupsRead>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<GroupPage>, ApiError> {
    let Query(query) = query.map_err(|rejection| bad(&rejection.body_text()))?;
    let owner = query.owner.as_deref().map(parse_user).transpose()?;
    let after = query.after.as_deref().map(parse).transpose()?;
    let count = query.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let found = shared
        .services
        .list_groups(owner.as_ref(), after.as_ref(), count);
    Ok(Json(found.await?.into()))
}

pub(super) async fn show(
    State(shared): Node,
    _: Holder<GroupsRead>,
    group: Result<Path<String>, PathRejection>,
) -> Result<Json<GroupStatus>, ApiError> {
    let group = parse(&path(group)?)?;
    let view = shared.services.view_group(&group).await?;
    Ok(Json(GroupStatus::new(&group, view)))
}

pub(super) async fn end(
    State(shared): Node,
    holder: Holder<GroupsEnd>,
    group: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let group = parse(&path(group)?)?;
    let place = format!("end group {group}");
    let end = async |wanted_for: Duration| {
        match shared.services.end_group(&group).await {
            // That was done by the one before, whose answer was lost.
            Err(reject) if reject.code == ErrorCode::NoSuchGroup && !wanted_for.is_zero() => {}
            ended => ended?,
        }
        info!(key = holder.key.key.name, %group, "a server ended a group");
        Ok(Json(EndedBody {}).into_response())
    };
    holder.once(&shared, &place, NO_BODY, end).await
}

fn parse(group: &str) -> Result<GroupName, ApiError> {
    GroupName::parse(group)
        .map_err(|error| ApiError::of_contract(StatusCode::BAD_REQUEST, error.code(), error))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    owner: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct EndedBody {}
