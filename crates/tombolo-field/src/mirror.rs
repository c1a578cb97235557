//! What an observer knows: made of the datagrams that reach it.

use std::collections::BTreeMap;

use crate::datagram::{DatagramError, Reader, Record};
use crate::field::{EntityId, KNOWN_MAX};
use crate::ticks::Ticks;

/// What an observer knows of its surroundings.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    seen: BTreeMap<EntityId, Seen>,
    /// When what has left did, so that a late datagram does not bring it back.
    left: BTreeMap<EntityId, u32>,
    /// Which datagrams have come.
    ticks: Ticks,
    /// Datagrams of this tick and before are not taken in any more: what left then is forgotten.
    floor: u32,
    late: u64,
    /// The latest datagram tells what is told again until it is acknowledged.
    wants_acknowledgement: bool,
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
    /// By how much each coordinate may be wrong, as it came as a 32-bit float.
    blur: f64,
}

impl Seen {
    /// Whether it is where it was, as far as can be told, and says the same.
    fn is_like(&self, other: &Self) -> bool {
        let mut coordinates = self.position.iter().zip(&other.position);
        let blur = self.blur + other.blur;
        self.class == other.class
            && self.payload == other.payload
            && coordinates.all(|(own, other)| (own - other).abs() <= blur)
    }
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
        if header.tick <= self.floor {
            // It is not acknowledged either, so what it tells is told again.
            self.late += 1;
            return Ok(changes);
        }
        if let Some(since) = header.reset {
            let void = self.seen.extract_if(.., |_, seen| seen.tick < since);
            changes.extend(void.map(|(id, _)| Change::Left(id)));
            self.floor = self.floor.max(since.saturating_sub(1));
        }
        self.wants_acknowledgement = header.reset.is_some();
        while let Some(record) = reader.next()? {
            let is_for_sure = matches!(
                record,
                Record::Left(_) | Record::There { class: Some(_), .. }
            );
            self.wants_acknowledgement |= is_for_sure;
            match record {
                Record::Left(id) => self.on_left(header.tick, id, &mut changes),
                Record::There {
                    id,
                    sequence,
                    class,
                    offset,
                    payload,
                } => {
                    let (mut position, mut blur) = (header.center, 0.0_f64);
                    for (coordinate, offset) in position.iter_mut().zip(offset) {
                        *coordinate += f64::from(offset);
                        let rounded = f64::from(offset).abs() * f64::from(f32::EPSILON);
                        blur = blur.max(rounded + coordinate.abs() * f64::EPSILON);
                    }
                    let seen = Seen {
                        class: class.unwrap_or_default(),
                        position,
                        payload: payload.to_vec(),
                        sequence,
                        tick: header.tick,
                        blur,
                    };
                    self.on_there(id, class.is_some(), seen, &mut changes);
                }
            }
        }
        self.ticks.note(header.tick);
        self.forget();
        Ok(changes)
    }

    /// What is in range.
    pub fn seen(&self) -> impl ExactSizeIterator<Item = (EntityId, &Seen)> {
        self.seen.iter().map(|(id, seen)| (*id, seen))
    }

    /// What is known of an entity in range.
    #[must_use]
    pub fn find(&self, id: EntityId) -> Option<&Seen> {
        self.seen.get(&id)
    }

    /// What to tell a node to go on from; see [`Field::resume`](crate::Field::resume).
    #[must_use]
    pub fn knowledge(&self) -> Vec<(EntityId, u32)> {
        let seen = self.seen.iter();
        seen.map(|(id, seen)| (*id, seen.sequence)).collect()
    }

    /// The ticks of the datagrams that have come, to be acknowledged.
    #[must_use]
    pub fn ticks(&self) -> Ticks {
        self.ticks
    }

    /// Whether the datagram that came last tells something that is told again until it is acknowledged;
    /// else that may wait.
    #[must_use]
    pub fn wants_acknowledgement(&self) -> bool {
        self.wants_acknowledgement
    }

    /// How many datagrams came too late to be taken in.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Goes on with another field of which nothing has come yet: its ticks are others.
    pub fn restart(&mut self) {
        self.ticks = Ticks::default();
        self.floor = 0;
        self.left.clear();
        for seen in self.seen.values_mut() {
            seen.tick = 0;
        }
    }

    /// Forgets what left long ago, and more when that is too much.
    fn forget(&mut self) {
        self.floor = self.floor.max(self.ticks.last.saturating_sub(LATE_MAX));
        if self.left.len() > LEFT_MAX {
            let mut ticks: Vec<_> = self.left.values().copied().collect();
            let (_, middle, _) = ticks.select_nth_unstable(LEFT_MAX / 2);
            self.floor = self.floor.max(*middle);
        }
        let floor = self.floor;
        self.left.retain(|_, tick| *tick > floor);
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
                let mut seen = Seen { class, ..seen };
                let is_changed = !known.is_like(&seen);
                if !is_changed && known.blur <= seen.blur {
                    // What moves too little to be seen is seen to have moved in the end.
                    (seen.position, seen.blur) = (known.position, known.blur);
                }
                *known = seen;
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

/// The most entities that are known to have left.
const LEFT_MAX: usize = 8192;
