//! An address for those who collect metrics, which only tells.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

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
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| cannot(address, error))?;
    let address = listener.local_addr()?;
    tokio::spawn(http::serve(listener, router(source)));
    Ok(address)
}

fn cannot(address: SocketAddr, error: io::Error) -> anyhow::Error {
    let kind = error.kind();
    if kind == io::ErrorKind::AddrInUse {
        anyhow::anyhow!(
            "{address} is in use: stop what listens there, or choose another port for metrics"
        )
    } else if kind == io::ErrorKind::PermissionDenied {
        anyhow::anyhow!(
            "not allowed to listen on {address}: choose a port from 1024 on for metrics, or grant \
             CAP_NET_BIND_SERVICE"
        )
    } else {
        anyhow::Error::new(error).context(format!("cannot serve metrics at {address}"))
    }
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
