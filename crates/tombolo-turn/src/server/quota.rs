//! How much users, realms and networks have of a shard.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Server;
use super::auth::{RealmId, User};
use super::stats::Refusal;

/// Allocations, those in the making, and reservations, by whom they belong to.
#[derive(Default)]
pub(super) struct Quotas {
    used_by_user: BTreeMap<User, usize>,
    used_by_realm: BTreeMap<RealmId, usize>,
    /// Without reservations, which belong to a user but not to an address.
    used_by_network: BTreeMap<Network, usize>,
}

/// The network of a client: IPv4 /24, IPv6 /48.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Network(IpAddr);

impl Network {
    pub(super) fn of(client: SocketAddr) -> Self {
        Self(match client.ip().to_canonical() {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() >> 8 << 8).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 80 << 80).into(),
        })
    }
}

impl Quotas {
    pub(super) fn of_user(&self, user: &User) -> usize {
        self.used_by_user.get(user).copied().unwrap_or(0)
    }

    pub(super) fn of_realm(&self, realm: RealmId) -> usize {
        self.used_by_realm.get(&realm).copied().unwrap_or(0)
    }

    pub(super) fn by_realm(&self) -> impl Iterator<Item = (RealmId, usize)> + '_ {
        self.used_by_realm
            .iter()
            .map(|(realm, used)| (*realm, *used))
    }

    pub(super) fn take(&mut self, user: &User) {
        match self.used_by_user.get_mut(user) {
            Some(used) => *used += 1,
            None => drop(self.used_by_user.insert(user.clone(), 1)),
        }
        *self.used_by_realm.entry(user.realm).or_default() += 1;
    }

    pub(super) fn give_back(&mut self, user: &User) {
        give_back(&mut self.used_by_user, user);
        give_back(&mut self.used_by_realm, &user.realm);
    }

    pub(super) fn take_of_network(&mut self, network: Network) {
        *self.used_by_network.entry(network).or_default() += 1;
    }

    pub(super) fn give_back_to_network(&mut self, network: Network) {
        give_back(&mut self.used_by_network, &network);
    }
}

impl Server {
    /// Tells whether a network may have another allocation.
    pub(super) fn check_network(&self, client: SocketAddr) -> Result<(), Refusal> {
        let network = Network::of(client);
        let used = self.quotas.used_by_network.get(&network).copied();
        if used.unwrap_or(0) >= self.limits.allocations_per_network_max {
            return Err(Refusal::NetworkFull);
        }
        Ok(())
    }
}

fn give_back<K: Ord>(used_by: &mut BTreeMap<K, usize>, key: &K) {
    let Some(used) = used_by.get_mut(key) else {
        debug_assert!(false, "only what was taken is given back");
        return;
    };
    *used -= 1;
    if *used == 0 {
        used_by.remove(key);
    }
}
