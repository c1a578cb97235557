//! A server, a clock, and clients built on the codec.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tombolo_stun::{
    Attribute, AttributeError, AttributeType, ChannelNumber, Class, Data, ErrorCode, Key, Message,
    MessageWriter, Method, Nonce, Realm, RequestedTransport, TransactionId, Username,
    XorPeerAddress, XorRelayedAddress,
};
use tombolo_turn::server::{
    AuthId, Command, Config, Event, FiveTuple, Forward, Fragment, PeerAddr, PortError, Refusal,
    RelayAddr, Server, Transmit, Transport, password_of,
};

pub(super) const REALM: &str = "tombolo";
pub(super) const SECRET: &[u8] = b"the fleet's secret";
pub(super) const UNIX_START: u64 = 1_800_000_000;
pub(super) const SERVER: &str = "9.9.9.9:3478";
/// A peer that every policy allows.
pub(super) const PEER: &str = "8.8.4.4:5000";
pub(super) const PEER_V6: &str = "[2a00::77]:5000";

pub(super) struct Lab {
    pub(super) server: Server,
    pub(super) now: Instant,
    /// Addresses that the driver holds for the server.
    pub(super) bound: BTreeSet<RelayAddr>,
    /// How the driver answers the next requests for a port, before it just binds.
    pub(super) port_answers: Vec<Result<(), PortError>>,
    /// Requests for a port that wait, while the driver is slow.
    pub(super) is_driver_slow: bool,
    pub(super) waiting: Vec<Command>,
    pub(super) events: Vec<Event>,
    /// Those of `bound` that are for TCP.
    pub(super) listening: BTreeSet<RelayAddr>,
    /// What the server commanded about clients of other shards.
    pub(super) shard_commands: Vec<Command>,
    /// What the server commanded about connections to peers.
    pub(super) tcp_commands: Vec<Command>,
    /// Questions about users that nobody has answered, with their names.
    pub(super) asked: Vec<Command>,
    pub(super) asked_ids: Vec<AuthId>,
    nonce_by_client: BTreeMap<FiveTuple, String>,
    transactions: u64,
}

/// Credentials of one user.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) username: String,
    pub(super) password: String,
}

impl User {
    /// Time-limited credentials that end `seconds` after the start of the lab.
    pub(super) fn until(seconds: u64, name: &str) -> Self {
        Self::named(format!("{}:{name}", UNIX_START + seconds))
    }

    /// Time-limited credentials of this username.
    pub(super) fn named(username: String) -> Self {
        let password = password_of(SECRET, &username);
        Self { username, password }
    }

    pub(super) fn key(&self) -> Key {
        Key::long_term(&self.username, REALM, &self.password)
    }
}

/// A payload that reached a peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AtPeer {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) fragment: Fragment,
    pub(super) payload: Vec<u8>,
}

/// A packet that reached a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AtClient {
    pub(super) to: FiveTuple,
    pub(super) bytes: Vec<u8>,
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    /// Makes a lab whose server differs from the usual one.
    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::of_seed([1; 32], change)
    }

    pub(super) fn of_seed(seed: [u8; 32], change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new([3; 32]);
        config.realm.secrets = vec![SECRET.to_vec()];
        config
            .realm
            .users
            .insert("static".to_owned(), "password".to_owned());
        config.relay_ip_v4 = Some("9.9.9.9".parse().expect("is an address"));
        config.relay_ip_v6 = Some("2a00::9".parse().expect("is an address"));
        config.sockets = vec![address(SERVER)];
        change(&mut config);
        let now = Instant::now();
        let server = Server::new(config, seed, now, Duration::from_secs(UNIX_START));
        Self {
            server,
            now,
            bound: BTreeSet::new(),
            port_answers: Vec::new(),
            is_driver_slow: false,
            waiting: Vec::new(),
            events: Vec::new(),
            listening: BTreeSet::new(),
            tcp_commands: Vec::new(),
            shard_commands: Vec::new(),
            asked: Vec::new(),
            asked_ids: Vec::new(),
            nonce_by_client: BTreeMap::new(),
            transactions: 0,
        }
    }

    pub(super) fn advance(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.server.handle_timeout(self.now);
        self.drive();
    }

    /// Makes a message with a transaction of its own.
    pub(super) fn message(
        &mut self,
        class: Class,
        method: Method,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        self.transactions += 1;
        let mut transaction = [0; 12];
        transaction[..8].copy_from_slice(&self.transactions.to_be_bytes());
        let mut bytes = Vec::new();
        let mut writer = MessageWriter::new(&mut bytes, class, method, TransactionId(transaction));
        write(&mut writer);
        bytes
    }

    /// Sends bytes and returns all replies.
    pub(super) fn exchange(&mut self, from: FiveTuple, bytes: &[u8]) -> Vec<Transmit> {
        assert_eq!(
            self.server.handle_client(self.now, from, bytes),
            None,
            "is not data"
        );
        self.drive();
        std::iter::from_fn(|| self.server.poll_transmit()).collect()
    }

    /// Sends bytes to which there is one reply.
    pub(super) fn reply(&mut self, from: FiveTuple, bytes: &[u8]) -> Reply {
        let mut replies = self.exchange(from, bytes);
        assert_eq!(replies.len(), 1, "there is one reply");
        let reply = replies.remove(0);
        assert_eq!(reply.to.client, from.client);
        let reply = Reply(reply.bytes);
        if let Ok(request) = Message::decode(bytes) {
            let ids = [request.transaction_id(), reply.message().transaction_id()];
            assert_eq!(
                ids[0], ids[1],
                "a reply repeats the transaction of its request"
            );
        }
        reply
    }

    /// Sends a request without credentials.
    pub(super) fn unsigned(
        &mut self,
        from: FiveTuple,
        method: Method,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Reply {
        let bytes = self.message(Class::Request, method, write);
        self.reply(from, &bytes)
    }

    /// Returns the nonce that a client got last, or gets now.
    pub(super) fn nonce(&mut self, from: FiveTuple) -> String {
        if !self.nonce_by_client.contains_key(&from) {
            let challenge = self.unsigned(from, Method::ALLOCATE, |writer| {
                writer.attribute(&RequestedTransport::UDP);
            });
            let nonce = challenge.get::<Nonce<'_>>().expect("is a challenge");
            self.nonce_by_client.insert(from, nonce.as_str().to_owned());
        }
        self.nonce_by_client[&from].clone()
    }

    /// Makes a request with credentials and the nonce that the client got last.
    pub(super) fn sign(
        &mut self,
        from: FiveTuple,
        user: &User,
        method: Method,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        let nonce = self.nonce(from);
        let (username, key) = (user.username.clone(), user.key());
        self.message(Class::Request, method, |writer| {
            write(writer);
            writer
                .attribute(&Username::new(&username).expect("short"))
                .attribute(&Realm::new(REALM).expect("short"))
                .attribute(&Nonce::new(&nonce).expect("short"))
                .integrity(&key);
        })
    }

    /// Sends a request with credentials.
    pub(super) fn signed(
        &mut self,
        from: FiveTuple,
        user: &User,
        method: Method,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Reply {
        let bytes = self.sign(from, user, method, write);
        let reply = self.reply(from, &bytes);
        if let Ok(nonce) = reply.get::<Nonce<'_>>() {
            self.nonce_by_client.insert(from, nonce.as_str().to_owned());
        }
        if reply.message().has_integrity() {
            reply
                .message()
                .check_integrity(&user.key())
                .expect("the server knows the key");
        }
        reply
    }

    pub(super) fn allocate_with(
        &mut self,
        from: FiveTuple,
        user: &User,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Reply {
        self.signed(from, user, Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
            write(writer);
        })
    }

    /// Makes an allocation and returns its relayed address.
    pub(super) fn allocate(&mut self, from: FiveTuple, user: &User) -> RelayAddr {
        let reply = self.allocate_with(from, user, |_| {});
        assert_eq!(reply.code(), None, "was made");
        let XorRelayedAddress(relayed) = reply.get().expect("is in the reply");
        RelayAddr(relayed)
    }

    pub(super) fn permit(&mut self, from: FiveTuple, user: &User, peer: &str) -> Reply {
        self.signed(from, user, Method::CREATE_PERMISSION, |writer| {
            writer.attribute(&XorPeerAddress(address(peer)));
        })
    }

    pub(super) fn bind(&mut self, from: FiveTuple, user: &User, number: u16, peer: &str) -> Reply {
        self.signed(from, user, Method::CHANNEL_BIND, |writer| {
            writer
                .attribute(&channel(number))
                .attribute(&XorPeerAddress(address(peer)));
        })
    }

    /// Sends a payload in a Send indication.
    pub(super) fn send(&mut self, from: FiveTuple, peer: &str, payload: &[u8]) -> Option<AtPeer> {
        let bytes = self.message(Class::Indication, Method::SEND, |writer| {
            writer
                .attribute(&XorPeerAddress(address(peer)))
                .attribute(&Data(payload));
        });
        self.data(from, &bytes)
    }

    /// Sends a payload on a channel.
    pub(super) fn send_on(
        &mut self,
        from: FiveTuple,
        number: u16,
        payload: &[u8],
    ) -> Option<AtPeer> {
        let mut bytes = channel_header(number, payload);
        bytes.extend_from_slice(payload);
        self.data(from, &bytes)
    }

    /// Sends data of a client.
    pub(super) fn data(&mut self, from: FiveTuple, bytes: &[u8]) -> Option<AtPeer> {
        match self.server.handle_client(self.now, from, bytes)? {
            Forward::ToPeer {
                at: RelayAddr(from),
                to: PeerAddr(to),
                range,
                fragment,
            } => Some(AtPeer {
                from,
                to,
                fragment,
                payload: bytes[range].to_vec(),
            }),
            Forward::ToClient { .. } | Forward::ToShard { .. } => {
                panic!("a client's data goes to a peer")
            }
        }
    }

    /// Sends a payload as a peer.
    pub(super) fn peer_sends(
        &mut self,
        at: RelayAddr,
        peer: &str,
        payload: &[u8],
    ) -> Option<AtClient> {
        let from = PeerAddr(address(peer));
        match self.server.handle_peer(self.now, at, from, payload)? {
            Forward::ToClient {
                to,
                header,
                range,
                padding,
            } => {
                let mut bytes = header.to_vec();
                bytes.extend_from_slice(&payload[range]);
                bytes.resize(bytes.len() + padding, 0);
                Some(AtClient { to, bytes })
            }
            Forward::ToPeer { .. } | Forward::ToShard { .. } => {
                panic!("a peer's data goes to a client")
            }
        }
    }

    pub(super) fn refused(&self, refusal: Refusal) -> u64 {
        self.server.stats().refused(refusal)
    }

    /// Does what the server commands.
    pub(super) fn drive(&mut self) {
        while let Some(command) = self.server.poll_command() {
            match command {
                Command::BindPort { .. } if self.is_driver_slow => self.waiting.push(command),
                Command::BindPort { id, address } => {
                    let is_refused = self.port_answers.pop();
                    let answer = is_refused.unwrap_or(Ok(())).map(|()| address);
                    if answer.is_ok() {
                        assert!(self.bound.insert(address), "{address:?} was bound before");
                    }
                    self.server.handle_port(self.now, id, answer);
                }
                Command::Authenticate { id, .. } => {
                    self.asked_ids.push(id);
                    self.asked.push(command);
                }
                Command::ListenPort { id, address } => {
                    assert!(self.bound.insert(address), "{address:?} was bound before");
                    self.listening.insert(address);
                    self.server.handle_port(self.now, id, Ok(address));
                }
                Command::ReleasePort(relay) => {
                    assert!(self.bound.remove(&relay), "{relay:?} was bound");
                    self.listening.remove(&relay);
                }
                Command::ConnectPeer { .. }
                | Command::ClosePeer { .. }
                | Command::Splice { .. } => self.tcp_commands.push(command),
                Command::Redirect { .. } => {
                    self.shard_commands.push(command);
                }
            }
        }
        self.events
            .extend(std::iter::from_fn(|| self.server.poll_event()));
    }

    /// Ends the allocations of whoever is or was at an address, and returns how many those were.
    pub(super) fn end(&mut self, client: FiveTuple) -> usize {
        self.server.end(self.now, |one| one.client == client)
    }

    /// Lets a slow driver catch up.
    pub(super) fn catch_up(&mut self) -> Vec<Transmit> {
        self.is_driver_slow = false;
        for command in std::mem::take(&mut self.waiting) {
            let Command::BindPort { id, address } = command else {
                continue;
            };
            self.bound.insert(address);
            self.server.handle_port(self.now, id, Ok(address));
        }
        self.drive();
        std::iter::from_fn(|| self.server.poll_transmit()).collect()
    }
}

/// A reply, read where it is needed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply(pub(super) Vec<u8>);

impl Reply {
    pub(super) fn message(&self) -> Message<'_> {
        Message::decode(&self.0).expect("the server's replies are well formed")
    }

    /// Returns the error code, or `None` for a success.
    pub(super) fn code(&self) -> Option<u16> {
        match self.message().class() {
            Class::Success => None,
            Class::Request | Class::Indication | Class::Error => {
                Some(self.get::<ErrorCode<'_>>().expect("errors say why").code())
            }
        }
    }

    pub(super) fn get<'a, A: Attribute<'a>>(&'a self) -> Result<A, AttributeError> {
        self.message().required()
    }

    pub(super) fn has(&self, kind: AttributeType) -> bool {
        self.message().has(kind)
    }
}

/// A client over UDP; each port is another client.
pub(super) fn client(port: u16) -> FiveTuple {
    FiveTuple {
        transport: Transport::Udp,
        client: SocketAddr::from(([8, 8, 8, 8], port)),
        server: address(SERVER),
    }
}

/// A client over TCP.
pub(super) fn tcp_client(port: u16) -> FiveTuple {
    FiveTuple {
        transport: Transport::Tcp,
        ..client(port)
    }
}

pub(super) fn alice() -> User {
    User::until(86_400, "alice")
}

pub(super) fn bob() -> User {
    User::until(86_400, "bob")
}

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().expect("is an address")
}

pub(super) fn channel_header(number: u16, payload: &[u8]) -> Vec<u8> {
    channel(number)
        .header(payload.len())
        .expect("short")
        .to_vec()
}

pub(super) fn channel(number: u16) -> ChannelNumber {
    ChannelNumber::new(number).expect("is in range")
}
