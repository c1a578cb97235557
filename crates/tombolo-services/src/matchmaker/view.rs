//! What operators see of pools.

use std::time::Duration;

use tombolo_engine::Unavailable;
use tombolo_wire::NodeId;
use tombolo_wire::v1::ErrorCode;

use super::desk::Desk;
use super::lead::holder;
use super::why::obstacle;
use crate::node::Node;
use crate::patience::Late;
use crate::reject::Reject;
use crate::services::Services;

/// A pool of the matchmaker, as one node knows it; all nodes with its rules know the same.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolInfo {
    /// What it is called.
    pub name: String,
    /// Of its rules' text: nodes with other rules have another pool.
    pub digest: String,
    /// The node that makes its matches; `None` while none does.
    pub matcher: Option<NodeId>,
    /// Tickets, with those of users who are away or asked whether they are ready.
    pub tickets: usize,
    /// Tickets that can be matched now.
    pub waiting: usize,
    /// How long the one has waited that waits longest.
    pub longest_wait: Option<Duration>,
    /// Matches that ask whether their users are ready.
    pub asked: usize,
    /// Running matches that ask for more users.
    pub running: usize,
    /// About how many bytes its tickets have.
    pub bytes: usize,
}

/// What keeps those apart who wait in a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolWhy {
    /// Of how many tickets, those that wait longest, this is told.
    pub tickets: usize,
    /// What stands in the way, the most frequent first.
    pub obstacles: Vec<PoolObstacle>,
    /// When somebody will fit with the one that comes first, if both only wait, or those who fit are enough.
    pub relaxed_after: Option<Duration>,
    /// What stands in its way until then.
    pub relaxed: Vec<String>,
}

/// Something that stands in the way of two tickets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolObstacle {
    /// `rule:<name>`, `query`, `their query` or `teams`.
    pub what: String,
    /// Between how many pairs.
    pub count: usize,
    /// How many of those would fit without.
    pub alone: usize,
}

impl Services {
    /// The pools that this node serves, by name.
    ///
    /// # Errors
    /// The engine does not answer, or the log of one has not been read.
    pub async fn pools(&self) -> Result<Vec<PoolInfo>, Reject> {
        let node = self.node();
        let mut pools = Vec::new();
        for desk in node.matchmaker.desk_by_pool.values() {
            pools.push(desk.info(node).await?);
        }
        Ok(pools)
    }

    /// A pool, and why those who wait longest in it have found nobody.
    ///
    /// # Errors
    /// There is no such pool; or as [`pools`](Self::pools).
    pub async fn explain_pool(&self, name: &str) -> Result<(PoolInfo, PoolWhy), Reject> {
        let node = self.node();
        let desk = node.matchmaker.desk_by_pool.get(name);
        let no_such_pool = || Reject::new(ErrorCode::NoSuchPool, "this node has no such pool");
        let desk = desk.ok_or_else(no_such_pool)?;
        Ok((desk.info(node).await?, desk.why(node)))
    }
}

impl Desk {
    async fn info(&self, node: &Node) -> Result<PoolInfo, Reject> {
        let lease = node.within(node.engine.leases().get(&self.lease)).await?;
        let lease = lease.map_err(|Unavailable| Late::Slow)?;
        self.synced(node).await?;
        let state = self.lock();
        let now = state.time(node);
        let pool = &state.pool;
        Ok(PoolInfo {
            name: self.name.to_string(),
            digest: self
                .key
                .as_str()
                .rsplit('.')
                .next()
                .unwrap_or_default()
                .to_owned(),
            matcher: lease.and_then(|entry| holder(&entry.value)),
            tickets: pool.ticket_count(),
            waiting: pool.waiting_count(),
            longest_wait: pool.waiting_since().map(|since| now.since(since)),
            asked: pool.asked_count(),
            running: pool.running_count(),
            bytes: pool.weight(),
        })
    }

    fn why(&self, node: &Node) -> PoolWhy {
        let state = self.lock();
        let (pool, now) = (&state.pool, state.time(node));
        let excluded = pool.explain_all(now, TICKETS_MAX, OTHERS_MAX);
        let first = pool.waiting().next();
        let why = first.and_then(|first| pool.explain_among(&first.id, now, OTHERS_MAX));
        let relaxation = why.and_then(|why| why.relaxation);
        PoolWhy {
            relaxed_after: relaxation.as_ref().map(|relaxation| relaxation.after),
            relaxed: relaxation.map_or_else(Vec::new, |relaxation| {
                relaxation.obstacles.iter().map(obstacle).collect()
            }),
            tickets: pool.waiting_count().min(TICKETS_MAX),
            obstacles: excluded
                .into_iter()
                .map(|excluded| PoolObstacle {
                    what: obstacle(&excluded.obstacle),
                    count: excluded.count,
                    alone: excluded.alone,
                })
                .collect(),
        }
    }
}

/// Of how many tickets it is told why they have found nobody, and against how many others each: the pool
/// stands still meanwhile, for some milliseconds at the most.
const TICKETS_MAX: usize = 50;
const OTHERS_MAX: usize = 100;
