//! JSON with places: values are kept as the parts of the text that they are, which tells where.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Fault, Key, Node, Plain};
use crate::rules::Reason;

/// How deep tables and lists may lie in each other.
const DEPTH_MAX: usize = 16;

pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let raw: &RawValue = read(text, text)?;
    node(text, raw.get(), 0)
}

fn node(text: &str, part: &str, depth: usize) -> Result<Node, Fault> {
    let at = offset(text, part);
    if depth > DEPTH_MAX {
        let reason = Reason::Expected {
            what: "less nesting",
        };
        return Err(Fault { at, reason });
    }
    let value = match part.as_bytes().first() {
        Some(b'{') => {
            let pairs: Pairs<'_> = read(text, part)?;
            let mut seen = BTreeSet::new();
            let mut items = Vec::new();
            for (key, raw) in pairs.0 {
                let key = Key {
                    at: offset(text, key.get()),
                    text: read(text, key.get())?,
                };
                if !seen.insert(key.text.clone()) {
                    let (at, what) = (key.at, key.text);
                    let reason = Reason::Repeated { what };
                    return Err(Fault { at, reason });
                }
                items.push((key, node(text, raw.get(), depth + 1)?));
            }
            Plain::Table(items)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = read(text, part)?;
            let nodes = items.iter().map(|raw| node(text, raw.get(), depth + 1));
            Plain::List(nodes.collect::<Result<_, _>>()?)
        }
        Some(b'"') => Plain::Text(read(text, part)?),
        Some(b't' | b'f') => Plain::Boolean(read(text, part)?),
        Some(b'n') => {
            let what = "no null";
            let reason = Reason::Expected { what };
            return Err(Fault { at, reason });
        }
        _ => Plain::Number(read(text, part)?),
    };
    Ok(Node { at, value })
}

/// Where in the text a part of it begins.
fn offset(text: &str, part: &str) -> usize {
    (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize)
}

fn read<'t, T: Deserialize<'t>>(text: &str, part: &'t str) -> Result<T, Fault> {
    serde_json::from_str(part).map_err(|error| {
        let line_start: usize = part
            .split_inclusive('\n')
            .take(error.line().saturating_sub(1))
            .map(str::len)
            .sum();
        let at = offset(text, part) + line_start + error.column().saturating_sub(1);
        let message = error.to_string();
        // The place is told by the fault.
        let message = message
            .rsplit_once(" at line ")
            .map_or(message.as_str(), |(start, _)| start)
            .to_owned();
        Fault {
            at,
            reason: Reason::Syntax { message },
        }
    })
}

/// A table's keys and values, as they stand.
struct Pairs<'t>(Vec<(&'t RawValue, &'t RawValue)>);

impl<'t> Deserialize<'t> for Pairs<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'t> Visitor<'t> for PairsVisitor {
    type Value = Pairs<'t>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Pairs<'t>, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}
