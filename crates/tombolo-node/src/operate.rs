//! What operators do to the nodes of a cluster, over any one of them.
//!
//! Each node answers on the bus, `operate.<name>`. What is asked there is what its admin socket is asked,
//! so that it does not matter at which node an operator is. The bus is for nodes alone.

mod drain;
mod fleet;
#[cfg(test)]
mod kept;
mod pages;

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
use tombolo_services::{NodeRecord, NodeState, Notified, Reject, Services};
use tombolo_wire::{NodeId, TagName};

use self::drain::DRAIN_MAX;
pub use self::drain::Draining;
use self::pages::Total;
pub use self::pages::{Page, RANGE_MAX, Range, RoomStatus, UserStatus};

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

/// What one node asks another.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
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
    /// The same, and what mobility tickets call it.
    Relay,
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

    /// The relay of this node; `None` when the node has ended.
    #[must_use]
    pub fn relay(&self) -> Option<Arc<Relay>> {
        self.relay.upgrade()
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

    /// Whether other nodes would take this node's devices.
    pub async fn has_others(&self) -> bool {
        let nodes = self.services.nodes().await.unwrap_or_default();
        let mut others = nodes
            .iter()
            .filter(|node| node.name != *self.services.name());
        others.any(|node| node.state == NodeState::Alive)
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
            Ask::Relay => serde_json::to_vec(&self.place()?),
        };
        answer.ok()
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

/// Operators are few.
const REQUESTS_MAX: usize = 16;
/// How long a node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts to be reachable.
const RETRY_DELAY: Duration = Duration::from_millis(500);
