//! Whether the server that is connected to still says anything.
//!
//! A server that stands still takes what it is sent, and its connection does not end: the client's own pings
//! need seconds to notice, and a node that nobody hears is out of its cluster after one. So the server is asked
//! several times a second for somebody who is not there, which it answers by itself. Is nothing at all heard of it for a
//! while it is left for another one. A server that is only busy sends something, if late.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::{ReconnectToServer, Server, ServerInfo};
use tokio::time::{Instant, MissedTickBehavior};

use super::connection::{Connection, Link};

/// Watches the connection for as long as it is there.
pub(super) async fn watch(connection: Weak<Connection>, nobody: String) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pulse: Option<Pulse> = None;
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
        if pulse.is_silent(now, number, heard) {
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

/// Chooses the server that a silent one is left for: the client by itself would try all alike, and wait
/// seconds for the silent one.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving(Arc<AtomicBool>);

impl Leaving {
    /// The next connection is to be with another server.
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The server to connect to; `None` where any will do.
    pub(super) fn choose(
        &self,
        servers: &[Server],
        last: &ServerInfo,
    ) -> Option<ReconnectToServer> {
        if !self.0.swap(false, Ordering::Relaxed) {
            return None;
        }
        let is_last = |server: &Server| {
            let addr = &server.addr;
            addr.port() == last.port && addr.host() == last.host
        };
        let others = servers.iter().filter(|server| !is_last(server));
        // One that has been connected to may be the silent one, by another name.
        let chosen = others.min_by_key(|server| (server.did_connect, server.failed_attempts));
        chosen.map(|server| ReconnectToServer {
            addr: server.addr.clone(),
            delay: Some(Duration::ZERO),
        })
    }
}

/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(150);

/// A server that has said nothing for so long stands still, or is not reached.
const SILENCE_MAX: Duration = Duration::from_millis(600);

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

    #[test]
    fn a_silent_server_is_left_once_for_another() {
        let leaving = Leaving::default();
        let info = ServerInfo {
            host: "192.0.2.1".to_owned(),
            port: 4222,
            ..ServerInfo::default()
        };
        assert!(leaving.choose(&[], &info).is_none());
        leaving.begin();
        assert!(leaving.choose(&[], &info).is_none());
    }
}
