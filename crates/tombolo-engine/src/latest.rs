//! A value that changes, and those who wait for that.
//!
//! Like tokio's `watch`, with two differences. Whoever has waited longest is woken first, and not anybody: so a
//! simulation goes the same way twice. And it is small, for there is one for each log, room and session.

use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

/// Nobody changes the value any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody changes it any more")]
pub struct Over;

/// Where the value is changed.
#[derive(Debug, Default)]
pub struct Sender<T>(Arc<Shared<T>>);

/// Where it is seen.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The last change that was seen.
    seen: u64,
}

/// The value as it is: it cannot change meanwhile.
#[derive(Debug)]
pub struct Ref<'a, T>(RwLockReadGuard<'a, State<T>>);

#[derive(Debug, Default)]
struct Shared<T> {
    state: RwLock<State<T>>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State<T> {
    value: T,
    /// Changes so far.
    changes: u64,
    is_over: bool,
}

/// A value, and one who sees it.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    /// A value that nobody sees yet.
    pub fn new(value: T) -> Self {
        let state = State {
            value,
            changes: 0,
            is_over: false,
        };
        Self(Arc::new(Shared {
            state: RwLock::new(state),
            changed: Notify::new(),
        }))
    }

    /// Sees the value from now on; as it is now counts as seen.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.read().changes;
        Receiver {
            shared: Arc::clone(&self.0),
            seen,
        }
    }

    /// The value as it is.
    #[must_use]
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.0.read())
    }

    /// Changes the value; returns the one before.
    pub fn send_replace(&self, value: T) -> T {
        let mut before = value;
        self.send_modify(|value| std::mem::swap(value, &mut before));
        before
    }

    /// Changes the value.
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            modify(value);
            true
        });
    }

    /// Changes the value, or not, as is returned.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let mut state = self.0.write();
        let is_modified = modify(&mut state.value);
        state.changes += u64::from(is_modified);
        drop(state);
        if is_modified {
            self.0.changed.notify_waiters();
        }
        is_modified
    }

    /// How many see it.
    #[must_use]
    pub fn receiver_count(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    /// Whether nobody sees it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.receiver_count() == 0
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.write().is_over = true;
        self.0.changed.notify_waiters();
    }
}

impl<T> Receiver<T> {
    /// The value as it is.
    #[must_use]
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.read())
    }

    /// The value as it is, which has been seen then.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let state = self.shared.read();
        self.seen = state.changes;
        Ref(state)
    }

    /// Waits for a change since the value was seen last. Safe to cancel.
    ///
    /// # Errors
    /// There will be none.
    pub async fn changed(&mut self) -> Result<(), Over> {
        loop {
            let changed = self.shared.changed.notified();
            let (changes, is_over) = {
                let state = self.shared.read();
                (state.changes, state.is_over)
            };
            if changes != self.seen {
                self.seen = changes;
                return Ok(());
            }
            if is_over {
                return Err(Over);
            }
            changed.await;
        }
    }

    /// Waits until the value is as it is wanted. Safe to cancel.
    ///
    /// # Errors
    /// It is not, and will not change.
    pub async fn wait_for(
        &mut self,
        mut is_wanted: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, Over> {
        loop {
            let changed = self.shared.changed.notified();
            {
                let state = self.shared.read();
                self.seen = state.changes;
                if is_wanted(&state.value) {
                    return Ok(Ref(state));
                }
                if state.is_over {
                    return Err(Over);
                }
            }
            changed.await;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            seen: self.seen,
        }
    }
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<T>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn whoever_has_waited_longest_is_woken_first() {
        let sender = Sender::new(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = tokio::task::JoinSet::new();
        for waiter in 0..50 {
            let (mut receiver, order) = (sender.subscribe(), Arc::clone(&order));
            waiting.spawn(async move {
                receiver.changed().await.unwrap();
                order.lock().unwrap().push(waiter);
            });
        }
        tokio::task::yield_now().await;
        sender.send_replace(1);
        waiting.join_all().await;
        let order = order.lock().unwrap();
        assert!(order.iter().copied().eq(0..50), "{order:?}");
    }

    #[tokio::test]
    async fn a_change_between_two_waits_is_not_missed() {
        let (sender, mut receiver) = channel(0);
        sender.send_replace(1);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(*receiver.borrow(), 1);
        assert!(!sender.send_if_modified(|_| false));
        sender.send_modify(|value| *value += 1);
        assert_eq!(*receiver.wait_for(|value| *value == 2).await.unwrap(), 2);
        drop(sender);
        assert_eq!(receiver.changed().await, Err(Over));
        assert!(receiver.wait_for(|value| *value == 2).await.is_ok());
        assert!(receiver.wait_for(|value| *value == 3).await.is_err());
    }
}
