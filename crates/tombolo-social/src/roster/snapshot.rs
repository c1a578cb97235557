//! A whole roster as bytes, and back.

use bytes::Bytes;
use prost::Message as _;

use super::{Roster, entry};
use crate::generated as wire;
use crate::word::{SnapshotError, Time, VERSION};

impl Roster {
    /// The whole roster as bytes: equal rosters give equal bytes.
    #[must_use]
    pub fn snapshot(&self) -> Bytes {
        let wire::RosterSeed { members, banned } = entry::keep(&self.seed);
        let snapshot = wire::RosterSnapshot {
            version: VERSION,
            clock_ms: self.clock.as_millis(),
            seeded: self.is_seeded,
            split: self.is_split,
            members,
            banned,
            revision: self.revision,
        };
        snapshot.encode_to_vec().into()
    }

    /// Takes a roster out of a snapshot.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn restore(snapshot: &[u8]) -> Result<Self, SnapshotError> {
        let kept = wire::RosterSnapshot::decode(snapshot).map_err(|_| SnapshotError)?;
        if kept.version != VERSION {
            return Err(SnapshotError);
        }
        let seed = wire::RosterSeed {
            members: kept.members,
            banned: kept.banned,
        };
        Ok(Self {
            is_seeded: kept.seeded,
            is_split: kept.split,
            clock: Time::from_millis(kept.clock_ms),
            seed: entry::restore(seed).map_err(|_| SnapshotError)?,
            revision: kept.revision,
        })
    }
}
