use std::net::SocketAddr;
use std::time::Instant;

use tombolo_stun::{
    AddressFamily, AttributeType, ChangeRequest, Class, Message, MessageWriter, OtherAddress,
    ResponseOrigin, XorMappedAddress,
};

use super::Server;
use super::address::{Aliases, FiveTuple, Transport, canonical};
use super::auth::CREDENTIAL_ATTRIBUTES;
use super::policy::Scope;
use super::reply::{Ask, Rejection};
use super::stats::Refusal;

impl Server {
    /// Tells a client its address. See RFC 8489 §12 and RFC 5780 §6.1.
    pub(super) fn on_binding(
        &mut self,
        now: Instant,
        ask: Ask,
        message: &Message<'_>,
    ) -> Result<(), Rejection> {
        Rejection::check_known(message, &BINDING_ATTRIBUTES)?;
        let change = message
            .attribute::<ChangeRequest>()
            .map_err(|_| Refusal::RequestBad)?;
        let origin = self
            .alternates
            .origin(ask.from, change.unwrap_or_default())
            .ok_or_else(|| Rejection::unknown([AttributeType::CHANGE_REQUEST].into_iter()))?;
        let mut bytes = Vec::with_capacity(BINDING_REPLY_BYTES);
        let mut writer =
            MessageWriter::new(&mut bytes, Class::Success, ask.method, ask.transaction);
        writer.attribute(&XorMappedAddress(canonical(ask.from.client)));
        if let Some(other) = self.alternates.other(ask.from) {
            writer.attribute(&ResponseOrigin(self.aliases.to_public(origin)));
            writer.attribute(&OtherAddress(self.aliases.to_public(other)));
        }
        self.stats.bindings += 1;
        self.transmit_unproven(
            now,
            ask,
            FiveTuple {
                server: origin,
                ..ask.from
            },
            bytes,
        );
        Ok(())
    }
}

/// The server's UDP sockets, from which answers can come. See RFC 5780 §3.
pub(super) struct Alternates {
    sockets: Vec<SocketAddr>,
    aliases: Aliases,
}

impl Alternates {
    pub(super) fn new(sockets: &[SocketAddr], aliases: Aliases) -> Self {
        Self {
            sockets: sockets.to_vec(),
            aliases,
        }
    }

    /// Returns the socket whose IP address and port both differ from the one that was asked, and
    /// which the client can reach as well as that one, as far as addresses tell: an answer that
    /// cannot come would be taken for a NAT's filtering.
    fn other(&self, asked: FiveTuple) -> Option<SocketAddr> {
        if asked.transport != Transport::Udp {
            return None;
        }
        let server = asked.server;
        let known_as = self.aliases.to_public(server).ip();
        let scope = Scope::of(known_as);
        if scope.is_internal() && !Scope::of(canonical(asked.client).ip()).is_internal() {
            return None;
        }
        self.sockets.iter().copied().find(|socket| {
            let other_known_as = self.aliases.to_public(*socket).ip();
            AddressFamily::of(socket.ip()) == AddressFamily::of(server.ip())
                && socket.ip() != server.ip()
                && socket.port() != server.port()
                && other_known_as != known_as
                && Scope::of(other_known_as) == scope
        })
    }

    /// Returns the socket to answer from; `None` where the server has no such socket.
    fn origin(&self, asked: FiveTuple, change: ChangeRequest) -> Option<SocketAddr> {
        let server = asked.server;
        let wanted = match (change.ip, change.port) {
            (false, false) => return Some(server),
            (true, true) => return self.other(asked),
            (true, false) => SocketAddr::new(self.other(asked)?.ip(), server.port()),
            (false, true) if asked.transport == Transport::Udp => {
                let is_wanted = |socket: &SocketAddr| {
                    socket.ip() == server.ip() && socket.port() != server.port()
                };
                self.sockets.iter().copied().find(is_wanted)?
            }
            (false, true) => return None,
        };
        self.sockets.contains(&wanted).then_some(wanted)
    }
}

/// What agents put into Binding requests; credentials are not asked for and not looked at.
const BINDING_ATTRIBUTES: [AttributeType; 7] = {
    let [a, b, c, d, e, f] = CREDENTIAL_ATTRIBUTES;
    [a, b, c, d, e, f, AttributeType::CHANGE_REQUEST]
};
const BINDING_REPLY_BYTES: usize = 96;
