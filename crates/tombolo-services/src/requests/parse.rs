//! Requests as they come, to requests that are in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use tombolo_room::{
    Act, Change, EntryError, OperationId, OwnerPolicy, PAYLOAD_BYTES_MAX, Password, Query,
    QueryError, Reserve, RoomCode, Settings, Writers,
};
use tombolo_wire::v1::{self, ErrorCode, JoinMode, request, response};
use tombolo_wire::{CommandName, RoomId};

use super::{Join, Mode, Place, Request, WantedAct, answer, not_a_member};
use crate::catalogue::Choice;
use crate::config::ROOM_MEMBERS_MAX;
use crate::field;
use crate::hooks::{COMMAND_PAYLOAD_BYTES_MAX, DeviceCommand};
use crate::host::{self, Position, Wish};
use crate::matchmaker;
use crate::node::Node;
use crate::reject::Reject;
use crate::session::Session;
use crate::social;

/// Answers what needs no engine; returns the rest.
pub(super) fn parse(
    node: &Arc<Node>,
    session: &Arc<Session>,
    request: v1::Request,
    now: Instant,
) -> Result<Option<Request>, Reject> {
    let id = request.id;
    let bytes = request.encoded_len();
    if !session.account().rate.take(now, 1, bytes) {
        return Err(Reject::new(ErrorCode::Limit, "too many requests"));
    }
    match request.kind {
        Some(request::Kind::Join(join)) => {
            let join = parse_join(node, session, join, now)?;
            pace_join(session, &join, now)?;
            let join = Box::new(join);
            Ok(Some(Request::Join { id, join }))
        }
        Some(request::Kind::Leave(leave)) => Ok(Some(Request::Leave {
            id,
            room: parse_room(&leave.room)?,
        })),
        Some(request::Kind::Room(wanted)) => {
            let wanted = Box::new(parse_act(node, session, wanted, bytes)?);
            let mut account = session.account();
            if !(account.acts.take(now, 1) && account.act_bytes.take(now, bytes)) {
                return Err(Reject::new(ErrorCode::Limit, "too many acts"));
            }
            Ok(Some(Request::Act { id, wanted }))
        }
        Some(request::Kind::Find(find)) => parse_find(session, id, find, now).map(Some),
        Some(request::Kind::History(asked)) => {
            answer_history(node, session, id, &asked)?;
            Ok(None)
        }
        Some(request::Kind::Social(request)) => {
            let request = social::parse(session, request, now)?;
            Ok(Some(Request::Social { id, request }))
        }
        Some(request::Kind::Command(command)) => {
            let command = Box::new(parse_command(session, command, now)?);
            Ok(Some(Request::Command { id, command }))
        }
        Some(request::Kind::Matchmaker(request)) => {
            let request = Box::new(matchmaker::parse(node, session, request, now)?);
            Ok(Some(Request::Matchmaker { id, request }))
        }
        Some(request::Kind::Field(request)) => {
            let request = field::parse(node, session, request, now)?;
            Ok(Some(Request::Field { id, request }))
        }
        Some(request::Kind::IceServers(refresh)) => {
            renew_token(node, session, &refresh.token)?;
            answer_ice_servers(node, session, id)?;
            Ok(None)
        }
        None => Err(Reject::new(
            ErrorCode::BadFrame,
            "the request asks for nothing known",
        )),
    }
}

fn parse_act(
    node: &Node,
    session: &Session,
    wanted: v1::RoomRequest,
    bytes: usize,
) -> Result<WantedAct, Reject> {
    let room = parse_room(&wanted.room)?;
    let operation = match wanted.operation.as_ref() {
        [] => None,
        name if name.len() == 16 => Some(host::operation_named(&session.user, &room, name)),
        _ => return Err(malformed(EntryError::Malformed)),
    };
    let act = wanted.act.ok_or_else(|| malformed(EntryError::Malformed))?;
    if let Some(v1::room_act::Kind::Say(say)) = &act.kind
        && say.payload.len() > PAYLOAD_BYTES_MAX
    {
        let message = format!("a message has at most {PAYLOAD_BYTES_MAX} bytes");
        return Err(Reject::new(ErrorCode::BadFrame, message));
    }
    Ok(WantedAct {
        room,
        act: cut(node, Act::parse(act).map_err(malformed)?)?,
        bytes,
        operation,
        wanted_for: Duration::from_millis(wanted.wanted_for_ms),
    })
}

fn answer_history(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    asked: &v1::HistoryRequest,
) -> Result<(), Reject> {
    let room = parse_room(&asked.room)?;
    let host = session.lock().host_by_room.get(&room).cloned();
    let host = host.ok_or_else(not_a_member)?;
    let history = host.history(session, asked.before, asked.limit)?;
    node.push(session, answer(id, response::Result::History(history)));
    Ok(())
}

/// The session goes on with a newer token of its user, if there is one.
fn renew_token(node: &Node, session: &Session, token: &str) -> Result<(), Reject> {
    if token.is_empty() {
        return Ok(());
    }
    let claims = node
        .authenticate(token)
        .map_err(|error| Reject::new(error.code(), error))?;
    if claims.user != session.user {
        let message = "the token is another user's";
        return Err(Reject::new(ErrorCode::TokenInvalid, message));
    }
    let mut state = session.lock();
    state.expires = claims.expires;
    state.tags = claims.tags;
    Ok(())
}

fn answer_ice_servers(node: &Arc<Node>, session: &Arc<Session>, id: u64) -> Result<(), Reject> {
    let expires = session.lock().expires;
    if expires <= (node.config.unix_now)() {
        let message = "the token has expired: renew it";
        return Err(Reject::new(ErrorCode::TokenExpired, message));
    }
    let servers = node.ice_servers(&session.user, expires);
    node.push(session, answer(id, response::Result::IceServers(servers)));
    Ok(())
}

fn parse_command(
    session: &Session,
    command: v1::Command,
    now: Instant,
) -> Result<DeviceCommand, Reject> {
    let name = CommandName::parse(&command.name);
    let name = name.map_err(|error| Reject::new(error.code(), error))?;
    if command.payload.len() > COMMAND_PAYLOAD_BYTES_MAX {
        let message = format!("a command has at most {COMMAND_PAYLOAD_BYTES_MAX} bytes");
        return Err(Reject::new(ErrorCode::TooLarge, message));
    }
    if !session.account().acts.take(now, 1) {
        return Err(Reject::new(ErrorCode::Limit, "too many commands"));
    }
    Ok(DeviceCommand {
        caller: session.user.clone(),
        session: session.id.0,
        name,
        payload: command.payload,
    })
}

fn parse_join(
    node: &Node,
    session: &Session,
    mut join: v1::Join,
    now: Instant,
) -> Result<Join, Reject> {
    let mode = match join.mode() {
        JoinMode::Create => Mode::Create,
        JoinMode::Join => Mode::Join,
        JoinMode::JoinOrCreate => Mode::JoinOrCreate,
        JoinMode::Unspecified => {
            return Err(Reject::new(
                ErrorCode::BadFrame,
                "the join has no known mode",
            ));
        }
    };
    let place = parse_place(session, &mut join, mode, now)?;
    let returns_to = match join.returns_to.as_ref() {
        [] => None,
        opening => Some(parse_opening(opening)?),
    };
    let is_of_match = place.name().is_some_and(matchmaker::is_of_match);
    let mode = match mode {
        Mode::Create if is_of_match => {
            let message = "the matchmaker opens the rooms of matches";
            return Err(Reject::new(ErrorCode::NotPermitted, message));
        }
        // Who comes back to a room does not open it anew.
        Mode::Create | Mode::JoinOrCreate if is_of_match || returns_to.is_some() => Mode::Join,
        Mode::Create | Mode::Join | Mode::JoinOrCreate => mode,
    };
    let reserve = join.reserve.as_ref().map(Reserve::parse).transpose();
    let reserve = reserve.map_err(malformed)?.map(|reserve| Reserve {
        lasts: reserve.lasts.min(node.config.room_kept_max),
        ..reserve
    });
    Ok(Join {
        place,
        mode,
        settings: parse_settings(node, join.settings, join.members_max)?,
        room_properties: Change::parse_all(join.room_properties).map_err(malformed)?,
        reserve,
        password: Password::parse(&join.password).map_err(malformed)?,
        member_properties: Change::parse_all(join.member_properties).map_err(malformed)?,
        reachability: join.reachability,
        returns_to,
        wish: Wish {
            after: join.after.as_ref().map(parse_position).transpose()?,
            tag: join.tag,
        },
        with_code: join.with_code,
    })
}

/// Rooms are looked for by a query, or one by its code.
fn parse_find(
    session: &Session,
    id: u64,
    find: v1::FindRooms,
    now: Instant,
) -> Result<Request, Reject> {
    if find.code.is_empty() {
        let query = Box::new(parse_query(session, find.query, now)?);
        return Ok(Request::Find { id, query });
    }
    let code = RoomCode::parse(&find.code);
    let code = code.map_err(|error| Reject::new(ErrorCode::BadName, error))?;
    if !session.account().codes.take(now, 1) {
        return Err(Reject::new(ErrorCode::Limit, "too many codes"));
    }
    Ok(Request::Resolve { id, code })
}

/// Joins have a pace, and those by codes, which can be guessed, one of their own.
fn pace_join(session: &Session, join: &Join, now: Instant) -> Result<(), Reject> {
    let mut account = session.account();
    if !account.joins.take(now, 1) {
        return Err(Reject::new(ErrorCode::Limit, "too many joins"));
    }
    if matches!(join.place, Place::Coded(_)) && !account.codes.take(now, 1) {
        return Err(Reject::new(ErrorCode::Limit, "too many codes"));
    }
    Ok(())
}

/// The room that is meant: by its name, its code, or what is public about it.
fn parse_place(
    session: &Session,
    join: &mut v1::Join,
    mode: Mode,
    now: Instant,
) -> Result<Place, Reject> {
    let bad_frame = |message: &str| Reject::new(ErrorCode::BadFrame, message);
    match (join.found.take(), join.code.as_str()) {
        (None, "") => parse_room(&join.room).map(Place::Named),
        (None, code) => {
            if mode != Mode::Join || !join.room.is_empty() {
                return Err(bad_frame("a code is of a room that is there"));
            }
            let code = RoomCode::parse(code);
            code.map(Place::Coded)
                .map_err(|error| Reject::new(ErrorCode::BadName, error))
        }
        (Some(found), "") => {
            let name = (!join.room.is_empty()).then(|| parse_room(&join.room));
            if mode == Mode::Create {
                return Err(bad_frame("what is created is not looked for"));
            }
            Ok(Place::Found {
                query: parse_query(session, found.query, now)?,
                choice: if found.first {
                    Choice::First
                } else {
                    Choice::Any
                },
                name: name.transpose()?,
            })
        }
        (Some(_), _) => Err(bad_frame("a room has a code or is looked for")),
    }
}

fn parse_query(
    session: &Session,
    query: Option<v1::RoomQuery>,
    now: Instant,
) -> Result<Query, Reject> {
    let query = Query::parse(query.unwrap_or_default()).map_err(|error| {
        let code = match error {
            QueryError::TooMuch => ErrorCode::Limit,
            QueryError::Malformed | QueryError::Page | _ => ErrorCode::BadFrame,
        };
        Reject::new(code, error)
    })?;
    let conditions = query.conditions.iter();
    let values: usize = conditions.map(|one| one.comparison.values()).sum();
    // Whoever asks for much looks as often as that takes.
    let looks = 1 + values / VALUES_PER_LOOK;
    if !session.account().finds.take(now, looks) {
        return Err(Reject::new(ErrorCode::Limit, "too many looks for rooms"));
    }
    Ok(query)
}

/// What is not said is as the node has it.
fn parse_settings(
    node: &Node,
    settings: Option<v1::RoomSettings>,
    members_max: u32,
) -> Result<Settings, Reject> {
    let usual = Settings::default();
    let mut settings = match settings {
        None => Settings {
            members_max,
            ..usual
        },
        Some(mut said) => {
            if said.owner_policy() == v1::OwnerPolicy::Unspecified {
                said.set_owner_policy(policy_on_wire(usual.owner_policy));
            }
            if said.writers() == v1::Writers::Unspecified {
                said.set_writers(writers_on_wire(usual.writers));
            }
            Settings::parse(&said).map_err(malformed)?
        }
    };
    if settings.password == Some(Password::UNTOLD) {
        let message = "the settings are those of a room whose password is not told";
        return Err(Reject::new(ErrorCode::BadFrame, message));
    }
    let limit = node.config.members_max.min(ROOM_MEMBERS_MAX);
    if settings.members_max == 0 {
        settings.members_max = node.config.members_default.min(limit);
    }
    check_members_max(node, settings.members_max)?;
    let most = node.config.room_kept_max;
    settings.seat_kept = settings.seat_kept.min(most);
    settings.empty_kept = settings.empty_kept.min(most);
    Ok(settings)
}

/// Cuts how long things last that a device wants to: rooms must not pile up that nobody is in.
///
/// # Errors
/// When a room is to take more members than it may.
fn cut(node: &Node, mut act: Act) -> Result<Act, Reject> {
    let most = node.config.room_kept_max;
    match &mut act {
        Act::Configure(change) => {
            check_members_max(node, change.members_max.unwrap_or_default())?;
            // Whoever says again what it was told changes nothing.
            change.password = change.password.filter(|it| *it != Some(Password::UNTOLD));
            change.seat_kept = change.seat_kept.map(|kept| kept.min(most));
            change.empty_kept = change.empty_kept.map(|kept| kept.min(most));
        }
        Act::Reserve(reserve) => reserve.lasts = reserve.lasts.min(most),
        Act::ChangeProperties { .. }
        | Act::Kick { .. }
        | Act::Ban { .. }
        | Act::Unban { .. }
        | Act::SetOwner { .. }
        | Act::KeepState { .. }
        | Act::CreateObject(_)
        | Act::OwnObject { .. }
        | Act::DeleteObject { .. }
        | Act::ChangeGroups { .. }
        | Act::Say { .. }
        | Act::Close
        | Act::Reach { .. } => {}
    }
    Ok(act)
}

/// # Errors
/// When that is more members than a room may take.
pub(crate) fn check_members_max(node: &Node, members_max: u32) -> Result<(), Reject> {
    let limit = node.config.members_max.min(ROOM_MEMBERS_MAX);
    if members_max > limit {
        let message = format!("a room takes at most {limit} members");
        return Err(Reject::new(ErrorCode::Limit, message));
    }
    Ok(())
}

fn policy_on_wire(policy: OwnerPolicy) -> v1::OwnerPolicy {
    match policy {
        OwnerPolicy::Automatic => v1::OwnerPolicy::Automatic,
        OwnerPolicy::Manual => v1::OwnerPolicy::Manual,
        OwnerPolicy::None => v1::OwnerPolicy::None,
    }
}

fn writers_on_wire(writers: Writers) -> v1::Writers {
    match writers {
        Writers::Everybody => v1::Writers::Everybody,
        Writers::Owner => v1::Writers::Owner,
        Writers::Server => v1::Writers::Server,
    }
}

fn parse_position(position: &v1::MessagePosition) -> Result<Position, Reject> {
    Ok(Position {
        opening: parse_opening(&position.opening)?,
        number: position.number,
    })
}

fn parse_opening(opening: &[u8]) -> Result<OperationId, Reject> {
    let opening = opening.try_into();
    Ok(OperationId(
        opening.map_err(|_| malformed(EntryError::Malformed))?,
    ))
}

fn parse_room(room: &str) -> Result<RoomId, Reject> {
    RoomId::parse(room).map_err(|error| Reject::new(error.code(), error))
}

fn malformed(error: EntryError) -> Reject {
    let message = match error {
        EntryError::TooLong => "the request says too much",
        EntryError::Malformed | EntryError::Version { .. } | _ => {
            "the request says something impossible"
        }
    };
    Reject::new(ErrorCode::BadFrame, message)
}

/// With so many values a room is compared in one look.
const VALUES_PER_LOOK: usize = 16;
