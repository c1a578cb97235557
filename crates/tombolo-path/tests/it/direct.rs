//! How fast direct paths are found, and between which NATs.

use std::time::Duration;

use tombolo_path::{
    Candidate, CandidateKind, Event, Filtering, Mapping, NatBehaviour, PairState, PeerConfig,
    Policy, Route, Verdict,
};

use crate::world::{MS, Nat, PEER, Side, World};

/// One and a half RTTs of 50 ms, and 20 ms.
const GOAL: Duration = Duration::from_millis(95);

#[test]
fn two_cones_are_direct_within_one_and_a_half_rtt_and_20_ms() {
    for nat in [Nat::FullCone, Nat::Restricted, Nat::PortRestricted] {
        for skew_ms in [0, 3, 10, 30, 60] {
            let mut world = World::new(1, nat, nat);
            let (a, b) = (world.peer_config(Side::A), world.peer_config(Side::B));
            world.introduce_with(Side::A, a);
            world.run_for(MS * skew_ms);
            world.introduce_with(Side::B, b);
            let took = world.run_until(MS * 1000, World::both_direct);
            assert!(
                took.is_some_and(|took| took <= GOAL),
                "{nat:?}, {skew_ms} ms: {took:?}"
            );
        }
    }
}

#[test]
fn addresses_that_lead_nowhere_do_not_delay_the_one_that_works() {
    let mut world = World::new(1, Nat::PortRestricted, Nat::PortRestricted);
    for side in [Side::A, Side::B] {
        let mut config = world.peer_config(side);
        for n in 0..6 {
            let address = ([172, 16, 0, n], 5000).into();
            config
                .candidates
                .push(Candidate::new(CandidateKind::Host, address));
        }
        world.introduce_with(side, config);
        world.run_for(MS * 30);
    }
    // The second introduction was 30 ms ago.
    let took = world.run_until(MS * 1000, World::both_direct);
    assert!(took.is_some_and(|took| took + MS * 30 <= GOAL), "{took:?}");
}

#[test]
fn every_pair_of_nats_that_can_be_direct_is() {
    use Nat::{FullCone, None, PortRestricted, Restricted, Symmetric};
    let cones = [None, FullCone, Restricted, PortRestricted];
    let mut pairs: Vec<_> = cones.iter().flat_map(|a| cones.map(|b| (*a, b))).collect();
    pairs.extend([None, FullCone, Restricted].map(|other| (Symmetric, other)));
    pairs.extend([None, FullCone, Restricted].map(|other| (other, Symmetric)));
    for (a, b) in pairs {
        for seed in 0..5 {
            let mut world = World::new(seed, a, b);
            world.loss = 10;
            world.introduce();
            let took = world.run_until(MS * 3000, World::both_direct);
            assert!(took.is_some(), "{a:?} and {b:?}, seed {seed}");
        }
    }
}

#[test]
fn symmetric_peers_stay_on_the_relay_and_know_why() {
    let mut world = World::new(1, Nat::Symmetric, Nat::Symmetric);
    world.introduce();
    let nat = NatBehaviour::new(Mapping::AddressAndPortDependent, Filtering::Unknown);
    world.device(Side::A).agent.set_local_nat(Some(nat));
    world.run_for(MS * 5000);
    assert!(!world.any_direct());
    let now = world.now();
    let explanation = world.device(Side::A).agent.explain(now, PEER).unwrap();
    // The peer's own mapping shows in its two server-reflexive candidates.
    assert_eq!(
        explanation.verdict,
        Verdict::HardNatBothSides,
        "{explanation}"
    );
    assert_eq!(explanation.remote_nat.unwrap().mapping, Mapping::Dependent);
}

#[test]
fn nats_that_map_anew_for_every_check_are_not_chased_forever() {
    // Each check comes from a new address, which is worth a check, which comes from a new address.
    let mut world = World::new(1, Nat::SymmetricOpen, Nat::SymmetricOpen);
    world.introduce();
    world.run_for(MS * 10_000);
    let before = world.device(Side::A).checks_sent;
    world.run_for(MS * 10_000);
    let sent = world.device(Side::A).checks_sent - before;
    assert!(sent <= 200, "{sent} checks in ten seconds");
    assert!(!world.any_direct());
}

#[test]
fn symmetric_against_port_restricted_stays_on_the_relay_and_both_know_why() {
    let mut world = World::new(1, Nat::Symmetric, Nat::PortRestricted);
    world.introduce();
    let symmetric = NatBehaviour::new(
        Mapping::AddressAndPortDependent,
        Filtering::AddressAndPortDependent,
    );
    let cone = NatBehaviour::new(
        Mapping::EndpointIndependent,
        Filtering::AddressAndPortDependent,
    );
    world.device(Side::A).agent.set_local_nat(Some(symmetric));
    world.device(Side::B).agent.set_local_nat(Some(cone));
    world.run_for(MS * 1000);
    let now = world.now();
    let early = world.device(Side::A).agent.explain(now, PEER).unwrap();
    assert_eq!(early.verdict, Verdict::StillTrying);
    world.run_for(MS * 4000);
    assert!(!world.any_direct());
    for side in [Side::A, Side::B] {
        let now = world.now();
        let explanation = world.device(side).agent.explain(now, PEER).unwrap();
        assert_eq!(
            explanation.verdict,
            Verdict::SymmetricVsPortRestricted,
            "{explanation}"
        );
        assert!(
            explanation.detail.contains("IPv6"),
            "says what would help: {explanation}"
        );
    }
}

#[test]
fn a_lan_wins_over_the_way_around_it() {
    // Both are behind one NAT that hairpins: the public addresses work, a little slower.
    let mut world = World::new(1, Nat::None, Nat::None);
    world.delay = MS * 4;
    for (side, net) in [(Side::A, 1), (Side::B, 2)] {
        let lan = ([10, 0, 0, net], 5000).into();
        world.device(side).extra.push(lan);
        world.delay_to.insert(lan, MS);
    }
    for side in [Side::A, Side::B] {
        let mut config = world.peer_config(side);
        let public = config.candidates[0].address;
        let lan = world.device(side.other()).extra[0];
        config.candidates = vec![
            Candidate::new(CandidateKind::ServerReflexive, public),
            Candidate::new(CandidateKind::Host, lan),
        ];
        world.introduce_with(side, config);
    }
    world.run_for(MS * 2000);
    for (side, net) in [(Side::A, 2), (Side::B, 1)] {
        assert_eq!(
            world.route(side),
            Route::Direct(([10, 0, 0, net], 5000).into())
        );
    }
}

#[test]
fn ipv6_and_ipv4_candidates_are_both_tried_and_mapped_ones_are_ipv4() {
    let mut world = World::new(1, Nat::None, Nat::None);
    for side in [Side::A, Side::B] {
        let mut config = world.peer_config(side);
        let host = config.candidates[0].address;
        let mapped = format!("[::ffff:{}]:{}", host.ip(), host.port())
            .parse()
            .unwrap();
        config.candidates = vec![
            Candidate {
                kind: CandidateKind::Host,
                address: mapped,
                priority: 1,
            },
            Candidate::new(CandidateKind::Host, "[2001:db8::9]:5000".parse().unwrap()),
        ];
        world.introduce_with(side, config);
    }
    let (_, to, _) = &world.seen[0];
    assert!(to.is_ipv6(), "IPv6 goes first");
    world.run_for(MS * 200);
    assert!(world.both_direct());
    assert!(world.seen.iter().any(|(_, to, _)| to.is_ipv4()));
    let now = world.now();
    let explanation = world.device(Side::A).agent.explain(now, PEER).unwrap();
    assert_eq!(explanation.pairs.len(), 2);
}

#[test]
fn the_first_checks_to_all_candidates_leave_at_once() {
    let mut world = World::new(1, Nat::None, Nat::None);
    let mut config = world.peer_config(Side::A);
    for n in 1..8 {
        let address = ([198, 51, 100, n], 5000).into();
        config
            .candidates
            .push(Candidate::new(CandidateKind::ServerReflexive, address));
    }
    world.introduce_with(Side::A, config);
    assert_eq!(world.seen.len(), 8);
    let first = world.seen[0].1;
    assert_eq!(
        first,
        world.device(Side::B).host,
        "the highest priority goes first"
    );
}

#[test]
fn a_check_that_arrives_first_is_told_and_answered_by_a_check() {
    let mut world = World::new(1, Nat::None, Nat::None);
    // B knows no address of A: only A's checks can tell it.
    let a = world.peer_config(Side::A);
    let b = PeerConfig {
        candidates: Vec::new(),
        ..world.peer_config(Side::B)
    };
    world.introduce_with(Side::B, b);
    world.introduce_with(Side::A, a);
    let took = world.run_until(MS * 500, World::both_direct).unwrap();
    assert!(took <= MS * 76, "{took:?}");
    let from = world.device(Side::A).host;
    let heard = (MS * 25, Event::Heard { peer: PEER, from });
    assert_eq!(world.device(Side::B).events[0], heard);
    let Event::Route { route, rtt, .. } = world.device(Side::B).events[1].1 else {
        panic!("expected a route: {:?}", world.device(Side::B).events);
    };
    assert_eq!((route, rtt), (Route::Direct(from), Some(MS * 50)));
    let now = world.now();
    let explanation = world.device(Side::B).agent.explain(now, PEER).unwrap();
    assert_eq!(explanation.pairs[0].kind, CandidateKind::PeerReflexive);
}

#[test]
fn the_policy_relay_sends_nothing_and_answers_nothing() {
    let mut world = World::new(1, Nat::None, Nat::None);
    world.introduce_with_policies(Policy::Relay, Policy::Any);
    world.run_for(MS * 5000);
    assert!(!world.any_direct());
    assert_eq!(world.device(Side::A).checks_sent, 0);
    assert!(world.device(Side::A).agent.stats().refused_by_policy > 10);
    let now = world.now();
    let explanation = world.device(Side::A).agent.explain(now, PEER).unwrap();
    assert_eq!(explanation.verdict, Verdict::RelayedByPolicy);
    assert_eq!(explanation.pairs[0].state, PairState::Dormant);
    let explanation = world.device(Side::B).agent.explain(now, PEER).unwrap();
    assert_eq!(explanation.verdict, Verdict::ChecksUnanswered);
}

#[test]
fn the_policy_direct_says_that_no_data_flows_meanwhile() {
    let mut world = World::new(1, Nat::Symmetric, Nat::Symmetric);
    world.introduce_with_policies(Policy::Direct, Policy::Direct);
    world.run_for(MS * 5000);
    let now = world.now();
    let explanation = world.device(Side::A).agent.explain(now, PEER).unwrap();
    assert!(
        explanation.detail.contains("direct paths only"),
        "{explanation}"
    );
}

#[test]
fn equal_roles_repair_themselves() {
    for controlling in [true, false] {
        for seed in 0..8 {
            let mut world = World::new(seed, Nat::PortRestricted, Nat::PortRestricted);
            for side in [Side::A, Side::B] {
                let config = PeerConfig {
                    controlling,
                    ..world.peer_config(side)
                };
                world.introduce_with(side, config);
            }
            let took = world.run_until(MS * 1000, World::both_direct);
            assert!(
                took.is_some_and(|took| took <= MS * 150),
                "{controlling}, {seed}: {took:?}"
            );
            let conflicts = world
                .devices
                .iter()
                .map(|device| device.agent.stats().role_conflicts);
            assert_eq!(conflicts.sum::<u64>(), 1, "exactly one side switches");
        }
    }
}

#[test]
fn a_peer_without_candidates_and_with_udp_blocked_is_explained() {
    let mut world = World::new(1, Nat::None, Nat::None);
    let config = PeerConfig {
        candidates: Vec::new(),
        ..world.peer_config(Side::A)
    };
    world.introduce_with(Side::A, config);
    let now = world.now();
    let agent = &mut world.device(Side::A).agent;
    assert_eq!(
        agent.explain(now, PEER).unwrap().verdict,
        Verdict::NoCandidates
    );
    let blocked = NatBehaviour {
        udp: false,
        ..NatBehaviour::new(Mapping::Unknown, Filtering::Unknown)
    };
    agent.set_remote_nat(PEER, Some(blocked));
    assert_eq!(
        agent.explain(now, PEER).unwrap().verdict,
        Verdict::UdpBlocked
    );
}

#[test]
fn one_blocked_direction_is_explained() {
    let mut world = World::new(1, Nat::None, Nat::None);
    // A is heard and B is not answered: what B sends is lost.
    world.is_deaf = Some(Side::A);
    world.introduce();
    world.run_for(MS * 4000);
    let now = world.now();
    let explanation = world.device(Side::B).agent.explain(now, PEER).unwrap();
    assert_eq!(explanation.verdict, Verdict::OneWay);
}

#[test]
fn equal_seeds_give_equal_bytes() {
    let run = |seed| {
        let mut world = World::new(seed, Nat::Restricted, Nat::Symmetric);
        world.loss = 20;
        world.data_every = Some(MS * 10);
        world.introduce();
        world.run_for(MS * 3000);
        world.seen
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}
