//! A whole room as bytes, and back.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use indexmap::IndexMap;
use prost::Message as _;
use tombolo_wire::UserId;

use super::member::{Member, Presence};
use super::open::Open;
use super::operations::Operations;
use super::timer::Timer;
use super::{NODES_LOST_MAX, Room};
use crate::entry::{
    self, EntryError, Join, Target, VERSION, parse_audience, parse_joined, parse_key,
    parse_node_lost, parse_settings, parse_takeover, parse_user, parse_value,
};
use crate::event::By;
use crate::generated as wire;
use crate::message::{History, Message};
use crate::object::Object;
use crate::property::{Properties, Property};
use crate::word::{GroupId, ObjectId, OperationId, Time};

/// Why bytes are no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("snapshot is malformed or of an unknown version")]
pub struct SnapshotError;

impl Room {
    /// The whole room as bytes: equal rooms give equal bytes.
    #[must_use]
    pub fn snapshot(&self) -> Bytes {
        let operations = self.operations.iter();
        let lost = self.lost_by_node.iter();
        let snapshot = wire::Snapshot {
            version: VERSION,
            clock_ms: self.clock.as_millis(),
            operations: operations
                .map(|(id, time)| wire::Operation {
                    id: Bytes::copy_from_slice(&id.0),
                    time_ms: time.as_millis(),
                })
                .collect(),
            open: self.open.as_ref().map(keep_open),
            nodes_lost: lost
                .map(|(node, incarnation)| entry::node_lost(node.as_str(), *incarnation))
                .collect(),
        };
        snapshot.encode_to_vec().into()
    }

    /// Takes a room out of a snapshot.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn restore(snapshot: &[u8]) -> Result<Self, SnapshotError> {
        let snapshot = wire::Snapshot::decode(snapshot)?;
        if snapshot.version != VERSION || snapshot.nodes_lost.len() > NODES_LOST_MAX {
            return Err(SnapshotError);
        }
        let lost = snapshot.nodes_lost.iter().map(parse_node_lost);
        let operations: Result<VecDeque<_>, SnapshotError> =
            snapshot.operations.iter().map(restore_operation).collect();
        Ok(Self {
            clock: Time::from_millis(snapshot.clock_ms),
            operations: Operations::restore(operations?).ok_or(SnapshotError)?,
            lost_by_node: lost.collect::<Result<_, EntryError>>()?,
            open: snapshot.open.map(restore_open).transpose()?,
        })
    }
}

impl From<prost::DecodeError> for SnapshotError {
    fn from(_: prost::DecodeError) -> Self {
        Self
    }
}

impl From<EntryError> for SnapshotError {
    fn from(_: EntryError) -> Self {
        Self
    }
}

fn keep_open(open: &Open) -> wire::Open {
    let members = open.member_by_user.iter();
    let objects = open.objects.iter();
    let reserved = open.reserved.iter();
    let banned = open.banned.iter();
    wire::Open {
        opening: Bytes::copy_from_slice(&open.opening.0),
        settings: Some(entry::settings(&open.settings)),
        members: members
            .map(|(user, member)| keep_member(user, member))
            .collect(),
        properties: keep_properties(&open.properties),
        objects: objects
            .map(|(id, object)| keep_object(*id, object))
            .collect(),
        revision: open.revision,
        object_last: open.object_last,
        owner: keep_user(open.owner.as_ref()),
        owner_state: open.owner_state.clone(),
        reserved: reserved
            .map(|(user, until)| keep_seat(user, Some(*until)))
            .collect(),
        banned: banned
            .map(|(user, until)| keep_seat(user, *until))
            .collect(),
        messages: open.history.messages().map(keep_message).collect(),
        message_last: open.history.last,
        closes_ms: open.closes.map(Time::as_millis),
    }
}

fn restore_open(kept: wire::Open) -> Result<Open, SnapshotError> {
    let settings = parse_settings(&kept.settings.ok_or(SnapshotError)?)?;
    let mut open = Open::new(OperationId(array(&kept.opening)?), settings);
    let members = kept.members.into_iter().map(restore_member);
    open.member_by_user = members.collect::<Result<IndexMap<_, _>, _>>()?;
    open.properties = restore_properties(kept.properties)?;
    let objects = kept.objects.into_iter().map(restore_object);
    open.objects = objects.collect::<Result<BTreeMap<_, _>, _>>()?;
    open.revision = kept.revision;
    open.object_last = kept.object_last;
    open.owner = restore_user(&kept.owner)?;
    open.owner_state = kept.owner_state;
    for seat in kept.reserved {
        let until = seat.until_ms.ok_or(SnapshotError)?;
        let user = parse_user(&seat.user)?;
        open.reserved.insert(user, Time::from_millis(until));
    }
    for seat in kept.banned {
        let until = seat.until_ms.map(Time::from_millis);
        open.banned.insert(parse_user(&seat.user)?, until);
    }
    let messages = kept.messages.into_iter().map(restore_message);
    open.history = History::restore(messages.collect::<Result<_, _>>()?, kept.message_last);
    open.closes = kept.closes_ms.map(Time::from_millis);
    derive(&mut open);
    Ok(open)
}

/// Makes what follows from the rest.
fn derive(open: &mut Open) {
    let mut timers = Vec::new();
    let mut bytes = open.properties.bytes();
    due_properties(&Target::Room, &open.properties, &mut timers);
    for (user, member) in &open.member_by_user {
        bytes += member.properties.bytes();
        due_properties(
            &Target::Member(user.clone()),
            &member.properties,
            &mut timers,
        );
        if let Presence::Dropped { until } = member.presence {
            timers.push((until, Timer::Seat(user.clone())));
        }
    }
    for (id, object) in &open.objects {
        bytes += object.properties.bytes();
        due_properties(&Target::Object(*id), &object.properties, &mut timers);
        let owner = object.owner.as_ref();
        if let Some(member) = owner.and_then(|owner| open.member_by_user.get_mut(owner)) {
            member.objects += 1;
        }
    }
    for (user, until) in &open.reserved {
        timers.push((*until, Timer::Reservation(user.clone())));
    }
    for (user, until) in &open.banned {
        timers.extend(until.map(|until| (until, Timer::Ban(user.clone()))));
    }
    timers.extend(open.closes.map(|closes| (closes, Timer::Close)));
    open.timers = timers.into_iter().collect();
    open.property_bytes = bytes;
}

fn due_properties(target: &Target, properties: &Properties, timers: &mut Vec<(Time, Timer)>) {
    for (key, property) in properties.iter() {
        let timer = || Timer::Property(target.clone(), key.clone());
        timers.extend(property.expires.map(|expires| (expires, timer())));
    }
}

fn keep_member(user: &UserId, member: &Member) -> wire::KeptMember {
    let join = Join {
        reachability: member.reachability,
        ..Join::new(user.clone(), member.membership.clone())
    };
    wire::KeptMember {
        joined: Some(entry::joined(&join)),
        seat: member.seat,
        dropped_until_ms: match member.presence {
            Presence::Present => None,
            Presence::Dropped { until } => Some(until.as_millis()),
        },
        properties: keep_properties(&member.properties),
        groups: member.groups.iter().map(|group| group.0.get()).collect(),
    }
}

fn restore_member(kept: wire::KeptMember) -> Result<(UserId, Member), SnapshotError> {
    let join = parse_joined(&kept.joined.ok_or(SnapshotError)?)?;
    let until = kept.dropped_until_ms.map(Time::from_millis);
    let groups = kept.groups.iter().map(|group| restore_group(*group));
    let member = Member {
        membership: join.membership,
        seat: kept.seat,
        presence: until.map_or(Presence::Present, |until| Presence::Dropped { until }),
        reachability: join.reachability,
        properties: restore_properties(kept.properties)?,
        groups: groups.collect::<Result<_, _>>()?,
        objects: 0,
    };
    Ok((join.user, member))
}

fn keep_properties(properties: &Properties) -> Vec<wire::KeptProperty> {
    let kept = properties.iter().map(|(key, property)| wire::KeptProperty {
        key: key.to_string(),
        value: Some(entry::value(&property.value)),
        revision: property.revision,
        expires_ms: property.expires.map(Time::as_millis),
        public: property.is_public,
    });
    kept.collect()
}

fn restore_properties(kept: Vec<wire::KeptProperty>) -> Result<Properties, SnapshotError> {
    let mut properties = Properties::default();
    for kept in kept {
        let property = Property {
            value: parse_value(kept.value.ok_or(SnapshotError)?)?,
            revision: kept.revision,
            expires: kept.expires_ms.map(Time::from_millis),
            is_public: kept.public,
        };
        properties.insert(parse_key(&kept.key)?, property);
    }
    Ok(properties)
}

fn keep_object(id: ObjectId, object: &Object) -> wire::KeptObject {
    wire::KeptObject {
        id: id.0,
        kind: object.kind.to_string(),
        owner: keep_user(object.owner.as_ref()),
        takeover: entry::takeover(object.takeover).into(),
        stays: object.stays,
        group: object.group.map_or(0, |group| group.0.get()),
        properties: keep_properties(&object.properties),
    }
}

fn restore_object(kept: wire::KeptObject) -> Result<(ObjectId, Object), SnapshotError> {
    let object = Object {
        kind: parse_key(&kept.kind)?,
        owner: restore_user(&kept.owner)?,
        takeover: parse_takeover(kept.takeover())?,
        stays: kept.stays,
        group: restore_group(kept.group).ok(),
        properties: restore_properties(kept.properties)?,
    };
    Ok((ObjectId(kept.id), object))
}

fn keep_message(message: &Message) -> wire::Message {
    wire::Message {
        number: message.number,
        time_ms: message.time.as_millis(),
        from: match &message.from {
            By::Member(user) => user.to_string(),
            By::Server | By::Rule => String::new(),
        },
        audience: entry::audience(&message.audience),
        payload: message.payload.clone(),
    }
}

fn restore_message(kept: wire::Message) -> Result<Message, SnapshotError> {
    Ok(Message {
        number: kept.number,
        time: Time::from_millis(kept.time_ms),
        from: By::from(restore_user(&kept.from)?),
        audience: parse_audience(kept.audience)?,
        payload: kept.payload,
    })
}

fn keep_seat(user: &UserId, until: Option<Time>) -> wire::KeptSeat {
    wire::KeptSeat {
        user: user.to_string(),
        until_ms: until.map(Time::as_millis),
    }
}

fn keep_user(user: Option<&UserId>) -> String {
    user.map_or_else(String::new, UserId::to_string)
}

fn restore_user(user: &str) -> Result<Option<UserId>, SnapshotError> {
    match user {
        "" => Ok(None),
        user => Ok(Some(parse_user(user)?)),
    }
}

fn restore_group(group: u32) -> Result<GroupId, SnapshotError> {
    std::num::NonZeroU32::new(group)
        .map(GroupId)
        .ok_or(SnapshotError)
}

fn restore_operation(kept: &wire::Operation) -> Result<(OperationId, Time), SnapshotError> {
    let id = OperationId(array(&kept.id)?);
    Ok((id, Time::from_millis(kept.time_ms)))
}

fn array<const N: usize>(bytes: &Bytes) -> Result<[u8; N], SnapshotError> {
    bytes.as_ref().try_into().map_err(|_| SnapshotError)
}
