//! What a ticket asks of the others: `+region:eu +skill:>=10 -mode:ranked mode:casual^2`.

mod parse;

use std::fmt;

use crate::word::Name;

use parse::Origin;

pub use parse::QueryError;

/// Longest query, in bytes.
pub const QUERY_BYTES_MAX: usize = 1024;

/// The most clauses of one query.
pub const CLAUSES_MAX: usize = 32;

/// The most clauses of one query that have a `*` or a `?` in a word: they are compared with each text of a list.
pub const WILDCARDS_MAX: usize = 8;

/// What a ticket asks of the others, beside the pool's rules.
///
/// Clauses are parted by spaces. `+` before a clause says that the others must be so, `-` that they
/// must not, and nothing that it would be better, by `^` and a number as much more. A clause is an
/// attribute, a colon, and one of
///
/// * `word` or `"some words"`: the text, an item of the list, or the number, is this;
/// * `wor*`: it begins so;
/// * `*or?`: it is so, with any letters, or none, in the place of a `*`, and with any one of a `?`;
/// * `*`: there is such an attribute;
/// * `>=10`, `>10`, `<=10`, `<10`: the number is so.
///
/// At most [`WILDCARDS_MAX`] clauses have a `*` or a `?` in a word.
///
/// What other matchmakers read beside that is refused: regular expressions (`/.*or./`), likeness (`word~2`) and
/// backslashes. In quotes every letter stands for itself.
///
/// `name.key` asks for the number of a key of a map. An attribute that is missing is not so. A
/// leading `properties.` is left out, and the query `*` asks for nothing.
#[derive(Clone, Default, PartialEq)]
pub struct Query {
    text: String,
    clauses: Vec<Clause>,
}

/// One clause of a [`Query`].
#[derive(Clone, Debug, PartialEq)]
pub struct Clause {
    /// How much it matters.
    pub occur: Occur,
    /// Of what.
    pub attribute: Name,
    /// How it is to be.
    pub test: Test,
}

/// How much a clause matters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Occur {
    /// The others must be so.
    Must,
    /// The others must not be so.
    MustNot,
    /// It would be better by so much.
    Should(f64),
}

/// How an attribute is to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// There is one.
    Any,
    /// This text, or this number as text.
    Word(String),
    /// Begins so.
    Prefix(String),
    /// So, with any letters in the place of a `*`, and any one of a `?`.
    Pattern(String),
    /// A number in a range.
    Number(Bound, f64),
}

/// On which side of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>=`
    AtLeast,
    /// `>`
    Above,
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// When the text is none; with the column.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        Self::read(text, Origin::Newcomer)
    }

    /// Reads a query of a log: it may have been taken before its like was refused.
    pub(crate) fn parse_kept(text: &str) -> Result<Self, QueryError> {
        Self::read(text, Origin::Log)
    }

    fn read(text: &str, origin: Origin) -> Result<Self, QueryError> {
        let clauses = parse::clauses(text, origin)?;
        let text = text.to_owned();
        Ok(Self { text, clauses })
    }

    /// The text that it was read from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its clauses, in order.
    #[must_use]
    pub fn clauses(&self) -> &[Clause] {
        &self.clauses
    }
}

impl Bound {
    /// Whether a number is on this side of `than`.
    #[must_use]
    pub fn holds(self, number: f64, than: f64) -> bool {
        match self {
            Self::Below => number < than,
            Self::AtMost => number <= than,
            Self::AtLeast => number >= than,
            Self::Above => number > than,
        }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}
