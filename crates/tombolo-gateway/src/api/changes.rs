//! What a request of the API makes of properties.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use tombolo_room::{Change, DURATION_MAX, Expectation, Operation, PropertyKey, Value};

use super::bad;
use super::body::{SetBody, ValueBody};
use crate::http::ApiError;

/// Changes by their properties, each once.
#[derive(Default)]
pub(super) struct Changes(BTreeMap<String, Change>);

impl Changes {
    pub(super) fn parse(body: SetBody) -> Result<Vec<Change>, ApiError> {
        let mut changes = Self::default();
        changes.set(body.set, None)?;
        changes.set(body.public, Some(true))?;
        changes.set(body.private, Some(false))?;
        for (name, count) in body.add {
            changes.insert(name, Operation::Add(count), None)?;
        }
        for name in body.delete {
            changes.insert(name, Operation::Delete, None)?;
        }
        for (name, expected) in body.expect {
            changes.changed(&name, "expected")?.expect = match expected {
                Some(value) => Expectation::Value(value.parse()?),
                None => Expectation::Absent,
            };
        }
        for (name, seconds) in body.lasts_s {
            let lasts = Duration::from_secs(seconds);
            if lasts.is_zero() || lasts > DURATION_MAX {
                return Err(bad("lasts_s is from a second to a year"));
            }
            changes.changed(&name, "to last")?.lasts = Some(lasts);
        }
        changes.finish()
    }

    /// Sets properties.
    pub(super) fn set(
        &mut self,
        values: BTreeMap<String, ValueBody>,
        is_public: Option<bool>,
    ) -> Result<(), ApiError> {
        for (name, value) in values {
            self.insert(name, Operation::Set(value.parse()?), is_public)?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<Change>, ApiError> {
        if self.0.len() > tombolo_room::PROPERTY_CHANGES_MAX {
            return Err(bad("at most 64 properties are changed at once"));
        }
        Ok(self.0.into_values().collect())
    }

    fn insert(
        &mut self,
        name: String,
        operation: Operation,
        is_public: Option<bool>,
    ) -> Result<(), ApiError> {
        let key = PropertyKey::parse(&name).map_err(|_| bad("a key has 1 to 64 bytes"))?;
        let change = Change {
            operation,
            is_public,
            ..Change::set(key, Value::Boolean(false))
        };
        match self.0.entry(name) {
            Entry::Vacant(entry) => drop(entry.insert(change)),
            Entry::Occupied(entry) => {
                return Err(bad(&format!("{} is changed twice", entry.key())));
            }
        }
        Ok(())
    }

    /// The change that more is said about.
    fn changed(&mut self, name: &str, what: &str) -> Result<&mut Change, ApiError> {
        let unchanged = || bad(&format!("{name} is {what}, but not changed"));
        self.0.get_mut(name).ok_or_else(unchanged)
    }
}
