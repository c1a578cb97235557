//! How long it takes until devices on two nodes see each other across a border of a field's cells.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tombolo_client::{Device, Field, FieldEvent};

use super::check::{milliseconds, quantile};
use super::processes::{Folder, Nats, Nodes};
use super::story;

/// How often.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often each of the two moves, and how often one comes from out of range
    #[arg(long, default_value_t = 200)]
    samples: usize,
    /// The NATS server; by default what `scripts/install-nats.sh` installed
    #[arg(long)]
    nats_server: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(arguments.samples > 0, "measure at least once");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("a runtime")?;
    runtime.block_on(measure(arguments))
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let program = story::beside_us("tombolo")?;
    let binary = story::nats_server(arguments.nats_server.as_deref())?;
    let folder = Folder::new()?;
    let nats = Nats::start(&binary, &folder, 3)?;
    let starter = Nodes {
        program: &program,
        nats: &nats.urls,
    };
    let nodes = [starter.start(0)?, starter.start(1)?];
    let mut devices = Vec::new();
    for (node, user) in nodes.iter().zip(["west", "east"]) {
        let device = Device::builder(&node.url).development_user(user).connect();
        devices.push(device.await.with_context(|| format!("device {user}"))?);
    }
    // Cells meet at 0.
    let west = devices[0].field("f").enter([-1.0, 0.0], "").await?;
    let east = devices[1].field("f").enter([1.0, 0.0], "").await?;
    tokio::try_join!(meet(&west), meet(&east)).context("they do not see each other")?;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut moves, mut seen, mut sees) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..arguments.samples {
        for (mover, watcher, side) in [(&west, &east, -1.0), (&east, &west, 1.0)] {
            pause(&mut random).await;
            let payload = number.to_string();
            let begun = Instant::now();
            mover.update([side, number as f64 / 100.0], payload.clone())?;
            let is_it = |event: &FieldEvent| matches!(event, FieldEvent::Updated(other) if other.payload() == payload.as_bytes());
            hear(watcher, is_it).await?;
            moves.push(begun.elapsed());
        }
    }
    for _ in 0..arguments.samples {
        west.update([AWAY, 0.0], "away")?;
        let has_left = |event: &FieldEvent| matches!(event, FieldEvent::Left(_));
        tokio::try_join!(hear(&west, has_left), hear(&east, has_left))?;
        pause(&mut random).await;
        let begun = Instant::now();
        west.update([-1.0, 0.0], "back")?;
        let one = async {
            meet(&east).await?;
            anyhow::Ok(begun.elapsed())
        };
        let other = async {
            meet(&west).await?;
            anyhow::Ok(begun.elapsed())
        };
        let (by_east, by_west) = tokio::try_join!(one, other)?;
        seen.push(by_east);
        sees.push(by_west);
    }
    let of = |times: &mut Vec<Duration>| {
        json!({
            "p50_ms": milliseconds(quantile(times, 0.5)),
            "p99_ms": milliseconds(quantile(times, 0.99)),
            "max_ms": milliseconds(quantile(times, 1.0)),
        })
    };
    let figures = json!({
        "samples": arguments.samples,
        "one_moves_and_the_other_is_told": of(&mut moves),
        "one_comes_into_range_and_the_other_is_told": of(&mut seen),
        "and_itself_is_told_of_the_other": of(&mut sees),
    });
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

async fn meet(field: &Field) -> anyhow::Result<()> {
    hear(field, |event| matches!(event, FieldEvent::Entered(_))).await
}

async fn hear(field: &Field, is_it: impl Fn(&FieldEvent) -> bool) -> anyhow::Result<()> {
    let found = async {
        while let Some(event) = field.next_event().await {
            if is_it(&event) {
                return Ok(());
            }
        }
        anyhow::bail!("the field ended")
    };
    tokio::time::timeout(PATIENCE, found)
        .await
        .context("nothing is heard")?
}

/// So long that what is measured begins anywhere between two ticks.
async fn pause(random: &mut ChaCha8Rng) {
    let pause = random.random_range(100..200);
    tokio::time::sleep(Duration::from_millis(pause)).await;
}

/// Out of range, and so far that nobody listens there.
const AWAY: f64 = -1000.0;

const PATIENCE: Duration = Duration::from_secs(10);
