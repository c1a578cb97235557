//! The admin socket: HTTP over a Unix socket that only its owner may use.

pub(crate) mod api;
pub(crate) mod client;

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tombolo_turn::server::Drain;

use super::operator::Operator;
use crate::{http, metrics};
use api::{Allocation, DrainRequest, Ended, Failure, Left, Page, Stats};

type Server = State<Arc<Operator>>;

/// A Unix socket that listens. Its file goes with it.
pub(crate) struct AdminSocket {
    listener: UnixListener,
    file: SocketFile,
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = fs::remove_file(&self.0);
    }
}

impl AdminSocket {
    /// Listens at `path`. A socket that nobody listens at any more is replaced, anything else is not.
    pub(crate) fn bind(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("{}: cannot listen there", path.display());
        if let Ok(metadata) = fs::symlink_metadata(path) {
            let is_socket = metadata.file_type().is_socket();
            let is_left_over = is_socket && std::os::unix::net::UnixStream::connect(path).is_err();
            anyhow::ensure!(
                is_left_over,
                "{}: it is in use, or no socket",
                path.display()
            );
            fs::remove_file(path).with_context(cannot)?;
        }
        // Whoever may use the socket may end calls, so nobody can connect before it is closed to
        // others.
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?).with_context(cannot)?;
        let file = SocketFile(path.to_owned());
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(cannot)?;
        socket.listen(BACKLOG).with_context(cannot)?;
        socket.set_nonblocking(true)?;
        let listener = UnixListener::from_std(socket.into())?;
        Ok(Self { listener, file })
    }

    /// Serves until the runtime ends.
    pub(crate) async fn serve(self, operator: Arc<Operator>) {
        let Self {
            listener,
            file: _file,
        } = self;
        http::serve(listener, admin(operator)).await;
    }
}

fn admin(operator: Arc<Operator>) -> Router {
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
        operator.relay.drain(&drain);
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

/// A refusal.
struct Error {
    status: StatusCode,
    body: Failure,
}

impl Error {
    fn new(status: StatusCode, code: &str, message: &str) -> Self {
        Self {
            status,
            body: Failure {
                code: code.to_owned(),
                message: message.to_owned(),
            },
        }
    }

    fn bad(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }
}

impl From<QueryRejection> for Error {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), "bad_request", &rejection.body_text())
    }
}

impl From<JsonRejection> for Error {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), "bad_request", &rejection.body_text())
    }
}

impl From<api::NoAddress> for Error {
    fn from(_: api::NoAddress) -> Self {
        Self::bad("a client is an IP, or an IP with a port")
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// Allocations in a page that asks for no other number.
const PAGE: usize = 100;
/// Allocations in a page at most.
const PAGE_MAX: usize = 1000;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;
/// More than any request has.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// More than any fleet has.
const ALTERNATES_MAX: usize = 256;
