//! What members want of a room, beyond coming and going.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tombolo_engine::Expect;
use tombolo_room::{Act, Actor, Body, Entry, Illegal, Made, OperationId, SessionId, Time};
use tombolo_wire::v1::{self, ErrorCode, response};
use tombolo_wire::{RoomId, UserId};

use super::{Host, Plan, news};
use crate::node::Node;
use crate::reject::Reject;
use crate::requests;
use crate::session::Session;

/// What a member wants, under its name.
pub(crate) struct NamedAct {
    pub(crate) operation: OperationId,
    /// When it was wanted first, by the room's clock.
    pub(crate) time: Time,
    pub(crate) act: Act,
}

impl Host {
    /// Answers an act that came before, under the same name, if it did.
    pub(crate) fn answer_again(
        &self,
        node: &Arc<Node>,
        session: &Arc<Session>,
        request: u64,
        operation: &OperationId,
    ) -> Option<Result<(), Reject>> {
        let state = self.lock();
        let done = state.room.what_became(operation)?;
        Some(done.map_err(reject).map(|made| {
            node.push(session, requests::answer(request, acted(made)));
        }))
    }

    /// Decides about an act, which is carried out once however often it is tried.
    pub(crate) fn plan_act(
        self: &Arc<Self>,
        node: &Arc<Node>,
        session: &Arc<Session>,
        request: u64,
        named: &NamedAct,
    ) -> Result<Plan, Reject> {
        if let Some(done) = self.answer_again(node, session, request, &named.operation) {
            return done.map(|()| Plan::Done);
        }
        let mut state = self.lock();
        if !state.is_member(session) {
            return Err(requests::not_a_member());
        }
        let actor = Actor::Member {
            user: session.user.clone(),
            session: session.id,
        };
        let entry = Entry {
            operation: named.operation,
            time: named.time,
            node: Some(node.name().clone()),
            incarnation: node.incarnation(),
            body: Body::Act {
                actor,
                act: named.act.clone(),
            },
        };
        Ok(self.propose_entry(&mut state, session, request, &entry, Expect::Any))
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
        Illegal::Kicked => ErrorCode::Kicked,
        Illegal::Open => ErrorCode::RoomExists,
        Illegal::Closed => ErrorCode::NoSuchRoom,
        Illegal::NotMember => ErrorCode::NotAMember,
        Illegal::Stale => ErrorCode::Replaced,
        Illegal::NotOwner => ErrorCode::NotOwner,
        Illegal::NoSuch => ErrorCode::NoSuchThing,
        Illegal::Conflict | Illegal::NotInteger | Illegal::Member | Illegal::Repeated => {
            ErrorCode::Conflict
        }
        Illegal::Unsure => ErrorCode::Unsure,
        Illegal::Settings | Illegal::Limit => ErrorCode::Limit,
        // The node was given up for lost, or is of an older release: another one will do.
        Illegal::NodeLost | _ => ErrorCode::Unavailable,
    };
    Reject::new(code, illegal)
}

/// Follows from who asks and the request, so that it is the same when the request is tried again.
pub(crate) fn operation_of(session: SessionId, request: u64) -> OperationId {
    let mut id = session.0;
    for (byte, number) in id[8..].iter_mut().zip(request.to_be_bytes()) {
        *byte ^= number;
    }
    OperationId(id)
}

/// Follows from a device's name for what it asks, and from its user, lest others take the name.
pub(crate) fn operation_named(user: &UserId, room: &RoomId, name: &[u8]) -> OperationId {
    let mut digest = Sha256::new();
    for part in [user.as_str().as_bytes(), room.as_str().as_bytes(), name] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let digest: [u8; 32] = digest.finalize().into();
    OperationId(std::array::from_fn(|at| digest[at]))
}
