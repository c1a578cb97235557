//! `tombolo turn list`, `inspect`, `end`, `drain`, `undrain`, `reload`, `stats`: what operators do to
//! a server that runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use serde::Serialize;

use super::admin::api::{Allocation, DrainRequest, Ended, Left, Page, Query, Stats};
use crate::admin::client::ask;
use crate::output::{Style, counted, json, line_of_text};

/// A command to a server that runs.
#[derive(Debug, Subcommand)]
pub(crate) enum Operate {
    /// List allocations, oldest first
    List {
        #[command(flatten)]
        which: Which,
        /// Leave out so many
        #[arg(long, value_name = "N", default_value_t = 0)]
        skip: usize,
        /// List so many at most, up to 1000
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = crate::cli::page)]
        count: usize,
        #[command(flatten)]
        at: At,
    },
    /// Show all about the allocation of one client
    Inspect {
        /// The client's address as the server sees it
        #[arg(value_name = "IP:PORT")]
        client: SocketAddr,
        #[command(flatten)]
        at: At,
    },
    /// End allocations; their clients find out by their next request
    End {
        #[command(flatten)]
        which: Which,
        /// End all of them
        #[arg(long, conflicts_with_all = ["user", "realm", "client"])]
        all: bool,
        #[command(flatten)]
        at: At,
    },
    /// Make no new allocations, and send newcomers elsewhere
    Drain {
        /// Server for newcomers, who take turns; repeat it for more [default: those of a drain that is on]
        #[arg(long = "to", value_name = "IP:PORT")]
        alternates: Vec<SocketAddr>,
        /// Name in the certificates of those servers
        #[arg(long, value_name = "NAME", requires = "alternates")]
        domain: Option<String>,
        /// Wait until no allocation is left, for so many seconds, or for an hour without a number; exit
        /// status 1 if some are
        #[arg(long, value_name = "S", num_args = 0..=1, default_missing_value = "3600",
            value_parser = crate::cli::whole_seconds)]
        wait: Option<u64>,
        #[command(flatten)]
        at: At,
    },
    /// Make allocations again
    Undrain {
        #[command(flatten)]
        at: At,
    },
    /// Read the configuration and certificates again; nothing changes if anything is wrong with them
    Reload {
        #[command(flatten)]
        at: At,
    },
    /// Show what the server does and has refused
    Stats {
        #[command(flatten)]
        at: At,
    },
}

/// Which allocations are meant: those to which all of this applies.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Those of this user, named without the expiry of time-limited credentials
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Those of this realm
    #[arg(long, value_name = "R")]
    realm: Option<String>,
    /// Those of this client, with any port if there is none
    #[arg(long, value_name = "IP[:PORT]")]
    client: Option<String>,
}

/// Where the server is.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The server's admin socket
    #[arg(long, value_name = "PATH", default_value = "/run/tombolo/turn.sock")]
    admin: PathBuf,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

impl At {
    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        ask(&self.admin, Method::GET, path, &()).await
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Allocations(&'a Page),
    Allocation(&'a Allocation),
    Ended(&'a Ended),
    Drain(&'a Left),
    Reloaded {},
    Stats(&'a Stats),
}

/// Does it and says how it went.
pub(crate) async fn run(command: Operate) -> anyhow::Result<()> {
    match command {
        Operate::List {
            which,
            skip,
            count,
            at,
        } => list(which, (skip, count), &at).await,
        Operate::Inspect { client, at } => inspect(client, &at).await,
        Operate::End { which, all, at } => end(which, all, &at).await,
        Operate::Drain {
            alternates,
            domain,
            wait,
            at,
        } => {
            let request = DrainRequest {
                alternates,
                domain,
                deadline_s: wait,
            };
            let left: Left = ask(&at.admin, Method::POST, "/v1/drain", &request).await?;
            drained(left, wait.map(Duration::from_secs), &at).await
        }
        Operate::Undrain { at } => {
            let left: Left = ask(&at.admin, Method::DELETE, "/v1/drain", &()).await?;
            tell_left(&left, &at)
        }
        Operate::Reload { at } => {
            let _: serde_json::Value = ask(&at.admin, Method::POST, "/v1/reload", &()).await?;
            match Style::of(at.json) {
                Style::Json => json(&Event::Reloaded {})?,
                Style::Person => line_of_text(
                    "The server has the configuration as it is now, but for what is read at the start only.",
                )?,
            }
            Ok(())
        }
        Operate::Stats { at } => stats(&at).await,
    }
}

async fn list(which: Which, (skip, count): (usize, usize), at: &At) -> anyhow::Result<()> {
    let query = Query {
        skip: Some(skip),
        count: Some(count),
        ..query(which)
    };
    let page: Page = at.get(&path("/v1/allocations", &query)?).await?;
    if at.json {
        json(&Event::Allocations(&page))?;
        return Ok(());
    }
    for allocation in &page.allocations {
        line_of_text(&format!(
            "{:<9} {:<22} {:<22} {}@{}  {:.0} s old, {} B to peers, {} B to the client",
            allocation.transport,
            allocation.client.to_string(),
            words(&allocation.relayed),
            printable(&allocation.user),
            printable(&allocation.realm),
            allocation.age_s,
            allocation.to_peer.bytes,
            allocation.to_client.bytes,
        ))?;
    }
    let shown = page.allocations.len();
    line_of_text(&format!("{shown} of {}", counted(page.total, "allocation")))?;
    Ok(())
}

async fn inspect(client: SocketAddr, at: &At) -> anyhow::Result<()> {
    let query = Query {
        client: Some(client.to_string()),
        ..Query::default()
    };
    let page: Page = at.get(&path("/v1/allocations", &query)?).await?;
    anyhow::ensure!(
        !page.allocations.is_empty(),
        "{client}: no allocation of such a client"
    );
    // One client may have one over each transport.
    for allocation in &page.allocations {
        if at.json {
            json(&Event::Allocation(allocation))?;
            continue;
        }
        for (name, value) in [
            ("client", allocation.client.to_string()),
            ("server", allocation.server.to_string()),
            ("transport", allocation.transport.clone()),
            ("user", printable(&allocation.user)),
            ("realm", printable(&allocation.realm)),
            ("relayed", words(&allocation.relayed)),
            ("age", format!("{:.1} s", allocation.age_s)),
            ("expires in", format!("{:.1} s", allocation.expires_in_s)),
            ("permissions", allocation.permissions.to_string()),
            ("channels", allocation.channels.to_string()),
            ("connections", allocation.connections.to_string()),
            ("round trip", way(allocation)),
            ("to peers", count(&allocation.to_peer)),
            ("to client", count(&allocation.to_client)),
            ("dropped", format!("{} packets", allocation.dropped)),
        ] {
            line_of_text(&format!("{name:<12} {value}"))?;
        }
    }
    Ok(())
}

async fn end(which: Which, all: bool, at: &At) -> anyhow::Result<()> {
    let query = Query {
        all: all.then_some(true),
        ..query(which)
    };
    anyhow::ensure!(
        all || query.is_narrow(),
        "say which ones: --user, --realm, --client or --all"
    );
    let path = path("/v1/allocations", &query)?;
    let ended: Ended = ask(&at.admin, Method::DELETE, &path, &()).await?;
    match Style::of(at.json) {
        Style::Json => json(&Event::Ended(&ended))?,
        Style::Person => {
            line_of_text(&format!("{} ended", counted(ended.ended, "allocation")))?;
        }
    }
    Ok(())
}

/// Tells what is left, again and again where that is waited for.
async fn drained(mut left: Left, wait: Option<Duration>, at: &At) -> anyhow::Result<()> {
    tell_left(&left, at)?;
    let Some(wait) = wait else {
        return Ok(());
    };
    let end = tokio::time::Instant::now() + wait;
    while !left.is_nothing() {
        anyhow::ensure!(
            tokio::time::Instant::now() < end,
            "not ended yet: {}{}",
            counted(left.allocations, "allocation"),
            and_silent(left.silent_shards)
        );
        tokio::time::sleep(DRAIN_POLL).await;
        let stats: Stats = at.get("/v1/stats").await?;
        left.silent_shards = stats.silent_shards;
        if stats.allocations != left.allocations {
            left.allocations = stats.allocations;
            tell_left(&left, at)?;
        }
    }
    Ok(())
}

fn tell_left(left: &Left, at: &At) -> anyhow::Result<()> {
    let silent = and_silent(left.silent_shards);
    match (Style::of(at.json), left.draining) {
        (Style::Json, _) => json(&Event::Drain(left))?,
        (Style::Person, true) => {
            line_of_text(&format!(
                "draining: {} left{silent}",
                counted(left.allocations, "allocation")
            ))?;
        }
        (Style::Person, false) => {
            line_of_text(&format!(
                "not draining: {}{silent}",
                counted(left.allocations, "allocation")
            ))?;
        }
    }
    Ok(())
}

/// Which part of a sum is missing.
fn and_silent(shards: usize) -> String {
    match shards {
        0 => String::new(),
        shards => format!(", and {shards} shards do not answer"),
    }
}

async fn stats(at: &At) -> anyhow::Result<()> {
    let stats: Stats = at.get("/v1/stats").await?;
    if at.json {
        json(&Event::Stats(&stats))?;
        return Ok(());
    }
    let draining = if stats.draining { ", draining" } else { "" };
    let silent = and_silent(stats.silent_shards);
    line_of_text(&format!(
        "{} on {}{silent}{draining}",
        counted(stats.allocations, "allocation"),
        counted(stats.shards, "shard")
    ))?;
    for (name, value) in [
        ("made", stats.allocations_created.to_string()),
        ("expired", stats.allocations_expired.to_string()),
        ("bindings", stats.bindings.to_string()),
        ("to peers", count(&stats.to_peer)),
        ("to clients", count(&stats.to_client)),
        ("connections", stats.connections.to_string()),
        ("relay ports", stats.relay_ports.to_string()),
    ] {
        line_of_text(&format!("{name:<12} {value}"))?;
    }
    for (reason, count) in &stats.refusals {
        line_of_text(&format!("refused      {count} × {reason}"))?;
    }
    Ok(())
}

fn query(which: Which) -> Query {
    Query {
        user: which.user,
        realm: which.realm,
        client: which.client,
        ..Query::default()
    }
}

fn path(path: &str, query: &Query) -> anyhow::Result<String> {
    Ok(format!("{path}?{}", serde_urlencoded::to_string(query)?))
}

/// Names come from the network: none may control a terminal.
fn printable(name: &str) -> String {
    name.escape_debug().to_string()
}

/// What is known of the path to the client.
fn way(allocation: &Allocation) -> String {
    let rtt = allocation.rtt_ms;
    let rtt = rtt.map_or_else(|| "not known".to_owned(), |rtt| format!("{rtt:.1} ms"));
    match allocation.requests_sent {
        0 => rtt,
        sent => format!(
            "{rtt}, {} of {sent} requests came",
            allocation.requests_received
        ),
    }
}

fn words(addresses: &[SocketAddr]) -> String {
    let words: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    words.join(" ")
}

fn count(count: &super::admin::api::Count) -> String {
    format!("{} packets, {} bytes", count.packets, count.bytes)
}

/// Pause between two looks at what is left.
const DRAIN_POLL: Duration = Duration::from_millis(500);
