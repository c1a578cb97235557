//! What devices and the node tell each other: the session, reduced to introductions.

use tombolo_path::{Candidate, Credentials, NatBehaviour};
use tombolo_turn::server;

use crate::HostId;

/// A message between a device and the node.
#[derive(Debug, Clone)]
pub enum Signal {
    /// To the node: hand this introduction on.
    Introduce {
        /// The device to which it goes.
        to: HostId,
        /// What to hand on.
        introduction: Introduction,
    },
    /// From the node: another device introduced itself.
    Introduced(Introduction),
}

/// What a device tells another about itself.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// The device that introduces itself.
    pub from: HostId,
    /// Its credentials for checks between these two.
    pub credentials: Credentials,
    /// Its addresses, relayed ones included.
    pub candidates: Vec<Candidate>,
    /// How its NAT behaves.
    pub nat: NatBehaviour,
}

/// The user on a host, as the node knows it.
#[must_use]
pub fn user_of(host: HostId) -> String {
    format!("user-{}", host.0)
}

/// The TURN username of the user on a host: time-limited, beyond the end of every world.
#[must_use]
pub fn username_of(host: HostId) -> String {
    format!("4102444800:{}", user_of(host))
}

/// The TURN password of the user on a host.
#[must_use]
pub fn password_of(host: HostId) -> String {
    server::password_of(SECRET, &username_of(host))
}

/// The node's secret of time-limited credentials.
pub(crate) const SECRET: &[u8] = b"the laboratory's secret";
