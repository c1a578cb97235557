//! Logs in process. A tail is a cursor into the log itself, so it needs no buffer and misses nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::{Local, Shared, lock};
use crate::log::{
    AppendError, Expect, Log, Offset, OperationId, RetireError, SnapshotError, Tail, TailEvent,
};
use crate::{BoxFuture, Key, SNAPSHOT_BYTES_MAX, Unavailable, VALUE_BYTES_MAX};

#[derive(Debug, Default)]
pub(super) struct State {
    /// Of the last entry of all logs: they share one sequence, so that a log that was forgotten and
    /// begins anew does not give an offset twice.
    last: u64,
    log_by_key: BTreeMap<Key, Entries>,
    /// How many logs have entries and are not retired.
    active: usize,
    /// The retired logs with their last entries, oldest first.
    retired: VecDeque<(Key, u64)>,
}

#[derive(Debug)]
struct Entries {
    /// 0 while the log is empty.
    last: u64,
    snapshot: Option<(u64, Bytes)>,
    /// After the snapshot.
    entries: VecDeque<(u64, Bytes)>,
    is_retired: bool,
    /// Wakes the tails.
    changed: watch::Sender<()>,
}

impl Log for Local {
    fn append<'a>(
        &'a self,
        key: &'a Key,
        entry: Bytes,
        expect: Expect,
        _operation: OperationId,
    ) -> BoxFuture<'a, Result<Offset, AppendError>> {
        Box::pin(async move { self.append_now(key, entry, expect) })
    }

    fn tail<'a>(
        &'a self,
        key: &'a Key,
        after: Option<Offset>,
    ) -> BoxFuture<'a, Result<Box<dyn Tail>, Unavailable>> {
        Box::pin(async move {
            let mut state = lock(&self.shared.logs);
            let changed = state.log_or_new(key).changed.subscribe();
            drop(state);
            let foreign = after.is_some_and(|after| after.epoch != self.shared.epoch);
            let tail = LocalTail {
                shared: Arc::clone(&self.shared),
                key: key.clone(),
                cursor: after.filter(|_| !foreign).map_or(0, |after| after.seq),
                reset: foreign,
                is_synced: false,
                changed,
            };
            Ok(Box::new(tail) as Box<dyn Tail>)
        })
    }

    fn snapshot<'a>(
        &'a self,
        key: &'a Key,
        at: Offset,
        state: Bytes,
    ) -> BoxFuture<'a, Result<(), SnapshotError>> {
        Box::pin(async move {
            if state.len() > SNAPSHOT_BYTES_MAX {
                return Err(SnapshotError::TooLarge);
            }
            let at = self.seq(at).ok_or(SnapshotError::NoSuchEntry)?;
            let mut logs = lock(&self.shared.logs);
            let log = logs
                .log_by_key
                .get_mut(key)
                .ok_or(SnapshotError::NoSuchEntry)?;
            if !log.entries.iter().any(|(seq, _)| *seq == at) {
                return Err(SnapshotError::NoSuchEntry);
            }
            log.entries.retain(|(seq, _)| *seq > at);
            log.snapshot = Some((at, state));
            Ok(())
        })
    }

    fn retire<'a>(&'a self, key: &'a Key, at: Offset) -> BoxFuture<'a, Result<(), RetireError>> {
        Box::pin(async move {
            let at = self.seq(at).ok_or(RetireError::Conflict)?;
            let mut logs = lock(&self.shared.logs);
            logs.retire(key, at)?;
            logs.forget_beyond(self.shared.config.retired_logs_max);
            Ok(())
        })
    }
}

impl Local {
    fn append_now(&self, key: &Key, entry: Bytes, expect: Expect) -> Result<Offset, AppendError> {
        if entry.len() > VALUE_BYTES_MAX {
            return Err(AppendError::TooLarge);
        }
        let config = &self.shared.config;
        let mut state = lock(&self.shared.logs);
        let log = state.log_by_key.get(key);
        let last = log.map_or(0, |log| log.last);
        let holds = match expect {
            Expect::Any => true,
            Expect::Empty => last == 0,
            Expect::Last(offset) => last != 0 && self.seq(offset) == Some(last),
        };
        if !holds {
            return Err(AppendError::Conflict);
        }
        let is_active = log.is_some_and(|log| log.last != 0 && !log.is_retired);
        let is_full = log.is_some_and(|log| log.entries.len() >= config.log_entries_max);
        if is_full || (!is_active && state.active >= config.logs_max) {
            return Err(AppendError::Full);
        }

        state.active += usize::from(!is_active);
        state.last += 1;
        let seq = state.last;
        let log = state.log_or_new(key);
        log.last = seq;
        log.is_retired = false;
        log.entries.push_back((seq, entry));
        log.changed.send_replace(());
        Ok(Offset {
            epoch: self.shared.epoch,
            seq,
        })
    }

    /// The place of an offset, unless another store gave it.
    fn seq(&self, offset: Offset) -> Option<u64> {
        (offset.epoch == self.shared.epoch).then_some(offset.seq)
    }
}

impl State {
    fn log_or_new(&mut self, key: &Key) -> &mut Entries {
        self.log_by_key
            .entry(key.clone())
            .or_insert_with(|| Entries {
                last: 0,
                snapshot: None,
                entries: VecDeque::new(),
                is_retired: false,
                changed: watch::Sender::new(()),
            })
    }

    fn retire(&mut self, key: &Key, at: u64) -> Result<(), RetireError> {
        let log = self.log_by_key.get_mut(key).ok_or(RetireError::Conflict)?;
        if log.last != at || at == 0 {
            return Err(RetireError::Conflict);
        }
        if !log.is_retired {
            log.is_retired = true;
            self.active -= 1;
            self.retired.push_back((key.clone(), at));
        }
        Ok(())
    }

    /// Forgets the oldest retired logs. One that somebody reads or that was taken up again stays.
    fn forget_beyond(&mut self, retired_max: usize) {
        while self.retired.len() > retired_max {
            let Some((key, at)) = self.retired.pop_front() else {
                break;
            };
            let Some(log) = self.log_by_key.get_mut(&key) else {
                continue;
            };
            if !log.is_retired || log.last != at {
                continue;
            }
            if log.changed.is_closed() {
                self.log_by_key.remove(&key);
            } else {
                // Its readers go on after the offset that they have; see `LocalTail::drop`.
                log.last = 0;
                log.is_retired = false;
                log.snapshot = None;
                log.entries.clear();
            }
        }
    }
}

struct LocalTail {
    shared: Arc<Shared>,
    key: Key,
    /// Of the last entry that was read.
    cursor: u64,
    reset: bool,
    is_synced: bool,
    changed: watch::Receiver<()>,
}

impl Tail for LocalTail {
    fn next(&mut self) -> BoxFuture<'_, Option<TailEvent>> {
        Box::pin(async move {
            loop {
                self.changed.mark_unchanged();
                if let Some(event) = self.poll_event() {
                    return Some(event);
                }
                self.changed.changed().await.ok()?;
            }
        })
    }
}

impl LocalTail {
    fn poll_event(&mut self) -> Option<TailEvent> {
        if std::mem::take(&mut self.reset) {
            return Some(TailEvent::Reset);
        }
        let epoch = self.shared.epoch;
        let logs = lock(&self.shared.logs);
        if let Some(log) = logs.log_by_key.get(&self.key) {
            if let Some((at, state)) = &log.snapshot
                && *at > self.cursor
            {
                self.cursor = *at;
                let at = Offset { epoch, seq: *at };
                return Some(TailEvent::Snapshot {
                    at,
                    state: state.clone(),
                });
            }
            let next = log.entries.partition_point(|(seq, _)| *seq <= self.cursor);
            if let Some((seq, entry)) = log.entries.get(next) {
                self.cursor = *seq;
                let at = Offset { epoch, seq: *seq };
                return Some(TailEvent::Entry {
                    at,
                    entry: entry.clone(),
                });
            }
        }
        if !std::mem::replace(&mut self.is_synced, true) {
            return Some(TailEvent::Synced);
        }
        None
    }
}

impl Drop for LocalTail {
    /// The last reader of a log that has nothing leaves nothing behind.
    fn drop(&mut self) {
        let mut logs = lock(&self.shared.logs);
        let is_idle = |log: &Entries| log.last == 0 && log.changed.receiver_count() <= 1;
        if logs.log_by_key.get(&self.key).is_some_and(is_idle) {
            logs.log_by_key.remove(&self.key);
        }
    }
}
