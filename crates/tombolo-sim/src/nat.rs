//! Network address translators that behave in every way RFC 4787 has a word for.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _, rngs::ChaCha12Rng};

use crate::Protocol;

/// How a NAT behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatConfig {
    /// Which packets of one internal endpoint share a mapping. See RFC 4787 §4.1.
    pub mapping: Behaviour,
    /// Which external endpoints may send through a mapping. See RFC 4787 §5.
    pub filtering: Behaviour,
    /// How the external port is chosen. See RFC 4787 §4.2.
    pub ports: PortRule,
    /// What happens to packets from inside to an external address of the NAT. See RFC 4787 §6.
    pub hairpin: Hairpin,
    /// How long a UDP mapping lives without being refreshed. See RFC 4787 §4.3. Those of TCP live for
    /// two hours and four minutes, see RFC 5382 §5.
    pub timeout: Duration,
    /// Which packets refresh a mapping. See RFC 4787 §4.3.
    pub refresh: Refresh,
    /// What the router itself does with packets from outside that belong to nobody.
    pub unsolicited: Unsolicited,
}

/// What a mapping or filter depends on besides the internal endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behaviour {
    /// Nothing.
    EndpointIndependent,
    /// The external address.
    AddressDependent,
    /// The external address and port.
    AddressAndPortDependent,
}

/// How an external port is chosen for a new mapping. See RFC 4787 §4.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortRule {
    /// The internal port, or the next free one above it.
    Preserving,
    /// One more than the last, from a seeded start.
    Sequential,
    /// Any free port.
    Random,
    /// The internal port plus this offset, so that neighbours stay neighbours, or the next free one.
    Contiguous {
        /// Added to the internal port; wraps inside the range of external ports.
        offset: u16,
    },
}

/// Whether two hosts behind one NAT reach each other through its external address. See RFC 4787 §6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hairpin {
    /// They don't.
    Off,
    /// They do, and the receiver sees the sender's internal endpoint.
    InternalSource,
    /// They do, and the receiver sees the sender's external endpoint, as REQ-9 asks.
    ExternalSource,
}

/// Which packets keep a mapping alive. See RFC 4787 §4.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// Those from inside, as REQ-6 asks.
    Outbound,
    /// Those from outside.
    Inbound,
    /// Both.
    Both,
}

/// What a router does with a packet to its own address that no mapping wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsolicited {
    /// Drops it.
    Drop,
    /// Accepts it as its own, as a Linux router without an input rule does: for 30 s the connection
    /// tracker then holds this pair of endpoints, and an inside host that sends to that same external
    /// endpoint is given another port.
    Claim,
}

/// Why a NAT or firewall dropped a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No mapping has this external endpoint.
    NoMapping,
    /// The mapping does not admit packets from this external endpoint.
    Filtered,
    /// This NAT does not turn packets around.
    NoHairpin,
    /// No external port or table entry is free.
    Exhausted,
}

/// What an outbound packet looks like outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outbound {
    /// The source that the world sees.
    pub external: SocketAddr,
    /// Whether this packet made the mapping.
    pub created: Created,
}

/// Whether a packet made a new mapping or used one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It made one.
    New,
    /// It used one.
    Existing,
}

/// A NAT: the mappings and filters of one router.
#[derive(Debug)]
pub struct Nat {
    config: NatConfig,
    external: Vec<IpAddr>,
    rng: ChaCha12Rng,
    next_port: u16,
    endpoint_by_key: BTreeMap<Key, External>,
    mapping_by_endpoint: BTreeMap<External, Mapping>,
    /// Expiry of what the router itself claims, indexed by our endpoint and the remote one.
    claims: BTreeMap<(External, SocketAddr), Instant>,
    /// Pooling is paired: all mappings of one host use one external address (RFC 4787 §4.1, REQ-2).
    address_index_by_host: BTreeMap<IpAddr, usize>,
}

type External = (Protocol, SocketAddr);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    protocol: Protocol,
    internal: SocketAddr,
    scope: Scope,
}

/// The part of a remote endpoint that a [`Behaviour`] looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Any,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

#[derive(Debug)]
struct Mapping {
    key: Key,
    expires: Instant,
    expiry_by_admitted: BTreeMap<Scope, Instant>,
}

impl NatConfig {
    /// Endpoint-independent mapping and filtering: whoever knows the address gets in.
    #[must_use]
    pub const fn full_cone() -> Self {
        Self::new(
            Behaviour::EndpointIndependent,
            Behaviour::EndpointIndependent,
        )
    }

    /// Endpoint-independent mapping, address-dependent filtering.
    #[must_use]
    pub const fn restricted() -> Self {
        Self::new(Behaviour::EndpointIndependent, Behaviour::AddressDependent)
    }

    /// Endpoint-independent mapping, address- and port-dependent filtering: what most homes have.
    #[must_use]
    pub const fn port_restricted() -> Self {
        Self::new(
            Behaviour::EndpointIndependent,
            Behaviour::AddressAndPortDependent,
        )
    }

    /// Address- and port-dependent mapping and filtering with random ports.
    #[must_use]
    pub const fn symmetric() -> Self {
        let dependent = Behaviour::AddressAndPortDependent;
        Self::new(dependent, dependent).with_ports(PortRule::Random)
    }

    /// A NAT with this mapping and filtering behaviour and the rest as RFC 4787 recommends: preserved
    /// ports, hairpinning, two minutes, refreshed from inside.
    #[must_use]
    pub const fn new(mapping: Behaviour, filtering: Behaviour) -> Self {
        Self {
            mapping,
            filtering,
            ports: PortRule::Preserving,
            hairpin: Hairpin::ExternalSource,
            timeout: Duration::from_secs(120),
            refresh: Refresh::Outbound,
            unsolicited: Unsolicited::Drop,
        }
    }

    /// The same NAT with another port rule.
    #[must_use]
    pub const fn with_ports(mut self, ports: PortRule) -> Self {
        self.ports = ports;
        self
    }

    /// The same NAT with another hairpin behaviour.
    #[must_use]
    pub const fn with_hairpin(mut self, hairpin: Hairpin) -> Self {
        self.hairpin = hairpin;
        self
    }

    /// The same NAT with another life time of its mappings.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same NAT with another refresh direction.
    #[must_use]
    pub const fn with_refresh(mut self, refresh: Refresh) -> Self {
        self.refresh = refresh;
        self
    }

    /// The same NAT on a router that treats unsolicited packets differently.
    #[must_use]
    pub const fn with_unsolicited(mut self, unsolicited: Unsolicited) -> Self {
        self.unsolicited = unsolicited;
        self
    }
}

impl Behaviour {
    pub(crate) fn scope(self, remote: SocketAddr) -> Scope {
        match self {
            Self::EndpointIndependent => Scope::Any,
            Self::AddressDependent => Scope::Address(remote.ip()),
            Self::AddressAndPortDependent => Scope::Endpoint(remote),
        }
    }
}

impl Nat {
    /// A NAT without mappings. `external` are its addresses outside.
    ///
    /// # Panics
    /// If `external` is empty.
    #[must_use]
    pub fn new(config: NatConfig, external: Vec<IpAddr>, seed: [u8; 32]) -> Self {
        assert!(!external.is_empty(), "a NAT has an address outside");
        let mut rng = ChaCha12Rng::from_seed(seed);
        Self {
            config,
            external,
            next_port: rng.random_range(PORT_MIN..=PORT_MAX),
            rng,
            endpoint_by_key: BTreeMap::new(),
            mapping_by_endpoint: BTreeMap::new(),
            claims: BTreeMap::new(),
            address_index_by_host: BTreeMap::new(),
        }
    }

    /// Translates a packet from inside: returns its source as seen outside.
    ///
    /// # Errors
    /// [`Refusal::Exhausted`] when no external port is free.
    pub fn handle_outbound(
        &mut self,
        now: Instant,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<Outbound, Refusal> {
        let mut key = Key {
            protocol,
            internal: from,
            scope: self.config.mapping.scope(to),
        };
        let mut found = self.endpoint_of(now, key);
        if found.is_some_and(|external| self.is_claimed(now, external, to)) {
            key.scope = Scope::Endpoint(to);
            found = self.endpoint_of(now, key);
        }
        let (external, created) = match found {
            Some(external) => (external, Created::Existing),
            None => (self.create(now, key, to)?, Created::New),
        };
        let expires = now + self.timeout(protocol);
        let mapping = self
            .mapping_by_endpoint
            .get_mut(&external)
            .expect("just found or created");
        if created == Created::New || self.config.refresh != Refresh::Inbound {
            mapping.expires = expires;
        }
        mapping.admit(now, self.config.filtering.scope(to), expires);
        Ok(Outbound {
            external: external.1,
            created,
        })
    }

    /// Translates a packet from outside: returns the internal endpoint that it is for.
    ///
    /// # Errors
    /// [`Refusal::NoMapping`] or [`Refusal::Filtered`].
    pub fn handle_inbound(
        &mut self,
        now: Instant,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<SocketAddr, Refusal> {
        let admitted = self.admit_inbound(now, (protocol, to), from);
        if admitted.is_err() && self.config.unsolicited == Unsolicited::Claim {
            self.claims.retain(|_, expires| *expires > now);
            if self.claims.len() < CLAIMS_MAX {
                self.claims
                    .insert(((protocol, to), from), now + CLAIM_TIMEOUT);
            }
        }
        admitted
    }

    /// Turns a packet from inside to one of our external endpoints around: returns source and
    /// destination as the receiver inside sees them.
    ///
    /// # Errors
    /// [`Refusal::NoHairpin`] when the NAT does not do it, else as in both directions.
    pub fn handle_hairpin(
        &mut self,
        now: Instant,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<(SocketAddr, SocketAddr), Refusal> {
        if self.config.hairpin == Hairpin::Off {
            return Err(Refusal::NoHairpin);
        }
        let external = self.handle_outbound(now, protocol, from, to)?.external;
        let receiver = self.handle_inbound(now, protocol, external, to)?;
        let source = match self.config.hairpin {
            Hairpin::InternalSource => from,
            Hairpin::ExternalSource | Hairpin::Off => external,
        };
        Ok((source, receiver))
    }

    /// Forgets every mapping, filter and claim, as a power cut does.
    pub fn reboot(&mut self) {
        self.endpoint_by_key.clear();
        self.mapping_by_endpoint.clear();
        self.claims.clear();
        // New mappings of a rebooted NAT are elsewhere unless the port rule says otherwise.
        self.next_port = self.rng.random_range(PORT_MIN..=PORT_MAX);
    }

    /// The addresses outside.
    #[must_use]
    pub fn external(&self) -> &[IpAddr] {
        &self.external
    }

    fn endpoint_of(&mut self, now: Instant, key: Key) -> Option<External> {
        let external = *self.endpoint_by_key.get(&key)?;
        if self
            .mapping_by_endpoint
            .get(&external)
            .is_some_and(|mapping| mapping.expires > now)
        {
            return Some(external);
        }
        self.mapping_by_endpoint.remove(&external);
        self.endpoint_by_key.remove(&key);
        None
    }

    fn admit_inbound(
        &mut self,
        now: Instant,
        external: External,
        from: SocketAddr,
    ) -> Result<SocketAddr, Refusal> {
        let refreshed = now + self.timeout(external.0);
        let mapping = self
            .mapping_by_endpoint
            .get_mut(&external)
            .filter(|mapping| mapping.expires > now)
            .ok_or(Refusal::NoMapping)?;
        let scope = self.config.filtering.scope(from);
        if mapping
            .expiry_by_admitted
            .get(&scope)
            .is_none_or(|expires| *expires <= now)
        {
            return Err(Refusal::Filtered);
        }
        if self.config.refresh != Refresh::Outbound {
            mapping.expires = refreshed;
            mapping.admit(now, scope, refreshed);
        }
        Ok(mapping.key.internal)
    }

    fn timeout(&self, protocol: Protocol) -> Duration {
        match protocol {
            Protocol::Udp => self.config.timeout,
            Protocol::Tcp => TCP_TIMEOUT,
        }
    }

    fn is_claimed(&self, now: Instant, external: External, remote: SocketAddr) -> bool {
        self.claims
            .get(&(external, remote))
            .is_some_and(|expires| *expires > now)
    }

    fn create(&mut self, now: Instant, key: Key, to: SocketAddr) -> Result<External, Refusal> {
        self.mapping_by_endpoint
            .retain(|_, mapping| mapping.expires > now);
        let live = &self.mapping_by_endpoint;
        self.endpoint_by_key
            .retain(|_, external| live.contains_key(external));
        if self.mapping_by_endpoint.len() >= MAPPINGS_MAX {
            return Err(Refusal::Exhausted);
        }
        let external = self.allocate(now, key.protocol, key.internal, to)?;
        let mapping = Mapping {
            key,
            expires: now,
            expiry_by_admitted: BTreeMap::new(),
        };
        self.mapping_by_endpoint.insert(external, mapping);
        self.endpoint_by_key.insert(key, external);
        Ok(external)
    }

    /// Chooses a free external endpoint: the port rule says where to start, and then upwards.
    fn allocate(
        &mut self,
        now: Instant,
        protocol: Protocol,
        internal: SocketAddr,
        to: SocketAddr,
    ) -> Result<External, Refusal> {
        let next_host = self.address_index_by_host.len() % self.external.len();
        let index = *self
            .address_index_by_host
            .entry(internal.ip())
            .or_insert(next_host);
        let address = self.external[index];
        let first = match self.config.ports {
            PortRule::Preserving => internal.port().max(PORT_MIN),
            PortRule::Sequential => self.next_port,
            PortRule::Random => self.rng.random_range(PORT_MIN..=PORT_MAX),
            PortRule::Contiguous { offset } => port_after(internal.port(), offset),
        };
        let external = (0..=PORT_MAX - PORT_MIN)
            .map(|step| (protocol, SocketAddr::new(address, port_after(first, step))))
            .find(|external| {
                !self.mapping_by_endpoint.contains_key(external)
                    && !self.is_claimed(now, *external, to)
            })
            .ok_or(Refusal::Exhausted)?;
        self.next_port = port_after(external.1.port(), 1);
        Ok(external)
    }
}

impl Mapping {
    fn admit(&mut self, now: Instant, scope: Scope, expires: Instant) {
        if self.expiry_by_admitted.len() >= ADMITTED_MAX {
            self.expiry_by_admitted.retain(|_, expires| *expires > now);
        }
        let full = self.expiry_by_admitted.len() >= ADMITTED_MAX;
        if !full || self.expiry_by_admitted.contains_key(&scope) {
            self.expiry_by_admitted.insert(scope, expires);
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMapping => "no mapping",
            Self::Filtered => "filtered",
            Self::NoHairpin => "no hairpinning",
            Self::Exhausted => "no free port",
        })
    }
}

/// The port `steps` after `port` in the circle of external ports.
fn port_after(port: u16, steps: u16) -> u16 {
    let span = u32::from(PORT_MAX - PORT_MIN) + 1;
    let position = u32::from(port.max(PORT_MIN) - PORT_MIN) + u32::from(steps);
    PORT_MIN + u16::try_from(position % span).expect("a remainder of the span is a port")
}

const PORT_MIN: u16 = 1024;
const PORT_MAX: u16 = u16::MAX;
const MAPPINGS_MAX: usize = 16_384;
const ADMITTED_MAX: usize = 1024;
const CLAIMS_MAX: usize = 1024;
const TCP_TIMEOUT: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// The life of an unanswered UDP entry in a Linux connection tracker.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(30);
