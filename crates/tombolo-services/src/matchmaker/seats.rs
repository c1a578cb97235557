//! Whether the users of a match have their seats: the pool's log says so before any device is told of the match. Whoever
//! cannot keep seats says that. Of several nodes the first counts, and all do the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use tombolo_match::{Body, CLAIMS_MAX, Formed, MatchId, Seating, TicketId};

use super::Devices;
use super::desk::{Desk, State};
use super::tell::{Told, deliver, ended, event};
use crate::node::Node;

/// Devices here that are told of their match as soon as its users have their seats.
pub(super) struct Beginning {
    pub(super) formed: Arc<Formed>,
    pub(super) devices: BTreeMap<TicketId, Devices>,
}

impl Desk {
    /// Whether the users of a match have their seats, as far as the log was read.
    pub(super) fn seating(&self, id: MatchId) -> Seating {
        let state = self.lock();
        match self.is_read() {
            true => state.pool.seating(id),
            false => Seating::Awaited,
        }
    }

    /// Has it said that the users of a match have their seats, unless somebody did. What comes to be said while an entry
    /// is on its way goes into the next one, and whoever brings it need not wait: devices are told when it is read.
    pub(super) async fn say_seated(self: &Arc<Self>, node: &Arc<Node>, id: MatchId) {
        self.lock().unsaid.insert(id);
        while !self.lock().unsaid.is_empty() {
            let Ok(_turn) = self.turn_to_say.try_lock() else {
                // Whoever has it looks once more after that.
                return;
            };
            let ids = self.lock().take_unsaid();
            self.say_all_seated(node, &ids).await;
        }
    }

    async fn say_all_seated(self: &Arc<Self>, node: &Arc<Node>, ids: &[MatchId]) {
        let is_awaited = |id: &MatchId| self.seating(*id) == Seating::Awaited;
        let awaited: Vec<_> = ids.iter().copied().filter(is_awaited).collect();
        if !awaited.is_empty() {
            // Nobody knows here what came of it when there is none.
            let _ = self.insist(node, Body::Seated(awaited)).await;
        }
        for id in ids {
            self.settle(node, *id, true);
        }
    }

    /// Says that there is no place for the users of a match, unless somebody said before that they have their seats.
    pub(super) async fn say_unseated(self: &Arc<Self>, node: &Arc<Node>, id: MatchId) {
        // Who was not heard in time, is seated.
        let _ = self.insist(node, Body::Unseated(id)).await;
        self.settle(node, id, false);
    }

    /// Tells the devices of a match that are not told yet what became of it.
    fn settle(self: &Arc<Self>, node: &Arc<Node>, id: MatchId, has_room: bool) {
        let mut told = Vec::new();
        let mut state = self.lock();
        if !self.is_read() {
            // When all has been read anew, the match is looked at once more.
            return;
        }
        if has_room {
            state.tell_seated(id, &mut told);
        }
        if let Some(beginning) = state.beginning.remove(&id)
            // Else they come back over other nodes.
            && !node.cluster.is_out()
        {
            // Others were told in time, and their match is over by now.
            for (ticket, devices) in beginning.devices {
                for (_, device) in devices {
                    let lost = event(&self.name, &ticket, ended("lost"));
                    told.push(Told::Event(device, lost));
                }
            }
        }
        drop(state);
        deliver(node, self, told);
    }
}

impl State {
    /// Matches of which is yet to be said that their users are seated, as many as an entry takes.
    fn take_unsaid(&mut self) -> Vec<MatchId> {
        let unsaid = std::iter::from_fn(|| self.unsaid.pop_first());
        unsaid.take(CLAIMS_MAX).collect()
    }

    /// Tells the devices here of a match whose users have their seats.
    pub(super) fn tell_seated(&mut self, id: MatchId, told: &mut Vec<Told>) {
        if self.pool.seating(id) == Seating::Seated
            && let Some(beginning) = self.beginning.remove(&id)
        {
            told.push(Told::Found(beginning));
        }
    }
}
