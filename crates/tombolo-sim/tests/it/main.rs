//! Behaviour of the deterministic world, and of the protocol cores in it.

mod fuzz;
mod nat;
mod outages;
mod paths;
mod plain;
mod scene;
mod world;
