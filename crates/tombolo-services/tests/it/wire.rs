//! What one node has of an engine that several share: it can lose frames, stand still and be cut.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tombolo_engine::{
    AppendError, BoxFuture, Bus, CasError, Expect, Key, Kv, KvEntry, Leases, Local, Log, Offset,
    OperationId, Pattern, PublishError, Purpose, RequestError, RetireError, Revision, Server,
    SnapshotError, Subscription, Tail, TailEvent, Unavailable, Watch, WatchEvent,
};

/// One node's access to a shared engine.
#[derive(Clone)]
pub(crate) struct Wire {
    local: Local,
    leases: Leased,
    /// What has the logs, and how often that was another one.
    logs: watch::Sender<(Local, u64)>,
    /// Nothing goes from here to the engine.
    pub(crate) is_cut: Arc<AtomicBool>,
    /// Nothing is written any more, for good.
    pub(crate) is_broken: Arc<AtomicBool>,
    /// Nothing is written into pools of the matchmaker.
    pub(crate) are_pools_closed: Arc<AtomicBool>,
    /// How long, in ms, it takes until something is written into a pool.
    pub(crate) pool_ms: Arc<AtomicU64>,
    /// Logs are not read further.
    pub(crate) is_slow: Arc<AtomicBool>,
    /// This log is not read further.
    pub(crate) slow_log: Arc<Mutex<Option<Key>>>,
    /// That a log has been read to its end is not told.
    pub(crate) is_endless: Arc<AtomicBool>,
    /// No log is retired.
    pub(crate) retires_nothing: Arc<AtomicBool>,
    /// How many logs are being retired.
    retires_now: Arc<AtomicU64>,
    /// How many at the same time at most.
    pub(crate) retires_most: Arc<AtomicU64>,
    /// Changes of values are not told.
    pub(crate) is_blind: Arc<AtomicBool>,
    /// Who reads a log is told that it begins anew.
    pub(crate) is_void: Arc<AtomicBool>,
    /// How many of a hundred frames to other nodes' inboxes are lost.
    pub(crate) lose_percent: Arc<AtomicU64>,
    /// Heartbeats are lost.
    pub(crate) is_hoarse: Arc<AtomicBool>,
    /// What is said of who is online is lost.
    pub(crate) is_presence_lost: Arc<AtomicBool>,
    /// How many of a hundred questions to other nodes for sessions go wrong: they are lost, or their
    /// answers are, or they come twice, or late.
    pub(crate) confuse_percent: Arc<AtomicU64>,
    /// How long, in ms, it takes to bring a frame to another node's inbox on its way.
    pub(crate) publish_ms: Arc<AtomicU64>,
    /// How many such questions are still answered.
    pub(crate) answers_left: Arc<AtomicU64>,
    trap: Trap,
    /// The others are lost on their way back.
    pub(crate) is_deaf: Arc<AtomicBool>,
    /// How long, in ms, answers wait until they are read, however late that is.
    pub(crate) unread_ms: Arc<AtomicU64>,
    /// How often somewhere was begun to listen.
    pub(crate) subscribed: Arc<AtomicU64>,
    /// How often all values of a kind were read.
    pub(crate) watched: Arc<AtomicU64>,
    published: Arc<AtomicU64>,
}

impl Wire {
    pub(crate) fn new(local: &Local) -> Arc<Self> {
        let trap = Trap::default();
        Arc::new(Self {
            local: local.clone(),
            leases: Leased {
                local: local.clone(),
                is_unsure: Arc::default(),
                trap: trap.clone(),
            },
            trap,
            logs: watch::Sender::new((local.clone(), 0)),
            is_cut: Arc::default(),
            is_broken: Arc::default(),
            are_pools_closed: Arc::default(),
            pool_ms: Arc::default(),
            is_slow: Arc::default(),
            slow_log: Arc::default(),
            is_endless: Arc::default(),
            retires_nothing: Arc::default(),
            retires_now: Arc::default(),
            retires_most: Arc::default(),
            is_blind: Arc::default(),
            is_void: Arc::default(),
            lose_percent: Arc::default(),
            is_hoarse: Arc::default(),
            is_presence_lost: Arc::default(),
            confuse_percent: Arc::default(),
            publish_ms: Arc::default(),
            answers_left: Arc::new(AtomicU64::new(u64::MAX)),
            is_deaf: Arc::default(),
            unread_ms: Arc::default(),
            subscribed: Arc::default(),
            watched: Arc::default(),
            published: Arc::default(),
        })
    }

    /// The logs are others from now on, as when servers were restored; who reads one is told that it begins anew.
    pub(crate) fn restore(&self, logs: &Local) {
        self.logs.send_modify(|(known, count)| {
            *known = logs.clone();
            *count += 1;
        });
    }

    fn logs(&self) -> Local {
        self.logs.borrow().0.clone()
    }

    /// Leases are not written from now on, and nobody says so.
    pub(crate) fn lose_leases(&self) {
        self.leases.is_unsure.store(true, Ordering::Relaxed);
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }

    /// Whoever asks the engine to do what begins so is to panic, so many times: `subscribe beat`, `tail room.r`.
    pub(crate) fn lay(&self, trap: &'static str, times: u64) {
        *self.trap.0.lock().unwrap() = Some((trap, times));
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    fn is_lost(&self, subject: &Key) -> bool {
        if self.is_presence_lost.load(Ordering::Relaxed) && subject.as_str().starts_with("presence")
        {
            return true;
        }
        if self.is_hoarse.load(Ordering::Relaxed) && subject.as_str().starts_with("beat") {
            return true;
        }
        let percent = self.lose_percent.load(Ordering::Relaxed);
        if percent == 0 || !subject.as_str().ends_with(".inbox") {
            return false;
        }
        // The same in every run, but in step with nothing.
        let count = self.published.fetch_add(1, Ordering::Relaxed);
        let mut random = ChaCha8Rng::seed_from_u64(count);
        random.random_range(0..100) < percent
    }
}

impl Bus for Wire {
    fn publish<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), PublishError>> {
        if self.is_cut() {
            return Box::pin(async { Err(PublishError::Unavailable) });
        }
        if self.is_lost(subject) {
            return Box::pin(async { Ok(()) });
        }
        let pause = self.publish_ms.load(Ordering::Relaxed);
        if pause > 0 && subject.as_str().ends_with(".inbox") {
            return Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                self.local.publish(subject, payload).await
            });
        }
        self.local.publish(subject, payload)
    }

    fn subscribe<'a>(
        &'a self,
        pattern: &'a Pattern,
        messages_max: usize,
    ) -> BoxFuture<'a, Result<Subscription, Unavailable>> {
        let (Pattern::Exactly(key) | Pattern::Under(key)) = pattern;
        self.trap.tread("subscribe", key);
        self.subscribed.fetch_add(1, Ordering::Relaxed);
        self.local.subscribe(pattern, messages_max)
    }

    fn request<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, RequestError>> {
        if self.is_cut() {
            return Box::pin(async { Err(RequestError::Unavailable) });
        }
        if !subject.as_str().ends_with(".sessions") {
            return self.local.request(subject, payload, timeout);
        }
        let left = self.answers_left.load(Ordering::Relaxed);
        if left == 0 && self.is_deaf.load(Ordering::Relaxed) {
            return Box::pin(async move {
                let _ = self.local.request(subject, payload, timeout).await;
                lost(timeout).await
            });
        }
        if left == 0 {
            return Box::pin(lost(timeout));
        }
        self.answers_left.store(
            left.saturating_sub(u64::from(left < u64::MAX)),
            Ordering::Relaxed,
        );
        let count = self.published.fetch_add(1, Ordering::Relaxed);
        let mut random = ChaCha8Rng::seed_from_u64(count);
        if random.random_range(0..100) >= self.confuse_percent.load(Ordering::Relaxed) {
            let unread = Duration::from_millis(self.unread_ms.load(Ordering::Relaxed));
            let answer = self.local.request(subject, payload, timeout);
            return Box::pin(async move {
                let answer = answer.await;
                tokio::time::sleep(unread).await;
                answer
            });
        }
        let how = random.random_range(0..4);
        let (local, late) = (self.local.clone(), subject.clone());
        Box::pin(async move {
            match how {
                0 => lost(timeout).await,
                1 => {
                    // It is carried out, and nobody hears of that.
                    let _ = local.request(subject, payload, timeout).await;
                    lost(timeout).await
                }
                2 => {
                    let _ = local.request(subject, payload.clone(), timeout).await;
                    local.request(subject, payload, timeout).await
                }
                _ => {
                    tokio::spawn(async move {
                        tokio::time::sleep(3 * timeout).await;
                        let _ = local.request(&late, payload, timeout).await;
                    });
                    lost(timeout).await
                }
            }
        })
    }

    fn serve<'a>(
        &'a self,
        subject: &'a Key,
        requests_max: usize,
    ) -> BoxFuture<'a, Result<Server, Unavailable>> {
        self.trap.tread("serve", subject);
        self.local.serve(subject, requests_max)
    }
}

impl Log for Wire {
    fn append<'a>(
        &'a self,
        key: &'a Key,
        entry: Bytes,
        purpose: Purpose,
        expect: Expect,
        operation: OperationId,
    ) -> BoxFuture<'a, Result<Offset, AppendError>> {
        self.trap.tread("append", key);
        let is_pool = key.as_str().starts_with("pool.");
        if self.is_cut() || is_pool && self.are_pools_closed.load(Ordering::Relaxed) {
            return Box::pin(async { Err(AppendError::Unavailable) });
        }
        let pause = is_pool.then(|| self.pool_ms.load(Ordering::Relaxed));
        let logs = self.logs();
        Box::pin(async move {
            if let Some(pause @ 1..) = pause {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            logs.append(key, entry, purpose, expect, operation).await
        })
    }

    fn tail<'a>(
        &'a self,
        key: &'a Key,
        after: Option<Offset>,
    ) -> BoxFuture<'a, Result<Box<dyn Tail>, Unavailable>> {
        self.trap.tread("tail", key);
        Box::pin(async move {
            if self.is_cut() {
                return Err(Unavailable);
            }
            let mut logs = self.logs.subscribe();
            let local = logs.borrow_and_update().0.clone();
            let tail = local.tail(key, after).await?;
            let (wire, key) = (self.clone(), key.clone());
            let slow = SlowTail {
                tail,
                held: None,
                wire,
                key,
                logs,
                is_void: false,
            };
            Ok(Box::new(slow) as Box<dyn Tail>)
        })
    }

    fn snapshot<'a>(
        &'a self,
        key: &'a Key,
        at: Offset,
        state: Bytes,
    ) -> BoxFuture<'a, Result<(), SnapshotError>> {
        self.trap.tread("snapshot", key);
        let logs = self.logs();
        Box::pin(async move { logs.snapshot(key, at, state).await })
    }

    fn retire<'a>(&'a self, key: &'a Key, at: Offset) -> BoxFuture<'a, Result<(), RetireError>> {
        if self.retires_nothing.load(Ordering::Relaxed) {
            return Box::pin(async { Err(RetireError::Unavailable) });
        }
        let logs = self.logs();
        Box::pin(async move {
            let others = self.retires_now.fetch_add(1, Ordering::Relaxed);
            self.retires_most.fetch_max(others + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
            let retired = logs.retire(key, at).await;
            self.retires_now.fetch_sub(1, Ordering::Relaxed);
            retired
        })
    }

    fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }
}

struct SlowTail {
    tail: Box<dyn Tail>,
    /// What is not told yet; who reads may give up waiting for it, and read on later.
    held: Option<TailEvent>,
    wire: Wire,
    key: Key,
    logs: watch::Receiver<(Local, u64)>,
    is_void: bool,
}

impl SlowTail {
    async fn begin_anew(&mut self) -> Option<TailEvent> {
        let logs = self.logs.borrow_and_update().0.clone();
        self.tail = logs.tail(&self.key, None).await.ok()?;
        self.held = None;
        self.is_void = true;
        Some(TailEvent::Reset)
    }
}

impl Tail for SlowTail {
    fn next(&mut self) -> BoxFuture<'_, Option<TailEvent>> {
        Box::pin(async move {
            if self.held.is_none() {
                tokio::select! {
                    biased;
                    Ok(()) = self.logs.changed() => return self.begin_anew().await,
                    event = self.tail.next() => self.held = Some(event?),
                }
            }
            self.wire.trap.tread("read", &self.key);
            // Virtual time: nothing waits for real.
            let is_held = || {
                let is_endless = self.wire.is_endless.load(Ordering::Relaxed);
                self.wire.is_slow.load(Ordering::Relaxed)
                    || self.wire.slow_log.lock().unwrap().as_ref() == Some(&self.key)
                    || self.wire.is_cut()
                    || is_endless && self.held == Some(TailEvent::Synced)
            };
            while is_held() {
                if self.logs.has_changed().unwrap_or_default() {
                    return self.begin_anew().await;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if self.wire.is_void.swap(false, Ordering::Relaxed) {
                return self.begin_anew().await;
            }
            let event = self.held.take();
            // That all has been read is said once only.
            if self.is_void && event == Some(TailEvent::Synced) {
                return self.tail.next().await;
            }
            event
        })
    }
}

impl Kv for Wire {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KvEntry>, Unavailable>> {
        if self.is_cut() {
            return Box::pin(async { Err(Unavailable) });
        }
        self.local.get(key)
    }

    fn cas<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision, CasError>> {
        if self.is_cut() {
            return Box::pin(async { Err(CasError::Unavailable) });
        }
        self.local.cas(key, expected, value)
    }

    fn watch<'a>(&'a self, prefix: &'a Key) -> BoxFuture<'a, Result<Box<dyn Watch>, Unavailable>> {
        self.trap.tread("watch", prefix);
        Box::pin(async move {
            if self.is_cut() {
                return Err(Unavailable);
            }
            self.watched.fetch_add(1, Ordering::Relaxed);
            let watch = self.local.watch(prefix).await?;
            let wire = self.clone();
            Ok(Box::new(CutWatch { watch, wire }) as Box<dyn Watch>)
        })
    }
}

struct CutWatch {
    watch: Box<dyn Watch>,
    wire: Wire,
}

impl Watch for CutWatch {
    fn next(&mut self) -> BoxFuture<'_, Option<WatchEvent>> {
        Box::pin(async move {
            let event = self.watch.next().await;
            while self.wire.is_blind.load(Ordering::Relaxed) || self.wire.is_cut() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            event
        })
    }
}

/// Whoever asks the engine to do what begins so panics, so many more times.
#[derive(Clone, Default)]
struct Trap(Arc<Mutex<Option<(&'static str, u64)>>>);

impl Trap {
    fn tread(&self, what: &str, key: &Key) {
        let mut trap = self.0.lock().unwrap();
        if let Some((at, left @ 1..)) = &mut *trap
            && format!("{what} {key}").starts_with(*at)
        {
            *left -= 1;
            drop(trap);
            panic!("a trap was laid: {what} {key}");
        }
    }
}

/// The leases of an engine.
#[derive(Clone)]
struct Leased {
    local: Local,
    /// What is written never arrives, and nobody knows.
    is_unsure: Arc<AtomicBool>,
    trap: Trap,
}

impl Kv for Leased {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KvEntry>, Unavailable>> {
        self.trap.tread("lease", key);
        self.local.leases().get(key)
    }

    fn cas<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision, CasError>> {
        if self.is_unsure.load(Ordering::Relaxed) {
            return Box::pin(async { Err(CasError::Unknown) });
        }
        self.local.leases().cas(key, expected, value)
    }

    fn watch<'a>(&'a self, prefix: &'a Key) -> BoxFuture<'a, Result<Box<dyn Watch>, Unavailable>> {
        self.local.leases().watch(prefix)
    }
}

impl Leases for Wire {
    fn leases(&self) -> &dyn Kv {
        &self.leases
    }

    fn lease_time(&self) -> Duration {
        self.local.lease_time()
    }
}

/// Nobody answers.
async fn lost(timeout: Duration) -> Result<Bytes, RequestError> {
    tokio::time::sleep(timeout).await;
    Err(RequestError::Timeout)
}
