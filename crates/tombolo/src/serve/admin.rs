//! What the admin socket of a node answers. `tombolo nodes`, `rooms`, `users`, `all-groups`, `drain`, `rebalance`,
//! `notify`, and `turn list`, `inspect`, `end` and `stats` ask it, and print the same JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{any, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tombolo_node::{
    Asked, NodeStatus, OperateError, Operator, Page, PoolStatus, Range, Reject, RoomStatus,
    UserStatus,
};
use tombolo_relay::Relay;
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{NodeId, TagName};

use super::admin_groups;
use crate::admin::Error;
use crate::turn::admin::allocations::{self, Relaying};

pub(super) type Node = State<Arc<Admin>>;

/// What operators reach of a node.
pub(super) struct Admin {
    pub(super) operator: Operator,
    /// Reads the configuration again. Blocks.
    pub(super) reload: Box<dyn Fn() -> anyhow::Result<()> + Send + Sync>,
}

/// All nodes of the cluster.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<NodeStatus>,
}

/// Pools of the matchmaker.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Pools {
    pub(crate) pools: Vec<PoolStatus>,
}

/// Which users or rooms are meant, as a query string.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Which {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<String>,
    pub(crate) skip: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<usize>,
}

impl Relaying for Admin {
    fn with_relay<T>(&self, ask: impl FnOnce(&Relay) -> T) -> Option<T> {
        self.operator.relay().map(|relay| ask(&relay))
    }
}

/// What a drain is asked for.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DrainRequest {
    pub(crate) timeout_s: u64,
}

/// What users are told.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NotifyRequest {
    pub(crate) to: String,
    pub(crate) text: String,
    pub(crate) lasts_s: u64,
}

/// Users are told.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Notified {
    /// Of the notice, among those to the same users.
    pub(crate) number: u64,
}

/// What every node was asked to move.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Rebalanced {
    pub(crate) nodes: Vec<Asked>,
}

pub(super) fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{name}", get(node))
        .route("/v1/nodes/{name}/drain", post(drain))
        .route("/v1/users", get(users))
        .route("/v1/rooms", get(rooms))
        .route("/v1/pools", get(pools))
        .route("/v1/pools/{pool}", get(pool))
        .route("/v1/groups", get(admin_groups::list))
        .route(
            "/v1/groups/{group}",
            get(admin_groups::show).delete(admin_groups::end),
        )
        .route("/v1/rebalance", post(rebalance))
        .route("/v1/notices", post(notify))
        .route("/v1/reload", post(reload))
        .route("/v1/drain", any(drained_whole))
        .merge(allocations::router())
        .fallback(|| async { Error::new(StatusCode::NOT_FOUND, "not_found", "no such path") })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(admin)
}

async fn nodes(State(admin): Node) -> Result<Json<Nodes>, Error> {
    let nodes = admin.operator.nodes().await?;
    Ok(Json(Nodes { nodes }))
}

async fn node(
    State(admin): Node,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<NodeStatus>, Error> {
    let Path(name) = name?;
    Ok(Json(admin.operator.node(&parse(&name)?).await?))
}

async fn drain(
    State(admin): Node,
    name: Result<Path<String>, PathRejection>,
    body: Result<Json<DrainRequest>, JsonRejection>,
) -> Result<Json<NodeStatus>, Error> {
    let (Path(name), Json(request)) = (name?, body?);
    let name = parse(&name)?;
    let time = Duration::from_secs(request.timeout_s);
    admin.operator.drain(&name, time).await?;
    Ok(Json(admin.operator.node(&name).await?))
}

/// Of a TURN server it would be its relay alone.
async fn drained_whole() -> Error {
    let message = "a node is drained as a whole: `tombolo drain NODE`";
    Error::new(StatusCode::CONFLICT, "is_node", message)
}

async fn users(
    State(admin): Node,
    query: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Page<UserStatus>>, Error> {
    let Query(which) = query?;
    Ok(Json(admin.operator.users(&which.range()?).await?))
}

async fn rooms(
    State(admin): Node,
    query: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Page<RoomStatus>>, Error> {
    let Query(which) = query?;
    Ok(Json(admin.operator.rooms(&which.range()?).await?))
}

async fn pools(State(admin): Node) -> Result<Json<Pools>, Error> {
    let pools = admin.operator.pools().await.map_err(no_pool)?;
    Ok(Json(Pools { pools }))
}

async fn pool(
    State(admin): Node,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<PoolStatus>, Error> {
    let Path(name) = name?;
    Ok(Json(admin.operator.pool(&name).await.map_err(no_pool)?))
}

fn no_pool(reject: Reject) -> Error {
    let (status, code) = if reject.code == ErrorCode::NoSuchPool {
        (StatusCode::NOT_FOUND, "no_such_pool")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    };
    Error::new(status, code, &reject.message)
}

async fn notify(
    State(admin): Node,
    request: Result<Json<NotifyRequest>, JsonRejection>,
) -> Result<Json<Notified>, Error> {
    let Json(request) = request?;
    let to = TagName::parse(&request.to).map_err(|error| Error::bad(&format!("to: {error}")))?;
    let lasts = Duration::from_secs(request.lasts_s);
    let notified = admin.operator.notify(&to, request.text.into(), lasts).await;
    let notified = notified.map_err(|reject| {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Error::new(status, "not_told", &reject.message)
    })?;
    Ok(Json(Notified {
        number: notified.number,
    }))
}

async fn rebalance(State(admin): Node) -> Result<Json<Rebalanced>, Error> {
    let nodes = admin.operator.rebalance().await?;
    Ok(Json(Rebalanced { nodes }))
}

async fn reload(State(admin): Node) -> Result<Json<serde_json::Value>, Error> {
    let reloaded = tokio::task::spawn_blocking(move || (admin.reload)()).await;
    match reloaded {
        Ok(Ok(())) => Ok(Json(serde_json::json!({}))),
        Ok(Err(error)) => {
            let message = format!("{error:#}");
            Err(Error::new(StatusCode::CONFLICT, "not_reloaded", &message))
        }
        Err(_) => Err(Error::internal()),
    }
}

impl Which {
    fn range(&self) -> Result<Range, Error> {
        let node = self.node.as_deref().map(parse).transpose()?;
        let count = self.count.unwrap_or(PAGE).min(tombolo_node::RANGE_MAX);
        Ok(Range {
            node,
            after: self.after.clone(),
            skip: self.skip,
            count,
        })
    }
}

fn parse(name: &str) -> Result<NodeId, Error> {
    NodeId::parse(name).map_err(|error| Error::bad(&format!("node: {error}")))
}

impl From<OperateError> for Error {
    fn from(error: OperateError) -> Self {
        let (status, code) = match error {
            OperateError::NoSuchNode(_) => (StatusCode::NOT_FOUND, "no_such_node"),
            OperateError::TooFar => (StatusCode::BAD_REQUEST, "bad_request"),
            OperateError::Silent(_) | OperateError::Unavailable | _ => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
        };
        Self::new(status, code, &error.to_string())
    }
}

/// Items in a page that asks for no other number.
pub(super) const PAGE: usize = 100;
/// More than any request has.
const BODY_BYTES_MAX: usize = 32 * 1024;
