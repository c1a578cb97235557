//! Sessions, rooms and introductions, bound to the engine.
//!
//! A transport brings frames here and takes frames away; it needs to know nothing about them:
//!
//! 1. the first frame of a connection goes to [`Services::attach`], which gives a [`Connection`];
//! 2. each further frame goes to [`Connection::receive`];
//! 3. [`Connection::next_outgoing`] waits for what is to be sent, until it says to close;
//! 4. dropping the [`Connection`] says that the connection broke: the session waits for a resume.
//!
//! Rooms are logs in the engine: a join or a leave is an entry, and each node that hosts members
//! applies the same entries. Messages and introductions between members don't touch the log; they
//! are handed over within the call that brought them.
#![forbid(unsafe_code)]

mod config;
mod connection;
mod entropy;
mod forward;
mod host;
mod lock;
mod node;
mod rate;
mod reject;
mod relay;
mod requests;
mod services;
mod session;
mod stats;

pub use config::{Config, RateLimit};
pub use connection::{Connection, Outgoing};
pub use reject::Reject;
pub use relay::RelayHook;
pub use services::{ConnectionInfo, Services, TransportKind};
pub use stats::Stats;
