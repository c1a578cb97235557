//! Rouses QUIC when a relay has changed.
//!
//! QUIC asks for what is unanswered at longer and longer intervals: after two seconds without a relay it
//! may wait for two more, though another relay carries by then. So its connections are asked all at
//! once, and begin with short intervals again. `noq` offers that for a whole endpoint; changes that come
//! close together cost one round.

use std::sync::Arc;
use std::time::Duration;

use noq::{FourTuple, NetworkChangeHint, PathId};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(100);

/// Rouses the connections of an endpoint, until it is dropped.
pub(crate) struct Rouser {
    wanted: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Rouser {
    pub(crate) fn new(endpoint: noq::Endpoint) -> Self {
        let wanted = Arc::new(Notify::new());
        let task = tokio::spawn(rouse(endpoint, wanted.clone()));
        Self { wanted, task }
    }

    /// Asks for a round.
    pub(crate) fn rouse(&self) {
        self.wanted.notify_one();
    }
}

impl Drop for Rouser {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn rouse(endpoint: noq::Endpoint, wanted: Arc<Notify>) {
    loop {
        wanted.notified().await;
        endpoint.handle_network_change(Some(Arc::new(PathsStay)));
        tokio::time::sleep(PAUSE).await;
    }
}

/// The addresses that QUIC knows are what they were: behind a virtual one there is another relay.
#[derive(Debug)]
struct PathsStay;

impl NetworkChangeHint for PathsStay {
    fn is_path_recoverable(&self, _: PathId, _: FourTuple) -> bool {
        true
    }
}
