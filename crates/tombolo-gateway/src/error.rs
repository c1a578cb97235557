use std::io;
use std::net::SocketAddr;

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// `listen` is empty.
    #[error("no address to listen on")]
    NoAddress,
    /// TCP could not be bound.
    #[error("cannot listen on tcp {addr}")]
    Tcp {
        /// What was asked for.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// UDP could not be bound.
    #[error("cannot listen on udp {addr}")]
    Udp {
        /// What was asked for.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("certificate or key is unusable: {0}")]
    Certificate(#[from] rustls::Error),
    /// The certificate's key does not go with the one cipher suite that QUIC needs.
    #[error("certificate or key is unusable with QUIC")]
    CipherSuite,
    /// A time bound does not fit the protocol.
    #[error("idle timeout is too long for QUIC")]
    IdleTimeout,
    /// The runtime does not take a socket.
    #[error("cannot use a socket: {0}")]
    Runtime(io::Error),
}

impl BindError {
    /// Whether somebody else has the port; another port helps.
    pub fn is_port_taken(&self) -> bool {
        match self {
            Self::Tcp { source, .. } | Self::Udp { source, .. } => {
                source.kind() == io::ErrorKind::AddrInUse
            }
            Self::NoAddress
            | Self::Certificate(_)
            | Self::CipherSuite
            | Self::IdleTimeout
            | Self::Runtime(_) => false,
        }
    }

    /// Whether the system does not allow this program to take the port; one from 1024 on helps.
    pub fn is_not_permitted(&self) -> bool {
        match self {
            Self::Tcp { source, .. } | Self::Udp { source, .. } => {
                source.kind() == io::ErrorKind::PermissionDenied
            }
            Self::NoAddress
            | Self::Certificate(_)
            | Self::CipherSuite
            | Self::IdleTimeout
            | Self::Runtime(_) => false,
        }
    }

    /// The address that could not be had, where that was the trouble.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { addr, .. } | Self::Udp { addr, .. } => Some(*addr),
            Self::NoAddress
            | Self::Certificate(_)
            | Self::CipherSuite
            | Self::IdleTimeout
            | Self::Runtime(_) => None,
        }
    }
}
