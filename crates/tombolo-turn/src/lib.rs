//! TURN, both ends, sans-IO.
#![forbid(unsafe_code)]

pub mod client;
pub mod server;
