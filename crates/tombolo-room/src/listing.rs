//! What is public about a room.

use std::collections::BTreeMap;

use tombolo_wire::{RoomId, v1};

use crate::entry::{self, EntryError, parse_key, parse_value};
use crate::property::{PUBLIC_PROPERTIES_MAX, PUBLIC_VALUE_BYTES_MAX, Value};
use crate::room::Room;
use crate::word::{PropertyKey, Time};

/// What is public about a room: what those see who look for one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// Its name.
    pub room: RoomId,
    /// How many members it has, those that have dropped included.
    pub members: u32,
    /// How many it takes.
    pub members_max: u32,
    /// How many may still come in; seats that are kept for others are not free.
    pub free: u32,
    /// Nobody comes in who has no seat kept.
    pub is_locked: bool,
    /// Newcomers must know a password.
    pub has_password: bool,
    /// When it opened.
    pub opened: Time,
    /// Its public properties.
    pub properties: BTreeMap<PropertyKey, Value>,
}

impl Listing {
    /// What is public about a room; `None` when it is closed or hidden.
    #[must_use]
    pub fn of(id: &RoomId, room: &Room) -> Option<Self> {
        let settings = room.settings().filter(|settings| !settings.is_hidden)?;
        let properties = room.properties()?.iter();
        let public = properties.filter(|(_, property)| property.is_public);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Some(Self {
            room: id.clone(),
            members: count(room.members().len()),
            members_max: settings.members_max,
            free: count(room.free()),
            is_locked: settings.is_locked,
            has_password: settings.password.is_some(),
            opened: room.opened()?,
            properties: public
                .map(|(key, property)| (key.clone(), property.value.clone()))
                .collect(),
        })
    }

    /// Whether anybody may come in as things are.
    #[must_use]
    pub fn is_joinable(&self) -> bool {
        self.free > 0 && !self.is_locked && !self.has_password
    }

    /// Reads what is public about a room.
    ///
    /// # Errors
    /// When it is nothing that a room may show.
    pub fn parse(found: v1::FoundRoom) -> Result<Self, EntryError> {
        if found.properties.len() > PUBLIC_PROPERTIES_MAX {
            return Err(EntryError::Malformed);
        }
        let parse = |property: v1::PublicProperty| {
            let value = parse_value(property.value.ok_or(EntryError::Malformed)?)?;
            if value.bytes() > PUBLIC_VALUE_BYTES_MAX {
                return Err(EntryError::Malformed);
            }
            Ok((parse_key(&property.key)?, value))
        };
        let properties = found.properties.into_iter().map(parse);
        Ok(Self {
            room: RoomId::parse(&found.room).map_err(|_| EntryError::Malformed)?,
            members: found.members,
            members_max: found.members_max,
            free: found.free,
            is_locked: found.locked,
            has_password: found.password,
            opened: Time::from_millis(found.opened_ms),
            properties: properties.collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Listing> for v1::FoundRoom {
    fn from(listing: &Listing) -> Self {
        let properties = listing.properties.iter();
        Self {
            room: listing.room.to_string(),
            members: listing.members,
            members_max: listing.members_max,
            free: listing.free,
            locked: listing.is_locked,
            password: listing.has_password,
            opened_ms: listing.opened.as_millis(),
            properties: properties
                .map(|(key, value)| v1::PublicProperty {
                    key: key.to_string(),
                    value: Some(entry::value(value)),
                })
                .collect(),
        }
    }
}
