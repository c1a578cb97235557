//! Typed values by name, changed all at once or not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::event::{Changed, Illegal};
use crate::word::{PropertyKey, Time};

/// The most properties of a room, a member, or an object.
pub const PROPERTIES_MAX: usize = 256;

/// Largest text or binary value, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 * 1024;

/// The most properties of a room that are public.
pub const PUBLIC_PROPERTIES_MAX: usize = 32;

/// Largest public text or binary value of a room, in bytes.
pub const PUBLIC_VALUE_BYTES_MAX: usize = 256;

/// A property's value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Yes or no.
    Boolean(bool),
    /// A whole number; the only kind that can be added to.
    Integer(i64),
    /// Any other number.
    Number(f64),
    /// Text.
    Text(String),
    /// Anything else.
    Binary(Bytes),
}

/// One property as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// What it says.
    pub value: Value,
    /// The number of the change that made it; grows over the whole room, over deletion too.
    pub revision: u64,
    /// When it goes by itself.
    pub expires: Option<Time>,
    /// Seen by those who look for a room.
    pub is_public: bool,
}

/// What is to become of one property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub key: PropertyKey,
    /// What is to be done.
    pub operation: Operation,
    /// Only if the property is so.
    pub expect: Expectation,
    /// How long the value lasts; `None` until it is changed.
    pub lasts: Option<Duration>,
    /// Seen by those who look for a room; `None`: as it was, and not what is new.
    pub is_public: Option<bool>,
}

/// What is to be done to a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Give it a value.
    Set(Value),
    /// Add to an integer; one that is absent counts as 0.
    Add(i64),
    /// Take it away; one that is absent stays so.
    Delete,
}

/// What must be the case for a change to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// Nothing.
    Any,
    /// There is no such property.
    Absent,
    /// The property was made by that change.
    Revision(u64),
    /// The property has that value.
    Value(Value),
}

/// Properties by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<PropertyKey, Property>);

/// Changes that were found to be legal, with what they cost.
pub(crate) struct Planned {
    changed: Vec<Changed>,
    /// Bytes of keys and values, before and after.
    pub(crate) bytes_before: usize,
    pub(crate) bytes_after: usize,
}

impl Value {
    /// What the value counts as, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Boolean(_) | Self::Integer(_) | Self::Number(_) => 8,
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

// By bits, so that a number is always equal to itself and copies of a room compare equal.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Boolean(a), Self::Boolean(b)) => a == b,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Binary(a), Self::Binary(b)) => a == b,
            (
                Self::Boolean(_)
                | Self::Integer(_)
                | Self::Number(_)
                | Self::Text(_)
                | Self::Binary(_),
                _,
            ) => false,
        }
    }
}

impl Eq for Value {}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl Change {
    /// Sets a property, whatever it was; a public one stays so.
    #[must_use]
    pub fn set(key: PropertyKey, value: Value) -> Self {
        Self {
            key,
            operation: Operation::Set(value),
            expect: Expectation::Any,
            lasts: None,
            is_public: None,
        }
    }

    /// Sets a property that those who look for a room see.
    #[must_use]
    pub fn publish(key: PropertyKey, value: Value) -> Self {
        Self {
            is_public: Some(true),
            ..Self::set(key, value)
        }
    }
}

impl Planned {
    /// Whether a room with such properties can be shown to those who look for rooms. What was public
    /// before and is not touched is not looked at: its size was found to be good.
    pub(crate) fn is_listable(&self, before: &Properties) -> bool {
        let public = |property: &Property| property.is_public;
        let added = || self.changed.iter().filter_map(|new| new.property.as_ref());
        let is_touched = |key: &PropertyKey| self.changed.iter().any(|new| new.key == *key);
        if !added().any(public) {
            return true;
        }
        let kept = before
            .iter()
            .filter(|(key, property)| property.is_public && !is_touched(key));
        let mut added = added().filter(|property| public(property));
        let count = kept.count() + added.clone().count();
        let is_short = |property: &Property| property.value.bytes() <= PUBLIC_VALUE_BYTES_MAX;
        count <= PUBLIC_PROPERTIES_MAX && added.all(is_short)
    }
}

impl Properties {
    /// The property of that name.
    #[must_use]
    pub fn property(&self, key: &str) -> Option<&Property> {
        self.0.get(key)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&PropertyKey, &Property)> {
        self.0.iter()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.iter().map(|(key, property)| cost(key, property)).sum()
    }

    /// Looks what changes would come to; nothing changes yet. Several changes of one property build
    /// on each other.
    pub(crate) fn plan(
        &self,
        now: Time,
        changes: &[Change],
        mut revision: u64,
    ) -> Result<Planned, Illegal> {
        let mut pending: BTreeMap<&PropertyKey, Option<Property>> = BTreeMap::new();
        for change in changes {
            let old = match pending.get(&change.key) {
                Some(pending) => pending.as_ref(),
                None => self.0.get(&change.key),
            };
            if !change.expect.holds(old) {
                return Err(Illegal::Conflict);
            }
            revision += 1;
            let new = change.outcome(now, old, revision)?;
            pending.insert(&change.key, new);
        }
        let (mut bytes_before, mut bytes_after, mut count) = (0, 0, self.0.len());
        for (key, new) in &pending {
            let old = self.0.get(*key);
            bytes_before += old.map_or(0, |old| cost(key, old));
            bytes_after += new.as_ref().map_or(0, |new| cost(key, new));
            count = count + usize::from(new.is_some()) - usize::from(old.is_some());
        }
        if count > PROPERTIES_MAX {
            return Err(Illegal::Limit);
        }
        let changed = pending.into_iter().map(|(key, property)| Changed {
            key: key.clone(),
            property,
        });
        Ok(Planned {
            changed: changed.collect(),
            bytes_before,
            bytes_after,
        })
    }

    /// Makes planned changes.
    pub(crate) fn carry_out(&mut self, planned: Planned) -> Vec<Changed> {
        for Changed { key, property } in &planned.changed {
            match property {
                Some(property) => self.0.insert(key.clone(), property.clone()),
                None => self.0.remove(key),
            };
        }
        planned.changed
    }

    pub(crate) fn insert(&mut self, key: PropertyKey, property: Property) -> Option<Property> {
        self.0.insert(key, property)
    }

    /// Takes a property away that is due; returns what it counted as.
    pub(crate) fn expire(&mut self, now: Time, key: &PropertyKey) -> Option<usize> {
        let property = self.0.get(key)?;
        property.expires.filter(|expires| *expires <= now)?;
        let bytes = cost(key, property);
        self.0.remove(key);
        Some(bytes)
    }
}

impl Change {
    fn outcome(
        &self,
        now: Time,
        old: Option<&Property>,
        revision: u64,
    ) -> Result<Option<Property>, Illegal> {
        let was_public = old.is_some_and(|old| old.is_public);
        let value = match &self.operation {
            Operation::Delete => return Ok(None),
            Operation::Set(value) if value.bytes() > VALUE_BYTES_MAX => return Err(Illegal::Limit),
            Operation::Set(value) => value.clone(),
            Operation::Add(count) => {
                let old = match old.map(|old| &old.value) {
                    None => 0,
                    Some(Value::Integer(old)) => *old,
                    Some(_) => return Err(Illegal::NotInteger),
                };
                Value::Integer(old.checked_add(*count).ok_or(Illegal::Limit)?)
            }
        };
        Ok(Some(Property {
            value,
            revision,
            expires: self.lasts.map(|lasts| now.after(lasts)),
            is_public: self.is_public.unwrap_or(was_public),
        }))
    }
}

impl Expectation {
    fn holds(&self, property: Option<&Property>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => property.is_none(),
            Self::Revision(revision) => property.is_some_and(|found| found.revision == *revision),
            Self::Value(value) => property.is_some_and(|found| found.value == *value),
        }
    }
}

/// What a property counts as.
fn cost(key: &PropertyKey, property: &Property) -> usize {
    key.as_str().len() + property.value.bytes() + PROPERTY_OVERHEAD
}

/// What a property takes beside its key and its value.
const PROPERTY_OVERHEAD: usize = 64;
