//! Which shard has which relayed address.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
};

use tombolo_turn::server::{RelayAddr, ShardIndex};

use crate::socket::SharedNumbers;

/// All shards of a relay know from it whose a relayed address is, without asking each other. Where
/// packets are steered, the kernel knows it from the same memory.
pub(crate) struct PortOwners {
    /// The relay IPs, IPv4 and IPv6.
    ips: [Option<IpAddr>; FAMILIES],
    numbers: Numbers,
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
            avoided: BTreeSet::new(),
        }
    }

    /// Like [`Self::new`], in memory of [`Self::NUMBERS`] zeros that others may look at, and without
    /// the ports in `avoided`.
    pub(crate) fn shared(ips: &[IpAddr], numbers: SharedNumbers, avoided: BTreeSet<u16>) -> Self {
        Self {
            ips: by_family(ips),
            numbers: Numbers::Shared(numbers),
            avoided,
        }
    }

    /// How many numbers there are.
    pub(crate) const NUMBERS: usize = NUMBERS;

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

    fn number(&self, address: SocketAddr) -> Option<&AtomicU16> {
        let family = usize::from(address.is_ipv6());
        if self.ips[family] != Some(address.ip()) {
            return None;
        }
        let numbers: &[AtomicU16] = match &self.numbers {
            Numbers::Own(numbers) => numbers,
            Numbers::Shared(numbers) => numbers,
        };
        numbers.get(family * PORTS + usize::from(address.port()))
    }
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
