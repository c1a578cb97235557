//! Slots in the order of where entities are.
//!
//! An observer asks about those around it, and then the next one, which is beside it, about nearly the same. When
//! their slots are in the order of their places, all of that is near each other in memory. Entities move, so they
//! are numbered anew now and then.

use super::Field;

/// How far from that order the slots may be.
#[derive(Debug, Default)]
pub(super) struct Disorder {
    /// Since slots were numbered last.
    arrivals: usize,
    ticks: u32,
    /// The drift when they were.
    drift: f64,
}

impl Disorder {
    pub(super) fn note_arrival(&mut self) {
        self.arrivals += 1;
    }
}

impl Field {
    /// Numbers slots anew when many entities have come, or may have moved far, since they were numbered last.
    pub(super) fn renumber_if_due(&mut self) {
        self.disorder.ticks += 1;
        let is_mixed = self.disorder.arrivals > self.len() / 8
            || self.moves.drift() - self.disorder.drift > self.grid.width() * CELLS_MOVED;
        if is_mixed && self.disorder.ticks >= PAUSE_TICKS {
            self.renumber();
            self.disorder = Disorder {
                drift: self.moves.drift(),
                ..Disorder::default()
            };
        }
    }

    /// Numbers slots in the order of the grid. At the end of a tick nobody knows of those that are empty.
    fn renumber(&mut self) {
        let map = self.grid.renumber(self.entities.len());
        let count = self.grid.len();
        permute(&mut self.entities, &map, count);
        permute(&mut self.observers, &map, count);
        // The old ones stay until all are copied, so that the new ones lie in a row.
        let observers = self.observers.iter();
        let renumbered = observers.map(|observer| Some(observer.as_ref()?.renumbered(&map)));
        self.observers = renumbered.collect();
        for slot in self.slot_by_id.values_mut() {
            *slot = map[*slot as usize];
        }
        self.cells.renumber(&map);
        self.moves.renumber(&map, count);
        self.free.clear();
    }
}

/// Puts what is indexed by slot where the slots are now.
pub(super) fn permute<T: Default>(all: &mut Vec<T>, map: &[u32], count: usize) {
    let mut moved = Vec::new();
    moved.resize_with(count, T::default);
    for (old, new) in all.drain(..).zip(map) {
        if let Some(place) = moved.get_mut(*new as usize) {
            *place = old;
        }
    }
    *all = moved;
}

/// Where slots are mapped to that were empty.
pub(super) const NOWHERE: u32 = u32::MAX;

/// How many cells of the grid one may have moved.
const CELLS_MOVED: f64 = 1.0;

/// How many ticks lie between at least.
const PAUSE_TICKS: u32 = 16;
