//! What a device sent and got.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Which kind of message a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Reliable, by way of the nodes.
    Plain,
    /// Kept in the room's log.
    Durable,
    /// Unreliable, and often.
    Fast,
}

/// What a payload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) kind: Kind,
    pub(crate) bot: u32,
    pub(crate) number: u64,
}

impl Note {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = vec![self.kind as u8];
        bytes.extend(self.bot.to_be_bytes());
        bytes.extend(self.number.to_be_bytes());
        bytes.resize(PAYLOAD, 0);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let kind = match bytes.first()? {
            0 => Kind::Plain,
            1 => Kind::Durable,
            2 => Kind::Fast,
            _ => return None,
        };
        let bot = u32::from_be_bytes(bytes.get(1..5)?.try_into().ok()?);
        let number = u64::from_be_bytes(bytes.get(5..13)?.try_into().ok()?);
        Some(Self { kind, bot, number })
    }
}

/// What came of one sender's messages at one receiver.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    next: u64,
    missing: BTreeSet<u64>,
    pub(crate) received: u64,
    pub(crate) repeated: u64,
    pub(crate) reordered: u64,
}

impl Stream {
    pub(crate) fn take(&mut self, number: u64) {
        if number >= self.next {
            self.missing.extend(self.next..number);
            self.next = number + 1;
            self.received += 1;
        } else if self.missing.remove(&number) {
            self.received += 1;
            self.reordered += 1;
        } else {
            self.repeated += 1;
        }
    }

    /// How many of those numbers up to `sent` that `counts` never came.
    pub(crate) fn lost(&self, sent: u64, mut counts: impl FnMut(u64) -> bool) -> u64 {
        let missing = self.missing.iter().copied().chain(self.next..sent);
        missing.filter(|number| counts(*number)).count() as u64
    }
}

/// What a device sent and got.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// How many it sent of each kind.
    pub(crate) sent: BTreeMap<Kind, u64>,
    /// Numbers whose sending failed, or of which nobody knows.
    pub(crate) failed: BTreeMap<Kind, BTreeSet<u64>>,
    /// Durable messages that were refused.
    pub(crate) not_kept: BTreeSet<u64>,
    /// Durable messages of which nobody knows.
    pub(crate) unsure: BTreeSet<u64>,
    /// Durable messages that were acknowledged: our number, and the room's.
    pub(crate) kept: Vec<(u64, u64)>,
    /// By sender.
    pub(crate) streams: BTreeMap<(Kind, u32), Stream>,
    /// The room's number of the last durable message that came, and how many came out of order.
    pub(crate) last_kept: u64,
    pub(crate) kept_reordered: u64,
    /// When the session was on another connection, and which node it was on.
    pub(crate) connected: Vec<(Instant, String, bool)>,
    /// When the room was known again.
    pub(crate) synced: Vec<Instant>,
    /// Times at which the application saw something of a disconnect.
    pub(crate) disconnects: Vec<String>,
    /// Why messages were refused.
    pub(crate) refused: BTreeMap<String, u64>,
    /// The last fast message, and the longest silences: when each ended, and how long it was.
    last_fast: Option<Instant>,
    pub(crate) silences: Vec<(Instant, Duration)>,
    /// How long durable messages took to be acknowledged: when, and how long.
    pub(crate) waits: Vec<(Instant, Duration)>,
    /// How long they took to be refused.
    pub(crate) refusal_waits: Vec<(Instant, Duration)>,
}

pub(crate) type Shared = Arc<Mutex<Record>>;

impl Record {
    pub(crate) fn sends(&mut self, kind: Kind) -> u64 {
        let sent = self.sent.entry(kind).or_default();
        *sent += 1;
        *sent - 1
    }

    /// Messages of all kinds that came.
    pub(crate) fn received(&self) -> u64 {
        self.streams.values().map(|stream| stream.received).sum()
    }

    pub(crate) fn takes(&mut self, note: Note, now: Instant) {
        self.streams
            .entry((note.kind, note.bot))
            .or_default()
            .take(note.number);
        if note.kind == Kind::Fast
            && let Some(last) = self.last_fast.replace(now)
        {
            self.silences.push((now, now - last));
        }
    }
}

pub(crate) fn lock(record: &Shared) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of a message.
const PAYLOAD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let note = Note {
            kind: Kind::Durable,
            bot: 7,
            number: 1 << 40,
        };
        assert_eq!(Note::decode(&note.encode()), Some(note));
        assert_eq!(Note::decode(&[9; 64]), None);
    }

    #[test]
    fn a_stream_tells_lost_from_late_and_repeated() {
        let mut stream = Stream::default();
        for number in [0, 1, 4, 3, 4] {
            stream.take(number);
        }
        assert_eq!((stream.reordered, stream.repeated), (1, 1));
        assert_eq!(stream.lost(6, |_| true), 2);
        assert_eq!(stream.lost(6, |number| number != 2), 1);
    }
}
