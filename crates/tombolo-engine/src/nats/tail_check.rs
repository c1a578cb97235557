//! Finds the last messages of logs that the live feed lost.
//!
//! The chain of the live feed shows a gap only when something follows it. So the last messages of all
//! logs that are read here are looked up now and then, many at a time; at once when there is a new
//! connection or a stream has a new leader, which is when messages get lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt as _;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::Shared;
use super::connection::{Connection, Link};
use super::messages;
use super::streams::Shard;

/// All readers, by shard.
#[derive(Debug)]
pub(super) struct TailCheck {
    readers: Arc<Vec<Mutex<Readers>>>,
    last_id: AtomicU64,
}

type Readers = BTreeMap<u64, Arc<State>>;

#[derive(Debug)]
struct State {
    subject: String,
    /// What the reader has.
    seen: AtomicU64,
    /// Whether it got something since the last check.
    is_busy: AtomicBool,
    /// What the log has.
    last: AtomicU64,
    /// Whether it seemed to have less than the reader.
    is_doubted: AtomicBool,
    told: Notify,
}

/// A reader's place among all. Dropping it takes it away.
#[derive(Debug)]
pub(super) struct Registered {
    readers: Arc<Vec<Mutex<Readers>>>,
    shard: usize,
    id: u64,
    state: Arc<State>,
}

impl TailCheck {
    pub(super) fn new(shards: usize) -> Self {
        let readers = (0..shards).map(|_| Mutex::default()).collect();
        Self {
            readers: Arc::new(readers),
            last_id: AtomicU64::new(0),
        }
    }

    pub(super) fn register(&self, shard: usize, subject: String) -> Registered {
        let state = Arc::new(State {
            subject,
            seen: AtomicU64::new(0),
            is_busy: AtomicBool::new(false),
            last: AtomicU64::new(0),
            is_doubted: AtomicBool::new(false),
            told: Notify::new(),
        });
        let id = self.last_id.fetch_add(1, Ordering::Relaxed);
        lock(&self.readers[shard]).insert(id, Arc::clone(&state));
        Registered {
            readers: Arc::clone(&self.readers),
            shard,
            id,
            state,
        }
    }

    /// Those who wait; the busy ones only when they are asked for.
    fn waiting(&self, shard: usize, with_busy: bool) -> Vec<Arc<State>> {
        lock(&self.readers[shard])
            .values()
            .filter(|state| !state.is_busy.swap(false, Ordering::Relaxed) || with_busy)
            .cloned()
            .collect()
    }
}

impl Registered {
    pub(super) fn seen(&self, seq: u64) {
        if self.state.seen.swap(seq, Ordering::Relaxed) != seq {
            self.state.is_busy.store(true, Ordering::Relaxed);
        }
    }

    /// Tells the reader what its log has.
    pub(super) fn tell(&self, seq: u64) {
        self.state.tell(seq);
    }

    pub(super) async fn told(&self) {
        self.state.told.notified().await;
    }

    pub(super) fn last(&self) -> u64 {
        self.state.last.load(Ordering::Relaxed)
    }

    /// Whether the log seemed to have less than the reader, since this was asked last.
    pub(super) fn is_doubted(&self) -> bool {
        self.state.is_doubted.swap(false, Ordering::Relaxed)
    }
}

impl State {
    fn tell(&self, seq: u64) {
        self.last.fetch_max(seq, Ordering::Relaxed);
        let seen = self.seen.load(Ordering::Relaxed);
        if seq < seen {
            self.is_doubted.store(true, Ordering::Relaxed);
        }
        if seq != seen {
            self.told.notify_one();
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.readers[self.shard]).remove(&self.id);
    }
}

/// Begins to check, until the engine is gone.
pub(super) fn start(shared: &Arc<Shared>) {
    let weak = Arc::downgrade(shared);
    let connection = Arc::clone(&shared.connection);
    let pause = shared.config.tail_check;
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut link = connection.link();
        let mut elections = elections(&connection).await;
        loop {
            let mut is_new_link = false;
            let mut elected = None;
            tokio::select! {
                _ = ticks.tick() => {}
                changed = link.changed() => match changed {
                    Ok(()) => is_new_link = true,
                    Err(_) => return,
                },
                name = next_election(&mut elections) => elected = Some(name),
            }
            let Some(shared) = weak.upgrade() else {
                return;
            };
            if !matches!(*link.borrow_and_update(), Link::Up(_)) {
                continue;
            }
            if elections.is_none() {
                elections = self::elections(&connection).await;
            }
            if is_new_link {
                look_at_all(&shared).await;
            }
            for (index, shard) in shared.logs.iter().enumerate() {
                let is_elected = elected.as_ref() == Some(&shard.name);
                if is_elected || elected.is_none() {
                    check(&shared, index, shard, is_new_link || is_elected).await;
                }
            }
            shared.retire_all_noted().await;
        }
    });
}

/// A new connection may be to servers that lost what they had.
async fn look_at_all(shared: &Shared) {
    let values = [shared.values.shards(), shared.leases.shards()];
    let all = values.into_iter().chain([&shared.logs, &shared.snapshots]);
    for shard in all.flat_map(super::streams::Shards::iter) {
        shard.look(&shared.connection).await;
    }
}

async fn check(shared: &Shared, index: usize, shard: &Shard, with_busy: bool) {
    let waiting = shared.tail_check.waiting(index, with_busy);
    for some in waiting.chunks(SUBJECTS_MAX) {
        let subjects: Vec<String> = some.iter().map(|state| state.subject.clone()).collect();
        let found = messages::last_of(&shared.connection, &shard.name, &subjects).await;
        let Ok(found) = found else {
            // What is not known now is known at the next check, unless the stream is gone.
            shard.look(&shared.connection).await;
            continue;
        };
        let last: BTreeMap<_, _> = found
            .iter()
            .map(|stored| (stored.subject.as_str(), stored.seq))
            .collect();
        for state in some {
            let last = last.get(state.subject.as_str());
            state.tell(last.copied().unwrap_or_default());
        }
    }
}

/// Word of new leaders; an account may not be allowed to hear it.
async fn elections(connection: &Connection) -> Option<Subscriber> {
    let subject = format!("{ELECTED}.*");
    connection.subscribe(subject).await.ok()
}

/// The stream that has a new leader.
async fn next_election(elections: &mut Option<Subscriber>) -> String {
    let Some(subscriber) = elections else {
        return std::future::pending().await;
    };
    match subscriber.next().await {
        Some(message) => {
            let name = message.subject.rsplit('.').next();
            name.unwrap_or_default().to_owned()
        }
        None => {
            *elections = None;
            tokio::time::sleep(Duration::from_secs(1)).await;
            String::new()
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const ELECTED: &str = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED";

/// Most logs in one question.
const SUBJECTS_MAX: usize = 128;
