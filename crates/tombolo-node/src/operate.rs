//! What operators do to the nodes of a cluster, over any one of them.
//!
//! Each node answers on the bus, `operate.<name>`. What is asked there is what its admin socket is asked,
//! so that it does not matter at which node an operator is. The bus is for nodes alone.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout_at};
use tombolo_engine::{Engine, Key, RequestError};
use tombolo_relay::{Relay, RelayStats};
use tombolo_services::{
    self as services, NodeRecord, NodeState, Notified, Reject, RoomInfo, Services, SessionInfo,
};
use tombolo_turn::server::Drain;
use tombolo_wire::{NodeId, TagName};

/// Operates the nodes of a cluster. Clones are the same.
#[derive(Clone)]
pub struct Operator {
    services: Services,
    engine: Arc<dyn Engine>,
    /// An operator does not keep a node's relay.
    relay: Weak<Relay>,
    /// Where clients reach that.
    turn: Arc<[SocketAddr]>,
    drain: Arc<Mutex<Option<watch::Receiver<Draining>>>>,
}

/// A node and what it does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Which of its lives.
    pub epoch: u64,
    /// `alive`, `draining`, `fenced` or `gone`.
    pub state: String,
    /// Where devices connect.
    pub url: String,
    /// Where it is.
    pub region: String,
    /// Its program's version.
    pub release: String,
    /// What it took of all cores when it last said so, in thousandths.
    pub cpu_permille: u32,
    /// What it says of itself; `None` when it does not answer.
    pub now: Option<Now>,
}

/// What a node does at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Now {
    /// Sessions.
    pub sessions: usize,
    /// Rooms with members there.
    pub rooms: usize,
    /// Allocations of its relay.
    pub allocations: u64,
    /// How its drain goes, if it drains.
    pub drain: Option<Draining>,
}

/// How a drain goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Draining {
    /// Whether it is over.
    pub is_over: bool,
    /// Sessions that went in time.
    pub moved: usize,
    /// Sessions that were still there when the time was up.
    pub sessions_left: usize,
    /// Allocations that were still there when the time was up.
    pub allocations_left: u64,
}

/// A user's session, on which node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct UserStatus {
    /// The user; there may be several sessions of one.
    pub user: String,
    /// Where the session is.
    pub node: String,
    /// Whether a device is connected.
    pub connected: bool,
    /// In how many rooms it is.
    pub rooms: usize,
}

/// A room with members.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct RoomStatus {
    /// Its name.
    pub room: String,
    /// Members on all nodes.
    pub members: usize,
    /// Members at most.
    pub members_max: u32,
    /// The nodes that host it.
    pub nodes: Vec<String>,
}

/// Some of many.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Page<T> {
    /// How many there are.
    pub total: usize,
    /// Some of them, in order.
    pub items: Vec<T>,
    /// Nodes that did not answer: what they have is missing.
    pub silent: Vec<String>,
}

/// Which of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Of this node alone.
    pub node: Option<NodeId>,
    /// After this name, in place of a number to leave out: whoever comes and goes meanwhile moves no page.
    pub after: Option<String>,
    /// Leaves out so many.
    pub skip: usize,
    /// So many at most.
    pub count: usize,
}

/// How many devices of a node were asked to go on over others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Asked {
    /// The node.
    pub node: String,
    /// Its sessions before.
    pub sessions: usize,
    /// How many were asked.
    pub asked: usize,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperateError {
    /// No node of that name takes part.
    #[error("there is no node {0} in the cluster")]
    NoSuchNode(NodeId),
    /// The node did not answer.
    #[error("node {0} does not answer")]
    Silent(NodeId),
    /// The engine did not answer.
    #[error("the engine does not answer")]
    Unavailable,
    /// More was asked for than is told at once.
    #[error("at most the first {RANGE_MAX} of all nodes are told: name a node to see more of it")]
    TooFar,
}

/// What a node is to count: what it has, or of that what no other node counts.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Total {
    OfNode,
    OfCluster,
}

/// What one node asks another.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
enum Ask {
    Now,
    Drain {
        timeout_ms: u64,
    },
    Users {
        skip: usize,
        count: usize,
    },
    Rooms {
        skip: usize,
        count: usize,
        total: Total,
    },
    UsersAfter {
        after: String,
        count: usize,
    },
    RoomsAfter {
        after: String,
        count: usize,
        total: Total,
    },
    Move {
        count: usize,
    },
    /// Where TURN clients reach it.
    Turn,
}

impl Operator {
    pub(crate) fn new(
        services: Services,
        engine: Arc<dyn Engine>,
        relay: &Arc<Relay>,
        turn: Vec<SocketAddr>,
    ) -> Self {
        Self {
            services,
            engine,
            relay: Arc::downgrade(relay),
            turn: turn.into(),
            drain: Arc::default(),
        }
    }

    /// Tells something to users with a tag, or to everybody for `all`, until it expires.
    ///
    /// # Errors
    /// It is too long, or the engine does not answer.
    pub async fn notify(
        &self,
        to: &TagName,
        payload: Bytes,
        lasts: Duration,
    ) -> Result<Notified, Reject> {
        self.services.notify(to, None, payload, lasts).await
    }

    /// All nodes that the cluster remembers, by name, with what they do at the moment.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn nodes(&self) -> Result<Vec<NodeStatus>, OperateError> {
        let records = self.records().await?;
        let now = self.ask_all(&records, Ask::Now).await;
        let statuses = records.into_iter().zip(now);
        let statuses = statuses.map(|(record, (_, now))| status(record, now));
        Ok(statuses.collect())
    }

    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    /// One node.
    ///
    /// # Errors
    /// There is none of that name, or the engine does not answer.
    pub async fn node(&self, name: &NodeId) -> Result<NodeStatus, OperateError> {
        let record = self.record(name).await?;
        // A node that has left its cluster may still be asked.
        let now = self.ask(name, Ask::Now).await.ok();
        Ok(status(record, now))
    }

    /// Has a node empty itself within that time; returns at once. It goes on to answer
    /// [`Operator::node`].
    ///
    /// # Errors
    /// There is none of that name, it does not answer, or the engine does not.
    pub async fn drain(&self, name: &NodeId, time: Duration) -> Result<(), OperateError> {
        let timeout_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let asked: Result<Now, _> = self.ask(name, Ask::Drain { timeout_ms }).await;
        if let Err(OperateError::Silent(_)) = asked {
            // A name that is no node's is silent, too.
            self.record(name).await?;
        }
        asked.map(drop)
    }

    /// The users that have sessions.
    ///
    /// # Errors
    /// The engine does not answer, or a node that is named does not.
    pub async fn users(&self, range: &Range) -> Result<Page<UserStatus>, OperateError> {
        let ask = |skip, count| match range.after.clone() {
            Some(after) => Ask::UsersAfter { after, count },
            None => Ask::Users { skip, count },
        };
        let mut page: Page<UserStatus> = self.gather(range, ask).await?;
        page.items
            .sort_by(|a, b| (&a.user, &a.node).cmp(&(&b.user, &b.node)));
        if range.after.is_some() {
            // All sessions of a user are on one page: the next one begins after the user.
            let last = range.count.checked_sub(1);
            if let Some(last) = last.and_then(|last| page.items.get(last)) {
                let last = last.user.clone();
                page.items.retain(|item| item.user <= last);
            }
            return Ok(page);
        }
        Ok(page.cut(range))
    }

    /// The rooms that have members.
    ///
    /// # Errors
    /// The engine does not answer, or a node that is named does not.
    pub async fn rooms(&self, range: &Range) -> Result<Page<RoomStatus>, OperateError> {
        let total = match range.node {
            Some(_) => Total::OfNode,
            None => Total::OfCluster,
        };
        let ask = |skip, count| match range.after.clone() {
            Some(after) => Ask::RoomsAfter {
                after,
                count,
                total,
            },
            None => Ask::Rooms { skip, count, total },
        };
        let mut page: Page<RoomStatus> = self.gather(range, ask).await?;
        page.items.sort_by(|a, b| a.room.cmp(&b.room));
        page.items.dedup_by(|next, kept| {
            let is_same = next.room == kept.room;
            if is_same {
                kept.nodes.append(&mut next.nodes);
                kept.members = kept.members.max(next.members);
            }
            is_same
        });
        Ok(page.cut(range))
    }

    /// Asks nodes with more sessions than the others to have some devices go on over those.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn rebalance(&self) -> Result<Vec<Asked>, OperateError> {
        let mut records = self.records().await?;
        records.retain(|record| record.state == NodeState::Alive);
        let now: Vec<(NodeId, Option<Now>)> = self.ask_all(&records, Ask::Now).await;
        let busy = now.into_iter();
        let busy: Vec<_> = busy
            .filter_map(|(name, now)| Some((name, now?.sessions)))
            .collect();
        let all: usize = busy.iter().map(|(_, sessions)| sessions).sum();
        let share = all.div_ceil(busy.len().max(1));
        let mut answers = Vec::new();
        for (name, sessions) in busy {
            let count = sessions.saturating_sub(share);
            let asked = match count {
                0 => 0,
                // Whoever does not answer has been asked, or will be the next time.
                count => self.ask(&name, Ask::Move { count }).await.unwrap_or(0),
            };
            answers.push(Asked {
                node: name.to_string(),
                sessions,
                asked,
            });
        }
        Ok(answers)
    }

    /// Empties this node, and returns how that went. Other nodes must be there to take its devices.
    pub async fn drain_here(&self, time: Duration) -> Draining {
        let mut state = self.begin_drain(time);
        let over = state.wait_for(|draining| draining.is_over).await;
        over.map_or_else(|_| Draining::default(), |over| *over)
    }

    /// Whether other nodes would take this node's devices.
    pub async fn has_others(&self) -> bool {
        let nodes = self.services.nodes().await.unwrap_or_default();
        let mut others = nodes
            .iter()
            .filter(|node| node.name != *self.services.name());
        others.any(|node| node.state == NodeState::Alive)
    }

    /// Begins to empty this node, unless that has begun.
    fn begin_drain(&self, time: Duration) -> watch::Receiver<Draining> {
        // The clock does not reach as far as a duration.
        let time = time.min(CLOCK_MAX);
        let mut drain = self.drain.lock().unwrap_or_else(PoisonError::into_inner);
        let state = drain.get_or_insert_with(|| {
            let (sender, receiver) = watch::channel(Draining::default());
            let operator = self.clone();
            tokio::spawn(async move {
                let drained = operator.empty(time).await;
                sender.send_replace(drained);
            });
            receiver
        });
        state.clone()
    }

    async fn empty(&self, time: Duration) -> Draining {
        let end = Instant::now() + time;
        let ((), drained) = tokio::join!(self.drain_relay(), self.services.drain(time));
        let mut relay = self.relay_stats().await;
        while (allocations(&relay) > 0 || relay.silent_shards > 0) && Instant::now() < end {
            sleep(POLL.min(end - Instant::now())).await;
            relay = self.relay_stats().await;
        }
        Draining {
            is_over: true,
            moved: drained.moved,
            sessions_left: drained.left,
            allocations_left: allocations(&relay),
        }
    }

    /// Has the relay send newcomers to those of other nodes (RFC 8489 §10).
    async fn drain_relay(&self) {
        let mut drain = Drain::default();
        self.drain_relay_so(drain.clone()).await;
        drain.alternates = self.other_relays().await;
        if !drain.alternates.is_empty() {
            self.drain_relay_so(drain).await;
        }
    }

    async fn drain_relay_so(&self, drain: Drain) {
        let relay = self.relay.clone();
        // It fails only if it panicked, which it has said itself.
        let _ = spawn_blocking(move || {
            if let Some(relay) = relay.upgrade() {
                relay.drain(&drain);
            }
        })
        .await;
    }

    /// Where clients reach the relays of nodes that take newcomers.
    async fn other_relays(&self) -> Vec<SocketAddr> {
        let mut records = self.records().await.unwrap_or_default();
        records.retain(|record| {
            record.state == NodeState::Alive && record.name != *self.services.name()
        });
        let answers = self
            .ask_all::<Vec<SocketAddr>>(&records, Ask::Turn)
            .await
            .into_iter();
        let relays = answers.flat_map(|(_, relays)| relays.unwrap_or_default());
        relays.take(ALTERNATES_MAX).collect()
    }

    async fn relay_stats(&self) -> RelayStats {
        let relay = self.relay.clone();
        let stats = spawn_blocking(move || relay.upgrade().map(|relay| relay.stats()));
        stats.await.ok().flatten().unwrap_or_default()
    }

    async fn now(&self) -> Now {
        let allocations = allocations(&self.relay_stats().await);
        let stats = self.services.stats();
        let drain = self.drain.lock().unwrap_or_else(PoisonError::into_inner);
        let drain = drain.as_ref().map(|state| *state.borrow());
        Now {
            sessions: stats.sessions,
            rooms: stats.rooms,
            allocations,
            drain,
        }
    }

    /// Answers other nodes, and this one, for as long as it runs.
    pub(crate) async fn serve(self) {
        let Ok(subject) = subject(self.services.name()) else {
            return;
        };
        loop {
            if let Ok(mut server) = self.engine.serve(&subject, REQUESTS_MAX).await {
                while let Some(request) = server.next().await {
                    // What is malformed gets no answer: no node sends such a thing.
                    if let Ok(ask) = serde_json::from_slice(&request.payload)
                        && let Some(answer) = self.answer(ask).await
                    {
                        request.answer(answer.into());
                    }
                }
            }
            sleep(RETRY_DELAY).await;
        }
    }

    async fn answer(&self, ask: Ask) -> Option<Vec<u8>> {
        let answer = match ask {
            Ask::Now => serde_json::to_vec(&self.now().await),
            Ask::Drain { timeout_ms } => {
                self.begin_drain(Duration::from_millis(timeout_ms).min(DRAIN_MAX));
                serde_json::to_vec(&self.now().await)
            }
            Ask::Users { skip, count } => {
                self.tell_users(self.services.sessions(skip, count.min(RANGE_MAX)))
            }
            Ask::UsersAfter { after, count } => {
                let count = count.min(RANGE_MAX);
                self.tell_users(self.services.sessions_after(&after, count))
            }
            Ask::Rooms { skip, count, total } => {
                let page = self.services.rooms_here(skip, count.min(RANGE_MAX));
                self.tell_rooms(page, total)
            }
            Ask::RoomsAfter {
                after,
                count,
                total,
            } => {
                let page = self.services.rooms_after(&after, count.min(RANGE_MAX));
                self.tell_rooms(page, total)
            }
            Ask::Move { count } => serde_json::to_vec(&self.services.rebalance(count)),
            Ask::Turn => serde_json::to_vec(&*self.turn),
        };
        answer.ok()
    }

    fn tell_users(&self, page: services::Page<SessionInfo>) -> serde_json::Result<Vec<u8>> {
        let node = self.services.name().to_string();
        let items = page.items.into_iter().map(|session| UserStatus {
            user: session.user,
            node: node.clone(),
            connected: session.is_connected,
            rooms: session.rooms,
        });
        serde_json::to_vec(&Page::new(page.total, items.collect()))
    }

    fn tell_rooms(
        &self,
        page: services::Page<RoomInfo>,
        total: Total,
    ) -> serde_json::Result<Vec<u8>> {
        let total = match total {
            Total::OfNode => page.total,
            Total::OfCluster => self.services.rooms_counted(),
        };
        let node = self.services.name().to_string();
        let items = page.items.into_iter().map(|room| RoomStatus {
            room: room.room,
            members: room.members,
            members_max: room.members_max,
            nodes: vec![node.clone()],
        });
        serde_json::to_vec(&Page::new(total, items.collect()))
    }

    async fn record(&self, name: &NodeId) -> Result<NodeRecord, OperateError> {
        let mut records = self.records().await?.into_iter();
        let record = records.find(|record| record.name == *name);
        record.ok_or_else(|| OperateError::NoSuchNode(name.clone()))
    }

    async fn records(&self) -> Result<Vec<NodeRecord>, OperateError> {
        let records = self.services.nodes().await;
        records.map_err(|_| OperateError::Unavailable)
    }

    async fn ask<T: DeserializeOwned>(&self, name: &NodeId, ask: Ask) -> Result<T, OperateError> {
        let silent = || OperateError::Silent(name.clone());
        let subject = subject(name).map_err(|_| silent())?;
        let payload = serde_json::to_vec(&ask).map_err(|_| silent())?;
        let answer = self
            .engine
            .request(&subject, payload.into(), ANSWER_TIMEOUT)
            .await;
        let answer = answer.map_err(|error| {
            if error == RequestError::Unavailable {
                OperateError::Unavailable
            } else {
                silent()
            }
        })?;
        serde_json::from_slice(&answer).map_err(|_| silent())
    }

    /// Asks all nodes that may answer at the same time; in the order of their records.
    async fn ask_all<T: DeserializeOwned + Send + 'static>(
        &self,
        records: &[NodeRecord],
        ask: Ask,
    ) -> Vec<(NodeId, Option<T>)> {
        let end = Instant::now() + ANSWER_TIMEOUT;
        let mut tasks = JoinSet::new();
        for (index, record) in records.iter().enumerate() {
            if is_up(record) {
                let (operator, name, ask) = (self.clone(), record.name.clone(), ask.clone());
                tasks.spawn(async move {
                    let answer = timeout_at(end, operator.ask(&name, ask)).await;
                    (index, answer.ok().and_then(Result::ok))
                });
            }
        }
        let names = records.iter().map(|record| (record.name.clone(), None));
        let mut answers: Vec<(NodeId, Option<T>)> = names.collect();
        while let Some(joined) = tasks.join_next().await {
            if let Ok((index, answer)) = joined
                && let Some((_, known)) = answers.get_mut(index)
            {
                *known = answer;
            }
        }
        answers
    }

    /// What nodes have, as much as may be shown.
    async fn gather<T: DeserializeOwned + Send + 'static>(
        &self,
        range: &Range,
        ask: impl Fn(usize, usize) -> Ask,
    ) -> Result<Page<T>, OperateError> {
        if let Some(node) = &range.node {
            return self.ask(node, ask(range.skip, range.count)).await;
        }
        let skipped = if range.after.is_some() { 0 } else { range.skip };
        let needed = skipped.saturating_add(range.count);
        if needed > RANGE_MAX {
            return Err(OperateError::TooFar);
        }
        let mut records = self.records().await?;
        records.retain(is_up);
        let answers = self.ask_all::<Page<T>>(&records, ask(0, needed)).await;
        let mut all = Page::new(0, Vec::new());
        for (name, answer) in answers {
            match answer {
                Some(page) => {
                    all.total += page.total;
                    all.items.extend(page.items);
                }
                None => all.silent.push(name.to_string()),
            }
        }
        Ok(all)
    }
}

impl<T> Page<T> {
    fn new(total: usize, items: Vec<T>) -> Self {
        Self {
            total,
            items,
            silent: Vec::new(),
        }
    }

    /// What was asked for, of what all nodes have; one node's answer is that already.
    fn cut(mut self, range: &Range) -> Self {
        if range.node.is_none() && range.after.is_none() {
            self.items = self.items.into_iter().skip(range.skip).collect();
        }
        self.items.truncate(range.count);
        self
    }
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator")
            .field("node", self.services.name())
            .finish_non_exhaustive()
    }
}

fn is_up(record: &NodeRecord) -> bool {
    matches!(record.state, NodeState::Alive | NodeState::Draining)
}

fn status(record: NodeRecord, now: Option<Now>) -> NodeStatus {
    NodeStatus {
        name: record.name.to_string(),
        epoch: record.epoch,
        state: record.state.as_str().to_owned(),
        url: record.url,
        region: record.region,
        release: record.release,
        cpu_permille: record.cpu_permille,
        now,
    }
}

/// Where a node answers operators.
fn subject(node: &NodeId) -> Result<Key, tombolo_engine::KeyError> {
    Key::new(["operate", node.as_str()])
}

/// As far as shards tell.
fn allocations(relay: &RelayStats) -> u64 {
    relay
        .shards
        .iter()
        .map(|shard| shard.turn.allocations)
        .sum()
}

/// The most items that are told at once.
pub const RANGE_MAX: usize = 1000;
/// A day: a longer drain is a mistake.
const DRAIN_MAX: Duration = Duration::from_secs(24 * 3600);
/// A year: no drain is waited for as long.
const CLOCK_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Operators are few.
const REQUESTS_MAX: usize = 16;
/// How long a node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Relays that a drained one sends newcomers to, at most.
const ALTERNATES_MAX: usize = 64;
/// Between two attempts to be reachable.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Between two looks at what is left.
const POLL: Duration = Duration::from_millis(100);
