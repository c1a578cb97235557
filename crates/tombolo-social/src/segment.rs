//! A part of something that many read: so many posts, one after the other.
//!
//! What a group has said may be long without end, so it has no snapshot, which would grow with it. It
//! is cut into segments instead, each a log of its own that takes [`POSTS_MAX`] posts and then no more:
//! writers go on to the next, readers of old posts read the segments that they need.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::UserId;

use crate::generated as wire;
use crate::word::{EntryError, MessageId, OperationId, Time, VERSION, array, parse_user};

/// How many posts a segment takes.
pub const POSTS_MAX: usize = 256;

/// Longest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024;

/// What a post counts beside its payload.
pub const POST_BYTES: usize = 128;

/// The most that a segment holds.
pub const SEGMENT_BYTES_MAX: usize = POSTS_MAX * (PAYLOAD_BYTES_MAX + POST_BYTES);

/// One entry of a segment's log: somebody posts something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Finds an entry again that somebody waits for.
    pub operation: OperationId,
    /// The clock of the node that appended it.
    pub time: Time,
    /// Who; `None` for a server.
    pub from: Option<UserId>,
    /// Recognises a post that is sent again.
    pub id: MessageId,
    /// What.
    pub payload: Bytes,
}

/// A post that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// When; later posts of a segment have no earlier times.
    pub time: Time,
    /// Who; `None` for a server.
    pub from: Option<UserId>,
    /// Its name.
    pub id: MessageId,
    /// What.
    pub payload: Bytes,
}

/// Where a post is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its place in the segment, from 0.
    pub index: usize,
    /// When it was taken.
    pub time: Time,
    /// It had been posted before.
    pub is_repeated: bool,
}

/// Why an entry changes nothing: the segment is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("segment is full")]
pub struct Full;

/// So many posts; see the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    posts: Vec<Post>,
    index_by_id: BTreeMap<(Option<UserId>, MessageId), usize>,
}

impl Segment {
    /// A segment whose log has no entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the log's next entry.
    ///
    /// # Errors
    /// When it is not here, nor will be.
    pub fn apply(&mut self, entry: &Entry) -> Result<Done, Full> {
        if let Some(done) = self.find(entry.from.as_ref(), entry.id) {
            return Ok(done);
        }
        if self.is_full() {
            return Err(Full);
        }
        let index = self.posts.len();
        let time = self.posts.last().map_or(Time::ZERO, |last| last.time);
        let time = time.max(entry.time);
        self.posts.push(Post {
            time,
            from: entry.from.clone(),
            id: entry.id,
            payload: entry.payload.clone(),
        });
        self.index_by_id
            .insert((entry.from.clone(), entry.id), index);
        Ok(Done {
            index,
            time,
            is_repeated: false,
        })
    }

    /// A post that is here already.
    #[must_use]
    pub fn find(&self, from: Option<&UserId>, id: MessageId) -> Option<Done> {
        let index = *self.index_by_id.get(&(from.cloned(), id))?;
        Some(Done {
            index,
            time: self.posts.get(index)?.time,
            is_repeated: true,
        })
    }

    /// All posts, the oldest first.
    #[must_use]
    pub fn posts(&self) -> &[Post] {
        &self.posts
    }

    /// How many of its first posts are the same as those of another state of the segment.
    #[must_use]
    pub fn agreed(&self, other: &Self) -> u64 {
        let both = self.posts.iter().zip(&other.posts);
        both.take_while(|(one, other)| one == other).count() as u64
    }

    /// How much it holds, [`POST_BYTES`] for each post beside its payload.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let payloads = self.posts.iter().map(|post| post.payload.len());
        payloads.map(|bytes| bytes + POST_BYTES).sum()
    }

    /// Whether further posts go elsewhere.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.posts.len() >= POSTS_MAX
    }
}

impl Entry {
    /// The bytes to append.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let from = self.from.as_ref();
        let entry = wire::SegmentEntry {
            version: VERSION,
            operation: Bytes::copy_from_slice(&self.operation.0),
            time_ms: self.time.as_millis(),
            from: from.map_or_else(String::new, ToString::to_string),
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
        let entry = wire::SegmentEntry::decode(bytes).map_err(|_| EntryError::Malformed)?;
        if entry.version != VERSION {
            let version = entry.version;
            return Err(EntryError::Version { version });
        }
        if entry.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(EntryError::TooLong);
        }
        let from = match entry.from.as_str() {
            "" => None,
            user => Some(parse_user(user)?),
        };
        Ok(Self {
            operation: OperationId(array(&entry.operation)?),
            time: Time::from_millis(entry.time_ms),
            from,
            id: MessageId(array(&entry.id)?),
            payload: entry.payload,
        })
    }
}
