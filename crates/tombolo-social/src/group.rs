//! What a group is, beside its members and what they say.
//!
//! A group has a title, roles, and the number of the segment that posts go into. Its members are in
//! [`roster`](crate::roster)s, what they say in [`segment`](crate::segment)s, each with logs of their own:
//! so none of it grows with the others, and a group has no size at which it stops.

use std::collections::VecDeque;
use std::num::NonZeroU64;

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::{UserId, v1};

use crate::generated::{self as wire, group_entry};
use crate::segment::SEGMENT_BYTES_MAX;
use crate::word::{EntryError, OperationId, SnapshotError, Time, VERSION, array, parse_user};

/// Longest title, in bytes.
pub const TITLE_BYTES_MAX: usize = 256;

/// The most roles of a group; there are two at least.
pub const ROLES_MAX: usize = 16;

/// Longest name of a role, in bytes.
pub const ROLE_BYTES_MAX: usize = 32;

/// How many segments are kept, that which is written to among them.
pub const SEGMENTS_KEPT: usize = 4096;

/// How many bytes the others hold at most; whoever turns may say that less is kept.
pub const KEPT_BYTES_MAX: u64 = 64 * 1024 * 1024;

const _: () = assert!((SEGMENT_BYTES_MAX as u64) < KEPT_BYTES_MAX);

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Finds an entry again that somebody waits for.
    pub operation: OperationId,
    /// The clock of the node that appended it.
    pub time: Time,
    /// What is to change.
    pub body: Body,
}

/// What an entry wants to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Somebody makes the group.
    Created {
        /// Its first member.
        owner: UserId,
        /// How it is.
        settings: Settings,
    },
    /// It is otherwise from now on.
    Configured(Settings),
    /// Posts go elsewhere from now on: the segment before is full.
    Turned {
        /// Into this segment.
        segment: u64,
        /// How much the one before holds.
        bytes: u64,
        /// How much of those before is kept; [`KEPT_BYTES_MAX`] at most, and where that is not said.
        kept_bytes_max: Option<NonZeroU64>,
    },
    /// It ends. Its name is free once the engine has forgotten it.
    Closed,
}

/// How a group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Read by people.
    pub title: String,
    /// Whoever wants to may join; else only who is added by a member.
    pub is_open: bool,
    /// The most powerful first; the first is the owner's, the last that of newcomers.
    pub roles: Vec<Role>,
}

/// What some members may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Say something.
    pub may_post: bool,
    /// Add users, and let those in again that were banned.
    pub may_add: bool,
    /// Remove or ban members of later roles.
    pub may_remove: bool,
    /// Give members of later roles another later role.
    pub may_promote: bool,
    /// Change the settings.
    pub may_configure: bool,
    /// End the group.
    pub may_close: bool,
}

/// Why an entry changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Illegal {
    /// The name is taken, also by a group that has ended.
    #[error("group exists, or has existed")]
    Exists,
    /// Nobody has made it, or it has ended.
    #[error("there is no such group")]
    NoSuchGroup,
    /// Segments follow one another.
    #[error("posts go elsewhere")]
    Segment,
    /// Members have roles by their place, so there must be as many as before.
    #[error("group must keep the number of its roles")]
    Roles,
}

/// What a group is; see the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// `None` until it is made.
    made: Option<Made>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Made {
    epoch: OperationId,
    time: Time,
    owner: UserId,
    settings: Settings,
    segment: u64,
    /// How much the segments before it hold that are kept, the oldest first.
    kept: VecDeque<u64>,
    is_closed: bool,
    revision: u64,
}

impl Group {
    /// A group whose log has no entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the log's next entry.
    ///
    /// # Errors
    /// When it changes nothing.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Illegal> {
        let Some(made) = &mut self.made else {
            let Body::Created { owner, settings } = &entry.body else {
                return Err(Illegal::NoSuchGroup);
            };
            self.made = Some(Made {
                epoch: entry.operation,
                time: entry.time,
                owner: owner.clone(),
                settings: settings.clone(),
                segment: 0,
                kept: VecDeque::new(),
                is_closed: false,
                revision: 1,
            });
            return Ok(());
        };
        match &entry.body {
            // What was appended twice is no other group.
            Body::Created { .. } if made.epoch == entry.operation => {}
            Body::Created { .. } => return Err(Illegal::Exists),
            _ if made.is_closed => return Err(Illegal::NoSuchGroup),
            Body::Configured(settings) => {
                if settings.roles.len() != made.settings.roles.len() {
                    return Err(Illegal::Roles);
                }
                made.settings = settings.clone();
                made.revision += 1;
            }
            Body::Turned { segment, .. } if *segment <= made.segment => {}
            Body::Turned {
                segment,
                bytes,
                kept_bytes_max,
            } if *segment == made.segment + 1 => made.turn(*bytes, *kept_bytes_max),
            Body::Turned { .. } => return Err(Illegal::Segment),
            Body::Closed => {
                made.is_closed = true;
                made.revision += 1;
            }
        }
        Ok(())
    }

    /// Which group of this name it is; `None` while there is none, also when it has ended.
    #[must_use]
    pub fn epoch(&self) -> Option<OperationId> {
        let made = self.made.as_ref().filter(|made| !made.is_closed);
        made.map(|made| made.epoch)
    }

    /// Which group it was that has ended.
    #[must_use]
    pub fn ended(&self) -> Option<OperationId> {
        let made = self.made.as_ref().filter(|made| made.is_closed);
        made.map(|made| made.epoch)
    }

    /// Who made it, and when.
    #[must_use]
    pub fn owner(&self) -> Option<(&UserId, Time)> {
        self.made.as_ref().map(|made| (&made.owner, made.time))
    }

    /// How it is.
    #[must_use]
    pub fn settings(&self) -> Option<&Settings> {
        self.made.as_ref().map(|made| &made.settings)
    }

    /// Where posts go.
    #[must_use]
    pub fn segment(&self) -> u64 {
        self.made.as_ref().map_or(0, |made| made.segment)
    }

    /// The oldest segment that is kept.
    #[must_use]
    pub fn segment_first(&self) -> u64 {
        let kept = self.made.as_ref().map_or(0, |made| made.kept.len());
        self.segment().saturating_sub(kept as u64)
    }

    /// How often it has changed, turns aside; 0 while it was never there.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.made.as_ref().map_or(0, |made| made.revision)
    }

    /// The whole group as bytes: equal groups give equal bytes.
    #[must_use]
    pub fn snapshot(&self) -> Bytes {
        let mut snapshot = wire::GroupSnapshot {
            version: VERSION,
            ..wire::GroupSnapshot::default()
        };
        if let Some(made) = &self.made {
            snapshot.epoch = Bytes::copy_from_slice(&made.epoch.0);
            snapshot.clock_ms = made.time.as_millis();
            snapshot.owner = made.owner.to_string();
            snapshot.settings = Some((&made.settings).into());
            snapshot.segment = made.segment;
            snapshot.closed = made.is_closed;
            snapshot.revision = made.revision;
            snapshot.segment_bytes = made.kept.iter().copied().collect();
        }
        snapshot.encode_to_vec().into()
    }

    /// Takes a group out of a snapshot.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn restore(snapshot: &[u8]) -> Result<Self, SnapshotError> {
        let kept = wire::GroupSnapshot::decode(snapshot).map_err(|_| SnapshotError)?;
        if kept.version != VERSION {
            return Err(SnapshotError);
        }
        if kept.epoch.is_empty() {
            return Ok(Self::new());
        }
        restore(kept).map_err(|_| SnapshotError)
    }
}

impl Made {
    /// Posts go into the next segment, and the oldest ones are given up.
    fn turn(&mut self, bytes: u64, kept_bytes_max: Option<NonZeroU64>) {
        self.segment += 1;
        self.kept.push_back(bytes.min(SEGMENT_BYTES_MAX as u64));
        let bytes_max = kept_bytes_max.map_or(u64::MAX, NonZeroU64::get);
        let bytes_max = bytes_max.min(KEPT_BYTES_MAX);
        while self.kept.len() >= SEGMENTS_KEPT || self.kept.iter().sum::<u64>() > bytes_max {
            self.kept.pop_front();
        }
    }
}

fn restore(kept: wire::GroupSnapshot) -> Result<Group, EntryError> {
    if kept.segment_bytes.len() >= SEGMENTS_KEPT
        || kept.segment_bytes.len() as u64 > kept.segment
        || kept
            .segment_bytes
            .iter()
            .any(|bytes| *bytes > SEGMENT_BYTES_MAX as u64)
    {
        return Err(EntryError::Malformed);
    }
    let made = Made {
        epoch: OperationId(array(&kept.epoch)?),
        time: Time::from_millis(kept.clock_ms),
        owner: parse_user(&kept.owner)?,
        settings: Settings::parse(kept.settings.ok_or(EntryError::Malformed)?)?,
        segment: kept.segment,
        kept: match kept.segment_bytes.is_empty() {
            // An earlier build did not say.
            true => (0..kept.segment)
                .map(|_| 0)
                .take(SEGMENTS_KEPT - 1)
                .collect(),
            false => kept.segment_bytes.into(),
        },
        is_closed: kept.closed,
        revision: kept.revision,
    };
    Ok(Group { made: Some(made) })
}

impl Default for Settings {
    /// Only who is added gets in; an owner, admins who add, remove, promote and configure, and members.
    fn default() -> Self {
        let member = Role {
            name: "member".to_owned(),
            may_post: true,
            may_add: false,
            may_remove: false,
            may_promote: false,
            may_configure: false,
            may_close: false,
        };
        let admin = Role {
            name: "admin".to_owned(),
            may_add: true,
            may_remove: true,
            may_promote: true,
            may_configure: true,
            ..member.clone()
        };
        let owner = Role {
            name: "owner".to_owned(),
            may_close: true,
            ..admin.clone()
        };
        Self {
            title: String::new(),
            is_open: false,
            roles: vec![owner, admin, member],
        }
    }
}

impl Settings {
    /// Reads how a group is to be.
    ///
    /// # Errors
    /// When something is too long, or roles are too few, too many, or of one name.
    pub fn parse(settings: v1::GroupSettings) -> Result<Self, EntryError> {
        if settings.title.len() > TITLE_BYTES_MAX || settings.roles.len() > ROLES_MAX {
            return Err(EntryError::TooLong);
        }
        let mut roles: Vec<Role> = Vec::new();
        for role in settings.roles {
            if role.name.len() > ROLE_BYTES_MAX {
                return Err(EntryError::TooLong);
            }
            if role.name.is_empty() || roles.iter().any(|other| other.name == role.name) {
                return Err(EntryError::Malformed);
            }
            roles.push(Role {
                name: role.name,
                may_post: role.post,
                may_add: role.add,
                may_remove: role.remove,
                may_promote: role.promote,
                may_configure: role.configure,
                may_close: role.close,
            });
        }
        if roles.len() < 2 {
            return Err(EntryError::Malformed);
        }
        Ok(Self {
            title: settings.title,
            is_open: settings.open,
            roles,
        })
    }

    /// The number of a role by its name.
    #[must_use]
    pub fn role(&self, name: &str) -> Option<u32> {
        let found = self.roles.iter().position(|role| role.name == name)?;
        u32::try_from(found).ok()
    }

    /// What newcomers are.
    #[must_use]
    pub fn newcomers(&self) -> u32 {
        u32::try_from(self.roles.len().saturating_sub(1)).unwrap_or(0)
    }
}

impl From<&Settings> for v1::GroupSettings {
    fn from(settings: &Settings) -> Self {
        let roles = settings.roles.iter();
        Self {
            title: settings.title.clone(),
            open: settings.is_open,
            roles: roles
                .map(|role| v1::GroupRole {
                    name: role.name.clone(),
                    post: role.may_post,
                    add: role.may_add,
                    remove: role.may_remove,
                    promote: role.may_promote,
                    configure: role.may_configure,
                    close: role.may_close,
                })
                .collect(),
        }
    }
}

impl Entry {
    /// The bytes to append.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let body = match &self.body {
            Body::Created { owner, settings } => group_entry::Body::Created(wire::GroupCreated {
                owner: owner.to_string(),
                settings: Some(settings.into()),
            }),
            Body::Configured(settings) => group_entry::Body::Configured(settings.into()),
            Body::Turned { segment, .. } => group_entry::Body::Turned(*segment),
            Body::Closed => group_entry::Body::Closed(wire::GroupClosed {}),
        };
        let entry = wire::GroupEntry {
            version: VERSION,
            operation: Bytes::copy_from_slice(&self.operation.0),
            time_ms: self.time.as_millis(),
            segment_bytes: match &self.body {
                Body::Turned { bytes, .. } => *bytes,
                Body::Created { .. } | Body::Configured(_) | Body::Closed => 0,
            },
            kept_bytes_max: match &self.body {
                Body::Turned { kept_bytes_max, .. } => kept_bytes_max.map_or(0, NonZeroU64::get),
                Body::Created { .. } | Body::Configured(_) | Body::Closed => 0,
            },
            body: Some(body),
        };
        entry.encode_to_vec().into()
    }

    /// Reads appended bytes.
    ///
    /// # Errors
    /// When they are no entry; every node of this version says the same.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let entry = wire::GroupEntry::decode(bytes).map_err(|_| EntryError::Malformed)?;
        if entry.version != VERSION {
            let version = entry.version;
            return Err(EntryError::Version { version });
        }
        let body = match entry.body.ok_or(EntryError::Malformed)? {
            group_entry::Body::Created(created) => Body::Created {
                owner: parse_user(&created.owner)?,
                settings: Settings::parse(created.settings.ok_or(EntryError::Malformed)?)?,
            },
            group_entry::Body::Configured(settings) => Body::Configured(Settings::parse(settings)?),
            group_entry::Body::Turned(segment) => Body::Turned {
                segment,
                bytes: entry.segment_bytes,
                kept_bytes_max: NonZeroU64::new(entry.kept_bytes_max),
            },
            group_entry::Body::Closed(wire::GroupClosed {}) => Body::Closed,
        };
        Ok(Self {
            operation: OperationId(array(&entry.operation)?),
            time: Time::from_millis(entry.time_ms),
            body,
        })
    }
}
