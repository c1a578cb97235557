//! What the matcher's work costs, and how far from the best possible it ends.

mod regret;
mod workload;

use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use serde_json::json;
use tombolo_match::{Body, Entry, Pool, Rules, Time};

use regret::Regret;
use workload::{WORKLOADS, Workload};

/// A whole look at a pool, and what matches are worth.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// How many tickets the pool has
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000])]
    tickets: Vec<usize>,
    /// How often each is measured; medians are told
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// On how many small pools the matcher is compared with the best possible
    #[arg(long, default_value_t = 200)]
    pools: u64,
    /// Tells figures as JSON, a line each
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(arguments.rounds > 0, "measure at least once");
    if !arguments.json {
        println!("{HEADER}");
    }
    for tickets in &arguments.tickets {
        for workload in WORKLOADS {
            let mut rounds = (0..arguments.rounds)
                .map(|round| measure(workload, *tickets, round as u64))
                .collect::<anyhow::Result<Vec<_>>>()?;
            rounds.sort_by_key(|round| round.step);
            tell(
                arguments.json,
                workload,
                *tickets,
                &rounds[rounds.len() / 2],
            );
        }
    }
    for Regret {
        what,
        shares,
        waited,
    } in regret::regrets(arguments.pools)?
    {
        let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
        let worst = shares.iter().copied().fold(1.0, f64::min);
        if arguments.json {
            println!(
                "{}",
                json!({
                    "regret": what,
                    "mean": 1.0 - mean,
                    "worst": 1.0 - worst,
                    "waited_s": waited.as_secs_f64(),
                })
            );
        } else {
            println!(
                "regret, {what}: {:.1} % on the mean of {} pools, {:.1} % at worst; \
                 those matched had waited {:.1} s",
                (1.0 - mean) * 100.0,
                shares.len(),
                (1.0 - worst) * 100.0,
                waited.as_secs_f64()
            );
        }
    }
    Ok(())
}

/// What one round took.
struct Round {
    submit: Duration,
    step: Duration,
    claim: Duration,
    matches: usize,
    matched: usize,
    work: u64,
    /// Until a newcomer to the pool that is left has been looked at, a thousandth of a thousand of them.
    arrival: Duration,
}

fn measure(workload: &Workload, tickets: usize, seed: u64) -> anyhow::Result<Round> {
    let rules = Rules::parse(workload.rules)?;
    let mut pool = Pool::new(rules);
    let start = Time::from_millis(1_000_000);
    let mut load = workload.tickets(tickets + ARRIVALS, seed)?;
    let arrivals = load.split_off(tickets);
    let (submit, refused) = timed(|| {
        let entries = load.into_iter().map(|ticket| Entry {
            time: start,
            body: Body::Submitted(ticket),
        });
        entries
            .filter(|entry| pool.apply(entry).outcome.is_err())
            .count()
    });
    ensure!(refused == 0, "{refused} tickets were refused");
    // All wait long enough for a match to begin without being full.
    let now = start.after(Duration::from_secs(10));
    let (took, step) = timed(|| pool.propose(now, u64::MAX));
    ensure!(step.is_complete, "a step without a bound ends");
    let (matches, work) = (step.matches.len(), step.work);
    let matched = step
        .matches
        .iter()
        .map(|formed| formed.parties().count())
        .sum();
    let (claim, ()) = timed(|| {
        let _ = pool.apply(&Entry {
            time: now,
            body: Body::Claimed(step.matches),
        });
    });
    ensure!(
        pool.ticket_count() == tickets - matched,
        "claims were refused"
    );
    let (arrival, refused) = timed(|| {
        let mut refused = 0;
        for ticket in arrivals {
            let body = Body::Submitted(ticket);
            let applied = pool.apply(&Entry { time: now, body });
            refused += usize::from(applied.outcome.is_err());
            let step = pool.propose(now, u64::MAX);
            let body = Body::Claimed(step.matches);
            let _ = pool.apply(&Entry { time: now, body });
        }
        refused
    });
    ensure!(refused == 0, "{refused} newcomers were refused");
    Ok(Round {
        submit,
        step: took,
        claim,
        matches,
        matched,
        work,
        arrival: arrival / ARRIVALS as u32,
    })
}

fn tell(is_json: bool, workload: &Workload, tickets: usize, round: &Round) {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    if is_json {
        let line = json!({
            "workload": workload.name,
            "tickets": tickets,
            "step_ms": ms(round.step),
            "submit_ms": ms(round.submit),
            "claim_ms": ms(round.claim),
            "arrival_us": us(round.arrival),
            "matches": round.matches,
            "matched": round.matched,
            "work": round.work,
        });
        println!("{line}");
        return;
    }
    println!(
        "{:<34} {tickets:>8} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>8} {:>8} {:>10}",
        workload.name,
        ms(round.step),
        ms(round.submit),
        ms(round.claim),
        us(round.arrival),
        round.matches,
        round.matched,
        round.work,
    );
}

/// How long something takes on the processor that does it.
fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = std::time::Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// How many newcomers are measured.
const ARRIVALS: usize = 1000;

const HEADER: &str = "workload                            tickets    step ms  submit ms   claim ms \
     arrival µs  matches  matched       work";
