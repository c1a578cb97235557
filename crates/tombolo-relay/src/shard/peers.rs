//! The TCP connections between relayed addresses of the shard and peers. See RFC 6062.

use std::{collections::HashMap, io, time::Instant};

use tokio::{
    net::TcpStream,
    runtime::Handle,
    sync::{oneshot, watch},
};
use tombolo_turn::server::{
    Bandwidth, ConnectError, ConnectionId, FiveTuple, PeerAddr, PortError, RealmId, RelayAddr,
    Server,
};
use tracing::warn;

use super::Shard;
use crate::{
    link::{Account, Join, ShardLink},
    repeated::Repeated,
    stream::{PeerTask, connect, listen},
};

/// What is open between the shard and peers over TCP. The core bounds how many there are.
pub(crate) struct Peers {
    /// Where the tasks run.
    streams: Handle,
    /// How they answer.
    link: ShardLink,
    listeners: HashMap<RelayAddr, PeerTask>,
    connections: HashMap<ConnectionId, Peer>,
    /// How fast the bytes of each allocation of a realm may go in each direction, as far as a
    /// connection of that realm was ever joined.
    limit_by_realm: HashMap<RealmId, watch::Sender<Option<Bandwidth>>>,
    failures: Repeated,
}

/// A connection to a peer. Dropping it closes it.
enum Peer {
    Connecting {
        _task: PeerTask,
    },
    /// Nobody reads from it, so the kernel holds what the peer sends, and the peer back.
    Waiting(TcpStream),
    /// With a client's connection, which the drop of this ends.
    Joined {
        _cancel: oneshot::Sender<()>,
    },
}

impl Peers {
    pub(crate) fn new(streams: Handle, link: ShardLink) -> Self {
        Self {
            streams,
            link,
            listeners: HashMap::new(),
            connections: HashMap::new(),
            limit_by_realm: HashMap::new(),
            failures: Repeated::default(),
        }
    }

    /// Where what takes its time is done for the shard.
    pub(super) fn streams(&self) -> &Handle {
        &self.streams
    }

    pub(super) fn listen(&mut self, at: RelayAddr) -> Result<RelayAddr, PortError> {
        let task = listen(&self.streams, self.link.clone(), at).map_err(|error| {
            if error.kind() == io::ErrorKind::AddrInUse {
                return PortError::InUse;
            }
            if let Some(count) = self.failures.count(Instant::now()) {
                warn!(count, %error, "cannot listen at a relay port");
            }
            PortError::Unavailable
        })?;
        self.listeners.insert(at, task);
        Ok(at)
    }

    /// Stops listening; `false` if it did not.
    pub(super) fn release(&mut self, at: RelayAddr) -> bool {
        self.listeners.remove(&at).is_some()
    }

    pub(super) fn connect(&mut self, connection: ConnectionId, at: RelayAddr, to: PeerAddr) {
        let link = self.link.clone();
        let task = connect(&self.streams, link, connection, at, to);
        let peer = Peer::Connecting { _task: task };
        self.connections.insert(connection, peer);
    }

    pub(super) fn close(&mut self, connection: ConnectionId) {
        self.connections.remove(&connection);
    }

    /// Has all bytes go as fast as the core says from now on, those of connections that are joined
    /// already too.
    pub(super) fn set_limits(&mut self, core: &Server) {
        for (realm, limit) in &self.limit_by_realm {
            let new = core.bandwidth(*realm);
            limit.send_if_modified(|old| std::mem::replace(old, new) != new);
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.listeners.len() as u64
    }
}

impl Shard {
    pub(super) fn on_peer_accepted(
        &mut self,
        now: Instant,
        at: RelayAddr,
        from: PeerAddr,
        stream: TcpStream,
    ) {
        if let Some(connection) = self.core.handle_peer_accepted(now, at, from) {
            let peer = Peer::Waiting(stream);
            self.peers.connections.insert(connection, peer);
        }
    }

    pub(super) fn on_peer_connected(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        result: Result<TcpStream, ConnectError>,
    ) {
        // Nobody waits any more if the core has closed it.
        let Some(peer @ Peer::Connecting { .. }) = self.peers.connections.get_mut(&connection)
        else {
            return;
        };
        let result = match result {
            Ok(stream) => {
                *peer = Peer::Waiting(stream);
                Ok(())
            }
            Err(error) => {
                self.peers.connections.remove(&connection);
                Err(error)
            }
        };
        self.core.handle_connected(now, connection, result);
    }

    /// Hands the connection to a peer to the client's, which is no business of the shard any more.
    pub(super) fn splice(
        &mut self,
        now: Instant,
        client: FiveTuple,
        connection: ConnectionId,
        (owner, realm): (FiveTuple, RealmId),
        reply: Vec<u8>,
    ) {
        let peer = self.peers.connections.remove(&connection);
        let control = self.connections.get_mut(&owner);
        let (Some(Peer::Waiting(peer)), Some(control)) = (peer, control) else {
            self.connections.remove(&client);
            self.core.handle_peer_gone(now, connection);
            return;
        };
        let limits = self.peers.limit_by_realm.entry(realm);
        let limit = limits.or_insert_with(|| watch::Sender::new(self.core.bandwidth(realm)));
        let account = Account {
            owner,
            shard: self.peers.link.clone(),
            limit: limit.subscribe(),
            meters: control.meters(now),
        };
        let (cancel, cancelled) = oneshot::channel();
        let join = Join {
            reply,
            peer,
            cancelled,
            account,
        };
        let is_joined = self
            .connections
            .get(&client)
            .is_some_and(|client| client.join(join));
        if is_joined {
            let peer = Peer::Joined { _cancel: cancel };
            self.peers.connections.insert(connection, peer);
        } else {
            self.connections.remove(&client);
            self.core.handle_peer_gone(now, connection);
        }
    }
}
