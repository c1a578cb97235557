//! The end of a log, when its room has closed.
//!
//! Who begins to read a retired log has nothing, so that must be all that the others have, too: else they would judge
//! differently what comes when the room is opened anew. Therefore the log's last entry says that the room is forgotten.

use std::sync::Arc;
use std::time::Duration;

use tombolo_engine::{Expect, Offset};
use tombolo_room::{Body, Event};

use super::{Host, State};
use crate::node::Node;

/// The last entry of the log of a closed room.
#[derive(Clone, Copy)]
pub(super) enum Last {
    /// It says that the room is forgotten: somebody came no further than that.
    Forgotten(Offset),
    /// It is another one.
    Other(Offset),
}

impl State {
    /// The last entry, if the log has been read and is to be retired.
    pub(super) fn last_of_closed(&self) -> Option<Last> {
        let is_read = self.ahead.is_none();
        if !is_read || self.is_retired || self.room.is_open() {
            return None;
        }
        self.cursor.map(|at| match self.room.is_new() {
            true => Last::Forgotten(at),
            false => Last::Other(at),
        })
    }

    /// Whether an act that is not known, and was wanted first so long ago, may have been done before the room was forgotten.
    pub(crate) fn may_have_forgotten(&self, node: &Node, wanted_for: Duration) -> bool {
        if wanted_for.is_zero() {
            return false;
        }
        match self.room.opened() {
            Some(opened) => self.time(node).before(wanted_for) < opened,
            None => self.cursor.is_some() && self.room.is_new(),
        }
    }
}

impl Host {
    /// Lets the engine forget the log, however long that takes. Whoever appends something before does it after that.
    pub(super) async fn retire(&self, node: &Node, last: Last) {
        let last = match last {
            Last::Forgotten(at) => Some(at),
            Last::Other(at) => {
                let expect = Expect::Last(at);
                self.append_while(node, Body::Forgotten, expect, || true)
                    .await
            }
        };
        if let Some(at) = last {
            let _ = node.engine.retire(&self.key, at).await;
        }
    }

    /// What a node wrote before it was lost may come when the room has forgotten the loss, and was opened anew: then
    /// it is told again.
    pub(super) fn drop_ghosts(self: &Arc<Self>, node: &Arc<Node>, events: &[Event]) {
        for event in events {
            if let Event::Joined { membership, .. } | Event::Returned { membership, .. } = event
                && let (lost, life) = (membership.node.clone(), membership.incarnation)
                && node.cluster.is_over(&lost, life)
            {
                let (host, node) = (Arc::clone(self), Arc::clone(node));
                node.runtime
                    .clone()
                    .spawn(async move { host.drop_members_of(&node, &lost, life).await });
            }
        }
    }
}
