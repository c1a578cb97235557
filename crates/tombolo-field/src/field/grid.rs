//! All entities in the order of where they are, made anew each tick.

use std::collections::HashMap;

use super::{Entity, EntityId, Subject};
use crate::settings::{Class, Dimensions, Settings};

/// All entities, row by row: those of one row of cells stand beside each other.
#[derive(Debug)]
pub(super) struct Grid {
    width: f64,
    dimensions: Dimensions,
    /// How many cells somebody sees to each side.
    reach: i64,
    /// By cell, then by slot.
    order: Vec<(Cell, u32)>,
    positions: Vec<[f64; 3]>,
    /// The square of the range of each one's class.
    ranges: Vec<f64>,
    /// Indexed by slot: what every observer asks, in little memory.
    glimpses: Vec<Glimpse>,
    /// Indexed by class: the square of the distance at which an entity leaves.
    leave_squares: Vec<f64>,
    /// Where the cells of each row begin, in order.
    rows: HashMap<(i64, i64), (usize, usize)>,
}

/// What every observer asks of an entity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glimpse {
    pub(super) position: [f64; 3],
    pub(super) id: EntityId,
    marks: u64,
    pub(super) sequence: u32,
    pub(super) class: u8,
    pub(super) payload_bytes: u8,
}

/// A cell: the row's two coordinates, then the one along the row.
type Cell = (i64, i64, i64);

impl Grid {
    pub(super) fn new(settings: &Settings) -> Self {
        let leave_square = |class: &Class| {
            let leave = class.range * (1.0 + settings.hysteresis);
            leave * leave
        };
        Self {
            // Half of what can be seen: few cells, and few entities in them that are out of range.
            width: settings.range_max() / 2.0,
            dimensions: settings.dimensions,
            reach: 2,
            order: Vec::new(),
            positions: Vec::new(),
            ranges: Vec::new(),
            glimpses: Vec::new(),
            leave_squares: settings.classes.iter().map(leave_square).collect(),
            rows: HashMap::new(),
        }
    }

    pub(super) fn rebuild(&mut self, settings: &Settings, entities: &[Option<Entity>]) {
        self.order.clear();
        self.glimpses.clear();
        for (slot, entity) in entities.iter().enumerate() {
            self.glimpses.push(Glimpse::of(entity.as_ref()));
            if let Some(entity) = entity {
                // There are no more slots than fit.
                self.order.push((self.cell(entity.position), slot as u32));
            }
        }
        self.order.sort_unstable();
        self.positions.clear();
        self.ranges.clear();
        self.rows.clear();
        for (at, ((z, y, _), slot)) in self.order.iter().enumerate() {
            let Some(entity) = &entities[*slot as usize] else {
                continue;
            };
            self.positions.push(entity.position);
            let range = settings.classes[usize::from(entity.class)].range;
            self.ranges.push(range * range);
            let row = self.rows.entry((*z, *y)).or_insert((at, at));
            row.1 = at + 1;
        }
    }

    pub(super) fn glimpse(&self, slot: u32) -> &Glimpse {
        &self.glimpses[slot as usize]
    }

    pub(super) fn leave_square(&self, class: u8) -> f64 {
        self.leave_squares[usize::from(class)]
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn slot(&self, number: usize) -> u32 {
        self.order[number].1
    }

    /// The slots of all that are in the range of their class from the one with that number, and no
    /// further away than `range_max`.
    pub(super) fn in_range(&self, number: usize, range_max: f64, found: &mut Vec<u32>) {
        found.clear();
        let (z, y, x) = self.order[number].0;
        let center = self.positions[number];
        let range_max = range_max * range_max;
        let planes = match self.dimensions {
            Dimensions::Two => 0..=0,
            Dimensions::Three => -self.reach..=self.reach,
        };
        for plane in planes {
            for row in -self.reach..=self.reach {
                let Some((first, last)) = self.rows.get(&(z + plane, y + row)) else {
                    continue;
                };
                let cells = &self.order[*first..*last];
                let from = first + cells.partition_point(|((_, _, at), _)| *at < x - self.reach);
                let to = first + cells.partition_point(|((_, _, at), _)| *at <= x + self.reach);
                self.scan(from, to, center, range_max, found);
            }
        }
    }

    fn scan(&self, from: usize, to: usize, center: [f64; 3], most: f64, found: &mut Vec<u32>) {
        let positions = self.positions[from..to].iter();
        let ranges = &self.ranges[from..to];
        let slots = &self.order[from..to];
        // Without a branch for each: written always, kept when it is in range.
        let start = found.len();
        found.resize(start + slots.len(), 0);
        let mut kept = start;
        for ((position, range), (_, slot)) in positions.zip(ranges).zip(slots) {
            found[kept] = *slot;
            kept += usize::from(square(*position, center) <= range.min(most));
        }
        found.truncate(kept);
    }

    fn cell(&self, position: [f64; 3]) -> Cell {
        // Positions are bounded, and so are widths by the ranges.
        let of = |coordinate: f64| (coordinate / self.width).floor() as i64;
        let [x, y, z] = position;
        (of(z), of(y), of(x))
    }
}

impl Glimpse {
    /// An empty slot is infinitely far from everybody.
    fn of(entity: Option<&Entity>) -> Self {
        entity.map_or(
            Self {
                position: [f64::INFINITY; 3],
                id: EntityId(0),
                marks: 0,
                sequence: 0,
                class: 0,
                payload_bytes: 0,
            },
            |entity| Self {
                position: entity.position,
                id: entity.id,
                marks: entity.marks,
                sequence: entity.sequence,
                class: entity.class,
                payload_bytes: entity.payload_bytes,
            },
        )
    }

    pub(super) fn subject(&self) -> Subject {
        Subject {
            id: self.id,
            class: self.class,
            marks: self.marks,
        }
    }
}

/// The square of a distance.
pub(super) fn square(a: [f64; 3], b: [f64; 3]) -> f64 {
    let [x, y, z] = [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
    x * x + y * y + z * z
}
