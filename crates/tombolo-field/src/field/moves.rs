//! How far entities move, so that observers need not look around in every tick.
//!
//! Whoever looks around notes all that is in range or a *skin* beyond it. Until entities could have crossed
//! the skin, looking at those is enough. The few that have moved further than that in one tick, or are new,
//! are looked at by everybody.

use super::grid::{Grid, square};
use super::renumber::permute;
use super::{Entity, EntityId};
use crate::settings::Settings;

/// How far entities have moved.
#[derive(Debug)]
pub(super) struct Moves {
    /// How much further than its range an entity is noted.
    skin: f64,
    /// How far anybody could have moved since the field began, but for those that jumped.
    drift: f64,
    /// Indexed by slot: what was there in the tick before.
    before: Vec<Before>,
    /// Those that are new or have jumped in this tick.
    jumpers: Vec<u32>,
    /// Where those were in the tick before that have jumped or gone since.
    deserted: Vec<[f64; 3]>,
    /// More have than are listed.
    are_too_many: bool,
}

#[derive(Clone, Copy, Debug)]
struct Before {
    id: EntityId,
    class: u8,
    position: [f64; 3],
}

/// Where somebody has looked around, and at which drift.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    from: [f64; 3],
    drift: f64,
}

impl Moves {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            skin: settings.range_max() * SKIN,
            drift: 0.0,
            before: Vec::new(),
            jumpers: Vec::new(),
            deserted: Vec::new(),
            are_too_many: false,
        }
    }

    /// Takes note of where all are now.
    pub(super) fn note(&mut self, entities: &[Option<Entity>]) {
        self.jumpers.clear();
        self.deserted.clear();
        self.are_too_many = false;
        self.before.resize(entities.len(), Before::default());
        let jump = self.skin * self.skin / 16.0;
        let mut furthest = 0.0_f64;
        for (slot, (entity, before)) in entities.iter().zip(&mut self.before).enumerate() {
            let was = before.position;
            let Some(entity) = entity else {
                *before = Before::default();
                self.deserted.extend(was[0].is_finite().then_some(was));
                continue;
            };
            let step = square::<3>(entity.position, before.position);
            let is_same = entity.id == before.id && entity.class == before.class;
            let has_jumped = !is_same || step > jump;
            *before = Before {
                id: entity.id,
                class: entity.class,
                position: entity.position,
            };
            if !has_jumped {
                furthest = furthest.max(step);
                continue;
            }
            self.deserted.extend(was[0].is_finite().then_some(was));
            // There are no more slots than fit.
            self.jumpers.push(slot as u32);
        }
        self.are_too_many = self.jumpers.len().max(self.deserted.len()) > JUMPERS_MAX;
        self.drift += furthest.sqrt();
    }

    /// Slots are elsewhere.
    pub(super) fn renumber(&mut self, map: &[u32], count: usize) {
        permute(&mut self.before, map, count);
        self.jumpers.clear();
    }

    /// Those that are to be looked at by everybody.
    pub(super) fn jumpers(&self) -> &[u32] {
        &self.jumpers
    }

    /// Whether somebody within that distance, or nearly, has jumped or gone.
    pub(super) fn is_deserted(&self, position: [f64; 3], distance: f64) -> bool {
        let near = (distance + self.skin) * (distance + self.skin);
        let mut deserted = self.deserted.iter();
        deserted.any(|place| square::<3>(*place, position) <= near)
    }

    pub(super) fn drift(&self) -> f64 {
        self.drift
    }

    /// Somebody looks around from there, who has done so last then. Those that begin do it again earlier than they
    /// must, as do all when all do it, so that they do not go on to do it in the same ticks.
    pub(super) fn look(&self, slot: u32, from: [f64; 3], last: &Look) -> Look {
        let is_first = self.are_too_many || last.drift == Look::NEVER.drift;
        let earlier = if is_first { turn(slot) } else { 0.0 };
        Look {
            from,
            drift: self.drift - self.skin * earlier,
        }
    }

    /// Whether somebody who is there now, and has looked around then, must do so again: it and somebody else could have
    /// moved towards each other, or away, by the skin.
    pub(super) fn is_stale(&self, slot: u32, position: [f64; 3], look: &Look) -> bool {
        // A little earlier, each by another share: those that happen to do it in the same tick part again.
        let skin = self.skin * (1.0 - turn(slot) / 8.0);
        let left = skin - (self.drift - look.drift);
        self.are_too_many || left < 0.0 || square::<3>(position, look.from) > left * left
    }
}

impl Grid {
    /// How much further than its range an entity is noted.
    pub(super) fn skin(settings: &Settings) -> f64 {
        settings.range_max() * SKIN
    }

    /// The square of the distance up to which nobody can have left when all have moved by the skin, if they leave
    /// at that distance; less than any when even those can that are in the same place.
    pub(super) fn core_limit(leave: f64, settings: &Settings) -> f64 {
        let core = leave - Self::skin(settings);
        if core > 0.0 { core * core } else { -1.0 }
    }
}

impl Look {
    /// One that must look around.
    pub(super) const NEVER: Self = Self {
        from: [0.0; 3],
        drift: f64::NEG_INFINITY,
    };

    pub(super) fn from(&self) -> [f64; 3] {
        self.from
    }
}

/// From 0 to 1, for each slot another share of the skin.
fn turn(slot: u32) -> f64 {
    f64::from(slot % TURNS) / f64::from(TURNS)
}

impl Default for Before {
    /// Nothing is infinitely far from everything.
    fn default() -> Self {
        Self {
            id: EntityId(0),
            class: 0,
            position: [f64::INFINITY; 3],
        }
    }
}

/// The skin, as a share of the longest range: the wider, the less often one looks around, and at the more
/// in between.
const SKIN: f64 = 0.1;

/// The ticks in which observers look around are spread by that many.
const TURNS: u32 = 16;

/// The most that everybody looks at; with more, all look around.
const JUMPERS_MAX: usize = 64;
