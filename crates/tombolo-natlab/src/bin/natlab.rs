//! Runs scenarios of the NAT lab with the real program: `natlab matrix --runs 10`.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]

use std::collections::VecDeque;
use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use tombolo_natlab::scenario::{self, Limits, Run, RunError, Runner, Scenario};
use tombolo_natlab::{Lab, Means, reexec_in_user_namespace};

/// The NAT lab: two devices behind real NATs, and everything between them.
#[derive(Debug, Parser)]
#[command(name = "natlab")]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists the scenarios.
    List,
    /// Runs the named scenarios.
    Run {
        /// Names, as `list` tells them.
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Runs every pair that must come out as expected.
    Matrix(Options),
    /// Measures times with 25 ms each way, and checks them against their bounds.
    Timings(Options),
    /// Builds the lab of a scenario and opens a shell in its first device.
    Shell {
        /// A name, as `list` tells it.
        name: String,
    },
    /// Removes what killed labs have left behind.
    Sweep,
}

#[derive(Clone, Debug, Args)]
struct Options {
    /// How often each scenario is run.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// The tombolo program; by default the one beside this program.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// How many run at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Writes every line of every device into this directory.
    #[arg(long)]
    keep: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if let Action::List = cli.action {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    if Lab::check()? == Means::UserNamespace {
        let status = reexec_in_user_namespace(env::args_os().skip(1))?;
        return Ok(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    match cli.action {
        Action::List => list(),
        Action::Run { names, options } => {
            let find = |name: &String| {
                scenario::find(name)
                    .with_context(|| format!("no scenario {name:?}; see natlab list"))
            };
            return run(
                &names.iter().map(find).collect::<anyhow::Result<Vec<_>>>()?,
                &options,
            );
        }
        Action::Matrix(options) => return run(&scenario::matrix(), &options),
        // Measurements want the machine for themselves.
        Action::Timings(options) => {
            return run(&scenario::timings(), &Options { jobs: 1, ..options });
        }
        Action::Shell { name } => shell(&name)?,
        Action::Sweep => {
            for name in Lab::sweep()? {
                println!("removed {name}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list() {
    for (title, scenarios) in [
        ("matrix", scenario::matrix()),
        ("timings", scenario::timings()),
        ("extras", scenario::extras()),
    ] {
        println!("{title}:");
        for scenario in scenarios {
            println!("  {:<40} {}", scenario.name, scenario.expect);
        }
    }
}

fn shell(name: &str) -> anyhow::Result<()> {
    let scenario = scenario::find(name).with_context(|| format!("no scenario {name:?}"))?;
    let lab = scenario.lab().build()?;
    let [first, second] = scenario.devices(&lab)?;
    for (role, host) in [
        ("node", lab.node()),
        ("first device", first),
        ("second device", second),
    ] {
        println!(
            "{role}: {:?}, ip netns exec {} …",
            host.addresses(),
            host.name()
        );
    }
    let shell = env::var_os("SHELL").unwrap_or_else(|| "sh".into());
    lab.spawn(first, Command::new(shell))?.wait()?;
    Ok(())
}

/// All runs of one scenario.
struct Tally<'a> {
    scenario: &'a Scenario,
    runs: Vec<Result<Run, RunError>>,
}

fn run(scenarios: &[Scenario], options: &Options) -> anyhow::Result<ExitCode> {
    let runner = Runner::new(binary(options)?);
    let queue: VecDeque<usize> = (0..options.runs).flat_map(|_| 0..scenarios.len()).collect();
    let total = queue.len();
    let queue = Mutex::new(queue);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(index) = lock(&queue).pop_front() {
                    let result = runner.run(&scenarios[index]);
                    let mut done = lock(&done);
                    let tick = if is_good(&result) { "ok" } else { "FAILED" };
                    eprintln!(
                        "{}/{total} {} {tick}",
                        done.len() + 1,
                        scenarios[index].name
                    );
                    done.push((index, result));
                }
            });
        }
    });
    let mut tallies: Vec<Tally<'_>> = scenarios
        .iter()
        .map(|scenario| Tally {
            scenario,
            runs: Vec::new(),
        })
        .collect();
    for (index, result) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        if let (Some(directory), Ok(run)) = (&options.keep, &result) {
            let name = format!("{}-{}", scenarios[index].name, tallies[index].runs.len());
            keep(directory, &name, run)?;
        }
        tallies[index].runs.push(result);
    }
    if options.json {
        println!(
            "{}",
            Value::Array(tallies.iter().map(Tally::to_json).collect())
        );
    } else {
        print_table(&tallies);
    }
    let good = tallies.iter().all(Tally::is_good);
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn is_good(result: &Result<Run, RunError>) -> bool {
    result.as_ref().is_ok_and(Run::is_as_expected)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn binary(options: &Options) -> anyhow::Result<PathBuf> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => env::current_exe()?.with_file_name("tombolo"),
    };
    if !binary.is_file() {
        bail!(
            "no program at {}: build it, or name it with --binary",
            binary.display()
        );
    }
    Ok(binary)
}

fn keep(directory: &std::path::Path, name: &str, run: &Run) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    for peer in &run.peers {
        let mut text = String::new();
        for line in &peer.lines {
            text.push_str(&serde_json::to_string(line)?);
            text.push('\n');
        }
        std::fs::write(directory.join(format!("{name}-{}.jsonl", peer.user)), text)?;
        std::fs::write(
            directory.join(format!("{name}-{}.stderr", peer.user)),
            &peer.said,
        )?;
    }
    std::fs::write(
        directory.join(format!("{name}-node.stderr")),
        &run.node_said,
    )?;
    Ok(())
}

impl Tally<'_> {
    fn completed(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter_map(|run| run.as_ref().ok())
    }

    fn good_runs(&self) -> usize {
        self.runs.iter().filter(|run| is_good(run)).count()
    }

    fn is_good(&self) -> bool {
        self.good_runs() == self.runs.len() && self.exceeded().is_empty()
    }

    /// The median over both devices of all runs, milliseconds.
    fn median(&self, of: impl Fn(&scenario::PeerSummary) -> Option<f64>) -> Option<f64> {
        median(
            self.completed()
                .flat_map(|run| &run.peers)
                .filter_map(|peer| peer.summary().and_then(&of))
                .collect(),
        )
    }

    fn first_byte_ms(&self) -> Option<f64> {
        self.median(|summary| summary.first_byte_ms)
    }

    fn direct_ms(&self) -> Option<f64> {
        self.median(|summary| summary.direct_ms)
    }

    fn longest_gap_ms(&self) -> Option<f64> {
        self.median(|summary| summary.longest_gap_ms)
    }

    fn rtt_ms(&self) -> Option<f64> {
        self.median(|summary| summary.rtt_ms.and_then(|rtt| rtt.p50))
    }

    fn relay_again_ms(&self) -> Option<f64> {
        median(self.completed().filter_map(Run::relay_again_ms).collect())
    }

    fn direct_again_ms(&self) -> Option<f64> {
        median(self.completed().filter_map(Run::direct_again_ms).collect())
    }

    /// Bounds that the medians are over.
    fn exceeded(&self) -> Vec<String> {
        let Limits {
            first_byte_ms,
            direct_ms,
            longest_gap_ms,
            direct_again_ms,
            ..
        } = self.scenario.limits;
        let mut exceeded = Vec::new();
        for (what, limit, measured) in [
            ("first byte", first_byte_ms, self.first_byte_ms()),
            ("direct path", direct_ms, self.direct_ms()),
            ("longest gap", longest_gap_ms, self.longest_gap_ms()),
            ("direct again", direct_again_ms, self.direct_again_ms()),
        ] {
            let Some(limit) = limit else { continue };
            match measured {
                None => exceeded.push(format!("{what} was not measured")),
                Some(measured) if measured > limit => {
                    exceeded.push(format!("{what} {measured:.1} ms is over {limit:.1} ms"));
                }
                Some(_) => {}
            }
        }
        exceeded
    }

    fn failures(&self) -> Vec<String> {
        let mut failures: Vec<String> = Vec::new();
        for (index, run) in self.runs.iter().enumerate() {
            match run {
                Ok(run) => failures.extend(
                    run.failures
                        .iter()
                        .map(|failure| format!("run {index}: {failure}")),
                ),
                Err(error) => failures.push(format!("run {index}: {error}")),
            }
        }
        failures.extend(self.exceeded());
        failures
    }

    fn outcomes(&self) -> String {
        let mut outcomes: Vec<String> = self
            .runs
            .iter()
            .map(|run| run.as_ref().ok().and_then(Run::outcome))
            .map(|outcome| outcome.map_or_else(|| "nothing".to_owned(), |got| got.to_string()))
            .collect();
        outcomes.sort();
        outcomes.dedup();
        outcomes.join("/")
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.scenario.name,
            "expect": self.scenario.expect.to_string(),
            "got": self.outcomes(),
            "runs": self.runs.len(),
            "good": self.good_runs(),
            "first_byte_ms": self.first_byte_ms(),
            "direct_ms": self.direct_ms(),
            "rtt_ms": self.rtt_ms(),
            "longest_gap_ms": self.longest_gap_ms(),
            "relay_again_ms": self.relay_again_ms(),
            "direct_again_ms": self.direct_again_ms(),
            "failures": self.failures(),
        })
    }
}

fn print_table(tallies: &[Tally<'_>]) {
    println!(
        "{:<40} {:<9} {:<9} {:>7} {:>9} {:>9} {:>7} {:>7} {:>7}",
        "scenario", "expect", "got", "good", "1st byte", "direct", "rtt", "gap", "again"
    );
    let ms =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    for tally in tallies {
        println!(
            "{:<40} {:<9} {:<9} {:>7} {:>9} {:>9} {:>7} {:>7} {:>7}",
            tally.scenario.name,
            tally.scenario.expect,
            tally.outcomes(),
            format!("{}/{}", tally.good_runs(), tally.runs.len()),
            ms(tally.first_byte_ms()),
            ms(tally.direct_ms()),
            ms(tally.rtt_ms()),
            ms(tally.longest_gap_ms()),
            ms(tally.direct_again_ms()),
        );
        for failure in tally.failures() {
            println!("    {failure}");
        }
    }
    let good = tallies.iter().filter(|tally| tally.is_good()).count();
    println!(
        "{good} of {} scenarios as expected; medians in milliseconds",
        tallies.len()
    );
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values.get(middle).copied(),
        _ => Some((values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0),
    }
}
