//! Events that wait for the application, which may be slow, or not listen at all.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tombolo_room::Changed;

use super::RoomEvent;

/// Events that wait; what comes on top is counted and dropped.
const EVENTS_MAX: usize = 1024;
/// Messages stop here, so that they do not crowd members and links out.
const MESSAGES_MAX: usize = 768;
/// Messages that one event says were not sent; those that come at once may be more.
const NUMBERS_MAX: usize = 4096;
/// Bytes of messages and properties that wait.
const BYTES_MAX: usize = 8 << 20;
const _: () = assert!(MESSAGES_MAX < EVENTS_MAX);

/// A bounded queue with one reader. Writers never wait: one room must not hold up the others.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Wakes the reader.
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<RoomEvent>,
    bytes: usize,
    /// Dropped since the last event that was taken in.
    missed: u64,
    is_over: bool,
}

impl Queue {
    pub(super) fn push(&self, event: RoomEvent) {
        let mut state = self.lock();
        if state.is_over {
            return;
        }
        let Some(event) = state.replace_latest(event) else {
            return;
        };
        let Some(event) = state.add_unsent(event) else {
            return;
        };
        if state.has_place(&event) {
            if state.missed > 0 {
                let missed = std::mem::take(&mut state.missed);
                state.events.push_back(RoomEvent::Lagged { missed });
            }
            state.bytes += bytes(&event);
            state.events.push_back(event);
        } else {
            state.missed += 1;
        }
        drop(state);
        self.news.notify_one();
    }

    /// Lets the reader have what waits, and nothing more.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.news.notify_one();
    }

    /// The next event; `None` at the end. Losing the future loses no event.
    pub(super) async fn next(&self) -> Option<RoomEvent> {
        loop {
            let news = self.news.notified();
            {
                let mut state = self.lock();
                if let Some(event) = state.pop() {
                    return Some(event);
                }
                if state.is_over {
                    // Whoever else waits is told by whoever was told.
                    self.news.notify_one();
                    return None;
                }
            }
            news.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts a value of which only the latest counts in the place of an older one that waits; returns
    /// the event when there is none.
    fn replace_latest(&mut self, event: RoomEvent) -> Option<RoomEvent> {
        let RoomEvent::Message {
            from,
            payload,
            latest: Some(key),
        } = event
        else {
            return Some(event);
        };
        let mut waiting = self.events.iter_mut().rev();
        let old = waiting.find_map(|waiting| {
            let RoomEvent::Message {
                from: found,
                payload: old,
                latest: Some(latest),
            } = waiting
            else {
                return None;
            };
            (*found == from && *latest == key).then_some(old)
        });
        match old {
            Some(old) if self.bytes - old.len() + payload.len() <= BYTES_MAX => {
                self.bytes = self.bytes - old.len() + payload.len();
                *old = payload;
                None
            }
            Some(_) | None => Some(RoomEvent::Message {
                from,
                payload,
                latest: Some(key),
            }),
        }
    }

    /// Adds messages that were not sent for the same reason to the last event; returns the event when that
    /// is another.
    fn add_unsent(&mut self, event: RoomEvent) -> Option<RoomEvent> {
        let RoomEvent::Unsent {
            numbers,
            code,
            reason,
        } = event
        else {
            return Some(event);
        };
        match self.events.back_mut() {
            Some(RoomEvent::Unsent {
                numbers: told,
                code: same_code,
                reason: same_reason,
            }) if *same_code == code && *same_reason == reason && told.len() < NUMBERS_MAX => {
                told.extend(numbers);
                None
            }
            Some(_) | None => Some(RoomEvent::Unsent {
                numbers,
                code,
                reason,
            }),
        }
    }

    fn has_place(&self, event: &RoomEvent) -> bool {
        // What was missed is told first, and takes a place as well.
        let places = self.events.len() + usize::from(self.missed > 0);
        match event {
            // The others can be as many as messages, and what most of them say is in the view anyway.
            RoomEvent::Message { .. }
            | RoomEvent::Said(_)
            | RoomEvent::Properties { .. }
            | RoomEvent::Object { .. }
            | RoomEvent::ObjectDeleted { .. }
            | RoomEvent::Unsent { .. } => {
                places < MESSAGES_MAX && self.bytes + bytes(event) <= BYTES_MAX
            }
            RoomEvent::Joined(_)
            | RoomEvent::Left { .. }
            | RoomEvent::Dropped(_)
            | RoomEvent::Lost(_)
            | RoomEvent::Returned(_)
            | RoomEvent::Synced { .. }
            | RoomEvent::Configured { .. }
            | RoomEvent::Owner(_)
            | RoomEvent::Peer(_)
            | RoomEvent::Refused(_)
            | RoomEvent::Lagged { .. } => places < EVENTS_MAX,
        }
    }

    fn pop(&mut self) -> Option<RoomEvent> {
        if let Some(event) = self.events.pop_front() {
            self.bytes -= bytes(&event);
            return Some(event);
        }
        let missed = std::mem::take(&mut self.missed);
        (missed > 0).then_some(RoomEvent::Lagged { missed })
    }
}

fn bytes(event: &RoomEvent) -> usize {
    match event {
        RoomEvent::Message { payload, .. } => payload.len(),
        RoomEvent::Said(said) => said.payload.len(),
        RoomEvent::Properties { changes, .. } => changes.iter().map(bytes_of_change).sum(),
        RoomEvent::Joined(_)
        | RoomEvent::Left { .. }
        | RoomEvent::Dropped(_)
        | RoomEvent::Lost(_)
        | RoomEvent::Returned(_)
        | RoomEvent::Synced { .. }
        | RoomEvent::Configured { .. }
        | RoomEvent::Object { .. }
        | RoomEvent::ObjectDeleted { .. }
        | RoomEvent::Unsent { .. }
        | RoomEvent::Owner(_)
        | RoomEvent::Peer(_)
        | RoomEvent::Refused(_)
        | RoomEvent::Lagged { .. } => 0,
    }
}

fn bytes_of_change(changed: &Changed) -> usize {
    let property = changed.property.as_ref();
    changed.key.as_str().len() + property.map_or(0, |property| property.value.bytes())
}

#[cfg(test)]
mod tests {
    use tombolo_room::{Property, PropertyKey, Target, Value};
    use tombolo_wire::UserId;
    use tombolo_wire::v1::ErrorCode;

    use super::*;

    fn message(payload: &[u8]) -> RoomEvent {
        RoomEvent::Message {
            from: UserId::parse("alice").unwrap(),
            payload: payload.to_vec().into(),
            latest: None,
        }
    }

    #[tokio::test]
    async fn of_values_that_wait_the_latest_stays() {
        let queue = Queue::default();
        let value = |payload: &'static str, key: &str| RoomEvent::Message {
            from: UserId::parse("alice").unwrap(),
            payload: payload.into(),
            latest: Some(PropertyKey::parse(key).unwrap()),
        };
        for (payload, key) in [("a1", "a"), ("b1", "b"), ("a2", "a")] {
            queue.push(value(payload, key));
        }
        queue.push(message(b"a message"));
        queue.push(value("b2", "b"));
        queue.end();
        let mut heard = Vec::new();
        while let Some(RoomEvent::Message { payload, .. }) = queue.next().await {
            heard.push(payload);
        }
        assert_eq!(heard, ["a2", "b2", "a message"]);
    }

    #[tokio::test]
    async fn messages_that_were_not_sent_for_the_same_reason_are_told_at_once() {
        let queue = Queue::default();
        let unsent = |number, code| RoomEvent::Unsent {
            numbers: vec![number],
            code,
            reason: "the test says so".to_owned(),
        };
        let limit = Some(ErrorCode::Limit);
        for number in 1..=2000 {
            queue.push(unsent(number, limit));
        }
        queue.push(unsent(2001, None));
        queue.push(message(b"a message"));
        queue.push(unsent(2002, None));
        queue.end();
        let mut told = Vec::new();
        while let Some(event) = queue.next().await {
            if let RoomEvent::Unsent { numbers, code, .. } = event {
                told.push((numbers, code));
            }
        }
        assert_eq!(told[0], ((1..=2000).collect(), limit));
        assert_eq!(told[1..], [(vec![2001], None), (vec![2002], None)]);
    }

    fn joined(number: usize) -> RoomEvent {
        RoomEvent::Joined(UserId::parse(&format!("user-{number}")).unwrap())
    }

    #[tokio::test]
    async fn messages_on_top_are_counted_and_leave_room_for_members() {
        let queue = Queue::default();
        for _ in 0..MESSAGES_MAX + 5 {
            queue.push(message(b"x"));
        }
        queue.push(joined(0));
        for _ in 0..MESSAGES_MAX {
            assert!(matches!(
                queue.next().await,
                Some(RoomEvent::Message { .. })
            ));
        }
        assert!(matches!(
            queue.next().await,
            Some(RoomEvent::Lagged { missed: 5 })
        ));
        assert!(matches!(queue.next().await, Some(RoomEvent::Joined(_))));
        queue.push(message(b"again"));
        assert!(matches!(
            queue.next().await,
            Some(RoomEvent::Message { .. })
        ));
    }

    #[tokio::test]
    async fn a_gap_is_told_even_when_nothing_follows() {
        let queue = Queue::default();
        for number in 0..EVENTS_MAX + 2 {
            queue.push(joined(number));
        }
        queue.end();
        for _ in 0..EVENTS_MAX {
            assert!(matches!(queue.next().await, Some(RoomEvent::Joined(_))));
        }
        assert!(matches!(
            queue.next().await,
            Some(RoomEvent::Lagged { missed: 2 })
        ));
        assert!(queue.next().await.is_none());
    }

    /// A property changes, which takes so many bytes.
    fn changed(bytes: usize) -> RoomEvent {
        let key = PropertyKey::parse("k").unwrap();
        let property = Property {
            value: Value::Binary(vec![0; bytes - 1].into()),
            revision: 1,
            expires: None,
            is_public: false,
        };
        RoomEvent::Properties {
            by: None,
            target: Target::Room,
            changes: vec![Changed {
                key,
                property: Some(property),
            }],
        }
    }

    #[tokio::test]
    async fn large_messages_and_properties_are_bounded_by_their_bytes() {
        let half = BYTES_MAX / 2;
        let large: [fn() -> RoomEvent; 2] =
            [|| message(&[0; BYTES_MAX / 2]), || changed(BYTES_MAX / 2)];
        for large in large {
            let queue = Queue::default();
            for _ in 0..3 {
                queue.push(large());
            }
            let taken = queue.next().await.unwrap();
            assert_eq!(bytes(&taken), half);
            queue.push(large());
            queue.end();
            assert_eq!(bytes(&queue.next().await.unwrap()), half);
            let lagged = queue.next().await;
            assert!(matches!(lagged, Some(RoomEvent::Lagged { missed: 1 })));
            assert_eq!(bytes(&queue.next().await.unwrap()), half);
            assert!(queue.next().await.is_none());
        }
    }
}
