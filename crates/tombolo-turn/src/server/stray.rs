//! Clients whose packets reach this shard though their allocation is on another one of the node.
//!
//! The kernel spreads clients over shards by their addresses. A client that comes back from a new
//! address, whose second allocation shall have the port next to its first one's, or whose further
//! connection is to be joined with one to a peer, may land elsewhere than what it asks for. Its shard
//! then passes on all that it sends; the other shard answers by itself, since all have sockets of the
//! same addresses.
//!
//! Here are those without connections. A connection is handed over by the driver, which has all that
//! comes by it handled where it is, and learns of its end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::Server;
use super::address::{FiveTuple, Transport};
use super::auth::{Identity, User};
use super::output::Command;
use super::reply::Ask;
use super::stats::Refusal;

/// Place of a shard in its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ShardIndex(pub u8);

/// The clients of other shards, but for those that have connections.
pub(super) struct Strays {
    by_client: BTreeMap<FiveTuple, Stray>,
    /// The oldest in front.
    clients_by_user: BTreeMap<User, VecDeque<FiveTuple>>,
    deadlines: BTreeSet<(Instant, FiveTuple)>,
}

struct Stray {
    shard: ShardIndex,
    user: User,
    last_packet: Instant,
    /// When to look whether it is still in use.
    deadline: Instant,
}

impl Server {
    /// Passes a request on to the shard that it is about, and all that the client sends later.
    pub(super) fn redirect(
        &mut self,
        now: Instant,
        ask: Ask,
        identity: &Identity,
        shard: ShardIndex,
        request: &[u8],
    ) -> Result<(), Refusal> {
        if shard.0 >= self.shards {
            return Err(Refusal::ShardUnknown);
        }
        if ask.from.transport == Transport::Udp {
            let max = self.limits.total.allocations.unwrap_or(STRAYS_MAX);
            let user_max = self.clients_max_of(&identity.user).unwrap_or(max);
            self.strays.make_room(&identity.user, &ask.from, user_max);
            self.strays
                .insert(now, ask.from, shard, &identity.user, max)?;
        }
        self.commands.push_back(Command::Redirect {
            shard,
            client: ask.from,
            bytes: request.to_vec(),
        });
        Ok(())
    }
}

impl Strays {
    pub(super) fn new() -> Self {
        Self {
            by_client: BTreeMap::new(),
            clients_by_user: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Returns the shard of a client that is on another one, and notes that it is in use.
    pub(super) fn shard_of(&mut self, now: Instant, client: &FiveTuple) -> Option<ShardIndex> {
        // Most of the time there are none, and then a packet costs no look-up.
        if self.by_client.is_empty() {
            return None;
        }
        let stray = self.by_client.get_mut(client)?;
        stray.last_packet = now;
        Some(stray.shard)
    }

    /// Makes room for a client of a user, who loses the oldest one where there would be too many.
    fn make_room(&mut self, user: &User, client: &FiveTuple, user_max: usize) {
        self.remove(client);
        let own = self.clients_by_user.get(user);
        let own = own.filter(|own| own.len() >= user_max);
        if let Some(oldest) = own.and_then(|own| own.front().copied()) {
            self.remove(&oldest);
        }
    }

    fn insert(
        &mut self,
        now: Instant,
        client: FiveTuple,
        shard: ShardIndex,
        user: &User,
        max: usize,
    ) -> Result<(), Refusal> {
        if self.by_client.len() >= max {
            return Err(Refusal::StraysFull);
        }
        let deadline = now + IDLE_MAX;
        self.clients_by_user
            .entry(user.clone())
            .or_default()
            .push_back(client);
        self.deadlines.insert((deadline, client));
        self.by_client.insert(
            client,
            Stray {
                shard,
                user: user.clone(),
                last_packet: now,
                deadline,
            },
        );
        Ok(())
    }

    pub(super) fn remove(&mut self, client: &FiveTuple) {
        let Some(stray) = self.by_client.remove(client) else {
            return;
        };
        self.deadlines.remove(&(stray.deadline, *client));
        if let Some(clients) = self.clients_by_user.get_mut(&stray.user) {
            clients.retain(|one| one != client);
            if clients.is_empty() {
                self.clients_by_user.remove(&stray.user);
            }
        }
    }

    /// Forgets those that have been silent for longer than an allocation lives.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((deadline, client)) = self.deadlines.first().copied()
            && deadline <= now
        {
            let Some(stray) = self.by_client.get_mut(&client) else {
                self.deadlines.pop_first();
                continue;
            };
            if stray.last_packet + IDLE_MAX <= now {
                self.remove(&client);
                continue;
            }
            self.deadlines.pop_first();
            stray.deadline = stray.last_packet + IDLE_MAX;
            self.deadlines.insert((stray.deadline, client));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
}

/// Where the number of allocations has no bound.
const STRAYS_MAX: usize = 16_384;
/// The longest lifetime that RFC 8656 §7.2 recommends: a client that lets it pass without a Refresh
/// has no allocation any more.
const IDLE_MAX: Duration = Duration::from_secs(3600);
