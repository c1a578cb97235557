//! What operators see of the matchmaker's pools.

use serde::{Deserialize, Serialize};
use tombolo_services::{PoolInfo, PoolWhy, Reject};

use crate::operate::Operator;

/// A pool of the matchmaker; all nodes with its rules know the same.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct PoolStatus {
    /// What it is called.
    pub pool: String,
    /// Of its rules' text: nodes with other rules have another pool.
    pub rules: String,
    /// The node that makes its matches; `None` while none does.
    pub matcher: Option<String>,
    /// Tickets, with those of users who are away or asked whether they are ready.
    pub tickets: usize,
    /// Tickets that can be matched now.
    pub waiting: usize,
    /// How long the one has waited that waits longest.
    pub longest_wait_s: Option<f64>,
    /// Matches that ask whether their users are ready.
    pub asked: usize,
    /// Running matches that ask for more users.
    pub running: usize,
    /// About how many bytes its tickets have.
    pub bytes: usize,
    /// Why those who wait longest have found nobody; only of a pool that was asked for by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<PoolReasons>,
}

/// Why tickets have found nobody.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct PoolReasons {
    /// Of how many tickets this is told.
    pub tickets: usize,
    /// What stands in the way, the most frequent first.
    pub obstacles: Vec<PoolReason>,
    /// When somebody will fit with the one that comes first, if both only wait, or those who fit are enough.
    #[serde(default)]
    pub relaxed_after_s: Option<f64>,
    /// What stands in its way until then.
    #[serde(default)]
    pub relaxed: Vec<String>,
}

/// Something that stands in the way of two tickets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct PoolReason {
    /// `rule:<name>`, `query`, `their query` or `teams`.
    pub what: String,
    /// Between how many pairs.
    pub count: usize,
    /// How many of those would fit without.
    pub alone: usize,
}

impl Operator {
    /// The pools that this node serves, by name.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn pools(&self) -> Result<Vec<PoolStatus>, Reject> {
        let pools = self.services().pools().await?;
        Ok(pools.into_iter().map(|pool| status(pool, None)).collect())
    }

    /// One of them, and why those who wait longest in it have found nobody.
    ///
    /// # Errors
    /// There is none of that name; or the engine does not answer.
    pub async fn pool(&self, name: &str) -> Result<PoolStatus, Reject> {
        let (pool, why) = self.services().explain_pool(name).await?;
        Ok(status(pool, Some(why)))
    }
}

fn status(info: PoolInfo, why: Option<PoolWhy>) -> PoolStatus {
    PoolStatus {
        pool: info.name,
        rules: info.digest,
        matcher: info.matcher.map(|node| node.to_string()),
        tickets: info.tickets,
        waiting: info.waiting,
        longest_wait_s: info.longest_wait.map(|wait| wait.as_secs_f64()),
        asked: info.asked,
        running: info.running,
        bytes: info.bytes,
        why: why.map(|why| PoolReasons {
            tickets: why.tickets,
            relaxed_after_s: why.relaxed_after.map(|after| after.as_secs_f64()),
            relaxed: why.relaxed,
            obstacles: why
                .obstacles
                .into_iter()
                .map(|obstacle| PoolReason {
                    what: obstacle.what,
                    count: obstacle.count,
                    alone: obstacle.alone,
                })
                .collect(),
        }),
    }
}
