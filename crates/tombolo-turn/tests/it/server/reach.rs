//! Holes that other servers had around peers, ports and state. Each test is named after one.

use tombolo_stun::{
    EvenPort, Method, MobilityTicket, RequestedTransport, XorPeerAddress, XorRelayedAddress,
};
use tombolo_turn::server::{Command, Config, FiveTuple, PeerAddr, Refusal, RelayAddr};

use super::lab::{Lab, PEER, User, address, alice, bob, client, tcp_client};

#[test]
fn cve_2018_4058_and_cve_2020_26262_the_host_itself_is_no_peer_however_it_is_written() {
    check_unreachable(&[
        "127.0.0.1:80",
        "127.255.255.254:80",
        "0.0.0.0:80",
        "0.1.2.3:80",
        "[::1]:80",
        "[::]:80",
        "9.9.9.9:80",
        "9.9.9.10:50000",
        "[2a00::9]:80",
    ]);
}

#[test]
fn cve_2026_27624_an_ipv4_address_in_ipv6_clothes_is_no_way_around_the_policy() {
    check_unreachable(&[
        "[::ffff:127.0.0.1]:80",
        "[::ffff:0.0.0.0]:80",
        "[::ffff:10.0.0.1]:80",
        "[::ffff:169.254.169.254]:80",
        "[::ffff:9.9.9.10]:80",
        "[::127.0.0.1]:80",
        "[::ffff:0:127.0.0.1]:80",
        "[64:ff9b::7f00:1]:80",
        "[64:ff9b:1::7f00:1]:80",
        "[2002:7f00:1::1]:80",
        "[2002:a00:1::1]:80",
        // Teredo with the address of its client turned over, as the protocol has it.
        "[2001:0:909:909:0:0:80ff:fffe]:80",
    ]);
}

#[test]
fn coturn_2026_mapped_addresses_are_denied_before_and_after_they_are_allowed() {
    // There, `::ffff:127.0.0.1` was looked at before it was turned into its one form.
    let mut lab = lab_with(|config| {
        config.allow_peers = ["127.0.0.1", "::ffff:0:0/96", "::/0", "0.0.0.0/0"]
            .map(|text| text.parse().expect("is a network"))
            .to_vec();
        config.deny_peers = vec!["127.0.0.2".parse().expect("is a network")];
    });
    lab.allocate(client(1), &alice());
    allocate_v6(&mut lab, client(2));
    let code = |lab: &mut Lab, from, peer| lab.permit(from, &alice(), peer).code();
    assert_eq!(code(&mut lab, client(1), "127.0.0.1:1"), None);
    assert_eq!(code(&mut lab, client(1), "127.0.0.2:1"), Some(403));
    for mapped in ["[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.2]:1"] {
        assert_eq!(code(&mut lab, client(2), mapped), Some(403), "{mapped}");
    }
}

#[test]
fn coturn_2026_networks_of_ipv6_are_compared_bit_by_bit() {
    // There, each byte was compared with the bounds for itself, so `2a00:100::1` was outside of
    // `2a00:ff::` to `2a01::`, and ranges had holes.
    let mut lab = lab_with(|config| {
        config.deny_peers = ["2a00:ff::/25", "2a10::/17"]
            .map(|text| text.parse().expect("is a network"))
            .to_vec();
    });
    allocate_v6(&mut lab, client(1));
    for (peer, code) in [
        ("[2a00:80::]:1", Some(403)),
        ("[2a00:80:ffff:ffff:ffff:ffff:ffff:ffff]:1", Some(403)),
        ("[2a00:ff:0:1::]:1", Some(403)),
        ("[2a00:7f:ffff::]:1", None),
        ("[2a00:100::]:1", None),
        ("[2a10:0:7f00::1]:1", Some(403)),
        ("[2a10:7fff::ff]:1", Some(403)),
        ("[2a10:8000::]:1", None),
    ] {
        assert_eq!(lab.permit(client(1), &alice(), peer).code(), code, "{peer}");
    }
}

#[test]
fn slack_2020_services_of_the_cloud_and_of_the_house_are_out_of_reach() {
    check_unreachable(&[
        "169.254.169.254:80",
        "[fe80::a9fe:a9fe]:80",
        "[fd00:ec2::254]:80",
        "10.0.0.1:6379",
        "172.31.255.255:22",
        "192.168.1.1:80",
        "100.100.100.200:80",
        "224.0.0.251:5353",
        "255.255.255.255:67",
        "[ff02::1]:5353",
        "[fec0::1]:80",
    ]);
}

#[test]
fn pion_570_the_policy_guards_tcp_like_udp() {
    // A peer that was allowed when it was permitted, and is not any more.
    let mut lab = lab_with(|config| config.relay_tcp = true);
    let at = allocate_tcp(&mut lab, tcp_client(1));
    assert_eq!(lab.permit(tcp_client(1), &alice(), PEER).code(), None);
    lab.server.reconfigure(lab.now, {
        let mut config = configuration();
        config.deny_peers = vec!["8.8.4.4".parse().expect("is a network")];
        config
    });
    let from = PeerAddr(address(PEER));
    assert_eq!(lab.server.handle_peer_accepted(lab.now, at, from), None);
    let reply = lab.signed(tcp_client(1), &alice(), Method::CONNECT, |writer| {
        writer.attribute(&XorPeerAddress(address(PEER)));
    });
    assert_eq!(reply.code(), Some(403));
    assert_eq!(lab.tcp_commands, []);
}

#[test]
fn masquerade_nothing_leaves_without_a_permission_and_nothing_comes_in() {
    let mut lab = lab_with(|_| {});
    let at = lab.allocate(client(1), &alice());
    assert_eq!(lab.send(client(1), PEER, b"x"), None);
    assert_eq!(lab.send_on(client(1), 0x4000, b"x"), None);
    assert_eq!(lab.peer_sends(at, PEER, b"x"), None);
    // Another client of the same server is a peer like any other.
    let other = lab.allocate(client(2), &bob());
    assert_eq!(lab.peer_sends(other, &at.0.to_string(), b"x"), None);
    // A permission is for an address, whatever its port, and for no neighbour.
    lab.permit(client(1), &alice(), PEER);
    assert!(lab.peer_sends(at, "8.8.4.4:1", b"x").is_some());
    assert_eq!(lab.peer_sends(at, "8.8.4.5:5000", b"x"), None);
    assert_eq!(lab.peer_sends(other, PEER, b"x"), None);
}

#[test]
fn pion_an_allocation_listens_to_its_user_alone() {
    let mut lab = lab_with(|_| {});
    lab.allocate(client(1), &alice());
    let reply = lab.signed(client(1), &bob(), Method::REFRESH, |_| {});
    assert_eq!(reply.code(), Some(441));
    assert_eq!(lab.permit(client(1), &bob(), PEER).code(), Some(441));
    let code = lab.bind(client(1), &bob(), 0x4000, PEER).code();
    assert_eq!(code, Some(441));
    assert_eq!(lab.server.stats().allocations, 1);
}

#[test]
fn coturn_2026_even_ports_are_not_used_up_by_clients_that_reserve_none() {
    for reserve_next in [false, true] {
        let mut lab = lab_with(|config| {
            config.relay_ports = 50_000..=50_007;
            config.limits.per_user.allocations = Some(100);
        });
        for round in 0..50 {
            let reply = lab.allocate_with(client(1), &alice(), |writer| {
                writer.attribute(&EvenPort { reserve_next });
            });
            assert_eq!(reply.code(), None, "round {round}");
            lab.signed(client(1), &alice(), Method::REFRESH, |writer| {
                writer.attribute(&tombolo_stun::Lifetime(0));
            });
            lab.advance(31);
            assert!(lab.bound.is_empty(), "no port is left behind");
        }
        assert_eq!(lab.server.poll_timeout(), None);
    }
}

#[test]
fn coturn_2026_reservations_count_against_the_quota() {
    let mut lab = lab_with(|config| config.limits.per_user.allocations = Some(3));
    let mut codes = Vec::new();
    for port in 1..=4 {
        let reply = lab.allocate_with(client(port), &alice(), |writer| {
            let reserve_next = true;
            writer.attribute(&EvenPort { reserve_next });
        });
        codes.push(reply.code());
    }
    assert_eq!(codes, [None, Some(486), Some(486), Some(486)]);
    assert_eq!(lab.bound.len(), 2);
    assert_eq!(lab.refused(Refusal::QuotaReached), 3);
}

#[test]
fn coturn_2026_tickets_that_are_made_up_take_no_memory_and_no_quota() {
    let mut lab = lab_with(|_| {});
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&MobilityTicket(&[]));
    });
    let MobilityTicket(ticket) = reply.get().expect("is mobile");
    let ticket = ticket.to_vec();
    let timeout = lab.server.poll_timeout();
    for port in 2..500 {
        let mut forged = ticket.clone();
        let bit = usize::from(port) % (forged.len() * 8);
        forged[bit / 8] ^= 1 << (bit % 8);
        let reply = lab.signed(client(port), &alice(), Method::REFRESH, |writer| {
            writer.attribute(&MobilityTicket(&forged));
        });
        assert!(reply.code().is_some());
    }
    assert_eq!(lab.server.stats().allocations, 1);
    assert_eq!(lab.server.allocations(lab.now).count(), 1);
    assert_eq!(lab.server.poll_timeout(), timeout);
    assert_eq!(lab.shard_commands, []);
}

/// Checks that no request and no indication gets through to any of the peers.
fn check_unreachable(peers: &[&str]) {
    let mut lab = lab_with(|config| config.relay_tcp = true);
    lab.allocate(client(1), &alice());
    allocate_v6(&mut lab, client(2));
    allocate_tcp(&mut lab, tcp_client(3));
    for peer in peers {
        let from = if address(peer).is_ipv4() {
            client(1)
        } else {
            client(2)
        };
        // The node's own addresses may be permitted for the sake of their relayed ports.
        let code = lab.permit(from, &alice(), peer).code();
        let is_relay = ["9.9.9.9", "2a00::9"].contains(&address(peer).ip().to_string().as_str());
        assert_eq!(code, Some(403).filter(|_| !is_relay), "{peer}");
        let code = lab.bind(from, &alice(), 0x4000, peer).code();
        assert_eq!(code, Some(403), "{peer}");
        lab.server.permit(lab.now, "alice", address(peer).ip());
        assert_eq!(lab.send(from, peer, b"x"), None, "{peer}");
        assert_eq!(lab.send_on(from, 0x4000, b"x"), None, "{peer}");
        let reply = lab.signed(tcp_client(3), &alice(), Method::CONNECT, |writer| {
            writer.attribute(&XorPeerAddress(address(peer)));
        });
        let code = reply.code();
        assert!([Some(403), Some(443)].contains(&code), "{peer}: {code:?}");
    }
    assert_eq!(lab.server.stats().to_peer_packets, 0);
    let connects = |one: &Command| matches!(one, Command::ConnectPeer { .. });
    assert!(!lab.tcp_commands.iter().any(connects));
}

fn lab_with(change: impl FnOnce(&mut Config)) -> Lab {
    Lab::with(|config| {
        config.own_ips = vec![address("9.9.9.10:0").ip()];
        change(config);
    })
}

fn configuration() -> Config {
    let mut config = Config::new([3; 32]);
    config.realm.secrets = vec![super::lab::SECRET.to_vec()];
    config.relay_tcp = true;
    config
}

fn allocate_v6(lab: &mut Lab, from: FiveTuple) {
    let family = tombolo_stun::RequestedAddressFamily(tombolo_stun::AddressFamily::V6);
    let reply = lab.allocate_with(from, &alice(), |writer| {
        writer.attribute(&family);
    });
    assert_eq!(reply.code(), None);
}

fn allocate_tcp(lab: &mut Lab, from: FiveTuple) -> RelayAddr {
    let user: User = alice();
    let reply = lab.signed(from, &user, Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::TCP);
    });
    let XorRelayedAddress(relay) = reply.get().expect("was made");
    RelayAddr(relay)
}
