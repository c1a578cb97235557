//! A session on its way from one node to another: what it is on the node that gives it away
//! ([`Moved`]), and on the one that takes it ([`Arriving`]).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use tombolo_room::SessionId;
use tombolo_wire::resend::{Inbox, Limits, Outbox, Overflow};
use tombolo_wire::v1::{ServerFrame, server_frame};
use tombolo_wire::{NodeId, RoomId};

use crate::cluster::{Cluster, Sender as Member, forward_item};
use crate::config::Config;
use crate::session::{Sender, State};

/// Where a session goes, on the node that gives it away.
pub(crate) struct Moved {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) session: SessionId,
    pub(crate) to: NodeId,
    /// In which of its lives that node has asked for it, if it said so.
    pub(crate) life: Option<u64>,
    /// Which offer it is, by chance: only the last one that it was offered to may take it.
    pub(crate) offer: u64,
    /// The first of those offers since the session was last here.
    pub(crate) first: u64,
    /// The other node has all that waited: from now on it is sent what still comes, and the session is
    /// its own.
    pub(crate) is_taken: bool,
    /// The other node has said so, or is gone: until then it may ask again for the last piece.
    pub(crate) is_complete: bool,
    /// More came of what nobody tells again than is kept: nobody can take it whole, and it ends at once.
    pub(crate) is_broken: bool,
}

impl Moved {
    /// Has the session's device get a frame there, of a member if it is one's.
    pub(crate) fn forward(
        &self,
        frame: &ServerFrame,
        member: Option<&Member>,
    ) -> Result<(), Overflow> {
        let item = forward_item(self.session, frame, true, member);
        let sent = self.cluster.pass_on(&self.to, item);
        // Whoever sent it is told to try again later.
        sent.map_err(|_| Overflow::Frames { frames_max: 0 })
    }
}

impl Moved {
    /// The same for an unreliable frame; returns how many were dropped for it.
    pub(crate) fn forward_loose(&self, body: server_frame::Body) -> u64 {
        if !self.is_taken {
            return 1;
        }
        let item = forward_item(self.session, &frame(body), false, None);
        self.cluster.pass_on_loose(&self.to, item)
    }
}

/// What a session waits for on the node that takes it. Until then nobody hears of it what could
/// overtake what it was told, or said, before.
pub(crate) struct Arriving {
    pub(crate) from: NodeId,
    /// The rooms that have not settled: a message may still be on its way over the other node.
    pub(crate) rooms: BTreeSet<RoomId>,
    /// What came for the device here, to follow what comes from there.
    held: Held<server_frame::Body>,
}

impl Arriving {
    /// What came for the device here.
    pub(crate) fn held(&self) -> impl Iterator<Item = &server_frame::Body> {
        self.held.frames()
    }

    /// As many bytes may wait as for a device that does not acknowledge.
    pub(crate) fn new(from: NodeId, rooms: BTreeSet<RoomId>, config: &Config) -> Self {
        Self {
            from,
            rooms,
            held: Held::new(Limits {
                frames_max: HELD_MAX,
                bytes_max: config.outbox.bytes_max,
            }),
        }
    }
}

/// Frames that wait for their session.
pub(crate) struct Held<F> {
    limits: Limits,
    frames: VecDeque<F>,
    bytes: usize,
}

impl<F> Held<F> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            frames: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Keeps one that has so many bytes.
    ///
    /// # Errors
    /// When as much waits as may.
    pub(crate) fn push(&mut self, frame: F, bytes: usize) -> Result<(), Overflow> {
        let Limits {
            frames_max,
            bytes_max,
        } = self.limits;
        if self.frames.len() >= frames_max {
            return Err(Overflow::Frames { frames_max });
        }
        if self.bytes + bytes > bytes_max {
            return Err(Overflow::Bytes { bytes_max });
        }
        self.bytes += bytes;
        self.frames.push_back(frame);
        Ok(())
    }

    pub(crate) fn frames(&self) -> impl Iterator<Item = &F> {
        self.frames.iter()
    }

    pub(crate) fn into_frames(self) -> VecDeque<F> {
        self.frames
    }
}

impl State {
    /// Takes over the numbers of a session that another node had.
    pub(crate) fn go_on(&mut self, config: &Config, acked: u64, received: u64, arriving: Arriving) {
        self.outbox = Outbox::after(config.outbox, acked);
        self.inbox = Inbox::after(received);
        self.came_from = Some(arriving.from.clone());
        self.arriving = Some(arriving);
    }

    /// Queues a frame of a session that goes to another node, or comes from one; gives it back if it
    /// does neither.
    pub(crate) fn push_in_transit(
        &mut self,
        sender: Sender,
        body: server_frame::Body,
        member: Option<&Member>,
    ) -> Result<Option<server_frame::Body>, Overflow> {
        if let Some(moved) = &mut self.moved {
            let frame = frame(body);
            if moved.is_taken {
                return moved.forward(&frame, member).map(|()| None);
            }
            let pushed = sender.push(&mut self.outbox, frame);
            // A frame that can never be sent is not missed.
            let has_no_place = matches!(
                pushed,
                Err(Overflow::Frames { .. } | Overflow::Bytes { .. })
            );
            moved.is_broken |= has_no_place && sender == Sender::Node;
            return pushed.map(|()| None);
        }
        if let Some(arriving) = &mut self.arriving {
            let bytes = body.encoded_len();
            return arriving.held.push(body, bytes).map(|()| None);
        }
        Ok(Some(body))
    }

    /// Queues a frame that came by way of the node that had the session.
    pub(crate) fn push_forwarded(&mut self, body: server_frame::Body) -> Result<(), Overflow> {
        if self.ended().is_some() {
            return Ok(());
        }
        self.outbox.push(frame(body))?;
        self.wake();
        Ok(())
    }

    /// A room has settled; true when that was the last.
    pub(crate) fn settle(&mut self, room: &RoomId) -> Result<bool, Overflow> {
        let Some(arriving) = &mut self.arriving else {
            return Ok(false);
        };
        arriving.rooms.remove(room);
        self.arrive()
    }

    /// Begins in earnest, unless a room has not settled.
    pub(crate) fn arrive(&mut self) -> Result<bool, Overflow> {
        if !self
            .arriving
            .as_ref()
            .is_some_and(|arriving| arriving.rooms.is_empty())
        {
            return Ok(false);
        }
        if let Some(arriving) = self.arriving.take() {
            for body in arriving.held.into_frames() {
                self.push(body)?;
            }
        }
        Ok(true)
    }
}

fn frame(body: server_frame::Body) -> ServerFrame {
    ServerFrame {
        body: Some(body),
        ..ServerFrame::default()
    }
}

/// What is kept for a session until it has settled.
const HELD_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_by_number_and_by_bytes() {
        let limits = Limits {
            frames_max: 3,
            bytes_max: 10,
        };
        let mut held = Held::new(limits);
        held.push(1, 4).unwrap();
        held.push(2, 6).unwrap();
        assert_eq!(held.push(3, 1), Err(Overflow::Bytes { bytes_max: 10 }));
        held.push(4, 0).unwrap();
        assert_eq!(held.push(5, 0), Err(Overflow::Frames { frames_max: 3 }));
        assert_eq!(held.into_frames(), [1, 2, 4]);
    }
}
