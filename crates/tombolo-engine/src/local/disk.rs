//! What a [`Local`](super::Local) engine keeps on disk: one file, written by one thread.
//!
//! Writes queue up in the order in which the engine took them in. The thread takes all that have
//! come, writes them in one transaction, waits until the disk has it, and only then tells who wrote
//! and who reads. So the cost of a commit is shared by all who wait for one, and nobody has seen
//! what a crash could take back.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::thread;

use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tokio::sync::{oneshot, watch};

use super::Shared;
use crate::{Epoch, Key};

/// The engine's end of the thread that writes.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    /// `None` ends the thread.
    queue: mpsc::Sender<Option<Job>>,
    state: Arc<DiskState>,
}

#[derive(Debug, Default)]
struct DiskState {
    /// How many bytes wait to be written.
    queued: AtomicUsize,
    /// Set when a write failed: what is on disk is then older than what the engine holds.
    has_failed: watch::Sender<bool>,
}

/// A change, in the order in which it took place.
#[derive(Debug)]
pub(super) enum Write {
    /// An entry of a log.
    Entry { key: Key, seq: u64, entry: Bytes },
    /// A snapshot, in place of the entries up to `at`.
    Snapshot { key: Key, at: u64, state: Bytes },
    /// A log was retired, so that nothing is left up to `at`, or taken up again.
    Retired { key: Key, at: Option<u64> },
    /// A log was forgotten.
    Forgotten { key: Key },
    /// A value, or `None` when it was deleted.
    Value {
        key: Key,
        number: u64,
        value: Option<Bytes>,
    },
}

/// Resolves when a change is on disk; an error when it may or may not be.
pub(super) type Written = oneshot::Receiver<()>;

/// Nothing was written: the disk is too slow, or failed before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused;

#[derive(Debug)]
struct Job {
    write: Write,
    written: oneshot::Sender<()>,
}

/// What was on disk.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) epoch: Epoch,
    /// Greater than that of every process before.
    pub(super) lease_epoch: Epoch,
    pub(super) log_last: u64,
    pub(super) value_last: u64,
    pub(super) entries: BTreeMap<Key, Vec<(u64, Bytes)>>,
    pub(super) snapshots: BTreeMap<Key, (u64, Bytes)>,
    /// Retired logs by their last entries, so the oldest first.
    pub(super) retired: BTreeMap<u64, Key>,
    pub(super) values: Vec<(Key, u64, Bytes)>,
}

/// Why a folder cannot be an engine's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder cannot be made.
    #[error("folder cannot be made")]
    Folder(#[source] std::io::Error),
    /// Another process has it open.
    #[error("another process uses the folder")]
    InUse,
    /// The store cannot be read or written.
    #[error("store cannot be read")]
    Store(#[source] Box<redb::Error>),
    /// It was written by a later version.
    #[error("store has format {0}, and this version reads up to {FORMAT}")]
    Format(u64),
    /// It holds a name that is none.
    #[error("store is damaged")]
    Damaged,
    /// The thread that writes cannot be started.
    #[error("thread cannot be started")]
    Thread(#[source] std::io::Error),
}

impl Disk {
    /// Begins with what is in a store. The thread begins with [`Writer::start`].
    pub(super) fn new(database: Database, now: Epoch) -> Result<(Self, Writer, Stored), OpenError> {
        let stored = load(&database, now)?;
        let (queue, jobs) = mpsc::channel();
        let state = Arc::new(DiskState::default());
        let writer = Writer {
            database,
            jobs,
            state: Arc::clone(&state),
        };
        Ok((Self { queue, state }, writer, stored))
    }

    /// Whether nothing is written any more.
    pub(super) fn has_failed(&self) -> bool {
        *self.state.has_failed.borrow()
    }

    /// Waits until nothing is written any more.
    pub(super) async fn failed(&self) {
        let mut failed = self.state.has_failed.subscribe();
        // Whoever could change it is there as long as this is.
        let _ = failed.wait_for(|failed| *failed).await;
    }

    /// Has a change written. Called under the lock that orders changes of this kind.
    pub(super) fn queue(&self, write: Write) -> Result<Written, Refused> {
        let bytes = write.bytes();
        if self.has_failed() || self.state.queued.load(Ordering::Relaxed) + bytes > QUEUE_BYTES_MAX
        {
            return Err(Refused);
        }
        let (written, receiver) = oneshot::channel();
        self.state.queued.fetch_add(bytes, Ordering::Relaxed);
        self.queue
            .send(Some(Job { write, written }))
            .map_err(|_| Refused)?;
        Ok(receiver)
    }
}

/// Ends the thread when it is dropped, after all that was queued is on disk. Then the folder is free.
#[derive(Debug)]
pub(super) struct Closer {
    disk: Disk,
    thread: Option<thread::JoinHandle<()>>,
}

impl Closer {
    pub(super) fn new(disk: Disk, thread: thread::JoinHandle<()>) -> Self {
        Self {
            disk,
            thread: Some(thread),
        }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        // Fails when the thread has ended.
        let _ = self.disk.queue.send(None);
        if let Some(thread) = self.thread.take() {
            // A panic has been told by itself.
            let _ = thread.join();
        }
    }
}

/// The thread's end.
#[derive(Debug)]
pub(super) struct Writer {
    database: Database,
    jobs: mpsc::Receiver<Option<Job>>,
    state: Arc<DiskState>,
}

impl Writer {
    /// Writes until the engine is gone.
    pub(super) fn start(self, shared: Weak<Shared>) -> Result<thread::JoinHandle<()>, OpenError> {
        thread::Builder::new()
            .name("engine-disk".into())
            .spawn(move || self.run(&shared))
            .map_err(OpenError::Thread)
    }

    fn run(self, shared: &Weak<Shared>) {
        let mut has_ended = false;
        while !has_ended && let Ok(Some(first)) = self.jobs.recv() {
            let mut bytes = first.write.bytes();
            let mut jobs = vec![first];
            while bytes < BATCH_BYTES_MAX
                && let Ok(job) = self.jobs.try_recv()
            {
                let Some(job) = job else {
                    has_ended = true;
                    break;
                };
                bytes += job.write.bytes();
                jobs.push(job);
            }
            self.state.queued.fetch_sub(bytes, Ordering::Relaxed);
            if let Err(error) = self.commit(&jobs) {
                // Who waits learns that nobody knows; whatever comes after it is refused.
                tracing::error!(%error, "the store cannot be written: the engine is read-only now");
                self.state.has_failed.send_replace(true);
                return;
            }
            let shared = shared.upgrade();
            for job in jobs {
                if let Some(shared) = &shared {
                    shared.committed(job.write);
                }
                // Whoever gave up waiting needs no word.
                let _ = job.written.send(());
            }
        }
    }

    fn commit(&self, jobs: &[Job]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut snapshots = transaction.open_table(SNAPSHOTS)?;
            let mut retired = transaction.open_table(RETIRED)?;
            let mut values = transaction.open_table(VALUES)?;
            for job in jobs {
                match &job.write {
                    Write::Entry { key, seq, entry } => {
                        entries.insert((key.as_str(), *seq), &entry[..])?;
                        meta.insert(LOG_LAST, *seq)?;
                    }
                    Write::Snapshot { key, at, state } => {
                        snapshots.insert(key.as_str(), (*at, &state[..]))?;
                        entries.retain_in((key.as_str(), 0)..=(key.as_str(), *at), |_, _| false)?;
                    }
                    Write::Retired { key, at: Some(at) } => {
                        let all = (key.as_str(), 0)..=(key.as_str(), *at);
                        entries.retain_in(all, |_, _| false)?;
                        snapshots.remove(key.as_str())?;
                        retired.insert(key.as_str(), *at)?;
                    }
                    Write::Retired { key, at: None } => {
                        retired.remove(key.as_str())?;
                    }
                    Write::Forgotten { key } => {
                        let all = (key.as_str(), 0)..=(key.as_str(), u64::MAX);
                        entries.retain_in(all, |_, _| false)?;
                        snapshots.remove(key.as_str())?;
                        retired.remove(key.as_str())?;
                    }
                    Write::Value { key, number, value } => {
                        match value {
                            Some(value) => values.insert(key.as_str(), (*number, &value[..]))?,
                            None => values.remove(key.as_str())?,
                        };
                        meta.insert(VALUE_LAST, *number)?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if thread::panicking() {
            self.state.has_failed.send_replace(true);
        }
    }
}

impl Write {
    /// Roughly what it takes.
    fn bytes(&self) -> usize {
        let (key, payload) = match self {
            Self::Entry { key, entry, .. } => (key, entry.len()),
            Self::Snapshot { key, state, .. } => (key, state.len()),
            Self::Retired { key, .. } | Self::Forgotten { key } => (key, 0),
            Self::Value { key, value, .. } => (key, value.as_ref().map_or(0, Bytes::len)),
        };
        key.as_str().len() + payload + JOB_BYTES
    }
}

/// Opens the store in a folder, and makes it when there is none.
pub(super) fn open(folder: &Path) -> Result<Database, OpenError> {
    let file = folder.join(FILE);
    make_private(folder, &file).map_err(OpenError::Folder)?;
    builder().create(file).map_err(|error| {
        if matches!(error, redb::DatabaseError::DatabaseAlreadyOpen) {
            OpenError::InUse
        } else {
            OpenError::Store(Box::new(error.into()))
        }
    })
}

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Reads everything, and notes that a new process has begun.
fn load(database: &Database, now: Epoch) -> Result<Stored, OpenError> {
    let mut stored = begin(database, now).map_err(|error| OpenError::Store(Box::new(error)))??;
    match read(database, &mut stored) {
        Ok(Some(())) => Ok(stored),
        Ok(None) => Err(OpenError::Damaged),
        Err(error) => Err(OpenError::Store(Box::new(error))),
    }
}

fn begin(database: &Database, now: Epoch) -> Result<Result<Stored, OpenError>, redb::Error> {
    let transaction = database.begin_write()?;
    let stored = {
        let mut meta = transaction.open_table(META)?;
        transaction.open_table(ENTRIES)?;
        transaction.open_table(SNAPSHOTS)?;
        transaction.open_table(RETIRED)?;
        transaction.open_table(VALUES)?;
        let mut value_or = |name: &str, default: u64| -> Result<u64, redb::Error> {
            let found = meta.get(name)?.map(|value| value.value());
            if found.is_none() {
                meta.insert(name, default)?;
            }
            Ok(found.unwrap_or(default))
        };
        let format = value_or(FORMAT_NAME, FORMAT)?;
        if format > FORMAT {
            return Ok(Err(OpenError::Format(format)));
        }
        let stored = Stored {
            epoch: Epoch(value_or(EPOCH, now.0)?),
            // Later than the last one even if the clock was set back.
            lease_epoch: Epoch(now.0.max(value_or(LEASE_EPOCH, 0)? + 1)),
            log_last: value_or(LOG_LAST, 0)?,
            value_last: value_or(VALUE_LAST, 0)?,
            ..Stored::default()
        };
        meta.insert(LEASE_EPOCH, stored.lease_epoch.0)?;
        stored
    };
    transaction.commit()?;
    Ok(Ok(stored))
}

/// `None` when there is a name that is none.
fn read(database: &Database, stored: &mut Stored) -> Result<Option<()>, redb::Error> {
    let transaction = database.begin_read()?;
    for row in transaction.open_table(ENTRIES)?.iter()? {
        let (name, entry) = row?;
        let (key, seq) = name.value();
        let Some(key) = Key::parse(key) else {
            return Ok(None);
        };
        let entry = (seq, Bytes::copy_from_slice(entry.value()));
        stored.entries.entry(key).or_default().push(entry);
    }
    for row in transaction.open_table(SNAPSHOTS)?.iter()? {
        let (key, snapshot) = row?;
        let (at, state) = snapshot.value();
        let Some(key) = Key::parse(key.value()) else {
            return Ok(None);
        };
        stored
            .snapshots
            .insert(key, (at, Bytes::copy_from_slice(state)));
    }
    for row in transaction.open_table(RETIRED)?.iter()? {
        let (key, at) = row?;
        let Some(key) = Key::parse(key.value()) else {
            return Ok(None);
        };
        stored.retired.insert(at.value(), key);
    }
    for row in transaction.open_table(VALUES)?.iter()? {
        let (key, value) = row?;
        let (number, value) = value.value();
        let Some(key) = Key::parse(key.value()) else {
            return Ok(None);
        };
        let value = Bytes::copy_from_slice(value);
        stored.values.push((key, number, value));
    }
    Ok(Some(()))
}

/// Makes what is not there yet so that nobody else on this machine can read what is kept.
fn make_private(folder: &Path, file: &Path) -> std::io::Result<()> {
    let (mut folders, mut options) = (DirBuilder::new(), OpenOptions::new());
    folders.recursive(true);
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};

        folders.mode(0o700);
        options.mode(0o600);
    }
    folders.create(folder)?;
    options.open(file).map(drop)
}

const FILE: &str = "engine.redb";

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const ENTRIES: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("log entries");
const SNAPSHOTS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("log snapshots");
const RETIRED: TableDefinition<'_, &str, u64> = TableDefinition::new("retired logs");
const VALUES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("values");

const FORMAT_NAME: &str = "format";
const EPOCH: &str = "epoch";
const LEASE_EPOCH: &str = "lease epoch";
const LOG_LAST: &str = "last log entry";
const VALUE_LAST: &str = "last value";

/// Grows when what is above changes its meaning.
const FORMAT: u64 = 1;

/// The engine holds everything itself, so the store needs little.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Most that waits to be written.
const QUEUE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// About how much is written in one transaction.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a queued change takes beside its payload.
const JOB_BYTES: usize = 128;
