//! What is to be told to other nodes and asked of them, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tombolo_field::{CellId, EntityId};

/// From where devices look.
#[derive(Default)]
pub(super) struct Lookout {
    /// The cells for which this node listens.
    pub(super) cells: BTreeSet<CellId>,
    /// Devices that have come into others.
    pub(super) astray: BTreeSet<EntityId>,
    /// `None` while there are none.
    pub(super) due: Option<Instant>,
    pub(super) last: Option<Instant>,
    /// Those that were astray since it was looked at all, and those before.
    hasty: [BTreeSet<EntityId>; 2],
}

/// What other nodes are to be told.
#[derive(Default)]
pub(super) struct News {
    /// Entities, each with the cells that it was in since they were told last.
    pub(super) moved: BTreeMap<EntityId, Vec<CellId>>,
    /// Those that have gone, and from which cells; some may be back.
    pub(super) left: BTreeMap<EntityId, Vec<CellId>>,
    /// Somebody asks for all that is in these.
    pub(super) asked: BTreeSet<CellId>,
    /// `None` while there is nothing.
    pub(super) due: Option<Instant>,
    pub(super) told: Option<Instant>,
}

impl Lookout {
    /// A device is in a cell, where it was not before.
    pub(super) fn note(&mut self, device: EntityId, cell: CellId) {
        if self.cells.contains(&cell) {
            return;
        }
        // They are no more than the devices here. Who jumps on and on waits until all is looked at.
        let [now_hasty, before] = &mut self.hasty;
        now_hasty.insert(device);
        if before.contains(&device) {
            return;
        }
        self.astray.insert(device);
        let now = Instant::now();
        let soonest = self.last.map_or(now, |last| (last + PACE).max(now));
        self.due.get_or_insert(soonest);
    }

    /// This node listens for these cells now.
    pub(super) fn look(&mut self, cells: BTreeSet<CellId>) {
        self.cells = cells;
        let [now_hasty, before] = &mut self.hasty;
        *before = std::mem::take(now_hasty);
    }
}

impl News {
    /// An entity is in a cell, and was in another one before.
    pub(super) fn tell(&mut self, entity: EntityId, cell: CellId, before: Option<CellId>) {
        let cells = self.moved.entry(entity).or_default();
        // Whoever hears that it has left hears that it is back.
        let left = self.left.get(&entity).into_iter().flatten().copied();
        for cell in left.chain(before).chain([cell]) {
            // Whoever hears of the cells before hears where it is now.
            if !cells.contains(&cell) {
                cells.truncate(CELLS_MAX - 1);
                cells.push(cell);
            }
        }
        self.wake();
    }

    pub(super) fn leave(&mut self, entity: EntityId, cell: CellId) {
        let cells = self.moved.remove(&entity).unwrap_or_default();
        let left = self.left.entry(entity).or_default();
        for cell in cells.into_iter().chain([cell]) {
            if !left.contains(&cell) {
                left.push(cell);
            }
        }
        self.wake();
    }

    pub(super) fn ask(&mut self, cell: CellId) {
        if self.asked.len() < ASKED_MAX {
            self.asked.insert(cell);
        }
        self.wake();
    }

    /// What is new after a quiet time is told at once; then others wait, and share messages.
    fn wake(&mut self) {
        let now = Instant::now();
        let soonest = self.told.map_or(now, |told| (told + PACE).max(now));
        self.due.get_or_insert(soonest);
    }
}

/// Between two times that other nodes are told, and that it is listened where devices have come, at least.
const PACE: Duration = Duration::from_millis(20);

/// How many cells hear of an entity that moves fast.
const CELLS_MAX: usize = 4;

/// How many cells may be asked for at a time; the rest is told with time.
const ASKED_MAX: usize = 4096;
