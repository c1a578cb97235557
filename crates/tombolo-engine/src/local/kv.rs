//! Values in process: those that stay, and those that end by themselves.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::disk::{Disk, Refused, Write};
use super::held::{Held, Most};
use super::{Local, LocalConfig, lock};
use crate::kv::{CasError, Kv, KvEntry, Leases, Revision, Watch, WatchEvent};
use crate::{BoxFuture, Epoch, Key, Pattern, Unavailable, VALUE_BYTES_MAX};

/// Values of one kind.
#[derive(Debug)]
pub(super) struct Values {
    epoch: Epoch,
    /// When they end, if they do.
    lease_time: Option<Duration>,
    values_max: usize,
    watch_events_max: usize,
    disk: Option<Disk>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Of the last write to any value.
    last: u64,
    /// What everybody may know.
    entry_by_key: BTreeMap<Key, KvEntry>,
    /// How many those are.
    held: Held,
    /// What is on its way to the disk: the last write to each key.
    pending_by_key: BTreeMap<Key, (Revision, bool)>,
    /// When leases end, the next one first. A renewed one has an older entry, too.
    ends: VecDeque<(Instant, Key, Revision)>,
    watchers: Vec<Watcher>,
}

/// The engine's end of a [`LocalWatch`].
#[derive(Debug)]
struct Watcher {
    pattern: Pattern,
    events: mpsc::Sender<WatchEvent>,
    /// Set when `events` was full.
    is_lost: Arc<AtomicBool>,
}

impl Kv for Local {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KvEntry>, Unavailable>> {
        self.shared.values.get(key)
    }

    fn cas<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision, CasError>> {
        self.shared.values.cas(key, expected, value)
    }

    fn watch<'a>(&'a self, prefix: &'a Key) -> BoxFuture<'a, Result<Box<dyn Watch>, Unavailable>> {
        self.shared.values.watch(prefix)
    }
}

impl Leases for Local {
    fn leases(&self) -> &dyn Kv {
        &self.shared.leases
    }

    fn lease_time(&self) -> Duration {
        self.shared.config.lease_time
    }
}

impl Kv for Arc<Values> {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KvEntry>, Unavailable>> {
        Box::pin(async move {
            let mut state = self.lock_at(Instant::now());
            let entry = state.entry_by_key.get(key).cloned();
            state.forget_closed();
            Ok(entry)
        })
    }

    fn cas<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision, CasError>> {
        Box::pin(async move {
            let (revision, written) = self.cas_now(key, expected, value)?;
            if let Some(written) = written {
                written.await.map_err(|_| CasError::Unknown)?;
            }
            Ok(revision)
        })
    }

    fn watch<'a>(&'a self, prefix: &'a Key) -> BoxFuture<'a, Result<Box<dyn Watch>, Unavailable>> {
        Box::pin(async move {
            let pattern = Pattern::Under(prefix.clone());
            let (sender, events) = mpsc::channel(self.watch_events_max.max(1));
            let is_lost = Arc::new(AtomicBool::new(false));
            let watcher = Watcher {
                pattern: pattern.clone(),
                events: sender,
                is_lost: Arc::clone(&is_lost),
            };
            let mut state = self.lock_at(Instant::now());
            state.watchers.push(watcher);
            let first = state.read(&pattern);
            drop(state);
            Ok(Box::new(LocalWatch {
                values: Self::clone(self),
                pattern,
                first,
                events,
                is_lost,
            }) as Box<dyn Watch>)
        })
    }
}

impl Values {
    pub(super) fn new(epoch: Epoch, config: &LocalConfig) -> Self {
        Self {
            epoch,
            lease_time: None,
            values_max: config.values_max,
            watch_events_max: config.watch_events_max,
            disk: None,
            state: Mutex::default(),
        }
    }

    /// Values that end.
    pub(super) fn leases(epoch: Epoch, config: &LocalConfig) -> Self {
        Self {
            lease_time: Some(config.lease_time),
            ..Self::new(epoch, config)
        }
    }

    /// Values that are kept on disk; `last` is the number of the last write.
    pub(super) fn on_disk(
        mut self,
        disk: Disk,
        last: u64,
        values: impl IntoIterator<Item = (Key, u64, Bytes)>,
    ) -> Self {
        self.disk = Some(disk);
        let mut state = State {
            last,
            ..State::default()
        };
        for (key, number, value) in values {
            let revision = Revision {
                epoch: self.epoch,
                number,
            };
            state.insert(key, KvEntry { value, revision });
        }
        self.state = Mutex::new(state);
        self
    }

    fn cas_now(
        &self,
        key: &Key,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> Result<(Revision, Option<super::disk::Written>), CasError> {
        if value
            .as_ref()
            .is_some_and(|value| value.len() > VALUE_BYTES_MAX)
        {
            return Err(CasError::TooLarge);
        }
        let now = Instant::now();
        let mut state = self.lock_at(now);
        let found = state.newest(key);
        if found != expected {
            return Err(CasError::Conflict);
        }
        let is_new = found.is_none() && value.is_some();
        if is_new && self.is_full(&state, key) {
            return Err(CasError::Full);
        }

        let number = state.last + 1;
        let revision = Revision {
            epoch: self.epoch,
            number,
        };
        let Some(disk) = &self.disk else {
            state.last = number;
            if let (Some(time), true) = (self.lease_time, value.is_some()) {
                state.ends.push_back((now + time, key.clone(), revision));
            }
            state.put(key.clone(), revision, value);
            return Ok((revision, None));
        };
        let is_there = value.is_some();
        let write = Write::Value {
            key: key.clone(),
            number,
            value,
        };
        let written = disk.queue(write).map_err(|Refused| CasError::Unavailable)?;
        state.last = number;
        state
            .pending_by_key
            .insert(key.clone(), (revision, is_there));
        Ok((revision, Some(written)))
    }

    /// Whether there is no place for a further value.
    fn is_full(&self, state: &State, key: &Key) -> bool {
        let further = state.pending_by_key.len() + 1;
        let max = Most {
            all: self.values_max,
            of_kind: self.values_max - self.values_max / 10,
        };
        !state.held.has_place(key, further, &max)
    }

    /// A write has reached the disk.
    pub(super) fn committed(&self, key: Key, number: u64, value: Option<Bytes>) {
        let revision = Revision {
            epoch: self.epoch,
            number,
        };
        let mut state = lock(&self.state);
        if state
            .pending_by_key
            .get(&key)
            .is_some_and(|(pending, _)| *pending == revision)
        {
            state.pending_by_key.remove(&key);
        }
        state.put(key, revision, value);
    }

    /// Locks, after the leases that have ended by now have been deleted.
    fn lock_at(&self, now: Instant) -> std::sync::MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        while state.ends.front().is_some_and(|(end, ..)| *end <= now) {
            let Some((_, key, revision)) = state.ends.pop_front() else {
                break;
            };
            let found = state.entry_by_key.get(&key).map(|entry| entry.revision);
            if found == Some(revision) {
                state.last += 1;
                let revision = Revision {
                    epoch: self.epoch,
                    number: state.last,
                };
                state.put(key, revision, None);
            }
        }
        state
    }
}

impl State {
    /// The revision that the next write must expect.
    fn newest(&self, key: &Key) -> Option<Revision> {
        match self.pending_by_key.get(key) {
            Some((revision, is_there)) => is_there.then_some(*revision),
            None => self.entry_by_key.get(key).map(|entry| entry.revision),
        }
    }

    fn put(&mut self, key: Key, revision: Revision, value: Option<Bytes>) {
        let event = match value {
            Some(value) => {
                let entry = KvEntry { value, revision };
                self.insert(key.clone(), entry.clone());
                WatchEvent::Put {
                    key: key.clone(),
                    entry,
                }
            }
            None => {
                self.remove(&key);
                WatchEvent::Deleted {
                    key: key.clone(),
                    revision,
                }
            }
        };
        self.tell(&key, &event);
    }

    fn insert(&mut self, key: Key, entry: KvEntry) {
        if !self.entry_by_key.contains_key(&key) {
            self.held.add(&key, 1);
        }
        self.entry_by_key.insert(key, entry);
    }

    fn remove(&mut self, key: &Key) {
        if self.entry_by_key.remove(key).is_some() {
            self.held.take(key, 1);
        }
    }

    fn tell(&mut self, key: &Key, event: &WatchEvent) {
        for watcher in &self.watchers {
            if watcher.pattern.matches(key)
                && !watcher.is_lost.load(Ordering::Relaxed)
                && watcher.events.try_send(event.clone()).is_err()
            {
                watcher.is_lost.store(true, Ordering::Relaxed);
            }
        }
        self.forget_closed();
    }

    fn forget_closed(&mut self) {
        self.watchers.retain(|watcher| !watcher.events.is_closed());
    }

    /// All values as they are now, and the word that these are all.
    fn read(&self, pattern: &Pattern) -> VecDeque<WatchEvent> {
        let entries = self
            .entry_by_key
            .iter()
            .filter(|(key, _)| pattern.matches(key));
        entries
            .map(|(key, entry)| WatchEvent::Put {
                key: key.clone(),
                entry: entry.clone(),
            })
            .chain([WatchEvent::Synced])
            .collect()
    }
}

struct LocalWatch {
    values: Arc<Values>,
    pattern: Pattern,
    /// To be yielded before `events`.
    first: VecDeque<WatchEvent>,
    events: mpsc::Receiver<WatchEvent>,
    is_lost: Arc<AtomicBool>,
}

impl Watch for LocalWatch {
    fn next(&mut self) -> BoxFuture<'_, Option<WatchEvent>> {
        Box::pin(async move {
            loop {
                // Whatever ends now tells all watchers, this one included.
                let next_end = {
                    let state = self.values.lock_at(Instant::now());
                    state.ends.front().map(|(end, ..)| *end)
                };
                if self.is_lost.load(Ordering::Relaxed) {
                    self.begin_anew();
                }
                if let Some(event) = self.first.pop_front() {
                    return Some(event);
                }
                // A lease that is taken while this waits ends after the lease time at the earliest.
                let latest = self.values.lease_time.map(|time| Instant::now() + time);
                let Some(end) = next_end.or(latest) else {
                    return self.events.recv().await;
                };
                if let Ok(event) = tokio::time::timeout_at(end, self.events.recv()).await {
                    return event;
                }
            }
        })
    }
}

impl LocalWatch {
    /// Nothing changes while the lock is held, so what is read now and what comes after fit together.
    fn begin_anew(&mut self) {
        let state = lock(&self.values.state);
        while self.events.try_recv().is_ok() {}
        self.first = state.read(&self.pattern);
        self.first.push_front(WatchEvent::Reset);
        self.is_lost.store(false, Ordering::Relaxed);
    }
}
