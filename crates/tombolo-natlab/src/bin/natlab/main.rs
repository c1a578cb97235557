//! Runs scenarios of the NAT lab with the real program: `natlab matrix --runs 10`.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its user"
)]

mod measure;
mod report;

use std::collections::VecDeque;
use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use report::{Tally, is_good, print_table};
use serde_json::Value;
use tombolo_natlab::scenario::{self, Run, Runner, Scenario};
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
    /// Measures times, by default with 25 ms each way, and checks them against their bounds.
    Timings(Options),
    /// Builds the lab of a scenario and opens a shell in its first device.
    Shell {
        /// A name, as `list` tells it.
        name: String,
    },
    /// Measures the lab itself: building, removing, the error of its delay.
    Measure,
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
    #[arg(long, default_value_t = 4)]
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
    match Lab::check() {
        Ok(Means::Direct) => {}
        Ok(Means::UserNamespace) => {
            let status = reexec_in_user_namespace(env::args_os().skip(1))?;
            return Ok(if status.success() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Err(missing) => {
            println!("{missing}");
            return Ok(ExitCode::from(CANNOT_RUN));
        }
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
        Action::Measure => measure()?,
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

fn measure() -> anyhow::Result<()> {
    let figures = measure::measure()?;
    println!(
        "two sites behind NATs, built:   {:6.1} ms (median)",
        figures.build_ms
    );
    println!(
        "the same, removed:              {:6.1} ms (median)",
        figures.remove_ms
    );
    let (sent, lost, overtaken) = figures.packets;
    println!("25 ms at 2000 packets/s:        {sent} sent, {lost} lost, {overtaken} overtaken");
    for (percent, late) in figures.late_ms {
        println!("  {percent:3} % are late by at most:     {late:6.3} ms");
    }
    Ok(())
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

fn run(scenarios: &[Scenario], options: &Options) -> anyhow::Result<ExitCode> {
    let runner = Runner::new(binary(options)?);
    let queue: VecDeque<usize> = (0..options.runs).flat_map(|_| 0..scenarios.len()).collect();
    let total = queue.len();
    let queue = Mutex::new(queue);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = lock(&queue).pop_front();
                    let Some(index) = next else { break };
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

/// The exit status that says that no lab can be run here; the last line of output says why.
const CANNOT_RUN: u8 = 77;
