//! Services on an engine that fails.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{
    AppendError, BoxFuture, Bus, CasError, Expect, Key, Kv, KvEntry, Leases, Local, LocalConfig,
    Log, Offset, OperationId, Pattern, PublishError, RequestError, RetireError, Revision, Server,
    SnapshotError, Subscription, Tail, Unavailable, Watch,
};
use tombolo_wire::v1::{self, ErrorCode, JoinMode, request};

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

#[tokio::test(start_paused = true)]
async fn what_nobody_knows_of_is_done_once_when_it_is_asked_for_again_by_its_name() {
    let engine = Flaky::new();
    let lab = Lab::on(engine.clone(), |_| {});
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    bob.hears_all = true;
    let named = |wanted_for_ms| v1::RoomRequest {
        operation: Bytes::from_static(&[7; 16]),
        wanted_for_ms,
        ..said("once")
    };
    engine.set(Mood::Late);
    let asked = alice.request(Some(request::Kind::Room(named(0))));
    tokio::time::sleep(Duration::from_secs(11)).await;
    let unsure = alice.response_among_events(asked).await;
    assert_eq!(unsure, Err(ErrorCode::Unsure));

    // By another session, for the first one is lost.
    engine.set(Mood::Fine);
    let mut again = lab.device("alice").await;
    again.join("r", JoinMode::Join).await.unwrap();
    again.drain().await;
    for _ in 0..2 {
        let acted = again.act_as(named(20_000)).await;
        assert_eq!(acted.unwrap().message, 1);
        engine.catch_up().await;
    }
    // Nobody else has the name.
    bob.drain().await;
    assert_eq!(bob.act_as(named(20_000)).await.unwrap().message, 2);
    let short = v1::RoomRequest {
        operation: Bytes::from_static(&[7; 15]),
        ..said("named badly")
    };
    assert_eq!(bob.act_as(short).await, Err(ErrorCode::BadFrame));
    assert_eq!(bob.act_as(said("unnamed")).await.unwrap().message, 3);

    engine.set(Mood::Away);
    let not_done = bob.act_as(said("never")).await;
    assert_eq!(not_done, Err(ErrorCode::Unavailable));
}

fn said(text: &'static str) -> v1::RoomRequest {
    let kind = v1::room_act::Kind::Say(v1::Say {
        audience: None,
        payload: text.into(),
    });
    v1::RoomRequest {
        room: "r".into(),
        act: Some(v1::RoomAct { kind: Some(kind) }),
        ..v1::RoomRequest::default()
    }
}

/// An engine with moods: what it does with appends and new tails.
#[derive(Clone)]
struct Flaky {
    local: Local,
    mood: Arc<AtomicU8>,
    late: Arc<Mutex<Vec<Written>>>,
}

type Written = (Key, Bytes, Expect, OperationId);

#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
enum Mood {
    Fine,
    /// Nothing is written.
    Away,
    /// It is written, but nobody knows.
    Unsure,
    /// It is written when the test says so, and nobody knows.
    Late,
}

impl Flaky {
    fn new() -> Arc<Self> {
        let local = Local::new(LocalConfig::default());
        Arc::new(Self {
            local,
            mood: Arc::default(),
            late: Arc::default(),
        })
    }

    /// Writes what is late.
    async fn catch_up(&self) {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        for (key, entry, expect, operation) in late {
            let appended = self.local.append(&key, entry, expect, operation);
            appended.await.unwrap();
        }
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
            if self.is(Mood::Late) {
                let written = (key.clone(), entry, expect, operation);
                self.late.lock().unwrap().push(written);
                return Err(AppendError::Unknown);
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
