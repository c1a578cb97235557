use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// How a client reaches the server. Between server and peer it is always UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A TCP connection, framed as RFC 8656 §12.5 says.
    Tcp,
    /// A TLS connection over TCP, framed alike.
    Tls,
}

impl Transport {
    /// Tells whether frames follow each other in a byte stream, where ChannelData is padded.
    pub fn is_stream(self) -> bool {
        match self {
            Self::Udp => false,
            Self::Tcp | Self::Tls => true,
        }
    }
}

/// What tells one client of the server from another. See "5-tuple" in RFC 8656 §2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FiveTuple {
    /// How the client reaches the server.
    pub transport: Transport,
    /// The client's address as the server sees it.
    pub client: SocketAddr,
    /// The server's own address that the client uses.
    pub server: SocketAddr,
}

impl fmt::Debug for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} → {}", self.transport, self.client, self.server)
    }
}

/// Address that the server holds for a client; its IP is one the server can bind.
/// See "relayed transport address" in RFC 8656 §2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayAddr(pub SocketAddr);

/// Address of a host that a client talks to through the server. See "peer" in RFC 8656 §2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerAddr(pub SocketAddr);

/// Returns the address in its one form: an IPv4-mapped IPv6 address becomes the IPv4 address.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The same addresses as the server and as the world know them, behind a one-to-one NAT.
#[derive(Debug, Clone, Default)]
pub(super) struct Aliases {
    /// Local address, public address. One entry per address family at most in practice.
    pairs: Vec<(IpAddr, IpAddr)>,
}

impl Aliases {
    pub(super) fn new(pairs: &[(IpAddr, IpAddr)]) -> Self {
        Self {
            pairs: pairs.to_vec(),
        }
    }

    pub(super) fn to_public(&self, address: SocketAddr) -> SocketAddr {
        let pair = self.pairs.iter().find(|(local, _)| *local == address.ip());
        pair.map_or(address, |(_, public)| {
            SocketAddr::new(*public, address.port())
        })
    }

    pub(super) fn to_local(&self, address: SocketAddr) -> SocketAddr {
        let pair = self
            .pairs
            .iter()
            .find(|(_, public)| *public == address.ip());
        pair.map_or(address, |(local, _)| {
            SocketAddr::new(*local, address.port())
        })
    }
}
