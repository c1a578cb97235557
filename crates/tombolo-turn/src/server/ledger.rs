//! Who has how much of a shard, and how much they may have.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Server;
use super::allocation::Allocation;
use super::auth::{RealmId, User};
use super::bandwidth::Bandwidth;
use super::stats::Refusal;
use super::table::AllocationId;

/// How much somebody may have at once. What is `None` has no bound here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Allocations, those in the making and reservations included. About 1 KiB each.
    pub allocations: Option<usize>,
    /// Permissions that are in force. About 50 bytes each.
    pub permissions: Option<usize>,
    /// Channels that are bound. About 120 bytes each.
    pub channels: Option<usize>,
    /// TCP connections to peers, those that are being made or wait for their client included (RFC
    /// 6062). About 500 bytes each, and two sockets of the driver's.
    pub connections: Option<usize>,
    /// Bytes per second in each direction. Each allocation counts with what its own [`Bandwidth`]
    /// lets through, whether its client uses it or not; one without such a bound does not count.
    pub bandwidth: Option<u64>,
}

/// What somebody has, of each kind of thing that is counted. See [`Quota`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocations, those in the making and reservations included.
    pub allocations: u32,
    /// Permissions. Those that are over count until `handle_timeout`.
    pub permissions: u32,
    /// Channels. Those that are over count until `handle_timeout`.
    pub channels: u32,
    /// TCP connections to peers.
    pub connections: u32,
    /// Bytes per second that may go in each direction, see [`Quota::bandwidth`].
    pub bandwidth: u64,
}

/// Counts what everybody has, in one book for each kind of holder. An allocation's part is booked
/// by [`Ledger::settle`], which compares what it has with what was booked for it before: so each way
/// in which something begins or ends comes to the same.
#[derive(Default)]
pub(super) struct Ledger {
    total: Usage,
    by_realm: BTreeMap<RealmId, Usage>,
    by_user: BTreeMap<User, Usage>,
    /// Without reservations, which belong to a user but not to an address.
    by_network: BTreeMap<Network, Usage>,
}

/// The network of a client: IPv4 /24, IPv6 /48.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Network(IpAddr);

/// For whom something counts.
#[derive(Clone, Copy)]
pub(super) struct Holder<'a> {
    pub(super) user: &'a User,
    pub(super) network: Option<Network>,
}

/// What holds for one user.
struct Bounds {
    user: Quota,
    realm: Quota,
    network: Quota,
    total: Quota,
}

/// Whose bound it is.
#[derive(Debug, Clone, Copy)]
enum Scope {
    Allocation,
    User,
    Realm,
    Network,
    Total,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Allocation,
    Permission,
    Channel,
    Connection,
    Bandwidth,
}

impl Quota {
    /// Returns this quota with the bounds of `other` where it has none.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            allocations: self.allocations.or(other.allocations),
            permissions: self.permissions.or(other.permissions),
            channels: self.channels.or(other.channels),
            connections: self.connections.or(other.connections),
            bandwidth: self.bandwidth.or(other.bandwidth),
        }
    }

    /// Checks that whoever has `held` may have `more` of what `more` is about.
    fn check(self, scope: Scope, held: Usage, more: Usage) -> Result<(), Refusal> {
        let (bounds, held, more) = (self.by_kind(), held.by_kind(), more.by_kind());
        for (((kind, max), held), more) in bounds.into_iter().zip(held).zip(more) {
            let wanted = held.saturating_add(more);
            if more > 0 && max.is_some_and(|max| wanted > max) {
                return Err(scope.refusal(kind));
            }
        }
        Ok(())
    }

    fn by_kind(self) -> [(Kind, Option<u64>); 5] {
        let count = |max: Option<usize>| max.map(|max| max as u64);
        [
            (Kind::Allocation, count(self.allocations)),
            (Kind::Connection, count(self.connections)),
            (Kind::Channel, count(self.channels)),
            (Kind::Permission, count(self.permissions)),
            (Kind::Bandwidth, self.bandwidth),
        ]
    }
}

impl Usage {
    pub(super) const CONNECTION: Self = Self {
        connections: 1,
        ..Self::NONE
    };
    const NONE: Self = Self {
        allocations: 0,
        permissions: 0,
        channels: 0,
        connections: 0,
        bandwidth: 0,
    };

    /// So many allocations without peers, or what counts like them, each with a bandwidth.
    pub(super) fn of_allocations(count: u32, limit: Option<Bandwidth>) -> Self {
        let each = limit.map_or(0, |limit| u64::from(limit.bytes_per_second));
        Self {
            allocations: count,
            bandwidth: each * u64::from(count),
            ..Self::NONE
        }
    }

    /// In the order of [`Quota::by_kind`].
    fn by_kind(self) -> [u64; 5] {
        [
            self.allocations.into(),
            self.connections.into(),
            self.channels.into(),
            self.permissions.into(),
            self.bandwidth,
        ]
    }

    /// Counts `after` in place of `before`, which was counted.
    fn replace(&mut self, before: Self, after: Self) {
        let replace = |count: &mut u32, before: u32, after: u32| {
            debug_assert!(*count >= before, "only what was taken is given back");
            *count = (*count).saturating_sub(before).saturating_add(after);
        };
        replace(&mut self.allocations, before.allocations, after.allocations);
        replace(&mut self.permissions, before.permissions, after.permissions);
        replace(&mut self.channels, before.channels, after.channels);
        replace(&mut self.connections, before.connections, after.connections);
        debug_assert!(
            self.bandwidth >= before.bandwidth,
            "only what was taken is given back"
        );
        let left = self.bandwidth.saturating_sub(before.bandwidth);
        self.bandwidth = left.saturating_add(after.bandwidth);
    }
}

impl Network {
    pub(super) fn of(client: SocketAddr) -> Self {
        Self(match client.ip().to_canonical() {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() >> 8 << 8).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 80 << 80).into(),
        })
    }
}

impl Scope {
    fn refusal(self, kind: Kind) -> Refusal {
        match (self, kind) {
            (Self::Allocation, Kind::Permission) => Refusal::PermissionsFull,
            (Self::Allocation, Kind::Channel) => Refusal::ChannelsFull,
            (Self::Allocation, Kind::Connection) => Refusal::ConnectionsFull,
            (Self::User, Kind::Allocation) => Refusal::QuotaReached,
            (Self::Realm, Kind::Allocation) => Refusal::RealmFull,
            (Self::Network, Kind::Allocation) => Refusal::NetworkFull,
            (Self::Allocation | Self::Total, Kind::Allocation) => Refusal::CapacityReached,
            (Self::User, Kind::Bandwidth) => Refusal::UserBandwidthFull,
            (Self::Realm, Kind::Bandwidth) => Refusal::RealmBandwidthFull,
            (Self::Network, Kind::Bandwidth) => Refusal::NetworkBandwidthFull,
            (Self::Allocation | Self::Total, Kind::Bandwidth) => Refusal::BandwidthFull,
            (Self::User, _) => Refusal::UserPeersFull,
            (Self::Realm, _) => Refusal::RealmPeersFull,
            (Self::Network, _) => Refusal::NetworkPeersFull,
            (Self::Total, _) => Refusal::PeersFull,
        }
    }
}

impl Ledger {
    /// Counts something for somebody.
    pub(super) fn take(&mut self, holder: Holder<'_>, what: Usage) {
        self.book(holder, Usage::NONE, what);
    }

    /// Counts something no more.
    pub(super) fn give_back(&mut self, holder: Holder<'_>, what: Usage) {
        self.book(holder, what, Usage::NONE);
    }

    /// Books what an allocation has now in place of what was booked for it.
    pub(super) fn settle(&mut self, allocation: &mut Allocation) {
        let held = allocation.held();
        let before = std::mem::replace(&mut allocation.booked, held);
        if before != held {
            self.book(allocation.holder(), before, held);
        }
    }

    /// Counts an allocation for another network.
    fn move_network(&mut self, allocation: &mut Allocation, to: Network) {
        let before = std::mem::replace(&mut allocation.network, to);
        let booked = allocation.booked;
        replace(&mut self.by_network, &before, booked, Usage::NONE);
        replace(&mut self.by_network, &to, Usage::NONE, booked);
    }

    pub(super) fn total(&self) -> Usage {
        self.total
    }

    pub(super) fn by_realm(&self) -> impl Iterator<Item = (RealmId, Usage)> + '_ {
        self.by_realm
            .iter()
            .map(|(realm, counts)| (*realm, *counts))
    }

    /// Checks that somebody may have more; for a network too if the holder has one.
    fn check(&self, holder: Holder<'_>, more: Usage, bounds: &Bounds) -> Result<(), Refusal> {
        let Holder { user, network } = holder;
        let of_user = counts_of(&self.by_user, user);
        bounds.user.check(Scope::User, of_user, more)?;
        let of_realm = counts_of(&self.by_realm, &user.realm);
        bounds.realm.check(Scope::Realm, of_realm, more)?;
        if let Some(network) = network {
            self.check_network(network, more, bounds.network)?;
        }
        bounds.total.check(Scope::Total, self.total, more)
    }

    fn check_network(&self, network: Network, more: Usage, quota: Quota) -> Result<(), Refusal> {
        let held = counts_of(&self.by_network, &network);
        quota.check(Scope::Network, held, more)
    }

    fn book(&mut self, holder: Holder<'_>, before: Usage, after: Usage) {
        let Holder { user, network } = holder;
        self.total.replace(before, after);
        replace(&mut self.by_realm, &user.realm, before, after);
        replace(&mut self.by_user, user, before, after);
        if let Some(network) = network {
            replace(&mut self.by_network, &network, before, after);
        }
    }
}

impl Server {
    /// Returns what counts for a new allocation of a user, or a reservation.
    pub(super) fn usage_of_new(&self, user: &User) -> Usage {
        Usage::of_allocations(1, self.bandwidth(user.realm))
    }

    /// Checks that a user may have so many more allocations and reservations, and its network one
    /// more allocation.
    pub(super) fn check_allocations(
        &self,
        holder: Holder<'_>,
        allocations: u32,
    ) -> Result<(), Refusal> {
        let bounds = self.bounds_of(holder.user);
        let limit = self.bandwidth(holder.user.realm);
        let more = Usage::of_allocations(allocations, limit);
        let owner = Holder {
            network: None,
            ..holder
        };
        self.ledger.check(owner, more, &bounds)?;
        let Some(network) = holder.network else {
            return Ok(());
        };
        let more = Usage::of_allocations(1, limit);
        self.ledger.check_network(network, more, bounds.network)
    }

    /// Checks that an allocation may have more of something, and all to whom it belongs.
    pub(super) fn check_more(&self, id: AllocationId, more: Usage) -> Result<(), Refusal> {
        let allocation = self.allocations.get(id);
        let allocation = allocation.ok_or(Refusal::AllocationMissing)?;
        let quota = self.limits.per_allocation;
        quota.check(Scope::Allocation, allocation.held(), more)?;
        let bounds = self.bounds_of(&allocation.user);
        self.ledger.check(allocation.holder(), more, &bounds)
    }

    /// Counts an allocation, with all that it has, for the network that its client comes from now.
    pub(super) fn move_network(
        &mut self,
        id: AllocationId,
        client: SocketAddr,
    ) -> Result<(), Refusal> {
        let to = Network::of(client);
        let allocation = self.allocations.require_mut(id)?;
        if allocation.network == to {
            return Ok(());
        }
        let quota = self.limits.per_network;
        self.ledger.check_network(to, allocation.booked, quota)?;
        self.ledger.move_network(allocation, to);
        Ok(())
    }

    /// Counts an allocation for the network that its client has not left after all, however much that has
    /// by now.
    pub(super) fn move_network_back(&mut self, id: AllocationId, client: SocketAddr) {
        let to = Network::of(client);
        if let Some(allocation) = self.allocations.get_mut(id)
            && allocation.network != to
        {
            self.ledger.move_network(allocation, to);
        }
    }

    /// Returns how many clients of a user may be of use to it, if that is bounded: those with allocations,
    /// and those with connections to peers.
    pub(super) fn clients_max_of(&self, user: &User) -> Option<usize> {
        let bounds = self.bounds_of(user).user;
        let allocations = bounds.allocations?;
        let connections = match self.relays_tcp {
            true => bounds
                .connections
                .or_else(|| self.connections_max_of(allocations))?,
            false => 0,
        };
        Some(allocations.saturating_add(connections))
    }

    fn connections_max_of(&self, allocations: usize) -> Option<usize> {
        let each = self.limits.per_allocation.connections?;
        Some(allocations.saturating_mul(each))
    }

    fn bounds_of(&self, user: &User) -> Bounds {
        let (realm, per_user) = self.authority.quotas_of(user.realm);
        Bounds {
            user: per_user.or(self.limits.per_user),
            realm,
            network: self.limits.per_network,
            total: self.limits.total,
        }
    }
}

fn counts_of<K: Ord>(book: &BTreeMap<K, Usage>, key: &K) -> Usage {
    book.get(key).copied().unwrap_or_default()
}

/// Books for one holder, who is forgotten once there is nothing.
fn replace<K: Ord + Clone>(book: &mut BTreeMap<K, Usage>, key: &K, before: Usage, after: Usage) {
    let Some(counts) = book.get_mut(key) else {
        debug_assert!(before == Usage::NONE, "only what was taken is given back");
        if after != Usage::NONE {
            book.insert(key.clone(), after);
        }
        return;
    };
    counts.replace(before, after);
    if *counts == Usage::NONE {
        book.remove(key);
    }
}
