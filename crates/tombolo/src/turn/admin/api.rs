//! What the admin socket and `tombolo turn list`, `inspect` and the like say to each other. The same
//! JSON is what these commands print.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tombolo_relay::{AllocationFilter, RelayStats};
use tombolo_turn::server::{AllocationInfo, Tally};

/// Which allocations are meant, as a query string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Query {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) realm: Option<String>,
    /// An IP, or an IP with a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<String>,
    /// Needed to end all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) all: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) skip: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<usize>,
}

/// Nothing that could be a client.
#[derive(Debug)]
pub(crate) struct NoAddress;

impl Query {
    pub(crate) fn filter(&self) -> Result<AllocationFilter, NoAddress> {
        let mut filter = AllocationFilter {
            user: self.user.clone(),
            realm: self.realm.clone(),
            ..AllocationFilter::default()
        };
        if let Some(client) = &self.client {
            match (client.parse::<SocketAddr>(), client.parse::<IpAddr>()) {
                (Ok(address), _) => filter.client = Some(address),
                (_, Ok(ip)) => filter.client_ip = Some(ip),
                _ => return Err(NoAddress),
            }
        }
        Ok(filter)
    }

    /// Whether it says which ones.
    pub(crate) fn is_narrow(&self) -> bool {
        self.user.is_some() || self.realm.is_some() || self.client.is_some()
    }
}

/// A page of allocations, oldest first.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Page {
    /// How many match in all.
    pub(crate) total: usize,
    pub(crate) allocations: Vec<Allocation>,
}

/// An allocation with what went through it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Allocation {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) transport: String,
    pub(crate) user: String,
    pub(crate) realm: String,
    pub(crate) relayed: Vec<SocketAddr>,
    /// Seconds since it was made.
    pub(crate) age_s: f64,
    /// Seconds until it ends without a refresh.
    pub(crate) expires_in_s: f64,
    pub(crate) permissions: usize,
    pub(crate) channels: usize,
    /// TCP connections to peers.
    pub(crate) connections: usize,
    pub(crate) rtt_ms: Option<f64>,
    /// Requests that the client says it has sent, if it counts them (RFC 7982), and those that came.
    pub(crate) requests_sent: u64,
    pub(crate) requests_received: u64,
    pub(crate) to_peer: Count,
    pub(crate) to_client: Count,
    pub(crate) dropped: u64,
}

/// Packets and the bytes of their payloads.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Count {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl From<Tally> for Count {
    fn from(tally: Tally) -> Self {
        Self {
            packets: tally.packets,
            bytes: tally.bytes,
        }
    }
}

impl Allocation {
    pub(crate) fn new(now: Instant, info: &AllocationInfo) -> Self {
        let transport = format!("{:?}", info.client.transport).to_ascii_lowercase();
        Self {
            client: info.client.client,
            server: info.client.server,
            transport,
            user: info.user.clone(),
            realm: info.realm.clone(),
            relayed: info.relayed.clone(),
            age_s: now.saturating_duration_since(info.created).as_secs_f64(),
            expires_in_s: info.expires.saturating_duration_since(now).as_secs_f64(),
            permissions: info.permissions,
            channels: info.channels,
            connections: info.connections,
            requests_sent: info.path.requests_sent,
            requests_received: info.path.requests_received,
            rtt_ms: info.path.rtt.map(crate::output::ms),
            to_peer: info.traffic.to_peer.into(),
            to_client: info.traffic.to_client.into(),
            dropped: info.traffic.dropped,
        }
    }
}

/// What a drain is asked for.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DrainRequest {
    pub(crate) alternates: Vec<SocketAddr>,
    pub(crate) domain: Option<String>,
    /// In seconds: when the server logs how many allocations are left.
    pub(crate) deadline_s: Option<u64>,
}

/// What is left of a server that drains.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Left {
    pub(crate) draining: bool,
    pub(crate) allocations: u64,
    /// Shards that did not tell in time what they have.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) silent_shards: usize,
}

impl Left {
    /// Whether it is known that nothing is left.
    pub(crate) fn is_nothing(&self) -> bool {
        self.allocations == 0 && self.silent_shards == 0
    }
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

/// How many allocations were ended.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Ended {
    pub(crate) ended: usize,
}

/// What a server does and has done, over all shards.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Stats {
    pub(crate) draining: bool,
    pub(crate) shards: usize,
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) silent_shards: usize,
    pub(crate) allocations: u64,
    pub(crate) allocations_created: u64,
    pub(crate) allocations_expired: u64,
    pub(crate) bindings: u64,
    pub(crate) to_peer: Count,
    pub(crate) to_client: Count,
    pub(crate) connections: u64,
    pub(crate) relay_ports: u64,
    /// What was refused and how often, by reason; what never was is left out.
    pub(crate) refusals: BTreeMap<String, u64>,
}

impl Stats {
    pub(crate) fn new(stats: &RelayStats) -> Self {
        let sum = |value: fn(&tombolo_relay::ShardStats) -> u64| -> u64 {
            stats.shards.iter().map(value).sum()
        };
        let mut refusals = BTreeMap::new();
        for (refusal, count) in stats.shards.iter().flat_map(|s| s.turn.refusals()) {
            if count > 0 {
                *refusals.entry(refusal.to_string()).or_default() += count;
            }
        }
        let of_streams = stats.streams.refusals();
        let of_streams = of_streams.map(|(reason, count)| (reason.to_owned(), count));
        let of_hook = stats.hook.failures();
        let of_hook = of_hook.map(|(failure, count)| (format!("hook: {failure}"), count));
        refusals.extend(of_streams.chain(of_hook).filter(|(_, count)| *count > 0));
        Self {
            draining: sum(|shard| shard.turn.draining) > 0,
            shards: stats.shards.len(),
            silent_shards: stats.silent_shards,
            allocations: sum(|shard| shard.turn.allocations),
            allocations_created: sum(|shard| shard.turn.allocations_created),
            allocations_expired: sum(|shard| shard.turn.allocations_expired),
            bindings: sum(|shard| shard.turn.bindings),
            to_peer: Count {
                packets: sum(|shard| shard.turn.to_peer_packets),
                bytes: sum(|shard| shard.turn.to_peer_bytes),
            },
            to_client: Count {
                packets: sum(|shard| shard.turn.to_client_packets),
                bytes: sum(|shard| shard.turn.to_client_bytes),
            },
            connections: stats.streams.open,
            relay_ports: sum(|shard| shard.io.relay_ports),
            refusals,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_only_where_all_shards_say_so() {
        let left = |allocations, silent_shards| Left {
            draining: true,
            allocations,
            silent_shards,
        };
        assert!(left(0, 0).is_nothing());
        assert!(!left(0, 1).is_nothing());
        assert!(!left(1, 0).is_nothing());
    }

    #[test]
    fn stats_tell_why_connections_were_refused_too() {
        let mut relay = RelayStats::default();
        relay.streams.refused = 3;
        relay.streams.handshakes_refused = 4;
        let stats = Stats::new(&relay);
        let expected = [("too many connections", 3), ("too many handshakes", 4)];
        let expected = expected.map(|(reason, count)| (reason.to_owned(), count));
        assert_eq!(stats.refusals, expected.into());
    }
}
