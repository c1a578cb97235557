//! Behaviour of both ends, seen from outside.

mod client;
mod client_and_server;
mod conformance;
mod server;
