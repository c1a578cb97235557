//! The NAT probe against modelled NATs and servers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tombolo_path::probe::{NatProbe, NatReport, ProbeConfig, ProbeEvent};
use tombolo_path::{Filtering, Mapping, Transmit};
use tombolo_stun::{
    AlternateServer, ChangeRequest, Class, ErrorCode, Message, MessageWriter, Method, OtherAddress,
    XorMappedAddress,
};

use crate::world::MS;

const A1: &str = "203.0.113.1:3478";
const A2: &str = "203.0.113.1:3479";
const B1: &str = "203.0.113.2:3478";
const B2: &str = "203.0.113.2:3479";

/// One NAT with servers behind it, a socket in front of it, and a probe on the socket.
struct Bench {
    start: Instant,
    elapsed: Duration,
    probe: NatProbe,
    mapping: Mapping,
    filtering: Filtering,
    is_hairpinning: bool,
    /// Whether servers know their OTHER-ADDRESS.
    has_other: bool,
    /// Of the first transmissions of each destination, so many are lost.
    losses: u32,
    is_down: bool,
    /// Never answers.
    dead: Option<SocketAddr>,
    local: SocketAddr,
    ports: BTreeMap<String, u16>,
    sent_to: BTreeSet<SocketAddr>,
    transmissions: BTreeMap<SocketAddr, u32>,
    public: Vec<SocketAddr>,
    report: Option<NatReport>,
}

impl Bench {
    fn new(config: ProbeConfig, mapping: Mapping, filtering: Filtering) -> Self {
        let start = Instant::now();
        Self {
            start,
            elapsed: Duration::ZERO,
            probe: NatProbe::new(config, [1; 32], start),
            mapping,
            filtering,
            is_hairpinning: false,
            has_other: true,
            losses: 0,
            is_down: false,
            dead: None,
            local: "10.0.0.2:5000".parse().unwrap(),
            ports: BTreeMap::new(),
            sent_to: BTreeSet::new(),
            transmissions: BTreeMap::new(),
            public: Vec::new(),
            report: None,
        }
    }

    /// Runs until the probe is done; an answer takes 20 ms.
    fn run(mut self) -> (NatReport, Self) {
        loop {
            let mut answers = Vec::new();
            while let Some(transmit) = self.probe.poll_transmit() {
                answers.extend(self.answer(&transmit));
            }
            let has_answers = !answers.is_empty();
            if has_answers {
                self.elapsed += MS * 20;
            }
            for (from, bytes) in answers {
                let at = self.start + self.elapsed;
                assert!(self.probe.handle_datagram(at, from, &bytes));
            }
            while let Some(event) = self.probe.poll_event() {
                match event {
                    ProbeEvent::Public(public) => self.public.push(public),
                    ProbeEvent::Done(report) => self.report = Some(report),
                    _ => unreachable!("no other events"),
                }
            }
            if let Some(report) = self.report.clone() {
                assert_eq!(self.probe.poll_timeout(), None);
                assert_eq!(*self.probe.report(), report);
                return (report, self);
            }
            if has_answers {
                continue;
            }
            let (at, _) = self
                .probe
                .poll_timeout()
                .expect("waits for something until done");
            self.elapsed = (at - self.start).max(self.elapsed);
            self.probe.handle_timeout(self.start + self.elapsed);
        }
    }

    fn answer(&mut self, transmit: &Transmit) -> Option<(SocketAddr, Vec<u8>)> {
        let to = transmit.to;
        let count = self.transmissions.entry(to).or_default();
        *count += 1;
        if *count <= self.losses || self.is_down || self.dead == Some(to) {
            return None;
        }
        let public = self.translate(to);
        self.sent_to.insert(to);
        if to.ip() == public.ip() && self.mapping != Mapping::NoNat {
            return self
                .is_hairpinning
                .then(|| (public, transmit.bytes.clone()));
        }
        let request = Message::decode(&transmit.bytes).unwrap();
        let change = request
            .attribute::<ChangeRequest>()
            .unwrap()
            .unwrap_or_default();
        let other = other_of(to);
        let from = SocketAddr::new(
            if change.ip { other.ip() } else { to.ip() },
            if change.port { other.port() } else { to.port() },
        );
        if !self.lets_in(from) {
            return None;
        }
        let mut bytes = Vec::new();
        let id = request.transaction_id();
        let mut writer = MessageWriter::new(&mut bytes, Class::Success, Method::BINDING, id);
        writer.attribute(&XorMappedAddress(public));
        if self.has_other {
            writer.attribute(&OtherAddress(other));
        }
        writer.fingerprint();
        Some((from, bytes))
    }

    fn translate(&mut self, to: SocketAddr) -> SocketAddr {
        let key = match self.mapping {
            Mapping::NoNat => return self.local,
            Mapping::AddressDependent => to.ip().to_string(),
            Mapping::AddressAndPortDependent => to.to_string(),
            _ => String::new(),
        };
        let next = 40_000 + u16::try_from(self.ports.len()).unwrap();
        let port = *self.ports.entry(key).or_insert(next);
        let ip: IpAddr = if to.is_ipv4() {
            "192.0.2.1".parse()
        } else {
            "2001:db8::1".parse()
        }
        .unwrap();
        SocketAddr::new(ip, port)
    }

    fn lets_in(&self, from: SocketAddr) -> bool {
        match self.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => self.sent_to.iter().any(|to| to.ip() == from.ip()),
            _ => self.sent_to.contains(&from),
        }
    }
}

/// The other address and port of a server with two of each.
fn other_of(server: SocketAddr) -> SocketAddr {
    let ip = match server.ip().to_string().as_str() {
        "203.0.113.1" => "203.0.113.2",
        "203.0.113.2" => "203.0.113.1",
        "2001:db8:5::1" => "2001:db8:5::2",
        _ => "2001:db8:5::1",
    };
    SocketAddr::new(
        ip.parse().unwrap(),
        if server.port() == 3478 { 3479 } else { 3478 },
    )
}

fn config(servers: &[&str]) -> ProbeConfig {
    ProbeConfig::new(
        servers
            .iter()
            .map(|server| server.parse().unwrap())
            .collect(),
    )
}

const MAPPINGS: [Mapping; 4] = [
    Mapping::NoNat,
    Mapping::EndpointIndependent,
    Mapping::AddressDependent,
    Mapping::AddressAndPortDependent,
];

const FILTERINGS: [Filtering; 3] = [
    Filtering::EndpointIndependent,
    Filtering::AddressDependent,
    Filtering::AddressAndPortDependent,
];

#[test]
fn every_mapping_is_recognised_with_any_number_of_servers_that_know_others() {
    for mapping in MAPPINGS {
        for servers in [
            &[A1][..],
            &[A1, A2],
            &[A1, B1],
            &[A1, B2],
            &[A1, A2, B1, B2],
        ] {
            let mut config = config(servers);
            config.local = vec!["10.0.0.2:5000".parse().unwrap()];
            let (report, _) = Bench::new(config, mapping, Filtering::EndpointIndependent).run();
            assert_eq!(report.v4.mapping, mapping, "{servers:?}");
            assert_eq!(report.v4.port_preserving, Some(mapping == Mapping::NoNat));
            assert_eq!(report.v4.rtt, Some(MS * 20));
        }
    }
}

#[test]
fn one_address_with_two_ports_tells_a_symmetric_nat_from_others() {
    for (mapping, expected) in [
        (Mapping::EndpointIndependent, Mapping::PortIndependent),
        (Mapping::AddressDependent, Mapping::PortIndependent),
        (
            Mapping::AddressAndPortDependent,
            Mapping::AddressAndPortDependent,
        ),
    ] {
        let mut bench = Bench::new(config(&[A1, A2]), mapping, Filtering::EndpointIndependent);
        bench.has_other = false;
        let (report, bench) = bench.run();
        assert_eq!(report.v4.mapping, expected);
        assert_eq!(bench.elapsed, MS * 20, "nothing to wait for");
        assert_eq!(report.public(), bench.public);
        assert_eq!(report.v4.port_preserving, None);
    }
}

#[test]
fn every_filtering_is_recognised_for_every_mapping() {
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            let mut config = config(&[A1, A2, B1]);
            config.filtering = true;
            config.local = vec!["10.0.0.2:5000".parse().unwrap()];
            let (report, bench) = Bench::new(config, mapping, filtering).run();
            assert_eq!(report.v4.mapping, mapping);
            assert_eq!(report.v4.filtering, filtering, "{mapping}");
            assert!(bench.elapsed <= MS * 580, "{:?}", bench.elapsed);
        }
    }
}

#[test]
fn filtering_stays_unknown_without_a_second_address() {
    let mut config = config(&[A1, A2]);
    config.filtering = true;
    let mut bench = Bench::new(
        config,
        Mapping::EndpointIndependent,
        Filtering::AddressDependent,
    );
    bench.has_other = false;
    let (report, _) = bench.run();
    assert_eq!(report.v4.filtering, Filtering::Unknown);
    assert_eq!(report.v4.mapping, Mapping::PortIndependent);
}

#[test]
fn blocked_udp_is_said_after_one_timeout() {
    let mut bench = Bench::new(
        config(&[A1, A2]),
        Mapping::EndpointIndependent,
        Filtering::Unknown,
    );
    bench.is_down = true;
    let (report, bench) = bench.run();
    assert!(!report.udp);
    assert!(!report.behaviour().udp);
    assert_eq!(bench.elapsed, MS * 1500);
    assert_eq!(
        bench.transmissions.values().sum::<u32>(),
        10,
        "0, 100, 300, 700 and 1100 ms"
    );
    assert!(report.to_string().starts_with("UDP blocked"));
}

#[test]
fn a_dead_server_is_not_waited_for_once_another_has_answered() {
    let mut bench = Bench::new(
        config(&[A1, A2]),
        Mapping::EndpointIndependent,
        Filtering::Unknown,
    );
    bench.filtering = Filtering::EndpointIndependent;
    bench.has_other = false;
    bench.dead = Some(A2.parse().unwrap());
    let (report, bench) = bench.run();
    assert_eq!(report.v4.mapping, Mapping::Unknown);
    assert!(report.udp);
    assert_eq!(bench.elapsed, MS * 520);
}

#[test]
fn lost_requests_are_repeated() {
    let mut bench = Bench::new(
        config(&[A1, B1]),
        Mapping::EndpointIndependent,
        Filtering::Unknown,
    );
    bench.filtering = Filtering::EndpointIndependent;
    bench.losses = 2;
    let (report, bench) = bench.run();
    assert_eq!(report.v4.mapping, Mapping::EndpointIndependent);
    assert_eq!(bench.elapsed, MS * 320);
    assert_eq!(
        report.v4.rtt, None,
        "an answer to a repeated request measures nothing"
    );
}

#[test]
fn ipv4_and_ipv6_are_measured_side_by_side() {
    let v6 = ["[2001:db8:5::1]:3478", "[2001:db8:5::2]:3478"];
    let config = config(&[A1, B1, v6[0], v6[1]]);
    let (report, _) = Bench::new(
        config,
        Mapping::AddressAndPortDependent,
        Filtering::AddressDependent,
    )
    .run();
    assert_eq!(report.v4.mapping, Mapping::AddressAndPortDependent);
    assert_eq!(report.v6.mapping, Mapping::AddressAndPortDependent);
    assert!(report.public().iter().any(SocketAddr::is_ipv6));
    let text = report.to_string();
    assert!(
        text.contains("IPv4: address-and-port-dependent mapping"),
        "{text}"
    );
}

#[test]
fn hairpinning_is_measured_on_request() {
    for is_hairpinning in [true, false] {
        let mut config = config(&[A1, B1]);
        config.hairpinning = true;
        let mut bench = Bench::new(
            config,
            Mapping::EndpointIndependent,
            Filtering::EndpointIndependent,
        );
        bench.is_hairpinning = is_hairpinning;
        let (report, _) = bench.run();
        assert_eq!(report.v4.hairpinning, Some(is_hairpinning));
    }
}

#[test]
fn no_servers_mean_done_at_once() {
    let (report, _) = Bench::new(
        config(&[]),
        Mapping::EndpointIndependent,
        Filtering::Unknown,
    )
    .run();
    assert_eq!(report, NatReport::default());
}

#[test]
fn answers_from_elsewhere_and_to_nothing_are_ignored() {
    let now = Instant::now();
    let mut probe = NatProbe::new(config(&[A1]), [1; 32], now);
    let request = probe.poll_transmit().unwrap();
    let id = Message::decode(&request.bytes).unwrap().transaction_id();
    let answer = |id| {
        let mut bytes = Vec::new();
        MessageWriter::new(&mut bytes, Class::Success, Method::BINDING, id)
            .attribute(&XorMappedAddress("192.0.2.9:9".parse().unwrap()))
            .fingerprint();
        bytes
    };
    let (right, wrong) = (A1.parse().unwrap(), B1.parse().unwrap());
    probe.handle_datagram(now, wrong, &answer(id));
    assert!(!probe.handle_datagram(now, right, &answer(tombolo_stun::TransactionId([0; 12]))));
    for length in 0..request.bytes.len() {
        assert!(!probe.handle_datagram(now, right, &request.bytes[..length]));
    }
    assert!(!probe.report().udp);
    assert!(probe.handle_datagram(now, right, &answer(id)));
    assert!(probe.report().udp);
}

#[test]
fn a_server_that_refuses_ends_its_request_and_sends_nobody_elsewhere() {
    for code in [300, 420, 500] {
        let now = Instant::now();
        let mut probe = NatProbe::new(config(&[A1]), [1; 32], now);
        let request = probe.poll_transmit().unwrap();
        let id = Message::decode(&request.bytes).unwrap().transaction_id();
        let mut bytes = Vec::new();
        let mut writer = MessageWriter::new(&mut bytes, Class::Error, Method::BINDING, id);
        writer.attribute(&ErrorCode::new(code, "").unwrap());
        if code == 300 {
            writer.attribute(&AlternateServer(B1.parse().unwrap()));
        }
        writer.fingerprint();
        assert!(probe.handle_datagram(now, A1.parse().unwrap(), &bytes));
        assert!(matches!(probe.poll_event(), Some(ProbeEvent::Done(report)) if !report.udp));
        assert_eq!(probe.poll_transmit(), None, "{code}");
    }
}

#[test]
fn four_servers_of_a_family_at_most_are_asked() {
    let servers: Vec<String> = (1..=9)
        .map(|last| format!("203.0.113.{last}:3478"))
        .collect();
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    let mut probe = NatProbe::new(config(&servers), [1; 32], Instant::now());
    let asked: BTreeSet<SocketAddr> = std::iter::from_fn(|| probe.poll_transmit())
        .map(|transmit| transmit.to)
        .collect();
    assert_eq!(asked.len(), 4);
}
