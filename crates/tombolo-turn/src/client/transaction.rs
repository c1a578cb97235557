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

/// How long a client waits for replies to its requests. See RFC 8489 §6.2.1 and §6.2.2, whose names are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Over UDP, how long the reply to the first sending is waited for; each time twice as long as before (RTO).
    /// 100 ms by default, since the goal is a quick start: a server at 300 ms simply sees each request twice.
    pub first_wait: Duration,
    /// Over UDP, how often a request is sent, at least once (Rc). 7 by default.
    pub sends: u32,
    /// Over UDP, how long the reply to the last sending is waited for, in times of the first wait (Rm). 16 by default.
    pub last_wait_times: u32,
    /// Over a stream, how long a reply is waited for (Ti). 39.5 s by default.
    pub stream_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(100),
            sends: 7,
            last_wait_times: 16,
            stream_wait: Duration::from_millis(39_500),
        }
    }
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
    sends: u32,
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
            sends: 1,
        }
    }

    /// How long the reply to the last sending is waited for. See RFC 8489 §6.2.1 and, for streams, §6.2.2.
    pub(super) fn timeout(&self, is_stream: bool, patience: Patience) -> Duration {
        if is_stream {
            return patience.stream_wait;
        }
        let times = if self.sends >= patience.sends {
            patience.last_wait_times
        } else {
            2_u32.saturating_pow(self.sends - 1)
        };
        patience.first_wait.saturating_mul(times)
    }

    pub(super) fn on_timeout(
        &mut self,
        now: Instant,
        is_stream: bool,
        patience: Patience,
    ) -> Retry {
        if is_stream || self.sends >= patience.sends {
            return Retry::TimedOut;
        }
        self.sends += 1;
        Retry::Send(self.bytes.clone(), now + self.timeout(is_stream, patience))
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
