//! What operators do to a running server: drain it, and give it another configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tombolo_stun::{AddressFamily, AlternateDomain, AlternateServer, MessageWriter};

use super::address::{FiveTuple, canonical};
use super::reply::Ask;
use super::stats::Refusal;
use super::{Config, Event, Server};

/// How a server is drained: those that have allocations keep and refresh them, newcomers go
/// elsewhere. See RFC 8489 §10.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Drain {
    /// Where newcomers are sent, by turns; each is told one of the family of its own address, and
    /// one of the other. Where there is none of its own, newcomers are told that there is no room.
    pub alternates: Vec<SocketAddr>,
    /// The name that a certificate of the alternate servers bears, for clients over TLS.
    pub domain: Option<String>,
    /// When to tell how many allocations are left. `None`: only once there are none.
    pub deadline: Option<Duration>,
}

/// The state of a drain.
#[derive(Debug)]
pub(super) struct Draining {
    drain: Drain,
    /// `None` once it is over, or where there is none.
    deadline: Option<Instant>,
    /// How many newcomers were sent elsewhere.
    sent: usize,
    is_empty_told: bool,
}

impl Server {
    /// Makes no new allocations from now on. [`Event::Drained`] tells when none is left, and at the
    /// deadline how many are. A second call replaces the first.
    pub fn drain(&mut self, now: Instant, drain: Drain) {
        let deadline = drain.deadline.map(|after| now + after);
        self.draining = Some(Draining {
            drain,
            deadline,
            sent: 0,
            is_empty_told: false,
        });
        self.stats.draining = 1;
        self.tell_if_drained();
    }

    /// Whether it makes no new allocations.
    pub fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Makes allocations again.
    pub fn undrain(&mut self) {
        self.draining = None;
        self.stats.draining = 0;
    }

    /// Takes over where clients reach the other nodes of the fleet, by what
    /// [`Config::node`](super::Config::node) says there; what was known before is forgotten. Clients that
    /// come with a mobility ticket of one of them are sent there. See RFC 8489 §10.
    pub fn set_fleet(&mut self, servers_by_node: BTreeMap<[u8; 4], Vec<SocketAddr>>) {
        self.servers_by_node = servers_by_node;
    }

    /// Takes another configuration and keeps the allocations: realms and credentials, whom SHA-256
    /// is offered to, lifetimes, limits, whether TCP is relayed, and which peers are allowed.
    /// Permissions, channels and connections to peers that are not allowed any more end; users
    /// that are not known any more keep their
    /// allocations until the next refresh.
    ///
    /// What belongs to sockets stays as it was: relay IPs, relay ports, public IPs, and `sockets`.
    pub fn reconfigure(&mut self, now: Instant, config: Config) {
        self.authority.reconfigure(&config);
        let policy = config.address_policy();
        self.policy.allow = policy.allow;
        self.policy.deny = policy.deny;
        // The node may have got further addresses; whoever has one that it lost is not worth a risk.
        for ip in policy.own {
            if !self.policy.own.contains(&ip) {
                self.policy.own.push(ip);
            }
        }
        self.budget.reconfigure(&config.limits);
        self.limits = config.limits;
        self.has_mobility = config.mobility;
        self.lifetime_default = config.lifetime_default;
        self.lifetime_max = config.lifetime_max;
        self.relays_tcp = config.relay_tcp;
        self.software = config.software;
        let policy = &self.policy;
        let (authority, limit) = (&self.authority, self.limits.bandwidth);
        for allocation in self.allocations.iter_mut() {
            let of_realm = authority.bandwidth_of(allocation.user.realm);
            allocation.set_limit(of_realm.or(limit));
            allocation.retain_peers(now, |peer| policy.check_ip(peer).is_ok());
            self.ledger.settle(allocation);
        }
        self.close_barred_connections(now);
    }

    /// Tells whether a client would have to go elsewhere for an allocation.
    pub(super) fn check_drain(&self, client: FiveTuple) -> Result<(), Refusal> {
        match &self.draining {
            None => Ok(()),
            Some(draining) => Err(draining.refusal_for(client)),
        }
    }

    /// Appends where the client is to go. See RFC 8489 §14.15 and §14.16.
    pub(super) fn write_alternate(&mut self, ask: Ask, writer: &mut MessageWriter<'_>) {
        let Some(draining) = &mut self.draining else {
            return;
        };
        let sent = draining.sent;
        draining.sent = sent.wrapping_add(1);
        for alternate in alternates_for(ask.from, &draining.drain.alternates, sent) {
            writer.attribute(&AlternateServer(alternate));
        }
        let domain = draining.drain.domain.as_deref();
        if let Some(domain) = domain.and_then(|domain| AlternateDomain::new(domain).ok()) {
            writer.attribute(&domain);
        }
    }

    /// Tells once when nothing is left.
    pub(super) fn tell_if_drained(&mut self) {
        let is_empty = self.allocations.len() == 0 && self.pending.is_empty();
        if let Some(draining) = &mut self.draining
            && is_empty
            && !draining.is_empty_told
        {
            draining.is_empty_told = true;
            draining.deadline = None;
            self.tell(Event::Drained { left: 0 });
        }
    }

    /// Tells at the deadline what is left.
    pub(super) fn on_drain_deadline(&mut self, now: Instant) {
        let left = self.allocations.len();
        if let Some(draining) = &mut self.draining
            && draining.deadline.is_some_and(|deadline| deadline <= now)
        {
            draining.deadline = None;
            self.tell(Event::Drained { left });
        }
    }

    pub(super) fn drain_deadline(&self) -> Option<Instant> {
        self.draining.as_ref()?.deadline
    }
}

impl Draining {
    fn refusal_for(&self, client: FiveTuple) -> Refusal {
        match alternates_for(client, &self.drain.alternates, 0)[..] {
            [_, ..] => Refusal::Redirected,
            [] => Refusal::Draining,
        }
    }
}

/// Which of several servers a client is told, by turns: one of its own family, and one of the other may
/// follow. None where there is none of its own.
pub(super) fn alternates_for(
    client: FiveTuple,
    servers: &[SocketAddr],
    turn: usize,
) -> Vec<SocketAddr> {
    let own = family_of(client);
    let other = match own {
        AddressFamily::V4 => AddressFamily::V6,
        AddressFamily::V6 => AddressFamily::V4,
    };
    let [own, other] = [own, other].map(|family| {
        let is_of_family = |one: &&SocketAddr| AddressFamily::of(one.ip()) == family;
        let count = servers.iter().filter(is_of_family).count();
        let mut of_family = servers.iter().filter(is_of_family).copied();
        of_family.nth(turn % count.max(1))
    });
    own.into_iter()
        .chain(other.filter(|_| own.is_some()))
        .collect()
}

fn family_of(client: FiveTuple) -> AddressFamily {
    AddressFamily::of(canonical(client.client).ip())
}
