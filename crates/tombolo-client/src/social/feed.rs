//! What the node tells, on its way to the application.
//!
//! The node can tell everything again from any place, so what a slow application has no room for is
//! not lost: the feed becomes stale, drops all that follows, and whoever has read what waits asks
//! the node for the rest.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What waits, at most.
const ITEMS_MAX: usize = 1024;
/// Bytes that wait, at most.
const BYTES_MAX: usize = 8 << 20;

/// A bounded queue with one reader. Writers never wait.
#[derive(Debug)]
pub(super) struct Feed<T> {
    state: Mutex<State<T>>,
    /// Wakes the reader.
    news: Notify,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    /// What the node tells follows what waits.
    is_current: bool,
    is_over: bool,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    Item(T),
    /// Ask the node for what follows.
    Stale,
    End,
}

impl<T> Default for Feed<T> {
    fn default() -> Self {
        let state = State {
            items: VecDeque::new(),
            bytes: 0,
            is_current: false,
            is_over: false,
        };
        Self {
            state: Mutex::new(state),
            news: Notify::new(),
        }
    }
}

impl<T> Feed<T> {
    /// The node begins to tell: `item` says from where.
    pub(super) fn begin(&self, item: T) {
        let mut state = self.lock();
        if state.is_over {
            return;
        }
        state.is_current = true;
        // Whoever asked for it has read everything else.
        state.items.push_back((item, 0));
        drop(state);
        self.news.notify_one();
    }

    pub(super) fn push(&self, item: T, bytes: usize) {
        let mut state = self.lock();
        if !state.is_current || state.is_over {
            return;
        }
        if state.items.len() >= ITEMS_MAX || state.bytes + bytes > BYTES_MAX {
            state.is_current = false;
        } else {
            state.bytes += bytes;
            state.items.push_back((item, bytes));
        }
        drop(state);
        self.news.notify_one();
    }

    /// What the node tells from now on does not follow what waits.
    pub(super) fn expire(&self) {
        self.lock().is_current = false;
        self.news.notify_one();
    }

    /// Lets the reader have what waits, and nothing more.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.news.notify_one();
    }

    /// Waits for what comes next. Losing the future loses nothing.
    pub(super) async fn next(&self) -> Next<T> {
        loop {
            let news = self.news.notified();
            {
                let mut state = self.lock();
                if let Some((item, bytes)) = state.items.pop_front() {
                    state.bytes -= bytes;
                    return Next::Item(item);
                }
                if state.is_over {
                    return Next::End;
                }
                if !state.is_current {
                    return Next::Stale;
                }
            }
            news.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_has_no_room_makes_the_feed_stale_and_leaves_no_hole() {
        let feed = Feed::default();
        feed.push(99, 0);
        assert_eq!(feed.next().await, Next::Stale, "nothing has begun");
        feed.begin(0);
        for number in 1..=ITEMS_MAX + 5 {
            feed.push(number, 0);
        }
        for number in 0..ITEMS_MAX {
            assert_eq!(feed.next().await, Next::Item(number));
        }
        assert_eq!(feed.next().await, Next::Stale);
        feed.push(5000, 0);
        assert_eq!(
            feed.next().await,
            Next::Stale,
            "it does not follow what was read"
        );
        feed.begin(ITEMS_MAX);
        assert_eq!(feed.next().await, Next::Item(ITEMS_MAX));
    }

    #[tokio::test]
    async fn large_items_are_bounded_by_their_bytes() {
        let feed = Feed::default();
        feed.begin(0);
        for number in 1..=3 {
            feed.push(number, BYTES_MAX / 2);
        }
        for number in 0..=2 {
            assert_eq!(feed.next().await, Next::Item(number));
        }
        assert_eq!(feed.next().await, Next::Stale);
    }

    #[tokio::test]
    async fn what_waits_is_read_before_the_end() {
        let feed = Feed::default();
        feed.begin(0);
        feed.push(1, 0);
        feed.expire();
        feed.end();
        feed.begin(2);
        assert_eq!(feed.next().await, Next::Item(0));
        assert_eq!(feed.next().await, Next::Item(1));
        assert_eq!(feed.next().await, Next::End);
    }
}
