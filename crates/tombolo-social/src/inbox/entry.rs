//! Entries to bytes, and back.

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::UserId;

use super::{Body, Entry, PAYLOAD_BYTES_MAX};
use crate::generated::{self as wire, inbox_entry};
use crate::word::{EntryError, MessageId, OperationId, Time, VERSION, array, parse_user};

impl Entry {
    /// The bytes to append.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let body = match &self.body {
            Body::Sent {
                from,
                id,
                payload,
                to,
            } => inbox_entry::Body::Sent(wire::Sent {
                to: to.as_ref().map(ToString::to_string).unwrap_or_default(),
                from: from.to_string(),
                id: Bytes::copy_from_slice(&id.0),
                payload: payload.clone(),
            }),
            Body::Opened => inbox_entry::Body::Opened(wire::Opened {}),
            Body::Read(number) => inbox_entry::Body::Read(*number),
            Body::Blocked(user) => inbox_entry::Body::Blocked(user.to_string()),
            Body::Unblocked(user) => inbox_entry::Body::Unblocked(user.to_string()),
        };
        let entry = wire::InboxEntry {
            version: VERSION,
            operation: Bytes::copy_from_slice(&self.operation.0),
            time_ms: self.time.as_millis(),
            body: Some(body),
        };
        entry.encode_to_vec().into()
    }

    /// Reads appended bytes.
    ///
    /// # Errors
    /// When they are no entry; every node of this version says the same.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let entry = wire::InboxEntry::decode(bytes).map_err(|_| EntryError::Malformed)?;
        if entry.version != VERSION {
            let version = entry.version;
            return Err(EntryError::Version { version });
        }
        let body = match entry.body.ok_or(EntryError::Malformed)? {
            inbox_entry::Body::Sent(sent) => {
                if sent.payload.len() > PAYLOAD_BYTES_MAX {
                    return Err(EntryError::TooLong);
                }
                Body::Sent {
                    from: parse_user(&sent.from)?,
                    id: MessageId(array(&sent.id)?),
                    payload: sent.payload,
                    to: parse_receiver(&sent.to)?,
                }
            }
            inbox_entry::Body::Opened(wire::Opened {}) => Body::Opened,
            inbox_entry::Body::Read(number) => Body::Read(number),
            inbox_entry::Body::Blocked(user) => Body::Blocked(parse_user(&user)?),
            inbox_entry::Body::Unblocked(user) => Body::Unblocked(parse_user(&user)?),
        };
        Ok(Self {
            operation: OperationId(array(&entry.operation)?),
            time: Time::from_millis(entry.time_ms),
            body,
        })
    }
}

/// Of a copy; `None` of what was sent to the inbox's user.
pub(super) fn parse_receiver(to: &str) -> Result<Option<UserId>, EntryError> {
    match to {
        "" => Ok(None),
        to => parse_user(to).map(Some),
    }
}
