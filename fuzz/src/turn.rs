//! The TURN server core against a model: clients with right credentials, with broken ones and
//! with garbage, peers, operators, a driver that is slow or refuses, and time.
//!
//! Invariants: nothing panics; a payload leaves towards a peer exactly where the model knows a
//! permission or a channel, and reaches exactly the client that allowed it; no connection to a
//! peer that nobody asked for or allowed; no changed request succeeds; replies to strangers are
//! short; every port and connection is given back in the end.

mod model;
mod operation;
mod seeds;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tombolo_stun::{
    AdditionalAddressFamily, AddressFamily, AttributeType, ChannelNumber, Class, ConnectionId,
    Data, DecodeError, DontFragment, EvenPort, Icmp, Key, Lifetime, Message, MessageWriter, Method,
    MobilityTicket, Nonce, RawAttribute, Realm, RequestedAddressFamily, RequestedTransport,
    ReservationToken, TransactionId, Username, XorPeerAddress,
};
use tombolo_turn::server::{
    self, Command, Config, ConnectError, Drain, Event, FiveTuple, Forward, Fragment, PeerAddr,
    PeerError, PortError, RelayAddr, Server, Spliced, Stats, Transmit, Transport, password_of,
};

pub use seeds::seeds;

use model::{Carrier, Link, Model, Models, Policy};
use operation::{Operation, Request};

/// Runs the operations that `data` spells out.
pub fn run(data: &[u8]) {
    let _ = play(data);
}

/// Like [`run`]; returns what the server counted.
pub fn play(data: &[u8]) -> Stats {
    let mut input = data;
    let mut world = World::new();
    for _ in 0..OPERATIONS_MAX {
        let Some(operation) = Operation::read(&mut input) else {
            break;
        };
        world.apply(operation);
    }
    world.end()
}

struct World {
    server: Server,
    now: Instant,
    policy: Policy,
    bound: BTreeSet<RelayAddr>,
    /// Those of `bound` that are for TCP.
    listening: BTreeSet<RelayAddr>,
    waiting: Vec<Command>,
    is_slow: bool,
    refusals_left: u8,
    failures_left: u8,
    nonce_by_client: BTreeMap<FiveTuple, String>,
    reservation: Option<ReservationToken>,
    tickets: Vec<Vec<u8>>,
    /// Whose request is being answered.
    key: Option<Key>,
    transactions: u64,
    models: Models,
}

/// Tells the answer to a request of classic STUN, which has no magic cookie and is refused over DTLS
/// alone. See RFC 8489 §11.
pub(crate) fn is_classic_error(reply: &Transmit) -> bool {
    let is_classic = Message::decode(&reply.bytes).err() == Some(DecodeError::NoMagicCookie);
    if is_classic {
        assert_eq!(reply.to.transport, Transport::Dtls);
        assert_eq!(reply.bytes.len(), 28);
        assert_eq!(reply.bytes[20..], [0, 9, 0, 4, 0, 0, 5, 0]);
    }
    is_classic
}

impl World {
    fn new() -> Self {
        let policy = Policy { denies: false };
        let now = Instant::now();
        let unix = Duration::from_secs(UNIX_START);
        Self {
            server: Server::new(config(policy), [1; 32], now, unix),
            now,
            policy,
            bound: BTreeSet::new(),
            listening: BTreeSet::new(),
            waiting: Vec::new(),
            is_slow: false,
            refusals_left: 0,
            failures_left: 0,
            nonce_by_client: BTreeMap::new(),
            reservation: None,
            tickets: Vec::new(),
            key: None,
            transactions: 0,
            models: Models::default(),
        }
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Garbage { client, bytes } => self.garbage(client_of(client), &bytes),
            Operation::Request {
                client,
                user,
                flip,
                request,
            } => self.request(client_of(client), user, &request, flip),
            Operation::Unsigned { client, request } => {
                let (method, bytes) = self.message(&request, |_| {});
                self.stranger(client_of(client), method, &bytes);
            }
            Operation::Send {
                client,
                peer,
                bytes,
            } => self.send(client_of(client), peer_of(peer), bytes),
            Operation::SendOn {
                client,
                number,
                bytes,
            } => self.send_on(client_of(client), number_of(number), bytes),
            Operation::Peer { relay, peer, bytes } => self.peer_sends(relay, peer_of(peer), bytes),
            Operation::PeerError { relay, peer, kind } => {
                self.peer_fails(relay, peer_of(peer), kind);
            }
            Operation::Permit { user, peer } => self.permit(user_of(user).0, peer_of(peer).ip()),
            Operation::Gone { client } => self.client_gone(client_of(client)),
            Operation::Wait { seconds } => {
                self.now += Duration::from_secs(u64::from(seconds % 700));
                self.server.handle_timeout(self.now);
            }
            Operation::Refuse { ports } => self.refusals_left = ports,
            Operation::Driver { is_slow } => self.is_slow = is_slow,
            Operation::Accept { relay, peer } => self.accept(relay, peer_of(peer)),
            Operation::PeerGone { connection } => self.peer_gone(connection),
            Operation::FailConnects { count } => self.failures_left = count,
            Operation::End { client } => {
                let client = client_of(client);
                self.server.end(self.now, |one| one.client == client);
            }
            Operation::Drain { is_on: true } => self.server.drain(self.now, Drain::default()),
            Operation::Drain { is_on: false } => self.server.undrain(),
            Operation::Reconfigure { denies } => self.reconfigure(Policy { denies }),
        }
        self.drive();
        self.learn();
        for reply in self.transmits() {
            self.late(&reply);
        }
        self.models.check(self.now, self.policy, &self.bound);
    }

    /// Ends everything; then nothing may be left.
    fn end(mut self) -> Stats {
        self.is_slow = false;
        self.drive();
        for client in CLIENTS {
            self.client_gone(client_of(client));
            self.drive();
            self.learn();
        }
        // A mobile one outlives its connection.
        self.now += Duration::from_secs(3700);
        self.server.handle_timeout(self.now);
        self.drive();
        self.learn();
        assert!(self.models.all.is_empty());
        assert!(self.models.links.is_empty(), "every connection is closed");
        assert_eq!(self.bound, BTreeSet::new(), "every port is given back");
        assert_eq!(self.server.stats().allocations, 0);
        assert_eq!(self.server.poll_timeout(), None);
        self.server.stats().clone()
    }

    /// Sends bytes as they are. They may be a datagram that is data; then the model must agree.
    fn garbage(&mut self, client: FiveTuple, bytes: &[u8]) {
        let Some(forward) = self.hear(client, bytes) else {
            return;
        };
        if let Some(forward) = forward {
            self.check_to_peer(client, &forward, bytes.len());
        }
        self.drive();
        for reply in self.transmits() {
            assert!(reply.bytes.len() <= UNPROVEN_BYTES_MAX.max(bytes.len()));
        }
    }

    /// Sends a request that proves nothing, and learns the nonce.
    fn stranger(&mut self, client: FiveTuple, method: Method, bytes: &[u8]) {
        let Some(forward) = self.hear(client, bytes) else {
            return;
        };
        assert_eq!(forward, None);
        self.drive();
        for reply in self.transmits() {
            let message = Message::decode(&reply.bytes).expect("replies are well formed");
            assert_eq!(message.method(), method);
            assert!(message.class() == Class::Error || method == Method::BINDING);
            assert!(reply.bytes.len() <= UNPROVEN_BYTES_MAX);
            self.note(client, &message);
        }
    }

    /// Sends a request with right credentials, changed in one bit if `flip` says so.
    fn request(&mut self, client: FiveTuple, user: u8, request: &Request, flip: u16) {
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
        if let Some(flip) = flip.checked_sub(1) {
            let bit = usize::from(flip) % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let Some(forward) = self.hear(client, &bytes) else {
            return;
        };
        assert_eq!(forward, None, "is not data");
        self.key = Some(key.clone()).filter(|_| flip == 0);
        self.drive();
        self.key = None;
        self.learn();
        for reply in self.transmits() {
            let message = Message::decode(&reply.bytes).expect("replies are well formed");
            self.note(reply.to, &message);
            if message.class() != Class::Success || message.method() == Method::BINDING {
                continue;
            }
            assert_eq!(flip, 0, "a changed request has no success");
            assert_eq!(message.transaction_id().0, bytes[8..20]);
            message
                .check_integrity(&key)
                .expect("successes prove themselves");
            self.succeeded(client, method, request);
        }
    }

    /// Takes over into the model what a success means.
    fn succeeded(&mut self, client: FiveTuple, method: Method, request: &Request) {
        let now = self.now;
        let policy = self.policy;
        let Some(model) = self.models.of_mut(client) else {
            return;
        };
        if method == Method::CREATE_PERMISSION {
            for peer in peers_of(request) {
                assert!(policy.allows_ip(peer.ip()), "{peer} should be denied");
                model.permit(now, peer.ip());
            }
        } else if method == Method::CHANNEL_BIND {
            assert_eq!(model.carrier, Carrier::Udp);
            let peer = peers_of(request).next().expect("a channel has a peer");
            assert!(policy.allows(peer), "{peer} should be denied");
            model.bind(now, number_of(request.number), peer);
        }
    }

    fn send(&mut self, client: FiveTuple, peer: SocketAddr, bytes: u16) {
        let payload = vec![7; usize::from(bytes % 2000)];
        let mut data = Vec::new();
        let transaction = self.transaction();
        let mut writer =
            MessageWriter::new(&mut data, Class::Indication, Method::SEND, transaction);
        writer
            .attribute(&XorPeerAddress(peer))
            .attribute(&Data(&payload));
        if bytes % 2 == 1 {
            writer.attribute(&DontFragment);
        }
        let expected = self.models.of(client).is_some_and(|model| {
            model.carrier == Carrier::Udp
                && model.relay_for(peer.ip()).is_some()
                && model.is_permitted(self.now, peer.ip())
                && self.policy.allows(peer)
        });
        let Some(forward) = self.hear(client, &data) else {
            return;
        };
        assert_eq!(forward.is_some(), expected, "{client:?} to {peer}");
        let Some(forward) = forward else {
            return;
        };
        let Forward::ToPeer {
            to,
            range,
            fragment,
            ..
        } = &forward
        else {
            panic!("goes to a peer")
        };
        assert_eq!((to.0, &data[range.clone()]), (peer, &payload[..]));
        assert!(bytes % 2 == 1 || *fragment == Fragment::Allowed);
        self.check_to_peer(client, &forward, data.len());
    }

    fn send_on(&mut self, client: FiveTuple, number: ChannelNumber, bytes: u16) {
        let payload = vec![7; usize::from(bytes % 2000)];
        let mut data = number.header(payload.len()).expect("short").to_vec();
        data.extend_from_slice(&payload);
        let expected = self.models.of(client).and_then(|model| {
            let peer = model.channel(self.now, number)?;
            model.relay_for(peer.ip()).map(|_| peer)
        });
        let Some(forward) = self.hear(client, &data) else {
            return;
        };
        let to = forward.as_ref().map(|forward| {
            let Forward::ToPeer { to, range, .. } = forward else {
                panic!("goes to a peer")
            };
            assert_eq!(data[range.clone()], payload);
            to.0
        });
        assert_eq!(to, expected, "{client:?} on {number:?}");
        if let Some(forward) = forward {
            self.check_to_peer(client, &forward, data.len());
        }
    }

    fn check_to_peer(&self, client: FiveTuple, forward: &Forward, bytes: usize) {
        let Forward::ToPeer { at, to, range, .. } = forward else {
            panic!("goes to a peer")
        };
        assert!(range.end <= bytes);
        let model = self.models.of(client).expect("only allocations forward");
        assert!(model.relays.contains(at));
        assert!(self.bound.contains(at) && !self.listening.contains(at));
        let is_permitted = model.is_permitted(self.now, to.0.ip());
        let is_bound = model.has_channel_to(self.now, to.0);
        assert!(is_permitted || is_bound, "nobody allowed {}", to.0);
        assert!(self.policy.allows(to.0), "{} should be denied", to.0);
    }

    fn peer_sends(&mut self, relay: u8, peer: SocketAddr, bytes: u16) {
        let Some(at) = pick(&self.bound, relay) else {
            return;
        };
        let payload = vec![9; usize::from(bytes)];
        let permitting = self.models.at(at).filter(|model| {
            model.carrier == Carrier::Udp
                && model.is_permitted(self.now, peer.ip().to_canonical())
                && !model.is_detached
        });
        let expected = permitting.map(|model| model.client);
        let forward = self
            .server
            .handle_peer(self.now, at, PeerAddr(peer), &payload);
        let Some(forward) = forward else {
            let is_too_long = payload.len() > PAYLOAD_BYTES_SURE;
            assert!(is_too_long || expected.is_none(), "a packet of {peer}");
            return;
        };
        let Forward::ToClient {
            to,
            header,
            range,
            padding,
        } = forward
        else {
            panic!("a peer's packet goes to a client")
        };
        assert_eq!(Some(to), expected);
        assert_eq!(range, 0..payload.len());
        let whole = [&header[..], &payload[..], &[0; 3][..padding]].concat();
        let is_data = Message::decode(&whole).is_ok_and(|message| {
            message.required() == Ok(Data(&payload))
                && message.required() == Ok(XorPeerAddress(canonical(peer)))
        });
        let is_channel_data =
            tombolo_stun::ChannelData::decode(&whole).is_ok_and(|decoded| decoded.data == payload);
        assert!(is_data || is_channel_data, "a client can read it");
    }

    fn peer_fails(&mut self, relay: u8, peer: SocketAddr, kind: u8) {
        let Some(at) = pick(&self.bound, relay) else {
            return;
        };
        let error = PeerError {
            kind,
            code: 4,
            data: [kind; 4],
        };
        self.server
            .handle_peer_error(self.now, at, PeerAddr(peer), error);
        for reply in self.transmits() {
            let model = self.models.at(at).expect("only allocations are told");
            assert_eq!(reply.to, model.client);
            assert!(!model.is_detached);
            assert!(model.is_permitted(self.now, peer.ip().to_canonical()));
            let message = Message::decode(&reply.bytes).expect("is well formed");
            assert_eq!(message.method(), Method::DATA);
            assert!(message.required::<Icmp>().is_ok());
        }
    }

    fn permit(&mut self, user: &str, peer: IpAddr) {
        self.server.permit(self.now, user, peer);
        let peer = peer.to_canonical();
        if !self.policy.allows_ip(peer) {
            return;
        }
        let all = self.models.all.iter_mut();
        for model in all.filter(|model| model.user == user) {
            model.introduce(self.now, peer);
        }
    }

    fn client_gone(&mut self, client: FiveTuple) {
        self.server.handle_client_gone(self.now, client);
        let Some(model) = self.models.of_mut(client) else {
            return;
        };
        if model.client != client {
            // The new address was none in the end; the old one stays.
            model.next = None;
        } else if model.is_mobile && model.next.is_none() {
            model.is_detached = true;
        }
    }

    fn accept(&mut self, relay: u8, peer: SocketAddr) {
        let Some(at) = pick(&self.listening, relay) else {
            return;
        };
        let from = PeerAddr(peer);
        let Some(id) = self.server.handle_peer_accepted(self.now, at, from) else {
            return;
        };
        let model = self.models.at(at).expect("only allocations accept");
        assert_eq!(model.carrier, Carrier::Tcp);
        assert!(model.is_permitted(self.now, peer.ip().to_canonical()));
        let joined = None;
        let peer = canonical(peer);
        let before = self.models.links.insert(id, Link { at, peer, joined });
        assert!(before.is_none(), "names are used once");
    }

    fn peer_gone(&mut self, connection: u8) {
        let ids: BTreeSet<_> = self.models.links.keys().copied().collect();
        let Some(id) = pick(&ids, connection) else {
            return;
        };
        self.models.links.remove(&id);
        self.server.handle_peer_gone(self.now, id);
    }

    fn reconfigure(&mut self, policy: Policy) {
        self.policy = policy;
        self.server.reconfigure(self.now, config(policy));
        let all = self.models.all.iter_mut();
        all.for_each(|model| model.judge(policy));
    }

    /// Checks a message that comes without being asked for at once: what waited for a slow driver,
    /// and that a peer has connected.
    fn late(&mut self, reply: &Transmit) {
        let message = Message::decode(&reply.bytes).expect("replies are well formed");
        self.note(reply.to, &message);
        let id = message.required::<ConnectionId>();
        match (message.class(), message.method()) {
            (Class::Success | Class::Error, Method::ALLOCATE) | (Class::Error, Method::CONNECT) => {
            }
            (Class::Success, Method::CONNECT) | (Class::Indication, Method::CONNECTION_ATTEMPT) => {
                let ConnectionId(id) = id.expect("says which");
                assert!(self.models.links.keys().any(|link| link.0 == id));
            }
            other => panic!("nobody asked for {other:?}"),
        }
    }

    /// Lets the server hear a client; `None` where its connection has left the server.
    fn hear(&mut self, client: FiveTuple, bytes: &[u8]) -> Option<Option<Forward>> {
        let mut links = self.models.links.values();
        if links.any(|link| link.joined == Some(client)) {
            return None;
        }
        Some(self.server.handle_client(self.now, client, bytes))
    }

    fn message(
        &mut self,
        request: &Request,
        end: impl FnOnce(&mut MessageWriter<'_>),
    ) -> (Method, Vec<u8>) {
        let method = METHODS[usize::from(request.method) % METHODS.len()];
        let mut bytes = Vec::new();
        let transaction = self.transaction();
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, transaction);
        write_transport(&mut writer, method, request);
        if request.has(Request::LIFETIME) {
            writer.attribute(&Lifetime(u32::from(request.lifetime)));
        }
        if request.has(Request::NUMBER) {
            writer.attribute(&number_of(request.number));
        }
        for peer in peers_of(request) {
            writer.attribute(&XorPeerAddress(peer));
        }
        if request.has(Request::FAMILY) {
            match request.family % 3 {
                0 => writer.attribute(&RequestedAddressFamily(AddressFamily::V4)),
                1 => writer.attribute(&RequestedAddressFamily(AddressFamily::V6)),
                _ => writer.attribute(&RawAttribute {
                    kind: AttributeType::REQUESTED_ADDRESS_FAMILY,
                    value: &[request.family, 0, 0, 0],
                }),
            };
        }
        let ids: BTreeSet<_> = self.models.links.keys().map(|id| id.0).collect();
        if request.has(Request::CONNECTION) {
            let id = pick(&ids, request.pick).unwrap_or(u32::from(request.pick));
            writer.attribute(&ConnectionId(id));
        }
        let ticket = self.tickets.get(usize::from(request.pick) % TICKETS_KEPT);
        if request.has(Request::TICKET)
            && let Some(ticket) = ticket
        {
            writer.attribute(&MobilityTicket(ticket));
        }
        if request.also(Request::ADDITIONAL_FAMILY) {
            writer.attribute(&AdditionalAddressFamily(AddressFamily::V6));
        }
        if request.also(Request::EVEN) {
            let reserve_next = request.also(Request::RESERVE_NEXT);
            writer.attribute(&EvenPort { reserve_next });
        }
        if request.also(Request::REDEEM)
            && let Some(token) = self.reservation
        {
            writer.attribute(&token);
        }
        if request.also(Request::MOBILE) {
            writer.attribute(&MobilityTicket(&[]));
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

    /// Keeps what a client needs for its next requests.
    fn note(&mut self, client: FiveTuple, message: &Message<'_>) {
        if let Ok(Some(nonce)) = message.attribute::<Nonce<'_>>() {
            self.nonce_by_client
                .insert(client, nonce.as_str().to_owned());
        }
        if let Ok(Some(token)) = message.attribute::<ReservationToken>() {
            self.reservation = Some(token);
        }
        if let Ok(Some(MobilityTicket(ticket))) = message.attribute() {
            self.tickets.insert(0, ticket.to_vec());
            self.tickets.truncate(TICKETS_KEPT);
            if let Some(model) = self.models.of_mut(client) {
                model.is_mobile = true;
            }
        }
    }

    fn transmits(&mut self) -> Vec<Transmit> {
        let all = std::iter::from_fn(|| self.server.poll_transmit());
        all.filter(|reply| !is_classic_error(reply)).collect()
    }

    /// Does what the server commands, as a driver would.
    fn drive(&mut self) {
        if !self.is_slow {
            for command in std::mem::take(&mut self.waiting) {
                self.answer(command);
            }
        }
        while let Some(command) = self.server.poll_command() {
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::BindPort { .. } | Command::ListenPort { .. } if self.is_slow => {
                self.waiting.push(command);
            }
            Command::BindPort { .. } | Command::ListenPort { .. } => self.answer(command),
            Command::ConnectPeer { connection, at, to } => {
                let model = self.models.at(at).expect("only allocations connect");
                assert_eq!(model.carrier, Carrier::Tcp);
                assert!(self.policy.allows(to.0), "{} should be denied", to.0);
                let (peer, joined) = (to.0, None);
                let link = Link { at, peer, joined };
                let before = self.models.links.insert(connection, link);
                assert!(before.is_none(), "names are used once");
                if self.is_slow {
                    self.waiting.push(command);
                } else {
                    self.answer(command);
                }
            }
            Command::ReleasePort(relay) => {
                assert!(self.bound.remove(&relay), "{relay:?} is not bound");
                self.listening.remove(&relay);
                if let Some(model) = self.models.at_mut(relay)
                    && model.relays.len() > 1
                {
                    model.give_back(relay);
                }
            }
            Command::ClosePeer { connection } => drop(self.models.links.remove(&connection)),
            Command::Splice {
                client,
                connection,
                owner,
                reply,
                ..
            } => self.splice(client, connection, owner, &reply),
            // Every user here is known to the configuration.
            Command::Authenticate { username, .. } => panic!("asked about {username:?}"),
            Command::Redirect { .. } => panic!("there is one shard"),
        }
    }

    /// Answers a command that may have waited.
    fn answer(&mut self, command: Command) {
        match command {
            Command::BindPort { id, address } => {
                let answer = self.open(address);
                self.server.handle_port(self.now, id, answer);
            }
            Command::ListenPort { id, address } => {
                let answer = self.open(address);
                if answer.is_ok() {
                    self.listening.insert(address);
                }
                self.server.handle_port(self.now, id, answer);
            }
            Command::ConnectPeer { connection, .. } => {
                let result = match self.failures_left.checked_sub(1) {
                    Some(left) => {
                        self.failures_left = left;
                        self.models.links.remove(&connection);
                        Err(ConnectError::PeerRefused)
                    }
                    None => Ok(()),
                };
                self.server.handle_connected(self.now, connection, result);
            }
            other => panic!("{other:?} has no answer"),
        }
    }

    fn open(&mut self, address: RelayAddr) -> Result<RelayAddr, PortError> {
        if let Some(left) = self.refusals_left.checked_sub(1) {
            self.refusals_left = left;
            return Err(PortError::InUse);
        }
        assert!(self.bound.insert(address), "{address:?} is bound already");
        Ok(address)
    }

    fn splice(
        &mut self,
        client: FiveTuple,
        id: server::ConnectionId,
        owner: FiveTuple,
        reply: &[u8],
    ) {
        assert!(client.transport.is_stream());
        let model = self.models.of(owner).expect("somebody is charged");
        assert_eq!(model.carrier, Carrier::Tcp);
        let spliced = Spliced {
            to_peer: 3,
            to_client: 5,
        };
        self.server.handle_spliced(owner, spliced);
        assert!(self.models.of(client).is_none(), "is a control connection");
        let link = self.models.links.get_mut(&id).expect("is there to join");
        assert_eq!(link.joined.replace(client), None, "is joined once");
        let message = Message::decode(reply).expect("is well formed");
        assert_eq!(message.class(), Class::Success);
        let key = self.key.as_ref().expect("only right requests join");
        message
            .check_integrity(key)
            .expect("successes prove themselves");
    }

    /// Takes over into the model what happened.
    fn learn(&mut self) {
        let events = std::iter::from_fn(|| self.server.poll_event()).collect::<Vec<_>>();
        let mut events = events.into_iter().peekable();
        while let Some(event) = events.next() {
            match event {
                Event::Allocated {
                    client,
                    user,
                    relays,
                } => {
                    let is_tcp = relays.iter().any(|relay| self.listening.contains(relay));
                    let carrier = if is_tcp { Carrier::Tcp } else { Carrier::Udp };
                    assert!(self.models.of(client).is_none(), "one per client");
                    let model = Model::new(client, user, carrier, relays);
                    self.models.all.push(model);
                }
                Event::Moving { client, to, .. } => {
                    // One whose connection is closed arrives at once.
                    let is_detached = matches!(events.peek(), Some(Event::Moved { .. }));
                    if !is_detached {
                        let model = self.models.of_mut(client);
                        model.expect("only allocations move").next = Some(to);
                    }
                }
                Event::MoveGivenUp { to, .. } => {
                    let mut all = self.models.all.iter_mut();
                    if let Some(model) = all.find(|one| one.next == Some(to)) {
                        model.next = None;
                    }
                }
                Event::Moved { client, to, .. } => self.moved(client, to),
                Event::Closed { client, .. } => {
                    let bound = &self.bound;
                    let is_it = |one: &Model| {
                        one.client == client && one.relays.iter().all(|one| !bound.contains(one))
                    };
                    let place = self.models.all.iter().position(is_it);
                    self.models.all.remove(place.expect("closes once"));
                }
                _ => {}
            }
        }
        let count = u64::try_from(self.models.all.len()).expect("few");
        assert_eq!(self.server.stats().allocations, count);
    }

    /// An event does not say which one of two allocations of one client moved, and there may be another,
    /// whose client is gone, where it moved to; its relayed address says which.
    fn moved(&mut self, from: FiveTuple, to: FiveTuple) {
        let there = self.server.allocations(self.now);
        let there = there.filter(|one| one.client == to);
        let relays: Vec<_> = there
            .map(|one| RelayAddr(*one.relayed.first().expect("has one")))
            .collect();
        let may_move = |one: &&mut Model| {
            let is_it = one.relays.iter().any(|relay| relays.contains(relay));
            is_it
                && one.client == from
                && one.is_mobile
                && (one.is_detached || one.next == Some(to))
        };
        let model = self.models.all.iter_mut().find(may_move);
        let model = model.expect("only allocations move");
        (model.client, model.next, model.is_detached) = (to, None, false);
    }
}

fn config(policy: Policy) -> Config {
    let mut config = Config::new([3; 32]);
    config.realm.secrets = vec![SECRET.to_vec()];
    config.relay_ip_v4 = Some(model::RELAY_IP_V4.parse().expect("is an address"));
    config.relay_ip_v6 = Some(model::RELAY_IP_V6.parse().expect("is an address"));
    config.relay_ports = model::RELAY_PORTS;
    config.relay_tcp = true;
    config.allow_peers = vec!["10.0.0.0/8".parse().expect("is a network")];
    if policy.denies {
        config.deny_peers = vec![model::DENIED.parse().expect("is a network")];
    }
    config.sockets = SOCKETS.map(address).to_vec();
    config.limits.per_allocation.permissions = Some(model::PERMISSIONS_MAX);
    config.limits.per_allocation.channels = Some(model::CHANNELS_MAX);
    config.limits.per_allocation.connections = Some(model::CONNECTIONS_MAX);
    config.limits.per_user.allocations = Some(model::PER_USER_MAX);
    config
}

fn write_transport(writer: &mut MessageWriter<'_>, method: Method, request: &Request) {
    if method != Method::ALLOCATE {
        return;
    }
    writer.attribute(&if request.has(Request::ODD_TRANSPORT) {
        RequestedTransport(request.pick)
    } else if request.also(Request::TCP) {
        RequestedTransport::TCP
    } else {
        RequestedTransport::UDP
    });
}

fn peers_of(request: &Request) -> impl Iterator<Item = SocketAddr> + use<> {
    let [first, second] = request.peers.map(peer_of);
    let first = Some(first).filter(|_| request.has(Request::PEER));
    let second = Some(second).filter(|_| request.has(Request::SECOND_PEER));
    first.into_iter().chain(second)
}

fn pick<T: Copy>(all: &BTreeSet<T>, number: u8) -> Option<T> {
    all.iter()
        .nth(usize::from(number) % all.len().max(1))
        .copied()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn client_of(number: u8) -> FiveTuple {
    let server = address(SOCKETS[usize::from(number >> 7)]);
    let (transport, client) = match number % 7 {
        0 => (Transport::Udp, "8.8.8.8:1000"),
        1 => (Transport::Udp, "8.8.8.8:1001"),
        2 => (Transport::Udp, "[2a00::8]:1000"),
        3 => (Transport::Tcp, "8.8.8.8:1000"),
        4 => (Transport::Tls, "7.7.7.7:1000"),
        5 => (Transport::Tcp, "[2a00::8]:1001"),
        _ => (Transport::Dtls, "7.7.7.7:1000"),
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
/// The longest answer to a stranger: a Binding response of a node with two IPv6 addresses.
const UNPROVEN_BYTES_MAX: usize = 116;
/// Payloads that fit behind every header.
const PAYLOAD_BYTES_SURE: usize = 65_000;
const TICKETS_KEPT: usize = 4;
const SOCKETS: [&str; 2] = ["9.9.9.9:3478", "9.9.9.10:3479"];
/// Numbers that make every client at both sockets.
const CLIENTS: [u8; 14] = [0, 1, 2, 3, 4, 5, 6, 133, 134, 135, 136, 137, 138, 139];
const METHODS: [Method; 7] = [
    Method::ALLOCATE,
    Method::REFRESH,
    Method::CREATE_PERMISSION,
    Method::CHANNEL_BIND,
    Method::CONNECT,
    Method::CONNECTION_BIND,
    Method::BINDING,
];
const PEERS: [&str; 16] = [
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
    "9.9.9.10:50001",
    "[2a00::9]:50003",
];
