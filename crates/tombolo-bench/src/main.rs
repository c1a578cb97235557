//! Load generators and the side-by-side harness: what the relay costs, against what others cost on the
//! same machine in the same run. `README.md` beside this crate's manifest shows how to run it.
#![deny(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program talks to a person in a terminal"
)]

mod churn;
mod cluster;
mod control;
mod fanout;
mod fields;
mod flood;
mod floor;
mod machine;
mod matcher;
mod measure;
mod metrics;
mod plan;
mod relay;
mod report;
mod rows;
mod soak;
mod socket;
mod streams;
mod subject;
mod tickets;
mod traffic;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load generators and the side-by-side harness.
#[derive(Parser)]
#[command(name = "tombolo-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures TURN servers side by side
    Relay(relay::Arguments),
    /// Lets allocations come and go beside traffic, and looks for what is left
    Soak(soak::Arguments),
    /// Lets devices talk in rooms of a cluster while something happens to it
    Cluster(cluster::Arguments),
    /// Measures how soon a member on one node hears of a join on another
    Joins(cluster::joins::Arguments),
    /// Measures how soon devices on two nodes see each other across a border of a field's cells
    Border(cluster::border::Arguments),
    /// Measures a room's fan-out, or idle sessions, on one node that has one core
    Rooms(fanout::Arguments),
    /// Measures the ticks of a crowded field on one core
    Field(fields::Arguments),
    /// Measures the matcher on one core, and how far from the best possible it ends
    Match(matcher::Arguments),
    /// Measures how soon devices find each other in pairs through one node that has one thread
    Duels(fanout::duels::Arguments),
    /// Sends tickets through a cluster whose matchers are killed, and looks for what was lost or given twice
    Tickets(tickets::Arguments),
    /// The bare forwarder that servers are measured against; the harness starts it
    #[command(hide = true)]
    Floor {
        /// How many flows of the plan it forwards
        #[arg(long)]
        flows: usize,
    },
}

fn main() -> ExitCode {
    // What the devices of a run say, when somebody asks by RUST_LOG.
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let result = match Cli::parse().command {
        Command::Relay(arguments) => relay::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Cluster(arguments) => cluster::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Joins(arguments) => cluster::joins::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Border(arguments) => cluster::border::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Field(arguments) => fields::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Match(arguments) => matcher::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Rooms(arguments) => fanout::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Duels(arguments) => fanout::duels::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Tickets(arguments) => tickets::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Floor { flows } => floor::run(flows).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tombolo-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
