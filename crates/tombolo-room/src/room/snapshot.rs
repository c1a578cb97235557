//! A whole room as bytes, and back.

use std::collections::BTreeMap;

use bytes::Bytes;
use indexmap::IndexMap;
use prost::Message as _;
use tombolo_wire::{UserId, v1};

use super::member::{Member, Presence};
use super::open::Open;
use super::operations::{Done, Made, Operations};
use super::timer::Timer;
use super::{NODES_LOST_MAX, Room, SENT_AWAY_MAX};
use crate::contract::{keep_properties, name, parse_name, restore_properties};
use crate::entry::{
    self, EntryError, Join, Target, VERSION, parse_code, parse_group, parse_joined,
    parse_node_lost, parse_settings, parse_user,
};
use crate::event::Illegal;
use crate::generated as wire;
use crate::message::{History, Message};
use crate::object::Object;
use crate::property::Properties;
use crate::word::{ObjectId, OperationId, Time};

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
                .map(|(id, time, done)| wire::Operation {
                    id: Bytes::copy_from_slice(&id.0),
                    time_ms: time.as_millis(),
                    legal: done.is_ok(),
                    object: done.ok().and_then(|made| made.object).map_or(0, |id| id.0),
                    message: done.ok().and_then(|made| made.message).unwrap_or_default(),
                    reason: done.err().map_or(0, number_of),
                })
                .collect(),
            forgotten_ms: self.operations.forgotten().map(Time::as_millis),
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
        let operations: Result<Vec<_>, SnapshotError> =
            snapshot.operations.iter().map(restore_operation).collect();
        let forgotten = snapshot.forgotten_ms.map(Time::from_millis);
        Ok(Self {
            clock: Time::from_millis(snapshot.clock_ms),
            operations: Operations::restore(operations?, forgotten).ok_or(SnapshotError)?,
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
        objects: objects.map(|(id, object)| object.to_wire(*id)).collect(),
        revision: open.revision,
        object_last: open.object_last,
        owner: name(open.owner.as_ref()),
        owner_state: open.owner_state.clone(),
        reserved: reserved
            .map(|(user, until)| keep_seat(user, Some(*until)))
            .collect(),
        banned: banned
            .map(|(user, until)| keep_seat(user, *until))
            .collect(),
        messages: open.history.messages().map(v1::RoomMessage::from).collect(),
        message_last: open.history.last,
        closes_ms: open.closes.map(Time::as_millis),
        code: entry::code(open.code),
        opened_ms: open.opened.as_millis(),
        sent_away: open
            .sent_away
            .iter()
            .map(|(user, identity)| wire::SentAway {
                user: user.to_string(),
                identity: Bytes::copy_from_slice(identity),
            })
            .collect(),
    }
}

fn restore_open(kept: wire::Open) -> Result<Open, SnapshotError> {
    let settings = parse_settings(&kept.settings.ok_or(SnapshotError)?)?;
    let mut open = Open::new(OperationId(array(&kept.opening)?), settings);
    let members = kept.members.into_iter().map(restore_member);
    open.member_by_user = members.collect::<Result<IndexMap<_, _>, _>>()?;
    open.properties = restore_properties(kept.properties)?;
    let objects = kept.objects.into_iter().map(Object::parse);
    open.objects = objects.collect::<Result<BTreeMap<_, _>, _>>()?;
    open.revision = kept.revision;
    open.object_last = kept.object_last;
    open.owner = parse_name(&kept.owner)?;
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
    if kept.sent_away.len() > SENT_AWAY_MAX {
        return Err(SnapshotError);
    }
    for device in kept.sent_away {
        let user = parse_user(&device.user)?;
        open.sent_away.insert(user, array(&device.identity)?);
    }
    let messages = kept.messages.into_iter().map(Message::parse);
    open.history = History::restore(messages.collect::<Result<_, _>>()?, kept.message_last);
    open.closes = kept.closes_ms.map(Time::from_millis);
    open.code = parse_code(&kept.code)?;
    open.opened = Time::from_millis(kept.opened_ms);
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
    let groups = kept.groups.iter().map(|group| parse_group(*group));
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

fn keep_seat(user: &UserId, until: Option<Time>) -> wire::KeptSeat {
    wire::KeptSeat {
        user: user.to_string(),
        until_ms: until.map(Time::as_millis),
    }
}

fn restore_operation(kept: &wire::Operation) -> Result<(OperationId, Time, Done), SnapshotError> {
    let id = OperationId(array(&kept.id)?);
    let some = |number: u64| Some(number).filter(|number| *number != 0);
    let made = Made {
        object: some(kept.object).map(ObjectId),
        message: some(kept.message),
    };
    let done = match kept.legal {
        true => Ok(made),
        false => Err(reason_of(kept.reason)),
    };
    Ok((id, Time::from_millis(kept.time_ms), done))
}

/// The number by which a reason is kept.
fn number_of(illegal: Illegal) -> u32 {
    let place = REASONS.iter().position(|reason| *reason == illegal);
    let number = place.and_then(|place| u32::try_from(place + 1).ok());
    number.unwrap_or_default()
}

/// A reason by its number; that it came before is all that is known of one that a later release has.
fn reason_of(number: u32) -> Illegal {
    let number = usize::try_from(number).unwrap_or_default();
    let reason = number.checked_sub(1).and_then(|place| REASONS.get(place));
    reason.copied().unwrap_or(Illegal::Repeated)
}

/// Further ones are added at the end.
const REASONS: [Illegal; 19] = [
    Illegal::Unsure,
    Illegal::Open,
    Illegal::Closed,
    Illegal::Settings,
    Illegal::Full,
    Illegal::Locked,
    Illegal::Password,
    Illegal::Banned,
    Illegal::Member,
    Illegal::Stale,
    Illegal::NotMember,
    Illegal::NodeLost,
    Illegal::NotOwner,
    Illegal::NoSuch,
    Illegal::Conflict,
    Illegal::NotInteger,
    Illegal::Limit,
    Illegal::Repeated,
    Illegal::Kicked,
];

fn array<const N: usize>(bytes: &Bytes) -> Result<[u8; N], SnapshotError> {
    bytes.as_ref().try_into().map_err(|_| SnapshotError)
}
