//! What an observer is told in one tick, as bytes.
//!
//! A datagram begins with a version, flags, the tick and the observer's position, and since when all that
//! was told before is void, if it is; then follow records in any order: what is there, at an offset from the
//! observer, and what has left, by number.

use crate::field::{BUDGET_MAX, EntityId, PAYLOAD_MAX};

const VERSION: u8 = 1;

/// The observer is to forget what it was told before some tick.
const FLAG_RESET: u8 = 1;
/// There are three coordinates.
const FLAG_THREE: u8 = 2;

const TAG_LEFT: u8 = 0;
const TAG_ENTERED: u8 = 1;
const TAG_UPDATED: u8 = 2;

/// Bytes of a record of what has left.
pub(crate) const LEFT_BYTES: usize = 1 + 8;

/// Bytes of the longest header.
pub(crate) const HEADER_BYTES_MAX: usize = 1 + 1 + 4 + 3 * 8 + 4;

/// Bytes of the longest record.
pub(crate) const RECORD_BYTES_MAX: usize = 1 + 8 + 4 + 1 + 3 * 4 + 1 + PAYLOAD_MAX;

/// Why bytes are no datagram of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// Of rules that this crate does not know.
    #[error("the datagram is of a version that is not known here")]
    Version,
    /// Not the encoding of a datagram, or with impossible values.
    #[error("the datagram is malformed")]
    Malformed,
}

/// What stands at the beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Header {
    pub(crate) tick: u32,
    /// What was told before that tick is void.
    pub(crate) reset: Option<u32>,
    pub(crate) dimensions: usize,
    pub(crate) center: [f64; 3],
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Record<'d> {
    Left(EntityId),
    There {
        id: EntityId,
        sequence: u32,
        /// Told when the entity may be new to the observer.
        class: Option<u8>,
        offset: [f32; 3],
        payload: &'d [u8],
    },
}

impl Header {
    pub(crate) fn write(&self, to: &mut Pen<'_>) {
        let flags = if self.reset.is_some() { FLAG_RESET } else { 0 };
        let three = if self.dimensions == 3 { FLAG_THREE } else { 0 };
        to.put(&[VERSION, flags | three]);
        to.put(&self.tick.to_be_bytes());
        for coordinate in &self.center[..self.dimensions] {
            to.put(&coordinate.to_be_bytes());
        }
        if let Some(since) = self.reset {
            to.put(&since.to_be_bytes());
        }
    }
}

/// Writes that something has left.
pub(crate) fn write_left(id: EntityId, to: &mut Pen<'_>) {
    to.put(&[TAG_LEFT]);
    to.put(&id.0.to_be_bytes());
}

/// The record of an update of an entity, but for its offset, which depends on the observer: encoded once,
/// copied often.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Stencil {
    class: u8,
    bytes: u8,
    /// What is beyond the record is nothing.
    record: [u8; STENCIL_BYTES],
}

impl Stencil {
    /// Of an entity in two or three dimensions.
    pub(crate) fn new(
        id: EntityId,
        sequence: u32,
        class: u8,
        dimensions: usize,
        payload: &[u8],
    ) -> Self {
        let mut record = [0; STENCIL_BYTES];
        record[0] = TAG_UPDATED;
        record[1..9].copy_from_slice(&id.0.to_be_bytes());
        record[9..HEAD_BYTES].copy_from_slice(&sequence.to_be_bytes());
        let at = HEAD_BYTES + 4 * dimensions;
        // A report's payload is bounded.
        record[at] = payload.len() as u8;
        record[at + 1..=at + payload.len()].copy_from_slice(payload);
        Self {
            class,
            bytes: (at + 1 + payload.len()) as u8,
            record,
        }
    }

    /// The entity's class.
    pub(crate) fn class(&self) -> u8 {
        self.class
    }

    /// Bytes of the record of an update; that of an entry has one more.
    pub(crate) fn bytes(&self) -> u8 {
        self.bytes
    }

    /// Writes the record of an update for an observer from whom the entity is that far.
    #[inline]
    pub(crate) fn write<const D: usize>(&self, offset: [f32; 3], to: &mut Pen<'_>) {
        let room = to.bytes.get_mut(to.filled..);
        let Some(room) = room.and_then(|room| room.first_chunk_mut::<STENCIL_BYTES>()) else {
            return;
        };
        // Whole words, which takes a few instructions; what is beyond the record is written over.
        let (short, rest) = room.split_at_mut(SHORT_BYTES);
        let (from, long) = self.record.split_at(SHORT_BYTES);
        short.copy_from_slice(from);
        if usize::from(self.bytes) > SHORT_BYTES {
            rest.copy_from_slice(long);
        }
        for (at, offset) in offset[..D].iter().enumerate() {
            let begin = HEAD_BYTES + 4 * at;
            room[begin..begin + 4].copy_from_slice(&offset.to_be_bytes());
        }
        to.filled += usize::from(self.bytes);
    }

    /// The same of an entity that may be new to the observer, so that it is told its class too.
    pub(crate) fn write_entered<const D: usize>(&self, offset: [f32; 3], to: &mut Pen<'_>) {
        let (head, rest) = self.record.split_at(HEAD_BYTES);
        let end = usize::from(self.bytes) - HEAD_BYTES;
        to.put(&[TAG_ENTERED]);
        to.put(&head[1..]);
        to.put(&[self.class]);
        for coordinate in &offset[..D] {
            to.put(&coordinate.to_be_bytes());
        }
        to.put(&rest[4 * D..end]);
    }
}

/// A datagram that is being written: a budget is known before, so that there is always room.
#[derive(Debug)]
pub(crate) struct Page {
    bytes: Box<[u8; PAGE_BYTES]>,
    filled: usize,
}

/// Writes on a page. It is not the page itself so that, in a loop that writes much, where it stands is at hand.
#[derive(Debug)]
pub(crate) struct Pen<'p> {
    bytes: &'p mut [u8; PAGE_BYTES],
    filled: usize,
}

impl Page {
    pub(crate) fn clear(&mut self) {
        self.filled = 0;
    }

    /// What has been written.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Writes on behind what has been written.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut Pen<'_>)) {
        let mut pen = Pen {
            bytes: &mut self.bytes,
            filled: self.filled,
        };
        write(&mut pen);
        self.filled = pen.filled;
    }
}

impl Pen<'_> {
    /// Puts bytes behind what has been written; nothing when there is no room.
    fn put(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        if let Some(room) = self.bytes.get_mut(self.filled..end) {
            room.copy_from_slice(bytes);
            self.filled = end;
        }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self {
            bytes: Box::new([0; PAGE_BYTES]),
            filled: 0,
        }
    }
}

/// The longest datagram, and what is written over behind it.
const PAGE_BYTES: usize = BUDGET_MAX + STENCIL_BYTES;

/// Before the offset: tag, number, sequence.
const HEAD_BYTES: usize = 1 + 8 + 4;

/// Bytes of a stencil: of the longest update, and as many more as make it whole words.
const STENCIL_BYTES: usize = 80;

/// As much is always copied.
const SHORT_BYTES: usize = 32;

const _: () = assert!(STENCIL_BYTES >= RECORD_BYTES_MAX - 1);

/// Reads a datagram record by record.
pub(crate) struct Reader<'d> {
    rest: &'d [u8],
    dimensions: usize,
}

impl<'d> Reader<'d> {
    pub(crate) fn new(datagram: &'d [u8]) -> Result<(Header, Self), DatagramError> {
        let mut reader = Self {
            rest: datagram,
            dimensions: 2,
        };
        let [version, flags] = reader.array()?;
        if version != VERSION {
            return Err(DatagramError::Version);
        }
        if flags & !(FLAG_RESET | FLAG_THREE) != 0 {
            return Err(DatagramError::Malformed);
        }
        if flags & FLAG_THREE != 0 {
            reader.dimensions = 3;
        }
        let tick = u32::from_be_bytes(reader.array()?);
        let mut center = [0.0; 3];
        for coordinate in &mut center[..reader.dimensions] {
            *coordinate = f64::from_be_bytes(reader.array()?);
            if !coordinate.is_finite() {
                return Err(DatagramError::Malformed);
            }
        }
        let mut reset = None;
        if flags & FLAG_RESET != 0 {
            let since = u32::from_be_bytes(reader.array()?);
            if since > tick {
                return Err(DatagramError::Malformed);
            }
            reset = Some(since);
        }
        let header = Header {
            tick,
            reset,
            dimensions: reader.dimensions,
            center,
        };
        Ok((header, reader))
    }

    pub(crate) fn next(&mut self) -> Result<Option<Record<'d>>, DatagramError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let [tag] = self.array()?;
        let id = EntityId(u64::from_be_bytes(self.array()?));
        if tag == TAG_LEFT {
            return Ok(Some(Record::Left(id)));
        }
        let sequence = u32::from_be_bytes(self.array()?);
        let class = match tag {
            TAG_ENTERED => Some(self.array::<1>()?[0]),
            TAG_UPDATED => None,
            _ => return Err(DatagramError::Malformed),
        };
        let mut offset = [0.0; 3];
        for coordinate in &mut offset[..self.dimensions] {
            *coordinate = f32::from_be_bytes(self.array()?);
            if !coordinate.is_finite() {
                return Err(DatagramError::Malformed);
            }
        }
        let [length] = self.array()?;
        let payload = self.take(length.into())?;
        if payload.len() > PAYLOAD_MAX {
            return Err(DatagramError::Malformed);
        }
        Ok(Some(Record::There {
            id,
            sequence,
            class,
            offset,
            payload,
        }))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DatagramError> {
        let (array, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(DatagramError::Malformed)?;
        self.rest = rest;
        Ok(*array)
    }

    fn take(&mut self, length: usize) -> Result<&'d [u8], DatagramError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(DatagramError::Malformed)?;
        self.rest = rest;
        Ok(taken)
    }
}
