//! What members want of a room, beyond coming and going.

use std::sync::Arc;

use tombolo_engine::Expect;
use tombolo_room::{Act, Actor, Body, Illegal, Made, OperationId, SessionId};
use tombolo_wire::v1::{self, ErrorCode, response};

use super::{Host, Plan, news};
use crate::node::Node;
use crate::reject::Reject;
use crate::requests;
use crate::session::Session;

impl Host {
    /// Decides about an act. It has the same name however often it is tried, so that it is carried
    /// out once.
    pub(crate) fn plan_act(
        self: &Arc<Self>,
        node: &Arc<Node>,
        session: &Arc<Session>,
        request: u64,
        act: &Act,
    ) -> Result<Plan, Reject> {
        let mut state = self.lock();
        if !state.is_member(session) {
            return Err(requests::not_a_member());
        }
        let operation = operation_of(session.id, request);
        match state.room.was_legal(&operation) {
            Some(true) => {
                let acted = acted(state.room.made_by(&operation));
                node.push(session, requests::answer(request, acted));
                return Ok(Plan::Done);
            }
            Some(false) => {
                let message = "it was refused when it was tried before";
                return Err(Reject::new(ErrorCode::Conflict, message));
            }
            None => {}
        }
        let actor = Actor::Member {
            user: session.user.clone(),
            session: session.id,
        };
        let act = act.clone();
        let body = Body::Act { actor, act };
        self.propose_as(
            operation,
            node,
            &mut state,
            session,
            request,
            body,
            Expect::Any,
        )
    }

    /// The durable messages that a member may see.
    pub(crate) fn history(
        &self,
        session: &Session,
        before: u64,
        limit: u32,
    ) -> Result<v1::History, Reject> {
        let state = self.lock();
        if !state.is_member(session) {
            return Err(requests::not_a_member());
        }
        Ok(news::history(&state.room, &session.user, before, limit))
    }
}

/// What is answered to an act that was carried out.
pub(super) fn acted(made: Made) -> response::Result {
    response::Result::Acted(v1::Acted {
        object: made.object.map_or(0, |object| object.0),
        message: made.message.unwrap_or_default(),
    })
}

/// Why an entry changed nothing, in the words of the contract.
pub(crate) fn reject(illegal: Illegal) -> Reject {
    let code = match illegal {
        Illegal::Full => ErrorCode::RoomFull,
        Illegal::Locked => ErrorCode::RoomLocked,
        Illegal::Password => ErrorCode::WrongPassword,
        Illegal::Banned => ErrorCode::Banned,
        Illegal::Open => ErrorCode::RoomExists,
        Illegal::Closed => ErrorCode::NoSuchRoom,
        Illegal::NotMember => ErrorCode::NotAMember,
        Illegal::Stale => ErrorCode::Replaced,
        Illegal::NotOwner => ErrorCode::NotOwner,
        Illegal::NoSuch => ErrorCode::NoSuchThing,
        Illegal::Conflict
        | Illegal::NotInteger
        | Illegal::Member
        | Illegal::Repeated
        | Illegal::Unsure => ErrorCode::Conflict,
        Illegal::Settings | Illegal::Limit => ErrorCode::Limit,
        // The node was given up for lost, or is of an older release: another one will do.
        Illegal::NodeLost | _ => ErrorCode::Unavailable,
    };
    Reject::new(code, illegal)
}

/// Follows from who asks and the request, so that it is the same when the request comes again.
fn operation_of(session: SessionId, request: u64) -> OperationId {
    let mut id = session.0;
    for (byte, number) in id[8..].iter_mut().zip(request.to_be_bytes()) {
        *byte ^= number;
    }
    OperationId(id)
}
