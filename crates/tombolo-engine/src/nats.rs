//! The engine of a cluster: NATS, its core for the bus, its JetStream for logs and values.
//!
//! * A log is a subject of one of a fixed number of streams. Appends are conditional by the
//!   subject's last sequence; the streams republish what they store, which is how it reaches readers
//!   soon. **The log is the truth, the live feed a hint**: readers apply by sequence, fetch what is
//!   missing, and check the tail of logs that are idle.
//! * A value is a subject of one of a few streams that keep one message per subject, laid out as
//!   NATS's own key-value buckets. Reads go to the stream's leader.
//! * Each stream's subjects carry its [`Epoch`](crate::Epoch), which its creator chose. A stream that
//!   is lost and made anew has other subjects, so what was meant for the old one never lands in the
//!   new one.
//!
//! `docs/engine.md` says which of NATS's pitfalls is met where.

mod answers;
mod api;
mod batch;
mod bus;
mod choice;
mod config;
mod connection;
mod cursor;
mod hold;
mod kv;
mod log;
mod messages;
mod others;
mod place;
mod pulse;
mod retired;
mod streams;
mod tail;
mod tail_check;
mod version;
mod watch;
mod write;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

pub use config::{NatsAuth, NatsConfig, NatsTls};
pub use connection::NatsError;
pub use version::{Refusal, Version, VersionError};

use self::connection::Connection;
use self::kv::Bucket;
use self::place::Place;
use self::retired::Retired;
use self::streams::{FIND_MAX, Kind, Shards};
use self::tail_check::TailCheck;
use crate::kv::{Kv, Leases};

/// The engine of a cluster, on NATS servers. Clones are the same engine.
#[derive(Clone)]
pub struct Nats {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Arc<Connection>,
    config: NatsConfig,
    logs: Shards,
    /// The latest snapshot of each log: one stream.
    snapshots: Shards,
    values: Arc<Bucket>,
    leases: Arc<Bucket>,
    tail_check: TailCheck,
    retired: Retired,
    place: Place,
}

/// What happened on the way to and from the servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsStats {
    /// Connections made, the first one included.
    pub connects: u64,
    /// Connections lost.
    pub disconnects: u64,
    /// Connections given up because of the server's version.
    pub refused: u64,
    /// Connections left because no stream took writes.
    pub moves: u64,
    /// Messages dropped because a subscriber here was too slow.
    pub slow: u64,
    /// Errors that the servers told.
    pub server_errors: u64,
    /// Entries that came by the live feed in their turn.
    pub live: u64,
    /// Times that a reader had to fetch what the live feed missed.
    pub refetches: u64,
    /// Of these, those that only the tail check found.
    pub tails_found: u64,
    /// Times that the servers had lost what a reader had read.
    pub rolled_back: u64,
    /// Attempts to write that were repeated because nobody knew how the last one ended.
    pub unknown: u64,
    /// Attempts to write that found no leader.
    pub no_leader: u64,
    /// Writes that turned out to have been stored by an attempt whose answer was lost.
    pub resolved: u64,
    /// Logs that were to be retired and would not be tried again, since too many others wait for that.
    pub unpurged: u64,
    /// Answers that could not be read.
    pub unreadable: u64,
    /// Watches begun anew.
    pub watch_resets: u64,
}

impl Nats {
    /// Connects, checks the server's version, and makes the streams that are not there.
    ///
    /// # Errors
    /// As [`NatsError`] says.
    pub async fn connect(config: NatsConfig) -> Result<Self, NatsError> {
        config.check()?;
        let connection = Connection::open(&config).await?;
        let open = async |kind, shards| Shards::open(&connection, &config, kind, shards).await;
        let logs = patiently(&connection, open(Kind::Log, config.log_shards)).await?;
        let snapshots = open(Kind::Snapshots, 1).await?;
        let values = open(Kind::Values, config.value_shards).await?;
        let leases = open(Kind::Leases, 1).await?;
        let bucket = |shards| Arc::new(Bucket::new(Arc::clone(&connection), &config, shards));
        let shared = Shared {
            tail_check: TailCheck::new(config.log_shards),
            retired: Retired::default(),
            place: Place::default(),
            values: bucket(values),
            leases: bucket(leases),
            connection,
            logs,
            snapshots,
            config,
        };
        let shared = Arc::new(shared);
        tail_check::start(&shared);
        place::start(&shared).await;
        Ok(Self { shared })
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> NatsStats {
        self.shared.connection.stats()
    }

    /// Whether a server is connected that may be used.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.shared.connection.check().is_ok()
    }

    /// Deletes all streams of this engine, and with them all it holds.
    ///
    /// # Errors
    /// When the servers do not answer.
    pub async fn delete_all(&self) -> Result<(), crate::Unavailable> {
        let shared = &self.shared;
        let values = [shared.values.shards(), shared.leases.shards()];
        for shards in values.into_iter().chain([&shared.logs, &shared.snapshots]) {
            shards.delete(&shared.connection).await?;
        }
        Ok(())
    }
}

/// Waits for the first streams, and says what they may wait for: a server of the cluster that has JetStream may
/// come yet, or never.
async fn patiently<T>(connection: &Connection, opening: impl Future<Output = T>) -> T {
    let mut opening = pin!(opening);
    if let Ok(opened) = timeout(PATIENCE, opening.as_mut()).await {
        return opened;
    }
    if !connection.has_jetstream() {
        tracing::warn!(
            "the NATS server runs without JetStream (`-js`), and no other one of its cluster answers for it; \
             waiting {FIND_MAX:?} in all"
        );
    }
    opening.await
}

impl Leases for Nats {
    fn leases(&self) -> &dyn Kv {
        &self.shared.leases
    }

    fn lease_time(&self) -> Duration {
        self.shared.config.lease_time
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

/// Longer than a cluster that is there takes to show its streams.
const PATIENCE: Duration = Duration::from_secs(2);
