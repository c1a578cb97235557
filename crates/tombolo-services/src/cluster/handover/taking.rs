//! A session that another node has given goes on here: it is installed, its rooms are told, and what
//! comes for it from the node that had it is taken.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tombolo_room::{LeftReason, SessionId};
use tombolo_wire::v1::{ErrorCode, ServerFrame, server_frame};
use tombolo_wire::{NodeId, RoomId};

use super::{RETRY_DELAY, ResumeRefusal};
use crate::cluster::arrival::Sender;
use crate::cluster::generated as wire;
use crate::entropy::ResumeToken;
use crate::events::SessionEvent;
use crate::lock::lock;
use crate::node::{Node, Parting};
use crate::reject::Reject;
use crate::services::Caller;
use crate::session::{ResumeTokens, Session};
use crate::transit::Arriving;

/// Goes on with a session here.
pub(super) fn install(
    node: &Arc<Node>,
    caller: &Caller,
    token: ResumeToken,
    holder: &NodeId,
    id: SessionId,
    offered: &wire::Offered,
    frames: Vec<ServerFrame>,
) -> Result<(), ResumeRefusal> {
    let rooms: BTreeSet<_> = offered
        .rooms
        .iter()
        .filter_map(|room| RoomId::parse(room).ok())
        .take(node.config.rooms_per_session_max)
        .collect();
    let config = &node.config;
    // What came before the session goes to its device before what comes from now on.
    let mut arrivals = lock(&node.arrivals);
    let coming = arrivals.by_token.remove(&token);
    // Whoever is not waited for any more is not taken in.
    let coming = coming.ok_or(ResumeRefusal::NodeGone)?;
    if let Some(refusal) = coming.broken {
        return Err(refusal);
    }
    let strays = coming.strays.into_frames();
    let mut sessions = lock(&node.sessions);
    let now = Instant::now().into_std();
    let account = sessions.account(&caller.user, config, now);
    let session = Session::new(id, caller, account, token, config);
    let session = Arc::new(session);
    let mut state = session.lock();
    let arriving = Arriving::new(holder.clone(), rooms.clone(), config);
    state.tokens = ResumeTokens::taken(token, offered.other_token.as_ref().try_into().ok());
    state.go_on(config, offered.acked, offered.received, arriving);
    let bodies = frames.into_iter().chain(strays);
    for body in bodies.filter_map(|frame| frame.body) {
        let pushed = state.push_forwarded(body);
        pushed.map_err(|_| ResumeRefusal::Behind)?;
    }
    let is_settled = state.arrive().unwrap_or_default();
    for token in state.tokens.listed() {
        sessions.by_token.insert(*token, id);
    }
    drop(state);
    session.set_settled(is_settled);
    sessions.insert(&session);
    node.emit(SessionEvent::Began, &session);
    drop(sessions);
    drop(arrivals);
    // Until the device is welcomed there is no connection.
    node.disconnect(&session, 0);
    node.counters.cluster.sessions_taken.add(1);
    let (patient, arrived) = (Arc::clone(node), Arc::clone(&session));
    node.runtime.spawn(async move {
        tokio::time::sleep(SETTLE_TIME.max(2 * patient.config.engine_timeout)).await;
        patient.lose_unless_settled(&arrived);
    });
    for room in rooms {
        let (node, session) = (Arc::clone(node), Arc::clone(&session));
        node.runtime
            .clone()
            .spawn(async move { go_on_in(&node, &session, &room).await });
    }
    Ok(())
}

/// Tells a room that a member goes on over this node.
async fn go_on_in(node: &Arc<Node>, session: &Arc<Session>, room: &RoomId) {
    let Ok(entrance) = node.enter(room) else {
        return;
    };
    let host = entrance.host();
    while host.ready(node).await.is_err() {
        if session.lock().ended().is_some() {
            return;
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
    if session.lock().ended().is_none() {
        host.go_on(node, session).await;
    }
}

/// A frame for the device of a session that goes on, or is about to, over this node.
pub(in crate::cluster) fn handle_forward(
    node: &Arc<Node>,
    from: &NodeId,
    session: SessionId,
    body: server_frame::Body,
    is_reliable: bool,
    sender: Option<&Sender>,
) {
    let mut arrivals = lock(&node.arrivals);
    let mut coming = arrivals.by_token.values_mut().filter(|coming| {
        let announced = coming.session.as_ref();
        announced.is_some_and(|(id, holder)| *id == session && holder == from)
    });
    // It may have been here before; what comes now is for the one that is about to come.
    if let Some(coming) = coming.next() {
        if !is_reliable {
            return node.counters.dropped.add(1);
        }
        let bytes = body.encoded_len();
        let frame = ServerFrame {
            body: Some(body),
            ..ServerFrame::default()
        };
        if coming.strays.push(frame, bytes).is_err() {
            coming.broken.get_or_insert(ResumeRefusal::Behind);
        }
        return;
    }
    let Some(session) = lock(&node.sessions).wherever(&session) else {
        return node.counters.cluster.items_refused.add(1);
    };
    let mut state = session.lock();
    if state.came_from.as_ref() != Some(from) {
        return node.counters.cluster.items_refused.add(1);
    }
    if let server_frame::Body::Introduced(_) = &body {
        // Its sender's packets come from a relay of whichever node its sender is on.
        let mut ips = node.relay.relay_ips();
        ips.extend(node.cluster.all_relay_ips());
        node.relay.permit(&session.user, &ips);
    }
    if !is_reliable {
        let dropped = state.push_unreliable(body);
        return node.counters.dropped.add(dropped);
    }
    let pushed = if state.moved.is_some() {
        state.pass_on(body, sender)
    } else {
        state.push_forwarded(body)
    };
    drop(state);
    drop(arrivals);
    if pushed.is_err() {
        tracing::info!(user = %session.user, "session ended: too far behind");
        let reject = Reject::new(ErrorCode::Limit, "too far behind");
        let parting = Parting::Leaves(LeftReason::Disconnected);
        node.end(&session, parting, Some(reject));
    }
}

/// The node that had a session says that nothing more of a room is on its way.
pub(in crate::cluster) fn handle_settled(
    node: &Arc<Node>,
    from: &NodeId,
    session: SessionId,
    room: &RoomId,
) {
    let found = lock(&node.sessions).by_id.get(&session).cloned();
    if let Some(session) = found {
        let is_from = |state: &crate::session::State| state.came_from.as_ref() == Some(from);
        if is_from(&session.lock()) {
            node.settle(&session, room);
        }
    }
}

impl Node {
    /// A room of a session that comes from another node has settled.
    pub(crate) fn settle(self: &Arc<Self>, session: &Arc<Session>, room: &RoomId) {
        let settled = session.lock().settle(room);
        match settled {
            Ok(true) => session.set_settled(true),
            Ok(false) => {}
            Err(overflow) => {
                let reject = Reject::new(ErrorCode::Limit, overflow);
                let parting = Parting::Leaves(LeftReason::Disconnected);
                self.end(session, parting, Some(reject));
                session.set_settled(true);
            }
        }
    }

    /// A node is gone, and with it what it still had of sessions that were about to settle here: their
    /// devices begin anew. Their rooms are not left, so that they find their seats.
    pub(crate) fn lose_arriving_from(self: &Arc<Self>, lost: &NodeId) {
        let sessions: Vec<_> = lock(&self.sessions).by_id.values().cloned().collect();
        for session in sessions {
            let is_lost = session
                .lock()
                .arriving
                .as_ref()
                .is_some_and(|arriving| arriving.from == *lost);
            if is_lost {
                self.lose_unless_settled(&session);
            }
        }
    }

    fn lose_unless_settled(self: &Arc<Self>, session: &Arc<Session>) {
        if self.end_arriving(session) {
            self.counters.count_resume_refused(ResumeRefusal::NodeGone);
            session.set_settled(true);
        }
    }
}

/// After so long without a word from the node before, at least, a session has lost what that one had.
const SETTLE_TIME: Duration = Duration::from_secs(10);
