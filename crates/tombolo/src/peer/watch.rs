//! What `tombolo peer --watch` tells of a room.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use tombolo_client::{By, Changed, DurableMessage, Room, RoomEvent, Target, UserId, Value};

use super::Event;
use crate::output::code_word;

/// What is told of an event; `None` for what is told anyway.
pub(super) fn told(room: &Room, event: &RoomEvent) -> Option<Event> {
    let by = |user: &Option<UserId>| user.as_ref().map(UserId::to_string);
    let (what, by, about, detail) = match event {
        RoomEvent::Said(said) => return Some(said_event(said)),
        RoomEvent::Lost(users) => {
            let users: Vec<_> = users.iter().map(UserId::to_string).collect();
            ("lost", None, "room".to_owned(), json!({ "from": users }))
        }
        RoomEvent::Unsent {
            numbers,
            code,
            reason,
        } => {
            let code = code.map(code_word);
            let detail = json!({ "numbers": numbers, "code": code, "reason": reason });
            ("unsent", None, "room".to_owned(), detail)
        }
        RoomEvent::Dropped(user) => ("dropped", None, user.to_string(), Json::Null),
        RoomEvent::Returned(user) => ("returned", None, user.to_string(), Json::Null),
        RoomEvent::Synced { lost } => ("synced", None, "room".to_owned(), synced(room, *lost)),
        RoomEvent::Configured { by: user } => {
            let members_max = room.read(|view| view.settings.as_ref().map(|said| said.members_max));
            let detail = json!({ "members_max": members_max });
            ("settings", by(user), "room".to_owned(), detail)
        }
        RoomEvent::Owner(owner) => {
            let detail = json!({ "owner": by(owner) });
            ("owner", None, "room".to_owned(), detail)
        }
        RoomEvent::Properties {
            by: user,
            target,
            changes,
        } => {
            let changes: BTreeMap<_, _> = changes.iter().map(change).collect();
            ("properties", by(user), target_word(target), json!(changes))
        }
        RoomEvent::Object { by: user, id } => {
            let kind = room.read(|view| view.objects.get(id).map(|object| object.kind.to_string()));
            let owner = room.read(|view| view.objects.get(id).and_then(|object| by(&object.owner)));
            let detail = json!({ "kind": kind, "owner": owner });
            ("object", by(user), id.0.to_string(), detail)
        }
        RoomEvent::ObjectDeleted { by: user, id } => {
            ("object_deleted", by(user), id.0.to_string(), Json::Null)
        }
        RoomEvent::Joined(_)
        | RoomEvent::Left { .. }
        | RoomEvent::Message { .. }
        | RoomEvent::Peer(_)
        | RoomEvent::Refused(_)
        | RoomEvent::Lagged { .. }
        | _ => return None,
    };
    Some(Event::Room {
        what,
        by,
        about,
        detail,
    })
}

/// The room as it is known now.
fn synced(room: &Room, lost: bool) -> Json {
    room.read(|view| {
        let properties = view.properties.iter();
        let properties: BTreeMap<_, _> = properties
            .map(|(key, property)| (key.to_string(), value(&property.value)))
            .collect();
        let owner = view.owner.as_ref().map(UserId::to_string);
        json!({ "lost": lost, "owner": owner, "properties": properties })
    })
}

fn said_event(said: &DurableMessage) -> Event {
    Event::Said {
        number: said.number,
        from: match &said.from {
            By::Member(user) => Some(user.to_string()),
            By::Server | By::Rule => None,
        },
        text: String::from_utf8_lossy(&said.payload).into_owned(),
    }
}

fn change(changed: &Changed) -> (String, Json) {
    let value = changed
        .property
        .as_ref()
        .map(|property| value(&property.value));
    (changed.key.to_string(), value.unwrap_or(Json::Null))
}

fn value(of: &Value) -> Json {
    match of {
        Value::Boolean(value) => json!(value),
        Value::Integer(value) => json!(value),
        Value::Number(value) => json!(value),
        Value::Text(value) => json!(value),
        Value::Binary(value) => json!({ "bytes": value.len() }),
    }
}

fn target_word(target: &Target) -> String {
    match target {
        Target::Room => "room".to_owned(),
        Target::Member(user) => user.to_string(),
        Target::Object(id) => id.0.to_string(),
    }
}
