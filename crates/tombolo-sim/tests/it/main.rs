//! Behaviour of the deterministic world, and of the protocol cores in it.

mod cluster;
mod fuzz;
mod nat;
mod outages;
mod paths;
mod plain;
mod scene;
mod world;
