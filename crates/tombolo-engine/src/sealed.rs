//! An engine whose bus only those understand, and speak on, who have a key.

mod seal;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub(crate) use seal::{AnswerSealer, Context, Opener, SEAL_BYTES};
pub use seal::{SealError, SealKey, SealKeyId, SealRefusal, SealStats};

use crate::bus::{Bus, PublishError, RequestError, Server, Subscription};
use crate::{
    AppendError, BoxFuture, CasError, Engine, Expect, Key, Kv, KvEntry, Leases, Log, Offset,
    OperationId, Pattern, Purpose, RetireError, Revision, SnapshotError, Tail, Unavailable,
    VALUE_BYTES_MAX, Watch,
};
use seal::Sealer;

/// An engine whose messages on the bus are sealed: whoever can publish there, but does not have the
/// key, can neither read nor forge, change, redirect or repeat them. Logs and values are as they are.
///
/// Messages are bound to their subject, and answers to what they answer. One that comes a second time,
/// or more than a minute late by the clocks of the two, is refused; so nodes' clocks must not be further
/// apart than that. A question is refused, too, that was sealed more than five seconds before its server
/// began to serve: what one process was asked must not be asked again of the next one of its name.
pub struct Sealed {
    engine: Arc<dyn Engine>,
    sealer: Arc<Sealer>,
}

impl Sealed {
    /// Seals with the first of the keys, and opens with all: so a key can be changed node by node.
    ///
    /// # Errors
    /// Without a key, or without entropy.
    pub fn new(engine: Arc<dyn Engine>, keys: &[SealKey]) -> Result<Self, SealError> {
        let sealer = Arc::new(Sealer::new(keys)?);
        Ok(Self { engine, sealer })
    }

    /// What was refused, and why.
    #[must_use]
    pub fn stats(&self) -> SealStats {
        self.sealer.stats()
    }

    fn opener(&self) -> Opener {
        Opener::new(Arc::clone(&self.sealer))
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").finish_non_exhaustive()
    }
}

impl Bus for Sealed {
    fn publish<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async move {
            check(&payload).ok_or(PublishError::TooLarge)?;
            let sealed = self.sealer.seal(Context::Message(subject), &payload);
            let sealed = sealed.ok_or(PublishError::Unavailable)?;
            self.engine.publish(subject, sealed).await
        })
    }

    fn subscribe<'a>(
        &'a self,
        pattern: &'a Pattern,
        messages_max: usize,
    ) -> BoxFuture<'a, Result<Subscription, Unavailable>> {
        Box::pin(async move {
            let subscription = self.engine.subscribe(pattern, messages_max).await?;
            Ok(subscription.opened_by(self.opener()))
        })
    }

    fn request<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, RequestError>> {
        Box::pin(async move {
            check(&payload).ok_or(RequestError::TooLarge)?;
            let sealed = self.sealer.seal(Context::Request(subject), &payload);
            let sealed = sealed.ok_or(RequestError::Unavailable)?;
            let asked = sealed.clone();
            let answer = self.engine.request(subject, sealed, timeout).await?;
            let opened = self.opener().open(Context::Answer(&asked), &answer);
            // Whoever answered that does not serve the subject.
            opened.ok_or(RequestError::Refused)
        })
    }

    fn serve<'a>(
        &'a self,
        subject: &'a Key,
        requests_max: usize,
    ) -> BoxFuture<'a, Result<Server, Unavailable>> {
        Box::pin(async move {
            let server = self.engine.serve(subject, requests_max).await?;
            // What was asked before this node was there, or before it lost what it had heard, was not
            // asked of it: somebody asks it again.
            let opener = self.opener().starting_now();
            Ok(server.opened_by(subject.clone(), opener))
        })
    }

    fn away_for(&self) -> Option<Duration> {
        self.engine.away_for()
    }

    fn look_elsewhere(&self) -> BoxFuture<'_, ()> {
        self.engine.look_elsewhere()
    }
}

impl Log for Sealed {
    fn append<'a>(
        &'a self,
        key: &'a Key,
        entry: Bytes,
        purpose: Purpose,
        expect: Expect,
        operation: OperationId,
    ) -> BoxFuture<'a, Result<Offset, AppendError>> {
        self.engine.append(key, entry, purpose, expect, operation)
    }

    fn tail<'a>(
        &'a self,
        key: &'a Key,
        after: Option<Offset>,
    ) -> BoxFuture<'a, Result<Box<dyn Tail>, Unavailable>> {
        self.engine.tail(key, after)
    }

    fn snapshot<'a>(
        &'a self,
        key: &'a Key,
        at: Offset,
        state: Bytes,
    ) -> BoxFuture<'a, Result<(), SnapshotError>> {
        self.engine.snapshot(key, at, state)
    }

    fn retire<'a>(&'a self, key: &'a Key, at: Offset) -> BoxFuture<'a, Result<(), RetireError>> {
        self.engine.retire(key, at)
    }

    fn is_broken(&self) -> bool {
        self.engine.is_broken()
    }

    fn broken(&self) -> BoxFuture<'_, ()> {
        self.engine.broken()
    }
}

impl Kv for Sealed {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KvEntry>, Unavailable>> {
        self.engine.get(key)
    }

    fn cas<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision, CasError>> {
        self.engine.cas(key, expected, value)
    }

    fn watch<'a>(&'a self, prefix: &'a Key) -> BoxFuture<'a, Result<Box<dyn Watch>, Unavailable>> {
        self.engine.watch(prefix)
    }
}

impl Leases for Sealed {
    fn leases(&self) -> &dyn Kv {
        self.engine.leases()
    }

    fn lease_time(&self) -> Duration {
        self.engine.lease_time()
    }
}

fn check(payload: &Bytes) -> Option<()> {
    (payload.len() <= VALUE_BYTES_MAX).then_some(())
}
