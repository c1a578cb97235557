//! How a node empties itself.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tombolo_services::NodeState;
use tombolo_turn::server::Drain;

use super::{Ask, Operator, allocations};

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

impl Operator {
    /// Empties this node, and returns how that went. Other nodes must be there to take its devices.
    pub async fn drain_here(&self, time: Duration) -> Draining {
        let mut state = self.begin_drain(time);
        let over = state.wait_for(|draining| draining.is_over).await;
        over.map_or_else(|_| Draining::default(), |over| *over)
    }

    /// Begins to empty this node, unless that has begun.
    pub(super) fn begin_drain(&self, time: Duration) -> watch::Receiver<Draining> {
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
}

/// A day: a longer drain is a mistake.
pub(super) const DRAIN_MAX: Duration = Duration::from_secs(24 * 3600);
/// A year: no drain is waited for as long.
const CLOCK_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Relays that a drained one sends newcomers to, at most.
const ALTERNATES_MAX: usize = 64;
/// Between two looks at what is left.
const POLL: Duration = Duration::from_millis(100);
