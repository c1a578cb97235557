//! The node's relay: how it is configured, and where devices find it.

use std::net::{IpAddr, SocketAddr};

use tombolo_relay::{Certificates, Relay, RelayConfig};

use crate::addresses::Addresses;
use crate::builder::NodeBuilder;
use crate::fleet::Fleet;
use crate::hook::Uris;

/// What was asked for, with the node's own addresses and certificate, and what the cluster's relays share.
pub(crate) fn config(
    config: &NodeBuilder,
    addresses: &Addresses,
    certificates: Certificates,
    fleet: &Fleet,
) -> RelayConfig {
    let mut relay = config.relay.clone();
    let bound = addresses.bound();
    let at = |port| bound.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    relay.listen = at(config.turn_port);
    relay.listen_udp = at(alternate_port(config.turn_port));
    relay.listen_tls = at(config.turns_port);
    relay.tls = Some(certificates);
    let relaying = addresses.relaying();
    relay.relay_ips = relaying.iter().map(|address| address.bound).collect();
    relay.public_ips = relaying
        .iter()
        .filter(|address| address.bound != address.advertised)
        .map(|address| (address.bound, address.advertised))
        .collect();
    let secrets = std::iter::once(&fleet.secret).chain(&fleet.others);
    let secrets = secrets.map(|secret| secret.as_str().as_bytes().to_vec());
    relay.realm.secrets.extend(secrets);
    relay.nonce_key.get_or_insert(fleet.key);
    relay.allow_peers.extend(&config.allow_peers);
    relay.own_ports.push(config.port);
    relay
}

/// Where the second UDP port for STUN is: any one next to a port that is any one.
fn alternate_port(port: u16) -> u16 {
    match port {
        0 => 0,
        port => port.checked_add(1).unwrap_or(0),
    }
}

/// All forms of the relay's addresses: introductions may carry either.
pub(crate) fn ips(addresses: &Addresses) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = addresses
        .relaying()
        .iter()
        .flat_map(|address| [address.advertised, address.bound])
        .collect();
    ips.dedup();
    ips
}

/// Where clients reach the relay over UDP, TCP and TLS.
pub(crate) fn turn(relay: &Relay, addresses: &Addresses) -> Vec<SocketAddr> {
    let turn = &relay.addrs().turn;
    turn.iter()
        .filter_map(|bound| advertised(bound, addresses))
        .collect()
}

fn advertised(bound: &SocketAddr, addresses: &Addresses) -> Option<SocketAddr> {
    let ip = addresses.advertised_for(bound.ip())?;
    Some(SocketAddr::new(ip, bound.port()))
}

/// How devices reach the relay; `host` is the name in the node's certificate, if it has one.
pub(crate) fn uris(relay: &Relay, addresses: &Addresses, host: Option<&str>) -> Uris {
    let advertised = |bound| advertised(bound, addresses);
    let addrs = relay.addrs();
    let turn = turn(relay, addresses);
    let mut uris = Uris::default();
    let alternate = addrs.alternate.iter().filter_map(advertised);
    turn.iter()
        .copied()
        .chain(alternate)
        .for_each(|addr| uris.add_stun(addr));
    turn.iter().for_each(|addr| uris.add_turn(*addr));
    let turns = addrs.turns.iter().filter_map(advertised);
    match host {
        None => turns.for_each(|addr| uris.add_turns(addr)),
        Some(host) => {
            if let Some(addr) = addrs.turns.first() {
                uris.add_turns(format_args!("{host}:{}", addr.port()));
            }
        }
    }
    uris
}
