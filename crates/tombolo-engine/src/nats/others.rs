//! The versions of servers that are not connected: each says its own to whoever opens a connection to it, before
//! anybody has logged in.
//!
//! With replicas all servers count, since each may come to lead a stream. Those that cannot be reached from here, or
//! say nothing before the connection is encrypted, stay unknown.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::{ServerAddr, ServerInfo};
use futures_util::future::join_all;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;

use super::version::{Refusal, Version};

/// Asks the servers that are configured, and those that the connected one tells of.
///
/// # Errors
/// When one must not be in a cluster with replicas.
pub(super) async fn admit(
    configured: &[ServerAddr],
    told: &[String],
    replicas: usize,
    patience: Duration,
) -> Result<(), Refusal> {
    let told = told.iter().filter_map(|url| url.parse().ok());
    let servers: BTreeSet<_> = configured
        .iter()
        .cloned()
        .chain(told)
        .filter(|server| !server.is_websocket())
        .map(|server| (server.host().to_owned(), server.port()))
        .take(SERVERS_MAX)
        .collect();
    let asked = servers.into_iter().map(async |(host, port)| {
        let version = tokio::time::timeout(patience, version(&host, port)).await;
        version.ok().flatten()
    });
    let known = join_all(asked).await.into_iter().flatten();
    // Below the configured floor they are refused when they are connected.
    let floor = Version::new(0, 0, 0);
    for version in known {
        version.admit(replicas, floor)?;
    }
    Ok(())
}

/// The version of a server that may hold streams, if it says so.
async fn version(host: &str, port: u16) -> Option<Version> {
    let stream = TcpStream::connect((host, port)).await.ok()?;
    let mut line = String::new();
    let mut said = BufReader::new(stream.take(LINE_BYTES_MAX));
    said.read_line(&mut line).await.ok()?;
    let info: ServerInfo = serde_json::from_str(line.strip_prefix("INFO ")?).ok()?;
    info.version.parse().ok().filter(|_| info.jetstream)
}

/// Most servers that are asked.
const SERVERS_MAX: usize = 64;

/// Largest first word of a server: it tells of all others.
const LINE_BYTES_MAX: u64 = 64 * 1024;
