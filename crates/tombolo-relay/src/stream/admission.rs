//! What happens to a connection before its first frame is looked at.

use std::{io, net::SocketAddr};

use tokio::net::TcpStream;

use super::{Front, seats::Seat};
use crate::{proxy::ProxyHeader, stats::Counter};

/// A connection that has a seat.
pub(super) struct Admitted {
    pub(super) stream: TcpStream,
    /// Whom the connection comes from, a proxy perhaps.
    pub(super) from: SocketAddr,
    /// Whether it comes from a proxy, whose header says for whom.
    pub(super) is_proxied: bool,
    pub(super) seat: Seat,
}

/// Who talks to whom, and how the client begins.
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) first_byte: u8,
}

impl Admitted {
    /// `None` if the connection comes to nothing.
    pub(super) fn new(front: &Front, stream: TcpStream, from: SocketAddr) -> Option<Self> {
        let proxies = &front.config.proxies;
        let is_proxied = proxies
            .iter()
            .any(|proxy| proxy.contains(from.ip().to_canonical()));
        let seat = if is_proxied {
            front.connections.take_for_somebody()
        } else {
            front.connections.take(from.ip())
        };
        Some(Self {
            stream,
            from,
            is_proxied,
            seat: seat?,
        })
    }

    /// Waits for the client's first byte, behind the header of a proxy.
    ///
    /// # Errors
    /// What the connection's end counts as; `None` if it has just ended.
    pub(super) async fn ends<'a>(&mut self, front: &'a Front) -> Result<Ends, Option<&'a Counter>> {
        let counters = &front.config.counters;
        let own = self.stream.local_addr().map_err(|_| None)?;
        let (mut client, mut server) = (self.from, own);
        if self.is_proxied {
            let header = ProxyHeader::read(&mut self.stream).await;
            let header = header.map_err(|error| {
                let is_wrong = error.kind() == io::ErrorKind::InvalidData;
                is_wrong.then_some(&counters.proxy_malformed)
            })?;
            if let ProxyHeader::Proxied {
                client: its_client,
                server: its_server,
            } = header
            {
                (client, server) = (its_client, its_server);
            }
            if !self.seat.name(client.ip()) {
                return Err(Some(&counters.refused));
            }
        }
        let mut first = [0];
        let len = self.stream.peek(&mut first).await.map_err(|_| None)?;
        let [first_byte] = first;
        if len == 0 {
            return Err(None);
        }
        if !self.is_proxied && PROXY_HEADER.contains(&first_byte) {
            return Err(Some(&counters.proxy_untrusted));
        }
        Ok(Ends {
            client,
            server,
            first_byte,
        })
    }
}

/// How a PROXY header begins, of version 1 and 2. No STUN method in use does, and no client has a
/// channel before it has said anything else.
const PROXY_HEADER: [u8; 2] = [b'P', b'\r'];
