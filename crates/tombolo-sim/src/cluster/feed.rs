//! What a log says, read by somebody whom nobody waits for: before the log is retired, after which nothing is left.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use tombolo_engine::{Tail, TailEvent};

/// A log, as far as it was read.
#[derive(Clone)]
pub(crate) struct Feed(Arc<Mutex<Read>>);

struct Read {
    tail: Box<dyn Tail>,
    /// What nobody has taken yet.
    events: VecDeque<TailEvent>,
}

impl Feed {
    pub(crate) fn new(tail: Box<dyn Tail>) -> Self {
        let events = VecDeque::new();
        Self(Arc::new(Mutex::new(Read { tail, events })))
    }

    /// Reads what was appended since.
    pub(crate) fn read(&self) {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Some(event)) = read.tail.next().now_or_never() {
            read.events.push_back(event);
        }
    }

    /// Takes what was read.
    pub(crate) fn take(&self) -> VecDeque<TailEvent> {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut read.events)
    }
}
