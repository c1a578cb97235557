//! The network, the clock, and that a seed is a scenario.

use std::net::IpAddr;
use std::time::Duration;

use tombolo_sim::{
    Behaviour, EventLog, FirewallConfig, Hairpin, HostId, LinkConfig, NatConfig, Packet, RealmId,
    RouterConfig, RouterId, Seed, UdpPolicy, World, seed,
};

use crate::plain::{Plain, at, send, take};

#[test]
fn a_packet_takes_the_delay_of_every_link_on_its_way() {
    let mut net = Net::new(seed!());
    let nat = net.nat("nat", "192.0.2.1", NatConfig::full_cone());
    let inside = net.host_behind(nat, "192.168.1.10");
    let outside = net.host("203.0.113.1");
    let delay = net.world.delay(inside, outside);
    assert_eq!(delay, LINK.delay * 2 + UPLINK.delay);
    net.send(inside, "192.168.1.10:5000", "203.0.113.1:1000");
    net.world.run_for(delay - Duration::from_nanos(1));
    assert_eq!(net.take(outside), [""; 0]);
    net.world.run_for(Duration::from_nanos(1));
    assert_eq!(net.take(outside), ["192.0.2.1:5000"]);
}

#[test]
fn an_answer_comes_back_through_the_nat_and_a_stranger_does_not() {
    let mut net = Net::new(seed!());
    let nat = net.nat("nat", "192.0.2.1", NatConfig::port_restricted());
    let inside = net.host_behind(nat, "192.168.1.10");
    let server = net.host("203.0.113.1");
    let stranger = net.host("203.0.113.2");
    net.send(inside, "192.168.1.10:5000", "203.0.113.1:1000");
    net.settle();
    net.send(server, "203.0.113.1:1000", "192.0.2.1:5000");
    net.send(stranger, "203.0.113.2:1000", "192.0.2.1:5000");
    net.settle();
    assert_eq!(net.take(inside), ["203.0.113.1:1000"]);
}

#[test]
fn nested_nats_translate_twice_and_filter_like_the_stricter_one() {
    let mut net = Net::new(seed!());
    let carrier = net.nat("carrier", "192.0.2.1", NatConfig::full_cone());
    let home = net.nat_behind(carrier, "home", "100.64.0.2", NatConfig::restricted());
    let inside = net.host_behind(home, "192.168.1.10");
    let server = net.host("203.0.113.1");
    let stranger = net.host("203.0.113.2");
    net.send(inside, "192.168.1.10:5000", "203.0.113.1:1000");
    net.settle();
    assert_eq!(net.take(server), ["192.0.2.1:5000"]);
    net.send(server, "203.0.113.1:2000", "192.0.2.1:5000");
    net.send(stranger, "203.0.113.2:1000", "192.0.2.1:5000");
    net.settle();
    assert_eq!(net.take(inside), ["203.0.113.1:2000"]);
}

#[test]
fn neighbours_behind_one_nat_meet_on_the_lan_and_through_the_hairpin() {
    let mut net = Net::new(seed!());
    let nat = net.nat("nat", "192.0.2.1", NatConfig::full_cone());
    let one = net.host_behind(nat, "192.168.1.10");
    let other = net.host_behind(nat, "192.168.1.11");
    let server = net.host("203.0.113.1");
    net.send(one, "192.168.1.10:5000", "203.0.113.1:1000");
    net.settle();
    net.send(other, "192.168.1.11:6000", "192.168.1.10:5000");
    net.send(other, "192.168.1.11:6000", "192.0.2.1:5000");
    net.settle();
    assert_eq!(net.take(one), ["192.168.1.11:6000", "192.0.2.1:6000"]);
    assert_eq!(net.take(server).len(), 1);
}

#[test]
fn homes_behind_one_carrier_meet_through_its_hairpin_only_if_it_has_one() {
    for (hairpin, expected) in [(Hairpin::ExternalSource, 1), (Hairpin::Off, 0)] {
        let mut net = Net::new(seed!());
        let carrier = net.nat(
            "carrier",
            "192.0.2.1",
            NatConfig::full_cone().with_hairpin(hairpin),
        );
        let home = NatConfig::full_cone();
        let left = net.nat_behind(carrier, "left", "100.64.0.2", home);
        let right = net.nat_behind(carrier, "right", "100.64.0.3", home);
        let one = net.host_behind(left, "192.168.1.10");
        let other = net.host_behind(right, "192.168.1.10");
        net.host("203.0.113.1");
        net.send(one, "192.168.1.10:5000", "203.0.113.1:1000");
        net.settle();
        net.send(other, "192.168.1.10:6000", "192.0.2.1:5000");
        net.settle();
        assert_eq!(net.take(one).len(), expected, "{hairpin:?}");
    }
}

#[test]
fn an_ipv6_firewall_translates_nothing_and_lets_only_answers_in() {
    let mut net = Net::new(seed!());
    let firewall = net.router(
        "firewall",
        RealmId::INTERNET,
        RouterConfig {
            firewall: Some(FirewallConfig::default()),
            ..routed()
        },
    );
    let inside = net.host_behind(firewall, "2001:db8:1::10");
    let server = net.host("2001:db8::1");
    let stranger = net.host("2001:db8::2");
    net.send(server, "[2001:db8::1]:1000", "[2001:db8:1::10]:5000");
    net.settle();
    assert_eq!(net.take(inside), [""; 0], "nothing was asked for");
    net.send(inside, "[2001:db8:1::10]:5000", "[2001:db8::1]:1000");
    net.settle();
    assert_eq!(net.take(server), ["[2001:db8:1::10]:5000"]);
    net.send(server, "[2001:db8::1]:1000", "[2001:db8:1::10]:5000");
    net.send(stranger, "[2001:db8::2]:1000", "[2001:db8:1::10]:5000");
    net.settle();
    assert_eq!(net.take(inside), ["[2001:db8::1]:1000"]);
}

#[test]
fn a_firewall_filters_as_loosely_as_it_is_told() {
    let loose = FirewallConfig {
        filtering: Behaviour::EndpointIndependent,
        ..FirewallConfig::default()
    };
    let mut net = Net::new(seed!());
    let config = RouterConfig {
        firewall: Some(loose),
        ..routed()
    };
    let firewall = net.router("firewall", RealmId::INTERNET, config);
    let inside = net.host_behind(firewall, "2001:db8:1::10");
    net.host("2001:db8::1");
    let stranger = net.host("2001:db8::2");
    net.send(inside, "[2001:db8:1::10]:5000", "[2001:db8::1]:1000");
    net.settle();
    net.send(stranger, "[2001:db8::2]:1000", "[2001:db8:1::10]:5000");
    net.settle();
    assert_eq!(net.take(inside), ["[2001:db8::2]:1000"]);
}

#[test]
fn where_udp_is_blocked_tcp_still_passes() {
    let mut net = Net::new(seed!());
    let config = RouterConfig {
        udp: UdpPolicy::Blocked,
        ..routed()
    };
    let router = net.router("office", RealmId::INTERNET, config);
    let inside = net.host_behind(router, "198.51.100.10");
    let server = net.host("203.0.113.1");
    net.send(inside, "198.51.100.10:5000", "203.0.113.1:1000");
    net.send(server, "203.0.113.1:1000", "198.51.100.10:5000");
    let (from, to) = (at("198.51.100.10:5001"), at("203.0.113.1:1000"));
    send(&mut net.world, inside, Packet::tcp(from, to, vec![1]));
    net.settle();
    assert_eq!(net.take(server), ["198.51.100.10:5001"]);
    assert_eq!(net.take(inside), [""; 0]);
}

#[test]
fn a_cut_drops_packets_between_two_hosts_and_no_others() {
    let mut net = Net::new(seed!());
    let left = net.nat("left", "192.0.2.1", NatConfig::full_cone());
    let right = net.nat("right", "192.0.2.2", NatConfig::full_cone());
    let one = net.host_behind(left, "192.168.1.10");
    let other = net.host_behind(right, "192.168.1.10");
    let server = net.host("203.0.113.1");
    for host in [one, other] {
        net.send(host, "192.168.1.10:5000", "203.0.113.1:1000");
    }
    net.settle();
    net.take(server);
    let exchange = |net: &mut Net| {
        net.send(one, "192.168.1.10:5000", "192.0.2.2:5000");
        net.send(one, "192.168.1.10:5000", "203.0.113.1:1000");
        net.send(other, "192.168.1.10:5000", "192.0.2.1:5000");
        net.settle();
        [
            net.take(one).len(),
            net.take(other).len(),
            net.take(server).len(),
        ]
    };
    assert_eq!(exchange(&mut net), [1, 1, 1]);
    net.world.cut(one, other);
    assert_eq!(exchange(&mut net), [0, 0, 1]);
    net.world.heal(one, other);
    assert_eq!(exchange(&mut net), [1, 1, 1]);
}

#[test]
fn a_rebooted_nat_has_forgotten_its_mappings() {
    let mut net = Net::new(seed!());
    let nat = net.nat("nat", "192.0.2.1", NatConfig::full_cone());
    let inside = net.host_behind(nat, "192.168.1.10");
    let server = net.host("203.0.113.1");
    net.send(inside, "192.168.1.10:5000", "203.0.113.1:1000");
    net.settle();
    net.world.reboot(nat);
    net.send(server, "203.0.113.1:1000", "192.0.2.1:5000");
    net.settle();
    assert_eq!(net.take(inside), [""; 0]);
}

#[test]
fn a_link_loses_duplicates_and_reorders_as_much_as_it_is_told() {
    let mut net = Net::new(seed!());
    let link = LINK.with_loss(0.05).with_duplicate(0.1).with_reorder(0.1);
    let one = net.host("203.0.113.1");
    let other = net.host_with_link("203.0.113.2", link);
    let order = net.send_numbered(one, other, 2000, Packet::udp);
    let mut distinct = order.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let (lost, doubled) = (2000 - distinct.len(), order.len() - distinct.len());
    let late = order.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!((50..150).contains(&lost), "lost {lost}");
    assert!((120..230).contains(&doubled), "doubled {doubled}");
    assert!((100..500).contains(&late), "late {late}");
}

#[test]
fn jitter_alone_keeps_packets_in_order() {
    let mut net = Net::new(seed!());
    let one = net.host("203.0.113.1");
    let jitter = LINK.with_jitter(Duration::from_millis(30));
    let other = net.host_with_link("203.0.113.2", jitter);
    let order = net.send_numbered(one, other, 500, Packet::udp);
    assert_eq!(order, (0..500).collect::<Vec<_>>());
}

#[test]
fn a_stream_arrives_whole_and_in_order_over_a_bad_link() {
    let mut net = Net::new(seed!());
    let one = net.host("203.0.113.1");
    let bad = LINK.with_loss(0.2).with_duplicate(0.2).with_reorder(0.2);
    let other = net.host_with_link("203.0.113.2", bad.with_jitter(LINK.delay));
    let order = net.send_numbered(one, other, 500, Packet::tcp);
    assert_eq!(order, (0..500).collect::<Vec<_>>());
}

#[test]
fn the_same_seed_gives_the_same_log_and_another_seed_another() {
    let [one, again, other] = {
        let seed = seed!();
        [seed, seed, Seed::new(seed.value() ^ 1, seed.test())].map(busy_log)
    };
    assert!(one.0 > 1000, "{} events", one.0);
    assert_eq!(one, again);
    assert_ne!(one, other);
}

#[test]
fn a_report_tells_the_seed_the_replay_and_the_last_events() {
    let mut log = EventLog::new(Seed::new(0xfeed, "it::world::some_test"));
    for n in 0..30_000 {
        log.record(Duration::from_micros(n), format_args!("event {n}"));
    }
    let report = log.report();
    assert!(report.contains("seed = 0x000000000000feed"), "{report}");
    assert!(
        report.contains("TOMBOLO_SEED=0x000000000000feed cargo test some_test"),
        "{report}"
    );
    assert!(report.ends_with("0.029999 event 29999\n"), "{report}");
    assert_eq!(
        (log.count(), log.lines().len()),
        (30_000, tombolo_sim::EVENTS_MAX)
    );
}

#[test]
fn each_test_has_a_seed_of_its_own_that_stays() {
    let seed = seed!();
    assert!(
        seed.test()
            .ends_with("world::each_test_has_a_seed_of_its_own_that_stays")
    );
    assert_eq!(seed, Seed::for_test(seed.test()));
    let several = Seed::new(1, "test").several(3);
    assert_eq!(several.len(), 3);
    assert!(
        several
            .windows(2)
            .all(|pair| pair[0].value() != pair[1].value())
    );
}

/// Runs a busy world and returns the number of events, their hash and the log.
fn busy_log(seed: Seed) -> (u64, u64, Vec<String>) {
    let mut net = Net::new(seed);
    let nat = net.nat("nat", "192.0.2.1", NatConfig::symmetric());
    let inside = net.host_behind(nat, "192.168.1.10");
    let bad = LINK
        .with_loss(0.1)
        .with_duplicate(0.1)
        .with_reorder(0.1)
        .with_jitter(LINK.delay);
    net.host_with_link("203.0.113.1", bad);
    for n in 0..500 {
        net.send(
            inside,
            "192.168.1.10:5000",
            &format!("203.0.113.1:{}", 1000 + n % 7),
        );
        net.world.run_for(Duration::from_millis(1));
    }
    net.settle();
    let log = net.world.log();
    (
        log.count(),
        log.hash(),
        log.lines().map(str::to_owned).collect(),
    )
}

struct Net {
    world: World<Plain>,
}

const LINK: LinkConfig = LinkConfig::new(Duration::from_millis(5));
const UPLINK: LinkConfig = LinkConfig::new(Duration::from_millis(10));

impl Net {
    fn new(seed: Seed) -> Self {
        Self {
            world: World::new(seed),
        }
    }

    fn router(&mut self, name: &str, outer: RealmId, config: RouterConfig) -> RouterId {
        self.world.add_router(name, outer, config)
    }

    fn nat(&mut self, name: &str, external: &str, nat: NatConfig) -> RouterId {
        self.router(name, RealmId::INTERNET, translating(external, nat))
    }

    fn nat_behind(
        &mut self,
        outer: RouterId,
        name: &str,
        external: &str,
        nat: NatConfig,
    ) -> RouterId {
        let outer = self.world.inside(outer);
        self.router(name, outer, translating(external, nat))
    }

    fn host(&mut self, address: &str) -> HostId {
        self.host_with_link(address, LINK)
    }

    fn host_with_link(&mut self, address: &str, link: LinkConfig) -> HostId {
        self.host_in(RealmId::INTERNET, address, link)
    }

    fn host_behind(&mut self, router: RouterId, address: &str) -> HostId {
        let realm = self.world.inside(router);
        self.host_in(realm, address, LINK)
    }

    fn host_in(&mut self, realm: RealmId, address: &str, link: LinkConfig) -> HostId {
        self.world
            .add_host(address, realm, &[ip(address)], link, |_, _, _| {
                Plain::default()
            })
    }

    fn send(&mut self, host: HostId, from: &str, to: &str) {
        send(
            &mut self.world,
            host,
            Packet::udp(at(from), at(to), vec![0]),
        );
    }

    /// Sends numbered packets a millisecond apart and returns the numbers in the order of arrival.
    fn send_numbered(
        &mut self,
        from: HostId,
        to: HostId,
        count: u32,
        packet: fn(std::net::SocketAddr, std::net::SocketAddr, Vec<u8>) -> Packet,
    ) -> Vec<u32> {
        let (source, destination) = (at("203.0.113.1:1"), at("203.0.113.2:2"));
        for n in 0..count {
            let packet = packet(source, destination, n.to_be_bytes().to_vec());
            send(&mut self.world, from, packet);
            self.world.run_for(Duration::from_millis(1));
        }
        self.world.run_for(Duration::from_secs(60));
        let number = |bytes: Vec<u8>| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
        take(&mut self.world, to)
            .into_iter()
            .map(|(_, bytes)| number(bytes))
            .collect()
    }

    fn settle(&mut self) {
        self.world.run_for(Duration::from_secs(1));
    }

    fn take(&mut self, host: HostId) -> Vec<String> {
        take(&mut self.world, host)
            .into_iter()
            .map(|(from, _)| from.to_string())
            .collect()
    }
}

fn translating(external: &str, nat: NatConfig) -> RouterConfig {
    RouterConfig {
        nat: Some(nat),
        external: vec![ip(external)],
        ..routed()
    }
}

fn routed() -> RouterConfig {
    RouterConfig {
        nat: None,
        external: Vec::new(),
        firewall: None,
        udp: UdpPolicy::Allowed,
        uplink: UPLINK,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}
