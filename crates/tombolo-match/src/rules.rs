//! What the matches of a pool are to be like.

mod document;
mod read;
mod reader;
mod relax;
mod rule;
mod shape;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::value::{Kind, Merge, Value};
use crate::word::Name;

pub use document::DOCUMENT_BYTES_MAX;
pub use relax::{Relax, STEPS_MAX};
pub use rule::{Check, Measure, REGIONS_MAX, Rule, Topology};
pub use shape::{PLAYERS_MAX, Role, Shape, TEAM_ROLES_MAX, TEAMS_MAX, Team};

/// The most rules of one pool.
pub const RULES_MAX: usize = 32;

/// The most tickets that any pool holds.
pub const TICKETS_MAX: usize = 1_000_000;

/// The quality of a match that is as good as can be.
pub(crate) const QUALITY_MAX: u16 = 1000;

/// What the matches of a pool are to be like: from a document in TOML or JSON.
///
/// ```
/// use tombolo_match::Rules;
///
/// let rules = Rules::parse(r#"
///     name = "ranked"
///     ready = "10s"
///
///     [[teams]]
///     name = "side"
///     quantity = 2
///     min = 5
///     max = 5
///
///     [[rules]]
///     kind = "equal"
///     attribute = "mode"
///
///     [[rules]]
///     kind = "distance"
///     attribute = "skill"
///     max = 100
///     relax = { every = "5s", by = 50, limit = 400 }
/// "#)?;
/// assert_eq!(rules.shape.players_max(), 10);
///
/// let error = Rules::parse("name = \"ranked\"\nplayers = { min = 4, max = 2 }").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "line 2, column 11: no match can ever satisfy this: the fewest are more than the most"
/// );
/// # Ok::<(), tombolo_match::RulesError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The pool's name.
    pub name: Name,
    /// Teams and how many users they take.
    pub shape: Shape,
    /// What is known of attributes beforehand.
    pub attributes: BTreeMap<Name, Attribute>,
    /// What must hold of a match, and what makes it good.
    pub rules: Vec<Rule>,
    /// Whose patience decides how far a rule has relaxed.
    pub judge: Judge,
    /// How often all that wait are looked at again.
    pub tick: Duration,
    /// How long the longest waiting ticket of a match that could begin waits for more users.
    pub fill: Duration,
    /// How long a match that is not [`good`](Self::good) waits for a better one, at most.
    pub settle: Duration,
    /// The quality from which on a match begins at once; what is asked of one that waits falls evenly to
    /// nothing within [`settle`](Self::settle).
    pub good: u16,
    /// How long a wait weighs as much as the whole distance that a rule allows, when a ticket chooses
    /// among others.
    pub patience: Duration,
    /// How long the users of a match have to say that they are ready; `None` when nobody is asked.
    pub ready: Option<Duration>,
    /// The most tickets that the pool holds.
    pub tickets_max: usize,
    /// The highest priority that a device may give its own ticket.
    pub priority_max: i8,
}

/// What is known of an attribute beforehand.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// What values it has.
    pub kind: Kind,
    /// How the values of a party's users become the party's.
    pub merge: Merge,
    /// What a user has who says nothing.
    pub default: Option<Value>,
}

/// Whose patience decides how far a rule has relaxed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// Everybody's: two that meet must each accept the other, each by its own wait.
    Each,
    /// That of the ticket in the match that has waited longest.
    Oldest,
}

/// Why a document is no set of rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct RulesError {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong there.
    pub reason: Reason,
}

/// What is wrong in a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Neither TOML nor JSON.
    #[error("{message}")]
    Syntax {
        /// What the parser says.
        message: String,
    },
    /// Longer than [`DOCUMENT_BYTES_MAX`].
    #[error("rules are at most {DOCUMENT_BYTES_MAX} bytes long")]
    TooLong,
    /// A key that nothing reads.
    #[error("{key} is not known here; there are {known}")]
    UnknownKey {
        /// Which.
        key: String,
        /// The others.
        known: String,
    },
    /// A key that must be there.
    #[error("{key} is missing here")]
    Missing {
        /// Which.
        key: &'static str,
    },
    /// A key that must be there, and another one that looks as if it was meant to be it.
    #[error("{key} is missing; was {found} meant to be it?")]
    Misspelt {
        /// Which.
        key: &'static str,
        /// What is there.
        found: String,
    },
    /// Something else than it should be.
    #[error("{what} is expected here")]
    Expected {
        /// What it should be.
        what: &'static str,
    },
    /// A number or a count that is too small or too large.
    #[error("{what} is from {min} to {max}")]
    Bounds {
        /// Which.
        what: &'static str,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// One of several words.
    #[error("{found} is none of {known}")]
    Choice {
        /// The word that is there.
        found: String,
        /// Those that might be.
        known: String,
    },
    /// The same thing twice.
    #[error("{what} is there twice")]
    Repeated {
        /// Which.
        what: String,
    },
    /// No match could ever satisfy it.
    #[error("no match can ever satisfy this: {why}")]
    Never {
        /// Why.
        why: &'static str,
    },
    /// A relaxation that demands more than before.
    #[error("relaxing must ask for less and less, and {why}")]
    Tightens {
        /// Where it does not.
        why: &'static str,
    },
}

impl Rules {
    /// Reads rules: JSON when the text begins with a brace, else TOML.
    ///
    /// # Errors
    /// With the place of the first mistake.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        document::parse(text)
            .and_then(|node| read::rules(&node))
            .map_err(|fault| document::locate(text, fault))
    }

    /// Reads rules out of the tables of an array of a larger document in TOML, such as `[[pool]]` in a node's
    /// file. With each comes a text that [`parse`](Self::parse) reads as the same rules; it does not change
    /// with the order of keys, with spaces or with comments.
    ///
    /// # Errors
    /// With the place of the first mistake in the whole document.
    pub fn parse_tables(text: &str, key: &str) -> Result<Vec<(Self, String)>, RulesError> {
        let tables = document::parse_tables(text, key).and_then(|tables| {
            let tables = tables.into_iter();
            let rules = tables.map(|(node, text)| Ok((read::rules(&node)?, text)));
            rules.collect()
        });
        tables.map_err(|fault| document::locate(text, fault))
    }

    /// The quality that a match must have whose longest waiting ticket has waited so long.
    #[must_use]
    pub fn quality_min(&self, waited: Duration) -> u16 {
        let left = self.settle.saturating_sub(waited).as_secs_f64();
        if left <= 0.0 {
            return 0;
        }
        (f64::from(self.good) * left / self.settle.as_secs_f64()).ceil() as u16
    }

    /// Whether more than the first rule of distance says how good a match is.
    pub(crate) fn has_quality_beside_distance(&self) -> bool {
        let mut distances = 0;
        self.rules.iter().any(|rule| match rule.check {
            Check::Distance { .. } => {
                distances += 1;
                distances > 1
            }
            Check::Equal { .. } | Check::Overlap { .. } | Check::Block => false,
            Check::Range { .. }
            | Check::Latency { .. }
            | Check::Balance { .. }
            | Check::Connectivity { .. } => true,
        })
    }

    /// After which wait a match of some quality begins.
    #[must_use]
    pub fn settled_after(&self, quality: u16) -> Duration {
        let missing = f64::from(self.good.saturating_sub(quality)) / f64::from(self.good.max(1));
        self.settle.mul_f64(missing)
    }

    /// The first rule of latency that has a region, and which of its regions it is.
    pub(crate) fn region(&self, name: &Name) -> Option<(usize, usize)> {
        let mut rules = self.rules.iter().enumerate();
        rules.find_map(|(at, rule)| {
            let Check::Latency { regions, .. } = &rule.check else {
                return None;
            };
            let region = regions.iter().position(|region| region == name)?;
            Some((at, region))
        })
    }

    /// What is known of an attribute, or what is assumed for one of that kind.
    #[must_use]
    pub fn merge(&self, attribute: &Name, kind: Kind) -> Merge {
        self.attributes
            .get(attribute)
            .map_or_else(|| kind.merge_default(), |known| known.merge)
    }
}
