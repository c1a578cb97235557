//! What a log says, read by somebody whom nobody waits for: before the log is retired, after which nothing is left.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tombolo_engine::{BoxFuture, Tail, TailEvent};

/// A log, as far as it was read.
#[derive(Clone)]
pub(crate) struct Feed {
    read: Arc<Mutex<Read>>,
    bell: Arc<Bell>,
}

struct Read {
    /// `None` after the log's end.
    next: Option<BoxFuture<'static, Next>>,
    /// What nobody has taken yet.
    events: VecDeque<TailEvent>,
}

type Next = (Box<dyn Tail>, Option<TailEvent>);

/// Rings when there is something new: most of the time there is not, and nobody has to look.
struct Bell(AtomicBool);

impl Feed {
    pub(crate) fn new(tail: Box<dyn Tail>) -> Self {
        let read = Read {
            next: Some(next(tail)),
            events: VecDeque::new(),
        };
        Self {
            read: Arc::new(Mutex::new(read)),
            bell: Arc::new(Bell(AtomicBool::new(true))),
        }
    }

    /// Reads what was appended since.
    pub(crate) fn read(&self) {
        if !self.bell.0.swap(false, Ordering::Relaxed) {
            return;
        }
        let waker = Waker::from(Arc::clone(&self.bell));
        let mut context = Context::from_waker(&waker);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let Read {
            next: reading,
            events,
        } = &mut *read;
        while let Some(waits) = reading {
            let Poll::Ready((tail, event)) = waits.as_mut().poll(&mut context) else {
                return;
            };
            *reading = event.is_some().then(|| next(tail));
            events.extend(event);
        }
    }

    /// Takes what was read.
    pub(crate) fn take(&self) -> VecDeque<TailEvent> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut read.events)
    }
}

fn next(mut tail: Box<dyn Tail>) -> BoxFuture<'static, Next> {
    Box::pin(async move {
        let event = tail.next().await;
        (tail, event)
    })
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
