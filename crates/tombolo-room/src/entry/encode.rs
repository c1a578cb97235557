//! Entries to bytes.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::UserId;
use tombolo_wire::v1::DeviceKeys;

use super::{Act, Actor, Body, Entry, Join, LeftReason, Reserve, Target, VERSION};
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
        } => wire::entry::Body::Created(wire::Created {
            settings: Some(settings(how)),
            first: first.as_ref().map(joined),
            properties: changes(properties),
            reserve: seats.as_ref().map(reserve),
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
        Body::Act { actor, act } => {
            let (user, session) = match actor {
                Actor::Member { user, session } => {
                    (user.to_string(), Bytes::copy_from_slice(&session.0))
                }
                Actor::Server => Default::default(),
            };
            let kind = Some(kind(act));
            wire::entry::Body::Act(wire::Act {
                user,
                session,
                kind,
            })
        }
    }
}

fn kind(act: &Act) -> wire::act::Kind {
    use wire::act::Kind;

    match act {
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
            Kind::Change(wire::ChangeProperties {
                member,
                object,
                changes: changes(wanted),
            })
        }
        Act::Reserve(seats) => Kind::Reserve(reserve(seats)),
        Act::Kick(user) => Kind::Kick(wire::Kick {
            user: user.to_string(),
        }),
        Act::Ban { user, lasts } => Kind::Ban(wire::Ban {
            user: user.to_string(),
            lasts_ms: lasts.map_or(0, millis),
        }),
        Act::Unban(user) => Kind::Unban(wire::Unban {
            user: user.to_string(),
        }),
        Act::SetOwner(owner) => Kind::SetOwner(wire::SetOwner {
            user: name(owner.as_ref()),
        }),
        Act::KeepState(state) => Kind::KeepState(wire::KeepState {
            state: state.clone(),
        }),
        Act::CreateObject(plan) => Kind::CreateObject(create_object(plan)),
        Act::OwnObject { object, owner } => Kind::OwnObject(wire::OwnObject {
            object: object.0,
            owner: name(owner.as_ref()),
        }),
        Act::DeleteObject(object) => Kind::DeleteObject(wire::DeleteObject { object: object.0 }),
        Act::ChangeGroups { enter, exit } => Kind::Groups(wire::Groups {
            enter: enter.iter().map(|group| group.0.get()).collect(),
            exit: exit.iter().map(|group| group.0.get()).collect(),
        }),
        Act::Say {
            audience: whom,
            payload,
        } => Kind::Say(wire::Say {
            audience: audience(whom),
            payload: payload.clone(),
        }),
        Act::Reach(reachability) => Kind::Reach(wire::Reach {
            reachability: *reachability,
        }),
        Act::Close => Kind::Close(wire::Close {}),
    }
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
    }
}

pub(crate) fn settings(settings: &Settings) -> wire::Settings {
    wire::Settings {
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

pub(crate) fn node_lost(node: &str, incarnation: u64) -> wire::NodeLost {
    wire::NodeLost {
        node: node.to_owned(),
        incarnation,
    }
}

pub(crate) fn audience(audience: &Audience) -> Option<wire::Audience> {
    let (mut others, mut users, mut group) = (false, Vec::new(), 0);
    match audience {
        Audience::All => return None,
        Audience::Others => others = true,
        Audience::Users(named) => users = named.iter().map(UserId::to_string).collect(),
        Audience::Group(named) => group = named.0.get(),
    }
    Some(wire::Audience {
        others,
        users,
        group,
    })
}

pub(crate) fn value(value: &Value) -> wire::Value {
    use wire::value::Kind;

    let kind = match value {
        Value::Boolean(value) => Kind::Boolean(*value),
        Value::Integer(value) => Kind::Integer(*value),
        Value::Number(value) => Kind::Number(*value),
        Value::Text(value) => Kind::Text(value.clone()),
        Value::Binary(value) => Kind::Binary(value.clone()),
    };
    wire::Value { kind: Some(kind) }
}

pub(crate) fn takeover(takeover: Takeover) -> wire::Takeover {
    match takeover {
        Takeover::Fixed => wire::Takeover::Fixed,
        Takeover::Given => wire::Takeover::Given,
        Takeover::Taken => wire::Takeover::Taken,
    }
}

fn configure(change: &SettingsChange) -> wire::Configure {
    let unchanged_policy = wire::OwnerPolicy::Unspecified;
    let unchanged_writers = wire::Writers::Unspecified;
    wire::Configure {
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

fn create_object(plan: &ObjectPlan) -> wire::CreateObject {
    wire::CreateObject {
        kind: plan.kind.to_string(),
        takeover: takeover(plan.takeover).into(),
        stays: plan.stays,
        group: number(plan.group),
        properties: changes(&plan.properties),
    }
}

fn changes(changes: &[Change]) -> Vec<wire::Change> {
    changes.iter().map(change).collect()
}

fn change(change: &Change) -> wire::Change {
    use wire::change::{Expect, Operation as Wanted};

    let operation = match &change.operation {
        Operation::Set(set) => Wanted::Set(value(set)),
        Operation::Add(count) => Wanted::Add(*count),
        Operation::Delete => Wanted::Delete(wire::Delete {}),
    };
    let expect = match &change.expect {
        Expectation::Any => None,
        Expectation::Absent => Some(Expect::Absent(wire::Absent {})),
        Expectation::Revision(revision) => Some(Expect::Revision(*revision)),
        Expectation::Value(expected) => Some(Expect::Value(value(expected))),
    };
    wire::Change {
        key: change.key.to_string(),
        lasts_ms: change.lasts.map_or(0, millis),
        public: change.is_public,
        operation: Some(operation),
        expect,
    }
}

fn reserve(reserve: &Reserve) -> wire::Reserve {
    wire::Reserve {
        users: reserve.users.iter().map(UserId::to_string).collect(),
        lasts_ms: millis(reserve.lasts),
    }
}

fn owner_policy(policy: OwnerPolicy) -> wire::OwnerPolicy {
    match policy {
        OwnerPolicy::Automatic => wire::OwnerPolicy::Automatic,
        OwnerPolicy::Manual => wire::OwnerPolicy::Manual,
        OwnerPolicy::None => wire::OwnerPolicy::None,
    }
}

fn writers(writers: Writers) -> wire::Writers {
    match writers {
        Writers::Everybody => wire::Writers::Everybody,
        Writers::Owner => wire::Writers::Owner,
        Writers::Server => wire::Writers::Server,
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

fn password(password: Option<Password>) -> Bytes {
    password.map_or_else(Bytes::new, |password| Bytes::copy_from_slice(&password.0))
}

fn name(user: Option<&UserId>) -> String {
    user.map_or_else(String::new, UserId::to_string)
}

fn number(group: Option<GroupId>) -> u32 {
    group.map_or(0, |group| group.0.get())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
