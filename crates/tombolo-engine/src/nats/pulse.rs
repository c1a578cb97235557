//! Whether the server that is connected to still says anything.
//!
//! A server that stands still takes what it is sent, and its connection does not end: the client's own pings
//! need seconds to notice, and a node that nobody hears is out of its cluster after one. So the server is asked
//! several times a second for somebody who is not there, which it answers by itself. Is nothing at all heard of it for a
//! while it is left for another one. A server that is only busy sends something, if late.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::connection::{Connection, Link};

/// Watches the connection for as long as it is there.
pub(super) async fn watch(connection: Weak<Connection>, nobody: String) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pulse: Option<Pulse> = None;
    let mut brake = Brake::new(Instant::now());
    loop {
        ticks.tick().await;
        let Some(connection) = connection.upgrade() else {
            return;
        };
        let link = *connection.link().borrow();
        let Link::Up(number) = link else {
            pulse = None;
            continue;
        };
        let heard = connection.messages_heard();
        let now = Instant::now();
        let pulse = pulse.get_or_insert_with(|| Pulse::new(now, number, heard));
        let is_silent = pulse.is_silent(now, number, heard);
        if brake.lets_go(now, is_silent) {
            connection.leave("the NATS server is silent").await;
            *pulse = Pulse::new(Instant::now(), number, heard);
        }
        let (client, nobody) = (connection.client().clone(), nobody.clone());
        tokio::spawn(async move {
            // That an answer came is seen by the count of all that came.
            let _ = tokio::time::timeout(SILENCE_MAX, client.request(nobody, "".into())).await;
        });
    }
}

/// What was heard of one connection.
struct Pulse {
    number: u64,
    messages: u64,
    /// When there was something new.
    heard: Instant,
    looked: Instant,
}

impl Pulse {
    fn new(now: Instant, number: u64, messages: u64) -> Self {
        Self {
            number,
            messages,
            heard: now,
            looked: now,
        }
    }

    /// Looks at what has been heard by now; whether that is nothing for too long. Time in which this process
    /// stood still itself does not count.
    fn is_silent(&mut self, now: Instant, number: u64, messages: u64) -> bool {
        let stood_still = now.duration_since(self.looked) >= LAG_MAX;
        self.looked = now;
        if stood_still || number != self.number || messages != self.messages {
            *self = Self::new(now, number, messages);
        }
        now.duration_since(self.heard) >= SILENCE_MAX
    }
}

/// Sees to it that nobody goes round and round where all servers stand still: each move makes all subscriptions anew.
struct Brake {
    /// Not before.
    next: Instant,
    pause: Duration,
    /// Since when the server has not been silent.
    well_since: Instant,
}

impl Brake {
    fn new(now: Instant) -> Self {
        Self {
            next: now,
            pause: PAUSE_MIN,
            well_since: now,
        }
    }

    /// Whether a silent server is to be left now.
    fn lets_go(&mut self, now: Instant, is_silent: bool) -> bool {
        if !is_silent {
            if now.duration_since(self.well_since) >= WELL_MIN {
                self.pause = PAUSE_MIN;
            }
            return false;
        }
        self.well_since = now;
        if now < self.next {
            return false;
        }
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(150);

/// A server that has said nothing for so long stands still, or is not reached.
const SILENCE_MAX: Duration = Duration::from_millis(600);

/// Between two moves, at first and at last.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// After so long with a server that says something all is well again.
const WELL_MIN: Duration = Duration::from_secs(10);

/// A process that was not woken for so long stood still itself.
const LAG_MAX: Duration = Duration::from_millis(400);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_server_that_says_nothing_while_it_is_asked_is_silent() {
        let begun = Instant::now();
        let mut pulse = Pulse::new(begun, 1, 0);
        let mut now = begun;
        let mut look = |pulse: &mut Pulse, wait: Duration, number, messages| {
            now += wait;
            pulse.is_silent(now, number, messages)
        };
        for messages in 1..10 {
            assert!(!look(&mut pulse, INTERVAL, 1, messages));
        }
        for _ in 0..3 {
            assert!(!look(&mut pulse, INTERVAL, 1, 9));
        }
        assert!(look(&mut pulse, INTERVAL, 1, 9));
        // Another connection begins anew, and so does a process that was not woken.
        assert!(!look(&mut pulse, INTERVAL, 2, 9));
        assert!(!look(&mut pulse, SILENCE_MAX, 2, 9));
        assert!(!look(&mut pulse, INTERVAL, 2, 9));
    }

    #[tokio::test]
    async fn where_all_servers_are_silent_each_move_waits_longer() {
        let mut now = Instant::now();
        let mut brake = Brake::new(now);
        let mut moves = Vec::new();
        let begun = now;
        while moves.len() < 5 {
            if brake.lets_go(now, true) {
                moves.push(now.duration_since(begun).as_secs());
            }
            now += INTERVAL;
        }
        assert_eq!(moves, [0, 1, 3, 7, 15]);
        for _ in 0..100 {
            now += INTERVAL;
            assert!(!brake.lets_go(now, false));
        }
        assert!(brake.lets_go(now, true));
        assert_eq!(brake.next, now + PAUSE_MIN);
    }
}
