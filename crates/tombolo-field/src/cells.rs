//! Cells: what nodes subscribe to. Crowded ones split.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::settings::{Dimensions, Settings};

/// How often a cell splits at most.
pub const LEVELS_MAX: u8 = 8;

/// The most cells that are told at once, when somebody sees far.
const CELLS_MAX: usize = 65_536;

/// A cell: a square or a cube, as wide as the settings say, halved `level` times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellId {
    /// How often it was split off.
    pub level: u8,
    /// Which, in each direction.
    pub at: [i64; 3],
}

/// All cells, and how many are in each.
#[derive(Debug)]
pub(crate) struct Cells {
    width: f64,
    dimensions: Dimensions,
    split_above: usize,
    split: BTreeSet<CellId>,
    /// The entities of each cell that is not split, by slot, with their positions.
    members: BTreeMap<CellId, BTreeMap<u32, [f64; 3]>>,
}

/// A box.
struct Extent {
    low: [f64; 3],
    high: [f64; 3],
}

impl Cells {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            width: settings.cell,
            dimensions: settings.dimensions,
            split_above: settings.split_above,
            split: BTreeSet::new(),
            members: BTreeMap::new(),
        }
    }

    /// The cell of a place.
    pub(crate) fn cell(&self, position: [f64; 3]) -> CellId {
        let mut cell = self.at_level(position, 0);
        while self.split.contains(&cell) {
            cell = self.at_level(position, cell.level + 1);
        }
        cell
    }

    /// The cell that is not split of which that one is a part, or that one.
    pub(crate) fn covering(&self, cell: CellId) -> CellId {
        let mut wholes = (0..cell.level).map(|level| cell.lifted(level));
        wholes
            .find(|whole| !self.split.contains(whole))
            .unwrap_or(cell)
    }

    /// Takes an entity in.
    pub(crate) fn insert(&mut self, slot: u32, position: [f64; 3]) {
        let mut cell = self.cell(position);
        self.members.entry(cell).or_default().insert(slot, position);
        while self
            .members
            .get(&cell)
            .is_some_and(|members| members.len() > self.split_above)
            && cell.level < LEVELS_MAX
        {
            self.split(cell);
            cell = self.cell(position);
        }
    }

    /// Lets an entity go that was last here.
    pub(crate) fn remove(&mut self, slot: u32, position: [f64; 3]) {
        let cell = self.cell(position);
        if let Some(members) = self.members.get_mut(&cell) {
            members.remove(&slot);
            if members.is_empty() {
                self.members.remove(&cell);
            }
        }
        self.merge_above(cell);
    }

    /// Slots are elsewhere.
    pub(crate) fn renumber(&mut self, map: &[u32]) {
        for members in self.members.values_mut() {
            let old = std::mem::take(members).into_iter();
            *members = old.map(|(slot, at)| (map[slot as usize], at)).collect();
        }
    }

    /// Moves an entity.
    pub(crate) fn update(&mut self, slot: u32, from: [f64; 3], to: [f64; 3]) {
        let cell = self.cell(from);
        if cell == self.cell(to) {
            if let Some(members) = self.members.get_mut(&cell) {
                members.insert(slot, to);
            }
            return;
        }
        self.remove(slot, from);
        self.insert(slot, to);
    }

    /// All cells within a distance of some, those included, in order; `None` when there are too many.
    pub(crate) fn around(
        &self,
        cells: &BTreeSet<CellId>,
        distance: f64,
    ) -> Option<BTreeSet<CellId>> {
        let mut found = BTreeSet::new();
        for cell in cells {
            self.collect_around(&self.extent(*cell), distance, &mut found)?;
        }
        Some(found)
    }

    fn collect_around(
        &self,
        from: &Extent,
        distance: f64,
        found: &mut BTreeSet<CellId>,
    ) -> Option<()> {
        let corner = |corner: [f64; 3], sign: f64| {
            let mut corner = corner;
            for coordinate in &mut corner[..self.dimensions.count()] {
                *coordinate += sign * distance;
            }
            self.at_level(corner, 0).at
        };
        let (low, high) = (corner(from.low, -1.0), corner(from.high, 1.0));
        let counts = low
            .iter()
            .zip(&high)
            .map(|(low, high)| (high - low + 1) as usize);
        let count = counts.fold(1_usize, usize::saturating_mul);
        if count.saturating_add(found.len()) > CELLS_MAX {
            return None;
        }
        for x in low[0]..=high[0] {
            for y in low[1]..=high[1] {
                for z in low[2]..=high[2] {
                    let cell = CellId {
                        level: 0,
                        at: [x, y, z],
                    };
                    self.collect(cell, from, distance, found);
                }
            }
        }
        Some(())
    }

    fn collect(&self, cell: CellId, from: &Extent, distance: f64, found: &mut BTreeSet<CellId>) {
        if self.distance(cell, from) > distance {
            return;
        }
        if !self.split.contains(&cell) {
            found.insert(cell);
            return;
        }
        for part in self.parts(cell) {
            self.collect(part, from, distance, found);
        }
    }

    /// How far the nearest points of a cell and of an extent are from each other.
    fn distance(&self, cell: CellId, from: &Extent) -> f64 {
        let extent = self.extent(cell);
        let mut sum = 0.0;
        for at in 0..self.dimensions.count() {
            let below = extent.low[at] - from.high[at];
            let off = below.max(from.low[at] - extent.high[at]).max(0.0);
            sum += off * off;
        }
        sum.sqrt()
    }

    fn extent(&self, cell: CellId) -> Extent {
        let width = self.width / f64::from(1_u32 << cell.level);
        let low = cell.at.map(|at| at as f64 * width);
        Extent {
            low,
            high: low.map(|low| low + width),
        }
    }

    fn at_level(&self, position: [f64; 3], level: u8) -> CellId {
        let width = self.width / f64::from(1_u32 << level);
        let mut at = [0; 3];
        let count = self.dimensions.count();
        for (at, coordinate) in at.iter_mut().zip(position).take(count) {
            // Positions and widths are bounded, so that the quotient fits.
            *at = (coordinate / width).floor() as i64;
        }
        CellId { level, at }
    }

    fn parts(&self, cell: CellId) -> impl Iterator<Item = CellId> + use<> {
        let count = self.dimensions.count();
        (0..1_i64 << count).map(move |part| {
            let mut at = cell.at;
            for (direction, at) in at.iter_mut().enumerate().take(count) {
                *at = *at * 2 + (part >> direction & 1);
            }
            CellId {
                level: cell.level + 1,
                at,
            }
        })
    }

    fn split(&mut self, cell: CellId) {
        self.split.insert(cell);
        for (slot, position) in self.members.remove(&cell).unwrap_or_default() {
            let part = self.at_level(position, cell.level + 1);
            self.members.entry(part).or_default().insert(slot, position);
        }
    }

    /// Merges the parts of a cell that have become empty enough: half of what makes one split, so that
    /// it does not flicker.
    fn merge_above(&mut self, cell: CellId) {
        let mut level = cell.level;
        let mut at = cell.at;
        while level > 0 {
            level -= 1;
            at = at.map(|at| at.div_euclid(2));
            let whole = CellId { level, at };
            let parts: Vec<_> = self.parts(whole).collect();
            let is_deeper = parts.iter().any(|part| self.split.contains(part));
            let counts = parts.iter().filter_map(|part| self.members.get(part));
            let count: usize = counts.map(BTreeMap::len).sum();
            if is_deeper || count > self.split_above / 2 {
                return;
            }
            self.split.remove(&whole);
            let mut all = BTreeMap::new();
            for part in parts {
                all.append(&mut self.members.remove(&part).unwrap_or_default());
            }
            if !all.is_empty() {
                self.members.insert(whole, all);
            }
        }
    }
}

impl CellId {
    /// The cell that it is a part of; `None` for one that is none.
    #[must_use]
    pub fn whole(self) -> Option<Self> {
        Some(self.lifted(self.level.checked_sub(1)?))
    }

    /// The cell of that level that it is a part of, or is; itself for a level beyond its own.
    #[must_use]
    pub fn lifted(self, level: u8) -> Self {
        let by = self.level.saturating_sub(level);
        Self {
            level: self.level - by,
            at: self.at.map(|at| at >> by.min(63)),
        }
    }

    /// Which part of its whole it is: a bit for each direction.
    #[must_use]
    pub fn part(self) -> u8 {
        let bits = self.at.iter().enumerate();
        bits.fold(0, |part, (direction, at)| {
            part | ((at.rem_euclid(2) as u8) << direction)
        })
    }
}

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.at;
        write!(f, "{}.{x}.{y}.{z}", self.level)
    }
}
