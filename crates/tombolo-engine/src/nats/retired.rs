//! Logs whose use has ended: of each only a mark is left, which goes away by itself after a while.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_nats::HeaderMap;
use bytes::Bytes;

use super::Shared;
use super::api::Purge;
use super::connection::count;
use super::messages::{self, RETIRED, TIME_TO_LIVE};
use super::write::{To, Write, WriteError, write};
use crate::log::{Offset, RetireError};
use crate::{Key, Unavailable};

/// Logs that are to be retired, with their last entries, until that is done.
#[derive(Debug, Default)]
pub(super) struct Retired {
    last_by_key: Mutex<BTreeMap<Key, Offset>>,
}

impl Retired {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Offset>> {
        let logs = self.last_by_key.lock();
        logs.unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a log; false when there are too many.
    fn add(&self, key: &Key, at: Offset) -> bool {
        let mut logs = self.lock();
        let has_place = logs.len() < RETIRED_MAX || logs.contains_key(key);
        if has_place {
            logs.insert(key.clone(), at);
        }
        has_place
    }

    fn is_noted(&self, key: &Key, at: Offset) -> bool {
        self.lock().get(key) == Some(&at)
    }

    fn remove(&self, key: &Key, at: Offset) {
        let mut logs = self.lock();
        if logs.get(key) == Some(&at) {
            logs.remove(key);
        }
    }
}

impl Shared {
    /// Retires a log. What cannot be done now, though it was begun, is done later.
    pub(super) async fn retire(&self, key: &Key, at: Offset) -> Result<(), RetireError> {
        if !self.retired.add(key, at) {
            count(&self.connection.counters().unpurged);
        }
        self.retire_noted(key, at).await
    }

    /// Does what could not be done when logs were retired, as far as it can be done now.
    pub(super) async fn retire_all_noted(&self) {
        let logs = self.retired.lock().clone();
        for (key, at) in logs {
            let _ = self.retire_noted(&key, at).await;
            if self.retired.is_noted(&key, at) {
                return;
            }
        }
    }

    async fn retire_noted(&self, key: &Key, at: Offset) -> Result<(), RetireError> {
        match self.marked(key, at).await {
            Ok(mark) => {
                if self.clear(key, mark).await.is_ok() {
                    self.retired.remove(key, at);
                }
                Ok(())
            }
            Err(RetireError::Conflict) => {
                self.retired.remove(key, at);
                Err(RetireError::Conflict)
            }
            Err(error) => Err(error),
        }
    }

    /// The log's mark, which is made unless it is there.
    async fn marked(&self, key: &Key, at: Offset) -> Result<Offset, RetireError> {
        let shard = self.logs.of(key);
        let epoch = shard.epoch();
        if at.epoch != epoch || at.seq == 0 {
            return Err(RetireError::Conflict);
        }
        let subject = shard.subject(epoch, key.as_str());
        let last = messages::last(&self.connection, &shard.name, &subject).await;
        let last = last.map_err(|Unavailable| RetireError::Unavailable)?;
        let seq = match last {
            Some(last) if last.retired() == Some(at.seq) => last.seq,
            Some(last) if last.seq == at.seq => self.mark(key, at, subject).await?,
            Some(_) | None => return Err(RetireError::Conflict),
        };
        Ok(Offset { epoch, seq })
    }

    /// Removes all but the mark: the log is never empty while somebody may expect it to be.
    async fn clear(&self, key: &Key, mark: Offset) -> Result<(), Unavailable> {
        let shard = self.logs.of(key);
        let entries = Purge {
            filter: shard.subject(mark.epoch, key.as_str()),
            seq: mark.seq,
        };
        self.purge(shard, &entries).await?;
        // A later snapshot is of what follows the mark.
        if let Some(pointer) = self.pointer(key).await?
            && pointer.at < mark
        {
            let parts = Purge {
                filter: self.any_part_subject(key),
                seq: pointer.seq,
            };
            let pointer = Purge {
                filter: self.pointer_subject(key),
                seq: pointer.seq + 1,
            };
            // The pointer last: by it the parts are found again.
            for purge in [parts, pointer] {
                self.purge(self.snapshot_shard(), &purge).await?;
            }
        }
        Ok(())
    }

    /// Marks a log as retired after its last entry. The mark goes away by itself after a while.
    async fn mark(&self, key: &Key, at: Offset, subject: String) -> Result<u64, RetireError> {
        let mut headers = HeaderMap::new();
        headers.insert(RETIRED, at.seq.to_string().as_str());
        if self.connection.has_batches() {
            let seconds = self.config.retired_time.as_secs().max(1);
            headers.insert(TIME_TO_LIVE, format!("{seconds}s").as_str());
        }
        let mark = Write {
            subject,
            payload: Bytes::new(),
            headers,
            operation: format!("{key}/retired/{}", at.seq),
            expected: Some(at.seq),
            to: To::Log,
        };
        let shard = self.logs.of(key);
        match write(&self.connection, shard, mark, self.config.hold_max).await {
            Ok(seq) => Ok(seq),
            Err(WriteError::Conflict) => Err(RetireError::Conflict),
            Err(
                WriteError::Full
                | WriteError::TooLarge
                | WriteError::Unavailable
                | WriteError::Unknown,
            ) => Err(RetireError::Unavailable),
        }
    }
}

/// Most logs of which is remembered that they are to be cleared.
const RETIRED_MAX: usize = 4096;
