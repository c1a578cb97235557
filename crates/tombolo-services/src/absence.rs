//! Tells rooms that a session's connection broke, and that it is back.
//!
//! A connection that breaks and is back within a moment is nobody's business. After that the session's
//! rooms are told that it is *dropped*, and when it is back that it has *returned*. One task tells them,
//! in the order in which it came about: what a room was told last is always what is true in the end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tombolo_room::{Body, Presence};
use tombolo_wire::RoomId;

use crate::events::SessionEvent;
use crate::host::Host;
use crate::node::Node;
use crate::session::{Session, State};

/// What a session's rooms know of its connection.
#[derive(Debug, Default)]
pub(crate) struct Absence {
    /// The connection has been away for longer than a moment.
    pub(crate) is_dropped: bool,
    /// The rooms that have it so: what was read of each last, or was said to it since.
    told: BTreeSet<RoomId>,
    /// Somebody is telling them.
    is_telling: bool,
}

impl Absence {
    /// Whether the rooms are being told something.
    pub(crate) fn is_telling(&self) -> bool {
        self.is_telling
    }

    /// A room does not have the session as dropped: it has it as present, or as no member.
    pub(crate) fn forget(&mut self, room: &RoomId) {
        self.told.remove(room);
    }
}

/// Waits for a device that is away. A process that stood still has not waited: the device could not come back to
/// it, and a node that was put out meanwhile is about to hear so, and must not give seats away that are kept.
pub(crate) async fn wait_for_return(time: Duration) {
    let mut left = time;
    while !left.is_zero() {
        let slice = left.min(SLICE);
        let due = Instant::now() + slice;
        tokio::time::sleep_until(due).await;
        left = match Instant::now() > due + LAG_MAX {
            true => left.max(AWAKE_MIN),
            false => left - slice,
        };
    }
}

impl Node {
    /// A connection has been away for longer than a moment.
    pub(crate) fn drop_out(self: &Arc<Self>, session: &Arc<Session>, connection: u64) {
        let mut state = session.lock();
        let is_back = state.connection != connection || state.is_connected;
        let is_over = state.ended().is_some() || state.moved.is_some();
        if is_back || is_over || state.absence.is_dropped {
            return;
        }
        state.absence.is_dropped = true;
        self.emit(SessionEvent::Dropped, session);
        self.tell_rooms(session, &mut state);
    }

    /// A room has it that a session is dropped, or is not, whoever said so: perhaps it was so a while ago or on
    /// another node. If it is otherwise, the room is told. Whether the session takes part in the room.
    pub(crate) fn on_presence_in(
        self: &Arc<Self>,
        session: &Arc<Session>,
        room: &RoomId,
        presence: Presence,
    ) -> bool {
        let mut state = session.lock();
        if !state.host_by_room.contains_key(room) {
            return false;
        }
        match presence {
            Presence::Present => state.absence.forget(room),
            Presence::Dropped { .. } => drop(state.absence.told.insert(room.clone())),
        }
        if state.moved.is_none() {
            self.tell_rooms(session, &mut state);
        }
        true
    }

    /// Has the rooms of a session that is over keep its seats, as long as they keep seats, and forget the
    /// session itself.
    pub(crate) fn keep_seats(self: &Arc<Self>, session: &Arc<Session>, state: &mut State) {
        state.absence.is_dropped = true;
        self.have_told(session, state);
    }

    /// Has the session's rooms know whether it is dropped.
    pub(crate) fn tell_rooms(self: &Arc<Self>, session: &Arc<Session>, state: &mut State) {
        if state.untold().next().is_some() {
            self.have_told(session, state);
        }
    }

    fn have_told(self: &Arc<Self>, session: &Arc<Session>, state: &mut State) {
        if state.absence.is_telling {
            return;
        }
        state.absence.is_telling = true;
        let (node, session) = (Arc::clone(self), Arc::clone(session));
        self.runtime
            .spawn(async move { tell(&node, &session).await });
    }
}

impl State {
    /// The rooms that know something else than what is true.
    fn untold(&self) -> impl Iterator<Item = (&RoomId, &Arc<Host>)> {
        let absence = &self.absence;
        let rooms = self.host_by_room.iter();
        rooms.filter(|(room, _)| absence.told.contains(*room) != absence.is_dropped)
    }

    /// What is to be done next about the rooms; they are told it, or nobody is at it any more.
    fn next(&mut self) -> Next {
        let is_dropped = self.absence.is_dropped;
        let rooms: Vec<_> = self.untold().map(|(room, _)| room.clone()).collect();
        if !rooms.is_empty() {
            let hosts = rooms.iter().filter_map(|room| self.host_by_room.get(room));
            let hosts = hosts.cloned().collect();
            for room in rooms {
                if is_dropped {
                    self.absence.told.insert(room);
                } else {
                    self.absence.told.remove(&room);
                }
            }
            return Next::Tell { is_dropped, hosts };
        }
        if self.ended().is_some() && !self.host_by_room.is_empty() {
            let hosts = std::mem::take(&mut self.host_by_room);
            return Next::Forget(hosts.into_values().collect());
        }
        self.absence.is_telling = false;
        Next::Nothing
    }
}

/// What is to be done about a session's rooms.
enum Next {
    Tell {
        is_dropped: bool,
        hosts: Vec<Arc<Host>>,
    },
    /// The session is over, and they know it once they have read what was said to them.
    Forget(Vec<Arc<Host>>),
    Nothing,
}

async fn tell(node: &Arc<Node>, session: &Arc<Session>) {
    loop {
        let mut tasks = JoinSet::new();
        let next = session.lock().next();
        match next {
            Next::Nothing => return,
            Next::Forget(hosts) => {
                for host in hosts {
                    host.forget(node, session);
                }
            }
            Next::Tell { is_dropped, hosts } => {
                for host in hosts {
                    let body = body(node, session, is_dropped);
                    let node = Arc::clone(node);
                    tasks.spawn(async move {
                        host.append_for_sure(&node, body).await;
                    });
                }
            }
        }
        while tasks.join_next().await.is_some() {}
    }
}

fn body(node: &Node, session: &Session, is_dropped: bool) -> Body {
    let (user, session) = (session.user.clone(), session.id);
    if is_dropped {
        return Body::Dropped { user, session };
    }
    Body::Returned {
        user,
        session,
        node: node.name().clone(),
        incarnation: node.incarnation(),
    }
}

/// Waiting is looked at so often.
const SLICE: Duration = Duration::from_secs(1);

/// A process that was woken so late stood still.
const LAG_MAX: Duration = Duration::from_secs(1);

/// How long it has to be awake before it ends what waited.
const AWAKE_MIN: Duration = Duration::from_secs(5);
