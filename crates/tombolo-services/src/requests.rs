//! What a device asks for and is answered by a `Response`: joins, leaves, acts, ICE servers.

pub(crate) mod backlog;
mod find;
mod parse;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tombolo_engine::AppendError;
use tombolo_room::{
    Act, Audience, Change, Illegal, Membership, OperationId, Password, Query, Reserve, RoomCode,
    Settings,
};
use tombolo_wire::v1::{self, ErrorCode, response, server_frame};
use tombolo_wire::{RoomId, UserId};

use crate::catalogue::Choice;
use crate::field::{self, FieldIntroduction, FieldRequest};
use crate::hooks::{DeviceCommand, JoinQuestion, MemberMessage};
use crate::host::{self, Host, NamedAct, Outcome, Plan, Proposal, Wish};
use crate::matchmaker::{self, MatchmakerRequest};
use crate::node::Node;
use crate::patience::Late;
use crate::reject::Reject;
use crate::session::Session;
use crate::social::{self, SocialRequest};
use backlog::{Added, Next};
pub(crate) use parse::check_members_max;

/// What takes the engine to carry out. A session's are carried out in order.
pub(crate) enum Request {
    Join {
        id: u64,
        join: Box<Join>,
    },
    Leave {
        id: u64,
        room: RoomId,
    },
    Act {
        id: u64,
        wanted: Box<WantedAct>,
    },
    Find {
        id: u64,
        query: Box<Query>,
    },
    /// Which room has a code.
    Resolve {
        id: u64,
        code: RoomCode,
    },
    Social {
        id: u64,
        request: SocialRequest,
    },
    Command {
        id: u64,
        command: Box<DeviceCommand>,
    },
    Matchmaker {
        id: u64,
        request: Box<MatchmakerRequest>,
    },
    Field {
        id: u64,
        request: FieldRequest,
    },
    /// To an entity of a field.
    Introduce {
        /// The number of its frame.
        seq: u64,
        introduction: Box<FieldIntroduction>,
    },
}

/// An act that was found to be in order.
#[derive(Clone, Debug)]
pub(crate) struct WantedAct {
    room: RoomId,
    act: Act,
    /// How long the request was: what members are told is about as long.
    bytes: usize,
    /// By which it is known when it is asked for again; `None` when the device has not named it.
    operation: Option<OperationId>,
    /// Since it was asked for first.
    wanted_for: Duration,
}

/// A join that was found to be in order.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    pub(crate) place: Place,
    pub(crate) mode: Mode,
    /// How the room behaves if it is created.
    pub(crate) settings: Settings,
    pub(crate) room_properties: Vec<Change>,
    pub(crate) reserve: Option<Reserve>,
    /// What the device shows if the room is there and asks.
    pub(crate) password: Option<Password>,
    member_properties: Vec<Change>,
    reachability: u32,
    /// The opening that the device comes back to.
    pub(crate) returns_to: Option<OperationId>,
    pub(crate) wish: Wish,
    /// A room that is created gets a short code.
    with_code: bool,
}

/// Which room is to be joined.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Named(RoomId),
    Coded(RoomCode),
    /// One that is looked for.
    Found {
        query: Query,
        choice: Choice,
        /// Of the room that is made when none is found.
        name: Option<RoomId>,
    },
}

impl Place {
    /// The name of the room, or of the one that may be made.
    fn name(&self) -> Option<&RoomId> {
        match self {
            Self::Named(room) => Some(room),
            Self::Coded(_) => None,
            Self::Found { name, .. } => name.as_ref(),
        }
    }
}

impl Join {
    /// What the log is told of the user that comes in.
    pub(crate) fn entering(&self, user: UserId, membership: Membership) -> tombolo_room::Join {
        tombolo_room::Join {
            reachability: self.reachability,
            password: self.password,
            properties: self.member_properties.clone(),
            returns_to: self.returns_to,
            ..tombolo_room::Join::new(user, membership)
        }
    }
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
    let result = parse::parse(node, session, request, now).and_then(|request| {
        let Some(request) = request else {
            return Ok(());
        };
        enqueue(node, session, request)
    });
    if let Err(reject) = result {
        fail(node, session, id, reject);
    }
}

/// Has something carried out after what the session's device has asked for before.
pub(crate) fn enqueue(
    node: &Arc<Node>,
    session: &Arc<Session>,
    request: Request,
) -> Result<(), Reject> {
    let mut state = session.lock();
    let added = state.backlog.add(request, node.config.requests_max);
    if matches!(added, Added::First | Added::Waits) {
        session.pending.fetch_add(1, Ordering::Relaxed);
    }
    drop(state);
    match added {
        Added::First => {
            let (node, session) = (Arc::clone(node), Arc::clone(session));
            node.runtime.clone().spawn(async move {
                let work = run(Arc::clone(&node), Arc::clone(&session));
                node.run_for(&session, work).await;
            });
            Ok(())
        }
        Added::Full => Err(Reject::new(ErrorCode::Limit, "too many requests wait")),
        Added::Waits | Added::Closed => Ok(()),
    }
}

/// Carries out a session's requests until there is nothing left to do for it.
async fn run(node: Arc<Node>, session: Arc<Session>) {
    let mut open = social::Open::default();
    loop {
        let next = session.lock().backlog.next(!open.is_empty());
        let request = match next {
            Next::Request(request) => request,
            Next::Wait(wake) => {
                wake.notified().await;
                continue;
            }
            Next::Over => return,
        };
        let (id, result) = match request {
            Request::Join { id, join } => (id, carry_out_join(&node, &session, id, &join).await),
            Request::Leave { id, room } => (id, carry_out_leave(&node, &session, id, &room).await),
            Request::Act { id, wanted } => (id, carry_out_act(&node, &session, id, *wanted).await),
            Request::Find { id, query } => {
                let result = find::carry_out_find(&node, &session, id, *query).await;
                (id, result)
            }
            Request::Resolve { id, code } => {
                let result = find::carry_out_resolve(&node, &session, id, code).await;
                (id, result)
            }
            Request::Social { id, request } => {
                let carry_out = social::carry_out(&node, &session, id, request, &mut open);
                (id, carry_out.await)
            }
            Request::Command { id, command } => {
                (id, carry_out_command(&node, &session, id, *command).await)
            }
            Request::Matchmaker { id, request } => {
                let carry_out = matchmaker::carry_out(&node, &session, id, *request);
                (id, carry_out.await)
            }
            Request::Field { id, request } => {
                (id, field::carry_out(&node, &session, id, request).await)
            }
            Request::Introduce { seq, introduction } => {
                field::introduce(&node, &session, seq, *introduction).await;
                // It has no answer.
                (0, Ok(()))
            }
        };
        if let Err(reject) = result {
            fail(&node, &session, id, reject);
        }
        session.pending.fetch_sub(1, Ordering::Release);
    }
}

async fn carry_out_command(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    command: DeviceCommand,
) -> Result<(), Reject> {
    let payload = node.answer_command(command).await?;
    let reply = response::Result::Command(v1::CommandReply { payload });
    node.push(session, answer(id, reply));
    Ok(())
}

async fn carry_out_join(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    join: &Join,
) -> Result<(), Reject> {
    match &join.place {
        Place::Named(room) => carry_out_join_of(node, session, id, join, room, join.mode).await,
        Place::Coded(code) => find::carry_out_join_by(node, session, id, join, *code).await,
        Place::Found {
            query,
            choice,
            name,
        } => {
            let find = find::Find {
                query,
                choice: *choice,
                name: name.as_ref(),
            };
            find.carry_out_join(node, session, id, join).await
        }
    }
}

/// Appends until the room's log has taken it in one way or the other.
async fn carry_out_join_of(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    join: &Join,
    room: &RoomId,
    mode: Mode,
) -> Result<(), Reject> {
    let rooms_max = node.config.rooms_per_session_max;
    let is_full = |state: &crate::session::State| {
        state.host_by_room.len() >= rooms_max && !state.host_by_room.contains_key(room)
    };
    if is_full(&session.lock()) {
        return Err(Reject::new(
            ErrorCode::Limit,
            "the session is in as many rooms as it may",
        ));
    }
    let entrance = node.enter(room)?;
    let host = entrance.host();
    let mut is_paid = false;
    for _ in 0..ATTEMPTS_MAX {
        let allowed = authorize(node, session, join, host, mode).await?;
        host.ready(node).await?;
        if allowed != Mode::Join && !host.is_open() && !is_paid {
            pay_for_opening(session)?;
            is_paid = true;
        }
        let open = async |code| join_host(node, session, id, join, host, allowed, code).await;
        let joined = match join.with_code && allowed != Mode::Join && !host.is_open() {
            true => host.open_with_code(node, open).await,
            false => open(None).await,
        };
        // The room opened or closed since the game was asked.
        let is_void = |reject: &Reject| {
            mode != allowed && matches!(reject.code, ErrorCode::RoomExists | ErrorCode::NoSuchRoom)
        };
        if !joined.as_ref().is_err_and(is_void) {
            return joined;
        }
    }
    Err(Reject::new(
        ErrorCode::Unavailable,
        "the room changes too fast",
    ))
}

/// A room stays for as long as its settings say, whether anybody is in it or not.
fn pay_for_opening(session: &Session) -> Result<(), Reject> {
    let now = tokio::time::Instant::now().into_std();
    match session.account().opens.take(now, 1) {
        true => Ok(()),
        false => Err(Reject::new(ErrorCode::Limit, "too many new rooms")),
    }
}

/// Asks the game, if it wants to be asked, and returns what it allows: to open the room, or to come in.
async fn authorize(
    node: &Node,
    session: &Session,
    join: &Join,
    host: &Host,
    mode: Mode,
) -> Result<Mode, Reject> {
    if !node.config.hooks.is_there() {
        return Ok(mode);
    }
    host.synced(node).await?;
    let settings = host.settings();
    let (allowed, settings) = match (mode, settings) {
        (Mode::Create, Some(_)) => return Err(room_exists()),
        (Mode::Join, None) => return Err(no_such_room()),
        (Mode::Join | Mode::JoinOrCreate, Some(settings)) => (Mode::Join, settings),
        (Mode::Create | Mode::JoinOrCreate, None) => (Mode::Create, join.settings.clone()),
    };
    let question = JoinQuestion {
        user: session.user.clone(),
        room: host.room().clone(),
        is_opening: allowed == Mode::Create,
        settings,
    };
    node.authorize_join(question).await?;
    Ok(allowed)
}

async fn join_host(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    join: &Join,
    host: &Arc<Host>,
    mode: Mode,
    code: Option<RoomCode>,
) -> Result<(), Reject> {
    for _ in 0..ATTEMPTS_MAX {
        let proposal = match host.plan_join(node, session, id, join, mode, code)? {
            Plan::Done => return Ok(()),
            Plan::Append(proposal) => proposal,
        };
        match propose(node, proposal).await? {
            Outcome::Done => return Ok(()),
            // The room opened or closed in between: look again.
            Outcome::Illegal(
                Illegal::Open | Illegal::Closed | Illegal::Member | Illegal::Repeated,
            )
            | Outcome::Again => {}
            Outcome::Illegal(illegal) => return Err(host::reject(illegal)),
            Outcome::Unsure => return Err(no_answer()),
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
            Outcome::Unsure => return Err(no_answer()),
        }
    }
    Err(Reject::new(
        ErrorCode::Unavailable,
        "the room changes too fast",
    ))
}

async fn carry_out_act(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    wanted: WantedAct,
) -> Result<(), Reject> {
    let WantedAct { room, bytes, .. } = wanted;
    let host = session.lock().host_by_room.get(&room).cloned();
    let host = host.ok_or_else(not_a_member)?;
    let operation = wanted.operation;
    let operation = operation.unwrap_or_else(|| host::operation_of(session.id, id));
    if let Some(done) = host.answer_again(node, session, id, &operation) {
        return done;
    }
    if host.lock().may_have_forgotten(node, wanted.wanted_for) {
        return Err(unsure());
    }
    let (told, now) = (host.members(), tokio::time::Instant::now().into_std());
    if !session.account().deliveries.take(now, told, told * bytes) {
        return Err(Reject::new(ErrorCode::Limit, "too much to too many"));
    }
    let changed = changed_by_game(node, session, &room, &wanted.act)?;
    let named = NamedAct {
        operation,
        time: host.lock().time(node).before(wanted.wanted_for),
        act: changed.unwrap_or(wanted.act),
    };
    let mut is_unsure = false;
    for _ in 0..ATTEMPTS_MAX {
        let tried = match host.plan_act(node, session, id, &named) {
            Ok(Plan::Done) => return Ok(()),
            Ok(Plan::Append(proposal)) => propose(node, proposal).await,
            Err(reject) => Err(reject),
        };
        match tried {
            Ok(Outcome::Done) => return Ok(()),
            // It was written twice; the room knows what became of the first.
            Ok(Outcome::Illegal(Illegal::Repeated)) => {}
            Ok(Outcome::Again) => is_unsure = true,
            Ok(Outcome::Illegal(illegal)) => return Err(host::reject(illegal)),
            Ok(Outcome::Unsure) => return Err(unsure()),
            Err(_) if is_unsure => return Err(unsure()),
            Err(reject) => return Err(reject),
        }
    }
    Err(unsure())
}

/// What the game's own code makes of something durable that is said, if it changes it.
fn changed_by_game(
    node: &Node,
    session: &Session,
    room: &RoomId,
    act: &Act,
) -> Result<Option<Act>, Reject> {
    let Act::Say { audience, payload } = act else {
        return Ok(None);
    };
    let (to, group) = match audience {
        Audience::Users(users) => (users.iter().map(ToString::to_string).collect(), None),
        Audience::Group(group) => (Vec::new(), Some(group.0)),
        Audience::All | Audience::Others => (Vec::new(), None),
    };
    let message = MemberMessage {
        room,
        from: &session.user,
        to: &to,
        group,
        payload,
        is_durable: true,
    };
    let changed = node.check_message(&message, tombolo_room::PAYLOAD_BYTES_MAX)?;
    Ok(changed.map(|payload| Act::Say {
        audience: audience.clone(),
        payload,
    }))
}

/// Appends a planned entry and waits until it has been applied here.
async fn propose(node: &Node, mut proposal: Proposal) -> Result<Outcome, Reject> {
    let unavailable = |message: &str| Reject::new(ErrorCode::Unavailable, message);
    if node.cluster.is_out() {
        return Err(unavailable("this node is not part of its cluster"));
    }
    let append = node.engine.append(
        proposal.host.key(),
        proposal.entry.clone(),
        proposal.purpose,
        proposal.expect,
        tombolo_engine::OperationId(proposal.operation.0),
    );
    match node.written(append).await {
        // Whether it was written or not, the log will tell.
        Ok(Ok(_) | Err(AppendError::Unknown)) | Err(Late::Slow) => {}
        Err(Late::Away) => return Ok(Outcome::Unsure),
        Ok(Err(AppendError::Conflict)) => {
            // Somebody else was faster: look again once this node has seen it, too.
            let _ = node.within(proposal.progress.changed()).await;
            return Ok(Outcome::Again);
        }
        Ok(Err(error)) => return Err(unavailable(&error.to_string())),
    }
    match node.within(&mut proposal.outcome).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(_)) | Err(_) => Ok(Outcome::Unsure),
    }
}

/// Of what does no harm when it is asked for again: nobody knows whether it was done.
pub(crate) fn no_answer() -> Reject {
    Reject::new(ErrorCode::Unavailable, "the engine does not answer")
}

pub(crate) fn unsure() -> Reject {
    let message = "the engine does not say whether it was done";
    Reject::new(ErrorCode::Unsure, message)
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

pub(crate) fn no_such_room() -> Reject {
    Reject::new(ErrorCode::NoSuchRoom, "there is no such room")
}

pub(crate) fn room_exists() -> Reject {
    Reject::new(ErrorCode::RoomExists, "the room exists")
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

/// A member's session is over, and only its seat is kept.
pub(crate) fn nothing_kept() -> Reject {
    let message = "a member is away, and nothing is kept for it until it has joined again";
    Reject::new(ErrorCode::Unavailable, message)
}

pub(crate) fn not_a_member() -> Reject {
    Reject::new(ErrorCode::NotAMember, "you are no member of the room")
}

/// How often an entry is proposed anew because the room had changed.
const ATTEMPTS_MAX: usize = 16;
