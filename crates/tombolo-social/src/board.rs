//! What servers tell many users at once: notices, numbered, each until it expires.
//!
//! A board knows nothing of who reads it: each reader keeps its own place and is told what follows. So
//! a notice costs one entry, however many users it is for, and whoever was away is told it once.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message as _;

use crate::generated as wire;
use crate::word::{EntryError, MessageId, OperationId, Place, SnapshotError, Time, VERSION, array};

/// Longest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024;

/// Notices that are kept.
pub const NOTICES_MAX: usize = 1000;

/// Bytes that are kept, payloads alone.
pub const NOTICE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One entry of a board's log: a server tells something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Finds an entry again that somebody waits for.
    pub operation: OperationId,
    /// The clock of the node that appended it.
    pub time: Time,
    /// Nobody needs to be told after this.
    pub expires: Time,
    /// Recognises a notice that is sent again.
    pub id: MessageId,
    /// What.
    pub payload: Bytes,
}

/// A notice that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// 1, 2, 3, …
    pub number: u64,
    /// When it was taken.
    pub time: Time,
    /// Nobody needs to be told after this.
    pub expires: Time,
    /// Its name.
    pub id: MessageId,
    /// What it says.
    pub payload: Bytes,
}

/// Where a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its number.
    pub number: u64,
    /// It had been sent before.
    pub is_repeated: bool,
}

/// Notices; see the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Board {
    /// The operation that began it; `None` before.
    epoch: Option<OperationId>,
    last: u64,
    /// The last notice that had to make place before it expired.
    lost: u64,
    /// The oldest first.
    notices: VecDeque<Notice>,
    bytes: usize,
}

impl Entry {
    /// The bytes to append.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let entry = wire::BoardEntry {
            version: VERSION,
            operation: Bytes::copy_from_slice(&self.operation.0),
            time_ms: self.time.as_millis(),
            expires_ms: self.expires.as_millis(),
            id: Bytes::copy_from_slice(&self.id.0),
            payload: self.payload.clone(),
        };
        entry.encode_to_vec().into()
    }

    /// Reads appended bytes.
    ///
    /// # Errors
    /// When they are no entry; every node of this version says the same.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let entry = wire::BoardEntry::decode(bytes).map_err(|_| EntryError::Malformed)?;
        if entry.version != VERSION {
            let version = entry.version;
            return Err(EntryError::Version { version });
        }
        if entry.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(EntryError::TooLong);
        }
        Ok(Self {
            operation: OperationId(array(&entry.operation)?),
            time: Time::from_millis(entry.time_ms),
            expires: Time::from_millis(entry.expires_ms),
            id: MessageId(array(&entry.id)?),
            payload: entry.payload,
        })
    }
}

impl Board {
    /// A board whose log has no entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the log's next entry.
    pub fn apply(&mut self, entry: &Entry) -> Done {
        let known = self.notices.iter().find(|notice| notice.id == entry.id);
        if let Some(known) = known {
            return Done {
                number: known.number,
                is_repeated: true,
            };
        }
        self.epoch.get_or_insert(entry.operation);
        self.last += 1;
        self.bytes += entry.payload.len();
        self.notices.push_back(Notice {
            number: self.last,
            time: entry.time,
            expires: entry.expires,
            id: entry.id,
            payload: entry.payload.clone(),
        });
        while self.notices.len() > NOTICES_MAX || self.bytes > NOTICE_BYTES_MAX {
            self.drop_oldest(entry.time);
        }
        Done {
            number: self.last,
            is_repeated: false,
        }
    }

    /// The last notice; `None` before the first.
    #[must_use]
    pub fn last(&self) -> Option<Place> {
        let offset = self.last;
        self.epoch.map(|epoch| Place { epoch, offset })
    }

    /// The last notice that is not known any more although it has not expired; 0 if there is none.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether everything after a place is known that has not expired.
    #[must_use]
    pub fn is_recoverable(&self, after: Place) -> bool {
        self.epoch == Some(after.epoch) && (self.lost..=self.last).contains(&after.offset)
    }

    /// Up to which number another state of the board has the same notices, as far as both keep them.
    #[must_use]
    pub fn agreed(&self, other: &Self) -> u64 {
        if self.epoch != other.epoch {
            return 0;
        }
        let last = self.last.min(other.last);
        let mut common = self.notices.iter().filter(|notice| notice.number <= last);
        let is_another = |notice: &&Notice| {
            let theirs = other.notices_after(notice.number.saturating_sub(1)).next();
            theirs.is_some_and(|theirs| theirs.number == notice.number && theirs != *notice)
        };
        common
            .find(is_another)
            .map_or(last, |notice| notice.number.saturating_sub(1))
    }

    /// The notices after a number, the oldest first.
    pub fn notices_after(&self, number: u64) -> impl Iterator<Item = &Notice> {
        let first = self
            .notices
            .partition_point(|notice| notice.number <= number);
        self.notices.range(first..)
    }

    /// How much the payloads on it are.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The whole board as bytes: equal boards give equal bytes.
    #[must_use]
    pub fn snapshot(&self) -> Bytes {
        let epoch = self.epoch.as_ref();
        let notices = self.notices.iter().map(|notice| wire::Notice {
            number: notice.number,
            time_ms: notice.time.as_millis(),
            expires_ms: notice.expires.as_millis(),
            id: Bytes::copy_from_slice(&notice.id.0),
            payload: notice.payload.clone(),
        });
        let snapshot = wire::BoardSnapshot {
            version: VERSION,
            epoch: epoch.map_or_else(Bytes::new, |epoch| Bytes::copy_from_slice(&epoch.0)),
            last: self.last,
            lost: self.lost,
            notices: notices.collect(),
        };
        snapshot.encode_to_vec().into()
    }

    /// Takes a board out of a snapshot.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn restore(snapshot: &[u8]) -> Result<Self, SnapshotError> {
        let snapshot = wire::BoardSnapshot::decode(snapshot).map_err(|_| SnapshotError)?;
        if snapshot.version != VERSION {
            return Err(SnapshotError);
        }
        restore(snapshot).map_err(|_| SnapshotError)
    }

    fn drop_oldest(&mut self, now: Time) {
        if let Some(oldest) = self.notices.pop_front() {
            self.bytes -= oldest.payload.len();
            if oldest.expires > now {
                self.lost = oldest.number;
            }
        }
    }
}

fn restore(snapshot: wire::BoardSnapshot) -> Result<Board, EntryError> {
    let epoch = match snapshot.epoch.len() {
        0 => None,
        _ => Some(OperationId(array(&snapshot.epoch)?)),
    };
    let mut board = Board {
        epoch,
        last: snapshot.last,
        lost: snapshot.lost,
        ..Board::default()
    };
    let mut before = 0;
    for notice in snapshot.notices {
        let is_in_order = (before + 1..=snapshot.last).contains(&notice.number);
        if !is_in_order || notice.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(EntryError::Malformed);
        }
        before = notice.number;
        board.bytes += notice.payload.len();
        board.notices.push_back(Notice {
            number: notice.number,
            time: Time::from_millis(notice.time_ms),
            expires: Time::from_millis(notice.expires_ms),
            id: MessageId(array(&notice.id)?),
            payload: notice.payload,
        });
    }
    let is_full = board.notices.len() > NOTICES_MAX || board.bytes > NOTICE_BYTES_MAX;
    if is_full || board.lost > board.last || (epoch.is_none() && board.last > 0) {
        return Err(EntryError::Malformed);
    }
    Ok(board)
}
