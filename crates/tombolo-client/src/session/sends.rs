//! Messages to rooms: which of them the node may still refuse, and which wait for their room.
//!
//! A new session is in no room until the device has been let in again. What is said meanwhile waits here,
//! and so does what never left the device while the old session had no connection. It follows in order
//! once the device is in, if that is still the room that it was meant for.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tombolo_wire::resend::Outbox;
use tombolo_wire::v1::{ClientFrame, ErrorCode, Joined, Refused, Send, client_frame};

use super::OUTBOX;
use crate::error::Error;

/// So many messages are remembered in case they are refused: more than wait for an acknowledgement.
const SENT_MAX: usize = OUTBOX.frames_max;
/// What may wait for rooms: as much as may wait for the node in messages.
const WAITING_MAX: usize = OUTBOX.frames_max / 2;
const WAITING_BYTES_MAX: usize = OUTBOX.bytes_max / 2;

/// Messages that have not arrived, or of which that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsent {
    pub(crate) room: String,
    /// As the application knows them.
    pub(crate) numbers: Vec<u64>,
    /// `None` when the session was lost, or is over.
    pub(crate) code: Option<ErrorCode>,
    pub(crate) reason: String,
}

/// The messages of a session that may still be refused, and those that wait for their rooms.
#[derive(Debug, Default)]
pub(super) struct Sends {
    /// The oldest first.
    sent: VecDeque<Sent>,
    place_by_room: BTreeMap<String, Place>,
    waiting: usize,
    waiting_bytes: usize,
}

/// A message that is in a frame.
#[derive(Debug)]
struct Sent {
    seq: u64,
    number: u64,
    room: String,
}

/// A room that the device is in, or was in when the last session was lost.
#[derive(Debug, Default)]
struct Place {
    /// Which of all that have had its name.
    opening: Bytes,
    is_in: bool,
    waiting: Waiting,
}

/// In order, each with its number.
type Waiting = VecDeque<(u64, Send)>;

impl Sends {
    /// A message is on its way in a frame.
    pub(super) fn handle_pushed(&mut self, seq: u64, number: u64, room: String) {
        self.sent.push_back(Sent { seq, number, room });
        if self.sent.len() > SENT_MAX {
            self.sent.pop_front();
        }
    }

    /// Whether the device has still to be let into the room again.
    pub(super) fn must_wait(&self, room: &str) -> bool {
        let place = self.place_by_room.get(room);
        place.is_some_and(|place| !place.is_in)
    }

    /// Keeps a message until the device is in its room again.
    pub(super) fn wait(&mut self, number: u64, message: Send) -> Result<(), Error> {
        let bytes = self.waiting_bytes + message.payload.len();
        if self.waiting >= WAITING_MAX || bytes > WAITING_BYTES_MAX {
            return Err(Error::full("it has to let the device into its rooms again"));
        }
        self.keep(number, message);
        Ok(())
    }

    /// The device is in a room: returns what has waited for that, unless it was for another room of that
    /// name.
    pub(super) fn handle_joined(&mut self, joined: &Joined) -> Result<Waiting, Unsent> {
        let last = joined.last.as_ref();
        let place = Place {
            opening: last.map_or_else(Bytes::new, |last| last.opening.clone()),
            is_in: true,
            waiting: Waiting::new(),
        };
        let opening = place.opening.clone();
        let before = self.place_by_room.insert(joined.room.clone(), place);
        let before = before.unwrap_or_default();
        self.release(&before.waiting);
        if before.opening == opening || before.waiting.is_empty() {
            return Ok(before.waiting);
        }
        Err(Unsent {
            room: joined.room.clone(),
            numbers: numbers(&before.waiting),
            code: Some(ErrorCode::NotAMember),
            reason: "the room has closed, and another has its name".to_owned(),
        })
    }

    /// The device is not in a room any more: returns the numbers of what has waited for it.
    pub(super) fn handle_left(&mut self, room: &str) -> Vec<u64> {
        let place = self.place_by_room.remove(room).unwrap_or_default();
        self.release(&place.waiting);
        numbers(&place.waiting)
    }

    /// The node has refused a frame; `None` when that was no message, or is not known any more.
    pub(super) fn handle_refused(&self, refused: &Refused) -> Option<Unsent> {
        let sent = find(&self.sent, refused.seq)?;
        Some(Unsent {
            room: sent.room.clone(),
            numbers: vec![sent.number],
            code: Some(refused.code()),
            reason: refused.message.clone(),
        })
    }

    /// The session is lost; frames up to `left` were given to connections. Returns what goes on in the next
    /// session, and of what it is not known whether it has arrived.
    pub(super) fn handle_lost(
        mut self,
        outbox: &Outbox<ClientFrame>,
        left: u64,
    ) -> (Self, Vec<Unsent>) {
        let was_sent = std::mem::take(&mut self.sent);
        let mut next = self;
        for place in next.place_by_room.values_mut() {
            place.is_in = false;
        }
        let mut lost = BTreeMap::<_, Vec<_>>::new();
        for frame in outbox.after_number(outbox.acked()) {
            let Some(client_frame::Body::Send(message)) = &frame.body else {
                continue;
            };
            let Some(sent) = find(&was_sent, frame.seq) else {
                continue;
            };
            if frame.seq > left && next.must_wait(&message.room) {
                next.keep(sent.number, message.clone());
            } else {
                lost.entry(&sent.room).or_default().push(sent.number);
            }
        }
        let lost = lost.into_iter().map(|(room, numbers)| Unsent {
            room: room.clone(),
            numbers,
            code: None,
            reason: "the session was lost before the node had acknowledged it".to_owned(),
        });
        (next, lost.collect())
    }

    /// The session is over, and there is no other.
    pub(super) fn handle_over(self, outbox: &Outbox<ClientFrame>, left: u64) -> Vec<Unsent> {
        let (waiting, mut unsent) = self.handle_lost(outbox, left);
        let waiting = waiting.place_by_room.into_iter();
        let waiting = waiting.filter(|(_, place)| !place.waiting.is_empty());
        unsent.extend(waiting.map(|(room, place)| Unsent {
            room,
            numbers: numbers(&place.waiting),
            code: None,
            reason: "the session ended before it was sent".to_owned(),
        }));
        unsent
    }

    fn keep(&mut self, number: u64, message: Send) {
        self.waiting += 1;
        self.waiting_bytes += message.payload.len();
        let place = self.place_by_room.entry(message.room.clone()).or_default();
        place.waiting.push_back((number, message));
    }

    fn release(&mut self, waiting: &Waiting) {
        self.waiting -= waiting.len();
        let bytes = waiting.iter().map(|(_, message)| message.payload.len());
        self.waiting_bytes -= bytes.sum::<usize>();
    }
}

fn find(sent: &VecDeque<Sent>, seq: u64) -> Option<&Sent> {
    let at = sent.binary_search_by_key(&seq, |sent| sent.seq).ok()?;
    sent.get(at)
}

fn numbers(waiting: &Waiting) -> Vec<u64> {
    waiting.iter().map(|(number, _)| *number).collect()
}
