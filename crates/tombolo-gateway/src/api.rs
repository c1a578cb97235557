//! The HTTP API for game servers: rooms, and what is in them. `docs/http-api.md` describes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{delete, get, patch, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tombolo_room::{
    Act, Audience, Change, Operation, PropertyKey, Settings, Target, Value, Writers,
};
use tombolo_services::{MemberView, Reject, RoomView};
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{RoomId, TagName, UserId};
use tracing::info;

use crate::api_keys::{KeyRefusal, Known, Scope};
use crate::http::{ApiError, bearer};
use crate::shared::Shared;

type Node = State<Arc<Shared>>;

pub(crate) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/rooms", get(list).post(create))
        .route("/v1/rooms/{room}", get(show).delete(close))
        .route("/v1/rooms/{room}/messages", post(say))
        .route("/v1/rooms/{room}/properties", patch(set))
        .route("/v1/rooms/{room}/members/{user}", delete(kick))
        .route("/v1/notices", post(notify))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// Names a scope for [`Holder`].
pub(crate) trait Needs {
    const SCOPE: Scope;
}

macro_rules! needs {
    ($($name:ident)*) => {
        $(
            pub(crate) struct $name;

            impl Needs for $name {
                const SCOPE: Scope = Scope::$name;
            }
        )*
    };
}

needs!(RoomsRead RoomsCreate RoomsSend RoomsSet RoomsKick NoticesSend);

/// Whoever holds a key that allows the request.
pub(crate) struct Holder<S> {
    key: Arc<Known>,
    operation: Option<String>,
    scope: std::marker::PhantomData<S>,
}

impl<S: Needs> FromRequestParts<Arc<Shared>> for Holder<S> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
        if !shared.is_serving() {
            return Err(ApiError::UNAVAILABLE);
        }
        let Some(presented) = bearer(&parts.headers) else {
            shared.counters.api_keys_refused.add();
            return Err(ApiError::NO_KEY);
        };
        let key = shared
            .api_keys()
            .check(presented, S::SCOPE, Instant::now())
            .map_err(|refusal| refused(refusal, shared))?;
        let operation = operation(&parts.headers)?;
        shared.counters.api_requests.add();
        Ok(Self {
            key,
            operation,
            scope: std::marker::PhantomData,
        })
    }
}

impl<S> Holder<S> {
    /// The name of what is to be done, if the request has one: its own for each key and place.
    fn operation(&self, place: &str) -> Option<[u8; 16]> {
        let name = self.operation.as_ref()?;
        let mut digest = Sha256::new();
        for part in [&self.key.key.name, place, name] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part.as_bytes());
        }
        digest.finalize().first_chunk().copied()
    }
}

fn refused(refusal: KeyRefusal, shared: &Shared) -> ApiError {
    match refusal {
        KeyRefusal::Unknown => {
            shared.counters.api_keys_refused.add();
            ApiError::NO_KEY
        }
        KeyRefusal::Rate => {
            shared.counters.api_rates_refused.add();
            ApiError::RATE
        }
        KeyRefusal::Scope(scope) => {
            shared.counters.api_scopes_refused.add();
            let message = format!("the key lacks the scope {}", scope.as_str());
            ApiError::owned(StatusCode::FORBIDDEN, "scope", message)
        }
    }
}

/// By what a repeated request is known.
fn operation(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let value = value.to_str().ok();
    let value = value.filter(|value| (1..=OPERATION_BYTES_MAX).contains(&value.len()));
    match value {
        Some(value) => Ok(Some(value.to_owned())),
        None => Err(bad("Idempotency-Key has 1 to 128 visible characters")),
    }
}

async fn list(
    State(shared): Node,
    _: Holder<RoomsRead>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<ListBody>, ApiError> {
    let Query(query) = query.map_err(|rejection| bad(&rejection.body_text()))?;
    let after = query.after.as_deref().map(parse_room).transpose()?;
    let count = query.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let names = shared.services.list_rooms(after.as_ref(), count).await?;
    Ok(Json(ListBody {
        rooms: names.rooms.iter().map(ToString::to_string).collect(),
        more: names.more,
    }))
}

async fn create(
    State(shared): Node,
    holder: Holder<RoomsCreate>,
    body: Result<Json<CreateBody>, JsonRejection>,
) -> Result<(StatusCode, Json<RoomName>), ApiError> {
    let Json(body) = body.map_err(unreadable)?;
    let room = parse_room(&body.room)?;
    let usual = Settings::default();
    let writers = match body.writers.as_deref() {
        None => usual.writers,
        Some("everybody") => Writers::Everybody,
        Some("owner") => Writers::Owner,
        Some("server") => Writers::Server,
        Some(_) => return Err(bad("writers is everybody, owner or server")),
    };
    let seconds = |given: Option<u64>, usual| given.map_or(usual, Duration::from_secs);
    let settings = Settings {
        members_max: body.members_max.unwrap_or(usual.members_max),
        is_locked: body.locked,
        is_hidden: body.hidden,
        seat_kept: seconds(body.seat_kept_s, usual.seat_kept),
        // A room that nobody is in yet must last until somebody comes.
        empty_kept: seconds(body.empty_kept_s, EMPTY_KEPT),
        writers,
        ..usual
    };
    let properties = parse_changes(body.properties, &[])?;
    let operation = holder.operation(&format!("create {room}"));
    let created = shared
        .services
        .create_room(&room, settings, properties, operation);
    created.await?;
    info!(key = holder.key.key.name, %room, "a server opened a room");
    let room = room.to_string();
    Ok((StatusCode::CREATED, Json(RoomName { room })))
}

async fn show(
    State(shared): Node,
    _: Holder<RoomsRead>,
    room: Result<Path<String>, PathRejection>,
) -> Result<Json<RoomBody>, ApiError> {
    let room = parse_room(&path(room)?)?;
    let view = shared.services.view_room(&room).await?;
    Ok(Json(RoomBody::new(&room, view)))
}

async fn close(
    State(shared): Node,
    holder: Holder<RoomsCreate>,
    room: Result<Path<String>, PathRejection>,
) -> Result<Json<Done>, ApiError> {
    let room = parse_room(&path(room)?)?;
    let operation = holder.operation(&format!("close {room}"));
    let acted = shared.services.act_for_server(&room, Act::Close, operation);
    acted.await?;
    info!(key = holder.key.key.name, %room, "a server closed a room");
    Ok(Json(Done::default()))
}

async fn say(
    State(shared): Node,
    holder: Holder<RoomsSend>,
    room: Result<Path<String>, PathRejection>,
    body: Result<Json<SayBody>, JsonRejection>,
) -> Result<Json<Done>, ApiError> {
    let room = parse_room(&path(room)?)?;
    let Json(body) = body.map_err(unreadable)?;
    let payload = match (body.text, body.base64) {
        (Some(text), None) => Bytes::from(text),
        (None, Some(text)) => decode(&text)?,
        _ => return Err(bad("a message has either text or base64")),
    };
    let audience = match body.to {
        None => Audience::All,
        Some(users) => {
            let users: Result<Vec<_>, _> = users.iter().map(|user| parse_user(user)).collect();
            Audience::Users(users?)
        }
    };
    if let Audience::Users(users) = &audience
        && !(1..=tombolo_room::USERS_PER_ENTRY_MAX).contains(&users.len())
    {
        return Err(bad("to names 1 to 256 users"));
    }
    let act = Act::Say { audience, payload };
    let operation = holder.operation(&format!("say {room}"));
    let acted = shared
        .services
        .act_for_server(&room, act, operation)
        .await?;
    Ok(Json(Done {
        number: Some(acted.message).filter(|number| *number > 0),
    }))
}

async fn set(
    State(shared): Node,
    holder: Holder<RoomsSet>,
    room: Result<Path<String>, PathRejection>,
    body: Result<Json<SetBody>, JsonRejection>,
) -> Result<Json<Done>, ApiError> {
    let room = parse_room(&path(room)?)?;
    let Json(body) = body.map_err(unreadable)?;
    let target = match &body.member {
        None => Target::Room,
        Some(user) => Target::Member(parse_user(user)?),
    };
    let changes = parse_changes(body.set, &body.delete)?;
    if changes.is_empty() {
        return Err(bad("nothing is to be changed"));
    }
    let act = Act::ChangeProperties { target, changes };
    let operation = holder.operation(&format!("set {room}"));
    let acted = shared.services.act_for_server(&room, act, operation);
    acted.await?;
    Ok(Json(Done::default()))
}

async fn kick(
    State(shared): Node,
    holder: Holder<RoomsKick>,
    names: Result<Path<(String, String)>, PathRejection>,
    query: Result<Query<KickQuery>, QueryRejection>,
) -> Result<Json<Done>, ApiError> {
    let Path((room, user)) = names.map_err(|rejection| bad(&rejection.body_text()))?;
    let Query(query) = query.map_err(|rejection| bad(&rejection.body_text()))?;
    let (room, user) = (parse_room(&room)?, parse_user(&user)?);
    let act = match query.ban_s {
        None => Act::Kick(user.clone()),
        Some(seconds) if seconds <= tombolo_room::DURATION_MAX.as_secs() => Act::Ban {
            user: user.clone(),
            lasts: Some(Duration::from_secs(seconds)),
        },
        Some(_) => return Err(bad("ban_s is at most a year")),
    };
    let operation = holder.operation(&format!("kick {room} {user}"));
    let acted = shared.services.act_for_server(&room, act, operation);
    acted.await?;
    info!(key = holder.key.key.name, %room, %user, "a server sent a member away");
    Ok(Json(Done::default()))
}

async fn notify(
    State(shared): Node,
    holder: Holder<NoticesSend>,
    body: Result<Json<NotifyBody>, JsonRejection>,
) -> Result<Json<NotifiedBody>, ApiError> {
    let Json(body) = body.map_err(unreadable)?;
    let board = TagName::parse(&body.to);
    let board = board
        .map_err(|error| ApiError::of_contract(StatusCode::BAD_REQUEST, error.code(), error))?;
    let payload = match (body.text, body.base64) {
        (Some(text), None) => Bytes::from(text),
        (None, Some(text)) => decode(&text)?,
        _ => return Err(bad("a notice has either text or base64")),
    };
    let id = holder.operation(&format!("notify {board}"));
    let lasts = body.lasts_s.map_or(NOTICE_LASTS, Duration::from_secs);
    let notified = shared.services.notify(&board, id, payload, lasts).await?;
    info!(key = holder.key.key.name, %board, "a server told users something");
    Ok(Json(NotifiedBody {
        number: notified.number,
        repeated: notified.is_repeated,
    }))
}

impl From<Reject> for ApiError {
    fn from(reject: Reject) -> Self {
        let mut statuses = STATUS_BY_CODE.iter();
        let found = statuses.find(|(code, _)| *code == reject.code);
        let status = found.map_or(StatusCode::UNPROCESSABLE_ENTITY, |(_, status)| *status);
        Self::of_contract(status, reject.code, reject.message)
    }
}

fn parse_room(room: &str) -> Result<RoomId, ApiError> {
    RoomId::parse(room)
        .map_err(|error| ApiError::of_contract(StatusCode::BAD_REQUEST, error.code(), error))
}

fn parse_user(user: &str) -> Result<UserId, ApiError> {
    UserId::parse(user)
        .map_err(|error| ApiError::of_contract(StatusCode::BAD_REQUEST, error.code(), error))
}

fn parse_changes(
    set: BTreeMap<String, ValueBody>,
    delete: &[String],
) -> Result<Vec<Change>, ApiError> {
    if set.len() + delete.len() > tombolo_room::PROPERTY_CHANGES_MAX {
        return Err(bad("at most 64 properties are changed at once"));
    }
    let key = |text: &str| PropertyKey::parse(text).map_err(|_| bad("a key has 1 to 64 bytes"));
    let mut changes = Vec::new();
    for (name, value) in set {
        changes.push(Change::set(key(&name)?, value.parse()?));
    }
    for name in delete {
        changes.push(Change {
            operation: Operation::Delete,
            ..Change::set(key(name)?, Value::Boolean(false))
        });
    }
    Ok(changes)
}

fn decode(text: &str) -> Result<Bytes, ApiError> {
    let bytes = STANDARD.decode(text);
    bytes
        .map(Bytes::from)
        .map_err(|_| bad("base64 is malformed"))
}

fn path(path: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    let Path(name) = path.map_err(|rejection| bad(&rejection.body_text()))?;
    Ok(name)
}

fn unreadable(rejection: JsonRejection) -> ApiError {
    ApiError::owned(rejection.status(), "bad_request", rejection.body_text())
}

fn bad(message: &str) -> ApiError {
    ApiError::owned(StatusCode::BAD_REQUEST, "bad_request", message.to_owned())
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ListQuery {
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
struct ListBody {
    rooms: Vec<String>,
    more: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    room: String,
    members_max: Option<u32>,
    #[serde(default)]
    locked: bool,
    #[serde(default)]
    hidden: bool,
    seat_kept_s: Option<u64>,
    empty_kept_s: Option<u64>,
    writers: Option<String>,
    #[serde(default)]
    properties: BTreeMap<String, ValueBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SayBody {
    text: Option<String>,
    base64: Option<String>,
    to: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBody {
    member: Option<String>,
    #[serde(default)]
    set: BTreeMap<String, ValueBody>,
    #[serde(default)]
    delete: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KickQuery {
    ban_s: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotifyBody {
    to: String,
    text: Option<String>,
    base64: Option<String>,
    lasts_s: Option<u64>,
}

#[derive(Debug, Serialize)]
struct NotifiedBody {
    number: u64,
    repeated: bool,
}

#[derive(Debug, Serialize)]
struct RoomName {
    room: String,
}

#[derive(Debug, Default, Serialize)]
struct Done {
    /// Of the message that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
}

#[derive(Debug, Serialize)]
struct RoomBody {
    room: String,
    members_max: u32,
    locked: bool,
    hidden: bool,
    owner: Option<String>,
    properties: BTreeMap<String, ValueBody>,
    members: Vec<MemberBody>,
    message_last: u64,
}

#[derive(Debug, Serialize)]
struct MemberBody {
    user: String,
    seat: u32,
    dropped: bool,
    node: String,
    properties: BTreeMap<String, ValueBody>,
}

impl RoomBody {
    fn new(room: &RoomId, view: RoomView) -> Self {
        Self {
            room: room.to_string(),
            members_max: view.members_max,
            locked: view.is_locked,
            hidden: view.is_hidden,
            owner: view.owner,
            properties: told(view.properties),
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
#[serde(untagged)]
enum ValueBody {
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    Binary { base64: String },
}

impl ValueBody {
    fn parse(self) -> Result<Value, ApiError> {
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

/// Of all other reasons: what was asked for is understood, but cannot be done.
const STATUS_BY_CODE: [(ErrorCode, StatusCode); 9] = [
    (ErrorCode::NoSuchRoom, StatusCode::NOT_FOUND),
    (ErrorCode::NoSuchThing, StatusCode::NOT_FOUND),
    (ErrorCode::NoSuchMember, StatusCode::NOT_FOUND),
    (ErrorCode::RoomExists, StatusCode::CONFLICT),
    (ErrorCode::Conflict, StatusCode::CONFLICT),
    (ErrorCode::BadName, StatusCode::BAD_REQUEST),
    (ErrorCode::BadFrame, StatusCode::BAD_REQUEST),
    (ErrorCode::TooLarge, StatusCode::PAYLOAD_TOO_LARGE),
    (ErrorCode::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
];
/// The largest message in base64, and room around it. What fits in it fits into an entry of a room's log.
const BODY_BYTES_MAX: usize = 96 * 1024;

const _: () = assert!(
    BODY_BYTES_MAX + 4096 < tombolo_room::ENTRY_BYTES_MAX
        && tombolo_room::PAYLOAD_BYTES_MAX / 3 * 4 + 4096 < BODY_BYTES_MAX
);
/// Of an `Idempotency-Key`.
const OPERATION_BYTES_MAX: usize = 128;
/// Rooms in a page that asks for no other number, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;
/// How long a notice lasts whose sender does not say.
const NOTICE_LASTS: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a room waits for its first member, unless its server says otherwise.
const EMPTY_KEPT: Duration = Duration::from_secs(300);
