//! The laboratory: one node and devices behind NATs, the scene of most tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{RngExt as _, rngs::ChaCha12Rng};
use tombolo_path::{Policy, Route};

use crate::relay::{NodeConfig, RelayHost};
use crate::{
    Actor, DeviceConfig, DeviceHost, FirewallConfig, HostId, LinkConfig, NatConfig, Packet,
    Protocol, RealmId, RouterConfig, RouterId, Seed, Signal, UdpPolicy, World,
};

/// How a device is attached to the Internet.
#[derive(Debug, Clone)]
pub struct Access {
    /// The NATs between the Internet and the device, outermost first.
    pub nats: Vec<NatConfig>,
    /// The address family; NATs translate IPv4 only.
    pub family: Family,
    /// A firewall in front of a device without a NAT.
    pub firewall: Option<FirewallConfig>,
    /// Whether UDP passes.
    pub udp: UdpPolicy,
    /// The link between the Internet and the outermost router, or the device itself without one.
    pub link: LinkConfig,
    /// Which paths the device may use.
    pub policy: Policy,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A world with one node and any number of devices.
#[derive(Debug)]
pub struct Lab {
    world: World<Program>,
    rng: ChaCha12Rng,
    node: HostId,
    devices: Vec<Device>,
}

#[derive(Debug)]
struct Device {
    host: HostId,
    /// The realm that the device is in and its routers, outermost first.
    realm: RealmId,
    routers: Vec<RouterId>,
    access: Access,
}

/// What runs on a host of the laboratory.
#[derive(Debug)]
enum Program {
    Node(Box<RelayHost>),
    Device(Box<DeviceHost>),
}

impl Access {
    /// A global IPv4 address.
    #[must_use]
    pub fn open() -> Self {
        Self {
            nats: Vec::new(),
            family: Family::V4,
            firewall: None,
            udp: UdpPolicy::Allowed,
            link: LinkConfig::new(DEFAULT_DELAY),
            policy: Policy::Any,
        }
    }

    /// A private address behind a NAT.
    #[must_use]
    pub fn behind(nat: NatConfig) -> Self {
        Self {
            nats: vec![nat],
            ..Self::open()
        }
    }

    /// A private address behind a home NAT behind a carrier's.
    #[must_use]
    pub fn behind_two(carrier: NatConfig, home: NatConfig) -> Self {
        Self {
            nats: vec![carrier, home],
            ..Self::open()
        }
    }

    /// A global IPv6 address behind a stateful firewall, and no IPv4.
    #[must_use]
    pub fn ipv6_firewalled() -> Self {
        let firewall = Some(FirewallConfig::default());
        Self {
            family: Family::V6,
            firewall,
            ..Self::open()
        }
    }

    /// The same access without UDP: the device reaches its relay over TCP.
    #[must_use]
    pub fn without_udp(self) -> Self {
        Self {
            udp: UdpPolicy::Blocked,
            ..self
        }
    }

    /// The same access over another link.
    #[must_use]
    pub fn with_link(self, link: LinkConfig) -> Self {
        Self { link, ..self }
    }

    /// The same access for a device that may use only some paths.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }
}

impl Lab {
    /// A node with two IPv4 and two IPv6 addresses, and no device yet.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        let mut world = World::new(seed);
        let ips = [
            IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
            IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
        ];
        let link = LinkConfig::new(NODE_DELAY);
        let node = world.add_host("node", RealmId::INTERNET, &ips, link, |now, _, seed| {
            let config = NodeConfig { ips: ips.to_vec() };
            Program::Node(Box::new(RelayHost::new(&config, seed, now)))
        });
        Self {
            world,
            rng: seed.rng_for("lab"),
            node,
            devices: Vec::new(),
        }
    }

    /// Adds a device with an access of its own. Homes use the same private addresses, as they do.
    ///
    /// # Panics
    /// If there are too many devices, or an IPv6 access with NATs.
    pub fn device(&mut self, name: &str, access: Access) -> HostId {
        assert!(
            access.nats.is_empty() || access.family == Family::V4,
            "there is no NAT for IPv6"
        );
        let number = u8::try_from(self.devices.len()).expect("few devices");
        let mut realm = RealmId::INTERNET;
        let mut routers = Vec::new();
        for (depth, nat) in access.nats.iter().enumerate() {
            let external = match depth {
                0 => Ipv4Addr::new(192, 0, 2, number + 1),
                depth => Ipv4Addr::new(100, 64, u8::try_from(depth).expect("few NATs"), 2),
            };
            let router = self.world.add_router(
                &format!("{name}-nat{depth}"),
                realm,
                RouterConfig {
                    nat: Some(*nat),
                    external: vec![IpAddr::V4(external)],
                    firewall: None,
                    udp: access.udp,
                    uplink: if depth == 0 {
                        access.link
                    } else {
                        LinkConfig::new(INNER_DELAY)
                    },
                },
            );
            realm = self.world.inside(router);
            routers.push(router);
        }
        let is_guarded = access.firewall.is_some() || access.udp == UdpPolicy::Blocked;
        if access.nats.is_empty() && is_guarded {
            let router = self.world.add_router(
                &format!("{name}-firewall"),
                realm,
                RouterConfig {
                    nat: None,
                    external: Vec::new(),
                    firewall: access.firewall,
                    udp: access.udp,
                    uplink: access.link,
                },
            );
            realm = self.world.inside(router);
            routers.push(router);
        }
        let ip = match (access.family, access.nats.is_empty()) {
            (Family::V4, true) => IpAddr::V4(Ipv4Addr::new(198, 51, 100, number + 1)),
            (Family::V4, false) => IpAddr::V4(Ipv4Addr::new(192, 168, 1, 10)),
            (Family::V6, _) => {
                let number = u16::from(number) + 1;
                IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, 0x10))
            }
        };
        let link = if routers.is_empty() {
            access.link
        } else {
            LinkConfig::new(LAN_DELAY)
        };
        self.add_device(name, ip, link, realm, routers, access)
    }

    /// Adds a device to the local network of another one.
    ///
    /// # Panics
    /// If the other one has a global address and so no local network.
    pub fn device_beside(&mut self, name: &str, neighbour: HostId) -> HostId {
        let neighbour = self.entry(neighbour);
        let (realm, routers) = (neighbour.realm, neighbour.routers.clone());
        assert!(
            !neighbour.access.nats.is_empty(),
            "the neighbour is behind a NAT"
        );
        let access = neighbour.access.clone();
        let beside = self
            .devices
            .iter()
            .filter(|device| device.realm == realm)
            .count();
        let last = 10 + u8::try_from(beside).expect("few devices");
        let ip = IpAddr::V4(Ipv4Addr::new(192, 168, 1, last));
        self.add_device(name, ip, LinkConfig::new(LAN_DELAY), realm, routers, access)
    }

    /// Lets time pass until every device is ready to be introduced.
    ///
    /// # Panics
    /// If one is not within ten seconds.
    pub fn get_ready(&mut self) {
        let hosts: Vec<HostId> = self.devices.iter().map(|device| device.host).collect();
        let are_ready = |world: &World<Program>| {
            hosts.iter().all(|host| {
                world
                    .actor(*host)
                    .device()
                    .is_some_and(DeviceHost::is_ready)
            })
        };
        let ready = self.world.run_until(READY_LIMIT, are_ready);
        assert!(
            ready.is_some(),
            "a device has no allocation or no NAT report"
        );
    }

    /// Makes a device introduce itself to another, and both send messages at this pace from then on.
    pub fn connect(&mut self, a: HostId, b: HostId, interval: Duration) {
        self.with_device(a, |now, device| device.connect(now, b));
        self.with_device(a, |now, device| device.start_stream(now, b, interval));
        self.with_device(b, |now, device| device.start_stream(now, a, interval));
    }

    /// Lets time pass until both devices have a direct route to each other, and returns how long that
    /// took; `None` if they have none within `limit`.
    pub fn run_until_direct(&mut self, a: HostId, b: HostId, limit: Duration) -> Option<Duration> {
        self.world.run_until(limit, |world| {
            let is_direct = |from: HostId, to: HostId| {
                let route = world
                    .actor(from)
                    .device()
                    .and_then(|device| device.route(to));
                matches!(route, Some(Route::Direct(_)))
            };
            is_direct(a, b) && is_direct(b, a)
        })
    }

    /// Does something with a device, now.
    ///
    /// # Panics
    /// If the host is not a device's.
    pub fn with_device<R>(
        &mut self,
        host: HostId,
        act: impl FnOnce(Instant, &mut DeviceHost) -> R,
    ) -> R {
        self.world.with_actor(host, |now, program| match program {
            Program::Device(device) => act(now, device),
            Program::Node(_) => panic!("the host is the node's"),
        })
    }

    /// A device, to look at.
    ///
    /// # Panics
    /// If the host is not a device's.
    #[must_use]
    pub fn device_at(&self, host: HostId) -> &DeviceHost {
        self.world
            .actor(host)
            .device()
            .expect("the host is a device's")
    }

    /// The node, to look at.
    ///
    /// # Panics
    /// Never: every laboratory has a node.
    #[must_use]
    pub fn node(&self) -> &RelayHost {
        match self.world.actor(self.node) {
            Program::Node(node) => node,
            Program::Device(_) => unreachable!("the first host is the node's"),
        }
    }

    /// The host of the node.
    #[must_use]
    pub fn node_host(&self) -> HostId {
        self.node
    }

    /// The hosts of the devices, in the order in which they were added.
    pub fn devices(&self) -> impl Iterator<Item = HostId> {
        self.devices.iter().map(|device| device.host)
    }

    /// Whether a device has a local network behind a NAT.
    ///
    /// # Panics
    /// If the host is not a device's.
    #[must_use]
    pub fn is_behind_nat(&self, host: HostId) -> bool {
        !self.entry(host).access.nats.is_empty()
    }

    /// The fixed delay from one host to another, one way.
    #[must_use]
    pub fn delay(&self, from: HostId, to: HostId) -> Duration {
        self.world.delay(from, to)
    }

    /// The round-trip time between two devices without jitter.
    #[must_use]
    pub fn rtt(&self, a: HostId, b: HostId) -> Duration {
        self.world.delay(a, b) * 2
    }

    /// Cuts the direct paths between two devices.
    pub fn cut(&mut self, a: HostId, b: HostId) {
        self.world.cut(a, b);
    }

    /// Ends a [`cut`](Self::cut).
    pub fn heal(&mut self, a: HostId, b: HostId) {
        self.world.heal(a, b);
    }

    /// Reboots all routers in front of a device.
    ///
    /// # Panics
    /// If the host is not a device's.
    pub fn reboot_nats(&mut self, host: HostId) {
        for router in self.entry(host).routers.clone() {
            self.world.reboot(router);
        }
    }

    /// Lets this much time pass.
    pub fn run_for(&mut self, time: Duration) {
        self.world.run_for(time);
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.world.now()
    }

    /// What happened so far.
    #[must_use]
    pub fn log(&self) -> &crate::EventLog {
        self.world.log()
    }

    /// Writes a line of the test's own into the event log.
    pub fn note(&mut self, event: std::fmt::Arguments<'_>) {
        self.world.note(event);
    }

    fn add_device(
        &mut self,
        name: &str,
        ip: IpAddr,
        link: LinkConfig,
        realm: RealmId,
        routers: Vec<RouterId>,
        access: Access,
    ) -> HostId {
        let node = self.node;
        let services = self.node().services(access.family == Family::V4);
        let port = self.rng.random_range(20_000..60_000);
        let turn_protocol = match access.udp {
            UdpPolicy::Allowed => Protocol::Udp,
            UdpPolicy::Blocked => Protocol::Tcp,
        };
        let policy = access.policy;
        let host = self
            .world
            .add_host(name, realm, &[ip], link, |now, host, seed| {
                let turn: SocketAddr = services[0];
                let config = DeviceConfig {
                    host,
                    node,
                    addresses: vec![ip],
                    port,
                    stun: services,
                    turn,
                    turn_protocol,
                    policy,
                };
                Program::Device(Box::new(DeviceHost::new(config, seed, now)))
            });
        self.devices.push(Device {
            host,
            realm,
            routers,
            access,
        });
        host
    }

    fn entry(&self, host: HostId) -> &Device {
        let found = self.devices.iter().find(|device| device.host == host);
        found.expect("the host is a device's")
    }
}

impl Program {
    fn device(&self) -> Option<&DeviceHost> {
        match self {
            Self::Device(device) => Some(device),
            Self::Node(_) => None,
        }
    }

    fn as_actor(&self) -> &dyn Actor<Message = Signal> {
        match self {
            Self::Node(node) => node.as_ref(),
            Self::Device(device) => device.as_ref(),
        }
    }

    fn as_actor_mut(&mut self) -> &mut dyn Actor<Message = Signal> {
        match self {
            Self::Node(node) => node.as_mut(),
            Self::Device(device) => device.as_mut(),
        }
    }
}

impl Actor for Program {
    type Message = Signal;

    fn handle_packet(&mut self, now: Instant, packet: &Packet) {
        self.as_actor_mut().handle_packet(now, packet);
    }

    fn handle_message(&mut self, now: Instant, from: HostId, message: Signal) {
        self.as_actor_mut().handle_message(now, from, message);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.as_actor_mut().handle_timeout(now);
    }

    fn poll_transmit(&mut self) -> Option<Packet> {
        self.as_actor_mut().poll_transmit()
    }

    fn poll_message(&mut self) -> Option<(HostId, Signal)> {
        self.as_actor_mut().poll_message()
    }

    fn poll_note(&mut self) -> Option<String> {
        self.as_actor_mut().poll_note()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.as_actor().poll_timeout()
    }
}

const DEFAULT_DELAY: Duration = Duration::from_millis(20);
const NODE_DELAY: Duration = Duration::from_millis(1);
const INNER_DELAY: Duration = Duration::from_millis(2);
const LAN_DELAY: Duration = Duration::from_millis(1);
const READY_LIMIT: Duration = Duration::from_secs(10);
