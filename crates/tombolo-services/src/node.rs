//! What all sessions and rooms of one node share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tombolo_engine::Engine;
use tombolo_room::{LeftReason, SessionId, Time};
use tombolo_wire::resend::Overflow;
use tombolo_wire::token::{Claims, KeySet, TokenError};
use tombolo_wire::v1::{self, ErrorCode, IceServers, server_frame};
use tombolo_wire::{NodeId, RoomId, UserId};

use crate::absence;
use crate::catalogue::Catalogue;
use crate::clock::SteadyClock;
use crate::cluster::{Arrivals, Cluster, Sender, drop_given_to, end_offered, give_up_all};
use crate::config::Config;
use crate::duplicates;
use crate::entropy::ResumeToken;
use crate::events::{Changes, SessionEvent};
use crate::field::Fields;
use crate::forward::Manner;
use crate::host::{EmptyRooms, Host, Retirements};
use crate::lock::lock;
use crate::matchmaker::Matchmaker;
use crate::queue::Topic;
use crate::rate::{Account, SharedAccount};
use crate::reject::Reject;
use crate::relay::RelayHook;
use crate::requests;
use crate::room_names::LastRead;
use crate::session::{Session, State};
use crate::social::Social;
use crate::stats::{Counters, Stats};
use crate::vital::Vitals;

/// What all sessions and rooms of one node share.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) relay: Arc<dyn RelayHook>,
    pub(crate) tokens: RwLock<KeySet>,
    pub(crate) counters: Counters,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) catalogue: Catalogue,
    /// What servers have read of the names of all rooms.
    pub(crate) room_names: LastRead,
    pub(crate) sessions: Mutex<SessionTable>,
    pub(crate) host_by_room: Mutex<BTreeMap<RoomId, Arc<Host>>>,
    pub(crate) empty_rooms: EmptyRooms,
    pub(crate) retirements: Retirements,
    pub(crate) social: Social,
    pub(crate) matchmaker: Matchmaker,
    pub(crate) fields: Fields,
    /// Sessions that are about to come from other nodes.
    pub(crate) arrivals: Mutex<Arrivals>,
    pub(crate) clock: SteadyClock,
    /// How many commands the game may answer at the moment.
    pub(crate) commands: Semaphore,
    pub(crate) is_going_away: AtomicBool,
    /// Users that have new sessions, whose others are asked for.
    pub(crate) gathers: duplicates::Gathers,
    pub(crate) changes: Changes,
    pub(crate) vitals: Vitals,
    /// Where tasks run, also those begun by a drop.
    pub(crate) runtime: Handle,
}

/// What becomes of a session's places in its rooms when it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parting {
    /// It leaves them.
    Leaves(LeftReason),
    /// It is dropped: they keep its seats for as long as they keep seats, since its device may come back by
    /// another session.
    Drops,
}

impl Parting {
    /// What is due to a session in whose place another one of its user comes.
    pub(crate) fn of_replaced(state: &State) -> Self {
        match state.is_connected {
            true => Self::Leaves(LeftReason::Disconnected),
            false => Self::Drops,
        }
    }
}

/// The sessions of a node.
#[derive(Default)]
pub(crate) struct SessionTable {
    pub(crate) by_id: BTreeMap<SessionId, Arc<Session>>,
    pub(crate) by_token: BTreeMap<ResumeToken, SessionId>,
    by_user: BTreeMap<UserId, Holder>,
    /// Those that go, or have gone, to other nodes, for a while.
    pub(crate) given_by_id: BTreeMap<SessionId, Arc<Session>>,
    pub(crate) given_by_token: BTreeMap<ResumeToken, Arc<Session>>,
    /// When the last of them began to go.
    pub(crate) last_given: Option<tokio::time::Instant>,
}

/// A user that has sessions, or had some a moment ago: a new session does not renew its account.
struct Holder {
    /// The oldest first.
    sessions: Vec<Arc<Session>>,
    account: SharedAccount,
}

impl SessionTable {
    /// The user's sessions, the oldest first.
    pub(crate) fn of_user(&self, user: &UserId) -> &[Arc<Session>] {
        self.by_user
            .get(user)
            .map_or(&[], |holder| &holder.sessions)
    }

    /// The user's account; a new one if it has none.
    pub(crate) fn account(
        &mut self,
        user: &UserId,
        config: &Config,
        now: Instant,
    ) -> SharedAccount {
        // Now and then; each sweep is paid for by the users that came since the last.
        if self.by_user.len() > 2 * self.by_id.len() + IDLE_HOLDERS_MAX {
            self.by_user.retain(|_, holder| {
                !holder.sessions.is_empty() || !Account::lock(&holder.account).is_full(now)
            });
        }
        let holder = self.by_user.entry(user.clone()).or_insert_with(|| Holder {
            sessions: Vec::new(),
            account: Arc::new(Mutex::new(Account::new(config, now))),
        });
        Arc::clone(&holder.account)
    }

    /// Counts one more that a user says at the beginning of a session.
    ///
    /// # Errors
    /// When it says too many.
    pub(crate) fn pace_hello(&mut self, user: &UserId, config: &Config) -> Result<(), Reject> {
        let now = tokio::time::Instant::now().into_std();
        let account = self.account(user, config, now);
        if Account::lock(&account).hellos.take(now, 1) {
            return Ok(());
        }
        let message = "the user begins too many sessions";
        Err(Reject::new(ErrorCode::Limit, message))
    }

    /// Counts one more of a user's sessions that is to come from another node.
    ///
    /// # Errors
    /// When too many come.
    pub(crate) fn pace_move(&mut self, user: &UserId, config: &Config) -> Result<(), Reject> {
        let now = tokio::time::Instant::now().into_std();
        let account = self.account(user, config, now);
        if Account::lock(&account).moves.take(now, 1) {
            return Ok(());
        }
        let message = "the user's sessions come from other nodes too often";
        Err(Reject::new(ErrorCode::Limit, message))
    }

    /// Does not count one after all.
    pub(crate) fn put_hello_back(&self, user: &UserId) {
        if let Some(holder) = self.by_user.get(user) {
            Account::lock(&holder.account).hellos.put_back(1);
        }
    }

    /// Lists a session of a user that has an account.
    pub(crate) fn insert(&mut self, session: &Arc<Session>) {
        self.by_id.insert(session.id, Arc::clone(session));
        if let Some(holder) = self.by_user.get_mut(&session.user) {
            holder.sessions.push(Arc::clone(session));
        }
    }

    /// A session that is here, or has gone from here to another node.
    pub(crate) fn wherever(&self, id: &SessionId) -> Option<Arc<Session>> {
        let here = self.by_id.get(id);
        here.or_else(|| self.given_by_id.get(id)).cloned()
    }

    pub(crate) fn remove(&mut self, session: &Session) {
        self.by_id.remove(&session.id);
        if let Some(holder) = self.by_user.get_mut(&session.user) {
            holder.sessions.retain(|listed| listed.id != session.id);
        }
    }
}

impl Node {
    pub(crate) fn name(&self) -> &NodeId {
        &self.config.node
    }

    /// Which of the node's lives this is, as rooms know it.
    pub(crate) fn incarnation(&self) -> u64 {
        self.cluster.epoch().unwrap_or_default()
    }

    /// What the clock says, for rooms.
    pub(crate) fn time(&self) -> Time {
        let wall = (self.config.unix_now)();
        let millis = self
            .clock
            .time(wall, tokio::time::Instant::now())
            .as_millis();
        Time::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// Where the user gathers candidates. The credentials outlive the user's token a little, so that
    /// a device has time to come back with the next one.
    pub(crate) fn ice_servers(&self, user: &UserId, token_expires: Duration) -> IceServers {
        let now = (self.config.unix_now)();
        let last = token_expires.saturating_add(CREDENTIALS_GRACE);
        let left = token_expires.saturating_sub(now);
        IceServers {
            token_ttl_s: u32::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u32::MAX),
            ..self.relay.ice_servers(user, last.saturating_sub(now))
        }
    }

    /// Checks a device token.
    pub(crate) fn authenticate(&self, token: &str) -> Result<Claims, TokenError> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens.verify(token, (self.config.unix_now)())
    }

    /// Hands a reliable frame of the node's own to a session, and ends the session when it does not
    /// keep up.
    pub(crate) fn push(self: &Arc<Self>, session: &Arc<Session>, body: server_frame::Body) {
        let request = if let server_frame::Body::Response(response) = &body {
            Some(response.id)
        } else {
            None
        };
        let pushed = session.lock().push(body);
        match pushed {
            Ok(()) => {}
            Err(overflow @ Overflow::Frame { .. }) => {
                tracing::warn!(user = %session.user, %overflow, "frame dropped");
                if let Some(id) = request {
                    let reject = Reject::new(ErrorCode::TooLarge, overflow);
                    requests::fail(self, session, id, reject);
                }
            }
            Err(overflow @ (Overflow::Frames { .. } | Overflow::Bytes { .. })) => {
                self.end_behind(session, overflow);
            }
        }
    }

    /// Hands a reliable frame from another device to a session.
    ///
    /// # Errors
    /// When the session does not keep up: the sender is to be told.
    pub(crate) fn push_from_peer(
        self: &Arc<Self>,
        session: &Arc<Session>,
        body: server_frame::Body,
    ) -> Result<(), Reject> {
        let pushed = session.lock().push_from_peer(body, None);
        pushed.map_err(|overflow| self.refuse_for(session, overflow))
    }

    /// The same from a member of a room.
    ///
    /// # Errors
    /// As [`Self::push_from_peer`].
    pub(crate) fn push_from_member(
        self: &Arc<Self>,
        session: &Arc<Session>,
        sender: &Sender,
        body: server_frame::Body,
    ) -> Result<(), Reject> {
        let pushed = session.lock().push_from_peer(body, Some(sender));
        pushed.map_err(|overflow| self.refuse_for(session, overflow))
    }

    /// Hands a reliable frame to a session that is told more of the same when it has place for it.
    ///
    /// # Errors
    /// When the session does not keep up, or may go to another node: it is to be told later.
    pub(crate) fn push_from_log(
        self: &Arc<Self>,
        session: &Arc<Session>,
        body: server_frame::Body,
    ) -> Result<(), Reject> {
        let pushed = session.lock().push_from_log(body);
        pushed.map_err(|overflow| {
            if let Overflow::Frames { frames_max: 0 } = overflow {
                return Reject::new(ErrorCode::Limit, overflow);
            }
            self.refuse_for(session, overflow)
        })
    }

    /// Hands a member's message to another member's session.
    ///
    /// # Errors
    /// When the session does not keep up: the sender is to be told.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        session: &Arc<Session>,
        sender: &Sender,
        delivery: &server_frame::Body,
        manner: &Manner,
    ) -> Result<(), Reject> {
        let (body, counters) = (delivery.clone(), &self.counters);
        match manner {
            Manner::Unreliable => self.push_unreliable(session, body),
            Manner::Ordered => self.push_from_member(session, sender, body)?,
            Manner::Unordered => self.push_unordered(session, sender, body, None)?,
            Manner::Latest(topic) => {
                self.push_unordered(session, sender, body, Some(topic.clone()))?;
            }
        }
        counters.delivered.add(1);
        Ok(())
    }

    fn push_unordered(
        self: &Arc<Self>,
        session: &Arc<Session>,
        sender: &Sender,
        body: server_frame::Body,
        topic: Option<Topic>,
    ) -> Result<(), Reject> {
        let pushed = session.lock().push_unordered(sender, body, topic);
        let replaced = pushed.map_err(|overflow| self.refuse_for(session, overflow))?;
        self.counters.coalesced.add(u64::from(replaced));
        Ok(())
    }

    /// What a sender is told for whose message there is no place. A device that takes nothing at all
    /// is disconnected after a while.
    fn refuse_for(self: &Arc<Self>, session: &Arc<Session>, overflow: Overflow) -> Reject {
        if let Overflow::Frame { .. } = overflow {
            return Reject::new(ErrorCode::TooLarge, overflow);
        }
        let now = tokio::time::Instant::now().into_std();
        if session.lock().is_stuck(now, self.config.behind_max) {
            self.end_behind(session, overflow);
        }
        let message = format!("{} is behind: try again later", session.user);
        Reject::new(ErrorCode::Limit, message)
    }

    fn end_behind(self: &Arc<Self>, session: &Arc<Session>, overflow: Overflow) {
        let reject = Reject::new(ErrorCode::Limit, overflow);
        tracing::info!(user = %session.user, %reject, "session ended: its device does not keep up");
        self.counters.count_refused(reject.code);
        self.counters.behind.add(1);
        let parting = Parting::Leaves(LeftReason::Disconnected);
        self.end(session, parting, Some(reject));
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

    /// Ends a session: its connection is told, and its rooms.
    pub(crate) fn end(
        self: &Arc<Self>,
        session: &Arc<Session>,
        parting: Parting,
        reject: Option<Reject>,
    ) {
        let mut sessions = lock(&self.sessions);
        self.end_locked(&mut sessions, &mut session.lock(), session, parting, reject);
    }

    /// A connection has gone; its session waits for a resume.
    pub(crate) fn disconnect(self: &Arc<Self>, session: &Arc<Session>, connection: u64) {
        let mut state = session.lock();
        let is_over = state.ended().is_some() || state.moved.is_some();
        if is_over || state.connection != connection {
            return;
        }
        state.is_connected = false;
        let (node, session) = (Arc::clone(self), Arc::clone(session));
        let expiry = self.runtime.spawn(async move {
            let window = node.config.resume_window;
            let moment = node.config.drop_after.min(window);
            tokio::time::sleep(moment).await;
            node.drop_out(&session, connection);
            absence::wait_for_return(window.saturating_sub(moment)).await;
            node.expire(&session, connection);
        });
        // The connection before has taken its own away.
        state.expiry = Some(expiry.abort_handle());
    }

    /// Ends a session that nobody resumed.
    fn expire(self: &Arc<Self>, session: &Arc<Session>, connection: u64) {
        let mut sessions = lock(&self.sessions);
        let mut state = session.lock();
        let is_over = state.ended().is_some() || state.moved.is_some();
        if is_over || state.connection != connection || state.is_connected {
            return;
        }
        self.counters.expired.add(1);
        let reject = Reject::new(ErrorCode::NotResumable, "the session was not resumed");
        let parting = Parting::Drops;
        self.end_locked(&mut sessions, &mut state, session, parting, Some(reject));
    }

    /// Ends a session whose lock, and the table's, is held.
    pub(crate) fn end_locked(
        self: &Arc<Self>,
        sessions: &mut SessionTable,
        state: &mut State,
        session: &Arc<Session>,
        parting: Parting,
        reject: Option<Reject>,
    ) {
        if let Some(moved) = &state.moved {
            if moved.is_broken {
                return end_offered(self, sessions, state, session);
            }
            // It is another node's. If that one misses something of a room it is the room's member no
            // more; nobody but the log can say so, since the link to that node is full.
            if let Parting::Leaves(reason) = parting
                && moved.is_taken
                && self.cluster.is_up(&moved.to)
            {
                self.leave_all(session, std::mem::take(&mut state.host_by_room), reason);
            }
            return;
        }
        sessions.remove(session);
        for token in state.tokens.listed() {
            sessions.by_token.remove(token);
        }
        self.emit(SessionEvent::Ended, session);
        self.count_unread(state);
        match parting {
            Parting::Leaves(reason) => self.leave_all(session, state.end(reject), reason),
            Parting::Drops => {
                state.end_in_rooms(reject);
                self.keep_seats(session, state);
            }
        }
    }

    /// Counts what waits for the device of a session that is about to end, if it has not.
    pub(crate) fn count_unread(&self, state: &State) {
        if state.ended().is_none() {
            self.counters.unread.add(state.unread());
        }
    }

    fn leave_all(
        self: &Arc<Self>,
        session: &Arc<Session>,
        host_by_room: BTreeMap<RoomId, Arc<Host>>,
        reason: LeftReason,
    ) {
        for host in host_by_room.into_values() {
            let (node, session) = (Arc::clone(self), Arc::clone(session));
            self.runtime
                .spawn(async move { host.leave(&node, &session.user, session.id, reason).await });
        }
    }

    /// Ends a session that comes from another node, unless it has settled; whether it had not. Its device
    /// begins anew at once: its rooms keep its seats.
    pub(crate) fn end_arriving(self: &Arc<Self>, session: &Arc<Session>) -> bool {
        let mut sessions = lock(&self.sessions);
        let mut state = session.lock();
        if state.arriving.is_none() {
            return false;
        }
        sessions.remove(session);
        for token in state.tokens.listed() {
            sessions.by_token.remove(token);
        }
        self.emit(SessionEvent::Ended, session);
        self.count_unread(&state);
        let message = "what the node before still had of the session is lost";
        let reject = Reject::new(ErrorCode::NotResumable, message);
        state.end_in_rooms(Some(reject));
        self.keep_seats(session, &mut state);
        true
    }

    /// Another node's lives up to this one are over.
    pub(crate) fn on_node_gone(self: &Arc<Self>, gone: &NodeId, life: u64) {
        let hosts: Vec<_> = lock(&self.host_by_room).values().cloned().collect();
        for host in hosts {
            host.on_node_gone(self, gone);
        }
        self.matchmaker.on_node_gone();
        self.lose_arriving_from(gone);
        drop_given_to(self, gone);
        self.lose_entities_of(gone, life);
        self.social.presence.on_nodes();
    }

    /// Ends all sessions at once and leaves their rooms as they are: others have taken this node out
    /// of the cluster and say in the rooms' logs what is to be said.
    pub(crate) fn stand_down(&self) {
        let reject = self.elsewhere("this node is not part of its cluster");
        lock(&self.arrivals).break_all();
        let mut sessions = lock(&self.sessions);
        let all: Vec<_> = sessions.by_id.values().cloned().collect();
        for session in all {
            let mut state = session.lock();
            sessions.remove(&session);
            for token in state.tokens.listed() {
                sessions.by_token.remove(token);
            }
            self.emit(SessionEvent::Ended, &session);
            state.seats.move_all();
            self.count_unread(&state);
            drop(state.end(Some(reject.clone())));
        }
        give_up_all(self, &mut sessions);
        drop(sessions);
        for host in std::mem::take(&mut *lock(&self.host_by_room)).into_values() {
            host.stop();
        }
        self.empty_rooms.clear();
        self.catalogue.forget_all();
    }

    /// Sends a device to another node, or to come back later when there is none.
    pub(crate) fn elsewhere(&self, message: &str) -> Reject {
        Reject {
            code: ErrorCode::Elsewhere,
            message: message.to_owned(),
            nodes: self.cluster.urls(),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let rooms = lock(&self.host_by_room).len();
        let sessions = lock(&self.sessions).by_id.len();
        let mut stats = self.counters.stats(sessions, rooms, self.social.logs());
        stats.fields.fields = self.fields.len();
        stats
    }

    pub(crate) fn is_going_away(&self) -> bool {
        self.is_going_away.load(Ordering::Relaxed)
    }
}

/// How long TURN credentials outlive the token for which they were given.
const CREDENTIALS_GRACE: Duration = Duration::from_secs(300);

/// Users without sessions whose accounts are kept, at least.
const IDLE_HOLDERS_MAX: usize = 1024;
