//! What one node has of the engine that all share: answers come late, or not at all, and what was sent
//! may be lost, or written twice, or long after its sender gave up.

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::feed::Feed;
use super::place::Place;
use bytes::Bytes;
use futures_util::FutureExt as _;
use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use tokio::sync::Notify;
use tokio::time::sleep;
use tombolo_engine::{
    AppendError, BoxFuture, Bus, BusEvent, CasError, Expect, Key, Kv, KvEntry, Leases, Local, Log,
    Offset, OperationId, Pattern, PublishError, Purpose, Request, RequestError, RetireError,
    Revision, Server, SnapshotError, Subscription, Tail, TailEvent, Unavailable, Watch, WatchEvent,
};

/// How bad it is; each part of a thousand.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// One way to the engine takes up to this long.
    pub delay_max: Duration,
    /// Messages on the bus that get lost.
    pub lost: u32,
    /// Writes of which nobody says what became of them: some are written, some are not, some are
    /// written later.
    pub unsure: u32,
    /// Writes that are refused as if the engine were away.
    pub refused: u32,
    /// No node dies, and none is cut off.
    pub is_calm: bool,
}

impl Weather {
    /// Nothing goes wrong.
    pub const FAIR: Self = Self {
        delay_max: Duration::from_millis(2),
        lost: 0,
        unsure: 0,
        refused: 0,
        is_calm: false,
    };

    /// Nothing goes wrong, and nothing happens to nodes but what their operators want.
    pub const CALM: Self = Self {
        is_calm: true,
        ..Self::FAIR
    };
}

/// One node's access to the shared engine.
#[derive(Clone)]
pub(crate) struct Wire {
    local: Local,
    /// The way to the leases; `None` if this is it.
    leases: Option<Arc<Self>>,
    /// Where the engine is, and all that is on its way there or back.
    world: Place,
    /// Of the logs in which all is read before it is gone.
    feeds: Arc<[Feed]>,
    state: Arc<Mutex<State>>,
    /// It is not cut off any more.
    mended: Arc<Notify>,
}

struct State {
    rng: ChaCha12Rng,
    weather: Weather,
    /// Nothing gets through, either way.
    is_cut: bool,
    /// The node is dead: what it waits for never comes.
    is_dead: bool,
}

/// What becomes of a write.
enum Fate {
    Fine,
    Refused,
    /// It never arrives.
    Lost,
    /// It arrives, and the answer does not.
    Unanswered,
    /// It arrives so much later.
    Late(Duration),
}

impl Wire {
    pub(crate) fn new(
        local: &Local,
        world: &Place,
        feeds: Arc<[Feed]>,
        rng: ChaCha12Rng,
        weather: Weather,
    ) -> Self {
        let leases = Self {
            local: local.clone(),
            leases: None,
            world: world.clone(),
            feeds,
            state: Arc::new(Mutex::new(State {
                rng,
                weather,
                is_cut: false,
                is_dead: false,
            })),
            mended: Arc::default(),
        };
        Self {
            leases: Some(Arc::new(leases.clone())),
            ..leases
        }
    }

    /// What is read and written by this way.
    fn values(&self) -> &dyn Kv {
        match self.leases {
            Some(_) => &self.local,
            None => self.local.leases(),
        }
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.lock().is_cut = is_cut;
        if !is_cut {
            self.mended.notify_waiters();
        }
    }

    pub(crate) fn die(&self) {
        self.lock().is_dead = true;
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One way takes its time; false when nothing gets through.
    async fn travel(&self) -> bool {
        let delay = {
            let State { rng, weather, .. } = &mut *self.lock();
            rng.random_range(Duration::ZERO..=weather.delay_max)
        };
        sleep(delay).await;
        if self.lock().is_dead {
            pending::<()>().await;
        }
        !self.lock().is_cut
    }

    /// Waits until something gets through.
    async fn connected(&self) {
        loop {
            let mended = self.mended.notified();
            if !self.lock().is_cut {
                break;
            }
            mended.await;
        }
        if self.lock().is_dead {
            pending::<()>().await;
        }
    }

    /// Of what is there at the same time most comes together: a long log would take seconds else.
    fn is_alone(&self) -> bool {
        self.lock().rng.random_range(0..ALONE) == 0
    }

    fn is_lost(&self) -> bool {
        let State {
            rng,
            weather,
            is_cut,
            is_dead,
        } = &mut *self.lock();
        *is_cut || *is_dead || rng.random_range(0..1000) < weather.lost
    }

    fn fate(&self) -> Fate {
        let State { rng, weather, .. } = &mut *self.lock();
        let dice = rng.random_range(0..1000);
        if dice < weather.refused {
            return Fate::Refused;
        }
        if dice >= weather.refused + weather.unsure {
            return Fate::Fine;
        }
        match rng.random_range(0..3) {
            0 => Fate::Lost,
            1 => Fate::Unanswered,
            _ => Fate::Late(rng.random_range(Duration::ZERO..=LATE_MAX)),
        }
    }
}

impl Bus for Wire {
    fn publish<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), PublishError>> {
        self.world.wrap(Box::pin(async move {
            if !self.travel().await {
                return Err(PublishError::Unavailable);
            }
            if self.is_lost() {
                return Ok(());
            }
            self.local.publish(subject, payload).await
        }))
    }

    fn subscribe<'a>(
        &'a self,
        pattern: &'a Pattern,
        messages_max: usize,
    ) -> BoxFuture<'a, Result<Subscription, Unavailable>> {
        self.world.wrap(Box::pin(async move {
            if !self.travel().await {
                return Err(Unavailable);
            }
            let mut inner = self.local.subscribe(pattern, messages_max).await?;
            let (feed, outer) = Subscription::new(messages_max);
            let wire = self.clone();
            tokio::spawn(async move {
                while let Some(event) = inner.next().await {
                    match event {
                        BusEvent::Message(_) if wire.is_lost() => feed.lose(1),
                        BusEvent::Message(message) => {
                            if !feed.deliver(message) {
                                return;
                            }
                        }
                        BusEvent::Lost(count) => feed.lose(count),
                    }
                }
            });
            Ok(outer)
        }))
    }

    fn request<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, RequestError>> {
        self.world.wrap(Box::pin(async move {
            if !self.travel().await {
                return Err(RequestError::Unavailable);
            }
            if self.is_lost() {
                sleep(timeout).await;
                return Err(RequestError::Timeout);
            }
            let answer = self.local.request(subject, payload, timeout).await;
            if !self.travel().await || self.is_lost() {
                return Err(RequestError::Timeout);
            }
            answer
        }))
    }

    fn serve<'a>(
        &'a self,
        subject: &'a Key,
        requests_max: usize,
    ) -> BoxFuture<'a, Result<Server, Unavailable>> {
        self.world.wrap(Box::pin(async move {
            if !self.travel().await {
                return Err(Unavailable);
            }
            let mut inner = self.local.serve(subject, requests_max).await?;
            let (sender, outer) = Server::new(requests_max);
            let wire = self.clone();
            tokio::spawn(async move {
                while let Some(request) = inner.next().await {
                    if wire.is_lost() {
                        continue;
                    }
                    let (passed, answer) = Request::new(request.payload.clone());
                    if sender.send(passed).await.is_err() {
                        return;
                    }
                    tokio::spawn(async move {
                        if let Ok(answer) = answer.await {
                            request.answer(answer);
                        }
                    });
                }
            });
            Ok(outer)
        }))
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
        self.world.wrap(Box::pin(async move {
            if !self.travel().await {
                return Err(AppendError::Unavailable);
            }
            let local = self.local.clone();
            match self.fate() {
                Fate::Refused => return Err(AppendError::Unavailable),
                Fate::Lost => return Err(AppendError::Unknown),
                Fate::Late(delay) => {
                    let key = key.clone();
                    tokio::spawn(async move {
                        sleep(delay).await;
                        local.append(&key, entry, purpose, expect, operation).await
                    });
                    return Err(AppendError::Unknown);
                }
                Fate::Unanswered => {
                    let _nobody_knows = local.append(key, entry, purpose, expect, operation).await;
                    return Err(AppendError::Unknown);
                }
                Fate::Fine => {}
            }
            let done = local.append(key, entry, purpose, expect, operation).await;
            match self.travel().await {
                true => done,
                false => Err(AppendError::Unknown),
            }
        }))
    }

    fn tail<'a>(
        &'a self,
        key: &'a Key,
        after: Option<Offset>,
    ) -> BoxFuture<'a, Result<Box<dyn Tail>, Unavailable>> {
        self.world.wrap(Box::pin(async move {
            if !self.travel().await {
                return Err(Unavailable);
            }
            let tail = self.local.tail(key, after).await?;
            let slow = SlowTail {
                tail,
                wire: self.clone(),
                next: None,
                is_far: false,
            };
            Ok(Box::new(slow) as Box<dyn Tail>)
        }))
    }

    fn snapshot<'a>(
        &'a self,
        key: &'a Key,
        at: Offset,
        state: Bytes,
    ) -> BoxFuture<'a, Result<(), SnapshotError>> {
        self.world.wrap(Box::pin(async move {
            match self.travel().await {
                true => self.local.snapshot(key, at, state).await,
                false => Err(SnapshotError::Unavailable),
            }
        }))
    }

    fn retire<'a>(&'a self, key: &'a Key, at: Offset) -> BoxFuture<'a, Result<(), RetireError>> {
        self.world.wrap(Box::pin(async move {
            if !self.travel().await {
                return Err(RetireError::Unavailable);
            }
            self.feeds.iter().for_each(Feed::read);
            self.local.retire(key, at).await
        }))
    }
}

/// A log that is read in order, but late.
struct SlowTail {
    tail: Box<dyn Tail>,
    wire: Wire,
    /// What was read and is still under way: whoever gives up waiting does not lose it.
    next: Option<TailEvent>,
    /// It has a way of its own: it was waited for.
    is_far: bool,
}

impl Tail for SlowTail {
    fn next(&mut self) -> BoxFuture<'_, Option<TailEvent>> {
        self.wire.world.clone().wrap(Box::pin(async move {
            if self.next.is_none() && !self.is_far {
                match self.tail.next().now_or_never() {
                    Some(event) => {
                        self.next = Some(event?);
                        self.is_far = self.wire.is_alone();
                    }
                    None => self.is_far = true,
                }
            }
            if self.next.is_none() {
                self.next = Some(self.tail.next().await?);
            }
            if self.is_far {
                self.wire.travel().await;
                self.is_far = false;
            }
            self.wire.connected().await;
            self.next.take()
        }))
    }
}

impl Kv for Wire {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KvEntry>, Unavailable>> {
        self.world.wrap(Box::pin(async move {
            if !self.travel().await {
                return Err(Unavailable);
            }
            self.values().get(key).await
        }))
    }

    fn cas<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<Revision>,
        value: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Revision, CasError>> {
        self.world.wrap(Box::pin(async move {
            if !self.travel().await {
                return Err(CasError::Unavailable);
            }
            match self.fate() {
                Fate::Refused => return Err(CasError::Unavailable),
                Fate::Lost => return Err(CasError::Unknown),
                Fate::Late(delay) => {
                    let (wire, key) = (self.clone(), key.clone());
                    tokio::spawn(async move {
                        sleep(delay).await;
                        wire.values().cas(&key, expected, value).await
                    });
                    return Err(CasError::Unknown);
                }
                Fate::Unanswered => {
                    let _nobody_knows = self.values().cas(key, expected, value).await;
                    return Err(CasError::Unknown);
                }
                Fate::Fine => {}
            }
            let done = self.values().cas(key, expected, value).await;
            match self.travel().await {
                true => done,
                false => Err(CasError::Unknown),
            }
        }))
    }

    fn watch<'a>(&'a self, prefix: &'a Key) -> BoxFuture<'a, Result<Box<dyn Watch>, Unavailable>> {
        self.world.wrap(Box::pin(async move {
            if !self.travel().await {
                return Err(Unavailable);
            }
            let watch = self.values().watch(prefix).await?;
            let (wire, next) = (self.clone(), None);
            Ok(Box::new(SlowWatch { watch, wire, next }) as Box<dyn Watch>)
        }))
    }
}

/// Values that are followed, but late.
struct SlowWatch {
    watch: Box<dyn Watch>,
    wire: Wire,
    next: Option<WatchEvent>,
}

impl Watch for SlowWatch {
    fn next(&mut self) -> BoxFuture<'_, Option<WatchEvent>> {
        self.wire.world.clone().wrap(Box::pin(async move {
            if self.next.is_none() {
                self.next = Some(self.watch.next().await?);
            }
            self.wire.travel().await;
            self.wire.connected().await;
            self.next.take()
        }))
    }
}

impl Leases for Wire {
    fn leases(&self) -> &dyn Kv {
        self.leases.as_deref().unwrap_or(self)
    }

    fn lease_time(&self) -> Duration {
        self.local.lease_time()
    }
}

/// Longer than anybody waits for an answer.
const LATE_MAX: Duration = Duration::from_secs(3);

/// Of so many entries that are there already one comes by itself.
const ALONE: u32 = 8;
