//! Runs a server.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tombolo_turn::server::Drain;
use tracing::info;

use super::admin;
use super::args::ServerArgs;
use super::file::File;
use super::import::{Import, Machine};
use super::operator::Operator;
use super::settings::Settings;
use crate::admin::AdminSocket;
use crate::metrics;
use crate::output::{Output, Style, counted, json, line_of_text};
use crate::secrets;

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
        #[serde(skip_serializing_if = "Option::is_none")]
        metrics: Option<SocketAddr>,
    },
}

/// Runs the server until SIGINT or SIGTERM, or says what a configuration of coturn becomes.
pub(crate) async fn run(args: ServerArgs) -> anyhow::Result<()> {
    let style = Style::of(args.json);
    // The first event of a server that runs is that it is ready.
    let mut told_later = None;
    let machine = Machine::look();
    if let Some(path) = &args.import {
        let import = Import::read(path, &machine)?;
        // A configuration that is printed stands alone.
        let to = match args.write.as_deref() {
            Some(path) if path == Path::new("-") => Output::Error,
            Some(_) | None => Output::Standard,
        };
        if !args.run || style == Style::Person || to == Output::Error {
            import.tell(style, to)?;
        }
        if let Some(path) = &args.write {
            write(&import.file, path)?;
        }
        if !args.run {
            let invalid = import.counts().invalid;
            anyhow::ensure!(invalid == 0, "lines that are invalid: {invalid}");
            return Ok(());
        }
        told_later = Some(import).filter(|_| style == Style::Json && to == Output::Standard);
    }
    let settings = Settings::load(&args, &machine)?;
    let has_credentials = settings.has_credentials();
    let at_start = settings.at_start.clone();
    let plain = (settings.relay.plain_udp, settings.relay.plain_tcp);
    secrets::warn_of_open(&settings.secret_files);
    // From here on, so that a signal after the first line ends in good order.
    let signals = Signals::new()?;
    let socket = at_start.admin.as_deref().map(AdminSocket::bind);
    let socket = socket.transpose()?;
    let operator = Arc::new(Operator::start(settings, args, machine)?);
    let _file = socket.map(|socket| socket.serve(admin::router(Arc::clone(&operator))));
    let mut metrics_at = None;
    if let Some(address) = at_start.metrics {
        metrics_at = Some(metrics::serve(address, Arc::clone(&operator)).await?);
    }
    tell_ready(&operator, style, plain, metrics_at)?;
    if let Some(import) = told_later {
        import.tell(style, Output::Standard)?;
    }
    if !has_credentials && style == Style::Person {
        line_of_text("Nobody can relay: there is no user and no secret.")?;
    }
    let end = (at_start.drain_timeout, at_start.drain);
    tokio::select! {
        ended = signals.attend(&operator, end) => ended,
        // Whoever started the server starts it again.
        broken = operator.relay.broken() => Err(broken.into()),
    }
}

/// What the system tells a server. The last two are coturn's, whose operators and their scripts send
/// them.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

/// What an operator wants.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    End,
    /// To end when nothing is left, or after a while.
    Terminate,
    /// To end when nothing is left.
    Drain,
    Reload,
}

/// Whether a server drains in order to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    NotYet,
    WithTheLast,
    At(Instant),
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Returns when the server is to end. Reloads meanwhile.
    async fn attend(
        mut self,
        operator: &Arc<Operator>,
        (drain_timeout, drain): (Duration, Drain),
    ) -> anyhow::Result<()> {
        let mut ending = Ending::NotYet;
        loop {
            if ending != Ending::NotYet && is_over(operator, &drain, ending).await? {
                return Ok(());
            }
            let Some(wish) = self.next(ending).await else {
                continue;
            };
            match (wish, ending) {
                (Wish::End, _) | (Wish::Terminate, Ending::At(_)) => return Ok(()),
                (Wish::Terminate, _) if drain_timeout.is_zero() => return Ok(()),
                (Wish::Terminate, _) => {
                    info!("the server drains and ends");
                    ending = Ending::At(Instant::now() + drain_timeout);
                }
                (Wish::Drain, Ending::NotYet) => {
                    info!("the server drains and ends with its last allocation");
                    ending = Ending::WithTheLast;
                }
                (Wish::Drain, _) => {}
                (Wish::Reload, _) => reload(operator).await?,
            }
        }
    }

    /// Waits for a wish. `None` when it is time to look what a drain has left.
    async fn next(&mut self, ending: Ending) -> Option<Wish> {
        let now = Instant::now();
        let look = match ending {
            Ending::NotYet | Ending::WithTheLast => now + DRAIN_POLL,
            Ending::At(deadline) => deadline.min(now + DRAIN_POLL),
        };
        tokio::select! {
            _ = self.interrupt.recv() => Some(Wish::End),
            _ = self.terminate.recv() => Some(Wish::Terminate),
            _ = self.user1.recv() => Some(Wish::Drain),
            _ = self.hangup.recv() => Some(Wish::Reload),
            _ = self.user2.recv() => Some(Wish::Reload),
            () = sleep_until(look), if ending != Ending::NotYet => None,
        }
    }
}

/// Sees to it that a server drains, and tells whether it has come to its end.
async fn is_over(operator: &Arc<Operator>, drain: &Drain, ending: Ending) -> anyhow::Result<bool> {
    let mut drain = drain.clone();
    if ending == Ending::WithTheLast {
        drain.deadline = None;
    }
    let asked = Arc::clone(operator);
    let left = spawn_blocking(move || {
        // Again and again: nobody who is let in now would stay.
        asked.relay.drain_if_not(&drain);
        asked.left()
    });
    let left = left.await?;
    let is_late = matches!(ending, Ending::At(deadline) if Instant::now() >= deadline);
    if left.is_nothing() || is_late {
        let (left, silent_shards) = (left.allocations, left.silent_shards);
        info!(left, silent_shards, "the drain is over");
        return Ok(true);
    }
    Ok(false)
}

/// Reads the configuration again, or logs why that cannot be.
async fn reload(operator: &Arc<Operator>) -> anyhow::Result<()> {
    let operator = Arc::clone(operator);
    let _ = spawn_blocking(move || operator.reload()).await?;
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
        line_of_text(text.trim_end())?;
        return Ok(());
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("{}: cannot write it", path.display()))
}

fn tell_ready(
    operator: &Operator,
    style: Style,
    plain: (bool, bool),
    metrics: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let relay = &operator.relay;
    let addrs = relay.addrs();
    if style == Style::Json {
        json(&Event::Ready {
            listen: &addrs.turn,
            relay: &addrs.relay,
            io: relay.io().name(),
            shards: relay.shards(),
            tls: &addrs.turns,
            metrics,
        })?;
        return Ok(());
    }
    let over = match plain {
        (true, true) => "",
        (true, false) => "  (over TCP with TLS alone)",
        (false, true) => "  (over UDP with DTLS alone)",
        (false, false) => "  (with TLS and DTLS alone)",
    };
    line_of_text(&format!("STUN and TURN  {}{over}", words(&addrs.turn)))?;
    if !addrs.turns.is_empty() {
        line_of_text(&format!("TURN over TLS  {}", words(&addrs.turns)))?;
    }
    line_of_text(&format!(
        "Relays from    {}  ({}, {})",
        words(&addrs.relay),
        relay.io().name(),
        counted(relay.shards(), "shard")
    ))?;
    if let Some(address) = metrics {
        line_of_text(&format!("Metrics        http://{address}/metrics"))?;
    }
    Ok(line_of_text("End with Ctrl-C.")?)
}

fn words<T: ToString>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(T::to_string).collect();
    items.join("  ")
}

/// Pause between two looks at what is left.
const DRAIN_POLL: Duration = Duration::from_millis(200);
