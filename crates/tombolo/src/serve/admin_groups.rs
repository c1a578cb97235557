//! What the admin socket of a node answers about groups.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tombolo_node::{GroupPage, GroupStatus, Reject};
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{GroupName, UserId};

use super::admin::{Node, PAGE};
use crate::admin::Error;

/// Which groups are meant, as a query string.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WhichGroups {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<usize>,
}

/// A group that is no more.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct GroupEnded {
    pub(crate) group: String,
}

pub(super) async fn list(
    State(admin): Node,
    query: Result<Query<WhichGroups>, QueryRejection>,
) -> Result<Json<GroupPage>, Error> {
    let Query(which) = query?;
    let owner = which.owner.as_deref().map(UserId::parse).transpose();
    let owner = owner.map_err(|error| Error::bad(&format!("owner: {error}")))?;
    let after = which.after.as_deref().map(parse).transpose()?;
    let count = which.count.unwrap_or(PAGE).min(tombolo_node::RANGE_MAX);
    let groups = admin.operator.groups(owner.as_ref(), after.as_ref(), count);
    Ok(Json(groups.await.map_err(no_group)?))
}

pub(super) async fn show(
    State(admin): Node,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<GroupStatus>, Error> {
    let Path(name) = name?;
    let group = admin.operator.group(&parse(&name)?).await;
    Ok(Json(group.map_err(no_group)?))
}

pub(super) async fn end(
    State(admin): Node,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<GroupEnded>, Error> {
    let Path(name) = name?;
    let ended = admin.operator.end_group(&parse(&name)?).await;
    ended.map_err(no_group)?;
    Ok(Json(GroupEnded { group: name }))
}

fn parse(name: &str) -> Result<GroupName, Error> {
    GroupName::parse(name).map_err(|error| Error::bad(&format!("group: {error}")))
}

fn no_group(reject: Reject) -> Error {
    let (status, code) = if reject.code == ErrorCode::NoSuchGroup {
        (StatusCode::NOT_FOUND, "no_such_group")
    } else if reject.code == ErrorCode::Unsure {
        (StatusCode::CONFLICT, "unsure")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    };
    Error::new(status, code, &reject.message)
}
