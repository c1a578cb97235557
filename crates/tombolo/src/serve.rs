//! `tombolo serve`: a node.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use anyhow::Context as _;
use serde::Serialize;
use tombolo_node::{Cidr, Node, NodeBuilder};

use crate::cli::ServeArgs;
use crate::metrics::{self, Source};
use crate::output::{Style, json, line_of_text};
use crate::peer::interrupted;

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Ready {
        url: String,
        stun: &'a [String],
        turn: &'a [String],
        http: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        metrics: Option<SocketAddr>,
    },
}

/// Runs a node until SIGINT or SIGTERM.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let node = Arc::new(builder(&args)?.start().await?);
    let mut metrics_at = None;
    if let Some(address) = args.metrics {
        let source = Arc::new(Metrics(Arc::downgrade(&node)));
        metrics_at = Some(metrics::serve(address, source).await?);
    }
    let ready = node.ready();
    match Style::of(args.json) {
        Style::Json => json(&Event::Ready {
            url: ready.url.to_string(),
            stun: &ready.stun,
            turn: &ready.turn,
            http: &ready.http,
            metrics: metrics_at,
        })?,
        Style::Person => {
            line_of_text("The node serves. Devices connect with:")?;
            line_of_text(&format!("\n  --server '{}'\n", ready.url))?;
            line_of_text(&format!("HTTP  {}", ready.http))?;
            line_of_text(&format!("STUN  {}", ready.stun.join("  ")))?;
            line_of_text(&format!("TURN  {}", ready.turn.join("  ")))?;
            if let Some(address) = metrics_at {
                line_of_text(&format!("Metrics  http://{address}/metrics"))?;
            }
            line_of_text("\nDevelopment mode: anybody gets a token. End with Ctrl-C.")?;
        }
    }
    interrupted().await;
    // Whoever collects metrics just now keeps it; then it ends as it is dropped, without a farewell.
    if let Some(node) = Arc::into_inner(node) {
        node.shutdown().await;
    }
    Ok(())
}

/// Tells while the node is there.
struct Metrics(Weak<Node>);

impl Source for Metrics {
    fn metrics(&self) -> String {
        let stats = self.0.upgrade().map(|node| node.stats().relay);
        stats.unwrap_or_default().to_open_metrics()
    }

    fn is_ready(&self) -> bool {
        self.0.strong_count() > 0
    }
}

fn builder(args: &ServeArgs) -> anyhow::Result<NodeBuilder> {
    anyhow::ensure!(
        args.dev,
        "only development nodes can be served yet: give --dev, and keep it off the internet"
    );
    let mut builder = Node::builder()
        .dev()
        .port(args.port)
        .turn_port(args.turn_port)
        .turns_port(args.turns_port);
    for ip in &args.listen {
        builder = builder.listen(*ip);
    }
    if let Some(ip) = args.public {
        anyhow::ensure!(
            !ip.is_unspecified(),
            "--public {ip}: devices cannot connect to that"
        );
        builder = builder.public(ip);
    }
    for network in &args.allow_peer {
        let cidr: Cidr = network
            .parse()
            .with_context(|| format!("--allow-peer {network}: not a range such as 10.0.0.0/8"))?;
        builder = builder.allow_peer(cidr);
    }
    Ok(builder)
}
