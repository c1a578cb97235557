//! What a room's log holds.

use std::fmt;

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::v1::DeviceKeys;
use tombolo_wire::{NodeId, PublicKeys, UserId};

use crate::generated as wire;

/// The version of the rules by which this crate applies entries.
pub const VERSION: u32 = 1;

/// Longest encoded entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 1024;

/// One entry of a room's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Recognises an entry that was appended twice.
    pub operation: OperationId,
    /// What is to change.
    pub body: Body,
}

/// What an entry wants to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Opens the room with its first member.
    Created {
        /// How many members the room takes.
        members_max: u32,
        /// The first member.
        user: UserId,
        /// How it takes part.
        membership: Membership,
    },
    /// A user comes in, or comes in again with another session.
    Joined {
        /// The new member.
        user: UserId,
        /// How it takes part.
        membership: Membership,
    },
    /// A user's session goes.
    Left {
        /// The member.
        user: UserId,
        /// Only if it is this session that takes part.
        session: SessionId,
        /// Why.
        reason: LeftReason,
    },
}

/// How a user takes part in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Which of the user's sessions it is.
    pub session: SessionId,
    /// The session's keys.
    pub keys: PublicKeys,
    /// The node that holds the session.
    pub node: NodeId,
}

/// A device's session with a node, over resumes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

/// Names an attempt to change the room, at random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub [u8; 16]);

/// Why a member left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftReason {
    /// It wanted to.
    Left,
    /// Its connection broke and was not resumed in time.
    Disconnected,
    /// The same user joined with another session.
    Replaced,
}

/// Why bytes are no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Longer than [`ENTRY_BYTES_MAX`].
    #[error("entry is too long")]
    TooLong,
    /// Not the encoding of an entry, or with impossible values.
    #[error("entry is malformed")]
    Malformed,
    /// Of rules that this crate does not know.
    #[error("entry is of version {version}, which is not known here")]
    Version {
        /// The entry's version.
        version: u32,
    },
}

impl LeftReason {
    /// The word that devices are told.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Disconnected => "disconnected",
            Self::Replaced => "replaced",
        }
    }
}

impl Entry {
    /// The bytes to append.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let body = match &self.body {
            Body::Created {
                members_max,
                user,
                membership,
            } => {
                let first = Some(joined(user, membership));
                wire::entry::Body::Created(wire::Created {
                    members_max: *members_max,
                    first,
                })
            }
            Body::Joined { user, membership } => {
                wire::entry::Body::Joined(joined(user, membership))
            }
            Body::Left {
                user,
                session,
                reason,
            } => wire::entry::Body::Left(wire::Left {
                user: user.to_string(),
                session: Bytes::copy_from_slice(&session.0),
                reason: reason_on_wire(*reason).into(),
            }),
        };
        let operation = Bytes::copy_from_slice(&self.operation.0);
        wire::Entry {
            version: VERSION,
            operation,
            body: Some(body),
        }
        .encode_to_vec()
        .into()
    }

    /// Reads appended bytes.
    ///
    /// # Errors
    /// When they are no entry; every node of this version says the same.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::TooLong);
        }
        let entry = wire::Entry::decode(bytes).map_err(|_| EntryError::Malformed)?;
        if entry.version != VERSION {
            return Err(EntryError::Version {
                version: entry.version,
            });
        }
        let body = match entry.body.ok_or(EntryError::Malformed)? {
            wire::entry::Body::Created(wire::Created { members_max, first }) => {
                let (user, membership) = parse_joined(&first.ok_or(EntryError::Malformed)?)?;
                Body::Created {
                    members_max,
                    user,
                    membership,
                }
            }
            wire::entry::Body::Joined(joined) => {
                let (user, membership) = parse_joined(&joined)?;
                Body::Joined { user, membership }
            }
            wire::entry::Body::Left(left) => Body::Left {
                reason: parse_reason(left.reason())?,
                user: UserId::parse(&left.user).map_err(|_| EntryError::Malformed)?,
                session: SessionId(array(&left.session)?),
            },
        };
        Ok(Self {
            operation: OperationId(array(&entry.operation)?),
            body,
        })
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({:08x}…)", u128::from_be_bytes(self.0) >> 96)
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperationId({:08x}…)", u128::from_be_bytes(self.0) >> 96)
    }
}

pub(crate) fn joined(user: &UserId, membership: &Membership) -> wire::Joined {
    let keys = DeviceKeys::from(&membership.keys);
    wire::Joined {
        user: user.to_string(),
        session: Bytes::copy_from_slice(&membership.session.0),
        identity: keys.identity,
        seal: keys.seal,
        node: membership.node.to_string(),
    }
}

pub(crate) fn parse_joined(joined: &wire::Joined) -> Result<(UserId, Membership), EntryError> {
    let user = UserId::parse(&joined.user).map_err(|_| EntryError::Malformed)?;
    let keys = PublicKeys {
        identity: array(&joined.identity)?,
        seal: array(&joined.seal)?,
    };
    let node = NodeId::parse(&joined.node).map_err(|_| EntryError::Malformed)?;
    Ok((
        user,
        Membership {
            session: SessionId(array(&joined.session)?),
            keys,
            node,
        },
    ))
}

pub(crate) fn array<const N: usize>(bytes: &Bytes) -> Result<[u8; N], EntryError> {
    bytes.as_ref().try_into().map_err(|_| EntryError::Malformed)
}

fn reason_on_wire(reason: LeftReason) -> wire::LeftReason {
    match reason {
        LeftReason::Left => wire::LeftReason::Left,
        LeftReason::Disconnected => wire::LeftReason::Disconnected,
        LeftReason::Replaced => wire::LeftReason::Replaced,
    }
}

fn parse_reason(reason: wire::LeftReason) -> Result<LeftReason, EntryError> {
    match reason {
        wire::LeftReason::Left => Ok(LeftReason::Left),
        wire::LeftReason::Disconnected => Ok(LeftReason::Disconnected),
        wire::LeftReason::Replaced => Ok(LeftReason::Replaced),
        wire::LeftReason::Unspecified => Err(EntryError::Malformed),
    }
}
