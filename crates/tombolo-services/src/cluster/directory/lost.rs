//! Records that the engine has lost, as when its servers come back without their disks: each node writes its own anew,
//! and whoever does not answer is fenced by a record that is new. Only one of the two can be written, so a life that is
//! over for one node is over for all, itself included. Where servers come back with what they had earlier, records have
//! earlier revisions, and may be of earlier lives.

use std::time::Instant;

use tombolo_wire::NodeId;

use super::super::NODES_MAX;
use super::super::record::Record;
use super::{Directory, Me};

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

    /// Remembers that a life is over.
    pub(super) fn note_over(&mut self, node: &NodeId, epoch: u64) {
        if self.over_by_node.len() >= NODES_MAX && !self.over_by_node.contains_key(node) {
            self.over_by_node.pop_first();
        }
        let over = self.over_by_node.entry(node.clone()).or_default();
        *over = epoch.max(*over);
    }

    /// Whether a record has it that a life goes on that is over: links to it have been forgotten, by one side alone
    /// if it does not know.
    pub(super) fn is_over(&self, record: &Record) -> bool {
        let over = self.over_by_node.get(&record.name);
        record.state.is_up() && over.is_some_and(|over| record.epoch <= *over)
    }
}
