//! Tells an HTTP server what happens on this node: who comes and goes, and in which rooms.
//!
//! What happens waits in a bounded queue and is posted in batches by one task, so that a server that hangs
//! holds nothing up. A batch that is not taken is posted again, with growing pauses, and given up after a
//! while; what is given up, what found the queue full, and what the node's end leaves untold, is counted. `docs/webhooks.md` has the contract.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tombolo_room::Message;
use tombolo_services::{Change, RoomChange, RoomEvent, Services, SessionChange, SessionEvent};
use tracing::{debug, warn};

use crate::post::{self, HttpClient, Place, PostError, unix_now};

/// An HTTP server that is told what happens.
#[derive(Clone)]
#[non_exhaustive]
pub struct WebhookConfig {
    /// Where events are posted; without TLS only on this machine.
    pub url: String,
    /// The key that signs them, at least 16 bytes.
    pub key: Vec<u8>,
    /// Whom to trust over TLS.
    pub tls: Arc<rustls::ClientConfig>,
    /// How long an answer may take, connecting included. 5 s by default.
    pub timeout: Duration,
    /// How often a batch is posted again before it is given up. 8 by default, which takes about a minute.
    pub retries_max: usize,
    /// The pause before it is posted again the first time; twice that before the next, and so on up to
    /// 30 s. 250 ms by default.
    pub pause_min: Duration,
    /// Events that wait to be posted. 10,000 by default; each takes about 200 bytes.
    pub queue_max: usize,
    /// Whether it is told of durable messages, too, with what they say. No by default: they are many. At most
    /// 16 MiB of what they say wait.
    pub messages: bool,
}

impl WebhookConfig {
    /// Makes a configuration with the default bounds.
    pub fn new(url: impl Into<String>, key: Vec<u8>, tls: Arc<rustls::ClientConfig>) -> Self {
        Self {
            url: url.into(),
            key,
            tls,
            timeout: Duration::from_secs(5),
            retries_max: 8,
            pause_min: Duration::from_millis(250),
            queue_max: 10_000,
            messages: false,
        }
    }

    /// Checks the URL and the key.
    ///
    /// # Errors
    /// Says what is wrong with one of them.
    pub fn check(&self) -> Result<(), PostError> {
        self.place().map(drop)
    }

    /// Whether it posts to the same server, signed and paced alike. Whom it trusts may be others.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let parts = |config: &Self| {
            (
                config.timeout,
                config.retries_max,
                config.pause_min,
                config.queue_max,
                config.messages,
            )
        };
        self.url == other.url && self.key == other.key && parts(self) == parts(other)
    }

    pub(crate) fn place(&self) -> Result<Place, PostError> {
        Place::new(&self.url, &self.key)
    }
}

impl fmt::Debug for WebhookConfig {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookConfig")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// How events fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebhookStats {
    /// Events that the server took.
    pub delivered: u64,
    /// Events that it did not take however often they were posted.
    pub given_up: u64,
    /// Events that found the queue full, or that had not been told when the node ended.
    pub dropped: u64,
    /// Posts that failed or were not answered in time.
    pub failures: u64,
}

#[derive(Debug, Default)]
pub(crate) struct WebhookCounters {
    delivered: AtomicU64,
    given_up: AtomicU64,
    dropped: AtomicU64,
    failures: AtomicU64,
}

impl WebhookCounters {
    pub(crate) fn stats(&self) -> WebhookStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WebhookStats {
            delivered: read(&self.delivered),
            given_up: read(&self.given_up),
            dropped: read(&self.dropped),
            failures: read(&self.failures),
        }
    }
}

#[derive(Debug, Serialize)]
struct Event {
    /// When, since 1970, in seconds.
    time: f64,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    said: Option<Said>,
}

/// What a message says, of which only so much waits at once.
#[derive(Debug, Serialize)]
struct Said {
    number: u64,
    base64: String,
    #[serde(skip)]
    _place: OwnedSemaphorePermit,
}

#[derive(Serialize)]
struct Batch<'a> {
    /// Grows by one with each batch of one life of the node: a batch that is posted again is the same.
    batch: u64,
    node: &'a str,
    /// Which life of the node.
    life: u64,
    time: f64,
    events: &'a [Event],
}

struct Poster {
    config: WebhookConfig,
    place: Place,
    client: watch::Receiver<HttpClient>,
    counters: Arc<WebhookCounters>,
    node: String,
    life: u64,
}

/// A post that the server did not take.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("no answer in time")]
    Late,
    #[error("{0}")]
    Http(Box<dyn std::error::Error + Send + Sync>),
    #[error("it answered {0}")]
    Status(StatusCode),
}

impl Failed {
    /// Whether it may go better the next time: not when the server says that the fault is ours.
    fn is_temporary(&self) -> bool {
        match self {
            Self::Late | Self::Http(_) => true,
            Self::Status(status) => {
                !status.is_client_error()
                    || *status == StatusCode::TOO_MANY_REQUESTS
                    || *status == StatusCode::REQUEST_TIMEOUT
            }
        }
    }
}

/// Tells the server what happens, until it is ended or dropped.
pub(crate) struct Webhook {
    client: watch::Sender<HttpClient>,
    end: oneshot::Sender<()>,
    task: JoinSet<()>,
}

impl Webhook {
    pub(crate) fn start(
        config: WebhookConfig,
        place: Place,
        services: &Services,
        counters: Arc<WebhookCounters>,
    ) -> Self {
        let changes = match config.messages {
            true => services.changes_and_messages(),
            false => services.changes(),
        };
        let client = watch::Sender::new(client(&config));
        let poster = Poster {
            client: client.subscribe(),
            config,
            place,
            counters,
            node: services.name().to_string(),
            life: post::life(),
        };
        let (end, ended) = oneshot::channel();
        let mut task = JoinSet::new();
        let run = run(poster, changes, ended);
        task.spawn(services.vitals().hold("the webhook", run));
        Self { client, end, task }
    }

    /// Posts from now on trust whom this configuration trusts.
    pub(crate) fn trust_as(&self, config: &WebhookConfig) {
        self.client.send_replace(client(config));
    }

    /// Ends at once: what was not told by then is counted.
    pub(crate) async fn end(mut self) {
        drop(self.end);
        while self.task.join_next().await.is_some() {}
    }
}

fn client(config: &WebhookConfig) -> HttpClient {
    post::client(&config.tls, 1, IDLE)
}

async fn run(
    poster: Poster,
    mut changes: broadcast::Receiver<Change>,
    ended: oneshot::Receiver<()>,
) {
    let counters = Arc::clone(&poster.counters);
    let (queue, mut events) = mpsc::channel(poster.config.queue_max.max(1));
    let mut batch = Vec::new();
    let telling = async {
        tokio::join!(
            listen(&mut changes, queue, &counters),
            poster.post_all(&mut events, &mut batch)
        )
    };
    tokio::select! {
        _ = telling => {}
        _ = ended => {}
    }
    let untold = batch.len() as u64 + left_in(&mut events) + missed(&mut changes);
    if untold > 0 {
        counters.dropped.fetch_add(untold, Ordering::Relaxed);
        warn!(
            events = untold,
            "the node ends before the webhook was told of all events"
        );
    }
}

fn left_in(events: &mut mpsc::Receiver<Event>) -> u64 {
    std::iter::from_fn(|| events.try_recv().ok()).count() as u64
}

fn missed(changes: &mut broadcast::Receiver<Change>) -> u64 {
    let mut missed = 0;
    loop {
        missed += match changes.try_recv() {
            Ok(_) => 1,
            Err(TryRecvError::Lagged(count)) => count,
            Err(TryRecvError::Empty | TryRecvError::Closed) => return missed,
        };
    }
}

/// Puts what happens into the queue.
async fn listen(
    changes: &mut broadcast::Receiver<Change>,
    queue: mpsc::Sender<Event>,
    counters: &WebhookCounters,
) {
    let room_for_messages = Arc::new(Semaphore::new(MESSAGE_BYTES_QUEUED_MAX));
    loop {
        let dropped = match changes.recv().await {
            Ok(change) => {
                let event = Event::of(change, &room_for_messages);
                let is_queued = event.is_some_and(|event| queue.try_send(event).is_ok());
                u64::from(!is_queued)
            }
            Err(RecvError::Lagged(count)) => count,
            Err(RecvError::Closed) => return,
        };
        counters.dropped.fetch_add(dropped, Ordering::Relaxed);
    }
}

impl Event {
    /// None when so much of what messages say waits that there is no place for this one.
    fn of(change: Change, room_for_messages: &Arc<Semaphore>) -> Option<Self> {
        let time = unix_now().as_secs_f64();
        match change {
            Change::Session(SessionChange {
                event,
                user,
                session,
                ..
            }) => Some(Self {
                time,
                event: session_word(event),
                user: Some(user.to_string()),
                room: None,
                session: Some(format!("{:032x}", u128::from_be_bytes(session))),
                said: None,
            }),
            Change::Room(RoomChange {
                event, room, user, ..
            }) => {
                let said = if let RoomEvent::Said(message) = &event {
                    Some(Said::of(message, room_for_messages)?)
                } else {
                    None
                };
                Some(Self {
                    time,
                    event: room_word(&event),
                    user: user.map(|user| user.to_string()),
                    room: Some(room.to_string()),
                    session: None,
                    said,
                })
            }
            _ => None,
        }
    }
}

impl Said {
    fn of(message: &Message, room: &Arc<Semaphore>) -> Option<Self> {
        let base64 = STANDARD.encode(&message.payload);
        let bytes = u32::try_from(base64.len()).ok()?;
        let place = Arc::clone(room).try_acquire_many_owned(bytes).ok()?;
        Some(Self {
            number: message.number,
            base64,
            _place: place,
        })
    }
}

/// Takes what waits with the first one, as much as is posted at once.
fn fill(batch: &mut Vec<Event>, first: Event, waiting: &mut mpsc::Receiver<Event>) {
    let mut next = Some(first);
    let mut bytes = 0;
    while let Some(event) = next {
        bytes += event.said.as_ref().map_or(0, |said| said.base64.len());
        batch.push(event);
        let has_place = batch.len() < BATCH_MAX && bytes < BATCH_MESSAGE_BYTES;
        next = has_place.then(|| waiting.try_recv().ok()).flatten();
    }
}

fn session_word(event: SessionEvent) -> &'static str {
    match event {
        SessionEvent::Began => "session_began",
        SessionEvent::Dropped => "session_dropped",
        SessionEvent::Returned => "session_returned",
        SessionEvent::Moved => "session_moved",
        SessionEvent::Ended | _ => "session_ended",
    }
}

fn room_word(event: &RoomEvent) -> &'static str {
    match event {
        RoomEvent::Said(_) => "room_message",
        RoomEvent::Opened => "room_opened",
        RoomEvent::Closed => "room_closed",
        RoomEvent::Joined => "member_joined",
        RoomEvent::Left | _ => "member_left",
    }
}

impl Poster {
    /// Posts what waits, for as long as something may come. What is being posted stays in `waiting` meanwhile.
    async fn post_all(&self, events: &mut mpsc::Receiver<Event>, waiting: &mut Vec<Event>) {
        for batch in 1.. {
            waiting.clear();
            let Some(first) = events.recv().await else {
                return;
            };
            fill(waiting, first, events);
            let count = waiting.len() as u64;
            let counter = match self.deliver(batch, waiting).await {
                Ok(()) => &self.counters.delivered,
                Err(error) => {
                    warn!(events = count, %error, "the webhook did not take events: given up");
                    &self.counters.given_up
                }
            };
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Posts a batch until the server has taken it.
    async fn deliver(&self, batch: u64, events: &[Event]) -> Result<(), Failed> {
        let body = serde_json::to_vec(&Batch {
            batch,
            node: &self.node,
            life: self.life,
            time: unix_now().as_secs_f64(),
            events,
        });
        let body = Bytes::from(body.map_err(|error| Failed::Http(error.into()))?);
        let backoff = ExponentialBuilder::new()
            .with_min_delay(self.config.pause_min)
            .with_max_delay(PAUSE_MAX)
            .with_max_times(self.config.retries_max)
            .with_jitter();
        let post = || self.post(body.clone());
        post.retry(backoff)
            .sleep(sleep)
            .when(Failed::is_temporary)
            .notify(|error, pause| debug!(%error, ?pause, "the webhook is asked again"))
            .await
    }

    async fn post(&self, body: Bytes) -> Result<(), Failed> {
        let answered = timeout(self.config.timeout, self.send(body)).await;
        let result = match answered.unwrap_or(Err(Failed::Late)) {
            Ok(answer) if answer.status().is_success() => {
                self.read_rest(answer.into_body()).await;
                Ok(())
            }
            Ok(answer) => Err(Failed::Status(answer.status())),
            Err(failed) => Err(failed),
        };
        if result.is_err() {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    async fn send(&self, body: Bytes) -> Result<Response<Incoming>, Failed> {
        let request = self.place.post(body);
        let request = request.map_err(|error| Failed::Http(error.into()))?;
        let client = self.client.borrow().clone();
        let answer = client.request(request).await;
        answer.map_err(|error| Failed::Http(error.into()))
    }

    /// Reads an answer to its end, so that its connection can be used again: nothing in it matters, nor whether it comes.
    async fn read_rest(&self, body: Incoming) {
        let rest = Limited::new(body, ANSWER_BYTES_MAX).collect();
        let _ = timeout(self.config.timeout.min(REST_WITHIN), rest).await;
    }
}

/// Events in one post.
const BATCH_MAX: usize = 100;
/// What messages say in one post, before the last of them. Many servers take a megabyte at most.
const BATCH_MESSAGE_BYTES: usize = 256 * 1024;
/// What messages say that wait to be posted.
const MESSAGE_BYTES_QUEUED_MAX: usize = 16 << 20;
/// Between two posts of the same batch.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// For how long an answer's body is waited for.
const REST_WITHIN: Duration = Duration::from_secs(1);
/// How long a connection waits for the next batch.
const IDLE: Duration = Duration::from_secs(90);
/// More than anybody has to say.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use tombolo_room::{Audience, By, Time};
    use tombolo_wire::RoomId;

    use super::*;

    #[test]
    fn what_messages_say_waits_in_so_many_bytes() {
        let place = Arc::new(Semaphore::new(20));
        let mut waiting: Vec<_> = (0..3)
            .filter_map(|_| Said::of(&message(), &place))
            .collect();
        assert_eq!(waiting.len(), 2, "eight bytes each");
        waiting.pop();
        waiting.extend(Said::of(&message(), &place));
        assert_eq!(waiting.len(), 2, "one was posted");
    }

    #[tokio::test]
    async fn a_batch_ends_when_much_is_said_in_it() {
        let place = Arc::new(Semaphore::new(MESSAGE_BYTES_QUEUED_MAX));
        let long = Message {
            payload: vec![0; 48 * 1024].into(),
            ..message()
        };
        let (sender, mut events) = mpsc::channel(100);
        for _ in 0..10 {
            let event = Event {
                time: 0.0,
                event: "room_message",
                user: None,
                room: None,
                session: None,
                said: Said::of(&long, &place),
            };
            sender.try_send(event).expect("there is room");
        }
        let mut counts = Vec::new();
        while let Ok(first) = events.try_recv() {
            let mut batch = Vec::new();
            fill(&mut batch, first, &mut events);
            counts.push(batch.len());
        }
        assert_eq!(counts, [4, 4, 2], "64 KiB each, and 256 at once");
    }

    #[tokio::test]
    async fn what_a_node_has_not_told_at_its_end_is_counted() {
        // It takes connections and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", silent.local_addr().expect("bound"));
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ));
        let tls = tls
            .with_safe_default_protocol_versions()
            .expect("the versions are known")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let config = WebhookConfig::new(url, vec![7; 16], Arc::new(tls));
        let node = crate::Node::builder()
            .dev()
            .listen([127, 0, 0, 1].into())
            .port(0)
            .turn_port(0)
            .turns_port(0);
        let node = node.webhook(config).start().await.expect("free ports");
        for room in ["a", "b", "c"] {
            let room = RoomId::parse(room).expect("a name");
            let mut new = crate::NewRoom::default();
            new.settings.empty_kept = Duration::from_secs(60);
            let made = node.services().create_room(&room, new, None).await;
            made.expect("there is none of that name");
        }
        let counters = Arc::clone(&node.webhook_counters);
        node.shutdown().await;
        let stats = counters.stats();
        assert_eq!((stats.dropped, stats.delivered), (3, 0));
    }

    fn message() -> Message {
        Message {
            number: 1,
            time: Time::default(),
            from: By::Server,
            audience: Audience::All,
            payload: "hello".into(),
        }
    }
}
