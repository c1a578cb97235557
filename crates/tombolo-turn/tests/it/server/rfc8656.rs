//! What RFC 8656 asks of a server and no other file here shows. See `docs/turn-conformance/rfc8656.md`.

use tombolo_stun::{
    AdditionalAddressFamily, AddressFamily, AttributeType, ChannelData, Class, Data, DontFragment,
    Lifetime, Method, MobilityTicket, RequestedAddressFamily, RequestedTransport,
    UnknownAttributes, XorPeerAddress, XorRelayedAddress,
};
use tombolo_turn::server::{Config, FiveTuple, PortError, Refusal, RelayAddr};

use super::lab::{Lab, PEER, PEER_V6, Reply, SECRET, address, alice, client, tcp_client};

#[test]
fn data_refreshes_neither_permissions_nor_channels_nor_allocations() {
    let mut lab = Lab::new();
    let relay = lab.allocate(client(1), &alice());
    lab.bind(client(1), &alice(), 0x4000, PEER);
    for _ in 0..299 {
        lab.advance(1);
        assert!(lab.send(client(1), PEER, b"x").is_some());
        assert!(lab.send_on(client(1), 0x4000, b"x").is_some());
        assert!(lab.peer_sends(relay, PEER, b"x").is_some());
    }
    lab.advance(1);
    assert_eq!(lab.send(client(1), PEER, b"x"), None);
    assert_eq!(lab.peer_sends(relay, PEER, b"x"), None);
    assert!(
        lab.send_on(client(1), 0x4000, b"x").is_some(),
        "lives longer"
    );
    lab.advance(300);
    assert_eq!(lab.send_on(client(1), 0x4000, b"x"), None);
    assert!(lab.bound.is_empty(), "the allocation is over too");
}

#[test]
fn a_permission_lasts_five_minutes_from_its_last_refresh_by_either_method() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    lab.permit(client(1), &alice(), PEER);
    lab.advance(200);
    assert_eq!(lab.permit(client(1), &alice(), PEER).code(), None);
    lab.advance(299);
    assert!(lab.send(client(1), PEER, b"x").is_some());
    lab.signed(client(1), &alice(), Method::REFRESH, |_| {});
    assert_eq!(lab.bind(client(1), &alice(), 0x4000, PEER).code(), None);
    lab.advance(299);
    assert!(lab.send(client(1), PEER, b"x").is_some());
    lab.advance(1);
    assert_eq!(lab.send(client(1), PEER, b"x"), None);
}

#[test]
fn a_channel_lasts_ten_minutes_from_its_last_refresh() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    lab.bind(client(1), &alice(), 0x4000, PEER);
    lab.advance(400);
    assert_eq!(lab.bind(client(1), &alice(), 0x4000, PEER).code(), None);
    lab.signed(client(1), &alice(), Method::REFRESH, |_| {});
    lab.advance(599);
    assert!(lab.send_on(client(1), 0x4000, b"x").is_some());
    lab.signed(client(1), &alice(), Method::REFRESH, |_| {});
    lab.advance(1);
    assert_eq!(lab.send_on(client(1), 0x4000, b"x"), None);
}

#[test]
fn an_empty_payload_travels_on_a_channel_both_ways() {
    let mut lab = Lab::new();
    let relay = lab.allocate(client(1), &alice());
    lab.bind(client(1), &alice(), 0x4000, PEER);
    let sent = lab.send_on(client(1), 0x4000, b"").expect("is sent");
    assert!(sent.payload.is_empty());
    let received = lab.peer_sends(relay, PEER, b"").expect("is sent");
    let decoded = ChannelData::decode(&received.bytes).expect("is well formed");
    assert!(decoded.data.is_empty());
}

#[test]
fn a_send_indication_without_its_two_attributes_goes_nowhere() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    lab.permit(client(1), &alice(), PEER);
    let (peer, data) = (XorPeerAddress(address(PEER)), Data(b"x"));
    for (has_peer, has_data, arrives) in [
        (true, true, true),
        (true, false, false),
        (false, true, false),
        (false, false, false),
    ] {
        let bytes = lab.message(Class::Indication, Method::SEND, |writer| {
            if has_peer {
                writer.attribute(&peer);
            }
            if has_data {
                writer.attribute(&data);
            }
        });
        assert_eq!(lab.data(client(1), &bytes).is_some(), arrives);
    }
    assert_eq!(lab.refused(Refusal::RequestBad), 3);
}

#[test]
fn without_a_family_in_the_request_a_server_without_ipv4_says_440() {
    let mut lab = Lab::with(|config| config.relay_ip_v4 = None);
    assert_eq!(
        lab.allocate_with(client(1), &alice(), |_| {}).code(),
        Some(440)
    );
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&RequestedAddressFamily(AddressFamily::V6));
    });
    assert_eq!(reply.code(), None);
}

#[test]
fn neither_of_two_families_is_no_capacity() {
    let mut lab = Lab::new();
    lab.port_answers = vec![Err(PortError::InUse); 50];
    let reply = allocate_both(&mut lab);
    assert_eq!(reply.code(), Some(508));
    assert!(!reply.has(AttributeType::ADDRESS_ERROR_CODE));
    assert!(lab.bound.is_empty());
}

#[test]
fn one_of_two_addresses_can_be_given_back_and_refreshing_it_again_is_443() {
    let mut lab = Lab::new();
    let reply = allocate_both(&mut lab);
    let mut relays = reply.message().all::<XorRelayedAddress>().map(|relay| {
        let XorRelayedAddress(relay) = relay.expect("is well formed");
        RelayAddr(relay)
    });
    let (v4, v6) = (relays.next().expect("is v4"), relays.next().expect("is v6"));
    lab.permit(client(1), &alice(), PEER);
    lab.permit(client(1), &alice(), PEER_V6);
    let refresh_v6 = |lab: &mut Lab, lifetime| {
        lab.signed(client(1), &alice(), Method::REFRESH, |writer| {
            writer
                .attribute(&RequestedAddressFamily(AddressFamily::V6))
                .attribute(&Lifetime(lifetime));
        })
    };
    assert_eq!(refresh_v6(&mut lab, 0).get(), Ok(Lifetime(0)));
    assert!(lab.bound.contains(&v4) && !lab.bound.contains(&v6));
    assert_eq!(lab.peer_sends(v6, PEER_V6, b"x"), None);
    assert!(lab.peer_sends(v4, PEER, b"x").is_some());
    assert_eq!(refresh_v6(&mut lab, 600).code(), Some(443));
}

#[test]
fn an_address_that_is_given_back_takes_its_permissions_and_channels_along_and_no_others() {
    let mut lab = Lab::new();
    allocate_both(&mut lab);
    lab.bind(client(1), &alice(), 0x4000, PEER);
    lab.bind(client(1), &alice(), 0x4001, PEER_V6);
    let counts = |lab: &Lab| {
        let infos = lab.server.allocations(lab.now);
        let mut counts = infos.map(|info| (info.permissions, info.channels));
        counts.next()
    };
    assert_eq!(counts(&lab), Some((2, 2)));
    lab.signed(client(1), &alice(), Method::REFRESH, |writer| {
        writer
            .attribute(&RequestedAddressFamily(AddressFamily::V6))
            .attribute(&Lifetime(0));
    });
    assert_eq!(counts(&lab), Some((1, 1)));
    assert!(lab.send_on(client(1), 0x4000, b"x").is_some());
    assert_eq!(lab.send_on(client(1), 0x4001, b"x"), None);
    // The number is free again at once.
    let other = "8.8.4.5:5000";
    assert_eq!(lab.bind(client(1), &alice(), 0x4001, other).code(), None);
}

#[test]
fn dont_fragment_is_refused_where_all_goes_from_ipv4_to_ipv6() {
    let v6: FiveTuple = FiveTuple {
        client: address("[2a00::1]:7"),
        ..client(1)
    };
    let tcp = tcp_client(1);
    for (from, family, is_refused) in [
        (client(1), AddressFamily::V6, true),
        (client(1), AddressFamily::V4, false),
        (v6, AddressFamily::V6, false),
        (v6, AddressFamily::V4, false),
        (tcp, AddressFamily::V6, false),
    ] {
        let mut lab = Lab::new();
        let reply = lab.allocate_with(from, &alice(), |writer| {
            writer
                .attribute(&RequestedAddressFamily(family))
                .attribute(&DontFragment);
        });
        assert_eq!(
            reply.code(),
            is_refused.then_some(420),
            "{from:?} {family:?}"
        );
        if is_refused {
            let unknown: UnknownAttributes<'_> = reply.get().expect("says which");
            assert!(unknown.types().eq([AttributeType::DONT_FRAGMENT]));
        }
    }
    let mut lab = Lab::new();
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer
            .attribute(&AdditionalAddressFamily(AddressFamily::V6))
            .attribute(&DontFragment);
    });
    assert_eq!(reply.code(), None, "half of it can have the bit");
}

#[test]
fn clients_at_the_end_of_a_tunnel_get_no_allocation_and_no_channel() {
    let from = |text| FiveTuple {
        client: address(text),
        ..client(1)
    };
    for tunnelled in [
        "[2002:808:808::1]:7",
        "[2001:0:808:808::1]:7",
        "192.88.99.1:7",
    ] {
        let mut lab = Lab::new();
        let reply = lab.allocate_with(from(tunnelled), &alice(), |_| {});
        assert_eq!(reply.code(), Some(403), "{tunnelled}");
        assert_eq!(lab.refused(Refusal::ClientTunnelled), 1);
        assert!(lab.bound.is_empty());
        // It does not get there by moving, and its operator may know better.
        let reply = lab.allocate_with(client(1), &alice(), |writer| {
            writer.attribute(&MobilityTicket(&[]));
        });
        let ticket: MobilityTicket<'_> = reply.get().expect("is mobile");
        let reply = lab.signed(from(tunnelled), &alice(), Method::REFRESH, |writer| {
            writer.attribute(&ticket);
        });
        assert_eq!(reply.code(), Some(403), "{tunnelled}");
        let mut lab = Lab::with(|config| {
            config.allow_peers = ["2002::/16", "2001::/32", "192.88.99.0/24"]
                .map(|text| text.parse().expect("is a network"))
                .to_vec();
        });
        lab.allocate(from(tunnelled), &alice());
        assert_eq!(
            lab.bind(from(tunnelled), &alice(), 0x4000, PEER).code(),
            None
        );
        // Who is not allowed any more keeps what it has, and gets no further channel.
        lab.server.reconfigure(lab.now, configured());
        let more = lab.bind(from(tunnelled), &alice(), 0x4001, "8.8.4.5:1");
        assert_eq!(more.code(), Some(403));
    }
}

#[test]
fn a_refresh_computes_the_lifetime_like_an_allocate() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    for (requested, granted) in [
        (None, 600),
        (Some(1), 600),
        (Some(1200), 1200),
        (Some(9000), 3600),
    ] {
        let reply = lab.signed(client(1), &alice(), Method::REFRESH, |writer| {
            if let Some(requested) = requested {
                writer.attribute(&Lifetime(requested));
            }
        });
        assert_eq!(reply.get(), Ok(Lifetime(granted)), "{requested:?}");
    }
    lab.advance(3599);
    assert!(!lab.bound.is_empty());
    lab.advance(1);
    assert!(lab.bound.is_empty());
}

#[test]
fn software_is_told_to_whoever_has_credentials_where_the_operator_wants_it() {
    let mut lab = Lab::with(|config| config.software = Some("tombolo".to_owned()));
    let has_software = |reply: &Reply| reply.has(AttributeType::SOFTWARE);
    assert!(has_software(&lab.allocate_with(
        client(1),
        &alice(),
        |_| {}
    )));
    assert!(
        has_software(&lab.allocate_with(client(1), &alice(), |_| {})),
        "437 too"
    );
    let refresh = lab.signed(client(1), &alice(), Method::REFRESH, |_| {});
    assert!(has_software(&refresh));
    let challenge = lab.unsigned(client(2), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    assert!(!has_software(&challenge), "that would only help a flood");
    let mut silent = Lab::new();
    assert!(!has_software(&silent.allocate_with(
        client(1),
        &alice(),
        |_| {}
    )));
}

#[test]
fn permissions_of_one_allocation_are_nothing_to_another() {
    let mut lab = Lab::new();
    let first = lab.allocate(client(1), &alice());
    let second = lab.allocate(client(2), &alice());
    lab.permit(client(1), &alice(), PEER);
    assert!(lab.peer_sends(first, PEER, b"x").is_some());
    assert_eq!(lab.peer_sends(second, PEER, b"x"), None);
    assert_eq!(lab.send(client(2), PEER, b"x"), None);
}

#[test]
fn the_same_channel_number_means_another_peer_in_another_allocation() {
    let mut lab = Lab::new();
    for (port, peer) in [(1, PEER), (2, "8.8.4.5:1")] {
        lab.allocate(client(port), &alice());
        assert_eq!(lab.bind(client(port), &alice(), 0x4000, peer).code(), None);
    }
    let to = |sent: Option<super::lab::AtPeer>| sent.expect("is bound").to.to_string();
    assert_eq!(to(lab.send_on(client(1), 0x4000, b"x")), PEER);
    assert_eq!(to(lab.send_on(client(2), 0x4000, b"x")), "8.8.4.5:1");
}

#[test]
fn one_address_has_an_allocation_over_each_transport() {
    let mut lab = Lab::new();
    let udp = lab.allocate(client(1), &alice());
    let tcp = lab.allocate(tcp_client(1), &alice());
    assert_ne!(udp, tcp);
}

#[test]
fn channel_numbers_of_rfc_5766_are_bound_and_those_beyond_are_not() {
    let mut lab = Lab::new();
    let relay = lab.allocate(client(1), &alice());
    for number in [0x4000, 0x4fff, 0x5000, 0x7ffe] {
        let peer = format!("8.8.4.4:{number}");
        assert_eq!(lab.bind(client(1), &alice(), number, &peer).code(), None);
        assert!(lab.send_on(client(1), number, b"x").is_some());
        let received = lab.peer_sends(relay, &peer, b"x").expect("is bound");
        let decoded = ChannelData::decode(&received.bytes).expect("is on its channel");
        assert_eq!(decoded.number.number(), number);
    }
    for reserved in [
        &[0x7f, 0xff, 0, 0][..],
        &[0x80, 0, 0, 0],
        &[0xff, 0xff, 0, 0],
    ] {
        let forward = lab.server.handle_client(lab.now, client(1), reserved);
        assert_eq!(forward, None);
    }
    assert_eq!(lab.refused(Refusal::Malformed), 1);
    assert_eq!(lab.refused(Refusal::NotStun), 2);
}

/// The lab's usual configuration, as far as credentials go.
fn configured() -> Config {
    let mut config = Config::new([3; 32]);
    config.realm.secrets = vec![SECRET.to_vec()];
    config
}

fn allocate_both(lab: &mut Lab) -> Reply {
    lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&AdditionalAddressFamily(AddressFamily::V6));
    })
}
