//! What a room is to do by itself: nothing happens in it but by its log, so somebody has to say that
//! time has passed.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use tombolo_engine::{Expect, Purpose};
use tombolo_room::{Body, Entry, Time};

use super::{Host, State};
use crate::node::Node;

impl Host {
    /// Waits until something is due in the room, and says so in its log. Safe to cancel.
    pub(super) async fn tick(&self, node: &Node) {
        let wait = self.lock().wait(node);
        tokio::time::sleep(wait).await;
        let time = {
            let state = self.lock();
            let time = state.time(node);
            let due = state.room.poll_timeout();
            match due.filter(|due| *due <= time) {
                Some(_) => time,
                None => return,
            }
        };
        let Ok(operation) = node.config.entropy.operation_id() else {
            return;
        };
        let entry = Entry {
            operation,
            time,
            node: Some(node.name().clone()),
            incarnation: node.incarnation(),
            body: Body::Ticked,
        };
        let id = tombolo_engine::OperationId(operation.0);
        let (key, entry, end) = (&self.key, entry.encode(), Purpose::End);
        let tick = node.engine.append(key, entry, end, Expect::Any, id);
        // The tail brings it; until then there is nothing more to say. Whoever refused it is in trouble.
        let _ = tick.await;
        tokio::time::sleep(TICK_SPACING).await;
    }
}

impl State {
    /// Whether the room still needs this node: nobody else is there to watch its clock.
    pub(super) fn is_watched_here(&self, node: &Node) -> bool {
        let members = self.room.members();
        let mut present = members.filter(|(_, member)| member.is_present());
        self.ahead.is_none()
            && self.room.poll_timeout().is_some()
            && present.all(|(_, member)| member.membership().node == *node.name())
    }

    /// What time it is in the room: a node whose clock is ahead may have been in it, and what is to last does not
    /// last longer for that.
    pub(crate) fn time(&self, node: &Node) -> Time {
        node.time().max(self.time_passed())
    }

    /// Something was read: others may know of more time that has passed. Otherwise it goes on passing here, however much
    /// is read meanwhile.
    pub(super) fn follow_clock(&mut self) {
        let clock = self.room.clock();
        if clock > self.time_passed() {
            self.told = (clock, Instant::now());
        }
    }

    fn time_passed(&self) -> Time {
        let (time, at) = self.told;
        time.after(at.elapsed())
    }

    /// How long until this node has to say that time has passed: of several that host the room one
    /// says it at once, the others when it has not.
    fn wait(&self, node: &Node) -> Duration {
        let Some(due) = self.room.poll_timeout().filter(|_| self.ahead.is_none()) else {
            return WAIT_MAX;
        };
        let present = self
            .room
            .members()
            .filter(|(_, member)| member.is_present());
        let nodes: BTreeSet<_> = present
            .map(|(_, member)| &member.membership().node)
            .collect();
        let before = nodes.iter().take_while(|name| **name != node.name());
        let turn = TICK_SPACING * u32::try_from(before.count()).unwrap_or(u32::MAX);
        let left = due.as_millis().saturating_sub(self.time(node).as_millis());
        Duration::from_millis(left)
            .saturating_add(turn)
            .min(WAIT_MAX)
    }
}

/// Between the turns of nodes that host the same room.
const TICK_SPACING: Duration = Duration::from_millis(500);

/// After this the clock is looked at again, since it may have been set.
const WAIT_MAX: Duration = Duration::from_secs(60);
