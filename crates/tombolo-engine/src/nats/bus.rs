//! The bus: NATS itself.

use std::sync::Arc;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::header::HeaderMap;
use async_nats::{Message as NatsMessage, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, mpsc};

use super::Nats;
use super::connection::{Connection, Link};
use crate::bus::{Bus, Feed, Message, PublishError, Request, RequestError, Server, Subscription};
use crate::{BUS_BYTES_MAX, BoxFuture, Key, Pattern, Unavailable};

impl Bus for Nats {
    fn publish<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async move {
            if payload.len() > BUS_BYTES_MAX {
                return Err(PublishError::TooLarge);
            }
            let connection = &self.shared.connection;
            // Without a connection the client would keep it and send it late.
            let unavailable = |Unavailable| PublishError::Unavailable;
            connection.check().map_err(unavailable)?;
            let published = connection.client().publish(self.subject(subject), payload);
            connection.within(published).await.map_err(unavailable)
        })
    }

    fn subscribe<'a>(
        &'a self,
        pattern: &'a Pattern,
        messages_max: usize,
    ) -> BoxFuture<'a, Result<Subscription, Unavailable>> {
        Box::pin(async move {
            let subject = match pattern {
                Pattern::Exactly(key) => self.subject(key),
                Pattern::Under(key) => format!("{}.>", self.subject(key)),
            };
            let connection = &self.shared.connection;
            let subscriber = connection.subscribe(subject).await?;
            self.settle().await?;
            let (feed, subscription) = Subscription::new(messages_max);
            let prefix = self.subject_prefix();
            tokio::spawn(deliver(Arc::clone(connection), subscriber, prefix, feed));
            Ok(subscription)
        })
    }

    fn request<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, RequestError>> {
        Box::pin(async move {
            if payload.len() > BUS_BYTES_MAX {
                return Err(RequestError::TooLarge);
            }
            let connection = &self.shared.connection;
            connection
                .check()
                .map_err(|Unavailable| RequestError::Unavailable)?;
            let request = async_nats::Request::new()
                .payload(payload)
                .timeout(Some(timeout));
            let asked = connection
                .client()
                .send_request(self.subject(subject), request);
            match tokio::time::timeout(timeout, asked).await {
                Ok(Ok(answer)) if is_refusal(&answer) => Err(RequestError::Refused),
                Ok(Ok(answer)) => Ok(answer.payload),
                Ok(Err(error)) => Err(match error.kind() {
                    RequestErrorKind::NoResponders => RequestError::NoResponder,
                    RequestErrorKind::MaxPayloadExceeded => RequestError::TooLarge,
                    RequestErrorKind::TimedOut => RequestError::Timeout,
                    RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
                        RequestError::Unavailable
                    }
                }),
                Err(_) => Err(RequestError::Timeout),
            }
        })
    }

    fn serve<'a>(
        &'a self,
        subject: &'a Key,
        requests_max: usize,
    ) -> BoxFuture<'a, Result<Server, Unavailable>> {
        Box::pin(async move {
            let connection = &self.shared.connection;
            connection.check()?;
            let subject = self.subject(subject);
            let served = connection.client().queue_subscribe(subject, QUEUE.into());
            let subscriber = connection.within(served).await?;
            self.settle().await?;
            let (requests, server) = Server::new(requests_max);
            tokio::spawn(hand_over(Arc::clone(connection), subscriber, requests));
            Ok(server)
        })
    }

    fn away_for(&self) -> Option<Duration> {
        self.shared.connection.away_for()
    }

    fn look_elsewhere(&self) -> BoxFuture<'_, ()> {
        Box::pin(
            self.shared
                .connection
                .leave("nobody is heard over the NATS server"),
        )
    }
}

impl Nats {
    fn subject_prefix(&self) -> String {
        format!("{}.bus.", self.shared.config.prefix)
    }

    fn subject(&self, key: &Key) -> String {
        format!("{}{key}", self.subject_prefix())
    }

    /// Waits until the server knows of a subscription: it answers in the order in which it is asked.
    async fn settle(&self) -> Result<(), Unavailable> {
        let connection = &self.shared.connection;
        let client = connection.client();
        // Nobody is there, which the server says at once.
        let nobody = self.shared.config.nobody();
        match connection
            .within(async { Ok::<_, Unavailable>(client.request(nobody, "".into()).await) })
            .await?
        {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
            Err(_) => Err(Unavailable),
        }
    }
}

/// Takes messages as they come, so that only the subscriber's own buffer drops any.
async fn deliver(
    connection: Arc<Connection>,
    mut subscriber: Subscriber,
    prefix: String,
    feed: Feed,
) {
    let mut link = connection.link();
    link.borrow_and_update();
    loop {
        tokio::select! {
            () = feed.closed() => break,
            changed = link.changed() => {
                if changed.is_err() {
                    break;
                }
                // What was published in the meantime is lost, and nobody knows how much.
                if matches!(*link.borrow_and_update(), Link::Up(_)) {
                    feed.lose(1);
                }
            }
            message = subscriber.next() => {
                let Some(message) = message else {
                    break;
                };
                let subject = message.subject.strip_prefix(prefix.as_str());
                let Some(subject) = subject.and_then(Key::parse) else {
                    continue;
                };
                let payload = message.payload;
                if !feed.deliver(Message { subject, payload }) {
                    break;
                }
            }
        }
    }
}

/// Hands requests to who serves, and their answers back.
async fn hand_over(
    connection: Arc<Connection>,
    mut subscriber: Subscriber,
    requests: mpsc::Sender<Request>,
) {
    let room = Arc::new(Semaphore::new(ANSWERS_MAX));
    loop {
        let message = tokio::select! {
            () = requests.closed() => break,
            message = subscriber.next() => match message {
                Some(message) => message,
                None => return,
            },
        };
        take(&connection, &requests, &room, message).await;
    }
    // Requests that are on their way get their answer, too.
    if subscriber.drain().await.is_ok() {
        while let Ok(Some(message)) =
            tokio::time::timeout(connection.request_timeout, subscriber.next()).await
        {
            take(&connection, &requests, &room, message).await;
        }
    }
}

async fn take(
    connection: &Arc<Connection>,
    requests: &mpsc::Sender<Request>,
    room: &Arc<Semaphore>,
    message: NatsMessage,
) {
    let Some(reply) = message.reply else {
        return;
    };
    let (request, answer) = Request::new(message.payload);
    let room = Arc::clone(room).try_acquire_owned();
    let (Ok(room), Ok(())) = (room, requests.try_send(request)) else {
        return refuse(connection, reply.to_string()).await;
    };
    let connection = Arc::clone(connection);
    tokio::spawn(async move {
        let _room = room;
        match tokio::time::timeout(ANSWER_TIME_MAX, answer).await {
            Ok(Ok(answer)) if answer.len() <= BUS_BYTES_MAX => {
                let answered = connection.client().publish(reply, answer);
                // Without a connection nobody waits for it any more.
                let _ = connection.within(answered).await;
            }
            Ok(_) => refuse(&connection, reply.to_string()).await,
            Err(_) => {}
        }
    });
}

/// Tells the asker that nobody responds.
async fn refuse(connection: &Connection, reply: String) {
    let mut headers = HeaderMap::new();
    headers.insert(REFUSED, "1");
    let client = connection.client();
    let refused = client.publish_with_headers(reply, headers, Bytes::new());
    let _ = connection.within(refused).await;
}

fn is_refusal(answer: &NatsMessage) -> bool {
    let headers = answer.headers.as_ref();
    headers.is_some_and(|headers| headers.get(REFUSED).is_some())
}

/// All who serve a subject are one group, of which one gets a request.
const QUEUE: &str = "servers";

/// Ours: nobody responds, although somebody serves.
const REFUSED: &str = "Tombolo-Refused";

/// Most requests of a server that wait for their answers.
const ANSWERS_MAX: usize = 65_536;

/// No asker waits longer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
