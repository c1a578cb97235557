//! How long somebody who asks waits for the engine: as long as it may take to answer, but only for a moment
//! when there is none to talk to.

use std::future::Future;
use std::time::Duration;

use tombolo_wire::v1::ErrorCode;

use crate::node::Node;
use crate::reject::Reject;

/// Why nobody waits for the engine any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Late {
    #[error("the engine does not answer")]
    Slow,
    #[error("the engine cannot be reached")]
    Away,
}

impl From<Late> for Reject {
    fn from(late: Late) -> Self {
        Self::new(ErrorCode::Unavailable, late)
    }
}

impl Node {
    /// Waits for what the engine makes possible.
    ///
    /// # Errors
    /// It takes longer than the engine may, or there has been none to talk to for a while.
    pub(crate) async fn within<T>(&self, answer: impl Future<Output = T>) -> Result<T, Late> {
        self.within_from(LOOK_INTERVAL, answer).await
    }

    /// Waits for a write. An engine that could not even send it says so by itself within a second, and then
    /// nothing was written: that is waited for.
    ///
    /// # Errors
    /// As [`Self::within`]; nobody knows whether it was written.
    pub(crate) async fn written<T>(&self, write: impl Future<Output = T>) -> Result<T, Late> {
        self.within_from(AWAY_MIN + LOOK_INTERVAL, write).await
    }

    async fn within_from<T>(
        &self,
        first: Duration,
        answer: impl Future<Output = T>,
    ) -> Result<T, Late> {
        tokio::select! {
            biased;
            answer = tokio::time::timeout(self.config.engine_timeout, answer) => {
                answer.map_err(|_| Late::Slow)
            }
            () = self.engine_is_away(first) => Err(Late::Away),
        }
    }

    /// Waits until this node is part of its cluster.
    pub(crate) async fn joined(&self) -> Result<(), Reject> {
        let joined = self.cluster.joined(self.config.engine_timeout);
        tokio::select! {
            biased;
            joined = joined => joined,
            () = self.engine_is_away(LOOK_INTERVAL) => Err(Late::Away.into()),
        }
    }

    async fn engine_is_away(&self, first: Duration) {
        // Whoever asks again and again does so no faster than this.
        tokio::time::sleep(first).await;
        while self.engine.away_for() < Some(AWAY_MIN) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// How long the engine is away before nobody waits for it: a connection that is made anew is back by then.
const AWAY_MIN: Duration = Duration::from_secs(1);

/// How often it is looked whether it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
