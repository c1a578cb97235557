//! All entities in the order of where they are, made anew each tick.

use std::collections::HashMap;

use super::{Entity, EntityId, Subject};
use crate::datagram::Stencil;
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
    /// The square of the distance up to which each one is noted: the range of its class, and the skin.
    looks: Vec<f64>,
    /// Indexed by slot: what every observer asks, in little memory.
    glimpses: Vec<Glimpse>,
    /// Indexed by slot: what is copied into datagrams.
    stencils: Vec<Stencil>,
    /// Indexed by class: the square of the distance at which an entity enters.
    enter_squares: Vec<f64>,
    /// Indexed by class: the square of the distance at which an entity leaves.
    leave_squares: Vec<f64>,
    /// Indexed by class: the squares of its weight times its range, and of what counts as no distance.
    urgencies: Vec<(f32, f32)>,
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
        let enter_square = |class: &Class| class.range * class.range;
        let leave_square = |class: &Class| {
            let leave = class.range * (1.0 + settings.hysteresis);
            leave * leave
        };
        Self {
            // Half of what is looked at: few cells, and few entities in them that are out of range.
            width: (settings.range_max() + Self::skin(settings)) / 2.0,
            dimensions: settings.dimensions,
            reach: 2,
            order: Vec::new(),
            positions: Vec::new(),
            looks: Vec::new(),
            glimpses: Vec::new(),
            stencils: Vec::new(),
            enter_squares: settings.classes.iter().map(enter_square).collect(),
            leave_squares: settings.classes.iter().map(leave_square).collect(),
            urgencies: settings.classes.iter().map(urgency).collect(),
            rows: HashMap::new(),
        }
    }

    pub(super) fn rebuild(&mut self, settings: &Settings, entities: &[Option<Entity>]) {
        self.order.clear();
        self.glimpses.clear();
        self.stencils.clear();
        for (slot, entity) in entities.iter().enumerate() {
            self.glimpses.push(Glimpse::of(entity.as_ref()));
            self.stencils.push(stencil(entity.as_ref()));
            if let Some(entity) = entity {
                // There are no more slots than fit.
                self.order.push((self.cell(entity.position), slot as u32));
            }
        }
        self.order.sort_unstable();
        self.positions.clear();
        self.looks.clear();
        self.rows.clear();
        for (at, ((z, y, _), slot)) in self.order.iter().enumerate() {
            let Some(entity) = &entities[*slot as usize] else {
                continue;
            };
            self.positions.push(entity.position);
            let range = settings.classes[usize::from(entity.class)].range;
            let look = range + Self::skin(settings);
            self.looks.push(look * look);
            let row = self.rows.entry((*z, *y)).or_insert((at, at));
            row.1 = at + 1;
        }
    }

    pub(super) fn glimpse(&self, slot: u32) -> &Glimpse {
        &self.glimpses[slot as usize]
    }

    pub(super) fn stencil(&self, slot: u32) -> &Stencil {
        &self.stencils[slot as usize]
    }

    /// The square of the distance at which an entity of a class comes into range.
    pub(super) fn enter_square(&self, class: u8) -> f64 {
        self.enter_squares[usize::from(class)]
    }

    pub(super) fn leave_square(&self, class: u8) -> f64 {
        self.leave_squares[usize::from(class)]
    }

    /// How urgent it is to tell of an entity, by its class, the square of its distance, and its age in ticks:
    /// in proportion to weight and age, and against distance; the square of that, which has the same order.
    pub(super) fn urgency(&self, class: u8, square: f64, age: u32) -> f32 {
        let (weight, near) = self.urgencies[usize::from(class)];
        let age = age as f32;
        weight * age * age / (square as f32 + near)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn slot(&self, number: usize) -> u32 {
        self.order[number].1
    }

    /// The slots of all that are in the range of their class, and the skin, from the one with that number.
    pub(super) fn around(&self, number: usize, found: &mut Vec<u32>) {
        found.clear();
        let (z, y, x) = self.order[number].0;
        let center = self.positions[number];
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
                self.scan(from, to, center, found);
            }
        }
    }

    fn scan(&self, from: usize, to: usize, center: [f64; 3], found: &mut Vec<u32>) {
        let positions = self.positions[from..to].iter();
        let looks = &self.looks[from..to];
        let slots = &self.order[from..to];
        // Without a branch for each: written always, kept when it is in range.
        let start = found.len();
        found.resize(start + slots.len(), 0);
        let mut kept = start;
        for ((position, look), (_, slot)) in positions.zip(looks).zip(slots) {
            found[kept] = *slot;
            kept += usize::from(square(*position, center) <= *look);
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

fn urgency(class: &Class) -> (f32, f32) {
    let (weight, near) = (class.weight * class.range, class.range * NEAR);
    ((weight * weight) as f32, (near * near) as f32)
}

/// An empty slot is written nowhere.
fn stencil(entity: Option<&Entity>) -> Stencil {
    entity.map_or_else(
        || Stencil::new(EntityId(0), 0, 0, &[]),
        |entity| {
            let payload = &entity.payload[..entity.payload_bytes.into()];
            Stencil::new(entity.id, entity.sequence, entity.class, payload)
        },
    )
}

/// The square of a distance.
pub(super) fn square(a: [f64; 3], b: [f64; 3]) -> f64 {
    let [x, y, z] = [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
    x * x + y * y + z * z
}

/// How near counts as no distance at all, as a share of the range.
const NEAR: f64 = 0.05;
