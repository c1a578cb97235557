//! Clients that take their allocation along to another address. See RFC 8016.

use tombolo_stun::{
    AlternateServer, AttributeType, Lifetime, Method, MobilityTicket, RequestedTransport,
    XorRelayedAddress,
};
use tombolo_turn::server::{
    CloseReason, Command, Config, Event, FiveTuple, PeerAddr, PeerError, Realm, Refusal, RelayAddr,
    ShardIndex, Transport,
};

use super::lab::{Lab, PEER, REALM, Reply, SECRET, User, address, alice, bob, client, tcp_client};

#[test]
fn a_client_that_asks_gets_a_ticket_and_others_get_none() {
    let mut lab = Lab::new();
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    assert_eq!(ticket.len(), 32, "coturn's client has room for no more");
    let reply = lab.allocate_with(client(2), &alice(), |_| {});
    assert!(!reply.has(AttributeType::MOBILITY_TICKET));
    let reply = lab.signed(client(2), &alice(), Method::REFRESH, |_| {});
    assert!(!reply.has(AttributeType::MOBILITY_TICKET));
}

#[test]
fn an_allocate_with_a_ticket_that_is_not_empty_is_a_bad_request() {
    let mut lab = Lab::new();
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&MobilityTicket(b"x"));
    });
    assert_eq!(reply.code(), Some(400));
}

#[test]
fn mobility_that_is_off_is_405_and_says_nothing_of_tickets() {
    let mut lab = Lab::with(|config| config.mobility = false);
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&MobilityTicket(b""));
    });
    assert_eq!(reply.code(), Some(405));
    lab.allocate(client(1), &alice());
    let reply = refresh(&mut lab, client(2), &alice(), b"whatever");
    assert_eq!(reply.code(), Some(405));
    // Another configuration may switch it on.
    let mut config = Config::new([3; 32]);
    config.realm = Realm::new(REALM);
    config.realm.secrets = vec![SECRET.to_vec()];
    lab.server.reconfigure(lab.now, config);
    allocate(&mut lab, client(2), &alice());
}

#[test]
fn data_goes_to_the_old_address_until_the_client_has_sent_from_the_new_one() {
    let mut lab = Lab::new();
    let (at, ticket) = allocate(&mut lab, client(1), &alice());
    lab.bind(client(1), &alice(), 0x4000, PEER);
    let (reply, next) = moved(&mut lab, client(2), &ticket);
    assert_eq!(reply.get(), Ok(Lifetime(600)));
    assert_ne!(next, ticket);

    // Both addresses send; only the old one receives.
    assert!(lab.send_on(client(1), 0x4000, b"old").is_some());
    let received = lab.peer_sends(at, PEER, b"x").expect("is permitted");
    assert_eq!(received.to, client(1));
    // A plain Refresh from the new one changes nothing.
    let reply = lab.signed(client(2), &alice(), Method::REFRESH, |_| {});
    assert_eq!(reply.code(), None);
    let received = lab.peer_sends(at, PEER, b"x").expect("is permitted");
    assert_eq!(received.to, client(1));

    let sent = lab.send_on(client(2), 0x4000, b"new").expect("is bound");
    assert_eq!(sent.from, at.0, "the peer sees no change");
    assert!(!lab.server.is_drained(), "the driver is told of it");
    let received = lab.peer_sends(at, PEER, b"x").expect("is permitted");
    assert_eq!(received.to, client(2));
    assert_eq!(lab.send_on(client(1), 0x4000, b"old"), None);
    assert_eq!(lab.server.stats().allocations_moved, 1);
    assert_eq!(lab.server.stats().allocations, 1);
}

#[test]
fn a_send_indication_from_the_new_address_completes_a_move_too() {
    let mut lab = Lab::new();
    let (at, ticket) = allocate(&mut lab, client(1), &alice());
    lab.permit(client(1), &alice(), PEER);
    moved(&mut lab, client(2), &ticket);
    assert!(lab.send(client(2), PEER, b"x").is_some());
    let received = lab.peer_sends(at, PEER, b"x").expect("is permitted");
    assert_eq!(received.to, client(2));
}

#[test]
fn a_client_that_sets_up_a_peer_from_the_new_address_hears_from_it_there() {
    for is_channel in [false, true] {
        let mut lab = Lab::new();
        let (at, ticket) = allocate(&mut lab, client(1), &alice());
        moved(&mut lab, client(2), &ticket);
        let reply = match is_channel {
            false => lab.permit(client(2), &alice(), PEER),
            true => lab.bind(client(2), &alice(), 0x4000, PEER),
        };
        assert_eq!(reply.code(), None);
        let received = lab.peer_sends(at, PEER, b"x").expect("is permitted");
        assert_eq!(received.to, client(2));
    }
}

#[test]
fn a_client_moves_from_udp_to_tcp_and_on_when_its_connection_breaks() {
    let mut lab = Lab::new();
    let (at, ticket) = allocate(&mut lab, tcp_client(1), &alice());
    lab.bind(tcp_client(1), &alice(), 0x4000, PEER);
    moved(&mut lab, client(2), &ticket);
    lab.server.handle_client_gone(lab.now, tcp_client(1));
    lab.drive();
    let received = lab.peer_sends(at, PEER, b"x").expect("is permitted");
    assert_eq!(received.to, client(2), "the old connection is closed");
    let moved = Event::Moved {
        client: tcp_client(1),
        to: client(2),
        user: "alice".to_owned(),
    };
    assert_eq!(lab.events.last(), Some(&moved));
}

#[test]
fn a_new_connection_that_breaks_before_data_came_leaves_the_old_one_in_place() {
    let mut lab = Lab::new();
    let (at, ticket) = allocate(&mut lab, client(1), &alice());
    lab.bind(client(1), &alice(), 0x4000, PEER);
    moved(&mut lab, tcp_client(2), &ticket);
    lab.server.handle_client_gone(lab.now, tcp_client(2));
    let received = lab.peer_sends(at, PEER, b"x").expect("is permitted");
    assert_eq!(received.to, client(1));
    assert_eq!(lab.send_on(tcp_client(2), 0x4000, b"x"), None);
    // The client, which may have missed the answer, tries again with either ticket.
    moved(&mut lab, tcp_client(3), &ticket);
}

#[test]
fn a_mobile_allocation_outlives_its_connection_until_the_client_is_back() {
    let mut lab = Lab::new();
    let (at, ticket) = allocate(&mut lab, tcp_client(1), &alice());
    lab.bind(tcp_client(1), &alice(), 0x4000, PEER);
    lab.server.handle_client_gone(lab.now, tcp_client(1));
    lab.drive();
    assert_eq!(lab.send_on(tcp_client(1), 0x4000, b"x"), None);
    assert!(lab.bound.contains(&at));
    // Somebody else may be at the old address by now.
    let other = lab.allocate(tcp_client(1), &bob());
    moved(&mut lab, tcp_client(2), &ticket);
    let received = lab.peer_sends(at, PEER, b"x").expect("is permitted");
    assert_eq!(received.to, tcp_client(2), "the old address is dead");
    lab.permit(tcp_client(1), &bob(), PEER);
    let received = lab.peer_sends(other, PEER, b"x").expect("is permitted");
    assert_eq!(received.to, tcp_client(1));
}

#[test]
fn whoever_has_the_address_of_a_broken_connection_hears_nothing_of_its_peers() {
    let mut lab = Lab::new();
    let (at, ticket) = allocate(&mut lab, tcp_client(1), &alice());
    lab.permit(tcp_client(1), &alice(), PEER);
    lab.server.handle_client_gone(lab.now, tcp_client(1));
    // Behind the same NAT, somebody else gets the same port.
    lab.allocate(tcp_client(1), &bob());
    assert_eq!(lab.peer_sends(at, PEER, b"for alice"), None);
    let unreachable = PeerError {
        kind: 3,
        code: 3,
        data: [0; 4],
    };
    let peer = PeerAddr(address(PEER));
    lab.server.handle_peer_error(lab.now, at, peer, unreachable);
    assert_eq!(lab.server.poll_transmit(), None);
    assert_eq!(lab.refused(Refusal::ClientAway), 2);
    moved(&mut lab, tcp_client(2), &ticket);
    assert!(lab.peer_sends(at, PEER, b"for alice").is_some());
}

#[test]
fn no_allocation_moves_to_where_another_one_is_being_made() {
    let mut lab = Lab::new();
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    let wish = lab.sign(client(2), &bob(), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    lab.is_driver_slow = true;
    assert_eq!(lab.exchange(client(2), &wish), []);
    let reply = refresh(&mut lab, client(2), &alice(), &ticket);
    assert_eq!(reply.code(), Some(437));
    lab.catch_up();
    assert_eq!(lab.permit(client(2), &bob(), PEER).code(), None);
    assert!(lab.send(client(2), PEER, b"x").is_some());
    assert_eq!(lab.permit(client(1), &alice(), PEER).code(), None);
}

#[test]
fn a_mobile_allocation_whose_client_does_not_come_back_expires() {
    let mut lab = Lab::with(|config| config.limits.per_user.allocations = Some(1));
    allocate(&mut lab, tcp_client(1), &alice());
    lab.server.handle_client_gone(lab.now, tcp_client(1));
    let reply = lab.allocate_with(tcp_client(2), &alice(), |_| {});
    assert_eq!(reply.code(), Some(486), "it counts as long as it lives");
    lab.advance(600);
    assert!(lab.bound.is_empty());
    lab.allocate(tcp_client(2), &alice());
}

#[test]
fn a_client_comes_back_from_the_address_of_a_connection_that_broke() {
    let mut lab = Lab::new();
    let (at, ticket) = allocate(&mut lab, tcp_client(1), &alice());
    lab.bind(tcp_client(1), &alice(), 0x4000, PEER);
    lab.server.handle_client_gone(lab.now, tcp_client(1));
    moved(&mut lab, tcp_client(1), &ticket);
    assert!(lab.send_on(tcp_client(1), 0x4000, b"x").is_some());
    let received = lab.peer_sends(at, PEER, b"x").expect("is permitted");
    assert_eq!(received.to, tcp_client(1));
}

#[test]
fn a_retransmitted_refresh_gets_the_same_ticket_again() {
    let mut lab = Lab::new();
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    lab.signed(client(2), &alice(), Method::ALLOCATE, |_| {});
    let bytes = lab.sign(client(2), &alice(), Method::REFRESH, |writer| {
        writer.attribute(&MobilityTicket(&ticket));
    });
    let first = lab.reply(client(2), &bytes);
    assert_eq!(first.code(), None);
    assert_eq!(lab.reply(client(2), &bytes), first);
    lab.permit(client(2), &alice(), PEER);
    assert!(lab.send(client(2), PEER, b"x").is_some());
    lab.advance(30);
    assert_eq!(lab.reply(client(2), &bytes), first, "and after the move");
}

#[test]
fn a_refresh_with_a_ticket_from_where_the_client_is_is_a_bad_request() {
    let mut lab = Lab::new();
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    let reply = refresh(&mut lab, client(1), &alice(), &ticket);
    assert_eq!(reply.code(), Some(400));
}

#[test]
fn a_plain_refresh_of_a_mobile_allocation_brings_a_newer_ticket_that_works() {
    let mut lab = Lab::new();
    let (_, first) = allocate(&mut lab, client(1), &alice());
    lab.advance(599);
    let reply = lab.signed(client(1), &alice(), Method::REFRESH, |_| {});
    lab.advance(599);
    let ticket: MobilityTicket<'_> = reply.get().expect("is mobile");
    assert_ne!(ticket.0, first);
    moved(&mut lab, client(2), ticket.0);
}

#[test]
fn old_tickets_cannot_be_replayed_once_the_client_has_arrived() {
    let mut lab = Lab::new();
    let (_, first) = allocate(&mut lab, client(1), &alice());
    lab.permit(client(1), &alice(), PEER);
    let (_, second) = moved(&mut lab, client(2), &first);
    lab.send(client(2), PEER, b"x");
    let reply = refresh(&mut lab, client(3), &alice(), &first);
    assert_eq!(reply.code(), Some(400));
    assert_eq!(lab.refused(Refusal::TicketUsed), 1);
    moved(&mut lab, client(3), &second);
}

#[test]
fn a_ticket_of_another_user_is_refused() {
    let mut lab = Lab::new();
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    assert_eq!(
        refresh(&mut lab, client(2), &bob(), &ticket).code(),
        Some(441)
    );
}

#[test]
fn a_ticket_without_credentials_is_challenged() {
    let mut lab = Lab::new();
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    let reply = lab.unsigned(client(2), Method::REFRESH, |writer| {
        writer.attribute(&MobilityTicket(&ticket));
    });
    assert_eq!(reply.code(), Some(401));
}

#[test]
fn tickets_that_are_none_have_expired_or_outlived_their_allocation_are_refused() {
    let mut lab = Lab::new();
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    let mut changed = ticket.clone();
    changed[3] ^= 1;
    for none in [&b""[..], b"x", &changed, &ticket[1..]] {
        let reply = refresh(&mut lab, client(2), &alice(), none);
        assert_eq!(reply.code(), Some(400));
    }
    assert_eq!(lab.refused(Refusal::TicketInvalid), 4);
    lab.advance(600);
    assert_eq!(
        refresh(&mut lab, client(2), &alice(), &ticket).code(),
        Some(437)
    );
    let tomorrow = User::until(3 * 86_400, "alice");
    lab.advance(86_400);
    let reply = refresh(&mut lab, client(2), &tomorrow, &ticket);
    assert_eq!(reply.code(), Some(438), "the nonce is of yesterday");
    assert_eq!(
        refresh(&mut lab, client(2), &tomorrow, &ticket).code(),
        Some(400)
    );
}

#[test]
fn a_ticket_of_another_node_is_known_and_cannot_be_redeemed_here() {
    let (_, ticket) = allocate(
        &mut Lab::with(|config| config.node = [1; 4]),
        client(1),
        &alice(),
    );
    let mut lab = Lab::with(|config| config.node = [2; 4]);
    let reply = refresh(&mut lab, client(2), &alice(), &ticket);
    assert_eq!(reply.code(), Some(405));
    assert_eq!(lab.refused(Refusal::TicketElsewhere), 1);
    // Of another fleet it is none at all.
    let mut lab = Lab::with(|config| config.nonce_key = [9; 32]);
    assert_eq!(
        refresh(&mut lab, client(2), &alice(), &ticket).code(),
        Some(400)
    );
}

#[test]
fn whom_another_node_made_a_ticket_for_is_sent_there_and_nobody_else() {
    let mut there = Lab::with(|config| config.node = [1; 4]);
    let (_, ticket) = allocate(&mut there, client(1), &alice());
    let mut lab = Lab::with(|config| config.node = [2; 4]);
    let server = address("9.9.9.10:3478");
    lab.server.set_fleet([([1; 4], vec![server])].into());
    let reply = refresh(&mut lab, client(2), &alice(), &ticket);
    assert_eq!(reply.code(), Some(300));
    assert_eq!(reply.get(), Ok(AlternateServer(server)));
    assert_eq!(reply.message().check_integrity(&alice().key()), Ok(()));
    moved(&mut there, client(2), &ticket);

    let stranger = lab.unsigned(client(3), Method::REFRESH, |writer| {
        writer.attribute(&MobilityTicket(&ticket));
    });
    let bob = refresh(&mut lab, client(4), &bob(), &ticket);
    let from_v6 = FiveTuple {
        client: address("[2a00::1]:7"),
        ..client(5)
    };
    let of_no_family = refresh(&mut lab, from_v6, &alice(), &ticket);
    // It has ended, or its node has begun another life.
    lab.server.set_fleet([([3; 4], vec![server])].into());
    let unknown = refresh(&mut lab, client(6), &alice(), &ticket);
    // Who is there would only come here once more.
    let shared = client(7).server;
    lab.server.set_fleet([([1; 4], vec![shared])].into());
    let here = refresh(&mut lab, client(7), &alice(), &ticket);
    for (reply, code) in [
        (stranger, 401),
        (bob, 405),
        (of_no_family, 405),
        (unknown, 405),
        (here, 405),
    ] {
        assert_eq!(reply.code(), Some(code));
        assert!(!reply.has(AttributeType::ALTERNATE_SERVER));
    }
}

#[test]
fn a_client_that_reaches_another_shard_is_passed_on_to_its_allocation() {
    let shard = |index| {
        Lab::with(|config| {
            config.shard = ShardIndex(index);
            config.shards = 2;
        })
    };
    let (mut first, mut second) = (shard(0), shard(1));
    let (_, ticket) = allocate(&mut first, client(1), &alice());
    let bytes = second.sign(client(2), &alice(), Method::REFRESH, |writer| {
        writer.attribute(&MobilityTicket(&ticket));
    });
    assert_eq!(second.exchange(client(2), &bytes), []);
    let redirect = Command::Redirect {
        shard: ShardIndex(0),
        client: client(2),
        bytes: bytes.clone(),
    };
    assert_eq!(second.shard_commands, [redirect]);
    assert_eq!(first.reply(client(2), &bytes).code(), None);
}

#[test]
fn a_client_with_an_allocation_gets_no_second_one_by_a_ticket_of_another_shard() {
    let shard = |index| {
        Lab::with(|config| {
            config.shard = ShardIndex(index);
            config.shards = 2;
        })
    };
    let (mut first, mut second) = (shard(0), shard(1));
    let (_, ticket) = allocate(&mut first, client(1), &alice());
    second.allocate(client(2), &alice());
    let reply = refresh(&mut second, client(2), &alice(), &ticket);
    assert_eq!(reply.code(), Some(437));
    // Nor where its own is being made.
    second.is_driver_slow = true;
    let wish = second.sign(client(3), &alice(), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    assert_eq!(second.exchange(client(3), &wish), []);
    let reply = refresh(&mut second, client(3), &alice(), &ticket);
    assert_eq!(reply.code(), Some(437));
    assert_eq!(second.shard_commands, []);
}

#[test]
fn resume_attempts_leave_nothing_behind_but_one_address() {
    let mut lab = Lab::with(|config| config.limits.per_user.allocations = Some(1));
    let (at, ticket) = allocate(&mut lab, client(1), &alice());
    lab.permit(client(1), &alice(), PEER);
    for port in 2..100 {
        moved(&mut lab, client(port), &ticket);
    }
    assert_eq!(lab.server.stats().allocations, 1);
    assert_eq!(lab.bound.len(), 1);
    // Only the last one counts, and the first one, where the client still is.
    for port in 2..99 {
        assert_eq!(lab.send(client(port), PEER, b"x"), None);
    }
    assert!(lab.send(client(1), PEER, b"x").is_some());
    assert!(lab.send(client(99), PEER, b"x").is_some());
    let received = lab.peer_sends(at, PEER, b"x").expect("is permitted");
    assert_eq!(received.to, client(99));
}

#[test]
fn the_quota_counts_an_allocation_wherever_it_has_moved() {
    let mut lab = Lab::with(|config| config.limits.per_user.allocations = Some(1));
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    lab.permit(client(1), &alice(), PEER);
    moved(&mut lab, client(2), &ticket);
    let mut code = |port| lab.allocate_with(client(port), &alice(), |_| {}).code();
    assert_eq!(code(3), Some(486), "while it moves");
    assert_eq!(code(1), Some(437), "the old address is still taken");
    lab.send(client(2), PEER, b"x");
    let mut code = |port| lab.allocate_with(client(port), &alice(), |_| {}).code();
    assert_eq!(code(1), Some(486), "and after");
}

#[test]
fn an_allocation_whose_client_did_not_get_to_another_network_counts_for_its_own_again() {
    let mut lab = Lab::with(|config| config.limits.per_network.allocations = Some(1));
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    let elsewhere = |port| FiveTuple {
        client: ([8, 8, 4, 4], port).into(),
        ..tcp_client(port)
    };
    moved(&mut lab, elsewhere(1), &ticket);
    let mut code = |from| lab.allocate_with(from, &bob(), |_| {}).code();
    assert_eq!(code(elsewhere(2)), Some(486));
    lab.server.handle_client_gone(lab.now, elsewhere(1));
    let mut code = |from| lab.allocate_with(from, &bob(), |_| {}).code();
    assert_eq!(code(client(2)), Some(486), "it is still there");
    assert_eq!(code(elsewhere(2)), None);
}

#[test]
fn an_allocation_whose_client_goes_on_from_where_it_was_counts_for_its_own_network_again() {
    let mut lab = Lab::with(|config| config.limits.per_network.allocations = Some(1));
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    let elsewhere = |port| FiveTuple {
        client: ([8, 8, 4, 4], port).into(),
        ..client(port)
    };
    moved(&mut lab, elsewhere(1), &ticket);
    let ask = |lab: &mut Lab, from| lab.signed(from, &alice(), Method::REFRESH, |_| {}).code();
    let allocate = |lab: &mut Lab, from| lab.allocate_with(from, &bob(), |_| {}).code();
    lab.advance(39);
    assert_eq!(ask(&mut lab, client(1)), None, "it may be of before");
    assert_eq!(allocate(&mut lab, elsewhere(2)), Some(486));
    lab.advance(1);
    assert_eq!(ask(&mut lab, client(1)), None);
    assert_eq!(
        allocate(&mut lab, client(2)),
        Some(486),
        "it is still there"
    );
    assert_eq!(allocate(&mut lab, elsewhere(2)), None);
    assert_eq!(ask(&mut lab, elsewhere(1)), Some(437));
}

#[test]
fn a_client_that_asks_for_something_from_where_it_goes_does_not_lose_that() {
    let mut lab = Lab::new();
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    moved(&mut lab, client(2), &ticket);
    let ask = |lab: &mut Lab, from| lab.signed(from, &alice(), Method::REFRESH, |_| {}).code();
    lab.advance(30);
    assert_eq!(ask(&mut lab, client(2)), None);
    lab.advance(39);
    assert_eq!(ask(&mut lab, client(1)), None);
    assert_eq!(ask(&mut lab, client(2)), None, "it still goes there");
    lab.advance(40);
    assert_eq!(ask(&mut lab, client(1)), None);
    assert_eq!(ask(&mut lab, client(2)), Some(437));
}

#[test]
fn a_client_that_comes_back_with_its_ticket_has_not_moved() {
    let mut lab = Lab::with(|config| config.limits.per_network.allocations = Some(1));
    let (_, first) = allocate(&mut lab, client(1), &alice());
    let elsewhere = FiveTuple {
        client: ([8, 8, 4, 4], 2).into(),
        ..client(2)
    };
    let (_, second) = moved(&mut lab, elsewhere, &first);
    // The network that it was in may have got another one meanwhile.
    lab.allocate(client(3), &bob());
    let back = lab.sign(client(1), &alice(), Method::REFRESH, |writer| {
        writer.attribute(&MobilityTicket(&second));
    });
    let reply = lab.reply(client(1), &back);
    assert_eq!(reply.code(), None);
    assert_eq!(lab.reply(client(1), &back), reply, "if it is sent again");
    let there = lab.signed(elsewhere, &alice(), Method::REFRESH, |_| {});
    assert_eq!(there.code(), Some(437));
    moved(&mut lab, elsewhere, &ticket_of(&reply));
}

#[test]
fn an_address_with_an_allocation_of_its_own_is_no_place_to_move_to() {
    let mut lab = Lab::new();
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    lab.allocate(client(2), &alice());
    assert_eq!(
        refresh(&mut lab, client(2), &alice(), &ticket).code(),
        Some(437)
    );
}

#[test]
fn no_client_moves_to_a_relayed_address_of_the_node() {
    let mut lab = Lab::new();
    let (at, ticket) = allocate(&mut lab, client(1), &alice());
    let loops = FiveTuple {
        client: at.0,
        ..client(1)
    };
    assert_eq!(
        refresh(&mut lab, loops, &alice(), &ticket).code(),
        Some(403)
    );
}

#[test]
fn a_move_keeps_the_permissions_of_peers_that_the_policy_allows() {
    let lab_peers: Vec<_> = vec!["10.0.0.0/8".parse().expect("is a network")];
    let mut lab = Lab::with(|config| config.allow_peers = lab_peers.clone());
    let (at, ticket) = allocate(&mut lab, client(1), &alice());
    lab.permit(client(1), &alice(), "10.0.0.1:1");
    moved(&mut lab, client(2), &ticket);
    assert!(lab.send(client(2), "10.0.0.1:1", b"x").is_some());
    assert!(lab.peer_sends(at, "10.0.0.1:1", b"x").is_some());
}

#[test]
fn a_refresh_with_a_ticket_and_no_lifetime_ends_the_allocation() {
    let mut lab = Lab::new();
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    let reply = lab.signed(client(2), &alice(), Method::REFRESH, |writer| {
        writer
            .attribute(&Lifetime(0))
            .attribute(&MobilityTicket(&ticket));
    });
    assert_eq!(reply.get(), Ok(Lifetime(0)));
    let closed = Event::Closed {
        client: client(1),
        user: "alice".to_owned(),
        reason: CloseReason::Refreshed,
    };
    assert_eq!(lab.events.last(), Some(&closed));
    assert!(lab.bound.is_empty());
}

#[test]
fn nothing_is_left_of_an_allocation_that_ends_while_its_client_moves() {
    let mut lab = Lab::new();
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    moved(&mut lab, client(2), &ticket);
    lab.advance(600);
    assert_eq!(lab.server.stats().allocations, 0);
    for port in [1, 2] {
        lab.allocate(client(port), &alice());
    }
}

#[test]
fn a_tcp_allocation_stays_where_it_is() {
    let mut lab = Lab::with(|config| config.relay_tcp = true);
    let reply = lab.signed(tcp_client(1), &alice(), Method::ALLOCATE, |writer| {
        writer
            .attribute(&RequestedTransport::TCP)
            .attribute(&MobilityTicket(b""));
    });
    assert_eq!(reply.code(), None);
    assert!(!reply.has(AttributeType::MOBILITY_TICKET));
}

#[test]
fn a_client_moves_to_another_address_family() {
    let mut lab = Lab::new();
    let (_, ticket) = allocate(&mut lab, client(1), &alice());
    lab.permit(client(1), &alice(), PEER);
    let v6 = FiveTuple {
        transport: Transport::Udp,
        client: address("[2a00::8]:1"),
        server: address("[2a00::9]:3478"),
    };
    moved(&mut lab, v6, &ticket);
    assert!(lab.send(v6, PEER, b"x").is_some());
}

/// Makes a mobile allocation.
fn allocate(lab: &mut Lab, from: FiveTuple, user: &User) -> (RelayAddr, Vec<u8>) {
    let reply = lab.allocate_with(from, user, |writer| {
        writer.attribute(&MobilityTicket(b""));
    });
    let XorRelayedAddress(at) = reply.get().expect("was made");
    (RelayAddr(at), ticket_of(&reply))
}

fn refresh(lab: &mut Lab, from: FiveTuple, user: &User, ticket: &[u8]) -> Reply {
    lab.signed(from, user, Method::REFRESH, |writer| {
        writer.attribute(&MobilityTicket(ticket));
    })
}

/// Moves an allocation of alice's and returns the new ticket.
fn moved(lab: &mut Lab, from: FiveTuple, ticket: &[u8]) -> (Reply, Vec<u8>) {
    let reply = refresh(lab, from, &alice(), ticket);
    assert_eq!(reply.code(), None);
    let ticket = ticket_of(&reply);
    (reply, ticket)
}

fn ticket_of(reply: &Reply) -> Vec<u8> {
    let ticket: MobilityTicket<'_> = reply.get().expect("is mobile");
    ticket.0.to_vec()
}
