//! WebRTC and ICE implementations: two agents that may use nothing but the relay, and echo.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::process::Command;

use tombolo_natlab::in_namespace;

use super::{Server, folder, is_installed, run};

const MESSAGES: u64 = 50;
const BYTES: u64 = 1000;

/// Two agents and what they do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Script(&'static str),
    Python(&'static str),
}

const ALL: [Program; 5] = [
    Program::Script("chromium.mjs"),
    Program::Script("werift.mjs"),
    Program::Script("node-datachannel.mjs"),
    Program::Python("ice"),
    Program::Python("rtc"),
];

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
            let Some(outcome) = echoes(Program::Script("chromium.mjs"), transport).await else {
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
            echoes(Program::Script("werift.mjs"), transport).await;
        }
    }
}

#[tokio::test]
async fn libdatachannel_has_a_data_channel() {
    if is_installed("node") {
        echoes(Program::Script("node-datachannel.mjs"), Transport::Udp).await;
    }
}

#[tokio::test]
async fn aioice_sends_datagrams_over_each_transport() {
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        echoes(Program::Python("ice"), transport).await;
    }
}

#[tokio::test]
async fn aiortc_has_a_data_channel_over_each_transport() {
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        echoes(Program::Python("rtc"), transport).await;
    }
}

/// Their relayed addresses are of IPv4, since none of them asks for another family. `aiortc` is not among
/// them: it takes no URL with an address of IPv6.
#[tokio::test]
async fn browsers_and_libraries_reach_their_server_over_ipv6() {
    if !is_installed("chromium") || !is_installed("node") {
        return;
    }
    let takes_ipv6 = |program: &Program| *program != Program::Python("rtc");
    for program in ALL.into_iter().filter(takes_ipv6) {
        let server = Server::start("::1", &["--relay-ip", "127.0.0.1"]).await;
        echoes_through(program, Transport::Udp, &[&server, &server]).await;
        server.stop().await;
    }
}

/// Two servers, since packets between allocations of one are handed over in memory; and at addresses that
/// no interface has, since each refuses those as its own node's.
#[test]
fn browsers_and_libraries_reach_each_other_where_ports_are_steered() {
    if !is_installed("chromium") || !is_installed("node") {
        return;
    }
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let steered = ["--io", "steered", "--shards", "2"];
            for program in ALL {
                let alices = Server::start("127.0.0.2", &steered).await;
                let bobs = Server::start("127.0.0.3", &steered).await;
                echoes_through(program, Transport::Udp, &[&alices, &bobs]).await;
                alices.stop().await;
                bobs.stop().await;
            }
        });
    });
}

/// The same through one server of both agents.
async fn echoes(program: Program, transport: Transport) -> Option<Value> {
    let server = Server::start("127.0.0.1", &[]).await;
    let outcome = echoes_through(program, transport, &[&server, &server]).await;
    server.stop().await;
    outcome
}

/// Every message must come back, over relayed candidates alone. Each agent has a server.
async fn echoes_through(
    program: Program,
    transport: Transport,
    servers: &[&Server; 2],
) -> Option<Value> {
    let folder = folder()?;
    let mut command = program.command(&folder);
    let name = match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
        Transport::Tls => "tls",
    };
    let plan = json!({
        "servers": servers.map(|server| whereabouts(server, transport)),
        "transport": name,
        "username": "carol",
        "password": "her password",
        "messages": MESSAGES,
        "bytes": BYTES,
        "browser": "/usr/bin/chromium",
    });
    let certificate = &servers[0].certificate;
    command
        .arg(plan.to_string())
        .env("TOMBOLO_INTEROP", folder)
        .env("SSL_CERT_FILE", certificate)
        .env("NODE_EXTRA_CA_CERTS", certificate);
    let text = run(command).await;
    let outcome: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(outcome["received"], MESSAGES, "{name}: {outcome}");
    assert_eq!(outcome["bytes"], MESSAGES * BYTES, "{name}: {outcome}");
    assert_eq!(outcome["local"], "relay", "{name}: {outcome}");
    Some(outcome)
}

fn whereabouts(server: &Server, transport: Transport) -> Value {
    let (scheme, address, way) = match transport {
        Transport::Udp => ("turn", server.plain, "udp"),
        Transport::Tcp => ("turn", server.plain, "tcp"),
        Transport::Tls => ("turns", server.tls, "tcp"),
    };
    json!({
        "url": format!("{scheme}:{address}?transport={way}"),
        "host": address.ip().to_string(),
        "port": address.port(),
    })
}

impl Program {
    fn command(self, folder: &Path) -> Command {
        match self {
            Self::Script(name) => {
                let mut command = Command::new("node");
                command.arg(programs().join(name));
                command
            }
            Self::Python(name) => {
                let mut command = Command::new(folder.join("venv/bin/python"));
                command.arg(programs().join("aio.py")).arg(name);
                command
            }
        }
    }
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}
