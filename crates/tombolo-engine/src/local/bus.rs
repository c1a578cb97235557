//! The bus in process: subscribers by what they subscribe to.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Local, lock};
use crate::bus::{Bus, Feed, Message, PublishError, Request, RequestError, Server, Subscription};
use crate::{BUS_BYTES_MAX, BoxFuture, Key, Pattern, Unavailable};

#[derive(Debug, Default)]
pub(super) struct State {
    exact: BTreeMap<Key, Vec<Feed>>,
    by_prefix: BTreeMap<Key, Vec<Feed>>,
    servers_by_subject: BTreeMap<Key, VecDeque<mpsc::Sender<Request>>>,
    /// How many feeds and servers there may be before the closed ones are looked for.
    sweep_at: usize,
}

impl Bus for Local {
    fn publish<'a>(
        &'a self,
        subject: &'a Key,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async move {
            if payload.len() > BUS_BYTES_MAX {
                return Err(PublishError::TooLarge);
            }
            let message = Message {
                subject: subject.clone(),
                payload,
            };
            lock(&self.shared.bus).publish(&message);
            Ok(())
        })
    }

    fn subscribe<'a>(
        &'a self,
        pattern: &'a Pattern,
        messages_max: usize,
    ) -> BoxFuture<'a, Result<Subscription, Unavailable>> {
        Box::pin(async move {
            let (feed, subscription) = Subscription::new(messages_max);
            let mut state = lock(&self.shared.bus);
            state.sweep();
            let (feeds, key) = match pattern {
                Pattern::Exactly(key) => (&mut state.exact, key),
                Pattern::Under(key) => (&mut state.by_prefix, key),
            };
            feeds.entry(key.clone()).or_default().push(feed);
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
            let (request, answer) = Request::new(payload);
            if !lock(&self.shared.bus).hand_over(subject, request) {
                return Err(RequestError::NoResponder);
            }
            match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) => Err(RequestError::Refused),
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
            let (sender, server) = Server::new(requests_max);
            let mut state = lock(&self.shared.bus);
            state.sweep();
            state
                .servers_by_subject
                .entry(subject.clone())
                .or_default()
                .push_back(sender);
            Ok(server)
        })
    }
}

impl State {
    fn publish(&mut self, message: &Message) {
        let subject = message.subject.as_str();
        if let Some(feeds) = self.exact.get_mut(subject) {
            feeds.retain(|feed| feed.deliver(message.clone()));
        }
        for (end, _) in subject.match_indices('.') {
            if let Some(feeds) = self.by_prefix.get_mut(&subject[..end]) {
                feeds.retain(|feed| feed.deliver(message.clone()));
            }
        }
    }

    /// Hands the request to the next server that has room; false when none has.
    fn hand_over(&mut self, subject: &Key, mut request: Request) -> bool {
        let Some(servers) = self.servers_by_subject.get_mut(subject) else {
            return false;
        };
        for _ in 0..servers.len() {
            let Some(server) = servers.pop_front() else {
                break;
            };
            match server.try_send(request) {
                Ok(()) => {
                    servers.push_back(server);
                    return true;
                }
                Err(mpsc::error::TrySendError::Full(back)) => {
                    servers.push_back(server);
                    request = back;
                }
                Err(mpsc::error::TrySendError::Closed(back)) => request = back,
            }
        }
        false
    }

    /// Forgets who has gone, whenever the number has doubled: cheap on average.
    fn sweep(&mut self) {
        if self.len() < self.sweep_at {
            return;
        }
        for feeds in [&mut self.exact, &mut self.by_prefix] {
            feeds.retain(|_, feeds| {
                feeds.retain(|feed| !feed.is_closed());
                !feeds.is_empty()
            });
        }
        self.servers_by_subject.retain(|_, servers| {
            servers.retain(|server| !server.is_closed());
            !servers.is_empty()
        });
        self.sweep_at = (2 * self.len()).max(SWEEP_AT_MIN);
    }

    fn len(&self) -> usize {
        self.exact.len() + self.by_prefix.len() + self.servers_by_subject.len()
    }
}

const SWEEP_AT_MIN: usize = 64;
