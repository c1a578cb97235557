//! To which server a connection is made: the client by itself would try all alike, the silent one that is being
//! left, too, and wait for its answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{ReconnectToServer, Server, ServerAddr};

/// Which server is next.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Whether there has been a connection. The first one is left to the client, which tries all servers for it.
    has_connected: bool,
    /// The server that was chosen last: the next connection is with that.
    chosen: Option<ServerAddr>,
    /// The server of the present connection, or of the last one.
    present: Option<ServerAddr>,
    /// How often each was chosen since there was a connection.
    tries: Vec<(ServerAddr, usize)>,
}

/// A server that may be chosen.
#[derive(Clone, Copy, Debug)]
struct Candidate<'a> {
    addr: &'a ServerAddr,
    did_connect: bool,
    is_discovered: bool,
}

impl Choice {
    /// There is a connection, with the server that was chosen last.
    pub(super) fn handle_connected(&self) {
        let mut state = self.lock();
        state.has_connected = true;
        state.present = state.chosen.clone();
        state.tries.clear();
    }

    /// The next server: each in turn, the one that was left, or lost, last, and those that are configured before others,
    /// of which it is not known whether they can be reached from here. `None` where the client is to choose.
    pub(super) fn next(&self, servers: &[Server]) -> Option<ReconnectToServer> {
        let candidates = servers.iter().map(|server| Candidate {
            addr: &server.addr,
            did_connect: server.did_connect,
            is_discovered: server.is_discovered,
        });
        let addr = self.lock().next(candidates)?;
        Some(ReconnectToServer { addr, delay: None })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next<'a>(&mut self, candidates: impl Iterator<Item = Candidate<'a>>) -> Option<ServerAddr> {
        if !self.has_connected {
            return None;
        }
        let key = |one: &Candidate<'_>| {
            let is_present = self.is_present(one);
            (
                self.tries_of(one.addr),
                is_present,
                one.is_discovered,
                random(),
            )
        };
        let chosen = candidates.min_by_key(key)?.addr.clone();
        match self.tries.iter_mut().find(|(addr, _)| *addr == chosen) {
            Some((_, tries)) => *tries += 1,
            None => self.tries.push((chosen.clone(), 1)),
        }
        self.chosen = Some(chosen.clone());
        Some(chosen)
    }

    /// Whether the connection is, or was, with that server.
    fn is_present(&self, one: &Candidate<'_>) -> bool {
        match &self.present {
            Some(present) => present == one.addr,
            // The first one was the client's choice, and the only one so far.
            None => one.did_connect,
        }
    }

    fn tries_of(&self, addr: &ServerAddr) -> usize {
        let found = self.tries.iter().find(|(tried, _)| tried == addr);
        found.map_or(0, |(_, tries)| *tries)
    }
}

/// So that nodes spread over servers.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers of which the first has been connected to.
    fn servers(urls: [&str; 3]) -> [ServerAddr; 3] {
        urls.map(|url| url.parse().unwrap())
    }

    fn next(choice: &Choice, servers: &[ServerAddr; 3], discovered: usize) -> Option<ServerAddr> {
        let candidates = servers.iter().enumerate().map(|(index, addr)| Candidate {
            addr,
            did_connect: index == 0,
            is_discovered: index < discovered,
        });
        choice.lock().next(candidates)
    }

    #[test]
    fn whoever_leaves_or_loses_a_server_tries_all_others_first() {
        let servers = servers(["nats://a", "nats://b", "nats://c"]);
        for _ in 0..20 {
            let choice = Choice::default();
            assert_eq!(next(&choice, &servers, 0), None, "the client chooses");
            choice.handle_connected();
            let order = [(); 3].map(|()| next(&choice, &servers, 0).unwrap());
            assert_eq!(order[2], servers[0]);
            assert_ne!(order[0], order[1]);
            // The last one answered.
            choice.handle_connected();
            assert_ne!(next(&choice, &servers, 0).unwrap(), servers[0]);
        }
    }

    #[test]
    fn servers_that_are_only_heard_of_come_after_the_configured_ones() {
        let servers = servers(["nats://a", "nats://b", "nats://c"]);
        let choice = Choice::default();
        choice.handle_connected();
        let order = [(); 4].map(|()| next(&choice, &servers, 2).unwrap());
        assert_eq!((&order[0], &order[3]), (&servers[2], &servers[2]));
    }
}
