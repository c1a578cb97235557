//! Relay ports, where nearly all of them are taken.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use tombolo_relay::{Relay, RelayConfig};
use tombolo_stun::{
    EvenPort, Lifetime, Method, RequestedTransport, ReservationToken, XorRelayedAddress,
};

use crate::asker::{Asker, code, message};
use crate::device::{relay_config, v4};

/// A shard knows which ports are its own, and all but a few are others'.
#[test]
fn the_last_free_ports_are_found_by_whichever_shard_is_asked() {
    let relay = relay(66);
    let clients = PORTS.map(|_| allocated(&relay));
    let clients: Vec<_> = clients.collect();
    let ports: BTreeSet<u16> = clients.iter().map(|(_, at)| at.port()).collect();
    assert!(ports.into_iter().eq(PORTS), "all of them");
    let mut late = Asker::udp(&relay);
    let reply = late.ask(Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    assert_eq!(code(&reply), Some(508), "there is none");
}

#[test]
fn the_last_free_pair_of_ports_is_found_by_whichever_shard_is_asked() {
    let relay = relay(67);
    let mut clients: Vec<_> = PORTS.map(|_| allocated(&relay)).collect();
    for first in PORTS.step_by(16) {
        // One port that fits by itself, and one pair.
        for free in [first + 4, first + 8, first + 9] {
            let place = clients.iter().position(|(_, at)| at.port() == free);
            let (mut client, _) = clients.swap_remove(place.expect("all are taken"));
            let reply = client.ask(Method::REFRESH, |writer| {
                writer.attribute(&Lifetime(0));
            });
            assert_eq!(code(&reply), None);
        }
    }
    let mut pairs = BTreeSet::new();
    for _ in PORTS.step_by(16) {
        let mut client = Asker::udp(&relay);
        let reply = client.ask(Method::ALLOCATE, |writer| {
            writer
                .attribute(&RequestedTransport::UDP)
                .attribute(&EvenPort { reserve_next: true });
        });
        assert_eq!(code(&reply), None);
        assert!(message(&reply).required::<ReservationToken>().is_ok());
        pairs.insert(relayed(&reply).port());
        clients.push((client, relayed(&reply)));
    }
    assert!(
        pairs
            .into_iter()
            .eq(PORTS.step_by(16).map(|first| first + 8))
    );
}

/// Four shards at an IP where no other test has ports.
fn relay(host: u8) -> Relay {
    let mut config = RelayConfig {
        relay_ips: vec![IpAddr::from([127, 0, 0, host])],
        relay_ports: PORTS,
        shards: Some(4),
        ..relay_config(v4())
    };
    config.limits.per_user.allocations = None;
    Relay::bind(config).expect("there are free ports")
}

/// A client with an allocation, and its relayed address.
fn allocated(relay: &Relay) -> (Asker, SocketAddr) {
    let mut client = Asker::udp(relay);
    let reply = client.ask(Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    assert_eq!(code(&reply), None);
    (client, relayed(&reply))
}

fn relayed(reply: &[u8]) -> SocketAddr {
    let relayed: XorRelayedAddress = message(reply).required().expect("it is there");
    relayed.0
}

const PORTS: std::ops::RangeInclusive<u16> = 62_000..=62_127;
