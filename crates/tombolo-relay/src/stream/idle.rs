//! Which seat a newcomer gets where all are taken.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Seats that may be given to newcomers, by the region and the network of those who have them.
#[derive(Default)]
pub(super) struct Idle(BTreeMap<IpAddr, Networks>);

/// The numbers of a network's seats: the oldest is in front.
type Networks = BTreeMap<IpAddr, BTreeSet<u64>>;

impl Idle {
    pub(super) fn insert(&mut self, client: IpAddr, number: u64) {
        let networks = self.0.entry(region_of(client)).or_default();
        networks
            .entry(network_of(client))
            .or_default()
            .insert(number);
    }

    pub(super) fn remove(&mut self, client: IpAddr, number: u64) {
        let (region, network) = (region_of(client), network_of(client));
        let Some(networks) = self.0.get_mut(&region) else {
            return;
        };
        let Some(numbers) = networks.get_mut(&network) else {
            return;
        };
        numbers.remove(&number);
        if numbers.is_empty() {
            networks.remove(&network);
        }
        if networks.is_empty() {
            self.0.remove(&region);
        }
    }

    /// The oldest seat of the region that has the most, or else of that network of the newcomer's region.
    /// `None` where the newcomer's own would then have more than the other: those who come all at once
    /// would put each other out for ever.
    pub(super) fn oldest_for(&self, newcomer: Option<IpAddr>) -> Option<u64> {
        let own = newcomer.and_then(|client| self.0.get(&region_of(client)));
        let most = self.0.values().max_by_key(|networks| size(networks))?;
        if size(most) > own.map_or(0, size) + 1 {
            return most.values().filter_map(BTreeSet::first).min().copied();
        }
        let (networks, network) = own.zip(newcomer.map(network_of))?;
        let of_network = networks.get(&network).map_or(0, BTreeSet::len);
        let most = networks.values().max_by_key(|numbers| numbers.len())?;
        let is_more = most.len() > of_network + 1;
        most.first().copied().filter(|_| is_more)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn size(networks: &Networks) -> usize {
    networks.values().map(BTreeSet::len).sum()
}

/// What counts as one source: an IPv4 address, or the /64 that an IPv6 host can choose from.
pub(super) fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// What one party may well have all of: an IPv4 /16 or an IPv6 /40.
pub(super) fn region_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() >> 16 << 16).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 88 << 88).into(),
    }
}
