//! The engine of a single node, in process.

mod bus;
mod disk;
mod held;
mod kv;
mod log;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

pub use disk::OpenError;
use redb::Database;

use self::disk::{Closer, Disk, Write};
use crate::Epoch;

/// The bounds of a [`Local`] engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LocalConfig {
    /// Which store this is; `None` takes the time of creation, in microseconds since the Unix
    /// epoch.
    pub epoch: Option<Epoch>,
    /// Most logs that are not retired. Of one kind, as the first token of their keys says, there are nine tenths of that
    /// at most.
    pub logs_max: usize,
    /// Most entries of a log since its last snapshot.
    pub log_entries_max: usize,
    /// Most bytes of all logs' entries and snapshots, which are in memory, each with 64 more. No log begins where less
    /// than two twentieths are left, and the last one is for entries by which something [ends](crate::Purpose), so that what
    /// there is can be ended. Of one kind there are three twentieths less, but for those.
    pub log_bytes_max: usize,
    /// Kinds of logs that have less: what users leave behind keeps no room out, in number and in bytes.
    pub shares: Vec<LogShare>,
    /// How many retired logs are remembered: of each its name and its last offset.
    pub retired_logs_max: usize,
    /// Most values. Of one kind, as the first token of their keys says, there are nine tenths of that at
    /// most: what users leave behind (the lists of their groups) keeps no room and no node out.
    pub values_max: usize,
    /// Most changes that wait for a watcher before it is reset.
    pub watch_events_max: usize,
    /// How long a lease lasts that is not renewed.
    pub lease_time: Duration,
}

/// How much there may be of one kind of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogShare {
    /// The first token of their keys.
    pub kind: &'static str,
    /// Of `LocalConfig::logs_max` and `LocalConfig::log_bytes_max`, without the entries by which something
    /// [ends](crate::Purpose), which have place beyond that.
    pub percent: usize,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            epoch: None,
            logs_max: 2_000_000,
            log_entries_max: 65_536,
            log_bytes_max: 4 * 1024 * 1024 * 1024,
            shares: Vec::new(),
            retired_logs_max: 10_000,
            values_max: 1_000_000,
            watch_events_max: 1024,
            lease_time: Duration::from_secs(15),
        }
    }
}

/// The engine of a single node, in process. Clones are the same engine.
///
/// [`Local::new`] makes one that ends with the process, is always available and never unsure.
/// [`Local::open`] makes one that keeps logs and values in a folder: what it has acknowledged is
/// there again when the process was killed or the machine lost its power. Only leases end with the
/// process.
#[derive(Clone, Debug)]
pub struct Local {
    shared: Arc<Shared>,
    /// `None` without a disk.
    _closer: Option<Arc<Closer>>,
}

/// The parts know nothing of each other; no lock is held while another is taken, nor over an await.
#[derive(Debug)]
struct Shared {
    epoch: Epoch,
    config: LocalConfig,
    disk: Option<Disk>,
    bus: Mutex<bus::State>,
    logs: Mutex<log::State>,
    values: Arc<kv::Values>,
    leases: Arc<kv::Values>,
}

impl Local {
    /// An engine that holds nothing yet, in memory.
    #[must_use]
    pub fn new(config: LocalConfig) -> Self {
        let epoch = config.epoch.unwrap_or_else(creation_time);
        let shared = Shared {
            epoch,
            disk: None,
            bus: Mutex::default(),
            logs: Mutex::default(),
            values: Arc::new(kv::Values::new(epoch, &config)),
            leases: Arc::new(kv::Values::leases(epoch, &config)),
            config,
        };
        Self {
            shared: Arc::new(shared),
            _closer: None,
        }
    }

    /// An engine that keeps what it holds in a folder, which is made if there is none. Blocks while
    /// it reads all of it.
    ///
    /// Every acknowledged write has been flushed to the disk; those that come at the same time share
    /// one flush. A disk that cannot be written makes the engine read-only: writes are `Unavailable`, and it
    /// says that it [is broken](crate::Log::is_broken).
    ///
    /// # Errors
    /// As [`OpenError`] says.
    pub fn open(config: LocalConfig, folder: &Path) -> Result<Self, OpenError> {
        Self::keeping(config, disk::open(folder)?)
    }

    /// An engine that keeps what it holds in a store.
    fn keeping(config: LocalConfig, store: Database) -> Result<Self, OpenError> {
        let now = config.epoch.unwrap_or_else(creation_time);
        let (disk, writer, stored) = Disk::new(store, now)?;
        let values = kv::Values::new(stored.epoch, &config).on_disk(
            disk.clone(),
            stored.value_last,
            stored.values,
        );
        let logs = log::State::on_disk(
            stored.log_last,
            stored.entries,
            stored.snapshots,
            stored.retired,
        );
        let shared = Arc::new(Shared {
            epoch: stored.epoch,
            disk: Some(disk.clone()),
            bus: Mutex::default(),
            logs: Mutex::new(logs),
            values: Arc::new(values),
            leases: Arc::new(kv::Values::leases(stored.lease_epoch, &config)),
            config,
        });
        let thread = writer.start(Arc::downgrade(&shared))?;
        let closer = Arc::new(Closer::new(disk, thread));
        Ok(Self {
            shared,
            _closer: Some(closer),
        })
    }
}

impl Shared {
    /// A change has reached the disk: now everybody may know.
    fn committed(&self, write: Write) {
        match write {
            Write::Entry { key, seq, .. } => lock(&self.logs).committed(&key, seq),
            Write::Value { key, number, value } => self.values.committed(key, number, value),
            Write::Snapshot { .. } | Write::Retired { .. } | Write::Forgotten { .. } => {}
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::{AppendError, CasError, Expect, Key, Kv as _, Log as _, OperationId, Purpose};

    #[tokio::test]
    async fn an_engine_that_cannot_write_any_more_says_so() {
        let store = Store::default();
        let is_full = Arc::clone(&store.is_full);
        let database = disk::builder().create_with_backend(store).unwrap();
        let engine = Local::keeping(LocalConfig::default(), database).unwrap();
        let key = Key::new(["log"]).unwrap();
        let append = || {
            engine.append(
                &key,
                "1".into(),
                Purpose::More,
                Expect::Any,
                OperationId([1; 16]),
            )
        };
        append().await.unwrap();
        assert!(!engine.is_broken());
        let broken = tokio::spawn({
            let engine = engine.clone();
            async move { engine.broken().await }
        });

        is_full.store(true, Ordering::Relaxed);
        assert_eq!(append().await, Err(AppendError::Unknown));
        broken.await.unwrap();
        assert!(engine.is_broken());
        engine.broken().await;
        is_full.store(false, Ordering::Relaxed);
        assert_eq!(append().await, Err(AppendError::Unavailable));
        let value = engine.cas(&key, None, Some("1".into()));
        assert_eq!(value.await, Err(CasError::Unavailable));
    }

    /// A disk that may be full.
    #[derive(Debug, Default)]
    struct Store {
        memory: InMemoryBackend,
        is_full: Arc<AtomicBool>,
    }

    impl Store {
        fn check(&self) -> io::Result<()> {
            match self.is_full.load(Ordering::Relaxed) {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            }
        }
    }

    impl StorageBackend for Store {
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            StorageBackend::read(&self.memory, offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.check()?;
            self.memory.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.check()?;
            self.memory.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.check()?;
            StorageBackend::write(&self.memory, offset, data)
        }
    }
}
