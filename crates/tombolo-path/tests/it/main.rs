//! The path agent between two devices, over a virtual network and clock.

// A helper that fails is a test that fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm
)]

mod chaos;
mod direct;
mod hostile;
mod lost;
mod probing;
mod world;
