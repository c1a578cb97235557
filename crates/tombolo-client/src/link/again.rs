//! Telling the peer of this device's relay, again where that was not handed on.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::net::Relayed;

/// The first pause; each is twice as long as the one before.
const AGAIN_MIN: Duration = Duration::from_millis(250);
/// All pauses together are four minutes.
const AGAIN_TRIES_MAX: u32 = 10;

/// When the peer is told again what the node did not hand on. That is so for a moment while this
/// device, or the peer, comes back to the room where they met; the link works meanwhile.
#[derive(Default)]
pub(super) struct Again {
    at: Option<Instant>,
    failures: u32,
}

impl Again {
    /// Not at once, and not without end: whoever has left the room does not hear of it.
    pub(super) fn put_off(&mut self) {
        self.failures += 1;
        let pause = AGAIN_MIN * 2u32.pow(self.failures.min(AGAIN_TRIES_MAX) - 1);
        self.at = (self.failures <= AGAIN_TRIES_MAX).then(|| Instant::now() + pause);
    }

    /// Waits until it is time. Safe to cancel.
    pub(super) async fn is_due(&mut self) {
        match self.at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        self.at = None;
    }
}

/// What the peer is to know of this device's relay, from the introduction on.
pub(super) struct RelayNews {
    relayed: watch::Receiver<Option<Relayed>>,
    /// The node did not hand on what was told.
    untold: mpsc::Receiver<()>,
    again: Again,
}

impl RelayNews {
    pub(super) fn new(
        relayed: watch::Receiver<Option<Relayed>>,
        untold: mpsc::Receiver<()>,
    ) -> Self {
        let again = Again::default();
        Self {
            relayed,
            untold,
            again,
        }
    }

    /// The peer is being told of what there is now.
    pub(super) fn mark_told(&mut self) {
        self.relayed.mark_unchanged();
    }

    /// What there is could not be told now.
    pub(super) fn put_off(&mut self) {
        self.again.put_off();
    }

    /// Waits until there is something to tell. Safe to cancel.
    pub(super) async fn is_due(&mut self) {
        tokio::select! {
            Ok(()) = self.relayed.changed() => self.again = Again::default(),
            () = is_due_again(&mut self.untold, &mut self.again) => {}
        }
    }

    /// Waits until what was told is to be told again. Safe to cancel.
    pub(super) async fn is_due_again(&mut self) {
        is_due_again(&mut self.untold, &mut self.again).await;
    }
}

async fn is_due_again(untold: &mut mpsc::Receiver<()>, again: &mut Again) {
    loop {
        tokio::select! {
            Some(()) = untold.recv() => again.put_off(),
            () = again.is_due() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_said_again_later_and_later_and_not_without_end() {
        let begun = Instant::now();
        let mut again = Again::default();
        for _ in 0..AGAIN_TRIES_MAX {
            again.put_off();
            again.is_due().await;
        }
        assert_eq!(begun.elapsed().as_secs(), 255);
        again.put_off();
        let day = Duration::from_hours(24);
        assert!(tokio::time::timeout(day, again.is_due()).await.is_err());
    }
}
