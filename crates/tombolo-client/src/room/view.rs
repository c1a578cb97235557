//! A room as this device sees it.

use std::collections::BTreeMap;

use bytes::Bytes;
use tombolo_room::{
    Changed, GroupId, Message, Object, ObjectId, OperationId, Property, PropertyKey, RoomCode,
    Settings, Takeover, Target,
};
use tombolo_wire::UserId;
use tombolo_wire::v1::{self, room_event};

use super::RoomEvent;

/// A room as this device sees it: everything that has been told so far.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RoomView {
    /// How the room behaves; `None` until the node has told.
    pub settings: Option<Settings>,
    /// By which others may join; see [`RoomOptions::with_code`](crate::RoomOptions::with_code).
    pub code: Option<RoomCode>,
    /// Who has the say.
    pub owner: Option<UserId>,
    /// What the owner before has left, if this device's user is the owner.
    pub owner_state: Bytes,
    /// The room's properties.
    pub properties: BTreeMap<PropertyKey, Property>,
    /// The members.
    pub members: BTreeMap<UserId, MemberView>,
    /// The objects that this device sees.
    pub objects: BTreeMap<ObjectId, RoomObject>,
    /// The last durable message that was told, for a return.
    pub(crate) last: Option<Last>,
    /// Whether messages are known to be missing since.
    pub(crate) is_behind: bool,
    /// Whether the whole room has been told.
    is_synced: bool,
}

/// A member as this device sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberView {
    /// Its place, from 0; stays its own while it is a member.
    pub seat: u32,
    /// Its connection broke; its seat is kept for a while.
    pub is_dropped: bool,
    /// What is known about it.
    pub properties: BTreeMap<PropertyKey, Property>,
}

/// A thing in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoomObject {
    /// What it is, in the application's words.
    pub kind: PropertyKey,
    /// Who may change it; the room's owner while it has none.
    pub owner: Option<UserId>,
    /// Who may make it its own.
    pub takeover: Takeover,
    /// Whether it outlives its owner's membership.
    pub stays: bool,
    /// Who sees it; `None` for all.
    pub group: Option<GroupId>,
    /// What is known about it.
    pub properties: BTreeMap<PropertyKey, Property>,
}

/// A durable message's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Last {
    opening: OperationId,
    number: u64,
}

impl RoomView {
    /// Takes in that this device is in the room, and who is there.
    pub(crate) fn on_joined(&mut self, joined: &v1::Joined) {
        let told = joined.last.as_ref().and_then(Last::parse);
        if !joined.recovered {
            let missed = |before: Last| told.is_some_and(|told| told != before);
            self.is_behind = self.last.is_some_and(missed);
            self.last = told;
        }
        self.code = RoomCode::parse(&joined.code).ok();
        let members = joined.members.iter().filter_map(member);
        self.members = members.collect();
    }

    pub(crate) fn on_member(&mut self, member: &v1::Member) {
        if let Ok(user) = UserId::parse(&member.user) {
            let view = self.members.entry(user).or_default();
            (view.seat, view.is_dropped) = (member.seat, member.dropped);
        }
    }

    /// Takes in what is told, and says what the application is to hear of it. `None` from what breaks
    /// the contract, too.
    pub(crate) fn on_told(&mut self, by: &str, kind: room_event::Kind) -> Option<RoomEvent> {
        use room_event::Kind;

        let by = UserId::parse(by).ok();
        let event = match kind {
            Kind::Reset(v1::RoomReset {}) => {
                self.reset();
                return None;
            }
            Kind::Synced(synced) => {
                self.is_synced = true;
                let is_behind = std::mem::take(&mut self.is_behind);
                let lost = synced.lost || is_behind;
                return Some(RoomEvent::Synced { lost });
            }
            Kind::Said(said) => return self.on_said(said).map(RoomEvent::Said),
            Kind::Settings(settings) => {
                self.settings = Some(Settings::parse(&settings).ok()?);
                RoomEvent::Configured { by }
            }
            Kind::Owner(owner) => {
                self.owner = UserId::parse(&owner.user).ok();
                self.owner_state = owner.state;
                RoomEvent::Owner(self.owner.clone())
            }
            Kind::Properties(changed) => self.on_properties(by, changed)?,
            Kind::Object(object) => {
                let id = self.on_object(object)?;
                RoomEvent::Object { by, id }
            }
            Kind::ObjectDeleted(deleted) => {
                let id = ObjectId(deleted.object);
                self.objects.remove(&id);
                RoomEvent::ObjectDeleted { by, id }
            }
            Kind::Dropped(dropped) => {
                let user = UserId::parse(&dropped.user).ok()?;
                self.members.get_mut(&user)?.is_dropped = true;
                return Some(RoomEvent::Dropped(user));
            }
            Kind::Returned(member) => {
                self.on_member(&member);
                return Some(RoomEvent::Returned(UserId::parse(&member.user).ok()?));
            }
            Kind::Lost(lost) => {
                let users = lost.users.iter();
                let users = users.filter_map(|user| UserId::parse(user).ok());
                return Some(RoomEvent::Lost(users.collect()));
            }
            Kind::Joined(_) | Kind::Left(_) => return None,
        };
        // What belongs to the first telling is no news.
        self.is_synced.then_some(event)
    }

    fn reset(&mut self) {
        *self = Self {
            members: std::mem::take(&mut self.members),
            code: self.code,
            last: self.last,
            is_behind: self.is_behind,
            ..Self::default()
        };
        for member in self.members.values_mut() {
            member.properties.clear();
        }
    }

    fn on_said(&mut self, said: v1::RoomMessage) -> Option<Message> {
        if let Some(last) = &mut self.last {
            last.number = last.number.max(said.number);
        }
        Message::parse(said).ok()
    }

    fn on_object(&mut self, told: v1::RoomObject) -> Option<ObjectId> {
        let (id, object) = Object::parse(told).ok()?;
        let properties = object.properties.iter();
        let told: BTreeMap<_, _> = properties
            .map(|(key, property)| (key.clone(), property.clone()))
            .collect();
        // A change of owner is told without the properties: they stay as they are.
        let known = self.objects.remove(&id);
        let mut properties = known.map(|known| known.properties).unwrap_or_default();
        properties.extend(told);
        let object = RoomObject {
            kind: object.kind,
            owner: object.owner,
            takeover: object.takeover,
            stays: object.stays,
            group: object.group,
            properties,
        };
        self.objects.insert(id, object);
        Some(id)
    }

    fn on_properties(
        &mut self,
        by: Option<UserId>,
        told: v1::PropertiesChanged,
    ) -> Option<RoomEvent> {
        let (target, properties) = match (told.member.as_str(), told.object) {
            ("", 0) => (Target::Room, &mut self.properties),
            ("", object) => {
                let id = ObjectId(object);
                let properties = &mut self.objects.get_mut(&id)?.properties;
                (Target::Object(id), properties)
            }
            (user, _) => {
                let user = UserId::parse(user).ok()?;
                let properties = &mut self.members.get_mut(&user)?.properties;
                (Target::Member(user), properties)
            }
        };
        let mut changes = Vec::new();
        for property in told.set {
            let (key, property) = Property::parse(property).ok()?;
            properties.insert(key.clone(), property.clone());
            let property = Some(property);
            changes.push(Changed { key, property });
        }
        for key in told.deleted {
            let key = PropertyKey::parse(&key).ok()?;
            properties.remove(&key);
            let property = None;
            changes.push(Changed { key, property });
        }
        Some(RoomEvent::Properties {
            by,
            target,
            changes,
        })
    }
}

impl Last {
    fn parse(position: &v1::MessagePosition) -> Option<Self> {
        let opening = OperationId(position.opening.as_ref().try_into().ok()?);
        let number = position.number;
        Some(Self { opening, number })
    }

    pub(crate) fn to_wire(self) -> v1::MessagePosition {
        v1::MessagePosition {
            opening: Bytes::copy_from_slice(&self.opening.0),
            number: self.number,
        }
    }
}

fn member(member: &v1::Member) -> Option<(UserId, MemberView)> {
    let view = MemberView {
        seat: member.seat,
        is_dropped: member.dropped,
        properties: BTreeMap::new(),
    };
    Some((UserId::parse(&member.user).ok()?, view))
}

#[cfg(test)]
mod tests {
    use tombolo_wire::v1::room_event::Kind;

    use super::*;

    fn integer(key: &str, value: i64) -> v1::Property {
        let kind = Some(v1::property_value::Kind::Integer(value));
        v1::Property {
            key: key.into(),
            value: Some(v1::PropertyValue { kind }),
            revision: 1,
            ..v1::Property::default()
        }
    }

    fn properties(object: u64, set: Vec<v1::Property>, deleted: &[&str]) -> Kind {
        Kind::Properties(v1::PropertiesChanged {
            object,
            set,
            deleted: deleted.iter().map(ToString::to_string).collect(),
            ..v1::PropertiesChanged::default()
        })
    }

    #[test]
    fn what_belongs_to_the_first_telling_is_no_news() {
        let mut view = RoomView::default();
        assert!(view.on_told("", Kind::Reset(v1::RoomReset {})).is_none());
        let told = view.on_told("", properties(0, vec![integer("x", 1)], &[]));
        assert!(told.is_none());
        let synced = view.on_told("", Kind::Synced(v1::Synced { lost: false }));
        assert!(matches!(synced, Some(RoomEvent::Synced { lost: false })));
        let told = view.on_told("alice", properties(0, vec![], &["x"]));
        let Some(RoomEvent::Properties { by, changes, .. }) = told else {
            panic!("{told:?}");
        };
        assert_eq!(by.unwrap().as_str(), "alice");
        assert_eq!(changes[0].property, None);
        assert!(view.properties.is_empty());
    }

    #[test]
    fn an_object_keeps_its_properties_when_it_changes_hands() {
        let mut view = RoomView::default();
        let object = |owner: &str, properties| {
            Kind::Object(v1::RoomObject {
                id: 3,
                kind: "ball".into(),
                owner: owner.into(),
                takeover: v1::Takeover::Given.into(),
                properties,
                ..v1::RoomObject::default()
            })
        };
        view.on_told("", object("alice", vec![integer("x", 1)]));
        view.on_told("", properties(3, vec![integer("y", 2)], &[]));
        view.on_told("", object("bob", vec![]));
        let object = &view.objects[&ObjectId(3)];
        assert_eq!(object.owner.as_ref().unwrap().as_str(), "bob");
        assert_eq!(object.properties.len(), 2);
    }

    #[test]
    fn a_return_that_missed_messages_says_so() {
        let position = |number| v1::MessagePosition {
            opening: Bytes::from_static(&[1; 16]),
            number,
        };
        let joined = |number, recovered| v1::Joined {
            last: Some(position(number)),
            recovered,
            ..v1::Joined::default()
        };
        let mut view = RoomView::default();
        view.on_joined(&joined(4, false));
        let synced = |view: &mut RoomView| view.on_told("", Kind::Synced(v1::Synced::default()));
        let first = synced(&mut view);
        assert!(matches!(first, Some(RoomEvent::Synced { lost: false })));
        view.on_joined(&joined(6, true));
        assert_eq!(view.last.unwrap().number, 4, "the two follow");
        let whole = synced(&mut view);
        assert!(matches!(whole, Some(RoomEvent::Synced { lost: false })));
        view.on_joined(&joined(9, false));
        let behind = synced(&mut view);
        assert!(matches!(behind, Some(RoomEvent::Synced { lost: true })));
    }
}
