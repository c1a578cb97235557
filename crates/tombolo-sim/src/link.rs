//! Links: what lies between a host or router and the network that it is attached to.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;

use crate::Protocol;

/// How a link treats what crosses it, in each direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkConfig {
    /// Time that every packet takes.
    pub delay: Duration,
    /// A packet takes up to this much longer; packets stay in order all the same.
    pub jitter: Duration,
    /// Probability, 0 to 1, that a packet is lost.
    pub loss: f64,
    /// Probability, 0 to 1, that a packet arrives twice.
    pub duplicate: f64,
    /// Probability, 0 to 1, that a packet is held back and overtaken.
    pub reorder: f64,
}

impl LinkConfig {
    /// A link without faults.
    #[must_use]
    pub const fn new(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
        }
    }

    /// The same link losing this share of its packets.
    #[must_use]
    pub const fn with_loss(mut self, loss: f64) -> Self {
        self.loss = loss;
        self
    }

    /// The same link with up to this much more delay for each packet.
    #[must_use]
    pub const fn with_jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// The same link delivering this share of its packets twice.
    #[must_use]
    pub const fn with_duplicate(mut self, duplicate: f64) -> Self {
        self.duplicate = duplicate;
        self
    }

    /// The same link letting this share of its packets be overtaken.
    #[must_use]
    pub const fn with_reorder(mut self, reorder: f64) -> Self {
        self.reorder = reorder;
        self
    }
}

/// A link with the arrival times that keep its packets in order.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) config: LinkConfig,
    last_arrival_by_direction: [Option<Instant>; 2],
}

/// Towards the network or away from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
}

/// What became of a packet on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crossing {
    Lost,
    Arrives(Instant),
    ArrivesTwice(Instant, Instant),
}

impl Link {
    pub(crate) fn new(config: LinkConfig) -> Self {
        Self {
            config,
            last_arrival_by_direction: [None; 2],
        }
    }

    /// Sends one packet over the link.
    pub(crate) fn cross(
        &mut self,
        now: Instant,
        direction: Direction,
        protocol: Protocol,
        rng: &mut ChaCha12Rng,
    ) -> Crossing {
        let config = self.config;
        let first = now + config.delay + fraction(config.jitter, rng);
        match protocol {
            Protocol::Tcp => {
                // A stream hides loss behind a retransmission, and everything after it waits.
                let lost = chance(config.loss, rng);
                let late = if lost {
                    STREAM_RETRANSMISSION
                } else {
                    Duration::ZERO
                };
                Crossing::Arrives(self.in_order(direction, first + late))
            }
            Protocol::Udp if chance(config.loss, rng) => Crossing::Lost,
            Protocol::Udp if chance(config.reorder, rng) => {
                Crossing::Arrives(first + fraction(REORDER_HOLD_MAX, rng))
            }
            Protocol::Udp => {
                let first = self.in_order(direction, first);
                if chance(config.duplicate, rng) {
                    let again = first + fraction(REORDER_HOLD_MAX, rng);
                    return Crossing::ArrivesTwice(first, again);
                }
                Crossing::Arrives(first)
            }
        }
    }

    fn in_order(&mut self, direction: Direction, arrival: Instant) -> Instant {
        let last = &mut self.last_arrival_by_direction[direction as usize];
        let arrival = last.map_or(arrival, |last| last.max(arrival));
        *last = Some(arrival);
        arrival
    }
}

fn chance(probability: f64, rng: &mut ChaCha12Rng) -> bool {
    probability > 0.0 && rng.random_bool(probability.min(1.0))
}

fn fraction(of: Duration, rng: &mut ChaCha12Rng) -> Duration {
    if of.is_zero() {
        return of;
    }
    let nanos = u64::try_from(of.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.random_range(0..=nanos))
}

const REORDER_HOLD_MAX: Duration = Duration::from_millis(20);
const STREAM_RETRANSMISSION: Duration = Duration::from_millis(200);
