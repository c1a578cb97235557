//! Bytes to entries: every bound that does not depend on the room is checked here, once.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::{NodeId, PublicKeys, UserId, v1};

use super::{
    Act, Actor, Body, ENTRY_BYTES_MAX, Entry, EntryError, Join, LeftReason, Membership,
    PROPERTY_CHANGES_MAX, Reserve, Target, USERS_PER_ENTRY_MAX, VERSION,
};
use crate::code::RoomCode;
use crate::contract::parse_name;
use crate::generated as wire;
use crate::message::{Audience, PAYLOAD_BYTES_MAX};
use crate::object::{ObjectPlan, Takeover};
use crate::property::{Change, Expectation, Operation, Value};
use crate::room::OWNER_STATE_BYTES_MAX;
use crate::settings::{DURATION_MAX, OwnerPolicy, Password, Settings, SettingsChange, Writers};
use crate::word::{GroupId, ObjectId, OperationId, PropertyKey, SessionId, Time};

type Parsed<T> = Result<T, EntryError>;

impl Entry {
    /// Reads appended bytes.
    ///
    /// # Errors
    /// When they are no entry; every node of this version says the same.
    pub fn decode(bytes: &[u8]) -> Parsed<Self> {
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::TooLong);
        }
        let entry = wire::Entry::decode(bytes).map_err(|_| EntryError::Malformed)?;
        if entry.version != VERSION {
            let version = entry.version;
            return Err(EntryError::Version { version });
        }
        Ok(Self {
            operation: OperationId(array(&entry.operation)?),
            time: Time::from_millis(entry.time_ms),
            node: NodeId::parse(&entry.node).ok(),
            incarnation: entry.incarnation,
            body: parse_body(entry.body.ok_or(EntryError::Malformed)?)?,
        })
    }
}

fn parse_body(body: wire::entry::Body) -> Parsed<Body> {
    use wire::entry::Body as On;

    Ok(match body {
        On::Created(created) => Body::Created {
            settings: parse_settings(&created.settings.ok_or(EntryError::Malformed)?)?,
            first: created.first.as_ref().map(parse_joined).transpose()?,
            properties: parse_changes(created.properties)?,
            reserve: created.reserve.as_ref().map(parse_reserve).transpose()?,
            code: parse_code(&created.code)?,
        },
        On::Joined(joined) => Body::Joined(parse_joined(&joined)?),
        On::Dropped(dropped) => Body::Dropped {
            user: parse_user(&dropped.user)?,
            session: SessionId(array(&dropped.session)?),
        },
        On::Returned(returned) => Body::Returned {
            user: parse_user(&returned.user)?,
            session: SessionId(array(&returned.session)?),
            node: parse_node(&returned.node)?,
            incarnation: returned.incarnation,
        },
        On::Left(left) => Body::Left {
            reason: parse_reason(left.reason())?,
            user: parse_user(&left.user)?,
            session: SessionId(array(&left.session)?),
        },
        On::NodeLost(lost) => {
            let (node, incarnation) = parse_node_lost(&lost)?;
            Body::NodeLost { node, incarnation }
        }
        On::Ticked(wire::Ticked {}) => Body::Ticked,
        On::Forgotten(wire::Forgotten {}) => Body::Forgotten,
        On::Act(act) => Body::Act {
            actor: parse_actor(&act.user, &act.session)?,
            act: parse_act(act.act.ok_or(EntryError::Malformed)?)?,
        },
    })
}

fn parse_actor(user: &str, session: &Bytes) -> Parsed<Actor> {
    if user.is_empty() && session.is_empty() {
        return Ok(Actor::Server);
    }
    Ok(Actor::Member {
        user: parse_user(user)?,
        session: SessionId(array(session)?),
    })
}

pub(crate) fn parse_act(act: v1::RoomAct) -> Parsed<Act> {
    use v1::room_act::Kind;

    Ok(match act.kind.ok_or(EntryError::Malformed)? {
        Kind::Configure(change) => Act::Configure(parse_configure(&change)?),
        Kind::Change(change) => Act::ChangeProperties {
            target: match (change.member.as_str(), change.object) {
                ("", 0) => Target::Room,
                ("", object) => Target::Object(ObjectId(object)),
                (user, 0) => Target::Member(parse_user(user)?),
                (_, _) => return Err(EntryError::Malformed),
            },
            changes: parse_changes(change.changes)?,
        },
        Kind::Reserve(reserve) => Act::Reserve(parse_reserve(&reserve)?),
        Kind::Kick(kick) => Act::Kick(parse_user(&kick.user)?),
        Kind::Ban(ban) => Act::Ban {
            user: parse_user(&ban.user)?,
            lasts: parse_lasts(ban.lasts_ms)?,
        },
        Kind::Unban(unban) => Act::Unban(parse_user(&unban.user)?),
        Kind::SetOwner(set) => Act::SetOwner(parse_name(&set.user)?),
        Kind::KeepState(keep) => {
            bounded(keep.state.len(), OWNER_STATE_BYTES_MAX)?;
            Act::KeepState(keep.state)
        }
        Kind::CreateObject(create) => Act::CreateObject(ObjectPlan {
            kind: parse_key(&create.kind)?,
            takeover: parse_takeover(create.takeover())?,
            stays: create.stays,
            group: NonZeroU32::new(create.group).map(GroupId),
            properties: parse_changes(create.properties)?,
        }),
        Kind::OwnObject(own) => Act::OwnObject {
            object: ObjectId(own.object),
            owner: parse_name(&own.owner)?,
        },
        Kind::DeleteObject(delete) => Act::DeleteObject(ObjectId(delete.object)),
        Kind::Groups(groups) => Act::ChangeGroups {
            enter: parse_groups(&groups.enter)?,
            exit: parse_groups(&groups.exit)?,
        },
        Kind::Say(say) => {
            bounded(say.payload.len(), PAYLOAD_BYTES_MAX)?;
            Act::Say {
                audience: parse_audience(say.audience)?,
                payload: say.payload,
            }
        }
        Kind::Reach(reach) => Act::Reach(reach.reachability),
        Kind::Close(v1::CloseRoom {}) => Act::Close,
    })
}

pub(crate) fn parse_joined(joined: &wire::Joined) -> Parsed<Join> {
    Ok(Join {
        user: parse_user(&joined.user)?,
        membership: Membership {
            session: SessionId(array(&joined.session)?),
            keys: PublicKeys {
                identity: array(&joined.identity)?,
                seal: array(&joined.seal)?,
            },
            node: parse_node(&joined.node)?,
            incarnation: joined.incarnation,
            life: joined.life,
        },
        reachability: joined.reachability,
        password: parse_password(&joined.password)?,
        properties: parse_changes(joined.properties.clone())?,
        returns_to: match joined.returns_to.as_ref() {
            [] => None,
            _ => Some(OperationId(array(&joined.returns_to)?)),
        },
    })
}

pub(crate) fn parse_settings(settings: &v1::RoomSettings) -> Parsed<Settings> {
    Ok(Settings {
        members_max: settings.members_max,
        password: parse_password(&settings.password)?,
        is_locked: settings.locked,
        is_hidden: settings.hidden,
        seat_kept: parse_duration(settings.seat_kept_ms)?,
        empty_kept: parse_duration(settings.empty_kept_ms)?,
        owner_policy: parse_policy(settings.owner_policy())?.ok_or(EntryError::Malformed)?,
        writers: parse_writers(settings.writers())?.ok_or(EntryError::Malformed)?,
        history_max: settings.history_max,
    })
}

pub(crate) fn parse_code(code: &str) -> Parsed<Option<RoomCode>> {
    match code {
        "" => Ok(None),
        code => RoomCode::parse(code)
            .map(Some)
            .map_err(|_| EntryError::Malformed),
    }
}

pub(crate) fn parse_node_lost(lost: &wire::NodeLost) -> Parsed<(NodeId, u64)> {
    Ok((parse_node(&lost.node)?, lost.incarnation))
}

pub(crate) fn parse_audience(audience: Option<v1::Audience>) -> Parsed<Audience> {
    let Some(audience) = audience else {
        return Ok(Audience::All);
    };
    match (audience.others, audience.users.len(), audience.group) {
        (true, 0, 0) => Ok(Audience::Others),
        (false, 1.., 0) => Ok(Audience::Users(parse_users(&audience.users)?)),
        (false, 0, group) => Ok(Audience::Group(parse_group(group)?)),
        (_, _, _) => Err(EntryError::Malformed),
    }
}

pub(crate) fn parse_value(value: v1::PropertyValue) -> Parsed<Value> {
    use v1::property_value::Kind;

    Ok(match value.kind.ok_or(EntryError::Malformed)? {
        Kind::Boolean(value) => Value::Boolean(value),
        Kind::Integer(value) => Value::Integer(value),
        Kind::Number(value) => Value::Number(value),
        Kind::Text(value) => Value::Text(value),
        Kind::Binary(value) => Value::Binary(value),
    })
}

pub(crate) fn parse_takeover(takeover: v1::Takeover) -> Parsed<Takeover> {
    match takeover {
        v1::Takeover::Fixed => Ok(Takeover::Fixed),
        v1::Takeover::Given => Ok(Takeover::Given),
        v1::Takeover::Taken => Ok(Takeover::Taken),
        v1::Takeover::Unspecified => Err(EntryError::Malformed),
    }
}

pub(crate) fn parse_user(user: &str) -> Parsed<UserId> {
    UserId::parse(user).map_err(|_| EntryError::Malformed)
}

pub(crate) fn parse_key(key: &str) -> Parsed<PropertyKey> {
    PropertyKey::parse(key).map_err(|_| EntryError::Malformed)
}

fn parse_configure(change: &v1::Configure) -> Parsed<SettingsChange> {
    Ok(SettingsChange {
        members_max: change.members_max,
        password: change.password.as_ref().map(parse_password).transpose()?,
        is_locked: change.locked,
        is_hidden: change.hidden,
        seat_kept: change.seat_kept_ms.map(parse_duration).transpose()?,
        empty_kept: change.empty_kept_ms.map(parse_duration).transpose()?,
        owner_policy: parse_policy(change.owner_policy())?,
        writers: parse_writers(change.writers())?,
        history_max: change.history_max,
    })
}

pub(crate) fn parse_changes(changes: Vec<v1::PropertyChange>) -> Parsed<Vec<Change>> {
    bounded(changes.len(), PROPERTY_CHANGES_MAX)?;
    changes.into_iter().map(parse_change).collect()
}

fn parse_change(change: v1::PropertyChange) -> Parsed<Change> {
    use v1::property_change::{Expect, Operation as Wanted};

    let operation = match change.operation.ok_or(EntryError::Malformed)? {
        Wanted::Set(value) => Operation::Set(parse_value(value)?),
        Wanted::Add(count) => Operation::Add(count),
        Wanted::Delete(v1::PropertyDelete {}) => Operation::Delete,
    };
    let expect = match change.expect {
        None => Expectation::Any,
        Some(Expect::Absent(v1::PropertyAbsent {})) => Expectation::Absent,
        Some(Expect::Revision(revision)) => Expectation::Revision(revision),
        Some(Expect::Value(value)) => Expectation::Value(parse_value(value)?),
    };
    Ok(Change {
        key: parse_key(&change.key)?,
        operation,
        expect,
        lasts: parse_lasts(change.lasts_ms)?,
        is_public: change.public,
    })
}

pub(crate) fn parse_reserve(reserve: &v1::Reserve) -> Parsed<Reserve> {
    Ok(Reserve {
        users: parse_users(&reserve.users)?,
        lasts: parse_duration(reserve.lasts_ms)?,
    })
}

fn parse_users(users: &[String]) -> Parsed<Vec<UserId>> {
    bounded(users.len(), USERS_PER_ENTRY_MAX)?;
    users.iter().map(|user| parse_user(user)).collect()
}

fn parse_groups(groups: &[u32]) -> Parsed<Vec<GroupId>> {
    bounded(groups.len(), USERS_PER_ENTRY_MAX)?;
    groups.iter().map(|group| parse_group(*group)).collect()
}

pub(crate) fn parse_group(group: u32) -> Parsed<GroupId> {
    NonZeroU32::new(group)
        .map(GroupId)
        .ok_or(EntryError::Malformed)
}

fn parse_node(node: &str) -> Parsed<NodeId> {
    NodeId::parse(node).map_err(|_| EntryError::Malformed)
}

pub(crate) fn parse_password(password: &Bytes) -> Parsed<Option<Password>> {
    match password.len() {
        0 => Ok(None),
        _ => array(password).map(|digest| Some(Password(digest))),
    }
}

/// `None` when nothing is said.
fn parse_policy(policy: v1::OwnerPolicy) -> Parsed<Option<OwnerPolicy>> {
    Ok(match policy {
        v1::OwnerPolicy::Unspecified => None,
        v1::OwnerPolicy::Automatic => Some(OwnerPolicy::Automatic),
        v1::OwnerPolicy::Manual => Some(OwnerPolicy::Manual),
        v1::OwnerPolicy::None => Some(OwnerPolicy::None),
    })
}

/// `None` when nothing is said.
fn parse_writers(writers: v1::Writers) -> Parsed<Option<Writers>> {
    Ok(match writers {
        v1::Writers::Unspecified => None,
        v1::Writers::Everybody => Some(Writers::Everybody),
        v1::Writers::Owner => Some(Writers::Owner),
        v1::Writers::Server => Some(Writers::Server),
    })
}

fn parse_reason(reason: wire::LeftReason) -> Parsed<LeftReason> {
    match reason {
        wire::LeftReason::Left => Ok(LeftReason::Left),
        wire::LeftReason::Disconnected => Ok(LeftReason::Disconnected),
        wire::LeftReason::Replaced => Ok(LeftReason::Replaced),
        wire::LeftReason::Kicked => Ok(LeftReason::Kicked),
        wire::LeftReason::Banned => Ok(LeftReason::Banned),
        wire::LeftReason::Closed => Ok(LeftReason::Closed),
        wire::LeftReason::Unspecified => Err(EntryError::Malformed),
    }
}

/// `None` for zero.
fn parse_lasts(millis: u64) -> Parsed<Option<Duration>> {
    let lasts = parse_duration(millis)?;
    Ok((!lasts.is_zero()).then_some(lasts))
}

fn parse_duration(millis: u64) -> Parsed<Duration> {
    let duration = Duration::from_millis(millis);
    if duration > DURATION_MAX {
        return Err(EntryError::Malformed);
    }
    Ok(duration)
}

fn array<const N: usize>(bytes: &Bytes) -> Parsed<[u8; N]> {
    bytes.as_ref().try_into().map_err(|_| EntryError::Malformed)
}

fn bounded(count: usize, max: usize) -> Parsed<()> {
    if count > max {
        return Err(EntryError::Malformed);
    }
    Ok(())
}
