//! What members say to each other through the node: handed over within the call that brought it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tombolo_wire::v1::{self, DeviceKeys, ErrorCode, Introduction, server_frame};
use tombolo_wire::{
    CANDIDATES_MAX, EARLY_BYTES_MAX, RECIPIENTS_MAX, RELIABLE_BYTES_MAX, RoomId,
    UNRELIABLE_BYTES_MAX, UserId,
};

use crate::host::{Host, State};
use crate::node::Node;
use crate::reject::Reject;
use crate::requests;
use crate::session::Session;

/// Hands a message to members. Those that are not there are named in a refusal; the others get it.
pub(crate) fn handle_send(
    node: &Arc<Node>,
    session: &Arc<Session>,
    seq: u64,
    send: &v1::Send,
    now: Instant,
) {
    if let Err(reject) = forward_message(node, session, seq, send, now) {
        node.refuse(session, seq, reject);
    }
}

/// Hands an introduction to a member, under the sender's true keys, once the relay lets both reach
/// each other.
pub(crate) fn handle_introduce(
    node: &Arc<Node>,
    session: &Arc<Session>,
    seq: u64,
    introduce: v1::Introduce,
    now: Instant,
) {
    if let Err(reject) = forward_introduction(node, session, introduce, now) {
        node.refuse(session, seq, reject);
    }
}

fn forward_message(
    node: &Arc<Node>,
    session: &Arc<Session>,
    seq: u64,
    send: &v1::Send,
    now: Instant,
) -> Result<(), Reject> {
    let bytes_max = if seq == 0 {
        UNRELIABLE_BYTES_MAX
    } else {
        RELIABLE_BYTES_MAX
    };
    if send.payload.len() > bytes_max {
        return Err(too_large("payload", bytes_max));
    }
    if send.to.len() > RECIPIENTS_MAX {
        let message = format!("a message has at most {RECIPIENTS_MAX} recipients");
        return Err(Reject::new(ErrorCode::Limit, message));
    }
    check_rate(session, send.payload.len(), now)?;
    let host = host_of(session, &send.room)?;
    let state = member_state(&host, session)?;

    let (recipients, absent) = recipients(&state, session, &send.to)?;
    let (frames, bytes) = (recipients.len(), recipients.len() * send.payload.len());
    if !session.account().deliveries.take(now, frames, bytes) {
        return Err(Reject::new(ErrorCode::Limit, "too much to too many"));
    }
    let delivery = server_frame::Body::Delivery(v1::Delivery {
        room: send.room.clone(),
        from: session.user.to_string(),
        payload: send.payload.clone(),
    });
    let mut refused = absent.map(no_such_member);
    for recipient in recipients {
        if seq == 0 {
            node.push_unreliable(recipient, delivery.clone());
        } else if let Err(behind) = node.push_from_peer(recipient, delivery.clone()) {
            refused.get_or_insert(behind);
            continue;
        }
        node.counters.delivered.add(1);
    }
    refused.map_or(Ok(()), Err)
}

/// The sessions that are to get a message, and the first of those named that is no member.
fn recipients<'a>(
    state: &'a State,
    sender: &Session,
    to: &'a [String],
) -> Result<(Vec<&'a Arc<Session>>, Option<&'a str>), Reject> {
    if to.is_empty() {
        let others = state
            .sessions()
            .filter(|(_, session)| session.id != sender.id);
        return Ok((others.map(|(_, session)| session).collect(), None));
    }
    let mut sessions = Vec::with_capacity(to.len());
    let mut absent = None;
    for name in BTreeSet::from_iter(to) {
        let user = UserId::parse(name).map_err(|error| Reject::new(error.code(), error))?;
        match state.session(&user) {
            Some(session) => sessions.push(session),
            None => absent = absent.or(Some(name.as_str())),
        }
    }
    Ok((sessions, absent))
}

fn forward_introduction(
    node: &Arc<Node>,
    session: &Arc<Session>,
    introduce: v1::Introduce,
    now: Instant,
) -> Result<(), Reject> {
    let bad_frame = |message: &str| Reject::new(ErrorCode::BadFrame, message);
    let mut introduction = introduce
        .introduction
        .ok_or_else(|| bad_frame("there is nothing to hand over"))?;
    check_introduction(&introduction)?;
    check_rate(session, introduction.early.len(), now)?;
    if !session.account().introductions.take(now, 1) {
        return Err(Reject::new(ErrorCode::Limit, "too many introductions"));
    }
    let to = UserId::parse(&introduce.to).map_err(|error| Reject::new(error.code(), error))?;

    let host = host_of(session, &introduce.room)?;
    let recipient = {
        let state = member_state(&host, session)?;
        let recipient = state
            .session(&to)
            .filter(|recipient| recipient.id != session.id);
        recipient
            .cloned()
            .ok_or_else(|| no_such_member(to.as_str()))?
    };

    // What the relay must let through before either side can send: the packets come from a relay of
    // the node's, whichever of the two allocations they leave by. The introduction itself has no say
    // in this: who is let in to whom must not be for others to choose.
    let relay_ips = node.relay.relay_ips();
    node.relay.permit(&recipient.user, &relay_ips);
    node.relay.permit(&session.user, &relay_ips);

    introduction.keys = Some(DeviceKeys::from(&session.keys));
    let introduced = v1::Introduced {
        room: introduce.room,
        from: session.user.to_string(),
        introduction: Some(introduction),
    };
    node.push_from_peer(&recipient, server_frame::Body::Introduced(introduced))?;
    node.counters.introduced.add(1);
    Ok(())
}

fn check_introduction(introduction: &Introduction) -> Result<(), Reject> {
    if introduction.attempt == 0 {
        return Err(Reject::new(ErrorCode::BadFrame, "an attempt is not zero"));
    }
    if introduction.early.len() > EARLY_BYTES_MAX {
        return Err(too_large("early message", EARLY_BYTES_MAX));
    }
    if introduction.candidates.len() > CANDIDATES_MAX {
        let message = format!("an introduction has at most {CANDIDATES_MAX} candidates");
        return Err(Reject::new(ErrorCode::Limit, message));
    }
    // RFC 8839 §5.4 bounds both.
    if introduction.ufrag.len() > CREDENTIAL_BYTES_MAX
        || introduction.password.len() > CREDENTIAL_BYTES_MAX
    {
        return Err(too_large("credential", CREDENTIAL_BYTES_MAX));
    }
    for candidate in &introduction.candidates {
        candidate
            .socket_addr()
            .map_err(|error| Reject::new(error.code(), error))?;
    }
    Ok(())
}

fn host_of(session: &Session, room: &str) -> Result<Arc<Host>, Reject> {
    let room = RoomId::parse(room).map_err(|error| Reject::new(error.code(), error))?;
    session
        .lock()
        .host_by_room
        .get(&room)
        .cloned()
        .ok_or_else(requests::not_a_member)
}

/// The room as it is while its sender is a member.
fn member_state<'a>(
    host: &'a Host,
    session: &Session,
) -> Result<std::sync::MutexGuard<'a, State>, Reject> {
    let state = host.lock();
    if state.is_member(session) {
        Ok(state)
    } else {
        Err(requests::not_a_member())
    }
}

fn check_rate(session: &Session, bytes: usize, now: Instant) -> Result<(), Reject> {
    if session.account().rate.take(now, 1, bytes) {
        Ok(())
    } else {
        Err(Reject::new(ErrorCode::Limit, "too much at once"))
    }
}

fn too_large(what: &str, bytes_max: usize) -> Reject {
    Reject::new(
        ErrorCode::TooLarge,
        format!("{what} is above the limit of {bytes_max} bytes"),
    )
}

fn no_such_member(user: &str) -> Reject {
    Reject::new(
        ErrorCode::NoSuchMember,
        format!("{user} is no member of the room"),
    )
}

/// RFC 8839 §5.4.
const CREDENTIAL_BYTES_MAX: usize = 256;
