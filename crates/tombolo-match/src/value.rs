//! What a user says about itself, and what a party then is.

use std::collections::{BTreeMap, BTreeSet};

use crate::word::Name;

/// Longest text in an attribute, in bytes.
pub const TEXT_BYTES_MAX: usize = 128;

/// The most texts in a list, or numbers in a map.
pub const ITEMS_MAX: usize = 64;

/// Numbers lie between this and its negative.
pub const NUMBER_MAX: f64 = 1e15;

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One word, such as a mode.
    Text(String),
    /// A number, such as a skill.
    Number(f64),
    /// Several words, such as the maps that the user likes.
    List(BTreeSet<String>),
    /// Numbers by name, such as the round trip to each region in milliseconds.
    Map(BTreeMap<Name, f64>),
}

/// What kind of value an attribute has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Value::Text`].
    Text,
    /// [`Value::Number`].
    Number,
    /// [`Value::List`].
    List,
    /// [`Value::Map`].
    Map,
}

/// How the values of a party's users become the party's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Merge {
    /// The mean of numbers; in maps, of each name that all have.
    Average,
    /// The least number; in maps, of each name that all have.
    Least,
    /// The greatest number; in maps, of each name that all have.
    Greatest,
    /// What any of the lists has.
    Union,
    /// What all lists have.
    Intersection,
    /// What the first user says: the only way for texts.
    First,
}

/// Why a value is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// Neither finite nor within [`NUMBER_MAX`].
    #[error("a number is not finite, or beyond 1e15")]
    Number,
    /// Longer than [`TEXT_BYTES_MAX`], or empty.
    #[error("a text is empty or longer than {TEXT_BYTES_MAX} bytes")]
    Text,
    /// More than [`ITEMS_MAX`].
    #[error("a list or map has more than {ITEMS_MAX} items")]
    Items,
}

impl Value {
    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Text(_) => Kind::Text,
            Self::Number(_) => Kind::Number,
            Self::List(_) => Kind::List,
            Self::Map(_) => Kind::Map,
        }
    }

    /// Whether it keeps all limits.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self) -> Result<(), ValueError> {
        match self {
            Self::Text(text) => check_text(text),
            Self::Number(number) => check_number(*number),
            Self::List(list) if list.len() > ITEMS_MAX => Err(ValueError::Items),
            Self::List(list) => list.iter().try_for_each(|text| check_text(text)),
            Self::Map(map) if map.len() > ITEMS_MAX => Err(ValueError::Items),
            Self::Map(map) => map.values().try_for_each(|number| check_number(*number)),
        }
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Value {
    /// About how many bytes it has when it is kept.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Text(text) => text.len() + 2,
            Self::Number(_) => 9,
            Self::List(list) => list.iter().map(|text| text.len() + 2).sum::<usize>() + 3,
            Self::Map(map) => {
                map.keys()
                    .map(|name| name.as_str().len() + 13)
                    .sum::<usize>()
                    + 3
            }
        }
    }
}

impl Kind {
    /// The word for it in rules.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Number => "number",
            Self::List => "list",
            Self::Map => "map",
        }
    }

    /// How values are merged when nobody says how.
    #[must_use]
    pub fn merge_default(self) -> Merge {
        match self {
            Self::Text => Merge::First,
            Self::Number => Merge::Average,
            Self::List => Merge::Intersection,
            Self::Map => Merge::Greatest,
        }
    }

    /// Whether values of this kind can be merged that way.
    #[must_use]
    pub fn takes(self, merge: Merge) -> bool {
        match merge {
            Merge::First => true,
            Merge::Average | Merge::Least | Merge::Greatest => {
                matches!(self, Self::Number | Self::Map)
            }
            Merge::Union | Merge::Intersection => self == Self::List,
        }
    }
}

impl Merge {
    /// Merges the values of one attribute, all of the same kind; `None` of nothing.
    #[must_use]
    pub fn merge<'v>(self, values: impl IntoIterator<Item = &'v Value>) -> Option<Value> {
        let mut values = values.into_iter();
        let mut merged = values.next()?.clone();
        if self == Self::First {
            return Some(merged);
        }
        let mut count = 1.0;
        for value in values {
            count += 1.0;
            match (&mut merged, value) {
                (Value::Number(a), Value::Number(b)) => *a = self.join(*a, *b),
                (Value::List(a), Value::List(b)) if self == Self::Union => {
                    a.extend(b.iter().cloned());
                }
                (Value::List(a), Value::List(b)) => a.retain(|text| b.contains(text)),
                (Value::Map(a), Value::Map(b)) => {
                    a.retain(|name, _| b.contains_key(name));
                    for (name, number) in a.iter_mut() {
                        *number = self.join(*number, b[name]);
                    }
                }
                // Of another kind: whoever made the ticket was refused.
                _ => {}
            }
        }
        if self == Self::Average {
            match &mut merged {
                Value::Number(sum) => *sum /= count,
                Value::Map(sums) => sums.values_mut().for_each(|sum| *sum /= count),
                Value::Text(_) | Value::List(_) => {}
            }
        }
        Some(merged)
    }

    fn join(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Least => a.min(b),
            Self::Greatest => a.max(b),
            // Divided by the count in the end.
            Self::Average => a + b,
            Self::Union | Self::Intersection | Self::First => a,
        }
    }
}

pub(crate) fn check_number(number: f64) -> Result<(), ValueError> {
    // NaN is not within.
    if number.abs() <= NUMBER_MAX {
        Ok(())
    } else {
        Err(ValueError::Number)
    }
}

fn check_text(text: &str) -> Result<(), ValueError> {
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        return Err(ValueError::Text);
    }
    Ok(())
}
