use tombolo_stun::{AttributeType, Method, RawAttribute, XorPeerAddress};
use tombolo_turn::server::Refusal;

use super::lab::{Lab, PEER, PEER_V6, address, alice, channel, client};

/// One of every special range, as each of the three ways to name a peer meets it.
const SPECIAL: [&str; 16] = [
    "0.0.0.0:1",
    "10.0.0.1:1",
    "100.64.0.1:1",
    "127.0.0.1:1",
    "169.254.169.254:80",
    "172.16.0.1:1",
    "192.0.2.1:1",
    "192.168.0.1:1",
    "198.18.0.1:1",
    "224.0.0.1:1",
    "255.255.255.255:1",
    "9.9.9.10:3478",
    "192.88.99.1:1",
    "240.0.0.1:1",
    "198.51.100.1:1",
    "203.0.113.1:1",
];
const SPECIAL_V6: [&str; 12] = [
    "[::]:1",
    "[::1]:1",
    "[::ffff:8.8.8.8]:1",
    "[::ffff:127.0.0.1]:1",
    "[2002:808:808::]:1",
    "[64:ff9b::808:808]:1",
    "[64:ff9b:1::1]:1",
    "[2001::1]:1",
    "[fc00::1]:1",
    "[fe80::1]:1",
    "[ff02::1]:1",
    "[2001:db8::1]:1",
];

#[test]
fn special_addresses_are_denied_to_permissions_channels_and_send_alike() {
    let mut lab = Lab::with(|config| config.own_ips = vec![address("9.9.9.10:0").ip()]);
    lab.allocate(client(1), &alice());
    allocate_v6(&mut lab, 2);
    let v4 = SPECIAL.map(|peer| (client(1), peer));
    let v6 = SPECIAL_V6.map(|peer| (client(2), peer));
    for (from, peer) in v4.into_iter().chain(v6) {
        assert_eq!(lab.permit(from, &alice(), peer).code(), Some(403), "{peer}");
        assert_eq!(
            lab.bind(from, &alice(), 0x4000, peer).code(),
            Some(403),
            "{peer}"
        );
        lab.server.permit(lab.now, "alice", address(peer).ip());
        assert_eq!(lab.send(from, peer, b"x"), None, "{peer}");
    }
    let denied = (SPECIAL.len() + SPECIAL_V6.len()) as u64;
    assert_eq!(lab.refused(Refusal::PeerForbidden), 2 * denied);
    assert_eq!(lab.server.stats().to_peer_packets, 0);
}

#[test]
fn a_refusal_tells_its_rule_to_whoever_has_credentials() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let reply = lab.permit(client(1), &alice(), "127.0.0.1:1");
    let error: tombolo_stun::ErrorCode<'_> = reply.get().expect("is an error");
    assert_eq!(error.reason(), "peer address is loopback");
}

#[test]
fn an_allow_list_opens_a_lab() {
    let mut lab =
        Lab::with(|config| config.allow_peers = vec!["10.0.0.0/8".parse().expect("is one")]);
    lab.allocate(client(1), &alice());
    assert_eq!(lab.permit(client(1), &alice(), "10.1.2.3:1").code(), None);
    assert_eq!(
        lab.permit(client(1), &alice(), "192.168.2.3:1").code(),
        Some(403)
    );
    assert!(lab.send(client(1), "10.1.2.3:7", b"x").is_some());
}

#[test]
fn the_node_can_be_reached_only_at_its_relayed_ports() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    assert_eq!(lab.permit(client(1), &alice(), "9.9.9.9:3478").code(), None);
    assert!(lab.send(client(1), "9.9.9.9:50000", b"x").is_some());
    assert_eq!(lab.send(client(1), "9.9.9.9:3478", b"x"), None);
    assert_eq!(lab.send(client(1), "9.9.9.9:0", b"x"), None);
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4000, "9.9.9.9:3478").code(),
        Some(403)
    );
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4000, "9.9.9.9:50000")
            .code(),
        None
    );
}

#[test]
fn the_nodes_own_ports_are_no_peers_even_inside_the_relay_range() {
    let mut lab = Lab::with(|config| config.own_ports = vec![50_001]);
    lab.allocate(client(1), &alice());
    assert_eq!(lab.permit(client(1), &alice(), "9.9.9.9:1").code(), None);
    assert!(lab.send(client(1), "9.9.9.9:50000", b"x").is_some());
    assert_eq!(lab.send(client(1), "9.9.9.9:50001", b"x"), None);
    let reply = lab.bind(client(1), &alice(), 0x4000, "9.9.9.9:50001");
    assert_eq!(reply.code(), Some(403));
}

#[test]
fn peers_of_the_other_family_are_a_mismatch() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    assert_eq!(lab.permit(client(1), &alice(), PEER_V6).code(), Some(443));
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4000, PEER_V6).code(),
        Some(443)
    );
    assert_eq!(lab.send(client(1), PEER_V6, b"x"), None);
}

#[test]
fn permissions_come_all_or_none() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let reply = lab.signed(client(1), &alice(), Method::CREATE_PERMISSION, |writer| {
        writer.attribute(&XorPeerAddress(address(PEER)));
        writer.attribute(&XorPeerAddress(address("10.0.0.1:1")));
    });
    assert_eq!(reply.code(), Some(403));
    assert_eq!(lab.send(client(1), PEER, b"x"), None);
    let reply = lab.signed(client(1), &alice(), Method::CREATE_PERMISSION, |writer| {
        writer.attribute(&XorPeerAddress(address(PEER)));
        writer.attribute(&XorPeerAddress(address("8.8.8.1:1")));
    });
    assert_eq!(reply.code(), None);
    assert!(lab.send(client(1), PEER, b"x").is_some());
    assert!(
        lab.send(client(1), "8.8.8.1:7", b"x").is_some(),
        "the port does not matter"
    );
}

#[test]
fn a_permission_for_nobody_is_a_bad_request() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let reply = lab.signed(client(1), &alice(), Method::CREATE_PERMISSION, |_| {});
    assert_eq!(reply.code(), Some(400));
}

#[test]
fn an_allocation_has_only_so_many_permissions_until_some_are_over() {
    let mut lab = Lab::with(|config| config.limits.per_allocation.permissions = Some(2));
    lab.allocate(client(1), &alice());
    assert_eq!(lab.permit(client(1), &alice(), "8.0.0.1:1").code(), None);
    lab.advance(200);
    assert_eq!(lab.permit(client(1), &alice(), "8.0.0.2:1").code(), None);
    assert_eq!(
        lab.permit(client(1), &alice(), "8.0.0.3:1").code(),
        Some(508)
    );
    assert_eq!(
        lab.permit(client(1), &alice(), "8.0.0.2:1").code(),
        None,
        "a refresh"
    );
    lab.server
        .permit(lab.now, "alice", address("8.0.0.4:1").ip());
    assert_eq!(lab.refused(Refusal::PermitRefused), 1);
    lab.advance(100);
    assert_eq!(lab.permit(client(1), &alice(), "8.0.0.3:1").code(), None);
}

#[test]
fn an_allocation_has_only_so_many_channels_until_some_are_over() {
    let mut lab = Lab::with(|config| config.limits.per_allocation.channels = Some(2));
    lab.allocate(client(1), &alice());
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4000, "8.0.0.1:1").code(),
        None
    );
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4001, "8.0.0.2:1").code(),
        None
    );
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4002, "8.0.0.3:1").code(),
        Some(508)
    );
    lab.advance(599);
    assert_eq!(
        lab.signed(client(1), &alice(), Method::REFRESH, |_| {})
            .code(),
        None
    );
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4001, "8.0.0.2:1").code(),
        None
    );
    lab.advance(1);
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4002, "8.0.0.3:1").code(),
        None
    );
}

#[test]
fn a_channel_and_a_peer_are_bound_to_each_other_only() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    assert_eq!(lab.bind(client(1), &alice(), 0x4000, PEER).code(), None);
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4000, PEER).code(),
        None,
        "a refresh"
    );
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4001, PEER).code(),
        Some(400)
    );
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4000, "8.8.4.4:5001").code(),
        Some(400)
    );
    assert_eq!(lab.refused(Refusal::ChannelConflict), 2);
}

#[test]
fn an_expired_channel_can_be_bound_to_another_peer() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    assert_eq!(lab.bind(client(1), &alice(), 0x4000, PEER).code(), None);
    lab.advance(300);
    assert_eq!(
        lab.signed(client(1), &alice(), Method::REFRESH, |_| {})
            .code(),
        None
    );
    lab.advance(300);
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4000, "8.8.4.5:1").code(),
        None
    );
    assert_eq!(lab.bind(client(1), &alice(), 0x4001, PEER).code(), None);
    let sent = lab.send_on(client(1), 0x4000, b"x").expect("is bound");
    assert_eq!(sent.to, address("8.8.4.5:1"));
}

#[test]
fn a_channel_bind_without_number_or_peer_or_out_of_range_is_a_bad_request() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let peer = XorPeerAddress(address(PEER));
    let replies = [
        lab.signed(client(1), &alice(), Method::CHANNEL_BIND, |w| {
            w.attribute(&peer);
        }),
        lab.signed(client(1), &alice(), Method::CHANNEL_BIND, |w| {
            w.attribute(&channel(0x4000));
        }),
        lab.signed(client(1), &alice(), Method::CHANNEL_BIND, |w| {
            let kind = AttributeType::CHANNEL_NUMBER;
            w.attribute(&peer).attribute(&RawAttribute {
                kind,
                value: &[0x7f, 0xff, 0, 0],
            });
        }),
    ];
    assert_eq!(replies.map(|reply| reply.code()), [Some(400); 3]);
}

#[test]
fn requests_without_an_allocation_are_a_mismatch() {
    let mut lab = Lab::new();
    assert_eq!(lab.permit(client(1), &alice(), PEER).code(), Some(437));
    assert_eq!(
        lab.bind(client(1), &alice(), 0x4000, PEER).code(),
        Some(437)
    );
    assert_eq!(lab.refused(Refusal::AllocationMissing), 2);
}

fn allocate_v6(lab: &mut Lab, port: u16) {
    let family = tombolo_stun::RequestedAddressFamily(tombolo_stun::AddressFamily::V6);
    let reply = lab.allocate_with(client(port), &alice(), |writer| {
        writer.attribute(&family);
    });
    assert_eq!(reply.code(), None);
}
