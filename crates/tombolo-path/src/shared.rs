//! What all peers of an agent have in common.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{Rng, rngs::ChaCha12Rng};
use tombolo_stun::TransactionId;

use crate::pacer::Pacer;
use crate::transaction::Transactions;
use crate::{Config, Event, Stats, Transmit};

/// Limits, chance, the budget for checks, and everything that waits to be polled.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) rng: ChaCha12Rng,
    pub(crate) pacer: Pacer,
    pub(crate) transactions: Transactions,
    pub(crate) transmits: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) stats: Stats,
    /// Number of the last attempt of any pair; never used twice.
    attempts: u64,
    /// When the present second of error answers began, and how many were sent in it.
    error_answers: (Instant, u32),
}

impl Shared {
    pub(crate) fn new(config: Config, rng: ChaCha12Rng, now: Instant) -> Self {
        Self {
            pacer: Pacer::new(&config),
            config,
            rng,
            transactions: Transactions::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
            attempts: 0,
            error_answers: (now, 0),
        }
    }

    pub(crate) fn new_attempt(&mut self) -> u64 {
        self.attempts += 1;
        self.attempts
    }

    pub(crate) fn new_transaction_id(&mut self) -> TransactionId {
        let mut id = [0; 12];
        self.rng.fill_bytes(&mut id);
        TransactionId(id)
    }

    /// Returns the duration varied at random by up to `percent` either way.
    pub(crate) fn vary(&mut self, duration: Duration, percent: u32) -> Duration {
        let per_mille = 1000 - percent * 10 + self.rng.next_u32() % (percent * 20 + 1);
        duration * per_mille / 1000
    }

    /// Queues a datagram; returns false, and counts, when the driver does not poll.
    pub(crate) fn transmit(&mut self, to: SocketAddr, bytes: Vec<u8>) -> bool {
        if self.transmits.len() >= self.config.queue_max {
            self.stats.transmits_dropped += 1;
            return false;
        }
        self.transmits.push_back(Transmit { to, bytes });
        true
    }

    pub(crate) fn event(&mut self, event: Event) {
        if self.events.len() >= self.config.queue_max {
            self.stats.events_dropped += 1;
            return;
        }
        self.events.push_back(event);
    }

    /// Takes one error answer from the budget of this second; anybody can ask for them.
    pub(crate) fn may_answer_error(&mut self, now: Instant) -> bool {
        let (began, count) = &mut self.error_answers;
        if now.saturating_duration_since(*began) >= Duration::from_secs(1) {
            (*began, *count) = (now, 0);
        }
        if *count >= ERROR_ANSWERS_PER_SECOND_MAX {
            self.stats.errors_withheld += 1;
            return false;
        }
        *count += 1;
        true
    }
}

const ERROR_ANSWERS_PER_SECOND_MAX: u32 = 20;
