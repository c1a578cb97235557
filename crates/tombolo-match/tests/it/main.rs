//! What every matcher and every reader of a pool's log relies on.
#![allow(missing_docs, clippy::unwrap_used)]

mod backfill;
mod begun;
mod checker;
mod explain;
mod kept;
mod load;
mod log;
mod matching;
mod plan;
mod quality;
mod queries;
mod random;
mod ready;
mod rules;
mod teams;
mod tickets;
mod world;
