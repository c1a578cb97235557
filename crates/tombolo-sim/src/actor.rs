//! Actors: the programs that run on hosts.

use std::fmt;
use std::time::Instant;

use crate::{HostId, Packet};

/// A program on a host, in the shape of the protocol cores that it drives.
///
/// The world feeds it with `handle_*`; after each call it drains `poll_transmit`, `poll_message` and
/// `poll_note` until `None`, and then sleeps until `poll_timeout`.
pub trait Actor {
    /// What actors tell each other beside the network, as over a connection that always works.
    type Message: fmt::Debug;

    /// Handles a packet that arrived.
    fn handle_packet(&mut self, now: Instant, packet: &Packet);

    /// Handles a message that another actor sent.
    fn handle_message(&mut self, now: Instant, from: HostId, message: Self::Message);

    /// Handles the passing of time.
    fn handle_timeout(&mut self, now: Instant);

    /// The next packet to send.
    fn poll_transmit(&mut self) -> Option<Packet>;

    /// The next message to send, and to whom. It takes the network's delay, and nothing can lose it.
    fn poll_message(&mut self) -> Option<(HostId, Self::Message)>;

    /// The next line for the event log.
    fn poll_note(&mut self) -> Option<String>;

    /// When to call [`handle_timeout`](Self::handle_timeout), at the latest.
    fn poll_timeout(&self) -> Option<Instant>;
}
