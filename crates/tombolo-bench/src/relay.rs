//! `tombolo-bench relay`: the rows, round by round, everybody in turn.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::machine::{self, Core};
use crate::measure::{Bench, Scale};
use crate::report::{self, Results, Verdict};
use crate::rows::{ROWS, Row};
use crate::subject::{Programs, Subject};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds; figures are medians over them
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Rows to run, by their names: all of them by default
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    only: Vec<String>,
    /// Servers to run: all of them by default
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    subjects: Vec<Subject>,
    /// Length of each measurement, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// A short run that asserts that everything is delivered; goals don't count
    #[arg(long)]
    quick: bool,
    /// Where to write all figures
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Tombolo's program: the one beside this one by default
    #[arg(long, value_name = "PATH")]
    tombolo: Option<PathBuf>,
}

/// Runs the rows; fails when a goal is missed or a packet.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let rows = chosen(&arguments.only)?;
    let mut bench = Bench {
        programs: Programs::find(arguments.tombolo.clone())?,
        scale: if arguments.quick {
            Scale::quick()
        } else {
            Scale::full(Duration::from_secs_f64(arguments.seconds))
        },
    };
    let rounds = if arguments.quick { 1 } else { arguments.rounds };
    if let Err(error) = machine::enter_namespace() {
        println!("{error:#}");
        return Ok(ExitCode::from(CANNOT_RUN));
    }
    machine::stay_on(Core::Generator);

    bench.programs.probe();
    note_missing(&bench.programs)?;
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        let results = run_row(&bench, row, rounds, &arguments.subjects);
        println!("{}", report::table(row, &results, bench.scale.kind));
        all.push((row, results));
    }
    if let Some(path) = &arguments.json {
        let values: Vec<_> = all
            .iter()
            .map(|(row, results)| report::value(row, results))
            .collect();
        let text = serde_json::to_string_pretty(&json!({ "rounds": rounds, "rows": values }))?;
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(conclude(&all, arguments.quick))
}

/// Tells the test run which servers were left out, where it asks.
fn note_missing(programs: &Programs) -> anyhow::Result<()> {
    let Some(path) = std::env::var_os(SKIP_FILE) else {
        return Ok(());
    };
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?;
    for subject in Subject::ALL {
        if let Some(reason) = programs.missing(subject) {
            writeln!(file, "benchmark of {subject}: {reason}")?;
        }
    }
    Ok(())
}

fn chosen(only: &[String]) -> anyhow::Result<Vec<&'static Row>> {
    for name in only {
        let ids: Vec<_> = ROWS.iter().map(|row| row.id).collect();
        ensure!(
            ids.contains(&name.as_str()),
            "there is no row {name}; there are {}",
            ids.join(", ")
        );
    }
    let is_chosen = |row: &&Row| only.is_empty() || only.iter().any(|name| name == row.id);
    Ok(ROWS.iter().filter(is_chosen).collect())
}

fn run_row(bench: &Bench, row: &Row, rounds: usize, subjects: &[Subject]) -> Results {
    let mut results = Results::default();
    let is_wanted = |subject: &&Subject| subjects.is_empty() || subjects.contains(subject);
    let mut subjects: Vec<_> = row
        .subjects
        .iter()
        .copied()
        .filter(|s| is_wanted(&s))
        .collect();
    subjects.retain(|subject| match bench.programs.missing(*subject) {
        Some(reason) => {
            results.missing.insert(*subject, reason);
            false
        }
        None => true,
    });
    for round in 0..rounds {
        for subject in &subjects {
            let start = Instant::now();
            eprint!("{} round {}/{rounds} {subject} … ", row.id, round + 1);
            match (row.measure)(bench, *subject) {
                Ok(sample) => {
                    let figure = sample.get(row.metric.key).copied().unwrap_or(f64::NAN);
                    eprintln!("{figure:.2} {} ({:.1?})", row.metric.unit, start.elapsed());
                    results.add(round, *subject, sample);
                }
                Err(error) => {
                    eprintln!("FAILED: {error:#}");
                    results
                        .failures
                        .push(format!("{subject}, round {}: {error:#}", round + 1));
                }
            }
        }
    }
    results
}

/// Sums up, and says by the exit status whether all is well.
fn conclude(all: &[(&Row, Results)], quick: bool) -> ExitCode {
    let failures: usize = all.iter().map(|(_, results)| results.failures.len()).sum();
    let count = |wanted| {
        let goals = all
            .iter()
            .flat_map(|(row, results)| row.goals.iter().map(move |goal| (goal, results)));
        goals
            .filter(|(goal, results)| report::verdict(goal, results) == wanted)
            .count()
    };
    let (met, missed, unknown) = (
        count(Verdict::Met),
        count(Verdict::Missed),
        count(Verdict::Unknown),
    );
    if quick {
        println!("{failures} runs failed");
    } else {
        println!(
            "{met} goals met, {missed} missed, {unknown} not measured; {failures} runs failed"
        );
    }
    if failures > 0 || (missed > 0 && !quick) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The variable that names the file where tests say what cannot run here.
const SKIP_FILE: &str = "TOMBOLO_SKIP_FILE";
/// The exit status of a program that cannot run here, after the custom of automake.
const CANNOT_RUN: u8 = 77;
