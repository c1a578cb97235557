//! Stream connections whose clients send nothing more, and wait for what they have asked for.

use std::time::Instant;

use super::Shard;
use crate::link::FromStream;

impl Shard {
    /// Lets go of those who have got all their answers: these are queued, and their connections end once
    /// they are written. The core must have been drained.
    pub(super) fn end_finished(&mut self, now: Instant) {
        if self.finished.is_empty() {
            return;
        }
        let waiting = self.core.clients_waiting();
        for (client, state) in std::mem::take(&mut self.finished) {
            let connection = self.connections.get(&client);
            let is_here = connection.is_some_and(|connection| connection.is(&state));
            if !is_here {
                // It was handed over, unless it has ended.
                if let Some(shard) = self.core.home_of(&client) {
                    self.tell(shard, FromStream::Finished(client, state));
                }
            } else if waiting.contains(&client) {
                self.finished.push((client, state));
            } else {
                self.connections.remove(&client);
                self.core.handle_client_gone(now, client);
            }
        }
        self.drain_core(now);
    }
}
