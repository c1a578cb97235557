//! What a device has asked for and what waits its turn.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Notify;

use super::Request;

/// A session's requests. They are carried out one after another, by a task that is there only while there is
/// something to do: a session that does nothing has none.
#[derive(Default)]
pub(crate) struct Backlog {
    waiting: VecDeque<Request>,
    /// A task carries them out.
    is_running: bool,
    /// Nothing is added for now.
    is_paused: bool,
    /// Nothing is added any more.
    is_closed: bool,
    /// Wakes the task.
    wake: Arc<Notify>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// Somebody has to carry it out.
    First,
    /// Somebody will.
    Waits,
    /// As much as may waits already.
    Full,
    /// The session takes no more requests.
    Closed,
}

/// What the task is to do.
pub(super) enum Next {
    Request(Request),
    /// Wait until there is something.
    Wait(Arc<Notify>),
    /// End.
    Over,
}

impl Backlog {
    pub(super) fn add(&mut self, request: Request, waiting_max: usize) -> Added {
        if self.is_closed || self.is_paused {
            return Added::Closed;
        }
        if self.waiting.len() >= waiting_max.max(1) {
            return Added::Full;
        }
        self.waiting.push_back(request);
        if std::mem::replace(&mut self.is_running, true) {
            self.wake.notify_one();
            return Added::Waits;
        }
        Added::First
    }

    /// What the task does next. With nothing left to do it is over, unless it holds something for the session.
    pub(super) fn next(&mut self, holds: bool) -> Next {
        if let Some(request) = self.waiting.pop_front() {
            return Next::Request(request);
        }
        if holds && !self.is_closed {
            return Next::Wait(Arc::clone(&self.wake));
        }
        self.is_running = false;
        self.waiting = VecDeque::new();
        Next::Over
    }

    /// Takes no more; what waits is still carried out.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        self.wake.notify_one();
    }

    /// Takes no more for now; what is held for the session stays.
    pub(crate) fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Goes on after a pause.
    pub(crate) fn proceed(&mut self) {
        self.is_paused = false;
    }
}

#[cfg(test)]
mod tests {
    use tombolo_wire::RoomId;

    use super::*;

    fn leave(id: u64) -> Request {
        let room = RoomId::parse("lobby").unwrap();
        Request::Leave { id, room }
    }

    fn id(next: Next) -> Option<u64> {
        match next {
            Next::Request(Request::Leave { id, .. }) => Some(id),
            Next::Request(_) | Next::Wait(_) | Next::Over => None,
        }
    }

    #[test]
    fn only_the_first_of_those_that_wait_needs_somebody() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.add(leave(1), 2), Added::First);
        assert_eq!(id(backlog.next(false)), Some(1));
        assert_eq!(backlog.add(leave(2), 2), Added::Waits);
        assert_eq!(backlog.add(leave(3), 2), Added::Waits);
        assert_eq!(backlog.add(leave(4), 2), Added::Full);
        assert_eq!(id(backlog.next(false)), Some(2));
        assert_eq!(id(backlog.next(false)), Some(3));
        assert!(matches!(backlog.next(false), Next::Over));
        assert_eq!(backlog.add(leave(5), 2), Added::First);
    }

    #[test]
    fn what_waits_is_carried_out_after_a_close_and_nothing_else() {
        let mut backlog = Backlog::default();
        backlog.add(leave(1), 2);
        backlog.close();
        assert_eq!(backlog.add(leave(2), 2), Added::Closed);
        assert_eq!(id(backlog.next(true)), Some(1));
        assert!(matches!(backlog.next(true), Next::Over));
    }

    #[test]
    fn a_task_outlasts_a_pause_with_what_it_holds() {
        let mut backlog = Backlog::default();
        backlog.add(leave(1), 2);
        backlog.pause();
        assert_eq!(backlog.add(leave(2), 2), Added::Closed);
        assert_eq!(id(backlog.next(true)), Some(1));
        assert!(matches!(backlog.next(true), Next::Wait(_)));
        backlog.proceed();
        assert_eq!(
            backlog.add(leave(3), 2),
            Added::Waits,
            "the task that was there is still there"
        );
        assert_eq!(id(backlog.next(true)), Some(3));
    }

    #[test]
    fn a_task_that_holds_something_stays_until_the_close() {
        let mut backlog = Backlog::default();
        backlog.add(leave(1), 2);
        assert_eq!(id(backlog.next(true)), Some(1));
        assert!(matches!(backlog.next(true), Next::Wait(_)));
        assert_eq!(backlog.add(leave(2), 2), Added::Waits);
        assert_eq!(id(backlog.next(true)), Some(2));
        backlog.close();
        assert!(matches!(backlog.next(true), Next::Over));
    }
}
