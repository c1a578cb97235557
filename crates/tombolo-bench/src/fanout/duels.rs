//! Devices that look for each other in pairs through one node: how many find one a second, and how long
//! it takes from a ticket's submission until its device is told of the match.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tombolo_wire::v1::{self, match_attribute, match_event, match_request, request, server_frame};

use super::Transport;
use super::bot::{Bot, Network, Sender};
use crate::cluster::processes::Node;

/// Who looks for whom, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Devices; each looks for one other
    #[arg(long, default_value_t = 2000)]
    devices: usize,
    /// Tickets a second, all devices' together
    #[arg(long, default_value_t = 5000)]
    rate: u32,
    /// How long is measured, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Of the devices' skills
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The node's program; by default the one beside this
    #[arg(long)]
    program: Option<PathBuf>,
}

/// The pool: those of about the same skill, and soon anybody.
const POOL: &str = r#"
name = "duel"
players = { min = 2, max = 2 }
rules = [{ kind = "distance", attribute = "skill", max = 200, relax = { every = "100ms", by = 200, limit = 3000 } }]
"#;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(
        arguments.devices > 1 && arguments.rate > 0,
        "nobody looks for anybody"
    );
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()
            .context("this program's place")?
            .with_file_name("tombolo"),
    };
    let rules = std::env::temp_dir().join(format!("tombolo-pool-{}.toml", std::process::id()));
    std::fs::write(&rules, POOL).context("write the pool's rules")?;
    let node = Node::start_alone_with(&program, &["--pools".as_ref(), rules.as_os_str()]);
    std::fs::remove_file(&rules).context("take the rules away")?;
    let node = node?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a runtime")?;
    let figures = runtime.block_on(measure(arguments, &node))?;
    println!("{figures:#}");
    Ok(())
}

async fn measure(arguments: &Arguments, node: &Node) -> anyhow::Result<serde_json::Value> {
    let network = Network::new(&node.url, Transport::Quic).await?;
    let (sender, mut waits) = mpsc::unbounded_channel();
    let is_over = Arc::new(AtomicBool::new(false));
    let mut dice = ChaCha8Rng::seed_from_u64(arguments.seed);
    let mut devices = JoinSet::new();
    let pace = Duration::from_secs(1) * u32::try_from(arguments.devices)? / arguments.rate;
    for number in 0..arguments.devices {
        let (says, hears) = network.enter(&format!("seeker-{number}"), number).await?;
        let device = Device {
            says,
            user: format!("seeker-{number}"),
            skill: dice.random_range(0.0..3000.0),
            dice: ChaCha8Rng::seed_from_u64(dice.random()),
            pace,
            waits: sender.clone(),
            is_over: Arc::clone(&is_over),
        };
        devices.spawn(device.seek(hears));
    }
    // What was measured while they came does not count.
    tokio::time::sleep(Duration::from_secs(2)).await;
    while waits.try_recv().is_ok() {}
    let (begun, cpu) = (Instant::now(), node.process.cpu());
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let elapsed = begun.elapsed().as_secs_f64();
    let cpu = (node.process.cpu() - cpu).as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    while let Ok(wait) = waits.try_recv() {
        all.push(wait);
    }
    ensure!(!all.is_empty(), "nobody has found anybody");
    all.sort_unstable();
    let at = |share: f64| {
        let index = (all.len() as f64 * share) as usize;
        all[index.min(all.len() - 1)].as_secs_f64() * 1e3
    };
    Ok(json!({
        "devices": arguments.devices,
        "asked_per_second": arguments.rate,
        "assignments_per_second": all.len() as f64 / elapsed,
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "longest_ms": at(1.0),
        "node_cores": cpu / elapsed,
        "devices_left": devices.len(),
    }))
}

/// A device that looks for another again and again.
struct Device {
    says: Sender,
    user: String,
    skill: f64,
    dice: ChaCha8Rng,
    /// Between two tickets.
    pace: Duration,
    waits: mpsc::UnboundedSender<Duration>,
    is_over: Arc<AtomicBool>,
}

impl Device {
    async fn seek(mut self, hears: Bot) -> anyhow::Result<()> {
        let (sender, mut found) = mpsc::channel(8);
        let listening = tokio::spawn(hears.listen(move |body| {
            if let server_frame::Body::Matchmaker(v1::MatchEvent {
                kind: Some(match_event::Kind::Found(_)),
                ..
            }) = body
            {
                let _ = sender.try_send(Instant::now());
            }
        }));
        // Not all at the same moment.
        tokio::time::sleep(self.pace.mul_f64(self.dice.random())).await;
        while !self.is_over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let submit = match_request::Kind::Submit(self.ticket());
            let submit = v1::MatchRequest {
                pool: "duel".to_owned(),
                kind: Some(submit),
            };
            self.says.request(request::Kind::Matchmaker(submit)).await?;
            let told = found.recv().await.context("the node has closed")?;
            self.waits.send(told.duration_since(begun))?;
            let next = begun + self.pace;
            tokio::time::sleep_until(next.into()).await;
        }
        listening.abort();
        Ok(())
    }

    fn ticket(&mut self) -> v1::SubmitTicket {
        let id: u128 = self.dice.random();
        let player = v1::MatchPlayer {
            user: self.user.clone(),
            attributes: vec![v1::MatchAttribute {
                name: "skill".to_owned(),
                value: Some(match_attribute::Value::Number(self.skill)),
            }],
            ..v1::MatchPlayer::default()
        };
        v1::SubmitTicket {
            id: Bytes::copy_from_slice(&id.to_be_bytes()),
            players: vec![player],
            ..v1::SubmitTicket::default()
        }
    }
}
