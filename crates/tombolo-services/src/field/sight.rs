//! Who sees whom: what is not seen is never sent.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tombolo_field::{Sight, Subject};
use tombolo_wire::FieldId;

use crate::node::Node;

/// A rule by which an observer sees an entity only if their marks fit: with [`same`](Self::same),
/// [`at_least`](Self::at_least) or [`by`](Self::by), whichever does. With none of them nobody sees what the rule is about.
///
/// With the team in the four lowest bits, the next for who hides, and the next for who finds those who do:
///
/// ```
/// use tombolo_services::FieldSight;
///
/// let stealth = FieldSight {
///     of: 0x10,
///     same: 0x0f,
///     by: 0x20,
///     ..FieldSight::default()
/// };
/// assert!(stealth.lets_see(0x01, 0x02), "it does not hide");
/// assert!(!stealth.lets_see(0x01, 0x12));
/// assert!(stealth.lets_see(0x02, 0x12), "they are of one team");
/// assert!(stealth.lets_see(0x21, 0x12), "it finds who hides");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldSight {
    /// It is about entities that have one of these marks; about all when 0.
    pub of: u64,
    /// Observers see those that have the same of these marks.
    pub same: u64,
    /// The marks here are a number: observers see those that have no greater one.
    pub at_least: u64,
    /// Observers that have one of these marks see all.
    pub by: u64,
}

/// As many rules as a field has at most.
pub const FIELD_SIGHT_RULES_MAX: usize = 16;

impl FieldSight {
    /// Whether the rule lets an observer with some marks see an entity with others.
    #[must_use]
    pub fn lets_see(&self, observer: u64, entity: u64) -> bool {
        let is_about = self.of == 0 || entity & self.of != 0;
        !is_about
            || observer & self.by != 0
            || (self.same != 0 && (observer ^ entity) & self.same == 0)
            || (self.at_least != 0 && observer & self.at_least >= entity & self.at_least)
    }
}

/// The rules of the node, and the game's filter, whose faults are its own: whoever it fails for is not seen.
pub(super) struct Filter {
    node: Arc<Node>,
    game: Option<Box<dyn Sight + Send + Sync>>,
}

impl Filter {
    pub(super) fn new(node: &Arc<Node>, id: &FieldId) -> Self {
        Self {
            game: node.config.hooks.sight(id),
            node: Arc::clone(node),
        }
    }
}

impl Sight for Filter {
    fn may_see(&self, observer: &Subject, other: &Subject) -> bool {
        let mut rules = self.node.config.fields.sight.iter();
        if !rules.all(|rule| rule.lets_see(observer.marks, other.marks)) {
            return false;
        }
        let Some(game) = &self.game else {
            return true;
        };
        // What it has left in disorder is its own to deal with.
        let seen = catch_unwind(AssertUnwindSafe(|| game.may_see(observer, other)));
        seen.unwrap_or_else(|_| {
            self.node.counters.hooks_failed.add(1);
            false
        })
    }

    fn shows_everything(&self) -> bool {
        self.game.is_none() && self.node.config.fields.sight.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_hides_by_team_by_level_and_from_everybody() {
        let none = FieldSight::default();
        let team = FieldSight { same: 0x0f, ..none };
        assert!(team.lets_see(0x31, 0x01) && !team.lets_see(0x01, 0x02));
        assert!(!team.lets_see(0x01, 0x00), "who has none is one, too");
        let teams = FieldSight { of: 0x0f, ..team };
        assert!(teams.lets_see(0x01, 0x00), "those of no team are seen");
        assert!(!teams.lets_see(0x00, 0x01));

        let level = FieldSight {
            at_least: 0xff00,
            ..none
        };
        assert!(level.lets_see(0x0300, 0x0300) && level.lets_see(0x0400, 0x03ff));
        assert!(!level.lets_see(0x02ff, 0x0300));

        let gone = FieldSight {
            of: 1 << 63,
            ..none
        };
        assert!(!gone.lets_see(u64::MAX, 1 << 63) && gone.lets_see(0, 1));
    }
}
