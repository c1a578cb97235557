//! What the services ask of the node's relay.

use std::net::IpAddr;
use std::time::Duration;

use tombolo_wire::UserId;
use tombolo_wire::v1::IceServers;

/// What the services ask of the node's relay. The methods are called on the way of an introduction:
/// they return at once.
pub trait RelayHook: Send + Sync + 'static {
    /// Lets the peers' addresses reach every allocation of the user, from now on. Has taken effect,
    /// or will before a packet that is sent afterwards arrives, when it returns.
    fn permit(&self, user: &UserId, peers: &[IpAddr]);

    /// Where the user gathers candidates, with fresh credentials that are good for `lifetime_max` at
    /// most.
    fn ice_servers(&self, user: &UserId, lifetime_max: Duration) -> IceServers;

    /// The addresses from which the node relays.
    fn relay_ips(&self) -> Vec<IpAddr>;
}
