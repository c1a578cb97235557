//! The node's HTTP API, as far as a device needs it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tombolo_wire::ServerUrl;

use crate::error::Error;
use crate::net::lookup;
use crate::tls;

const TIMEOUT: Duration = Duration::from_secs(10);
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Asks a node in development mode for a token that lets `user` in.
///
/// # Errors
/// When the node cannot be reached, is not in development mode, or refuses the name.
pub async fn development_token(url: &ServerUrl, user: &str) -> Result<String, Error> {
    let body = serde_json::json!({ "user": user }).to_string();
    let (status, body) = tokio::time::timeout(TIMEOUT, post(url, "/v1/tokens", body))
        .await
        .map_err(|_| Error::unreachable(url, "no answer within 10 s"))??;
    if status == StatusCode::NOT_FOUND {
        return Err(Error::token(
            "the node hands out no tokens: it does not run with --dev",
        ));
    }
    let json: serde_json::Value = serde_json::from_slice(&body)
        .map_err(|_| Error::token("the node's answer is not JSON: is this a Tombolo node?"))?;
    match json["token"].as_str() {
        Some(token) if status.is_success() => Ok(token.to_owned()),
        _ => Err(Error::token(
            json["message"].as_str().unwrap_or("the node refused"),
        )),
    }
}

async fn post(url: &ServerUrl, path: &str, body: String) -> Result<(StatusCode, Bytes), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::unreachable(url, &error.to_string());
    let name = ServerName::try_from(url.host().to_owned()).map_err(|e| failed(&e))?;
    let config = tls::client_config(url.pin.as_ref(), Some(b"http/1.1")).map_err(|e| failed(&e))?;
    let addresses = lookup(url.host(), url.port).await.map_err(|e| failed(&e))?;
    let tcp = TcpStream::connect(&addresses[..])
        .await
        .map_err(|e| failed(&e))?;
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    let stream = connector.connect(name, tcp).await.map_err(|e| failed(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(hyper::header::HOST, url.authority())
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| failed(&e))?;
    let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX)
        .collect()
        .await;
    driver.abort();
    Ok((status, body.map_err(|e| failed(&e))?.to_bytes()))
}
