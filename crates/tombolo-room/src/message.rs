//! Durable messages and how long they are kept.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use tombolo_wire::{RELIABLE_BYTES_MAX, UserId};

use crate::event::By;
use crate::word::{GroupId, Time};

/// Largest payload of a durable message, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = RELIABLE_BYTES_MAX;

/// The most durable messages that a room keeps.
pub const HISTORY_MAX: usize = 1_000;

/// The most bytes of durable messages that a room keeps.
pub const HISTORY_BYTES_MAX: usize = 1024 * 1024;

/// A durable message, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// 1, 2, 3, … while the room is open, whoever they are for.
    pub number: u64,
    /// The room's clock when it was said.
    pub time: Time,
    /// Who said it: a member or a server.
    pub from: By,
    /// For whom.
    pub audience: Audience,
    /// What.
    pub payload: Bytes,
}

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody, the sender included.
    All,
    /// Everybody else.
    Others,
    /// These.
    Users(Vec<UserId>),
    /// Those of a group, the sender included if it is in it.
    Group(GroupId),
}

/// The last messages, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    messages: VecDeque<Message>,
    bytes: usize,
    /// The number of the last one that was said.
    pub(crate) last: u64,
}

impl Message {
    /// Whether a member that is in these groups gets it.
    #[must_use]
    pub fn is_for(&self, user: &UserId, groups: &BTreeSet<GroupId>) -> bool {
        match &self.audience {
            Audience::All => true,
            Audience::Others => !self.is_from(user),
            Audience::Users(users) => users.contains(user),
            Audience::Group(group) => groups.contains(group),
        }
    }

    fn is_from(&self, user: &UserId) -> bool {
        matches!(&self.from, By::Member(from) if from == user)
    }

    fn cost(&self) -> usize {
        let users = match &self.audience {
            Audience::Users(users) => users.iter().map(|user| user.as_str().len()).sum(),
            Audience::All | Audience::Others | Audience::Group(_) => 0,
        };
        self.payload.len() + users + MESSAGE_OVERHEAD
    }
}

impl History {
    pub(crate) fn restore(messages: VecDeque<Message>, last: u64) -> Self {
        let bytes = messages.iter().map(Message::cost).sum();
        Self {
            messages,
            bytes,
            last,
        }
    }

    pub(crate) fn push(&mut self, message: Message, messages_max: usize) {
        self.last = message.number;
        self.bytes += message.cost();
        self.messages.push_back(message);
        self.trim(messages_max);
    }

    /// Forgets the oldest until the rest is within bounds.
    pub(crate) fn trim(&mut self, messages_max: usize) {
        while self.messages.len() > messages_max || self.bytes > HISTORY_BYTES_MAX {
            let Some(oldest) = self.messages.pop_front() else {
                break;
            };
            self.bytes -= oldest.cost();
        }
    }

    pub(crate) fn messages(&self) -> impl DoubleEndedIterator<Item = &Message> {
        self.messages.iter()
    }

    /// Whether all that was said after that number is still here.
    pub(crate) fn reaches_back_to(&self, number: u64) -> bool {
        let first = self
            .messages
            .front()
            .map_or(self.last + 1, |message| message.number);
        first <= number.saturating_add(1) && number <= self.last
    }
}

/// What a message takes beside its payload.
const MESSAGE_OVERHEAD: usize = 96;
