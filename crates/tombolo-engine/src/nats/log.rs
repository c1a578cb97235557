//! Logs: subjects of streams that republish what they store.

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use bytes::Bytes;

use super::api::{Ignored, Purge};
use super::messages::{self, Stored};
use super::streams::Shard;
use super::tail;
use super::write::{To, Write, WriteError, write};
use super::{Nats, Shared};
use crate::log::{
    AppendError, Expect, Log, Offset, OperationId, Purpose, RetireError, SnapshotError, Tail,
};
use crate::{BoxFuture, Epoch, Key, SNAPSHOT_BYTES_MAX, Unavailable, VALUE_BYTES_MAX};

impl Log for Nats {
    fn append<'a>(
        &'a self,
        key: &'a Key,
        entry: Bytes,
        purpose: Purpose,
        expect: Expect,
        operation: OperationId,
    ) -> BoxFuture<'a, Result<Offset, AppendError>> {
        Box::pin(async move {
            if entry.len() > VALUE_BYTES_MAX {
                return Err(AppendError::TooLarge);
            }
            let shared = &self.shared;
            if !shared.place.has_place(&shared.config, key, purpose) {
                return Err(AppendError::Full);
            }
            let bytes = entry.len();
            let shard = shared.logs.of(key);
            let epoch = shard.epoch();
            let expected = match expect {
                Expect::Any => None,
                Expect::Empty => Some(0),
                Expect::Last(last) if last.epoch == epoch && last.seq > 0 => Some(last.seq),
                Expect::Last(_) => return Err(AppendError::Conflict),
            };
            let entry = Write {
                subject: shard.subject(epoch, key.as_str()),
                payload: entry,
                headers: HeaderMap::new(),
                // Names are told apart in the whole stream, so the key belongs to it.
                operation: format!("{key}/{:032x}", u128::from_be_bytes(operation.0)),
                expected,
                to: To::Log,
            };
            let hold_max = shared.config.hold_max;
            match write(&shared.connection, shard, entry, hold_max).await {
                Ok(seq) => {
                    shared.place.add(bytes);
                    Ok(Offset { epoch, seq })
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    fn tail<'a>(
        &'a self,
        key: &'a Key,
        after: Option<Offset>,
    ) -> BoxFuture<'a, Result<Box<dyn Tail>, Unavailable>> {
        Box::pin(async move {
            self.shared.connection.check()?;
            Ok(tail::open(&self.shared, key, after))
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
            self.shared.keep_snapshot(key, at, &state).await
        })
    }

    fn retire<'a>(&'a self, key: &'a Key, at: Offset) -> BoxFuture<'a, Result<(), RetireError>> {
        Box::pin(async move { self.shared.retire(key, at).await })
    }
}

/// What is kept of a log in place of its first entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) at: Offset,
    pub(super) state: Bytes,
}

/// A snapshot's first message, which says where the rest is.
#[derive(Debug)]
pub(super) struct Pointer {
    /// Its own sequence number.
    pub(super) seq: u64,
    pub(super) at: Offset,
    /// The id of the entry there.
    entry: Option<String>,
    /// What the further messages are named after.
    name: String,
    /// How many further messages there are.
    parts: usize,
    first: Bytes,
}

impl Shared {
    /// The snapshot of a log, if it says more than `cursor`.
    ///
    /// It is read from the leader, and after what it is to be compared with: entries are removed only
    /// once a snapshot that has them is kept.
    pub(super) async fn snapshot_after(
        &self,
        key: &Key,
        epoch: Epoch,
        cursor: u64,
    ) -> Result<Option<Snapshot>, Unavailable> {
        for _ in 0..SNAPSHOT_ATTEMPTS {
            let Some(pointer) = self.pointer(key).await? else {
                return Ok(None);
            };
            if pointer.at.epoch != epoch || pointer.at.seq <= cursor {
                return Ok(None);
            }
            let parts = if self.is_current(key, &pointer).await? {
                self.parts(key, &pointer).await?
            } else {
                None
            };
            if let Some(state) = parts {
                let at = pointer.at;
                return Ok(Some(Snapshot { at, state }));
            }
            let again = self.pointer(key).await?;
            if again.is_none_or(|again| again.seq == pointer.seq) {
                return Ok(None);
            }
        }
        Err(Unavailable)
    }

    /// Whether a snapshot is of the log as it is. Its entry stays in the log as long as this is the latest snapshot
    /// of it. If it is gone, or another one is in its place, so is the log that the snapshot was of, or there is a
    /// later snapshot.
    async fn is_current(&self, key: &Key, pointer: &Pointer) -> Result<bool, Unavailable> {
        let shard = self.logs.of(key);
        let subject = shard.subject(pointer.at.epoch, key.as_str());
        let seq = pointer.at.seq;
        let found = messages::next(&self.connection, &shard.name, &subject, seq).await?;
        Ok(found.is_some_and(|found| {
            let entry = pointer.entry.as_deref();
            found.seq == seq && entry.is_none_or(|entry| found.is_of(entry))
        }))
    }

    async fn keep_snapshot(
        &self,
        key: &Key,
        at: Offset,
        state: &Bytes,
    ) -> Result<(), SnapshotError> {
        let unavailable = |Unavailable| SnapshotError::Unavailable;
        let shard = self.logs.of(key);
        let epoch = shard.epoch();
        if at.epoch != epoch {
            return Err(SnapshotError::NoSuchEntry);
        }
        let subject = shard.subject(epoch, key.as_str());
        let found = messages::next(&self.connection, &shard.name, &subject, at.seq).await;
        let found = found.map_err(unavailable)?;
        let Some(entry) = found.filter(|found| found.seq == at.seq) else {
            return Err(SnapshotError::NoSuchEntry);
        };
        let old = self.pointer(key).await.map_err(unavailable)?;
        if let Some(old) = &old
            && old.at >= at
            && self.is_current(key, old).await.map_err(unavailable)?
        {
            return Ok(());
        }

        let mut parts = state
            .chunks(VALUE_BYTES_MAX)
            .map(|part| state.slice_ref(part));
        let first = parts.next().unwrap_or_default();
        let parts: Vec<Bytes> = parts.collect();
        let count = parts.len();
        // Of two who keep one at the same time neither writes over what the other has written.
        let name = format!("{}-", self.connection.operation());
        let mut begin = None;
        for (index, part) in parts.into_iter().enumerate() {
            let subject = self.part_subject(key, at, &name, index);
            let seq = self
                .write_snapshot(subject, part, HeaderMap::new(), None)
                .await?;
            begin.get_or_insert(seq);
        }
        let mut headers = HeaderMap::new();
        headers.insert(AT, at.to_string().as_str());
        if let Some(id) = entry.id() {
            headers.insert(ENTRY, id);
        }
        headers.insert(NAME, name.as_str());
        headers.insert(PARTS, count.to_string().as_str());
        // The first one wins; the other has done no harm.
        let expected = Some(old.as_ref().map_or(0, |old| old.seq));
        let pointer = self
            .write_snapshot(self.pointer_subject(key), first, headers, expected)
            .await?;

        // From here on it is kept; that the rest is tidied up can wait for the next one.
        // Entries since the one before stay, too: servers that lose power may have taken them away, and not have
        // kept what stands for them.
        let before = old.filter(|old| old.at.epoch == at.epoch && old.at < at);
        if let Some(before) = before {
            let entries = Purge {
                filter: subject,
                seq: before.at.seq,
            };
            let _ = self.purge(shard, &entries).await;
        }
        // The parts of the one before, and of those whose writers died before they were done. Whoever has
        // written one and still writes looked for the pointer before this one was there, and will fail.
        let parts = Purge {
            filter: self.any_part_subject(key),
            seq: begin.unwrap_or(pointer),
        };
        let _ = self.purge(self.snapshot_shard(), &parts).await;
        Ok(())
    }

    async fn write_snapshot(
        &self,
        subject: String,
        payload: Bytes,
        headers: HeaderMap,
        expected: Option<u64>,
    ) -> Result<u64, SnapshotError> {
        let part = Write {
            subject,
            payload,
            headers,
            operation: self.connection.operation(),
            expected,
            to: To::Value,
        };
        let hold_max = self.config.hold_max;
        let written = write(&self.connection, self.snapshot_shard(), part, hold_max).await;
        match written {
            Ok(seq) => Ok(seq),
            Err(WriteError::TooLarge) => Err(SnapshotError::TooLarge),
            Err(
                WriteError::Conflict
                | WriteError::Full
                | WriteError::Unavailable
                | WriteError::Unknown,
            ) => Err(SnapshotError::Unavailable),
        }
    }

    pub(super) async fn purge(&self, shard: &Shard, purge: &Purge) -> Result<(), Unavailable> {
        // Nothing comes before the first message, but the server would take 1 for no bound at all.
        if purge.seq <= 1 {
            return Ok(());
        }
        let subject = format!("$JS.API.STREAM.PURGE.{}", shard.name);
        match self.connection.ask::<Ignored>(subject, purge).await {
            Ok(Ignored {}) => Ok(()),
            Err(error) => {
                tracing::debug!(stream = %shard.name, %error, "not purged");
                Err(Unavailable)
            }
        }
    }

    pub(super) async fn pointer(&self, key: &Key) -> Result<Option<Pointer>, Unavailable> {
        let stream = self.snapshot_shard().name.as_str();
        let found = messages::last(&self.connection, stream, &self.pointer_subject(key)).await?;
        Ok(found.and_then(Pointer::read))
    }

    /// All of a snapshot; `None` when a part is gone.
    async fn parts(&self, key: &Key, pointer: &Pointer) -> Result<Option<Bytes>, Unavailable> {
        if pointer.parts == 0 {
            return Ok(Some(pointer.first.clone()));
        }
        let stream = self.snapshot_shard().name.as_str();
        let mut state = Vec::with_capacity((pointer.parts + 1) * VALUE_BYTES_MAX);
        state.extend_from_slice(&pointer.first);
        for index in 0..pointer.parts {
            let subject = self.part_subject(key, pointer.at, &pointer.name, index);
            match messages::last(&self.connection, stream, &subject).await? {
                Some(part) => state.extend_from_slice(&part.payload),
                None => return Ok(None),
            }
        }
        Ok(Some(state.into()))
    }

    pub(super) fn snapshot_shard(&self) -> &Shard {
        self.snapshots.first()
    }

    pub(super) fn pointer_subject(&self, key: &Key) -> String {
        let shard = self.snapshot_shard();
        shard.subject(shard.epoch(), &format!("first.{key}"))
    }

    pub(super) fn any_part_subject(&self, key: &Key) -> String {
        let shard = self.snapshot_shard();
        shard.subject(shard.epoch(), &format!("part.*.*.*.{key}"))
    }

    fn part_subject(&self, key: &Key, at: Offset, name: &str, index: usize) -> String {
        let shard = self.snapshot_shard();
        let (epoch, seq) = (at.epoch.0, at.seq);
        let part = format!("part.{epoch}.{seq}.{name}{index}.{key}");
        shard.subject(shard.epoch(), &part)
    }
}

impl Pointer {
    fn read(stored: Stored) -> Option<Self> {
        let (epoch, seq) = stored.header(AT)?.split_once('/')?;
        let at = Offset {
            epoch: Epoch(epoch.parse().ok()?),
            seq: seq.parse().ok()?,
        };
        let parts = stored.headers.get(PARTS).map(HeaderValue::as_str)?;
        let parts = parts.parse().ok().filter(|parts| *parts <= PARTS_MAX)?;
        Some(Self {
            seq: stored.seq,
            at,
            entry: stored.header(ENTRY).map(str::to_owned),
            // Those that earlier releases kept have none.
            name: stored.header(NAME).unwrap_or_default().to_owned(),
            parts,
            first: stored.payload,
        })
    }
}

impl From<WriteError> for AppendError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Conflict => Self::Conflict,
            WriteError::Full => Self::Full,
            WriteError::TooLarge => Self::TooLarge,
            WriteError::Unavailable => Self::Unavailable,
            WriteError::Unknown => Self::Unknown,
        }
    }
}

/// After which entry a snapshot is.
const AT: &str = "Tombolo-At";
/// The id of that entry.
const ENTRY: &str = "Tombolo-Entry";
/// What those are named after in which it goes on.
const NAME: &str = "Tombolo-Name";
/// In how many further messages it goes on.
const PARTS: &str = "Tombolo-Parts";
const PARTS_MAX: usize = SNAPSHOT_BYTES_MAX.div_ceil(VALUE_BYTES_MAX);

/// How often a snapshot is read again that was replaced while it was read.
const SNAPSHOT_ATTEMPTS: usize = 5;
