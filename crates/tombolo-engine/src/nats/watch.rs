//! Watching values: a consumer for each stream, made anew when anything is missed.
//!
//! The consumer first gives the last message of each subject, then what comes. How many there are at
//! first is told when it is made, so that the end of the snapshot is known for an empty prefix too; how many
//! are still to come, each message tells: what is overwritten or ends meanwhile does not come any more.
//! Its messages are numbered: a gap, or silence where heartbeats should be, or a new connection,
//! means that something may have been missed.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::api::{ConsumerConfig, ConsumerInfo, CreateConsumer, Ignored, NO_STREAM};
use super::connection::{Connection, Link, NatsError, count};
use super::messages::{RETRY_MAX, RETRY_MIN, is_deletion};
use super::streams::Shard;
use crate::kv::{KvEntry, Revision, Watch, WatchEvent};
use crate::{BoxFuture, Epoch, Key, Unavailable};

/// Begins to watch.
pub(super) fn open(
    connection: Arc<Connection>,
    shards: Vec<Arc<Shard>>,
    prefix: &Key,
    events_max: usize,
) -> Box<dyn Watch> {
    let (out, events) = mpsc::channel(1);
    let watcher = Watcher {
        connection,
        shards,
        prefix: prefix.clone(),
        events_max: events_max.max(1),
        pending: VecDeque::new(),
        out,
    };
    tokio::spawn(watcher.run());
    Box::new(NatsWatch { events })
}

struct NatsWatch {
    events: mpsc::Receiver<WatchEvent>,
}

impl Watch for NatsWatch {
    fn next(&mut self) -> BoxFuture<'_, Option<WatchEvent>> {
        Box::pin(self.events.recv())
    }
}

/// The task's state.
struct Watcher {
    connection: Arc<Connection>,
    shards: Vec<Arc<Shard>>,
    prefix: Key,
    events_max: usize,
    /// On their way to who watches.
    pending: VecDeque<WatchEvent>,
    out: mpsc::Sender<WatchEvent>,
}

/// What one stream tells.
struct Source {
    shard: Arc<Shard>,
    epoch: Epoch,
    /// The consumer, to be deleted at the end.
    consumer: String,
    /// Whether all that there was when it began has come.
    is_synced: bool,
    /// The number of the consumer's last message.
    last: u64,
    /// When it was heard of last.
    heard: Instant,
}

type Messages = SelectAll<Pin<Box<dyn futures_util::Stream<Item = (usize, Message)> + Send>>>;

/// Why it begins anew, or not.
enum End {
    Closed,
    Missed,
}

impl Watcher {
    async fn run(mut self) {
        let mut delay = RETRY_MIN;
        let mut has_missed = false;
        loop {
            let begun = Instant::now();
            // The streams may have been made anew by others: those of before are not there to be watched.
            let is_known = !has_missed || self.find_streams().await.is_ok();
            if is_known && let Ok((mut sources, mut messages)) = self.begin().await {
                let end = self.follow(&mut sources, &mut messages).await;
                drop(messages);
                self.end(sources).await;
                if matches!(end, End::Closed) {
                    return;
                }
                has_missed = true;
                count(&self.connection.counters().watch_resets);
                self.pending.clear();
                self.pending.push_back(WatchEvent::Reset);
            }
            if begun.elapsed() > RETRY_MAX {
                delay = RETRY_MIN;
            }
            tokio::select! {
                () = self.out.closed() => return,
                () = tokio::time::sleep(delay) => {}
            }
            delay = (2 * delay).min(RETRY_MAX);
        }
    }

    /// Finds out which streams they are now.
    async fn find_streams(&self) -> Result<(), NatsError> {
        let shards = self.shards.iter();
        let found = shards.map(|shard| shard.look_after_loss(&self.connection));
        futures_util::future::try_join_all(found).await.map(drop)
    }

    /// Makes the consumers.
    async fn begin(&self) -> Result<(Vec<Source>, Messages), Unavailable> {
        let begun = self.shards.iter().enumerate().map(async |(index, shard)| {
            let (source, subscriber) = self.begin_one(shard).await?;
            let messages = subscriber.map(move |message| (index, message));
            Ok::<_, Unavailable>((source, Box::pin(messages) as Pin<Box<_>>))
        });
        let mut sources = Vec::new();
        let mut streams: Vec<Pin<Box<dyn futures_util::Stream<Item = _> + Send>>> = Vec::new();
        let mut is_whole = true;
        for begun in futures_util::future::join_all(begun).await {
            match begun {
                Ok((source, messages)) => {
                    sources.push(source);
                    streams.push(messages);
                }
                Err(Unavailable) => is_whole = false,
            }
        }
        if is_whole {
            return Ok((sources, select_all(streams)));
        }
        // They would stay for half a minute, and more be made with each try.
        self.end(sources).await;
        Err(Unavailable)
    }

    async fn begin_one(&self, shard: &Arc<Shard>) -> Result<(Source, Subscriber), Unavailable> {
        let epoch = shard.epoch();
        let inbox = self.connection.client().new_inbox();
        let subscriber = self.connection.subscribe(inbox.clone()).await?;
        let consumer = format!("watch-{}", self.connection.operation());
        let filter = shard.subject(epoch, &format!("{}.>", self.prefix));
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let config = ConsumerConfig {
            name: &consumer,
            deliver_subject: &inbox,
            deliver_policy: "last_per_subject",
            ack_policy: "none",
            max_deliver: 1,
            filter_subject: &filter,
            flow_control: true,
            idle_heartbeat: nanoseconds(HEARTBEAT),
            inactive_threshold: nanoseconds(INACTIVE_MAX),
            num_replicas: 1,
            mem_storage: true,
        };
        let stream = &shard.name;
        let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}.{filter}");
        let create = CreateConsumer {
            stream_name: stream,
            config,
        };
        let info: ConsumerInfo = match self.connection.ask(subject, &create).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%stream, %error, "cannot be watched");
                if error.code() == Some(NO_STREAM) {
                    // It may have been made anew, or nobody else looks.
                    shard.look(&self.connection).await;
                }
                return Err(Unavailable);
            }
        };
        let source = Source {
            shard: Arc::clone(shard),
            epoch,
            consumer,
            is_synced: info.num_pending == 0,
            last: 0,
            heard: Instant::now(),
        };
        Ok((source, subscriber))
    }

    async fn follow(&mut self, sources: &mut [Source], messages: &mut Messages) -> End {
        let mut link = self.connection.link();
        link.borrow_and_update();
        let mut is_synced = false;
        // What waited when all that there was had been read: as much as there was.
        let mut of_snapshot = 0;
        let out = self.out.clone();
        loop {
            if !is_synced && sources.iter().all(|source| source.is_synced) {
                is_synced = true;
                self.pending.push_back(WatchEvent::Synced);
                of_snapshot = self.pending.len();
            }
            if is_synced && self.pending.len() > self.events_max + of_snapshot {
                return End::Missed;
            }
            let heard = sources.iter().map(|source| source.heard).min();
            let silence = heard.unwrap_or_else(Instant::now) + SILENCE_MAX;
            let is_down = async {
                let _ = link.wait_for(|link| !matches!(link, Link::Up(_))).await;
            };
            // A snapshot may be larger than what may wait; then the servers wait, too.
            let takes = is_synced || self.pending.len() < self.events_max;
            tokio::select! {
                biased;
                () = out.closed() => return End::Closed,
                permit = out.reserve(), if !self.pending.is_empty() => {
                    if let (Ok(permit), Some(event)) = (permit, self.pending.pop_front()) {
                        permit.send(event);
                        of_snapshot = of_snapshot.saturating_sub(1);
                    }
                }
                () = is_down => return End::Missed,
                message = messages.next(), if takes => {
                    let Some((index, message)) = message else {
                        return End::Missed;
                    };
                    if self.on_message(&mut sources[index], message).await.is_err() {
                        return End::Missed;
                    }
                }
                () = tokio::time::sleep_until(silence), if takes => return End::Missed,
            }
            if sources
                .iter()
                .any(|source| source.shard.epoch() != source.epoch)
            {
                return End::Missed;
            }
        }
    }

    /// Takes a message in; an error when one was missed.
    async fn on_message(&mut self, source: &mut Source, message: Message) -> Result<(), Missed> {
        source.heard = Instant::now();
        match message.status {
            None => {}
            Some(StatusCode::IDLE_HEARTBEAT) => return self.on_heartbeat(source, message).await,
            // The consumer is gone.
            Some(_) => return Err(Missed),
        }
        let place = message
            .reply
            .as_deref()
            .and_then(Place::read)
            .ok_or(Missed)?;
        source.last += 1;
        if place.number != source.last {
            return Err(Missed);
        }
        source.is_synced |= place.pending == 0;
        let key = source
            .shard
            .key(source.epoch, &message.subject)
            .and_then(Key::parse);
        let Some(key) = key else {
            return Ok(());
        };
        let revision = Revision {
            epoch: source.epoch,
            number: place.seq,
        };
        if message.headers.as_ref().is_some_and(is_deletion) {
            // It may have been told of before it was deleted, or it may not.
            self.pending
                .push_back(WatchEvent::Deleted { key, revision });
        } else {
            let value = message.payload;
            let entry = KvEntry { value, revision };
            self.pending.push_back(WatchEvent::Put { key, entry });
        }
        Ok(())
    }

    async fn on_heartbeat(&self, source: &mut Source, message: Message) -> Result<(), Missed> {
        // A question whether we keep up is answered; a sign of life says what was sent last.
        let header = |name| {
            let headers = message.headers.as_ref()?;
            Some(headers.get(name)?.as_str().to_owned())
        };
        let asks = message.reply.map(|subject| subject.to_string());
        if let Some(subject) = asks.or_else(|| header(STALLED)) {
            let answer = self.connection.client().publish(subject, "".into());
            return self.connection.within(answer).await.map_err(|_| Missed);
        }
        match header(LAST_CONSUMER).map(|last| last.parse::<u64>()) {
            Some(Ok(last)) if last == source.last => {
                // Nothing is left to be sent: what was to come has ended before it came.
                source.is_synced = true;
                Ok(())
            }
            Some(_) => Err(Missed),
            None => Ok(()),
        }
    }

    /// Takes the consumers away, if there is a server to tell; else they go by themselves.
    async fn end(&self, sources: Vec<Source>) {
        for source in sources {
            let (stream, consumer) = (&source.shard.name, &source.consumer);
            let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}");
            if self.connection.ask::<Ignored>(subject, &()).await.is_err() {
                return;
            }
        }
    }
}

/// Something was missed.
struct Missed;

/// Where a message is, as its reply subject tells:
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or with a
/// domain and an account's hash before the stream.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    seq: u64,
    number: u64,
    /// How many are to come after it.
    pending: u64,
}

impl Place {
    fn read(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.split('.').collect();
        let first = match tokens.len() {
            9 => 2,
            11.. => 4,
            _ => return None,
        };
        if tokens.get(..2)? != ["$JS", "ACK"] {
            return None;
        }
        Some(Self {
            seq: tokens.get(first + 3)?.parse().ok()?,
            number: tokens.get(first + 4)?.parse().ok()?,
            pending: tokens.get(first + 6)?.parse().ok()?,
        })
    }
}

const STALLED: &str = "Nats-Consumer-Stalled";
const LAST_CONSUMER: &str = "Nats-Last-Consumer";

/// How often the servers give a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Without one for so long, something was missed.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// After so long without us the servers forget the consumer.
const INACTIVE_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_message_is_read_in_both_forms() {
        let place = Some(Place {
            seq: 17,
            number: 3,
            pending: 5,
        });
        assert_eq!(
            Place::read("$JS.ACK.stream.consumer.1.17.3.1700000.5"),
            place
        );
        let long = "$JS.ACK.domain.hash.stream.consumer.1.17.3.1700000.5.random";
        assert_eq!(Place::read(long), place);
        for bad in [
            "",
            "$JS.ACK",
            "$JS.FC.a.b.1.17.3.1700000.0",
            "$JS.ACK.a.b.1.x.3.4.5",
            "$JS.ACK.a.b.1.2.3.4.x",
        ] {
            assert_eq!(Place::read(bad), None, "{bad:?}");
        }
    }
}
