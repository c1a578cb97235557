//! Values in process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Local, Shared, lock};
use crate::kv::{CasError, Kv, KvEntry, Revision, Watch, WatchEvent};
use crate::{BoxFuture, Key, Pattern, Unavailable, VALUE_BYTES_MAX};

#[derive(Debug, Default)]
pub(super) struct State {
    /// Of the last write to any value.
    last: u64,
    entry_by_key: BTreeMap<Key, KvEntry>,
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
        Box::pin(async move { Ok(lock(&self.shared.values).entry_by_key.get(key).cloned()) })
    }

    fn cas<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision, CasError>> {
        Box::pin(async move { self.cas_now(key, expected, value) })
    }

    fn watch<'a>(&'a self, prefix: &'a Key) -> BoxFuture<'a, Result<Box<dyn Watch>, Unavailable>> {
        Box::pin(async move {
            let pattern = Pattern::Under(prefix.clone());
            let (sender, events) = mpsc::channel(self.shared.config.watch_events_max.max(1));
            let is_lost = Arc::new(AtomicBool::new(false));
            let watcher = Watcher {
                pattern: pattern.clone(),
                events: sender,
                is_lost: Arc::clone(&is_lost),
            };
            let mut state = lock(&self.shared.values);
            state.watchers.push(watcher);
            let first = state.read(&pattern);
            drop(state);
            let shared = Arc::clone(&self.shared);
            Ok(Box::new(LocalWatch {
                shared,
                pattern,
                first,
                events,
                is_lost,
            }) as Box<dyn Watch>)
        })
    }
}

impl Local {
    fn cas_now(
        &self,
        key: &Key,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> Result<Revision, CasError> {
        if value
            .as_ref()
            .is_some_and(|value| value.len() > VALUE_BYTES_MAX)
        {
            return Err(CasError::TooLarge);
        }
        let mut state = lock(&self.shared.values);
        let found = state.entry_by_key.get(key).map(|entry| entry.revision);
        if found != expected {
            return Err(CasError::Conflict);
        }
        let is_new = found.is_none() && value.is_some();
        if is_new && state.entry_by_key.len() >= self.shared.config.values_max {
            return Err(CasError::Full);
        }

        state.last += 1;
        let revision = Revision {
            epoch: self.shared.epoch,
            number: state.last,
        };
        let key = key.clone();
        let event = match value {
            Some(value) => {
                let entry = KvEntry { value, revision };
                state.entry_by_key.insert(key.clone(), entry.clone());
                WatchEvent::Put {
                    key: key.clone(),
                    entry,
                }
            }
            None => {
                state.entry_by_key.remove(&key);
                WatchEvent::Deleted {
                    key: key.clone(),
                    revision,
                }
            }
        };
        state.tell(&key, &event);
        Ok(revision)
    }
}

impl State {
    fn tell(&mut self, key: &Key, event: &WatchEvent) {
        self.watchers.retain(|watcher| {
            if watcher.pattern.matches(key)
                && !watcher.is_lost.load(Ordering::Relaxed)
                && watcher.events.try_send(event.clone()).is_err()
            {
                watcher.is_lost.store(true, Ordering::Relaxed);
            }
            !watcher.events.is_closed()
        });
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
    shared: Arc<Shared>,
    pattern: Pattern,
    /// To be yielded before `events`.
    first: VecDeque<WatchEvent>,
    events: mpsc::Receiver<WatchEvent>,
    is_lost: Arc<AtomicBool>,
}

impl Watch for LocalWatch {
    fn next(&mut self) -> BoxFuture<'_, Option<WatchEvent>> {
        Box::pin(async move {
            if self.is_lost.load(Ordering::Relaxed) {
                self.begin_anew();
            }
            if let Some(event) = self.first.pop_front() {
                return Some(event);
            }
            self.events.recv().await
        })
    }
}

impl LocalWatch {
    /// Nothing changes while the lock is held, so what is read now and what comes after fit together.
    fn begin_anew(&mut self) {
        let state = lock(&self.shared.values);
        while self.events.try_recv().is_ok() {}
        self.first = state.read(&self.pattern);
        self.first.push_front(WatchEvent::Reset);
        self.is_lost.store(false, Ordering::Relaxed);
    }
}
