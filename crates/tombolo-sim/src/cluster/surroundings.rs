//! What a node has of the system that it runs on: here it is part of the story on this thread.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use tokio::time::Instant;
use tombolo_services::{Config, Entropy};

use super::device::Violation;
use super::pool::Pool;

use crate::Seed;

/// What a clock that began some time into the story says.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) begun: Instant,
    pub(crate) at: Duration,
}

/// A story begins on this thread.
pub(crate) fn begin(seed: Seed) {
    set_clock(Clock {
        begun: Instant::now(),
        at: Duration::ZERO,
    });
    CHANCE.set(Some(seed.rng_for("entropy")));
}

/// From now on this is the clock; returns the one before.
pub(crate) fn set_clock(clock: Clock) -> Clock {
    CLOCK.replace(Some(clock)).unwrap_or(clock)
}

/// How long the story has been going on, to whoever asks.
pub(crate) fn story_time() -> Duration {
    let clock = CLOCK.get();
    clock.map_or(Duration::ZERO, |clock| clock.at + clock.begun.elapsed())
}

/// What nodes are told: their own names apart.
pub(crate) fn config() -> Result<Config, Violation> {
    let mut config = Config::default();
    config.unix_now = || UNIX_BEGUN + story_time();
    config.cpu_time = || None;
    config.entropy = Entropy::simulated(fill);
    config.pools = vec![Pool::config()?];
    Ok(config)
}

fn fill(bytes: &mut [u8]) {
    CHANCE.with_borrow_mut(|chance| {
        let chance = chance.as_mut().expect("nodes are in a story");
        chance.fill(bytes);
    });
}

thread_local! {
    static CLOCK: Cell<Option<Clock>> = const { Cell::new(None) };
    static CHANCE: RefCell<Option<ChaCha12Rng>> = const { RefCell::new(None) };
}

/// What calendars say when a story begins.
pub(crate) const UNIX_BEGUN: Duration = Duration::from_secs(1_800_000_000);
