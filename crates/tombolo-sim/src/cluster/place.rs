//! Where something runs: with the world, or in a process of its own, whose clock stands still while it is frozen.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};
use tokio::time::{Instant, advance, sleep};
use tombolo_engine::BoxFuture;
use tombolo_services::{Connection, Outgoing, Reject};
use tombolo_wire::v1::ClientFrame;

use super::surroundings::{self, Clock};

/// Tasks, timers and a clock.
#[derive(Clone)]
pub(crate) struct Place {
    handle: Handle,
    clock: Clock,
    is_frozen: Arc<AtomicBool>,
    /// Connections that broke while it was frozen: it does not know yet.
    broken: Arc<Mutex<Vec<Connection>>>,
}

/// While this lives, whatever is done is done there.
pub(crate) struct Inside<'a> {
    outside: Clock,
    _guard: EnterGuard<'a>,
}

impl Place {
    /// What runs on this runtime, which begins now.
    pub(crate) fn new(runtime: &Runtime) -> Self {
        let at = surroundings::story_time();
        let _guard = runtime.enter();
        Self {
            handle: runtime.handle().clone(),
            clock: Clock {
                begun: Instant::now(),
                at,
            },
            is_frozen: Arc::default(),
            broken: Arc::default(),
        }
    }

    pub(crate) fn enter(&self) -> Inside<'_> {
        Inside {
            outside: surroundings::set_clock(self.clock),
            _guard: self.handle.enter(),
        }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.is_frozen.load(Ordering::Relaxed)
    }

    /// Has a future run here, wherever it is waited for.
    pub(crate) fn wrap<'a, T: 'a>(&self, mut future: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
        let place = self.clone();
        Box::pin(poll_fn(move |context| {
            let _inside = place.enter();
            Pin::new(&mut future).poll(context)
        }))
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        surroundings::set_clock(self.outside);
    }
}

/// A process of its own.
pub(crate) struct Process {
    runtime: Runtime,
    pub(crate) place: Place,
}

impl Process {
    pub(crate) fn new() -> Result<Self, String> {
        let runtime = runtime()?;
        let place = Place::new(&runtime);
        Ok(Self { runtime, place })
    }

    /// Lets it do what it has to until now, unless it is frozen.
    pub(crate) fn run(&self) {
        let now = surroundings::story_time();
        let _inside = self.place.enter();
        let behind = now.saturating_sub(surroundings::story_time());
        if !self.place.is_frozen() && behind > Duration::ZERO {
            self.runtime.block_on(sleep(behind));
        }
    }

    pub(crate) fn freeze(&self) {
        self.place.is_frozen.store(true, Ordering::Relaxed);
    }

    /// It goes on, and finds that it is later than it thought.
    pub(crate) fn thaw(&self) {
        let now = surroundings::story_time();
        let _inside = self.place.enter();
        self.place.is_frozen.store(false, Ordering::Relaxed);
        let behind = now.saturating_sub(surroundings::story_time());
        self.runtime.block_on(advance(behind));
        let broken = self.place.broken.lock();
        broken.unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A device's connection with a node somewhere.
pub(crate) struct Line {
    /// `None` when it is over.
    connection: Option<Connection>,
    place: Place,
}

impl Line {
    pub(crate) fn new(connection: Connection, place: Place) -> Self {
        Self {
            connection: Some(connection),
            place,
        }
    }

    /// What the node has to say now.
    pub(crate) fn next(&self) -> Option<Outgoing> {
        use futures_util::FutureExt as _;

        let connection = self
            .connection
            .as_ref()
            .filter(|_| !self.place.is_frozen())?;
        let _inside = self.place.enter();
        connection.next_outgoing().now_or_never()
    }

    /// Whether the node takes anything in.
    pub(crate) fn is_open(&self) -> bool {
        !self.place.is_frozen()
    }

    pub(crate) fn receive(&self, frame: ClientFrame) -> Result<(), Reject> {
        let _inside = self.place.enter();
        let connection = self.connection.as_ref();
        connection.map_or(Ok(()), |connection| connection.receive(frame, true))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let connection = self.connection.take();
        if self.place.is_frozen() {
            let broken = self.place.broken.lock();
            broken
                .unwrap_or_else(PoisonError::into_inner)
                .extend(connection);
            return;
        }
        let _inside = self.place.enter();
        drop(connection);
    }
}

/// Under a virtual clock.
pub(crate) fn runtime() -> Result<Runtime, String> {
    let mut builder = Builder::new_current_thread();
    let built = builder.enable_time().start_paused(true).build();
    built.map_err(|error| error.to_string())
}
