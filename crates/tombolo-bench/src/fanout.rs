//! One node on one core, and devices that do as little as devices can: how many deliveries a second a
//! room's fan-out gives, what each costs, and what an idle session takes.

pub(crate) mod bot;
pub(crate) mod duels;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use serde_json::json;
use tokio::task::JoinSet;
use tombolo_wire::v1::{self, JoinMode, client_frame, request};

use crate::cluster::processes::Node;
use crate::machine::{Core, stay_on};
use bot::Sender;

/// What carries the devices' sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Transport {
    Quic,
    Websocket,
}

/// What is measured, over what.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What carries the sessions
    #[arg(long, value_enum, default_value_t = Transport::Quic)]
    transport: Transport,
    /// Members of the room
    #[arg(long, default_value_t = 100)]
    members: usize,
    /// Bytes of a message
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Messages a second in the room, all members' together; each is delivered to all others
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// How long is measured, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Instead of a room: so many sessions that do nothing, and what each takes
    #[arg(long)]
    idle: Option<usize>,
    /// The node's program; by default the one beside this
    #[arg(long)]
    program: Option<PathBuf>,
    /// Write the figures to this file, too
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()
            .context("this program's place")?
            .with_file_name("tombolo"),
    };
    stay_on(Core::Server);
    let node = Node::start_alone(&program)?;
    stay_on(Core::Generator);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a runtime")?;
    let figures = runtime.block_on(async {
        match arguments.idle {
            Some(count) => idle(arguments, &node, count).await,
            None => fan_out(arguments, &node).await,
        }
    })?;
    println!("{figures:#}");
    if let Some(path) = &arguments.json {
        std::fs::write(path, format!("{figures:#}\n")).context("write the figures")?;
    }
    Ok(())
}

async fn fan_out(arguments: &Arguments, node: &Node) -> anyhow::Result<serde_json::Value> {
    let heard = Arc::new(AtomicU64::new(0));
    let mut senders = Vec::new();
    let mut readers = JoinSet::new();
    let network = bot::Network::new(&node.url, arguments.transport).await?;
    for number in 0..arguments.members {
        let (sender, bot) = network.enter(&format!("member-{number}"), number).await?;
        let join = v1::Join {
            room: "room".into(),
            mode: JoinMode::JoinOrCreate.into(),
            members_max: u32::try_from(arguments.members).context("members")?,
            ..v1::Join::default()
        };
        senders.push(sender);
        senders[number].request(request::Kind::Join(join)).await?;
        let heard = Arc::clone(&heard);
        readers.spawn(bot.read(heard));
    }
    // All have heard of all.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let (before, cpu, begun) = (
        heard.load(Ordering::Relaxed),
        node.process.cpu(),
        Instant::now(),
    );
    let sent = talk(arguments, &senders).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let elapsed = begun.elapsed().as_secs_f64();
    let deliveries = heard.load(Ordering::Relaxed) - before;
    let cpu = (node.process.cpu() - cpu).as_secs_f64();
    ensure!(
        readers.try_join_next().is_none(),
        "a device was disconnected"
    );
    let wanted = sent * (arguments.members as u64 - 1);
    Ok(json!({
        "transport": format!("{:?}", arguments.transport).to_lowercase(),
        "members": arguments.members,
        "bytes": arguments.size,
        "messages_per_s": sent as f64 / elapsed,
        "deliveries_per_s": deliveries as f64 / elapsed,
        "delivered": deliveries as f64 / wanted as f64,
        "cpu_us_per_delivery": cpu * 1e6 / deliveries as f64,
        "cpu_of_a_core": cpu / elapsed,
    }))
}

/// The members take turns to send, at the pace that was asked for; returns how much they sent.
async fn talk(arguments: &Arguments, senders: &[Sender]) -> anyhow::Result<u64> {
    let payload = Bytes::from(vec![7; arguments.size]);
    let begun = Instant::now();
    let mut sent = 0_u64;
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while begun.elapsed() < Duration::from_secs(arguments.seconds) {
        tick.tick().await;
        let due = begun.elapsed().as_secs_f64() * f64::from(arguments.rate);
        while (sent as f64) < due {
            let turn = usize::try_from(sent).unwrap_or_default() % senders.len();
            let send = v1::Send {
                room: "room".into(),
                payload: payload.clone(),
                ..v1::Send::default()
            };
            senders[turn].send_unreliably(client_frame::Body::Send(send))?;
            sent += 1;
        }
    }
    Ok(sent)
}

async fn idle(
    arguments: &Arguments,
    node: &Node,
    count: usize,
) -> anyhow::Result<serde_json::Value> {
    let network = bot::Network::new(&node.url, arguments.transport).await?;
    let mut open = Vec::with_capacity(count);
    // What the first ones make the node allocate is not theirs.
    for number in 0..WARM {
        open.push(network.enter(&user(number), number).await?);
    }
    let before = node.process.resident();
    for number in WARM..WARM + count {
        open.push(network.enter(&user(number), number).await?);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (after, cpu, begun) = (node.process.resident(), node.process.cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let elapsed = begun.elapsed().as_secs_f64();
    let cpu = (node.process.cpu() - cpu).as_secs_f64();
    ensure!(
        open.iter().all(|(_, bot)| bot.is_open()),
        "a device was disconnected"
    );
    let bytes = after.saturating_sub(before) as f64;
    Ok(json!({
        "transport": format!("{:?}", arguments.transport).to_lowercase(),
        "sessions": count,
        "resident_kib_per_session": bytes / 1024.0 / count as f64,
        "cpu_us_per_session_and_s": cpu * 1e6 / elapsed / (count + WARM) as f64,
    }))
}

/// As many sessions as a user may have have the same one, so that fewer tokens are needed.
fn user(number: usize) -> String {
    format!("user-{}", number / SESSIONS_PER_USER)
}

/// Sessions before memory is looked at.
const WARM: usize = 200;

/// As a node allows by default.
const SESSIONS_PER_USER: usize = 16;
