//! The HTTP API for game servers: rooms and what is in them, groups, notices, pools, and what is in fields.
//! `docs/http-api.md` describes it.

mod pools;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tombolo_room::{
    Act, Audience, OwnerPolicy, PAYLOAD_BYTES_MAX, Password, Reserve, Settings, Target, Writers,
};
use tombolo_services::{NamedOperation, NewRoom, Reject};
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{RoomId, TagName, UserId};
use tracing::info;

use crate::api_keys::{KeyRefusal, Known, Scope};
use crate::http::{ApiError, bearer};
use crate::shared::Shared;

mod body;
mod changes;
mod fields;
mod groups;
mod once;

use body::{
    CreateBody, Done, KickQuery, ListBody, ListQuery, MessagesBody, MessagesQuery, NotifiedBody,
    NotifyBody, OpenedBody, ReserveBody, RoomBody, SayBody, SetBody,
};
use changes::Changes;
use once::Read;

type Node = State<Arc<Shared>>;

pub(crate) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/rooms", get(list).post(create))
        .route("/v1/rooms/{room}", get(show).delete(close))
        .route("/v1/rooms/{room}/messages", get(messages).post(say))
        .route("/v1/rooms/{room}/properties", patch(set))
        .route("/v1/rooms/{room}/members/{user}", delete(kick))
        .route("/v1/notices", post(notify))
        .route("/v1/groups", get(groups::list))
        .route("/v1/groups/{group}", get(groups::show).delete(groups::end))
        .route("/v1/pools", get(pools::list))
        .route("/v1/pools/{pool}", get(pools::show))
        .route("/v1/fields/{field}/entities", put(fields::put_all))
        .route("/v1/fields/{field}/marks", post(fields::mark))
        .route(
            "/v1/fields/{field}/entities/{name}",
            put(fields::put).delete(fields::take),
        )
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

needs!(RoomsRead MessagesRead RoomsCreate RoomsSend RoomsSet RoomsKick NoticesSend PoolsRead FieldsPut GroupsRead GroupsEnd);

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
    fn operation(&self, place: &str, wanted_for: Duration) -> Option<NamedOperation> {
        let id = self.digest(place)?;
        Some(NamedOperation { id, wanted_for })
    }

    fn digest(&self, place: &str) -> Option<[u8; 16]> {
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
    Read { body, digest }: Read<CreateBody>,
) -> Result<Response, ApiError> {
    let room = parse_room(&body.room)?;
    let new = parse_new_room(&room, body)?;
    let place = format!("create {room}");
    let create = async |wanted_for| {
        let operation = holder.operation(&place, wanted_for);
        let code = shared.services.create_room(&room, new, operation).await?;
        info!(key = holder.key.key.name, %room, "a server opened a room");
        let opened = OpenedBody {
            room: room.to_string(),
            code: code.map(|code| code.to_string()),
        };
        Ok((StatusCode::CREATED, Json(opened)).into_response())
    };
    holder.once(&shared, &place, digest, create).await
}

fn parse_new_room(room: &RoomId, body: CreateBody) -> Result<NewRoom, ApiError> {
    let usual = Settings::default();
    let writers = match body.writers.as_deref() {
        None => usual.writers,
        Some("everybody") => Writers::Everybody,
        Some("owner") => Writers::Owner,
        Some("server") => Writers::Server,
        Some(_) => return Err(bad("writers is everybody, owner or server")),
    };
    let owner_policy = match body.owner_policy.as_deref() {
        None => usual.owner_policy,
        Some("automatic") => OwnerPolicy::Automatic,
        Some("manual") => OwnerPolicy::Manual,
        Some("none") => OwnerPolicy::None,
        Some(_) => return Err(bad("owner_policy is automatic, manual or none")),
    };
    let password = |text: String| {
        let named = [room.as_str().as_bytes(), &[0], text.as_bytes()].concat();
        Password(Sha256::digest(named).into())
    };
    let seconds = |given: Option<u64>, usual| given.map_or(usual, Duration::from_secs);
    let settings = Settings {
        members_max: body.members_max.unwrap_or(usual.members_max),
        password: body.password.map(password),
        is_locked: body.locked,
        is_hidden: body.hidden,
        seat_kept: seconds(body.seat_kept_s, usual.seat_kept),
        // A room that nobody is in yet must last until somebody comes.
        empty_kept: seconds(body.empty_kept_s, EMPTY_KEPT),
        owner_policy,
        writers,
        history_max: body.history_max.unwrap_or(usual.history_max),
    };
    let mut properties = Changes::default();
    properties.set(body.properties, None)?;
    properties.set(body.public, Some(true))?;
    Ok(NewRoom {
        settings,
        properties: properties.finish()?,
        reserve: body.reserve.map(parse_reserve).transpose()?,
        with_code: body.code,
    })
}

fn parse_reserve(body: ReserveBody) -> Result<Reserve, ApiError> {
    Ok(Reserve {
        users: parse_users(&body.users, "reserve names 1 to 256 users")?,
        lasts: Duration::from_secs(body.lasts_s),
    })
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

async fn messages(
    State(shared): Node,
    _: Holder<MessagesRead>,
    room: Result<Path<String>, PathRejection>,
    query: Result<Query<MessagesQuery>, QueryRejection>,
) -> Result<Json<MessagesBody>, ApiError> {
    let room = parse_room(&path(room)?)?;
    let Query(query) = query.map_err(|rejection| bad(&rejection.body_text()))?;
    let before = match query.before {
        Some(0) => return Err(bad("the first message has the number 1")),
        Some(number) => number,
        None => 0,
    };
    let count = query.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let found = shared.services.room_messages(&room, before, count).await?;
    Ok(Json(found.into()))
}

async fn close(
    State(shared): Node,
    holder: Holder<RoomsCreate>,
    room: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let room = parse_room(&path(room)?)?;
    let asked = Asked {
        place: format!("close {room}"),
        digest: NO_BODY,
    };
    let done = act(&shared, &holder, &room, asked, Act::Close).await?;
    info!(key = holder.key.key.name, %room, "a server closed a room");
    Ok(done)
}

async fn say(
    State(shared): Node,
    holder: Holder<RoomsSend>,
    room: Result<Path<String>, PathRejection>,
    Read { body, digest }: Read<SayBody>,
) -> Result<Response, ApiError> {
    let room = parse_room(&path(room)?)?;
    let payload = match (body.text, body.base64) {
        (Some(text), None) => Bytes::from(text),
        (None, Some(text)) => decode(&text)?,
        _ => return Err(bad("a message has either text or base64")),
    };
    if payload.len() > PAYLOAD_BYTES_MAX {
        let message = format!("a message has at most {PAYLOAD_BYTES_MAX} bytes");
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        return Err(ApiError::of_contract(status, ErrorCode::Limit, message));
    }
    let audience = match body.to {
        None => Audience::All,
        Some(users) => Audience::Users(parse_users(&users, "to names 1 to 256 users")?),
    };
    let place = format!("say {room}");
    let asked = Asked { place, digest };
    let say = Act::Say { audience, payload };
    act(&shared, &holder, &room, asked, say).await
}

async fn set(
    State(shared): Node,
    holder: Holder<RoomsSet>,
    room: Result<Path<String>, PathRejection>,
    Read { body, digest }: Read<SetBody>,
) -> Result<Response, ApiError> {
    let room = parse_room(&path(room)?)?;
    let target = match &body.member {
        None => Target::Room,
        Some(user) => Target::Member(parse_user(user)?),
    };
    let changes = Changes::parse(body)?;
    if changes.is_empty() {
        return Err(bad("nothing is to be changed"));
    }
    let place = format!("set {room}");
    let asked = Asked { place, digest };
    let change = Act::ChangeProperties { target, changes };
    act(&shared, &holder, &room, asked, change).await
}

async fn kick(
    State(shared): Node,
    holder: Holder<RoomsKick>,
    names: Result<Path<(String, String)>, PathRejection>,
    query: Result<Query<KickQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Path((room, user)) = names.map_err(|rejection| bad(&rejection.body_text()))?;
    let Query(query) = query.map_err(|rejection| bad(&rejection.body_text()))?;
    let (room, user) = (parse_room(&room)?, parse_user(&user)?);
    let kick = match query.ban_s {
        None => Act::Kick(user.clone()),
        Some(seconds) if seconds <= tombolo_room::DURATION_MAX.as_secs() => Act::Ban {
            user: user.clone(),
            lasts: Some(Duration::from_secs(seconds)),
        },
        Some(_) => return Err(bad("ban_s is at most a year")),
    };
    let asked = Asked {
        place: format!("kick {room} {user} {:?}", query.ban_s),
        digest: NO_BODY,
    };
    let done = act(&shared, &holder, &room, asked, kick).await?;
    info!(key = holder.key.key.name, %room, %user, "a server sent a member away");
    Ok(done)
}

async fn notify(
    State(shared): Node,
    holder: Holder<NoticesSend>,
    Read { body, digest }: Read<NotifyBody>,
) -> Result<Response, ApiError> {
    let board = TagName::parse(&body.to);
    let board = board
        .map_err(|error| ApiError::of_contract(StatusCode::BAD_REQUEST, error.code(), error))?;
    let payload = match (body.text, body.base64) {
        (Some(text), None) => Bytes::from(text),
        (None, Some(text)) => decode(&text)?,
        _ => return Err(bad("a notice has either text or base64")),
    };
    let place = format!("notify {board}");
    let lasts = body.lasts_s.map_or(NOTICE_LASTS, Duration::from_secs);
    let notify = async |_| {
        let id = holder.digest(&place);
        let notified = shared.services.notify(&board, id, payload, lasts).await?;
        info!(key = holder.key.key.name, %board, "a server told users something");
        let told = NotifiedBody {
            number: notified.number,
            repeated: notified.is_repeated,
        };
        Ok(Json(told).into_response())
    };
    holder.once(&shared, &place, digest, notify).await
}

/// What a request asks beside the act itself.
struct Asked {
    /// What is done, and to what.
    place: String,
    /// Of the body.
    digest: [u8; 32],
}

/// Carries out an act with the rights of a server.
async fn act<S: Needs>(
    shared: &Shared,
    holder: &Holder<S>,
    room: &RoomId,
    asked: Asked,
    act: Act,
) -> Result<Response, ApiError> {
    let Asked { place, digest } = asked;
    let carry_out = async |wanted_for| {
        let operation = holder.operation(&place, wanted_for);
        let acted = shared.services.act_for_server(room, act, operation).await?;
        let number = Some(acted.message).filter(|number| *number > 0);
        Ok(Json(Done { number }).into_response())
    };
    holder.once(shared, &place, digest, carry_out).await
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

fn parse_users(users: &[String], limit: &str) -> Result<Vec<UserId>, ApiError> {
    if !(1..=tombolo_room::USERS_PER_ENTRY_MAX).contains(&users.len()) {
        return Err(bad(limit));
    }
    users.iter().map(|user| parse_user(user)).collect()
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

/// Of all other reasons: what was asked for is understood, but cannot be done.
const STATUS_BY_CODE: [(ErrorCode, StatusCode); 12] = [
    (ErrorCode::NoSuchGroup, StatusCode::NOT_FOUND),
    (ErrorCode::NoSuchPool, StatusCode::NOT_FOUND),
    (ErrorCode::NoSuchRoom, StatusCode::NOT_FOUND),
    (ErrorCode::NoSuchThing, StatusCode::NOT_FOUND),
    (ErrorCode::NoSuchMember, StatusCode::NOT_FOUND),
    (ErrorCode::RoomExists, StatusCode::CONFLICT),
    (ErrorCode::Conflict, StatusCode::CONFLICT),
    (ErrorCode::Unsure, StatusCode::CONFLICT),
    (ErrorCode::BadName, StatusCode::BAD_REQUEST),
    (ErrorCode::BadFrame, StatusCode::BAD_REQUEST),
    (ErrorCode::TooLarge, StatusCode::PAYLOAD_TOO_LARGE),
    (ErrorCode::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
];
/// The largest message in base64, and room around it. What fits in it fits into an entry of a room's log.
const BODY_BYTES_MAX: usize = 96 * 1024;

const _: () = assert!(
    BODY_BYTES_MAX + 4096 < tombolo_room::ENTRY_BYTES_MAX
        && PAYLOAD_BYTES_MAX / 3 * 4 + 4096 < BODY_BYTES_MAX
);
/// Stands for the digest of a body where there is none.
const NO_BODY: [u8; 32] = [0; 32];
/// Of an `Idempotency-Key`.
const OPERATION_BYTES_MAX: usize = 128;
/// Rooms in a page that asks for no other number, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;
/// How long a notice lasts whose sender does not say.
const NOTICE_LASTS: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a room waits for its first member, unless its server says otherwise.
const EMPTY_KEPT: Duration = Duration::from_secs(300);
