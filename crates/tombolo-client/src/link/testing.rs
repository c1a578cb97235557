//! Two ends of a link's connection, without a link.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::driver::transport_config;
use crate::keys::{Accepted, Keys};

/// The endpoints, the server's first, and the connection at the client's and at the server's end. The server's is at
/// each address of this machine.
pub(super) async fn connected() -> ([noq::Endpoint; 2], noq::Connection, noq::Connection) {
    let [here, there] = [Keys::generate().unwrap(), Keys::generate().unwrap()];
    let accepted = Accepted::default();
    accepted.insert(there.identity);
    let crypto = here.server_config(accepted).unwrap();
    let mut server = noq::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(Arc::new(transport_config()));
    let near = noq::Endpoint::server(server, (Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
    let far = noq::Endpoint::client((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
    let crypto = there.client_config(here.identity).unwrap();
    let mut client = noq::ClientConfig::new(Arc::new(crypto));
    client.transport_config(Arc::new(transport_config()));
    let port = near.local_addr().unwrap().port();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connecting = far.connect_with(client, at, "peer").unwrap();
    let accepting = async { near.accept().await.unwrap().await.unwrap() };
    let (connected, accepted) = tokio::join!(connecting, accepting);
    ([near, far], connected.unwrap(), accepted)
}
