//! Each profile behaves as RFC 4787 names it, and pairs of them as is known of hole punching.

use std::time::Duration;

use tombolo_natlab::probe::{Behaviour, Dependence, Family, Ports, Responder, punch};
use tombolo_natlab::{Lab, Nat, Profile, Site, require};

fn measure(site: Site, family: Family) -> Option<Behaviour> {
    let lab = Lab::builder().site(site).build().expect("a lab");
    let responder = Responder::start(&lab, family).expect("a responder");
    responder
        .classify(lab.device("a", 0).expect("a device"))
        .expect("a measurement")
}

fn check(nat: impl Into<Nat>, expected: (Dependence, Dependence, Ports)) {
    let behaviour = measure(Site::new("a", nat), Family::V4).expect("answers");
    let Behaviour {
        mapping,
        filtering,
        ports,
        hairpin,
        translated,
    } = behaviour;
    assert_eq!((mapping, filtering, ports), expected);
    assert!(
        translated && !hairpin,
        "translated {translated}, hairpin {hairpin}"
    );
}

#[test]
fn without_nat_a_device_has_its_own_address_and_no_filter() {
    require!();
    let behaviour = measure(Site::new("a", Profile::NoNat), Family::V4).expect("answers");
    assert!(!behaviour.translated, "{behaviour:?}");
    assert_eq!(behaviour.mapping, Dependence::Endpoint);
    assert_eq!(behaviour.filtering, Dependence::Endpoint);
}

#[test]
fn a_full_cone_maps_and_filters_by_endpoint() {
    require!();
    check(
        Profile::FullCone,
        (Dependence::Endpoint, Dependence::Endpoint, Ports::Preserved),
    );
}

#[test]
fn a_restricted_cone_filters_by_address() {
    require!();
    check(
        Profile::Restricted,
        (Dependence::Endpoint, Dependence::Address, Ports::Preserved),
    );
}

#[test]
fn a_port_restricted_cone_filters_by_address_and_port() {
    require!();
    let expected = (
        Dependence::Endpoint,
        Dependence::AddressAndPort,
        Ports::Preserved,
    );
    check(Profile::PortRestricted, expected);
}

#[test]
fn a_symmetric_nat_maps_by_address_and_port_at_random() {
    require!();
    let expected = (
        Dependence::AddressAndPort,
        Dependence::AddressAndPort,
        Ports::Random,
    );
    check(Profile::Symmetric, expected);
}

#[test]
fn a_sequential_symmetric_nat_counts_its_ports() {
    require!();
    let expected = (
        Dependence::AddressAndPort,
        Dependence::AddressAndPort,
        Ports::Sequential,
    );
    check(Profile::SymmetricSequential, expected);
}

#[test]
fn an_ipv6_firewall_translates_nothing_and_lets_replies_in() {
    require!();
    let site = Site::new("a", Profile::Ipv6Firewall);
    let behaviour = measure(site, Family::V6).expect("answers");
    assert!(!behaviour.translated, "{behaviour:?}");
    assert_eq!(behaviour.filtering, Dependence::AddressAndPort);
}

#[test]
fn blocked_udp_gets_no_answer() {
    require!();
    assert_eq!(
        measure(Site::new("a", Profile::UdpBlocked), Family::V4),
        None
    );
}

#[test]
fn a_nested_nat_is_as_strict_as_its_stricter_layer() {
    require!();
    for (inner, outer) in [
        (Profile::FullCone, Profile::Restricted),
        (Profile::Restricted, Profile::FullCone),
    ] {
        let site = Site::new("a", inner).behind(outer);
        let behaviour = measure(site, Family::V4).expect("answers");
        assert_eq!(
            behaviour.mapping,
            Dependence::Endpoint,
            "{inner} behind {outer}"
        );
        assert_eq!(
            behaviour.filtering,
            Dependence::Address,
            "{inner} behind {outer}"
        );
    }
}

#[test]
fn a_hairpin_lets_a_device_reach_its_neighbour_by_the_outer_address() {
    require!();
    for profile in [Profile::FullCone, Profile::PortRestricted] {
        let site = Site::new("a", Nat::new(profile).with_hairpin());
        assert!(
            measure(site, Family::V4).expect("answers").hairpin,
            "{profile}"
        );
    }
}

#[test]
fn an_idle_mapping_ends_with_the_udp_timeout() {
    require!();
    let nat = Nat::new(Profile::Symmetric).with_udp_timeout(Duration::from_secs(1));
    let lab = Lab::builder()
        .site(Site::new("a", nat))
        .build()
        .expect("a lab");
    let responder = Responder::start(&lab, Family::V4).expect("a responder");
    let device = lab.device("a", 0).expect("a device");
    let socket = lab
        .enter(device, || std::net::UdpSocket::bind("0.0.0.0:0"))
        .expect("inside")
        .expect("open");
    let outer = || {
        responder
            .outer_address(&socket, 0)
            .expect("a probe")
            .expect("an answer")
    };
    let first = outer();
    assert_eq!(outer(), first, "a mapping in use is kept");
    std::thread::sleep(Duration::from_millis(2500));
    assert_ne!(outer(), first, "an idle mapping ends");
}

fn does_punch(a: impl Into<Nat>, b: impl Into<Nat>, late: Duration) -> bool {
    let lab = Lab::builder()
        .site(Site::new("a", a))
        .site(Site::new("b", b))
        .build()
        .expect("a lab");
    let responder = Responder::start(&lab, Family::V4).expect("a responder");
    let (a, b) = (
        lab.device("a", 0).expect("a device"),
        lab.device("b", 0).expect("a device"),
    );
    punch(&responder, a, b, late).expect("sockets")
}

#[test]
fn cones_punch_through_to_each_other() {
    require!();
    let cones = [
        Profile::NoNat,
        Profile::FullCone,
        Profile::Restricted,
        Profile::PortRestricted,
    ];
    for (index, a) in cones.into_iter().enumerate() {
        for b in &cones[index..] {
            assert!(does_punch(a, *b, Duration::from_millis(30)), "{a} with {b}");
        }
    }
}

#[test]
fn a_symmetric_nat_reaches_only_filters_that_ignore_the_port() {
    require!();
    for (other, expected) in [
        (Profile::NoNat, true),
        (Profile::FullCone, true),
        (Profile::Restricted, true),
        (Profile::PortRestricted, false),
        (Profile::Symmetric, false),
    ] {
        let punched = does_punch(Profile::Symmetric, other, Duration::ZERO);
        assert_eq!(punched, expected, "symmetric with {other}");
    }
}

#[test]
fn without_an_input_drop_the_early_packet_of_one_side_spoils_the_others_port() {
    require!();
    let nat = Nat::new(Profile::PortRestricted).without_input_drop();
    assert!(!does_punch(nat.clone(), nat, Duration::from_millis(60)));
}
