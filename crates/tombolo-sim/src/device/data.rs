//! The toy data plane: numbered packets, each acknowledged, and a record of all of them.

use std::time::{Duration, Instant};

use tombolo_path::{Cause, Route};

use crate::HostId;

/// A packet of the toy data plane. It says whose it is, so that a wrong delivery shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DataPacket {
    pub(crate) kind: DataKind,
    pub(crate) from: HostId,
    pub(crate) to: HostId,
    pub(crate) sequence: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataKind {
    Message,
    Ack,
}

/// A data packet that a device sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentRecord {
    /// When.
    pub at: Instant,
    /// Its number; numbers start at 0 for each peer and have no gaps.
    pub sequence: u64,
    /// The route that it took.
    pub via: Route,
}

/// A data packet that a device received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedRecord {
    /// When.
    pub at: Instant,
    /// Its number.
    pub sequence: u64,
    /// The route that it came by.
    pub via: Route,
}

/// A change of route that the path agent announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteRecord {
    /// When.
    pub at: Instant,
    /// The new route.
    pub route: Route,
    /// Why it changed.
    pub cause: Cause,
    /// The measured round-trip time of a direct route.
    pub rtt: Option<Duration>,
}

/// What a device did with one peer, in order. Each list is bounded: a run is minutes, not days.
#[derive(Debug, Clone, Default)]
pub struct PeerRecord {
    /// When the peer's introduction arrived.
    pub introduced: Option<Instant>,
    /// Data packets sent.
    pub sent: Vec<SentRecord>,
    /// Data packets received, repetitions included.
    pub received: Vec<ReceivedRecord>,
    /// Routes.
    pub routes: Vec<RouteRecord>,
}

impl DataPacket {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(DATA_BYTES);
        bytes.push(match self.kind {
            DataKind::Message => MESSAGE,
            DataKind::Ack => ACK,
        });
        for number in [self.from.0 as u64, self.to.0 as u64, self.sequence] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.resize(DATA_BYTES, 0);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let kind = match *bytes.first()? {
            MESSAGE => DataKind::Message,
            ACK => DataKind::Ack,
            _ => return None,
        };
        let number = |at: usize| {
            let bytes = bytes.get(1 + 8 * at..9 + 8 * at)?;
            Some(u64::from_be_bytes(bytes.try_into().ok()?))
        };
        let host = |at: usize| Some(HostId(usize::try_from(number(at)?).ok()?));
        Some(Self {
            kind,
            from: host(0)?,
            to: host(1)?,
            sequence: number(2)?,
        })
    }
}

impl PeerRecord {
    /// The time of the first message that came by a route that `wanted` accepts, not before `since`.
    #[must_use]
    pub fn first_received(
        &self,
        since: Instant,
        wanted: impl Fn(Route) -> bool,
    ) -> Option<&ReceivedRecord> {
        self.received
            .iter()
            .find(|record| record.at >= since && wanted(record.via))
    }

    /// The longest time between two messages received in a row, from `since` on.
    #[must_use]
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let times = self
            .received
            .iter()
            .map(|record| record.at)
            .filter(|at| *at >= since);
        let times: Vec<Instant> = std::iter::once(since).chain(times).collect();
        times
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or_default()
    }

    pub(crate) fn push_sent(&mut self, record: SentRecord) {
        push_bounded(&mut self.sent, record);
    }

    pub(crate) fn push_received(&mut self, record: ReceivedRecord) {
        push_bounded(&mut self.received, record);
    }

    pub(crate) fn push_route(&mut self, record: RouteRecord) {
        push_bounded(&mut self.routes, record);
    }
}

fn push_bounded<T>(records: &mut Vec<T>, record: T) {
    assert!(records.len() < RECORDS_MAX, "a run is shorter than this");
    records.push(record);
}

// Neither STUN nor ChannelData begins with these.
const MESSAGE: u8 = 0xd0;
const ACK: u8 = 0xd1;
const DATA_BYTES: usize = 64;
const RECORDS_MAX: usize = 1_000_000;
