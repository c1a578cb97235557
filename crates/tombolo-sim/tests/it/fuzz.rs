//! Random worlds: what must hold in all of them.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use tombolo_sim::{
    Access, Behaviour, Hairpin, HostId, Lab, LinkConfig, NatConfig, PortRule, Refresh, Seed,
    Unsolicited, seed,
};

use crate::scene::millis;

const WORLDS: usize = 200;
const INTERVAL: Duration = Duration::from_millis(100);

#[test]
fn in_two_hundred_random_worlds_messages_arrive_and_only_where_they_should() {
    for seed in seed!().several(WORLDS) {
        random_world(seed);
    }
}

#[test]
fn a_random_world_is_the_same_every_time() {
    for seed in seed!().several(5) {
        let [one, again] = [seed, seed].map(random_world);
        assert!(one.0 > 1000, "{} events", one.0);
        assert_eq!(one, again);
    }
}

/// Runs a world with two to four devices; returns the number of events, their hash and the last ones.
fn random_world(seed: Seed) -> (u64, u64, Vec<String>) {
    let mut rng = seed.rng_for("world");
    let mut lab = Lab::new(seed);
    let is_v6 = rng.random_ratio(1, 8);
    for n in 0..rng.random_range(2..=4) {
        add_device(&mut lab, &mut rng, n, is_v6);
    }
    let hosts: Vec<HostId> = lab.devices().collect();
    let pairs: Vec<(HostId, HostId)> = hosts
        .iter()
        .enumerate()
        .flat_map(|(n, a)| hosts[n + 1..].iter().map(|b| (*a, *b)))
        .collect();
    lab.get_ready();
    for (a, b) in &pairs {
        lab.connect(*a, *b, INTERVAL);
        lab.run_for(millis(rng.random_range(0..100)));
    }
    lab.run_for(Duration::from_secs(2));
    assert_everybody_hears(&mut lab, &pairs, "at first");
    trouble(&mut lab, &mut rng, &hosts, &pairs);
    lab.run_for(Duration::from_secs(10));
    assert_everybody_hears(&mut lab, &pairs, "after trouble");
    for host in hosts {
        let stats = lab.device_at(host).stats();
        assert_eq!(
            (stats.misdelivered, stats.unknown_peer),
            (0, 0),
            "{stats:?}"
        );
    }
    let log = lab.log();
    (
        log.count(),
        log.hash(),
        log.lines().map(str::to_owned).collect(),
    )
}

fn add_device(lab: &mut Lab, rng: &mut ChaCha12Rng, n: usize, is_v6: bool) {
    let name = ["a", "b", "c", "d"][n];
    let neighbour = lab.devices().last();
    if let Some(neighbour) = neighbour.filter(|host| lab.is_behind_nat(*host))
        && rng.random_ratio(1, 4)
    {
        lab.device_beside(name, neighbour);
        return;
    }
    let access = match rng.random_range(0..6) {
        _ if is_v6 => Access::ipv6_firewalled(),
        0 => Access::open(),
        1 => Access::behind_two(random_nat(rng), random_nat(rng)),
        _ => Access::behind(random_nat(rng)),
    };
    let access = access.with_link(random_link(rng));
    let is_blocked = rng.random_ratio(1, 8);
    lab.device(
        name,
        if is_blocked {
            access.without_udp()
        } else {
            access
        },
    );
}

/// Cuts and heals paths and reboots NATs, and leaves everything healed.
fn trouble(lab: &mut Lab, rng: &mut ChaCha12Rng, hosts: &[HostId], pairs: &[(HostId, HostId)]) {
    for _ in 0..rng.random_range(0..4) {
        let (a, b) = pairs[rng.random_range(0..pairs.len())];
        match rng.random_range(0..3) {
            0 => lab.cut(a, b),
            1 => lab.heal(a, b),
            _ => lab.reboot_nats(hosts[rng.random_range(0..hosts.len())]),
        }
        lab.run_for(millis(rng.random_range(0..2000)));
    }
    for (a, b) in pairs {
        lab.heal(*a, *b);
    }
}

/// Lets two seconds pass, in which at least half of the messages must arrive, by whatever route: with
/// twenty messages over links that lose one in ten, fewer is no accident.
fn assert_everybody_hears(lab: &mut Lab, pairs: &[(HostId, HostId)], when: &str) {
    let start = lab.now();
    lab.run_for(Duration::from_secs(2));
    for (receiver, sender) in pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]) {
        let record = lab
            .device_at(receiver)
            .record(sender)
            .expect("they are introduced");
        let received = record
            .received
            .iter()
            .filter(|record| record.at >= start)
            .count();
        let expected = 2000 / INTERVAL.as_millis() as usize;
        assert!(
            received * 2 >= expected,
            "{when}: {receiver:?} received {received} of {expected} from {sender:?}"
        );
    }
}

fn random_nat(rng: &mut ChaCha12Rng) -> NatConfig {
    let behaviours = [
        Behaviour::EndpointIndependent,
        Behaviour::AddressDependent,
        Behaviour::AddressAndPortDependent,
    ];
    let mapping = *pick(rng, &behaviours);
    let filtering = *pick(rng, &behaviours);
    let offset = rng.random();
    let ports = [
        PortRule::Preserving,
        PortRule::Sequential,
        PortRule::Random,
        PortRule::Contiguous { offset },
    ];
    let hairpins = [
        Hairpin::Off,
        Hairpin::InternalSource,
        Hairpin::ExternalSource,
    ];
    let timeout = Duration::from_secs(rng.random_range(30..=120));
    NatConfig::new(mapping, filtering)
        .with_ports(*pick(rng, &ports))
        .with_hairpin(*pick(rng, &hairpins))
        .with_refresh(*pick(rng, &[Refresh::Outbound, Refresh::Both]))
        .with_unsolicited(*pick(
            rng,
            &[Unsolicited::Drop, Unsolicited::Drop, Unsolicited::Claim],
        ))
        .with_timeout(timeout)
}

fn random_link(rng: &mut ChaCha12Rng) -> LinkConfig {
    LinkConfig::new(millis(rng.random_range(1..=80)))
        .with_loss(rng.random_range(0.0..=0.05))
        .with_jitter(millis(rng.random_range(0..=20)))
        .with_reorder(rng.random_range(0.0..=0.05))
        .with_duplicate(rng.random_range(0.0..=0.05))
}

fn pick<'a, T>(rng: &mut ChaCha12Rng, choices: &'a [T]) -> &'a T {
    &choices[rng.random_range(0..choices.len())]
}
