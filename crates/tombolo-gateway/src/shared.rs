//! What all connections of a gateway have in common.

use std::sync::Arc;

use tokio::sync::watch;
use tombolo_services::Services;
use tombolo_wire::token::SigningKey;

use crate::admission::Admission;
use crate::config::Limits;
use crate::stats::Counters;

pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) services: Services,
    pub(crate) admission: Arc<Admission>,
    pub(crate) counters: Counters,
    pub(crate) dev_tokens: Option<SigningKey>,
    phase: watch::Sender<Phase>,
}

/// The life of a gateway; it only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Bound, but other parts of the node are not ready.
    Starting,
    Serving,
    /// Takes nobody new and says goodbye.
    Draining,
    /// Whoever is still there is dropped.
    Closed,
}

impl Shared {
    pub(crate) fn new(limits: Limits, services: Services, dev_tokens: Option<SigningKey>) -> Self {
        Self {
            admission: Admission::new(limits.clone()),
            limits,
            services,
            counters: Counters::default(),
            dev_tokens,
            phase: watch::Sender::new(Phase::Starting),
        }
    }

    pub(crate) fn is_serving(&self) -> bool {
        *self.phase.borrow() == Phase::Serving
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Moves on to `phase`, unless the gateway is further already.
    pub(crate) fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let is_forward = phase > *current;
            *current = phase.max(*current);
            is_forward
        });
    }

    pub(crate) fn phase(&self) -> PhaseWatch {
        PhaseWatch(self.phase.subscribe())
    }
}

/// Waits for a phase of the gateway; safe to cancel.
#[derive(Debug)]
pub(crate) struct PhaseWatch(watch::Receiver<Phase>);

impl PhaseWatch {
    pub(crate) async fn draining(&mut self) {
        self.reached(Phase::Draining).await;
    }

    pub(crate) async fn closed(&mut self) {
        self.reached(Phase::Closed).await;
    }

    async fn reached(&mut self, phase: Phase) {
        // An error means that the gateway itself is gone, which is as far as it goes.
        let _ = self.0.wait_for(|current| *current >= phase).await;
    }
}
