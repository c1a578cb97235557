//! Rooms on this node that nobody is in. There are so many at most; the oldest are closed first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tombolo_engine::Expect;
use tombolo_room::{Act, Membership};
use tombolo_wire::RoomId;

use super::{Host, State, by_server};
use crate::lock::lock;
use crate::node::Node;

/// Those of one node.
#[derive(Default)]
pub(crate) struct EmptyRooms(Mutex<Rooms>);

#[derive(Default)]
struct Rooms {
    /// Of the room that was left last.
    last: u64,
    /// The oldest first.
    host_by_number: BTreeMap<u64, Arc<Host>>,
    number_by_room: BTreeMap<RoomId, u64>,
}

impl EmptyRooms {
    /// Nobody is in a room; returns one that is to be closed, when there are too many such.
    pub(super) fn add(&self, host: &Arc<Host>, max: usize) -> Option<Arc<Host>> {
        let mut rooms = lock(&self.0);
        if rooms.number_by_room.contains_key(&host.room) {
            return None;
        }
        rooms.last += 1;
        let number = rooms.last;
        rooms.number_by_room.insert(host.room.clone(), number);
        rooms.host_by_number.insert(number, Arc::clone(host));
        if rooms.host_by_number.len() <= max {
            return None;
        }
        let (_, oldest) = rooms.host_by_number.pop_first()?;
        rooms.number_by_room.remove(&oldest.room);
        Some(oldest)
    }

    /// Somebody is in a room, or it is not hosted here any more.
    pub(super) fn remove(&self, room: &RoomId) {
        let mut rooms = lock(&self.0);
        if let Some(number) = rooms.number_by_room.remove(room) {
            rooms.host_by_number.remove(&number);
        }
    }

    pub(crate) fn clear(&self) {
        let mut rooms = lock(&self.0);
        rooms.host_by_number.clear();
        rooms.number_by_room.clear();
    }
}

impl State {
    /// Whether nobody is in the room, but perhaps seats are kept for some whose sessions are over, and it is kept for no
    /// longer than devices may say.
    pub(super) fn is_empty(&self, node: &Node) -> bool {
        let most = node.config.room_kept_max;
        let settings = self.room.settings();
        self.ahead.is_none()
            && self.entrances == 0
            && self.session_by_user.is_empty()
            && self
                .room
                .members()
                .all(|(_, member)| !member.is_present() && is_over(node, member.membership()))
            && settings.is_some_and(|it| it.empty_kept <= most && it.seat_kept <= most)
    }
}

/// Whether a member that has no session here has none elsewhere, either.
fn is_over(node: &Node, membership: &Membership) -> bool {
    let Membership {
        node: name,
        incarnation,
        ..
    } = membership;
    name == node.name() || node.cluster.is_over(name, *incarnation)
}

impl Host {
    /// Closes the room, unless somebody has come in, perhaps a moment ago over another node.
    pub(super) async fn close_empty(&self, node: &Node) {
        let last = {
            let state = self.lock();
            state.cursor.filter(|_| state.is_empty(node))
        };
        let Some(last) = last else {
            return;
        };
        let (close, expect) = (by_server(Act::Close), Expect::Last(last));
        // Of what is read meanwhile this node hears in another way; a room that is still empty then waits its turn anew.
        let is_wanted = || !self.is_stopped() && self.lock().is_empty(node);
        if let Some(_closed) = self.append_while(node, close, expect, is_wanted).await {
            node.counters.rooms_crowded_out.add(1);
        }
    }
}
