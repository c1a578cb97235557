//! Records that the engine has lost, as when its servers come back without their disks: nobody else writes them
//! anew, and nothing can be written over them. Where servers come back with what they had earlier, records have
//! earlier revisions, and may be of earlier lives.

use std::time::Instant;

use tombolo_wire::NodeId;

use super::{Directory, Event, Me};

impl Directory {
    /// All records are told again from here on.
    pub(crate) fn handle_reset(&mut self) {
        self.untold = self.record_by_node.keys().cloned().collect();
    }

    /// Those that were not told again are there no more.
    pub(super) fn forget_untold(&mut self, now: Instant) {
        for node in std::mem::take(&mut self.untold) {
            self.handle_missing(now, &node);
        }
    }

    /// A node has no record any more. One that lives writes its own anew at once, with the life that it has, so that
    /// this node is silent about others for now.
    pub(crate) fn handle_missing(&mut self, now: Instant, node: &NodeId) {
        if self.record_by_node.remove(node).is_none() {
            return;
        }
        self.has_news = true;
        self.inherited.remove(node);
        if *node == self.name
            && let Me::In {
                revision, renew_at, ..
            } = &mut self.me
        {
            (*revision, *renew_at) = (None, now);
        }
    }

    /// Whoever has no record and does not answer is gone; there is nothing by which its work could be taken on.
    pub(super) fn drop_without_record(&mut self, node: &NodeId) -> bool {
        if self.record_by_node.contains_key(node) {
            return false;
        }
        if let Some(peer) = self.peer_by_node.remove(node) {
            let (node, epoch) = (node.clone(), peer.epoch);
            self.has_news = true;
            self.events.push_back(Event::Down { node, epoch });
        }
        true
    }
}
