//! Which shard has which relayed address.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU16, Ordering},
};

use tombolo_turn::server::{Carrier, RelayAddr, ShardIndex};

use crate::socket::SharedNumbers;

/// All shards of a relay know from it whose a relayed address is, without asking each other. Where
/// packets are steered, the kernel knows it from the same memory.
pub(crate) struct PortOwners {
    /// The relay IPs, IPv4 and IPv6.
    ips: [Option<IpAddr>; FAMILIES],
    numbers: Numbers,
    /// For each family and port, whether a relayed address for TCP listens there.
    listeners: Box<[AtomicBool]>,
    /// Ports that others had when the relay started; where addresses are not bound, nothing else
    /// keeps the relay from taking them away.
    avoided: BTreeSet<u16>,
}

/// For each family and port, one more than the number of the shard that has it, or 0.
enum Numbers {
    Own(Box<[AtomicU16]>),
    Shared(SharedNumbers),
}

impl PortOwners {
    /// Nobody has any of the addresses on `ips`, of which there is one for each family at most.
    pub(crate) fn new(ips: &[IpAddr]) -> Self {
        let numbers = (0..NUMBERS).map(|_| AtomicU16::new(0)).collect();
        Self {
            ips: by_family(ips),
            numbers: Numbers::Own(numbers),
            listeners: no_listeners(),
            avoided: BTreeSet::new(),
        }
    }

    /// Like [`Self::new`], in memory of [`Self::NUMBERS`] zeros that others may look at, and without
    /// the ports in `avoided`.
    pub(crate) fn shared(ips: &[IpAddr], numbers: SharedNumbers, avoided: BTreeSet<u16>) -> Self {
        Self {
            ips: by_family(ips),
            numbers: Numbers::Shared(numbers),
            listeners: no_listeners(),
            avoided,
        }
    }

    /// How many numbers there are.
    pub(crate) const NUMBERS: usize = NUMBERS;

    /// Whether a shard can take an address to relay UDP or TCP, unless another one is faster.
    pub(crate) fn is_free(&self, address: RelayAddr, carrier: Carrier) -> bool {
        match carrier {
            Carrier::Udp => {
                let number = self.number(address.0);
                number.is_some_and(|number| number.load(Ordering::Relaxed) == 0)
                    && !self.avoided.contains(&address.0.port())
            }
            Carrier::Tcp => {
                let place = self.place(address.0);
                place.is_some_and(|place| !self.listeners[place].load(Ordering::Relaxed))
            }
        }
    }

    /// Takes an address for a shard; `false` if one has it already.
    pub(crate) fn claim(&self, address: RelayAddr, shard: ShardIndex) -> bool {
        let Some(number) = self.number(address.0) else {
            return false;
        };
        if self.avoided.contains(&address.0.port()) {
            return false;
        }
        let owner = u16::from(shard.0) + 1;
        number
            .compare_exchange(0, owner, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    /// Gives an address back.
    pub(crate) fn release(&self, address: RelayAddr) {
        if let Some(number) = self.number(address.0) {
            number.store(0, Ordering::Release);
        }
    }

    /// Returns the shard that has a relayed address; `None` for addresses that nobody has and for
    /// those of others.
    pub(crate) fn owner(&self, address: SocketAddr) -> Option<ShardIndex> {
        let owner = self.number(address)?.load(Ordering::Relaxed);
        Some(ShardIndex(u8::try_from(owner.checked_sub(1)?).ok()?))
    }

    /// Takes an address to listen at for TCP; `false` if a shard has it already.
    pub(crate) fn claim_listener(&self, address: RelayAddr) -> bool {
        let place = self.place(address.0);
        place.is_some_and(|place| !self.listeners[place].swap(true, Ordering::AcqRel))
    }

    /// Gives such an address back.
    pub(crate) fn release_listener(&self, address: RelayAddr) {
        if let Some(place) = self.place(address.0) {
            self.listeners[place].store(false, Ordering::Release);
        }
    }

    /// Whether something at an address that is no relayed one is to be left in peace. Only relayed
    /// addresses are meant to be reached at a relay IP: services of this machine may trust whoever
    /// comes from there. Loopback IPs belong to all programs, other relays among them.
    pub(crate) fn guards(&self, address: SocketAddr) -> bool {
        !address.ip().is_loopback() && self.place(address).is_some()
    }

    /// Whether connections may be made to an address.
    pub(crate) fn may_connect(&self, address: SocketAddr) -> bool {
        let listens = |place: usize| self.listeners[place].load(Ordering::Acquire);
        !self.guards(address) || self.place(address).is_some_and(listens)
    }

    fn number(&self, address: SocketAddr) -> Option<&AtomicU16> {
        let numbers: &[AtomicU16] = match &self.numbers {
            Numbers::Own(numbers) => numbers,
            Numbers::Shared(numbers) => numbers,
        };
        numbers.get(self.place(address)?)
    }

    /// Where what is known of an address is found, if it is on a relay IP.
    fn place(&self, address: SocketAddr) -> Option<usize> {
        let family = usize::from(address.is_ipv6());
        let is_ours = self.ips[family] == Some(address.ip());
        is_ours.then(|| family * PORTS + usize::from(address.port()))
    }
}

fn no_listeners() -> Box<[AtomicBool]> {
    (0..NUMBERS).map(|_| AtomicBool::new(false)).collect()
}

fn by_family(ips: &[IpAddr]) -> [Option<IpAddr>; FAMILIES] {
    [true, false].map(|is_v4| ips.iter().copied().find(|ip| ip.is_ipv4() == is_v4))
}

const FAMILIES: usize = 2;
const PORTS: usize = 1 << 16;
const NUMBERS: usize = FAMILIES * PORTS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_owner_until_it_is_given_back() {
        let owners = PortOwners::new(&["192.0.2.1", "2001:db8::1"].map(ip));
        for address in ["192.0.2.1:50000", "[2001:db8::1]:50000"] {
            let address: SocketAddr = address.parse().expect("a literal");
            assert_eq!(owners.owner(address), None);
            assert!(owners.claim(RelayAddr(address), ShardIndex(0)));
            assert!(!owners.claim(RelayAddr(address), ShardIndex(1)));
            assert_eq!(owners.owner(address), Some(ShardIndex(0)));
            owners.release(RelayAddr(address));
            assert!(owners.claim(RelayAddr(address), ShardIndex(254)));
            assert_eq!(owners.owner(address), Some(ShardIndex(254)));
        }
    }

    #[test]
    fn only_relayed_addresses_are_reached_at_a_relay_ip_unless_it_is_everybodys() {
        let owners = PortOwners::new(&["192.0.2.1", "::1"].map(ip));
        let address = |text: &str| -> SocketAddr { text.parse().expect("a literal") };
        for (text, is_guarded) in [
            ("192.0.2.1:50000", true),
            ("192.0.2.2:50000", false),
            ("[::1]:50000", false),
        ] {
            let address = address(text);
            assert_eq!(owners.guards(address), is_guarded, "{text}");
            assert_eq!(owners.may_connect(address), !is_guarded, "{text}");
        }
        let listening = address("192.0.2.1:50000");
        assert!(owners.claim_listener(RelayAddr(listening)));
        assert!(!owners.claim_listener(RelayAddr(listening)), "one has it");
        assert!(owners.may_connect(listening));
        assert!(!owners.may_connect(address("192.0.2.1:50001")));
        owners.release_listener(RelayAddr(listening));
        assert!(!owners.may_connect(listening));
    }

    #[test]
    fn a_relayed_address_for_tcp_has_one_owner_too() {
        let owners = PortOwners::new(&["192.0.2.1", "2001:db8::1"].map(ip));
        for text in ["192.0.2.1:50000", "[2001:db8::1]:50000"] {
            let address = RelayAddr(text.parse().expect("a literal"));
            assert!(owners.claim_listener(address));
            assert!(!owners.claim_listener(address), "one has it");
            owners.release_listener(address);
            assert!(owners.claim_listener(address));
        }
    }

    #[test]
    fn addresses_on_other_ips_are_nobodys() {
        let owners = PortOwners::new(&[ip("192.0.2.1")]);
        for address in ["192.0.2.2:50000", "[2001:db8::1]:50000"] {
            let address: SocketAddr = address.parse().expect("a literal");
            assert!(!owners.claim(RelayAddr(address), ShardIndex(0)));
            assert_eq!(owners.owner(address), None);
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a literal")
    }
}
