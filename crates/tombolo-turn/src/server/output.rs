use thiserror::Error;

use super::address::{FiveTuple, PeerAddr, RelayAddr, Transport};
use super::auth::{AuthId, RealmId};
use super::connection::ConnectionId;
use super::stray::ShardIndex;

/// A reply for the driver to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The client; `server` is the socket to send from, which RFC 5780 may make another one than
    /// the request came to.
    pub to: FiveTuple,
    /// The message.
    pub bytes: Vec<u8>,
}

/// Something that only the driver can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Ask who knows this user, and answer with [`Server::handle_auth`](super::Server::handle_auth), sooner or later. The
    /// username comes from the network: it is any text of up to 508 bytes.
    Authenticate {
        /// Names the answer.
        id: AuthId,
        /// The realm in which the user is wanted.
        realm: String,
        /// The user, as the client named it.
        username: String,
        /// The client, whose address has been proven by a nonce.
        client: FiveTuple,
    },
    /// Bind this UDP address and answer with [`Server::handle_port`](super::Server::handle_port), sooner or later.
    BindPort {
        /// Names the answer.
        id: RequestId,
        /// The address to bind, chosen at random among the free ones of this shard. See
        /// [`Server::choose_port`](super::Server::choose_port) for one that no other shard has either.
        address: RelayAddr,
    },
    /// Listen for TCP connections at this address and answer with [`Server::handle_port`](super::Server::handle_port); then tell
    /// of each one by [`Server::handle_peer_accepted`](super::Server::handle_peer_accepted).
    ListenPort {
        /// Names the answer.
        id: RequestId,
        /// The address to listen at, chosen as for [`BindPort`](Self::BindPort).
        address: RelayAddr,
    },
    /// Close the socket of this address, be it for datagrams or a listening one.
    ReleasePort(RelayAddr),
    /// Connect from a relayed address to a peer over TCP and answer with
    /// [`Server::handle_connected`](super::Server::handle_connected).
    ConnectPeer {
        /// Names the connection from now on.
        connection: ConnectionId,
        /// The local address: one that listens already.
        at: RelayAddr,
        /// The peer.
        to: PeerAddr,
    },
    /// Close a connection to a peer, or stop making it; and the client's connection that it is
    /// joined with. It may be gone already.
    ClosePeer {
        /// Which one.
        connection: ConnectionId,
    },
    /// Give a client's packet to another shard. A datagram goes to its
    /// [`Server::handle_passed_on`](super::Server::handle_passed_on), and further ones come back as
    /// [`Forward::ToShard`](super::Forward::ToShard). With the frame of a connection this goes over too: the
    /// client [is gone](super::Server::handle_client_gone) from here, and all that comes by the connection
    /// from now on is for the other shard's [`Server::handle_client`](super::Server::handle_client).
    Redirect {
        /// Which shard.
        shard: ShardIndex,
        /// Who sent it.
        client: FiveTuple,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// Write `reply` to the client's stream connection, and from then on pass all bytes between it
    /// and the connection to the peer, those included that came before. The core hears of the
    /// client's connection no more but by [`Server::handle_client_gone`](super::Server::handle_client_gone) or of the peer's by
    /// [`Server::handle_peer_gone`](super::Server::handle_peer_gone), one of the two.
    Splice {
        /// The client's connection.
        client: FiveTuple,
        /// The connection to the peer.
        connection: ConnectionId,
        /// The client's control connection, which names the allocation that the bytes count for:
        /// see [`Server::handle_spliced`](super::Server::handle_spliced).
        owner: FiveTuple,
        /// The realm of the allocation. The bytes of all its connections together are to go no faster
        /// than [`Server::bandwidth`](super::Server::bandwidth) says of it.
        realm: RealmId,
        /// The answer to ConnectionBind.
        reply: Vec<u8>,
    },
}

/// Names a [`Command`] and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(super) u64);

/// Why the driver could not bind an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum PortError {
    /// Someone else has it; another port may do.
    #[error("port in use")]
    InUse,
    /// Someone else has it and all others that would do: see
    /// [`Server::choose_port`](super::Server::choose_port).
    #[error("no port free")]
    NoneFree,
    /// The host has no socket left, or not this address.
    #[error("no socket available")]
    Unavailable,
}

/// Something that happened, for logs and accounting.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An allocation was made.
    Allocated {
        /// Whose it is.
        client: FiveTuple,
        /// The user without the expiry of time-limited credentials.
        user: String,
        /// Its one or two relayed addresses, as bound.
        relays: Vec<RelayAddr>,
    },
    /// The server makes no allocations any more, and this many are left: none, or at the deadline
    /// of the drain some.
    Drained {
        /// Allocations that are left.
        left: usize,
    },
    /// A client has announced that it goes to another address. Data still goes to the old one.
    Moving {
        /// Where it was.
        client: FiveTuple,
        /// Where it goes.
        to: FiveTuple,
        /// The user without the expiry of time-limited credentials.
        user: String,
    },
    /// A client has arrived at another address; the old one counts no more.
    Moved {
        /// Where it was.
        client: FiveTuple,
        /// Where it is.
        to: FiveTuple,
        /// The user without the expiry of time-limited credentials.
        user: String,
    },
    /// A client has announced a move and will not arrive: it goes elsewhere, its allocation has ended,
    /// or its connection has. The address counts no more.
    MoveGivenUp {
        /// Where it would have gone.
        to: FiveTuple,
        /// The user without the expiry of time-limited credentials.
        user: String,
    },
    /// An allocation ended.
    Closed {
        /// Whose it was.
        client: FiveTuple,
        /// The user without the expiry of time-limited credentials.
        user: String,
        /// Why it ended.
        reason: CloseReason,
    },
}

impl Event {
    /// Returns the addresses that it is about.
    pub fn clients(&self) -> impl Iterator<Item = &FiveTuple> {
        let clients = match self {
            Self::Allocated { client, .. } | Self::Closed { client, .. } => [Some(client), None],
            Self::Moving { client, to, .. } | Self::Moved { client, to, .. } => {
                [Some(client), Some(to)]
            }
            Self::MoveGivenUp { to, .. } => [Some(to), None],
            Self::Drained { .. } => [None, None],
        };
        clients.into_iter().flatten()
    }

    /// Whether it tells something of a client that has a connection.
    pub(super) fn is_about_stream(&self) -> bool {
        let has_connection = |client: &FiveTuple| client.transport != Transport::Udp;
        self.clients().any(has_connection)
    }
}

/// Why an allocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client asked for a lifetime of zero.
    Refreshed,
    /// The client did not refresh it in time.
    Expired,
    /// The client's connection was closed.
    ClientGone,
    /// An operator ended it.
    Ended,
}

/// What [`Server::handle_timeout`](super::Server::handle_timeout) will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Timer {
    /// End an allocation.
    Allocation,
    /// Clear permissions or channels away that are over.
    Permission,
    /// Give a reserved port back.
    Reservation,
    /// Give up waiting for an answer about a user.
    Authentication,
    /// End a TCP connection that nobody wanted in time.
    Connection,
    /// Forget a client of another shard that has been silent for long.
    Stray,
    /// Tell how many allocations are left.
    Drain,
}
