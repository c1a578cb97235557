use std::net::SocketAddr;
use std::time::Instant;

use super::address::FiveTuple;
use super::allocation::{Carrier, Path, Traffic};
use super::ledger::Usage;
use super::table::AllocationId;
use super::{CloseReason, Server};

/// An allocation as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AllocationInfo {
    /// Whose it is.
    pub client: FiveTuple,
    /// The user without the expiry of time-limited credentials.
    pub user: String,
    /// The realm of the credentials.
    pub realm: String,
    /// Its one or two relayed addresses, as its client was told them: with the public IP where one stands
    /// for what is bound.
    pub relayed: Vec<SocketAddr>,
    /// What goes between those and the peers.
    pub carrier: Carrier,
    /// When it was made.
    pub created: Instant,
    /// When it ends without a refresh.
    pub expires: Instant,
    /// Permissions that are in force.
    pub permissions: usize,
    /// Channels that are bound.
    pub channels: usize,
    /// TCP connections to peers, those that are being made included.
    pub connections: usize,
    /// What is known about the path to its client.
    pub path: Path,
    /// What went through it since it was made.
    pub traffic: Traffic,
}

impl Server {
    /// Iterates over all allocations. Costs a look at each permission and channel, so it is for
    /// operators, not for a packet.
    pub fn allocations(&self, now: Instant) -> impl Iterator<Item = AllocationInfo> + '_ {
        self.infos(now).map(|(_, info)| info)
    }

    fn infos(&self, now: Instant) -> impl Iterator<Item = (AllocationId, AllocationInfo)> + '_ {
        self.allocations.iter().map(move |(id, allocation)| {
            let (permissions, channels) = allocation.count_live(now);
            let relayed = allocation.relays.iter();
            let relayed = relayed.map(|relay| self.aliases.to_public(relay.0));
            let info = AllocationInfo {
                client: allocation.client,
                user: allocation.user.clone().into_name(),
                realm: self.authority.realm_name(allocation.user.realm).to_owned(),
                relayed: relayed.collect(),
                carrier: allocation.carrier,
                created: allocation.created,
                expires: allocation.expires,
                permissions,
                channels,
                connections: allocation.connections as usize,
                path: allocation.path,
                traffic: allocation.traffic,
            };
            (id, info)
        })
    }

    /// Tells whether a client has an allocation at this address, or is going there with one.
    pub fn has_allocation(&self, client: &FiveTuple) -> bool {
        self.allocations.by_client(client).is_some()
    }

    /// Returns what all clients of the shard have.
    pub fn usage(&self) -> Usage {
        self.ledger.total()
    }

    /// Iterates over the realms in which somebody has allocations or reservations, with what they
    /// have.
    pub fn usage_by_realm(&self) -> impl Iterator<Item = (&str, Usage)> + '_ {
        let usage = self.ledger.by_realm();
        usage.map(|(realm, usage)| (self.authority.realm_name(realm), usage))
    }

    /// Ends the allocations that are meant, as an operator wishes, and returns how many those were; their
    /// clients find out by their next request. An address does not name one: somebody else may be where
    /// a client that is away between two connections was.
    pub fn end(&mut self, now: Instant, is_meant: impl Fn(&AllocationInfo) -> bool) -> usize {
        let meant = self.infos(now).filter(|(_, info)| is_meant(info));
        let meant: Vec<AllocationId> = meant.map(|(id, _)| id).collect();
        for id in &meant {
            self.close(now, *id, CloseReason::Ended);
        }
        meant.len()
    }
}
