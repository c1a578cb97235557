//! What passes between this node and one other: a sans-IO core without sockets, clock or bus.
//!
//! The bus may lose a frame. Items are numbered and kept until the other node has acknowledged them;
//! what is missing is sent again from there on, so each arrives once and in order while both nodes
//! live. Numbers belong to a life (*epoch*) of each node: whoever was started anew begins anew.
//!
//! 1. [`Link::push`] or [`Link::push_loose`] something, then drain [`Link::poll_frame`] to the bus;
//! 2. each frame from the other node: [`Link::handle_frame`], and act on what it returns;
//! 3. sleep until [`Link::poll_timeout`], then [`Link::handle_timeout`] and drain again.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use prost::Message as _;
use tombolo_room::GroupId;
use tombolo_wire::UserId;

use super::VERSION;
use super::generated::{Frame, Item};
use crate::queue::Topic;

/// What passes between this node and one other.
#[derive(Debug)]
pub(crate) struct Link {
    limits: LinkLimits,
    /// This node's life.
    epoch: u64,
    /// The other's; `None` until it was heard.
    peer_epoch: Option<u64>,
    /// Sent items that are not acknowledged, and those to be sent, in order, with their sizes; their
    /// numbers are `acked + 1 ..`.
    unacked: VecDeque<(Item, usize)>,
    unacked_bytes: usize,
    acked: u64,
    /// How many of `unacked`, from the front, have been sent.
    polled: usize,
    /// The highest number that was ever sent: what it names must not change any more.
    sent: u64,
    /// The last item of each topic, by its number.
    number_by_topic: BTreeMap<LinkTopic, u64>,
    loose: VecDeque<(Item, usize)>,
    /// Highest number up to which all of the other's items have come.
    received: u64,
    /// When an acknowledgement must be on its way.
    ack_due: Option<Instant>,
    /// An item after `received` is missing.
    is_missing: bool,
    /// Received since the last acknowledgement.
    unconfirmed: usize,
    /// A frame is owed although there may be nothing to say.
    is_owed: bool,
    /// When what was sent is sent again; `None` when nothing waits for an answer.
    resend_at: Option<Instant>,
    resend_delay: Duration,
    /// When the other last had everything sent again.
    rewound: Option<Instant>,
}

/// Of which item only the latest counts: the sender's topic, to the same receivers.
pub(crate) type LinkTopic = (Topic, Vec<UserId>, Option<GroupId>);

/// The bounds of a [`Link`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkLimits {
    /// Most items that the other node has not acknowledged.
    pub(crate) items_max: usize,
    /// Their most bytes.
    pub(crate) bytes_max: usize,
    /// Most unreliable items that wait to be sent.
    pub(crate) loose_max: usize,
}

/// As much waits for the other node as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// What a frame brought.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Received {
    /// New items: the numbered ones in order, then the loose ones.
    pub(crate) items: Vec<Item>,
    /// Sent to a life of the other node that is over, and not acknowledged.
    pub(crate) undelivered: Vec<Item>,
    /// The other node has sent something again, or missed something.
    pub(crate) repaired: bool,
}

/// Why a frame is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FrameError {
    /// It is no encoded frame, or has a name or number that cannot be.
    #[error("frame is malformed")]
    Malformed,
    /// It is of a contract that this node does not speak.
    #[error("frame is of another version")]
    Version,
    /// It is of an earlier life of its sender.
    #[error("frame is of a life that is over")]
    Stale,
    /// It was meant for another life of this node.
    #[error("frame was meant for another life of this node")]
    Misdirected,
    /// It acknowledges what was never sent.
    #[error("frame acknowledges what was never sent")]
    Ack,
    /// It comes from more nodes than a cluster may have.
    #[error("frame is from a node too many")]
    TooManyNodes,
}

impl Link {
    pub(crate) fn new(limits: LinkLimits, epoch: u64) -> Self {
        Self {
            limits,
            epoch,
            peer_epoch: None,
            unacked: VecDeque::new(),
            unacked_bytes: 0,
            acked: 0,
            polled: 0,
            sent: 0,
            number_by_topic: BTreeMap::new(),
            loose: VecDeque::new(),
            received: 0,
            ack_due: None,
            is_missing: false,
            unconfirmed: 0,
            is_owed: false,
            resend_at: None,
            resend_delay: RESEND_DELAY_MIN,
            rewound: None,
        }
    }

    /// Keeps an item until the other node has it.
    ///
    /// # Errors
    /// When as much waits as may; the item was not taken.
    pub(crate) fn push(&mut self, item: Item) -> Result<(), Full> {
        let bytes = item.encoded_len();
        if self.unacked.len() >= self.limits.items_max
            || self.unacked_bytes + bytes > self.limits.bytes_max
        {
            return Err(Full);
        }
        self.unacked_bytes += bytes;
        self.unacked.push_back((item, bytes));
        Ok(())
    }

    /// Keeps an item of which only the latest counts, in the place of an older one that was never sent;
    /// whether there was one.
    ///
    /// # Errors
    /// When as much waits as may; the item was not taken.
    pub(crate) fn push_latest(&mut self, topic: LinkTopic, item: Item) -> Result<bool, Full> {
        let bytes = item.encoded_len();
        let number = self.number_by_topic.get(&topic).copied();
        if let Some(number) = number.filter(|number| *number > self.sent)
            && let Ok(index) = usize::try_from(number - self.acked - 1)
            && let Some((old, old_bytes)) = self.unacked.get_mut(index)
        {
            let total = self.unacked_bytes - *old_bytes + bytes;
            if total > self.limits.bytes_max {
                return Err(Full);
            }
            (*old, *old_bytes, self.unacked_bytes) = (item, bytes, total);
            return Ok(true);
        }
        self.push(item)?;
        if self.number_by_topic.len() >= TOPICS_MAX {
            let sent = self.sent;
            self.number_by_topic.retain(|_, number| *number > sent);
        }
        if self.number_by_topic.len() < TOPICS_MAX {
            let number = self.acked + self.unacked.len() as u64;
            self.number_by_topic.insert(topic, number);
        }
        Ok(false)
    }

    /// Queues an item that may get lost; returns how many were dropped for it.
    pub(crate) fn push_loose(&mut self, item: Item) -> u64 {
        let mut dropped = 0;
        if self.loose.len() >= self.limits.loose_max {
            self.loose.pop_front();
            dropped = 1;
        }
        let bytes = item.encoded_len();
        self.loose.push_back((item, bytes));
        dropped
    }

    /// Takes in a frame of the other node. Acts on nothing that is not for this life of both.
    ///
    /// # Errors
    /// When the frame is refused; what it says is void then.
    pub(crate) fn handle_frame(
        &mut self,
        now: Instant,
        frame: Frame,
    ) -> Result<Received, FrameError> {
        let mut received = Received::default();
        match self.peer_epoch {
            Some(known) if frame.epoch < known => return Err(FrameError::Stale),
            Some(known) if frame.epoch > known => {
                received.undelivered = self.begin_anew(Some(frame.epoch));
            }
            Some(_) => {}
            None => self.peer_epoch = Some(frame.epoch),
        }
        if frame.to_epoch != self.epoch {
            // It learns of this life from the answer, and sends what it has to say again.
            self.is_owed = true;
            return match frame.to_epoch {
                0 => Ok(received),
                _ => Err(FrameError::Misdirected),
            };
        }
        self.handle_ack(now, &frame, &mut received)?;
        let (skip, take) = self.window(frame.first, frame.items.len());
        self.owe(now, &frame, (skip, take), &mut received);
        self.received += take as u64;
        let Frame { items, loose, .. } = frame;
        received
            .items
            .extend(items.into_iter().skip(skip).take(take));
        received.items.extend(loose);
        Ok(received)
    }

    /// Begins anew because the other node's life is over; returns what it never acknowledged.
    pub(crate) fn begin_anew(&mut self, peer_epoch: Option<u64>) -> Vec<Item> {
        let fresh = Self {
            peer_epoch,
            ..Self::new(self.limits, self.epoch)
        };
        let old = std::mem::replace(self, fresh);
        old.unacked.into_iter().map(|(item, _)| item).collect()
    }

    /// Sends again what the other node has not acknowledged in time.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.ack_due.is_some_and(|due| due <= now) {
            self.is_owed = true;
        }
        if self.resend_at.is_some_and(|at| at <= now) {
            self.resend_at = None;
            self.polled = 0;
            self.is_owed = true;
            self.resend_delay = (2 * self.resend_delay).min(RESEND_DELAY_MAX);
        }
    }

    /// The next frame for the other node.
    pub(crate) fn poll_frame(&mut self, now: Instant) -> Option<Frame> {
        let mut frame = Frame {
            version: VERSION,
            epoch: self.epoch,
            to_epoch: self.peer_epoch.unwrap_or_default(),
            ack: self.received,
            missing: self.is_missing,
            ..Frame::default()
        };
        if self.peer_epoch.is_some() {
            self.fill(&mut frame);
        } else if self.resend_at.is_none() && !(self.unacked.is_empty() && self.loose.is_empty()) {
            // The other node's life is not known: ask for it.
            self.is_owed = true;
        }
        let is_empty = frame.items.is_empty() && frame.loose.is_empty();
        if is_empty && !self.is_owed {
            return None;
        }
        self.is_owed = false;
        self.is_missing = false;
        self.ack_due = None;
        self.unconfirmed = 0;
        let waits = self.polled > 0 || self.peer_epoch.is_none();
        if waits && self.resend_at.is_none() {
            self.resend_at = Some(now + self.resend_delay);
        }
        Some(frame)
    }

    /// When [`Link::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.ack_due.into_iter().chain(self.resend_at).min()
    }

    /// The other node's life; `None` until it was heard.
    pub(crate) fn peer_epoch(&self) -> Option<u64> {
        self.peer_epoch
    }

    /// Whether nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.unacked.is_empty() && self.loose.is_empty()
    }

    fn fill(&mut self, frame: &mut Frame) {
        let mut room = FRAME_BYTES_MAX;
        frame.first = self.acked + self.polled as u64 + 1;
        while frame.items.len() < FRAME_ITEMS_MAX
            && let Some((item, bytes)) = self.unacked.get(self.polled)
            && (*bytes <= room || frame.items.is_empty())
        {
            room = room.saturating_sub(*bytes);
            frame.items.push(item.clone());
            self.polled += 1;
        }
        self.sent = self.sent.max(self.acked + self.polled as u64);
        if frame.items.is_empty() {
            frame.first = 0;
        }
        while frame.loose.len() < FRAME_ITEMS_MAX
            && let Some((_, bytes)) = self.loose.front()
            && (*bytes <= room || (frame.loose.is_empty() && frame.items.is_empty()))
            && let Some((item, bytes)) = self.loose.pop_front()
        {
            room = room.saturating_sub(bytes);
            frame.loose.push(item);
        }
    }

    fn handle_ack(
        &mut self,
        now: Instant,
        frame: &Frame,
        received: &mut Received,
    ) -> Result<(), FrameError> {
        // Only what was sent can have come; what still waits cannot.
        if frame.ack > self.sent {
            return Err(FrameError::Ack);
        }
        let before = self.acked;
        while self.acked < frame.ack {
            let Some((_, bytes)) = self.unacked.pop_front() else {
                break;
            };
            self.unacked_bytes -= bytes;
            self.acked += 1;
            self.polled = self.polled.saturating_sub(1);
        }
        if self.acked > before {
            self.resend_delay = RESEND_DELAY_MIN;
            self.resend_at = (self.polled > 0).then_some(now + self.resend_delay);
        }
        // Several frames behind one gap ask alike; one answer is enough.
        let is_answered = self
            .rewound
            .is_some_and(|at| now < at + REWIND_INTERVAL && self.acked == before);
        if frame.missing && self.polled > 0 && !is_answered {
            self.polled = 0;
            self.rewound = Some(now);
            received.repaired = true;
        }
        Ok(())
    }

    /// Decides when to acknowledge the items of a frame, of which so many are skipped and taken.
    fn owe(
        &mut self,
        now: Instant,
        frame: &Frame,
        (skip, take): (usize, usize),
        received: &mut Received,
    ) {
        if take == 0 && skip == 0 {
            return;
        }
        if frame.first > self.received + 1 {
            self.is_missing = true;
            self.is_owed = true;
        } else if skip > 0 {
            // The acknowledgement has not come through.
            self.is_owed = true;
            received.repaired = true;
        }
        self.unconfirmed += take;
        if self.unconfirmed >= ACK_ITEMS_MAX {
            self.is_owed = true;
        }
        if take > 0 {
            self.ack_due.get_or_insert(now + ACK_DELAY);
        }
    }

    /// Which of so many items that begin with number `first` are new: how many to skip and to take.
    fn window(&self, first: u64, count: usize) -> (usize, usize) {
        let due = self.received + 1;
        if first == 0 || first > due {
            return (count, 0);
        }
        let skip = usize::try_from(due - first).map_or(count, |skip| skip.min(count));
        (skip, count - skip)
    }
}

/// Topics whose last items are remembered, so that newer ones can take their places.
const TOPICS_MAX: usize = 16_384;

/// How many bytes of items go into one message on the bus; a single larger one goes alone.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// How many items go into one message on the bus.
const FRAME_ITEMS_MAX: usize = 1024;

/// How long a received item may wait for an acknowledgement.
const ACK_DELAY: Duration = Duration::from_millis(20);

/// After how many received items an acknowledgement is due at once.
const ACK_ITEMS_MAX: usize = 256;

/// How long to wait for an acknowledgement, at first and at last.
const RESEND_DELAY_MIN: Duration = Duration::from_millis(200);
const RESEND_DELAY_MAX: Duration = Duration::from_secs(2);

/// How often the same gap has everything after it sent again, at most.
const REWIND_INTERVAL: Duration = Duration::from_millis(50);

#[cfg(test)]
#[path = "link/tests.rs"]
mod tests;
