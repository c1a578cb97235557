//! Behaviour of the deterministic world, and of the protocol cores in it.

mod nat;
mod plain;
mod world;
