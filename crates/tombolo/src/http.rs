//! HTTP for operators: metrics over TCP, and the admin socket. Bounded, since whoever reaches the
//! address may hold connections open and never ask.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tracing::debug;

/// Serves until the runtime ends. Newcomers beyond the bound are let go at once.
pub(crate) async fn serve<L: Listener>(mut listener: L, router: Router) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The listener logs what fails, and waits a moment then.
        let (stream, _) = listener.accept().await;
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else {
            debug!("an HTTP connection too many");
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            connection(stream, router).await;
            drop(seat);
        });
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_TIMEOUT, pin!(connection)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "HTTP connection failed"),
        Err(_) => debug!("HTTP connection took too long"),
    }
}

/// Those who collect metrics are few.
const CONNECTIONS_MAX: usize = 64;
/// For the head of a request, and between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any answer takes; whoever wants to stay connects anew.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
const HEADER_BYTES_MAX: usize = 16 * 1024;

const _: () = assert!(HEADER_BYTES_MAX >= 8192, "hyper panics below its minimum");
