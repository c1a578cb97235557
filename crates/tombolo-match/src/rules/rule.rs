//! One rule.

use std::time::Duration;

use super::Relax;
use crate::word::Name;

/// The most regions of one rule.
pub const REGIONS_MAX: usize = 64;

/// Something that must hold of a match, and may make it good.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What explanations call it.
    pub name: Name,
    /// What is looked at.
    pub check: Check,
    /// The limit of a ticket that has just come; its meaning is the check's.
    pub base: f64,
    /// How the limit widens with the wait.
    pub relax: Relax,
    /// How much it counts for the quality of a match.
    pub weight: f64,
}

/// What a rule looks at. A *limit* is the rule's own, relaxed by the wait of who judges.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// The text is the same in all tickets.
    Equal {
        /// Whose.
        attribute: Name,
    },
    /// At least so many items, the limit, are in the lists of all tickets.
    Overlap {
        /// Whose.
        attribute: Name,
    },
    /// No two tickets are further apart than the limit.
    Distance {
        /// Whose.
        attribute: Name,
    },
    /// The number lies in a range, or at most the limit beside it.
    Range {
        /// Whose.
        attribute: Name,
        /// From here.
        low: f64,
        /// To here.
        high: f64,
    },
    /// There is a region that every ticket reaches within the limit, in milliseconds; the best of them
    /// is the match's.
    Latency {
        /// Whose.
        attribute: Name,
        /// Those that there are.
        regions: Vec<Name>,
    },
    /// Nobody meets whom it blocks, or who blocks it, until that falls away for all who would meet.
    Block,
    /// No two teams differ by more than the limit.
    Balance {
        /// Whose.
        attribute: Name,
        /// By what.
        measure: Measure,
    },
    /// Which pairs of devices are to be direct.
    Connectivity {
        /// Whose.
        topology: Topology,
        /// Whether a match may not be otherwise.
        is_required: bool,
    },
}

/// What a team has of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The mean over its users.
    Mean,
    /// The sum over its users.
    Sum,
}

/// Which pairs of a match talk to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// All.
    Mesh,
    /// One with all others.
    Host,
}

impl Rule {
    /// The limit for a ticket that has waited so long; `None` when there is none any more.
    #[must_use]
    pub fn limit(&self, waited: Duration) -> Option<f64> {
        if let Check::Connectivity { is_required, .. } = self.check
            && !is_required
        {
            // To prefer is to demand nothing.
            return None;
        }
        self.relax.at(self.base, waited)
    }

    /// What the deviation of a match is measured against: the widest limit, or the first one when it
    /// falls away in the end.
    #[must_use]
    pub fn scale(&self) -> f64 {
        let widest = self.relax.widest(self.base).unwrap_or(self.base);
        widest.max(self.base)
    }

    /// The attribute that it looks at.
    #[must_use]
    pub fn attribute(&self) -> Option<&Name> {
        match &self.check {
            Check::Equal { attribute }
            | Check::Overlap { attribute }
            | Check::Distance { attribute }
            | Check::Range { attribute, .. }
            | Check::Latency { attribute, .. }
            | Check::Balance { attribute, .. } => Some(attribute),
            Check::Block | Check::Connectivity { .. } => None,
        }
    }
}
