//! How a limit widens with the wait.

use std::time::Duration;

/// The most steps of one relaxation.
pub const STEPS_MAX: usize = 64;

/// How a limit widens with the wait. `None` is no limit at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Relax {
    /// From when on which limit holds, in order.
    steps: Vec<(Duration, Option<f64>)>,
    /// By how much it widens how often, and how far.
    slope: Option<Slope>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slope {
    pub(super) every: Duration,
    /// Negative when less is wider.
    pub(super) by: f64,
    pub(super) limit: f64,
    /// When the limit falls away.
    pub(super) off: Option<Duration>,
}

impl Relax {
    pub(super) fn steps(steps: Vec<(Duration, Option<f64>)>) -> Self {
        Self { steps, slope: None }
    }

    pub(super) fn slope(slope: Slope) -> Self {
        Self {
            steps: Vec::new(),
            slope: Some(slope),
        }
    }

    /// The limit after a wait.
    #[must_use]
    pub fn at(&self, base: f64, waited: Duration) -> Option<f64> {
        if let Some(slope) = &self.slope {
            return slope.at(base, waited);
        }
        let step = self.steps.iter().rev().find(|(after, _)| *after <= waited);
        step.map_or(Some(base), |(_, limit)| *limit)
    }

    /// The wait after which the limit changes next.
    #[must_use]
    pub fn next_change(&self, base: f64, waited: Duration) -> Option<Duration> {
        if let Some(slope) = &self.slope {
            return slope.next_change(base, waited);
        }
        let mut later = self.steps.iter().map(|(after, _)| *after);
        later.find(|after| *after > waited)
    }

    /// The widest limit that there will ever be.
    #[must_use]
    pub fn widest(&self, base: f64) -> Option<f64> {
        self.at(base, Duration::MAX)
    }

    /// Whether nothing ever changes.
    #[must_use]
    pub fn is_never(&self) -> bool {
        self.steps.is_empty() && self.slope.is_none()
    }
}

impl Slope {
    fn at(&self, base: f64, waited: Duration) -> Option<f64> {
        if self.off.is_some_and(|off| off <= waited) {
            return None;
        }
        let times = (waited.as_millis() / self.every.as_millis().max(1)) as f64;
        let moved = base + self.by * times;
        Some(if self.by < 0.0 {
            moved.max(self.limit)
        } else {
            moved.min(self.limit)
        })
    }

    fn next_change(&self, base: f64, waited: Duration) -> Option<Duration> {
        let off = self.off.filter(|off| *off > waited);
        let now = self.at(base, waited)?;
        let is_moving = now != self.limit && self.by != 0.0;
        let every = self.every.as_millis().max(1);
        let next = (waited.as_millis() / every + 1) * every;
        let next = is_moving
            .then(|| u64::try_from(next).ok())
            .flatten()
            .map(Duration::from_millis);
        match (next, off) {
            (Some(next), Some(off)) => Some(next.min(off)),
            (next, off) => next.or(off),
        }
    }
}
