//! An address for those who collect metrics, which only tells.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tombolo_relay::OPEN_METRICS_TYPE;

use crate::http;

/// Whoever has something to tell. All of it may block.
pub(crate) trait Source: Send + Sync + 'static {
    /// All counters as OpenMetrics text.
    fn metrics(&self) -> String;

    /// # Errors
    /// Says why newcomers are not welcome.
    fn readiness(&self) -> Result<(), String>;
}

/// Serves metrics until the runtime ends, and says where.
pub(crate) async fn serve(
    address: SocketAddr,
    source: Arc<impl Source>,
) -> anyhow::Result<SocketAddr> {
    let cannot = || format!("cannot serve metrics at {address}");
    let listener = TcpListener::bind(address).await.with_context(cannot)?;
    let address = listener.local_addr()?;
    tokio::spawn(http::serve(listener, router(source)));
    Ok(address)
}

/// `/metrics`, `/healthz` and `/readyz`.
pub(crate) fn router<S: Source>(source: Arc<S>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz::<S>))
        .route("/metrics", get(metrics::<S>))
        .with_state(source)
}

async fn readyz<S: Source>(State(source): State<Arc<S>>) -> Response {
    match tokio::task::spawn_blocking(move || source.readiness()).await {
        Ok(Ok(())) => "ready\n".into_response(),
        Ok(Err(why)) => {
            let why = format!("not ready: {why}\n");
            (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn metrics<S: Source>(State(source): State<Arc<S>>) -> Response {
    match tokio::task::spawn_blocking(move || source.metrics()).await {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
