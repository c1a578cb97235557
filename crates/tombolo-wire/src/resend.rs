//! What lets a session outlive its connection: [`Outbox`] and [`Inbox`], one pair on each side.
//!
//! The sender numbers reliable frames 1, 2, 3, … and keeps each until the receiver has acknowledged
//! it. A connection is ordered and either delivers or breaks. After it broke, both sides tell in
//! `Hello` and `Welcome` what they have received, and send the rest again:
//!
//! 1. [`Outbox::push`] a frame, then drain [`Outbox::poll_frame`] to the connection;
//! 2. each received frame: [`Outbox::handle_ack`] its `ack`, tell [`Inbox::handle_size`] of it and
//!    [`Inbox::handle_frame`] its `seq`, and act on [`Receipt::Fresh`] only;
//! 3. each frame that is sent carries [`Inbox::take_ack`]; when [`Inbox::poll_timeout`] has come,
//!    send an `Ack` frame;
//! 4. on a new connection: [`Outbox::handle_ack`] with the other side's word, then
//!    [`Outbox::rewind`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::frame::Frame;

/// How long a received reliable frame may wait for an acknowledgement: one that goes by itself costs as
/// much as a frame, so it is worth waiting for others, or for a frame that carries it.
pub const ACK_DELAY_MAX: Duration = Duration::from_millis(500);

/// After how many received reliable frames an acknowledgement is due at once.
pub const ACK_FRAMES_MAX: u64 = 32;

/// After how much in received reliable frames, encoded, an acknowledgement is due at once: whoever sends
/// large ones must not have to wait for it.
pub const ACK_WAITING_BYTES_MAX: usize = 64 * 1024;

/// What the acknowledgement that a frame is sent with adds to it, in bytes.
const ACK_BYTES_MAX: usize = 11;

/// So many frames wait for a session by default.
pub const FRAMES_MAX: usize = 4096;

/// The bounds of an [`Outbox`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most frames that are not acknowledged.
    pub frames_max: usize,
    /// Most encoded bytes of frames that are not acknowledged.
    pub bytes_max: usize,
}

impl Default for Limits {
    /// [`FRAMES_MAX`] frames, 4 MiB.
    fn default() -> Self {
        Self {
            frames_max: FRAMES_MAX,
            bytes_max: 4 * 1024 * 1024,
        }
    }
}

/// The reliable frames of one direction that the other side has not acknowledged.
#[derive(Clone, Debug)]
pub struct Outbox<F> {
    limits: Limits,
    /// In order, each with its encoded size; their numbers are `acked + 1 ..= last`.
    unacked: VecDeque<(F, usize)>,
    unacked_bytes: usize,
    /// Highest number that the other side has received.
    acked: u64,
    /// How many of `unacked`, from the front, this connection has taken.
    polled: usize,
}

impl<F: Frame> Outbox<F> {
    /// Starts a direction.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            unacked: VecDeque::new(),
            unacked_bytes: 0,
            acked: 0,
            polled: 0,
        }
    }

    /// Goes on with a direction of which the other side has received everything up to `acked`.
    #[must_use]
    pub fn after(limits: Limits, acked: u64) -> Self {
        Self {
            acked,
            ..Self::new(limits)
        }
    }

    /// Gives a frame its number and keeps it until it is acknowledged. Returns the number.
    ///
    /// # Errors
    /// When as much as the limits allow waits already, or no connection carries such a frame; the
    /// frame was not taken.
    pub fn push(&mut self, frame: F) -> Result<u64, Overflow> {
        self.push_within(frame, self.limits)
    }

    /// The same for a frame that must leave half of the limits to others.
    ///
    /// # Errors
    /// When half of what the limits allow waits already, or no connection carries such a frame; the
    /// frame was not taken.
    pub fn push_sparing(&mut self, frame: F) -> Result<u64, Overflow> {
        let half = Limits {
            frames_max: self.limits.frames_max / 2,
            bytes_max: self.limits.bytes_max / 2,
        };
        self.push_within(frame, half)
    }

    fn push_within(&mut self, mut frame: F, limits: Limits) -> Result<u64, Overflow> {
        let seq = self.last() + 1;
        frame.set_seq(seq);
        let bytes = frame.encoded_len();
        if bytes > F::BYTES_MAX - ACK_BYTES_MAX {
            return Err(Overflow::Frame { bytes });
        }
        if self.unacked.len() >= limits.frames_max {
            return Err(Overflow::Frames {
                frames_max: limits.frames_max,
            });
        }
        if self.unacked_bytes + bytes > limits.bytes_max {
            return Err(Overflow::Bytes {
                bytes_max: limits.bytes_max,
            });
        }
        self.unacked_bytes += bytes;
        self.unacked.push_back((frame, bytes));
        Ok(seq)
    }

    /// Forgets what the other side has received, up to and including `ack`.
    ///
    /// # Errors
    /// When it acknowledges what was never sent; nothing is forgotten then.
    pub fn handle_ack(&mut self, ack: u64) -> Result<(), AckError> {
        if ack > self.last() {
            return Err(AckError {
                ack,
                sent: self.last(),
            });
        }
        while self.acked < ack {
            let (_, bytes) = self
                .unacked
                .pop_front()
                .expect("`unacked` reaches up to `last`");
            self.unacked_bytes -= bytes;
            self.acked += 1;
            self.polled = self.polled.saturating_sub(1);
        }
        Ok(())
    }

    /// Starts a new connection: everything that is not acknowledged is to be sent on it.
    pub fn rewind(&mut self) {
        self.polled = 0;
    }

    /// The next frame for this connection. Its `ack` is for the caller to set.
    #[must_use]
    pub fn poll_frame(&mut self) -> Option<F> {
        let (frame, _) = self.unacked.get(self.polled)?;
        self.polled += 1;
        Some(frame.clone())
    }

    /// Whether [`Outbox::poll_frame`] has a frame.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.polled < self.unacked.len()
    }

    /// The number of the last frame that was pushed; 0 before the first.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.acked + self.unacked.len() as u64
    }

    /// The number up to which the other side has received everything.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// The frames that are not acknowledged and have a greater number.
    pub fn after_number(&self, number: u64) -> impl Iterator<Item = &F> {
        let skip = usize::try_from(number.saturating_sub(self.acked)).unwrap_or(usize::MAX);
        self.unacked.iter().skip(skip).map(|(frame, _)| frame)
    }

    /// How many frames are not acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.unacked.len()
    }

    /// Whether everything is acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unacked.is_empty()
    }

    /// The encoded size of the frames that are not acknowledged.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.unacked_bytes
    }
}

/// What of the other direction has been received.
#[derive(Clone, Debug, Default)]
pub struct Inbox {
    /// Highest number received; none below it is missing.
    received: u64,
    /// Highest number that was acknowledged.
    acked: u64,
    /// When the oldest frame that is not acknowledged came; `None` when all are.
    waiting_since: Option<Instant>,
    /// How much there is in frames that are not acknowledged, as far as it was told.
    waiting_bytes: usize,
}

impl Inbox {
    /// Starts a direction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on with a direction of which everything up to `received` has come.
    #[must_use]
    pub fn after(received: u64) -> Self {
        Self {
            received,
            acked: received,
            ..Self::default()
        }
    }

    /// Takes note of a received frame's `seq`.
    ///
    /// # Errors
    /// When frames before it are missing: the other side breaks the contract, because a connection
    /// is ordered.
    pub fn handle_frame(&mut self, now: Instant, seq: u64) -> Result<Receipt, Gap> {
        if seq == 0 {
            return Ok(Receipt::Fresh);
        }
        if seq > self.received + 1 {
            return Err(Gap {
                expected: self.received + 1,
                seq,
            });
        }
        self.waiting_since.get_or_insert(now);
        if seq <= self.received {
            // Whoever repeats a frame has not seen the acknowledgement.
            self.acked = self.acked.min(seq - 1);
            return Ok(Receipt::Repeated);
        }
        self.received = seq;
        Ok(Receipt::Fresh)
    }

    /// Takes note of how large a received frame is.
    pub fn handle_size(&mut self, frame: &impl Frame) {
        if frame.seq() > 0 {
            self.waiting_bytes = self.waiting_bytes.saturating_add(frame.encoded_len());
        }
    }

    /// When an acknowledgement must be on its way; `None` when none is owed.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let since = self.waiting_since?;
        let many = self.received - self.acked >= ACK_FRAMES_MAX
            || self.waiting_bytes >= ACK_WAITING_BYTES_MAX;
        Some(if many { since } else { since + ACK_DELAY_MAX })
    }

    /// The acknowledgement for a frame that is being sent now; none is owed after.
    #[must_use]
    pub fn take_ack(&mut self) -> u64 {
        self.waiting_since = None;
        self.waiting_bytes = 0;
        self.acked = self.received;
        self.received
    }

    /// Highest number received; none below it is missing.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }
}

/// What a received frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Not seen before: act on it.
    Fresh,
    /// Seen before, sent again after a resume: ignore it.
    Repeated,
}

/// A frame does not fit into an [`Outbox`] any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overflow {
    /// The frame is larger than [`Frame::BYTES_MAX`]: it can never be sent.
    #[error("a frame of {bytes} bytes is larger than any connection carries")]
    Frame {
        /// The frame's encoded size.
        bytes: usize,
    },
    /// Too many frames wait.
    #[error("{frames_max} frames wait for an acknowledgement")]
    Frames {
        /// The limit.
        frames_max: usize,
    },
    /// Too many bytes wait.
    #[error("{bytes_max} bytes wait for an acknowledgement")]
    Bytes {
        /// The limit.
        bytes_max: usize,
    },
}

/// The other side acknowledged what was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame {ack} was acknowledged, but only {sent} were sent")]
pub struct AckError {
    /// What was acknowledged.
    pub ack: u64,
    /// What was sent.
    pub sent: u64,
}

/// The other side left out frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame {seq} came where {expected} was expected")]
pub struct Gap {
    /// The number that was due.
    pub expected: u64,
    /// The number that came.
    pub seq: u64,
}
