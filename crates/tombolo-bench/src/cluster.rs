//! A whole cluster under load and under fire: three NATS servers, nodes, and devices that talk in rooms
//! while something is killed, frozen, stopped or added. What each device sent and got is compared
//! afterwards, and the logs of the rooms are read by somebody who had no part in it.

pub(crate) mod border;
mod bots;
pub(crate) mod check;
pub(crate) mod joins;
mod pairs;
pub(crate) mod processes;
mod record;
mod scale;
pub(crate) mod story;
mod wires;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fault {
    /// Nothing
    None,
    /// `kill -9` of the first node
    Kill,
    /// SIGTERM to the first node, which drains
    Drain,
    /// `kill -9` of a NATS server, which is started again after a while
    NatsKill,
    /// SIGSTOP of a NATS server for a while
    NatsFreeze,
    /// A NATS server is cut off from the others for a while, and clients reach it
    NatsCut,
    /// `kill -9` of all NATS servers, which are started again after 30 s
    NatsGone,
    /// Each node in turn: SIGTERM, and started again
    Roll,
    /// Half of the devices are on one node; the other nodes are started, and the other half comes
    Scale,
}

/// How large, how long, and what happens.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What is done to the cluster
    #[arg(value_enum)]
    pub(crate) fault: Fault,
    /// Nodes
    #[arg(long, default_value_t = 3)]
    pub(crate) nodes: usize,
    /// Devices, evenly over nodes and rooms
    #[arg(long, default_value_t = 3000)]
    pub(crate) devices: usize,
    /// Rooms
    #[arg(long, default_value_t = 500)]
    pub(crate) rooms: usize,
    /// Rooms in which one member sends 50 unreliable messages a second, to see gaps
    #[arg(long, default_value_t = 20)]
    pub(crate) watched: usize,
    /// Links between two devices that the fault does not concern
    #[arg(long, default_value_t = 20)]
    pub(crate) pairs: usize,
    /// Relayed links between two devices that began on the first node
    #[arg(long, default_value_t = 20)]
    pub(crate) relayed: usize,
    /// Traffic before the fault, in seconds
    #[arg(long, default_value_t = 10)]
    pub(crate) before: u64,
    /// Traffic after the fault, in seconds
    #[arg(long, default_value_t = 20)]
    pub(crate) after: u64,
    /// Between two plain reliable messages of a device, in milliseconds
    #[arg(long, default_value_t = 2000)]
    pub(crate) plain_ms: u64,
    /// Between two durable messages of a device, in milliseconds
    #[arg(long, default_value_t = 10_000)]
    pub(crate) durable_ms: u64,
    /// After how long a silence a device gives its node up, in milliseconds
    #[arg(long, default_value_t = 6000)]
    pub(crate) patience_ms: u64,
    /// The nodes' program at first, say of an earlier release; nodes that are started again are of the one
    /// beside this program
    #[arg(long)]
    pub(crate) from: Option<PathBuf>,
    /// The NATS server; by default what `scripts/install-nats.sh` installed
    #[arg(long)]
    pub(crate) nats_server: Option<PathBuf>,
    /// Write the figures to this file, too
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("a runtime")?;
    let done = runtime.block_on(async {
        if arguments.fault == Fault::Scale {
            scale::tell(arguments).await
        } else {
            story::tell(arguments).await
        }
    });
    // Devices that are still about to say something need not.
    runtime.shutdown_timeout(Duration::from_secs(2));
    done
}
