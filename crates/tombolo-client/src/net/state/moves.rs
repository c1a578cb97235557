//! How often a peer goes on to another relay: each place takes one in the tables of this device's own relay, and keeps it
//! for a quarter of an hour.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::keys::PublicKey;

/// Relays that a peer may be at in a row.
const AT_ONCE_MAX: u32 = 8;
/// And then each; meanwhile it is taken to be where it was.
const EVERY: Duration = Duration::from_secs(10);

/// Devices whose moves are remembered; of more, whose time is over first is forgotten.
const DEVICES_MAX: usize = 1024;

/// How often each device has moved lately, by its key: its links come and go, and the places that they took stay.
#[derive(Debug, Default)]
pub(super) struct Moves(BTreeMap<PublicKey, OfDevice>);

#[derive(Debug)]
struct OfDevice {
    at: SocketAddr,
    /// When all that may be in a row may be so again.
    rested_at: Instant,
}

impl Moves {
    /// When the device may go on to that address; `None` when it has been there or nowhere.
    pub(super) fn due(&self, device: PublicKey, to: SocketAddr) -> Option<Instant> {
        let moves = self.0.get(&device).filter(|moves| moves.at != to)?;
        moves.rested_at.checked_sub(EVERY * (AT_ONCE_MAX - 1))
    }

    pub(super) fn on_move(&mut self, now: Instant, device: PublicKey, to: SocketAddr) {
        if let Some(moves) = self.0.get_mut(&device) {
            if moves.at != to {
                moves.at = to;
                moves.rested_at = moves.rested_at.max(now) + EVERY;
            }
            return;
        }
        if self.0.len() >= DEVICES_MAX {
            let first = self.0.iter().min_by_key(|(_, moves)| moves.rested_at);
            if let Some(first) = first.map(|(device, _)| *device) {
                self.0.remove(&first);
            }
        }
        let moves = OfDevice {
            at: to,
            rested_at: now + EVERY,
        };
        self.0.insert(device, moves);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: PublicKey = PublicKey([1; 32]);

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn some_moves_may_be_in_a_row_and_then_one_in_a_while() {
        let begin = Instant::now();
        let mut moves = Moves::default();
        let mut ports = 1..;
        let mut next = || at(ports.next().unwrap());
        for _ in 0..AT_ONCE_MAX {
            let to = next();
            assert!(moves.due(DEVICE, to).is_none_or(|due| due <= begin));
            moves.on_move(begin, DEVICE, to);
        }
        for again in 1..4 {
            let (now, to) = (begin + EVERY * again, next());
            assert_eq!(moves.due(DEVICE, to), Some(now));
            moves.on_move(now, DEVICE, to);
            assert_eq!(moves.due(DEVICE, to), None, "it is there");
            moves.on_move(now, DEVICE, to);
        }
        let rested = begin + EVERY * (3 + AT_ONCE_MAX);
        for _ in 0..AT_ONCE_MAX {
            let to = next();
            assert!(moves.due(DEVICE, to).is_some_and(|due| due <= rested));
            moves.on_move(rested, DEVICE, to);
        }
        assert_eq!(moves.due(DEVICE, next()), Some(rested + EVERY));
        assert_eq!(moves.due(PublicKey([2; 32]), next()), None);
    }

    #[test]
    fn of_many_devices_whose_time_is_over_first_is_forgotten() {
        let begin = Instant::now();
        let mut moves = Moves::default();
        for number in 0..=DEVICES_MAX {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            let now = begin + Duration::from_millis(number as u64);
            moves.on_move(now, PublicKey(key), at(1));
        }
        assert_eq!(moves.0.len(), DEVICES_MAX);
        assert!(!moves.0.contains_key(&PublicKey([0; 32])));
    }
}
