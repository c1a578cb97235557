//! Who is a pool's matcher, and what it does.
//!
//! The lease only keeps nodes from doing the same work: that no ticket is in two matches is up to the
//! log. It is renewed well before it ends. A node that sees that the matcher's node is gone takes the
//! lease over at once, without waiting for its end.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tombolo_engine::{AppendError, Expect, Offset, latest};
use tombolo_match::{Body, CLAIMS_MAX, ENTRY_BYTES_MAX, Entry, Time};
use tombolo_wire::NodeId;

use super::desk::{Desk, RETRY_DELAY, operation_id, purpose};
use crate::node::Node;

/// What the matcher does next.
enum Move {
    /// Append this, if the log is as it is expected.
    Append(Body, Expect),
    /// Look further at once.
    GoOn,
    /// Nothing until something is read, or so long.
    Wait(Duration),
}

/// Whose the lease is.
enum Holder {
    This,
    Another,
    /// Nobody has answered, or somebody was faster: who asks again soon learns more.
    Unknown,
    /// It is not for this node, which is out of its cluster, or cannot read the pool.
    NotThis,
}

impl Desk {
    /// Is the pool's matcher whenever this node holds the lease.
    pub(super) async fn lead(&self, node: &Node) {
        loop {
            let renewal = self.gain_lease(node).await;
            self.set_leading(node, true);
            // What is being written goes on while the lease is renewed, however long that takes: begun anew it
            // would be written under another name.
            tokio::select! {
                biased;
                () = self.keep_lease(node, renewal) => {}
                () = self.make_matches(node) => {}
            }
            self.set_leading(node, false);
        }
    }

    fn set_leading(&self, node: &Node, is_leading: bool) {
        self.lock().is_leading = is_leading;
        tracing::info!(pool = %self.name, node = %node.name(), is_leading, "matcher");
    }

    /// Waits until the lease is this node's; returns when to renew it.
    async fn gain_lease(&self, node: &Node) -> Instant {
        loop {
            let renewal = renewal(node);
            let next = match self.hold_lease(node).await {
                Holder::This => return renewal,
                Holder::Another => renewal,
                Holder::Unknown | Holder::NotThis => Instant::now() + RETRY_DELAY,
            };
            tokio::select! {
                biased;
                () = self.is_hurried.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Renews the lease until it is lost. While nobody knows whose it is, whoever has led goes on: two that do so
    /// do no harm.
    async fn keep_lease(&self, node: &Node, mut next: Instant) {
        loop {
            tokio::time::sleep_until(next).await;
            let renewal = renewal(node);
            next = match self.hold_lease(node).await {
                Holder::This => renewal,
                Holder::Unknown => Instant::now() + RETRY_DELAY,
                Holder::Another | Holder::NotThis => return,
            };
        }
    }

    /// Takes the lease, or renews it.
    async fn hold_lease(&self, node: &Node) -> Holder {
        if node.cluster.is_out() || node.cluster.epoch().is_none() || !self.is_readable() {
            return Holder::NotThis;
        }
        let leases = node.engine.leases();
        let attempt = async {
            let Ok(found) = leases.get(&self.lease).await else {
                return Holder::Unknown;
            };
            let holder = found.as_ref().and_then(|entry| holder(&entry.value));
            if holder.is_some_and(|holder| holder != *node.name() && node.cluster.is_up(&holder)) {
                return Holder::Another;
            }
            let revision = found.map(|entry| entry.revision);
            let name = Bytes::copy_from_slice(node.name().as_str().as_bytes());
            match leases.cas(&self.lease, revision, Some(name)).await {
                Ok(_) => Holder::This,
                Err(_) => Holder::Unknown,
            }
        };
        let held = timeout(node.config.engine_timeout, attempt).await;
        held.unwrap_or(Holder::Unknown)
    }

    /// Looks for matches and claims them, and says in the log when time has passed.
    async fn make_matches(&self, node: &Node) {
        let mut progress = self.watch();
        let mut conflicts = 0;
        while !node.cluster.is_out() {
            progress.borrow_and_update();
            match self.next_move(node, conflicts) {
                Move::Append(body, expect) => {
                    match self.append(node, body, expect, &mut progress).await {
                        Ok(()) => conflicts = 0,
                        Err(AppendError::Conflict) => {
                            node.counters.claims_conflicted.add(1);
                            conflicts += 1;
                        }
                        Err(error) => {
                            tracing::debug!(pool = %self.name, %error, "not appended");
                            tokio::time::sleep(RETRY_DELAY).await;
                        }
                    }
                }
                Move::GoOn => tokio::task::yield_now().await,
                Move::Wait(wait) => {
                    // Whether something was read or the time is up, look again.
                    let _ = timeout(wait, progress.changed()).await;
                }
            }
        }
    }

    fn next_move(&self, node: &Node, conflicts: usize) -> Move {
        let mut state = self.lock();
        if state.ahead.is_some() {
            return Move::Wait(WAIT_MAX);
        }
        let now = state.time(node);
        if state.pool.poll_timeout().is_some_and(|due| due <= now) {
            return Move::Append(Body::Ticked, Expect::Any);
        }
        if state.pool.poll_propose().is_some_and(|due| due <= now) {
            let mut step = state.pool.propose(now, LOOKS_MAX);
            if !step.matches.is_empty() {
                // What is not claimed now is proposed again.
                step.matches.truncate(CLAIMS_MAX);
                let expect = expect(state.cursor, conflicts);
                return Move::Append(Body::Claimed(step.matches), expect);
            }
            if !step.is_complete {
                return Move::GoOn;
            }
        }
        let due = [state.pool.poll_timeout(), state.pool.poll_propose()];
        let next = due.into_iter().flatten().min();
        Move::Wait(next.map_or(WAIT_MAX, |next| wait(now, next)))
    }

    /// Appends an entry and waits until it was read here. After a conflict, until what came before it was.
    async fn append(
        &self,
        node: &Node,
        mut body: Body,
        expect: Expect,
        progress: &mut latest::Receiver<u64>,
    ) -> Result<(), AppendError> {
        let operation = operation_id(node).map_err(|_| AppendError::Unavailable)?;
        let time = self.lock().time(node);
        let entry = loop {
            let entry = Entry {
                time,
                body: body.clone(),
            };
            let bytes = entry.encode(operation);
            if let Body::Claimed(matches) = &mut body
                && bytes.len() > ENTRY_BYTES_MAX
                && matches.len() > 1
            {
                matches.truncate(matches.len() / 2);
            } else {
                break bytes;
            }
        };
        let limit = node.config.engine_timeout;
        let name = tombolo_engine::OperationId(operation.0);
        let (key, purpose) = (&self.key, purpose(&body));
        let append = node.engine.append(key, entry, purpose, expect, name);
        match timeout(limit, append).await {
            Ok(Ok(at)) => {
                let _ = timeout(limit, self.read_until(at)).await;
                Ok(())
            }
            Ok(Err(AppendError::Conflict)) => {
                let _ = timeout(RETRY_DELAY, progress.changed()).await;
                Err(AppendError::Conflict)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(AppendError::Unknown),
        }
    }
}

/// A claim expects the log to be as it was read. Where entries come faster than that ever is the case,
/// it goes in behind them: each reader sees for itself which of its tickets are still there.
fn expect(cursor: Option<Offset>, conflicts: usize) -> Expect {
    match cursor {
        Some(_) if conflicts >= CONFLICTS_MAX => Expect::Any,
        Some(at) => Expect::Last(at),
        None => Expect::Empty,
    }
}

/// When a lease that is held now is renewed.
fn renewal(node: &Node) -> Instant {
    Instant::now() + node.engine.lease_time() / RENEWALS_PER_LEASE
}

pub(super) fn holder(value: &Bytes) -> Option<NodeId> {
    let name = std::str::from_utf8(value).ok()?;
    NodeId::parse(name).ok()
}

fn wait(now: Time, until: Time) -> Duration {
    until.since(now).clamp(WAIT_MIN, WAIT_MAX)
}

/// How often a lease is renewed before it would end.
const RENEWALS_PER_LEASE: u32 = 3;

/// How many tickets are looked at before others get to the pool.
const LOOKS_MAX: u64 = 4096;

/// How often somebody else may be faster before a claim goes in behind what it does not know.
const CONFLICTS_MAX: usize = 3;

const WAIT_MIN: Duration = Duration::from_millis(1);

/// After this the clock is looked at again, since it may have been set.
const WAIT_MAX: Duration = Duration::from_secs(1);
