//! From the core to sockets: what becomes of packets.

use std::time::Instant;

use tombolo_turn::server::{Forward, Fragment, PeerAddr, RelayAddr, Server};

use super::{ServerSocket, Shard, outbox::Queued, ports::RelayPorts, reply::Loss, token::SocketId};
use crate::{
    IoStats,
    link::FromStream,
    socket::{Outgoing, UdpSocket},
};

impl Shard {
    /// Queues what the core said about a datagram that begins at `start` in `slot`.
    pub(super) fn forward_slot(
        &mut self,
        now: Instant,
        forward: Forward,
        slot: usize,
        start: usize,
    ) {
        let data = &self.slots.bytes(slot)[start..];
        let Some(forward) = hand_over(
            &mut self.core,
            &mut self.io,
            &self.ports,
            now,
            forward,
            data,
        ) else {
            return;
        };
        let (packet, header) = match forward {
            Forward::ToShard { shard, client } => {
                let packet = data.to_vec();
                return self.pass_on(shard, FromStream::Frame(client, packet));
            }
            Forward::ToPeer {
                at,
                to,
                range,
                fragment,
            } => {
                let Some(index) = self.ports.index_of(at) else {
                    return;
                };
                let packet = Queued {
                    via: SocketId::Relay(index),
                    to: to.0,
                    source: None,
                    fragment,
                    slot,
                    range,
                    padding: 0,
                };
                (packet, None)
            }
            Forward::ToClient {
                to,
                header,
                range,
                padding,
            } => {
                if to.transport.is_stream() {
                    let frame = frame_of(&header, &data[range], padding);
                    self.send_frame(to, frame, Loss::Tolerable);
                    return;
                }
                let Some((via, source)) = self.server_for(to.server) else {
                    return;
                };
                let packet = Queued {
                    via,
                    to: to.client,
                    source,
                    fragment: Fragment::Allowed,
                    slot,
                    range,
                    padding,
                };
                (packet, Some(header))
            }
        };
        let range = start + packet.range.start..start + packet.range.end;
        let header = header.as_deref().unwrap_or(&[]);
        self.outbox.push(Queued { range, ..packet }, header);
    }

    /// Queues what the core said about a frame of a stream, which is not in a slot.
    pub(super) fn forward_frame(&mut self, now: Instant, forward: Forward, frame: &[u8]) {
        let Some(forward) = hand_over(
            &mut self.core,
            &mut self.io,
            &self.ports,
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
                if let Some(index) = self.ports.index_of(at) {
                    let payload = &frame[range];
                    let packet = Outgoing {
                        to: to.0,
                        source: None,
                        header: &[],
                        payload,
                        padding: 0,
                    };
                    self.send(SocketId::Relay(index), fragment, packet);
                }
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
                self.pass_on(shard, FromStream::Frame(client, frame.to_vec()));
            }
        }
    }

    /// Sends what the outbox has collected and frees the slots.
    pub(super) fn flush(&mut self) {
        self.filled = 0;
        if self.outbox.is_empty() {
            return;
        }
        self.outbox.sort();
        for group in self.outbox.groups() {
            let Some(socket) = socket_of(&self.servers, &self.ports, group.via()) else {
                continue;
            };
            let sender = &mut self.sender;
            let sent = with_fragment(socket, group.fragment(), || {
                sender.send(socket, group.packets(&self.slots))
            });
            self.io.count(sent);
        }
        self.outbox.clear();
    }
}

/// Sends with the DF bit as `fragment` says.
pub(super) fn with_fragment<T>(
    socket: &UdpSocket,
    fragment: Fragment,
    send: impl FnOnce() -> T,
) -> T {
    if fragment == Fragment::Allowed {
        return send();
    }
    // Failure is unheard of, and would let routers cut up what they could refuse otherwise.
    let _ = socket.set_fragment(fragment);
    let result = send();
    let _ = socket.set_fragment(Fragment::Allowed);
    result
}

/// Gives a packet from one allocation to another of the same shard right to the core, which then says
/// where it goes from there. `None` if it goes nowhere.
fn hand_over(
    core: &mut Server,
    io: &mut IoStats,
    ports: &RelayPorts,
    now: Instant,
    forward: Forward,
    data: &[u8],
) -> Option<Forward> {
    let Forward::ToPeer { at, to, range, .. } = &forward else {
        return Some(forward);
    };
    let at_peer = RelayAddr(to.0);
    if ports.index_of(at_peer).is_none() {
        return Some(forward);
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

pub(super) fn socket_of<'a>(
    servers: &'a [ServerSocket],
    ports: &'a RelayPorts,
    id: SocketId,
) -> Option<&'a UdpSocket> {
    match id {
        SocketId::Server(index) => Some(&servers.get(index as usize)?.socket),
        SocketId::Relay(index) => Some(&ports.get(index)?.socket),
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
