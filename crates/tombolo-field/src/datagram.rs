//! What an observer is told in one tick, as bytes.
//!
//! A datagram begins with a version, flags, the tick and the observer's position, and since when all that
//! was told before is void, if it is; then follow records: what has left, by number, and what is there, at
//! an offset from the observer.

use crate::field::{EntityId, PAYLOAD_MAX};

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
    pub(crate) fn bytes(&self) -> usize {
        let reset = if self.reset.is_some() { 4 } else { 0 };
        1 + 1 + 4 + 8 * self.dimensions + reset
    }

    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        let flags = if self.reset.is_some() { FLAG_RESET } else { 0 };
        let three = if self.dimensions == 3 { FLAG_THREE } else { 0 };
        to.extend_from_slice(&[VERSION, flags | three]);
        to.extend_from_slice(&self.tick.to_be_bytes());
        for coordinate in &self.center[..self.dimensions] {
            to.extend_from_slice(&coordinate.to_be_bytes());
        }
        if let Some(since) = self.reset {
            to.extend_from_slice(&since.to_be_bytes());
        }
    }
}

/// Bytes of a record of what is there.
pub(crate) fn there_bytes(dimensions: usize, is_new: bool, payload: usize) -> usize {
    1 + 8 + 4 + usize::from(is_new) + 4 * dimensions + 1 + payload
}

/// Writes that something has left.
pub(crate) fn write_left(id: EntityId, to: &mut Vec<u8>) {
    to.push(TAG_LEFT);
    to.extend_from_slice(&id.0.to_be_bytes());
}

/// What records of an entity have in common, whoever they are for: encoded once, copied often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stencil {
    /// As of an update: tag, number, sequence.
    head: [u8; HEAD_BYTES],
    class: u8,
    /// The payload after its length; what is beyond its length is nothing.
    tail: [u8; 1 + PAYLOAD_MAX],
}

const HEAD_BYTES: usize = 1 + 8 + 4;

impl Stencil {
    pub(crate) fn new(id: EntityId, sequence: u32, class: u8, payload: &[u8]) -> Self {
        let mut head = [TAG_UPDATED; HEAD_BYTES];
        head[1..9].copy_from_slice(&id.0.to_be_bytes());
        head[9..].copy_from_slice(&sequence.to_be_bytes());
        // A report's payload is bounded.
        let mut tail = [payload.len() as u8; 1 + PAYLOAD_MAX];
        tail[1..=payload.len()].copy_from_slice(payload);
        Self { head, class, tail }
    }

    /// Writes the record for an observer from whom the entity is that far; its class as well when it may
    /// be new to it.
    pub(crate) fn write(
        &self,
        offset: [f32; 3],
        dimensions: usize,
        is_new: bool,
        to: &mut Vec<u8>,
    ) {
        if is_new {
            to.push(TAG_ENTERED);
            to.extend_from_slice(&self.head[1..]);
            to.push(self.class);
        } else {
            to.extend_from_slice(&self.head);
        }
        for coordinate in &offset[..dimensions] {
            to.extend_from_slice(&coordinate.to_be_bytes());
        }
        to.extend_from_slice(&self.tail[..=usize::from(self.tail[0])]);
    }
}

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
