//! Which pairs of devices find a direct path, and how soon.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tombolo_path::{Filtering, Mapping, Policy, Route};
use tombolo_sim::{Access, Behaviour, Hairpin, LinkConfig, NatConfig, PortRule, Unsolicited, seed};

use crate::scene::{Scene, is_direct, is_relayed, millis};

/// How long a pair may take under loss.
const DIRECT_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn every_pair_that_can_be_direct_becomes_direct() {
    for seed in seed!().several(5) {
        for (what, a, b) in direct_pairs() {
            let mut scene = Scene::impaired(seed, a, b);
            scene.note(format_args!("{what}"));
            scene.connect();
            assert!(
                scene.until_direct(DIRECT_LIMIT).is_some(),
                "{what} did not become direct"
            );
            scene.assert_messages_flow(&what, is_direct);
        }
    }
}

#[test]
fn pairs_that_cannot_be_direct_are_relayed_and_work() {
    for seed in seed!().several(5) {
        for (what, a, b) in relayed_pairs() {
            let mut scene = Scene::impaired(seed, a, b);
            scene.note(format_args!("{what}"));
            scene.connect();
            scene.run_for(Duration::from_secs(3));
            scene.assert_messages_flow(&what, is_relayed);
            assert!(!scene.was_ever_direct(), "{what} became direct");
        }
    }
}

#[test]
fn cones_are_direct_within_one_and_a_half_round_trips_of_the_introduction() {
    for seed in seed!().several(5) {
        for (what, a, b) in direct_pairs().into_iter().take(16) {
            for delay in [10, 25, 60] {
                let link = LinkConfig::new(millis(delay));
                let (a, b) = (a.clone().with_link(link), b.clone().with_link(link));
                let mut scene = Scene::new(seed, a, b);
                scene.connect();
                let direct = scene.until_direct(DIRECT_LIMIT);
                assert!(direct.is_some(), "{what} did not become direct");
                let took = scene.now() - scene.introduced();
                let allowed = scene.rtt(scene.a, scene.b) * 3 / 2 + millis(20);
                assert!(
                    took <= allowed,
                    "{what}, {delay} ms: {took:?} of {allowed:?}"
                );
            }
        }
    }
}

#[test]
fn two_devices_behind_one_nat_use_their_local_network() {
    for seed in seed!().several(5) {
        for hairpin in [
            Hairpin::Off,
            Hairpin::InternalSource,
            Hairpin::ExternalSource,
        ] {
            for nat in [
                NatConfig::full_cone(),
                NatConfig::port_restricted(),
                NatConfig::symmetric(),
            ] {
                let access = Access::behind(nat.with_hairpin(hairpin));
                let mut scene = Scene::beside(seed, access);
                scene.connect();
                assert!(
                    scene.until_direct(DIRECT_LIMIT).is_some(),
                    "{nat:?} not direct"
                );
                scene.run_for(Duration::from_secs(1));
                scene.assert_messages_flow("neighbours", is_local);
            }
        }
    }
}

#[test]
fn a_second_nat_on_one_side_is_no_obstacle() {
    let homes = [
        NatConfig::full_cone(),
        NatConfig::restricted(),
        NatConfig::port_restricted(),
    ];
    for seed in seed!().several(3) {
        for carrier in homes {
            for home in homes {
                for other in homes
                    .map(Access::behind)
                    .into_iter()
                    .chain([Access::open()])
                {
                    let what = format!("{carrier:?} and {home:?} x {:?}", other.nats);
                    let mut scene = Scene::impaired(seed, Access::behind_two(carrier, home), other);
                    scene.connect();
                    assert!(
                        scene.until_direct(DIRECT_LIMIT).is_some(),
                        "{what} not direct"
                    );
                    scene.assert_messages_flow(&what, is_direct);
                }
            }
        }
    }
}

#[test]
fn ipv6_behind_stateful_firewalls_becomes_direct() {
    for seed in seed!().several(5) {
        let (a, b) = (Access::ipv6_firewalled(), Access::ipv6_firewalled());
        let mut scene = Scene::impaired(seed, a, b);
        scene.connect();
        assert!(
            scene.until_direct(DIRECT_LIMIT).is_some(),
            "IPv6 did not become direct"
        );
        scene.assert_messages_flow(
            "IPv6",
            |route| matches!(route, Route::Direct(address) if address.is_ipv6()),
        );
    }
}

#[test]
fn the_first_message_takes_one_way_through_the_relay_after_the_introduction() {
    for seed in seed!().several(5) {
        for (what, a, b) in direct_pairs().into_iter().chain(relayed_pairs()) {
            let link = LinkConfig::new(millis(25));
            let mut scene = Scene::new(seed, a.with_link(link), b.with_link(link));
            scene.connect();
            scene.run_for(Duration::from_secs(1));
            for (receiver, sender) in scene.directions() {
                let (node, lab) = (scene.node_host(), &scene);
                let sender_record = lab.device_at(sender).record(receiver).expect("introduced");
                let introduced = sender_record.introduced.expect("introduced");
                let record = lab.device_at(receiver).record(sender).expect("introduced");
                let first = record.received.first().expect("messages arrive");
                let one_way = lab.delay(sender, node) + lab.delay(node, receiver);
                assert_eq!((first.sequence, first.via), (0, Route::Relay), "{what}");
                assert_eq!(first.at - introduced, one_way, "{what}");
            }
        }
    }
}

#[test]
fn devices_that_may_only_use_the_relay_never_show_their_addresses() {
    let relay_only = Access::open().with_policy(Policy::Relay);
    let mut scene = Scene::new(seed!(), relay_only.clone(), relay_only);
    scene.connect();
    scene.run_for(Duration::from_secs(2));
    scene.assert_messages_flow("relay only", is_relayed);
    assert!(!scene.was_ever_direct());
    for (device, _) in scene.directions() {
        assert_eq!(scene.device_at(device).agent().stats().checks_sent, 0);
    }
}

#[test]
fn nats_that_map_anew_for_every_check_are_not_chased_forever() {
    // Each check makes a new mapping, is let in, and looks like a new address of the peer, which is
    // worth a check, which makes a new mapping …
    let nat = NatConfig::symmetric();
    let nat = NatConfig {
        filtering: Behaviour::EndpointIndependent,
        ..nat
    };
    let link = LinkConfig::new(millis(40));
    let access = Access::behind(nat).with_link(link);
    let mut scene = Scene::new(seed!(), access.clone(), access);
    scene.connect();
    scene.run_for(Duration::from_secs(10));
    let checks = |scene: &Scene| {
        scene
            .directions()
            .map(|(device, _)| scene.device_at(device).agent().stats().checks_sent)
    };
    let before = checks(&scene);
    scene.run_for(Duration::from_secs(10));
    let after = checks(&scene);
    for (before, after) in before.into_iter().zip(after) {
        let sent = after - before;
        assert!(
            sent <= 200,
            "{sent} checks in ten seconds, after {before} in the first ten"
        );
    }
}

#[test]
fn routers_that_claim_unsolicited_packets_leave_the_relay_at_least() {
    for seed in seed!().several(10) {
        let nat = NatConfig::port_restricted().with_unsolicited(Unsolicited::Claim);
        let mut scene = Scene::impaired(seed, Access::behind(nat), Access::behind(nat));
        scene.connect();
        scene.run_for(Duration::from_secs(5));
        scene.assert_messages_flow("claiming routers", |_| true);
    }
}

#[test]
fn the_probe_names_the_mapping_of_every_nat() {
    use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    let cases = [
        (EndpointIndependent, Mapping::EndpointIndependent),
        (AddressDependent, Mapping::AddressDependent),
        (AddressAndPortDependent, Mapping::AddressAndPortDependent),
    ];
    let rules = [
        PortRule::Preserving,
        PortRule::Sequential,
        PortRule::Random,
        PortRule::Contiguous { offset: 1000 },
    ];
    for seed in seed!().several(3) {
        for (mapping, expected) in cases {
            for filtering in [
                EndpointIndependent,
                AddressDependent,
                AddressAndPortDependent,
            ] {
                for ports in rules {
                    let nat = NatConfig::new(mapping, filtering).with_ports(ports);
                    let mut scene = Scene::impaired(seed, Access::behind(nat), Access::open());
                    scene.get_ready();
                    let found = scene.device_at(scene.a).nat().expect("it is ready");
                    assert_eq!(found.mapping, expected, "{nat:?}");
                    let open = scene.device_at(scene.b).nat().expect("it is ready");
                    assert_eq!(open.mapping, Mapping::NoNat);
                    assert_eq!(found.filtering, Filtering::Unknown, "it was not asked for");
                }
            }
        }
    }
}

/// The pairs that must become direct; the first sixteen are without symmetric NATs.
fn direct_pairs() -> Vec<(String, Access, Access)> {
    let easy = [
        ("no NAT", Access::open()),
        ("full cone", Access::behind(NatConfig::full_cone())),
        ("restricted", Access::behind(NatConfig::restricted())),
        (
            "port-restricted",
            Access::behind(NatConfig::port_restricted()),
        ),
    ];
    let symmetric = ("symmetric", Access::behind(NatConfig::symmetric()));
    let mut pairs = Vec::new();
    for a in &easy {
        pairs.extend(easy.iter().map(|b| (a, b)));
    }
    for other in &easy[..3] {
        pairs.extend([(&symmetric, other), (other, &symmetric)]);
    }
    let named = |(a, b): (&(&str, Access), &(&str, Access))| {
        (format!("{} x {}", a.0, b.0), a.1.clone(), b.1.clone())
    };
    pairs.into_iter().map(named).collect()
}

/// The pairs that only the relay can serve.
fn relayed_pairs() -> Vec<(String, Access, Access)> {
    let symmetric = || Access::behind(NatConfig::symmetric());
    let port_restricted = || Access::behind(NatConfig::port_restricted());
    let blocked = || Access::open().without_udp();
    vec![
        ("symmetric x symmetric".to_owned(), symmetric(), symmetric()),
        (
            "symmetric x port-restricted".to_owned(),
            symmetric(),
            port_restricted(),
        ),
        (
            "port-restricted x symmetric".to_owned(),
            port_restricted(),
            symmetric(),
        ),
        ("UDP blocked x no NAT".to_owned(), blocked(), Access::open()),
        (
            "full cone x UDP blocked".to_owned(),
            Access::behind(NatConfig::full_cone()),
            blocked(),
        ),
        (
            "UDP blocked x UDP blocked".to_owned(),
            blocked(),
            symmetric().without_udp(),
        ),
    ]
}

fn is_local(route: Route) -> bool {
    let lan = |ip: Ipv4Addr| ip.octets().starts_with(&[192, 168, 1]);
    matches!(route, Route::Direct(address) if matches!(address.ip(), IpAddr::V4(ip) if lan(ip)))
}
