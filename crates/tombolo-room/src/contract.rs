//! What devices say and are told about rooms, in the words of the contract.

use std::num::NonZeroU32;

use bytes::Bytes;
use tombolo_wire::{UserId, v1};

use crate::entry::{
    self, Act, EntryError, Reserve, parse_act, parse_audience, parse_changes, parse_key,
    parse_password, parse_reserve, parse_settings, parse_takeover, parse_user, parse_value,
};
use crate::event::By;
use crate::message::Message;
use crate::object::Object;
use crate::property::{Change, Properties, Property};
use crate::settings::{Password, Settings};
use crate::word::{GroupId, ObjectId, PropertyKey, Time};

impl Act {
    /// Reads what a device wants.
    ///
    /// # Errors
    /// When it is nothing known, or beyond what one entry may hold.
    pub fn parse(act: v1::RoomAct) -> Result<Self, EntryError> {
        parse_act(act)
    }
}

impl From<&Act> for v1::RoomAct {
    fn from(act: &Act) -> Self {
        entry::room_act(act)
    }
}

impl Settings {
    /// Reads how a room is to behave.
    ///
    /// # Errors
    /// When something is not said, or not known.
    pub fn parse(settings: &v1::RoomSettings) -> Result<Self, EntryError> {
        parse_settings(settings)
    }
}

impl Settings {
    /// Says to members how a room behaves; of its password, only that there is one.
    #[must_use]
    pub fn to_members(&self) -> v1::RoomSettings {
        entry::settings(&Self {
            password: self.password.map(|_| Password::UNTOLD),
            ..self.clone()
        })
    }
}

impl From<&Settings> for v1::RoomSettings {
    fn from(settings: &Settings) -> Self {
        entry::settings(settings)
    }
}

impl Change {
    /// Reads what is to become of properties.
    ///
    /// # Errors
    /// When it is nothing known, or too much for one entry.
    pub fn parse_all(changes: Vec<v1::PropertyChange>) -> Result<Vec<Self>, EntryError> {
        parse_changes(changes)
    }

    /// Says what is to become of properties.
    #[must_use]
    pub fn to_wire(changes: &[Self]) -> Vec<v1::PropertyChange> {
        entry::changes(changes)
    }
}

impl Reserve {
    /// Reads which seats are to be kept.
    ///
    /// # Errors
    /// When there are too many, or names are none.
    pub fn parse(reserve: &v1::Reserve) -> Result<Self, EntryError> {
        parse_reserve(reserve)
    }
}

impl From<&Reserve> for v1::Reserve {
    fn from(reserve: &Reserve) -> Self {
        entry::reserve(reserve)
    }
}

impl Password {
    /// Reads what a newcomer shows; nothing is empty.
    ///
    /// # Errors
    /// When it is no digest.
    pub fn parse(password: &Bytes) -> Result<Option<Self>, EntryError> {
        parse_password(password)
    }

    /// Says what a newcomer shows; nothing is empty.
    #[must_use]
    pub fn to_wire(password: Option<Self>) -> Bytes {
        entry::password(password)
    }
}

impl Property {
    /// Says how a property is.
    #[must_use]
    pub fn to_wire(&self, key: &PropertyKey) -> v1::Property {
        v1::Property {
            key: key.to_string(),
            value: Some(entry::value(&self.value)),
            revision: self.revision,
            expires_ms: self.expires.map(Time::as_millis),
            public: self.is_public,
        }
    }

    /// Reads how a property is.
    ///
    /// # Errors
    /// When it has no name, or no value.
    pub fn parse(kept: v1::Property) -> Result<(PropertyKey, Self), EntryError> {
        let property = Self {
            value: parse_value(kept.value.ok_or(EntryError::Malformed)?)?,
            revision: kept.revision,
            expires: kept.expires_ms.map(Time::from_millis),
            is_public: kept.public,
        };
        Ok((parse_key(&kept.key)?, property))
    }
}

impl Object {
    /// Says how an object is.
    #[must_use]
    pub fn to_wire(&self, id: ObjectId) -> v1::RoomObject {
        v1::RoomObject {
            id: id.0,
            kind: self.kind.to_string(),
            owner: name(self.owner.as_ref()),
            takeover: entry::takeover(self.takeover).into(),
            stays: self.stays,
            group: self.group.map_or(0, |group| group.0.get()),
            properties: keep_properties(&self.properties),
        }
    }

    /// Reads how an object is.
    ///
    /// # Errors
    /// When something about it is not known.
    pub fn parse(kept: v1::RoomObject) -> Result<(ObjectId, Self), EntryError> {
        let object = Self {
            kind: parse_key(&kept.kind)?,
            owner: parse_name(&kept.owner)?,
            takeover: parse_takeover(kept.takeover())?,
            stays: kept.stays,
            group: NonZeroU32::new(kept.group).map(GroupId),
            properties: restore_properties(kept.properties)?,
        };
        Ok((ObjectId(kept.id), object))
    }
}

impl Message {
    /// Reads a durable message.
    ///
    /// # Errors
    /// When it has no sender or audience that is known.
    pub fn parse(kept: v1::RoomMessage) -> Result<Self, EntryError> {
        Ok(Self {
            number: kept.number,
            time: Time::from_millis(kept.time_ms),
            from: By::from(parse_name(&kept.from)?),
            audience: parse_audience(kept.audience)?,
            payload: kept.payload,
        })
    }
}

impl From<&Message> for v1::RoomMessage {
    fn from(message: &Message) -> Self {
        Self {
            number: message.number,
            time_ms: message.time.as_millis(),
            from: name(message.from.member()),
            audience: entry::audience(&message.audience),
            payload: message.payload.clone(),
        }
    }
}

impl By {
    /// The member; `None` when a server or a rule made it happen.
    #[must_use]
    pub fn member(&self) -> Option<&UserId> {
        match self {
            Self::Member(user) => Some(user),
            Self::Server | Self::Rule => None,
        }
    }
}

pub(crate) fn keep_properties(properties: &Properties) -> Vec<v1::Property> {
    let properties = properties.iter();
    properties
        .map(|(key, property)| property.to_wire(key))
        .collect()
}

pub(crate) fn restore_properties(kept: Vec<v1::Property>) -> Result<Properties, EntryError> {
    let mut properties = Properties::default();
    for kept in kept {
        let (key, property) = Property::parse(kept)?;
        properties.insert(key, property);
    }
    Ok(properties)
}

/// Nobody is empty.
pub(crate) fn name(user: Option<&UserId>) -> String {
    user.map_or_else(String::new, UserId::to_string)
}

/// Nobody is empty.
pub(crate) fn parse_name(user: &str) -> Result<Option<UserId>, EntryError> {
    match user {
        "" => Ok(None),
        user => parse_user(user).map(Some),
    }
}
