//! Reading a log: the truth from the stream, early word of it from the live feed.
//!
//! A task per reader follows the live feed by the chain that the stream writes into it: each message
//! names the one before it in the same log. One that follows what was read last is applied; anything
//! else makes the reader fetch from the stream what is missing. A lost *last* message breaks no chain;
//! the tail check ([`super::tail_check`]) finds it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Shared;
use super::connection::{Connection, count};
use super::cursor::Cursor;
use super::messages::{self, LAST_SEQUENCE, RETRY_MAX, RETRY_MIN, STREAM, Stored};
use super::streams::Shard;
use super::tail_check::Registered;
use crate::log::{Offset, Tail, TailEvent};
use crate::{BoxFuture, Epoch, Key, Unavailable};

/// Begins to read.
pub(super) fn open(shared: &Arc<Shared>, key: &Key, after: Option<Offset>) -> Box<dyn Tail> {
    let shard = Arc::clone(shared.logs.of(key));
    let epoch = shard.epoch();
    let is_foreign = after.is_some_and(|after| after.epoch != epoch);
    let (out, events) = mpsc::channel(1);
    let reader = Reader {
        shared: Arc::downgrade(shared),
        connection: Arc::clone(&shared.connection),
        index: shared.logs.index(key),
        shard,
        key: key.clone(),
        epoch,
        cursor: Cursor::at(after.filter(|_| !is_foreign).map_or(0, |after| after.seq)),
        short_since: None,
        events_max: shared.config.events_max.max(1),
        pending: is_foreign.then_some(TailEvent::Reset).into_iter().collect(),
        is_synced: false,
        out,
    };
    tokio::spawn(reader.run());
    Box::new(NatsTail { events })
}

struct NatsTail {
    events: mpsc::Receiver<TailEvent>,
}

impl Tail for NatsTail {
    fn next(&mut self) -> BoxFuture<'_, Option<TailEvent>> {
        Box::pin(self.events.recv())
    }
}

/// The task's state.
struct Reader {
    /// Gone with the engine.
    shared: Weak<Shared>,
    connection: Arc<Connection>,
    shard: Arc<Shard>,
    /// The shard's place among all.
    index: usize,
    key: Key,
    epoch: Epoch,
    cursor: Cursor,
    /// Since when the log seems to end before the cursor.
    short_since: Option<Instant>,
    events_max: usize,
    /// On their way to the reader, who may be slow.
    pending: VecDeque<TailEvent>,
    is_synced: bool,
    out: mpsc::Sender<TailEvent>,
}

/// Why the task goes on otherwise.
enum End {
    /// Nobody reads any more, or the engine is gone.
    Closed,
    /// What was read is void: the stream was made anew.
    Void,
    /// The servers have lost a part of what was read, or the stream is another one and nobody knows yet.
    Lost,
}

/// Why nothing was fetched.
enum Fault {
    Unavailable,
    /// What was read before is void.
    Void,
}

impl From<Unavailable> for Fault {
    fn from(Unavailable: Unavailable) -> Self {
        Self::Unavailable
    }
}

impl Reader {
    async fn run(mut self) {
        loop {
            match self.follow().await {
                End::Closed => return,
                End::Void => {}
                End::Lost => {
                    if let Err(End::Closed) = self.find_stream().await {
                        return;
                    }
                }
            }
            self.epoch = self.shard.epoch();
            self.cursor = Cursor::default();
            self.short_since = None;
            self.pending.clear();
            self.pending.push_back(TailEvent::Reset);
        }
    }

    /// Finds out which stream it is now: in one that another node has made anew nothing would be read, and nothing
    /// would be missed.
    async fn find_stream(&self) -> Result<(), End> {
        let mut delay = RETRY_MIN;
        while let Err(error) = self.shard.look_after_loss(&self.connection).await {
            tracing::debug!(log = %self.key, %error, "its stream cannot be looked up");
            self.pause(&mut delay).await?;
        }
        Ok(())
    }

    /// Follows the log for as long as its stream is the same.
    async fn follow(&mut self) -> End {
        let mut epochs = self.shard.epochs();
        if *epochs.borrow_and_update() != self.epoch {
            return End::Void;
        }
        let subject = self.shard.subject(self.epoch, self.key.as_str());
        let live_subject = self.shard.live_subject(self.epoch, self.key.as_str());
        // First the live feed, then the log: nothing falls between the two.
        let mut live = match self.subscribe(live_subject).await {
            Ok(live) => live,
            Err(end) => return end,
        };
        let registered = match self.shared.upgrade() {
            Some(shared) => shared.tail_check.register(self.index, subject.clone()),
            None => return End::Closed,
        };
        // What is told while the interest in it spreads over the servers is missed.
        let mut recheck = Some(Instant::now() + RECHECK);
        if let Err(end) = self.catch_up(&subject, None).await {
            return end;
        }
        if !self.is_synced {
            self.is_synced = true;
            self.pending.push_back(TailEvent::Synced);
        }
        let out = self.out.clone();
        loop {
            registered.seen(self.cursor.seq);
            let far = Instant::now() + Duration::from_hours(1);
            let has_room = self.pending.len() < self.events_max;
            let caught_up = tokio::select! {
                biased;
                () = out.closed() => return End::Closed,
                permit = out.reserve(), if !self.pending.is_empty() => {
                    if let (Ok(permit), Some(event)) = (permit, self.pending.pop_front()) {
                        permit.send(event);
                    }
                    Ok(())
                }
                changed = epochs.changed() => {
                    return if changed.is_ok() { End::Void } else { End::Closed };
                }
                message = live.next() => match message {
                    // A slow reader's messages are dropped, and fetched when it has room again.
                    Some(message) => self.on_live(message, &registered, &subject, has_room).await,
                    None => return End::Closed,
                },
                () = registered.told(), if has_room => {
                    let last = registered.last();
                    if registered.is_doubted() {
                        self.verify(&subject).await
                    } else if last > self.cursor.seq {
                        count(&self.connection.counters().tails_found);
                        self.catch_up(&subject, Some(last)).await
                    } else {
                        Ok(())
                    }
                }
                () = tokio::time::sleep_until(recheck.unwrap_or(far)), if recheck.is_some() => {
                    recheck = None;
                    self.catch_up(&subject, None).await
                }
            };
            if let Err(end) = caught_up {
                return end;
            }
        }
    }

    async fn subscribe(&self, subject: String) -> Result<Subscriber, End> {
        let mut delay = RETRY_MIN;
        loop {
            match self.connection.subscribe(subject.clone()).await {
                Ok(live) => return Ok(live),
                Err(Unavailable) => self.pause(&mut delay).await?,
            }
        }
    }

    /// Waits before something is tried again.
    async fn pause(&self, delay: &mut Duration) -> Result<(), End> {
        let mut epochs = self.shard.epochs();
        let known = self.epoch;
        let is_new = async {
            let _ = epochs.wait_for(|epoch| *epoch != known).await;
        };
        tokio::select! {
            () = self.out.closed() => return Err(End::Closed),
            () = is_new => return Err(End::Void),
            () = tokio::time::sleep(*delay) => {}
        }
        if self.shared.strong_count() == 0 {
            return Err(End::Closed);
        }
        *delay = (2 * *delay).min(RETRY_MAX);
        Ok(())
    }

    async fn on_live(
        &mut self,
        message: async_nats::Message,
        registered: &Registered,
        subject: &str,
        has_room: bool,
    ) -> Result<(), End> {
        let Some(stored) = messages::stored(message) else {
            return Ok(());
        };
        let is_ours = stored.header(STREAM) == Some(&self.shard.name) && stored.subject == subject;
        let previous = stored.number(LAST_SEQUENCE);
        let (true, Some(previous)) = (is_ours, previous) else {
            return Ok(());
        };
        if stored.seq == self.cursor.seq && self.cursor.is_other(&stored) {
            return Err(self.void());
        }
        if stored.seq <= self.cursor.seq {
            return Ok(());
        }
        if !has_room {
            registered.tell(stored.seq);
            return Ok(());
        }
        if previous == self.cursor.seq {
            count(&self.connection.counters().live);
            self.apply(stored);
            return Ok(());
        }
        self.catch_up(subject, Some(stored.seq)).await
    }

    /// Reads from the stream up to `target`, or up to what its leader has last.
    async fn catch_up(&mut self, subject: &str, target: Option<u64>) -> Result<(), End> {
        let target = match target {
            Some(target) => target,
            None => self.last_and_some(subject).await?,
        };
        if target < self.cursor.seq {
            return self.verify(subject).await;
        }
        if target == self.cursor.seq {
            return Ok(());
        }
        if self.is_synced {
            count(&self.connection.counters().refetches);
        }
        let mut delay = RETRY_MIN;
        let mut futile = 0;
        while self.cursor.seq < target {
            let before = self.cursor.seq;
            let fetched = self.fetch(subject).await;
            if matches!(fetched, Err(Fault::Void)) {
                return Err(self.void());
            }
            if self.cursor.seq == before {
                // A replica may be behind, and the message that was told of may be gone since.
                futile += 1;
                if futile >= FUTILE_MAX {
                    let last = messages::last(&self.connection, &self.shard.name, subject).await;
                    let last = last.map(|last| last.map_or(0, |last| last.seq));
                    if last.is_ok_and(|last| last <= self.cursor.seq) {
                        break;
                    }
                }
                self.pause(&mut delay).await?;
            } else {
                delay = RETRY_MIN;
                futile = 0;
            }
            self.give_pending().await?;
        }
        Ok(())
    }

    /// What the leader has last. What a replica has is read meanwhile, which is mostly all of it.
    async fn last_and_some(&mut self, subject: &str) -> Result<u64, End> {
        let (connection, shard) = (Arc::clone(&self.connection), Arc::clone(&self.shard));
        let mut delay = RETRY_MIN;
        loop {
            let last = messages::last(&connection, &shard.name, subject);
            // Who has read it all already hears nothing new, as a rule.
            let found = if self.is_synced {
                last.await
            } else {
                let (last, fetched) = tokio::join!(last, self.fetch(subject));
                if matches!(fetched, Err(Fault::Void)) {
                    return Err(self.void());
                }
                self.give_pending().await?;
                last
            };
            match found {
                Ok(last) => return Ok(last.map_or(0, |last| last.seq)),
                Err(Unavailable) => self.pause(&mut delay).await?,
            }
        }
    }

    /// Nobody reads faster than what is read is taken.
    async fn give_pending(&mut self) -> Result<(), End> {
        while self.pending.len() >= self.events_max {
            let Some(event) = self.pending.pop_front() else {
                break;
            };
            if self.out.send(event).await.is_err() {
                return Err(End::Closed);
            }
        }
        Ok(())
    }

    /// Asks the leader whether what was read is still there.
    async fn verify(&mut self, subject: &str) -> Result<(), End> {
        let (connection, stream) = (&self.connection, self.shard.name.as_str());
        let found = messages::next(connection, stream, subject, self.cursor.seq).await;
        let is_short = match found {
            Ok(Some(found)) if found.seq == self.cursor.seq && self.cursor.is_other(&found) => {
                return Err(self.void());
            }
            // When it is gone and others follow, that is found out as soon as they are fetched.
            Ok(Some(_)) => false,
            Ok(None) => self.cursor.seq != 0 && !self.cursor.is_mark,
            Err(Unavailable) => return Ok(()),
        };
        if !is_short {
            self.short_since = None;
            return Ok(());
        }
        let since = *self.short_since.get_or_insert_with(Instant::now);
        let patience = connection.leader_stale_max;
        if patience.is_some_and(|patience| since.elapsed() < patience) {
            return Ok(());
        }
        Err(self.void())
    }

    /// The servers have lost what was read.
    fn void(&self) -> End {
        count(&self.connection.counters().rolled_back);
        let (log, cursor) = (&self.key, self.cursor.seq);
        tracing::warn!(%log, cursor, "the servers have lost a part of what was read");
        End::Lost
    }

    /// Reads the next messages. The last one that was read is read again: it tells whether they follow.
    async fn fetch(&mut self, subject: &str) -> Result<(), Fault> {
        let stream = self.shard.name.clone();
        let from = self.cursor.seq.max(1);
        let found = messages::following(&self.connection, &stream, subject, from).await?;
        if let Some(first) = found.first() {
            self.cursor.learn(first);
        }
        let is_old = found.last().is_none_or(|last| last.seq <= self.cursor.seq);
        let is_same = found
            .first()
            .is_none_or(|first| !self.cursor.is_other(first));
        if is_old && is_same {
            return Ok(());
        }
        // Only now, since these may have a gap that a snapshot made.
        let shared = self.shared.upgrade().ok_or(Unavailable)?;
        let snapshot = shared.snapshot_after(&self.key, self.epoch, self.cursor.seq);
        if let Some(snapshot) = snapshot.await? {
            self.cursor = Cursor::at(snapshot.at.seq);
            self.pending.push_back(TailEvent::Snapshot {
                at: snapshot.at,
                state: snapshot.state,
            });
        } else if found
            .first()
            .is_some_and(|first| self.cursor.is_void(first))
        {
            return Err(Fault::Void);
        }
        for stored in found {
            if stored.seq > self.cursor.seq && stored.subject == subject {
                self.apply(stored);
            }
        }
        Ok(())
    }

    fn offset(&self, seq: u64) -> Offset {
        let epoch = self.epoch;
        Offset { epoch, seq }
    }

    /// Takes the next message in.
    fn apply(&mut self, stored: Stored) {
        let before = std::mem::replace(&mut self.cursor, Cursor::of(&stored)).seq;
        if let Some(retired) = stored.retired() {
            // What came before the mark may be gone. Who has not read it all begins anew, with nothing.
            if before != 0 && before < retired {
                self.pending.push_back(TailEvent::Reset);
            }
            if before < retired {
                let at = self.offset(retired);
                self.pending.push_back(TailEvent::Retired { at });
            }
            return;
        }
        let at = self.offset(stored.seq);
        self.pending.push_back(TailEvent::Entry {
            at,
            entry: stored.payload,
        });
    }
}

/// After a reader has begun, when it looks again.
const RECHECK: Duration = Duration::from_millis(100);

/// After how many attempts that brought nothing the leader is asked again.
const FUTILE_MAX: usize = 3;
