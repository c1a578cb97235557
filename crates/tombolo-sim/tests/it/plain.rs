//! An actor without a protocol: it sends what it is told and keeps what it gets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use tombolo_sim::{Actor, HostId, Packet, World};

#[derive(Debug, Default)]
pub(crate) struct Plain {
    pub(crate) received: Vec<(Instant, Packet)>,
    transmits: VecDeque<Packet>,
}

impl Actor for Plain {
    type Message = ();

    fn handle_packet(&mut self, now: Instant, packet: &Packet) {
        self.received.push((now, packet.clone()));
    }

    fn handle_message(&mut self, _: Instant, _: HostId, (): ()) {}

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_transmit(&mut self) -> Option<Packet> {
        self.transmits.pop_front()
    }

    fn poll_message(&mut self) -> Option<(HostId, ())> {
        None
    }

    fn poll_note(&mut self) -> Option<String> {
        None
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

/// Makes a host send a packet, now.
pub(crate) fn send(world: &mut World<Plain>, host: HostId, packet: Packet) {
    world.with_actor(host, |_, actor| actor.transmits.push_back(packet));
}

/// Takes the packets that a host received: their sources and payloads.
pub(crate) fn take(world: &mut World<Plain>, host: HostId) -> Vec<(SocketAddr, Vec<u8>)> {
    let received = world.with_actor(host, |_, actor| std::mem::take(&mut actor.received));
    received
        .into_iter()
        .map(|(_, packet)| (packet.from, packet.bytes))
        .collect()
}

/// An address from text.
pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}
