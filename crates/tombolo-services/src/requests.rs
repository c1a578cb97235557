//! What a device asks for and is answered by a `Response`: joins, leaves, ICE servers.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tombolo_engine::AppendError;
use tombolo_room::Illegal;
use tombolo_wire::v1::{self, ErrorCode, JoinMode, request, response, server_frame};
use tombolo_wire::{RoomId, UserId};

use crate::config::ROOM_MEMBERS_MAX;
use crate::host::{Outcome, Plan, Proposal};
use crate::node::Node;
use crate::reject::Reject;
use crate::session::Session;

/// What takes the engine to carry out. A session's are carried out in order.
pub(crate) enum Request {
    Join { id: u64, join: Join },
    Leave { id: u64, room: RoomId },
}

/// A join that was found to be in order.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    pub(crate) room: RoomId,
    pub(crate) mode: Mode,
    pub(crate) members_max: u32,
}

/// What a join expects of the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Create,
    Join,
    JoinOrCreate,
}

/// Takes in a request.
pub(crate) fn handle(node: &Arc<Node>, session: &Arc<Session>, request: v1::Request, now: Instant) {
    let id = request.id;
    let result = parse(node, session, request, now).and_then(|request| {
        let Some(request) = request else {
            return Ok(());
        };
        let requests = session.lock().requests.clone();
        match requests.map(|requests| requests.try_send(request)) {
            Some(Err(mpsc::error::TrySendError::Full(_))) => {
                Err(Reject::new(ErrorCode::Limit, "too many requests wait"))
            }
            Some(Ok(()) | Err(mpsc::error::TrySendError::Closed(_))) | None => Ok(()),
        }
    });
    if let Err(reject) = result {
        fail(node, session, id, reject);
    }
}

/// Carries out a session's requests until the session is over.
pub(crate) async fn run(
    node: Arc<Node>,
    session: Arc<Session>,
    mut waiting: mpsc::Receiver<Request>,
) {
    while let Some(request) = waiting.recv().await {
        let (id, result) = match request {
            Request::Join { id, join } => (id, carry_out_join(&node, &session, id, &join).await),
            Request::Leave { id, room } => (id, carry_out_leave(&node, &session, id, &room).await),
        };
        if let Err(reject) = result {
            fail(&node, &session, id, reject);
        }
    }
}

/// Answers what needs no engine; returns the rest.
fn parse(
    node: &Arc<Node>,
    session: &Arc<Session>,
    request: v1::Request,
    now: Instant,
) -> Result<Option<Request>, Reject> {
    let id = request.id;
    if !session.account().rate.take(now, 1, 0) {
        return Err(Reject::new(ErrorCode::Limit, "too many requests"));
    }
    match request.kind {
        Some(request::Kind::Join(join)) => {
            let join = parse_join(node, &join)?;
            if !session.account().joins.take(now, 1) {
                return Err(Reject::new(ErrorCode::Limit, "too many joins"));
            }
            Ok(Some(Request::Join { id, join }))
        }
        Some(request::Kind::Leave(leave)) => Ok(Some(Request::Leave {
            id,
            room: parse_room(&leave.room)?,
        })),
        Some(request::Kind::IceServers(_)) => {
            let expires = session.lock().expires;
            if expires <= (node.config.unix_now)() {
                let message = "the token has expired: connect with a new one";
                return Err(Reject::new(ErrorCode::TokenExpired, message));
            }
            let servers = node.ice_servers(&session.user, expires);
            node.push(session, answer(id, response::Result::IceServers(servers)));
            Ok(None)
        }
        None => Err(Reject::new(
            ErrorCode::BadFrame,
            "the request asks for nothing known",
        )),
    }
}

fn parse_join(node: &Node, join: &v1::Join) -> Result<Join, Reject> {
    let room = parse_room(&join.room)?;
    let mode = match JoinMode::try_from(join.mode) {
        Ok(JoinMode::Create) => Mode::Create,
        Ok(JoinMode::Join) => Mode::Join,
        Ok(JoinMode::JoinOrCreate) => Mode::JoinOrCreate,
        Ok(JoinMode::Unspecified) | Err(_) => {
            return Err(Reject::new(
                ErrorCode::BadFrame,
                "the join has no known mode",
            ));
        }
    };
    let limit = node.config.members_max.min(ROOM_MEMBERS_MAX);
    let members_max = match join.members_max {
        0 => node.config.members_default.min(limit),
        members_max => members_max,
    };
    if members_max > limit {
        let message = format!("a room takes at most {limit} members");
        return Err(Reject::new(ErrorCode::Limit, message));
    }
    Ok(Join {
        room,
        mode,
        members_max,
    })
}

fn parse_room(room: &str) -> Result<RoomId, Reject> {
    RoomId::parse(room).map_err(|error| Reject::new(error.code(), error))
}

/// Appends until the room's log has taken it in one way or the other.
async fn carry_out_join(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    join: &Join,
) -> Result<(), Reject> {
    let rooms_max = node.config.rooms_per_session_max;
    let is_full = |state: &crate::session::State| {
        state.host_by_room.len() >= rooms_max && !state.host_by_room.contains_key(&join.room)
    };
    if is_full(&session.lock()) {
        return Err(Reject::new(
            ErrorCode::Limit,
            "the session is in as many rooms as it may",
        ));
    }
    let entrance = node.enter(&join.room)?;
    let host = entrance.host();
    host.synced(node.config.engine_timeout).await?;
    for _ in 0..ATTEMPTS_MAX {
        let proposal = match host.plan_join(node, session, id, join)? {
            Plan::Done => return Ok(()),
            Plan::Append(proposal) => proposal,
        };
        match propose(node, proposal).await? {
            Outcome::Done => return Ok(()),
            Outcome::Illegal(Illegal::Full) => return Err(room_full()),
            // The room opened or closed in between: look again.
            Outcome::Illegal(_) | Outcome::Again => {}
        }
    }
    Err(Reject::new(
        ErrorCode::Unavailable,
        "the room changes too fast",
    ))
}

async fn carry_out_leave(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    room: &RoomId,
) -> Result<(), Reject> {
    let host = session.lock().host_by_room.get(room).cloned();
    let host = host.ok_or_else(not_a_member)?;
    for _ in 0..ATTEMPTS_MAX {
        let proposal = match host.plan_leave(node, session, id)? {
            Plan::Done => return Ok(()),
            Plan::Append(proposal) => proposal,
        };
        match propose(node, proposal).await? {
            Outcome::Done => return Ok(()),
            Outcome::Illegal(_) => return Err(not_a_member()),
            Outcome::Again => {}
        }
    }
    Err(Reject::new(
        ErrorCode::Unavailable,
        "the room changes too fast",
    ))
}

/// Appends a planned entry and waits until it has been applied here.
async fn propose(node: &Node, mut proposal: Proposal) -> Result<Outcome, Reject> {
    let unavailable = |message: &str| Reject::new(ErrorCode::Unavailable, message);
    let timeout = node.config.engine_timeout;
    let append = node.engine.append(
        proposal.host.key(),
        proposal.entry.clone(),
        proposal.expect,
        tombolo_engine::OperationId(proposal.operation.0),
    );
    match tokio::time::timeout(timeout, append).await {
        // Whether it was written or not, the log will tell.
        Ok(Ok(_) | Err(AppendError::Unknown)) | Err(_) => {}
        Ok(Err(AppendError::Conflict)) => {
            // Somebody else was faster: look again once this node has seen it, too.
            let _ = tokio::time::timeout(timeout, proposal.progress.changed()).await;
            return Ok(Outcome::Again);
        }
        Ok(Err(error)) => return Err(unavailable(&error.to_string())),
    }
    match tokio::time::timeout(timeout, &mut proposal.outcome).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(_)) | Err(_) => Err(unavailable("the engine does not answer")),
    }
}

/// Answers a request by saying why it was not carried out.
pub(crate) fn fail(node: &Arc<Node>, session: &Arc<Session>, id: u64, reject: Reject) {
    node.counters.count_refused(reject.code);
    tracing::debug!(user = %session.user, %reject, "request failed");
    let failure = v1::Failure {
        code: reject.code.into(),
        message: reject.message,
    };
    node.push(session, answer(id, response::Result::Failure(failure)));
}

pub(crate) fn answer(id: u64, result: response::Result) -> server_frame::Body {
    server_frame::Body::Response(v1::Response {
        id,
        result: Some(result),
    })
}

pub(crate) fn room_full() -> Reject {
    Reject::new(ErrorCode::RoomFull, "the room is full")
}

pub(crate) fn key_taken() -> Reject {
    let message = "another member of the room has this identity key";
    Reject::new(ErrorCode::KeyTaken, message)
}

pub(crate) fn no_such_member(user: &UserId) -> Reject {
    let message = format!("{user} is no member of the room");
    Reject::new(ErrorCode::NoSuchMember, message)
}

pub(crate) fn not_a_member() -> Reject {
    Reject::new(ErrorCode::NotAMember, "you are no member of the room")
}

/// How often an entry is proposed anew because the room had changed.
const ATTEMPTS_MAX: usize = 16;
