//! Values: subjects of streams that keep one message of each.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;

use super::Nats;
use super::config::NatsConfig;
use super::connection::Connection;
use super::messages::{self, TIME_TO_LIVE, VALUE_OPERATION};
use super::streams::Shards;
use super::watch;
use super::write::{To, Write, WriteError, write};
use crate::kv::{CasError, Kv, KvEntry, Revision, Watch};
use crate::{BoxFuture, Key, Unavailable, VALUE_BYTES_MAX};

/// Values of one kind.
pub(super) struct Bucket {
    connection: Arc<Connection>,
    shards: Shards,
    hold_max: Duration,
    events_max: usize,
}

impl Bucket {
    pub(super) fn new(connection: Arc<Connection>, config: &NatsConfig, shards: Shards) -> Self {
        Self {
            connection,
            shards,
            hold_max: config.hold_max,
            events_max: config.events_max,
        }
    }

    pub(super) fn shards(&self) -> &Shards {
        &self.shards
    }

    async fn read(&self, key: &Key) -> Result<Option<KvEntry>, Unavailable> {
        let shard = self.shards.of(key);
        let epoch = shard.epoch();
        let subject = shard.subject(epoch, key.as_str());
        let found = messages::last(&self.connection, &shard.name, &subject).await?;
        Ok(found.filter(|found| !found.is_deletion()).map(|found| {
            let revision = Revision {
                epoch,
                number: found.seq,
            };
            let value = found.payload;
            KvEntry { value, revision }
        }))
    }

    async fn compare_and_swap(
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
        let shard = self.shards.of(key);
        let epoch = shard.epoch();
        if expected.is_some_and(|expected| expected.epoch != epoch) {
            return Err(CasError::Conflict);
        }
        let mut headers = HeaderMap::new();
        if value.is_none() {
            headers.insert(VALUE_OPERATION, "DEL");
            if self.connection.has_batches() {
                headers.insert(TIME_TO_LIVE, DELETION_KEPT);
            }
        }
        let change = Write {
            subject: shard.subject(epoch, key.as_str()),
            payload: value.unwrap_or_default(),
            headers,
            operation: self.connection.operation(),
            expected: Some(expected.map_or(0, |expected| expected.number)),
            to: To::Value,
        };
        match write(&self.connection, shard, change, self.hold_max).await {
            Ok(number) => Ok(Revision { epoch, number }),
            Err(error) => Err(error.into()),
        }
    }
}

impl Kv for Arc<Bucket> {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KvEntry>, Unavailable>> {
        Box::pin(self.read(key))
    }

    fn cas<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision, CasError>> {
        Box::pin(self.compare_and_swap(key, expected, value))
    }

    fn watch<'a>(&'a self, prefix: &'a Key) -> BoxFuture<'a, Result<Box<dyn Watch>, Unavailable>> {
        Box::pin(async move {
            self.connection.check()?;
            let shards = self.shards.iter().cloned().collect();
            Ok(watch::open(
                Arc::clone(&self.connection),
                shards,
                prefix,
                self.events_max,
            ))
        })
    }
}

impl Kv for Nats {
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

impl From<WriteError> for CasError {
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

/// How long the mark of a deletion stays: longer than any watch lags behind.
const DELETION_KEPT: &str = "3600s";
