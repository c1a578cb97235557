//! Both ends against each other in one process, on a virtual clock and a wire that can lose.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tombolo_stun::Message;
use tombolo_turn::{
    client::{Client, Config, Event, Family, Patience, SendError},
    server::{
        self, Command, FiveTuple, Forward, PeerAddr, RelayAddr, Server, Transport, password_of,
    },
};

#[test]
fn the_loss_of_any_one_packet_is_made_good() {
    let lossless = whole_life(None);
    assert!(
        lossless > 20,
        "the life of two allocations takes packets: {lossless}"
    );
    for lost in 0..lossless {
        whole_life(Some(lost));
    }
}

#[test]
fn allocations_and_channels_outlive_their_lifetimes_and_every_nonce() {
    let mut world = World::with(|config| config.nonce_lifetime = Duration::from_secs(45));
    let (alice, bob) = world.pair();
    for _ in 0..60 {
        world.advance(Duration::from_secs(600));
        world.assert_exchange(alice, bob);
        world.assert_exchange(bob, alice);
    }
    let stats = world.ends[alice].client.stats();
    assert!(stats.challenges > 100, "nonces were stale: {stats:?}");
    assert_eq!((stats.timeouts, stats.retransmissions), (0, 0));
    assert_eq!(world.server.stats().allocations_created, 2);
}

#[test]
fn a_client_that_slept_too_long_learns_that_its_allocation_is_gone() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let asleep = world.ends.remove(alice);
    world.advance(Duration::from_secs(601));
    assert_eq!(
        world.server.stats().allocations,
        1,
        "only the one that was refreshed is left"
    );

    world.ends.insert(alice, asleep);
    // Awake again: its timers are long due.
    world.advance(Duration::from_secs(1));
    assert_eq!(world.ends[alice].events, [Event::Expired]);
    assert_eq!(world.ends[bob].events, []);
    let to = world.relayed(bob);
    let now = world.now;
    assert_eq!(
        world.ends[alice].client.send(now, to, 1),
        Err(SendError::NotAllocated)
    );
}

#[test]
fn a_server_that_forgot_everything_is_noticed_at_the_next_refresh() {
    let mut world = World::new();
    let (alice, _) = world.pair();
    world.server = World::server(&server_config(), world.now);
    world.advance(Duration::from_secs(240));
    assert_eq!(world.ends[alice].events, [Event::Expired]);
}

#[test]
fn time_limited_credentials_are_renewed_under_a_living_allocation() {
    let mut world = World::new();
    let alice = world.connect(&time_limited("alice", 1000));
    world.advance(Duration::from_secs(1));
    let relayed = world.relayed(alice);
    let (username, password) = time_limited("alice", 10_000);
    let now = world.now;
    world.ends[alice]
        .client
        .set_credentials(now, username, password);
    world.advance(Duration::from_secs(3600));
    assert_eq!(world.relayed(alice), relayed);
}

#[test]
fn expired_credentials_end_the_allocation_unless_new_ones_come_in_time() {
    for renew in [true, false] {
        let mut world = World::new();
        let alice = world.connect(&time_limited("alice", 300));
        world.advance(Duration::from_secs(1));
        world.relayed(alice);
        world.advance(Duration::from_secs(560));
        assert_eq!(world.ends[alice].events, [Event::CredentialsRefused]);
        world.ends[alice].events.clear();
        if renew {
            let (username, password) = time_limited("alice", 10_000);
            let now = world.now;
            world.ends[alice]
                .client
                .set_credentials(now, username, password);
        }
        world.advance(Duration::from_secs(600));
        let expected: &[Event] = if renew { &[] } else { &[Event::Expired] };
        assert_eq!(world.ends[alice].events, expected);
    }
}

#[test]
fn the_stronger_password_algorithm_is_used_where_it_is_offered() {
    let mut world = World::with(|config| {
        config.offer_sha256 = server::Sha256Offer::Always;
        config.nonce_lifetime = Duration::from_secs(45);
    });
    let (alice, bob) = world.pair();
    world.advance(Duration::from_secs(1000));
    world.assert_exchange(alice, bob);
    let messages = world
        .trace
        .iter()
        .filter_map(|bytes| Message::decode(bytes).ok());
    let mut signed = messages.filter(|message| message.has_integrity());
    assert!(signed.all(|message| message.has_integrity_sha256()));
}

#[test]
fn a_stream_carries_padded_frames_both_ways() {
    let mut world = World::new();
    let credentials = time_limited("alice", 10_000);
    let alice = world.connect_over(Transport::Tcp, &credentials);
    let bob = world.connect(&time_limited("bob", 10_000));
    world.introduce(alice, bob);
    world.assert_exchange(alice, bob);
    world.assert_exchange(bob, alice);
}

#[test]
fn the_same_seeds_make_the_same_run() {
    assert_eq!(whole_life(None), whole_life(None));
    let trace = |lost| {
        let mut world = World::new();
        world.lost = lost;
        world.pair();
        world.advance(Duration::from_secs(1000));
        world.trace
    };
    assert_eq!(trace(Some(5)), trace(Some(5)));
    assert_ne!(trace(Some(5)), trace(None));
}

/// Two clients allocate, talk, refresh and close. Returns how many packets that took.
fn whole_life(lost: Option<usize>) -> usize {
    let mut world = World::new();
    world.lost = lost;
    let (alice, bob) = world.pair();
    world.assert_exchange(alice, bob);
    world.advance(Duration::from_secs(1000));
    world.assert_exchange(bob, alice);
    for end in [alice, bob] {
        assert_eq!(world.ends[end].events, [], "lost: {lost:?}");
        let now = world.now;
        world.ends[end].client.close(now);
    }
    world.advance(Duration::from_secs(10));
    for end in [alice, bob] {
        assert_eq!(world.ends[end].events, [Event::Closed], "lost: {lost:?}");
    }
    assert_eq!(world.server.stats().allocations, 0, "lost: {lost:?}");
    world.trace.len()
}

/// Clients, one server, and the wire between them.
struct World {
    now: Instant,
    server: Server,
    ends: Vec<End>,
    wire: BTreeMap<(Instant, usize), Packet>,
    /// Every packet that was sent, lost ones included.
    trace: Vec<Vec<u8>>,
    /// Which packet the wire loses, counted from the first.
    lost: Option<usize>,
}

struct End {
    client: Client,
    tuple: FiveTuple,
    events: Vec<Event>,
    received: Vec<(SocketAddr, Vec<u8>)>,
}

enum Packet {
    FromClient(FiveTuple, Vec<u8>),
    Reply(FiveTuple, Vec<u8>),
    FromPeer(RelayAddr, PeerAddr, Vec<u8>),
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(configure: impl FnOnce(&mut server::Config)) -> Self {
        let now = Instant::now();
        let mut config = server_config();
        configure(&mut config);
        Self {
            now,
            server: Self::server(&config, now),
            ends: Vec::new(),
            wire: BTreeMap::new(),
            trace: Vec::new(),
            lost: None,
        }
    }

    fn server(config: &server::Config, now: Instant) -> Server {
        Server::new(config.clone(), [1; 32], now, Duration::ZERO)
    }

    /// Two clients that have each other as peers.
    fn pair(&mut self) -> (usize, usize) {
        let alice = self.connect(&time_limited("alice", 1_000_000));
        let bob = self.connect(&time_limited("bob", 1_000_000));
        self.introduce(alice, bob);
        (alice, bob)
    }

    fn introduce(&mut self, alice: usize, bob: usize) {
        self.advance(Duration::from_secs(2));
        let (at_alice, at_bob) = (self.relayed(alice), self.relayed(bob));
        let now = self.now;
        self.ends[alice].client.connect_peer(now, at_bob);
        self.ends[bob].client.connect_peer(now, at_alice);
        self.advance(Duration::from_secs(2));
        for (end, peer) in [(alice, at_bob), (bob, at_alice)] {
            assert_eq!(self.ends[end].events, [Event::ChannelBound(peer)]);
            self.ends[end].events.clear();
        }
    }

    fn connect(&mut self, credentials: &(String, String)) -> usize {
        self.connect_over(Transport::Udp, credentials)
    }

    fn connect_over(&mut self, transport: Transport, credentials: &(String, String)) -> usize {
        let index = self.ends.len();
        let config = Config {
            server: SERVER.parse().expect("a literal"),
            transport,
            username: credentials.0.clone(),
            password: credentials.1.clone(),
            family: Family::V4,
            lifetime: Duration::from_secs(600),
            patience: Patience::default(),
        };
        let tuple = FiveTuple {
            transport,
            client: ([198, 51, 100, index as u8 + 1], 5000).into(),
            server: config.server,
        };
        let client = Client::new(config, [index as u8; 32], self.now);
        self.ends.push(End {
            client,
            tuple,
            events: Vec::new(),
            received: Vec::new(),
        });
        index
    }

    /// The relayed address, whose event is taken out if it is new.
    #[track_caller]
    fn relayed(&mut self, end: usize) -> SocketAddr {
        let end = &mut self.ends[end];
        end.events
            .retain(|event| !matches!(event, Event::Allocated { .. }));
        assert_eq!(end.events, []);
        end.client.relayed().expect("it is allocated")
    }

    /// Sends until it arrives, as an application over a wire with losses would.
    #[track_caller]
    fn assert_exchange(&mut self, from: usize, to: usize) {
        let (source, target) = (self.relayed(from), self.relayed(to));
        for _ in 0..3 {
            let now = self.now;
            let header = self.ends[from]
                .client
                .send(now, target, 5)
                .expect("it is allocated");
            let mut bytes = [&*header, b"hello"].concat();
            bytes.resize(bytes.len() + header.padding(), 0);
            let tuple = self.ends[from].tuple;
            self.put(Packet::FromClient(tuple, bytes));
            self.advance(Duration::from_secs(1));
            let received = std::mem::take(&mut self.ends[to].received);
            if let Some(packet) = received.first() {
                assert_eq!(*packet, (source, b"hello".to_vec()));
                return;
            }
        }
        panic!("nothing arrived");
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            self.drain();
            let wire = self.wire.first_key_value().map(|((at, _), _)| *at);
            let server = self.server.poll_timeout().map(|(at, _)| at);
            let clients = self
                .ends
                .iter()
                .filter_map(|end| Some(end.client.poll_timeout()?.0));
            let next = clients.chain(wire).chain(server).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.deliver();
            self.server.handle_timeout(self.now);
            for end in &mut self.ends {
                end.client.handle_timeout(self.now);
            }
        }
        self.now = end;
    }

    fn deliver(&mut self) {
        while let Some(first) = self
            .wire
            .first_entry()
            .filter(|entry| entry.key().0 <= self.now)
        {
            match first.remove() {
                Packet::FromClient(from, bytes) => {
                    let forward = self.server.handle_client(self.now, from, &bytes);
                    self.forward(forward, &bytes);
                }
                Packet::FromPeer(at, from, bytes) => {
                    let forward = self.server.handle_peer(self.now, at, from, &bytes);
                    self.forward(forward, &bytes);
                }
                Packet::Reply(to, bytes) => {
                    let Some(end) = self.ends.iter_mut().find(|end| end.tuple == to) else {
                        continue;
                    };
                    if let Some(packet) = end.client.handle_datagram(self.now, &bytes) {
                        end.received
                            .push((packet.peer, bytes[packet.range].to_vec()));
                    }
                }
            }
        }
    }

    fn forward(&mut self, forward: Option<Forward>, bytes: &[u8]) {
        match forward {
            None | Some(Forward::ToShard { .. }) => {}
            Some(Forward::ToPeer { at, to, range, .. }) => {
                let payload = bytes[range].to_vec();
                self.put(Packet::FromPeer(RelayAddr(to.0), PeerAddr(at.0), payload));
            }
            Some(Forward::ToClient {
                to,
                header,
                range,
                padding,
            }) => {
                let mut frame = [&*header, &bytes[range]].concat();
                frame.resize(frame.len() + padding, 0);
                self.put(Packet::Reply(to, frame));
            }
        }
    }

    fn drain(&mut self) {
        loop {
            while let Some(command) = self.server.poll_command() {
                if let Command::BindPort { id, address } = command {
                    self.server.handle_port(self.now, id, Ok(address));
                }
            }
            while self.server.poll_event().is_some() {}
            let Some(reply) = self.server.poll_transmit() else {
                break;
            };
            self.put(Packet::Reply(reply.to, reply.bytes));
        }
        for i in 0..self.ends.len() {
            let end = &mut self.ends[i];
            let tuple = end.tuple;
            end.events
                .extend(std::iter::from_fn(|| end.client.poll_event()));
            while let Some(bytes) = self.ends[i].client.poll_transmit() {
                self.put(Packet::FromClient(tuple, bytes));
            }
        }
    }

    fn put(&mut self, packet: Packet) {
        let (Packet::FromClient(_, bytes)
        | Packet::Reply(_, bytes)
        | Packet::FromPeer(_, _, bytes)) = &packet;
        let number = self.trace.len();
        self.trace.push(bytes.clone());
        if self.lost != Some(number) {
            self.wire.insert((self.now + ONE_WAY, number), packet);
        }
    }
}

fn server_config() -> server::Config {
    let mut config = server::Config::new([2; 32]);
    config.realm.secrets = vec![SECRET.to_vec()];
    config.relay_ip_v4 = Some("192.0.2.1".parse().expect("a literal"));
    config
}

/// Credentials that expire at a time of the virtual clock, which begins at zero.
fn time_limited(user: &str, expiry: u64) -> (String, String) {
    let username = format!("{expiry}:{user}");
    let password = password_of(SECRET, &username);
    (username, password)
}

const SERVER: &str = "192.0.2.1:3478";
const SECRET: &[u8] = b"shared";
const ONE_WAY: Duration = Duration::from_millis(20);
