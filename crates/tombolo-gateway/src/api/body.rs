//! What requests and answers of the API say, in JSON.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tombolo_room::{Audience, Message, Value};
use tombolo_services::{MemberView, RoomMessages, RoomView};
use tombolo_wire::RoomId;

use super::{bad, decode};
use crate::http::ApiError;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListQuery {
    pub(super) after: Option<String>,
    pub(super) limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct ListBody {
    pub(super) rooms: Vec<String>,
    pub(super) more: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBody {
    pub(super) room: String,
    pub(super) members_max: Option<u32>,
    #[serde(default)]
    pub(super) locked: bool,
    #[serde(default)]
    pub(super) hidden: bool,
    pub(super) seat_kept_s: Option<u64>,
    pub(super) empty_kept_s: Option<u64>,
    pub(super) writers: Option<String>,
    pub(super) owner_policy: Option<String>,
    pub(super) history_max: Option<u32>,
    pub(super) password: Option<String>,
    #[serde(default)]
    pub(super) code: bool,
    pub(super) reserve: Option<ReserveBody>,
    #[serde(default)]
    pub(super) properties: BTreeMap<String, ValueBody>,
    #[serde(default)]
    pub(super) public: BTreeMap<String, ValueBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReserveBody {
    pub(super) users: Vec<String>,
    pub(super) lasts_s: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SayBody {
    pub(super) text: Option<String>,
    pub(super) base64: Option<String>,
    pub(super) to: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MessagesQuery {
    pub(super) before: Option<u64>,
    pub(super) limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct MessagesBody {
    /// The newest first.
    messages: Vec<MessageBody>,
    more: bool,
}

#[derive(Debug, Serialize)]
struct MessageBody {
    number: u64,
    said_ms: u64,
    /// `null`: a server has said it.
    user: Option<String>,
    /// Whom it is for, where it is not for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Vec<String>>,
    /// The same, where it is for a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<NonZeroU32>,
    base64: String,
}

impl From<RoomMessages> for MessagesBody {
    fn from(page: RoomMessages) -> Self {
        Self {
            messages: page.messages.iter().map(MessageBody::from).collect(),
            more: page.more,
        }
    }
}

impl From<&Message> for MessageBody {
    fn from(message: &Message) -> Self {
        let (to, group) = match &message.audience {
            Audience::All | Audience::Others => (None, None),
            Audience::Users(users) => (Some(users.iter().map(ToString::to_string).collect()), None),
            Audience::Group(group) => (None, Some(group.0)),
        };
        Self {
            number: message.number,
            said_ms: message.time.as_millis(),
            user: message.from.member().map(ToString::to_string),
            to,
            group,
            base64: STANDARD.encode(&message.payload),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SetBody {
    pub(super) member: Option<String>,
    pub(super) set: BTreeMap<String, ValueBody>,
    pub(super) public: BTreeMap<String, ValueBody>,
    pub(super) private: BTreeMap<String, ValueBody>,
    pub(super) add: BTreeMap<String, i64>,
    pub(super) delete: Vec<String>,
    /// `null`: there is none.
    pub(super) expect: BTreeMap<String, Option<ValueBody>>,
    pub(super) lasts_s: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KickQuery {
    pub(super) ban_s: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NotifyBody {
    pub(super) to: String,
    pub(super) text: Option<String>,
    pub(super) base64: Option<String>,
    pub(super) lasts_s: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct NotifiedBody {
    pub(super) number: u64,
    pub(super) repeated: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct OpenedBody {
    pub(super) room: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Done {
    /// Of the message that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) number: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct RoomBody {
    pub(super) room: String,
    pub(super) members_max: u32,
    pub(super) locked: bool,
    pub(super) hidden: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<String>,
    pub(super) owner: Option<String>,
    pub(super) properties: BTreeMap<String, ValueBody>,
    /// The names of those that are public.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) public: Vec<String>,
    pub(super) members: Vec<MemberBody>,
    pub(super) message_last: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct MemberBody {
    pub(super) user: String,
    pub(super) seat: u32,
    pub(super) dropped: bool,
    pub(super) node: String,
    pub(super) properties: BTreeMap<String, ValueBody>,
}

impl RoomBody {
    pub(super) fn new(room: &RoomId, view: RoomView) -> Self {
        Self {
            room: room.to_string(),
            members_max: view.members_max,
            locked: view.is_locked,
            hidden: view.is_hidden,
            code: view.code,
            owner: view.owner,
            properties: told(view.properties),
            public: view.public,
            members: view.members.into_iter().map(MemberBody::from).collect(),
            message_last: view.message_last,
        }
    }
}

impl From<MemberView> for MemberBody {
    fn from(member: MemberView) -> Self {
        Self {
            user: member.user,
            seat: member.seat,
            dropped: member.is_dropped,
            node: member.node,
            properties: told(member.properties),
        }
    }
}

fn told(properties: Vec<(String, Value)>) -> BTreeMap<String, ValueBody> {
    let properties = properties.into_iter();
    properties
        .map(|(key, value)| (key, ValueBody::from(value)))
        .collect()
}

/// A property's value: JSON's own kinds, and bytes as `{"base64": "…"}`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "a value is true or false, a number, a text, or {\"base64\": \"…\"}"
)]
pub(super) enum ValueBody {
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    Binary { base64: String },
}

impl ValueBody {
    pub(super) fn parse(self) -> Result<Value, ApiError> {
        let value = match self {
            Self::Boolean(value) => Value::Boolean(value),
            Self::Integer(value) => Value::Integer(value),
            Self::Number(value) => Value::Number(value),
            Self::Text(value) => Value::Text(value),
            Self::Binary { base64 } => Value::Binary(decode(&base64)?),
        };
        let bytes = match &value {
            Value::Text(text) => text.len(),
            Value::Binary(bytes) => bytes.len(),
            Value::Boolean(_) | Value::Integer(_) | Value::Number(_) => 8,
        };
        if bytes > tombolo_room::VALUE_BYTES_MAX {
            return Err(bad("a value has at most 16 KiB"));
        }
        Ok(value)
    }
}

impl From<Value> for ValueBody {
    fn from(value: Value) -> Self {
        match value {
            Value::Boolean(value) => Self::Boolean(value),
            Value::Integer(value) => Self::Integer(value),
            Value::Number(value) => Self::Number(value),
            Value::Text(value) => Self::Text(value),
            Value::Binary(bytes) => Self::Binary {
                base64: STANDARD.encode(bytes),
            },
        }
    }
}
