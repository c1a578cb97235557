//! The admin socket: HTTP over a Unix socket that only its owner may use.

pub(crate) mod client;

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::http;

/// A Unix socket that listens. Its file goes with it.
pub(crate) struct AdminSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket that serves.
pub(crate) struct SocketFile(PathBuf);

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

    /// Serves until the runtime ends. The file goes with what this returns.
    #[must_use]
    pub(crate) fn serve(self, router: Router) -> SocketFile {
        tokio::spawn(http::serve(self.listener, router));
        self.file
    }
}

/// What went wrong, as it is told.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Failure {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// A refusal.
pub(crate) struct Error {
    status: StatusCode,
    body: Failure,
}

impl Error {
    pub(crate) fn new(status: StatusCode, code: &str, message: &str) -> Self {
        Self {
            status,
            body: Failure {
                code: code.to_owned(),
                message: message.to_owned(),
            },
        }
    }

    pub(crate) fn bad(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// Something has panicked, which it has said itself.
    pub(crate) fn internal() -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, "internal", "it did not work")
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

impl From<PathRejection> for Error {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), "bad_request", &rejection.body_text())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;
