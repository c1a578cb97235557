//! One log on one node: reads it and tells the sessions here that listen.

mod all;
mod machine;
mod state;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tombolo_engine::{AppendError, Expect, Key, Purpose, TailEvent, Unavailable, latest};
use tombolo_room::SessionId;
use tombolo_social::{EntryError, OperationId};

pub(super) use self::all::Followers;
use self::all::{IDLE_MAX, Idle};
use self::machine::Outcome;
pub(super) use self::machine::{Applied, Machine, Never, Told};
pub(super) use self::state::Agreed;
use self::state::State;
use super::unavailable;
use crate::growth::Growth;
use crate::lock::lock;
use crate::node::Node;
use crate::patience::Late;
use crate::reject::Reject;
use crate::requests::unsure;
use crate::session::Session;

/// How far a log has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Behind,
    /// All of it has been read once.
    Synced,
    /// A later release has written what this one cannot read.
    Unreadable,
}

/// One log that a node reads.
pub(super) struct Follower<M: Machine> {
    key: Key,
    state: Mutex<State<M>>,
    standing: latest::Sender<Standing>,
    /// Changes when something was read.
    progress: latest::Sender<()>,
    stop: Notify,
    /// Somebody listens that has not been told all.
    is_behind: Notify,
}

/// By when all is read of which another node has told somebody, if it is to come at all.
#[derive(Clone, Copy)]
pub(super) struct Reached(Instant);

impl Reached {
    /// Of one request, however many logs it is about: what its session asks for next waits as well.
    pub(super) fn soon() -> Self {
        Self(Instant::now() + REACH_MAX)
    }
}

/// Has a log read for as long as it is held, and a while longer.
pub(super) struct Following<M: Machine> {
    node: Arc<Node>,
    follower: Arc<Follower<M>>,
}

impl<M: Machine> Clone for Following<M> {
    fn clone(&self) -> Self {
        self.follower.lock().users += 1;
        Self {
            node: Arc::clone(&self.node),
            follower: Arc::clone(&self.follower),
        }
    }
}

impl<M: Machine> Drop for Following<M> {
    fn drop(&mut self) {
        let mut state = self.follower.lock();
        state.users -= 1;
        if state.users > 0 {
            return;
        }
        state.idle += 1;
        state.idle_since = Instant::now();
        let (count, bytes) = (state.idle, state.machine.bytes());
        let lingers = std::mem::replace(&mut state.lingers, true);
        drop(state);
        // Whoever writes to many strangers, or reads much, must not fill the node with it.
        let over = M::followers(&self.node).note_idle(Idle {
            follower: Arc::clone(&self.follower),
            count,
            bytes,
        });
        for oldest in over {
            oldest.follower.release(&self.node, oldest.count);
        }
        if !lingers {
            let (node, follower) = (Arc::clone(&self.node), Arc::clone(&self.follower));
            self.node.runtime.spawn(follower.linger(node));
        }
    }
}

/// A session that is told for as long as this is held.
pub(super) struct Listening<M: Machine> {
    following: Following<M>,
    session: SessionId,
}

impl<M: Machine> Drop for Listening<M> {
    fn drop(&mut self) {
        let mut state = self.following.follower.lock();
        state.listener_by_session.remove(&self.session);
    }
}

impl<M: Machine> Following<M> {
    /// Has a log read; returns once all of it was.
    pub(super) async fn begin(node: &Arc<Node>, key: Key) -> Result<Self, Reject> {
        let following = Self::enter(node, key)?;
        following.read().await?;
        Ok(following)
    }

    /// Waits until all of the log has been read.
    async fn read(&self) -> Result<(), Reject> {
        let mut standing = self.follower.standing.subscribe();
        let known = standing.wait_for(|standing| *standing != Standing::Behind);
        // The value is let go of before anything else is locked.
        let known = self.node.within(known).await?.map(|standing| *standing);
        match known {
            Ok(Standing::Unreadable) => Err(unreadable()),
            _ => Ok(()),
        }
    }

    /// Waits until what was read has that of which another node has told somebody, who may be faster here than the
    /// log, or for as long as that may take: what was lost never comes.
    pub(super) async fn reach(
        &self,
        until: Reached,
        has_it: impl Fn(&M) -> bool,
    ) -> Result<(), Reject> {
        let mut progress = self.watch();
        let reached = async {
            loop {
                progress.borrow_and_update();
                if has_it(&self.lock().machine) || progress.changed().await.is_err() {
                    return;
                }
            }
        };
        let reached = tokio::time::timeout_at(until.0, reached);
        match self.node.within(reached).await? {
            Err(_) if self.node.cluster.is_out() => Err(Late::Slow.into()),
            Err(_) if self.is_behind().await? => Err(unavailable("this node is behind")),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whether the log has more than has been read.
    async fn is_behind(&self) -> Result<bool, Reject> {
        let cursor = self.lock().cursor;
        let next = async {
            let mut tail = self.node.engine.tail(&self.follower.key, cursor).await?;
            Ok::<_, Unavailable>(tail.next().await)
        };
        let next = self.node.within(next).await?;
        let next = next.map_err(|error| unavailable(&error.to_string()))?;
        Ok(!matches!(next, Some(TailEvent::Synced | TailEvent::Reset)))
    }

    fn enter(node: &Arc<Node>, key: Key) -> Result<Self, Reject> {
        let mut followers = lock(&M::followers(node).by_key);
        let follower = match followers.get(&key) {
            Some(follower) => Arc::clone(follower),
            None => {
                if followers.len() >= logs_max(node) {
                    return Err(unavailable(
                        "the node reads as much as it may: try again later",
                    ));
                }
                let follower = Arc::new(Follower::new(key.clone()));
                followers.insert(key, Arc::clone(&follower));
                node.runtime
                    .spawn(Arc::clone(&follower).follow(Arc::clone(node)));
                follower
            }
        };
        follower.lock().users += 1;
        Ok(Self {
            node: Arc::clone(node),
            follower,
        })
    }

    /// The state as it was read last.
    pub(super) fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.follower.lock()
    }

    /// Changes when the log was read further.
    pub(super) fn watch(&self) -> latest::Receiver<()> {
        self.follower.progress.subscribe()
    }

    /// Lets the engine forget the log, unless something was appended since.
    pub(super) async fn retire(&self) -> Result<(), Reject> {
        let cursor = self.lock().cursor;
        let Some(at) = cursor else { return Ok(()) };
        let retired = self.node.engine.retire(&self.follower.key, at);
        let retired = self.node.within(retired).await?;
        retired.map_err(|error| unavailable(&error.to_string()))
    }

    /// Appends an entry and waits until it was read here. One that goes under is appended again, so
    /// entries must be such that the second changes nothing. Of what may be done all the same, now or
    /// later, it is said that nobody knows.
    pub(super) async fn propose(
        &self,
        operation: OperationId,
        purpose: Purpose,
        entry: Bytes,
    ) -> Result<Result<M::Done, M::Illegal>, Reject> {
        let mut is_unsure = false;
        for _ in 0..ATTEMPTS_MAX {
            match self.propose_once(operation, purpose, entry.clone()).await {
                Ok(Outcome::Applied(result)) => return Ok(result),
                Ok(Outcome::Unclear) => is_unsure = true,
                Ok(Outcome::Late) if !is_unsure => return Err(ended()),
                Ok(Outcome::Late | Outcome::Unsure) => return Err(unsure()),
                Err(_) if is_unsure => return Err(unsure()),
                Err(reject) => return Err(reject),
            }
        }
        Err(unsure())
    }

    async fn propose_once(
        &self,
        operation: OperationId,
        purpose: Purpose,
        entry: Bytes,
    ) -> Result<Outcome<M>, Reject> {
        let (node, follower) = (&self.node, &self.follower);
        if node.cluster.is_out() {
            return Err(unavailable("this node is not part of its cluster"));
        }
        let Some(outcome) = self.expect(operation).await? else {
            return Ok(Outcome::Late);
        };
        let _waiting = Waiting {
            follower,
            operation,
        };
        let id = tombolo_engine::OperationId(operation.0);
        let append = node
            .engine
            .append(&follower.key, entry, purpose, Expect::Any, id);
        match node.written(append).await {
            // Whether it was written or not, the log will tell.
            Ok(Ok(_) | Err(AppendError::Unknown)) | Err(Late::Slow) => {}
            Err(Late::Away) => return Ok(Outcome::Unsure),
            Ok(Err(error)) => return Err(unavailable(&error.to_string())),
        }
        match node.within(outcome).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) | Err(_) => Ok(Outcome::Unsure),
        }
    }

    /// Has it told what becomes of an entry; `None` when the log is over. Not while the log is read anew: who is told
    /// looks at the state next, and that would not have the entry yet.
    async fn expect(
        &self,
        operation: OperationId,
    ) -> Result<Option<oneshot::Receiver<Outcome<M>>>, Reject> {
        loop {
            self.read().await?;
            let mut state = self.lock();
            // It is begun anew under the lock.
            if *self.follower.standing.borrow() == Standing::Behind {
                continue;
            }
            if state.is_over {
                return Ok(None);
            }
            let (sender, outcome) = oneshot::channel();
            state.waiting_by_operation.insert(operation, sender);
            return Ok(Some(outcome));
        }
    }

    /// Has a session told from now on. `begin` answers it, and says from where: it sees the state that the
    /// listener is told the changes of.
    pub(super) fn listen(
        self,
        session: &Session,
        begin: impl FnOnce(&M) -> M::Listener,
    ) -> Listening<M> {
        let mut state = self.follower.lock();
        let listener = begin(&state.machine);
        state.listener_by_session.insert(session.id, listener);
        let is_behind = state.tell(&self.node);
        drop(state);
        if is_behind {
            self.follower.is_behind.notify_one();
        }
        Listening {
            session: session.id,
            following: self,
        }
    }
}

/// Forgets that somebody waits.
struct Waiting<'a, M: Machine> {
    follower: &'a Follower<M>,
    operation: OperationId,
}

impl<M: Machine> Drop for Waiting<'_, M> {
    fn drop(&mut self) {
        let waiting = &mut self.follower.lock().waiting_by_operation;
        waiting.remove(&self.operation);
    }
}

impl<M: Machine> Follower<M> {
    fn new(key: Key) -> Self {
        Self {
            key,
            state: Mutex::default(),
            standing: latest::Sender::new(Standing::Behind),
            progress: latest::Sender::new(()),
            stop: Notify::new(),
            is_behind: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        lock(&self.state)
    }

    /// Ends reading when nobody has needed it for a while; somebody else sees to that when it is needed then.
    async fn linger(self: Arc<Self>, node: Arc<Node>) {
        loop {
            let until = self.lock().idle_since + LINGER;
            tokio::time::sleep_until(until).await;
            let mut state = self.lock();
            if state.users == 0 && state.idle_since + LINGER > until {
                continue;
            }
            state.lingers = false;
            let count = state.idle;
            drop(state);
            M::followers(&node).forget_idle(&self, count);
            self.release(&node, count);
            return;
        }
    }

    /// Ends reading, unless somebody has needed it since.
    fn release(self: &Arc<Self>, node: &Node, idle: u64) {
        let mut followers = lock(&M::followers(node).by_key);
        let state = self.lock();
        if state.users == 0 && state.idle == idle {
            let is_it = |found: &Arc<Self>| Arc::ptr_eq(found, self);
            if followers.get(&self.key).is_some_and(is_it) {
                followers.remove(&self.key);
            }
            self.stop.notify_one();
        }
    }

    async fn follow(self: Arc<Self>, node: Arc<Node>) {
        let read = node.attend_log(&self.key, || self.read(&node), || self.begin_anew());
        tokio::select! {
            biased;
            () = self.stop.notified() => {}
            () = read => {}
        }
    }

    async fn read(self: &Arc<Self>, node: &Arc<Node>) {
        let mut is_behind = false;
        'anew: loop {
            let after = self.lock().cursor;
            if let Ok(mut tail) = node.engine.tail(&self.key, after).await {
                loop {
                    tokio::select! {
                        biased;
                        () = self.is_behind.notified() => is_behind = true,
                        event = tail.next() => match event {
                            // Nothing tells when a log that was begun anew has been read, but another
                            // reader of it.
                            Some(TailEvent::Reset) => {
                                self.begin_anew();
                                continue 'anew;
                            }
                            Some(TailEvent::Entry { .. }) if self.begins_another() => {
                                self.begin_anew();
                                continue 'anew;
                            }
                            Some(event) => {
                                is_behind = self.handle_event(node, event);
                                if self.is_unreadable() {
                                    break;
                                }
                            }
                            None => break,
                        },
                        () = tokio::time::sleep(TELL_DELAY), if is_behind => {
                            is_behind = self.lock().tell(node);
                        }
                    }
                }
            }
            if self.is_unreadable() {
                tokio::time::sleep(UNREADABLE_DELAY).await;
                // Perhaps somebody has put a snapshot in its place.
                self.begin_anew();
            } else {
                tokio::time::sleep(TAIL_DELAY).await;
            }
        }
    }

    /// Whether an entry may be of another thing of the same name: the engine has perhaps forgotten the one before. All
    /// of the log is read again then, as others read it who did not know that one.
    fn begins_another(&self) -> bool {
        let state = self.lock();
        let is_synced = *self.standing.borrow() == Standing::Synced;
        is_synced && state.machine.may_begin_anew(state.is_over)
    }

    fn is_unreadable(&self) -> bool {
        *self.standing.borrow() == Standing::Unreadable
    }

    /// Reads the log from its beginning. Until that is done those who know it keep what they have, and others wait.
    fn begin_anew(&self) {
        let mut state = self.lock();
        state.begin_anew();
        // Under the lock, so that nobody waits for an entry meanwhile.
        self.standing.send_replace(Standing::Behind);
    }

    /// Reads a log no further that this release cannot read.
    fn give_up(&self, node: &Node, state: &mut State<M>, why: &'static str) {
        tracing::error!(log = %self.key, why, "log is unreadable");
        node.counters.logs_unreadable.add(1);
        state.give_up_waiting();
        self.standing.send_replace(Standing::Unreadable);
    }

    /// Takes in what the log says; returns whether some listener is behind.
    fn handle_event(self: &Arc<Self>, node: &Arc<Node>, event: TailEvent) -> bool {
        let mut state = self.lock();
        match event {
            TailEvent::Entry { at, entry } => {
                state.cursor = Some(at);
                match state.apply(&entry) {
                    Ok((operation, outcome)) => {
                        if let Some(waiting) = state.waiting_by_operation.remove(&operation) {
                            let _ = waiting.send(outcome);
                        }
                    }
                    // What is of another version changes something there, what is malformed nothing anywhere.
                    Err(EntryError::Version { version: 1.. }) => {
                        self.give_up(node, &mut state, "an entry is of another version");
                    }
                    Err(error) => {
                        tracing::error!(log = %self.key, %error, "bad entry");
                        node.counters.entries_refused.add(1);
                    }
                }
                state.growth.add(&entry);
                if !self.is_unreadable() {
                    self.keep_snapshot(node, &mut state);
                }
            }
            TailEvent::Snapshot { at, state: bytes } => {
                state.cursor = Some(at);
                state.growth = Growth::since(bytes.len());
                match M::restore(&bytes) {
                    Some(machine) => *state.read() = machine,
                    None => self.give_up(node, &mut state, "its snapshot cannot be read"),
                }
                state.give_up_waiting();
            }
            TailEvent::Retired { at } => {
                state.cursor = Some(at);
                state.is_over = true;
            }
            // Begins another tail.
            TailEvent::Reset => {}
            TailEvent::Synced if self.is_unreadable() => {}
            TailEvent::Synced => {
                state.replace();
                self.standing.send_replace(Standing::Synced);
            }
        }
        let is_synced = *self.standing.borrow() == Standing::Synced;
        let is_behind = is_synced && state.tell(node);
        drop(state);
        self.progress.send_replace(());
        is_behind
    }

    /// Now and then, so that logs stay short.
    fn keep_snapshot(self: &Arc<Self>, node: &Arc<Node>, state: &mut State<M>) {
        let Some(at) = state.cursor else { return };
        if !state.growth.is_due(M::SNAPSHOT_ENTRIES) && !state.has_shrunk() {
            return;
        }
        let Some(snapshot) = state.read().snapshot() else {
            return;
        };
        state.growth = Growth::since(snapshot.len());
        state.bytes_before = 0;
        let (follower, node) = (Arc::clone(self), Arc::clone(node));
        node.runtime.clone().spawn(async move {
            if let Err(error) = node.engine.snapshot(&follower.key, at, snapshot).await {
                tracing::debug!(log = %follower.key, %error, "no snapshot");
            }
        });
    }
}

/// How many logs of one kind a node reads: one for each session that is told, and one for each that asks.
pub(super) fn logs_max(node: &Node) -> usize {
    let sessions = node.config.sessions_max;
    sessions.saturating_mul(2).max(IDLE_MAX) + IDLE_MAX
}

/// Not done: whoever finds out anew where things are does it there.
fn ended() -> Reject {
    unavailable("what was written to has ended")
}

fn unreadable() -> Reject {
    unavailable("a later release has written what this node cannot read")
}

/// How long a log may be behind another node's.
const REACH_MAX: Duration = Duration::from_secs(1);

/// How long a log is read that nobody needs.
const LINGER: Duration = Duration::from_secs(10);

/// How often an entry is appended that went under.
const ATTEMPTS_MAX: usize = 4;

/// Between two attempts to tell listeners that are behind.
const TELL_DELAY: Duration = Duration::from_millis(50);

/// Between two attempts to read a log that cannot be read.
const UNREADABLE_DELAY: Duration = Duration::from_secs(30);

/// Between two attempts to read a log.
const TAIL_DELAY: Duration = Duration::from_millis(250);
