//! How long it takes until a member on one node hears of a join on another.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tombolo_client::{Device, Room, RoomEvent, RoomOptions, UserId};

use super::check::{milliseconds, quantile};
use super::processes::{Folder, Nats, Nodes};
use super::story;

/// How often.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Joins that are measured
    #[arg(long, default_value_t = 200)]
    samples: usize,
    /// The NATS server; by default what `scripts/install-nats.sh` installed
    #[arg(long)]
    nats_server: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // Starting a node holds one thread, while the wires between its servers need another.
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
    let [here, there] = [
        enter(&nodes[0].url, "stays").await?,
        enter(&nodes[1].url, "comes").await?,
    ];
    let comer = there.session().user;
    let (mut told, mut answered) = (Vec::new(), Vec::new());
    for sample in 0..arguments.samples {
        let name = format!("room-{sample}");
        let room = here.rooms().create(&name, RoomOptions::default()).await?;
        tokio::time::sleep(PACE).await;
        let begun = Instant::now();
        let ((joined, answered_after), told_after) = tokio::try_join!(
            async {
                let joined = there.rooms().join(&name, RoomOptions::default()).await?;
                Ok((joined, begun.elapsed()))
            },
            async {
                hear(&room, |event| is_join_of(event, &comer)).await?;
                anyhow::Ok(begun.elapsed())
            }
        )?;
        told.push(told_after);
        answered.push(answered_after);
        joined.leave().await?;
        room.leave().await?;
    }
    let of = |times: &mut Vec<Duration>| {
        json!({
            "p50_ms": milliseconds(quantile(times, 0.5)),
            "p99_ms": milliseconds(quantile(times, 0.99)),
            "max_ms": milliseconds(quantile(times, 1.0)),
        })
    };
    let figures = json!({
        "joins": arguments.samples,
        "the_member_on_the_other_node_hears_of_it": of(&mut told),
        "the_one_who_joins_is_in": of(&mut answered),
    });
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

async fn enter(url: &str, user: &str) -> anyhow::Result<Device> {
    let device = Device::builder(url).development_user(user).connect();
    device.await.with_context(|| format!("device {user}"))
}

async fn hear(room: &Room, mut is_it: impl FnMut(&RoomEvent) -> bool) -> anyhow::Result<()> {
    while let Some(event) = room.next_event().await {
        if is_it(&event) {
            return Ok(());
        }
    }
    anyhow::bail!("the room ended")
}

fn is_join_of(event: &RoomEvent, user: &UserId) -> bool {
    matches!(event, RoomEvent::Joined(joined) if joined == user)
}

/// No more joins than a user may, and for 256 samples no more new rooms.
const PACE: Duration = Duration::from_millis(500);
