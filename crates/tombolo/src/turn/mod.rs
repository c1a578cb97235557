//! `tombolo turn`: the STUN and TURN server alone.

mod args;
mod tls;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tombolo_relay::{Relay, RelayConfig};

use crate::output::{Style, json, line_of_text};
use args::ServerArgs;
pub(crate) use args::TurnArgs;

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Ready {
        listen: &'a [SocketAddr],
        relay: &'a [IpAddr],
        io: &'a str,
        shards: usize,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        tls: &'a [SocketAddr],
    },
}

/// Runs the server until SIGINT or SIGTERM.
pub(crate) async fn run(args: TurnArgs) -> anyhow::Result<()> {
    let style = Style::of(args.server.json);
    let config = relay_config(&args.server)?;
    let has_credentials = !config.secret.is_empty() || !config.users.is_empty();
    // From here on, so that a signal after the first line ends in good order.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let relay = Relay::bind(config)?;
    tell_ready(&relay, style, has_credentials)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    relay.shutdown();
    Ok(())
}

fn tell_ready(relay: &Relay, style: Style, has_credentials: bool) -> anyhow::Result<()> {
    let addrs = relay.addrs();
    match style {
        Style::Json => json(&Event::Ready {
            listen: &addrs.turn,
            relay: &addrs.relay,
            io: relay.io().name(),
            shards: relay.shards(),
            tls: &addrs.turns,
        })?,
        Style::Person => {
            line_of_text(&format!("STUN and TURN  {}", words(&addrs.turn)))?;
            if !addrs.turns.is_empty() {
                line_of_text(&format!("TURN over TLS  {}", words(&addrs.turns)))?;
            }
            line_of_text(&format!(
                "Relays from    {}  ({}, {} shards)",
                words(&addrs.relay),
                relay.io().name(),
                relay.shards()
            ))?;
            if !has_credentials {
                line_of_text("Nobody can relay: there is no --user and no --secret.")?;
            }
            line_of_text("End with Ctrl-C.")?;
        }
    }
    Ok(())
}

fn words<T: ToString>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    items.join("  ")
}

fn relay_config(args: &ServerArgs) -> anyhow::Result<RelayConfig> {
    let mut secrets = args.secret.iter().cloned();
    anyhow::ensure!(
        args.secret.iter().all(|secret| !secret.is_empty()),
        "--secret: an empty secret would let everybody in"
    );
    for is_v4 in [true, false] {
        let count = args.relay_ip.iter().filter(|ip| ip.is_ipv4() == is_v4);
        anyhow::ensure!(
            count.count() <= 1,
            "--relay-ip: give one IP of each family, not several"
        );
    }
    Ok(RelayConfig {
        listen: args.listen.clone(),
        listen_tls: args.tls_listen.clone(),
        tls: match args.tls.as_slice() {
            [chain, key] => Some(tls::load(chain, key)?),
            _ => None,
        },
        relay_ips: args.relay_ip.clone(),
        public_ip: args.public_ip,
        relay_ports: args.relay_ports.clone(),
        realm: args.realm.clone(),
        secret: secrets.next().unwrap_or_default(),
        previous_secrets: secrets.collect(),
        users: users(&args.user)?,
        allow_peers: args.allow_peer.clone(),
        io: args.io.into(),
        shards: args.shards,
        ..RelayConfig::default()
    })
}

/// Passwords by user. Complaints show the name at most.
fn users(pairs: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut users = BTreeMap::new();
    for (i, pair) in pairs.iter().enumerate() {
        let Some((name, password)) = pair.split_once(':') else {
            anyhow::bail!("--user, number {}: not NAME:PASSWORD", i + 1);
        };
        anyhow::ensure!(!name.is_empty(), "--user, number {}: no name", i + 1);
        anyhow::ensure!(!password.is_empty(), "--user {name}: no password");
        let known = users.insert(name.to_owned(), password.to_owned());
        anyhow::ensure!(known.is_none(), "--user {name}: given twice");
    }
    Ok(users)
}
