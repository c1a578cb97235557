//! What the admin socket of `tombolo turn` answers.

pub(crate) mod allocations;
pub(crate) mod api;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use tombolo_relay::Relay;
use tombolo_turn::server::Drain;

use super::operator::Operator;
use crate::admin::Error;
use crate::cli::TIME_MAX;
use crate::metrics;
use allocations::Relaying;
use api::{DrainRequest, Left};

type Server = State<Arc<Operator>>;

/// All that operators may ask.
pub(crate) fn router(operator: Arc<Operator>) -> Router {
    Router::new()
        .route("/v1/drain", post(drain).delete(undrain))
        .route("/v1/reload", post(reload))
        .merge(allocations::router())
        .fallback(|| async { Error::new(StatusCode::NOT_FOUND, "not_found", "no such path") })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Arc::clone(&operator))
        .merge(metrics::router(operator))
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
        .map_err(|_| Error::internal())
}

impl Relaying for Operator {
    fn with_relay<T>(&self, ask: impl FnOnce(&Relay) -> T) -> Option<T> {
        Some(ask(&self.relay))
    }
}

/// More than any request has.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// More than any fleet has.
const ALTERNATES_MAX: usize = 256;
