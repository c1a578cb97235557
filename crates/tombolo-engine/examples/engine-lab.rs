//! The engine under load and under fire, on servers that this program starts.
//!
//! ```text
//! engine-lab chaos [ROUNDS]     kill, freeze and cut off leaders under load, then check every promise
//! engine-lab figures            appends a second and their latencies, of every engine
//! ```

#[path = "../tests/it/nats/chaos.rs"]
mod chaos;
#[path = "../tests/it/nats/servers.rs"]
mod servers;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tombolo_engine::{
    Engine, Expect, Key, Local, LocalConfig, Nats, NatsConfig, OperationId, Purpose, TailEvent,
};

use self::chaos::Fault;
use self::servers::{Servers, say};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let binary = match servers::current() {
        Ok(binary) => binary,
        Err(reason) => {
            say(&reason);
            return ExitCode::from(77);
        }
    };
    match arguments[..] {
        ["chaos"] => fire(&binary, 3),
        ["chaos", rounds] => match rounds.parse() {
            Ok(rounds) => fire(&binary, rounds),
            Err(_) => return usage(),
        },
        ["figures"] => figures(&binary),
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    say("usage: engine-lab chaos [ROUNDS] | engine-lab figures");
    ExitCode::from(2)
}

fn fire(binary: &Path, rounds: usize) {
    let faults = [Fault::Kill, Fault::Freeze, Fault::Partition].repeat(rounds);
    let report = chaos::run(binary, &faults);
    say(&format!(
        "{} appends acknowledged, each there once and in its place; {} refused, none of them there; \
         {} unknown; {} compare-and-swaps",
        report.acknowledged, report.refused, report.unknown, report.swaps
    ));
    for (fault, pause) in report.pauses {
        say(&format!(
            "{fault:?}: {:.1} s until every log went on",
            pause.as_secs_f64()
        ));
    }
}

fn figures(binary: &Path) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    say("| engine | at a time | appends/s | p50 | p99 | append to reader p50 |");
    say("|---|---|---|---|---|---|");
    runtime.block_on(async {
        measure(
            "local, in memory",
            Arc::new(Local::new(LocalConfig::default())),
        )
        .await;
        let folder = std::env::temp_dir().join(format!("engine-figures-{}", std::process::id()));
        let local = Local::open(LocalConfig::default(), &folder).expect("a folder");
        measure("local, --data", Arc::new(local)).await;
        let _ = std::fs::remove_dir_all(&folder);
        for count in [1, 3] {
            let servers = Servers::start(binary, count, "");
            let engine = Nats::connect(NatsConfig::new(servers.urls())).await;
            let name = format!("NATS, {count} server{}", if count > 1 { "s" } else { "" });
            measure(&name, Arc::new(engine.expect("connected"))).await;
        }
    });
}

async fn measure(name: &str, engine: Arc<dyn Engine>) {
    for at_a_time in [1, 64, 512] {
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..at_a_time {
            let engine = Arc::clone(&engine);
            tasks.spawn(async move { append_for_a_while(engine, at_a_time, writer).await });
        }
        let mut latencies = tasks.join_all().await.concat();
        let elapsed = begun.elapsed().as_secs_f64();
        latencies.sort_unstable();
        let rate = latencies.len() as f64 / elapsed;
        let reader = match at_a_time {
            1 => milliseconds(to_reader(&engine).await),
            _ => "".to_owned(),
        };
        say(&format!(
            "| {name} | {at_a_time} | {rate:.0} | {} | {} | {reader} |",
            milliseconds(at(&latencies, 50)),
            milliseconds(at(&latencies, 99)),
        ));
    }
}

async fn append_for_a_while(engine: Arc<dyn Engine>, at_a_time: u32, writer: u32) -> Vec<Duration> {
    let log = Key::new(["figures", &*format!("{at_a_time}-{writer}")]).expect("a key");
    let until = Instant::now() + Duration::from_secs(3);
    let mut latencies = Vec::new();
    while Instant::now() < until {
        let begun = Instant::now();
        let entry = Bytes::from_static(&[7; 128]);
        let number =
            (u128::from(at_a_time) << 64) | (u128::from(writer) << 32) | latencies.len() as u128;
        let operation = OperationId(number.to_be_bytes());
        if engine
            .append(&log, entry, Purpose::More, Expect::Any, operation)
            .await
            .is_err()
        {
            break;
        }
        latencies.push(begun.elapsed());
    }
    latencies
}

/// From an append until a reader has it.
async fn to_reader(engine: &Arc<dyn Engine>) -> Duration {
    let log = Key::new(["figures", "reader"]).expect("a key");
    let mut tail = engine.tail(&log, None).await.expect("available");
    while tail.next().await != Some(TailEvent::Synced) {}
    let mut latencies = Vec::new();
    for number in 0_u128..500 {
        let begun = Instant::now();
        let operation = OperationId((u128::MAX - number).to_be_bytes());
        let append = engine.append(
            &log,
            Bytes::from_static(&[7; 128]),
            Purpose::More,
            Expect::Any,
            operation,
        );
        let (appended, _) = tokio::join!(append, tail.next());
        if appended.is_err() {
            break;
        }
        latencies.push(begun.elapsed());
    }
    latencies.sort_unstable();
    at(&latencies, 50)
}

fn at(sorted: &[Duration], percent: usize) -> Duration {
    let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
