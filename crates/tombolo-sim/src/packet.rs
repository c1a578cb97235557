//! Packets.

use std::fmt;
use std::net::SocketAddr;

/// The transport of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Datagrams: lost, duplicated and reordered as the links please.
    Udp,
    /// Pieces of a byte stream: links deliver all of them in order, and show loss as delay. An empty
    /// piece opens a connection; as an answer to one that belongs to no connection, it resets it.
    Tcp,
}

/// What a host sends and receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The transport.
    pub protocol: Protocol,
    /// The source; translated on the way.
    pub from: SocketAddr,
    /// The destination; translated on the way.
    pub to: SocketAddr,
    /// The payload of the datagram or segment.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// A datagram.
    #[must_use]
    pub fn udp(from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) -> Self {
        Self {
            protocol: Protocol::Udp,
            from,
            to,
            bytes,
        }
    }

    /// A piece of a stream.
    #[must_use]
    pub fn tcp(from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) -> Self {
        Self {
            protocol: Protocol::Tcp,
            from,
            to,
            bytes,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            from,
            to,
            bytes,
        } = self;
        write!(f, "{protocol} {from} > {to} {}B", bytes.len())
    }
}
