//! `tombolo serve`: a node.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};

use anyhow::Context as _;
use serde::Serialize;
use tombolo_node::{Cidr, NatsAuth, NatsConfig, Node, NodeBuilder};

use crate::cli::{NatsArgs, ServeArgs};
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
    if let Some(folder) = &args.data {
        builder = builder.data(folder.clone());
    }
    if let Some(config) = nats(&args.nats)? {
        builder = builder.nats(config);
    }
    Ok(builder)
}

fn nats(args: &NatsArgs) -> anyhow::Result<Option<NatsConfig>> {
    if args.nats.is_empty() {
        return Ok(None);
    }
    let mut config = NatsConfig::new(args.nats.clone());
    if let Some(replicas) = args.nats_replicas {
        config.replicas = replicas;
    }
    if let Some(prefix) = &args.nats_prefix {
        config.prefix.clone_from(prefix);
    }
    if let Some(path) = &args.nats_creds {
        config.auth = NatsAuth::Credentials(path.clone());
    } else if let Some(path) = &args.nats_nkey {
        config.auth = NatsAuth::Nkey(secret("--nats-nkey", path)?);
    } else if let Some(path) = &args.nats_secret {
        let secret = secret("--nats-secret", path)?;
        config.auth = match secret.split_once(':') {
            Some((name, password)) => NatsAuth::User {
                name: name.to_owned(),
                password: password.to_owned(),
            },
            None => NatsAuth::Token(secret),
        };
    }
    if let Some(path) = &args.nats_ca {
        config.tls.roots = Some(path.clone());
        config.tls.required = true;
    }
    if let Some([certificate, key]) = args.nats_cert.as_deref() {
        config.tls.certificate = Some((certificate.clone(), key.clone()));
        config.tls.required = true;
    }
    Ok(Some(config))
}

/// What a file says, without the line's end. Secrets are no arguments: everybody sees those.
fn secret(flag: &str, path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{flag} {}: cannot be read", path.display()))?;
    let text = text.trim();
    anyhow::ensure!(!text.is_empty(), "{flag} {}: is empty", path.display());
    Ok(text.to_owned())
}
