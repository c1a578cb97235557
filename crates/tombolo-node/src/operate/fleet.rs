//! Where the relays of other nodes are, which this one's has to know: clients come back with tickets of
//! theirs from another address (RFC 8016), and their allocations are there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tombolo_services::NodeRecord;
use tombolo_wire::NodeId;

use super::{Ask, Operator, is_up};

/// A relay, in this life of its node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Place {
    id: [u8; 4],
    turn: Vec<SocketAddr>,
}

/// The relays of other nodes, by which node it is, and in which life.
type Places = BTreeMap<(NodeId, u64), Place>;

impl Operator {
    /// Where the relay of this node is; `None` when the node has ended.
    pub(super) fn place(&self) -> Option<Place> {
        Some(Place {
            id: self.relay.upgrade()?.id(),
            turn: self.turn.to_vec(),
        })
    }

    /// Tells the relay about those of other nodes, for as long as this node runs.
    pub(crate) async fn keep_fleet(self) {
        let mut places = Places::new();
        loop {
            if let Ok(mut records) = self.records().await {
                records.retain(|record| is_up(record) && record.name != *self.services.name());
                records.truncate(NODES_MAX);
                if self.find(&mut places, records).await {
                    self.tell_relay(&places).await;
                }
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Asks those nodes that are not known, and forgets those that are there no more. Tells whether that has
    /// changed anything.
    async fn find(&self, places: &mut Places, mut records: Vec<NodeRecord>) -> bool {
        let life = |record: &NodeRecord| (record.name.clone(), record.epoch);
        let before = places.len();
        places.retain(|known, _| records.iter().any(|record| life(record) == *known));
        let kept = places.len();
        records.retain(|record| !places.contains_key(&life(record)));
        let answers = self.ask_all::<Place>(&records, Ask::Relay).await;
        let lives = records.iter().map(life).zip(answers);
        let found = lives.filter_map(|(life, (_, place))| Some((life, place?)));
        places.extend(found);
        before != kept || places.len() != kept
    }

    async fn tell_relay(&self, places: &Places) {
        // By an address that they share, clients may come to either.
        let is_shared = |server: &SocketAddr| self.turn.contains(server);
        let servers = |place: &Place| {
            let turn = place.turn.iter().copied();
            turn.filter(|one| !is_shared(one))
                .take(SERVERS_MAX)
                .collect()
        };
        let servers_by_relay = places.values().map(|place| (place.id, servers(place)));
        let servers_by_relay = servers_by_relay.collect();
        let relay = self.relay.clone();
        // It fails only if it panicked, which it has said itself.
        let _ = spawn_blocking(move || {
            if let Some(relay) = relay.upgrade() {
                relay.set_fleet(&servers_by_relay);
            }
        })
        .await;
    }
}

/// For so long a client may come in vain with the ticket of a node that has just begun.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Nodes whose relays are known, at most.
const NODES_MAX: usize = 1024;
/// Addresses of a relay that are known, at most.
const SERVERS_MAX: usize = 8;
