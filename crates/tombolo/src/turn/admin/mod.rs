//! What the admin socket of `tombolo turn` answers.

pub(crate) mod api;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use tombolo_turn::server::Drain;

use super::operator::Operator;
use crate::admin::Error;
use crate::cli::TIME_MAX;
use crate::metrics;
use api::{Allocation, DrainRequest, Ended, Left, Page, Stats};

type Server = State<Arc<Operator>>;

/// All that operators may ask.
pub(crate) fn router(operator: Arc<Operator>) -> Router {
    Router::new()
        .route("/v1/allocations", get(list).delete(end))
        .route("/v1/stats", get(stats))
        .route("/v1/drain", post(drain).delete(undrain))
        .route("/v1/reload", post(reload))
        .fallback(|| async { Error::new(StatusCode::NOT_FOUND, "not_found", "no such path") })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Arc::clone(&operator))
        .merge(metrics::router(operator))
}

async fn list(
    State(operator): Server,
    query: Result<Query<api::Query>, QueryRejection>,
) -> Result<Json<Page>, Error> {
    let Query(query) = query?;
    let filter = query.filter()?;
    let count = query.count.unwrap_or(PAGE).min(PAGE_MAX);
    let skip = query.skip.unwrap_or(0);
    let page = with(operator, move |operator| {
        operator.relay.allocations(&filter, skip, count)
    });
    let page = page.await?;
    let allocations = page.allocations.iter();
    Ok(Json(Page {
        total: page.total,
        allocations: allocations
            .map(|(now, info)| Allocation::new(*now, info))
            .collect(),
    }))
}

async fn end(
    State(operator): Server,
    query: Result<Query<api::Query>, QueryRejection>,
) -> Result<Json<Ended>, Error> {
    let Query(query) = query?;
    let filter = query.filter()?;
    if !query.is_narrow() && query.all != Some(true) {
        return Err(Error::bad("say which ones: user, realm, client, or all"));
    }
    let ended = with(operator, move |operator| operator.relay.end(&filter)).await?;
    Ok(Json(Ended { ended }))
}

async fn stats(State(operator): Server) -> Result<Json<Stats>, Error> {
    let stats = with(operator, |operator| operator.relay.stats()).await?;
    Ok(Json(Stats::new(&stats)))
}

async fn drain(
    State(operator): Server,
    body: Result<Json<DrainRequest>, JsonRejection>,
) -> Result<Json<Left>, Error> {
    let Json(request) = body?;
    if request.alternates.len() > ALTERNATES_MAX {
        return Err(Error::bad("too many alternate servers"));
    }
    let left = with(operator, move |operator| {
        let mut drain = Drain::default();
        drain.alternates = request.alternates;
        drain.domain = request.domain;
        let deadline = request.deadline_s.map(|seconds| seconds.min(TIME_MAX));
        drain.deadline = deadline.map(Duration::from_secs);
        if drain.alternates.is_empty() {
            // Whoever looks how a drain goes takes no servers from it.
            operator.relay.drain_if_not(&drain);
        } else {
            operator.relay.drain(&drain);
        }
        operator.left()
    });
    Ok(Json(left.await?))
}

async fn undrain(State(operator): Server) -> Result<Json<Left>, Error> {
    let left = with(operator, |operator| {
        operator.relay.undrain();
        operator.left()
    });
    Ok(Json(left.await?))
}

async fn reload(State(operator): Server) -> Result<Json<serde_json::Value>, Error> {
    match with(operator, |operator| operator.reload()).await? {
        Ok(()) => Ok(Json(serde_json::json!({}))),
        Err(error) => Err(Error::new(
            StatusCode::CONFLICT,
            "not_reloaded",
            &format!("{error:#}"),
        )),
    }
}

/// Asks the server, which may block, off the thread that serves.
async fn with<T: Send + 'static>(
    operator: Arc<Operator>,
    ask: impl FnOnce(&Operator) -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(move || ask(&operator))
        .await
        .map_err(|_| {
            Error::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "it did not work",
            )
        })
}

impl From<api::NoAddress> for Error {
    fn from(_: api::NoAddress) -> Self {
        Self::bad("a client is an IP, or an IP with a port")
    }
}

/// Allocations in a page that asks for no other number.
const PAGE: usize = 100;
/// Allocations in a page at most.
const PAGE_MAX: usize = 1000;
/// More than any request has.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// More than any fleet has.
const ALTERNATES_MAX: usize = 256;
