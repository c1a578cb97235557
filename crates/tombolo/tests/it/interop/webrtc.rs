//! WebRTC and ICE implementations: two agents that may use nothing but the relay, and echo.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::process::Command;

use super::{Server, folder, is_installed, run};

const MESSAGES: u64 = 50;
const BYTES: u64 = 1000;

#[derive(Clone, Copy)]
enum Transport {
    Udp,
    Tcp,
    Tls,
}

#[tokio::test]
async fn chromium_has_a_data_channel_over_each_transport() {
    if is_installed("chromium") && is_installed("node") {
        for (transport, name) in [
            (Transport::Udp, "udp"),
            (Transport::Tcp, "tcp"),
            (Transport::Tls, "tls"),
        ] {
            let Some(outcome) = script("chromium.mjs", transport).await else {
                return;
            };
            assert_eq!(outcome["protocol"], name, "{outcome}");
        }
    }
}

#[tokio::test]
async fn werift_has_a_data_channel_over_each_transport() {
    if is_installed("node") {
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
            script("werift.mjs", transport).await;
        }
    }
}

#[tokio::test]
async fn libdatachannel_has_a_data_channel() {
    if is_installed("node") {
        script("node-datachannel.mjs", Transport::Udp).await;
    }
}

#[tokio::test]
async fn aioice_sends_datagrams_over_each_transport() {
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        python("ice", transport).await;
    }
}

#[tokio::test]
async fn aiortc_has_a_data_channel_over_each_transport() {
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        python("rtc", transport).await;
    }
}

async fn script(name: &str, transport: Transport) -> Option<Value> {
    let folder = folder()?;
    let mut command = Command::new("node");
    command.arg(programs().join(name));
    Some(echoes_through(command, &folder, transport).await)
}

async fn python(name: &str, transport: Transport) -> Option<Value> {
    let folder = folder()?;
    let mut command = Command::new(folder.join("venv/bin/python"));
    command.arg(programs().join("aio.py")).arg(name);
    Some(echoes_through(command, &folder, transport).await)
}

/// Every message must come back, over relayed candidates alone.
async fn echoes_through(mut command: Command, folder: &Path, transport: Transport) -> Value {
    let server = Server::start("127.0.0.1", &[]).await;
    let (name, address, url) = match transport {
        Transport::Udp => (
            "udp",
            server.plain,
            format!("turn:{}?transport=udp", server.plain),
        ),
        Transport::Tcp => (
            "tcp",
            server.plain,
            format!("turn:{}?transport=tcp", server.plain),
        ),
        Transport::Tls => (
            "tls",
            server.tls,
            format!("turns:{}?transport=tcp", server.tls),
        ),
    };
    let plan = json!({
        "url": url,
        "host": address.ip().to_string(),
        "port": address.port(),
        "transport": name,
        "username": "carol",
        "password": "her password",
        "messages": MESSAGES,
        "bytes": BYTES,
        "browser": "/usr/bin/chromium",
    });
    command
        .arg(plan.to_string())
        .env("TOMBOLO_INTEROP", folder)
        .env("SSL_CERT_FILE", &server.certificate)
        .env("NODE_EXTRA_CA_CERTS", &server.certificate);
    let text = run(command).await;
    let outcome: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(outcome["received"], MESSAGES, "{name}: {outcome}");
    assert_eq!(outcome["bytes"], MESSAGES * BYTES, "{name}: {outcome}");
    assert_eq!(outcome["local"], "relay", "{name}: {outcome}");
    server.stop().await;
    outcome
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}
