//! Behaviour of both ends, seen from outside.

mod client;
mod server;
