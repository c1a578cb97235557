//! The vocabulary of RFC 4787, one behaviour a test.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tombolo_sim::{
    Behaviour, Created, Hairpin, Nat, NatConfig, PortRule, Protocol, Refresh, Refusal, Unsolicited,
};

use crate::plain::at;

const INSIDE: &str = "192.168.1.10:5000";
const TIMEOUT: Duration = Duration::from_secs(120);

#[test]
fn endpoint_independent_mapping_shows_every_remote_the_same_endpoint() {
    let mut lab = Lab::new(mapping(Behaviour::EndpointIndependent));
    let seen = lab.out_to_all(INSIDE);
    assert_eq!(seen, [seen[0]; 3]);
}

#[test]
fn address_dependent_mapping_shows_every_remote_address_another_endpoint() {
    let mut lab = Lab::new(mapping(Behaviour::AddressDependent));
    let [first, same_address, other_address] = lab.out_to_all(INSIDE);
    assert_eq!(first, same_address);
    assert_ne!(first, other_address);
}

#[test]
fn address_and_port_dependent_mapping_shows_every_remote_endpoint_another_endpoint() {
    let mut lab = Lab::new(mapping(Behaviour::AddressAndPortDependent));
    let seen = lab.out_to_all(INSIDE);
    assert_eq!(BTreeSet::from(seen).len(), 3);
    assert_eq!(lab.out_to_all(INSIDE), seen, "the mappings are kept");
}

#[test]
fn endpoint_independent_filtering_admits_whoever_knows_the_endpoint() {
    let mut lab = Lab::new(filtering(Behaviour::EndpointIndependent));
    let external = lab.out(INSIDE, REMOTE);
    for remote in [REMOTE, REMOTE_PORT, REMOTE_ADDRESS] {
        assert_eq!(lab.input(remote, external), Ok(at(INSIDE)));
    }
}

#[test]
fn address_dependent_filtering_admits_only_addresses_that_were_sent_to() {
    let mut lab = Lab::new(filtering(Behaviour::AddressDependent));
    let external = lab.out(INSIDE, REMOTE);
    assert_eq!(lab.input(REMOTE, external), Ok(at(INSIDE)));
    assert_eq!(lab.input(REMOTE_PORT, external), Ok(at(INSIDE)));
    assert_eq!(lab.input(REMOTE_ADDRESS, external), Err(Refusal::Filtered));
}

#[test]
fn address_and_port_dependent_filtering_admits_only_endpoints_that_were_sent_to() {
    let mut lab = Lab::new(filtering(Behaviour::AddressAndPortDependent));
    let external = lab.out(INSIDE, REMOTE);
    assert_eq!(lab.input(REMOTE, external), Ok(at(INSIDE)));
    assert_eq!(lab.input(REMOTE_PORT, external), Err(Refusal::Filtered));
    assert_eq!(lab.input(REMOTE_ADDRESS, external), Err(Refusal::Filtered));
    lab.out(INSIDE, REMOTE_ADDRESS);
    assert_eq!(lab.input(REMOTE_ADDRESS, external), Ok(at(INSIDE)));
}

#[test]
fn an_endpoint_that_was_never_mapped_leads_nowhere() {
    let mut lab = Lab::new(NatConfig::full_cone());
    assert_eq!(
        lab.input(REMOTE, at("192.0.2.1:5000")),
        Err(Refusal::NoMapping)
    );
    let external = lab.out(INSIDE, REMOTE);
    let tcp = lab
        .nat
        .handle_inbound(lab.now, Protocol::Tcp, at(REMOTE), external);
    assert_eq!(
        tcp,
        Err(Refusal::NoMapping),
        "UDP and TCP have ports of their own"
    );
}

#[test]
fn preserving_ports_keeps_the_internal_port_unless_it_is_taken() {
    let mut lab = Lab::new(ports(PortRule::Preserving));
    assert_eq!(lab.out(INSIDE, REMOTE), at("192.0.2.1:5000"));
    assert_eq!(lab.out("192.168.1.11:5000", REMOTE), at("192.0.2.1:5001"));
    assert_eq!(lab.out("192.168.1.11:5001", REMOTE), at("192.0.2.1:5002"));
    assert_eq!(
        lab.out("192.168.1.12:80", REMOTE),
        at("192.0.2.1:1024"),
        "no well-known ports"
    );
}

#[test]
fn sequential_ports_count_upwards_over_all_hosts() {
    let mut lab = Lab::new(ports(PortRule::Sequential));
    let first = lab.out(INSIDE, REMOTE).port();
    let second = lab.out("192.168.1.11:7000", REMOTE).port();
    let third = lab.out("192.168.1.12:9000", REMOTE).port();
    assert_eq!([second, third], [after(first, 1), after(first, 2)]);
}

#[test]
fn random_ports_are_all_different_and_far_apart() {
    let mut lab = Lab::new(ports(PortRule::Random));
    let ports: Vec<u16> = (0..100)
        .map(|n| {
            lab.out(&format!("192.168.1.10:{}", 5000 + n), REMOTE)
                .port()
        })
        .collect();
    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 100);
    let near = ports
        .windows(2)
        .filter(|pair| pair[0].abs_diff(pair[1]) < 100)
        .count();
    assert!(
        near < 5,
        "{near} of 99 neighbours are near each other: {ports:?}"
    );
}

#[test]
fn contiguous_ports_keep_neighbours_together() {
    let mut lab = Lab::new(ports(PortRule::Contiguous { offset: 20_000 }));
    assert_eq!(lab.out("192.168.1.10:5000", REMOTE).port(), 25_000);
    assert_eq!(lab.out("192.168.1.10:5001", REMOTE).port(), 25_001);
    assert_eq!(
        lab.out("192.168.1.10:60000", REMOTE).port(),
        15_488,
        "the range is a circle"
    );
}

#[test]
fn hairpinning_shows_the_external_source_as_req_9_asks() {
    let mut lab = Lab::new(NatConfig::full_cone().with_hairpin(Hairpin::ExternalSource));
    let receiver = lab.out("192.168.1.11:6000", REMOTE);
    let turned = lab
        .nat
        .handle_hairpin(lab.now, Protocol::Udp, at(INSIDE), receiver);
    assert_eq!(turned, Ok((at("192.0.2.1:5000"), at("192.168.1.11:6000"))));
}

#[test]
fn hairpinning_may_show_the_internal_source() {
    let mut lab = Lab::new(NatConfig::full_cone().with_hairpin(Hairpin::InternalSource));
    let receiver = lab.out("192.168.1.11:6000", REMOTE);
    let turned = lab
        .nat
        .handle_hairpin(lab.now, Protocol::Udp, at(INSIDE), receiver);
    assert_eq!(turned, Ok((at(INSIDE), at("192.168.1.11:6000"))));
}

#[test]
fn a_nat_without_hairpinning_drops_what_it_would_turn_around() {
    let mut lab = Lab::new(NatConfig::full_cone().with_hairpin(Hairpin::Off));
    let receiver = lab.out("192.168.1.11:6000", REMOTE);
    let turned = lab
        .nat
        .handle_hairpin(lab.now, Protocol::Udp, at(INSIDE), receiver);
    assert_eq!(turned, Err(Refusal::NoHairpin));
}

#[test]
fn hairpinned_packets_are_filtered_like_others() {
    let mut lab = Lab::new(NatConfig::port_restricted());
    let receiver = lab.out("192.168.1.11:6000", REMOTE);
    let sender = lab.out(INSIDE, REMOTE);
    let udp = Protocol::Udp;
    let refused = lab.nat.handle_hairpin(lab.now, udp, at(INSIDE), receiver);
    assert_eq!(refused, Err(Refusal::Filtered));
    let back = lab
        .nat
        .handle_hairpin(lab.now, udp, at("192.168.1.11:6000"), sender);
    assert_eq!(
        back,
        Ok((receiver, at(INSIDE))),
        "the refused packet opened its sender's side"
    );
}

#[test]
fn a_mapping_expires_when_nothing_refreshes_it() {
    let mut lab = Lab::new(NatConfig::full_cone());
    let external = lab.out(INSIDE, REMOTE);
    lab.now += TIMEOUT - Duration::from_millis(1);
    assert_eq!(lab.input(REMOTE, external), Ok(at(INSIDE)));
    lab.now += Duration::from_millis(1);
    assert_eq!(lab.input(REMOTE, external), Err(Refusal::NoMapping));
    let again = lab
        .nat
        .handle_outbound(lab.now, Protocol::Udp, at(INSIDE), at(REMOTE));
    assert_eq!(again.map(|outbound| outbound.created), Ok(Created::New));
}

#[test]
fn outbound_packets_refresh_a_mapping_and_inbound_ones_do_not() {
    let mut lab = Lab::new(NatConfig::full_cone().with_refresh(Refresh::Outbound));
    let external = lab.out(INSIDE, REMOTE);
    for _ in 0..3 {
        lab.now += TIMEOUT / 2;
        lab.out(INSIDE, REMOTE);
    }
    assert_eq!(lab.input(REMOTE, external), Ok(at(INSIDE)));
    lab.now += TIMEOUT / 2;
    assert_eq!(lab.input(REMOTE, external), Ok(at(INSIDE)));
    lab.now += TIMEOUT / 2;
    assert_eq!(lab.input(REMOTE, external), Err(Refusal::NoMapping));
}

#[test]
fn inbound_packets_refresh_a_mapping_where_the_nat_allows_it() {
    let mut lab = Lab::new(NatConfig::full_cone().with_refresh(Refresh::Inbound));
    let external = lab.out(INSIDE, REMOTE);
    for _ in 0..3 {
        lab.now += TIMEOUT / 2;
        assert_eq!(lab.input(REMOTE, external), Ok(at(INSIDE)));
    }
    lab.now += TIMEOUT / 2;
    lab.out(INSIDE, REMOTE);
    lab.now += TIMEOUT / 2;
    assert_eq!(
        lab.input(REMOTE, external),
        Err(Refusal::NoMapping),
        "outbound did not count"
    );
}

#[test]
fn both_directions_refresh_where_the_nat_says_so() {
    let mut lab = Lab::new(NatConfig::port_restricted().with_refresh(Refresh::Both));
    let external = lab.out(INSIDE, REMOTE);
    for _ in 0..3 {
        lab.now += TIMEOUT / 2;
        assert_eq!(lab.input(REMOTE, external), Ok(at(INSIDE)));
    }
    lab.now += TIMEOUT / 2;
    lab.out(INSIDE, REMOTE);
    lab.now += TIMEOUT / 2;
    assert_eq!(lab.input(REMOTE, external), Ok(at(INSIDE)));
}

#[test]
fn a_filter_expires_even_while_its_mapping_lives() {
    let mut lab = Lab::new(NatConfig::port_restricted());
    let external = lab.out(INSIDE, REMOTE);
    lab.now += TIMEOUT / 2;
    lab.out(INSIDE, REMOTE_ADDRESS);
    lab.now += TIMEOUT / 2;
    assert_eq!(lab.input(REMOTE, external), Err(Refusal::Filtered));
    assert_eq!(lab.input(REMOTE_ADDRESS, external), Ok(at(INSIDE)));
}

#[test]
fn a_pool_of_addresses_is_paired_with_the_hosts_inside() {
    let pool = vec![at("192.0.2.1:0").ip(), at("192.0.2.2:0").ip()];
    let mut lab = Lab::new(NatConfig::symmetric());
    lab.nat = Nat::new(NatConfig::symmetric(), pool, [7; 32]);
    let first = lab.out_to_all(INSIDE);
    let second = lab.out_to_all("192.168.1.11:5000");
    assert!(
        first.iter().all(|seen| seen.ip() == first[0].ip()),
        "{first:?}"
    );
    assert!(
        second.iter().all(|seen| seen.ip() == second[0].ip()),
        "{second:?}"
    );
    assert_ne!(first[0].ip(), second[0].ip());
}

#[test]
fn a_reboot_forgets_everything() {
    let mut lab = Lab::new(NatConfig::full_cone());
    let external = lab.out(INSIDE, REMOTE);
    lab.nat.reboot();
    assert_eq!(lab.input(REMOTE, external), Err(Refusal::NoMapping));
}

#[test]
fn a_router_that_claims_unsolicited_packets_spoils_the_port_for_their_sender() {
    let claim = NatConfig::port_restricted().with_unsolicited(Unsolicited::Claim);
    let mut lab = Lab::new(claim);
    let external = lab.out(INSIDE, REMOTE_ADDRESS);
    assert_eq!(lab.input(REMOTE, external), Err(Refusal::Filtered));
    assert_ne!(lab.out(INSIDE, REMOTE), external);
    assert_eq!(
        lab.out(INSIDE, REMOTE_PORT),
        external,
        "others still see the usual endpoint"
    );
    lab.now += Duration::from_secs(31);
    assert_eq!(lab.out(INSIDE, REMOTE), external, "the claim is gone");
}

struct Lab {
    nat: Nat,
    now: Instant,
}

/// A remote endpoint, another port of the same address, another address.
const REMOTE: &str = "203.0.113.1:3478";
const REMOTE_PORT: &str = "203.0.113.1:3479";
const REMOTE_ADDRESS: &str = "203.0.113.2:3478";

impl Lab {
    fn new(config: NatConfig) -> Self {
        let nat = Nat::new(
            config.with_timeout(TIMEOUT),
            vec![at("192.0.2.1:0").ip()],
            [7; 32],
        );
        Self {
            nat,
            now: Instant::now(),
        }
    }

    fn out(&mut self, from: &str, to: &str) -> SocketAddr {
        let outbound = self
            .nat
            .handle_outbound(self.now, Protocol::Udp, at(from), at(to));
        outbound.expect("a free port").external
    }

    fn out_to_all(&mut self, from: &str) -> [SocketAddr; 3] {
        [REMOTE, REMOTE_PORT, REMOTE_ADDRESS].map(|to| self.out(from, to))
    }

    fn input(&mut self, from: &str, to: SocketAddr) -> Result<SocketAddr, Refusal> {
        self.nat
            .handle_inbound(self.now, Protocol::Udp, at(from), to)
    }
}

fn mapping(mapping: Behaviour) -> NatConfig {
    NatConfig::new(mapping, Behaviour::AddressAndPortDependent)
}

fn filtering(filtering: Behaviour) -> NatConfig {
    NatConfig::new(Behaviour::EndpointIndependent, filtering)
}

fn ports(ports: PortRule) -> NatConfig {
    NatConfig::full_cone().with_ports(ports)
}

/// The port `steps` after `port`, where the last port is followed by the first unprivileged one.
fn after(port: u16, steps: u16) -> u16 {
    port.checked_add(steps)
        .unwrap_or_else(|| 1024 + (steps - 1 - (u16::MAX - port)))
}
