//! The front door.

use std::net::SocketAddr;
use std::sync::Arc;

use tombolo_engine::Engine;
use tombolo_wire::UserId;
use tombolo_wire::token::{KeySet, TokenError};
use tombolo_wire::v1::{ClientFrame, IceServers};

use crate::config::Config;
use crate::connection::Connection;
use crate::reject::Reject;
use crate::relay::RelayHook;
use crate::stats::Stats;

/// Sessions, rooms and introductions of one node. Clones are the same.
#[derive(Clone)]
pub struct Services {
    _engine: Arc<dyn Engine>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The device's address as the node sees it.
    pub remote: SocketAddr,
    /// What carries the frames.
    pub transport: TransportKind,
}

/// What carries the frames of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// QUIC, unreliable frames as datagrams.
    Quic,
    /// WebSocket over TLS.
    WebSocket,
}

impl Services {
    /// Services that hold nobody yet. To be used inside a tokio runtime.
    #[must_use]
    pub fn new(
        engine: Arc<dyn Engine>,
        relay: Arc<dyn RelayHook>,
        tokens: KeySet,
        config: Config,
    ) -> Self {
        let _ = (relay, tokens, config);
        Self { _engine: engine }
    }

    /// Begins or goes on with a session. `hello` is the first frame of the connection, as it came.
    ///
    /// # Errors
    /// When the device is turned away: send [`Reject`] as a frame and close.
    pub async fn attach(
        &self,
        hello: ClientFrame,
        info: ConnectionInfo,
    ) -> Result<Connection, Reject> {
        let _ = (hello, info);
        unimplemented!()
    }

    /// Checks a device token.
    ///
    /// # Errors
    /// When it is not valid (now); counted.
    pub fn authenticate(&self, token: &str) -> Result<UserId, TokenError> {
        let _ = token;
        unimplemented!()
    }

    /// Trusts these keys from now on; sessions that have begun go on.
    pub fn set_tokens(&self, tokens: KeySet) {
        let _ = tokens;
        unimplemented!()
    }

    /// Where the user gathers candidates, with fresh credentials.
    #[must_use]
    pub fn ice_servers(&self, user: &UserId) -> IceServers {
        let _ = user;
        unimplemented!()
    }

    /// Tells all devices to connect elsewhere. New sessions are refused from now on.
    pub fn go_away(&self, reason: &str) {
        let _ = reason;
        unimplemented!()
    }

    /// What is there and what has happened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
}
