//! Entries to bytes, and back.

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::UserId;

use super::{Actor, Body, Entry, MEMBERS_MAX, Member, Seed};
use crate::generated::{self as wire, roster_entry};
use crate::word::{EntryError, OperationId, Time, VERSION, array, parse_user};

impl Entry {
    /// The bytes to append.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        use roster_entry::Body as On;

        let member = |user: &UserId, role: u32| wire::RosterMember {
            user: user.to_string(),
            role,
            since_ms: 0,
        };
        let body = match &self.body {
            Body::Seeded(seed) => On::Seeded(keep(seed)),
            Body::Joined { user, role } => On::Joined(member(user, *role)),
            Body::Left(user) => On::Left(user.to_string()),
            Body::Removed(user) => On::Removed(user.to_string()),
            Body::Banned(user) => On::Banned(user.to_string()),
            Body::Unbanned(user) => On::Unbanned(user.to_string()),
            Body::RoleSet { user, role } => On::Role(member(user, *role)),
            Body::Split => On::Split(wire::RosterSplit {}),
        };
        let entry = wire::RosterEntry {
            version: VERSION,
            operation: Bytes::copy_from_slice(&self.operation.0),
            time_ms: self.time.as_millis(),
            by: self.by.as_ref().map(|by| wire::RosterActor {
                user: by.user.to_string(),
                role: by.role,
            }),
            body: Some(body),
        };
        entry.encode_to_vec().into()
    }

    /// Reads appended bytes.
    ///
    /// # Errors
    /// When they are no entry; every node of this version says the same.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        use roster_entry::Body as On;

        let entry = wire::RosterEntry::decode(bytes).map_err(|_| EntryError::Malformed)?;
        if entry.version != VERSION {
            let version = entry.version;
            return Err(EntryError::Version { version });
        }
        let body = match entry.body.ok_or(EntryError::Malformed)? {
            On::Seeded(seed) => Body::Seeded(restore(seed)?),
            On::Joined(member) => Body::Joined {
                user: parse_user(&member.user)?,
                role: member.role,
            },
            On::Left(user) => Body::Left(parse_user(&user)?),
            On::Removed(user) => Body::Removed(parse_user(&user)?),
            On::Banned(user) => Body::Banned(parse_user(&user)?),
            On::Unbanned(user) => Body::Unbanned(parse_user(&user)?),
            On::Role(member) => Body::RoleSet {
                user: parse_user(&member.user)?,
                role: member.role,
            },
            On::Split(wire::RosterSplit {}) => Body::Split,
        };
        let parse = |by: wire::RosterActor| {
            let user = parse_user(&by.user)?;
            Ok(Actor {
                user,
                role: by.role,
            })
        };
        Ok(Self {
            operation: OperationId(array(&entry.operation)?),
            time: Time::from_millis(entry.time_ms),
            by: entry.by.map(parse).transpose()?,
            body,
        })
    }
}

pub(super) fn keep(seed: &Seed) -> wire::RosterSeed {
    let members = seed.members.iter();
    wire::RosterSeed {
        members: members
            .map(|(user, member)| wire::RosterMember {
                user: user.to_string(),
                role: member.role,
                since_ms: member.since.as_millis(),
            })
            .collect(),
        banned: seed.banned.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn restore(kept: wire::RosterSeed) -> Result<Seed, EntryError> {
    if kept.members.len() + kept.banned.len() > MEMBERS_MAX {
        return Err(EntryError::TooLong);
    }
    let mut seed = Seed::default();
    for member in &kept.members {
        let since = Time::from_millis(member.since_ms);
        let role = member.role;
        let user = parse_user(&member.user)?;
        seed.members.insert(user, Member { role, since });
    }
    for user in &kept.banned {
        seed.banned.insert(parse_user(user)?);
    }
    Ok(seed)
}
