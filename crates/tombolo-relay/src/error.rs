use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
};

use thiserror::Error;

use crate::{HookError, SteeringError};

/// Why a relay cannot start. Each message says what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// There is no address to listen on.
    #[error("no address to listen on: give at least one IP of this machine")]
    NothingToListenOn,
    /// There is no address to relay from.
    #[error(
        "no address to relay from: listening on all addresses does not tell which one peers \
         reach, so give the relay IPs"
    )]
    NothingToRelayFrom,
    /// TURN over TLS was asked for without a certificate.
    #[error("TURN over TLS needs a certificate: give one, or no port for it")]
    NoCertificate,
    /// Neither plain STUN and TURN nor TLS is to be served.
    #[error(
        "nothing is served: plain UDP and plain TCP are off, and there is no certificate for TLS and DTLS"
    )]
    NothingServed,
    /// There are addresses for UDP alone, and nothing is served over UDP.
    #[error("there is an address for UDP alone, but plain UDP is off, and so is DTLS")]
    NoUdp,
    /// The range of relay ports is empty or reaches below 1024.
    #[error("the range of relay ports must not be empty or reach below 1024")]
    RelayPorts,
    /// Steering was asked for, and cannot be had here.
    #[error("relay ports cannot be steered here; choose `sockets` or `auto`, or help it")]
    NoSteering(#[source] SteeringError),
    /// Somebody else has the port.
    #[error("{socket} is in use: stop the program that has it, or choose another port")]
    InUse {
        /// Which socket.
        socket: ListenSocket,
    },
    /// The system does not allow this program to take the port.
    #[error(
        "not allowed to listen on {socket}: choose a port from 1024 on, or grant \
         CAP_NET_BIND_SERVICE"
    )]
    NotPermitted {
        /// Which socket.
        socket: ListenSocket,
    },
    /// The IP does not belong to this machine.
    #[error("cannot listen on {socket}: no interface of this machine has that IP")]
    NoSuchAddress {
        /// Which socket.
        socket: ListenSocket,
    },
    /// What is to be relayed from, or what a public IP is to stand for, does not belong to this machine.
    #[error("cannot relay from {ip}: no interface of this machine has that IP")]
    NoSuchRelayAddress {
        /// Which IP.
        ip: IpAddr,
    },
    /// Any other failure to open a listening socket.
    #[error("cannot listen on {socket}")]
    Listen {
        /// Which socket.
        socket: ListenSocket,
        /// What the system says.
        source: io::Error,
    },
    /// Users cannot be asked about.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The system gave no thread, descriptor, memory or randomness.
    #[error("the system has no threads or descriptors left: raise its limits")]
    System(#[from] io::Error),
}

impl BindError {
    pub(crate) fn listen(protocol: Protocol, address: SocketAddr, source: io::Error) -> Self {
        let socket = ListenSocket { protocol, address };
        let kind = source.kind();
        if kind == io::ErrorKind::AddrInUse {
            Self::InUse { socket }
        } else if kind == io::ErrorKind::PermissionDenied {
            Self::NotPermitted { socket }
        } else if kind == io::ErrorKind::AddrNotAvailable {
            Self::NoSuchAddress { socket }
        } else {
            Self::Listen { socket, source }
        }
    }
}

/// A socket that the relay listens on, as its errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenSocket {
    /// UDP or TCP.
    pub protocol: Protocol,
    /// IP and port.
    pub address: SocketAddr,
}

impl fmt::Display for ListenSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Udp => "UDP",
            Protocol::Tcp => "TCP",
        };
        write!(f, "{protocol} {}", self.address)
    }
}

/// The protocol of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP, also below TLS.
    Tcp,
}
