//! TCP: accepts, does TLS, and serves HTTP/1.1 until it ends or turns into a WebSocket.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::admission::Ticket;
use crate::shared::Shared;

/// Where a request comes from; an extension of each request.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) addr: SocketAddr,
    /// Held by the session after the HTTP part is over.
    pub(crate) ticket: Arc<Ticket>,
}

/// Accepts until the gateway is closed: while it drains, probes and devices are told so.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    router: Router,
    shared: Arc<Shared>,
) {
    let mut phase = shared.phase();
    let mut failures = Failures::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = phase.closed() => return,
        };
        let (tcp, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly; others may give some back.
                shared.counters.accepts_failed.add();
                if let Some(times) = failures.count(Instant::now()) {
                    warn!(%error, times, "cannot accept connections: are there enough descriptors?");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let now = Instant::now().into_std();
        let ticket = match shared.admission.admit(now, addr.ip()) {
            Ok(ticket) => Arc::new(ticket),
            Err(refusal) => {
                shared.counters.refuse(refusal);
                debug!(%addr, ?refusal, "connection refused");
                continue;
            }
        };
        let (tls, router, shared) = (tls.clone(), router.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let held = Arc::clone(&ticket);
            let connection = connection(tcp, Source { addr, ticket }, tls, router, &shared);
            shared.hold(&held, connection).await;
        });
    }
}

async fn connection(
    tcp: TcpStream,
    source: Source,
    tls: TlsAcceptor,
    router: Router,
    shared: &Arc<Shared>,
) {
    let addr = source.addr;
    // Frames are small and each one is wanted now.
    if let Err(error) = tcp.set_nodelay(true) {
        debug!(%addr, %error, "cannot set TCP_NODELAY");
    }
    let limits = &shared.limits;
    let stream = match timeout(limits.hello_timeout, tls.accept(tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.counters.handshakes_failed.add();
            debug!(%addr, %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            shared.counters.handshakes_failed.add();
            debug!(%addr, "TLS handshake took too long");
            return;
        }
    };
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(source.clone());
        inner.call(request)
    });
    let is_draining = shared.is_draining();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.hello_timeout)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut phase = shared.phase();
    let grace = tokio::select! {
        result = connection.as_mut() => {
            if let Err(error) = result {
                debug!(%addr, %error, "HTTP connection failed");
            }
            return;
        }
        () = sleep(limits.http_timeout) => limits.http_timeout,
        () = phase.draining(), if !is_draining => limits.farewell_timeout,
    };
    // What is being answered is answered before the connection goes.
    connection.as_mut().graceful_shutdown();
    match timeout(grace, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%addr, %error, "HTTP connection failed"),
        Err(_) => debug!(%addr, "HTTP connection took too long"),
    }
}

/// How often something has failed of which the log is told now and then.
#[derive(Debug, Default)]
struct Failures {
    untold: u64,
    told: Option<Instant>,
}

impl Failures {
    /// Counts one, and returns how many are to be told now, if any are.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now < told + TELL_INTERVAL) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// Also what hyper needs at least.
const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The hour in which nothing works any more is not to fill the disk as well.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

const _: () = assert!(HEADER_BYTES_MAX >= 8192, "hyper panics below its minimum");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_fails_all_the_time_is_told_of_each_ten_seconds() {
        let begin = Instant::now();
        let mut failures = Failures::default();
        let told = (0..250).filter_map(|attempt| failures.count(begin + ACCEPT_PAUSE * attempt));
        assert_eq!(told.collect::<Vec<_>>(), [1, 100, 100]);
    }
}
