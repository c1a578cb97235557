//! `tombolo serve`: a node.

pub(crate) mod admin;
pub(crate) mod admin_groups;
mod beginning;
mod bounds;
mod connections;
mod fields;
mod file;
mod flags;
mod game;
mod nats;
mod pools;
mod sessions;
mod settings;
mod social;
mod source;
pub(crate) mod token_keys;

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use anyhow::Context as _;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tombolo_node::{Draining, Node, Ready, Services};
use tracing::{info, warn};

use crate::admin::AdminSocket;
use crate::cli::ServeArgs;
use crate::metrics::{self, Source};
use crate::output::{json, line_of_text};
use crate::secrets;
use admin::Admin;
use beginning::Beginning;
use settings::Settings;

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Ready {
        url: String,
        name: &'a str,
        stun: &'a [String],
        turn: &'a [String],
        http: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        metrics: Option<SocketAddr>,
    },
}

/// Runs a node until SIGINT or SIGTERM.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let settings = Settings::load(&args)?;
    secrets::warn_of_open(&settings.secret_files);
    let mut signals = Signals::new(&args)?;
    let (beginning, node) = Beginning::of(settings, args);
    let beginning = Arc::new(beginning);
    let socket = beginning.admin.as_deref().map(AdminSocket::bind);
    let socket = socket
        .transpose()
        .with_context(|| beginning.place_of_admin())?;
    let node = tokio::select! {
        node = node.start() => node.map_err(|error| beginning.placed(error))?,
        // What a node waits for may never come.
        () = signals.ended() => return Ok(()),
    };
    let node = Arc::new(node);
    let _file = socket.map(|socket| {
        let (operated, beginning) = (Arc::downgrade(&node), Arc::clone(&beginning));
        let admin = Admin {
            operator: node.operator().clone(),
            reload: Box::new(move || {
                let node = operated.upgrade();
                reload(&*node.context("the node is about to end")?, &beginning)
            }),
        };
        socket.serve(admin::router(Arc::new(admin)))
    });
    let mut metrics_at = None;
    if let Some(address) = beginning.metrics {
        let metrics = Arc::new(Metrics(Arc::downgrade(&node)));
        let at = metrics::serve(address, metrics).await;
        metrics_at = Some(at.with_context(|| beginning.place_of_metrics())?);
    }
    tell_ready(node.ready(), &beginning.args, metrics_at)?;
    tokio::spawn(watch_cluster(node.services().clone()));
    let ended = tokio::select! {
        ended = signals.attend(&node, &beginning) => ended,
        // Whoever started the node starts it again.
        broken = node.broken() => Err(broken.into()),
    };
    // Whoever collects metrics just now keeps it; then it ends as it is dropped, without a farewell.
    if let Some(node) = Arc::into_inner(node) {
        node.shutdown().await;
    }
    ended
}

/// Says why the node takes no devices, if that is so when it has just started: another process may have its name.
async fn watch_cluster(services: Services) {
    let mut why = None;
    for _ in 0..JOIN_ATTEMPTS {
        match services.in_cluster().await {
            Ok(()) => return,
            Err(reject) => why = Some(reject.message),
        }
    }
    if let Some(why) = why {
        warn!("devices are not welcome here yet: {why}; /readyz says when they are");
    }
}

fn tell_ready(ready: &Ready, args: &ServeArgs, metrics: Option<SocketAddr>) -> anyhow::Result<()> {
    if args.json {
        json(&Event::Ready {
            url: ready.url.to_string(),
            name: &ready.name,
            stun: &ready.stun,
            turn: &ready.turn,
            http: &ready.http,
            metrics,
        })?;
        return Ok(());
    }
    line_of_text("The node serves. Devices connect with:")?;
    line_of_text(&format!("\n  --server '{}'\n", ready.url))?;
    line_of_text(&format!("HTTP  {}", ready.http))?;
    line_of_text(&format!("STUN  {}", ready.stun.join("  ")))?;
    line_of_text(&format!("TURN  {}", ready.turn.join("  ")))?;
    if let Some(address) = metrics {
        line_of_text(&format!("Metrics  http://{address}/metrics"))?;
    }
    let last = if args.dev {
        "\nDevelopment mode: anybody gets a token. End with Ctrl-C."
    } else {
        "\nEnd with Ctrl-C."
    };
    Ok(line_of_text(last)?)
}

/// What the system tells a node.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Resolves when whoever started the node has gone.
    orphaned: oneshot::Receiver<()>,
    /// Kept where nobody is waited for.
    _gone: Option<oneshot::Sender<()>>,
}

impl Signals {
    fn new(args: &ServeArgs) -> anyhow::Result<Self> {
        let (gone, orphaned) = oneshot::channel();
        let mut gone = Some(gone);
        if let Some(gone) = gone.take_if(|_| args.with_parent) {
            std::thread::spawn(move || {
                // Whatever ends it, there is nobody at the other end any more.
                let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
                let _ = gone.send(());
            });
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            orphaned,
            _gone: gone,
        })
    }

    /// Returns when a node that does not serve yet is to end.
    async fn ended(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = &mut self.orphaned => {}
        }
    }

    /// Returns when the node is to end. Reloads at SIGHUP, and empties the node at SIGTERM.
    async fn attend(mut self, node: &Arc<Node>, beginning: &Arc<Beginning>) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return Ok(()),
                _ = &mut self.orphaned => return Ok(()),
                _ = self.terminate.recv() => break,
                _ = self.hangup.recv() => {
                    let (node, beginning) = (Arc::clone(node), Arc::clone(beginning));
                    // It logs why it could not.
                    let _ = spawn_blocking(move || reload(&node, &beginning)).await?;
                }
            }
        }
        let (operator, drain_timeout) = (node.operator(), beginning.drain_timeout);
        if drain_timeout.is_zero() || !operator.has_others().await {
            return Ok(());
        }
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            over = operator.drain_here(drain_timeout) => tell_drained(&over),
        }
        Ok(())
    }
}

fn tell_drained(over: &Draining) {
    let (moved, sessions_left) = (over.moved, over.sessions_left);
    let allocations_left = over.allocations_left;
    if sessions_left == 0 && allocations_left == 0 {
        info!(moved, "the node is empty");
    } else {
        warn!(
            moved,
            sessions_left, allocations_left, "the time to go was up"
        );
    }
}

/// Reads the configuration again, all of it, and takes it over if all of it is right. Blocks.
fn reload(node: &Node, beginning: &Beginning) -> anyhow::Result<()> {
    let result = Settings::load(&beginning.args).and_then(|settings| {
        let unchanged = beginning.differs(&settings);
        node.reload(settings.node)?;
        Ok(unchanged)
    });
    match &result {
        Ok(unchanged) if !unchanged.is_empty() => warn!(
            "the configuration was read again, but only a restart changes {}",
            unchanged.join(", ")
        ),
        Ok(_) => info!("the configuration was read again"),
        Err(error) => warn!(error = format!("{error:#}"), "kept the configuration"),
    }
    result.map(drop)
}

/// Tells while the node is there.
struct Metrics(Weak<Node>);

impl Source for Metrics {
    fn metrics(&self) -> String {
        let stats = self.0.upgrade().map(|node| node.stats());
        stats.map_or_else(|| "# EOF\n".to_owned(), |stats| stats.to_open_metrics())
    }

    fn readiness(&self) -> Result<(), String> {
        let node = self.0.upgrade().ok_or("the node is about to end")?;
        node.check().map_err(|broken| broken.to_string())?;
        Handle::current().block_on(node.in_cluster())
    }
}

/// So many times it is asked whether a node that has just started takes part, for a moment each.
const JOIN_ATTEMPTS: usize = 20;
