//! The last packets sent on a direct path, kept so that they can go again over the relay.
//!
//! When a direct path dies, what was in flight on it is lost, and QUIC would notice only after
//! its own time-outs. Sending the same packets again over the relay costs a few kilobytes, and
//! the receiver drops those it already has by their packet numbers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Older packets are not worth repeating: acknowledging them would only spoil QUIC's estimate of
/// the round trip.
const AGE_MAX: Duration = Duration::from_millis(700);
const PACKETS_MAX: usize = 1024;

/// A bounded memory of packets; the oldest give way.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    packets: VecDeque<(Instant, Vec<u8>)>,
}

impl Ring {
    /// Remembers `packet`, reusing the memory of one that has become too old.
    pub(crate) fn push(&mut self, now: Instant, packet: &[u8]) {
        let full = self.packets.len() >= PACKETS_MAX;
        let stale = self
            .packets
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > AGE_MAX);
        let mut memory = if full || stale {
            self.packets
                .pop_front()
                .map(|(_, memory)| memory)
                .unwrap_or_default()
        } else {
            Vec::with_capacity(packet.len())
        };
        memory.clear();
        memory.extend_from_slice(packet);
        self.packets.push_back((now, memory));
    }

    /// Takes out the packets that are worth sending again, oldest first.
    pub(crate) fn drain(&mut self, now: Instant) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.packets
            .drain(..)
            .filter(move |(at, _)| now.duration_since(*at) <= AGE_MAX)
            .map(|(_, packet)| packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_recent_packets_come_back_and_in_order() {
        let start = Instant::now();
        let mut ring = Ring::default();
        ring.push(start, b"old");
        ring.push(start + AGE_MAX, b"a");
        ring.push(start + AGE_MAX, b"b");
        let now = start + AGE_MAX + Duration::from_millis(1);
        assert_eq!(
            ring.drain(now).collect::<Vec<_>>(),
            [b"a".to_vec(), b"b".to_vec()]
        );
        assert_eq!(ring.drain(now).count(), 0);
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut ring = Ring::default();
        for _ in 0..3 * PACKETS_MAX {
            ring.push(now, b"x");
        }
        assert_eq!(ring.drain(now).count(), PACKETS_MAX);
    }
}
