//! What the core asks for beside the packets' way, and frames for stream connections.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use tombolo_turn::server::{
    AuthError, Carrier, Command, ConnectError, Event, FiveTuple, Fragment, PortError, RelayAddr,
    RequestId, Transport,
};
use tracing::{debug, info, warn};

use super::{
    Shard,
    forward::{frame_of, send_via},
    token::SocketId,
};
use crate::{
    link::{Loss, Queued},
    socket::{Outgoing, SLOTS},
};

impl Shard {
    /// Does what the core asks for: bind and release ports, send replies. Slots must be flushed.
    pub(super) fn drain_core(&mut self, now: Instant) {
        loop {
            while let Some(command) = self.core.poll_command() {
                self.execute(now, command);
            }
            while let Some(event) = self.core.poll_event() {
                self.note(&event);
            }
            if !self.send_replies() {
                return;
            }
        }
    }

    /// Sends the replies that wait; `false` if there are none.
    pub(super) fn send_replies(&mut self) -> bool {
        let mut is_any = false;
        while let Some(reply) = self.core.poll_transmit() {
            is_any = true;
            match reply.to.transport {
                Transport::Udp => self.replies.push(reply),
                Transport::Tcp | Transport::Tls | Transport::Dtls => {
                    let loss = Loss::of(&reply.bytes);
                    self.send_frame(reply.to, reply.bytes, loss);
                }
            }
            if self.replies.len() == SLOTS {
                self.flush_replies();
            }
        }
        self.flush_replies();
        is_any
    }

    fn execute(&mut self, now: Instant, command: Command) {
        match command {
            Command::BindPort { id, .. } => {
                let result = self.bind_port(now, id);
                self.core.handle_port(now, id, result);
            }
            Command::Authenticate {
                id,
                realm,
                username,
                client,
            } => {
                let asked = match &self.hook {
                    Some(hook) => hook.ask(id, realm, username, client),
                    None => Err(AuthError::Unavailable),
                };
                if let Err(error) = asked {
                    self.core.handle_auth(now, id, Err(error));
                }
            }
            Command::ReleasePort(address) => {
                self.relays.close(address);
                if self.peers.release(address) {
                    self.relays.owners().release_listener(address);
                }
            }
            Command::ListenPort { id, .. } => {
                let result = self.listen_port(now, id);
                self.core.handle_port(now, id, result);
            }
            Command::ConnectPeer { connection, at, to } => {
                if self.relays.owners().may_connect(to.0) {
                    self.peers.connect(connection, at, to);
                } else {
                    let refused = Err(ConnectError::PeerRefused);
                    self.core.handle_connected(now, connection, refused);
                }
            }
            Command::ClosePeer { connection } => self.peers.close(connection),
            Command::Splice {
                client,
                connection,
                owner,
                realm,
                reply,
            } => self.splice(now, client, connection, (owner, realm), reply),
            Command::Redirect {
                shard,
                client,
                bytes,
            } => self.redirect(now, shard, client, bytes),
        }
    }

    /// An address that another socket had when the relay started is no error: the next choice is another
    /// one.
    fn bind_port(&mut self, now: Instant, id: RequestId) -> Result<RelayAddr, PortError> {
        let address = self.claim(now, id, Carrier::Udp)?;
        let opened = self.relays.open(address, &self.poller);
        opened.map(|()| address).map_err(|error| {
            self.io.relay_port_errors += 1;
            if error.kind() == io::ErrorKind::AddrInUse {
                return PortError::InUse;
            }
            if let Some(count) = self.port_failures.count(Instant::now()) {
                warn!(count, %error, "cannot bind a relay port");
            }
            PortError::Unavailable
        })
    }

    /// The kernel would let two shards listen at one address that both have bound at the same time.
    fn listen_port(&mut self, now: Instant, id: RequestId) -> Result<RelayAddr, PortError> {
        let address = self.claim(now, id, Carrier::Tcp)?;
        let result = self.peers.listen(address);
        if result.is_err() {
            self.io.relay_port_errors += 1;
            self.relays.owners().release_listener(address);
        }
        result
    }

    /// Takes an address for this shard. The core alone would choose among those, too, that other shards
    /// have, and find none when there are few left.
    fn claim(
        &mut self,
        now: Instant,
        id: RequestId,
        carrier: Carrier,
    ) -> Result<RelayAddr, PortError> {
        let (core, relays) = (&mut self.core, &self.relays);
        let is_free = |address| relays.owners().is_free(address, carrier);
        for _ in 0..CLAIM_TRIES {
            let address = core.choose_port(now, id, is_free);
            let address = address.ok_or(PortError::NoneFree)?;
            let is_claimed = match carrier {
                Carrier::Udp => relays.claim(address),
                Carrier::Tcp => relays.owners().claim_listener(address),
            };
            if is_claimed {
                return Ok(address);
            }
        }
        Err(PortError::InUse)
    }

    /// A stream connection may be silent as long as its client has an allocation. An event does not say
    /// whether it has: somebody else may be at the address, or the client itself again.
    fn note(&mut self, event: &Event) {
        debug!(?event, "allocation");
        if let Event::Drained { left } = event {
            match left {
                0 => info!("a shard has drained"),
                _ => info!(left, "the time to drain a shard is over"),
            }
        }
        for client in event.clients() {
            if let Some(connection) = self.connections.get(client) {
                connection.set_allocated(self.core.has_allocation(client));
            }
        }
    }

    /// Sends the replies that were collected, consecutive ones of one socket in one go.
    fn flush_replies(&mut self) {
        for group in self.replies.chunk_by(|a, b| a.to.server == b.to.server) {
            let Some((via, source)) = self.server_for(group[0].to.server) else {
                self.io.lost += group.len() as u64;
                continue;
            };
            let packets = group.iter().map(|reply| Outgoing {
                to: reply.to.client,
                source,
                header: &[],
                payload: &reply.bytes,
                padding: 0,
            });
            let (servers, relays, sender) = (&self.servers, &mut self.relays, &mut self.sender);
            let sent = send_via(servers, relays, sender, via, Fragment::Allowed, packets);
            self.io.count(sent.unwrap_or_default());
        }
        self.replies.clear();
    }

    pub(super) fn send_to_client(
        &mut self,
        to: FiveTuple,
        header: &[u8],
        payload: &[u8],
        padding: usize,
    ) {
        match to.transport {
            Transport::Udp => {
                let Some((via, source)) = self.server_for(to.server) else {
                    self.io.lost += 1;
                    return;
                };
                let packet = Outgoing {
                    to: to.client,
                    source,
                    header,
                    payload,
                    padding,
                };
                self.send_one(via, Fragment::Allowed, packet);
            }
            Transport::Tcp | Transport::Tls | Transport::Dtls => {
                self.send_frame(to, frame_of(header, payload, padding), Loss::Tolerable);
            }
        }
    }

    /// Queues a frame for a stream connection.
    pub(super) fn send_frame(&mut self, to: FiveTuple, frame: Vec<u8>, loss: Loss) {
        let Some(connection) = self.connections.get(&to) else {
            self.io.lost += 1;
            return;
        };
        match (connection.send(frame, loss), loss) {
            (Queued::Taken, _) => {}
            (Queued::Full, Loss::Tolerable) => self.io.stream_frames_dropped += 1,
            (Queued::Full, Loss::Fatal) | (Queued::Gone, _) => {
                self.io.stream_frames_dropped += 1;
                // The connection's task ends when nobody holds its queue, and reports that it did.
                self.connections.remove(&to);
            }
        }
    }

    /// The server socket that has `address`, and the local IP to send from if it has several.
    pub(super) fn server_for(&self, address: SocketAddr) -> Option<(SocketId, Option<IpAddr>)> {
        let exact = self
            .servers
            .iter()
            .position(|server| server.address == address);
        let position = exact.or_else(|| {
            self.servers.iter().position(|server| {
                server.socket.is_wildcard()
                    && server.address.port() == address.port()
                    && server.address.is_ipv4() == address.is_ipv4()
            })
        })?;
        let source = if exact.is_none() {
            Some(address.ip())
        } else {
            None
        };
        Some((SocketId::Server(u32::try_from(position).ok()?), source))
    }
}

/// How often another shard may take an address first that was free a moment ago.
const CLAIM_TRIES: usize = 8;
