use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use super::address::FiveTuple;
use super::auth::{Identity, RealmId, User};
use super::ledger::Network;
use super::reply::Ask;
use super::stray::ShardIndex;
use super::table::AllocationId;

/// Names a TCP connection between a relayed address and a peer. Chosen at random, since a client
/// proves with it which connection it means. See RFC 6062 §6.2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

impl ConnectionId {
    pub(super) fn new(random: u32, shard: ShardIndex) -> Self {
        Self(random & !SHARD_MASK | u32::from(shard.0))
    }

    /// Returns the shard that has the connection, which only the id tells whoever has to find it
    /// for a ConnectionBind.
    pub fn shard(self) -> ShardIndex {
        let [.., shard] = self.0.to_be_bytes();
        ShardIndex(shard)
    }
}

const SHARD_MASK: u32 = 0xff;

/// A TCP connection between a relayed address and a peer. See "peer data connection" in RFC 6062.
pub(super) struct Connection {
    pub(super) allocation: AllocationId,
    pub(super) owner: Owner,
    /// The peer as the client knows it.
    pub(super) peer: SocketAddr,
    pub(super) state: State,
}

/// Whose connection it is, as far as quotas go.
#[derive(Clone)]
pub(super) struct Owner {
    pub(super) user: User,
    pub(super) network: Network,
}

pub(super) enum State {
    /// A Connect request waits for the driver.
    Connecting {
        ask: Ask,
        identity: Box<Identity>,
        until: Instant,
    },
    /// It waits for the client's ConnectionBind.
    Unbound { until: Instant },
    /// Joined with a connection of the client.
    Joined { client: FiveTuple },
}

impl State {
    /// When it ends if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Connecting { until, .. } | Self::Unbound { until } => Some(*until),
            Self::Joined { .. } => None,
        }
    }
}

/// The connections of all TCP allocations of the shard.
#[derive(Default)]
pub(super) struct Connections {
    by_id: BTreeMap<ConnectionId, Connection>,
    id_by_allocation_and_peer: BTreeMap<(AllocationId, SocketAddr), ConnectionId>,
    id_by_client: BTreeMap<FiveTuple, ConnectionId>,
    deadlines: BTreeSet<(Instant, ConnectionId)>,
    /// Those in `deadlines`, by whose they are.
    waiting_by_user: BTreeMap<User, usize>,
    waiting_by_network: BTreeMap<Network, usize>,
    waiting_by_realm: BTreeMap<RealmId, usize>,
}

impl Connections {
    pub(super) fn insert(&mut self, id: ConnectionId, connection: Connection) {
        let key = (connection.allocation, connection.peer);
        self.id_by_allocation_and_peer.insert(key, id);
        self.index(id, &connection.owner, &connection.state);
        self.by_id.insert(id, connection);
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.by_id.remove(&id)?;
        let key = (connection.allocation, connection.peer);
        self.id_by_allocation_and_peer.remove(&key);
        self.unindex(id, &connection.owner, &connection.state);
        Some(connection)
    }

    /// Moves a connection to another state; returns the one before, `None` if it is gone.
    pub(super) fn set_state(&mut self, id: ConnectionId, state: State) -> Option<State> {
        let mut connection = self.by_id.remove(&id)?;
        let before = std::mem::replace(&mut connection.state, state);
        self.unindex(id, &connection.owner, &before);
        self.index(id, &connection.owner, &connection.state);
        self.by_id.insert(id, connection);
        Some(before)
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.by_id.get(&id)
    }

    pub(super) fn has_peer(&self, allocation: AllocationId, peer: SocketAddr) -> bool {
        let key = (allocation, peer);
        self.id_by_allocation_and_peer.contains_key(&key)
    }

    pub(super) fn of_client(&self, client: &FiveTuple) -> Option<ConnectionId> {
        self.id_by_client.get(client).copied()
    }

    /// Lists the connections of an allocation.
    pub(super) fn of_allocation(
        &self,
        allocation: AllocationId,
    ) -> impl Iterator<Item = ConnectionId> + '_ {
        let first = (allocation, SocketAddr::from(([0, 0, 0, 0], 0)));
        let from_first = self.id_by_allocation_and_peer.range(first..);
        let own = from_first.take_while(move |((one, _), _)| *one == allocation);
        own.map(|(_, id)| *id)
    }

    /// Lists the connections to certain peers.
    pub(super) fn to_peers(
        &self,
        is_meant: impl Fn(SocketAddr) -> bool,
    ) -> impl Iterator<Item = ConnectionId> {
        let meant = self.by_id.iter().filter(move |(_, one)| is_meant(one.peer));
        meant.map(|(id, _)| *id)
    }

    /// Lists the clients that wait for connections to their peers.
    pub(super) fn connecting(&self) -> impl Iterator<Item = FiveTuple> + '_ {
        let waiting = self.deadlines.iter().filter_map(|(_, id)| self.get(*id));
        waiting.filter_map(|one| match &one.state {
            State::Connecting { ask, .. } => Some(ask.from),
            State::Unbound { .. } | State::Joined { .. } => None,
        })
    }

    /// Counts those that are not joined with a client's.
    pub(super) fn waiting(&self) -> usize {
        self.deadlines.len()
    }

    /// Counts those of a user that are not joined.
    pub(super) fn waiting_of_user(&self, user: &User) -> usize {
        self.waiting_by_user.get(user).copied().unwrap_or(0)
    }

    /// Counts those of a client's network that are not joined.
    pub(super) fn waiting_of_network(&self, network: Network) -> usize {
        self.waiting_by_network.get(&network).copied().unwrap_or(0)
    }

    /// Counts those of a realm that are not joined.
    pub(super) fn waiting_of_realm(&self, realm: RealmId) -> usize {
        self.waiting_by_realm.get(&realm).copied().unwrap_or(0)
    }

    pub(super) fn next_deadline(&self) -> Option<(Instant, ConnectionId)> {
        self.deadlines.first().copied()
    }

    fn index(&mut self, id: ConnectionId, owner: &Owner, state: &State) {
        if let Some(deadline) = state.deadline() {
            self.deadlines.insert((deadline, id));
            match self.waiting_by_user.get_mut(&owner.user) {
                Some(waiting) => *waiting += 1,
                None => drop(self.waiting_by_user.insert(owner.user.clone(), 1)),
            }
            *self.waiting_by_network.entry(owner.network).or_default() += 1;
            *self.waiting_by_realm.entry(owner.user.realm).or_default() += 1;
        }
        if let State::Joined { client } = state {
            self.id_by_client.insert(*client, id);
        }
    }

    fn unindex(&mut self, id: ConnectionId, owner: &Owner, state: &State) {
        if let Some(deadline) = state.deadline() {
            self.deadlines.remove(&(deadline, id));
            give_back(&mut self.waiting_by_user, &owner.user);
            give_back(&mut self.waiting_by_network, &owner.network);
            give_back(&mut self.waiting_by_realm, &owner.user.realm);
        }
        if let State::Joined { client } = state {
            self.id_by_client.remove(client);
        }
    }
}

/// Takes one from a count, and forgets who has none.
fn give_back<K: Ord>(count_by: &mut BTreeMap<K, usize>, key: &K) {
    let Some(count) = count_by.get_mut(key) else {
        debug_assert!(false, "only what was counted is given back");
        return;
    };
    *count -= 1;
    if *count == 0 {
        count_by.remove(key);
    }
}
