//! All entities in the order of where they are, and what is asked of them most.

use super::pick::pick;
use super::renumber::NOWHERE;
use super::{Entity, Subject};
use crate::datagram::Stencil;
use crate::settings::{CLASSES_MAX, Class, Dimensions, Settings};

/// All entities, row by row: those of one row of cells stand beside each other.
#[derive(Debug)]
pub(super) struct Grid {
    width: f64,
    dimensions: Dimensions,
    /// How many cells somebody sees to each side.
    reach: i64,
    /// Indexed by slot: what every observer asks.
    glimpses: Vec<Glimpse>,
    /// Indexed by slot: what a filter asks. That of an empty slot is of who was there last.
    subjects: Vec<Subject>,
    /// Slots that have been filled since all were put in order.
    arrivals: Vec<u32>,
    /// By cell, then by slot.
    order: Vec<(Cell, u32)>,
    /// In order.
    spots: Vec<Spot>,
    /// In order, each row once.
    rows: Vec<Row>,
    /// Bytes of the longest record of an update of all.
    longest: usize,
    limits: Limits,
}

/// What every observer asks of an entity. All of it is in the first of two lines of a processor's cache, unless
/// there is much to tell.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Glimpse {
    /// Infinitely far from everybody when the slot is empty.
    pub(super) position: [f64; 3],
    /// In which tick it is that its last report is told first.
    pub(super) changed: u32,
    /// What is copied into datagrams.
    pub(super) stencil: Stencil,
}

/// Where somebody is, and the square of the distance up to which that is noted: the range of its class, and
/// the skin.
#[derive(Clone, Copy, Debug)]
struct Spot {
    position: [f64; 3],
    look: f64,
    slot: u32,
}

/// What distances mean for each class.
#[derive(Clone, Debug, Default)]
struct Limits {
    /// The squares of the distances at which an entity enters, leaves, is noted, and is far from leaving.
    enter: ByClass<f64>,
    leave: ByClass<f64>,
    look: ByClass<f64>,
    core: ByClass<f64>,
}

/// Indexed by class.
#[derive(Clone, Debug, Default)]
pub(super) struct ByClass<T>([T; CLASSES_MAX]);

/// Which cells stand beside each other.
#[derive(Clone, Copy, Debug)]
struct Row {
    at: (i64, i64),
    first: usize,
    last: usize,
}

/// A cell: the row's two coordinates, then the one along the row.
type Cell = (i64, i64, i64);

impl Grid {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            // Half of what is looked at: few cells, and few entities in them that are out of range.
            width: (settings.range_max() + Self::skin(settings)) / 2.0,
            dimensions: settings.dimensions,
            reach: 2,
            glimpses: Vec::new(),
            subjects: Vec::new(),
            arrivals: Vec::new(),
            order: Vec::new(),
            spots: Vec::new(),
            rows: Vec::new(),
            longest: 0,
            limits: Limits::new(settings),
        }
    }

    /// Takes note of an entity that has reported, which is told from the tick `changed` on. Slots are
    /// filled without a gap, and once between two ticks.
    pub(super) fn place(&mut self, slot: u32, entity: &Entity, changed: u32) {
        let payload = &entity.payload[..entity.payload_bytes.into()];
        let dimensions = self.dimensions.count();
        let stencil = Stencil::new(
            entity.id,
            entity.sequence,
            entity.class,
            dimensions,
            payload,
        );
        let glimpse = Glimpse {
            position: entity.position,
            changed,
            stencil,
        };
        let at = slot as usize;
        match self.glimpses.get_mut(at) {
            Some(before) => {
                if before.is_nowhere() {
                    self.arrivals.push(slot);
                }
                *before = glimpse;
                self.subjects[at] = entity.subject();
            }
            None => {
                self.arrivals.push(slot);
                self.glimpses.push(glimpse);
                self.subjects.push(entity.subject());
            }
        }
    }

    /// An entity has other marks.
    pub(super) fn mark(&mut self, slot: u32, marks: u64) {
        self.subjects[slot as usize].marks = marks;
    }

    /// An entity is gone.
    pub(super) fn clear(&mut self, slot: u32) {
        self.glimpses[slot as usize].position = [f64::INFINITY; 3];
    }

    /// Puts all in order, most of whom are where they were or near that.
    pub(super) fn arrange(&mut self) {
        let mut movers = Vec::new();
        let mut order = std::mem::take(&mut self.order);
        order.retain(|(cell, slot)| {
            let glimpse = self.glimpse(*slot);
            let now = self.cell(glimpse.position);
            if now != *cell && !glimpse.is_nowhere() {
                movers.push((now, *slot));
            }
            now == *cell
        });
        for slot in std::mem::take(&mut self.arrivals) {
            let glimpse = self.glimpse(slot);
            if !glimpse.is_nowhere() {
                movers.push((self.cell(glimpse.position), slot));
            }
        }
        movers.sort_unstable();
        order.append(&mut movers);
        // Two runs, which this sort merges.
        order.sort();
        self.order = order;
        self.spots.clear();
        self.rows.clear();
        self.longest = 0;
        for (at, ((z, y, _), slot)) in self.order.iter().enumerate() {
            let glimpse = &self.glimpses[*slot as usize];
            self.spots.push(Spot {
                position: glimpse.position,
                look: self.limits.look.of(glimpse.stencil.class()),
                slot: *slot,
            });
            self.longest = self.longest.max(glimpse.stencil.bytes().into());
            match self.rows.last_mut() {
                Some(row) if row.at == (*z, *y) => row.last = at + 1,
                Some(_) | None => self.rows.push(Row {
                    at: (*z, *y),
                    first: at,
                    last: at + 1,
                }),
            }
        }
    }

    /// Numbers slots anew, in order; returns where each of them is now.
    pub(super) fn renumber(&mut self, slots: usize) -> Vec<u32> {
        let mut map = vec![NOWHERE; slots];
        let old = self.order.iter().map(|(_, slot)| *slot as usize);
        let old: Vec<_> = old.collect();
        for (new, (_, slot)) in self.order.iter_mut().enumerate() {
            // There are no more slots than fit.
            map[*slot as usize] = new as u32;
            *slot = new as u32;
        }
        self.glimpses = old.iter().map(|at| self.glimpses[*at]).collect();
        self.subjects = old.iter().map(|at| self.subjects[*at]).collect();
        map
    }

    /// How wide its cells are.
    pub(super) fn width(&self) -> f64 {
        self.width
    }

    pub(super) fn glimpse(&self, slot: u32) -> &Glimpse {
        &self.glimpses[slot as usize]
    }

    pub(super) fn subject(&self, slot: u32) -> &Subject {
        &self.subjects[slot as usize]
    }

    /// The square of the distance at which an entity of a class comes into range.
    pub(super) fn enter_square(&self, class: u8) -> f64 {
        self.limits.enter.of(class)
    }

    pub(super) fn leave_square(&self, class: u8) -> f64 {
        self.limits.leave.of(class)
    }

    /// The square of the distance up to which an entity of a class cannot have left when all have moved by the
    /// skin.
    pub(super) fn core_square(&self, class: u8) -> f64 {
        self.limits.core.of(class)
    }

    /// Bytes of the longest record of an update of all.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Of all, indexed by slot.
    pub(super) fn glimpses(&self) -> &[Glimpse] {
        &self.glimpses
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn slot(&self, number: usize) -> u32 {
        self.order[number].1
    }

    pub(super) fn next_slot(&self, number: usize) -> Option<u32> {
        Some(self.order.get(number)?.1)
    }

    /// The slots of all that are in the range of their class, and the skin, from the one with that number.
    pub(super) fn around<const D: usize>(&self, number: usize, found: &mut Vec<u32>) {
        found.clear();
        let (z, y, x) = self.order[number].0;
        let center = self.spots[number].position;
        let planes = if D == 3 {
            -self.reach..=self.reach
        } else {
            0..=0
        };
        for plane in planes {
            let (low, high) = (y - self.reach, y + self.reach);
            let begin = self.rows.partition_point(|row| row.at < (z + plane, low));
            let rows = &self.rows[begin..];
            for row in rows.iter().take_while(|row| row.at <= (z + plane, high)) {
                let cells = &self.order[row.first..row.last];
                let from = cells.partition_point(|((_, _, at), _)| *at < x - self.reach);
                let to = cells.partition_point(|((_, _, at), _)| *at <= x + self.reach);
                self.scan::<D>(row.first + from, row.first + to, center, found);
            }
        }
    }

    fn scan<const D: usize>(&self, from: usize, to: usize, center: [f64; 3], found: &mut Vec<u32>) {
        pick(&self.spots[from..to], found, |spot| {
            let square = square::<D>(spot.position, center);
            (spot.slot, square <= spot.look)
        });
    }

    fn cell(&self, position: [f64; 3]) -> Cell {
        // Positions are bounded, and so are widths by the ranges.
        let of = |coordinate: f64| {
            let cells = coordinate / self.width;
            // Rounded down without a call: this is asked for each entity in each tick.
            let whole = cells as i64;
            whole - i64::from(whole as f64 > cells)
        };
        let [x, y, z] = position;
        (of(z), of(y), of(x))
    }
}

impl Glimpse {
    fn is_nowhere(&self) -> bool {
        self.position[0] == f64::INFINITY
    }
}

impl Limits {
    fn new(settings: &Settings) -> Self {
        let square = |distance: f64| distance * distance;
        let leave = |class: &Class| class.range * (1.0 + settings.hysteresis);
        let skin = Grid::skin(settings);
        Self {
            enter: ByClass::new(settings, |class| square(class.range)),
            leave: ByClass::new(settings, |class| square(leave(class))),
            look: ByClass::new(settings, |class| square(class.range + skin)),
            core: ByClass::new(settings, |class| Grid::core_limit(leave(class), settings)),
        }
    }
}

impl<T: Copy + Default> ByClass<T> {
    pub(super) fn new(settings: &Settings, of: impl Fn(&Class) -> T) -> Self {
        let mut all = [T::default(); CLASSES_MAX];
        for (one, class) in all.iter_mut().zip(&settings.classes) {
            *one = of(class);
        }
        Self(all)
    }

    #[inline]
    pub(super) fn of(&self, class: u8) -> T {
        // Classes are fewer: reports of others are refused.
        self.0[usize::from(class) % CLASSES_MAX]
    }
}

/// The square of a distance in `D` dimensions.
#[inline]
pub(super) fn square<const D: usize>(a: [f64; 3], b: [f64; 3]) -> f64 {
    let along = |at: usize| a[at] - b[at];
    (0..D).map(|at| along(at) * along(at)).sum()
}
