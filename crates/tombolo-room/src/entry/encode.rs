//! Entries to bytes.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::v1::DeviceKeys;
use tombolo_wire::{NodeId, UserId, v1};

use super::{Act, Actor, Body, Entry, Join, LeftReason, Reserve, Target, VERSION};
use crate::code::RoomCode;
use crate::contract::name;
use crate::generated as wire;
use crate::message::Audience;
use crate::object::{ObjectPlan, Takeover};
use crate::property::{Change, Expectation, Operation, Value};
use crate::settings::{OwnerPolicy, Password, Settings, SettingsChange, Writers};
use crate::word::GroupId;

impl Entry {
    /// The bytes to append.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let entry = wire::Entry {
            version: VERSION,
            operation: Bytes::copy_from_slice(&self.operation.0),
            time_ms: self.time.as_millis(),
            node: self
                .node
                .as_ref()
                .map_or_else(String::new, NodeId::to_string),
            incarnation: self.incarnation,
            body: Some(body(&self.body)),
        };
        entry.encode_to_vec().into()
    }
}

fn body(body: &Body) -> wire::entry::Body {
    match body {
        Body::Created {
            settings: how,
            first,
            properties,
            reserve: seats,
            code: short,
        } => wire::entry::Body::Created(wire::Created {
            settings: Some(settings(how)),
            first: first.as_ref().map(joined),
            properties: changes(properties),
            reserve: seats.as_ref().map(reserve),
            code: code(*short),
        }),
        Body::Joined(join) => wire::entry::Body::Joined(joined(join)),
        Body::Dropped { user, session } => wire::entry::Body::Dropped(wire::Dropped {
            user: user.to_string(),
            session: Bytes::copy_from_slice(&session.0),
        }),
        Body::Returned {
            user,
            session,
            node,
            incarnation,
        } => wire::entry::Body::Returned(wire::Returned {
            user: user.to_string(),
            session: Bytes::copy_from_slice(&session.0),
            node: node.to_string(),
            incarnation: *incarnation,
        }),
        Body::Left {
            user,
            session,
            reason,
        } => wire::entry::Body::Left(wire::Left {
            user: user.to_string(),
            session: Bytes::copy_from_slice(&session.0),
            reason: left_reason(*reason).into(),
        }),
        Body::NodeLost { node, incarnation } => {
            wire::entry::Body::NodeLost(node_lost(node.as_str(), *incarnation))
        }
        Body::Ticked => wire::entry::Body::Ticked(wire::Ticked {}),
        Body::Forgotten => wire::entry::Body::Forgotten(wire::Forgotten {}),
        Body::Act { actor, act } => {
            let (user, session) = match actor {
                Actor::Member { user, session } => {
                    (user.to_string(), Bytes::copy_from_slice(&session.0))
                }
                Actor::Server => Default::default(),
            };
            let act = Some(room_act(act));
            wire::entry::Body::Act(wire::Act { user, session, act })
        }
    }
}

pub(crate) fn room_act(act: &Act) -> v1::RoomAct {
    use v1::room_act::Kind;

    let kind = match act {
        Act::Configure(change) => Kind::Configure(configure(change)),
        Act::ChangeProperties {
            target,
            changes: wanted,
        } => {
            let (member, object) = match target {
                Target::Room => (String::new(), 0),
                Target::Member(user) => (user.to_string(), 0),
                Target::Object(object) => (String::new(), object.0),
            };
            Kind::Change(v1::ChangeProperties {
                member,
                object,
                changes: changes(wanted),
            })
        }
        Act::Reserve(seats) => Kind::Reserve(reserve(seats)),
        Act::Kick(user) => Kind::Kick(v1::Kick {
            user: user.to_string(),
        }),
        Act::Ban { user, lasts } => Kind::Ban(v1::Ban {
            user: user.to_string(),
            lasts_ms: lasts.map_or(0, millis),
        }),
        Act::Unban(user) => Kind::Unban(v1::Unban {
            user: user.to_string(),
        }),
        Act::SetOwner(owner) => Kind::SetOwner(v1::SetOwner {
            user: name(owner.as_ref()),
        }),
        Act::KeepState(state) => Kind::KeepState(v1::KeepState {
            state: state.clone(),
        }),
        Act::CreateObject(plan) => Kind::CreateObject(create_object(plan)),
        Act::OwnObject { object, owner } => Kind::OwnObject(v1::OwnObject {
            object: object.0,
            owner: name(owner.as_ref()),
        }),
        Act::DeleteObject(object) => Kind::DeleteObject(v1::DeleteObject { object: object.0 }),
        Act::ChangeGroups { enter, exit } => Kind::Groups(v1::ChangeGroups {
            enter: enter.iter().map(|group| group.0.get()).collect(),
            exit: exit.iter().map(|group| group.0.get()).collect(),
        }),
        Act::Say {
            audience: whom,
            payload,
        } => Kind::Say(v1::Say {
            audience: audience(whom),
            payload: payload.clone(),
        }),
        Act::Reach(reachability) => Kind::Reach(v1::Reach {
            reachability: *reachability,
        }),
        Act::Close => Kind::Close(v1::CloseRoom {}),
    };
    v1::RoomAct { kind: Some(kind) }
}

pub(crate) fn joined(join: &Join) -> wire::Joined {
    let keys = DeviceKeys::from(&join.membership.keys);
    wire::Joined {
        user: join.user.to_string(),
        session: Bytes::copy_from_slice(&join.membership.session.0),
        identity: keys.identity,
        seal: keys.seal,
        node: join.membership.node.to_string(),
        incarnation: join.membership.incarnation,
        reachability: join.reachability,
        password: password(join.password),
        properties: changes(&join.properties),
        life: join.membership.life,
        returns_to: join
            .returns_to
            .map_or_else(Bytes::new, |opening| Bytes::copy_from_slice(&opening.0)),
    }
}

pub(crate) fn settings(settings: &Settings) -> v1::RoomSettings {
    v1::RoomSettings {
        members_max: settings.members_max,
        password: password(settings.password),
        locked: settings.is_locked,
        hidden: settings.is_hidden,
        seat_kept_ms: millis(settings.seat_kept),
        empty_kept_ms: millis(settings.empty_kept),
        owner_policy: owner_policy(settings.owner_policy).into(),
        writers: writers(settings.writers).into(),
        history_max: settings.history_max,
    }
}

/// None is empty.
pub(crate) fn code(code: Option<RoomCode>) -> String {
    code.map_or_else(String::new, |code| code.to_string())
}

pub(crate) fn node_lost(node: &str, incarnation: u64) -> wire::NodeLost {
    wire::NodeLost {
        node: node.to_owned(),
        incarnation,
    }
}

pub(crate) fn audience(audience: &Audience) -> Option<v1::Audience> {
    let (mut others, mut users, mut group) = (false, Vec::new(), 0);
    match audience {
        Audience::All => return None,
        Audience::Others => others = true,
        Audience::Users(named) => users = named.iter().map(UserId::to_string).collect(),
        Audience::Group(named) => group = named.0.get(),
    }
    Some(v1::Audience {
        others,
        users,
        group,
    })
}

pub(crate) fn value(value: &Value) -> v1::PropertyValue {
    use v1::property_value::Kind;

    let kind = match value {
        Value::Boolean(value) => Kind::Boolean(*value),
        Value::Integer(value) => Kind::Integer(*value),
        Value::Number(value) => Kind::Number(*value),
        Value::Text(value) => Kind::Text(value.clone()),
        Value::Binary(value) => Kind::Binary(value.clone()),
    };
    v1::PropertyValue { kind: Some(kind) }
}

pub(crate) fn takeover(takeover: Takeover) -> v1::Takeover {
    match takeover {
        Takeover::Fixed => v1::Takeover::Fixed,
        Takeover::Given => v1::Takeover::Given,
        Takeover::Taken => v1::Takeover::Taken,
    }
}

fn configure(change: &SettingsChange) -> v1::Configure {
    let unchanged_policy = v1::OwnerPolicy::Unspecified;
    let unchanged_writers = v1::Writers::Unspecified;
    v1::Configure {
        members_max: change.members_max,
        password: change.password.map(password),
        locked: change.is_locked,
        hidden: change.is_hidden,
        seat_kept_ms: change.seat_kept.map(millis),
        empty_kept_ms: change.empty_kept.map(millis),
        owner_policy: change
            .owner_policy
            .map_or(unchanged_policy, owner_policy)
            .into(),
        writers: change.writers.map_or(unchanged_writers, writers).into(),
        history_max: change.history_max,
    }
}

fn create_object(plan: &ObjectPlan) -> v1::CreateObject {
    v1::CreateObject {
        kind: plan.kind.to_string(),
        takeover: takeover(plan.takeover).into(),
        stays: plan.stays,
        group: number(plan.group),
        properties: changes(&plan.properties),
    }
}

pub(crate) fn changes(changes: &[Change]) -> Vec<v1::PropertyChange> {
    changes.iter().map(change).collect()
}

fn change(change: &Change) -> v1::PropertyChange {
    use v1::property_change::{Expect, Operation as Wanted};

    let operation = match &change.operation {
        Operation::Set(set) => Wanted::Set(value(set)),
        Operation::Add(count) => Wanted::Add(*count),
        Operation::Delete => Wanted::Delete(v1::PropertyDelete {}),
    };
    let expect = match &change.expect {
        Expectation::Any => None,
        Expectation::Absent => Some(Expect::Absent(v1::PropertyAbsent {})),
        Expectation::Revision(revision) => Some(Expect::Revision(*revision)),
        Expectation::Value(expected) => Some(Expect::Value(value(expected))),
    };
    v1::PropertyChange {
        key: change.key.to_string(),
        lasts_ms: change.lasts.map_or(0, millis),
        public: change.is_public,
        operation: Some(operation),
        expect,
    }
}

pub(crate) fn reserve(reserve: &Reserve) -> v1::Reserve {
    v1::Reserve {
        users: reserve.users.iter().map(UserId::to_string).collect(),
        lasts_ms: millis(reserve.lasts),
    }
}

fn owner_policy(policy: OwnerPolicy) -> v1::OwnerPolicy {
    match policy {
        OwnerPolicy::Automatic => v1::OwnerPolicy::Automatic,
        OwnerPolicy::Manual => v1::OwnerPolicy::Manual,
        OwnerPolicy::None => v1::OwnerPolicy::None,
    }
}

fn writers(writers: Writers) -> v1::Writers {
    match writers {
        Writers::Everybody => v1::Writers::Everybody,
        Writers::Owner => v1::Writers::Owner,
        Writers::Server => v1::Writers::Server,
    }
}

fn left_reason(reason: LeftReason) -> wire::LeftReason {
    match reason {
        LeftReason::Left => wire::LeftReason::Left,
        LeftReason::Disconnected => wire::LeftReason::Disconnected,
        LeftReason::Replaced => wire::LeftReason::Replaced,
        LeftReason::Kicked => wire::LeftReason::Kicked,
        LeftReason::Banned => wire::LeftReason::Banned,
        LeftReason::Closed => wire::LeftReason::Closed,
    }
}

pub(crate) fn password(password: Option<Password>) -> Bytes {
    password.map_or_else(Bytes::new, |password| Bytes::copy_from_slice(&password.0))
}

fn number(group: Option<GroupId>) -> u32 {
    group.map_or(0, |group| group.0.get())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
