//! How urgent it is to tell of an entity, and how long that may wait when not all fits.
//!
//! Urgency is in proportion to weight and age, and against distance; what is reckoned with is the square of that, which
//! has the same order. A *pace* is the square of the age at which an entity is as urgent as 1: it says by how far the
//! entity is, and what, how seldom it is told. Paces and urgencies are taken as logarithms, so that
//! after how many ticks an entity is as urgent as the last one that fitted stands in a table, in the place of its
//! pace, and the urgency only says where in the table one begins.

use super::choose::{Threshold, urgency};
use super::grid::ByClass;
use crate::settings::{Class, Settings};

/// How urgent it is to tell of an entity, and how long that may wait.
#[derive(Debug)]
pub(super) struct Paces {
    /// The square of the weight times the range, and one by that.
    weight: ByClass<f32>,
    per_weight: ByClass<f32>,
    /// The square of what counts as no distance.
    near: ByClass<f32>,
    /// The level of the fastest pace, which is 0; the slowest is the pace of the last that is known.
    fastest: i32,
    /// After how many ticks an entity is told again, by the level of the square of that, from [`PACES`] below 1 on.
    waits: [u8; 3 * PACES],
}

/// After how many ticks an entity is to be told again, by its pace.
pub(super) type Waits = [u8; PACES];

impl Paces {
    pub(super) fn new(settings: &Settings) -> Self {
        let square = |distance: f64| distance * distance;
        let weight = |class: &Class| square(class.weight * class.range);
        let leave = 1.0 + settings.hysteresis;
        let slowest = |class: &Class| square(leave / class.weight) as f32;
        let slowest = settings.classes.iter().map(slowest).fold(0.0, f32::max);
        let mut waits = [1; 3 * PACES];
        for (level, wait) in (ONE..).zip(&mut waits[PACES..]) {
            // There is as much between this level and the next as is left out of a pace and an urgency.
            let square = f32::from_bits((level as u32 + 1) << LEVEL_SHIFT);
            *wait = square.sqrt().ceil().min(WAIT_MAX) as u8;
        }
        Self {
            weight: ByClass::new(settings, |class| weight(class) as f32),
            per_weight: ByClass::new(settings, |class| (1.0 / weight(class)) as f32),
            near: ByClass::new(settings, |class| square(class.range * NEAR) as f32),
            fastest: level(slowest) - PACE_MAX,
            waits,
        }
    }

    /// How urgent it is to tell of an entity, by its class, the square of its distance, and its age in ticks.
    pub(super) fn urgency(&self, class: u8, square: f32, age: u32) -> f32 {
        let age = age as f32;
        self.weight.of(class) * age * age / (square + self.near.of(class))
    }

    /// The pace of an entity, by its class and the square of its distance.
    #[inline]
    pub(super) fn pace(&self, class: u8, square: f32) -> u8 {
        let pace = (square + self.near.of(class)) * self.per_weight.of(class);
        (level(pace) - self.fastest).clamp(0, PACE_MAX) as u8
    }

    /// After how many ticks each is as urgent as that; at once when all fitted. Those that it would take longer than
    /// a byte holds are due earlier.
    pub(super) fn waits(&self, threshold: Threshold) -> &Waits {
        let begin = |threshold| {
            let first = self.fastest + level(urgency(threshold)) - 2 * ONE;
            first.clamp(-PACES_I32, PACES_I32)
        };
        // Within the table, by what is between.
        let begin = threshold.map(|threshold| (begin(threshold) + PACES_I32) as usize);
        let window = begin.and_then(|begin| self.waits[begin..].first_chunk());
        window.unwrap_or(&[0; PACES])
    }
}

/// The logarithm of a positive number, or about that: eight levels double it.
#[inline]
fn level(of: f32) -> i32 {
    (of.to_bits() >> LEVEL_SHIFT) as i32
}

/// How many paces there are, which fit into a byte. The fastest is 2^32 times as fast as the slowest: that far apart are
/// the nearest and the furthest, and weights of which the one is a thousand times the other.
const PACES: usize = 256;
const PACES_I32: i32 = PACES as i32;
const PACE_MAX: i32 = PACES_I32 - 1;

/// Of a float, so that three bits of its fraction are left.
const LEVEL_SHIFT: u32 = 20;

/// The level of 1.
const ONE: i32 = 127 << 3;

/// The most ticks that somebody waits, but for those more urgent.
const WAIT_MAX: f32 = 254.0;

/// How near counts as no distance at all, as a share of the range.
const NEAR: f64 = 0.05;

#[cfg(test)]
mod tests {
    use super::super::choose::score;
    use super::*;

    #[test]
    fn an_entity_is_due_when_it_is_about_as_urgent_as_the_threshold() {
        let classes = [(100.0, 1.0), (7.0, 0.03), (1e6, 30.0)];
        let class = |(range, weight)| Class {
            weight,
            ..Class::seen_from(range)
        };
        let paces = Paces::new(&Settings {
            classes: classes.map(class).into(),
            ..Settings::default()
        });
        for (number, (range, _)) in (0..).zip(classes) {
            for hundredth in 0..=110 {
                let square = (range * f64::from(hundredth) / 100.0).powi(2) as f32;
                let pace = paces.pace(number, square);
                for power in -60..60 {
                    let threshold = score(1.3 * 1.9_f32.powi(power));
                    let wait = f64::from(paces.waits(Some(threshold))[usize::from(pace)]);
                    let one = paces.urgency(number, square, 1);
                    let exact = f64::from(urgency(threshold) / one).sqrt();
                    let exact = exact.clamp(1.0, f64::from(WAIT_MAX));
                    let is_close = wait >= exact * 0.9 && wait <= exact.ceil() * 1.1 + 1.0;
                    assert!(is_close, "{number} at {hundredth}: {wait} for {exact}");
                }
            }
        }
    }

    #[test]
    fn nobody_waits_when_all_fit() {
        let paces = Paces::new(&Settings::default());
        assert_eq!(paces.waits(None), &[0; PACES]);
    }
}
