//! What a batch of received datagrams leads to, until the batch is sent.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use tombolo_turn::server::{Fragment, Header};

use super::token::SocketId;
use crate::socket::{Outgoing, SEGMENTS_MAX, SLOTS, Slots};

/// A packet to be sent: its payload is a range of a slot.
#[derive(Clone)]
pub(super) struct Queued {
    pub(super) via: SocketId,
    pub(super) to: SocketAddr,
    /// The local IP to send from, on wildcard sockets.
    pub(super) source: Option<IpAddr>,
    pub(super) fragment: Fragment,
    pub(super) slot: usize,
    pub(super) range: Range<usize>,
    pub(super) padding: usize,
}

/// Packets to be sent, at most one for each received datagram.
pub(super) struct Outbox {
    queue: Vec<Placed>,
    /// The headers of packets that have others in front of them in their slots, back to back.
    headers: Vec<u8>,
    /// Rank and place of each packet, in the order of sending.
    order: Vec<u64>,
}

struct Placed {
    packet: Queued,
    header: HeaderAt,
}

/// Where the header of a packet is.
#[derive(Clone)]
enum HeaderAt {
    /// In its slot, as so many bytes in front of the payload: both leave as one piece.
    Front(usize),
    /// Among all headers.
    Apart(Range<usize>),
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            queue: Vec::with_capacity(PACKETS_MAX),
            headers: Vec::with_capacity(PACKETS_MAX * Header::BYTES_MAX),
            order: Vec::with_capacity(PACKETS_MAX),
        }
    }

    /// Adds a packet. The header may be written to its slot.
    pub(super) fn push(&mut self, packet: Queued, header: &[u8], slots: &mut Slots) {
        debug_assert!(
            self.queue.len() < PACKETS_MAX,
            "a datagram leads to one packet at most"
        );
        let rank =
            u64::from(packet.via.rank()) << 1 | u64::from(packet.fragment == Fragment::Forbidden);
        self.order
            .push(rank << PLACE_BITS | self.queue.len() as u64);
        let header = if slots.put_in_front(packet.slot, packet.range.start, header) {
            HeaderAt::Front(header.len())
        } else {
            let start = self.headers.len();
            self.headers.extend_from_slice(header);
            HeaderAt::Apart(start..self.headers.len())
        };
        self.queue.push(Placed { packet, header });
    }

    /// Brings the packets of each socket together, in the order of their arrival.
    pub(super) fn sort(&mut self) {
        // In place, unlike the stable sort.
        self.order.sort_unstable();
    }

    /// The [sorted](Self::sort) packets, one group for each socket.
    pub(super) fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        let groups = self
            .order
            .chunk_by(|a, b| a >> PLACE_BITS == b >> PLACE_BITS);
        groups.map(|order| Group {
            outbox: self,
            order,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.headers.clear();
        self.order.clear();
    }

    fn at(&self, place: u64) -> &Placed {
        // The upper bits are the rank.
        &self.queue[(place & ((1 << PLACE_BITS) - 1)) as usize]
    }
}

/// Packets that leave through one socket in one way; there is at least one.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    outbox: &'a Outbox,
    order: &'a [u64],
}

impl<'a> Group<'a> {
    pub(super) fn via(self) -> SocketId {
        self.outbox.at(self.order[0]).packet.via
    }

    pub(super) fn fragment(self) -> Fragment {
        self.outbox.at(self.order[0]).packet.fragment
    }

    /// Where the packet in a place of the group is sent.
    pub(super) fn to(self, place: usize) -> SocketAddr {
        self.outbox.at(self.order[place]).packet.to
    }

    /// The header and the payload of the packet in a place of the group.
    pub(super) fn parts(self, place: usize, slots: &'a Slots) -> (&'a [u8], &'a [u8]) {
        let Placed { packet, header } = self.outbox.at(self.order[place]);
        let range = packet.range.clone();
        match header {
            HeaderAt::Front(bytes) => slots
                .with_front(packet.slot, range, *bytes)
                .split_at(*bytes),
            HeaderAt::Apart(header) => (
                &self.outbox.headers[header.clone()],
                &slots.bytes(packet.slot)[range],
            ),
        }
    }

    /// The packets as the socket sends them.
    pub(super) fn packets(self, slots: &'a Slots) -> impl Iterator<Item = Outgoing<'a>> {
        self.order.iter().map(move |place| {
            let Placed { packet, header } = self.outbox.at(*place);
            let range = packet.range.clone();
            let (header, payload): (&[u8], _) = match header {
                HeaderAt::Front(bytes) => (&[], slots.with_front(packet.slot, range, *bytes)),
                HeaderAt::Apart(header) => (
                    &self.outbox.headers[header.clone()],
                    &slots.bytes(packet.slot)[range],
                ),
            };
            Outgoing {
                to: packet.to,
                source: packet.source,
                header,
                payload,
                padding: packet.padding,
            }
        })
    }
}

const PACKETS_MAX: usize = SLOTS * SEGMENTS_MAX;
/// Bits of a place in the queue.
const PLACE_BITS: u32 = 16;
const _: () = assert!(PACKETS_MAX <= 1 << PLACE_BITS);
