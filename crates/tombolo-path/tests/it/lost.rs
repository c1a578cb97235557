//! Routes that go silent, and come back.

use std::net::SocketAddr;
use std::time::Duration;

use tombolo_path::{Candidate, CandidateKind, Cause, Config, Event, PairState, Route, Verdict};

use crate::world::{MS, Nat, PEER, Side, World};

/// Two devices behind cones, direct, with a packet each way every 10 ms.
fn busy(seed: u8) -> World {
    let mut world = World::new(seed, Nat::PortRestricted, Nat::PortRestricted);
    world.data_every = Some(MS * 10);
    world.introduce();
    world
        .run_until(MS * 1000, World::both_direct)
        .expect("cones become direct");
    world.run_for(MS * 2000);
    world
}

#[test]
fn a_cut_is_suspected_after_300_to_600_ms() {
    for (seed, delay_ms) in [(1, 1), (2, 10), (3, 25), (4, 50), (5, 80), (6, 120)] {
        let mut world = World::new(seed, Nat::PortRestricted, Nat::PortRestricted);
        world.delay = MS * delay_ms;
        world.data_every = Some(MS * 10);
        world.introduce();
        world.run_for(MS * 3000);
        assert!(world.both_direct());
        let cut_at = world.elapsed;
        world.is_cut = true;
        world.run_for(MS * 2000);
        for side in [Side::A, Side::B] {
            let suspected = world.changes(side, Cause::Suspected);
            let [at] = suspected[..] else {
                panic!("once, not {suspected:?}")
            };
            let after = at - cut_at;
            let bounds = MS * 299..=MS * 600;
            assert!(
                bounds.contains(&after),
                "{delay_ms} ms: {side:?} after {after:?}"
            );
        }
    }
}

#[test]
fn a_lossy_and_jittery_path_is_not_suspected() {
    for seed in 0..10 {
        let mut world = busy(seed);
        world.loss = 5;
        world.jitter = MS * 40;
        world.run_for(Duration::from_secs(60));
        assert_eq!(world.changes(Side::A, Cause::Suspected), [], "seed {seed}");
        assert_eq!(world.changes(Side::B, Cause::Suspected), [], "seed {seed}");
        assert!(world.both_direct());
    }
}

#[test]
fn sparse_traffic_on_a_lossy_path_is_rarely_suspected() {
    let mut alarms = 0;
    for seed in 0..10 {
        let mut world = busy(seed);
        world.loss = 5;
        world.data_every = Some(MS * 700);
        world.run_for(Duration::from_secs(60));
        alarms += world.changes(Side::A, Cause::Suspected).len();
        alarms += world.changes(Side::B, Cause::Suspected).len();
    }
    assert!(alarms <= 1, "{alarms} false alarms in 20 minutes");
}

#[test]
fn an_idle_route_is_neither_suspected_nor_busy() {
    let mut world = busy(1);
    world.data_every = None;
    let before = world.device(Side::A).checks_sent;
    world.run_for(Duration::from_secs(60));
    assert!(world.both_direct());
    let sent = world.device(Side::A).checks_sent - before;
    // Checks of its own and answers to the peer's, each every 5 s.
    assert!((20..=32).contains(&sent), "{sent}");
}

#[test]
fn a_cut_of_an_idle_route_is_found_by_its_consent_check() {
    let mut world = busy(1);
    world.data_every = None;
    world.run_for(MS * 1000);
    world.is_cut = true;
    world.run_for(Duration::from_secs(8));
    assert!(!world.any_direct());
}

#[test]
fn direct_returns_soon_after_a_cut_ends() {
    for cut_s in [1, 3, 10, 40] {
        let mut world = busy(1);
        world.is_cut = true;
        world.run_for(Duration::from_secs(cut_s));
        assert!(!world.any_direct());
        let now = world.now();
        let explanation = world.device(Side::A).agent.explain(now, PEER).unwrap();
        assert_eq!(explanation.verdict, Verdict::Lost);
        world.is_cut = false;
        let took = world.run_until(Duration::from_secs(9), World::both_direct);
        assert!(
            took.is_some_and(|took| took <= MS * 2000),
            "cut of {cut_s} s: {took:?}"
        );
    }
}

#[test]
fn direct_returns_after_a_long_cut_within_5_s() {
    let mut world = busy(1);
    world.is_cut = true;
    world.run_for(Duration::from_secs(600));
    let before = world.device(Side::A).checks_sent;
    world.run_for(Duration::from_secs(60));
    let sent = world.device(Side::A).checks_sent - before;
    assert!(sent <= 12 * 2 + 2, "two addresses, patiently: {sent}");
    world.is_cut = false;
    let took = world.run_until(Duration::from_secs(9), World::both_direct);
    assert!(took.is_some_and(|took| took <= MS * 5500), "{took:?}");
}

#[test]
fn a_path_that_comes_and_goes_is_held_back() {
    let mut world = busy(1);
    for _ in 0..20 {
        world.is_cut = true;
        world.run_for(MS * 600);
        world.is_cut = false;
        world.run_for(MS * 2400);
    }
    let losses = world.changes(Side::A, Cause::Suspected).len();
    assert!((5..=13).contains(&losses), "{losses} losses in 20 cuts");
}

#[test]
fn a_one_way_cut_is_suspected_by_the_deaf_side_and_told_to_the_other() {
    let mut world = busy(1);
    let Route::Direct(route_of_b) = world.route(Side::B) else {
        panic!("direct before")
    };
    world.is_deaf = Some(Side::A);
    world.run_for(MS * 450);
    assert_eq!(world.route(Side::A), Route::Relay);
    // The peer link tells the other side.
    let now = world.now();
    world
        .device(Side::B)
        .agent
        .handle_abandoned(now, PEER, route_of_b);
    world.drain(Side::B);
    assert_eq!(world.route(Side::B), Route::Relay);
    assert_eq!(world.changes(Side::B, Cause::Abandoned).len(), 1);
    world.run_for(MS * 2000);
    assert!(
        !world.any_direct(),
        "one direction is not enough for either"
    );
}

#[test]
fn consent_expires_when_data_arrives_but_no_answer_does() {
    // Without silence there is no suspicion, so only consent can end the route.
    let mut world = busy(1);
    let Route::Direct(address) = world.route(Side::A) else {
        panic!("direct before")
    };
    world.data_every = None;
    world.is_cut = true;
    let from = world.elapsed;
    while world.elapsed - from < Duration::from_secs(40) && world.route(Side::A) != Route::Relay {
        let now = world.now();
        world
            .device(Side::A)
            .agent
            .handle_received(now, PEER, address);
        world.run_for(MS * 50);
    }
    let [at] = world.changes(Side::A, Cause::ConsentExpired)[..] else {
        panic!("{:?}", world.device(Side::A).events)
    };
    let after = at - from;
    assert!(
        (Duration::from_secs(24)..=Duration::from_secs(31)).contains(&after),
        "{after:?}"
    );
    assert_eq!(world.device(Side::A).agent.stats().consents_expired, 1);
}

#[test]
fn a_changed_network_restarts_all_checks_at_once() {
    let mut world = busy(1);
    world.run_for(MS * 3000);
    let now = world.now();
    let before = world.device(Side::A).checks_sent;
    world.device(Side::A).agent.handle_network_changed(now);
    world.drain(Side::A);
    assert!(
        world.device(Side::A).checks_sent >= before + 2,
        "host and public address"
    );
    assert!(world.both_direct(), "the route may still work");
    world.run_for(MS * 2000);
    assert!(world.both_direct());
    assert_eq!(world.changes(Side::A, Cause::Suspected), []);
}

#[test]
fn a_changed_network_that_kills_the_route_is_noticed() {
    let mut world = busy(1);
    world.data_every = None;
    world.is_cut = true;
    let now = world.now();
    world.device(Side::A).agent.handle_network_changed(now);
    world.drain(Side::A);
    world.run_for(MS * 600);
    assert_eq!(world.route(Side::A), Route::Relay);
}

/// Two public devices; a second network joins them, with its own delay.
fn two_ways(first: Duration, second: Duration) -> (World, [SocketAddr; 2]) {
    let mut world = World::with_config(1, Nat::None, Nat::None, Config::default());
    world.delay = first;
    let other = ([10, 9, 0, 2], 5000).into();
    world
        .device(Side::A)
        .extra
        .push(([10, 9, 0, 1], 5000).into());
    world.device(Side::B).extra.push(other);
    world.delay_to.insert(other, second);
    let host = world.device(Side::B).host;
    let mut a = world.peer_config(Side::A);
    a.candidates
        .push(Candidate::new(CandidateKind::Host, other));
    let b = world.peer_config(Side::B);
    world.introduce_with(Side::A, a);
    world.introduce_with(Side::B, b);
    (world, [host, other])
}

#[test]
fn a_clearly_faster_path_takes_over_and_a_slightly_faster_one_does_not() {
    let (mut world, [host, other]) = two_ways(MS * 20, MS * 19);
    world.run_for(Duration::from_secs(10));
    let first = world.route(Side::A);
    world.delay_to.insert(other, MS * 17);
    world.run_for(Duration::from_secs(120));
    assert_eq!(world.route(Side::A), first, "3 ms each way are no reason");
    world.delay_to.insert(other, MS * 5);
    world.run_for(Duration::from_secs(120));
    assert_eq!(world.route(Side::A), Route::Direct(other));
    world.delay_to.insert(other, MS * 40);
    world.run_for(Duration::from_secs(120));
    assert_eq!(world.route(Side::A), Route::Direct(host));
}

#[test]
fn an_adopted_address_becomes_the_route_and_stays_it_on_the_controlled_side() {
    let (mut world, _) = two_ways(MS * 20, MS * 60);
    world.run_for(MS * 2000);
    let host = world.device(Side::A).host;
    let other = world.device(Side::A).extra[0];
    assert_eq!(world.route(Side::B), Route::Direct(host));
    adopt(&mut world, Side::B, other);
    assert_eq!(world.changes(Side::B, Cause::Adopted).len(), 1);
    world.run_for(Duration::from_secs(30));
    assert_eq!(
        world.route(Side::B),
        Route::Direct(other),
        "the remote end chose it"
    );
    adopt(&mut world, Side::B, other);
    assert_eq!(
        world.changes(Side::B, Cause::Adopted).len(),
        1,
        "no news the second time"
    );
    // Watched as any other route.
    world.data_every = Some(MS * 10);
    world.is_cut = true;
    world.run_for(MS * 700);
    assert_eq!(world.route(Side::B), Route::Relay);
}

#[test]
fn the_controlling_side_goes_on_choosing_after_an_adoption() {
    let (mut world, [host, other]) = two_ways(MS * 20, MS * 60);
    world.run_for(MS * 2000);
    adopt(&mut world, Side::A, other);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.route(Side::A), Route::Direct(host));
}

fn adopt(world: &mut World, side: Side, address: SocketAddr) {
    let now = world.now();
    world.device(side).agent.handle_adopted(now, PEER, address);
    world.drain(side);
}

#[test]
fn an_unknown_adopted_address_is_learned() {
    let mut world = World::new(1, Nat::None, Nat::None);
    world.introduce();
    let other = ([192, 0, 2, 99], 1).into();
    let now = world.now();
    world.device(Side::A).agent.handle_adopted(now, PEER, other);
    world.drain(Side::A);
    let route = Event::Route {
        peer: PEER,
        route: Route::Direct(other),
        cause: Cause::Adopted,
        rtt: None,
    };
    assert_eq!(world.device(Side::A).events, [(Duration::ZERO, route)]);
    let explanation = world.device(Side::A).agent.explain(now, PEER).unwrap();
    assert_eq!(explanation.pairs[0].state, PairState::Valid);
}
