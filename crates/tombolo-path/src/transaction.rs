//! Checks that wait for their answers.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tombolo_stun::TransactionId;

use crate::PeerId;

/// One check under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transaction {
    pub(crate) peer: PeerId,
    pub(crate) to: SocketAddr,
    pub(crate) sent_at: Instant,
    /// The pair's attempt that the check belongs to; answers to earlier attempts prove nothing.
    pub(crate) attempt: u64,
    /// Whether the check said that we are controlling; tells stale role conflicts from real ones.
    pub(crate) controlling: bool,
}

/// All checks under way, of all peers; the oldest make room for new ones.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    by_id: BTreeMap<TransactionId, Transaction>,
    /// Oldest first; may name transactions that are gone from `by_id`.
    order: VecDeque<(Instant, TransactionId)>,
}

impl Transactions {
    pub(crate) fn insert(&mut self, id: TransactionId, transaction: Transaction) {
        let now = transaction.sent_at;
        while let Some(&(sent_at, oldest)) = self.order.front() {
            let is_expired = now.saturating_duration_since(sent_at) > LIFETIME;
            if !is_expired && self.order.len() < TRANSACTIONS_MAX {
                break;
            }
            self.by_id.remove(&oldest);
            self.order.pop_front();
        }
        self.order.push_back((now, id));
        self.by_id.insert(id, transaction);
    }

    pub(crate) fn peek(&self, id: TransactionId) -> Option<&Transaction> {
        self.by_id.get(&id)
    }

    pub(crate) fn remove(&mut self, id: TransactionId) {
        self.by_id.remove(&id);
    }
}

/// An answer that takes longer than this comes too late.
const LIFETIME: Duration = Duration::from_secs(5);
const TRANSACTIONS_MAX: usize = 8192;
