//! How each thing is measured: one fresh server, one sample.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::control::{Ask, Clients};
use crate::machine;
use crate::plan;
use crate::subject::{Programs, Server, Subject};
use crate::traffic::{Count, Far, Pace, Shape, Traffic};

/// What one run of one row with one subject gave, by the metric's name.
pub(crate) type Sample = BTreeMap<&'static str, f64>;

/// Everything that a measurement needs to know besides its subject.
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    pub(crate) scale: Scale,
}

/// How long and how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
    /// For the rate and the memory of allocations.
    pub(crate) allocations: usize,
    /// Beside traffic.
    pub(crate) idle: usize,
    /// Against [`FLOWS`].
    pub(crate) many: usize,
    /// Requests of the flood, each second.
    pub(crate) flood_per_second: u32,
    /// Whether figures count.
    pub(crate) kind: Kind,
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To measure.
    Full,
    /// To see that everything is delivered.
    Quick,
}

impl Scale {
    pub(crate) fn full(time: Duration) -> Self {
        Self {
            warm_up: Duration::from_millis(300),
            time,
            allocations: 8000,
            idle: 2000,
            many: 16_000,
            flood_per_second: 50_000,
            kind: Kind::Full,
        }
    }

    /// For a test: everything happens, nothing is worth a look.
    pub(crate) fn quick() -> Self {
        Self {
            warm_up: Duration::from_millis(20),
            time: Duration::from_millis(80),
            allocations: 300,
            idle: 100,
            many: 400,
            // A server without optimisation takes that too.
            flood_per_second: 5000,
            kind: Kind::Quick,
        }
    }
}

/// A server with its clients.
pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) clients: Clients,
}

impl Bench {
    fn stage(&self, subject: Subject) -> anyhow::Result<Stage> {
        Ok(Stage {
            server: Server::start(subject, &self.programs)?,
            clients: Clients::new(plan::CLIENT_PORT)?,
        })
    }

    /// A server on which the first `shape.flows` clients have an allocation and a channel, and those
    /// up to `allocations` an allocation.
    pub(crate) fn traffic(
        &self,
        subject: Subject,
        shape: Shape,
        allocations: usize,
    ) -> anyhow::Result<(Stage, Traffic)> {
        let mut stage = self.stage(subject)?;
        if subject == Subject::Floor {
            stage.clients.presume_floor(shape.flows);
        } else {
            allocate(&mut stage.clients, allocations.max(shape.flows))?;
            Traffic::bind(&mut stage.clients, shape)?;
        }
        let traffic = Traffic::new(&stage.clients, shape)?;
        Ok((stage, traffic))
    }

    /// CPU per packet and packets per second of a relay that is kept busy by `window` bursts.
    pub(crate) fn rate(
        &self,
        subject: Subject,
        shape: Shape,
        allocations: usize,
        window: usize,
    ) -> anyhow::Result<Sample> {
        let (mut stage, mut traffic) = self.traffic(subject, shape, allocations)?;
        let span = self.span(&mut stage, &mut traffic, Pace::Window(window))?;
        Ok(span.sample())
    }

    /// CPU per packet and latency at a fixed rate of packets, each way counted.
    pub(crate) fn paced(
        &self,
        subject: Subject,
        shape: Shape,
        allocations: usize,
        packets_per_second: u32,
    ) -> anyhow::Result<Sample> {
        let (mut stage, mut traffic) = self.traffic(subject, shape, allocations)?;
        let interval = Duration::from_secs(2) / packets_per_second;
        let span = self.span(&mut stage, &mut traffic, Pace::Every(interval))?;
        let mut sample = span.sample();
        for (leg, [p50, p99]) in [["p50_out_us", "p99_out_us"], ["p50_back_us", "p99_back_us"]]
            .into_iter()
            .enumerate()
        {
            let latencies = &mut traffic.latencies[leg];
            latencies.sort_unstable();
            sample.insert(p50, quantile(latencies, 0.5));
            sample.insert(p99, quantile(latencies, 0.99));
        }
        Ok(sample)
    }

    /// Runs traffic and measures it between a warm-up and the end, where nothing may be lost.
    fn span(&self, stage: &mut Stage, traffic: &mut Traffic, pace: Pace) -> anyhow::Result<Span> {
        let mut nothing = |_: Instant| Ok(());
        traffic.run(&stage.clients, pace, self.scale.warm_up, &mut nothing)?;
        traffic.latencies.iter_mut().for_each(Vec::clear);
        let (before, cpu, start) = (
            traffic.count.clone(),
            machine::run_time(stage.server.pid())?,
            Instant::now(),
        );
        traffic.run(&stage.clients, pace, self.scale.time, &mut nothing)?;
        let span = Span {
            elapsed: start.elapsed(),
            cpu: machine::run_time(stage.server.pid())? - cpu,
            before,
            after: traffic.count.clone(),
        };
        traffic.finish(&stage.clients)?;
        stage.server.check()?;
        Ok(span)
    }

    /// CPU per packet over the same flows beside many allocations, against few.
    pub(crate) fn many(&self, subject: Subject, shape: Shape) -> anyhow::Result<Sample> {
        let few = self.rate(subject, shape, shape.flows, shape.flows)?;
        let many = self.rate(subject, shape, self.scale.many, shape.flows)?;
        let cpu = |sample: &Sample| sample.get("cpu_us").copied().unwrap_or(f64::NAN);
        Ok(Sample::from([
            ("cpu_us_few", cpu(&few)),
            ("cpu_us", cpu(&many)),
            ("ratio", cpu(&many) / cpu(&few)),
        ]))
    }

    /// Allocations per second with the round of 401, CPU for each, and memory for a thousand.
    pub(crate) fn allocations(&self, subject: Subject) -> anyhow::Result<Sample> {
        let mut stage = self.stage(subject)?;
        let pid = stage.server.pid();
        // The first one pays for what is made once.
        allocate(&mut stage.clients, 1)?;
        let count = self.scale.allocations;
        let (memory, slab) = (machine::resident(pid)?, machine::slab()?);
        let (sockets, cpu) = (machine::udp_sockets()?, machine::run_time(pid)?);
        let series = stage
            .clients
            .ask_all(1..count + 1, WINDOW, |_, _| Ok(Ask::Allocate))?;
        let cpu = machine::run_time(pid)? - cpu;
        ensure!(
            series.repeated == 0,
            "{} requests were lost",
            series.repeated
        );
        let more = |after: u64, before: u64| after as f64 - before as f64;
        let per_thousand = 1000.0 / count as f64;
        let megabyte = 1024.0 * 1024.0;
        Ok(Sample::from([
            ("per_s", count as f64 / series.elapsed.as_secs_f64()),
            ("cpu_us", cpu as f64 / 1e3 / count as f64),
            (
                "rss_mb_per_1000",
                more(machine::resident(pid)?, memory) * per_thousand / megabyte,
            ),
            (
                "slab_mb_per_1000",
                more(machine::slab()?, slab) * per_thousand / megabyte,
            ),
            (
                "sockets_per_1000",
                more(machine::udp_sockets()? as u64, sockets as u64) * per_thousand,
            ),
        ]))
    }

    /// Binding requests per second, of clients that have an allocation: no budget touches those.
    pub(crate) fn bindings(&self, subject: Subject) -> anyhow::Result<Sample> {
        let mut stage = self.stage(subject)?;
        allocate(&mut stage.clients, FLOWS)?;
        stage
            .clients
            .flood_bindings(FLOWS, WINDOW, self.scale.warm_up)?;
        let (cpu, start) = (machine::run_time(stage.server.pid())?, Instant::now());
        let answered = stage
            .clients
            .flood_bindings(FLOWS, WINDOW, self.scale.time)?;
        let elapsed = start.elapsed();
        let cpu = machine::run_time(stage.server.pid())? - cpu;
        Ok(Sample::from([
            ("per_s", answered as f64 / elapsed.as_secs_f64()),
            ("cpu_us", cpu as f64 / 1e3 / answered as f64),
        ]))
    }
}

/// Gives the first `count` clients an allocation each.
pub(crate) fn allocate(clients: &mut Clients, count: usize) -> anyhow::Result<()> {
    let series = clients.ask_all(0..count, SETUP_WINDOW, |_, _| Ok(Ask::Allocate));
    series
        .map(drop)
        .with_context(|| format!("make {count} allocations"))
}

/// What happened between two moments.
struct Span {
    elapsed: Duration,
    cpu: u64,
    before: Count,
    after: Count,
}

impl Span {
    fn sample(&self) -> Sample {
        let delivered = self.after.delivered() - self.before.delivered();
        let turns = (self.after.turns - self.before.turns).max(1);
        let idle = self.after.idle - self.before.idle;
        Sample::from([
            ("cpu_us", self.cpu as f64 / 1e3 / delivered.max(1) as f64),
            ("per_s", delivered as f64 / self.elapsed.as_secs_f64()),
            ("generator_idle", idle as f64 / turns as f64),
        ])
    }
}

/// In microseconds; of sorted nanoseconds.
fn quantile(sorted: &[u32], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    sorted
        .get(at)
        .map_or(f64::NAN, |nanoseconds| f64::from(*nanoseconds) / 1e3)
}

pub(crate) const FLOWS: usize = 100;
/// Of the flows that send bursts.
pub(crate) const BURST_FLOWS: usize = 32;
pub(crate) const BURST: usize = 16;

/// An exact 1:1 mix: each packet comes back.
pub(crate) fn echo(bytes: usize) -> Shape {
    Shape {
        far: Far::Peers,
        flows: FLOWS,
        bytes,
        burst: 1,
    }
}

/// Requests under way.
const WINDOW: usize = 64;
const SETUP_WINDOW: usize = 32;
