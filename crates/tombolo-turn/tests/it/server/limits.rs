//! How much a network gets, and how much may go through an allocation.

use std::net::SocketAddr;

use tombolo_stun::{
    AttributeType, EvenPort, Lifetime, Method, MobilityTicket, RawAttribute, RequestedTransport,
    ReservationToken,
};
use tombolo_turn::server::{Bandwidth, Config, FiveTuple, Quota, RealmId, Refusal};

use super::lab::{Lab, PEER, SECRET, User, alice, bob, client};

#[test]
fn a_network_has_only_so_many_allocations_whoever_its_users_are() {
    let mut lab = Lab::with(|config| config.limits.per_network.allocations = Some(2));
    lab.allocate(at("8.8.8.1:1"), &alice());
    lab.allocate(at("8.8.8.2:1"), &bob());
    let third = lab.allocate_with(at("8.8.8.3:1"), &User::until(86_400, "carol"), |_| {});
    assert_eq!(third.code(), Some(486));
    assert_eq!(lab.refused(Refusal::NetworkFull), 1);
    lab.allocate(at("8.8.9.3:1"), &alice());
    lab.advance(600);
    lab.allocate(at("8.8.8.3:1"), &alice());
}

#[test]
fn a_network_of_ipv6_is_a_48() {
    let mut lab = Lab::with(|config| config.limits.per_network.allocations = Some(1));
    lab.allocate(at("[2a00:1:2:3::1]:1"), &alice());
    let same = lab.allocate_with(at("[2a00:1:2:4::1]:1"), &alice(), |_| {});
    assert_eq!(same.code(), Some(486));
    lab.allocate(at("[2a00:1:3::1]:1"), &alice());
    // An IPv4-mapped address is of the IPv4 network.
    lab.allocate(at("[::ffff:8.8.8.1]:1"), &alice());
    let mapped = lab.allocate_with(at("8.8.8.2:1"), &alice(), |_| {});
    assert_eq!(mapped.code(), Some(486));
}

#[test]
fn an_allocation_counts_for_the_network_that_its_client_has_moved_to() {
    let mut lab = Lab::with(|config| config.limits.per_network.allocations = Some(1));
    let made = lab.allocate_with(at("8.8.8.1:1"), &alice(), |writer| {
        writer.attribute(&MobilityTicket(b""));
    });
    let ticket: MobilityTicket<'_> = made.get().expect("is mobile");
    lab.allocate(at("8.8.9.1:1"), &bob());
    let move_to = |lab: &mut Lab, to| {
        lab.signed(at(to), &alice(), Method::REFRESH, |writer| {
            writer.attribute(&ticket);
        })
        .code()
    };
    assert_eq!(move_to(&mut lab, "8.8.9.2:1"), Some(486), "it is full");
    assert_eq!(move_to(&mut lab, "8.8.10.1:1"), None);
    lab.allocate(at("8.8.8.2:1"), &alice());
    let full = lab.allocate_with(at("8.8.10.2:1"), &alice(), |_| {});
    assert_eq!(full.code(), Some(486));
    lab.advance(600);
    lab.allocate(at("8.8.10.2:1"), &alice());
}

#[test]
fn a_move_that_is_refused_counts_for_no_network() {
    let mut lab = Lab::with(|config| config.limits.per_network.allocations = Some(1));
    let made = lab.allocate_with(at("8.8.8.1:1"), &alice(), |writer| {
        writer.attribute(&MobilityTicket(b""));
    });
    let ticket: MobilityTicket<'_> = made.get().expect("is mobile");
    let reply = lab.signed(at("8.8.10.1:1"), &alice(), Method::REFRESH, |writer| {
        writer.attribute(&ticket);
        writer.attribute(&RawAttribute {
            kind: AttributeType::LIFETIME,
            value: &[0],
        });
    });
    assert_eq!(reply.code(), Some(400));
    let full = lab.allocate_with(at("8.8.8.2:1"), &bob(), |_| {});
    assert_eq!(full.code(), Some(486), "it has not moved");
    lab.allocate(at("8.8.10.2:1"), &bob());
}

#[test]
fn an_allocation_that_fails_counts_for_nobody() {
    let mut lab = Lab::with(|config| {
        config.limits.per_network.allocations = Some(1);
        config.limits.per_user.allocations = Some(1);
        config.relay_ports = 50_000..=50_000;
        config.own_ports = vec![50_000];
    });
    for _ in 0..3 {
        let reply = lab.allocate_with(client(1), &alice(), |_| {});
        assert_eq!(reply.code(), Some(508), "there is no port");
    }
}

#[test]
fn bandwidth_is_counted_for_each_direction_and_what_is_beyond_is_dropped() {
    let mut lab = limited();
    let relay = lab.allocate(client(1), &alice());
    lab.bind(client(1), &alice(), 0x4000, PEER);
    let payload = [7; 500];
    assert!(lab.send_on(client(1), 0x4000, &payload).is_some());
    assert!(lab.send(client(1), PEER, &payload).is_some());
    assert_eq!(lab.send_on(client(1), 0x4000, &payload), None);
    assert_eq!(lab.send(client(1), PEER, &payload), None);
    assert!(lab.peer_sends(relay, PEER, &payload).is_some());
    assert!(lab.peer_sends(relay, PEER, &payload).is_some());
    assert_eq!(lab.peer_sends(relay, PEER, &payload), None);
    assert_eq!(lab.refused(Refusal::BandwidthUsed), 3);
    let info = lab.server.allocations(lab.now).next().expect("is listed");
    assert_eq!(info.traffic.dropped, 3);
    assert_eq!(info.traffic.to_peer.bytes, 1000);
    assert_eq!(info.traffic.to_client.bytes, 1000);

    lab.advance(1);
    assert!(lab.send_on(client(1), 0x4000, &payload).is_some());
}

#[test]
fn one_allocation_does_not_use_up_the_bandwidth_of_another() {
    let mut lab = limited();
    for port in [1, 2] {
        lab.allocate(client(port), &alice());
        lab.permit(client(port), &alice(), PEER);
        assert!(lab.send(client(port), PEER, &[7; 1000]).is_some());
    }
}

#[test]
fn a_new_bandwidth_holds_for_allocations_that_exist() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    lab.permit(client(1), &alice(), PEER);
    lab.advance(100);
    assert!(lab.send(client(1), PEER, &[7; 1200]).is_some());
    let mut config = Config::new([3; 32]);
    config.realm.secrets = vec![SECRET.to_vec()];
    config.limits.bandwidth = Some(LIMIT);
    lab.server.reconfigure(lab.now, config);
    assert_eq!(lab.send(client(1), PEER, &[7; 1200]), None);
    assert!(lab.send(client(1), PEER, &[7; 1000]).is_some());
}

#[test]
fn a_realm_has_its_own_bandwidth() {
    let mut lab = Lab::with(|config| {
        config.limits.bandwidth = Some(Bandwidth {
            bytes_per_second: 9000,
            burst_bytes: 9000,
        });
        config.realm.bandwidth = Some(LIMIT);
    });
    lab.allocate(client(1), &alice());
    lab.permit(client(1), &alice(), PEER);
    assert_eq!(lab.send(client(1), PEER, &[7; 1001]), None);
    assert!(lab.send(client(1), PEER, &[7; 1000]).is_some());
    assert_eq!(lab.server.bandwidth(RealmId::default()), Some(LIMIT));
}

/// A refusal, its code, and who is bounded so that it comes.
type Case = (Refusal, u16, fn(&mut Config, Quota));

#[test]
fn bandwidth_is_granted_to_a_user_a_realm_a_network_and_all_together() {
    let quota = Quota {
        bandwidth: Some(1400),
        ..Quota::default()
    };
    let cases: [Case; 4] = [
        (Refusal::UserBandwidthFull, 486, |config, quota| {
            config.limits.per_user = quota;
        }),
        (Refusal::RealmBandwidthFull, 486, |config, quota| {
            config.realm.quota = quota;
        }),
        (Refusal::NetworkBandwidthFull, 486, |config, quota| {
            config.limits.per_network = quota;
        }),
        (Refusal::BandwidthFull, 508, |config, quota| {
            config.limits.total = quota;
        }),
    ];
    for (refusal, code, set) in cases {
        let mut lab = Lab::with(|config| {
            config.limits.bandwidth = Some(LIMIT);
            set(config, quota);
        });
        for port in [1, 2] {
            lab.allocate(client(port), &alice());
        }
        let third = lab.allocate_with(client(3), &alice(), |_| {});
        assert_eq!(third.code(), Some(code), "{refusal}: 500 of 1400 are left");
        assert_eq!(lab.refused(refusal), 1);
        assert_eq!(lab.server.usage().bandwidth, 1000);
        lab.signed(client(1), &alice(), Method::REFRESH, |writer| {
            writer.attribute(&Lifetime(0));
        });
        lab.allocate(client(3), &alice());
    }
}

#[test]
fn allocations_in_the_making_and_reservations_have_their_bandwidth() {
    let mut lab = Lab::with(|config| {
        config.limits.bandwidth = Some(LIMIT);
        config.limits.per_user.bandwidth = Some(1000);
    });
    lab.is_driver_slow = true;
    for port in [1, 2, 3] {
        let wish = lab.sign(client(port), &alice(), Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
        });
        lab.exchange(client(port), &wish);
    }
    assert_eq!(lab.refused(Refusal::UserBandwidthFull), 1);
    lab.catch_up();
    assert_eq!(lab.server.usage().bandwidth, 1000);

    let mut lab = Lab::with(|config| {
        config.limits.bandwidth = Some(LIMIT);
        config.limits.per_user.bandwidth = Some(1000);
    });
    let pair = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&EvenPort { reserve_next: true });
    });
    let token: ReservationToken = pair.get().expect("is reserved");
    let other = lab.allocate_with(client(2), &alice(), |_| {});
    assert_eq!(other.code(), Some(486));
    let redeemed = lab.allocate_with(client(2), &alice(), |writer| {
        writer.attribute(&token);
    });
    assert_eq!(redeemed.code(), None);
    assert_eq!(lab.server.usage().bandwidth, 1000);
}

#[test]
fn a_move_is_no_way_around_the_bandwidth_of_a_network() {
    let mut lab = Lab::with(|config| {
        config.limits.bandwidth = Some(LIMIT);
        config.limits.per_network.bandwidth = Some(500);
    });
    let reply = lab.allocate_with(at("8.8.8.1:1"), &alice(), |writer| {
        writer.attribute(&MobilityTicket(b""));
    });
    let MobilityTicket(ticket) = reply.get().expect("is mobile");
    let ticket = ticket.to_vec();
    lab.allocate(at("8.8.9.1:1"), &alice());
    let moved = lab.signed(at("8.8.9.2:1"), &alice(), Method::REFRESH, |writer| {
        writer.attribute(&MobilityTicket(&ticket));
    });
    assert_eq!(moved.code(), Some(486));
    assert_eq!(lab.refused(Refusal::NetworkBandwidthFull), 1);
    let moved = lab.signed(at("8.8.10.2:1"), &alice(), Method::REFRESH, |writer| {
        writer.attribute(&MobilityTicket(&ticket));
    });
    assert_eq!(moved.code(), None);
}

const LIMIT: Bandwidth = Bandwidth {
    bytes_per_second: 500,
    burst_bytes: 1000,
};

fn limited() -> Lab {
    Lab::with(|config| config.limits.bandwidth = Some(LIMIT))
}

fn at(client_address: &str) -> FiveTuple {
    let address: SocketAddr = client_address.parse().expect("is an address");
    FiveTuple {
        client: address,
        ..client(1)
    }
}
