//! Whether the streams of logs have place for more, where there is a bound.
//!
//! Servers that are full refuse every stream at once, those of leases and values too, and then nodes are out of their
//! cluster. So there can be a bound that nodes keep to by themselves, well below what servers may store. What the
//! streams hold is asked for now and then, and what this node adds meanwhile is counted on top; other nodes' is not, so
//! the bound may be passed by what they write in a few seconds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::api::StreamInfo;
use super::{NatsConfig, Shared};
use crate::log::Purpose;
use crate::{Key, Unavailable};

/// How much the streams of logs hold.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// When they were asked.
    held: AtomicU64,
    /// What this node has added since.
    added: AtomicU64,
    is_scarce: AtomicBool,
}

impl Place {
    /// Whether an entry has place. What ends something always has.
    pub(super) fn has_place(&self, config: &NatsConfig, key: &Key, purpose: Purpose) -> bool {
        let (Some(max), Purpose::More) = (config.log_bytes_max, purpose) else {
            return true;
        };
        let percent = match config.yielding.iter().any(|kind| *kind == key.kind()) {
            true => YIELDING_PERCENT,
            false => PERCENT,
        };
        self.bytes() < max / 100 * percent
    }

    /// An entry was appended.
    pub(super) fn add(&self, entry: usize) {
        let bytes = entry as u64 + AROUND_ENTRY;
        self.added.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> u64 {
        let held = self.held.load(Ordering::Relaxed);
        held.saturating_add(self.added.load(Ordering::Relaxed))
    }
}

/// Asks how much there is, from now on, if there is a bound.
pub(super) async fn start(shared: &Arc<Shared>) {
    if shared.config.log_bytes_max.is_some() {
        // What is not known now is found out later.
        let _ = shared.measure().await;
        tokio::spawn(watch(Arc::downgrade(shared)));
    }
}

async fn watch(shared: Weak<Shared>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        // What is not known now counts as before.
        let _ = shared.measure().await;
    }
}

impl Shared {
    async fn measure(&self) -> Result<(), Unavailable> {
        let added = self.place.added.load(Ordering::Relaxed);
        let mut held = 0_u64;
        for shard in self.logs.iter().chain(self.snapshots.iter()) {
            let subject = format!("$JS.API.STREAM.INFO.{}", shard.name);
            let info = self.connection.ask::<StreamInfo>(subject, &()).await;
            let info = info.map_err(|_| Unavailable)?;
            held = held.saturating_add(info.state.bytes);
        }
        self.place.held.store(held, Ordering::Relaxed);
        self.place.added.fetch_sub(added, Ordering::Relaxed);
        self.tell_scarcity();
        Ok(())
    }

    /// Says it once, and once that it is over.
    fn tell_scarcity(&self) {
        let Some(max) = self.config.log_bytes_max else {
            return;
        };
        let bytes = self.place.bytes();
        let is_scarce = bytes >= max / 100 * YIELDING_PERCENT;
        if self.place.is_scarce.swap(is_scarce, Ordering::Relaxed) == is_scarce {
            return;
        }
        match is_scarce {
            true => tracing::warn!(
                bytes,
                max,
                "the logs on the NATS servers are nearly as large as they may be: what users say is refused"
            ),
            false => tracing::info!(bytes, max, "the logs on the NATS servers have place again"),
        }
    }
}

/// From when on kinds of logs that yield to others have no place for more.
const YIELDING_PERCENT: u64 = 75;

/// And all others: what is left is for what ends something.
const PERCENT: u64 = 95;

/// What servers store around an entry: its subject, its id and their own, about.
const AROUND_ENTRY: u64 = 256;

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(5);
