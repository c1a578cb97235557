//! `tombolo bots`: many devices that match, join, move and chat, and an account of how that went.

mod bot;
mod character;
mod draw;
mod matching;
mod pulse;
mod scenario;
mod tally;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::cli::named_file;
use crate::output::{self, Style};
use crate::peer::interrupted;
use crate::token::Mint;
use bot::{Run, Tokens};
use draw::Draw;
use pulse::Pulse;
use scenario::{ChatLane, Rate, Scenario, Seconds, attribute};
use tally::{Operation, Report, Spread, Tally};

/// Run a scenario of many devices that match, join rooms, chat and move, and say how it went
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tombolo bots --server 'tombolo://192.0.2.1:8443?pin=…' --bots 100 --rooms 20 --chat-every 1\n  \
    tombolo bots --server 'tombolo://192.0.2.1:8443?pin=…' --pool ranked \\\n    \
    --attribute 'skill=normal(1200, 300)' --attribute 'mode=one-of(duel, teams)' --rate 50\n  \
    tombolo bots --server 'tombolo://192.0.2.1:8443?pin=…' --scenario evening.toml --json")]
pub(crate) struct BotsArgs {
    /// The node's URL, as `tombolo serve` prints it
    #[arg(long, value_name = "URL")]
    server: String,
    /// Make the bots' tokens with the secret in a file, as `tombolo serve --token-key` takes it; otherwise
    /// the node must run with --dev
    #[arg(long, value_name = "NAME=FILE", value_parser = named_file)]
    key: Option<(String, PathBuf)>,
    /// A file with all of this and more; flags go before what it says
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// How many bots [default: 10]
    #[arg(long, value_name = "N")]
    bots: Option<u32>,
    /// How many of them come in a second [default: 10]
    #[arg(long, value_name = "N")]
    rate: Option<Rate>,
    /// How long all of it takes, in seconds [default: 30]
    #[arg(long, value_name = "S")]
    duration: Option<Seconds>,
    /// What is left to chance follows from this number [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// What the bots' users and rooms are called: NAME-1, NAME-2… [default: bot]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How long a bot is there before it goes and comes anew, on average, in seconds [default: to the
    /// end]
    #[arg(long, value_name = "S")]
    lifetime: Option<Seconds>,
    /// Look for matches in this pool
    #[arg(long, value_name = "NAME", help_heading = "What they do")]
    pool: Option<String>,
    /// What bots are like: a number, a text, normal(MEAN, DEVIATION), uniform(LOW, HIGH), one-of(TEXT, …),
    /// some-of(N, TEXT, …), or numbers by name as eu:normal(30, 9),us:110; repeat it for more
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute,
        help_heading = "What they do")]
    attribute: Vec<(String, Draw)>,
    /// What the others must be like, for example '+region:eu +skill:>=10'
    #[arg(long, value_name = "QUERY", help_heading = "What they do")]
    query: Option<String>,
    /// Join one of so many rooms, stay, and join another
    #[arg(long, value_name = "N", help_heading = "What they do")]
    rooms: Option<u32>,
    /// Say something in the room every so many seconds
    #[arg(long, value_name = "S", help_heading = "What they do")]
    chat_every: Option<Seconds>,
    /// On which lane [default: reliable]
    #[arg(long, value_enum, help_heading = "What they do")]
    lane: Option<ChatLane>,
    /// Say something durable in the room every so many seconds
    #[arg(long, value_name = "S", help_heading = "What they do")]
    durable_every: Option<Seconds>,
    /// Walk in this field
    #[arg(long, value_name = "ID", help_heading = "What they do")]
    field: Option<String>,
    /// Print events as JSON, one a line
    #[arg(long)]
    json: bool,
}

/// What `tombolo bots` tells: names and fields as `docs/cli.md` gives them.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Began {
        bots: u32,
        rate: f64,
        duration_s: f64,
        seed: u64,
    },
    Progress {
        elapsed_s: f64,
        bots: u32,
        #[serde(flatten)]
        report: &'a Report,
    },
    Failed {
        user: &'a str,
        operation: Operation,
        code: &'a str,
        reason: &'a str,
    },
    Report {
        elapsed_s: f64,
        #[serde(flatten)]
        report: &'a Report,
    },
}

/// Runs a scenario until its time is over, or it is interrupted.
pub(crate) async fn run(args: BotsArgs) -> anyhow::Result<()> {
    let _: tombolo_client::ServerUrl = args.server.parse().context("--server")?;
    let scenario = Scenario::load(&args)?;
    let style = Style::of(args.json);
    let began = Instant::now();
    let (bots, rate) = (scenario.bots, scenario.rate.0);
    let (duration, seed) = (scenario.duration.duration(), scenario.seed);
    let mark = u64::try_from(output::unix_now().as_nanos() & u128::from(u64::MAX));
    let unreached = Arc::<Mutex<Option<String>>>::default();
    let run = Arc::new(Run {
        server: args.server,
        tokens: tokens(args.key.as_ref(), duration)?,
        scenario,
        tally: Tally::default(),
        pulse: Pulse::new(began, mark.unwrap_or_default() ^ seed),
        present: watch::channel(0).0,
        failures: failures(style, Arc::clone(&unreached)),
    });
    let interrupted = interrupted();
    if style == Style::Json {
        let duration_s = duration.as_secs_f64();
        output::json(&Event::Began {
            bots,
            rate,
            duration_s,
            seed,
        })?;
    }
    let (end, over) = watch::channel(false);
    let mut living = JoinSet::new();
    tokio::select! {
        () = interrupted => {}
        () = sleep_until((began + duration).into()) => {}
        () = arrive(&run, &over, &mut living) => {}
        told = tell_progress(&run, style, began) => told?,
    }
    _ = end.send(true);
    // Whoever has not said goodbye by then is not waited for.
    let all = async { while living.join_next().await.is_some() {} };
    _ = timeout(GOODBYE_TIMEOUT, all).await;
    let report = run.tally.report();
    tell_report(style, &report, began)?;
    let (connected, _) = report.of(Operation::Connect);
    anyhow::ensure!(
        connected > 0,
        "not one bot could connect: {}",
        take(&unreached).unwrap_or_else(|| "nobody had answered yet".to_owned())
    );
    Ok(())
}

fn take(reason: &Mutex<Option<String>>) -> Option<String> {
    reason.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Lets bots come, by a rate and whenever they like; does not end by itself.
async fn arrive(run: &Arc<Run>, over: &watch::Receiver<bool>, living: &mut JoinSet<()>) {
    let mut dice = ChaCha8Rng::seed_from_u64(run.scenario.seed);
    for number in 1..=run.scenario.bots {
        let gap = draw::gap(run.scenario.rate.0, &mut dice);
        sleep(Duration::try_from_secs_f64(gap).unwrap_or_default()).await;
        living.spawn(bot::live(Arc::clone(run), number, over.clone()));
    }
    std::future::pending().await
}

fn tokens(key: Option<&(String, PathBuf)>, duration: Duration) -> anyhow::Result<Tokens> {
    let Some((name, path)) = key else {
        return Ok(Tokens::Development);
    };
    let mint = Mint::read(name, path).context("--key")?;
    Ok(Tokens::Made(Box::new(mint), duration + TOKEN_SPARE))
}

/// Tells the first failures one by one, and keeps why a bot could not connect; the report counts all.
fn failures(style: Style, unreached: Arc<Mutex<Option<String>>>) -> bot::Failures {
    let told = AtomicU64::new(0);
    Box::new(move |user, operation, code, reason| {
        if operation == Operation::Connect {
            let mut unreached = unreached.lock().unwrap_or_else(PoisonError::into_inner);
            *unreached = Some(reason.to_owned());
        }
        if told.fetch_add(1, Ordering::Relaxed) >= FAILURES_TOLD_MAX {
            return;
        }
        let failed = Event::Failed {
            user,
            operation,
            code,
            reason,
        };
        match style {
            // Without a listener the next progress ends the run.
            Style::Json => _ = output::json(&failed),
            Style::Person => tracing::warn!(user, ?operation, code, reason, "failed"),
        }
    })
}

/// Every second: to a person at a terminal on standard error, which stays in one line.
async fn tell_progress(run: &Run, style: Style, began: Instant) -> anyhow::Result<()> {
    let is_watched = std::io::stderr().is_terminal();
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let report = run.tally.report();
        let (elapsed_s, bots) = (began.elapsed().as_secs_f64(), *run.present.borrow());
        match style {
            Style::Json => output::json(&Event::Progress {
                elapsed_s,
                bots,
                report: &report,
            })?,
            Style::Person if is_watched => {
                let line = progress_line(elapsed_s, bots, &report);
                // It is only for who looks on.
                _ = write!(std::io::stderr().lock(), "\r\x1b[K{line}");
            }
            Style::Person => {}
        }
    }
}

fn progress_line(elapsed_s: f64, bots: u32, report: &Report) -> String {
    let mut line = format!("{elapsed_s:4.0} s  {bots} bots");
    for (operation, name) in NAMES {
        let (done, failed) = report.of(operation);
        if done + failed == 0 || operation == Operation::Session {
            continue;
        }
        line += &format!("  {name} {done}");
        if failed > 0 {
            line += &format!(" (-{failed})");
        }
    }
    line.chars().take(PROGRESS_CHARS_MAX).collect()
}

fn tell_report(style: Style, report: &Report, began: Instant) -> anyhow::Result<()> {
    let elapsed_s = began.elapsed().as_secs_f64();
    if style == Style::Json {
        output::json(&Event::Report { elapsed_s, report })?;
        return Ok(());
    }
    if std::io::stderr().is_terminal() {
        _ = write!(std::io::stderr().lock(), "\r\x1b[K");
    }
    let spread = |spread: &Spread| {
        let time =
            |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.1}"));
        let [p50, p99, max] = [spread.p50_ms, spread.p99_ms, spread.max_ms].map(time);
        format!("{p50:>9} {p99:>9} {max:>9}")
    };
    output::line_of_text(&format!(
        "{:<14}{:>9}{:>9}{:>9}{:>9} {:>9} {:>9} {:>9}",
        "", "started", "done", "failed", "left", "p50 ms", "p99 ms", "max ms"
    ))?;
    for (operation, name) in NAMES {
        let Some(done) = report.operations.get(&operation) else {
            continue;
        };
        let failed: u64 = done.failed.values().sum();
        let counts = [done.started, done.done.count, failed, done.unfinished];
        let counts = counts.map(|count| format!("{count:>9}")).concat();
        output::line_of_text(&format!("{name:<14}{counts} {}", spread(&done.done)))?;
        for (code, count) in &done.failed {
            output::line_of_text(&format!("{:14}{count:>27} {code}", ""))?;
        }
    }
    for (what, times) in &report.heard {
        let name = format!("heard {}", format!("{what:?}").to_lowercase());
        let counts = format!("{:>9}{:>9}{:>9}{:>9}", "", times.count, "", "");
        output::line_of_text(&format!("{name:<14}{counts} {}", spread(times)))?;
    }
    Ok(())
}

const NAMES: [(Operation, &str); 14] = [
    (Operation::Connect, "connect"),
    (Operation::Session, "session"),
    (Operation::Party, "party"),
    (Operation::Submit, "submit"),
    (Operation::Change, "change"),
    (Operation::Match, "match"),
    (Operation::Backfill, "backfill"),
    (Operation::Join, "join"),
    (Operation::Leave, "leave"),
    (Operation::Chat, "chat"),
    (Operation::Say, "say"),
    (Operation::Enter, "enter"),
    (Operation::Report, "report"),
    (Operation::Reconnect, "reconnect"),
];

/// How long bots have to close their sessions.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(10);

/// Tokens are good for longer than the run by this.
const TOKEN_SPARE: Duration = Duration::from_secs(3600);

/// Failures that are told one by one.
const FAILURES_TOLD_MAX: u64 = 100;

/// What fits in a line of a terminal.
const PROGRESS_CHARS_MAX: usize = 150;
