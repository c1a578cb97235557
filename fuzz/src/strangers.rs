//! The TURN server core and clients that have no credentials, beside one that has: whatever they
//! send, they get short answers and few of them, leave nothing behind, and do not disturb the call.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tombolo_stun::{
    AttributeType, ChannelNumber, Class, Key, Message, MessageWriter, Method, Nonce, RawAttribute,
    Realm, RequestedTransport, TransactionId, Username, XorPeerAddress, XorRelayedAddress,
};
use tombolo_turn::server::{
    Command, Config, FiveTuple, Forward, PeerAddr, RelayAddr, Server, Transport,
};

use crate::turn::is_classic_error;

/// Runs what `data` spells out.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::new();
    let mut packets = 0;
    while let Some(kind) = input.byte() {
        let Some(packet) = input.packet(kind) else {
            break;
        };
        world.now += Duration::from_millis(u64::from(kind >> 2));
        world.stranger(packet);
        packets += 1;
        if packets % PACKETS_BETWEEN_CALLS == 0 {
            world.call();
        }
    }
    world.call();
}

/// What a stranger sends, and from where.
struct Packet {
    from: FiveTuple,
    bytes: Vec<u8>,
}

struct World {
    server: Server,
    start: Instant,
    now: Instant,
    relay: RelayAddr,
    nonce: String,
    transactions: u64,
    /// Over UDP.
    bytes_in: usize,
    bytes_out: usize,
}

impl World {
    fn new() -> Self {
        let mut config = Config::new([3; 32]);
        let users = &mut config.realm.users;
        users.insert(USER.to_owned(), PASSWORD.to_owned());
        config.realm.secrets = vec![b"secret".to_vec()];
        config.relay_ip_v4 = Some(Ipv4Addr::new(9, 9, 9, 9));
        config.relay_tcp = true;
        config.sockets = SOCKETS.map(address).to_vec();
        let start = Instant::now();
        let unix = Duration::from_secs(1_800_000_000);
        let mut world = Self {
            server: Server::new(config, [1; 32], start, unix),
            start,
            now: start,
            relay: RelayAddr(address("0.0.0.0:0")),
            nonce: String::new(),
            transactions: 0,
            bytes_in: 0,
            bytes_out: 0,
        };
        let reply = world.signed(Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
        });
        let message = Message::decode(&reply).expect("is well formed");
        let XorRelayedAddress(relay) = message.required().expect("was made");
        world.relay = RelayAddr(relay);
        world
    }

    fn stranger(&mut self, packet: Packet) {
        let Packet { from, bytes } = packet;
        let is_counted = from.transport == Transport::Udp;
        if is_counted {
            self.bytes_in += bytes.len();
        }
        let forward = self.server.handle_client(self.now, from, &bytes);
        assert_eq!(forward, None, "nothing of a stranger goes anywhere");
        assert_eq!(self.server.poll_command(), None);
        while let Some(reply) = self.server.poll_transmit() {
            assert_eq!(reply.to.client.ip(), from.client.ip());
            assert_eq!(reply.to.transport, from.transport);
            if is_classic_error(&reply) {
                continue;
            }
            let message = Message::decode(&reply.bytes).expect("replies are well formed");
            let is_binding = message.method() == Method::BINDING;
            assert!(message.class() == Class::Error || is_binding);
            assert!(!message.has_integrity(), "nobody has proven anything");
            assert!(reply.bytes.len() <= REPLY_BYTES_MAX.max(bytes.len()));
            if is_counted {
                self.bytes_out += reply.bytes.len();
            }
        }
        assert!(self.server.poll_event().is_none());
        assert_eq!(self.server.stats().allocations, 1);
        let seconds = self.now.duration_since(self.start).as_millis() as usize / 1000 + 2;
        let allowance = seconds * ALLOWANCE_BYTES;
        assert!(self.bytes_out <= self.bytes_in / 2 + allowance);
    }

    /// The client that has credentials refreshes its allocation and channel and talks.
    fn call(&mut self) {
        let (peer, number) = (address(PEER), ChannelNumber::new(0x4000).expect("is one"));
        self.signed(Method::REFRESH, |_| {});
        self.signed(Method::CHANNEL_BIND, |writer| {
            writer.attribute(&number).attribute(&XorPeerAddress(peer));
        });
        let mut voice = number.header(5).expect("short").to_vec();
        voice.extend_from_slice(b"voice");
        let forward = self.server.handle_client(self.now, caller(), &voice);
        assert!(matches!(forward, Some(Forward::ToPeer { to, .. }) if to.0 == peer));
        let from = PeerAddr(peer);
        let forward = self
            .server
            .handle_peer(self.now, self.relay, from, b"voice");
        assert!(matches!(forward, Some(Forward::ToClient { to, .. }) if to == caller()));
    }

    /// Sends a request with credentials, again with another nonce if need be, and returns the
    /// success.
    fn signed(&mut self, method: Method, write: impl Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
        let key = Key::long_term(USER, "tombolo", PASSWORD);
        for _ in 0..2 {
            let nonce = self.nonce.clone();
            let bytes = self.message(method, |writer| {
                write(writer);
                writer
                    .attribute(&Username::new(USER).expect("short"))
                    .attribute(&Realm::new("tombolo").expect("short"))
                    .attribute(&Nonce::new(&nonce).expect("short"))
                    .integrity(&key);
            });
            let forward = self.server.handle_client(self.now, caller(), &bytes);
            assert_eq!(forward, None);
            self.drive();
            let reply = self.server.poll_transmit().expect("is answered").bytes;
            while self.server.poll_event().is_some() {}
            let message = Message::decode(&reply).expect("is well formed");
            if message.class() == Class::Success {
                message.check_integrity(&key).expect("proves itself");
                return reply;
            }
            let nonce = message.required::<Nonce<'_>>().expect("is a challenge");
            nonce.as_str().clone_into(&mut self.nonce);
        }
        panic!("{method:?} is refused to the one who may")
    }

    fn drive(&mut self) {
        while let Some(command) = self.server.poll_command() {
            let Command::BindPort { id, address } = command else {
                panic!("{command:?} is for nobody")
            };
            self.server.handle_port(self.now, id, Ok(address));
        }
    }

    fn message(&mut self, method: Method, write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        self.transactions += 1;
        let mut id = [0xff; 12];
        id[..8].copy_from_slice(&self.transactions.to_be_bytes());
        let mut bytes = Vec::new();
        let id = TransactionId(id);
        write(&mut MessageWriter::new(
            &mut bytes,
            Class::Request,
            method,
            id,
        ));
        bytes
    }
}

/// Bytes as a run.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn packet(&mut self, kind: u8) -> Option<Packet> {
        let from = self.source()?;
        let bytes = if kind % 4 == 0 {
            self.bytes()?
        } else {
            self.message()?
        };
        Some(Packet { from, bytes })
    }

    /// A message of any kind, with any attributes; the usual ones come more often.
    fn message(&mut self) -> Option<Vec<u8>> {
        let (what, attributes) = (self.byte()?, self.byte()?);
        let class = match what >> 6 {
            0 | 1 => Class::Request,
            2 => Class::Indication,
            _ => Class::Success,
        };
        let method = METHODS[usize::from(what) % METHODS.len()];
        let mut bytes = Vec::new();
        let mut writer = MessageWriter::new(&mut bytes, class, method, TransactionId([what; 12]));
        for _ in 0..attributes % 8 {
            let kind = self.byte()?;
            let kind = match KINDS.get(usize::from(kind)) {
                Some(kind) => *kind,
                None => AttributeType(u16::from_be_bytes([kind, self.byte()?])),
            };
            let value = self.bytes()?;
            let value = &value[..];
            writer.attribute(&RawAttribute { kind, value });
        }
        if attributes & 0x80 != 0 {
            writer.integrity(&Key::long_term(USER, "tombolo", "a guess"));
        }
        if attributes & 0x40 != 0 {
            writer.fingerprint();
        }
        Some(bytes)
    }

    /// One of 256 networks and two families; never the caller's.
    fn source(&mut self) -> Option<FiveTuple> {
        let (network, what) = (self.byte()?, self.byte()?);
        let ip = match what & 4 {
            0 => Ipv4Addr::new(96, 0, network, what).into(),
            _ => Ipv6Addr::new(0x2a01, u16::from(network), 0, 0, 0, 0, 0, 1).into(),
        };
        let transport = match what & 3 {
            0 | 1 => Transport::Udp,
            2 => Transport::Tcp,
            _ => Transport::Dtls,
        };
        Some(FiveTuple {
            transport,
            client: SocketAddr::new(ip, 1000 + u16::from(what)),
            server: address(SOCKETS[usize::from(what >> 7)]),
        })
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(self.byte()?);
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes.to_vec())
    }
}

fn caller() -> FiveTuple {
    FiveTuple {
        transport: Transport::Udp,
        client: address("8.8.8.8:1000"),
        server: address(SOCKETS[0]),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("is an address")
}

const USER: &str = "alice";
const PASSWORD: &str = "password";
const PEER: &str = "8.8.4.4:5000";
const PACKETS_BETWEEN_CALLS: usize = 16;
/// The longest answer to a stranger: a Binding response of a node with two IPv6 addresses.
const REPLY_BYTES_MAX: usize = 116;
/// What all strangers together may get in a second beyond half of what they send.
const ALLOWANCE_BYTES: usize = 64 * 1024;
/// So that RFC 5780 has something to do.
const SOCKETS: [&str; 4] = [
    "9.9.9.9:3478",
    "9.9.9.9:3479",
    "9.9.9.10:3478",
    "9.9.9.10:3479",
];
const METHODS: [Method; 9] = [
    Method::BINDING,
    Method::ALLOCATE,
    Method::REFRESH,
    Method::CREATE_PERMISSION,
    Method::CHANNEL_BIND,
    Method::CONNECT,
    Method::CONNECTION_BIND,
    Method::SEND,
    Method::DATA,
];
const KINDS: [AttributeType; 24] = [
    AttributeType::USERNAME,
    AttributeType::USERHASH,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::REQUESTED_TRANSPORT,
    AttributeType::LIFETIME,
    AttributeType::XOR_PEER_ADDRESS,
    AttributeType::DATA,
    AttributeType::CHANNEL_NUMBER,
    AttributeType::EVEN_PORT,
    AttributeType::RESERVATION_TOKEN,
    AttributeType::REQUESTED_ADDRESS_FAMILY,
    AttributeType::ADDITIONAL_ADDRESS_FAMILY,
    AttributeType::DONT_FRAGMENT,
    AttributeType::PASSWORD_ALGORITHM,
    AttributeType::PASSWORD_ALGORITHMS,
    AttributeType::ACCESS_TOKEN,
    AttributeType::MOBILITY_TICKET,
    AttributeType::CONNECTION_ID,
    AttributeType::CHANGE_REQUEST,
    AttributeType::RESPONSE_PORT,
    AttributeType::PADDING,
    AttributeType::MESSAGE_INTEGRITY,
    AttributeType::MESSAGE_INTEGRITY_SHA256,
];
