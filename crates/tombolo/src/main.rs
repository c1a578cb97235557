//! The one binary: nodes, alone and as a cluster, the TURN server, devices, and commands for operators.
#![forbid(unsafe_code)]

mod admin;
mod api_key;
mod bots;
mod cli;
mod cluster;
mod config_text;
mod demo;
mod doctor;
mod field;
mod groups;
mod http;
mod metrics;
mod operate;
mod output;
mod peer;
mod secrets;
mod seek;
mod serve;
mod token;
mod turn;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};

/// A busy node asks for memory and gives it back all the time: a seventh of its time went by that with glibc's allocator (`docs/measurements.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Turn(args) = &cli.command {
        start_logs(args.server.log.as_deref(), "info");
    } else {
        start_logs(None, "warn");
    }
    let result = match cli.command {
        // The demo starts runtimes of its own, inside its namespaces.
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => in_runtime(serve::run(*args)),
        Command::Cluster(args) => in_small_runtime(cluster::run(args)),
        Command::Nodes(args) => in_small_runtime(operate::nodes(args)),
        Command::Rooms(args) => in_small_runtime(operate::rooms(args)),
        Command::Pools(args) => in_small_runtime(operate::pools(args)),
        Command::Users(args) => in_small_runtime(operate::users(args)),
        Command::Groups(args) => in_small_runtime(groups::run(args)),
        Command::AllGroups(args) => in_small_runtime(operate::all_groups(args)),
        Command::EndGroup(args) => in_small_runtime(operate::end_group(args)),
        Command::Drain(args) => in_small_runtime(operate::drain(args)),
        Command::Notify(args) => in_small_runtime(operate::notify(args)),
        Command::Rebalance(args) => in_small_runtime(operate::rebalance(args)),
        Command::Turn(args) => in_small_runtime(turn::run(*args)),
        Command::ApiKey(args) => api_key::run(&args),
        Command::Peer(args) => in_runtime(peer::run(args)),
        Command::Match(args) => in_runtime(seek::run(args)),
        Command::Bots(args) => in_runtime(bots::run(*args)),
        Command::Field(args) => in_runtime(field::run(args)),
        Command::Doctor(args) => in_runtime(doctor::run(args)),
        Command::Token(args) => in_runtime(token::run(args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read standard output, as `head` does, has read enough.
        Err(error) if is_unheard(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn is_unheard(error: &anyhow::Error) -> bool {
    let error: Option<&std::io::Error> = error.downcast_ref();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn in_runtime(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(command);
    // Whatever still runs in the background must not hold up the exit.
    runtime.shutdown_background();
    result
}

/// For commands whose work is done by threads of their own.
fn in_small_runtime(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(command)
}

/// Logs what is asked for, or what the environment says, or the usual.
fn start_logs(asked: Option<&str>, usual: &str) {
    let filter = match asked {
        Some(asked) => EnvFilter::new(asked),
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual)),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
