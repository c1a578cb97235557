//! The engine's records as this node acts on them.

use bytes::Bytes;
use prost::Message as _;
use tombolo_engine::{Epoch, Offset};
use tombolo_room::{Listing, RoomCode};
use tombolo_wire::{NodeId, RoomId, v1};

use crate::cluster::generated::{CodeOf, Listed, Position};

/// What is public about a room.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(super) struct Record {
    pub(super) listing: Listing,
    /// The place in the room's log as of which this is so.
    pub(super) at: Offset,
}

/// Whose a short code is.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(super) struct Owner {
    pub(super) room: RoomId,
    /// Who reserved it.
    pub(super) node: NodeId,
}

/// A record is malformed or of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadRecord;

impl Record {
    pub(super) fn encode(listing: &Listing, at: Offset) -> Bytes {
        let listed = Listed {
            version: VERSION,
            room: Some(v1::FoundRoom::from(listing)),
            at: Some(Position {
                epoch: at.epoch.0,
                seq: at.seq,
            }),
        };
        listed.encode_to_vec().into()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, BadRecord> {
        let listed = Listed::decode(value).map_err(|_| BadRecord)?;
        let (VERSION, Some(room), Some(at)) = (listed.version, listed.room, listed.at) else {
            return Err(BadRecord);
        };
        Ok(Self {
            listing: Listing::parse(room).map_err(|_| BadRecord)?,
            at: Offset {
                epoch: Epoch(at.epoch),
                seq: at.seq,
            },
        })
    }
}

impl Owner {
    pub(super) fn encode(&self) -> Bytes {
        let code = CodeOf {
            version: VERSION,
            room: self.room.to_string(),
            node: self.node.to_string(),
        };
        code.encode_to_vec().into()
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, BadRecord> {
        let code = CodeOf::decode(value).map_err(|_| BadRecord)?;
        if code.version != VERSION {
            return Err(BadRecord);
        }
        Ok(Self {
            room: RoomId::parse(&code.room).map_err(|_| BadRecord)?,
            node: NodeId::parse(&code.node).map_err(|_| BadRecord)?,
        })
    }
}

/// The code that a key is about.
pub(super) fn code_of(key: &tombolo_engine::Key) -> Option<RoomCode> {
    let (_, code) = key.as_str().rsplit_once('.')?;
    RoomCode::parse(code).ok()
}

/// The version of the records that this crate writes and reads.
const VERSION: u32 = 1;

#[cfg(test)]
mod kept {
    //! What nodes of the release before have written about rooms.

    use tombolo_wire::v1::{PropertyValue, PublicProperty, property_value};

    use super::*;
    use crate::before::check;

    #[test]
    fn what_was_written_of_rooms_by_the_release_before_says_the_same() {
        let listed = Listed {
            version: VERSION,
            room: Some(v1::FoundRoom {
                room: "lobby".into(),
                members: 2,
                members_max: 12,
                free: 9,
                locked: true,
                password: true,
                opened_ms: 1_793_000_000_000,
                properties: vec![PublicProperty {
                    key: "mode".into(),
                    value: Some(PropertyValue {
                        kind: Some(property_value::Kind::Text("duel".into())),
                    }),
                }],
            }),
            at: Some(Position { epoch: 2, seq: 17 }),
        };
        check("listed", &listed, |bytes| Record::decode(bytes).ok());
        let code = CodeOf {
            version: VERSION,
            room: "lobby".into(),
            node: "node-1".into(),
        };
        check("code", &code, |bytes| Owner::decode(bytes).ok());
    }
}
