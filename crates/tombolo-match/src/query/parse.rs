//! A text to a query.

use super::{Bound, CLAUSES_MAX, Clause, Occur, QUERY_BYTES_MAX, Test, WILDCARDS_MAX};
use crate::value::{TEXT_BYTES_MAX, check_number};
use crate::word::Name;

/// Why a text is no query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// Longer than [`QUERY_BYTES_MAX`].
    #[error("a query is at most {QUERY_BYTES_MAX} bytes long")]
    TooLong,
    /// More than [`CLAUSES_MAX`].
    #[error("a query has at most {CLAUSES_MAX} clauses")]
    TooMany,
    /// More than [`WILDCARDS_MAX`] words with a `*` or a `?` in them.
    #[error("column {column}: a query has at most {WILDCARDS_MAX} words with * or ? in them")]
    Wildcards {
        /// Where the first begins that is too much, from 1, in bytes.
        column: usize,
    },
    /// Something else than a clause.
    #[error("column {column}: {expected} is expected")]
    Expected {
        /// Where, from 1, in bytes.
        column: usize,
        /// What should be there.
        expected: &'static str,
    },
}

/// Where a query comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Whoever says it can be told that it is none.
    Newcomer,
    /// It was taken once, and is read.
    Log,
}

pub(super) fn clauses(text: &str, origin: Origin) -> Result<Vec<Clause>, QueryError> {
    if text.len() > QUERY_BYTES_MAX {
        return Err(QueryError::TooLong);
    }
    let mut reader = Reader {
        text,
        at: 0,
        origin,
    };
    let mut clauses = Vec::new();
    let mut wildcards = 0;
    loop {
        reader.skip_spaces();
        if reader.rest().is_empty() {
            return Ok(clauses);
        }
        if reader.is_all() {
            continue;
        }
        let column = reader.at + 1;
        let clause = reader.clause()?;
        wildcards += usize::from(matches!(clause.test, Test::Prefix(_) | Test::Pattern(_)));
        if wildcards > WILDCARDS_MAX && origin == Origin::Newcomer {
            return Err(QueryError::Wildcards { column });
        }
        if clauses.len() == CLAUSES_MAX {
            return Err(QueryError::TooMany);
        }
        clauses.push(clause);
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    origin: Origin,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_spaces(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, start: &str) -> bool {
        let is_there = self.rest().starts_with(start);
        if is_there {
            self.at += start.len();
        }
        is_there
    }

    /// Takes what goes on while `is_part`.
    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T, QueryError> {
        let column = self.at + 1;
        Err(QueryError::Expected { column, expected })
    }

    /// Takes a `*` that stands alone.
    fn is_all(&mut self) -> bool {
        let rest = self.rest();
        let word = rest.split_whitespace().next().unwrap_or_default();
        matches!(word, "*" | "+*") && {
            self.at += word.len();
            true
        }
    }

    fn clause(&mut self) -> Result<Clause, QueryError> {
        let sign = match () {
            () if self.take("+") => Some(Occur::Must),
            () if self.take("-") => Some(Occur::MustNot),
            () => None,
        };
        self.take("properties.");
        let start = self.at;
        let name = self.take_while(|letter| letter != ':' && !letter.is_whitespace());
        let Ok(attribute) = Name::parse(name) else {
            self.at = start;
            return self.expected("the name of an attribute");
        };
        if !self.take(":") {
            return self.expected("a colon");
        }
        let test = self.test()?;
        let boost = self.boost()?;
        let rest = self.rest();
        if !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
            return self.expected("a space");
        }
        let occur = match (sign, boost) {
            (None, boost) => Occur::Should(boost.unwrap_or(1.0)),
            (Some(occur), None) => occur,
            (Some(_), Some(_)) => return self.expected("no ^ after + or -"),
        };
        Ok(Clause {
            occur,
            attribute,
            test,
        })
    }

    fn test(&mut self) -> Result<Test, QueryError> {
        for (sign, bound) in BOUNDS {
            if self.take(sign) {
                return Ok(Test::Number(bound, self.number()?));
            }
        }
        let start = self.at;
        let (word, is_quoted) = if self.take("\"") {
            let word = self.take_while(|letter| letter != '"');
            if !self.take("\"") {
                return self.expected("a closing quote");
            }
            (word, true)
        } else {
            let word = self.take_while(|letter| letter != '^' && !letter.is_whitespace());
            (word, false)
        };
        if word.is_empty() || word.len() > TEXT_BYTES_MAX {
            self.at = start;
            return self.expected("a word of at most 128 bytes");
        }
        if is_quoted {
            return Ok(Test::Word(word.to_owned()));
        }
        match elsewhere(word) {
            Some(expected) if self.origin == Origin::Newcomer => {
                self.at = start;
                self.expected(expected)
            }
            Some(_) | None => Ok(worded(word)),
        }
    }

    fn boost(&mut self) -> Result<Option<f64>, QueryError> {
        if !self.take("^") {
            return Ok(None);
        }
        let start = self.at;
        let boost = self.number()?;
        if !(0.0..=1000.0).contains(&boost) {
            self.at = start;
            return self.expected("a number from 0 to 1000");
        }
        Ok(Some(boost))
    }

    fn number(&mut self) -> Result<f64, QueryError> {
        let start = self.at;
        let word =
            self.take_while(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter));
        match word.parse() {
            Ok(number) if check_number(number).is_ok() => Ok(number),
            _ => {
                self.at = start;
                self.expected("a number")
            }
        }
    }
}

/// A word without quotes.
fn worded(word: &str) -> Test {
    match word.strip_suffix('*') {
        _ if !word.contains(WILDCARDS) => Test::Word(word.to_owned()),
        _ if word.bytes().all(|letter| letter == b'*') => Test::Any,
        Some(prefix) if !prefix.contains(WILDCARDS) => Test::Prefix(prefix.to_owned()),
        Some(_) | None => Test::Pattern(word.to_owned()),
    }
}

/// What is expected in the place of what other matchmakers read in a word, and nobody here does: taken for the word
/// itself, it would exclude nobody.
fn elsewhere(word: &str) -> Option<&'static str> {
    let before = word.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    if word.starts_with('/') {
        return Some("a word such as *id7*, and no regular expression,");
    }
    if word.contains('\\') {
        return Some("a word in quotes, and no backslash,");
    }
    if before.len() > 1 && before.ends_with('~') {
        return Some("a word such as ab?d*, and not how like it others may be (~),");
    }
    None
}

const WILDCARDS: [char; 2] = ['*', '?'];

/// The longer signs first.
const BOUNDS: [(&str, Bound); 4] = [
    ("<=", Bound::AtMost),
    (">=", Bound::AtLeast),
    ("<", Bound::Below),
    (">", Bound::Above),
];
