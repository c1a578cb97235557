//! `tombolo cluster up`: NATS servers and nodes on this machine, for development.

mod nats;
mod place;
mod process;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::output::{Style, json, line_of_text};
use place::Place;
use process::{Happening, Supervised, What};

#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Start NATS servers and development nodes on this machine, and keep them running
    Up(UpArgs),
}

/// What a cluster on one machine is to be.
#[derive(Debug, Args)]
#[command(after_help = "Example: tombolo cluster up --nodes 3")]
pub(crate) struct UpArgs {
    /// How many nodes, 32 at most
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: u16,
    /// How many NATS servers: 1, 3 or 5
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = odd)]
    nats: u16,
    /// The NATS server's program, 2.12 or later [default: that which
    /// scripts/install-nats.sh installs, or the one in PATH]
    #[arg(long, value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// Address that everything listens on
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    listen: IpAddr,
    /// Keep what the NATS servers store, and logs, in this folder [default: a new one, which goes
    /// at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Rules of a pool of the matchmaker, or a folder of such files; repeat it for more
    #[arg(long, value_name = "FILE|DIR")]
    pools: Vec<PathBuf>,
    /// Print events as JSON, one a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Nats {
        name: &'a str,
        url: &'a str,
        pid: u32,
    },
    Node {
        name: &'a str,
        url: &'a str,
        http: &'a str,
        admin: &'a str,
        pid: u32,
    },
    Ready {
        urls: Vec<&'a str>,
        nats: Vec<&'a str>,
        folder: &'a str,
    },
    Ended {
        name: &'a str,
        pid: u32,
        /// What the system says of the end.
        how: &'a str,
        /// The last line of its log.
        #[serde(skip_serializing_if = "Option::is_none")]
        said: Option<&'a str>,
        again_in_ms: f64,
    },
}

/// Runs a command about a cluster on this machine.
pub(crate) async fn run(args: ClusterArgs) -> anyhow::Result<()> {
    match args.command {
        ClusterCommand::Up(args) => up(args).await,
    }
}

async fn up(args: UpArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    anyhow::ensure!(
        is_private(args.listen),
        "{} may be reached by everybody: nodes for development give a token to whoever asks; see \
         `tombolo serve --config` for others",
        args.listen
    );
    let program = nats::program(args.nats_server.as_deref())?;
    let place = Place::new(args.data.as_deref())?;
    let mut cluster = Cluster::new(&args, place);
    let result = tokio::select! {
        result = cluster.run(&program) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    if result.is_err() {
        cluster.place.keep();
    }
    let ended = cluster.end().await;
    result.and(ended)
}

/// Whether strangers cannot reach an address, as far as it tells.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// All that runs.
struct Cluster<'a> {
    args: &'a UpArgs,
    place: Place,
    style: Style,
    /// Nodes first: they say goodbye over NATS.
    nodes: JoinSet<()>,
    nats: JoinSet<()>,
    stop_nodes: process::Stop,
    stop_nats: process::Stop,
}

impl<'a> Cluster<'a> {
    fn new(args: &'a UpArgs, place: Place) -> Self {
        Self {
            args,
            place,
            style: Style::of(args.json),
            nodes: JoinSet::new(),
            nats: JoinSet::new(),
            stop_nodes: process::Stop::new(),
            stop_nats: process::Stop::new(),
        }
    }

    /// Starts everything, and tells what happens to it. Ends when something cannot be started.
    async fn run(&mut self, program: &std::path::Path) -> anyhow::Result<()> {
        let (happenings, mut happened) = mpsc::channel(HAPPENINGS_MAX);
        let servers = nats::configure(&self.place, self.args.listen, self.args.nats)?;
        let urls: Vec<_> = servers.iter().map(|server| server.url.clone()).collect();
        for server in &servers {
            let supervised = Supervised {
                name: server.name.clone(),
                what: What::Nats,
                command: nats::command(program, server),
                log: self.place.log(&server.name),
            };
            let run = supervised.run(happenings.clone(), self.stop_nats.clone());
            self.nats.spawn(run);
        }
        self.all_ready(&mut happened, &servers).await?;

        let mut node_urls = vec![String::new(); usize::from(self.args.nodes)];
        for number in 1..=self.args.nodes {
            let name = format!("node-{number}");
            let supervised = Supervised {
                what: What::Node,
                command: self.node(&name, &urls)?,
                log: self.place.log(&name),
                name,
            };
            let run = supervised.run(happenings.clone(), self.stop_nodes.clone());
            self.nodes.spawn(run);
        }
        let mut is_told = false;
        let mut failures = Failures::default();
        while let Some(happening) = happened.recv().await {
            if !is_told {
                failures.note(&happening, &self.place)?;
            }
            let started = self.tell(&happening, &servers)?;
            if let (Some(url), Some(number)) = (started, number_of(&happening)) {
                if let Some(known) = node_urls.get_mut(number) {
                    *known = url;
                }
                if !is_told && node_urls.iter().all(|url| !url.is_empty()) {
                    is_told = true;
                    self.tell_ready(&node_urls, &urls)?;
                }
            }
        }
        Ok(())
    }

    /// Waits until all NATS servers serve.
    async fn all_ready(
        &self,
        happened: &mut mpsc::Receiver<Happening>,
        servers: &[nats::Server],
    ) -> anyhow::Result<()> {
        let mut waiting = servers.len();
        let mut failures = Failures::default();
        while waiting > 0 {
            let happening = happened.recv().await.context("the NATS servers are gone")?;
            failures.note(&happening, &self.place)?;
            if matches!(happening, Happening::Ready { .. }) {
                waiting -= 1;
            }
            self.tell(&happening, servers)?;
        }
        Ok(())
    }

    /// The command of a node, at ports that nobody else has.
    fn node(&self, name: &str, nats: &[String]) -> anyhow::Result<tokio::process::Command> {
        let ports = place::free_ports(self.args.listen, 4)?;
        let [port, turn, turns, _] = ports.as_slice() else {
            anyhow::bail!("there are no free ports");
        };
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command
            .args(["serve", "--dev", "--json", "--name", name, "--with-parent"])
            .args(["--pin", "--tls"])
            .args(self.place.certificate(name, self.args.listen)?)
            .arg("--listen")
            .arg(self.args.listen.to_string())
            .args(["--port", &port.to_string()])
            .args(["--turn-port", &turn.to_string()])
            .args(["--turns-port", &turns.to_string()])
            .args(["--nats", &nats.join(",")])
            .args(["--nats-replicas", &self.args.nats.to_string()])
            .arg("--admin")
            .arg(self.place.admin(name))
            .arg("--token-key")
            .arg(format!("cluster={}", self.place.token_key().display()))
            .arg("--nats-seal")
            .arg(self.place.seal_key());
        for pools in &self.args.pools {
            command.arg("--pools").arg(pools);
        }
        if self.args.listen.is_loopback() {
            command.args(["--allow-peer", "127.0.0.0/8", "--allow-peer", "::1/128"]);
        }
        Ok(command)
    }

    /// Tells what happened; returns the URL of a node that is ready.
    fn tell(
        &self,
        happening: &Happening,
        servers: &[nats::Server],
    ) -> anyhow::Result<Option<String>> {
        match happening {
            Happening::Ready {
                name,
                what: What::Nats,
                pid,
                ..
            } => {
                let server = servers.iter().find(|server| server.name == *name);
                let url = server.map_or("", |server| &server.url);
                match self.style {
                    Style::Json => json(&Event::Nats {
                        name,
                        url,
                        pid: *pid,
                    })?,
                    Style::Person => line_of_text(&format!("{name:<8} {url}"))?,
                }
                Ok(None)
            }
            Happening::Ready {
                name,
                what: What::Node,
                pid,
                said,
            } => {
                let said: Value = serde_json::from_str(said)?;
                let url = said["url"].as_str().unwrap_or_default();
                let admin = self.place.admin(name);
                let admin = admin.to_string_lossy();
                match self.style {
                    Style::Json => json(&Event::Node {
                        name,
                        url,
                        http: said["http"].as_str().unwrap_or_default(),
                        admin: &admin,
                        pid: *pid,
                    })?,
                    Style::Person => line_of_text(&format!("{name:<8} --server '{url}'"))?,
                }
                Ok(Some(url.to_owned()))
            }
            Happening::Ended { .. } => {
                self.tell_end(happening)?;
                Ok(None)
            }
        }
    }

    fn tell_end(&self, happening: &Happening) -> std::io::Result<()> {
        let Happening::Ended {
            name,
            pid,
            how,
            said,
            again,
        } = happening
        else {
            return Ok(());
        };
        match self.style {
            Style::Json => json(&Event::Ended {
                name,
                pid: *pid,
                how,
                said: said.as_deref(),
                again_in_ms: crate::output::ms(*again),
            }),
            Style::Person => {
                let again = again.as_secs_f64();
                let said = said.as_deref().map(|said| format!(": {said}"));
                line_of_text(&format!(
                    "{name:<8} ended ({how}), is started again in {again:.1} s{}",
                    said.unwrap_or_default()
                ))
            }
        }
    }

    fn tell_ready(&self, nodes: &[String], nats: &[String]) -> anyhow::Result<()> {
        let folder = self.place.folder().to_string_lossy();
        match self.style {
            Style::Json => json(&Event::Ready {
                urls: nodes.iter().map(String::as_str).collect(),
                nats: nats.iter().map(String::as_str).collect(),
                folder: &folder,
            })?,
            Style::Person => {
                let admin = self.place.admin("node-1");
                line_of_text(&format!("\nLogs     {folder}"))?;
                line_of_text(&format!(
                    "Operate  tombolo nodes --admin {}",
                    admin.display()
                ))?;
                line_of_text("\nAll of it serves. End with Ctrl-C.")?;
            }
        }
        Ok(())
    }

    /// Ends everything, nodes first, and takes away what was made for it.
    async fn end(mut self) -> anyhow::Result<()> {
        self.stop_nodes.stop();
        while self.nodes.join_next().await.is_some() {}
        self.stop_nats.stop();
        while self.nats.join_next().await.is_some() {}
        self.place.clear()
    }
}

/// How often each process has ended before all of them served.
#[derive(Default)]
struct Failures(BTreeMap<String, u32>);

impl Failures {
    /// Notes what happened; fails when a process does not start, however often that is tried.
    fn note(&mut self, happening: &Happening, place: &Place) -> anyhow::Result<()> {
        let Happening::Ended {
            name, how, said, ..
        } = happening
        else {
            return Ok(());
        };
        let count = self.0.entry(name.clone()).or_default();
        *count += 1;
        anyhow::ensure!(
            *count < FAILURES_MAX,
            "{name} does not start ({how}): {}; all that it said: {}",
            said.as_deref().unwrap_or("it said nothing"),
            place.log(name).display()
        );
        Ok(())
    }
}

/// Which node it is about, from 0.
fn number_of(happening: &Happening) -> Option<usize> {
    let (Happening::Ready { name, .. } | Happening::Ended { name, .. }) = happening;
    let number: usize = name.strip_prefix("node-")?.parse().ok()?;
    number.checked_sub(1)
}

fn odd(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5)) => Ok(count),
        _ => Err("must be 1, 3 or 5".to_owned()),
    }
}

/// More than a machine for development has room for.
const NODES_MAX: u16 = 32;
/// Happenings that wait to be told.
const HAPPENINGS_MAX: usize = 64;
/// How often a process may end before all of them serve.
const FAILURES_MAX: u32 = 3;
/// How long a process has to end after it was asked to.
const END_TIMEOUT: Duration = Duration::from_secs(15);
