//! From the core to sockets: what becomes of packets.

use std::{io, ops::Range, time::Instant};

use tombolo_turn::server::{Forward, Fragment, PeerAddr, RelayAddr, Server, Transport};

use super::{
    ServerSocket, Shard,
    outbox::Queued,
    parcels::Parcels,
    raw_header,
    relays::{RelaySide, ToPeer, Way},
    token::SocketId,
};
use crate::{
    IoStats,
    link::Loss,
    socket::{Outgoing, Sender, Sent},
};

impl Shard {
    /// Queues what the core said about the datagram at `place` in `slot`, which others may follow.
    pub(super) fn forward_slot(
        &mut self,
        now: Instant,
        forward: Forward,
        slot: usize,
        place: Range<usize>,
    ) {
        let start = place.start;
        let data = &self.slots.bytes(slot)[place];
        let Some(forward) = hand_over(
            &mut self.core,
            &mut self.io,
            (&self.relays, &mut self.parcels),
            now,
            forward,
            data,
        ) else {
            return;
        };
        match forward {
            Forward::ToShard { shard, client } => {
                let packet = data.to_vec();
                self.pass_packet_on(shard, client, packet);
            }
            Forward::ToPeer {
                at,
                to,
                range,
                fragment,
            } => {
                let range = start + range.start..start + range.end;
                self.queue_to_peer(at, to, fragment, slot, range);
            }
            Forward::ToClient {
                to,
                header,
                range,
                padding,
            } => {
                if to.transport != Transport::Udp {
                    let frame = frame_of(&header, &data[range], padding);
                    self.send_frame(to, frame, Loss::Tolerable);
                    return;
                }
                let Some((via, source)) = self.server_for(to.server) else {
                    self.io.lost += 1;
                    return;
                };
                let range = start + range.start..start + range.end;
                let packet = Queued {
                    via,
                    to: to.client,
                    source,
                    fragment: Fragment::Allowed,
                    slot,
                    range,
                    padding,
                };
                self.outbox.push(packet, &header, &mut self.slots);
            }
        }
    }

    fn queue_to_peer(
        &mut self,
        at: RelayAddr,
        to: PeerAddr,
        fragment: Fragment,
        slot: usize,
        range: Range<usize>,
    ) {
        let way = self.relays.way(ToPeer {
            at,
            to: to.0,
            fragment,
            payload: &self.slots.bytes(slot)[range.clone()],
            is_of_burst: self.slots.count(slot) >= BURST_MIN,
        });
        let Some(way) = way else {
            self.io.lost += 1;
            return;
        };
        let packet = Queued {
            via: way.via,
            to: way.to,
            source: None,
            fragment: way.fragment,
            slot,
            range,
            padding: 0,
        };
        let header = way.header.as_deref().unwrap_or(&[]);
        self.outbox.push(packet, header, &mut self.slots);
    }

    /// Queues what the core said about a frame of a stream, which is not in a slot.
    pub(super) fn forward_frame(&mut self, now: Instant, forward: Forward, frame: &[u8]) {
        let Some(forward) = hand_over(
            &mut self.core,
            &mut self.io,
            (&self.relays, &mut self.parcels),
            now,
            forward,
            frame,
        ) else {
            return;
        };
        match forward {
            Forward::ToPeer {
                at,
                to,
                range,
                fragment,
            } => {
                let payload = &frame[range];
                self.send_to_peer(ToPeer {
                    at,
                    to: to.0,
                    fragment,
                    payload,
                    is_of_burst: false,
                });
            }
            Forward::ToClient {
                to,
                header,
                range,
                padding,
            } => {
                self.send_to_client(to, &header, &frame[range], padding);
            }
            Forward::ToShard { shard, client } => {
                self.pass_packet_on(shard, client, frame.to_vec());
            }
        }
    }

    /// Sends what the outbox has collected and frees the slots.
    pub(super) fn flush(&mut self) {
        self.filled = 0;
        self.send_parcels();
        if !self.outbox.is_empty() {
            self.send_outbox();
        }
        self.relays.end_batch();
    }

    fn send_outbox(&mut self) {
        self.outbox.sort();
        for group in self.outbox.groups() {
            let packets = group.packets(&self.slots);
            let (servers, relays, sender) = (&self.servers, &mut self.relays, &mut self.sender);
            let sent = send_via(
                servers,
                relays,
                sender,
                group.via(),
                group.fragment(),
                packets,
            );
            let Some(mut sent) = sent else { continue };
            if sent.too_long > 0 {
                let slots = &self.slots;
                if group.fragment() == Fragment::Forbidden {
                    let ends = |place| (group.parts(place, slots).0, group.to(place));
                    let sender = relays.sender_of(sender, group.via());
                    self.too_long.note(relays, group.via(), sender, ends);
                } else if may_divide(group.via(), group.fragment()) {
                    let too_long = |place| group.parts(place, slots);
                    send_divided(&mut self.relays, &mut self.sender, &mut sent, too_long);
                }
            }
            self.io.count(sent);
        }
        self.outbox.clear();
    }

    /// Sends a packet to a peer that is in no slot.
    fn send_to_peer(&mut self, packet: ToPeer<'_>) {
        let Some(way) = self.relays.way(packet) else {
            self.io.lost += 1;
            return;
        };
        let Way {
            via,
            to,
            fragment,
            header,
        } = way;
        let header = header.as_deref().unwrap_or(&[]);
        let outgoing = Outgoing {
            to,
            source: None,
            header,
            payload: packet.payload,
            padding: 0,
        };
        self.send_one(via, fragment, outgoing);
    }

    /// Sends one packet that is in no slot.
    pub(super) fn send_one(&mut self, via: SocketId, fragment: Fragment, packet: Outgoing<'_>) {
        let packets = std::iter::once(packet);
        let (servers, relays, sender) = (&self.servers, &mut self.relays, &mut self.sender);
        let sent = send_via(servers, relays, sender, via, fragment, packets);
        let Some(mut sent) = sent else { return };
        if sent.too_long > 0 {
            if fragment == Fragment::Forbidden {
                let ends = |_| (packet.header, packet.to);
                let sender = relays.sender_of(sender, via);
                self.too_long.note(relays, via, sender, ends);
            } else if may_divide(via, fragment) {
                let too_long = |_| (packet.header, packet.payload);
                send_divided(&mut self.relays, &mut self.sender, &mut sent, too_long);
            }
        }
        self.io.count(sent);
    }
}

/// Sends packets through one socket; `None` if it is gone.
pub(super) fn send_via<'a>(
    servers: &[ServerSocket],
    relays: &mut RelaySide,
    sender: &mut Sender,
    via: SocketId,
    fragment: Fragment,
    packets: impl Iterator<Item = Outgoing<'a>>,
) -> Option<Sent> {
    match via {
        SocketId::Server(index) => {
            let server = servers.get(index as usize)?;
            Some(sender.send(&server.socket, packets))
        }
        SocketId::Relay(index) => {
            let socket = &relays.ports.get(index)?.socket;
            Some(with_fragment(
                |fragment| socket.set_fragment(fragment),
                fragment,
                || sender.send(socket, packets),
            ))
        }
        SocketId::Steered(index) => {
            let (sender, end) = relays.steered.as_mut()?.sender_for(index)?;
            let socket = &end.socket.send;
            Some(with_fragment(
                |fragment| socket.set_fragment(fragment),
                fragment,
                || sender.send(socket, packets),
            ))
        }
    }
}

/// Whether what was too long for its way is cut up in another one.
fn may_divide(via: SocketId, fragment: Fragment) -> bool {
    matches!(via, SocketId::Steered(_)) && fragment == Fragment::Allowed
}

/// Sends once more what a raw socket refused as too long, so that the kernel cuts it up: through a
/// socket that is bound to the relayed address.
fn send_divided<'a>(
    relays: &mut RelaySide,
    sender: &mut Sender,
    sent: &mut Sent,
    packet: impl Fn(usize) -> (&'a [u8], &'a [u8]),
) {
    let count = relays
        .steered
        .as_ref()
        .map_or(0, |steered| steered.sender.too_long().len());
    for i in 0..count {
        let Some(steered) = relays.steered.as_ref() else {
            return;
        };
        let (header, payload) = packet(steered.sender.too_long()[i]);
        let Some((at, to)) = raw_header::ends(header) else {
            continue;
        };
        let Ok(index) = relays.bound_sender(RelayAddr(at)) else {
            continue;
        };
        relays.note_divided(index, payload.len());
        let Some(port) = relays.ports.get(index) else {
            continue;
        };
        let packet = Outgoing {
            to,
            source: None,
            header: &[],
            payload,
            padding: 0,
        };
        let again = sender.send(&port.socket, std::iter::once(packet));
        sent.too_long -= 1;
        *sent += again;
    }
}

/// Sends with the DF bit as `fragment` says, of which `set` tells the socket.
fn with_fragment<T>(
    set: impl Fn(Fragment) -> io::Result<()>,
    fragment: Fragment,
    send: impl FnOnce() -> T,
) -> T {
    if fragment == Fragment::Allowed {
        return send();
    }
    // Failure is unheard of, and would let routers cut up what they could refuse otherwise.
    let _ = set(fragment);
    let result = send();
    let _ = set(Fragment::Allowed);
    result
}

/// Gives a packet from one allocation to another of the same shard right to the core, which then says
/// where it goes from there, and packs one to an allocation of another shard. `None` if it goes nowhere
/// from here.
fn hand_over(
    core: &mut Server,
    io: &mut IoStats,
    (relays, parcels): (&RelaySide, &mut Parcels),
    now: Instant,
    forward: Forward,
    data: &[u8],
) -> Option<Forward> {
    let Forward::ToPeer { at, to, range, .. } = &forward else {
        return Some(forward);
    };
    let at_peer = RelayAddr(to.0);
    match relays.owner(to.0) {
        None if relays.owners().guards(to.0) => {
            io.handed_over_dropped += 1;
            return None;
        }
        None => return Some(forward),
        Some(owner) if owner != relays.shard() => {
            let is_packed = parcels.pack(owner, at_peer, PeerAddr(at.0), &data[range.clone()]);
            io.handed_over_dropped += u64::from(!is_packed);
            return None;
        }
        Some(_) => {}
    }
    io.handed_over += 1;
    let outer = range.start;
    match core.handle_peer(now, at_peer, PeerAddr(at.0), &data[range.clone()])? {
        Forward::ToClient {
            to,
            header,
            range,
            padding,
        } => {
            let range = outer + range.start..outer + range.end;
            Some(Forward::ToClient {
                to,
                header,
                range,
                padding,
            })
        }
        Forward::ToPeer { .. } | Forward::ToShard { .. } => None,
    }
}

/// A whole frame for a stream, where one copy cannot be avoided.
pub(super) fn frame_of(header: &[u8], payload: &[u8], padding: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(header.len() + payload.len() + padding);
    frame.extend_from_slice(header);
    frame.extend_from_slice(payload);
    frame.resize(frame.len() + padding, 0);
    frame
}

/// Datagrams in a slot from which on they are worth a bound socket in the steered way, as a raw one
/// sends each by itself.
const BURST_MIN: usize = 4;
