//! The moment at which something was said, inside of what was said: all bots share one clock.

use std::time::{Duration, Instant};

/// Bytes of a stamp.
pub(super) const STAMP_BYTES: usize = 16;

/// A chat message goes into one packet, on whichever lane.
pub(super) const CHAT_BYTES_MAX: usize = tombolo_client::UNRELIABLE_BYTES_ALWAYS;

/// Stamps what bots of this run say, and reads it again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pulse {
    began: Instant,
    /// What others say, bots of another run too, has another mark.
    mark: [u8; 8],
}

impl Pulse {
    pub(super) fn new(began: Instant, mark: u64) -> Self {
        Self {
            began,
            mark: mark.to_be_bytes(),
        }
    }

    /// So many bytes that say when they were made.
    pub(super) fn stamp(&self, now: Instant, bytes: usize) -> Vec<u8> {
        let micros = now.duration_since(self.began).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        let mut stamp = [self.mark, micros.to_be_bytes()].concat();
        stamp.resize(bytes.max(STAMP_BYTES), b'.');
        stamp
    }

    /// When that was said; `None` of what is not of this run.
    pub(super) fn read(&self, payload: &[u8]) -> Option<Instant> {
        let (mark, rest) = payload.split_first_chunk::<8>()?;
        let (micros, _) = rest.split_first_chunk::<8>()?;
        let micros = Duration::from_micros(u64::from_be_bytes(*micros));
        (*mark == self.mark)
            .then(|| self.began.checked_add(micros))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_by_the_same_run_only() {
        let began = Instant::now();
        let (own, other) = (Pulse::new(began, 1), Pulse::new(began, 2));
        let at = began + Duration::from_micros(1_234_567);
        let stamp = own.stamp(at, 64);
        assert_eq!((stamp.len(), own.read(&stamp)), (64, Some(at)));
        assert_eq!(other.read(&stamp), None);
        for length in 0..STAMP_BYTES {
            assert_eq!(own.read(&stamp[..length]), None);
        }
        let absurd = [&own.mark[..], &[0xff; 8]].concat();
        _ = own.read(&absurd);
    }
}
