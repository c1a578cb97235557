//! What an observer knows: made of the datagrams that reach it.

use std::collections::BTreeMap;

use crate::datagram::{DatagramError, Reader, Record};
use crate::field::{EntityId, KNOWN_MAX};

/// What an observer knows of its surroundings.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    seen: BTreeMap<EntityId, Seen>,
    /// When what has left did, so that a late datagram does not bring it back.
    left: BTreeMap<EntityId, u32>,
    tick: u32,
}

/// What an observer knows of an entity.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// What kind it is.
    pub class: u8,
    /// Where it is, as exactly as a 32-bit float says how far it is from the observer.
    pub position: [f64; 3],
    /// What it says of itself.
    pub payload: Vec<u8>,
    /// Which of its reports this is.
    pub sequence: u32,
    /// When it was told.
    tick: u32,
}

/// What a datagram has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has come into range.
    Entered(EntityId),
    /// It has moved, or says something else.
    Updated(EntityId),
    /// It is out of range, or gone.
    Left(EntityId),
}

impl Mirror {
    /// Knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a datagram in; says what has changed by it. Datagrams may come late, twice, or never.
    ///
    /// # Errors
    /// When the bytes are none; what stands before the fault has been taken in.
    pub fn apply(&mut self, datagram: &[u8]) -> Result<Vec<Change>, DatagramError> {
        let (header, mut reader) = Reader::new(datagram)?;
        let mut changes = Vec::new();
        if header.is_reset && header.tick > self.tick {
            changes.extend(self.seen.keys().copied().map(Change::Left));
            self.seen.clear();
        }
        if header.tick > self.tick {
            self.tick = header.tick;
        }
        while let Some(record) = reader.next()? {
            match record {
                Record::Left(id) => self.on_left(header.tick, id, &mut changes),
                Record::There {
                    id,
                    sequence,
                    class,
                    offset,
                    payload,
                } => {
                    let mut position = header.center;
                    for (coordinate, offset) in position.iter_mut().zip(offset) {
                        *coordinate += f64::from(offset);
                    }
                    let seen = Seen {
                        class: class.unwrap_or_default(),
                        position,
                        payload: payload.to_vec(),
                        sequence,
                        tick: header.tick,
                    };
                    self.on_there(id, class.is_some(), seen, &mut changes);
                }
            }
        }
        // What left long ago is in no datagram that is still under way.
        let now = self.tick;
        self.left
            .retain(|_, tick| now.saturating_sub(*tick) < LATE_MAX);
        Ok(changes)
    }

    /// What is in range.
    pub fn seen(&self) -> impl ExactSizeIterator<Item = (EntityId, &Seen)> {
        self.seen.iter().map(|(id, seen)| (*id, seen))
    }

    /// What to tell a node to go on from; see [`Field::resume`](crate::Field::resume).
    #[must_use]
    pub fn knowledge(&self) -> Vec<(EntityId, u32)> {
        let seen = self.seen.iter();
        seen.map(|(id, seen)| (*id, seen.sequence)).collect()
    }

    /// The tick of the latest datagram, to be acknowledged.
    #[must_use]
    pub fn tick(&self) -> u32 {
        self.tick
    }

    /// Goes on with another field of which nothing has come yet: its ticks are others.
    pub fn restart(&mut self) {
        self.tick = 0;
        self.left.clear();
        for seen in self.seen.values_mut() {
            seen.tick = 0;
        }
    }

    fn on_left(&mut self, tick: u32, id: EntityId, changes: &mut Vec<Change>) {
        if self.seen.get(&id).is_some_and(|seen| seen.tick <= tick) {
            self.seen.remove(&id);
            changes.push(Change::Left(id));
        }
        let left = self.left.entry(id).or_default();
        *left = tick.max(*left);
    }

    fn on_there(&mut self, id: EntityId, is_new: bool, seen: Seen, changes: &mut Vec<Change>) {
        if let Some(known) = self.seen.get_mut(&id) {
            if known.tick <= seen.tick {
                let class = if is_new { seen.class } else { known.class };
                let is_changed = known.sequence != seen.sequence;
                *known = Seen { class, ..seen };
                changes.extend(is_changed.then_some(Change::Updated(id)));
            }
            return;
        }
        let has_left = self.left.get(&id).is_some_and(|left| *left >= seen.tick);
        // What changes of something unknown: its entry was lost, and will be told again.
        if is_new && !has_left && self.seen.len() < KNOWN_MAX {
            self.seen.insert(id, seen);
            changes.push(Change::Entered(id));
        }
    }
}

/// For how many ticks a datagram may be under way.
const LATE_MAX: u32 = 256;
