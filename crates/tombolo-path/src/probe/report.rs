//! What a probe found, and how it follows from the servers' answers.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::verdict::Millis;
use crate::{Filtering, Mapping, NatBehaviour};

/// What was measured; complete once [`ProbeEvent::Done`](super::ProbeEvent::Done) has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatReport {
    /// False when no server answered (yet): UDP is blocked, or the servers are down.
    pub udp: bool,
    /// IPv4.
    pub v4: FamilyReport,
    /// IPv6.
    pub v6: FamilyReport,
}

impl NatReport {
    /// All public addresses, IPv4 first, without repetitions: the server-reflexive candidates.
    #[must_use]
    pub fn public(&self) -> Vec<SocketAddr> {
        self.v4
            .public
            .iter()
            .chain(&self.v6.public)
            .copied()
            .collect()
    }

    /// The behaviour that matters for peers: that of IPv4 if it works, else of IPv6.
    #[must_use]
    pub fn behaviour(&self) -> NatBehaviour {
        let family = if self.v4.public.is_empty() {
            &self.v6
        } else {
            &self.v4
        };
        NatBehaviour {
            mapping: family.mapping,
            filtering: family.filtering,
            udp: self.udp,
        }
    }
}

impl fmt::Display for NatReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.udp {
            return f.write_str("UDP blocked: no STUN server answered");
        }
        for (name, family) in [("IPv4", &self.v4), ("IPv6", &self.v6)] {
            writeln!(f, "{name}: {family}")?;
        }
        Ok(())
    }
}

/// What was measured for one address family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FamilyReport {
    /// The mapping behaviour.
    pub mapping: Mapping,
    /// The filtering behaviour.
    pub filtering: Filtering,
    /// Our addresses as the servers saw them, without repetitions, in the order of the answers.
    pub public: Vec<SocketAddr>,
    /// Whether the public port is the socket's own; `None` when the socket's is not known.
    pub port_preserving: Option<bool>,
    /// Whether the NAT forwards what is sent to its own public address (RFC 4787 §6); `None` when
    /// not measured.
    pub hairpinning: Option<bool>,
    /// Shortest time that a server took to answer a request that was sent once.
    pub rtt: Option<Duration>,
}

impl FamilyReport {
    /// Takes in one more answer, and what all answers together say about the mapping.
    pub(super) fn on_answer(
        &mut self,
        mapped: SocketAddr,
        took: Option<Duration>,
        answers: &[Answer],
        local: &[SocketAddr],
    ) {
        if !self.public.contains(&mapped) {
            self.public.push(mapped);
        }
        if let Some(took) = took {
            self.rtt = Some(self.rtt.map_or(took, |rtt| rtt.min(took)));
        }
        self.mapping = mapping(answers, local);
        self.port_preserving = match local {
            [] => None,
            [..] => Some(
                self.public
                    .iter()
                    .all(|public| local.iter().any(|local| local.port() == public.port())),
            ),
        };
    }
}

impl fmt::Display for FamilyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.public.is_empty() {
            return f.write_str("no server answered");
        }
        write!(f, "{}, {}", self.mapping, self.filtering)?;
        match self.port_preserving {
            Some(true) if self.mapping != Mapping::NoNat => f.write_str(", port preservation")?,
            Some(false) => f.write_str(", no port preservation")?,
            Some(true) | None => {}
        }
        match self.hairpinning {
            Some(true) => f.write_str(", hairpinning")?,
            Some(false) => f.write_str(", no hairpinning")?,
            None => {}
        }
        for public in &self.public {
            write!(f, ", public {public}")?;
        }
        if let Some(rtt) = self.rtt {
            write!(f, ", RTT {}", Millis(rtt))?;
        }
        Ok(())
    }
}

/// What one server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) server: SocketAddr,
    pub(super) mapped: SocketAddr,
}

/// Concludes the mapping behaviour from all answers. See RFC 5780 §4.3.
pub(super) fn mapping(answers: &[Answer], local: &[SocketAddr]) -> Mapping {
    if !answers.is_empty() && answers.iter().all(|answer| local.contains(&answer.mapped)) {
        return Mapping::NoNat;
    }
    let pairs = || {
        let from = |index| answers.iter().skip(index);
        answers
            .iter()
            .enumerate()
            .flat_map(move |(i, a)| from(i + 1).map(move |b| (a, b)))
    };
    let is_same_ip = |(a, b): &(&Answer, &Answer)| a.server.ip() == b.server.ip();
    let is_same_mapping = |(a, b): (&Answer, &Answer)| a.mapped == b.mapped;
    let compares_ports = pairs().any(|pair| is_same_ip(&pair));
    let compares_ips = pairs().any(|pair| !is_same_ip(&pair));
    let by_port = pairs().filter(is_same_ip).all(is_same_mapping);
    let by_ip = pairs()
        .filter(|pair| !is_same_ip(pair))
        .all(is_same_mapping);
    match (compares_ports, by_port, compares_ips, by_ip) {
        (true, false, _, _) => Mapping::AddressAndPortDependent,
        (_, _, true, true) => Mapping::EndpointIndependent,
        (true, true, true, false) => Mapping::AddressDependent,
        (true, true, false, _) => Mapping::PortIndependent,
        (false, _, true, false) => Mapping::Dependent,
        (false, _, false, _) => Mapping::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(answers: &[(&str, &str)]) -> Mapping {
        let answers: Vec<_> = answers
            .iter()
            .map(|(server, mapped)| Answer {
                server: server.parse().unwrap(),
                mapped: mapped.parse().unwrap(),
            })
            .collect();
        mapping(&answers, &["10.0.0.2:5".parse().unwrap()])
    }

    #[test]
    fn the_mapping_follows_from_what_the_servers_saw() {
        let (p, q) = ("192.0.2.1:7", "192.0.2.1:8");
        let (a1, a2) = ("203.0.113.1:1", "203.0.113.1:2");
        let (b1, b2) = ("203.0.113.2:1", "203.0.113.2:2");
        assert_eq!(of(&[]), Mapping::Unknown);
        assert_eq!(of(&[(a1, p)]), Mapping::Unknown);
        assert_eq!(of(&[(a1, "10.0.0.2:5")]), Mapping::NoNat);
        assert_eq!(of(&[(a1, p), (b1, p)]), Mapping::EndpointIndependent);
        assert_eq!(of(&[(a1, p), (a2, p)]), Mapping::PortIndependent);
        assert_eq!(of(&[(a1, p), (a2, q)]), Mapping::AddressAndPortDependent);
        assert_eq!(of(&[(a1, p), (b1, q)]), Mapping::Dependent);
        assert_eq!(of(&[(a1, p), (b1, q), (b2, q)]), Mapping::AddressDependent);
        assert_eq!(
            of(&[(a1, p), (a2, p), (b1, p), (b2, p)]),
            Mapping::EndpointIndependent
        );
        let third = "192.0.2.1:9";
        assert_eq!(
            of(&[(a1, p), (b1, q), (b2, third)]),
            Mapping::AddressAndPortDependent
        );
    }
}
