//! Answers of several messages each, all over one subscription: one for each question would have to be made
//! known to all servers, and be taken back, before and after each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::batch::BATCH_MAX;

/// All questions that wait.
#[derive(Debug)]
pub(super) struct Answers {
    /// Each question's answer comes to a number below this subject.
    inbox: String,
    waiting: Waiting,
    last: AtomicU64,
    task: AbortHandle,
}

type Waiting = Arc<Mutex<BTreeMap<u64, mpsc::Sender<Message>>>>;

/// The answer to one question. Dropping it ends waiting for it.
#[derive(Debug)]
pub(super) struct Answer {
    /// Where it is to be sent to.
    pub(super) subject: String,
    number: u64,
    messages: mpsc::Receiver<Message>,
    waiting: Waiting,
}

impl Answers {
    pub(super) async fn open(client: &Client) -> Result<Self, async_nats::SubscribeError> {
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(format!("{inbox}.*")).await?;
        let waiting = Waiting::default();
        let task = tokio::spawn(hand_on(subscriber, Arc::clone(&waiting)));
        Ok(Self {
            inbox,
            waiting,
            last: AtomicU64::new(0),
            task: task.abort_handle(),
        })
    }

    /// A place for the answer to a question that is asked after this.
    pub(super) fn expect(&self) -> Answer {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        // The end takes a place, too.
        let (sender, messages) = mpsc::channel(BATCH_MAX + 1);
        lock(&self.waiting).insert(number, sender);
        Answer {
            subject: format!("{}.{number}", self.inbox),
            number,
            messages,
            waiting: Arc::clone(&self.waiting),
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        // The subscription would keep the connection.
        self.task.abort();
    }
}

impl Answer {
    /// Its next message.
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.messages.recv().await
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        lock(&self.waiting).remove(&self.number);
    }
}

async fn hand_on(mut subscriber: Subscriber, waiting: Waiting) {
    while let Some(message) = subscriber.next().await {
        let number = message.subject.rsplit('.').next();
        let Some(number) = number.and_then(|number| number.parse().ok()) else {
            continue;
        };
        if let Some(asker) = lock(&waiting).get(&number) {
            // More than was asked for is too much.
            let _ = asker.try_send(message);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
