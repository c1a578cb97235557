//! The TURN server core against a model: clients with right credentials, with broken ones and
//! with garbage, peers, a driver that is slow or refuses, and time.
//!
//! Invariants: nothing panics; a payload leaves only towards a peer for which the model knows a
//! permission or a channel, and reaches only the client that allowed it; no changed request
//! succeeds; replies to strangers are short; every port is given back in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use tombolo_stun::{
    AdditionalAddressFamily, AddressFamily, AttributeType, ChannelNumber, Class, Data, EvenPort,
    Key, Lifetime, Message, MessageWriter, Method, Nonce, RawAttribute, Realm,
    RequestedAddressFamily, RequestedTransport, ReservationToken, TransactionId, Username,
    XorPeerAddress,
};
use tombolo_turn::server::{
    Command, Config, Event, FiveTuple, Forward, PeerAddr, PortError, RelayAddr, Server, Stats,
    Transport, password_of,
};

/// Runs the operations that `data` spells out.
pub fn run(data: &[u8]) {
    let _ = play(data);
}

/// Like [`run`]; returns what the server counted.
pub fn play(data: &[u8]) -> Stats {
    let mut input = Unstructured::new(data);
    let mut world = World::new();
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        let Ok(operation) = Operation::arbitrary(&mut input) else {
            break;
        };
        world.apply(operation);
    }
    world.end()
}

#[derive(Debug, Arbitrary)]
enum Operation<'a> {
    Garbage {
        client: u8,
        bytes: &'a [u8],
    },
    Request {
        client: u8,
        user: u8,
        request: Request,
        flip: Option<u16>,
    },
    Unsigned {
        client: u8,
        request: Request,
    },
    Send {
        client: u8,
        peer: u8,
        bytes: u16,
    },
    SendOn {
        client: u8,
        number: u8,
        bytes: u16,
    },
    Peer {
        relay: u8,
        peer: u8,
        bytes: u16,
    },
    Permit {
        user: u8,
        peer: u8,
    },
    Gone {
        client: u8,
    },
    Wait {
        seconds: u16,
    },
    /// The driver refuses the next ports.
    Refuse {
        ports: u8,
    },
    /// The driver lets requests for ports wait.
    Slow,
    CatchUp,
}

#[derive(Debug, Arbitrary)]
struct Request {
    method: u8,
    transport: Option<u8>,
    lifetime: Option<u32>,
    number: Option<u8>,
    peers: [Option<u8>; 2],
    family: Option<u8>,
    additional: Option<u8>,
    even: Option<bool>,
    redeems: bool,
}

struct World {
    server: Server,
    now: Instant,
    bound: BTreeSet<RelayAddr>,
    waiting: Vec<Command>,
    is_slow: bool,
    refusals_left: u8,
    nonce_by_client: BTreeMap<FiveTuple, String>,
    token: Option<ReservationToken>,
    transactions: u64,
    allocations: BTreeMap<FiveTuple, Model>,
}

/// What the model knows of an allocation.
#[derive(Debug)]
struct Model {
    user: String,
    relays: Vec<RelayAddr>,
    /// When the permission ends, by peer.
    permissions: BTreeMap<IpAddr, Instant>,
    channels: BTreeMap<ChannelNumber, (SocketAddr, Instant)>,
}

impl World {
    fn new() -> Self {
        let mut config = Config::new([3; 32]);
        config.realm.secrets = vec![SECRET.to_vec()];
        config.relay_ip_v4 = Some(RELAY_IP.parse().expect("is an address"));
        config.relay_ip_v6 = Some("2a00::9".parse().expect("is an address"));
        config.relay_ports = 50000..=50015;
        config.allow_peers = vec!["10.0.0.0/8".parse().expect("is a network")];
        config.sockets = SOCKETS.map(address).to_vec();
        config.limits.permissions_max = 4;
        config.limits.channels_max = 3;
        config.limits.allocations_per_user_max = 3;
        let now = Instant::now();
        Self {
            server: Server::new(config, [1; 32], now, Duration::from_secs(UNIX_START)),
            now,
            bound: BTreeSet::new(),
            waiting: Vec::new(),
            is_slow: false,
            refusals_left: 0,
            nonce_by_client: BTreeMap::new(),
            token: None,
            transactions: 0,
            allocations: BTreeMap::new(),
        }
    }

    fn apply(&mut self, operation: Operation<'_>) {
        match operation {
            Operation::Garbage { client, bytes } => self.garbage(client_of(client), bytes),
            Operation::Request {
                client,
                user,
                request,
                flip,
            } => {
                self.request(client_of(client), user, &request, flip);
            }
            Operation::Unsigned { client, request } => {
                let (method, bytes) = self.message(&request, |_| {});
                self.stranger(client_of(client), method, &bytes);
            }
            Operation::Send {
                client,
                peer,
                bytes,
            } => {
                self.send(client_of(client), peer_of(peer), bytes);
            }
            Operation::SendOn {
                client,
                number,
                bytes,
            } => {
                self.send_on(client_of(client), number_of(number), bytes);
            }
            Operation::Peer { relay, peer, bytes } => self.peer_sends(relay, peer_of(peer), bytes),
            Operation::Permit { user, peer } => self.permit(user_of(user).0, peer_of(peer).ip()),
            Operation::Gone { client } => {
                self.server.handle_client_gone(self.now, client_of(client));
            }
            Operation::Wait { seconds } => {
                self.now += Duration::from_secs(u64::from(seconds % 700));
                self.server.handle_timeout(self.now);
            }
            Operation::Refuse { ports } => self.refusals_left = ports,
            Operation::Slow => self.is_slow = true,
            Operation::CatchUp => self.is_slow = false,
        }
        self.drive();
        self.learn();
        // Allocates that waited for a slow driver are answered late.
        while let Some(reply) = self.server.poll_transmit() {
            let message = Message::decode(&reply.bytes).expect("replies are well formed");
            assert_eq!(message.method(), Method::ALLOCATE);
        }
    }

    /// Ends everything; then nothing may be left.
    fn end(mut self) -> Stats {
        self.is_slow = false;
        self.drive();
        for client in CLIENTS {
            self.server.handle_client_gone(self.now, client_of(client));
        }
        self.now += Duration::from_secs(100);
        self.server.handle_timeout(self.now);
        self.drive();
        self.learn();
        assert!(self.allocations.is_empty());
        assert_eq!(self.bound, BTreeSet::new(), "every port is given back");
        assert_eq!(self.server.stats().allocations, 0);
        assert_eq!(self.server.poll_timeout(), None);
        self.server.stats().clone()
    }

    /// Sends bytes as they are. They may be a datagram that is data; then the model must agree.
    fn garbage(&mut self, client: FiveTuple, bytes: &[u8]) {
        if let Some(forward) = self.server.handle_client(self.now, client, bytes) {
            self.check_to_peer(client, &forward, bytes.len());
        }
        self.drive();
        while let Some(reply) = self.server.poll_transmit() {
            assert!(reply.bytes.len() <= UNPROVEN_BYTES_MAX.max(bytes.len()));
        }
    }

    /// Sends a request that proves nothing, and learns the nonce.
    fn stranger(&mut self, client: FiveTuple, method: Method, bytes: &[u8]) {
        assert_eq!(self.server.handle_client(self.now, client, bytes), None);
        self.drive();
        while let Some(reply) = self.server.poll_transmit() {
            let message = Message::decode(&reply.bytes).expect("replies are well formed");
            assert_eq!((message.class(), message.method()), (Class::Error, method));
            assert!(reply.bytes.len() <= UNPROVEN_BYTES_MAX);
            self.note_nonce(client, &message);
        }
    }

    /// Sends a request with right credentials, changed in one bit if `flip` says so.
    fn request(&mut self, client: FiveTuple, user: u8, request: &Request, flip: Option<u16>) {
        let (_, username) = user_of(user);
        let key = Key::long_term(&username, "tombolo", &password_of(SECRET, &username));
        let nonce = self
            .nonce_by_client
            .get(&client)
            .cloned()
            .unwrap_or_default();
        let (method, mut bytes) = self.message(request, |writer| {
            writer
                .attribute(&Username::new(&username).expect("short"))
                .attribute(&Realm::new("tombolo").expect("short"))
                .attribute(&Nonce::new(&nonce).expect("short"))
                .integrity(&key);
        });
        if let Some(flip) = flip {
            let bit = usize::from(flip) % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let forward = self.server.handle_client(self.now, client, &bytes);
        assert_eq!(forward, None, "is not data");
        self.drive();
        while let Some(reply) = self.server.poll_transmit() {
            let message = Message::decode(&reply.bytes).expect("replies are well formed");
            self.note_nonce(reply.to, &message);
            if message.class() != Class::Success || message.method() == Method::BINDING {
                continue;
            }
            assert_eq!(flip, None, "a changed request has no success");
            assert_eq!(message.transaction_id().0, bytes[8..20]);
            message
                .check_integrity(&key)
                .expect("successes prove themselves");
            self.learn();
            self.succeeded(client, method, request, &message);
        }
    }

    /// Takes over into the model what a success means.
    fn succeeded(
        &mut self,
        client: FiveTuple,
        method: Method,
        request: &Request,
        reply: &Message<'_>,
    ) {
        if let Ok(Some(token)) = reply.attribute::<ReservationToken>() {
            self.token = Some(token);
        }
        let now = self.now;
        let Some(model) = self.allocations.get_mut(&client) else {
            return;
        };
        let peers = request.peers.iter().flatten().copied().map(peer_of);
        if method == Method::CREATE_PERMISSION {
            model
                .permissions
                .extend(peers.map(|peer| (peer.ip(), now + PERMISSION_LIFETIME)));
        } else if method == Method::CHANNEL_BIND {
            let peer = peers.into_iter().next().expect("a channel has a peer");
            let number = number_of(request.number.expect("a channel has a number"));
            model
                .permissions
                .insert(peer.ip(), now + PERMISSION_LIFETIME);
            model
                .channels
                .insert(number, (peer, now + CHANNEL_LIFETIME));
        }
    }

    fn send(&mut self, client: FiveTuple, peer: SocketAddr, bytes: u16) {
        let payload = vec![7; usize::from(bytes % 2000)];
        let mut data = Vec::new();
        let transaction = self.transaction();
        MessageWriter::new(&mut data, Class::Indication, Method::SEND, transaction)
            .attribute(&XorPeerAddress(peer))
            .attribute(&Data(&payload));
        let Some(forward) = self.server.handle_client(self.now, client, &data) else {
            return;
        };
        let Forward::ToPeer { to, range, .. } = &forward else {
            panic!("goes to a peer")
        };
        assert_eq!((to.0, &data[range.clone()]), (peer, &payload[..]));
        self.check_to_peer(client, &forward, data.len());
    }

    fn send_on(&mut self, client: FiveTuple, number: ChannelNumber, bytes: u16) {
        let payload = vec![7; usize::from(bytes % 2000)];
        let mut data = number.header(payload.len()).expect("short").to_vec();
        data.extend_from_slice(&payload);
        let Some(forward) = self.server.handle_client(self.now, client, &data) else {
            return;
        };
        let Forward::ToPeer { to, range, .. } = &forward else {
            panic!("goes to a peer")
        };
        assert_eq!(data[range.clone()], payload);
        let model = self
            .allocations
            .get(&client)
            .expect("only allocations forward");
        let (peer, expires) = model.channels.get(&number).expect("the channel was bound");
        assert_eq!(to.0, *peer);
        assert!(self.now < *expires);
    }

    fn check_to_peer(&self, client: FiveTuple, forward: &Forward, bytes: usize) {
        let Forward::ToPeer { at, to, range } = forward else {
            panic!("goes to a peer")
        };
        assert!(range.end <= bytes);
        let model = self
            .allocations
            .get(&client)
            .expect("only allocations forward");
        assert!(model.relays.contains(at));
        assert!(self.bound.contains(at));
        let is_permitted = model
            .permissions
            .get(&to.0.ip())
            .is_some_and(|expires| self.now < *expires);
        let mut channels = model.channels.values();
        let is_bound = channels.any(|(peer, expires)| *peer == to.0 && self.now < *expires);
        assert!(is_permitted || is_bound, "nobody allowed {}", to.0);
        assert!(is_harmless(to.0), "{} should be denied", to.0);
    }

    fn peer_sends(&mut self, relay: u8, peer: SocketAddr, bytes: u16) {
        let all: Vec<RelayAddr> = self.bound.iter().copied().collect();
        let Some(at) = all.get(usize::from(relay) % all.len().max(1)).copied() else {
            return;
        };
        let payload = vec![9; usize::from(bytes)];
        let forward = self
            .server
            .handle_peer(self.now, at, PeerAddr(peer), &payload);
        let Some(Forward::ToClient {
            to,
            header,
            range,
            padding,
        }) = forward
        else {
            assert_eq!(forward, None, "a peer's packet goes to a client");
            return;
        };
        let model = self.allocations.get(&to).expect("only allocations forward");
        assert!(model.relays.contains(&at));
        let expires = model
            .permissions
            .get(&peer.ip().to_canonical())
            .expect("was permitted");
        assert!(self.now < *expires);
        assert_eq!(range, 0..payload.len());
        let whole = [&header[..], &payload[..], &[0; 3][..padding]].concat();
        let is_data = Message::decode(&whole).is_ok_and(|message| {
            message.required() == Ok(Data(&payload))
                && message.required() == Ok(XorPeerAddress(peer.ip_canonical()))
        });
        let is_channel_data =
            tombolo_stun::ChannelData::decode(&whole).is_ok_and(|decoded| decoded.data == payload);
        assert!(is_data || is_channel_data, "a client can read it");
    }

    fn permit(&mut self, user: &str, peer: IpAddr) {
        self.server.permit(self.now, user, peer);
        let expires = self.now + PERMISSION_LIFETIME;
        for model in self
            .allocations
            .values_mut()
            .filter(|model| model.user == user)
        {
            model.permissions.insert(peer.to_canonical(), expires);
        }
    }

    fn message(
        &mut self,
        request: &Request,
        end: impl FnOnce(&mut MessageWriter<'_>),
    ) -> (Method, Vec<u8>) {
        let method = METHODS[usize::from(request.method) % METHODS.len()];
        let mut bytes = Vec::new();
        let transaction = self.transaction();
        let token = self.token.filter(|_| request.redeems);
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, transaction);
        if method == Method::ALLOCATE {
            let usual = request.transport.unwrap_or(0);
            writer.attribute(&RequestedTransport(if usual < 250 { 17 } else { usual }));
        }
        if let Some(lifetime) = request.lifetime {
            writer.attribute(&Lifetime(if lifetime % 4 == 0 {
                0
            } else {
                lifetime % 5000
            }));
        }
        if let Some(number) = request.number {
            writer.attribute(&number_of(number));
        }
        for peer in request.peers.iter().flatten() {
            writer.attribute(&XorPeerAddress(peer_of(*peer)));
        }
        if let Some(family) = request.family {
            match family % 3 {
                0 => writer.attribute(&RequestedAddressFamily(AddressFamily::V4)),
                1 => writer.attribute(&RequestedAddressFamily(AddressFamily::V6)),
                _ => writer.attribute(&RawAttribute {
                    kind: AttributeType::REQUESTED_ADDRESS_FAMILY,
                    value: &[family, 0, 0, 0],
                }),
            };
        }
        if request.additional.is_some() {
            writer.attribute(&AdditionalAddressFamily(AddressFamily::V6));
        }
        if let Some(reserve_next) = request.even {
            writer.attribute(&EvenPort { reserve_next });
        }
        if let Some(token) = token {
            writer.attribute(&token);
        }
        end(&mut writer);
        (method, bytes)
    }

    fn transaction(&mut self) -> TransactionId {
        self.transactions += 1;
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.transactions.to_be_bytes());
        TransactionId(id)
    }

    fn note_nonce(&mut self, client: FiveTuple, message: &Message<'_>) {
        if let Ok(Some(nonce)) = message.attribute::<Nonce<'_>>() {
            self.nonce_by_client
                .insert(client, nonce.as_str().to_owned());
        }
    }

    /// Does what the server commands, as a driver would.
    fn drive(&mut self) {
        if !self.is_slow {
            for command in std::mem::take(&mut self.waiting) {
                self.obey(command);
            }
        }
        while let Some(command) = self.server.poll_command() {
            match command {
                Command::BindPort { .. } if self.is_slow => self.waiting.push(command),
                command => self.obey(command),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::BindPort { id, address } => {
                let answer = match self.refusals_left.checked_sub(1) {
                    Some(left) => {
                        self.refusals_left = left;
                        Err(PortError::InUse)
                    }
                    None => {
                        assert!(self.bound.insert(address), "{address:?} is bound already");
                        Ok(address)
                    }
                };
                self.server.handle_port(self.now, id, answer);
            }
            // Every user here is known to the configuration.
            Command::Authenticate { username, .. } => panic!("asked about {username:?}"),
            Command::ReleasePort(relay) => {
                assert!(self.bound.remove(&relay), "{relay:?} is not bound");
            }
        }
    }

    /// Takes over into the model what happened.
    fn learn(&mut self) {
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Allocated {
                    client,
                    user,
                    relays,
                } => {
                    let (permissions, channels) = Default::default();
                    let model = Model {
                        user,
                        relays,
                        permissions,
                        channels,
                    };
                    let before = self.allocations.insert(client, model);
                    assert!(before.is_none(), "one allocation per client");
                }
                Event::Closed { client, .. } => {
                    self.allocations.remove(&client).expect("closes once");
                }
                _ => {}
            }
        }
        let count = u64::try_from(self.allocations.len()).expect("few");
        assert_eq!(self.server.stats().allocations, count);
    }
}

/// Says of the addresses that the world uses which ones a server may send to.
fn is_harmless(peer: SocketAddr) -> bool {
    match peer.ip() {
        IpAddr::V4(ip) if ip.to_string() == RELAY_IP => (50000..=50015).contains(&peer.port()),
        IpAddr::V4(ip) => {
            let is_special = ip.is_loopback() || ip.is_unspecified() || ip.is_link_local();
            let is_special = is_special || ip.is_multicast() || ip.is_broadcast();
            let is_lab = ip.octets()[0] == 10;
            peer.port() != 0 && !is_special && (is_lab || !ip.is_private())
        }
        IpAddr::V6(ip) => {
            peer.port() != 0 && ip.segments()[0] & 0xe000 == 0x2000 && ip.segments()[0] != 0x2002
        }
    }
}

trait IpCanonical {
    fn ip_canonical(self) -> SocketAddr;
}

impl IpCanonical for SocketAddr {
    fn ip_canonical(self) -> SocketAddr {
        SocketAddr::new(self.ip().to_canonical(), self.port())
    }
}

fn client_of(number: u8) -> FiveTuple {
    let server = address(SOCKETS[usize::from(number >> 7)]);
    let (transport, client) = match number % 5 {
        0 => (Transport::Udp, "8.8.8.8:1000"),
        1 => (Transport::Udp, "8.8.8.8:1001"),
        2 => (Transport::Udp, "[2a00::8]:1000"),
        3 => (Transport::Tcp, "8.8.8.8:1000"),
        _ => (Transport::Tls, "7.7.7.7:1000"),
    };
    FiveTuple {
        transport,
        client: address(client),
        server,
    }
}

/// Returns the name, and the username with its expiry; the second one expires soon.
fn user_of(number: u8) -> (&'static str, String) {
    match number % 3 {
        0 => ("alice", format!("{}:alice", UNIX_START + 1_000_000)),
        1 => ("alice", format!("{}:alice", UNIX_START + 900)),
        _ => ("bob", format!("{}:bob", UNIX_START + 1_000_000)),
    }
}

fn peer_of(number: u8) -> SocketAddr {
    address(PEERS[usize::from(number) % PEERS.len()])
}

fn number_of(number: u8) -> ChannelNumber {
    ChannelNumber::new(0x4000 + u16::from(number % 6)).expect("is in range")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("is an address")
}

const OPERATIONS_MAX: usize = 256;
const UNIX_START: u64 = 1_800_000_000;
const SECRET: &[u8] = b"secret";
const RELAY_IP: &str = "9.9.9.9";
/// The longest answer to a stranger: a Binding response of a node with two IPv6 addresses.
const UNPROVEN_BYTES_MAX: usize = 92;
const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
const SOCKETS: [&str; 2] = ["9.9.9.9:3478", "9.9.9.10:3479"];
/// Numbers that make every client at both sockets.
const CLIENTS: [u8; 10] = [0, 1, 2, 3, 4, 130, 131, 132, 133, 134];
const METHODS: [Method; 5] = [
    Method::ALLOCATE,
    Method::REFRESH,
    Method::CREATE_PERMISSION,
    Method::CHANNEL_BIND,
    Method::ALLOCATE,
];
const PEERS: [&str; 14] = [
    "8.8.4.4:5000",
    "8.8.4.4:5001",
    "8.8.4.5:5000",
    "10.1.2.3:5000",
    "[2a00::77]:5000",
    "[2a00::78]:5000",
    "127.0.0.1:80",
    "192.168.1.1:80",
    "9.9.9.9:3478",
    "9.9.9.9:50001",
    "8.8.4.4:0",
    "[::ffff:8.8.4.4]:5000",
    "[2002:808:404::]:5000",
    "169.254.169.254:80",
];
