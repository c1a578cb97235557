//! How often a peer goes on to another relay: each place takes one in the tables of this device's own relay, and keeps it
//! for a quarter of an hour.

use std::time::{Duration, Instant};

/// Relays that a peer may be at in a row.
const AT_ONCE_MAX: u32 = 8;
/// And then each; meanwhile it is taken to be where it was.
const EVERY: Duration = Duration::from_secs(10);

/// How often a peer has moved lately.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// When all that may be in a row may be so again.
    rested_at: Option<Instant>,
}

impl Moves {
    /// When the peer may go on.
    pub(super) fn due(&self) -> Option<Instant> {
        self.rested_at?.checked_sub(EVERY * (AT_ONCE_MAX - 1))
    }

    pub(super) fn on_move(&mut self, now: Instant) {
        let rested_at = self.rested_at.map_or(now, |at| at.max(now));
        self.rested_at = Some(rested_at + EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_moves_may_be_in_a_row_and_then_one_in_a_while() {
        let begin = Instant::now();
        let mut moves = Moves::default();
        for _ in 0..AT_ONCE_MAX {
            assert!(moves.due().is_none_or(|due| due <= begin));
            moves.on_move(begin);
        }
        for again in 1..4 {
            let now = begin + EVERY * again;
            assert_eq!(moves.due(), Some(now));
            moves.on_move(now);
        }
        let rested = begin + EVERY * (3 + AT_ONCE_MAX);
        for _ in 0..AT_ONCE_MAX {
            assert!(moves.due().is_some_and(|due| due <= rested));
            moves.on_move(rested);
        }
        assert_eq!(moves.due(), Some(rested + EVERY));
    }
}
