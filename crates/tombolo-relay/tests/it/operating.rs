//! What operators do to a running relay.

use std::net::IpAddr;

use tombolo_relay::{AllocationFilter, Relay, RelayConfig, ReloadError};
use tombolo_turn::{
    client::Event,
    server::{Drain, Refusal},
};

use crate::device::{Device, Echo, relay_config, v4};
use crate::log;

fn of_user(user: &str) -> AllocationFilter {
    AllocationFilter {
        user: Some(user.to_owned()),
        ..AllocationFilter::default()
    }
}

fn refused(relay: &Relay, refusal: Refusal) -> u64 {
    let shards = relay.stats().shards;
    shards.iter().map(|shard| shard.turn.refused(refusal)).sum()
}

fn allocations(relay: &Relay) -> u64 {
    let shards = relay.stats().shards;
    shards.iter().map(|shard| shard.turn.allocations).sum()
}

#[test]
fn a_realm_whose_name_makes_long_challenges_is_warned_of_when_it_is_configured() {
    log::keep();
    let named = |name: &str| {
        let mut config = relay_config(v4());
        config.realm.name = name.to_owned();
        config
    };
    let (brief, long) = ("eight.o8", "nine.of.9");
    let relay = Relay::bind(named(brief)).expect("there are free ports");
    assert_eq!(log::warnings("realm=\"eight.o8\""), 0);
    Relay::bind(named(long)).expect("there are free ports");
    assert_eq!(log::warnings("realm=\"nine.of.9\""), 1);
    relay.reload(&named(long)).expect("realms can change");
    assert_eq!(log::warnings("realm=\"nine.of.9\""), 2);
}

#[test]
fn operators_see_allocations_with_what_went_through_them() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    let echo = Echo::start(v4());
    let mut alice = Device::udp(&relay, "alice");
    let relayed = alice.allocate();
    let mut bob = Device::tcp(&relay, "bob");
    bob.allocate();
    alice.bind(echo.address);
    alice.send(echo.address, b"hello");
    alice.receive();

    let all = AllocationFilter::default();
    let page = relay.allocations(&all, 0, 10);
    assert_eq!((page.total, page.allocations.len()), (2, 2));
    let (_, first) = &page.allocations[0];
    assert_eq!(
        (first.user.as_str(), first.realm.as_str()),
        ("alice", "tombolo")
    );
    assert_eq!(first.relayed[0], relayed);
    assert_eq!((first.permissions, first.channels), (1, 1));
    assert_eq!(
        (first.traffic.to_peer.bytes, first.traffic.to_client.bytes),
        (5, 5)
    );

    let page = relay.allocations(&all, 1, 10);
    assert_eq!(
        (page.total, page.allocations[0].1.user.as_str()),
        (2, "bob")
    );
    assert_eq!(relay.allocations(&of_user("bob"), 0, 10).total, 1);
    assert_eq!(relay.allocations(&of_user("carol"), 0, 10).total, 0);
    let client = first.client.client;
    let of_client = AllocationFilter {
        client: Some(client),
        client_ip: Some(client.ip()),
        realm: Some("tombolo".to_owned()),
        ..AllocationFilter::default()
    };
    assert_eq!(
        relay.allocations(&of_client, 0, 10).allocations[0].1,
        *first
    );
    let elsewhere = AllocationFilter {
        client_ip: Some(IpAddr::from([127, 0, 0, 9])),
        ..AllocationFilter::default()
    };
    assert_eq!(relay.allocations(&elsewhere, 0, 10).total, 0);
}

#[test]
fn an_operator_ends_all_allocations_of_a_user_and_no_other() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    let mut devices = ["alice", "bob", "alice"].map(|user| Device::udp(&relay, user));
    for device in &mut devices {
        device.allocate();
    }
    assert_eq!(relay.end(&of_user("alice")), 2);
    assert_eq!(relay.end(&of_user("alice")), 0);
    let left = relay.allocations(&AllocationFilter::default(), 0, 10);
    assert_eq!(
        (left.total, left.allocations[0].1.user.as_str()),
        (1, "bob")
    );
}

#[test]
fn a_drained_relay_keeps_its_allocations_and_makes_no_others() {
    let relay = Relay::bind(relay_config(v4())).expect("there are free ports");
    let echo = Echo::start(v4());
    let mut alice = Device::udp(&relay, "alice");
    alice.allocate();
    relay.drain(&Drain::default());
    let mut bob = Device::udp(&relay, "bob");
    bob.event(|event| matches!(event, Event::Failed(_)));
    assert!(refused(&relay, Refusal::Draining) > 0);
    alice.bind(echo.address);
    alice.send(echo.address, b"still here");
    assert_eq!(alice.receive().1, b"still here");
    assert_eq!(allocations(&relay), 1);
    assert!(
        relay
            .stats()
            .shards
            .iter()
            .all(|shard| shard.turn.draining == 1)
    );

    relay.undrain();
    Device::udp(&relay, "bob").allocate();
}

#[test]
fn another_configuration_lets_others_in_and_keeps_allocations() {
    let config = relay_config(v4());
    let relay = Relay::bind(config.clone()).expect("there are free ports");
    let mut alice = Device::udp(&relay, "alice");
    alice.allocate();
    let mut other = config;
    other.realm.users.clear();
    let password = "carol's password".to_owned();
    other.realm.users.insert("carol".to_owned(), password);
    relay.reload(&other).expect("nothing of a socket changed");
    Device::udp(&relay, "carol").allocate();
    let mut bob = Device::udp(&relay, "bob");
    bob.event(|event| matches!(event, Event::Failed(_)));
    let of_alice = relay.allocations(&of_user("alice"), 0, 10);
    assert_eq!(of_alice.total, 1);
}

#[test]
fn another_configuration_bounds_connections_otherwise_and_keeps_them() {
    let mut config = relay_config(v4());
    config.connections_per_source_max = 1;
    let relay = Relay::bind(config.clone()).expect("there are free ports");
    let echo = Echo::start(v4());
    let mut alice = Device::tcp(&relay, "alice");
    alice.allocate();
    alice.bind(echo.address);
    config.connections_per_source_max = 2;
    relay.reload(&config).expect("nothing of a socket changed");
    let mut bob = Device::tcp(&relay, "bob");
    bob.allocate();
    config.connections_per_source_max = 1;
    relay.reload(&config).expect("nothing of a socket changed");
    alice.send(echo.address, b"still here");
    assert_eq!(alice.receive().1, b"still here");
    assert_eq!(allocations(&relay), 2);
    assert_eq!(relay.stats().streams.open, 2);
}

#[test]
fn a_configuration_that_needs_a_restart_changes_nothing() {
    let config = relay_config(v4());
    let relay = Relay::bind(config.clone()).expect("there are free ports");
    let mut other = RelayConfig {
        relay_ports: 50_000..=50_100,
        listen: vec![(v4(), 1).into()],
        ..config
    };
    other.realm.users.clear();
    let error = relay.reload(&other).expect_err("sockets would change");
    assert!(matches!(error, ReloadError::NeedsRestart(_)), "{error}");
    assert_eq!(
        error.to_string(),
        "only a restart changes where it listens (`listen`), the relay ports (`relay-ports`)"
    );
    Device::udp(&relay, "alice").allocate();
}
