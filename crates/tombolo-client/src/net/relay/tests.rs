use std::net::SocketAddrV4;

use tokio::sync::mpsc;
use tombolo_stun::{Class, Data, MessageWriter, Method, TransactionId, XorPeerAddress};
use tombolo_turn::client::{Config, Family, Patience};
use tombolo_turn::server::{self, Command, FiveTuple, Forward, Server, Transport};

use super::*;

const DEVICE: &str = "198.51.100.1:4000";
const PEER: &str = "9.9.9.9:5000";

/// A device's relays, and the TURN servers of some nodes.
struct World {
    relays: Relays,
    servers: Vec<(SocketAddr, Server)>,
    /// What the device writes to its streams, by their numbers, and to which server.
    streams: Vec<(u64, SocketAddr, mpsc::Receiver<Vec<u8>>)>,
    now: Instant,
    /// The servers that have sent something on to the peer.
    carried: Vec<SocketAddr>,
    /// The streams that the device has given up.
    given_up: Vec<u64>,
}

impl World {
    /// A device that reaches a peer over the first node's relay.
    fn new(carrier: Carrier) -> Self {
        let now = Instant::now();
        let servers = ["192.0.2.1:3478", "192.0.2.2:3478", "192.0.2.3:3478"].map(|address| {
            let address: SocketAddrV4 = address.parse().unwrap();
            let mut config = server::Config::new([1; 32]);
            config.realm.users = [("alice".to_owned(), "secret".to_owned())].into();
            config.relay_ip_v4 = Some(*address.ip());
            let server = Server::new(config, [2; 32], now, Duration::ZERO);
            (address.into(), server)
        });
        let mut world = Self {
            relays: Relays::default(),
            servers: servers.into(),
            streams: Vec::new(),
            now,
            carried: Vec::new(),
            given_up: Vec::new(),
        };
        let (client, stream) = world.client(carrier, 0);
        world.relays.start(now, client, stream);
        world.settle();
        world.relays.connect(now, PEER.parse().unwrap(), None);
        world.settle();
        world
    }

    fn client(&mut self, carrier: Carrier, node: usize) -> (Client, Option<Stream>) {
        let server = self.servers[node].0;
        let (transport, stream) = match carrier {
            Carrier::Udp => (Transport::Udp, None),
            Carrier::Stream => {
                let (frames, written) = mpsc::channel(100);
                let generation = self.streams.len() as u64 + 1;
                self.streams.push((generation, server, written));
                (Transport::Tls, Some(Stream { frames, generation }))
            }
        };
        let config = Config {
            server,
            transport,
            username: "alice".to_owned(),
            password: "secret".to_owned(),
            family: Family::V4,
            lifetime: Duration::ZERO,
            patience: Patience::default(),
        };
        let seed = [node as u8; 32];
        (Client::new(config, seed, self.now), stream)
    }

    fn go_to(&mut self, carrier: Carrier, node: usize) {
        let (client, stream) = self.client(carrier, node);
        self.relays.start_next(self.now, client, stream);
    }

    /// The server where the relayed address in use is, and how it is reached.
    fn relayed(&self) -> Option<(Carrier, usize)> {
        let (address, carrier) = self.relays.relayed()?;
        let mut servers = self.servers.iter();
        let node = servers.position(|(server, _)| server.ip() == address.ip())?;
        Some((carrier, node))
    }

    /// Sends to the peer; returns the server that carries it.
    fn send(&mut self) -> Option<SocketAddr> {
        let mut out = Vec::new();
        let peer = PEER.parse().unwrap();
        assert!(self.relays.send(self.now, peer, b"a packet", &mut out));
        self.deliver(out);
        self.settle();
        self.carried.pop()
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.relays.poll_timeout().filter(|at| *at <= until) {
            self.now = at;
            self.relays.handle_timeout(at);
            self.settle();
        }
        self.now = until;
    }

    /// Lets everything be said that is to be said.
    fn settle(&mut self) {
        loop {
            let mut out = Vec::new();
            self.relays.collect(&mut out);
            let mut frames = Vec::new();
            for (generation, server, written) in &mut self.streams {
                while let Ok(frame) = written.try_recv() {
                    match frame.is_empty() {
                        true => self.given_up.push(*generation),
                        false => frames.push((*generation, *server, frame)),
                    }
                }
            }
            if out.is_empty() && frames.is_empty() {
                return;
            }
            self.deliver(out);
            for (generation, server, frame) in frames {
                for reply in self.answers(Transport::Tls, server, &frame) {
                    self.relays.handle_stream(self.now, generation, &reply);
                }
            }
        }
    }

    fn deliver(&mut self, datagrams: Vec<(SocketAddr, Vec<u8>)>) {
        for (to, bytes) in datagrams {
            for reply in self.answers(Transport::Udp, to, &bytes) {
                self.relays.handle_datagram(self.now, to, &reply);
            }
        }
    }

    /// What the server of that address, if there is one, answers.
    fn answers(&mut self, transport: Transport, to: SocketAddr, bytes: &[u8]) -> Vec<Vec<u8>> {
        let Some((_, server)) = self.servers.iter_mut().find(|(at, _)| *at == to) else {
            return Vec::new();
        };
        let from = FiveTuple {
            transport,
            client: DEVICE.parse().unwrap(),
            server: to,
        };
        let forward = server.handle_client(self.now, from, bytes);
        if let Some(Forward::ToPeer { .. }) = forward {
            self.carried.push(to);
        }
        while let Some(command) = server.poll_command() {
            if let Command::BindPort { id, address } = command {
                server.handle_port(self.now, id, Ok(address));
            }
        }
        let replies = std::iter::from_fn(|| server.poll_transmit());
        replies.map(|reply| reply.bytes).collect()
    }

    /// How many allocations each server has.
    fn allocations(&self) -> Vec<usize> {
        let servers = self.servers.iter();
        servers
            .map(|(_, server)| server.stats().allocations as usize)
            .collect()
    }
}

/// What a server sends on from the peer.
fn data_indication(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let id = TransactionId([7; 12]);
    let mut writer = MessageWriter::new(&mut bytes, Class::Indication, Method::DATA, id);
    writer.attribute(&XorPeerAddress(PEER.parse().unwrap()));
    writer.attribute(&Data(payload));
    bytes
}

#[test]
fn the_old_relay_carries_until_peers_know_the_new_one_and_is_given_back() {
    for from in [Carrier::Udp, Carrier::Stream] {
        for to in [Carrier::Udp, Carrier::Stream] {
            let mut world = World::new(from);
            let [first, second] = [0, 1].map(|node| world.servers[node].0);
            assert_eq!(world.send(), Some(first));
            assert!(world.relays.is_elsewhere(&[(to, second)]));
            world.go_to(to, 1);
            world.settle();
            assert_eq!(world.relayed(), Some((to, 1)));
            assert!(!world.relays.is_elsewhere(&[(to, second)]));
            assert_eq!(world.send(), Some(first));
            world.pass(HANDOVER);
            assert_eq!(world.send(), Some(second));
            assert_eq!(world.allocations(), [1, 1, 0]);
            world.pass(LINGER);
            assert_eq!(world.allocations(), [0, 1, 0], "{from:?} to {to:?}");
            assert_eq!(world.relayed(), Some((to, 1)));
        }
    }
}

#[test]
fn a_relay_that_is_dead_carries_nothing_once_there_is_another_one() {
    for carrier in [Carrier::Udp, Carrier::Stream] {
        let mut world = World::new(carrier);
        world.servers.remove(0);
        let second = world.servers[0].0;
        assert_eq!(world.send(), None);
        world.go_to(carrier, 0);
        world.settle();
        assert_eq!(world.send(), Some(second));
    }
}

#[test]
fn what_comes_by_the_old_stream_is_taken_beside_what_comes_by_the_new_one() {
    let mut world = World::new(Carrier::Stream);
    world.go_to(Carrier::Stream, 1);
    world.settle();
    for generation in [1, 2] {
        let frame = data_indication(b"hello");
        let received = world.relays.handle_stream(world.now, generation, &frame);
        let (peer, payload) = received.unwrap();
        assert_eq!(peer, PEER.parse().unwrap());
        assert_eq!(&frame[payload], b"hello");
    }
    // The end of the old one concerns nobody.
    world.relays.handle_stream_closed(1);
    assert_eq!(world.relayed(), Some((Carrier::Stream, 1)));
    world.relays.handle_stream_closed(2);
    assert_eq!(world.relayed(), None);
}

#[test]
fn who_goes_on_to_a_third_node_leaves_nothing_at_the_second() {
    for carrier in [Carrier::Udp, Carrier::Stream] {
        let mut world = World::new(carrier);
        world.go_to(carrier, 1);
        world.settle();
        world.go_to(carrier, 2);
        world.settle();
        world.pass(LINGER);
        assert_eq!(world.allocations(), [0, 0, 1]);
        // And so when the second had not answered yet.
        world.go_to(carrier, 0);
        world.go_to(carrier, 1);
        world.settle();
        world.pass(LINGER);
        assert_eq!(world.allocations(), [0, 1, 0]);
        assert_eq!(world.relayed(), Some((carrier, 1)));
    }
}

#[test]
fn a_stream_whose_server_says_nothing_any_more_is_given_up_within_ten_seconds() {
    let mut world = World::new(Carrier::Stream);
    world.pass(Duration::from_hours(1));
    assert_eq!(world.relayed(), Some((Carrier::Stream, 0)));
    world.relays.take_outcomes();
    world.servers.remove(0);
    // What is sent meanwhile is no sign of life.
    for _ in 0..10 {
        assert!(world.relays.relayed().is_some());
        world.send();
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(world.relays.relayed(), None);
    assert_eq!(world.given_up, [1]);
    let carrier = Carrier::Stream;
    let outcomes = world.relays.take_outcomes();
    assert!(
        matches!(outcomes[..], [Outcome::Failed { carrier: of, .. }] if of == carrier),
        "{outcomes:?}"
    );
}
