//! The front door.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tombolo_engine::Engine;
use tombolo_room::SessionId;
use tombolo_wire::token::{Claims, KeySet, TokenError};
use tombolo_wire::v1::{
    ClientFrame, ErrorCode, Hello, IceServers, ServerFrame, Welcome, client_frame, server_frame,
};
use tombolo_wire::{PublicKeys, TagName, UserId, VERSION};

use crate::catalogue::Catalogue;
use crate::clock::SteadyClock;
use crate::cluster::{self, Arrivals, Cluster, Input, ResumeName, ResumeRefusal};
use crate::config::{Config, Duplicates};
use crate::connection::Connection;
use crate::drain::{self, Drained};
use crate::duplicates;
use crate::entropy::{NoEntropy, ResumeToken};
use crate::events::{Change, Changes, SessionEvent};
use crate::field::Fields;
use crate::hooks;
use crate::host::{EmptyRooms, Retirements};
use crate::lock::lock;
use crate::matchmaker::{self, Matchmaker};
use crate::node::{Node, Parting, SessionTable};
use crate::reject::Reject;
use crate::relay::RelayHook;
use crate::room_names::LastRead;
use crate::session::Session;
use crate::social::Social;
use crate::stats::{Counters, Stats};
use crate::vital::Vitals;

/// Sessions, rooms and introductions of one node. Clones are the same.
#[derive(Clone)]
pub struct Services {
    node: Arc<Node>,
    running: Arc<Running>,
}

/// Ends the node's part in the cluster with the last clone of its services.
struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The device's address as the node sees it.
    pub remote: SocketAddr,
    /// What carries the frames.
    pub transport: TransportKind,
}

/// What carries the frames of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// QUIC, unreliable frames as datagrams.
    Quic,
    /// WebSocket over TLS.
    WebSocket,
}

/// A `Hello` that was found to be in order.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) user: UserId,
    pub(crate) keys: PublicKeys,
    /// When the token expires, since the Unix epoch.
    pub(crate) expires: Duration,
    /// What the token says of the user.
    pub(crate) tags: Vec<TagName>,
    pub(crate) resume: Option<ResumeName>,
    /// What the device has received, if it resumes.
    pub(crate) ack: u64,
    /// Which of the device's sessions this would be.
    pub(crate) life: u64,
    /// Another node has sent it here.
    pub(crate) is_sent_here: bool,
    /// It could as well stay where it is.
    pub(crate) comes_nearer: bool,
}

impl Services {
    /// Services that hold nobody yet.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(
        engine: Arc<dyn Engine>,
        relay: Arc<dyn RelayHook>,
        tokens: KeySet,
        config: Config,
    ) -> Self {
        let (cluster, waiting) = Cluster::new();
        let matchmaker = Matchmaker::new(&config.pools).unwrap_or_else(|error| {
            tracing::error!(%error, "the engine cannot have pools of these names: there are none");
            Matchmaker::default()
        });
        let node = Node {
            social: Social::new(&config),
            config,
            engine,
            relay,
            tokens: RwLock::new(tokens),
            counters: Counters::default(),
            cluster: Arc::new(cluster),
            catalogue: Catalogue::new(),
            room_names: LastRead::default(),
            sessions: Mutex::default(),
            host_by_room: Mutex::default(),
            empty_rooms: EmptyRooms::default(),
            retirements: Retirements::default(),
            matchmaker,
            fields: Fields::default(),
            arrivals: Mutex::new(Arrivals::default()),
            clock: SteadyClock::default(),
            commands: Semaphore::new(hooks::COMMANDS_AT_ONCE),
            is_going_away: AtomicBool::new(false),
            gathers: duplicates::Gathers::default(),
            changes: Changes::default(),
            vitals: Vitals::default(),
            runtime: Handle::current(),
        };
        let node = Arc::new(node);
        let running = node.runtime.spawn(run(Arc::clone(&node), waiting));
        Self {
            node,
            running: Arc::new(Running(running.abort_handle())),
        }
    }

    /// Begins or goes on with a session. `hello` is the first frame of the connection, as it came.
    ///
    /// # Errors
    /// When the device is turned away: send [`Reject`] as a frame and close.
    pub async fn attach(
        &self,
        hello: ClientFrame,
        info: ConnectionInfo,
    ) -> Result<Connection, Reject> {
        let result = match self.admit(hello) {
            Ok(caller) => {
                let fetched = cluster::fetch(&self.node, &caller).await;
                fetched.and_then(|()| self.connect(caller))
            }
            Err(reject) => Err(reject),
        };
        match &result {
            Ok(connection) => tracing::debug!(user = %connection.user(), ?info, "attached"),
            Err(reject) => {
                self.node.counters.count_refused(reject.code);
                tracing::debug!(?info, %reject, "turned away");
            }
        }
        result
    }

    /// Checks a device token.
    ///
    /// # Errors
    /// When it is not valid (now).
    pub fn authenticate(&self, token: &str) -> Result<Claims, TokenError> {
        self.node.authenticate(token)
    }

    /// Trusts these keys from now on; sessions that have begun go on.
    pub fn set_tokens(&self, tokens: KeySet) {
        *self
            .node
            .tokens
            .write()
            .unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    /// Where the token's user gathers candidates, with fresh credentials. They outlive the token by
    /// five minutes at most.
    #[must_use]
    pub fn ice_servers(&self, claims: &Claims) -> IceServers {
        self.node.ice_servers(&claims.user, claims.expires)
    }

    /// Tells the other nodes where devices connect to this one.
    pub async fn announce(&self, url: &str) {
        self.node.cluster.tell(Input::Url(url.to_owned())).await;
    }

    /// Waits for a moment until this node is part of its cluster, and can write what it is to keep, which it soon
    /// is unless something is in the way.
    ///
    /// # Errors
    /// Says what that is.
    pub async fn in_cluster(&self) -> Result<(), Reject> {
        let broken = |broken| Reject::new(ErrorCode::Unavailable, broken);
        self.node.vitals.check().map_err(broken)?;
        if self.node.engine.is_broken() {
            let message = "the engine cannot write any more";
            return Err(Reject::new(ErrorCode::Unavailable, message));
        }
        self.node.cluster.joined(JOIN_MOMENT).await
    }

    /// Where devices may connect instead of here, the best first.
    #[must_use]
    pub fn other_nodes(&self) -> Vec<String> {
        self.node.cluster.urls()
    }

    /// Empties this node for good: it takes no newcomers, and its devices are told in waves to go to
    /// other nodes. Ends when all have gone or the time is up, and says what was left.
    pub async fn drain(&self, time: Duration) -> Drained {
        drain::drain(&self.node, time).await
    }

    /// Asks so many of the devices that are connected here to go on over another node; returns how
    /// many were asked. Their sessions stay here until they go, and newcomers are taken in as before.
    pub fn rebalance(&self, count: usize) -> usize {
        drain::rebalance(&self.node, count)
    }

    /// The same as [`Self::changes`], and what is said durably by members on this node and by servers that asked it to.
    #[must_use]
    pub fn changes_and_messages(&self) -> broadcast::Receiver<Change> {
        self.node.changes.subscribe_to_all()
    }

    /// Tells from now on, in order, what becomes of sessions, of members on this node in their rooms, and of rooms by what this
    /// node has done. Whoever is too slow to listen misses some, and is told so.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.node.changes.subscribe()
    }

    /// Puts this node out of the cluster, at the end of its process: other nodes say at once in the
    /// logs of its rooms that its members are dropped. Its sessions are not told.
    pub async fn leave(&self) {
        self.node.cluster.leave(LEAVE_TIMEOUT).await;
    }

    /// Stops at once and says nothing to anybody, as if the process had been killed: for tests of
    /// what others make of that.
    pub fn kill(&self) {
        self.running.0.abort();
        self.node.cluster.end();
        self.node.stand_down();
    }

    /// The tasks that this node cannot do without. When one of them panics its devices are let go, and others do what it
    /// leaves to do.
    #[must_use]
    pub fn vitals(&self) -> &Vitals {
        &self.node.vitals
    }

    /// What is there and what has happened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.node.stats()
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Checks everything about a `Hello` that does not depend on other sessions.
    fn admit(&self, frame: ClientFrame) -> Result<Caller, Reject> {
        let bad_frame = |message: &str| Reject::new(ErrorCode::BadFrame, message);
        let Some(client_frame::Body::Hello(hello)) = frame.body else {
            return Err(bad_frame("a connection begins with hello"));
        };
        if frame.seq != 0 {
            return Err(bad_frame("hello is not a repeatable frame"));
        }
        let Hello {
            version,
            token,
            keys,
            resume,
            agent,
            life,
            sent_here,
            comes_nearer,
        } = hello;
        if version != VERSION {
            let message = format!("this node speaks version {VERSION}, not {version}");
            return Err(Reject::new(ErrorCode::Version, message));
        }
        let Claims {
            user,
            expires,
            tags,
            ..
        } = self
            .authenticate(&token)
            .map_err(|error| Reject::new(error.code(), error))?;
        let keys = PublicKeys::try_from(keys.as_ref())
            .map_err(|error| Reject::new(error.code(), error))?;
        if self.node.is_going_away() {
            return Err(self.node.elsewhere("this node is leaving"));
        }
        if self.node.cluster.is_out() {
            return Err(self.node.elsewhere("this node is not part of its cluster"));
        }
        if comes_nearer && self.node.cluster.has_much_to_do() {
            let message = "this node has enough to do";
            return Err(Reject::new(ErrorCode::Elsewhere, message));
        }
        let agent: String = agent.chars().take(AGENT_CHARS_MAX).collect();
        tracing::debug!(%user, agent, "hello");
        Ok(Caller {
            user,
            keys,
            expires,
            tags,
            resume: resume.and_then(|resume| self.parse_resume(&resume.token)),
            ack: frame.ack,
            life,
            is_sent_here: sent_here,
            comes_nearer,
        })
    }

    fn parse_resume(&self, token: &Bytes) -> Option<ResumeName> {
        let parsed = ResumeName::parse(token);
        if parsed.is_none() {
            self.refuse_resume(ResumeRefusal::Malformed);
        }
        parsed
    }

    fn connect(&self, caller: Caller) -> Result<Connection, Reject> {
        let unavailable = |NoEntropy| Reject::new(ErrorCode::Unavailable, "no entropy");
        let issued = self
            .node
            .config
            .entropy
            .resume_token()
            .map_err(unavailable)?;
        let welcome = self.welcome(&caller, issued);
        let mut sessions = lock(&self.node.sessions);
        if let Some(presented) = &caller.resume
            && let Some(id) = sessions.by_token.get(&presented.token)
            && let Some(session) = sessions.by_id.get(id).cloned()
        {
            if session.lock().tokens.is_good(&presented.token) {
                let presented = presented.token;
                return self.resume(&mut sessions, session, presented, issued, welcome, &caller);
            }
            self.refuse_resume(ResumeRefusal::Replayed);
        }
        if caller.comes_nearer {
            // It is to lose nothing by that.
            let message = "the session cannot be had";
            return Err(Reject::new(ErrorCode::Unavailable, message));
        }
        self.share(&caller)?;
        sessions.pace_hello(&caller.user, &self.node.config)?;
        self.make_room(&mut sessions, &caller.user)?;
        if sessions.by_id.len() >= self.node.config.sessions_max {
            let message = "this node has as many sessions as it may";
            return Err(Reject {
                nodes: self.node.cluster.urls(),
                ..Reject::new(ErrorCode::Limit, message)
            });
        }

        let id = self.node.config.entropy.session_id().map_err(unavailable)?;
        let now = Instant::now().into_std();
        let config = &self.node.config;
        let account = sessions.account(&caller.user, config, now);
        let session = Session::new(id, &caller, account, issued, config);
        let session = Arc::new(session);
        // Before others see it: a session without a connection may have to make room.
        let (number, wake) = session.lock().connect(welcome_frame(welcome, id, false));
        sessions.insert(&session);
        sessions.by_token.insert(issued, id);
        self.node.emit(SessionEvent::Began, &session);
        drop(sessions);
        duplicates::announce(&self.node, &session);
        Ok(Connection::new(
            Arc::clone(&self.node),
            session,
            number,
            wake,
        ))
    }

    /// Sends a newcomer to a node that has much less to do. Whoever comes from another node, or has
    /// lost a session and is in a hurry, may stay.
    fn share(&self, caller: &Caller) -> Result<(), Reject> {
        if caller.is_sent_here || caller.resume.is_some() {
            return Ok(());
        }
        let nodes = self.node.cluster.idler_urls();
        if nodes.is_empty() {
            return Ok(());
        }
        Err(Reject {
            nodes,
            ..Reject::new(ErrorCode::Elsewhere, "other nodes have less to do")
        })
    }

    /// Lets a user have one more session, if need be in place of another, as the policy has it.
    fn make_room(&self, sessions: &mut SessionTable, user: &UserId) -> Result<(), Reject> {
        let config = &self.node.config;
        while sessions.of_user(user).len() >= config.sessions_per_user_max {
            let mut oldest_first = sessions.of_user(user).iter();
            let (oldest, code) = match config.duplicates {
                Duplicates::ReplaceDisconnected => {
                    let gone = oldest_first.find(|session| !session.lock().is_connected);
                    (gone.cloned(), ErrorCode::NotResumable)
                }
                Duplicates::ReplaceOldest => (oldest_first.next().cloned(), ErrorCode::Replaced),
                Duplicates::RefuseNewcomer => (None, ErrorCode::Limit),
            };
            let Some(oldest) = oldest else {
                let message = "the user has as many sessions as it may";
                return Err(Reject::new(ErrorCode::Limit, message));
            };
            let reject = Reject::new(code, "a newer session took its place");
            let state = &mut oldest.lock();
            let parting = Parting::of_replaced(state);
            self.node
                .end_locked(sessions, state, &oldest, parting, Some(reject));
        }
        Ok(())
    }

    fn refuse_resume(&self, refusal: ResumeRefusal) {
        self.node.counters.count_resume_refused(refusal);
        tracing::debug!(%refusal, "not resumed");
    }

    /// Hands a session over to the new connection.
    fn resume(
        &self,
        sessions: &mut SessionTable,
        session: Arc<Session>,
        presented: ResumeToken,
        issued: ResumeToken,
        welcome: Welcome,
        caller: &Caller,
    ) -> Result<Connection, Reject> {
        let refused = |message: &str| Reject::new(ErrorCode::NotResumable, message);
        if session.user != caller.user || session.keys != caller.keys {
            self.refuse_resume(ResumeRefusal::Foreign);
            return Err(refused("the session is another device's"));
        }
        let mut state = session.lock();
        state
            .outbox
            .handle_ack(caller.ack)
            .map_err(|_| refused("more was received than was sent"))
            .inspect_err(|_| self.refuse_resume(ResumeRefusal::Ack))?;
        for old in state.tokens.replace(presented, issued) {
            sessions.by_token.remove(&old);
        }
        sessions.by_token.insert(issued, session.id);
        state.expires = caller.expires;
        state.tags.clone_from(&caller.tags);
        let (number, wake) = state.connect(welcome_frame(welcome, session.id, true));
        if std::mem::take(&mut state.absence.is_dropped) {
            self.node.emit(SessionEvent::Returned, &session);
            self.node.tell_rooms(&session, &mut state);
        }
        drop(state);
        self.node.counters.resumed.add(1);
        Ok(Connection::new(
            Arc::clone(&self.node),
            session,
            number,
            wake,
        ))
    }

    /// What every `Welcome` says, whether the session is new or not.
    fn welcome(&self, caller: &Caller, issued: ResumeToken) -> Welcome {
        let window = self.node.config.resume_window.as_millis();
        Welcome {
            session_id: Bytes::new(),
            resume_token: ResumeName::issue(&issued, self.node.name()),
            resumed: false,
            node: self.node.name().to_string(),
            user: caller.user.to_string(),
            ice_servers: Some(self.node.ice_servers(&caller.user, caller.expires)),
            resume_window_ms: u32::try_from(window).unwrap_or(u32::MAX),
            nodes: self.node.cluster.urls(),
        }
    }
}

/// Takes part in the cluster for as long as all of that goes well.
async fn run(node: Arc<Node>, waiting: mpsc::Receiver<Input>) {
    let vitals = &node.vitals;
    let member = vitals.hold(PART, cluster::run(Arc::clone(&node), waiting));
    let matchmaker = vitals.hold(POOLS, matchmaker::run(Arc::clone(&node)));
    let duplicates = vitals.hold(USERS, duplicates::run(Arc::clone(&node)));
    let all = async {
        tokio::join!(member, matchmaker, duplicates);
        std::future::pending::<()>().await;
    };
    let broken = async {
        vitals.broken().await;
        // The others need not find out, if it can still say so.
        node.cluster.leave(LEAVE_TIMEOUT).await;
    };
    tokio::select! {
        () = all => {}
        () = broken => {}
    }
    node.cluster.end();
    node.stand_down();
}

fn welcome_frame(welcome: Welcome, id: SessionId, resumed: bool) -> ServerFrame {
    let session_id = Bytes::copy_from_slice(&id.0);
    let body = server_frame::Body::Welcome(Welcome {
        session_id,
        resumed,
        ..welcome
    });
    ServerFrame {
        body: Some(body),
        ..ServerFrame::default()
    }
}

/// The tasks that a node cannot do without, as whoever runs it is told.
const PART: &str = "its part in the cluster";
const POOLS: &str = "the pools of the matchmaker";
const USERS: &str = "users' sessions on other nodes";

/// How long the engine may take to let a node go.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Longer than a node needs to join where nothing is in the way.
const JOIN_MOMENT: Duration = Duration::from_millis(250);

/// As much of a device's description of itself as is logged.
const AGENT_CHARS_MAX: usize = 100;
