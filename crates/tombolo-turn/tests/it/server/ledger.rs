//! What users, realms, networks and the shard may have of permissions, channels and connections, and
//! that nothing is counted longer than it is there.

use std::net::SocketAddr;

use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};
use tombolo_stun::{
    AddressFamily, EvenPort, Lifetime, Method, MobilityTicket, RequestedAddressFamily,
    RequestedTransport, ReservationToken, XorPeerAddress, XorRelayedAddress,
};
use tombolo_turn::server::{
    Bandwidth, Command, Config, ConnectError, ConnectionId, FiveTuple, PeerAddr, Quota, Realm,
    RealmId, Refusal, RelayAddr, Timer, Usage,
};

use super::lab::{Lab, PEER, REALM, Reply, SECRET, User, address, alice, bob, client, tcp_client};

#[test]
fn a_user_has_only_so_many_permissions_and_channels_over_all_of_its_allocations() {
    check(Refusal::UserPeersFull, |config, quota| {
        config.limits.per_user = Quota {
            allocations: Some(16),
            ..quota
        };
    });
}

#[test]
fn a_realm_has_only_so_many_permissions_and_channels() {
    check(Refusal::RealmPeersFull, |config, quota| {
        config.realm.quota = quota;
    });
}

#[test]
fn a_network_has_only_so_many_permissions_and_channels() {
    check(Refusal::NetworkPeersFull, |config, quota| {
        config.limits.per_network = quota;
    });
}

#[test]
fn a_shard_has_only_so_many_permissions_and_channels() {
    check(Refusal::PeersFull, |config, quota| {
        config.limits.total = quota;
    });
}

/// Uses a quota of three permissions and two channels up with two allocations.
fn check(refusal: Refusal, limit: impl FnOnce(&mut Config, Quota)) {
    let quota = Quota {
        permissions: Some(3),
        channels: Some(2),
        ..Quota::default()
    };
    let mut lab = Lab::with(|config| limit(config, quota));
    for port in [1, 2] {
        lab.allocate(client(port), &alice());
    }
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4000, "8.8.4.1:1").code(),
        None
    );
    assert_eq!(
        lab.bind(client(2), &alice(), 0x4000, "8.8.4.1:1").code(),
        None
    );
    let third = lab.bind(client(2), &alice(), 0x4001, "8.8.4.1:2");
    assert_eq!(third.code(), Some(508), "a third channel");
    assert_eq!(lab.permit(client(2), &alice(), "8.8.4.2:1").code(), None);
    let fourth = lab.permit(client(1), &alice(), "8.8.4.2:1");
    assert_eq!(fourth.code(), Some(508), "a fourth permission");
    assert_eq!(lab.refused(refusal), 2);
    // What is there can be refreshed, and an introduction gets no more than a client.
    assert_eq!(lab.permit(client(2), &alice(), "8.8.4.2:1").code(), None);
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4000, "8.8.4.1:1").code(),
        None
    );
    lab.server
        .permit(lab.now, "alice", address("8.8.4.3:1").ip());
    assert_eq!(lab.refused(Refusal::PermitRefused), 2);
    // Permissions are over sooner than channels.
    lab.advance(300);
    assert_eq!(lab.permit(client(1), &alice(), "8.8.4.2:1").code(), None);
    let third = lab.bind(client(2), &alice(), 0x4001, "8.8.4.1:2");
    assert_eq!(third.code(), Some(508));
    // An allocation that ends makes room.
    end(&mut lab, client(1), &alice());
    assert_eq!(
        lab.bind(client(2), &alice(), 0x4001, "8.8.4.1:2").code(),
        None
    );
}

#[test]
fn a_realm_may_say_how_many_peers_each_of_its_users_has() {
    let mut lab = Lab::with(|config| {
        config.limits.per_user.permissions = Some(1);
        config.realm.per_user.permissions = Some(2);
    });
    for user in [alice(), bob()] {
        let from = client(u16::from(user.username.ends_with("bob")));
        lab.allocate(from, &user);
        assert_eq!(lab.permit(from, &user, "8.8.4.1:1").code(), None);
        assert_eq!(lab.permit(from, &user, "8.8.4.2:1").code(), None);
        assert_eq!(lab.permit(from, &user, "8.8.4.3:1").code(), Some(508));
    }
}

#[test]
fn connections_to_peers_are_bounded_for_each_user() {
    let mut lab = Lab::with(|config| {
        config.relay_tcp = true;
        config.limits.per_user.connections = Some(2);
    });
    for port in [1, 2] {
        allocate_tcp(&mut lab, tcp_client(port), &alice());
    }
    let first = connect(&mut lab, tcp_client(1), &alice(), "8.8.4.1:1");
    assert!(first.is_some());
    let second = connect(&mut lab, tcp_client(2), &alice(), "8.8.4.1:1");
    let second = second.expect("has room");
    assert_eq!(
        connect(&mut lab, tcp_client(2), &alice(), "8.8.4.2:1"),
        None
    );
    assert_eq!(lab.refused(Refusal::UserPeersFull), 1);
    let failed = Err(ConnectError::PeerRefused);
    lab.server.handle_connected(lab.now, second, failed);
    assert!(connect(&mut lab, tcp_client(2), &alice(), "8.8.4.2:1").is_some());
}

#[test]
fn a_move_takes_the_peers_along_to_the_other_network() {
    let mut lab = Lab::with(|config| {
        config.limits.per_network.permissions = Some(2);
    });
    let at = |ip: &str| FiveTuple {
        client: address(&format!("{ip}:1")),
        ..client(1)
    };
    let ticket = allocate_mobile(&mut lab, at("8.8.8.1"), &alice());
    for peer in ["8.8.4.1:1", "8.8.4.2:1"] {
        assert_eq!(lab.permit(at("8.8.8.1"), &alice(), peer).code(), None);
    }
    lab.allocate(at("8.8.9.1"), &bob());
    lab.permit(at("8.8.9.1"), &bob(), "8.8.4.1:1");
    let full = refresh(&mut lab, at("8.8.9.2"), &alice(), &ticket);
    assert_eq!(full, Some(508), "one and two are more than two");
    assert_eq!(refresh(&mut lab, at("8.8.10.2"), &alice(), &ticket), None);
    // There is room where it was, and none where it is.
    lab.allocate(at("8.8.8.3"), &bob());
    assert_eq!(lab.permit(at("8.8.8.3"), &bob(), "8.8.4.1:1").code(), None);
    lab.allocate(at("8.8.10.3"), &bob());
    let full = lab.permit(at("8.8.10.3"), &bob(), "8.8.4.1:1");
    assert_eq!(full.code(), Some(508));
}

#[test]
fn permissions_that_are_over_are_cleared_away_by_a_timer_of_their_own() {
    let mut lab = Lab::new();
    lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&Lifetime(3600));
    });
    lab.permit(client(1), &alice(), PEER);
    lab.advance(100);
    lab.permit(client(1), &alice(), "8.8.4.8:1");
    assert_eq!(lab.server.usage().permissions, 2);
    for left in [1, 0] {
        let (due, timer) = lab.server.poll_timeout().expect("has permissions");
        assert_eq!(timer, Timer::Permission);
        lab.advance((due - lab.now).as_secs());
        assert_eq!(lab.server.usage().permissions, left);
    }
    let timer = lab.server.poll_timeout().map(|(_, timer)| timer);
    assert_eq!(timer, Some(Timer::Allocation), "nothing is left to clear");
}

#[test]
fn whatever_happens_no_more_is_counted_than_is_there() {
    let mut moved = 0;
    let mut most = Usage::default();
    for seed in 0..40 {
        let mut world = World::new(seed);
        for step in 0..400 {
            let done = world.step();
            let usage = world.compare(&format!("seed {seed}, step {step}: {done}"));
            most.permissions = most.permissions.max(usage.permissions);
            most.channels = most.channels.max(usage.channels);
            most.connections = most.connections.max(usage.connections);
        }
        moved += world.lab.server.stats().allocations_moved;
        world.end_all();
        assert_eq!(world.lab.server.usage(), Usage::default(), "seed {seed}");
        assert_eq!(world.lab.server.usage_by_realm().count(), 0, "seed {seed}");
        assert!(world.lab.bound.is_empty(), "seed {seed}");
    }
    let is_lively = most.permissions > 6 && most.channels > 4 && most.connections > 2;
    assert!(is_lively && moved > 20, "{most:?}, {moved} moves");
}

/// Clients that do anything.
struct World {
    lab: Lab,
    rng: ChaCha12Rng,
    tickets: Vec<Vec<u8>>,
    tokens: Vec<ReservationToken>,
    connections: Vec<ConnectionId>,
}

impl World {
    fn new(seed: u8) -> Self {
        Self {
            lab: Lab::with(configure),
            rng: ChaCha12Rng::from_seed([seed; 32]),
            tickets: Vec::new(),
            tokens: Vec::new(),
            connections: Vec::new(),
        }
    }

    /// Does something; says what.
    fn step(&mut self) -> &'static str {
        let user = if self.rng.random() { alice() } else { bob() };
        let port = self.rng.random_range(1..9);
        let from = if self.rng.random_ratio(1, 3) {
            tcp_client(port)
        } else {
            client(port)
        };
        let peer = format!("8.8.4.{}:{}", self.rng.random_range(1..5), port);
        match self.rng.random_range(0..16) {
            0 | 1 => self.allocate(from, &user),
            2 => self.reserve(from, &user),
            3 | 4 => drop(self.lab.permit(from, &user, &peer)),
            5 | 6 => {
                let number = 0x4000 + self.rng.random_range(0..4);
                drop(self.lab.bind(from, &user, number, &peer));
            }
            7 => self
                .lab
                .server
                .permit(self.lab.now, "alice", address(&peer).ip()),
            8 => end(&mut self.lab, from, &user),
            9 => self.lab.server.handle_client_gone(self.lab.now, from),
            10 => drop(self.lab.end(from)),
            11 => self.go(from, &user),
            12 => self.connect(from, &user, &peer),
            13 => self.connected(),
            14 => self.reconfigure(),
            _ => {
                let seconds = self.rng.random_range(1..200);
                self.lab.advance(seconds);
                return "time passes";
            }
        }
        self.lab.drive();
        while self.lab.server.poll_transmit().is_some() {}
        "a client acts"
    }

    fn allocate(&mut self, from: FiveTuple, user: &User) {
        self.lab.is_driver_slow = self.rng.random_ratio(1, 4);
        let choice = self.rng.random_range(0..4);
        let token = self.tokens.pop();
        let wish = self.lab.sign(from, user, Method::ALLOCATE, |writer| {
            let is_tcp = choice == 0;
            writer.attribute(match is_tcp {
                true => &RequestedTransport::TCP,
                false => &RequestedTransport::UDP,
            });
            match (choice, token) {
                (1, _) => drop(writer.attribute(&MobilityTicket(b""))),
                (2, Some(token)) => drop(writer.attribute(&token)),
                (3, _) => {
                    let family = RequestedAddressFamily(AddressFamily::V6);
                    writer.attribute(&family);
                }
                (_, _) => {}
            }
        });
        let replies = self.lab.exchange(from, &wish);
        self.lab.is_driver_slow = false;
        for reply in replies {
            let reply = Reply(reply.bytes);
            if let Ok(MobilityTicket(ticket)) = reply.get() {
                self.tickets.push(ticket.to_vec());
            }
        }
        if self.rng.random() {
            self.lab.catch_up();
        }
    }

    fn reserve(&mut self, from: FiveTuple, user: &User) {
        self.lab.is_driver_slow = self.rng.random_ratio(1, 2);
        let wish = self.lab.sign(from, user, Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
            writer.attribute(&EvenPort { reserve_next: true });
        });
        for reply in self.lab.exchange(from, &wish) {
            self.tokens
                .extend(Reply(reply.bytes).get::<ReservationToken>());
        }
        self.lab.is_driver_slow = false;
    }

    fn go(&mut self, to: FiveTuple, user: &User) {
        let ip = [8, 8, self.rng.random_range(8..11), 8];
        let to = FiveTuple {
            client: SocketAddr::from((ip, to.client.port())),
            ..to
        };
        if let Some(ticket) = self.tickets.last().cloned() {
            refresh(&mut self.lab, to, user, &ticket);
        }
    }

    fn connect(&mut self, from: FiveTuple, user: &User, peer: &str) {
        let connection = connect(&mut self.lab, from, user, peer);
        self.connections.extend(connection);
        let listening = self.lab.listening.first().copied();
        if let Some(at) = listening.filter(|_| connection.is_none()) {
            let peer = PeerAddr(address(peer));
            let accepted = self.lab.server.handle_peer_accepted(self.lab.now, at, peer);
            self.connections.extend(accepted);
        }
    }

    fn connected(&mut self) {
        let Some(connection) = self.connections.pop() else {
            return;
        };
        let now = self.lab.now;
        match self.rng.random_range(0..3) {
            0 => self.lab.server.handle_connected(now, connection, Ok(())),
            1 => {
                let failed = Err(ConnectError::PeerRefused);
                self.lab.server.handle_connected(now, connection, failed);
            }
            _ => self.lab.server.handle_peer_gone(now, connection),
        }
    }

    /// Bars a peer, or nobody.
    fn reconfigure(&mut self) {
        let mut config = Config::new([3; 32]);
        config.realm = Realm::new(REALM);
        config.realm.secrets = vec![SECRET.to_vec()];
        configure(&mut config);
        if self.rng.random() {
            config.realm.bandwidth = Some(Bandwidth {
                bytes_per_second: self.rng.random_range(300..700),
                burst_bytes: 1000,
            });
        }
        if self.rng.random() {
            config.deny_peers = vec!["8.8.4.1/32".parse().expect("is one")];
        }
        self.lab.server.reconfigure(self.lab.now, config);
    }

    /// Compares what is counted with what is there.
    fn compare(&mut self, when: &str) -> Usage {
        self.lab.server.handle_timeout(self.lab.now);
        self.lab.drive();
        while self.lab.server.poll_transmit().is_some() {}
        let infos: Vec<_> = self.lab.server.allocations(self.lab.now).collect();
        let sum = |of: fn(&tombolo_turn::server::AllocationInfo) -> usize| -> u32 {
            infos.iter().map(of).sum::<usize>().try_into().expect("few")
        };
        let usage = self.lab.server.usage();
        assert_eq!(usage.permissions, sum(|info| info.permissions), "{when}");
        assert_eq!(usage.channels, sum(|info| info.channels), "{when}");
        assert_eq!(usage.connections, sum(|info| info.connections), "{when}");
        assert!(usage.allocations as usize >= infos.len(), "{when}");
        assert!(usage.allocations <= 2 * ALLOCATIONS_MAX, "{when}");
        let each = self.lab.server.bandwidth(RealmId::default());
        let each = u64::from(each.expect("is bounded").bytes_per_second);
        assert!(usage.bandwidth >= infos.len() as u64 * each, "{when}");
        if usage.allocations as usize == infos.len() {
            assert_eq!(usage.bandwidth, infos.len() as u64 * each, "{when}");
        }
        let by_realm = self.lab.server.usage_by_realm().map(|(_, usage)| usage);
        let by_realm: Vec<Usage> = by_realm.collect();
        assert!(by_realm.len() < 2, "{when}: there is one realm");
        assert_eq!(
            by_realm.first().copied().unwrap_or_default(),
            usage,
            "{when}"
        );
        usage
    }

    fn end_all(&mut self) {
        self.lab.catch_up();
        self.lab.advance(4000);
    }
}

fn configure(config: &mut Config) {
    config.realm.secrets = vec![SECRET.to_vec()];
    config.relay_tcp = true;
    config.limits.per_user = Quota {
        allocations: Some(ALLOCATIONS_MAX as usize),
        permissions: Some(7),
        channels: Some(5),
        connections: Some(3),
        bandwidth: Some(3300),
    };
    config.limits.bandwidth = Some(Bandwidth {
        bytes_per_second: 500,
        burst_bytes: 1000,
    });
    config.limits.per_network.permissions = Some(9);
    config.limits.per_network.allocations = Some(8);
    config.realm.quota.channels = Some(8);
}

fn end(lab: &mut Lab, from: FiveTuple, user: &User) {
    lab.signed(from, user, Method::REFRESH, |writer| {
        writer.attribute(&Lifetime(0));
    });
}

fn allocate_tcp(lab: &mut Lab, from: FiveTuple, user: &User) -> RelayAddr {
    let reply = lab.signed(from, user, Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::TCP);
    });
    let XorRelayedAddress(relayed) = reply.get().expect("was made");
    RelayAddr(relayed)
}

fn allocate_mobile(lab: &mut Lab, from: FiveTuple, user: &User) -> Vec<u8> {
    let reply = lab.allocate_with(from, user, |writer| {
        writer.attribute(&MobilityTicket(b""));
    });
    let MobilityTicket(ticket) = reply.get().expect("is mobile");
    ticket.to_vec()
}

fn refresh(lab: &mut Lab, from: FiveTuple, user: &User, ticket: &[u8]) -> Option<u16> {
    let reply = lab.signed(from, user, Method::REFRESH, |writer| {
        writer.attribute(&MobilityTicket(ticket));
    });
    reply.code()
}

/// Sends a Connect; `None` if it is refused.
fn connect(lab: &mut Lab, from: FiveTuple, user: &User, peer: &str) -> Option<ConnectionId> {
    lab.tcp_commands.clear();
    let request = lab.sign(from, user, Method::CONNECT, |writer| {
        writer.attribute(&XorPeerAddress(address(peer)));
    });
    lab.exchange(from, &request);
    let command = lab.tcp_commands.pop()?;
    let Command::ConnectPeer { connection, .. } = command else {
        panic!("a connection is wanted: {command:?}");
    };
    Some(connection)
}

/// Of each of the two users.
const ALLOCATIONS_MAX: u32 = 6;
