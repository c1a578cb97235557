//! `tombolo turn`: the STUN and TURN server alone.

mod args;
mod file;
mod settings;
mod tls;

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tombolo_relay::Relay;

use crate::output::{Style, json, line_of_text};
pub(crate) use args::TurnArgs;
use settings::Settings;

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
    let settings = Settings::load(&args.server)?;
    let has_credentials = settings.has_credentials();
    // From here on, so that a signal after the first line ends in good order.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let relay = Relay::bind(settings.relay)?;
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
