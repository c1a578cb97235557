//! What every node relies on.
#![allow(missing_docs, clippy::unwrap_used)]

mod encoding;
mod finding;
mod joining;
mod kept;
mod messages;
mod nodes;
mod objects;
mod owner;
mod properties;
mod random;
mod returning;
mod sameness;
mod seats;
mod world;
