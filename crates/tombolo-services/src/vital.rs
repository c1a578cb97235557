//! What becomes of tasks that panic, as only a defect makes them do.
//!
//! | the task of | what becomes of it |
//! |---|---|
//! | the node, which would be deaf without it | the node is broken: it lets its devices go and leaves its cluster |
//! | one log | it begins anew, the seldomer the more often it panics |
//! | one session | the session ends, and its device begins anew |
//! | one field | the sessions in it end, and their devices begin anew |
//! | one thing that others say: a message, a record, a question | it is refused, and whoever it was for is told |
//! | one snapshot | another one is kept when it is due |

use std::future::{pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tombolo_engine::{Key, latest};
use tombolo_wire::v1::ErrorCode;

use crate::node::{Node, Parting};
use crate::reject::Reject;
use crate::session::Session;

/// The tasks that a node cannot do without. Clones are the same.
#[derive(Clone, Default)]
pub struct Vitals(Arc<latest::Sender<Option<Broken>>>);

/// A task has panicked without which the node is deaf. Whoever runs the node ends, to be started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task of the node has panicked: {task}")]
pub struct Broken {
    task: &'static str,
}

impl Broken {
    /// What the task was for.
    #[must_use]
    pub fn task(&self) -> &'static str {
        self.task
    }
}

impl Vitals {
    /// Runs such a task: when it panics the node is broken.
    pub fn hold<F>(&self, task: &'static str, run: F) -> impl Future<Output = ()> + use<F>
    where
        F: Future<Output = ()>,
    {
        let vitals = self.clone();
        async move {
            if caught(run).await.is_err() {
                tracing::error!(task, "panicked: the node is broken");
                let broken = Broken { task };
                vitals.0.send_modify(|first| {
                    first.get_or_insert(broken);
                });
            }
        }
    }

    /// Tells whether all of them are well.
    ///
    /// # Errors
    /// Says which one was the first that was not.
    pub fn check(&self) -> Result<(), Broken> {
        match *self.0.borrow() {
            Some(broken) => Err(broken),
            None => Ok(()),
        }
    }

    /// Waits until one is not.
    pub async fn broken(&self) -> Broken {
        let mut first = self.0.subscribe();
        // The value is let go of before anything else is awaited.
        let first = first.wait_for(Option::is_some).await.map(|first| *first);
        match first {
            Ok(Some(broken)) => broken,
            Ok(None) | Err(_) => pending().await,
        }
    }
}

impl Node {
    /// Does what is to be done about one log. When that panics, what was made of the log is let go of, and it begins
    /// anew: what is in one log must not take whole nodes with it, one after the other.
    pub(crate) async fn attend_log<R>(&self, log: &Key, run: impl Fn() -> R, let_go: impl Fn())
    where
        R: Future<Output = ()>,
    {
        let mut delay = ANEW_DELAY_MIN;
        loop {
            let began = Instant::now();
            if caught(run()).await.is_ok() {
                return;
            }
            self.counters.logs_panicked.add(1);
            tracing::error!(%log, "a task of the log panicked: it begins anew");
            // That may panic as well: better read all with what is left than nothing more.
            if caught(async { let_go() }).await.is_err() {
                tracing::error!(%log, "what was made of the log is let go of in part only");
            }
            if began.elapsed() > ANEW_DELAY_MAX {
                delay = ANEW_DELAY_MIN;
            }
            tokio::time::sleep(delay).await;
            delay = (2 * delay).min(ANEW_DELAY_MAX);
        }
    }

    /// Runs a task of a session, which ends when that panics: what it has asked for is not done, and nobody would say so.
    pub(crate) async fn run_for(
        self: &Arc<Self>,
        session: &Arc<Session>,
        run: impl Future<Output = ()>,
    ) {
        if caught(run).await.is_err() {
            self.on_panic_of(session);
        }
    }

    /// The same for what is done at once.
    pub(crate) fn do_for<T>(
        self: &Arc<Self>,
        session: &Arc<Session>,
        run: impl FnOnce() -> Result<T, Reject>,
    ) -> Result<T, Reject> {
        caught_now(run).unwrap_or_else(|Panicked| {
            self.on_panic_of(session);
            let why = "what was done for the session has failed";
            Err(Reject::new(ErrorCode::NotResumable, why))
        })
    }

    fn on_panic_of(self: &Arc<Self>, session: &Arc<Session>) {
        tracing::error!(user = %session.user, "a task of its session panicked: the session ends");
        self.counters.sessions_panicked.add(1);
        self.begin_anew(session, "what was done for the session has failed");
    }

    /// Takes in one of many things that others say, none of which must take the node with it, nor others after it, where it
    /// is said again. `None` when that panics: then whoever it was for is to be told.
    pub(crate) fn take_in<T>(&self, what: &'static str, run: impl FnOnce() -> T) -> Option<T> {
        let taken_in = caught_now(run).ok();
        if taken_in.is_none() {
            tracing::error!(what, "panicked: it is refused");
            self.counters.items_panicked.add(1);
        }
        taken_in
    }

    /// Ends a session whose device is to begin another one. Its rooms keep its seats.
    pub(crate) fn begin_anew(self: &Arc<Self>, session: &Arc<Session>, why: &str) {
        let reject = Reject::new(ErrorCode::NotResumable, why);
        self.end(session, Parting::Drops, Some(reject));
    }
}

/// Waits for the next of some tasks to end; returns whether there was one. When it has panicked, so does whoever waits:
/// what it was for is not done.
pub(crate) async fn join_next(tasks: &mut JoinSet<()>) -> bool {
    match tasks.join_next().await {
        None => false,
        Some(Ok(())) => true,
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Whoever aborts one knows.
            Err(_) => true,
        },
    }
}

/// Runs a future to its end, which may be a panic.
pub(crate) async fn caught<F: Future>(run: F) -> Result<F::Output, Panicked> {
    let mut run = pin!(run);
    poll_fn(|context| {
        // What it leaves in disorder is begun anew, or ends.
        let polled = catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(context)));
        match polled {
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
    .await
}

/// Runs what does not wait to its end, which may be a panic.
fn caught_now<T>(run: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| Panicked)
}

pub(crate) struct Panicked;

/// How long nothing is done about a log after a panic, at first.
const ANEW_DELAY_MIN: Duration = Duration::from_millis(250);

/// How long at last.
const ANEW_DELAY_MAX: Duration = Duration::from_secs(60);
