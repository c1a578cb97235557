//! The layout of a lab on paper: namespaces, links, addresses, routes and rules.
//!
//! Public networks use the documentation ranges only (RFC 5737, RFC 3849). Site number `n` owns
//! sixteen IPv4 addresses, `203.0.113.16k/28` for even and `198.51.100.16k/28` for odd `n = 2k(+1)`:
//! the first eight are the link to the internet, the last eight its devices' when there is no NAT.
//! Its IPv6 prefix is `2001:db8:(n+1)::/48`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::error::LabError;
use crate::nat::{Nat, Profile};

/// A place on the internet: a router, and devices behind it.
#[derive(Clone, Debug)]
pub struct Site {
    pub(crate) name: String,
    pub(crate) nat: Nat,
    behind: Option<Nat>,
    devices: usize,
    dual_stack: bool,
    isolated: bool,
}

impl Site {
    /// A site with one device behind `nat`. Names are short, of `[a-z0-9]`, unique in a lab.
    pub fn new(name: &str, nat: impl Into<Nat>) -> Self {
        Self {
            name: name.to_owned(),
            nat: nat.into(),
            behind: None,
            devices: 1,
            dual_stack: false,
            isolated: false,
        }
    }

    /// Puts the site's router behind a second one, as a carrier's NAT does.
    #[must_use]
    pub fn behind(mut self, carrier: impl Into<Nat>) -> Self {
        self.behind = Some(carrier.into());
        self
    }

    /// Sets the number of devices, 1 to 5.
    #[must_use]
    pub fn devices(mut self, count: usize) -> Self {
        self.devices = count;
        self
    }

    /// Adds IPv6, behind a firewall that lets only replies in (open for [`Profile::NoNat`]).
    #[must_use]
    pub fn dual_stack(mut self) -> Self {
        self.dual_stack = true;
        self
    }

    /// Keeps the devices of the site from reaching each other inside, as guest networks do.
    #[must_use]
    pub fn isolated(mut self) -> Self {
        self.isolated = true;
        self
    }

    fn check(&self) -> Result<(), LabError> {
        let refuse = |reason| {
            Err(LabError::Layout {
                site: self.name.clone(),
                reason,
            })
        };
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if self.name.is_empty() || self.name.len() > 16 || !self.name.chars().all(is_plain) {
            return refuse("a name has 1 to 16 characters of [a-z0-9]");
        }
        if ["net", "node"].contains(&self.name.as_str()) {
            return refuse("the name is the lab's own");
        }
        if !(1..=DEVICES_MAX).contains(&self.devices) {
            return refuse("a site has 1 to 5 devices");
        }
        if self.behind.is_some() && (self.has_ipv6() || self.nat.profile == Profile::NoNat) {
            return refuse("a nested site translates IPv4 and has no IPv6");
        }
        Ok(())
    }

    fn has_ipv6(&self) -> bool {
        self.dual_stack || self.nat.profile == Profile::Ipv6Firewall
    }
}

/// A namespace to make, and what to tell it.
#[derive(Debug, Default)]
pub(crate) struct SpacePlan {
    /// Name without the lab's prefix.
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) settings: Vec<(&'static str, String)>,
    /// Lines for `ip -batch -`, after all links exist.
    pub(crate) ip: Vec<String>,
    /// Rules for `nft -f -`; empty for none.
    pub(crate) rules: String,
}

/// A virtual cable between two namespaces, each end a space's name and an interface's.
#[derive(Debug)]
pub(crate) struct Cable {
    pub(crate) left: (String, String),
    pub(crate) right: (String, String),
}

/// Where a site lies.
#[derive(Debug)]
pub(crate) struct SitePlan {
    pub(crate) name: String,
    /// The outermost router's space.
    pub(crate) router: String,
    /// All routers, outermost first, with whether they learn owners of ports.
    pub(crate) routers: Vec<(String, bool)>,
    pub(crate) devices: Vec<String>,
    /// The public prefixes that the site's packets come from.
    pub(crate) prefixes: Vec<Prefix>,
}

/// A network: an address and the length of its fixed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) address: IpAddr,
    pub(crate) bits: u8,
}

impl Prefix {
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                network.to_bits() >> shift == address.to_bits() >> shift
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                network.to_bits() >> shift == address.to_bits() >> shift
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The whole layout.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) spaces: Vec<SpacePlan>,
    pub(crate) cables: Vec<Cable>,
    pub(crate) sites: Vec<SitePlan>,
}

impl Plan {
    /// Lays out the internet, one node and the sites.
    pub(crate) fn new(sites: &[Site], node_addresses: usize) -> Result<Self, LabError> {
        let mut plan = Self {
            spaces: Vec::new(),
            cables: Vec::new(),
            sites: Vec::new(),
        };
        plan.spaces.push(internet());
        plan.add_node(node_addresses);
        for (index, site) in sites.iter().enumerate() {
            site.check()?;
            let refuse = |reason| {
                Err(LabError::Layout {
                    site: site.name.clone(),
                    reason,
                })
            };
            if sites[..index].iter().any(|other| other.name == site.name) {
                return refuse("the name is taken");
            }
            let Some(number) = u8::try_from(index)
                .ok()
                .filter(|number| *number < SITES_MAX)
            else {
                return refuse("a lab has at most 32 sites");
            };
            plan.add_site(site, number);
        }
        Ok(plan)
    }

    fn add_node(&mut self, addresses: usize) {
        self.cable(("net", "node"), ("node", "eth0"));
        let net = &mut self.spaces[NET];
        net.ip.push("link set node up".to_owned());
        net.ip
            .push(format!("address add {NODE_GATEWAY_V4}/24 dev node"));
        net.ip
            .push(format!("address add {NODE_GATEWAY_V6}/64 dev node nodad"));
        let mut node = SpacePlan::new("node");
        let count = addresses.clamp(1, 2);
        node.up("eth0");
        for address in &NODE_V4[..count] {
            node.address("eth0", IpAddr::V4(*address), 24);
        }
        for address in &NODE_V6[..count] {
            node.address("eth0", IpAddr::V6(*address), 64);
        }
        node.ip
            .push(format!("route add default via {NODE_GATEWAY_V4}"));
        node.ip
            .push(format!("route add ::/0 via {NODE_GATEWAY_V6}"));
        self.spaces.push(node);
    }

    fn add_site(&mut self, site: &Site, number: u8) {
        let at = Addressing::new(number);
        let outer_name = if site.behind.is_some() {
            "carrier"
        } else {
            "router"
        };
        let outer = format!("{}-{outer_name}", site.name);
        let nat = site.behind.as_ref().unwrap_or(&site.nat);
        self.link_to_internet(site, &at, &outer);
        let mut router = SpacePlan::new(&outer);
        router.route_packets();
        router.uplink(site, &at);
        router.apply(nat, nat.profile.has_ipv4().then_some(at.wan));

        let mut routers = vec![(outer.clone(), nat.learns())];
        let mut lan = at.lan(nat);
        let mut last = outer.clone();
        if site.behind.is_some() {
            router.bridge(&[(at.carrier_gateway, 24)]);
            router.port("home0", false);
            self.spaces.push(router);
            last = format!("{}-home", site.name);
            router = SpacePlan::new(&last);
            router.route_packets();
            router.up("wan");
            router.address("wan", IpAddr::V4(at.carrier_home), 24);
            router
                .ip
                .push(format!("route add default via {}", at.carrier_gateway));
            router.apply(&site.nat, Some(at.carrier_home));
            self.cable((&outer, "home0"), (&last, "wan"));
            routers.push((last.clone(), site.nat.learns()));
            lan = at.private_lan();
        }
        lan.keep(site);
        router.bridge(&lan.gateways());
        let devices = self.add_devices(site, &lan, &mut router, &last);
        self.spaces.push(router);
        self.sites.push(SitePlan {
            name: site.name.clone(),
            router: outer,
            routers,
            devices,
            prefixes: vec![
                Prefix {
                    address: IpAddr::V4(at.gateway_network),
                    bits: 28,
                },
                Prefix {
                    address: IpAddr::V6(at.v6(0, 0)),
                    bits: 48,
                },
            ],
        });
    }

    fn link_to_internet(&mut self, site: &Site, at: &Addressing, router: &str) {
        let interface = format!("s{}", at.number);
        self.cable(("net", &interface), (router, "wan"));
        let net = &mut self.spaces[NET];
        net.ip.push(format!("link set {interface} up"));
        net.ip
            .push(format!("address add {}/29 dev {interface}", at.gateway));
        net.ip
            .push(format!("route add {}/29 via {}", at.public_network, at.wan));
        if site.has_ipv6() {
            net.ip.push(format!(
                "address add {}/64 dev {interface} nodad",
                at.v6(0, 1)
            ));
            net.ip
                .push(format!("route add {}/48 via {}", at.v6(0, 0), at.v6(0, 2)));
        }
    }

    fn add_devices(
        &mut self,
        site: &Site,
        lan: &Lan,
        router: &mut SpacePlan,
        router_name: &str,
    ) -> Vec<String> {
        let mut names = Vec::new();
        for index in 0..site.devices {
            let name = format!("{}-{index}", site.name);
            let port = format!("port{index}");
            self.cable((router_name, &port), (&name, "eth0"));
            router.port(&port, site.isolated);
            let mut device = SpacePlan::new(&name);
            if lan.v6.is_none() {
                device.disable_ipv6();
            }
            device.up("eth0");
            if let Some((gateway, bits, first)) = lan.v4 {
                device.address("eth0", IpAddr::V4(offset_v4(first, index)), bits);
                device.ip.push(format!("route add default via {gateway}"));
            }
            if let Some((gateway, first)) = lan.v6 {
                device.address("eth0", IpAddr::V6(offset_v6(first, index)), 64);
                device.ip.push(format!("route add ::/0 via {gateway}"));
            }
            self.spaces.push(device);
            names.push(name);
        }
        names
    }

    fn cable(&mut self, left: (&str, &str), right: (&str, &str)) {
        let own = |(space, interface): (&str, &str)| (space.to_owned(), interface.to_owned());
        self.cables.push(Cable {
            left: own(left),
            right: own(right),
        });
    }
}

impl SpacePlan {
    fn new(name: &str) -> Self {
        let mut plan = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        // Addresses must be usable at once: no duplicate address detection, no router solicitation.
        for (path, value) in [
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
        ] {
            plan.settings.push((path, value.to_owned()));
        }
        plan.up("lo");
        plan
    }

    fn route_packets(&mut self) {
        self.settings.push(("net/ipv4/ip_forward", "1".to_owned()));
        self.settings
            .push(("net/ipv6/conf/all/forwarding", "1".to_owned()));
    }

    fn disable_ipv6(&mut self) {
        self.settings
            .push(("net/ipv6/conf/default/disable_ipv6", "1".to_owned()));
    }

    fn up(&mut self, interface: &str) {
        self.ip.push(format!("link set {interface} up"));
    }

    fn address(&mut self, interface: &str, address: IpAddr, bits: u8) {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        self.ip.push(format!(
            "address add {address}/{bits} dev {interface}{nodad}"
        ));
        self.addresses.push(address);
    }

    fn uplink(&mut self, site: &Site, at: &Addressing) {
        self.up("wan");
        let nat = site.behind.as_ref().unwrap_or(&site.nat);
        if nat.profile.has_ipv4() {
            self.address("wan", IpAddr::V4(at.wan), 29);
            self.ip
                .push(format!("route add default via {}", at.gateway));
        }
        if site.has_ipv6() {
            self.address("wan", IpAddr::V6(at.v6(0, 2)), 64);
            self.ip.push(format!("route add ::/0 via {}", at.v6(0, 1)));
        }
    }

    fn bridge(&mut self, gateways: &[(impl ToString, u8)]) {
        // Where the kernel shows bridged packets to the router's rules, neighbours would be
        // filtered and translated like strangers.
        for family in [
            "net/bridge/bridge-nf-call-iptables",
            "net/bridge/bridge-nf-call-ip6tables",
        ] {
            self.settings.push((family, "0".to_owned()));
        }
        self.ip
            .push("link add lan type bridge forward_delay 0".to_owned());
        self.up("lan");
        for (gateway, bits) in gateways {
            let nodad = if *bits == 64 { " nodad" } else { "" };
            self.ip.push(format!(
                "address add {}/{bits} dev lan{nodad}",
                gateway.to_string()
            ));
        }
    }

    fn port(&mut self, interface: &str, isolated: bool) {
        self.ip.push(format!("link set {interface} up master lan"));
        if isolated {
            self.ip.push(format!(
                "link set {interface} type bridge_slave isolated on"
            ));
        }
    }

    fn apply(&mut self, nat: &Nat, wan: Option<Ipv4Addr>) {
        self.rules = nat.ruleset(wan);
        if let Some(timeout) = nat.udp_timeout {
            let seconds = timeout.max(Duration::from_secs(1)).as_secs().to_string();
            self.settings
                .push(("net/netfilter/nf_conntrack_udp_timeout", seconds.clone()));
            self.settings
                .push(("net/netfilter/nf_conntrack_udp_timeout_stream", seconds));
        }
    }
}

/// The addresses of site `number`.
struct Addressing {
    number: u8,
    gateway_network: Ipv4Addr,
    gateway: Ipv4Addr,
    wan: Ipv4Addr,
    public_network: Ipv4Addr,
    carrier_gateway: Ipv4Addr,
    carrier_home: Ipv4Addr,
}

impl Addressing {
    fn new(number: u8) -> Self {
        let [a, b, c] = PUBLIC[usize::from(number % 2)];
        let base = (number / 2) * 16;
        Self {
            number,
            gateway_network: Ipv4Addr::new(a, b, c, base),
            gateway: Ipv4Addr::new(a, b, c, base + 1),
            wan: Ipv4Addr::new(a, b, c, base + 2),
            public_network: Ipv4Addr::new(a, b, c, base + 8),
            carrier_gateway: Ipv4Addr::new(100, 64, number, 1),
            carrier_home: Ipv4Addr::new(100, 64, number, 2),
        }
    }

    fn v6(&self, subnet: u16, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(
            0x2001,
            0xdb8,
            u16::from(self.number) + 1,
            subnet,
            0,
            0,
            0,
            host,
        )
    }

    /// The network behind a router of that kind, in both families.
    fn lan(&self, nat: &Nat) -> Lan {
        let mut lan = self.private_lan();
        if nat.profile == Profile::NoNat {
            let [a, b, c, base] = self.public_network.octets();
            let gateway = Ipv4Addr::new(a, b, c, base + 1);
            lan.v4 = Some((gateway, 29, Ipv4Addr::new(a, b, c, base + 2)));
        }
        lan
    }

    fn private_lan(&self) -> Lan {
        let gateway = Ipv4Addr::new(10, self.number + 1, 0, 1);
        Lan {
            v4: Some((gateway, 24, Ipv4Addr::new(10, self.number + 1, 0, 10))),
            v6: Some((self.v6(1, 1), self.v6(1, 0x10))),
        }
    }
}

/// A site's inner network: gateway, prefix length and first device of each family.
struct Lan {
    v4: Option<(Ipv4Addr, u8, Ipv4Addr)>,
    v6: Option<(Ipv6Addr, Ipv6Addr)>,
}

impl Lan {
    /// Drops the families that the site does not have.
    fn keep(&mut self, site: &Site) {
        self.v4 = self.v4.filter(|_| site.nat.profile.has_ipv4());
        self.v6 = self.v6.filter(|_| site.has_ipv6());
    }

    fn gateways(&self) -> Vec<(IpAddr, u8)> {
        let v4 = self
            .v4
            .map(|(gateway, bits, _)| (IpAddr::V4(gateway), bits));
        let v6 = self.v6.map(|(gateway, _)| (IpAddr::V6(gateway), 64));
        v4.into_iter().chain(v6).collect()
    }
}

/// The internet: forwards between public networks and loses what is addressed to private ones.
fn internet() -> SpacePlan {
    let mut net = SpacePlan::new("net");
    net.route_packets();
    for private in [
        "10.0.0.0/8",
        "100.64.0.0/10",
        "172.16.0.0/12",
        "192.168.0.0/16",
    ] {
        net.ip.push(format!("route add blackhole {private}"));
    }
    net
}

fn offset_v4(first: Ipv4Addr, index: usize) -> Ipv4Addr {
    (0..index).fold(first, |address, _| {
        Ipv4Addr::from_bits(address.to_bits() + 1)
    })
}

fn offset_v6(first: Ipv6Addr, index: usize) -> Ipv6Addr {
    (0..index).fold(first, |address, _| {
        Ipv6Addr::from_bits(address.to_bits() + 1)
    })
}

/// Index of the internet in [`Plan::spaces`].
pub(crate) const NET: usize = 0;
const DEVICES_MAX: usize = 5;
const SITES_MAX: u8 = 32;
const PUBLIC: [[u8; 3]; 2] = [[203, 0, 113], [198, 51, 100]];
const NODE_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NODE_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
const NODE_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 10), Ipv4Addr::new(192, 0, 2, 11)];
const NODE_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10),
    Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x11),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(sites: &[Site]) -> Plan {
        Plan::new(sites, 2).expect("a sound layout")
    }

    #[test]
    fn sites_have_addresses_that_do_not_overlap() {
        let sites: Vec<Site> = (0..SITES_MAX)
            .map(|index| Site::new(&format!("s{index}"), Profile::PortRestricted))
            .collect();
        let plan = plan(&sites);
        for (index, site) in plan.sites.iter().enumerate() {
            for other in &plan.sites[..index] {
                for prefix in &site.prefixes {
                    assert!(
                        !other
                            .prefixes
                            .iter()
                            .any(|taken| taken.contains(prefix.address))
                    );
                }
            }
        }
    }

    #[test]
    fn a_device_without_nat_has_an_address_of_its_sites_public_prefix() {
        let plan = plan(&[Site::new("a", Profile::NoNat).devices(5)]);
        for space in plan
            .spaces
            .iter()
            .filter(|space| plan.sites[0].devices.contains(&space.name))
        {
            assert!(
                plan.sites[0].prefixes[0].contains(space.addresses[0]),
                "{space:?}"
            );
        }
    }

    #[test]
    fn an_ipv6_only_device_has_no_ipv4() {
        let plan = plan(&[Site::new("a", Profile::Ipv6Firewall)]);
        let device = plan
            .spaces
            .iter()
            .find(|space| space.name == "a-0")
            .expect("the device");
        assert!(device.addresses.iter().all(IpAddr::is_ipv6), "{device:?}");
    }

    #[test]
    fn a_nested_site_has_two_routers_outermost_first() {
        let plan = plan(&[Site::new("a", Profile::FullCone).behind(Profile::PortRestricted)]);
        let routers: Vec<&str> = plan.sites[0]
            .routers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(routers, ["a-carrier", "a-home"]);
    }

    #[test]
    fn unsound_sites_are_refused_with_a_reason() {
        for site in [
            Site::new("A", Profile::NoNat),
            Site::new("node", Profile::NoNat),
            Site::new("a", Profile::NoNat).devices(6),
            Site::new("a", Profile::FullCone)
                .behind(Profile::FullCone)
                .dual_stack(),
        ] {
            assert!(matches!(
                Plan::new(&[site], 1),
                Err(LabError::Layout { .. })
            ));
        }
        let twice = [
            Site::new("a", Profile::NoNat),
            Site::new("a", Profile::NoNat),
        ];
        assert!(matches!(Plan::new(&twice, 1), Err(LabError::Layout { .. })));
    }
}
