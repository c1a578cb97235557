//! What operators see and do.

use tombolo_stun::{MobilityTicket, XorRelayedAddress};
use tombolo_turn::server::{AllocationInfo, CloseReason, Event, Tally};

use super::lab::{Lab, PEER, alice, bob, client, tcp_client};

#[test]
fn a_list_shows_each_allocation_with_what_went_through_it() {
    let mut lab = Lab::new();
    let start = lab.now;
    let at = lab.allocate(client(1), &alice());
    lab.allocate(client(2), &bob());
    lab.bind(client(1), &alice(), 0x4000, PEER);
    lab.permit(client(1), &alice(), "8.8.4.5:1");
    lab.send_on(client(1), 0x4000, b"12345");
    lab.send(client(1), PEER, b"123");
    lab.peer_sends(at, PEER, b"1234567");
    lab.send(client(1), "8.8.4.6:1", b"no permission");
    lab.send_on(client(1), 0x4001, b"no channel");
    lab.peer_sends(at, "8.8.4.6:1", b"no permission");
    let infos = list(&lab);
    assert_eq!(infos.len(), 2);
    let info = info_of(&infos, 1);
    assert_eq!(
        (info.user.as_str(), info.realm.as_str()),
        ("alice", "tombolo")
    );
    assert_eq!(info.relayed, [at.0]);
    assert_eq!(info.created, start);
    assert_eq!((info.expires - start).as_secs(), 600);
    assert_eq!((info.permissions, info.channels), (2, 1));
    let tally = |packets, bytes| Tally { packets, bytes };
    assert_eq!(info.traffic.to_peer, tally(2, 8));
    assert_eq!(info.traffic.to_client, tally(1, 7));
    assert_eq!(info.traffic.dropped, 3);
    assert_eq!(info_of(&infos, 2).traffic.to_peer, tally(0, 0));
}

#[test]
fn a_list_shows_relayed_addresses_as_their_clients_were_told_them() {
    let public = "7.7.7.7".parse().expect("is an address");
    let mut lab = Lab::with(|config| {
        config.public_ips = vec![("9.9.9.9".parse().expect("is an address"), public)];
    });
    let reply = lab.allocate_with(client(1), &alice(), |_| {});
    let XorRelayedAddress(told) = reply.get().expect("is there");
    assert_eq!(told.ip(), public);
    assert_eq!(list(&lab)[0].relayed, [told]);
}

#[test]
fn a_list_counts_only_permissions_and_channels_in_force() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    lab.bind(client(1), &alice(), 0x4000, PEER);
    lab.advance(300);
    let infos = list(&lab);
    assert_eq!((infos[0].permissions, infos[0].channels), (0, 1));
}

#[test]
fn an_operator_ends_one_allocation_and_no_other() {
    let mut lab = Lab::new();
    let at = lab.allocate(client(1), &alice());
    let other = lab.allocate(client(2), &alice());
    assert_eq!(lab.end(client(1)), 1);
    assert_eq!(lab.end(client(1)), 0);
    lab.drive();
    assert!(!lab.bound.contains(&at) && lab.bound.contains(&other));
    assert_eq!(list(&lab).len(), 1);
    assert_eq!(lab.permit(client(1), &alice(), PEER).code(), Some(437));
    let closed = Event::Closed {
        client: client(1),
        user: "alice".to_owned(),
        reason: CloseReason::Ended,
    };
    assert!(lab.events.contains(&closed));
}

#[test]
fn an_operator_ends_the_allocation_of_a_client_that_is_away() {
    let mut lab = Lab::new();
    for (port, user) in [(1, alice()), (2, bob())] {
        lab.allocate_with(tcp_client(port), &user, |writer| {
            writer.attribute(&MobilityTicket(b""));
        });
        lab.server.handle_client_gone(lab.now, tcp_client(port));
    }
    // Somebody else's connection has the address now.
    let other = lab.allocate(tcp_client(1), &bob());
    let now = lab.now;
    assert_eq!(lab.server.end(now, |one| one.user == "alice"), 1);
    lab.drive();
    assert_eq!((lab.bound.len(), lab.bound.contains(&other)), (2, true));
    assert_eq!([1, 1, 2].map(|port| lab.end(tcp_client(port))), [1, 0, 1]);
    lab.drive();
    assert!(lab.bound.is_empty());
    let users: Vec<&str> = lab.events.iter().filter_map(closed_of).collect();
    assert_eq!(users, ["alice", "bob", "bob"]);
}

fn closed_of(event: &Event) -> Option<&str> {
    let Event::Closed { user, .. } = event else {
        return None;
    };
    Some(user)
}

fn list(lab: &Lab) -> Vec<AllocationInfo> {
    lab.server.allocations(lab.now).collect()
}

fn info_of(infos: &[AllocationInfo], port: u16) -> &AllocationInfo {
    infos
        .iter()
        .find(|info| info.client == client(port))
        .expect("is listed")
}
