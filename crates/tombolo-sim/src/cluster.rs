//! A cluster in one process under virtual time: nodes, the engine that they share, and devices.
//!
//! The nodes are those of production (`tombolo-services`), each with its own bad access to one engine.
//! Devices speak the contract, and complain when a node breaks it. A [`ClusterWorld`] kills nodes, cuts
//! them off, takes the engine away and lets connections break, as its [`Seed`](crate::Seed) says, while
//! devices join, leave, talk, count and follow each other. In the end it lets everything come to rest, and compares what
//! devices were promised and what they see with what the logs say.

mod deed;
mod device;
mod judge;
mod presence;
mod trace;
mod weather;
mod world;

pub use weather::Weather;
pub use world::{ClusterWorld, Tally};
