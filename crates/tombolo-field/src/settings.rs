//! How a field behaves.

use std::time::Duration;

/// The most classes of entities.
pub const CLASSES_MAX: usize = 16;

/// The most entities of a field.
pub const ENTITIES_MAX: usize = 8_000_000;

/// The shortest range: positions of up to 1e12 are numbered by cells that are about as wide.
pub const RANGE_MIN: f64 = 1e-3;

/// The longest range.
pub const RANGE_MAX: f64 = 1e9;

/// How a field behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How many coordinates count; in two, the third is ignored.
    pub dimensions: Dimensions,
    /// What kinds of entities there are, by number.
    pub classes: Vec<Class>,
    /// How much further than its range an entity must be to leave, as a share of the range.
    pub hysteresis: f64,
    /// How long an entity may say nothing before it is taken away.
    pub silence: Duration,
    /// How long an entity that an observer says to know may be missing here before the observer is told that
    /// it has left: a field that has just begun to hear of others.
    pub grace: Duration,
    /// The most entities.
    pub entities_max: usize,
    /// How wide the cells are that nodes subscribe to.
    pub cell: f64,
    /// How many entities a cell has before it splits.
    pub split_above: usize,
}

/// How many coordinates count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dimensions {
    /// The first two.
    Two,
    /// All.
    Three,
}

/// A kind of entities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Class {
    /// From how far they are seen.
    pub range: f64,
    /// How much they count, when not all can be told.
    pub weight: f64,
    /// How near devices must be to one of this class to be linked with it, which they see to themselves (see
    /// [`Circle`](crate::Circle)); `None` when the field leaves that to them.
    pub linked_within: Option<f64>,
}

impl Class {
    /// One that is seen from so far, counts once, and is linked with nobody by itself.
    #[must_use]
    pub fn seen_from(range: f64) -> Self {
        Self {
            range,
            weight: 1.0,
            linked_within: None,
        }
    }
}

/// Why settings are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// None, or more than [`CLASSES_MAX`].
    #[error("a field has 1 to {CLASSES_MAX} classes")]
    Classes,
    /// Not from [`RANGE_MIN`] to [`RANGE_MAX`].
    #[error("a range is from 0.001 to 1e9")]
    Range,
    /// Not from 1/1000 to 1000.
    #[error("a weight is from 0.001 to 1000")]
    Weight,
    /// Not from 0 to 10.
    #[error("the hysteresis is from 0 to 10")]
    Hysteresis,
    /// Not at least a hundredth of the longest range.
    #[error("a cell is from 0.001 to 1e9 wide, and at least a hundredth of the longest range")]
    Cell,
    /// No entities, or more than [`ENTITIES_MAX`]; or a cell that splits with fewer than two.
    #[error("a field has 1 to {ENTITIES_MAX} entities, and a cell splits above at least two")]
    Counts,
}

impl Default for Settings {
    /// Two dimensions, one class seen from 100, that leaves at 110; cells of 100 that split above 256.
    fn default() -> Self {
        Self {
            dimensions: Dimensions::Two,
            classes: vec![Class::seen_from(100.0)],
            hysteresis: 0.1,
            silence: Duration::from_secs(10),
            grace: Duration::from_secs(2),
            entities_max: 100_000,
            cell: 100.0,
            split_above: 256,
        }
    }
}

impl Settings {
    /// Whether a field can be so.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.classes.is_empty() || self.classes.len() > CLASSES_MAX {
            return Err(SettingsError::Classes);
        }
        // What is not a number is not within.
        let is_range = |range: f64| (RANGE_MIN..=RANGE_MAX).contains(&range);
        for class in &self.classes {
            if !is_range(class.range) {
                return Err(SettingsError::Range);
            }
            if !class.linked_within.is_none_or(is_range) {
                return Err(SettingsError::Range);
            }
            if !(0.001..=1000.0).contains(&class.weight) {
                return Err(SettingsError::Weight);
            }
        }
        if !(0.0..=10.0).contains(&self.hysteresis) {
            return Err(SettingsError::Hysteresis);
        }
        if !is_range(self.cell) || self.cell < self.range_max() / 100.0 {
            return Err(SettingsError::Cell);
        }
        if self.entities_max == 0 || self.entities_max > ENTITIES_MAX || self.split_above < 2 {
            return Err(SettingsError::Counts);
        }
        Ok(())
    }

    /// The longest range of any class.
    pub(crate) fn range_max(&self) -> f64 {
        let ranges = self.classes.iter().map(|class| class.range);
        ranges.fold(0.0, f64::max)
    }
}

impl Dimensions {
    /// How many.
    pub(crate) fn count(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}
