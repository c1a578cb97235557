//! `tombolo turn`: the STUN and TURN server alone, and what operators do to it.

pub(crate) mod admin;
mod args;
pub(crate) mod credentials;
pub(crate) mod file;
mod import;
mod limits;
mod operate;
mod operator;
mod serve;
pub(crate) mod settings;
mod tls;

pub(crate) use args::TurnArgs;

/// Runs a server until it is told to end, or tells one that runs what to do.
pub(crate) async fn run(args: TurnArgs) -> anyhow::Result<()> {
    match args.operate {
        Some(command) => operate::run(command).await,
        None => serve::run(args.server).await,
    }
}
