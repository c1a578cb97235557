//! Clients that take their allocation along to another address. See RFC 8016.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use dimpl::Dtls;
use rustls::ClientConfig;
use tombolo_relay::{AllocationFilter, Relay, RelayConfig};
use tombolo_stun::{
    ChannelNumber, Lifetime, Method, MobilityTicket, RequestedTransport, XorPeerAddress,
    XorRelayedAddress,
};

use crate::asker::{Asker, code, message};
use crate::device::{Link, certificate, relay_config, v4};

#[test]
fn a_client_moves_to_another_socket_and_takes_its_peers_along() {
    let world = World::new(1);
    let mut traveller = world.traveller(Way::Udp);
    for _ in 0..3 {
        traveller.move_on(Way::Udp);
    }
}

#[test]
fn a_client_moves_from_udp_to_tls_and_back_and_by_all_other_ways() {
    let world = World::new(2);
    let mut traveller = world.traveller(Way::Udp);
    for way in [Way::Tls, Way::Udp, Way::Tcp, Way::Tls, Way::Dtls, Way::Udp] {
        traveller.move_on(way);
    }
}

/// The kernel spreads clients by their addresses: one of a few comes to the other shard.
#[test]
fn a_client_that_comes_to_another_shard_is_brought_to_its_allocation_whatever_its_way() {
    let world = World::new(2);
    for way in Way::ALL {
        let mut traveller = world.traveller(way);
        let before = world.passed_on();
        let is_passed_on = (0..32).any(|_| {
            traveller.move_on(way);
            world.passed_on() > before
        });
        assert!(is_passed_on, "over {way:?} all clients came to one shard");
    }
}

#[test]
fn a_client_whose_connection_broke_is_back_by_another_way() {
    let world = World::new(2);
    for (way, next) in [(Way::Tls, Way::Udp), (Way::Tcp, Way::Tls)] {
        let traveller = world.traveller(way);
        let Traveller {
            alice,
            ticket,
            relayed,
            ..
        } = traveller;
        drop(alice);
        let mut alice = world.alice(next);
        announce(&mut alice, &ticket);
        // The relay hears of the broken connection in its own time.
        let start = Instant::now();
        let received = loop {
            world.send(b"back", relayed);
            if let Some(received) = alice.link.receive() {
                break received;
            }
            assert!(start.elapsed() < PATIENCE, "nothing comes by {next:?}");
        };
        assert_eq!(received, frame(b"back"));
    }
}

/// Whoever announced moves to as many connections as there may be kept them all.
#[test]
fn a_connection_that_its_client_did_not_go_to_may_not_be_silent_any_more() {
    let world = World::with(1, has_little_patience);
    let Traveller {
        mut alice, ticket, ..
    } = world.traveller(Way::Udp);
    let mut given_up = world.alice(Way::Tcp);
    let ticket = announce(&mut given_up, &ticket);
    let mut next = world.alice(Way::Tcp);
    announce(&mut next, &ticket);
    given_up.link.wait_for_end();

    // It is where she goes until all is over.
    let reply = alice.ask(Method::REFRESH, |writer| {
        writer.attribute(&Lifetime(0));
    });
    assert_eq!(code(&reply), None);
    next.link.wait_for_end();
}

#[test]
fn a_client_that_is_back_at_its_own_address_may_be_silent() {
    let world = World::with(1, has_little_patience);
    let Traveller {
        alice,
        ticket,
        relayed,
        ..
    } = world.traveller(Way::Dtls);
    let mut alice = begin_anew(alice);
    announce(&mut alice, &ticket);
    world.outlast_patience();
    world.send(b"back", relayed);
    assert_eq!(alice.receive(), frame(b"back"));
}

#[test]
fn a_client_may_be_silent_at_the_address_that_another_one_has_come_back_from() {
    let world = World::with(1, has_little_patience);
    let Traveller { alice, ticket, .. } = world.traveller(Way::Dtls);
    let mut newcomer = begin_anew(alice);
    let reply = newcomer.ask(Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    assert_eq!(code(&reply), None);
    announce(&mut world.alice(Way::Udp), &ticket);
    world.outlast_patience();
    let reply = newcomer.ask(Method::REFRESH, |_| {});
    assert_eq!(code(&reply), None);
}

/// Its address was all that told it from the other one.
#[test]
fn the_allocation_of_a_client_that_is_away_is_ended_and_not_that_of_who_has_its_address() {
    let world = World::with(1, |config| {
        let password = "alice's password".to_owned();
        config.realm.users.insert("bob".to_owned(), password);
    });
    let Traveller { alice, .. } = world.traveller(Way::Dtls);
    let mut bob = begin_anew(alice);
    bob.user = "bob".to_owned();
    let reply = bob.ask(Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    assert_eq!(code(&reply), None);
    let ended = world.relay.end(&AllocationFilter {
        user: Some("alice".to_owned()),
        ..AllocationFilter::default()
    });
    assert_eq!(ended, 1);
    let left = world.relay.allocations(&AllocationFilter::default(), 0, 9);
    let users = left.allocations.iter().map(|(_, info)| &info.user);
    assert_eq!(users.collect::<Vec<_>>(), ["bob"]);
}

/// A relay, and a peer of its clients.
struct World {
    relay: Relay,
    trust: Arc<ClientConfig>,
    peer: UdpSocket,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Udp,
    Tcp,
    Tls,
    Dtls,
}

impl Way {
    const ALL: [Self; 4] = [Self::Udp, Self::Tcp, Self::Tls, Self::Dtls];
}

impl World {
    fn new(shards: usize) -> Self {
        Self::with(shards, |_| {})
    }

    fn with(shards: usize, change: impl FnOnce(&mut RelayConfig)) -> Self {
        let (tls, trust) = certificate();
        let mut config = RelayConfig {
            tls: Some(tls),
            shards: Some(shards),
            ..relay_config(v4())
        };
        change(&mut config);
        let peer = UdpSocket::bind("127.0.0.2:0").expect("loopback is there");
        peer.set_read_timeout(Some(PATIENCE))
            .expect("it is not zero");
        Self {
            relay: Relay::bind(config).expect("there are free ports"),
            trust,
            peer,
        }
    }

    /// Alice from an address that she has not been at.
    fn alice(&self, way: Way) -> Asker {
        let server = self.relay.addrs().turn[0];
        Asker::over(match way {
            Way::Udp => Link::udp(server),
            Way::Tcp => Link::tcp(server),
            Way::Tls => Link::tls(v4(), server, Arc::clone(&self.trust)),
            Way::Dtls => Link::dtls(Dtls::new_12, server),
        })
    }

    /// Alice with a mobile allocation and a channel to the peer.
    fn traveller(&self, way: Way) -> Traveller<'_> {
        let mut alice = self.alice(way);
        let reply = alice.ask(Method::ALLOCATE, |writer| {
            writer
                .attribute(&RequestedTransport::UDP)
                .attribute(&MobilityTicket(b""));
        });
        assert_eq!(code(&reply), None);
        let relayed: XorRelayedAddress = message(&reply).required().expect("it is there");
        let peer = self.peer.local_addr().expect("it is bound");
        let bound = alice.ask(Method::CHANNEL_BIND, |writer| {
            writer.attribute(&CHANNEL).attribute(&XorPeerAddress(peer));
        });
        assert_eq!(code(&bound), None);
        Traveller {
            world: self,
            alice,
            ticket: ticket_of(&reply),
            relayed: relayed.0,
        }
    }

    /// Waits until a connection that has come just now is closed for its silence.
    fn outlast_patience(&self) {
        Link::tcp(self.relay.addrs().turn[0]).wait_for_end();
    }

    fn send(&self, payload: &[u8], to: SocketAddr) {
        self.peer.send_to(payload, to).expect("loopback takes it");
    }

    #[track_caller]
    fn assert_peer_receives(&self, payload: &[u8], from: SocketAddr) {
        let mut buffer = [0; 64];
        let (len, sender) = self.peer.recv_from(&mut buffer).expect("it arrives");
        assert_eq!((&buffer[..len], sender), (payload, from));
    }

    fn passed_on(&self) -> u64 {
        let stats = self.relay.stats();
        stats.shards.iter().map(|shard| shard.io.passed_on).sum()
    }
}

struct Traveller<'a> {
    world: &'a World,
    alice: Asker,
    ticket: Vec<u8>,
    relayed: SocketAddr,
}

impl Traveller<'_> {
    /// Moves to a new address and shows that everything has gone there, and that the old one is dead.
    #[track_caller]
    fn move_on(&mut self, way: Way) {
        let (world, relayed) = (self.world, self.relayed);
        let mut next = world.alice(way);
        self.ticket = announce(&mut next, &self.ticket);
        world.send(b"wait", relayed);
        assert_eq!(self.alice.receive(), frame(b"wait"), "she is not there yet");

        next.link.send(&frame(b"here"));
        world.assert_peer_receives(b"here", relayed);
        world.send(b"good", relayed);
        assert_eq!(next.receive(), frame(b"good"));

        self.alice.link.send(&frame(b"dead"));
        let reply = self.alice.ask(Method::REFRESH, |_| {});
        assert_eq!(code(&reply), Some(437), "nothing is where she was");
        next.link.send(&frame(b"live"));
        world.assert_peer_receives(b"live", relayed);
        self.alice = next;
    }
}

/// As much for a connection that says nothing as for one that has no allocation.
fn has_little_patience(config: &mut RelayConfig) {
    config.allocation_timeout = Duration::from_secs(3);
    config.first_frame_timeout = config.allocation_timeout;
}

/// A client of DTLS that has lost its keys, with others at the same address.
fn begin_anew(alice: Asker) -> Asker {
    let Link::Dtls(client) = alice.link else {
        panic!("it is over DTLS")
    };
    let client = client.begin_anew(Dtls::new_12);
    client.set_patience(Duration::from_millis(20));
    Asker::over(Link::Dtls(Box::new(client)))
}

/// Redeems a ticket and returns the next one.
#[track_caller]
fn announce(alice: &mut Asker, ticket: &[u8]) -> Vec<u8> {
    let reply = alice.ask(Method::REFRESH, |writer| {
        writer.attribute(&MobilityTicket(ticket));
    });
    assert_eq!(code(&reply), None);
    ticket_of(&reply)
}

fn ticket_of(reply: &[u8]) -> Vec<u8> {
    let ticket: MobilityTicket<'_> = message(reply).required().expect("it is mobile");
    ticket.0.to_vec()
}

/// Four bytes need no padding over any transport.
fn frame(payload: &[u8; 4]) -> Vec<u8> {
    [&[0x40, 0, 0, 4], &payload[..]].concat()
}

const CHANNEL: ChannelNumber = ChannelNumber::MIN;
const PATIENCE: Duration = Duration::from_secs(20);
