//! Names and numbers that everything else is made of.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tombolo_wire::{UserId, v1};

/// Names an attempt to change something, at random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub [u8; 16]);

/// Names a message, at random, by the device that sends it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub [u8; 16]);

/// A moment by the clocks of nodes: milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

/// A place in something that is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Which count it is: the operation that began it.
    pub epoch: OperationId,
    /// The last number that is meant; 0 before the first.
    pub offset: u64,
}

/// Why bytes are no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// They are malformed.
    #[error("entry is malformed")]
    Malformed,
    /// Something in it is longer than it may be.
    #[error("entry is too long")]
    TooLong,
    /// A later version made it.
    #[error("entry is of version {version}")]
    Version {
        /// Which.
        version: u32,
    },
}

/// Why bytes are no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("snapshot is malformed or of an unknown version")]
pub struct SnapshotError;

impl Time {
    /// The Unix epoch: before any entry.
    pub const ZERO: Self = Self(0);

    /// So many milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// So much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// That much earlier; the Unix epoch at the earliest.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(millis))
    }
}

impl Place {
    /// Reads a place; `None` when it names no count.
    #[must_use]
    pub fn parse(place: &v1::Place) -> Option<Self> {
        Some(Self {
            epoch: OperationId(array(&place.epoch).ok()?),
            offset: place.offset,
        })
    }
}

impl From<Place> for v1::Place {
    fn from(place: Place) -> Self {
        Self {
            epoch: Bytes::copy_from_slice(&place.epoch.0),
            offset: place.offset,
        }
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperationId({:08x}…)", u128::from_be_bytes(self.0) >> 96)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({:08x}…)", u128::from_be_bytes(self.0) >> 96)
    }
}

pub(crate) fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], EntryError> {
    bytes.try_into().map_err(|_| EntryError::Malformed)
}

pub(crate) fn parse_user(user: &str) -> Result<UserId, EntryError> {
    UserId::parse(user).map_err(|_| EntryError::Malformed)
}

/// The version of the rules by which this crate applies entries.
pub(crate) const VERSION: u32 = 1;

/// Spreads names evenly, the same on every node.
pub(crate) fn hash(name: &str) -> u64 {
    // FNV-1a, and the finish of SplitMix64, so that names which differ little are apart.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
