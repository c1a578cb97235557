//! A user's direct messages.
//!
//! An inbox keeps the last messages, and drops the oldest that were read to make place.
//! It is there once its user has opened it: to others there is nobody to send to before.
//!
//! Copies of what the user has sent itself are kept beside them, and make place for each other alone.
//!
//! Unread messages are never dropped for others: when they fill the inbox, or what one sender may have
//! in it, further messages are refused and their senders told. Messages end by themselves after a month,
//! by a clock that no entry moves by more than a day: a node whose clock is far ahead ends nothing by an entry
//! or two, and an inbox in which nothing happens keeps what it has.

mod entry;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tombolo_wire::UserId;

use crate::word::{MessageId, OperationId, Place, Time};

/// The most messages to its user that an inbox keeps.
pub const LETTERS_MAX: usize = 1000;

/// The most payload bytes of them.
pub const LETTER_BYTES_MAX: usize = 1024 * 1024;

/// The most copies of what its user has sent that an inbox keeps, beside them.
pub const COPIES_MAX: usize = LETTERS_MAX / 2;

/// The most payload bytes of those.
pub const COPY_BYTES_MAX: usize = LETTER_BYTES_MAX / 2;

/// The most unread messages of one sender.
pub const UNREAD_PER_SENDER_MAX: usize = 100;

/// The most bytes of them: a few senders alone must not fill an inbox.
pub const UNREAD_BYTES_PER_SENDER_MAX: usize = LETTER_BYTES_MAX / 8;

/// Longest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024;

/// The most users that one user blocks.
pub const BLOCKED_MAX: usize = 1000;

/// How many messages are recognised when they are sent again: more than are kept.
pub const SEEN_MAX: usize = 2000;

/// How long messages are kept.
pub const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// By how much one entry moves an inbox's clock at most while messages are kept.
pub const CLOCK_STEP_MAX: Duration = Duration::from_secs(24 * 60 * 60);

const _: () = assert!(UNREAD_PER_SENDER_MAX < LETTERS_MAX);
const _: () = assert!(LETTERS_MAX + COPIES_MAX <= SEEN_MAX && PAYLOAD_BYTES_MAX <= COPY_BYTES_MAX);

/// One entry of an inbox's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Finds an entry again that somebody waits for.
    pub operation: OperationId,
    /// The clock of the node that appended it.
    pub time: Time,
    /// What is to change.
    pub body: Body,
}

/// What an entry wants to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The user wants to have messages.
    Opened,
    /// Somebody sends the user a message.
    Sent {
        /// Who.
        from: UserId,
        /// Recognises a message that is sent again.
        id: MessageId,
        /// What.
        payload: Bytes,
        /// `None`: to the inbox's user. Else that has sent it, and this is its copy.
        to: Option<UserId>,
    },
    /// The user has read what came up to a number.
    Read(u64),
    /// The user takes nothing from somebody.
    Blocked(UserId),
    /// The user takes messages from somebody again.
    Unblocked(UserId),
}

/// A message that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// 1, 2, 3, …
    pub number: u64,
    /// When it came.
    pub time: Time,
    /// From whom.
    pub from: UserId,
    /// Its name.
    pub id: MessageId,
    /// What it says.
    pub payload: Bytes,
    /// Of a copy of what the inbox's user has sent: to whom.
    pub to: Option<UserId>,
}

impl Letter {
    fn is_received(&self) -> bool {
        self.to.is_none()
    }

    fn is_copy(&self) -> bool {
        !self.is_received()
    }
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The last message's number then; of a message, its own, or 0 if it came before and is not kept.
    pub number: u64,
    /// The message had been sent before.
    pub is_repeated: bool,
    /// When the message came, or, if it had been sent before, came first.
    pub time: Time,
}

/// Why an entry changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Illegal {
    /// Nobody has opened the inbox yet.
    #[error("there is no such user")]
    NoSuchUser,
    /// The user takes nothing from the sender.
    #[error("user takes no messages from this sender")]
    Blocked,
    /// Unread messages fill the inbox.
    #[error("inbox is full of unread messages")]
    Full,
    /// The sender has as many unread messages there as one may have.
    #[error("inbox has too many unread messages of this sender")]
    SenderFull,
    /// Too many users would be blocked.
    #[error("list of blocked users is full")]
    Limit,
}

/// A user's direct messages; see the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inbox {
    /// The operation that opened it; `None` before.
    epoch: Option<OperationId>,
    /// The latest time of any entry.
    clock: Time,
    /// The oldest first; copies in between may be missing.
    letters: VecDeque<Letter>,
    /// How much of them is to the user.
    received: Amount,
    /// And how much the user has sent.
    copied: Amount,
    last: u64,
    /// The last message to the user that is kept no more.
    lost: u64,
    /// The last copy that is kept no more.
    copy_lost: u64,
    read: u64,
    unread_by_sender: BTreeMap<UserId, Amount>,
    blocked: BTreeSet<UserId>,
    blocks: u64,
    /// The last messages, the oldest first.
    seen: VecDeque<(UserId, MessageId)>,
    seen_at: BTreeMap<(UserId, MessageId), Time>,
}

/// So many messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    letters: usize,
    bytes: usize,
}

impl Amount {
    fn add(&mut self, bytes: usize) {
        self.letters += 1;
        self.bytes += bytes;
    }

    fn take(&mut self, bytes: usize) {
        self.letters -= 1;
        self.bytes -= bytes;
    }

    /// Whether there is place for one more.
    fn has_place(self, bytes: usize, letters_max: usize, bytes_max: usize) -> bool {
        self.letters < letters_max && self.bytes + bytes <= bytes_max
    }
}

impl Inbox {
    /// An inbox whose log has no entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the log's next entry.
    ///
    /// # Errors
    /// When it changes nothing.
    pub fn apply(&mut self, entry: &Entry) -> Result<Done, Illegal> {
        if let Body::Sent { .. } = &entry.body
            && self.epoch.is_none()
        {
            return Err(Illegal::NoSuchUser);
        }
        self.epoch.get_or_insert(entry.operation);
        self.clock = self.clock_after(entry.time);
        self.expire();
        match &entry.body {
            Body::Sent {
                from,
                id,
                payload,
                to,
            } => return self.take_in(from, *id, payload, to.as_ref()),
            Body::Opened => {}
            Body::Read(number) => self.read_up_to(*number),
            Body::Blocked(user) => {
                if self.blocked.len() >= BLOCKED_MAX && !self.blocked.contains(user) {
                    return Err(Illegal::Limit);
                }
                self.blocks += u64::from(self.blocked.insert(user.clone()));
            }
            Body::Unblocked(user) => {
                self.blocks += u64::from(self.blocked.remove(user));
            }
        }
        Ok(Done {
            number: self.last,
            is_repeated: false,
            time: self.clock,
        })
    }

    /// How often the list of blocked users has changed.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The last message; `None` while nobody has opened the inbox.
    #[must_use]
    pub fn last(&self) -> Option<Place> {
        let offset = self.last;
        self.epoch.map(|epoch| Place { epoch, offset })
    }

    /// Up to where the user has read.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read
    }

    /// From whom nothing is taken.
    #[must_use]
    pub fn blocked(&self) -> &BTreeSet<UserId> {
        &self.blocked
    }

    /// The last message to the user of which nothing is known any more; 0 if all are kept.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether all messages after a place are kept, copies too.
    #[must_use]
    pub fn is_recoverable(&self, after: Place) -> bool {
        let lost = self.lost.max(self.copy_lost);
        self.epoch == Some(after.epoch) && (lost..=self.last).contains(&after.offset)
    }

    /// Up to which number another state of the inbox has the same messages, as far as both keep them.
    #[must_use]
    pub fn agreed(&self, other: &Self) -> u64 {
        let last = self.last.min(other.last);
        let mut common = self.letters.iter().filter(|letter| letter.number <= last);
        let is_another = |letter: &&Letter| {
            let theirs = other.letters_after(letter.number.saturating_sub(1)).next();
            theirs.is_some_and(|theirs| theirs.number == letter.number && theirs != *letter)
        };
        common
            .find(is_another)
            .map_or(last, |other| other.number.saturating_sub(1))
    }

    /// The messages after a number that are kept, the oldest first.
    pub fn letters_after(&self, number: u64) -> impl DoubleEndedIterator<Item = &Letter> {
        let skipped = self.letters.partition_point(|kept| kept.number <= number);
        self.letters.range(skipped..)
    }

    /// The messages before a number that are kept, the newest first.
    pub fn letters_before(&self, number: u64) -> impl Iterator<Item = &Letter> {
        let count = self.letters.partition_point(|kept| kept.number < number);
        self.letters.range(..count).rev()
    }

    /// The clock of one node may be wrong by years: it must not end all that is kept.
    fn clock_after(&self, told: Time) -> Time {
        if self.letters.is_empty() {
            return told;
        }
        self.clock.max(told.min(self.clock.after(CLOCK_STEP_MAX)))
    }

    fn take_in(
        &mut self,
        from: &UserId,
        id: MessageId,
        payload: &Bytes,
        to: Option<&UserId>,
    ) -> Result<Done, Illegal> {
        let key = (from.clone(), id);
        if let Some(&time) = self.seen_at.get(&key) {
            let mut kept = self.letters.iter();
            let kept = kept.find(|letter| letter.id == id && letter.from == *from);
            return Ok(Done {
                number: kept.map_or(0, |letter| letter.number),
                is_repeated: true,
                time,
            });
        }
        match to {
            None => {
                for _ in 0..self.place_for(from, payload.len())? {
                    self.drop_oldest(Letter::is_received);
                }
                self.count_unread(from, payload.len());
            }
            Some(_) => self.make_place_for_copy(payload.len()),
        }
        self.last += 1;
        let (number, time) = (self.last, self.clock);
        self.keep(Letter {
            number,
            time,
            from: from.clone(),
            id,
            payload: payload.clone(),
            to: to.cloned(),
        });
        self.remember(key, time);
        Ok(Done {
            number,
            is_repeated: false,
            time,
        })
    }

    /// How much the payloads in it are.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.received.bytes + self.copied.bytes
    }

    /// Whether the user has an inbox and has not blocked somebody.
    ///
    /// # Errors
    /// [`Illegal::NoSuchUser`] and [`Illegal::Blocked`].
    pub fn hears(&self, from: &UserId) -> Result<(), Illegal> {
        if self.epoch.is_none() {
            return Err(Illegal::NoSuchUser);
        }
        if self.blocked.contains(from) {
            return Err(Illegal::Blocked);
        }
        Ok(())
    }

    /// Whether a message would be taken in, as far as the inbox is known here: what is known to be refused
    /// need not be written down.
    ///
    /// # Errors
    /// Why not, as its entry would be told.
    pub fn check(
        &self,
        now: Time,
        from: &UserId,
        id: MessageId,
        bytes: usize,
    ) -> Result<(), Illegal> {
        if self.epoch.is_none() {
            return Err(Illegal::NoSuchUser);
        }
        if self.seen_at.contains_key(&(from.clone(), id)) {
            return Ok(());
        }
        match self.place_for(from, bytes) {
            // The next entry makes place by the time that it brings.
            Err(Illegal::Full | Illegal::SenderFull) if self.is_due(now) => Ok(()),
            place => place.map(drop),
        }
    }

    /// Whether a message has been kept for as long as messages are: the next entry ends it, unless the inbox's clock is
    /// behind by more than [`CLOCK_STEP_MAX`].
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        let expired = now.before(KEPT_FOR);
        let oldest = self.letters.front();
        oldest.is_some_and(|letter| letter.time < expired)
    }

    fn keep(&mut self, letter: Letter) {
        self.amount_of(&letter).add(letter.payload.len());
        self.letters.push_back(letter);
    }

    /// Of what is to the user, or of what it has sent.
    fn amount_of(&mut self, letter: &Letter) -> &mut Amount {
        match letter.is_received() {
            true => &mut self.received,
            false => &mut self.copied,
        }
    }

    /// What the user sends takes no place from what others send it.
    fn make_place_for_copy(&mut self, bytes: usize) {
        while !self.copied.has_place(bytes, COPIES_MAX, COPY_BYTES_MAX) {
            self.drop_oldest(Letter::is_copy);
        }
    }

    /// How many of the oldest, which were read, must go so that there is place.
    fn place_for(&self, from: &UserId, bytes: usize) -> Result<usize, Illegal> {
        if self.blocked.contains(from) {
            return Err(Illegal::Blocked);
        }
        let unread = self.unread_by_sender.get(from).copied().unwrap_or_default();
        if unread.letters >= UNREAD_PER_SENDER_MAX
            || unread.bytes + bytes > UNREAD_BYTES_PER_SENDER_MAX
        {
            return Err(Illegal::SenderFull);
        }
        let mut left = self.received;
        let mut received = self.letters.iter().filter(|kept| kept.is_received());
        while !left.has_place(bytes, LETTERS_MAX, LETTER_BYTES_MAX) {
            let oldest = received.next().filter(|oldest| oldest.number <= self.read);
            left.take(oldest.ok_or(Illegal::Full)?.payload.len());
        }
        Ok(self.received.letters - left.letters)
    }

    fn expire(&mut self) {
        let expired = self.clock.before(KEPT_FOR);
        while self
            .letters
            .front()
            .is_some_and(|oldest| oldest.time < expired)
        {
            self.drop_oldest(|_| true);
        }
    }

    fn drop_oldest(&mut self, which: impl Fn(&Letter) -> bool) {
        let at = self.letters.iter().position(which);
        let Some(oldest) = at.and_then(|at| self.letters.remove(at)) else {
            return;
        };
        self.amount_of(&oldest).take(oldest.payload.len());
        if oldest.is_copy() {
            self.copy_lost = oldest.number;
            return;
        }
        self.lost = oldest.number;
        if oldest.number > self.read {
            self.count_read(&oldest.from, oldest.payload.len());
        }
    }

    fn read_up_to(&mut self, number: u64) {
        let number = number.min(self.last);
        if number <= self.read {
            return;
        }
        let read = self.letters_after(self.read);
        let read = read.take_while(|letter| letter.number <= number);
        let read = read.filter(|letter| letter.is_received());
        let read: Vec<_> = read
            .map(|letter| (letter.from.clone(), letter.payload.len()))
            .collect();
        for (sender, bytes) in read {
            self.count_read(&sender, bytes);
        }
        self.read = number;
    }

    fn count_unread(&mut self, from: &UserId, bytes: usize) {
        let unread = self.unread_by_sender.entry(from.clone()).or_default();
        unread.add(bytes);
    }

    fn count_read(&mut self, from: &UserId, bytes: usize) {
        if let Some(unread) = self.unread_by_sender.get_mut(from) {
            unread.take(bytes);
            if unread.letters == 0 {
                self.unread_by_sender.remove(from);
            }
        }
    }

    fn remember(&mut self, key: (UserId, MessageId), time: Time) {
        if self.seen.len() >= SEEN_MAX
            && let Some(oldest) = self.seen.pop_front()
        {
            self.seen_at.remove(&oldest);
        }
        self.seen.push_back(key.clone());
        self.seen_at.insert(key, time);
    }
}
