use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use tombolo_relay::ListenSocket;

use crate::builder::NodeBuilder;

/// Why a node did not start; the message says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No address was given, or the machine has none of that family.
    #[error("no address to listen on: name one of this machine with --listen")]
    NoAddress,
    /// The machine does not tell its addresses.
    #[error("cannot list the addresses of this machine ({0}): name them with --listen")]
    Interfaces(io::Error),
    /// Nobody could get in.
    #[error("no key to verify tokens with: give one, or use --dev")]
    NoTokenKeys,
    /// Development tokens cannot be signed with it.
    #[error("the key of development tokens cannot be used: {0}")]
    DevKey(#[from] tombolo_wire::token::KeyError),
    /// Devices could not be told it.
    #[error("{host} is no DNS name: {source}")]
    Host {
        /// What was asked for.
        host: String,
        /// What is wrong with it.
        source: tombolo_wire::UrlError,
    },
    /// What nodes say to each other cannot be sealed.
    #[error("cannot seal what nodes say to each other: {0}")]
    Seal(tombolo_engine::SealError),
    /// Another node of the cluster would not understand this one.
    #[error("node {node} {why} (--nats-seal)")]
    SealDiffers {
        /// Its name.
        node: String,
        /// How it is unlike this one.
        why: &'static str,
    },
    /// The system has no entropy.
    #[error("the system gives no random numbers: {0}")]
    Entropy(getrandom::Error),
    /// A self-signed certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The certificate cannot be used with TLS.
    #[error("cannot use the certificate: {0}")]
    Tls(#[from] tombolo_relay::CertificateError),
    /// The address belongs to another machine, often to the NAT in front of this one.
    #[error(
        "{ip} is no address of this machine: name one that is with --listen; if a NAT in front of \
         it has this one, name it with --public"
    )]
    NotHere {
        /// What was asked for.
        ip: IpAddr,
    },
    /// No address that is listened on can be told as that one.
    #[error("{ip} would be told to nobody: no address of its family is listened on, but loopback")]
    Public {
        /// What was asked for.
        ip: IpAddr,
    },
    /// The folder cannot be an engine's.
    #[error("{} cannot be used", folder.display())]
    Data {
        /// What was asked for.
        folder: PathBuf,
        /// What is wrong with it.
        source: tombolo_engine::OpenError,
    },
    /// The NATS servers cannot be used.
    #[error("the NATS servers cannot be used")]
    Nats(#[source] tombolo_engine::NatsError),
    /// Somebody else has a port that devices connect to.
    #[error("{addr} is in use: stop what listens there, or choose another port with --port")]
    GatewayPort {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// The system does not allow this program to take a port that devices connect to.
    #[error(
        "not allowed to listen on {addr}: choose a port from 1024 on with --port, or grant \
         CAP_NET_BIND_SERVICE"
    )]
    GatewayNotPermitted {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// Somebody else has a port of STUN and TURN.
    #[error("{socket} is in use: stop what listens there, or choose another port with {flag}")]
    RelayPort {
        /// What was asked for.
        socket: ListenSocket,
        /// The flag that chooses it.
        flag: &'static str,
    },
    /// No field can be as it is wanted.
    #[error("fields cannot be so: {0}")]
    Fields(#[from] tombolo_services::FieldSettingsError),
    /// Nobody can be told what happens.
    #[error("the webhook: {0}")]
    Webhook(crate::PostError),
    /// The game's server cannot be asked.
    #[error("the hooks: {0}")]
    Hooks(crate::PostError),
    /// Sessions would find no connection.
    #[error("{connections} connections are too few for {sessions} sessions")]
    Connections {
        /// How many there may be.
        connections: usize,
        /// How many sessions there may be.
        sessions: usize,
    },
    /// The gateway could not start for another reason.
    #[error(transparent)]
    Gateway(tombolo_gateway::BindError),
    /// The relay could not start for another reason.
    #[error(transparent)]
    Relay(tombolo_relay::BindError),
}

/// Why a node keeps the configuration that it has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// Something that belongs to sockets, or to the cluster, differs.
    #[error("only a restart changes {0}")]
    NeedsRestart(&'static str),
    /// The same, but for the certificate, which would run out.
    #[error("took the certificate over and nothing else: {0}")]
    TookCertificate(Box<Self>),
    /// Nobody could get in.
    #[error("no key to verify tokens with")]
    NoTokenKeys,
    /// The certificate cannot be used.
    #[error("cannot use the certificate: {0}")]
    Certificate(#[from] tombolo_relay::CertificateError),
    /// The relay does not take its part.
    #[error(transparent)]
    Relay(#[from] tombolo_relay::ReloadError),
    /// The game's server cannot be asked.
    #[error("the hooks: {0}")]
    Hooks(crate::PostError),
}

/// Why a node cannot go on; whoever started it starts it again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// A thread of its relay has ended by itself.
    #[error(transparent)]
    Relay(#[from] tombolo_relay::Broken),
    /// The engine cannot write any more: no room changes until the process starts anew.
    #[error("what rooms are to keep cannot be written any more (--data): is the disk full?")]
    Store,
    /// A task has panicked without which the node is deaf; it has let its devices go.
    #[error(transparent)]
    Task(#[from] tombolo_services::Broken),
}

impl ReloadError {
    pub(crate) fn needs_restart(&self) -> bool {
        matches!(
            self,
            Self::NeedsRestart(_) | Self::Relay(tombolo_relay::ReloadError::NeedsRestart(_))
        )
    }
}

impl StartError {
    pub(crate) fn from_gateway(error: tombolo_gateway::BindError) -> Self {
        match error.addr() {
            Some(addr) if error.is_port_taken() => Self::GatewayPort { addr },
            Some(addr) if error.is_not_permitted() => Self::GatewayNotPermitted { addr },
            Some(_) | None => Self::Gateway(error),
        }
    }

    pub(crate) fn from_relay(error: tombolo_relay::BindError, config: &NodeBuilder) -> Self {
        if let tombolo_relay::BindError::NoSuchAddress { socket } = error {
            return Self::NotHere {
                ip: socket.address.ip(),
            };
        }
        let tombolo_relay::BindError::InUse { socket } = error else {
            return Self::Relay(error);
        };
        // TLS and DTLS have the one port, plain TCP and UDP the other.
        let flag = if socket.address.port() == config.turns_port {
            "--turns-port"
        } else {
            "--turn-port"
        };
        Self::RelayPort { socket, flag }
    }
}
