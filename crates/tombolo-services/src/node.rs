//! What all sessions and rooms of one node share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use tokio::runtime::Handle;
use tombolo_engine::Engine;
use tombolo_room::{LeftReason, SessionId};
use tombolo_wire::token::KeySet;
use tombolo_wire::v1::{self, ErrorCode, server_frame};
use tombolo_wire::{NodeId, RoomId};

use crate::config::Config;
use crate::entropy::ResumeToken;
use crate::host::Host;
use crate::lock::lock;
use crate::reject::Reject;
use crate::relay::RelayHook;
use crate::session::{Session, State};
use crate::stats::{Counters, Stats};

/// What all sessions and rooms of one node share.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) relay: Arc<dyn RelayHook>,
    pub(crate) tokens: RwLock<KeySet>,
    pub(crate) counters: Counters,
    pub(crate) sessions: Mutex<SessionTable>,
    pub(crate) host_by_room: Mutex<BTreeMap<RoomId, Arc<Host>>>,
    pub(crate) is_going_away: AtomicBool,
    /// Where tasks run, also those begun by a drop.
    pub(crate) runtime: Handle,
}

/// The sessions of a node.
#[derive(Default)]
pub(crate) struct SessionTable {
    pub(crate) by_id: BTreeMap<SessionId, Arc<Session>>,
    pub(crate) by_token: BTreeMap<ResumeToken, SessionId>,
}

impl Node {
    pub(crate) fn name(&self) -> &NodeId {
        &self.config.node
    }

    /// Hands a reliable frame to a session, and ends the session when it does not keep up.
    pub(crate) fn push(self: &Arc<Self>, session: &Arc<Session>, body: server_frame::Body) {
        let pushed = session.lock().push(body);
        if let Err(reject) = pushed {
            tracing::info!(user = %session.user, %reject, "session ended: its device does not keep up");
            self.counters.count_refused(reject.code);
            self.end(session, LeftReason::Disconnected, Some(reject));
        }
    }

    /// Hands an unreliable frame to a session.
    pub(crate) fn push_unreliable(&self, session: &Session, body: server_frame::Body) {
        let dropped = session.lock().push_unreliable(body);
        self.counters.dropped.add(dropped);
    }

    /// Tells a device that its frame was not carried out.
    pub(crate) fn refuse(self: &Arc<Self>, session: &Arc<Session>, seq: u64, reject: Reject) {
        self.counters.count_refused(reject.code);
        tracing::debug!(user = %session.user, %reject, "frame refused");
        let refused = v1::Refused {
            seq,
            code: reject.code.into(),
            message: reject.message,
        };
        let body = server_frame::Body::Refused(refused);
        if seq == 0 {
            self.push_unreliable(session, body);
        } else {
            self.push(session, body);
        }
    }

    /// Ends a session: it leaves its rooms, and its connection is told.
    pub(crate) fn end(
        self: &Arc<Self>,
        session: &Arc<Session>,
        reason: LeftReason,
        reject: Option<Reject>,
    ) {
        let mut sessions = lock(&self.sessions);
        self.end_locked(&mut sessions, &mut session.lock(), session, reason, reject);
    }

    /// A connection has gone; its session waits for a resume.
    pub(crate) fn disconnect(self: &Arc<Self>, session: &Arc<Session>, connection: u64) {
        {
            let mut state = session.lock();
            if state.ended().is_some() || state.connection != connection {
                return;
            }
            state.is_connected = false;
        }
        let (node, session) = (Arc::clone(self), Arc::clone(session));
        self.runtime.spawn(async move {
            tokio::time::sleep(node.config.resume_window).await;
            node.expire(&session, connection);
        });
    }

    /// Ends a session that nobody resumed.
    fn expire(self: &Arc<Self>, session: &Arc<Session>, connection: u64) {
        let mut sessions = lock(&self.sessions);
        let mut state = session.lock();
        if state.connection != connection || state.ended().is_some() {
            return;
        }
        self.counters.expired.add(1);
        let reject = Reject::new(ErrorCode::NotResumable, "the session was not resumed");
        let reason = LeftReason::Disconnected;
        self.end_locked(&mut sessions, &mut state, session, reason, Some(reject));
    }

    fn end_locked(
        self: &Arc<Self>,
        sessions: &mut SessionTable,
        state: &mut State,
        session: &Arc<Session>,
        reason: LeftReason,
        reject: Option<Reject>,
    ) {
        sessions.by_id.remove(&session.id);
        for token in state.tokens.listed() {
            sessions.by_token.remove(token);
        }
        for host in state.end(reject).into_values() {
            let (node, session) = (Arc::clone(self), Arc::clone(session));
            self.runtime
                .spawn(async move { host.leave(&node, &session.user, session.id, reason).await });
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let rooms = lock(&self.host_by_room).len();
        let sessions = lock(&self.sessions).by_id.len();
        self.counters.stats(sessions, rooms)
    }

    pub(crate) fn is_going_away(&self) -> bool {
        self.is_going_away.load(Ordering::Relaxed)
    }
}
