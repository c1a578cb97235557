//! One pool on one node: reads its log, appends to it, and knows whose tickets are of devices here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::MissedTickBehavior;
use tombolo_engine::{AppendError, Expect, Key, KeyError, Offset, Purpose, TailEvent, latest};
use tombolo_match::{
    BackfillId, Body, Entry, EntryError, Event, Formed, Illegal, MatchId, Name, OperationId, Pool,
    Rules, TicketId, Time,
};
use tombolo_room::SessionId;
use tombolo_wire::UserId;
use tombolo_wire::v1::{self, ErrorCode};

use super::Devices;
use super::clock::PoolClock;
use super::presence::{self, Suspects};
use super::room::mark_of;
use super::seats::Beginning;
use super::tell::{TURN_INTERVAL, Told, Turn, deliver};
use crate::entropy::NoEntropy;
use crate::lock::lock;
use crate::node::Node;
use crate::patience::Late;
use crate::rate::Bucket;
use crate::reject::Reject;
use crate::requests;
use crate::session::Session;

/// One pool on one node.
pub(crate) struct Desk {
    pub(super) name: Name,
    pub(super) key: Key,
    /// What the ids of its matches begin with.
    pub(super) mark: [u8; 4],
    /// Of whoever is the matcher.
    pub(super) lease: Key,
    rules: Rules,
    state: Mutex<State>,
    /// Grows whenever something was read from the log; 0 until all of it was read once.
    progress: latest::Sender<u64>,
    /// The lease may be free.
    pub(super) is_hurried: Notify,
    pub(super) suspects: Mutex<Suspects>,
    /// Somebody is suspected.
    pub(super) is_suspected: Notify,
    /// Of whoever says next who is seated.
    pub(super) turn_to_say: tokio::sync::Mutex<()>,
}

pub(super) struct State {
    pub(super) pool: Pool,
    /// Of a log that is read anew: what was read of it. Meanwhile the pool is as it was, or empty after a panic.
    pub(super) ahead: Option<Pool>,
    /// Matches of tickets here that were read of then.
    began: Vec<Formed>,
    clock: PoolClock,
    /// The last entry that was read.
    pub(super) cursor: Option<Offset>,
    /// Entries since the last snapshot.
    entries: usize,
    /// A snapshot is on its way to the engine.
    is_keeping: bool,
    /// A later release has written here what this one cannot read.
    is_unreadable: bool,
    /// This node is the matcher.
    pub(super) is_leading: bool,
    waiting_by_operation: BTreeMap<OperationId, Waiting>,
    /// The tickets of devices on this node.
    pub(super) here: BTreeMap<TicketId, Here>,
    /// Running matches that ask for more users, and the device here that did.
    pub(super) asker_by_backfill: BTreeMap<BackfillId, SessionId>,
    pub(super) beginning: BTreeMap<MatchId, Beginning>,
    /// Matches of which is yet to be said that their users have their seats.
    pub(super) unsaid: BTreeSet<MatchId>,
    /// What answers to devices that ask why may still take; `None` until one does.
    pub(super) comparisons: Option<Bucket>,
}

/// A ticket of devices on this node.
#[derive(Default)]
pub(super) struct Here {
    pub(super) devices: Devices,
    /// Those that have asked for it by name. They are told of it even when the pool has another session of their
    /// user, as when what an earlier one asked for is written after them.
    pub(super) asked: Devices,
    /// What they were told last.
    pub(super) status: Option<v1::TicketStatus>,
}

/// Somebody here waits for an entry to be applied.
struct Waiting {
    /// The device that is answered, and which of its requests.
    asker: Option<Asker>,
    outcome: oneshot::Sender<Outcome>,
}

/// A request of a device.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) session: Arc<Session>,
    pub(super) request: u64,
}

/// How an appended entry fared.
enum Outcome {
    Applied(Result<(), Illegal>),
    /// It went under in a state that somebody else made.
    Unclear,
    /// Nobody says what became of it.
    Unsure,
}

impl Desk {
    pub(super) fn new(rules: Rules, digest: &str) -> Result<Self, KeyError> {
        let name = rules.name.clone();
        let state = State {
            pool: Pool::new(rules.clone()),
            ahead: None,
            began: Vec::new(),
            clock: PoolClock::new(Time::ZERO),
            cursor: None,
            entries: 0,
            is_keeping: false,
            is_unreadable: false,
            is_leading: false,
            waiting_by_operation: BTreeMap::new(),
            here: BTreeMap::new(),
            asker_by_backfill: BTreeMap::new(),
            beginning: BTreeMap::new(),
            unsaid: BTreeSet::new(),
            comparisons: None,
        };
        let key = Key::new(["pool", name.as_str(), digest])?;
        Ok(Self {
            mark: mark_of(&key),
            key,
            lease: Key::new(["matcher", name.as_str(), digest])?,
            name,
            rules,
            state: Mutex::new(state),
            progress: latest::Sender::new(0),
            is_hurried: Notify::new(),
            suspects: Mutex::default(),
            is_suspected: Notify::new(),
            turn_to_say: tokio::sync::Mutex::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Changes when the log was read further.
    pub(super) fn watch(&self) -> latest::Receiver<u64> {
        self.progress.subscribe()
    }

    /// The lease may be free: whoever waits for it looks at once.
    pub(super) fn hurry(&self) {
        self.is_hurried.notify_one();
    }

    /// Waits until all of the log has been read once.
    pub(super) async fn synced(&self, node: &Node) -> Result<(), Reject> {
        let mut progress = self.progress.subscribe();
        let synced = progress.wait_for(|progress| *progress > 0);
        let _ = node.within(synced).await?;
        if self.lock().is_unreadable {
            return Err(unavailable("a later release serves this pool"));
        }
        Ok(())
    }

    /// Whether what is known of the pool is all that its log says.
    pub(super) fn is_readable(&self) -> bool {
        let state = self.lock();
        self.is_read() && state.ahead.is_none() && !state.is_unreadable
    }

    /// Whether all of the log has been read once. What was, is let go of under the lock only.
    pub(super) fn is_read(&self) -> bool {
        *self.progress.borrow() > 0
    }

    /// Waits until the log has been read so far.
    pub(super) async fn read_until(&self, at: Offset) {
        let mut progress = self.progress.subscribe();
        while self.lock().cursor < Some(at) {
            if progress.changed().await.is_err() {
                return;
            }
        }
    }

    /// Appends an entry and waits until it was read here; a device that asked is answered then, if the
    /// entry changed something. One that goes under is appended again, so entries must be such that the
    /// second changes nothing. Of what may be done all the same, now or later, it is said that nobody knows.
    pub(super) async fn propose(
        &self,
        node: &Node,
        body: Body,
        asker: Option<Asker>,
    ) -> Result<Result<(), Illegal>, Reject> {
        let mut is_unsure = false;
        for _ in 0..ATTEMPTS_MAX {
            match self.propose_once(node, body.clone(), asker.clone()).await {
                Ok(Outcome::Applied(result)) => return Ok(result),
                Ok(Outcome::Unclear) => is_unsure = true,
                Ok(Outcome::Unsure) => return Err(nobody_knows(&body)),
                Err(_) if is_unsure => return Err(nobody_knows(&body)),
                Err(reject) => return Err(reject),
            }
        }
        Err(nobody_knows(&body))
    }

    /// Appends an entry, however long it takes the engine to take it in, and returns what came of it; `None` when this
    /// node is out of its cluster, or cannot read that.
    pub(super) async fn insist(&self, node: &Node, body: Body) -> Option<Result<(), Illegal>> {
        while !node.cluster.is_out() && !self.lock().is_unreadable {
            match self.propose(node, body.clone(), None).await {
                Ok(outcome) => return Some(outcome),
                Err(_) => tokio::time::sleep(RETRY_DELAY).await,
            }
        }
        None
    }

    async fn propose_once(
        &self,
        node: &Node,
        body: Body,
        asker: Option<Asker>,
    ) -> Result<Outcome, Reject> {
        if node.cluster.is_out() {
            return Err(unavailable("this node is not part of its cluster"));
        }
        let operation = operation_id(node)?;
        let (sender, outcome) = oneshot::channel();
        let waiting = Waiting {
            asker,
            outcome: sender,
        };
        self.lock().waiting_by_operation.insert(operation, waiting);
        let _forget = Forget {
            desk: self,
            operation,
        };
        let time = self.lock().time(node);
        let purpose = purpose(&body);
        let entry = Entry { time, body }.encode(operation);
        let name = tombolo_engine::OperationId(operation.0);
        let (engine, key) = (&node.engine, &self.key);
        let append = engine.append(key, entry, purpose, Expect::Any, name);
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

    /// Does what is to be done about the pool for as long as it runs: reads its log, takes part in leading it, and tells
    /// it who is away. All of that is about one state, so when something of it panics all begins anew.
    pub(super) async fn attend(self: Arc<Self>, node: Arc<Node>) {
        let run = || async {
            tokio::join!(
                self.read(&node),
                self.lead(&node),
                presence::watch(&self, &node)
            );
        };
        node.attend_log(&self.key, run, || self.let_go()).await;
    }

    /// Lets go of what was made of the log, since that may be half changed: nothing of it is answered, claimed or kept,
    /// and the lease is left to others until all has been read again.
    fn let_go(&self) {
        let mut state = self.lock();
        self.read_anew(&mut state);
        state.pool = Pool::new(self.rules.clone());
        state.clock = PoolClock::new(Time::ZERO);
        state.is_leading = false;
        self.progress.send_replace(0);
    }

    async fn read(self: &Arc<Self>, node: &Arc<Node>) {
        let mut status = tokio::time::interval(TURN_INTERVAL);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = Turn::default();
        'anew: loop {
            let after = self.lock().cursor;
            if let Ok(mut tail) = node.engine.tail(&self.key, after).await {
                loop {
                    // What it has begun to read is not given up for others' turns.
                    let mut next = tail.next();
                    let event = loop {
                        tokio::select! {
                            biased;
                            event = &mut next => break event,
                            // Not before all was read: what panics here must not keep that from being done.
                            _ = status.tick(), if self.is_readable() => {
                                let told = self.lock().tell_status(&self.name, turn);
                                deliver(node, self, told);
                                turn = turn.next();
                            }
                        }
                    };
                    match event {
                        // Nothing tells when a log that was begun anew has been read, but another
                        // reader of it.
                        Some(TailEvent::Reset) => {
                            self.read_anew(&mut self.lock());
                            continue 'anew;
                        }
                        Some(event) => self.handle_event(node, event),
                        None => break,
                    }
                }
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    /// Reads the log from its beginning. Until that is done the pool stays as it is.
    fn read_anew(&self, state: &mut State) {
        state.cursor = None;
        state.entries = 0;
        state.is_unreadable = false;
        state.ahead = Some(Pool::new(self.rules.clone()));
        state.began = Vec::new();
    }

    fn handle_event(self: &Arc<Self>, node: &Arc<Node>, event: TailEvent) {
        let mut told = Vec::new();
        let is_synced = *self.progress.borrow() > 0 || event == TailEvent::Synced;
        let mut state = self.lock();
        match event {
            TailEvent::Entry { at, entry } => {
                state.cursor = Some(at);
                state.handle_entry(node, &self.name, &entry, &mut told);
                self.keep_snapshot(node, &mut state, at);
            }
            TailEvent::Snapshot { at, state: bytes } => {
                state.cursor = Some(at);
                match (Pool::restore(self.rules.clone(), &bytes), &mut state.ahead) {
                    (Ok(pool), Some(ahead)) => *ahead = pool,
                    (Ok(pool), None) => state.begin_anew(node, &self.name, pool, &mut told),
                    (Err(error), _) => {
                        tracing::error!(log = %self.key, %error, "bad snapshot");
                        state.is_unreadable = true;
                    }
                }
            }
            TailEvent::Retired { at } => state.cursor = Some(at),
            // Begins another tail.
            TailEvent::Reset => {}
            // A snapshot that can be read may come yet.
            TailEvent::Synced if state.is_unreadable => state.ahead = None,
            TailEvent::Synced => {
                if let Some(pool) = state.ahead.take() {
                    state.tell_began(node, &self.name, &pool, &mut told);
                    state.begin_anew(node, &self.name, pool, &mut told);
                }
            }
        }
        let is_synced = is_synced && state.ahead.is_none();
        drop(state);
        // Before progress: who waits for an entry finds that its devices were told.
        deliver(node, self, told);
        if is_synced {
            self.progress.send_modify(|progress| *progress += 1);
        }
    }

    /// Now and then, so that the log stays short.
    fn keep_snapshot(self: &Arc<Self>, node: &Arc<Node>, state: &mut State, at: Offset) {
        state.entries += 1;
        let due = state.pool.ticket_count() / TICKETS_PER_ENTRY;
        let due = due.clamp(SNAPSHOT_ENTRIES, SNAPSHOT_ENTRIES_MAX);
        if state.ahead.is_some()
            || !state.is_leading
            || state.entries < due
            || state.is_unreadable
            || state.is_keeping
        {
            return;
        }
        state.entries = 0;
        state.is_keeping = true;
        let snapshot = state.pool.snapshot();
        let (desk, node) = (Arc::clone(self), Arc::clone(node));
        node.runtime.clone().spawn(async move {
            let Keeping(desk) = &Keeping(desk);
            if let Err(error) = node.engine.snapshot(&desk.key, at, snapshot).await {
                tracing::warn!(log = %desk.key, %error, "no snapshot");
            }
        });
    }
}

impl State {
    /// What time it is in the pool.
    pub(super) fn time(&self, node: &Node) -> Time {
        let own = Time::from_millis(node.time().as_millis());
        self.clock.time(&self.pool, own)
    }

    /// The match that a ticket of a user has found lately, while seats are kept in its room.
    pub(super) fn begun(
        &self,
        node: &Node,
        ticket: &TicketId,
        user: &UserId,
    ) -> Option<Arc<Formed>> {
        let formed = self.pool.begun(ticket, user, self.time(node))?;
        Some(Arc::new(formed))
    }

    fn handle_entry(&mut self, node: &Node, pool: &Name, entry: &[u8], told: &mut Vec<Told>) {
        if self.is_unreadable {
            return;
        }
        let (operation, entry) = match Entry::decode(entry) {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::error!(%pool, %error, "bad entry");
                self.is_unreadable = matches!(error, EntryError::Version { .. });
                return;
            }
        };
        if let Some(ahead) = &mut self.ahead {
            // Devices know, or find out when all has been read; who waits here asks again then.
            let events = ahead.apply(&entry).events;
            self.note_began(events);
            return;
        }
        let applied = self.pool.apply(&entry);
        self.clock.follow(&self.pool, entry.time);
        let waiting = self.waiting_by_operation.remove(&operation);
        let asker = waiting.as_ref().and_then(|waiting| waiting.asker.as_ref());
        if applied.outcome.is_ok() {
            self.note(node, &entry.body, asker);
            if let Some(asker) = asker {
                told.push(self.answer(&entry.body, asker));
                told.extend(self.ask_again(pool, &entry.body, asker));
            }
        }
        let but = asker.map(|asker| asker.session.id);
        for event in applied.events {
            self.tell(node, pool, event, but, told);
        }
        if let Body::Seated(seated) = &entry.body {
            for id in seated {
                self.tell_seated(*id, told);
            }
        }
        if let Some(waiting) = waiting {
            let _ = waiting.outcome.send(Outcome::Applied(applied.outcome));
        }
    }

    fn note_began(&mut self, events: Vec<Event>) {
        for event in events {
            if let Event::Matched(formed) = event
                && formed
                    .parties()
                    .any(|party| self.here.contains_key(&party.ticket))
            {
                self.began.push(*formed);
            }
        }
    }

    /// Tells of matches that began without this node's having heard of it.
    fn tell_began(&mut self, node: &Node, name: &Name, pool: &Pool, told: &mut Vec<Told>) {
        for formed in std::mem::take(&mut self.began) {
            let has_gone = |ticket| self.here.contains_key(ticket) && pool.ticket(ticket).is_none();
            if formed.parties().any(|party| has_gone(&party.ticket)) {
                let event = Event::Matched(Box::new(formed));
                self.tell(node, name, event, None, told);
            }
        }
    }

    /// Takes over a state that somebody else made.
    fn begin_anew(&mut self, node: &Node, name: &Name, pool: Pool, told: &mut Vec<Told>) {
        self.clock = PoolClock::new(pool.clock());
        self.pool = pool;
        self.entries = 0;
        self.is_unreadable = false;
        for waiting in std::mem::take(&mut self.waiting_by_operation).into_values() {
            let _ = waiting.outcome.send(Outcome::Unclear);
        }
        let pool = &self.pool;
        self.asker_by_backfill
            .retain(|id, _| pool.generation(id).is_some());
        self.recount(node, name, told);
        // What was to be told of a match, or done for it, may have been let go of; it is the same when it is done twice.
        let beginning = self.beginning.values();
        told.extend(beginning.map(|beginning| Told::Begins(Arc::clone(&beginning.formed))));
    }
}

/// A snapshot is on its way to the engine for as long as this is held.
struct Keeping(Arc<Desk>);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.lock().is_keeping = false;
    }
}

/// Forgets that somebody waits.
struct Forget<'a> {
    desk: &'a Desk,
    operation: OperationId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let waiting = &mut self.desk.lock().waiting_by_operation;
        waiting.remove(&self.operation);
    }
}

pub(super) fn operation_id(node: &Node) -> Result<OperationId, Reject> {
    match node.config.entropy.operation_id() {
        Ok(id) => Ok(OperationId(id.0)),
        Err(NoEntropy) => Err(unavailable("no entropy")),
    }
}

pub(super) fn unavailable(message: &str) -> Reject {
    Reject::new(ErrorCode::Unavailable, message)
}

/// What a device is told of an entry that may have been written: what does no harm when it is asked for again is so.
fn nobody_knows(body: &Body) -> Reject {
    let makes_more = matches!(
        body,
        Body::Submitted(_) | Body::Changed { .. } | Body::Backfill(_)
    );
    match makes_more {
        true => requests::unsure(),
        false => requests::no_answer(),
    }
}

/// Whether something ends by an entry of a pool's log.
pub(super) fn purpose(body: &Body) -> Purpose {
    match body {
        Body::Cancelled(_)
        | Body::Dropped { .. }
        | Body::NodeLost { .. }
        | Body::Claimed(_)
        | Body::Answered { .. }
        | Body::Closed(_)
        | Body::Seated(_)
        | Body::Unseated(_)
        | Body::Ticked => Purpose::End,
        Body::Submitted(_)
        | Body::Changed { .. }
        | Body::Returned { .. }
        | Body::Reached { .. }
        | Body::Backfill(_)
        | Body::Renewed { .. } => Purpose::More,
    }
}

/// After how many entries the pool is kept in their place, when it is small.
const SNAPSHOT_ENTRIES: usize = 8192;

/// And when it is large: engines take only so many more.
const SNAPSHOT_ENTRIES_MAX: usize = 32_768;

/// A large pool is kept when there are as many entries as this part of its tickets: a snapshot has all of
/// them, and must not cost more than what it replaces.
const TICKETS_PER_ENTRY: usize = 2;

/// How often an entry is appended that went under.
const ATTEMPTS_MAX: usize = 4;

/// Between two attempts to read the log, or to append to it.
pub(super) const RETRY_DELAY: Duration = Duration::from_millis(250);
