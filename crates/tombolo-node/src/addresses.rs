//! Which addresses a node binds, and which it tells others.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// An address that is bound, and the one under which others reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) bound: IpAddr,
    /// Differs behind a 1:1 NAT.
    pub(crate) advertised: IpAddr,
}

/// The addresses of a node in the order of advertisement, none unspecified, no two bound alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses(Vec<Address>);

impl Addresses {
    /// Puts concrete addresses of this machine for unspecified ones, and `public` for those that
    /// are bound.
    ///
    /// # Errors
    ///
    /// The system does not tell its addresses.
    pub(crate) fn resolve(listen: &[IpAddr], public: Option<IpAddr>) -> io::Result<Self> {
        let of_machine = if listen.iter().any(IpAddr::is_unspecified) {
            of_machine()?
        } else {
            Vec::new()
        };
        Ok(Self::new(listen, public, &of_machine))
    }

    fn new(listen: &[IpAddr], public: Option<IpAddr>, of_machine: &[IpAddr]) -> Self {
        let mut seen = BTreeSet::new();
        let bound = listen.iter().flat_map(|ip| {
            if ip.is_unspecified() {
                of_machine
                    .iter()
                    .filter(|other| other.is_ipv4() == ip.is_ipv4())
                    .collect()
            } else {
                vec![ip]
            }
        });
        let addresses = bound.filter(|ip| seen.insert(**ip)).map(|ip| Address {
            bound: *ip,
            advertised: public
                .filter(|public| stands_for(*public, *ip))
                .unwrap_or(*ip),
        });
        Self(addresses.collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether that address is told for one that is listened on.
    pub(crate) fn tells(&self, public: IpAddr) -> bool {
        let mut advertised = self.0.iter().map(|address| address.advertised);
        advertised.any(|ip| ip == public)
    }

    pub(crate) fn bound(&self) -> Vec<IpAddr> {
        self.0.iter().map(|address| address.bound).collect()
    }

    /// All names of the node in addresses, for its certificate.
    pub(crate) fn all(&self) -> BTreeSet<IpAddr> {
        self.0
            .iter()
            .flat_map(|address| [address.bound, address.advertised])
            .collect()
    }

    /// The one address to tell where there is room for one.
    pub(crate) fn best(&self) -> Option<IpAddr> {
        Some(self.advertised().next()?.advertised)
    }

    /// What to relay from: the best address of each family, as bound.
    pub(crate) fn relaying(&self) -> Vec<Address> {
        let first = |is_v4| {
            self.advertised()
                .find(|address| address.bound.is_ipv4() == is_v4)
        };
        [first(true), first(false)]
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    /// The address to tell for a bound one, if it is worth telling.
    pub(crate) fn advertised_for(&self, bound: IpAddr) -> Option<IpAddr> {
        let address = self.advertised().find(|address| address.bound == bound)?;
        Some(address.advertised)
    }

    /// Those worth telling others: loopback only when there is nothing else.
    pub(crate) fn advertised(&self) -> impl Iterator<Item = &Address> {
        let is_local = self
            .0
            .iter()
            .all(|address| address.advertised.is_loopback());
        self.0
            .iter()
            .filter(move |address| is_local || !address.advertised.is_loopback())
    }
}

fn stands_for(public: IpAddr, bound: IpAddr) -> bool {
    public.is_ipv4() == bound.is_ipv4() && !bound.is_loopback()
}

/// The addresses of this machine's interfaces, the one towards the internet first and loopback
/// last. Link-local ones are left out: they mean nothing without an interface.
fn of_machine() -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = if_addrs::get_if_addrs()?
        .into_iter()
        .filter(|interface| !interface.is_link_local())
        .map(|interface| interface.ip())
        .collect();
    let towards_internet = [INTERNET_V4.into(), INTERNET_V6.into()].map(source_towards);
    addresses.sort_by_key(|ip| (ip.is_loopback(), !towards_internet.contains(&Some(*ip))));
    Ok(addresses)
}

/// The address that packets to `destination` would come from. Nothing is sent.
fn source_towards(destination: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket
        .connect(SocketAddr::new(destination, DISCARD_PORT))
        .ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Documentation addresses (RFC 5737, RFC 3849): they follow the default route and are nobody's.
const INTERNET_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const INTERNET_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const DISCARD_PORT: u16 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_stands_for_the_machines_addresses_of_its_family() {
        let machine = ips(&["192.168.1.5", "2001:db8::5", "127.0.0.1", "::1"]);
        let addresses = Addresses::new(&ips(&["0.0.0.0"]), None, &machine);
        assert_eq!(addresses.bound(), ips(&["192.168.1.5", "127.0.0.1"]));
        assert_eq!(advertised(&addresses), ips(&["192.168.1.5"]));
        let addresses = Addresses::new(&ips(&["::1", "::"]), None, &machine);
        assert_eq!(addresses.bound(), ips(&["::1", "2001:db8::5"]));
        assert_eq!(advertised(&addresses), ips(&["2001:db8::5"]));
    }

    #[test]
    fn loopback_is_told_when_there_is_nothing_else() {
        let addresses = Addresses::new(&ips(&["127.0.0.1", "127.0.0.1"]), None, &[]);
        assert_eq!(advertised(&addresses), ips(&["127.0.0.1"]));
    }

    #[test]
    fn a_public_address_is_told_for_the_ones_behind_it() {
        let listen = ips(&["10.0.0.5", "2001:db8::5"]);
        let addresses = Addresses::new(&listen, Some([198, 51, 100, 7].into()), &[]);
        assert_eq!(addresses.bound(), listen);
        assert_eq!(
            advertised(&addresses),
            ips(&["198.51.100.7", "2001:db8::5"])
        );
        assert_eq!(addresses.all().len(), 3);
    }

    fn advertised(addresses: &Addresses) -> Vec<IpAddr> {
        addresses
            .advertised()
            .map(|address| address.advertised)
            .collect()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect()
    }
}
