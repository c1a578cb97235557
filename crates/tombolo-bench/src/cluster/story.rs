//! One run from beginning to end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;
use tombolo_client::Lane;

use super::bots::{Bot, Stage};
use super::check::{self, Kept, milliseconds, quantile};
use super::pairs::{Pair, Through, Way};
use super::processes::{Folder, Nats, Node, Nodes};
use super::record::{Kind, Record, lock};
use super::{Arguments, Fault, bots};

/// All processes of a run.
struct Cluster<'a> {
    nodes: Vec<Option<Node>>,
    nats: Nats,
    program: &'a Path,
    _folder: Folder,
}

pub(crate) async fn tell(arguments: &Arguments) -> anyhow::Result<()> {
    let program = beside_us("tombolo")?;
    let nats = nats_server(arguments.nats_server.as_deref())?;
    let mut cluster = Cluster::start(arguments, &program, &nats)?;
    let nodes = cluster.nodes.iter().flatten();
    let nodes: Vec<_> = nodes.map(Node::address).collect();
    let begun = Instant::now();
    let bots = bots::enter(arguments, 0..arguments.devices, &nodes).await?;
    eprintln!(
        "{} devices are in {} rooms after {:.1?}",
        bots.len(),
        arguments.rooms,
        begun.elapsed()
    );

    let stage = watch::Sender::new(Stage::Talk);
    let pairs = pairs(arguments, &bots, &stage).await?;
    let relayed = relayed_pairs(arguments, &bots, &stage).await?;
    for bot in &bots {
        bot.start(arguments, &stage.subscribe());
    }
    tokio::time::sleep(Duration::from_secs(arguments.before)).await;
    let places: Vec<_> = bots.iter().map(|bot| bot.place()).collect();
    ensure!(
        places.iter().all(|place| place.seat.is_some()),
        "a device has no seat before anything happened"
    );
    let cpu = cluster.cpu();
    let fault = Instant::now();
    let told = cluster.strike(arguments, fault).await?;
    tokio::time::sleep(Duration::from_secs(arguments.after)).await;
    let cpu: Vec<_> = cluster
        .cpu()
        .iter()
        .zip(&cpu)
        .map(|(after, before)| after.saturating_sub(*before).as_secs_f64())
        .collect();
    let lasted = fault.elapsed().as_secs_f64();
    stage.send_replace(Stage::Listen);
    // What is under way arrives, and what waits for an election is answered.
    tokio::time::sleep(SETTLE).await;

    let kept = check::logs(&bots, &cluster.nats.urls, arguments.rooms).await?;
    let figures = json!({
        "fault": format!("{:?}", arguments.fault),
        "devices": arguments.devices,
        "rooms": arguments.rooms,
        "nodes": arguments.nodes,
        "seconds_after_the_fault": lasted,
        "logs": kept,
        "back": check::returns(&bots, &nodes[0].name, fault, &places),
        "pairs": of_pairs(&pairs, fault),
        "relayed_pairs": of_pairs(&relayed, fault),
        "messages": of_messages(&bots, fault),
        "node_cpu_s": cpu,
        "node_resident_mib": cluster.resident(),
        "more": told,
    });
    tell_figures(arguments, &figures, &kept)
}

/// Prints what came of a run, which failed when the logs do not say what was acknowledged.
pub(super) fn tell_figures(
    arguments: &Arguments,
    figures: &Value,
    kept: &Kept,
) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(figures)?);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string(figures)?).context("write the figures")?;
    }
    ensure!(
        kept.lost + kept.repeated + kept.reordered == 0,
        "the logs do not say what was acknowledged"
    );
    Ok(())
}

/// What devices sent each other by way of the nodes.
fn of_messages(bots: &[Arc<Bot>], fault: Instant) -> Value {
    json!({
        "plain": check::deliveries(bots, Kind::Plain),
        "durable": check::deliveries(bots, Kind::Durable),
        "fast": check::deliveries(bots, Kind::Fast),
        "silence": silences(bots, fault),
        "durable_wait": waits(bots, fault, |record| &record.waits),
        "durable_refusal": waits(bots, fault, |record| &record.refusal_waits),
        "disconnects": disconnects(bots),
        "refused": refusals(bots),
    })
}

impl<'a> Cluster<'a> {
    fn start(arguments: &Arguments, program: &'a Path, binary: &Path) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        let nats = Nats::start(binary, &folder, 3)?;
        let nodes = Nodes {
            program: arguments.from.as_deref().unwrap_or(program),
            nats: &nats.urls,
        };
        let started: Vec<_> = (0..arguments.nodes)
            .map(|index| nodes.start(index).map(Some))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            nodes: started,
            nats,
            program,
            _folder: folder,
        })
    }

    /// Does what is to be done; says what is worth knowing about it.
    async fn strike(&mut self, arguments: &Arguments, begun: Instant) -> anyhow::Result<Value> {
        Ok(match arguments.fault {
            Fault::None | Fault::Scale => Value::Null,
            Fault::Kill => {
                self.nodes[0] = None;
                Value::Null
            }
            Fault::Drain => {
                let is_well = self.stop(0).await?;
                json!({ "drained_s": begun.elapsed().as_secs_f64(), "ended_well": is_well })
            }
            Fault::NatsKill => {
                self.nats.kill(0);
                tokio::time::sleep(NATS_AWAY).await;
                self.nats.start_server(0)?;
                Value::Null
            }
            Fault::NatsFreeze => {
                self.signal_nats(0, Signal::SIGSTOP)?;
                tokio::time::sleep(NATS_AWAY).await;
                self.signal_nats(0, Signal::SIGCONT)?;
                Value::Null
            }
            Fault::NatsCut => {
                self.nats.wires[0].cut(true);
                tokio::time::sleep(NATS_CUT).await;
                self.nats.wires[0].cut(false);
                Value::Null
            }
            Fault::NatsGone => {
                (0..3).for_each(|index| self.nats.kill(index));
                tokio::time::sleep(NATS_GONE).await;
                // The first waits for the others before it serves what it has.
                for index in 0..3 {
                    self.nats.start_server(index)?;
                }
                Value::Null
            }
            Fault::Roll => {
                for index in 0..self.nodes.len() {
                    let is_well = self.stop(index).await?;
                    ensure!(is_well, "node {index} did not end well");
                    let nodes = Nodes {
                        program: self.program,
                        nats: &self.nats.urls,
                    };
                    self.nodes[index] = Some(nodes.start(index)?);
                }
                json!({ "rolled_s": begun.elapsed().as_secs_f64() })
            }
        })
    }

    /// SIGTERM; whether the node ended well.
    async fn stop(&mut self, index: usize) -> anyhow::Result<bool> {
        let node = self.nodes[index].as_mut().context("the node is there")?;
        node.process.signal(Signal::SIGTERM)?;
        loop {
            if let Some(is_well) = node.process.ended()? {
                self.nodes[index] = None;
                return Ok(is_well);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn signal_nats(&self, index: usize, signal: Signal) -> anyhow::Result<()> {
        let server = self.nats.servers[index].as_ref();
        server.context("the server is there")?.signal(signal)
    }

    fn cpu(&self) -> Vec<Duration> {
        let nodes = self.nodes.iter();
        nodes
            .map(|node| {
                node.as_ref()
                    .map(|node| node.process.cpu())
                    .unwrap_or_default()
            })
            .collect()
    }

    fn resident(&self) -> Vec<u64> {
        let nodes = self.nodes.iter().flatten();
        nodes.map(|node| node.process.resident() >> 20).collect()
    }
}

/// Links between the second and the third device of the first rooms, neither of which is on the first
/// node.
async fn pairs(
    arguments: &Arguments,
    bots: &[Arc<Bot>],
    stage: &watch::Sender<Stage>,
) -> anyhow::Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for room in 0..arguments.pairs.min(arguments.rooms) {
        let mut members = bots
            .iter()
            .filter(|bot| bot.room_index == room && (bot.node != 0 || arguments.nodes == 1));
        let (Some(from), Some(to)) = (members.next(), members.next()) else {
            continue;
        };
        pairs.push(Pair::start(from, to, Through::Anything, &stage.subscribe()).await?);
    }
    Ok(pairs)
}

/// Links over the first node's relay between two devices on the first node, in the last rooms.
async fn relayed_pairs(
    arguments: &Arguments,
    bots: &[Arc<Bot>],
    stage: &watch::Sender<Stage>,
) -> anyhow::Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    let rooms = arguments.pairs.min(arguments.rooms)..arguments.rooms;
    for room in rooms.rev().take(arguments.relayed) {
        let mut members = bots
            .iter()
            .filter(|bot| bot.room_index == room && bot.node == 0);
        let (Some(from), Some(to)) = (members.next(), members.next()) else {
            continue;
        };
        pairs.push(Pair::start(from, to, Through::Relay, &stage.subscribe()).await?);
    }
    Ok(pairs)
}

/// Of devices in watched rooms: how long they heard nothing, before and after the fault.
fn silences(bots: &[Arc<Bot>], fault: Instant) -> Value {
    let mut longest = [Vec::new(), Vec::new()];
    for bot in bots {
        let record = lock(&bot.record);
        for (after, longest) in [false, true].into_iter().zip(&mut longest) {
            let those = record
                .silences
                .iter()
                .filter(|(when, _)| (*when > fault) == after);
            longest.extend(those.map(|(_, long)| *long).max());
        }
    }
    let [before, after] = &mut longest;
    json!({
        "before_p50_ms": milliseconds(quantile(before, 0.5)),
        "before_p99_ms": milliseconds(quantile(before, 0.99)),
        "after_p50_ms": milliseconds(quantile(after, 0.5)),
        "after_p99_ms": milliseconds(quantile(after, 0.99)),
    })
}

/// How long durable messages took to be acknowledged, before and after the fault.
fn waits(
    bots: &[Arc<Bot>],
    fault: Instant,
    which: fn(&Record) -> &Vec<(Instant, Duration)>,
) -> Value {
    let mut all = [Vec::new(), Vec::new()];
    for bot in bots {
        for (when, long) in which(&lock(&bot.record)) {
            all[usize::from(*when > fault || *when + *long > fault)].push(*long);
        }
    }
    let [before, after] = &mut all;
    json!({
        "before_p50_ms": milliseconds(quantile(before, 0.5)),
        "before_p99_ms": milliseconds(quantile(before, 0.99)),
        "after_p50_ms": milliseconds(quantile(after, 0.5)),
        "after_p99_ms": milliseconds(quantile(after, 0.99)),
        "after_max_ms": milliseconds(quantile(after, 1.0)),
    })
}

fn of_pairs(pairs: &[Pair], fault: Instant) -> Value {
    let of_lane = |lane: Lane| {
        let sum =
            |what: fn(&Way) -> u64| -> u64 { pairs.iter().map(|pair| pair.look(lane, what)).sum() };
        let longest = |is_after: bool| {
            let silences = pairs
                .iter()
                .map(|pair| pair.look(lane, |way| way.silence(fault, is_after)));
            milliseconds(silences.max().unwrap_or_default())
        };
        json!({
            "sent": sum(|way| way.sent),
            "lost": sum(Way::lost),
            "repeated_or_reordered": sum(Way::disordered),
            "longest_silence_before_ms": longest(false),
            "longest_silence_after_ms": longest(true),
        })
    };
    json!({
        "links": pairs.len(),
        "unreliable": of_lane(Lane::Unreliable),
        "reliable": of_lane(Lane::Reliable),
    })
}

/// How many devices were told what.
fn disconnects(bots: &[Arc<Bot>]) -> Value {
    let mut counts = std::collections::BTreeMap::new();
    for bot in bots {
        for told in &lock(&bot.record).disconnects {
            *counts.entry(told.clone()).or_insert(0) += 1;
        }
    }
    json!(counts)
}

fn refusals(bots: &[Arc<Bot>]) -> Value {
    let mut counts = std::collections::BTreeMap::new();
    for bot in bots {
        for (reason, count) in &lock(&bot.record).refused {
            *counts.entry(reason.clone()).or_insert(0) += count;
        }
    }
    json!(counts)
}

/// A program that was built with this one.
pub(crate) fn beside_us(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("where this program is")?;
    let path = own.with_file_name(name);
    ensure!(
        path.is_file(),
        "{} is missing: cargo build --release",
        path.display()
    );
    Ok(path)
}

/// The NATS server that was given, or what `scripts/install-nats.sh` installed: a folder above this
/// program's.
pub(crate) fn nats_server(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let own = std::env::current_exe().context("where this program is")?;
    let found = own
        .ancestors()
        .map(|folder| folder.join("nats/nats-server"));
    let found = found.into_iter().find(|path| path.is_file());
    found.context("there is no NATS server: run scripts/install-nats.sh, or give --nats-server")
}

const SETTLE: Duration = Duration::from_secs(10);
const NATS_AWAY: Duration = Duration::from_secs(15);
/// As long as servers need to elect others, and longer.
const NATS_CUT: Duration = Duration::from_secs(25);
const NATS_GONE: Duration = Duration::from_secs(30);
