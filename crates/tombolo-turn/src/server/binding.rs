use std::net::SocketAddr;
use std::time::Instant;

use tombolo_stun::{
    AddressFamily, AttributeType, ChangeRequest, Class, MappedAddress, Message, MessageWriter,
    OtherAddress, Padding, ResponseOrigin, ResponsePort, XorMappedAddress,
};

use super::Server;
use super::address::{Aliases, FiveTuple, Transport, canonical};
use super::allocate::bad;
use super::budget::Unproven;
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
        Rejection::check_known(message)?;
        let wish = Discovery::parse(message)?;
        let origin = self.alternates.origin(ask.from, wish.change);
        let origin = origin.ok_or_else(|| unsupported(AttributeType::CHANGE_REQUEST))?;
        let to = self.destination(ask.from, origin, wish)?;
        let mut bytes = Vec::with_capacity(BINDING_REPLY_BYTES);
        let mut writer =
            MessageWriter::new(&mut bytes, Class::Success, ask.method, ask.transaction);
        writer.attribute(&XorMappedAddress(canonical(ask.from.client)));
        // A bare request may come from a flood: what makes its reply more than twice as long is left
        // out as soon as many come.
        let says_more = wish.is_any || self.budget.is_calm(now, ask.from.client);
        let other = self.alternates.other(ask.from).filter(|_| says_more);
        if wish.is_any || other.is_some() {
            writer.attribute(&MappedAddress(canonical(ask.from.client)));
            writer.attribute(&ResponseOrigin(self.aliases.to_public(origin)));
        }
        if let Some(other) = other {
            writer.attribute(&OtherAddress(self.aliases.to_public(other)));
        }
        ask.write_counter(&mut writer);
        if let Some(padding) = wish.padding {
            // No longer than the one that came, so that nobody gets more than was sent.
            writer.attribute(&Padding::new(padding.bytes().min(PADDING_BYTES_MAX)));
        }
        self.stats.bindings += 1;
        self.transmit_unproven(now, ask, to, (Unproven::Answer, bytes));
        Ok(())
    }

    /// Returns where the response goes, and from where. See RFC 5780 §6.1.
    fn destination(
        &self,
        from: FiveTuple,
        origin: SocketAddr,
        wish: Discovery,
    ) -> Result<FiveTuple, Rejection> {
        let mut to = FiveTuple {
            server: origin,
            ..from
        };
        if let Some(port) = wish.port {
            if from.transport != Transport::Udp {
                return Err(unsupported(AttributeType::RESPONSE_PORT));
            }
            // No service of a host that did not ask is to be reached.
            if port < RESPONSE_PORT_MIN {
                return Err(Refusal::RequestBad.into());
            }
            to.client.set_port(port);
        }
        Ok(to)
    }
}

/// What a Binding request asks about the behaviour of NATs. See RFC 5780 §7.
#[derive(Debug, Clone, Copy)]
struct Discovery {
    change: ChangeRequest,
    port: Option<u16>,
    padding: Option<Padding>,
    is_any: bool,
}

impl Discovery {
    fn parse(message: &Message<'_>) -> Result<Self, Refusal> {
        let change = message.attribute::<ChangeRequest>().map_err(bad)?;
        let port = message.attribute::<ResponsePort>().map_err(bad)?;
        let padding = message.attribute::<Padding>().map_err(bad)?;
        // See RFC 5780 §6.1: the two together would be a way to flood somebody else's port.
        if port.is_some() && padding.is_some() {
            return Err(Refusal::RequestBad);
        }
        Ok(Self {
            change: change.unwrap_or_default(),
            port: port.map(|ResponsePort(port)| port),
            padding,
            is_any: change.is_some() || port.is_some() || padding.is_some(),
        })
    }
}

/// Refuses an attribute that cannot be fulfilled as if it were unknown. See RFC 5780 §6.1.
fn unsupported(kind: AttributeType) -> Rejection {
    Rejection::unknown([kind].into_iter())
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
        let server = asked.server;
        // A port that is there for DTLS takes no part in it.
        if asked.transport != Transport::Udp || !self.sockets.contains(&server) {
            return None;
        }
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

const BINDING_REPLY_BYTES: usize = 96;
/// The longest MTU of an Ethernet: more would say nothing about a path. The reply has attributes that
/// its request has not, so padding of any length would not fit.
const PADDING_BYTES_MAX: u16 = 9000;
/// Ports below belong to services.
const RESPONSE_PORT_MIN: u16 = 1024;
