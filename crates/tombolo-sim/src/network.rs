//! The topology: realms, the routers between them, and the way of a packet through both.
//!
//! A *realm* is one addressing domain. The Internet is realm 0; every router has another realm behind
//! it. A packet goes from its host over the host's link to the hub of its realm, and from there down to
//! a host or inner router that has the destination address, or else up through the realm's own router.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::ChaCha12Rng;

use crate::link::{Crossing, Direction, Link};
use crate::{
    Clock, Created, EventLog, Firewall, FirewallConfig, LinkConfig, Nat, NatConfig, Packet,
    Protocol, Refusal,
};

/// A host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub(crate) usize);

/// A router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(pub(crate) usize);

/// An addressing domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealmId(pub(crate) usize);

impl RealmId {
    /// The realm of global addresses.
    pub const INTERNET: Self = Self(0);
}

/// What a router does with what crosses it.
#[derive(Debug, Clone)]
pub struct RouterConfig {
    /// Translates IPv4; without it the IPv4 addresses behind the router are routed like IPv6 ones.
    pub nat: Option<NatConfig>,
    /// The addresses of the NAT in the outer realm; empty without a NAT.
    pub external: Vec<IpAddr>,
    /// Guards what is routed and not translated.
    pub firewall: Option<FirewallConfig>,
    /// Whether UDP crosses at all.
    pub udp: UdpPolicy,
    /// The link to the outer realm.
    pub uplink: LinkConfig,
}

/// Whether UDP crosses a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdpPolicy {
    /// It does.
    Allowed,
    /// It is dropped in both directions.
    Blocked,
}

/// A packet on its way.
#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    pub(crate) packet: Packet,
    /// The host that sent it.
    pub(crate) origin: HostId,
    /// Counts the packets of the world; copies share it.
    pub(crate) id: u64,
}

/// Where a packet arrives next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Hub(RealmId),
    Router(RouterId),
    Host(HostId),
}

/// A packet and when it arrives where.
pub(crate) type Arrival = (Instant, Place, InFlight);

/// The time, and where to say what happened.
pub(crate) struct Scene<'a> {
    pub(crate) clock: &'a Clock,
    pub(crate) log: &'a mut EventLog,
}

#[derive(Debug)]
pub(crate) struct Network {
    rng: ChaCha12Rng,
    realms: Vec<Realm>,
    routers: Vec<Router>,
    hosts: Vec<HostPlace>,
    cuts: BTreeSet<(HostId, HostId)>,
}

#[derive(Debug, Default)]
struct Realm {
    gateway: Option<RouterId>,
    node_by_address: BTreeMap<IpAddr, Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Host(HostId),
    Router(RouterId),
}

#[derive(Debug)]
struct Router {
    name: String,
    inner: RealmId,
    outer: RealmId,
    nat: Option<Nat>,
    firewall: Option<Firewall>,
    udp: UdpPolicy,
    uplink: Link,
}

#[derive(Debug)]
struct HostPlace {
    name: String,
    realm: RealmId,
    addresses: Vec<IpAddr>,
    link: Link,
}

/// Why a packet went no further.
enum Drop {
    Lost,
    Cut,
    NoRoute,
    UdpBlocked,
    Refused(Refusal),
}

impl Network {
    pub(crate) fn new(rng: ChaCha12Rng) -> Self {
        Self {
            rng,
            realms: vec![Realm::default()],
            routers: Vec::new(),
            hosts: Vec::new(),
            cuts: BTreeSet::new(),
        }
    }

    pub(crate) fn add_router(
        &mut self,
        name: &str,
        outer: RealmId,
        config: RouterConfig,
        nat_seed: [u8; 32],
    ) -> RouterId {
        let id = RouterId(self.routers.len());
        let inner = RealmId(self.realms.len());
        for address in &config.external {
            self.register(outer, *address, Node::Router(id));
        }
        self.realms.push(Realm {
            gateway: Some(id),
            node_by_address: BTreeMap::new(),
        });
        self.routers.push(Router {
            name: name.to_owned(),
            inner,
            outer,
            nat: config
                .nat
                .map(|nat| Nat::new(nat, config.external, nat_seed)),
            firewall: config.firewall.map(Firewall::new),
            udp: config.udp,
            uplink: Link::new(config.uplink),
        });
        id
    }

    pub(crate) fn add_host(
        &mut self,
        name: &str,
        realm: RealmId,
        addresses: &[IpAddr],
        link: LinkConfig,
    ) -> HostId {
        let id = HostId(self.hosts.len());
        for address in addresses {
            self.register_routed(realm, *address, Node::Host(id));
        }
        self.hosts.push(HostPlace {
            name: name.to_owned(),
            realm,
            addresses: addresses.to_vec(),
            link: Link::new(link),
        });
        id
    }

    pub(crate) fn inside(&self, router: RouterId) -> RealmId {
        self.routers[router.0].inner
    }

    pub(crate) fn host_name(&self, host: HostId) -> &str {
        &self.hosts[host.0].name
    }

    pub(crate) fn router_name(&self, router: RouterId) -> &str {
        &self.routers[router.0].name
    }

    pub(crate) fn addresses(&self, host: HostId) -> &[IpAddr] {
        &self.hosts[host.0].addresses
    }

    pub(crate) fn set_host_link(&mut self, host: HostId, config: LinkConfig) {
        self.hosts[host.0].link.config = config;
    }

    pub(crate) fn set_uplink(&mut self, router: RouterId, config: LinkConfig) {
        self.routers[router.0].uplink.config = config;
    }

    pub(crate) fn set_udp(&mut self, router: RouterId, udp: UdpPolicy) {
        self.routers[router.0].udp = udp;
    }

    pub(crate) fn reboot(&mut self, router: RouterId) {
        let router = &mut self.routers[router.0];
        if let Some(nat) = &mut router.nat {
            nat.reboot();
        }
        if let Some(firewall) = &mut router.firewall {
            firewall.reboot();
        }
    }

    pub(crate) fn cut(&mut self, a: HostId, b: HostId) {
        self.cuts.insert((a, b));
        self.cuts.insert((b, a));
    }

    pub(crate) fn heal(&mut self, a: HostId, b: HostId) {
        self.cuts.remove(&(a, b));
        self.cuts.remove(&(b, a));
    }

    /// The fixed part of the delay from `a` to `b`, one way; jitter comes on top.
    pub(crate) fn delay(&self, a: HostId, b: HostId) -> Duration {
        let (above_a, above_b) = (self.ancestors(a), self.ancestors(b));
        let uplinks: Duration = above_a
            .symmetric_difference(&above_b)
            .map(|node| match node {
                Node::Router(router) => self.routers[router.0].uplink.config.delay,
                Node::Host(host) => self.hosts[host.0].link.config.delay,
            })
            .sum();
        uplinks
    }

    /// Takes a packet from the host that sends it.
    pub(crate) fn send(&mut self, scene: &mut Scene<'_>, flight: InFlight) -> Vec<Arrival> {
        let host = &mut self.hosts[flight.origin.0];
        scene.note(format_args!(
            "{} sends #{} {}",
            host.name, flight.id, flight.packet
        ));
        let (now, protocol) = (scene.clock.now(), flight.packet.protocol);
        let crossing = host.link.cross(now, Direction::Up, protocol, &mut self.rng);
        let (place, name) = (Place::Hub(host.realm), host.name.clone());
        arrivals(scene, &name, crossing, place, flight)
    }

    /// Takes a packet where it has arrived and returns where it arrives next: nowhere if it was dropped,
    /// two places if a link duplicated it.
    pub(crate) fn forward(
        &mut self,
        scene: &mut Scene<'_>,
        place: Place,
        mut flight: InFlight,
    ) -> Vec<Arrival> {
        let next = match place {
            Place::Hub(realm) => self.leave_hub(scene, realm, &mut flight),
            Place::Router(router) => self.enter_router(scene, router, &mut flight),
            Place::Host(_) => unreachable!("a packet that reached its host is handed to the actor"),
        };
        let (at, outcome) = next;
        match outcome {
            Ok((crossing, place)) => arrivals(scene, &at, crossing, place, flight),
            Err(Drop::Lost) => unreachable!("links report loss by themselves"),
            Err(reason) => {
                scene.note(format_args!(
                    "{at} drops #{} {}: {reason}",
                    flight.id, flight.packet
                ));
                Vec::new()
            }
        }
    }

    /// From the hub of a realm: down to whoever has the address, else out through the gateway.
    fn leave_hub(
        &mut self,
        scene: &mut Scene<'_>,
        realm: RealmId,
        flight: &mut InFlight,
    ) -> (String, Result<(Crossing, Place), Drop>) {
        let destination = flight.packet.to.ip();
        match self.realms[realm.0]
            .node_by_address
            .get(&destination)
            .copied()
        {
            Some(node) => self.go_down(scene, node, flight),
            None => match self.realms[realm.0].gateway {
                Some(router) => {
                    let outcome = self.leave_router(scene, router, flight);
                    (self.routers[router.0].name.clone(), outcome)
                }
                None => ("internet".to_owned(), Err(Drop::NoRoute)),
            },
        }
    }

    fn go_down(
        &mut self,
        scene: &mut Scene<'_>,
        node: Node,
        flight: &InFlight,
    ) -> (String, Result<(Crossing, Place), Drop>) {
        let is_cut = self.is_cut(flight.origin, node);
        let (name, link, place) = match node {
            Node::Host(id) => {
                let host = &mut self.hosts[id.0];
                (host.name.clone(), &mut host.link, Place::Host(id))
            }
            Node::Router(id) => {
                let router = &mut self.routers[id.0];
                (router.name.clone(), &mut router.uplink, Place::Router(id))
            }
        };
        if is_cut {
            return (name, Err(Drop::Cut));
        }
        let (now, protocol) = (scene.clock.now(), flight.packet.protocol);
        let crossing = link.cross(now, Direction::Down, protocol, &mut self.rng);
        (name, Ok((crossing, place)))
    }

    /// From inside, through the gateway of a realm.
    fn leave_router(
        &mut self,
        scene: &mut Scene<'_>,
        id: RouterId,
        flight: &mut InFlight,
    ) -> Result<(Crossing, Place), Drop> {
        let now = scene.clock.now();
        let router = &mut self.routers[id.0];
        let packet = &mut flight.packet;
        let protocol = packet.protocol;
        if protocol == Protocol::Udp && router.udp == UdpPolicy::Blocked {
            return Err(Drop::UdpBlocked);
        }
        if let Some(nat) = router.nat.as_mut().filter(|_| packet.from.is_ipv4()) {
            if nat.external().contains(&packet.to.ip()) {
                let turned = nat.handle_hairpin(now, protocol, packet.from, packet.to);
                let (from, to) = turned.map_err(Drop::Refused)?;
                scene.note(format_args!("{} turns #{} around", router.name, flight.id));
                (packet.from, packet.to) = (from, to);
                return Ok((Crossing::Arrives(now), Place::Hub(router.inner)));
            }
            let translated = nat.handle_outbound(now, protocol, packet.from, packet.to);
            let translated = translated.map_err(Drop::Refused)?;
            if translated.created == Created::New {
                let (inside, outside) = (packet.from, translated.external);
                let (name, to) = (&router.name, packet.to);
                scene.note(format_args!(
                    "{name} maps {protocol} {inside} to {outside} for {to}"
                ));
            }
            packet.from = translated.external;
        } else if let Some(firewall) = &mut router.firewall {
            firewall.handle_outbound(now, protocol, packet.from, packet.to);
        }
        let crossing = router
            .uplink
            .cross(now, Direction::Up, protocol, &mut self.rng);
        Ok((crossing, Place::Hub(router.outer)))
    }

    /// From outside, into the realm behind a router.
    fn enter_router(
        &mut self,
        scene: &mut Scene<'_>,
        id: RouterId,
        flight: &mut InFlight,
    ) -> (String, Result<(Crossing, Place), Drop>) {
        let now = scene.clock.now();
        let router = &mut self.routers[id.0];
        let Packet {
            protocol, from, to, ..
        } = flight.packet;
        let admitted = if protocol == Protocol::Udp && router.udp == UdpPolicy::Blocked {
            Err(Drop::UdpBlocked)
        } else if let Some(nat) = router
            .nat
            .as_mut()
            .filter(|nat| nat.external().contains(&to.ip()))
        {
            nat.handle_inbound(now, protocol, from, to)
                .map_err(Drop::Refused)
        } else if let Some(firewall) = &mut router.firewall {
            firewall
                .handle_inbound(now, protocol, from, to)
                .map(|()| to)
                .map_err(Drop::Refused)
        } else {
            Ok(to)
        };
        let outcome = admitted.map(|internal: SocketAddr| {
            flight.packet.to = internal;
            (Crossing::Arrives(now), Place::Hub(router.inner))
        });
        (router.name.clone(), outcome)
    }

    /// Whether a packet of `origin` must not go down to `node`: it leads to the other end of a cut path,
    /// and not to the origin itself.
    fn is_cut(&self, origin: HostId, node: Node) -> bool {
        let mut ends = self
            .cuts
            .range((origin, HostId(0))..=(origin, HostId(usize::MAX)));
        ends.any(|(_, other)| {
            self.ancestors(*other).contains(&node) && !self.ancestors(origin).contains(&node)
        })
    }

    /// A host and all the routers between it and the Internet.
    fn ancestors(&self, host: HostId) -> BTreeSet<Node> {
        let mut ancestors = BTreeSet::from([Node::Host(host)]);
        let mut realm = self.hosts[host.0].realm;
        while let Some(router) = self.realms[realm.0].gateway {
            ancestors.insert(Node::Router(router));
            realm = self.routers[router.0].outer;
        }
        ancestors
    }

    /// Makes an address known in its realm and, as far as routers route it without translation, in the
    /// realms outside.
    fn register_routed(&mut self, mut realm: RealmId, address: IpAddr, mut node: Node) {
        loop {
            self.register(realm, address, node);
            let Some(gateway) = self.realms[realm.0].gateway else {
                break;
            };
            let router = &self.routers[gateway.0];
            if router.nat.is_some() && address.is_ipv4() {
                break;
            }
            (realm, node) = (router.outer, Node::Router(gateway));
        }
    }

    fn register(&mut self, realm: RealmId, address: IpAddr, node: Node) {
        let earlier = self.realms[realm.0].node_by_address.insert(address, node);
        assert!(earlier.is_none(), "{address} is used twice in one realm");
    }
}

impl Scene<'_> {
    pub(crate) fn note(&mut self, event: fmt::Arguments<'_>) {
        self.log.record(self.clock.elapsed(), event);
    }
}

fn arrivals(
    scene: &mut Scene<'_>,
    link: &str,
    crossing: Crossing,
    place: Place,
    flight: InFlight,
) -> Vec<Arrival> {
    match crossing {
        Crossing::Lost => {
            let reason = Drop::Lost;
            scene.note(format_args!(
                "{link} drops #{} {}: {reason}",
                flight.id, flight.packet
            ));
            Vec::new()
        }
        Crossing::Arrives(at) => vec![(at, place, flight)],
        Crossing::ArrivesTwice(at, again) => {
            scene.note(format_args!(
                "{link} duplicates #{} {}",
                flight.id, flight.packet
            ));
            vec![(at, place, flight.clone()), (again, place, flight)]
        }
    }
}

impl fmt::Display for Drop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("lost on the link"),
            Self::Cut => f.write_str("the path is cut"),
            Self::NoRoute => f.write_str("no route"),
            Self::UdpBlocked => f.write_str("UDP is blocked"),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}
