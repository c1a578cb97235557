//! Devices on loopback, with a real node in the same process.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod abuse;
mod commands;
mod direct;
mod endings;
mod fields;
mod groups;
mod lab;
mod links;
mod matches;
mod moves;
mod notices;
mod presence;
mod rooms;
mod script;
mod refusals;
mod sessions;
mod silence;
mod state;
