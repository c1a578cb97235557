//! Stream connections whose clients send nothing more, and wait for what they have asked for.

use std::{sync::Arc, time::Instant};

use tombolo_turn::server::FiveTuple;

use super::Shard;
use crate::link::{Behind, ConnectionState, FromClient};

impl Shard {
    /// Notes that nothing more comes by a connection of which this is the entry.
    pub(super) fn handle_finished(
        &mut self,
        now: Instant,
        client: FiveTuple,
        state: Arc<ConnectionState>,
    ) {
        let behind = Behind {
            client,
            state,
            entry: self.relays.shard(),
            what: FromClient::Finished,
        };
        self.handle_behind(now, behind);
    }

    /// Lets go of those who have got all their answers: these are queued, and their connections end once
    /// they are written. The core must have been drained.
    pub(super) fn end_finished(&mut self, now: Instant) {
        if self.finished.is_empty() {
            return;
        }
        let waiting = self.core.clients_waiting();
        for finished in std::mem::take(&mut self.finished) {
            let client = finished.client;
            let connection = self.connections.get(&client);
            let is_here = connection.is_some_and(|connection| connection.is(&finished.state));
            if !is_here {
                // It was handed over, unless it has ended.
                self.handle_behind(now, finished);
            } else if waiting.contains(&client) {
                self.finished.push(finished);
            } else {
                self.connections.remove(&client);
                self.core.handle_client_gone(now, client);
            }
        }
        self.drain_core(now);
    }
}
