//! `tombolo turn`: the STUN and TURN server alone.

mod args;
mod file;
mod import;
mod settings;
mod tls;

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tombolo_relay::Relay;

use crate::output::{Style, json, line_of_text};
pub(crate) use args::TurnArgs;
use file::File;
use import::Import;
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
    let args = args.server;
    let style = Style::of(args.json);
    let imported = match &args.import {
        Some(path) => {
            let import = Import::read(path)?;
            import.tell(style)?;
            if let Some(path) = &args.write {
                write(&import.file, path)?;
            }
            if !args.run {
                let invalid = import.counts().invalid;
                anyhow::ensure!(invalid == 0, "{invalid} lines are invalid");
                return Ok(());
            }
            Some(import.file)
        }
        None => None,
    };
    let settings = Settings::load(&args, imported)?;
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

/// Writes a configuration into a file that is not there yet and that nobody else can read.
fn write(file: &File, path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let text = format!(
        "# See docs/turn-server.md for every key.\n{}",
        file.render()?
    );
    if path == Path::new("-") {
        line_of_text(&format!("\n{text}"))?;
        return Ok(());
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("{}: cannot write it", path.display()))
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
