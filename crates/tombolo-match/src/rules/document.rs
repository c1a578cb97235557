//! TOML and JSON as one tree that remembers where everything stands.

mod json;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Reason, RulesError};

/// Longest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

/// A value, and where in the text it begins.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: usize,
    pub(crate) value: Plain,
}

#[derive(Debug)]
pub(crate) enum Plain {
    Boolean(bool),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Table(Vec<(Key, Node)>),
}

#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) at: usize,
    pub(crate) text: String,
}

/// A place in the text, and what is wrong there.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) reason: Reason,
}

/// Reads a document: JSON when it begins with a brace, else TOML.
pub(crate) fn parse(text: &str) -> Result<Node, Fault> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let reason = Reason::TooLong;
        return Err(Fault { at: 0, reason });
    }
    if text.trim_start().starts_with('{') {
        return json::parse(text);
    }
    let table = DeTable::parse(text).map_err(|error| Fault {
        at: error.span().map_or(0, |span| span.start),
        reason: Reason::Syntax {
            message: error.message().to_owned(),
        },
    })?;
    from_table(table.get_ref(), 0)
}

/// Reads the tables of an array of a larger document in TOML, each with a text that says the same: however it
/// was written, in whichever order.
pub(crate) fn parse_tables(text: &str, key: &str) -> Result<Vec<(Node, String)>, Fault> {
    let wrong = |at, message: &str| Fault {
        at,
        reason: Reason::Syntax {
            message: message.to_owned(),
        },
    };
    let root = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        wrong(at, error.message())
    })?;
    let plain: toml::Table = toml::from_str(text).map_err(|error| wrong(0, error.message()))?;
    let Some((_, found)) = root
        .get_ref()
        .iter()
        .find(|(name, _)| name.get_ref() == key)
    else {
        return Ok(Vec::new());
    };
    let at = found.span().start;
    let expected = || Fault {
        at,
        reason: Reason::Expected {
            what: "an array of tables",
        },
    };
    let (DeValue::Array(tables), Some(toml::Value::Array(plain))) =
        (found.get_ref(), plain.get(key))
    else {
        return Err(expected());
    };
    let both = tables.iter().zip(plain).map(|(table, plain)| {
        let plain = plain.as_table().ok_or_else(expected)?;
        let text = toml::to_string(plain).map_err(|_| expected())?;
        if text.len() > DOCUMENT_BYTES_MAX {
            let (at, reason) = (table.span().start, Reason::TooLong);
            return Err(Fault { at, reason });
        }
        Ok((from_value(table)?, text))
    });
    both.collect()
}

/// Turns a place in the text into a line and a column.
pub(crate) fn locate(text: &str, fault: Fault) -> RulesError {
    let before = text.get(..fault.at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let last = before.rsplit('\n').next().unwrap_or_default();
    let column = last.chars().count() + 1;
    RulesError {
        line,
        column,
        reason: fault.reason,
    }
}

fn from_table(table: &DeTable<'_>, at: usize) -> Result<Node, Fault> {
    let mut items = Vec::new();
    for (key, value) in table {
        let key = Key {
            at: key.span().start,
            text: key.get_ref().to_string(),
        };
        items.push((key, from_value(value)?));
    }
    // The order of the text, so that the first mistake is told first.
    items.sort_by_key(|(key, _)| key.at);
    let value = Plain::Table(items);
    Ok(Node { at, value })
}

fn from_value(spanned: &Spanned<DeValue<'_>>) -> Result<Node, Fault> {
    let at = spanned.span().start;
    let expected = |what| Fault {
        at,
        reason: Reason::Expected { what },
    };
    let value = match spanned.get_ref() {
        DeValue::String(text) => Plain::Text(text.to_string()),
        DeValue::Integer(integer) => {
            let number = i64::from_str_radix(integer.as_str(), integer.radix());
            // Numbers of rules are far from where a float loses whole numbers.
            Plain::Number(number.map_err(|_| expected("a number within 1e15"))? as f64)
        }
        DeValue::Float(float) => {
            let number = float.as_str().parse();
            Plain::Number(number.map_err(|_| expected("a number"))?)
        }
        DeValue::Boolean(boolean) => Plain::Boolean(*boolean),
        DeValue::Datetime(_) => return Err(expected("no date")),
        DeValue::Array(array) => {
            Plain::List(array.iter().map(from_value).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => return from_table(table, at),
    };
    Ok(Node { at, value })
}
