//! The engine of a single node, in process.

mod bus;
mod kv;
mod log;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::Epoch;

/// The bounds of a [`Local`] engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LocalConfig {
    /// Which store this is; `None` takes the time of creation, in microseconds since the Unix
    /// epoch.
    pub epoch: Option<Epoch>,
    /// Most logs that are not retired.
    pub logs_max: usize,
    /// Most entries of a log since its last snapshot.
    pub log_entries_max: usize,
    /// How many retired logs are remembered.
    pub retired_logs_max: usize,
    /// Most values.
    pub values_max: usize,
    /// Most changes that wait for a watcher before it is reset.
    pub watch_events_max: usize,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            epoch: None,
            logs_max: 1_000_000,
            log_entries_max: 65_536,
            retired_logs_max: 10_000,
            values_max: 1_000_000,
            watch_events_max: 1024,
        }
    }
}

/// The engine of a single node, in process. Clones are the same engine.
///
/// It is always available and never unsure; what it holds ends with the process.
#[derive(Clone, Debug)]
pub struct Local {
    shared: Arc<Shared>,
}

/// The three parts know nothing of each other; no lock is held while another is taken, nor over an
/// await.
#[derive(Debug)]
struct Shared {
    epoch: Epoch,
    config: LocalConfig,
    bus: Mutex<bus::State>,
    logs: Mutex<log::State>,
    values: Mutex<kv::State>,
}

impl Local {
    /// An engine that holds nothing yet.
    #[must_use]
    pub fn new(config: LocalConfig) -> Self {
        let shared = Shared {
            epoch: config.epoch.unwrap_or_else(creation_time),
            config,
            bus: Mutex::default(),
            logs: Mutex::default(),
            values: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

/// A later store has a greater epoch as long as the clock is not set back.
fn creation_time() -> Epoch {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Epoch(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Locks although somebody panicked while it held the lock: every change below is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
