use std::net::SocketAddr;

use thiserror::Error;

/// What the driver should know; drained by [`Client::poll_event`](super::Client::poll_event).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The allocation exists; peers are bound from now on.
    Allocated {
        /// Where peers reach this client.
        relayed: SocketAddr,
        /// This client's address as the server sees it.
        mapped: SocketAddr,
    },
    /// There will be no allocation. The client is over.
    Failed(AllocateError),
    /// The allocation is gone: its lifetime ended or the server no longer knows it. The client is
    /// over; a new one must use a new local port, as the server may hold the old one for a while.
    Expired,
    /// The allocation was given back after [`Client::close`](super::Client::close), or the server
    /// did not answer that in time. The client is over.
    Closed,
    /// Packets to this peer go out as ChannelData from now on.
    ChannelBound(SocketAddr),
    /// The server will not relay to this peer. It is forgotten.
    PeerRefused {
        /// The peer.
        peer: SocketAddr,
        /// The server's error code; 508 also where the client itself has too many peers already.
        code: u16,
    },
    /// The server no longer accepts the credentials. Nothing is refreshed until
    /// [`Client::set_credentials`](super::Client::set_credentials) brings new ones, and the
    /// allocation ends with its lifetime.
    CredentialsRefused,
}

/// Why there is no allocation.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AllocateError {
    /// The server did not answer.
    #[error("the server did not answer")]
    TimedOut,
    /// The server refused the credentials (401, 441).
    #[error("the server refused the credentials")]
    Unauthorized,
    /// The server called each nonce stale (438), also the one that it just gave.
    #[error("the server calls each of its own nonces stale")]
    NonceLoop,
    /// This 5-tuple has an allocation already (437): start a new client on a new local port.
    #[error("the server still holds an allocation of this local port")]
    Mismatch,
    /// The server asks to go to another one (300).
    #[error("the server asks to use {server} instead")]
    TryAlternate {
        /// The server to use.
        server: SocketAddr,
        /// Its name, for a certificate check; `None` if the server gave none.
        domain: Option<String>,
    },
    /// The server does not relay this address family (440).
    #[error("the server does not relay this address family")]
    FamilyNotSupported,
    /// This user has as many allocations as it may have (486).
    #[error("the allocation quota of this user is reached")]
    QuotaReached,
    /// The server has no capacity (508).
    #[error("the server has no capacity left")]
    InsufficientCapacity,
    /// The server refused with another error code.
    #[error("the server refused with error {code}")]
    Refused {
        /// The server's error code.
        code: u16,
    },
    /// All that came back was not protected by the user's password.
    #[error("the server's replies are not authentic")]
    Unauthenticated,
    /// The reply lacks a part that it must have.
    #[error("the server's reply is malformed")]
    Malformed,
}

impl AllocateError {
    pub(super) fn from_code(code: u16) -> Self {
        match code {
            401 | 441 => Self::Unauthorized,
            437 => Self::Mismatch,
            438 => Self::NonceLoop,
            440 => Self::FamilyNotSupported,
            486 => Self::QuotaReached,
            508 => Self::InsufficientCapacity,
            code => Self::Refused { code },
        }
    }
}

/// Why a packet cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// There is no allocation, yet or any more.
    #[error("there is no allocation")]
    NotAllocated,
    /// The allocation cannot reach addresses of this peer's family.
    #[error("the peer's address family is not that of the allocation")]
    WrongFamily,
    /// Longer than the framing can say.
    #[error("the payload is too long to be framed")]
    TooLong,
}
