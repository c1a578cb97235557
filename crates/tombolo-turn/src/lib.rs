//! TURN, both ends, sans-IO.
//!
//! [`server`] is one shard of a TURN server, [`client`] one allocation on a server. Both are state
//! machines: bytes and `now` go in; bytes, events and a deadline come out. Sockets, clocks and
//! entropy belong to their drivers.
//!
//! Data does not queue: a packet that is to be forwarded is answered at once with where its
//! payload goes and which bytes of it that is.
#![forbid(unsafe_code)]

pub mod client;
pub mod server;
