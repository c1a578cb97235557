//! Measures the NAT in front of a device. Sans-IO, as the agent.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::{Filtering, Mapping, NatBehaviour, Transmit};

/// What to measure, and with whose help.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProbeConfig {
    /// STUN servers, one to four per address family; more are ignored. Different ports of one
    /// address and different addresses both help.
    pub servers: Vec<SocketAddr>,
    /// The device's own addresses with the socket's port, as far as known: tell whether there is a
    /// NAT at all and whether it preserves ports.
    pub local: Vec<SocketAddr>,
    /// Whether to measure the filtering too (RFC 5780 §4.4). It takes up to two timeouts more, and
    /// a socket that has not sent anything to another address or port of the servers before: an
    /// opened filter looks like no filter.
    pub filtering: bool,
    /// Whether to ask if the NAT forwards packets sent to its own public address (RFC 4787 §6).
    pub hairpinning: bool,
    /// Time before the first repetition of a request; doubles up to four times that.
    pub retransmit_after: Duration,
    /// Time after which a request counts as unanswered.
    pub timeout: Duration,
}

impl ProbeConfig {
    /// Makes a configuration that measures the mapping only.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            local: Vec::new(),
            filtering: false,
            hairpinning: false,
            retransmit_after: Duration::from_millis(100),
            timeout: Duration::from_millis(1500),
        }
    }
}

/// What was measured; complete once [`ProbeEvent::Done`] has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatReport {
    /// False when no server answered (yet).
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
        [&self.v4, &self.v6]
            .into_iter()
            .flat_map(|family| family.public.iter().copied())
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

/// What was measured for one address family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FamilyReport {
    /// The mapping behaviour.
    pub mapping: Mapping,
    /// The filtering behaviour.
    pub filtering: Filtering,
    /// Our addresses as the servers saw them, without repetitions, in the order of the servers.
    pub public: Vec<SocketAddr>,
    /// Whether the public port is the socket's own; `None` when the socket's is not known.
    pub port_preserving: Option<bool>,
    /// Whether the NAT forwards what is sent to its own public address; `None` when not measured.
    pub hairpinning: Option<bool>,
    /// Shortest time that a server took to answer the first transmission of a request.
    pub rtt: Option<Duration>,
}

/// What the probe tells its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeEvent {
    /// A server saw us at this address, new to us: a server-reflexive candidate.
    Public(SocketAddr),
    /// Everything is measured. Comes once.
    Done(NatReport),
}

/// Why the probe wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeTimer {
    /// A request is to be repeated.
    Retransmit,
    /// A request counts as unanswered.
    GiveUp,
}

/// Measures the NAT in front of one socket by asking STUN servers.
#[derive(Debug)]
pub struct NatProbe {
    report: NatReport,
}

impl NatProbe {
    /// Starts the measurement: the first requests are ready to be polled.
    #[must_use]
    pub fn new(config: ProbeConfig, seed: [u8; 32], now: Instant) -> Self {
        let _ = (config, seed, now);
        Self {
            report: NatReport::default(),
        }
    }

    /// Handles a STUN datagram from the socket. Returns true when it was the probe's.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &[u8]) -> bool {
        let _ = (now, from, data);
        false
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// Returns the next datagram to send.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }

    /// Returns the next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<ProbeEvent> {
        None
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout); `None` once done.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, ProbeTimer)> {
        None
    }

    /// Returns what is known so far.
    #[must_use]
    pub fn report(&self) -> &NatReport {
        &self.report
    }
}
