//! Where writes wait while a stream has no leader: one of them tries, the others wait for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Semaphore, watch};
use tokio::time::Instant;

use crate::Unavailable;

#[derive(Debug)]
pub(super) struct Hold {
    is_closed: watch::Sender<bool>,
    /// Room for those who wait.
    room: Semaphore,
    /// Held by who tries.
    turn: Mutex<()>,
    /// Before the next try, in milliseconds.
    delay: AtomicU64,
}

/// The right to try once. While it is held by the one who tries, the others wait.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    _turn: Option<MutexGuard<'a, ()>>,
}

impl Hold {
    pub(super) fn new(held_max: usize) -> Self {
        Self {
            is_closed: watch::Sender::new(false),
            room: Semaphore::new(held_max.min(Semaphore::MAX_PERMITS)),
            turn: Mutex::new(()),
            delay: AtomicU64::new(DELAY_MIN),
        }
    }

    /// Waits for a chance to write.
    ///
    /// # Errors
    /// When none comes by the deadline, or too many wait already.
    pub(super) async fn pass(&self, deadline: Instant) -> Result<Pass<'_>, Unavailable> {
        let mut closed = self.is_closed.subscribe();
        if !*closed.borrow_and_update() {
            return if Instant::now() < deadline {
                Ok(Pass { _turn: None })
            } else {
                Err(Unavailable)
            };
        }
        let _room = self.room.try_acquire().map_err(|_| Unavailable)?;
        let opened = async {
            // Fails when the engine is gone, and then so are we.
            let _ = closed.wait_for(|is_closed| !is_closed).await;
        };
        let turn = async {
            let turn = self.turn.lock().await;
            let delay = self.delay.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(delay)).await;
            turn
        };
        let wait = async {
            tokio::select! {
                biased;
                () = opened => Pass { _turn: None },
                turn = turn => Pass { _turn: Some(turn) },
            }
        };
        tokio::time::timeout_at(deadline, wait)
            .await
            .map_err(|_| Unavailable)
    }

    /// There is no leader: from now on they wait.
    pub(super) fn close(&self) {
        if self.is_closed.send_replace(true) {
            let delay = self.delay.load(Ordering::Relaxed);
            self.delay
                .store((2 * delay).min(DELAY_MAX), Ordering::Relaxed);
        }
    }

    /// There is a leader.
    pub(super) fn open(&self) {
        self.delay.store(DELAY_MIN, Ordering::Relaxed);
        self.is_closed.send_if_modified(std::mem::take);
    }
}

/// In milliseconds.
const DELAY_MIN: u64 = 50;
const DELAY_MAX: u64 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_tries_and_lets_the_others_through() {
        let hold = Hold::new(8);
        let deadline = Instant::now() + Duration::from_secs(10);
        hold.close();
        let first = hold.pass(deadline).await.unwrap();
        let second = hold.pass(deadline);
        let trial = async {
            assert!(first._turn.is_some(), "the first one tries");
            hold.open();
            drop(first);
        };
        let (second, ()) = tokio::join!(second, trial);
        assert!(
            second.unwrap()._turn.is_none(),
            "the second one need not try"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_or_finds_no_room_is_told() {
        let hold = Hold::new(1);
        hold.close();
        let turn = hold.pass(Instant::now() + Duration::from_secs(10)).await;
        assert!(turn.is_ok());
        let soon = Instant::now() + Duration::from_secs(1);
        let (waits, crowded) = tokio::join!(hold.pass(soon), hold.pass(soon));
        assert!(waits.is_err() && crowded.is_err());
        assert_eq!(Instant::now(), soon, "the one with room waited");
    }

    #[tokio::test(start_paused = true)]
    async fn tries_become_rarer_up_to_a_bound() {
        let hold = Hold::new(1);
        hold.close();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let before = Instant::now();
            let pass = hold.pass(before + Duration::from_secs(10)).await;
            assert!(pass.is_ok());
            pauses.push(before.elapsed().as_millis());
            hold.close();
        }
        let within = |pause: &u128, ms: u128| (ms..=ms + 1).contains(pause);
        let expected = [50, 100, 200, 400, 500, 500];
        assert!(
            pauses
                .iter()
                .zip(expected)
                .all(|(pause, ms)| within(pause, ms)),
            "{pauses:?}"
        );
    }
}
