//! TCP between the server and peers. See RFC 6062.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use thiserror::Error;
use tombolo_stun::{
    AddressFamily, Class, ConnectionId as ConnectionIdAttribute, Message, MessageWriter, Method,
    TransactionId, XorPeerAddress,
};

use super::address::{FiveTuple, PeerAddr, RelayAddr, canonical};
use super::allocate::bad;
use super::allocation::Carrier;
use super::auth::Identity;
use super::connection::{Connection, ConnectionId, Owner, State};
use super::ledger::Usage;
use super::reply::{Ask, Rejection};
use super::stats::Refusal;
use super::table::AllocationId;
use super::{Command, Server};

/// Why the driver could not connect to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The peer, or a host on the way, said no.
    #[error("peer refused the connection")]
    PeerRefused,
    /// The peer did not answer in time.
    #[error("peer did not answer")]
    PeerSilent,
    /// The host has no socket left.
    #[error("no socket available")]
    LocalUnavailable,
}

/// Bytes that went between clients' connections and those to peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spliced {
    /// Written to peers.
    pub to_peer: u64,
    /// Written to clients.
    pub to_client: u64,
}

impl Server {
    /// Has the driver connect to a peer. See RFC 6062 §5.2.
    ///
    /// The request is the client's word for the peer, so no permission is needed; the address
    /// policy holds as for a permission.
    pub(super) fn on_connect(
        &mut self,
        now: Instant,
        ask: Ask,
        identity: &Identity,
        message: &Message<'_>,
        id: AllocationId,
    ) -> Result<(), Rejection> {
        let allocation = self.allocations.require_mut(id)?;
        if allocation.carrier != Carrier::Tcp {
            return Err(Refusal::CarrierWrong.into());
        }
        // It may have been switched off since the allocation was made.
        if !self.relays_tcp {
            return Err(Refusal::TransportUnsupported.into());
        }
        let XorPeerAddress(peer) = message.required().map_err(bad)?;
        let at = allocation.relays.toward(peer.ip())?;
        self.policy.check(peer)?;
        let owner = self.check_connection(id, peer)?;
        let state = State::Connecting {
            ask,
            identity: Box::new(identity.clone()),
            until: now + CONNECT_TIMEOUT,
        };
        let connection = self.add_connection((id, owner), peer, state);
        let to = PeerAddr(self.aliases.to_local(peer));
        self.commands
            .push_back(Command::ConnectPeer { connection, at, to });
        Ok(())
    }

    /// Takes the driver's answer to [`Command::ConnectPeer`].
    pub(super) fn on_connected(
        &mut self,
        now: Instant,
        id: ConnectionId,
        result: Result<(), ConnectError>,
    ) {
        let is_connecting = self
            .connections
            .get(id)
            .is_some_and(|one| matches!(one.state, State::Connecting { .. }));
        if !is_connecting {
            // It came too late.
            if result.is_ok() {
                self.commands
                    .push_back(Command::ClosePeer { connection: id });
            }
            return;
        }
        match result {
            Ok(()) => {
                let until = now + BIND_TIMEOUT;
                let before = self.connections.set_state(id, State::Unbound { until });
                if let Some(State::Connecting { ask, identity, .. }) = before {
                    self.accept(ask, &identity, |writer| {
                        writer.attribute(&ConnectionIdAttribute(id.0));
                    });
                }
            }
            Err(error) => {
                tracing::debug!(?id, %error, "no connection to the peer");
                self.fail_connecting(now, id);
            }
        }
    }

    /// Decides about a connection from a peer, and tells the client of it. See RFC 6062 §5.3.
    pub(super) fn on_peer_accepted(
        &mut self,
        now: Instant,
        at: RelayAddr,
        from: PeerAddr,
    ) -> Result<ConnectionId, Refusal> {
        let peer = self.aliases.to_public(canonical(from.0));
        let found = self.allocations.by_listener(&at);
        let (id, allocation) = found.ok_or(Refusal::RelayIdle)?;
        if !self.relays_tcp {
            return Err(Refusal::TransportUnsupported);
        }
        if !allocation.is_permitted(now, peer.ip()) {
            return Err(Refusal::PeerNotPermitted);
        }
        if allocation.is_detached() {
            return Err(Refusal::ClientAway);
        }
        let client = allocation.client;
        self.policy
            .check(peer)
            .map_err(|_| Refusal::PeerForbidden)?;
        let owner = self.check_connection(id, peer)?;
        let until = now + BIND_TIMEOUT;
        let connection = self.add_connection((id, owner), peer, State::Unbound { until });
        self.indicate_attempt(client, peer, connection);
        Ok(connection)
    }

    /// Joins the connection that a request came on with one to a peer. See RFC 6062 §5.4.
    pub(super) fn on_connection_bind(
        &mut self,
        now: Instant,
        ask: Ask,
        identity: &Identity,
        message: &Message<'_>,
    ) -> Result<(), Rejection> {
        let is_control = self.allocations.by_client(&ask.from).is_some();
        let is_control = is_control || self.pending_of(ask.from).is_some();
        if !ask.from.transport.is_stream() || is_control {
            return Err(Refusal::RequestBad.into());
        }
        let ConnectionIdAttribute(number) = message.required().map_err(bad)?;
        let id = ConnectionId(number);
        // A client that has said something else first may have come to any shard.
        if id.shard() != self.shard && id.shard().0 < self.shards {
            let bytes = message.as_bytes();
            return Ok(self.redirect(now, ask, identity, id.shard(), bytes)?);
        }
        let found = self.connections.get(id);
        let found = found.filter(|one| matches!(one.state, State::Unbound { .. }));
        let allocation = found.ok_or(Refusal::ConnectionUnknown)?.allocation;
        let allocation = self.allocations.get(allocation);
        let allocation = allocation.filter(|one| one.is_held_by(identity));
        let allocation = allocation.ok_or(Refusal::UserWrong)?;
        let (owner, realm) = (allocation.client, allocation.user.realm);
        let client = ask.from;
        self.connections.set_state(id, State::Joined { client });
        let reply = self.success(ask, identity, |_| {});
        self.stats.replies += 1;
        self.commands.push_back(Command::Splice {
            client,
            connection: id,
            owner,
            realm,
            reply,
        });
        Ok(())
    }

    /// Counts what has gone over connections of an allocation, which may be gone by now.
    pub(super) fn on_spliced(&mut self, owner: FiveTuple, spliced: Spliced) {
        self.stats.to_peer_bytes += spliced.to_peer;
        self.stats.to_client_bytes += spliced.to_client;
        if let Some(allocation) = self.allocations.by_client_mut(&owner)
            && allocation.carrier == Carrier::Tcp
        {
            allocation.traffic.to_peer.bytes += spliced.to_peer;
            allocation.traffic.to_client.bytes += spliced.to_client;
        }
    }

    /// Ends connections that nobody wanted in time. See RFC 6062 §5.2 and §5.3.
    pub(super) fn expire_connections(&mut self, now: Instant) {
        while let Some((deadline, id)) = self.connections.next_deadline()
            && deadline <= now
        {
            self.commands
                .push_back(Command::ClosePeer { connection: id });
            self.fail_connecting(now, id);
        }
    }

    /// Closes all connections of an allocation. See RFC 6062 §5.5.
    pub(super) fn close_connections(&mut self, id: AllocationId) {
        let ids: Vec<ConnectionId> = self.connections.of_allocation(id).collect();
        for connection in ids {
            self.remove_connection(connection);
            self.commands.push_back(Command::ClosePeer { connection });
        }
    }

    /// Closes the connections to peers that the policy does not allow any more.
    pub(super) fn close_barred_connections(&mut self, now: Instant) {
        let is_barred = |peer| self.policy.check(peer).is_err();
        let barred = self.connections.to_peers(is_barred).collect();
        self.close_and_answer(now, barred);
    }

    /// Closes the connections of an allocation to peers of a family, in which it has no relayed address any
    /// more.
    pub(super) fn close_connections_of_family(
        &mut self,
        now: Instant,
        id: AllocationId,
        family: AddressFamily,
    ) {
        let is_of_family = |one: &ConnectionId| {
            let connection = self.connections.get(*one);
            connection.is_some_and(|one| AddressFamily::of(one.peer.ip()) == family)
        };
        let own = self.connections.of_allocation(id);
        let over = own.filter(is_of_family).collect();
        self.close_and_answer(now, over);
    }

    fn close_and_answer(&mut self, now: Instant, connections: Vec<ConnectionId>) {
        for connection in connections {
            self.commands.push_back(Command::ClosePeer { connection });
            self.fail_connecting(now, connection);
        }
    }

    /// Closes the connection to the peer whose other half a client has closed.
    pub(super) fn on_data_client_gone(&mut self, client: FiveTuple) {
        if let Some(connection) = self.connections.of_client(&client) {
            self.remove_connection(connection);
            self.commands.push_back(Command::ClosePeer { connection });
        }
    }

    /// Forgets a connection, and answers the request that waits for it.
    pub(super) fn fail_connecting(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.remove_connection(id) else {
            return;
        };
        if let State::Connecting { ask, identity, .. } = connection.state {
            self.reject(now, ask, Some(&identity), &Refusal::ConnectFailed.into());
        }
    }

    /// Tells whose connection it would be, if there may be another one.
    fn check_connection(&self, id: AllocationId, peer: SocketAddr) -> Result<Owner, Refusal> {
        let allocation = self.allocations.get(id).ok_or(Refusal::AllocationMissing)?;
        if self.connections.has_peer(id, peer) {
            return Err(Refusal::ConnectionExists);
        }
        self.check_more(id, Usage::CONNECTION)?;
        let (limits, waiting) = (&self.limits, &self.connections);
        let (network, realm) = (allocation.network, allocation.user.realm);
        let of_realm = self.authority.waiting_max_of(realm);
        let is_full = waiting.waiting() >= limits.connections_waiting_max
            || waiting.waiting_of_user(&allocation.user) >= limits.connections_waiting_per_user_max
            || waiting.waiting_of_network(network) >= limits.connections_waiting_per_network_max
            || of_realm.is_some_and(|max| waiting.waiting_of_realm(realm) >= max);
        if is_full {
            return Err(Refusal::ConnectionsFull);
        }
        let user = allocation.user.clone();
        Ok(Owner { user, network })
    }

    fn add_connection(
        &mut self,
        (allocation, owner): (AllocationId, Owner),
        peer: SocketAddr,
        state: State,
    ) -> ConnectionId {
        let connection = loop {
            let connection = ConnectionId::new(self.rng.next_u32(), self.shard);
            if self.connections.get(connection).is_none() {
                break connection;
            }
        };
        self.connections.insert(
            connection,
            Connection {
                allocation,
                owner,
                peer,
                state,
            },
        );
        if let Some(allocation) = self.allocations.get_mut(allocation) {
            allocation.connections += 1;
            self.ledger.settle(allocation);
        }
        connection
    }

    fn remove_connection(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.connections.remove(id)?;
        if let Some(allocation) = self.allocations.get_mut(connection.allocation) {
            allocation.connections -= 1;
            self.ledger.settle(allocation);
        }
        Some(connection)
    }

    fn indicate_attempt(&mut self, client: FiveTuple, peer: SocketAddr, id: ConnectionId) {
        let mut transaction = [0; 12];
        self.rng.fill_bytes(&mut transaction);
        let transaction = TransactionId(transaction);
        let mut bytes = Vec::with_capacity(INDICATION_BYTES);
        let (class, method) = (Class::Indication, Method::CONNECTION_ATTEMPT);
        MessageWriter::new(&mut bytes, class, method, transaction)
            .attribute(&ConnectionIdAttribute(id.0))
            .attribute(&XorPeerAddress(peer));
        self.transmit(client, bytes);
    }
}

/// RFC 6062 §5.2 asks for at least 30 seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// For how long a connection waits for its ConnectionBind. See RFC 6062 §5.2 and §5.3.
const BIND_TIMEOUT: Duration = Duration::from_secs(30);
/// Header, CONNECTION-ID, XOR-PEER-ADDRESS of IPv6.
const INDICATION_BYTES: usize = 20 + 8 + 24;
