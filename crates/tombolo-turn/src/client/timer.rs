use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use tombolo_stun::TransactionId;

/// What a deadline of [`Client::poll_timeout`](super::Client::poll_timeout) is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Timer {
    /// A request was not answered: send it again or give up.
    Retransmit(TransactionId),
    /// The allocation is to be refreshed.
    Refresh,
    /// The allocation's lifetime ends.
    Expire,
    /// The peer's channel and permission are to be made or refreshed, or the peer forgotten.
    Peer(SocketAddr),
}

/// The client's deadlines, at most one for each [`Timer`].
#[derive(Default)]
pub(super) struct Timers {
    deadline_by_timer: BTreeMap<Timer, Instant>,
    ordered: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, deadline: Instant) {
        self.cancel(timer);
        self.deadline_by_timer.insert(timer, deadline);
        self.ordered.insert((deadline, timer));
    }

    pub(super) fn cancel(&mut self, timer: Timer) {
        if let Some(deadline) = self.deadline_by_timer.remove(&timer) {
            self.ordered.remove(&(deadline, timer));
        }
    }

    pub(super) fn clear(&mut self) {
        self.deadline_by_timer.clear();
        self.ordered.clear();
    }

    pub(super) fn next(&self) -> Option<(Instant, Timer)> {
        self.ordered.first().copied()
    }

    /// Takes the earliest timer that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (_, timer) = self.next().filter(|(deadline, _)| *deadline <= now)?;
        self.cancel(timer);
        Some(timer)
    }
}
