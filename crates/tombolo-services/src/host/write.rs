//! What is put to a room's log: joins, leaves, and what has to be there in the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tombolo_engine::{AppendError, Expect, Offset, Purpose};
use tombolo_room::{Act, Actor, Body, Entry, LeftReason, Membership, Room, RoomCode, SessionId};
use tombolo_wire::UserId;
use tombolo_wire::v1::ErrorCode;

use super::{Coming, Host, Pending, Plan, Proposal, State, Wish, reject};
use crate::entropy::NoEntropy;
use crate::node::Node;
use crate::reject::Reject;
use crate::requests::{self, Join, Mode, Place};
use crate::session::Session;

impl Host {
    /// Decides about a join by what is known of the room.
    pub(crate) fn plan_join(
        self: &Arc<Self>,
        node: &Arc<Node>,
        session: &Arc<Session>,
        request: u64,
        join: &Join,
        mode: Mode,
        code: Option<RoomCode>,
    ) -> Result<Plan, Reject> {
        let mut state = self.lock();
        if let Place::Coded(code) = join.place
            && state.room.code() != Some(code)
        {
            return Err(requests::no_such_room());
        }
        let user = session.user.clone();
        let membership = Membership {
            session: session.id,
            keys: session.keys,
            node: node.name().clone(),
            incarnation: node.incarnation(),
            life: session.life,
        };
        let is_known = state.room.membership(&user).is_some();
        let (body, expect) = match (state.room.is_open(), mode) {
            (true, Mode::Create) => {
                return Err(requests::room_exists());
            }
            (false, Mode::Join) => {
                return Err(requests::no_such_room());
            }
            (false, Mode::Create | Mode::JoinOrCreate) => {
                let expect = state.cursor.map_or(Expect::Empty, Expect::Last);
                let body = Body::Created {
                    settings: join.settings.clone(),
                    first: Some(join.entering(user, membership)),
                    properties: join.room_properties.clone(),
                    reserve: join.reserve.clone(),
                    code,
                };
                (body, expect)
            }
            (true, _) if state.is_member(session) => {
                self.welcome(node, &state, session, request, join.wish, Coming::Back);
                return Ok(Plan::Done);
            }
            (true, _) if state.is_key_taken(&user, &session.keys) => {
                return Err(requests::key_taken());
            }
            (true, Mode::Join | Mode::JoinOrCreate) => {
                let entering = join.entering(user.clone(), membership);
                let is_too_full = !is_known && state.is_too_full(&user);
                // What is known to be refused is not written down.
                match state.room.admits(&entering) {
                    Err(illegal) if !is_too_full || join.returns_to.is_some() => {
                        return Err(reject(illegal));
                    }
                    _ if is_too_full => return Err(requests::room_full()),
                    _ => (Body::Joined(entering), Expect::Any),
                }
            }
        };
        let plan = self.propose(node, &mut state, session, request, body, expect)?;
        if let Plan::Append(proposal) = &plan
            && let Some(pending) = state.pending_by_operation.get_mut(&proposal.operation)
        {
            pending.wish = join.wish;
        }
        Ok(plan)
    }

    /// Decides about a leave.
    pub(crate) fn plan_leave(
        self: &Arc<Self>,
        node: &Node,
        session: &Arc<Session>,
        request: u64,
    ) -> Result<Plan, Reject> {
        let mut state = self.lock();
        if !state.is_member(session) {
            return Err(requests::not_a_member());
        }
        let (user, id) = (session.user.clone(), session.id);
        let body = Body::Left {
            user,
            session: id,
            reason: LeftReason::Left,
        };
        self.propose(node, &mut state, session, request, body, Expect::Any)
    }

    fn propose(
        self: &Arc<Self>,
        node: &Node,
        state: &mut State,
        session: &Arc<Session>,
        request: u64,
        body: Body,
        expect: Expect,
    ) -> Result<Plan, Reject> {
        let operation = node
            .config
            .entropy
            .operation_id()
            .map_err(|NoEntropy| Reject::new(ErrorCode::Unavailable, "no entropy"))?;
        let entry = Entry {
            operation,
            time: state.time(node),
            node: Some(node.name().clone()),
            incarnation: node.incarnation(),
            body,
        };
        Ok(self.propose_entry(state, session, request, &entry, expect))
    }

    pub(super) fn propose_entry(
        self: &Arc<Self>,
        state: &mut State,
        session: &Arc<Session>,
        request: u64,
        entry: &Entry,
        expect: Expect,
    ) -> Plan {
        let operation = entry.operation;
        let (sender, outcome) = oneshot::channel();
        let pending = Pending {
            session: Arc::clone(session),
            request,
            is_going: matches!(entry.body, Body::Left { .. }),
            wish: Wish::default(),
            outcome: sender,
        };
        state.pending_by_operation.insert(operation, pending);
        Plan::Append(Proposal {
            host: Arc::clone(self),
            entry: entry.encode(),
            purpose: purpose(&state.room, &entry.body),
            expect,
            operation,
            outcome,
            progress: self.progress.subscribe(),
        })
    }

    /// Has a session leave, however long it takes the engine to take it in.
    pub(crate) async fn leave(
        &self,
        node: &Node,
        user: &UserId,
        session: SessionId,
        reason: LeftReason,
    ) {
        let body = Body::Left {
            user: user.clone(),
            session,
            reason,
        };
        // What was kept of a life that is over is not for this node to give away.
        let Some(epoch) = node.cluster.epoch() else {
            return;
        };
        let is_wanted = || node.cluster.epoch() == Some(epoch);
        self.append_while(node, body, Expect::Any, is_wanted).await;
    }

    /// Appends, however long it takes the engine to take it in; `None` without entropy.
    pub(crate) async fn append_for_sure(&self, node: &Node, body: Body) -> Option<Offset> {
        self.append_while(node, body, Expect::Any, || true).await
    }

    /// The same for as long as it is wanted, and the log is as expected.
    pub(super) async fn append_while(
        &self,
        node: &Node,
        body: Body,
        expect: Expect,
        is_wanted: impl Fn() -> bool,
    ) -> Option<Offset> {
        let operation = node.config.entropy.operation_id().ok()?;
        let (time, purpose) = {
            let state = self.lock();
            (state.time(node), purpose(&state.room, &body))
        };
        let entry = Entry {
            operation,
            time,
            node: Some(node.name().clone()),
            incarnation: node.incarnation(),
            body,
        }
        .encode();
        let operation = tombolo_engine::OperationId(operation.0);
        let mut delay = APPEND_DELAY_MIN;
        while is_wanted() {
            // A repeated entry counts once, so "unknown" is repeated like "unavailable".
            let (engine, entry) = (&node.engine, entry.clone());
            let append = engine.append(&self.key, entry, purpose, expect, operation);
            match append.await {
                Ok(at) => return Some(at),
                Err(AppendError::Conflict) => return None,
                Err(_) => {}
            }
            tokio::time::sleep(delay).await;
            delay = (2 * delay).min(APPEND_DELAY_MAX);
        }
        None
    }
}

/// Whether something ends by an entry of a room's log, as far as is known of the room: what changes nothing has no claim to
/// the place that is left to those.
pub(super) fn purpose(room: &Room, body: &Body) -> Purpose {
    let is_end = match body {
        Body::Dropped { .. }
        | Body::Left { .. }
        | Body::NodeLost { .. }
        | Body::Ticked
        | Body::Forgotten => true,
        Body::Act { actor, act } => {
            let is_allowed = match actor {
                Actor::Server => true,
                Actor::Member { user, .. } => room.owner() == Some(user),
            };
            let is_in = |user: &UserId| room.member(user).is_some();
            let ends = matches!(act, Act::Close)
                || matches!(act, Act::Kick(user) | Act::Ban { user, .. } if is_in(user));
            is_allowed && ends
        }
        // Who is a member comes back to its seat, and takes no more place than before.
        Body::Joined(join) => room.member(&join.user).is_some(),
        Body::Returned { user, .. } => room.member(user).is_some(),
        Body::Created { .. } => false,
    };
    if is_end { Purpose::End } else { Purpose::More }
}

/// Between two attempts to append, at first.
const APPEND_DELAY_MIN: Duration = Duration::from_millis(50);

/// Between two attempts to append, at last.
const APPEND_DELAY_MAX: Duration = Duration::from_secs(5);
