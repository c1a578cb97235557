use tombolo_stun::{
    AddressFamily, AttributeType, ChannelData, Class, Data, DontFragment, Message, Method,
    RawAttribute, RequestedAddressFamily, XorPeerAddress, XorRelayedAddress,
};
use tombolo_turn::server::{FiveTuple, Fragment, Refusal, RelayAddr, Transport};

use super::lab::{AtPeer, Lab, PEER, PEER_V6, address, alice, bob, channel, client, tcp_client};

#[test]
fn indications_carry_payloads_both_ways_over_ipv4_and_ipv6() {
    for (family, peer) in [(AddressFamily::V4, PEER), (AddressFamily::V6, PEER_V6)] {
        let (mut lab, relay) = lab_with(family);
        assert_eq!(lab.permit(client(1), &alice(), peer).code(), None);
        for payload in [&b""[..], b"x", b"xy", b"xyz", b"wxyz"] {
            let sent = lab.send(client(1), peer, payload);
            let expected = AtPeer {
                from: relay.0,
                to: address(peer),
                fragment: Fragment::Allowed,
                payload: payload.to_vec(),
            };
            assert_eq!(sent, Some(expected));

            let received = lab.peer_sends(relay, peer, payload).expect("is permitted");
            assert_eq!(received.to, client(1));
            let message = Message::decode(&received.bytes).expect("is well formed");
            assert_eq!(
                (message.class(), message.method()),
                (Class::Indication, Method::DATA)
            );
            assert_eq!(message.required(), Ok(XorPeerAddress(address(peer))));
            assert_eq!(message.required(), Ok(Data(payload)));
        }
    }
}

#[test]
fn dont_fragment_sets_the_bit_where_no_translation_to_or_from_ipv6_is_involved() {
    let v6 = |transport| FiveTuple {
        transport,
        client: address("[2a00::8]:1"),
        server: address("[2a00::9]:3478"),
    };
    let (udp, tcp) = (Transport::Udp, Transport::Tcp);
    for (from, family, peer, fragment) in [
        (client(1), AddressFamily::V4, PEER, Fragment::Forbidden),
        (client(1), AddressFamily::V6, PEER_V6, Fragment::Allowed),
        (v6(udp), AddressFamily::V4, PEER, Fragment::Allowed),
        (v6(udp), AddressFamily::V6, PEER_V6, Fragment::Allowed),
        (tcp_client(1), AddressFamily::V4, PEER, Fragment::Forbidden),
        (v6(tcp), AddressFamily::V6, PEER_V6, Fragment::Forbidden),
    ] {
        let mut lab = Lab::new();
        lab.allocate_with(from, &alice(), |writer| {
            writer.attribute(&RequestedAddressFamily(family));
        });
        lab.permit(from, &alice(), peer);
        let bytes = lab.message(Class::Indication, Method::SEND, |writer| {
            writer
                .attribute(&XorPeerAddress(address(peer)))
                .attribute(&DontFragment)
                .attribute(&Data(b"x"));
        });
        let sent = lab.data(from, &bytes).expect("is permitted");
        assert_eq!(sent.fragment, fragment, "{from:?} to {peer}");
    }
}

#[test]
fn channels_carry_payloads_both_ways_over_ipv4_and_ipv6() {
    for (family, peer) in [(AddressFamily::V4, PEER), (AddressFamily::V6, PEER_V6)] {
        let (mut lab, relay) = lab_with(family);
        assert_eq!(lab.bind(client(1), &alice(), 0x4abc, peer).code(), None);
        let sent = lab.send_on(client(1), 0x4abc, b"hello");
        let expected = AtPeer {
            from: relay.0,
            to: address(peer),
            fragment: Fragment::Allowed,
            payload: b"hello".to_vec(),
        };
        assert_eq!(sent, Some(expected));

        let received = lab.peer_sends(relay, peer, b"hello").expect("is permitted");
        let decoded = ChannelData::decode(&received.bytes).expect("is well formed");
        assert_eq!(
            decoded,
            ChannelData {
                number: channel(0x4abc),
                data: b"hello"
            }
        );
        assert_eq!(received.bytes.len(), 9, "datagrams need no padding");
    }
}

#[test]
fn channel_data_is_padded_in_a_stream() {
    let mut lab = Lab::new();
    let relay = lab.allocate(tcp_client(1), &alice());
    lab.bind(tcp_client(1), &alice(), 0x4000, PEER);
    let received = lab.peer_sends(relay, PEER, b"hello").expect("is permitted");
    assert_eq!(received.bytes, b"\x40\x00\x00\x05hello\0\0\0");
    let sent = lab.data(tcp_client(1), &received.bytes).expect("is bound");
    assert_eq!(sent.payload, b"hello");
}

#[test]
fn another_port_of_a_bound_peer_comes_in_an_indication() {
    let (mut lab, relay) = lab_with(AddressFamily::V4);
    lab.bind(client(1), &alice(), 0x4000, "8.8.4.4:5000");
    let received = lab
        .peer_sends(relay, "8.8.4.4:5001", b"x")
        .expect("is permitted");
    let message = Message::decode(&received.bytes).expect("is an indication");
    assert_eq!(
        message.required(),
        Ok(XorPeerAddress(address("8.8.4.4:5001")))
    );
}

#[test]
fn nothing_goes_to_or_comes_from_a_peer_without_permission() {
    let (mut lab, relay) = lab_with(AddressFamily::V4);
    assert_eq!(lab.send(client(1), PEER, b"x"), None);
    assert_eq!(lab.send_on(client(1), 0x4000, b"x"), None);
    assert_eq!(lab.peer_sends(relay, PEER, b"x"), None);
    assert_eq!(lab.refused(Refusal::PermissionMissing), 1);
    assert_eq!(lab.refused(Refusal::ChannelUnbound), 1);
    assert_eq!(lab.refused(Refusal::PeerNotPermitted), 1);
}

#[test]
fn one_client_cannot_send_through_another_ones_allocation() {
    let (mut lab, _) = lab_with(AddressFamily::V4);
    lab.bind(client(1), &alice(), 0x4000, PEER);
    assert_eq!(lab.send(client(2), PEER, b"x"), None);
    assert_eq!(lab.send_on(client(2), 0x4000, b"x"), None);
    assert_eq!(lab.refused(Refusal::AllocationMissing), 2);
}

#[test]
fn an_expired_permission_does_not_forward() {
    let (mut lab, relay) = lab_with(AddressFamily::V4);
    lab.permit(client(1), &alice(), PEER);
    lab.advance(299);
    assert!(lab.send(client(1), PEER, b"x").is_some());
    assert!(lab.peer_sends(relay, PEER, b"x").is_some());
    lab.advance(1);
    assert_eq!(lab.send(client(1), PEER, b"x"), None);
    assert_eq!(lab.peer_sends(relay, PEER, b"x"), None);
    lab.permit(client(1), &alice(), PEER);
    assert!(lab.send(client(1), PEER, b"x").is_some());
}

#[test]
fn an_expired_channel_does_not_forward() {
    let (mut lab, relay) = lab_with(AddressFamily::V4);
    lab.bind(client(1), &alice(), 0x4000, PEER);
    lab.advance(400);
    lab.signed(client(1), &alice(), Method::REFRESH, |_| {});
    lab.permit(client(1), &alice(), PEER);
    lab.advance(199);
    assert!(lab.send_on(client(1), 0x4000, b"x").is_some());
    lab.advance(1);
    assert_eq!(lab.send_on(client(1), 0x4000, b"x"), None);
    let received = lab
        .peer_sends(relay, PEER, b"x")
        .expect("the permission goes on");
    assert!(
        Message::decode(&received.bytes).is_ok(),
        "the peer is heard in indications again"
    );
}

#[test]
fn an_expired_allocation_does_not_forward() {
    let (mut lab, relay) = lab_with(AddressFamily::V4);
    lab.advance(599);
    lab.bind(client(1), &alice(), 0x4000, PEER);
    assert!(lab.send_on(client(1), 0x4000, b"x").is_some());
    lab.advance(1);
    assert_eq!(lab.send_on(client(1), 0x4000, b"x"), None);
    assert_eq!(lab.peer_sends(relay, PEER, b"x"), None);
    assert_eq!(lab.refused(Refusal::RelayIdle), 1);
}

#[test]
fn an_introduction_permits_a_peer_on_every_allocation_of_the_user_and_no_other() {
    let (mut lab, relay) = lab_with(AddressFamily::V4);
    let second = lab.allocate(client(2), &alice());
    let other = lab.allocate(client(3), &bob());
    lab.server.permit(lab.now, "alice", address(PEER).ip());
    assert!(lab.peer_sends(relay, PEER, b"x").is_some());
    assert!(lab.peer_sends(second, PEER, b"x").is_some());
    assert_eq!(lab.peer_sends(other, PEER, b"x"), None);
    lab.advance(300);
    assert_eq!(lab.peer_sends(relay, PEER, b"x"), None);
}

#[test]
fn two_clients_of_one_node_reach_each_other() {
    let mut lab = Lab::with(|config| {
        config.public_ips = vec![(address("9.9.9.9:0").ip(), address("7.7.7.7:0").ip())];
    });
    let at_alice = lab.allocate(client(1), &alice());
    let at_bob = lab.allocate(client(2), &bob());
    let bobs_address = at_bob.0.to_string();
    lab.server.permit(lab.now, "alice", at_bob.0.ip());
    lab.server.permit(lab.now, "bob", at_alice.0.ip());

    let sent = lab
        .send(client(1), &bobs_address, b"hello")
        .expect("is permitted");
    assert!(
        lab.bound.contains(&RelayAddr(sent.to)),
        "goes to an address this node has bound"
    );
    let received = lab.peer_sends(RelayAddr(sent.to), &sent.from.to_string(), b"hello");
    let received = received.expect("is permitted");
    assert_eq!(received.to, client(2));
    let message = Message::decode(&received.bytes).expect("is an indication");
    assert_eq!(message.required(), Ok(XorPeerAddress(at_alice.0)));
}

#[test]
fn a_send_indication_with_an_unknown_attribute_is_dropped() {
    let (mut lab, _) = lab_with(AddressFamily::V4);
    lab.permit(client(1), &alice(), PEER);
    let bytes = lab.message(Class::Indication, Method::SEND, |writer| {
        writer
            .attribute(&XorPeerAddress(address(PEER)))
            .attribute(&RawAttribute {
                kind: AttributeType(0x7777),
                value: &[],
            })
            .attribute(&Data(b"x"));
    });
    assert_eq!(lab.data(client(1), &bytes), None);
    let bytes = lab.message(Class::Indication, Method::SEND, |writer| {
        writer.attribute(&XorPeerAddress(address(PEER)));
    });
    assert_eq!(lab.data(client(1), &bytes), None);
    assert_eq!(lab.refused(Refusal::AttributeUnknown), 1);
    assert_eq!(lab.refused(Refusal::RequestBad), 1);
}

#[test]
fn a_payload_longer_than_its_header_can_say_is_dropped() {
    let (mut lab, relay) = lab_with(AddressFamily::V4);
    lab.permit(client(1), &alice(), PEER);
    let longest = vec![0; 65_507];
    let received = lab.peer_sends(relay, PEER, &longest).expect("fits");
    assert!(Message::decode(&received.bytes).is_ok());
    assert_eq!(lab.peer_sends(relay, PEER, &vec![0; 65_520]), None);
    lab.bind(client(1), &alice(), 0x4000, PEER);
    assert!(lab.peer_sends(relay, PEER, &vec![0; 65_535]).is_some());
    assert_eq!(lab.peer_sends(relay, PEER, &vec![0; 65_536]), None);
    assert_eq!(lab.refused(Refusal::PayloadTooLong), 2);
}

#[test]
fn forwarded_bytes_are_counted() {
    let (mut lab, relay) = lab_with(AddressFamily::V4);
    lab.permit(client(1), &alice(), PEER);
    lab.send(client(1), PEER, b"four");
    lab.peer_sends(relay, PEER, b"sixsix");
    let stats = lab.server.stats();
    assert_eq!((stats.to_peer_packets, stats.to_peer_bytes), (1, 4));
    assert_eq!((stats.to_client_packets, stats.to_client_bytes), (1, 6));
}

#[test]
fn payloads_leave_nothing_to_drain_and_bring_no_timeout_nearer() {
    let (mut lab, relay) = lab_with(AddressFamily::V4);
    lab.bind(client(1), &alice(), 0x4000, PEER);
    let before = lab.server.poll_timeout();
    for seconds in [0, 100, 100] {
        lab.advance(seconds);
        assert!(lab.send(client(1), PEER, b"a").is_some());
        assert!(lab.send_on(client(1), 0x4000, b"b").is_some());
        assert!(lab.peer_sends(relay, PEER, b"c").is_some());
        assert!(lab.server.is_drained());
        assert_eq!(lab.server.poll_timeout(), before);
    }
    let request = lab.sign(client(1), &alice(), Method::REFRESH, |_| {});
    assert_eq!(lab.server.handle_client(lab.now, client(1), &request), None);
    assert!(!lab.server.is_drained(), "a request leaves an answer");
}

/// A lab in which client 1 has an allocation of this family.
fn lab_with(family: AddressFamily) -> (Lab, RelayAddr) {
    let mut lab = Lab::new();
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&RequestedAddressFamily(family));
    });
    let XorRelayedAddress(relayed) = reply.get().expect("was made");
    (lab, RelayAddr(relayed))
}
