//! Services on an engine that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{
    AppendError, BoxFuture, Bus, CasError, Expect, Key, Kv, KvEntry, Leases, Local, LocalConfig,
    Log, Offset, OperationId, Pattern, PublishError, RequestError, RetireError, Revision, Server,
    SnapshotError, Subscription, Tail, Unavailable, Watch,
};
use tombolo_wire::v1::{ErrorCode, JoinMode};

use crate::lab::{Lab, members};

#[tokio::test(start_paused = true)]
async fn without_the_engine_rooms_are_unavailable_and_recover_by_themselves() {
    let engine = Flaky::new();
    let lab = Lab::on(engine.clone(), |_| {});
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let mut carol = lab.device("carol").await;

    engine.set(Mood::Away);
    assert_eq!(
        carol.join("r", JoinMode::Join).await,
        Err(ErrorCode::Unavailable)
    );
    assert_eq!(bob.leave("r").await, Err(ErrorCode::Unavailable));
    alice
        .send(crate::lab::message("r", &[], b"messages go on"))
        .unwrap();
    assert_eq!(bob.next_delivery().await.1, "messages go on");

    engine.set(Mood::Fine);
    assert!(carol.join("r", JoinMode::Join).await.is_ok());
    bob.drain().await;
    assert_eq!(bob.leave("r").await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_without_the_engine_leaves_when_it_is_back() {
    let engine = Flaky::new();
    let lab = Lab::on(engine.clone(), |_| {});
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    engine.set(Mood::Away);
    bob.connection = None;
    tokio::time::sleep(Duration::from_secs(100)).await;
    alice.is_quiet().await;
    engine.set(Mood::Fine);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(alice.next_event().await, "-bob disconnected");
    assert!(!bob.connect(&lab).await.unwrap().resumed);
}

#[tokio::test(start_paused = true)]
async fn an_unsure_answer_is_settled_by_the_log() {
    let engine = Flaky::new();
    let lab = Lab::on(engine.clone(), |_| {});
    engine.set(Mood::Unsure);
    let mut alice = lab.device("alice").await;
    assert!(alice.join("r", JoinMode::Create).await.unwrap().created);
    let mut bob = lab.device("bob").await;
    let joined = bob.join("r", JoinMode::JoinOrCreate).await.unwrap();
    assert_eq!(
        (members(&joined), joined.created),
        (vec!["alice", "bob"], false)
    );
    alice.drain().await;

    // A leave that is repeated because nobody knows counts once.
    bob.connection = None;
    tokio::time::sleep(Duration::from_secs(31)).await;
    engine.set(Mood::Fine);
    assert_eq!(alice.next_event().await, "?bob");
    assert_eq!(alice.next_event().await, "-bob disconnected");
    tokio::time::sleep(Duration::from_secs(10)).await;
    alice.is_quiet().await;
}

/// An engine with moods: what it does with appends and new tails.
#[derive(Clone)]
struct Flaky {
    local: Local,
    mood: Arc<AtomicU8>,
}

#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
enum Mood {
    Fine,
    /// Nothing is written.
    Away,
    /// It is written, but nobody knows.
    Unsure,
}

impl Flaky {
    fn new() -> Arc<Self> {
        let local = Local::new(LocalConfig::default());
        Arc::new(Self {
            local,
            mood: Arc::default(),
        })
    }

    fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::Relaxed);
    }

    fn is(&self, mood: Mood) -> bool {
        self.mood.load(Ordering::Relaxed) == mood as u8
    }
}

impl Log for Flaky {
    fn append<'a>(
        &'a self,
        key: &'a Key,
        entry: Bytes,
        expect: Expect,
        operation: OperationId,
    ) -> BoxFuture<'a, Result<Offset, AppendError>> {
        Box::pin(async move {
            if self.is(Mood::Away) {
                return Err(AppendError::Unavailable);
            }
            let appended = self.local.append(key, entry, expect, operation).await;
            if self.is(Mood::Unsure) {
                Err(AppendError::Unknown)
            } else {
                appended
            }
        })
    }

    fn tail<'a>(
        &'a self,
        key: &'a Key,
        after: Option<Offset>,
    ) -> BoxFuture<'a, Result<Box<dyn Tail>, Unavailable>> {
        if self.is(Mood::Away) {
            return Box::pin(async { Err(Unavailable) });
        }
        self.local.tail(key, after)
    }

    fn snapshot<'a>(
        &'a self,
        key: &'a Key,
        at: Offset,
        state: Bytes,
    ) -> BoxFuture<'a, Result<(), SnapshotError>> {
        self.local.snapshot(key, at, state)
    }

    fn retire<'a>(&'a self, key: &'a Key, at: Offset) -> BoxFuture<'a, Result<(), RetireError>> {
        self.local.retire(key, at)
    }
}

impl Bus for Flaky {
    fn publish<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), PublishError>> {
        self.local.publish(subject, payload)
    }

    fn subscribe<'a>(
        &'a self,
        pattern: &'a Pattern,
        messages_max: usize,
    ) -> BoxFuture<'a, Result<Subscription, Unavailable>> {
        self.local.subscribe(pattern, messages_max)
    }

    fn request<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, RequestError>> {
        self.local.request(subject, payload, timeout)
    }

    fn serve<'a>(
        &'a self,
        subject: &'a Key,
        requests_max: usize,
    ) -> BoxFuture<'a, Result<Server, Unavailable>> {
        self.local.serve(subject, requests_max)
    }
}

impl Kv for Flaky {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KvEntry>, Unavailable>> {
        self.local.get(key)
    }

    fn cas<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision, CasError>> {
        self.local.cas(key, expected, value)
    }

    fn watch<'a>(&'a self, prefix: &'a Key) -> BoxFuture<'a, Result<Box<dyn Watch>, Unavailable>> {
        self.local.watch(prefix)
    }
}

impl Leases for Flaky {
    fn leases(&self) -> &dyn Kv {
        self.local.leases()
    }

    fn lease_time(&self) -> Duration {
        self.local.lease_time()
    }
}
