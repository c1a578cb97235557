//! Tickets by the hundred thousand through a cluster whose matchers are killed every few seconds. What
//! devices were told is compared afterwards with what the pool's log says, as somebody reads it who had no
//! part in it.

mod device;
mod reader;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tombolo_engine::{
    Key, Leases as _, Log as _, Nats as Engine, NatsConfig, TailEvent, WatchEvent,
};
use tombolo_match::{Entry, TicketId};

use crate::cluster::check::{milliseconds, quantile};
use crate::cluster::processes::{Folder, Nats, Node, Nodes};
use crate::cluster::story;
use crate::fanout::Transport;
use crate::fanout::bot::Network;
use device::{MatchId, Seeker, Shared};
use reader::Reader;

/// How many tickets, through what, and how often the matcher is killed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Tickets, all devices' together
    #[arg(long, default_value_t = 1_000_000)]
    tickets: u64,
    /// Nodes, each a process
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Every so many seconds the node that is the pool's matcher is killed (`kill -9`), and started again
    #[arg(long, default_value_t = 5)]
    kill_every: u64,
    /// The longest that tickets are submitted, in seconds
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Devices: each has one ticket at a time
    #[arg(long, default_value_t = 1000)]
    devices: usize,
    /// Players of a match; each match opens a room
    #[arg(long, default_value_t = 10)]
    players: u32,
    /// Of tickets' ids and skills
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The NATS server; by default what `scripts/install-nats.sh` installed
    #[arg(long)]
    nats_server: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(
        arguments.nodes > 1 && arguments.devices >= arguments.players as usize * 2,
        "two nodes at least, and devices for two matches"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // A node's process ends with the thread that started it.
        .thread_keep_alive(THREADS_KEPT)
        .enable_all()
        .build()
        .context("a runtime")?;
    let done = runtime.block_on(measure(arguments));
    runtime.shutdown_timeout(Duration::from_secs(2));
    done
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let binary = story::nats_server(arguments.nats_server.as_deref())?;
    let nats = Nats::start(&binary, &folder, 3)?;
    let mut cluster = Cluster::start(arguments, &folder, &nats.urls).await?;
    let engine = Engine::connect(NatsConfig::new(nats.urls.clone()))
        .await
        .context("connect to read the log")?;
    let digest = cluster.digest(&engine).await?;
    let reader = Arc::new(Mutex::new(Reader::new()));
    let key = Key::new(["pool", POOL, &digest])?;
    let mut tail = engine.tail(&key, None).await.context("read the log")?;
    let into = Arc::clone(&reader);
    let mut reading = tokio::spawn(async move {
        loop {
            match tail.next().await.context("the log ends")? {
                TailEvent::Entry { entry, .. } => {
                    let (_, entry) = Entry::decode(&entry).context("an entry")?;
                    lock(&into).read(entry);
                }
                TailEvent::Synced => {}
                TailEvent::Snapshot { .. } | TailEvent::Retired { .. } | TailEvent::Reset => {
                    bail!("the reader fell behind, so that it has not seen all of the log")
                }
            }
        }
    });

    let networks = cluster.networks.subscribe();
    let shared = Arc::new(Shared::new(arguments.tickets, arguments.seed, networks));
    let mut devices = JoinSet::new();
    for number in 0..arguments.devices {
        let shared = Arc::clone(&shared);
        devices.spawn(Seeker { shared, number }.seek());
    }
    let begun = Instant::now();
    let kills = tokio::select! {
        kills = cluster.kill_matchers(arguments, &engine, &digest, &shared, &reader, begun) => kills?,
        ended = &mut reading => {
            ended.context("the reader")??;
            bail!("the reader has ended");
        }
    };
    let lasted = begun.elapsed();
    // Who waits alone at the end waits on; what is under way arrives.
    let settled = async { while devices.join_next().await.is_some() {} };
    _ = tokio::time::timeout(SETTLE, settled).await;
    devices.abort_all();
    sleep(READ_ON).await;
    ensure!(!reading.is_finished(), "the reader has fallen behind");
    reading.abort();
    let figures = compare(&shared, &lock(&reader), lasted, kills);
    println!("{:#}", figures);
    let count = |what: &str| figures[what].as_u64().unwrap_or(u64::MAX);
    ensure!(
        count("claimed_twice") + count("acknowledged_and_lost") + count("told_otherwise") == 0,
        "the log does not say what devices were told"
    );
    Ok(())
}

/// The nodes, and how they are reached.
struct Cluster {
    nodes: Vec<Option<Node>>,
    networks: watch::Sender<Vec<Option<Arc<Network>>>>,
    program: PathBuf,
    nats: Vec<String>,
    rules: PathBuf,
}

impl Cluster {
    async fn start(
        arguments: &Arguments,
        folder: &Folder,
        nats: &[String],
    ) -> anyhow::Result<Self> {
        let rules = folder.path("pool.toml");
        std::fs::write(&rules, rules_for(arguments.players)).context("write the pool's rules")?;
        let mut cluster = Self {
            nodes: (0..arguments.nodes).map(|_| None).collect(),
            networks: watch::Sender::new(vec![None; arguments.nodes]),
            program: story::beside_us("tombolo")?,
            nats: nats.to_vec(),
            rules,
        };
        for index in 0..arguments.nodes {
            cluster.start_node(index).await?;
        }
        Ok(cluster)
    }

    async fn start_node(&mut self, index: usize) -> anyhow::Result<()> {
        let (program, nats) = (self.program.clone(), self.nats.clone());
        let rules = self.rules.clone();
        let starting = tokio::task::spawn_blocking(move || {
            let nodes = Nodes {
                program: &program,
                nats: &nats,
            };
            let name = node_name(index);
            let more = [
                "--name".as_ref(),
                name.as_ref(),
                "--pools".as_ref(),
                rules.as_os_str(),
            ];
            nodes.start_with(index, &more as &[&OsStr])
        });
        let node = starting.await.context("start a node")??;
        let network = Network::new(&node.url, Transport::Quic).await?;
        self.nodes[index] = Some(node);
        self.networks
            .send_modify(|networks| networks[index] = Some(Arc::new(network)));
        Ok(())
    }

    /// What the rules are known by in the log's name, once there is a matcher.
    async fn digest(&self, engine: &Engine) -> anyhow::Result<String> {
        let prefix = Key::new(["matcher", POOL])?;
        let mut watch = engine.leases().watch(&prefix).await.context("leases")?;
        let found = async {
            loop {
                if let WatchEvent::Put { key, .. } = watch.next().await? {
                    return key.as_str().rsplit('.').next().map(str::to_owned);
                }
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(30), found).await;
        found.ok().flatten().context("nobody becomes the matcher")
    }

    /// Kills the matcher's node every few seconds until all tickets are submitted, and starts it again.
    async fn kill_matchers(
        &mut self,
        arguments: &Arguments,
        engine: &Engine,
        digest: &str,
        shared: &Shared,
        reader: &Mutex<Reader>,
        begun: Instant,
    ) -> anyhow::Result<Vec<Duration>> {
        let lease = Key::new(["matcher", POOL, digest])?;
        let mut gaps = Vec::new();
        let mut next = begun + Duration::from_secs(arguments.kill_every);
        let over = begun + Duration::from_secs(arguments.seconds);
        let mut told = Instant::now();
        while shared.left() > 0 && Instant::now() < over {
            sleep(LOOK_EVERY).await;
            if told.elapsed() > TELL_EVERY {
                told = Instant::now();
                let (acknowledged, matched) =
                    (shared.told().acknowledged.len(), lock(reader).matched.len());
                eprintln!(
                    "{:.0?}: {acknowledged} acknowledged, {matched} matched, {} kills",
                    begun.elapsed(),
                    gaps.len()
                );
            }
            if Instant::now() < next {
                continue;
            }
            let holder = engine.leases().get(&lease).await.ok().flatten();
            let holder = holder.and_then(|entry| String::from_utf8(entry.value.to_vec()).ok());
            let index = (0..self.nodes.len()).find(|index| holder == Some(node_name(*index)));
            let Some(index) = index.filter(|index| self.nodes[*index].is_some()) else {
                continue;
            };
            let killed = Instant::now();
            self.networks.send_modify(|networks| networks[index] = None);
            self.nodes[index] = None;
            gaps.push(self.next_match(reader, killed).await?);
            self.start_node(index).await?;
            next = killed + Duration::from_secs(arguments.kill_every);
        }
        shared.stop();
        Ok(gaps)
    }

    /// How long after a kill somebody else made a match.
    async fn next_match(
        &self,
        reader: &Mutex<Reader>,
        killed: Instant,
    ) -> anyhow::Result<Duration> {
        // What the dead one had claimed is still read for a moment.
        let seen = lock(reader).matches;
        let mut before = (seen, killed);
        loop {
            sleep(Duration::from_millis(5)).await;
            let (matches, last) = {
                let reader = lock(reader);
                (reader.matches, reader.last_match)
            };
            let is_silent = before.1.elapsed() > STILL_READ;
            if let Some(last) = last.filter(|_| matches > before.0) {
                if is_silent || last.duration_since(killed) > STILL_READ {
                    return Ok(last.duration_since(killed));
                }
                before = (matches, last);
            }
            ensure!(
                killed.elapsed() < TAKEN_OVER_MAX,
                "nobody becomes the matcher"
            );
        }
    }
}

/// How many tickets are not in the match that their devices were told: the log says with which first ticket each is
/// in one, and devices are told an id, so that each of the two must stand for one of the other.
fn told_otherwise(told: &HashMap<TicketId, MatchId>, matched: &HashMap<TicketId, TicketId>) -> u64 {
    let (mut told_by_first, mut first_by_told) = (HashMap::new(), HashMap::new());
    let mut otherwise = 0;
    for (id, told) in told {
        let is_so = matched.get(id).is_some_and(|first| {
            let is_same = told_by_first.entry(*first).or_insert(*told) == told;
            first_by_told.entry(*told).or_insert(*first) == first && is_same
        });
        otherwise += u64::from(!is_so);
    }
    otherwise
}

/// What devices were told, against what the log says.
fn compare(shared: &Shared, log: &Reader, lasted: Duration, mut gaps: Vec<Duration>) -> Value {
    let mut told = shared.told();
    let acknowledged = &told.acknowledged;
    let lost = acknowledged.iter().filter(|id| !log.knows(id)).count();
    let of = |holds: &dyn Fn(&TicketId) -> bool| acknowledged.iter().filter(|id| holds(id)).count();
    let matched = of(&|id| log.matched.contains_key(id));
    let (gone, cancelled) = (
        of(&|id| log.gone.contains(id)),
        of(&|id| log.cancelled.contains(id)),
    );
    let waiting = of(&|id| log.waits(id));
    let otherwise = told_otherwise(&told.matches, &log.matched) + told.twice;
    let untold = of(&|id| log.matched.contains_key(id) && !told.matches.contains_key(id));
    let count = acknowledged.len();
    let mut waits = std::mem::take(&mut told.waits);
    let times = |times: &mut Vec<Duration>| {
        json!({
            "p50_ms": milliseconds(quantile(times, 0.5)),
            "p99_ms": milliseconds(quantile(times, 0.99)),
            "max_ms": milliseconds(quantile(times, 1.0)),
        })
    };
    json!({
        "seconds": lasted.as_secs_f64(),
        "acknowledged": count,
        "acknowledged_per_second": count as f64 / lasted.as_secs_f64(),
        "acknowledged_and_lost": lost,
        "matched": matched,
        "matched_and_never_told": untold,
        "cancelled": cancelled,
        "gone": gone,
        "still_waiting": waiting,
        "claimed_twice": log.matched_twice,
        "told_otherwise": otherwise,
        "matches": log.matches,
        "claims_refused": log.claims_refused,
        "log_entries": log.entries,
        "left_in_the_pool": log.waiting_count(),
        "kills": gaps.len(),
        "next_match_after_a_kill": times(&mut gaps),
        "submitted_until_told": times(&mut waits),
        "ended_without_a_match": told.ended,
        "over_when_its_device_came_back": told.over,
        "refused": told.refused,
        "rooms_joined": told.rooms_joined,
        "rooms_refused": told.rooms_refused,
        "connections": told.reconnects,
    })
}

fn lock(reader: &Mutex<Reader>) -> MutexGuard<'_, Reader> {
    reader.lock().unwrap_or_else(PoisonError::into_inner)
}

fn node_name(index: usize) -> String {
    format!("matcher-{index}")
}

/// Those of about the same skill, and soon anybody.
fn rules_for(players: u32) -> String {
    format!(
        "name = \"{POOL}\"\nplayers = {{ min = {players}, max = {players} }}\n\
         rules = [{{ kind = \"distance\", attribute = \"skill\", max = 500, \
         relax = {{ every = \"100ms\", by = 500, limit = 3000 }} }}]\n"
    )
}

/// Longer than any run.
const THREADS_KEPT: Duration = Duration::from_hours(24);

/// The pool.
const POOL: &str = "tickets";

const LOOK_EVERY: Duration = Duration::from_millis(50);
const TELL_EVERY: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_secs(20);
const READ_ON: Duration = Duration::from_secs(2);

/// As long as a dead matcher's last claims may be on their way to the reader.
const STILL_READ: Duration = Duration::from_millis(200);

/// Longer than a lease.
const TAKEN_OVER_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_is_told_to_all_of_it_and_to_nobody_else() {
        let ticket = |number| TicketId([number; 16]);
        let matched = HashMap::from(
            [(1, 1), (2, 1), (3, 3), (4, 3)].map(|(id, first)| (ticket(id), ticket(first))),
        );
        let told = |told: &[(u8, u8)]| {
            let told = told.iter().map(|(id, told)| (ticket(*id), [*told; 16]));
            told_otherwise(&told.collect(), &matched)
        };
        assert_eq!(told(&[(1, 7), (2, 7), (3, 8), (4, 8)]), 0);
        assert!(told(&[(1, 7), (2, 8)]) > 0, "one match, told as two");
        assert!(told(&[(1, 7), (3, 7)]) > 0, "two matches, told as one");
        assert_eq!(told(&[(5, 9)]), 1, "none at all");
    }
}
