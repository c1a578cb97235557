//! `tombolo-bench soak`: allocations come and go beside steady traffic; in the end nothing is left of
//! them.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::churn::{self, Churn};
use crate::control::{Ask, Clients};
use crate::machine::{self, Core};
use crate::measure::{FLOWS, allocate, echo};
use crate::metrics::Metrics;
use crate::plan;
use crate::streams::{Certificate, Streams};
use crate::subject::{Programs, Server, Subject};
use crate::traffic::{Pace, Traffic};

/// What to do, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long allocations come and go. From ten minutes on some are abandoned in the first tenth,
    /// and the run ends when those have expired
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// How many come each second
    #[arg(long, default_value_t = 1000)]
    per_second: u32,
    /// How many more come each second over each of TCP, TLS and DTLS
    #[arg(long, default_value_t = 20)]
    streams_per_second: u32,
    /// How the server moves packets
    #[arg(long, default_value = "sockets", value_name = "MODE")]
    io: Subject,
    /// Where to write what was seen
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Tombolo's program: the one beside this one by default
    #[arg(long, value_name = "PATH")]
    tombolo: Option<PathBuf>,
}

/// One look at the server.
#[derive(Clone, Copy, Debug)]
struct Look {
    minutes: f64,
    resident: u64,
    sockets: usize,
    /// Files and sockets that the server has open.
    descriptors: usize,
}

/// A server under traffic and churn.
struct Soak {
    io: Subject,
    server: Server,
    clients: Clients,
    traffic: Traffic,
    churn: Churn,
    /// `None` before the first of them, after the last, and where none are asked for.
    streams: Option<Streams>,
    /// How many came over streams.
    streamed: u64,
    start: Instant,
    refreshed: Instant,
    looks: Vec<Look>,
}

/// Soaks; fails when a packet is lost, memory grows or a port is not given back.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(arguments.io.is_tombolo(), "--io is sockets or steered");
    let programs = Programs::find(arguments.tombolo.clone())?;
    machine::enter_namespace()?;
    machine::stay_on(Core::Generator);
    let certificate = Certificate::new()?;
    let mut soak = Soak::start(arguments, &programs, &certificate)?;
    let before = soak.look()?;
    let interval = Duration::from_secs(1).checked_div(arguments.streams_per_second);
    soak.streams = interval.map(|interval| Streams::start(interval, &certificate));

    let time = Duration::from_secs_f64(arguments.minutes * 60.0);
    if time >= LIFETIME {
        soak.churn.abandon_every = Some(ABANDON_EVERY);
        soak.run(time / 10, Stage::Churn)?;
        soak.churn.abandon_every = None;
        let abandoned = Instant::now();
        soak.run(time - time / 10, Stage::Churn)?;
        soak.end_churn()?;
        let rest = (LIFETIME + MARGIN).saturating_sub(abandoned.elapsed());
        soak.run(rest, Stage::Quiet)?;
    } else {
        soak.run(time, Stage::Churn)?;
        soak.end_churn()?;
    }
    soak.traffic.finish(&soak.clients)?;
    soak.check_connections()?;
    let after = soak.look()?;
    let churn_ends = arguments.minutes;
    soak.check_counters()?;
    // A pause of the machine lets more be under way at once than ever before, and memory grows once by
    // what that takes. A leak grows all the time.
    let slope = slope(&soak.looks, 0.5 * churn_ends..=churn_ends);
    soak.fill()?;
    soak.server.check()?;
    soak.report(arguments, &before, &after, slope)?;

    let leaked = after.sockets as i64 - before.sockets as i64;
    ensure!(leaked == 0, "{leaked} more sockets than before");
    let leaked = after.descriptors as i64 - before.descriptors as i64;
    ensure!(
        leaked == 0,
        "the server has {leaked} more files open than before"
    );
    if time >= LIFETIME {
        ensure!(
            slope <= SLOPE_MAX,
            "memory grows by {:.0} KiB/min",
            slope / 1024.0
        );
    }
    Ok(())
}

/// Whether allocations come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Churn,
    Quiet,
}

impl Soak {
    fn start(
        arguments: &Arguments,
        programs: &Programs,
        certificate: &Certificate,
    ) -> anyhow::Result<Self> {
        let [chain, key] = certificate.paths();
        let tls = ["--tls".into(), chain, key];
        let server = Server::start_with(arguments.io, programs, &tls)?;
        let mut clients = Clients::new(plan::CLIENT_PORT)?;
        allocate(&mut clients, FLOWS)?;
        Traffic::bind(&mut clients, echo(PAYLOAD))?;
        let traffic = Traffic::new(&clients, echo(PAYLOAD))?;
        let now = Instant::now();
        Ok(Self {
            io: arguments.io,
            server,
            clients,
            traffic,
            churn: Churn::new(arguments.per_second)?,
            streams: None,
            streamed: 0,
            start: now,
            refreshed: now,
            looks: Vec::new(),
        })
    }

    /// Goes on for `time`, with a look each second and a line each ten.
    fn run(&mut self, time: Duration, stage: Stage) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            let churn = &mut self.churn;
            let mut turn = |now| {
                // Nothing is in a hurry here, and others may want the core.
                thread::sleep(TURN_PAUSE);
                match stage {
                    Stage::Churn => churn.turn(now),
                    Stage::Quiet => Ok(()),
                }
            };
            let pace = Pace::Every(Duration::from_secs(2) / PACKETS_PER_SECOND);
            self.traffic
                .run(&self.clients, pace, left.min(LOOK_EVERY), &mut turn)?;
            self.traffic.latencies.iter_mut().for_each(Vec::clear);
            self.server.check()?;
            if self.streams.as_ref().is_some_and(Streams::have_failed) {
                self.end_streams()?;
            }
            let look = self.look()?;
            if self.looks.len().is_multiple_of(10) {
                eprintln!(
                    "{:.1} min: {} packets, {:?}, {:.1} MiB, {} sockets",
                    look.minutes,
                    self.traffic.count.delivered(),
                    self.churn.count,
                    look.resident as f64 / MIB,
                    look.sockets
                );
            }
            if self.refreshed.elapsed() > REFRESH_EVERY {
                self.refresh()?;
            }
        }
        Ok(())
    }

    fn look(&mut self) -> anyhow::Result<Look> {
        let look = Look {
            minutes: self.start.elapsed().as_secs_f64() / 60.0,
            resident: machine::resident(self.server.pid())?,
            sockets: machine::udp_sockets()?,
            descriptors: machine::descriptors(self.server.pid())?,
        };
        self.looks.push(look);
        Ok(look)
    }

    /// Keeps the steady clients' allocations, permissions and channels.
    fn refresh(&mut self) -> anyhow::Result<()> {
        self.traffic.finish(&self.clients)?;
        self.clients.ask_all(0..FLOWS, FLOWS, |_, _| {
            Ok(Ask::Refresh(LIFETIME.as_secs() as u32))
        })?;
        Traffic::bind(&mut self.clients, echo(PAYLOAD))?;
        self.refreshed = Instant::now();
        Ok(())
    }

    /// Lets who is there finish, and checks that nobody and nothing is missing.
    fn end_churn(&mut self) -> anyhow::Result<()> {
        self.end_streams()?;
        self.churn.finish()?;
        let count = self.churn.count;
        let gone = count.returned + count.abandoned;
        ensure!(
            gone == count.started,
            "{gone} of {} allocations ended",
            count.started
        );
        let packets = count.started * u64::from(churn::PACKETS);
        ensure!(
            count.packets == packets,
            "{} of {packets} packets came back",
            count.packets
        );
        Ok(())
    }

    fn end_streams(&mut self) -> anyhow::Result<()> {
        if let Some(streams) = self.streams.take() {
            self.streamed = streams.finish()?;
        }
        Ok(())
    }

    /// Waits until the server has closed what clients have left.
    fn check_connections(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let metrics = Metrics::fetch(plan::METRICS.into())?;
            let left = metrics.expect("tombolo_relay_connections", 0);
            if left.is_ok() || start.elapsed() > MARGIN {
                return left;
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Compares what the server has counted with what was sent and has arrived.
    fn check_counters(&self) -> anyhow::Result<()> {
        let metrics = Metrics::fetch(plan::METRICS.into())?;
        let (steady, passing) = (&self.traffic.count, self.churn.count);
        let passed = passing.packets + self.streamed * u64::from(churn::PACKETS);
        let flows = FLOWS as u64;
        metrics.expect("tombolo_turn_allocations", flows)?;
        metrics.expect("tombolo_relay_ports", flows)?;
        metrics.expect(
            "tombolo_turn_allocations_created_total",
            flows + passing.started + self.streamed,
        )?;
        metrics.expect("tombolo_turn_allocations_expired_total", passing.abandoned)?;
        for (way, arrived) in [("peer", steady.arrived[0]), ("client", steady.arrived[1])] {
            let packets = arrived + passed;
            let bytes = arrived * PAYLOAD as u64 + passed * churn::PAYLOAD as u64;
            metrics.expect(&format!("tombolo_turn_to_{way}_packets_total"), packets)?;
            metrics.expect(&format!("tombolo_turn_to_{way}_bytes_total"), bytes)?;
        }
        for name in ["congested_datagrams", "unsendable_datagrams"] {
            metrics.expect(&format!("tombolo_relay_{name}_total"), 0)?;
        }
        // One that steers has a socket whose port may be in the range of those it gives out, and counts
        // each time that it draws that one.
        if self.io == Subject::Sockets {
            metrics.expect("tombolo_relay_port_errors_total", 0)?;
        }
        Ok(())
    }

    /// Takes nearly all ports that there are: what was not given back is missing now.
    fn fill(&mut self) -> anyhow::Result<()> {
        let series = self
            .clients
            .ask_all(FLOWS..FILL, 32, |_, _| Ok(Ask::Allocate));
        series
            .map(drop)
            .context("ports have leaked: not all of them can be allocated")
    }

    fn report(
        &self,
        arguments: &Arguments,
        before: &Look,
        after: &Look,
        slope: f64,
    ) -> anyhow::Result<()> {
        let churn = self.churn.count;
        let value = json!({
            "io": arguments.io.name(),
            "minutes": after.minutes,
            "packets": self.traffic.count.delivered(),
            "lost": 0,
            "allocations": churn.started,
            "over_streams": self.streamed,
            "given_back": churn.returned,
            "expired": churn.abandoned,
            "packets_of_passing_clients": churn.packets,
            "requests_repeated": churn.repeated,
            "alive_at_once_max": churn.alive_max,
            "resident_before": before.resident,
            "resident_after": after.resident,
            "resident_slope_bytes_per_min": slope,
            "sockets_before": before.sockets,
            "sockets_after": after.sockets,
            "descriptors_before": before.descriptors,
            "descriptors_after": after.descriptors,
            "allocated_at_the_end": FILL,
            "looks": self.looks.iter().map(|look| json!([look.minutes, look.resident, look.sockets])).collect::<Vec<_>>(),
        });
        if let Some(path) = &arguments.json {
            fs::write(path, serde_json::to_string_pretty(&value)?)?;
        }
        println!(
            "{:.1} min: {} packets of steady clients and {} of passing ones, none lost; {} allocations \
             came, {} were given back and {} expired; {} more over TCP, TLS and DTLS; resident {:.1} MiB \
             before and {:.1} after, slope {:+.0} KiB/min; {} sockets before and {} after; then {FILL} allocations at once",
            after.minutes,
            self.traffic.count.delivered(),
            churn.packets,
            churn.started,
            churn.returned,
            churn.abandoned,
            self.streamed,
            before.resident as f64 / MIB,
            after.resident as f64 / MIB,
            slope / 1024.0,
            before.sockets,
            after.sockets
        );
        Ok(())
    }
}

/// Of resident memory in a span of time: bytes per minute, by least squares; 0 of too few looks.
fn slope(looks: &[Look], minutes: std::ops::RangeInclusive<f64>) -> f64 {
    let looks = looks.iter().filter(|look| minutes.contains(&look.minutes));
    let points: Vec<_> = looks
        .map(|look| (look.minutes, look.resident as f64))
        .collect();
    let count = points.len().max(1) as f64;
    let x_mean = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let y_mean = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let over = points
        .iter()
        .map(|(x, y)| (x - x_mean) * (y - y_mean))
        .sum::<f64>();
    let under = points
        .iter()
        .map(|(x, _)| (x - x_mean).powi(2))
        .sum::<f64>();
    if under > 0.0 { over / under } else { 0.0 }
}

/// Of an allocation that nobody refreshes. See RFC 8656 §3.2.
const LIFETIME: Duration = Duration::from_secs(600);
const MARGIN: Duration = Duration::from_secs(10);
/// Well within the lifetime of a permission.
const REFRESH_EVERY: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TURN_PAUSE: Duration = Duration::from_micros(50);
const PAYLOAD: usize = 172;
const PACKETS_PER_SECOND: u32 = 10_000;
/// Few enough for the ports that there are, until they expire.
const ABANDON_EVERY: u64 = 10;
/// Of 16,384 ports.
const FILL: usize = 16_000;
/// 1 MiB in ten minutes: what is forgotten of 1,000 allocations a second would be far more.
const SLOPE_MAX: f64 = 100.0 * 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_grows_has_a_slope_and_noise_has_none() {
        let looks = |resident: fn(u32) -> u64| -> Vec<_> {
            let look = |i| Look {
                minutes: f64::from(i),
                resident: resident(i),
                sockets: 0,
                descriptors: 0,
            };
            (0..100).map(look).collect()
        };
        let grows = looks(|i| 5_000_000 + u64::from(i) * 1000 + u64::from(i % 2) * 4000);
        assert!((slope(&grows, 20.0..=100.0) - 1000.0).abs() < 50.0);
        let noise = looks(|i| 5_000_000 + u64::from(i % 2) * 4000);
        assert!(slope(&noise, 20.0..=100.0).abs() < 50.0);
        let settles = looks(|i| if i < 20 { u64::from(i) } else { 20 });
        assert_eq!(slope(&settles, 20.0..=100.0), 0.0);
    }
}
