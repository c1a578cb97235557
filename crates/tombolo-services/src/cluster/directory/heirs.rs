//! Heirs: each life that is over has one, who does what it left to do and then writes *gone*.

use tombolo_wire::NodeId;

use super::{Directory, Event, Me};
use crate::cluster::record::{Record, State};

#[derive(Debug)]
pub(super) struct Inheritance {
    epoch: u64,
    is_done: bool,
}

impl Directory {
    /// What a life left to do is done.
    pub(crate) fn handle_inherited(&mut self, node: &NodeId, epoch: u64) {
        if let Some(inheritance) = self.inherited.get_mut(node)
            && inheritance.epoch == epoch
        {
            inheritance.is_done = true;
            self.settle();
        }
    }

    /// Begins to do what a life left to do, if its record says that this node is to.
    pub(super) fn inherit(&mut self, record: &Record) {
        let Me::In { epoch: mine, .. } = self.me else {
            return;
        };
        let is_heir = record.state == State::Fenced
            && record.heir.as_ref() == Some(&(self.name.clone(), mine));
        let epoch = record.epoch;
        let is_known = self
            .inherited
            .get(&record.name)
            .is_some_and(|inheritance| inheritance.epoch == epoch);
        if !is_heir {
            self.inherited.remove(&record.name);
        } else if !is_known {
            let is_done = false;
            let inheritance = Inheritance { epoch, is_done };
            self.inherited.insert(record.name.clone(), inheritance);
            let node = record.name.clone();
            self.events.push_back(Event::Inherit { node, epoch });
        }
    }

    /// Tries to become the heir of a life.
    pub(super) fn claim(&mut self, node: &NodeId, mine: u64) {
        if self.writes.values().any(|written| written == node) {
            return;
        }
        let heard_of = self.peer_by_node.get(node).map(|peer| peer.epoch);
        let known = self.record_by_node.get(node);
        let (expected, record) = match (known, heard_of) {
            (Some((record, revision)), _) => (Some(*revision), record.clone()),
            // Its record was lost, and it has not written it anew.
            (None, Some(epoch)) => (None, Record::lost(node.clone(), epoch)),
            (None, None) => return,
        };
        let fenced = Record {
            // The record may be of an earlier life than the one that is over.
            epoch: record.epoch.max(heard_of.unwrap_or_default()),
            state: State::Fenced,
            heir: Some((self.name.clone(), mine)),
            ..record
        };
        self.write(expected, fenced);
    }

    /// Writes *gone* for those whose work is done here, and takes over what dead heirs left.
    pub(super) fn settle(&mut self) {
        let Me::In { epoch: mine, .. } = self.me else {
            return;
        };
        let mut done = Vec::new();
        let mut orphans = Vec::new();
        for (node, (record, revision)) in &self.record_by_node {
            let lives = self.peer_by_node.contains_key(node);
            if *node == self.name || lives {
                continue;
            }
            if self.is_over(record) {
                orphans.push(node.clone());
            }
            if record.state != State::Fenced {
                continue;
            }
            match self.inherited.get(node) {
                Some(inheritance) if inheritance.is_done => done.push((record, *revision)),
                Some(_) => {}
                None if record.heir.as_ref().is_none_or(|heir| !self.is_up(heir)) => {
                    orphans.push(node.clone());
                }
                None => {}
            }
        }
        let done: Vec<_> = done
            .into_iter()
            .filter(|(record, _)| !self.writes.values().any(|node| *node == record.name))
            .map(|(record, revision)| {
                let gone = Record {
                    state: State::Gone,
                    ..record.clone()
                };
                (revision, gone)
            })
            .collect();
        for (revision, gone) in done {
            self.write(Some(revision), gone);
        }
        for node in orphans {
            self.claim(&node, mine);
        }
    }

    fn is_up(&self, (node, epoch): &(NodeId, u64)) -> bool {
        let record = self.record_by_node.get(node);
        record.is_some_and(|(record, _)| record.state.is_up() && record.epoch == *epoch)
    }
}
