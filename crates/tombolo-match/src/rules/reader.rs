//! What reads keys of a table, and complains about the others.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Reason;
use super::document::{Fault, Key, Node, Plain};
use crate::value::check_number;
use crate::word::Name;

/// The longest time that rules speak of.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A table whose keys are taken one by one.
pub(super) struct Table<'n> {
    pub(super) at: usize,
    items: &'n [(Key, Node)],
    /// All keys that were asked for, in order.
    known: Vec<&'static str>,
}

impl<'n> Table<'n> {
    pub(super) fn new(node: &'n Node) -> Result<Self, Fault> {
        match &node.value {
            Plain::Table(items) => Ok(Self {
                at: node.at,
                items,
                known: Vec::new(),
            }),
            Plain::Boolean(_) | Plain::Number(_) | Plain::Text(_) | Plain::List(_) => {
                Err(node.expected("a table"))
            }
        }
    }

    pub(super) fn optional(&mut self, key: &'static str) -> Option<&'n Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let item = self.items.iter().find(|(found, _)| found.text == key);
        item.map(|(_, node)| node)
    }

    pub(super) fn required(&mut self, key: &'static str) -> Result<&'n Node, Fault> {
        self.optional(key).ok_or_else(|| self.missing(key))
    }

    /// Complains that a key is not there, at one that looks like it where there is one.
    pub(super) fn missing(&self, key: &'static str) -> Fault {
        let alike = self
            .items
            .iter()
            .find(|(found, _)| is_alike(&found.text, key));
        match alike {
            Some((found, _)) => Fault {
                at: found.at,
                reason: Reason::Misspelt {
                    key,
                    found: found.text.clone(),
                },
            },
            None => Fault {
                at: self.at,
                reason: Reason::Missing { key },
            },
        }
    }

    /// The nodes of a list; none when there is no such key.
    pub(super) fn list(&mut self, key: &'static str) -> Result<&'n [Node], Fault> {
        self.optional(key).map_or(Ok(&[]), Node::list)
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
    ) -> Result<Duration, Fault> {
        self.optional(key).map_or(Ok(default), Node::duration)
    }

    /// A whole number in bounds.
    pub(super) fn count(
        &mut self,
        key: &'static str,
        default: Option<u32>,
        (min, max): (u32, u32),
    ) -> Result<u32, Fault> {
        let node = match (self.optional(key), default) {
            (Some(node), _) => node,
            (None, Some(default)) => return Ok(default),
            (None, None) => return Err(self.missing(key)),
        };
        let number = node.number()?;
        if number.fract() != 0.0 || !(f64::from(min)..=f64::from(max)).contains(&number) {
            let (min, max) = (min.into(), max.into());
            return node.fail(Reason::Bounds {
                what: key,
                min,
                max,
            });
        }
        Ok(number as u32)
    }

    /// Whether there is this key only.
    pub(super) fn is_alone(&self, key: &str) -> bool {
        self.items.iter().all(|(found, _)| found.text == key)
    }

    /// Complains about the first key that was not asked for.
    pub(super) fn finish(self) -> Result<(), Fault> {
        let unknown = self
            .items
            .iter()
            .find(|(key, _)| !self.known.contains(&key.text.as_str()));
        let Some((key, _)) = unknown else {
            return Ok(());
        };
        Err(Fault {
            at: key.at,
            reason: Reason::UnknownKey {
                key: key.text.clone(),
                known: self.known.join(", "),
            },
        })
    }
}

/// Whether one word may be the other with a letter or two wrong.
fn is_alike(found: &str, key: &str) -> bool {
    found != key && found.get(..2) == key.get(..2) && found.len().abs_diff(key.len()) <= 2
}

impl Node {
    pub(super) fn fail<T>(&self, reason: Reason) -> Result<T, Fault> {
        let at = self.at;
        Err(Fault { at, reason })
    }

    pub(super) fn expected(&self, what: &'static str) -> Fault {
        Fault {
            at: self.at,
            reason: Reason::Expected { what },
        }
    }

    pub(super) fn list(&self) -> Result<&[Self], Fault> {
        match &self.value {
            Plain::List(nodes) => Ok(nodes),
            Plain::Boolean(_) | Plain::Number(_) | Plain::Text(_) | Plain::Table(_) => {
                Err(self.expected("a list"))
            }
        }
    }

    pub(super) fn text(&self) -> Result<&str, Fault> {
        match &self.value {
            Plain::Text(text) => Ok(text),
            Plain::Boolean(_) | Plain::Number(_) | Plain::List(_) | Plain::Table(_) => {
                Err(self.expected("a text"))
            }
        }
    }

    pub(super) fn name(&self) -> Result<Name, Fault> {
        let what = "a name of 1 to 64 letters, digits and ._-";
        Name::parse(self.text()?).map_err(|_| self.expected(what))
    }

    pub(super) fn number(&self) -> Result<f64, Fault> {
        match &self.value {
            Plain::Number(number) if check_number(*number).is_ok() => Ok(*number),
            Plain::Boolean(_)
            | Plain::Number(_)
            | Plain::Text(_)
            | Plain::List(_)
            | Plain::Table(_) => Err(self.expected("a number within 1e15")),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, Fault> {
        match &self.value {
            Plain::Boolean(boolean) => Ok(*boolean),
            Plain::Number(_) | Plain::Text(_) | Plain::List(_) | Plain::Table(_) => {
                Err(self.expected("true or false"))
            }
        }
    }

    /// A number of seconds, or a text such as `500ms`, `5s`, `2m`.
    pub(super) fn duration(&self) -> Result<Duration, Fault> {
        let what = "a time of at most a day, such as 500ms, 5s or 2m";
        let seconds = match &self.value {
            Plain::Number(seconds) => *seconds,
            Plain::Text(text) => {
                let end = text.find(|letter: char| letter.is_ascii_alphabetic());
                let (number, unit) = text.split_at(end.unwrap_or(text.len()));
                let scale = match unit {
                    "ms" => 0.001,
                    "s" => 1.0,
                    "m" => 60.0,
                    "h" => 3600.0,
                    _ => return Err(self.expected(what)),
                };
                let number: f64 = number.parse().map_err(|_| self.expected(what))?;
                number * scale
            }
            Plain::Boolean(_) | Plain::List(_) | Plain::Table(_) => {
                return Err(self.expected(what));
            }
        };
        if !(0.0..=DURATION_MAX.as_secs_f64()).contains(&seconds) {
            return Err(self.expected(what));
        }
        Ok(Duration::from_millis((seconds * 1000.0).round() as u64))
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&self, words: &[(&'static str, T)]) -> Result<T, Fault> {
        let text = self.text()?;
        if let Some((_, choice)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*choice);
        }
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        self.fail(Reason::Choice {
            found: text.to_owned(),
            known: known.join(", "),
        })
    }
}

/// Complains when a name comes twice.
pub(super) fn check_new(seen: &mut BTreeSet<Name>, name: &Name, node: &Node) -> Result<(), Fault> {
    if seen.insert(name.clone()) {
        return Ok(());
    }
    node.fail(Reason::Repeated {
        what: name.to_string(),
    })
}
