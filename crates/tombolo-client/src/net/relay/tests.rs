use std::net::SocketAddrV4;

use tombolo_turn::client::{Config, Family};
use tombolo_turn::server::{self, Command, FiveTuple, Forward, Server, Transport};

use super::*;

const DEVICE: &str = "198.51.100.1:4000";
const PEER: &str = "9.9.9.9:5000";

/// A device's relays, and the TURN servers of two nodes.
struct World {
    relays: Relays,
    servers: Vec<(SocketAddr, Server)>,
    now: Instant,
    /// The servers that have sent something on to the peer.
    carried: Vec<SocketAddr>,
}

impl World {
    /// A device that reaches a peer over the first node's relay.
    fn new() -> Self {
        let now = Instant::now();
        let servers = ["192.0.2.1:3478", "192.0.2.2:3478"].map(|address| {
            let address: SocketAddrV4 = address.parse().unwrap();
            let mut config = server::Config::new([1; 32]);
            config.realm.users = [("alice".to_owned(), "secret".to_owned())].into();
            config.relay_ip_v4 = Some(*address.ip());
            (
                address.into(),
                Server::new(config, [2; 32], now, Duration::ZERO),
            )
        });
        let mut world = Self {
            relays: Relays::default(),
            servers: servers.into(),
            now,
            carried: Vec::new(),
        };
        let (server, client) = world.client(0);
        world.relays.start(Carrier::Udp, server, client, None);
        world.settle();
        world.relays.connect(now, PEER.parse().unwrap(), None);
        world.settle();
        world
    }

    fn client(&self, node: usize) -> (SocketAddr, Client) {
        let server = self.servers[node].0;
        let config = Config {
            server,
            transport: Transport::Udp,
            username: "alice".to_owned(),
            password: "secret".to_owned(),
            family: Family::V4,
            lifetime: Duration::ZERO,
        };
        let seed = [node as u8; 32];
        (server, Client::new(config, seed, self.now))
    }

    fn go_to(&mut self, node: usize) {
        let (server, client) = self.client(node);
        self.relays.start_next(self.now, server, client);
    }

    /// Sends to the peer; returns the server that carries it.
    fn send(&mut self) -> Option<SocketAddr> {
        let mut out = Vec::new();
        let peer = PEER.parse().unwrap();
        assert!(self.relays.send(self.now, peer, b"a packet", &mut out));
        self.deliver(out);
        self.carried.pop()
    }

    /// Lets everything be said that is to be said.
    fn settle(&mut self) {
        loop {
            let mut out = Vec::new();
            self.relays.collect(&mut out);
            if out.is_empty() {
                return;
            }
            self.deliver(out);
        }
    }

    fn deliver(&mut self, datagrams: Vec<(SocketAddr, Vec<u8>)>) {
        for (to, bytes) in datagrams {
            let Some((_, server)) = self.servers.iter_mut().find(|(at, _)| *at == to) else {
                continue;
            };
            let from = FiveTuple {
                transport: Transport::Udp,
                client: DEVICE.parse().unwrap(),
                server: to,
            };
            let forward = server.handle_client(self.now, from, &bytes);
            if let Some(Forward::ToPeer { .. }) = forward {
                self.carried.push(to);
            }
            while let Some(command) = server.poll_command() {
                if let Command::BindPort { id, address } = command {
                    server.handle_port(self.now, id, Ok(address));
                }
            }
            while let Some(reply) = server.poll_transmit() {
                self.relays.handle_datagram(self.now, to, &reply.bytes);
            }
        }
    }
}

#[test]
fn the_old_relay_carries_until_peers_know_the_new_one() {
    let mut world = World::new();
    let [first, second] = [0, 1].map(|node| world.servers[node].0);
    assert_eq!(world.send(), Some(first));
    world.go_to(1);
    world.settle();
    assert_eq!(world.relays.relayed().unwrap().0.ip(), second.ip());
    assert_eq!(world.send(), Some(first));
    world.now += HANDOVER;
    assert_eq!(world.send(), Some(second));
}

#[test]
fn a_relay_that_is_dead_carries_nothing_once_there_is_another_one() {
    let mut world = World::new();
    world.servers.remove(0);
    let second = world.servers[0].0;
    assert_eq!(world.send(), None);
    world.go_to(0);
    world.settle();
    assert_eq!(world.send(), Some(second));
}
