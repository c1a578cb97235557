//! What all connections of a gateway have in common.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;
use tokio::time::Instant;
use tombolo_services::Services;
use tombolo_wire::token::SigningKey;

use crate::admission::{Admission, Ticket};
use crate::api_keys::{ApiKey, ApiKeys};
use crate::config::Limits;
use crate::stats::Counters;

pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) services: Services,
    pub(crate) admission: Arc<Admission>,
    pub(crate) counters: Counters,
    pub(crate) dev_tokens: Option<SigningKey>,
    api_keys: RwLock<ApiKeys>,
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
    pub(crate) fn new(
        limits: Limits,
        services: Services,
        dev_tokens: Option<SigningKey>,
        api_keys: Vec<ApiKey>,
    ) -> Self {
        Self {
            admission: Admission::new(limits.clone(), Instant::now().into_std()),
            limits,
            services,
            counters: Counters::default(),
            dev_tokens,
            api_keys: RwLock::new(ApiKeys::new(api_keys, Instant::now())),
            phase: watch::Sender::new(Phase::Starting),
        }
    }

    /// Who may use the API for game servers.
    pub(crate) fn api_keys(&self) -> RwLockReadGuard<'_, ApiKeys> {
        // A whole value is all that is written under the lock.
        self.api_keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_api_keys(&self, keys: Vec<ApiKey>) {
        let new = ApiKeys::new(keys, Instant::now());
        *self
            .api_keys
            .write()
            .unwrap_or_else(PoisonError::into_inner) = new;
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

    /// Runs what a connection does until it is over, the gateway is closed, or the connection's place is a
    /// newcomer's.
    pub(crate) async fn hold(&self, ticket: &Ticket, work: impl Future<Output = ()>) {
        let mut phase = self.phase();
        tokio::select! {
            () = work => {}
            () = phase.closed() => {}
            () = ticket.displaced() => self.counters.displaced.add(),
        }
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
