//! What operators see and end of a relay, of a TURN server's and of a node's.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use tombolo_relay::Relay;

use super::api::{self, Allocation, Ended, Page, Stats};
use crate::admin::Error;

/// Whoever has a relay.
pub(crate) trait Relaying: Send + Sync + 'static {
    /// Asks it, which may block; `None` when it has ended.
    fn with_relay<T>(&self, ask: impl FnOnce(&Relay) -> T) -> Option<T>;
}

pub(crate) fn router<R: Relaying>() -> Router<Arc<R>> {
    Router::new()
        .route("/v1/allocations", get(list::<R>).delete(end::<R>))
        .route("/v1/stats", get(stats::<R>))
}

async fn list<R: Relaying>(
    State(relaying): State<Arc<R>>,
    query: Result<Query<api::Query>, QueryRejection>,
) -> Result<Json<Page>, Error> {
    let Query(query) = query?;
    let filter = query.filter()?;
    let count = query.count.unwrap_or(PAGE).min(PAGE_MAX);
    let skip = query.skip.unwrap_or(0);
    let page = with(relaying, move |relay| {
        relay.allocations(&filter, skip, count)
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

async fn end<R: Relaying>(
    State(relaying): State<Arc<R>>,
    query: Result<Query<api::Query>, QueryRejection>,
) -> Result<Json<Ended>, Error> {
    let Query(query) = query?;
    let filter = query.filter()?;
    if !query.is_narrow() && query.all != Some(true) {
        return Err(Error::bad("say which ones: user, realm, client, or all"));
    }
    let ended = with(relaying, move |relay| relay.end(&filter)).await?;
    Ok(Json(Ended { ended }))
}

async fn stats<R: Relaying>(State(relaying): State<Arc<R>>) -> Result<Json<Stats>, Error> {
    let stats = with(relaying, Relay::stats).await?;
    Ok(Json(Stats::new(&stats)))
}

/// Asks a relay off the thread that serves.
async fn with<R: Relaying, T: Send + 'static>(
    relaying: Arc<R>,
    ask: impl FnOnce(&Relay) -> T + Send + 'static,
) -> Result<T, Error> {
    let asked = tokio::task::spawn_blocking(move || relaying.with_relay(ask));
    match asked.await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(Error::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the relay is about to end",
        )),
        Err(_) => Err(Error::internal()),
    }
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
