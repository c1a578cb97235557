//! From one node to several while devices talk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::bots::{self, Bot, Stage};
use super::check;
use super::processes::{Folder, Nats, Node, Nodes};
use super::record::lock;
use super::{Arguments, story};

/// Lets half of the devices talk on one node, starts the others, and lets the other half come to the first.
pub(crate) async fn tell(arguments: &Arguments) -> anyhow::Result<()> {
    let program = story::beside_us("tombolo")?;
    let binary = story::nats_server(arguments.nats_server.as_deref())?;
    let folder = Folder::new()?;
    let nats = Nats::start(&binary, &folder, 3)?;
    let starter = Nodes {
        program: &program,
        nats: &nats.urls,
    };
    let mut nodes = vec![starter.start(0)?];
    let first = vec![nodes[0].address()];
    let stage = watch::Sender::new(Stage::Talk);

    let half = arguments.devices / 2;
    let mut bots = bots::enter(arguments, 0..half, &first).await?;
    for bot in &bots {
        bot.start(arguments, &stage.subscribe());
    }
    tokio::time::sleep(WARM).await;
    let before = measure(&bots, &nodes, arguments.before).await;

    for index in 1..arguments.nodes {
        nodes.push(starter.start(index)?);
    }
    // The first node hears of the others.
    tokio::time::sleep(WARM).await;
    let newcomers = bots::enter(arguments, half..arguments.devices, &first).await?;
    let spread = by_node(&newcomers);
    for bot in &newcomers {
        bot.start(arguments, &stage.subscribe());
    }
    bots.extend(newcomers);
    tokio::time::sleep(WARM).await;
    let after = measure(&bots, &nodes, arguments.after).await;
    stage.send_replace(Stage::Listen);
    tokio::time::sleep(SETTLE).await;

    let kept = check::logs(&bots, &nats.urls, arguments.rooms).await?;
    let figures = json!({
        "fault": "Scale",
        "devices": arguments.devices,
        "rooms": arguments.rooms,
        "one_node": before,
        "all_nodes": after,
        "newcomers_by_node": spread,
        "logs": kept,
    });
    story::tell_figures(arguments, &figures, &kept)
}

/// Deliveries a second and what each costs all nodes together.
async fn measure(bots: &[Arc<Bot>], nodes: &[Node], seconds: u64) -> Value {
    let count = || -> u64 { bots.iter().map(|bot| lock(&bot.record).received()).sum() };
    let cpu = || -> Duration { nodes.iter().map(|node| node.process.cpu()).sum() };
    let (received, spent, begun) = (count(), cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let received = count() - received;
    let spent = (cpu() - spent).as_secs_f64();
    json!({
        "devices": bots.len(),
        "deliveries_per_s": received as f64 / begun.elapsed().as_secs_f64(),
        "node_cpu_us_per_delivery": spent * 1e6 / received as f64,
    })
}

fn by_node(bots: &[Arc<Bot>]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for bot in bots {
        *counts.entry(bot.device.session().node).or_default() += 1;
    }
    counts
}

const WARM: Duration = Duration::from_secs(3);
const SETTLE: Duration = Duration::from_secs(5);
