//! Asks a running server over its admin socket.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::Failure;

/// Sends one request and returns what the server says.
pub(crate) async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path_and_query: &str,
    body: &impl Serialize,
) -> anyhow::Result<T> {
    let answer = tokio::time::timeout(TIMEOUT, send(socket, method, path_and_query, body));
    let (is_success, body) = answer
        .await
        .with_context(|| format!("{}: no answer in time", socket.display()))??;
    if is_success {
        return Ok(serde_json::from_slice(&body)?);
    }
    let failure: Failure = serde_json::from_slice(&body)
        .with_context(|| format!("{}: not the admin socket of a server", socket.display()))?;
    anyhow::bail!("{}", failure.message)
}

async fn send(
    socket: &Path,
    method: Method,
    path_and_query: &str,
    body: &impl Serialize,
) -> anyhow::Result<(bool, Bytes)> {
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        let what = if error.kind() == ErrorKind::PermissionDenied {
            "it is another user's"
        } else {
            "nobody listens there; is the server run with --admin?"
        };
        anyhow::Error::new(error).context(format!("{}: {what}", socket.display()))
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path_and_query)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(serde_json::to_vec(body)?)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX);
    let body = body.collect().await;
    driver.abort();
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
    Ok((status.is_success(), body.to_bytes()))
}

/// Longer than a busy server takes.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Room for the largest page.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
