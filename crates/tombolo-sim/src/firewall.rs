//! Stateful firewalls: filters without translation, as in front of an IPv6 network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::nat::Scope;
use crate::{Behaviour, Protocol, Refusal};

/// How a firewall behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirewallConfig {
    /// Which external endpoints may answer an internal one that sent something. See RFC 4787 §5.
    pub filtering: Behaviour,
    /// How long the admission lasts after the last packet in either direction. See RFC 6092 §3.2.1.
    pub timeout: Duration,
}

impl Default for FirewallConfig {
    /// The common stateful firewall: only answers come in.
    fn default() -> Self {
        Self {
            filtering: Behaviour::AddressAndPortDependent,
            timeout: Duration::from_secs(120),
        }
    }
}

/// The flows that a firewall has seen leave.
#[derive(Debug)]
pub struct Firewall {
    config: FirewallConfig,
    expiry_by_flow: BTreeMap<(Protocol, SocketAddr, Scope), Instant>,
}

impl Firewall {
    /// A firewall that has seen nothing.
    #[must_use]
    pub fn new(config: FirewallConfig) -> Self {
        Self {
            config,
            expiry_by_flow: BTreeMap::new(),
        }
    }

    /// Lets a packet out and its answers in.
    pub fn handle_outbound(
        &mut self,
        now: Instant,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
    ) {
        if self.expiry_by_flow.len() >= FLOWS_MAX {
            self.expiry_by_flow.retain(|_, expires| *expires > now);
        }
        if self.expiry_by_flow.len() < FLOWS_MAX {
            let flow = (protocol, from, self.config.filtering.scope(to));
            self.expiry_by_flow.insert(flow, now + self.config.timeout);
        }
    }

    /// Lets a packet in, if something inside asked for it.
    ///
    /// # Errors
    /// [`Refusal::Filtered`] if nothing did.
    pub fn handle_inbound(
        &mut self,
        now: Instant,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<(), Refusal> {
        let flow = (protocol, to, self.config.filtering.scope(from));
        let expires = self
            .expiry_by_flow
            .get_mut(&flow)
            .filter(|expires| **expires > now)
            .ok_or(Refusal::Filtered)?;
        *expires = now + self.config.timeout;
        Ok(())
    }

    /// Forgets every flow.
    pub fn reboot(&mut self) {
        self.expiry_by_flow.clear();
    }
}

const FLOWS_MAX: usize = 16_384;
