//! Messages between nodes, at most once and fast.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::sealed::{AnswerSealer, Context, Opener};
use crate::{BoxFuture, Key, Pattern, Unavailable};

/// Messages between nodes, at most once and fast.
pub trait Bus: Send + Sync + 'static {
    /// Hands a message to everybody who subscribes to its subject now.
    ///
    /// # Errors
    /// When it is too large or the engine is away. `Ok` does not say that anybody got it.
    fn publish<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), PublishError>>;

    /// Asks for every message on matching subjects from now on. At most `messages_max` wait for the
    /// subscriber; further ones are dropped and counted.
    ///
    /// # Errors
    /// When the engine is away.
    fn subscribe<'a>(
        &'a self,
        pattern: &'a Pattern,
        messages_max: usize,
    ) -> BoxFuture<'a, Result<Subscription, Unavailable>>;

    /// Asks one of those who serve the subject, and waits for its answer.
    ///
    /// # Errors
    /// At once when nobody serves the subject, or nobody has room; else as [`RequestError`] says.
    fn request<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, RequestError>>;

    /// Serves a subject. Several servers of one subject share its requests.
    ///
    /// # Errors
    /// When the engine is away.
    fn serve<'a>(
        &'a self,
        subject: &'a Key,
        requests_max: usize,
    ) -> BoxFuture<'a, Result<Server, Unavailable>>;

    /// For how long the engine has been away already, as far as is known; `None` while there is one to talk
    /// to, whether it answers or not.
    fn away_for(&self) -> Option<Duration> {
        None
    }

    /// Goes to another server if there is one: whoever is at this one, and hears nobody, may be cut off with it.
    fn look_elsewhere(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A message as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is about.
    pub subject: Key,
    /// What it says.
    pub payload: Bytes,
}

/// What a [`Subscription`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusEvent {
    /// A message.
    Message(Message),
    /// So many messages are missing here, because the subscriber was too slow, or at least so many,
    /// because the engine was away.
    Lost(u64),
}

/// Messages on their way to a subscriber. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    messages: mpsc::Receiver<Message>,
    /// Dropped since the last [`BusEvent::Lost`].
    lost: Arc<AtomicU64>,
    /// `None` where messages are as they were published.
    opener: Option<Opener>,
}

impl Subscription {
    /// Makes a subscription and the end that feeds it: what engines return.
    #[must_use]
    pub fn new(messages_max: usize) -> (Feed, Self) {
        let (sender, messages) = mpsc::channel(messages_max.max(1));
        let lost = Arc::new(AtomicU64::new(0));
        (
            Feed {
                messages: sender,
                lost: Arc::clone(&lost),
            },
            Self {
                messages,
                lost,
                opener: None,
            },
        )
    }

    /// Yields only what is sealed as it should be, and opened.
    pub(crate) fn opened_by(self, opener: Opener) -> Self {
        let opener = Some(opener);
        Self { opener, ..self }
    }

    /// Waits for what comes next; `None` when the engine has gone for good. Safe to cancel.
    pub async fn next(&mut self) -> Option<BusEvent> {
        loop {
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                return Some(BusEvent::Lost(lost));
            }
            let Message { subject, payload } = self.messages.recv().await?;
            let opened = match &mut self.opener {
                None => Some(payload),
                Some(opener) => opener.open(Context::Message(&subject), &payload),
            };
            if let Some(payload) = opened {
                return Some(BusEvent::Message(Message { subject, payload }));
            }
        }
    }
}

/// The engine's end of a [`Subscription`].
#[derive(Debug)]
pub struct Feed {
    messages: mpsc::Sender<Message>,
    lost: Arc<AtomicU64>,
}

impl Feed {
    /// Hands a message over; false when nobody subscribes any more.
    pub fn deliver(&self, message: Message) -> bool {
        match self.messages.try_send(message) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    /// Counts messages that were lost on the way.
    pub fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    /// Waits until nobody subscribes any more.
    pub(crate) async fn closed(&self) {
        self.messages.closed().await;
    }

    /// Whether nobody subscribes any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.messages.is_closed()
    }
}

/// Requests on their way to who serves a subject. Dropping it ends the service.
#[derive(Debug)]
pub struct Server {
    requests: mpsc::Receiver<Request>,
    /// Of the subject that is served; `None` where requests are as they were sent.
    opener: Option<(Key, Opener)>,
}

impl Server {
    /// Makes a server and the end that feeds it: what engines return.
    #[must_use]
    pub fn new(requests_max: usize) -> (mpsc::Sender<Request>, Self) {
        let (sender, requests) = mpsc::channel(requests_max.max(1));
        let opener = None;
        (sender, Self { requests, opener })
    }

    /// Yields only requests that are sealed as they should be, and opened.
    pub(crate) fn opened_by(self, subject: Key, opener: Opener) -> Self {
        let opener = Some((subject, opener));
        Self { opener, ..self }
    }

    /// Waits for a request; `None` when the engine has gone for good. Safe to cancel.
    pub async fn next(&mut self) -> Option<Request> {
        loop {
            let mut request = self.requests.recv().await?;
            let Some((subject, opener)) = &mut self.opener else {
                return Some(request);
            };
            if let Some(payload) = opener.open(Context::Request(subject), &request.payload) {
                let question = std::mem::replace(&mut request.payload, payload);
                request.sealer = Some(opener.answer(question));
                return Some(request);
            }
        }
    }
}

/// A request that waits for its answer. Dropping it tells the asker that nobody responds.
#[derive(Debug)]
pub struct Request {
    /// What it asks.
    pub payload: Bytes,
    answer: oneshot::Sender<Bytes>,
    /// `None` where the answer goes as it is.
    sealer: Option<AnswerSealer>,
}

impl Request {
    /// Makes a request and what will receive its answer; an error there says that nobody responds.
    #[must_use]
    pub fn new(payload: Bytes) -> (Self, oneshot::Receiver<Bytes>) {
        let (answer, receiver) = oneshot::channel();
        let request = Self {
            payload,
            answer,
            sealer: None,
        };
        (request, receiver)
    }

    /// Answers; an asker that has gone is no error.
    pub fn answer(self, payload: Bytes) {
        let sealed = match self.sealer {
            None => Some(payload),
            Some(sealer) => sealer.seal(&payload),
        };
        let _ = sealed.map(|sealed| self.answer.send(sealed));
    }
}

/// Why a message was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Larger than [`VALUE_BYTES_MAX`](crate::VALUE_BYTES_MAX).
    #[error("message is too large")]
    TooLarge,
    /// The engine is away.
    #[error("engine is unavailable")]
    Unavailable,
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Larger than [`VALUE_BYTES_MAX`](crate::VALUE_BYTES_MAX).
    #[error("request is too large")]
    TooLarge,
    /// Nobody serves the subject.
    #[error("nobody responds")]
    NoResponder,
    /// Whoever serves the subject had no room for the request, or dropped it.
    #[error("the request was refused")]
    Refused,
    /// No answer came in time; the request may have been carried out.
    #[error("no answer came in time")]
    Timeout,
    /// The engine is away.
    #[error("engine is unavailable")]
    Unavailable,
}
