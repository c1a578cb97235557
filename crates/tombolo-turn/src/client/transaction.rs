use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tombolo_stun::{Key, TransactionId};

/// What a request is for. There is at most one in flight for each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Request {
    Allocate,
    Refresh,
    /// Refresh with a lifetime of zero.
    Close,
    BindChannel(SocketAddr),
    Permit(SocketAddr),
}

/// A request that waits for its reply.
pub(super) struct Transaction {
    pub(super) request: Request,
    /// Protects the request and must protect the reply; `None` for the first request of all.
    pub(super) key: Option<Key>,
    /// How many times the server has challenged this request already.
    pub(super) challenges: u8,
    /// Whether a reply came that nothing proves to be the server's. It changes nothing but the
    /// error that is told in the end.
    pub(super) saw_unauthenticated: bool,
    bytes: Vec<u8>,
    sends_left: u32,
    rto: Duration,
}

/// What to do when a transaction's timer fires.
pub(super) enum Retry {
    /// Send these bytes again and come back at the given time.
    Send(Vec<u8>, Instant),
    /// Nothing more to try.
    TimedOut,
}

impl Transaction {
    /// A transaction whose request is being sent at this moment.
    pub(super) fn new(request: Request, bytes: Vec<u8>, key: Option<Key>, challenges: u8) -> Self {
        Self {
            request,
            key,
            challenges,
            saw_unauthenticated: false,
            bytes,
            sends_left: SENDS_MAX - 1,
            rto: RTO_INITIAL,
        }
    }

    /// Until when the reply to the first sending is waited for.
    pub(super) fn first_timeout(is_stream: bool) -> Duration {
        if is_stream {
            STREAM_TIMEOUT
        } else {
            RTO_INITIAL
        }
    }

    /// See RFC 8489 §6.2.1 and, for streams, §6.2.2.
    pub(super) fn on_timeout(&mut self, now: Instant, is_stream: bool) -> Retry {
        if is_stream || self.sends_left == 0 {
            return Retry::TimedOut;
        }
        self.sends_left -= 1;
        self.rto *= 2;
        let wait = if self.sends_left == 0 {
            RTO_INITIAL * LAST_WAIT_RTOS
        } else {
            self.rto
        };
        Retry::Send(self.bytes.clone(), now + wait)
    }
}

/// The requests in flight. Bounded by what can be asked for: one for the allocation, two for each
/// peer.
#[derive(Default)]
pub(super) struct Transactions {
    by_id: BTreeMap<TransactionId, Transaction>,
    id_by_request: BTreeMap<Request, TransactionId>,
}

impl Transactions {
    pub(super) fn insert(&mut self, id: TransactionId, transaction: Transaction) {
        self.id_by_request.insert(transaction.request, id);
        self.by_id.insert(id, transaction);
    }

    pub(super) fn get_mut(&mut self, id: TransactionId) -> Option<&mut Transaction> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: TransactionId) -> Option<Transaction> {
        let transaction = self.by_id.remove(&id)?;
        self.id_by_request.remove(&transaction.request);
        Some(transaction)
    }

    pub(super) fn id_of(&self, request: Request) -> Option<TransactionId> {
        self.id_by_request.get(&request).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn clear(&mut self) {
        self.by_id.clear();
        self.id_by_request.clear();
    }
}

/// Wait for the first reply. RFC 8489 proposes 500 ms for unknown paths; the goal here is a quick
/// start, and a server at 300 ms simply sees each request twice.
const RTO_INITIAL: Duration = Duration::from_millis(100);
/// Rc of RFC 8489 §6.2.1.
const SENDS_MAX: u32 = 7;
/// Rm of RFC 8489 §6.2.1.
const LAST_WAIT_RTOS: u32 = 16;
/// Ti of RFC 8489 §6.2.2.
const STREAM_TIMEOUT: Duration = Duration::from_millis(39_500);
