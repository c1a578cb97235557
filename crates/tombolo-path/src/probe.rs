//! Measures the NAT in front of a device. Sans-IO, as the agent.
//!
//! One Binding request to each server tells the public addresses (the server-reflexive candidates)
//! and, by comparison, the mapping behaviour. With servers on two addresses and two ports, named
//! in the configuration or found by OTHER-ADDRESS, the answer is as fine as RFC 5780 §4.3 makes it.
//! On request the filtering behaviour follows from CHANGE-REQUEST (RFC 5780 §4.4), and hairpinning
//! from a request to ourselves.
//!
//! ```
//! use std::time::Instant;
//! use tombolo_path::probe::{NatProbe, ProbeConfig};
//!
//! let servers = vec!["192.0.2.1:3478".parse()?, "192.0.2.1:3479".parse()?];
//! let now = Instant::now();
//! let mut probe = NatProbe::new(ProbeConfig::new(servers), [7; 32], now);
//! // Send each on the socket that is to be measured; hand the answers to `handle_datagram`.
//! while let Some(transmit) = probe.poll_transmit() {
//!     assert_eq!(transmit.bytes.len(), 28);
//! }
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

mod report;
mod survey;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::ChaCha12Rng};
use tombolo_stun::{
    Class, MappedAddress, Message, Method, OtherAddress, TransactionId, XorMappedAddress,
};

use crate::{Transmit, canonical};
pub use report::{FamilyReport, NatReport};
use survey::{Limits, Outcome, Survey};

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
    /// a fresh mapping: a socket that has sent nothing to another address or port of the first
    /// server before, since an opened filter looks like no filter. The probe itself asks the
    /// first server alone until this is measured.
    pub filtering: bool,
    /// Whether to ask if the NAT forwards packets sent to its own public address (RFC 4787 §6).
    pub hairpinning: bool,
    /// Time before the first repetition of a request; doubles up to four times that.
    pub retransmit_after: Duration,
    /// Time after which a request counts as unanswered while no server has answered any.
    pub timeout: Duration,
    /// Time after which a request counts as unanswered once some server has answered: the network
    /// works, so the other answers cannot be far.
    pub patience: Duration,
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
            patience: Duration::from_millis(500),
        }
    }
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
///
/// After each call drain [`poll_transmit`](Self::poll_transmit) and
/// [`poll_event`](Self::poll_event), then sleep until [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct NatProbe {
    config: ProbeConfig,
    rng: ChaCha12Rng,
    /// IPv4 and IPv6.
    surveys: [Survey; 2],
    report: NatReport,
    /// When a server answered first; `None` before.
    answered_at: Option<Instant>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<ProbeEvent>,
    is_done: bool,
}

impl NatProbe {
    /// Starts the measurement: the first requests are ready to be polled.
    #[must_use]
    pub fn new(config: ProbeConfig, seed: [u8; 32], now: Instant) -> Self {
        let of_family = |addresses: &[SocketAddr], is_ipv4: bool| {
            let mut chosen: Vec<SocketAddr> = Vec::new();
            for address in addresses.iter().map(|address| canonical(*address)) {
                if address.is_ipv4() == is_ipv4 && !chosen.contains(&address) {
                    chosen.push(address);
                }
            }
            chosen
        };
        let survey = |is_ipv4| {
            let mut servers = of_family(&config.servers, is_ipv4);
            servers.truncate(SERVERS_PER_FAMILY_MAX);
            Survey::new(servers, of_family(&config.local, is_ipv4), config.filtering)
        };
        let surveys = [survey(true), survey(false)];
        let retransmit_after = config.retransmit_after.max(Duration::from_millis(1));
        let mut probe = Self {
            surveys,
            config: ProbeConfig {
                retransmit_after,
                ..config
            },
            rng: ChaCha12Rng::from_seed(seed),
            report: NatReport::default(),
            answered_at: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            is_done: false,
        };
        probe.go_on(now);
        probe
    }

    /// Handles a STUN datagram from the socket. Returns true when it was the probe's.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &[u8]) -> bool {
        let Ok(message) = Message::decode(data) else {
            return false;
        };
        let id = message.transaction_id();
        let Some(survey) = self.surveys.iter_mut().find(|survey| survey.awaits(id)) else {
            return false;
        };
        if message.method() != Method::BINDING {
            return false;
        }
        match message.class() {
            Class::Success => {
                let Some(mapped) = mapped_address(&message) else {
                    return false;
                };
                let other = message.attribute::<OtherAddress>().ok().flatten();
                let other = other.map(|OtherAddress(other)| canonical(other));
                let from = canonical(from);
                if let Some(public) = survey.on_success(now, from, id, mapped, other) {
                    self.events.push_back(ProbeEvent::Public(public));
                }
            }
            Class::Error => {
                // The server does not know the attribute, or is too busy.
                let request = survey.find(id);
                if let Some(request) = request.filter(|request| request.to == canonical(from)) {
                    request.outcome = Outcome::Useless;
                }
            }
            Class::Request => {
                if !survey.on_own_request(id) {
                    return false;
                }
            }
            Class::Indication => return false,
        }
        self.go_on(now);
        true
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.go_on(now);
    }

    /// Returns the next datagram to send.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Returns the next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<ProbeEvent> {
        self.events.pop_front()
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout); `None` once done.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, ProbeTimer)> {
        self.surveys
            .iter()
            .filter_map(|survey| survey.deadline(self.limits()))
            .min()
    }

    /// Returns what is known so far.
    #[must_use]
    pub fn report(&self) -> &NatReport {
        &self.report
    }

    fn limits(&self) -> Limits {
        let ProbeConfig {
            retransmit_after,
            timeout,
            patience,
            ..
        } = self.config;
        Limits {
            retransmit_after,
            timeout,
            patience,
            answered_at: self.answered_at,
        }
    }

    /// Ends and repeats requests, goes on to next steps, renews the report.
    fn go_on(&mut self, now: Instant) {
        if self
            .surveys
            .iter()
            .any(|survey| !survey.report.public.is_empty())
        {
            self.answered_at.get_or_insert(now);
        }
        let limits = self.limits();
        for survey in &mut self.surveys {
            loop {
                for (to, bytes) in survey.take_due(now, limits) {
                    self.transmits.push_back(Transmit { to, bytes });
                }
                let steps = survey.requests.len();
                survey.advance(now, self.config.hairpinning, limits, || {
                    new_id(&mut self.rng)
                });
                if survey.requests.len() == steps {
                    break;
                }
            }
        }
        let [v4, v6] = &self.surveys;
        self.report = NatReport {
            udp: self
                .surveys
                .iter()
                .any(|survey| !survey.report.public.is_empty()),
            v4: v4.report.clone(),
            v6: v6.report.clone(),
        };
        if !self.is_done && self.surveys.iter().all(Survey::is_done) {
            self.is_done = true;
            self.events.push_back(ProbeEvent::Done(self.report.clone()));
        }
    }
}

/// XOR-MAPPED-ADDRESS, or MAPPED-ADDRESS from old servers.
fn mapped_address(message: &Message<'_>) -> Option<SocketAddr> {
    let xored = message.attribute::<XorMappedAddress>().ok()?;
    let plain = || message.attribute::<MappedAddress>().ok().flatten();
    let mapped = match xored {
        Some(XorMappedAddress(mapped)) => mapped,
        None => plain()?.0,
    };
    Some(canonical(mapped))
}

fn new_id(rng: &mut ChaCha12Rng) -> TransactionId {
    let mut id = [0; 12];
    rng.fill_bytes(&mut id);
    TransactionId(id)
}

const SERVERS_PER_FAMILY_MAX: usize = 4;
