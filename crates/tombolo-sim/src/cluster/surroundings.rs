//! What a node has of the system that it runs on: here it is part of the story on this thread.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use tokio::time::Instant;
use tombolo_services::{Config, Entropy};

use crate::Seed;

/// A story begins on this thread.
pub(crate) fn begin(seed: Seed) {
    BEGUN.set(Some(Instant::now()));
    CHANCE.set(Some(seed.rng_for("entropy")));
}

/// How long the story has been going on.
pub(crate) fn story_time() -> Duration {
    BEGUN.get().map(|begun| begun.elapsed()).unwrap_or_default()
}

/// What nodes are told: their own names apart.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.unix_now = || UNIX_BEGUN + story_time();
    config.cpu_time = || None;
    config.entropy = Entropy::simulated(fill);
    config
}

fn fill(bytes: &mut [u8]) {
    CHANCE.with_borrow_mut(|chance| {
        let chance = chance.as_mut().expect("nodes are in a story");
        chance.fill(bytes);
    });
}

thread_local! {
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
    static CHANCE: RefCell<Option<ChaCha12Rng>> = const { RefCell::new(None) };
}

/// What calendars say when a story begins.
pub(crate) const UNIX_BEGUN: Duration = Duration::from_secs(1_800_000_000);
