//! TCP allocations, with a driver that the tests play. See RFC 6062.

use tombolo_stun::{
    AdditionalAddressFamily, AddressFamily, AttributeType, Class, Data, DontFragment, EvenPort,
    Message, MessageWriter, Method, RequestedAddressFamily, RequestedTransport, ReservationToken,
    XorPeerAddress, XorRelayedAddress,
};
use tombolo_turn::server::{
    Bandwidth, Carrier, Command, Config, ConnectError, ConnectionId, FiveTuple, PeerAddr, RealmId,
    Refusal, RelayAddr, ShardIndex, Spliced, Timer, Traffic,
};

use super::lab::{
    Lab, PEER, PEER_V6, Reply, SECRET, User, address, alice, bob, client, tcp_client,
};

#[test]
fn a_tcp_allocation_listens_at_its_relayed_address() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    assert!(lab.listening.contains(&at));
    let info = lab.server.allocations(lab.now).next().expect("is listed");
    assert_eq!(info.carrier, Carrier::Tcp);
    assert_eq!(
        lab.signed(tcp_client(1), &alice(), Method::REFRESH, |writer| {
            writer.attribute(&tombolo_stun::Lifetime(0));
        })
        .code(),
        None
    );
    assert!(lab.listening.is_empty(), "the port was released");
}

#[test]
fn a_tcp_allocation_is_refused_where_tcp_is_off() {
    let mut lab = Lab::new();
    assert_eq!(ask(&mut lab, tcp_client(1), |_| {}).code(), Some(442));
}

#[test]
fn a_tcp_allocation_over_udp_is_a_bad_request() {
    let mut lab = tcp_lab();
    assert_eq!(ask(&mut lab, client(1), |_| {}).code(), Some(400));
}

#[test]
fn other_transports_than_udp_and_tcp_are_unsupported() {
    let mut lab = tcp_lab();
    let reply = lab.signed(tcp_client(1), &alice(), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport(132));
    });
    assert_eq!(reply.code(), Some(442));
}

#[test]
fn attributes_that_only_udp_has_are_bad_requests_for_tcp() {
    let mut lab = tcp_lab();
    let even = EvenPort {
        reserve_next: false,
    };
    let replies = [
        ask(&mut lab, tcp_client(1), |writer| {
            writer.attribute(&DontFragment);
        }),
        ask(&mut lab, tcp_client(1), |writer| {
            writer.attribute(&even);
        }),
        ask(&mut lab, tcp_client(1), |writer| {
            writer.attribute(&ReservationToken([0; 8]));
        }),
    ];
    assert_eq!(replies.map(|reply| reply.code()), [Some(400); 3]);
}

#[test]
fn a_connect_is_answered_when_the_peer_has_answered() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    let connection = connecting(&mut lab, at, PEER);
    let reply = connected(&mut lab, connection, Ok(())).expect("is answered");
    assert_eq!(reply.code(), None);
    let id: tombolo_stun::ConnectionId = reply.get().expect("is named");
    assert_eq!(id.0, connection.0);
}

#[test]
fn a_connect_that_fails_or_takes_too_long_is_447() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    let refused = connecting(&mut lab, at, PEER);
    let reply = connected(&mut lab, refused, Err(ConnectError::PeerRefused));
    assert_eq!(reply.expect("is answered").code(), Some(447));

    let silent = connecting(&mut lab, at, PEER);
    assert_eq!(
        lab.server.poll_timeout().map(|(_, timer)| timer),
        Some(Timer::Connection)
    );
    lab.advance(29);
    assert_eq!(lab.server.poll_transmit(), None);
    lab.advance(1);
    let reply = Reply(lab.server.poll_transmit().expect("is answered").bytes);
    assert_eq!(reply.code(), Some(447));
    assert_eq!(
        lab.tcp_commands,
        [Command::ClosePeer { connection: silent }]
    );
    // The answer comes all the same: it is closed.
    assert!(connected(&mut lab, silent, Ok(())).is_none());
    lab.drive();
    assert_eq!(lab.tcp_commands.len(), 2);
}

#[test]
fn a_second_connect_to_the_same_peer_is_446_while_the_first_lives() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    let connection = connecting(&mut lab, at, PEER);
    assert_eq!(connect(&mut lab, tcp_client(1), PEER).code(), Some(446));
    connected(&mut lab, connection, Ok(()));
    assert_eq!(connect(&mut lab, tcp_client(1), PEER).code(), Some(446));
    let reply = bind(&mut lab, tcp_client(2), &alice(), connection);
    assert_eq!(reply, None);
    assert_eq!(connect(&mut lab, tcp_client(1), PEER).code(), Some(446));
    lab.server.handle_peer_gone(lab.now, connection);
    connecting(&mut lab, at, PEER);
}

#[test]
fn a_connect_is_checked_like_a_permission() {
    let mut lab = tcp_lab();
    allocate(&mut lab, tcp_client(1), &alice());
    for (peer, code) in [
        ("127.0.0.1:80", 403),
        ("10.0.0.1:80", 403),
        ("169.254.169.254:80", 403),
        ("9.9.9.9:3478", 403),
        ("8.8.4.4:0", 403),
        (PEER_V6, 443),
        ("[::ffff:127.0.0.1]:80", 443),
    ] {
        let reply = connect(&mut lab, tcp_client(1), peer);
        assert_eq!(reply.code(), Some(code), "{peer}");
    }
    let reply = lab.signed(tcp_client(1), &alice(), Method::CONNECT, |_| {});
    assert_eq!(reply.code(), Some(400));
    assert_eq!(connect(&mut lab, tcp_client(2), PEER).code(), Some(437));
    assert_eq!(lab.tcp_commands, []);
}

#[test]
fn connect_and_channels_and_send_are_each_for_one_kind_of_allocation() {
    let mut lab = tcp_lab();
    allocate(&mut lab, tcp_client(1), &alice());
    lab.allocate(tcp_client(2), &alice());
    assert_eq!(connect(&mut lab, tcp_client(2), PEER).code(), Some(400));
    let reply = lab.bind(tcp_client(1), &alice(), 0x4000, PEER);
    assert_eq!(reply.code(), Some(400));
    assert_eq!(lab.permit(tcp_client(1), &alice(), PEER).code(), None);
    let indication = lab.message(Class::Indication, Method::SEND, |writer| {
        writer
            .attribute(&XorPeerAddress(address(PEER)))
            .attribute(&Data(b"x"));
    });
    assert_eq!(lab.data(tcp_client(1), &indication), None);
    assert_eq!(lab.refused(Refusal::CarrierWrong), 3);
}

#[test]
fn no_datagram_reaches_a_client_by_a_tcp_allocation() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    lab.permit(tcp_client(1), &alice(), PEER);
    assert_eq!(lab.peer_sends(at, PEER, b"x"), None);
    assert_eq!(lab.refused(Refusal::RelayIdle), 1);
}

#[test]
fn a_connection_of_a_permitted_peer_is_told_and_joined() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    lab.permit(tcp_client(1), &alice(), PEER);
    let connection = accept(&mut lab, at, "8.8.4.4:9999").expect("is permitted");
    let told = lab.server.poll_transmit().expect("is told");
    assert_eq!(told.to, tcp_client(1));
    let message = Message::decode(&told.bytes).expect("is well formed");
    assert_eq!(
        (message.class(), message.method()),
        (Class::Indication, Method::CONNECTION_ATTEMPT)
    );
    assert_eq!(
        message.required(),
        Ok(XorPeerAddress(address("8.8.4.4:9999")))
    );
    assert_eq!(
        message.required(),
        Ok(tombolo_stun::ConnectionId(connection.0))
    );

    assert_eq!(bind(&mut lab, tcp_client(2), &alice(), connection), None);
    let [
        Command::Splice {
            client,
            connection: joined,
            owner,
            reply,
            ..
        },
    ] = &lab.tcp_commands[..]
    else {
        panic!("is joined: {:?}", lab.tcp_commands);
    };
    assert_eq!((*client, *joined), (tcp_client(2), connection));
    assert_eq!(*owner, tcp_client(1));
    assert_eq!(Reply(reply.clone()).code(), None);
    let message = Message::decode(reply).expect("is well formed");
    assert_eq!(message.method(), Method::CONNECTION_BIND);
    assert_eq!(message.check_integrity(&alice().key()), Ok(()));
}

#[test]
fn a_connection_of_a_peer_without_permission_is_closed_at_once() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    assert_eq!(accept(&mut lab, at, PEER), None);
    assert_eq!(lab.refused(Refusal::PeerNotPermitted), 1);
    lab.permit(tcp_client(1), &alice(), PEER);
    assert!(accept(&mut lab, at, PEER).is_some());
    lab.advance(300);
    assert_eq!(accept(&mut lab, at, "8.8.4.4:2"), None, "it is over");
    let nobodys = RelayAddr(address("9.9.9.9:1"));
    assert_eq!(accept(&mut lab, nobodys, PEER), None);
}

#[test]
fn the_nodes_own_services_cannot_pose_as_peers_that_connect() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    // Its IP may be permitted, since other clients' relayed addresses are on it.
    lab.permit(tcp_client(1), &alice(), "9.9.9.9:50000");
    assert_eq!(accept(&mut lab, at, "9.9.9.9:3478"), None);
    assert_eq!(lab.refused(Refusal::PeerForbidden), 1);
}

#[test]
fn a_connection_that_no_client_binds_within_30_seconds_is_closed() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    lab.permit(tcp_client(1), &alice(), PEER);
    let accepted = accept(&mut lab, at, PEER).expect("is permitted");
    assert!(lab.server.poll_transmit().is_some(), "the client is told");
    let made = connecting(&mut lab, at, "8.8.4.5:80");
    lab.advance(10);
    connected(&mut lab, made, Ok(()));
    lab.advance(20);
    let close = |connection| Command::ClosePeer { connection };
    assert_eq!(lab.tcp_commands, [close(accepted)]);
    assert_eq!(bind(&mut lab, tcp_client(2), &alice(), accepted), Some(400));
    lab.advance(10);
    assert_eq!(lab.tcp_commands, [close(accepted), close(made)]);
}

#[test]
fn a_joined_connection_has_no_more_deadline_than_its_allocation() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    lab.permit(tcp_client(1), &alice(), PEER);
    let connection = accept(&mut lab, at, PEER).expect("is permitted");
    bind(&mut lab, tcp_client(2), &alice(), connection);
    lab.tcp_commands.clear();
    lab.advance(599);
    assert_eq!(lab.tcp_commands, []);
    lab.advance(1);
    assert_eq!(lab.tcp_commands, [Command::ClosePeer { connection }]);
}

#[test]
fn connection_binds_that_fit_nothing_are_bad_requests() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    let unanswered = connecting(&mut lab, at, PEER);
    assert_eq!(
        bind(&mut lab, tcp_client(2), &alice(), unanswered),
        Some(400)
    );
    connected(&mut lab, unanswered, Ok(()));
    let unknown = ConnectionId(unanswered.0.wrapping_add(1));
    assert_eq!(bind(&mut lab, tcp_client(2), &alice(), unknown), Some(400));
    // Over UDP; on the control connection; without the attribute.
    assert_eq!(bind(&mut lab, client(2), &alice(), unanswered), Some(400));
    assert_eq!(
        bind(&mut lab, tcp_client(1), &alice(), unanswered),
        Some(400)
    );
    let reply = lab.signed(tcp_client(2), &alice(), Method::CONNECTION_BIND, |_| {});
    assert_eq!(reply.code(), Some(400));
    // Twice.
    assert_eq!(bind(&mut lab, tcp_client(2), &alice(), unanswered), None);
    assert_eq!(
        bind(&mut lab, tcp_client(3), &alice(), unanswered),
        Some(400)
    );
}

#[test]
fn another_user_cannot_bind_a_connection() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    let connection = connecting(&mut lab, at, PEER);
    connected(&mut lab, connection, Ok(()));
    assert_eq!(bind(&mut lab, tcp_client(2), &bob(), connection), Some(441));
    assert_eq!(lab.tcp_commands, []);
    assert_eq!(bind(&mut lab, tcp_client(2), &alice(), connection), None);
}

#[test]
fn both_halves_of_a_joined_connection_end_with_one_and_with_the_control_connection() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    let join = |lab: &mut Lab, port: u16, peer: &str| {
        let connection = connecting(lab, at, peer);
        connected(lab, connection, Ok(()));
        assert_eq!(bind(lab, tcp_client(port), &alice(), connection), None);
        lab.tcp_commands.clear();
        connection
    };
    let first = join(&mut lab, 2, "8.8.4.1:80");
    let second = join(&mut lab, 3, "8.8.4.2:80");
    let third = join(&mut lab, 4, "8.8.4.3:80");
    let close = |connection| Command::ClosePeer { connection };

    lab.server.handle_client_gone(lab.now, tcp_client(2));
    lab.drive();
    assert_eq!(lab.tcp_commands, [close(first)]);

    lab.server.handle_peer_gone(lab.now, second);
    lab.server.handle_client_gone(lab.now, tcp_client(3));
    lab.drive();
    assert_eq!(lab.tcp_commands, [close(first)], "it had gone");

    lab.server.handle_client_gone(lab.now, tcp_client(1));
    lab.drive();
    assert_eq!(lab.tcp_commands, [close(first), close(third)]);
    assert!(lab.bound.is_empty());
}

#[test]
fn connections_are_bounded_for_each_allocation_and_while_they_wait() {
    let mut lab = tcp_lab_with(|config| {
        config.limits.per_allocation.connections = Some(2);
        config.limits.connections_waiting_max = 3;
    });
    let first = allocate(&mut lab, tcp_client(1), &alice());
    let second = allocate(&mut lab, tcp_client(2), &bob());
    connecting(&mut lab, first, "8.8.4.1:80");
    lab.permit(tcp_client(1), &alice(), "8.8.4.2:1");
    assert!(accept(&mut lab, first, "8.8.4.2:1").is_some());
    assert_eq!(accept(&mut lab, first, "8.8.4.2:2"), None);
    let _ = lab.server.poll_transmit();
    let reply = connect(&mut lab, tcp_client(1), "8.8.4.3:80");
    assert_eq!(reply.code(), Some(508));
    lab.permit(tcp_client(2), &bob(), "8.8.4.2:1");
    assert!(accept(&mut lab, second, "8.8.4.2:1").is_some());
    assert_eq!(accept(&mut lab, second, "8.8.4.2:2"), None, "too many wait");
    assert_eq!(lab.refused(Refusal::ConnectionsFull), 3);
}

#[test]
fn a_user_whose_connections_all_wait_keeps_no_other_user_from_connecting() {
    let mut lab = tcp_lab_with(|config| {
        config.limits.connections_waiting_max = 4;
        config.limits.connections_waiting_per_user_max = 2;
    });
    let at = [1, 2].map(|port| allocate(&mut lab, tcp_client(port), &alice()));
    let first = connecting(&mut lab, at[0], "8.8.4.1:80");
    connecting(&mut lab, at[0], "8.8.4.2:80");
    for port in [1, 2] {
        let reply = connect(&mut lab, tcp_client(port), "8.8.4.3:80");
        assert_eq!(reply.code(), Some(508), "it has other allocations");
    }
    let other = allocate(&mut lab, tcp_client(3), &bob());
    lab.permit(tcp_client(3), &bob(), "8.8.4.1:80");
    assert!(accept(&mut lab, other, "8.8.4.1:80").is_some());
    let _ = lab.server.poll_transmit();
    // What waits no more makes room.
    connected(&mut lab, first, Err(ConnectError::PeerRefused));
    connecting(&mut lab, at[0], "8.8.4.3:80");
}

#[test]
fn a_realm_has_only_so_many_connections_that_wait() {
    let mut lab = tcp_lab_with(|config| config.realm.connections_waiting_max = Some(2));
    let at = [1, 2].map(|port| allocate(&mut lab, tcp_client(port), &alice()));
    let first = connecting(&mut lab, at[0], "8.8.4.1:80");
    lab.permit(tcp_client(2), &alice(), "8.8.4.1:80");
    assert!(accept(&mut lab, at[1], "8.8.4.1:80").is_some());
    let _ = lab.server.poll_transmit();
    let reply = connect(&mut lab, tcp_client(1), "8.8.4.3:80");
    assert_eq!(reply.code(), Some(508));
    assert_eq!(lab.refused(Refusal::ConnectionsFull), 1);
    connected(&mut lab, first, Err(ConnectError::PeerRefused));
    connecting(&mut lab, at[0], "8.8.4.3:80");
}

#[test]
fn a_network_whose_connections_all_wait_keeps_no_other_network_from_connecting() {
    let mut lab = tcp_lab_with(|config| {
        config.limits.connections_waiting_max = 4;
        config.limits.connections_waiting_per_network_max = 2;
    });
    let at = allocate(&mut lab, tcp_client(1), &alice());
    connecting(&mut lab, at, "8.8.4.1:80");
    connecting(&mut lab, at, "8.8.4.2:80");
    let neighbour = allocate(&mut lab, tcp_client(2), &bob());
    lab.permit(tcp_client(2), &bob(), "8.8.4.3:1");
    assert_eq!(accept(&mut lab, neighbour, "8.8.4.3:1"), None);
    let mut far = tcp_client(3);
    far.client = address("203.0.113.1:3");
    let elsewhere = allocate(&mut lab, far, &bob());
    lab.permit(far, &bob(), "8.8.4.3:1");
    assert!(accept(&mut lab, elsewhere, "8.8.4.3:1").is_some());
}

#[test]
fn a_tcp_allocation_can_have_an_ipv6_address() {
    let mut lab = tcp_lab();
    let reply = ask(&mut lab, tcp_client(1), |writer| {
        writer.attribute(&RequestedAddressFamily(AddressFamily::V6));
    });
    let XorRelayedAddress(at) = reply.get().expect("was made");
    let connection = connecting(&mut lab, RelayAddr(at), PEER_V6);
    assert!(connected(&mut lab, connection, Ok(())).is_some());
}

/// Their port may be somebody else's from then on.
#[test]
fn the_connections_of_a_family_end_with_its_relayed_address() {
    let mut lab = tcp_lab();
    let both = AdditionalAddressFamily(AddressFamily::V6);
    let reply = ask(&mut lab, tcp_client(1), |writer| {
        writer.attribute(&both);
    });
    let relays = reply.message().all::<XorRelayedAddress>();
    let relays: Vec<_> = relays.map(|relay| relay.expect("is whole").0).collect();
    let [v4, v6] = relays[..] else {
        panic!("there are two: {relays:?}")
    };
    let kept = connecting(&mut lab, RelayAddr(v4), PEER);
    let closed = connecting(&mut lab, RelayAddr(v6), PEER_V6);
    let asked = connecting(&mut lab, RelayAddr(v6), "[2a00::1:2]:2");
    for connection in [kept, closed] {
        connected(&mut lab, connection, Ok(()));
    }
    let bytes = lab.sign(tcp_client(1), &alice(), Method::REFRESH, |writer| {
        let family = RequestedAddressFamily(AddressFamily::V6);
        writer
            .attribute(&tombolo_stun::Lifetime(0))
            .attribute(&family);
    });
    let replies = lab.exchange(tcp_client(1), &bytes);
    let codes = replies.into_iter().map(|reply| Reply(reply.bytes).code());
    assert_eq!(codes.collect::<Vec<_>>(), [Some(447), None]);
    let commands = [closed, asked].map(|connection| Command::ClosePeer { connection });
    assert_eq!(lab.tcp_commands.len(), 2);
    assert!(commands.iter().all(|one| lab.tcp_commands.contains(one)));
    assert_eq!(bind(&mut lab, tcp_client(2), &alice(), closed), Some(400));
    assert_eq!(bind(&mut lab, tcp_client(2), &alice(), kept), None);
}

#[test]
fn connection_ids_are_not_guessed_from_one_another() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    let ids: Vec<u32> = (1..=8)
        .map(|port| connecting(&mut lab, at, &format!("8.8.4.4:{port}")).0)
        .collect();
    let near = |pair: &[u32]| pair[0].abs_diff(pair[1]) < 1000;
    assert!(!ids.windows(2).any(near), "{ids:?}");
}

#[test]
fn a_new_configuration_closes_connections_to_peers_that_were_allowed() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    let open = connecting(&mut lab, at, PEER);
    connected(&mut lab, open, Ok(()));
    let barred = connecting(&mut lab, at, "8.8.4.5:1");
    connected(&mut lab, barred, Ok(()));
    assert_eq!(bind(&mut lab, tcp_client(2), &alice(), barred), None);
    lab.tcp_commands.clear();
    let mut config = Config::new([3; 32]);
    config.realm.secrets = vec![SECRET.to_vec()];
    config.deny_peers = vec!["8.8.4.0/24".parse().expect("is a network")];
    config.allow_peers = vec!["8.8.4.4".parse().expect("is a network")];
    lab.server.reconfigure(lab.now, config);
    lab.drive();
    let closed = Command::ClosePeer { connection: barred };
    assert_eq!(lab.tcp_commands, [closed]);
}

#[test]
fn an_allocation_gets_no_further_connection_when_tcp_was_switched_off() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    lab.permit(tcp_client(1), &alice(), PEER);
    let open = connecting(&mut lab, at, PEER);
    connected(&mut lab, open, Ok(()));
    let mut config = Config::new([3; 32]);
    config.realm.secrets = vec![SECRET.to_vec()];
    lab.server.reconfigure(lab.now, config);
    let reply = connect(&mut lab, tcp_client(1), "8.8.4.4:1");
    assert_eq!(reply.code(), Some(442));
    assert_eq!(accept(&mut lab, at, "8.8.4.4:2"), None);
    assert_eq!(lab.refused(Refusal::TransportUnsupported), 2);
    assert_eq!(bind(&mut lab, tcp_client(2), &alice(), open), None);
}

#[test]
fn a_client_whose_allocation_is_being_made_binds_no_connection() {
    let mut lab = tcp_lab();
    let at = allocate(&mut lab, tcp_client(1), &alice());
    let connection = connecting(&mut lab, at, PEER);
    connected(&mut lab, connection, Ok(()));
    let wish = lab.sign(tcp_client(2), &alice(), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    lab.is_driver_slow = true;
    assert_eq!(lab.exchange(tcp_client(2), &wish), []);
    let code = bind(&mut lab, tcp_client(2), &alice(), connection);
    assert_eq!(code, Some(400));
}

#[test]
fn connections_are_named_after_their_shard() {
    let mut lab = tcp_lab_with(|config| {
        config.shard = ShardIndex(3);
        config.shards = 4;
    });
    let at = allocate(&mut lab, tcp_client(1), &alice());
    let ids = [PEER, "8.8.4.5:1", "8.8.4.6:1"].map(|peer| connecting(&mut lab, at, peer));
    assert_eq!(ids.map(ConnectionId::shard), [ShardIndex(3); 3]);
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "the rest is random");
}

#[test]
fn bytes_of_joined_connections_count_for_their_allocation_and_after_its_end_for_the_node_alone() {
    let mut lab = tcp_lab_with(|config| config.limits.bandwidth = Some(LIMIT));
    let realm = RealmId::default();
    assert_eq!(
        lab.server.bandwidth(realm),
        Some(LIMIT),
        "the driver keeps it"
    );
    allocate(&mut lab, tcp_client(1), &alice());
    allocate(&mut lab, tcp_client(2), &bob());
    let spliced = |to_peer, to_client| Spliced { to_peer, to_client };
    lab.server.handle_spliced(tcp_client(1), spliced(5000, 7));
    lab.server.handle_spliced(tcp_client(1), spliced(1, 2));
    let traffic = |lab: &Lab, of: FiveTuple| {
        let mut all = lab.server.allocations(lab.now);
        all.find(|info| info.client == of)
            .expect("is there")
            .traffic
    };
    let counted = traffic(&lab, tcp_client(1));
    assert_eq!((counted.to_peer.bytes, counted.to_client.bytes), (5001, 9));
    assert_eq!(traffic(&lab, tcp_client(2)), Traffic::default());
    lab.server.handle_client_gone(lab.now, tcp_client(1));
    lab.server.handle_spliced(tcp_client(1), spliced(10, 20));
    let stats = lab.server.stats();
    assert_eq!((stats.to_peer_bytes, stats.to_client_bytes), (5011, 29));
    assert_eq!((stats.to_peer_packets, stats.to_client_packets), (0, 0));
    // Whoever has the addresses now for datagrams has nothing to do with it.
    lab.allocate(tcp_client(1), &alice());
    lab.server.handle_spliced(tcp_client(1), spliced(1, 1));
    assert_eq!(traffic(&lab, tcp_client(1)), Traffic::default());
}

fn tcp_lab() -> Lab {
    tcp_lab_with(|_| {})
}

fn tcp_lab_with(change: impl FnOnce(&mut Config)) -> Lab {
    Lab::with(|config| {
        config.relay_tcp = true;
        change(config);
    })
}

fn ask(lab: &mut Lab, from: FiveTuple, write: impl FnOnce(&mut MessageWriter<'_>)) -> Reply {
    lab.signed(from, &alice(), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::TCP);
        write(writer);
    })
}

fn allocate(lab: &mut Lab, from: FiveTuple, user: &User) -> RelayAddr {
    let reply = lab.signed(from, user, Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::TCP);
    });
    assert_eq!(reply.code(), None);
    assert!(!reply.has(AttributeType::RESERVATION_TOKEN));
    let XorRelayedAddress(relayed) = reply.get().expect("is in the reply");
    RelayAddr(relayed)
}

/// Sends a Connect that is refused.
fn connect(lab: &mut Lab, from: FiveTuple, peer: &str) -> Reply {
    lab.signed(from, &alice(), Method::CONNECT, |writer| {
        writer.attribute(&XorPeerAddress(address(peer)));
    })
}

/// Sends a Connect of the first client that makes the driver connect.
fn connecting(lab: &mut Lab, from: RelayAddr, peer: &str) -> ConnectionId {
    let bytes = lab.sign(tcp_client(1), &alice(), Method::CONNECT, |writer| {
        writer.attribute(&XorPeerAddress(address(peer)));
    });
    assert_eq!(lab.exchange(tcp_client(1), &bytes), []);
    match lab.tcp_commands.pop() {
        Some(Command::ConnectPeer { connection, at, to }) => {
            assert_eq!((at, to), (from, PeerAddr(address(peer))));
            connection
        }
        other => panic!("the driver shall connect: {other:?}"),
    }
}

/// Tells the server what became of a connection, and returns what it answers the client.
fn connected(
    lab: &mut Lab,
    connection: ConnectionId,
    result: Result<(), ConnectError>,
) -> Option<Reply> {
    lab.server.handle_connected(lab.now, connection, result);
    lab.server
        .poll_transmit()
        .map(|transmit| Reply(transmit.bytes))
}

fn accept(lab: &mut Lab, at: RelayAddr, peer: &str) -> Option<ConnectionId> {
    let from = PeerAddr(address(peer));
    lab.server.handle_peer_accepted(lab.now, at, from)
}

/// Sends a ConnectionBind and returns the error code; `None` if the connections are joined.
fn bind(lab: &mut Lab, from: FiveTuple, user: &User, connection: ConnectionId) -> Option<u16> {
    while lab.server.poll_transmit().is_some() {}
    let bytes = lab.sign(from, user, Method::CONNECTION_BIND, |writer| {
        writer.attribute(&tombolo_stun::ConnectionId(connection.0));
    });
    let replies = lab.exchange(from, &bytes);
    let reply = replies.into_iter().next()?;
    Reply(reply.bytes).code()
}

const LIMIT: Bandwidth = Bandwidth {
    bytes_per_second: 500,
    burst_bytes: 1000,
};
