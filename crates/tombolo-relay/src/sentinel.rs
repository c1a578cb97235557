//! Notices threads that end though nobody asked for that.

use std::{future::pending, sync::Arc};

use thiserror::Error;
use tokio::sync::watch;
use tracing::error;

/// A thread of the relay has ended by itself, as only a defect makes it do. Its clients are lost, and
/// so are those that the kernel still brings to it: whoever runs the relay ends, to be started again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the thread {thread} of the relay has ended by itself")]
pub struct Broken {
    thread: String,
}

/// Where threads tell that they have ended.
#[derive(Clone)]
pub(crate) struct Sentinels(Arc<watch::Sender<Option<Broken>>>);

/// Goes with a thread, and tells of its end, also by a panic.
pub(crate) struct Sentinel {
    thread: String,
    broken: Arc<watch::Sender<Option<Broken>>>,
    is_dismissed: bool,
}

impl Sentinels {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    pub(crate) fn of(&self, thread: &str) -> Sentinel {
        Sentinel {
            thread: thread.to_owned(),
            broken: Arc::clone(&self.0),
            is_dismissed: false,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Broken> {
        match &*self.0.borrow() {
            Some(broken) => Err(broken.clone()),
            None => Ok(()),
        }
    }

    /// Waits for the first one.
    pub(crate) async fn broken(&self) -> Broken {
        let mut first = self.0.subscribe();
        let first = first.wait_for(Option::is_some).await;
        let first = first.ok().and_then(|first| first.clone());
        match first {
            Some(broken) => broken,
            None => pending().await,
        }
    }
}

impl Sentinel {
    /// The thread ends as it was asked to.
    pub(crate) fn dismiss(mut self) {
        self.is_dismissed = true;
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        if self.is_dismissed {
            return;
        }
        let thread = std::mem::take(&mut self.thread);
        error!(thread, "a thread of the relay has ended by itself");
        self.broken.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(Broken { thread });
            is_first
        });
    }
}
