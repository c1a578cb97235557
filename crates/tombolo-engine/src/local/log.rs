//! Logs in process. A tail is a cursor into the log itself, so it needs no buffer and misses nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, Refused, Write, Written};
use super::held::{Held, Most};
use super::{Local, LocalConfig, Shared, lock};
use crate::log::{
    AppendError, Expect, Log, Offset, OperationId, Purpose, RetireError, SnapshotError, Tail,
    TailEvent,
};
use crate::{BoxFuture, Key, SNAPSHOT_BYTES_MAX, Unavailable, VALUE_BYTES_MAX, latest};

#[derive(Debug, Default)]
pub(super) struct State {
    /// Up to which entry everybody may know, because it is on disk if there is one.
    visible: u64,
    /// Of the last entry of all logs: they share one sequence, so that a log that was forgotten and
    /// begins anew does not give an offset twice.
    last: u64,
    log_by_key: BTreeMap<Key, Entries>,
    /// How many logs have entries and are not retired.
    active: Held,
    /// The bytes of all entries and snapshots.
    held: Held,
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
    /// Up to where it was retired, and nothing is left; 0 if it never was.
    retired_at: u64,
    /// Wakes the tails.
    changed: latest::Sender<()>,
}

impl Log for Local {
    fn append<'a>(
        &'a self,
        key: &'a Key,
        entry: Bytes,
        purpose: Purpose,
        expect: Expect,
        _operation: OperationId,
    ) -> BoxFuture<'a, Result<Offset, AppendError>> {
        Box::pin(async move {
            let (offset, written) = self.append_now(key, entry, purpose, expect)?;
            if let Some(written) = written {
                written.await.map_err(|_| AppendError::Unknown)?;
            }
            Ok(offset)
        })
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
            let written = self.snapshot_now(key, at, state)?;
            if let Some(written) = written {
                written.await.map_err(|_| SnapshotError::Unavailable)?;
            }
            Ok(())
        })
    }

    fn retire<'a>(&'a self, key: &'a Key, at: Offset) -> BoxFuture<'a, Result<(), RetireError>> {
        Box::pin(async move {
            let at = self.seq(at).ok_or(RetireError::Conflict)?;
            let written = {
                let mut logs = lock(&self.shared.logs);
                let disk = self.shared.disk.as_ref();
                let written = logs.retire(key, at, disk)?;
                logs.forget_beyond(self.shared.config.retired_logs_max, disk);
                written
            };
            if let Some(written) = written {
                written.await.map_err(|_| RetireError::Unavailable)?;
            }
            Ok(())
        })
    }

    fn is_broken(&self) -> bool {
        self.shared.disk.as_ref().is_some_and(Disk::has_failed)
    }

    fn broken(&self) -> BoxFuture<'_, ()> {
        match &self.shared.disk {
            Some(disk) => Box::pin(disk.failed()),
            None => Box::pin(std::future::pending()),
        }
    }
}

impl Local {
    fn append_now(
        &self,
        key: &Key,
        entry: Bytes,
        purpose: Purpose,
        expect: Expect,
    ) -> Result<(Offset, Option<Written>), AppendError> {
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
        let is_active = log.is_some_and(|log| log.last != 0 && !log.is_retired());
        let is_full = log.is_some_and(|log| log.entries.len() >= config.log_entries_max);
        let bytes_max = config.log_bytes_max(key, purpose, is_active);
        if is_full
            || (!is_active && !state.active.has_place(key, 1, &config.logs_max(key)))
            || !state.held.has_place(key, size(&entry), &bytes_max)
        {
            return Err(AppendError::Full);
        }

        let seq = state.last + 1;
        let written = match &self.shared.disk {
            Some(disk) => {
                let unavailable = |Refused| AppendError::Unavailable;
                if log.is_some_and(Entries::is_retired) {
                    let taken_up = Write::Retired {
                        key: key.clone(),
                        at: None,
                    };
                    disk.queue(taken_up).map_err(unavailable)?;
                }
                let write = Write::Entry {
                    key: key.clone(),
                    seq,
                    entry: entry.clone(),
                };
                Some(disk.queue(write).map_err(unavailable)?)
            }
            None => None,
        };
        state.active.add(key, usize::from(!is_active));
        state.last = seq;
        state.held.add(key, size(&entry));
        let log = state.log_or_new(key);
        log.last = seq;
        log.entries.push_back((seq, entry));
        if written.is_none() {
            state.committed(key, seq);
        }
        let epoch = self.shared.epoch;
        Ok((Offset { epoch, seq }, written))
    }

    fn snapshot_now(
        &self,
        key: &Key,
        at: Offset,
        state: Bytes,
    ) -> Result<Option<Written>, SnapshotError> {
        let at = self.seq(at).ok_or(SnapshotError::NoSuchEntry)?;
        let mut logs = lock(&self.shared.logs);
        let State {
            log_by_key,
            held,
            visible,
            ..
        } = &mut *logs;
        let log = log_by_key.get_mut(key).ok_or(SnapshotError::NoSuchEntry)?;
        let is_visible = at <= *visible;
        if !is_visible || !log.entries.iter().any(|(seq, _)| *seq == at) {
            return Err(SnapshotError::NoSuchEntry);
        }
        let written = match &self.shared.disk {
            Some(disk) => {
                let write = Write::Snapshot {
                    key: key.clone(),
                    at,
                    state: state.clone(),
                };
                let written = disk.queue(write);
                Some(written.map_err(|Refused| SnapshotError::Unavailable)?)
            }
            None => None,
        };
        held.add(key, size(&state));
        held.take(key, log.clear_to(at));
        log.snapshot = Some((at, state));
        Ok(written)
    }

    /// The place of an offset, unless another store gave it.
    fn seq(&self, offset: Offset) -> Option<u64> {
        (offset.epoch == self.shared.epoch).then_some(offset.seq)
    }
}

impl State {
    /// The logs as they were on disk.
    pub(super) fn on_disk(
        last: u64,
        entries: BTreeMap<Key, Vec<(u64, Bytes)>>,
        snapshots: BTreeMap<Key, (u64, Bytes)>,
        retired: BTreeMap<u64, Key>,
    ) -> Self {
        let mut state = Self {
            visible: last,
            last,
            ..Self::default()
        };
        for (key, (at, snapshot)) in snapshots {
            state.held.add(&key, size(&snapshot));
            let log = state.log_or_new(&key);
            log.last = at;
            log.snapshot = Some((at, snapshot));
        }
        for (key, entries) in entries {
            let sizes = entries.iter().map(|(_, entry)| size(entry));
            state.held.add(&key, sizes.sum());
            let log = state.log_or_new(&key);
            log.last = entries.last().map_or(log.last, |(seq, _)| *seq);
            log.entries = entries.into();
        }
        for (at, key) in retired {
            let log = state.log_or_new(&key);
            log.last = log.last.max(at);
            log.retired_at = at;
            let freed = log.clear_to(at);
            state.held.take(&key, freed);
            state.retired.push_back((key, at));
        }
        let logs = state.log_by_key.iter();
        for (key, _) in logs.filter(|(_, log)| !log.is_retired()) {
            state.active.add(key, 1);
        }
        state
    }

    /// An entry may be read from now on.
    pub(super) fn committed(&mut self, key: &Key, seq: u64) {
        self.visible = self.visible.max(seq);
        if let Some(log) = self.log_by_key.get(key) {
            log.changed.send_replace(());
        }
    }

    fn log_or_new(&mut self, key: &Key) -> &mut Entries {
        self.log_by_key
            .entry(key.clone())
            .or_insert_with(|| Entries {
                last: 0,
                snapshot: None,
                entries: VecDeque::new(),
                retired_at: 0,
                changed: latest::Sender::new(()),
            })
    }

    fn retire(
        &mut self,
        key: &Key,
        at: u64,
        disk: Option<&Disk>,
    ) -> Result<Option<Written>, RetireError> {
        let log = self.log_by_key.get_mut(key).ok_or(RetireError::Conflict)?;
        if log.last != at || at == 0 {
            return Err(RetireError::Conflict);
        }
        let mut written = None;
        if !log.is_retired() {
            if let Some(disk) = disk {
                let write = Write::Retired {
                    key: key.clone(),
                    at: Some(at),
                };
                let queued = disk.queue(write);
                written = Some(queued.map_err(|Refused| RetireError::Unavailable)?);
            }
            log.retired_at = at;
            self.held.take(key, log.clear_to(at));
            self.active.take(key, 1);
            self.retired.push_back((key.clone(), at));
        }
        Ok(written)
    }

    /// Forgets the oldest retired logs. One that somebody reads or that was taken up again stays.
    fn forget_beyond(&mut self, retired_max: usize, disk: Option<&Disk>) {
        while self.retired.len() > retired_max {
            let Some((key, at)) = self.retired.pop_front() else {
                break;
            };
            let Some(log) = self.log_by_key.get_mut(&key) else {
                continue;
            };
            if !log.is_retired() || log.last != at {
                continue;
            }
            if let Some(disk) = disk
                && let Err(Refused) = disk.queue(Write::Forgotten { key: key.clone() })
            {
                // It is forgotten another time.
                self.retired.push_front((key, at));
                return;
            }
            if log.changed.is_closed() {
                self.log_by_key.remove(&key);
            } else {
                // Its readers go on after the offset that they have; see `LocalTail::drop`.
                log.last = 0;
                log.retired_at = 0;
            }
        }
    }
}

impl Entries {
    /// Whether nothing came after it was retired.
    fn is_retired(&self) -> bool {
        self.last != 0 && self.retired_at == self.last
    }

    /// Drops the snapshot, and what came up to an entry; returns how much that was.
    fn clear_to(&mut self, at: u64) -> usize {
        let kept = self.entries.partition_point(|(seq, _)| *seq <= at);
        let entries = self.entries.drain(..kept).map(|(_, entry)| entry);
        let snapshot = self.snapshot.take().map(|(_, state)| state);
        entries.chain(snapshot).map(|bytes| size(&bytes)).sum()
    }
}

impl LocalConfig {
    /// How many logs there may be when one begins.
    fn logs_max(&self, key: &Key) -> Most {
        let all = self.logs_max;
        Most {
            all,
            of_kind: match self.share(key) {
                Some(percent) => part(all, percent),
                None => all - all / 10,
            },
        }
    }

    /// How many bytes there may be with an entry. What one kind of logs cannot fill, others can begin in.
    fn log_bytes_max(&self, key: &Key, purpose: Purpose, is_active: bool) -> Most {
        let share = self.share(key).unwrap_or(80);
        let (all, of_kind) = match (is_active, purpose) {
            (true, Purpose::End) => (100, 95),
            (true, Purpose::More) => (95, share),
            (false, _) => (90, share * 15 / 16),
        };
        Most {
            all: part(self.log_bytes_max, all),
            of_kind: part(self.log_bytes_max, of_kind),
        }
    }

    /// What there is for the kind of a log, if that is said.
    fn share(&self, key: &Key) -> Option<usize> {
        let share = self.shares.iter().find(|share| share.kind == key.kind());
        share.map(|share| share.percent)
    }
}

fn part(all: usize, percent: usize) -> usize {
    (all / 100).saturating_mul(percent) + all % 100 * percent / 100
}

/// What an entry or a snapshot counts.
fn size(payload: &Bytes) -> usize {
    payload.len() + 64
}

struct LocalTail {
    shared: Arc<Shared>,
    key: Key,
    /// Of the last entry that was read.
    cursor: u64,
    reset: bool,
    is_synced: bool,
    changed: latest::Receiver<()>,
}

impl Tail for LocalTail {
    fn next(&mut self) -> BoxFuture<'_, Option<TailEvent>> {
        Box::pin(async move {
            loop {
                drop(self.changed.borrow_and_update());
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
            let seq = log.retired_at;
            if self.cursor < seq {
                // Who has not read it all begins anew, with nothing.
                let is_first = self.cursor == 0;
                self.cursor = if is_first { seq } else { 0 };
                let at = Offset { epoch, seq };
                return Some(match is_first {
                    true => TailEvent::Retired { at },
                    false => TailEvent::Reset,
                });
            }
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
            let entry = log.entries.get(next);
            if let Some((seq, entry)) = entry.filter(|(seq, _)| *seq <= logs.visible) {
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
