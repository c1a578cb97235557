//! The scenarios.

use std::time::Duration;

use super::{Cut, Expect, Lane, Limits, Scenario, Traffic};
use crate::delay::Link;
use crate::nat::{Nat, Profile};
use crate::plan::Site;

/// The pairs that must always come out as expected.
pub fn matrix() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (index, a) in CONES.into_iter().enumerate() {
        for b in &CONES[index..] {
            scenarios.push(pair(a, *b, Expect::Direct));
        }
    }
    for other in [Profile::NoNat, Profile::FullCone, Profile::Restricted] {
        scenarios.push(pair(Profile::Symmetric, other, Expect::Direct));
    }
    let home = Site::new("a", Profile::PortRestricted);
    scenarios.extend([
        Scenario::new("same-nat", home.clone().devices(2), None, Expect::Direct),
        named(
            "double-nat",
            home.behind(Profile::PortRestricted),
            Site::new("b", Profile::PortRestricted),
            Expect::Direct,
        ),
        named(
            "ipv6-only",
            Site::new("a", Profile::Ipv6Firewall),
            Site::new("b", Profile::Ipv6Firewall),
            Expect::Direct,
        ),
        pair(Profile::Symmetric, Profile::Symmetric, Expect::Relayed),
        pair(Profile::Symmetric, Profile::PortRestricted, Expect::Relayed),
        named(
            "udp-blocked-one-side",
            Site::new("a", Profile::UdpBlocked),
            Site::new("b", Profile::PortRestricted),
            Expect::Relayed,
        ),
        named(
            "udp-blocked-both-sides",
            Site::new("a", Profile::UdpBlocked),
            Site::new("b", Profile::UdpBlocked),
            Expect::Relayed,
        ),
    ]);
    scenarios
}

/// Measurements, with 25 ms each way between any two public networks unless the name says not.
pub fn timings() -> Vec<Scenario> {
    let cones = || {
        pair(
            Profile::PortRestricted,
            Profile::PortRestricted,
            Expect::Direct,
        )
    };
    let delayed = Some(Link::delay(ONE_WAY));
    let one_way_ms = ONE_WAY.as_secs_f64() * 1e3;
    let cut = |name: &str, link| Scenario {
        name: name.to_owned(),
        link,
        traffic: Traffic {
            every: Duration::from_millis(10),
            count: 900,
            size: 64,
        },
        cut: Some(Cut {
            after: Duration::from_secs(1),
            lasts: Duration::from_secs(2),
        }),
        limits: Limits {
            relay_again_ms: Some(600.0),
            direct_again_ms: Some(5000.0),
            ..Limits::default()
        },
        ..cones()
    };
    vec![
        Scenario {
            name: "timing-connect".to_owned(),
            link: delayed,
            limits: Limits {
                // The first byte crosses the internet twice: to the node and on.
                first_byte_ms: Some(2.0 * one_way_ms + 15.0),
                // 1.5 round trips.
                direct_ms: Some(3.0 * one_way_ms + 20.0),
                ..Limits::default()
            },
            ..cones()
        },
        cut("timing-cut", delayed),
        cut("timing-cut-without-delay", None),
    ]
}

/// Pairs beyond the matrix, for whoever works on them.
pub fn extras() -> Vec<Scenario> {
    let unguarded = Nat::new(Profile::PortRestricted).without_input_drop();
    let guests = |nat: Nat| Site::new("a", nat).devices(2).isolated();
    let hairpin = Nat::new(Profile::PortRestricted).with_hairpin();
    vec![
        pair(
            Profile::SymmetricSequential,
            Profile::PortRestricted,
            Expect::Connected,
        ),
        pair(
            Profile::SymmetricSequential,
            Profile::Restricted,
            Expect::Direct,
        ),
        Scenario::new(
            "guests-with-hairpin",
            guests(hairpin),
            None,
            Expect::Connected,
        ),
        Scenario::new(
            "guests-without-hairpin",
            guests(Profile::PortRestricted.into()),
            None,
            Expect::Relayed,
        ),
        named(
            "double-nat-both-sides",
            Site::new("a", Profile::PortRestricted).behind(Profile::PortRestricted),
            Site::new("b", Profile::PortRestricted).behind(Profile::FullCone),
            Expect::Direct,
        ),
        named(
            "dual-stack",
            Site::new("a", Profile::Symmetric).dual_stack(),
            Site::new("b", Profile::Symmetric).dual_stack(),
            Expect::Direct,
        ),
        named(
            "ipv6-only-with-ipv4-only",
            Site::new("a", Profile::Ipv6Firewall),
            Site::new("b", Profile::PortRestricted),
            Expect::Relayed,
        ),
        Scenario {
            reboot_after: Some(Duration::from_secs(3)),
            traffic: Traffic {
                every: Duration::from_millis(20),
                count: 900,
                size: 64,
            },
            ..named(
                "nat-reboot",
                Site::new("a", Profile::Symmetric),
                Site::new("b", Profile::Symmetric),
                Expect::Relayed,
            )
        },
        drain("drain-relayed", Lane::Reliable),
        drain("drain-relayed-unreliable", Lane::Unreliable),
        Scenario::new(
            "without-input-drop",
            Site::new("a", unguarded.clone()),
            Some(Site::new("b", unguarded)),
            Expect::Connected,
        ),
    ]
}

/// A node is drained while devices that nothing but its relay connects talk to each other.
fn drain(name: &str, lane: Lane) -> Scenario {
    let hostile = |name: &str| Site::new(name, Profile::UdpBlocked);
    Scenario {
        drain_after: Some(Duration::from_secs(4)),
        lane,
        traffic: Traffic {
            every: Duration::from_millis(5),
            count: 3000,
            size: 172,
        },
        ..named(name, hostile("a"), hostile("b"), Expect::Relayed)
    }
}

/// The scenario of that name, among all.
pub fn find(name: &str) -> Option<Scenario> {
    matrix()
        .into_iter()
        .chain(timings())
        .chain(extras())
        .find(|scenario| scenario.name == name)
}

fn pair(a: Profile, b: Profile, expect: Expect) -> Scenario {
    named(
        &format!("{a}--{b}"),
        Site::new("a", a),
        Site::new("b", b),
        expect,
    )
}

fn named(name: &str, a: Site, b: Site, expect: Expect) -> Scenario {
    Scenario::new(name, a, Some(b), expect)
}

const CONES: [Profile; 4] = [
    Profile::NoNat,
    Profile::FullCone,
    Profile::Restricted,
    Profile::PortRestricted,
];
const ONE_WAY: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let all: Vec<_> = matrix()
            .into_iter()
            .chain(timings())
            .chain(extras())
            .collect();
        let names: std::collections::BTreeSet<_> = all.iter().map(|s| s.name.clone()).collect();
        assert_eq!(names.len(), all.len());
        assert!(names.iter().all(|name| find(name).is_some()));
    }

    #[test]
    fn the_matrix_has_every_pair_once() {
        let count = |expect| matrix().iter().filter(|s| s.expect == expect).count();
        assert_eq!((count(Expect::Direct), count(Expect::Relayed)), (16, 4));
    }
}
