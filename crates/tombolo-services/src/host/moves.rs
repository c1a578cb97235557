//! Members that go on over another node, seen from a room.
//!
//! The room's log says at which entry a member goes over from one node to the other. Nodes read it at
//! different times, so messages to and from the member may be on their way over either. None may
//! overtake another that was sent before it:
//!
//! 1. The old node reads the entry, and sends a *moved* mark to every node with members, behind all
//!    that the member said over it.
//! 2. Each of them, once it has read the entry too, answers that the mark has *passed*, behind all that
//!    was sent to the member over the old node; from then on it speaks with the new one.
//! 3. When all have answered the old node tells the new one that the room has *settled*, behind all that
//!    it forwarded. Only then the new node lets the member speak and hear.
//!
//! Links between nodes keep their order, so that is all it takes. A node that dies meanwhile is not
//! waited for.

use std::collections::BTreeSet;
use std::sync::Arc;

use tombolo_engine::Offset;
use tombolo_room::{Body, Member, Membership, Room, SessionId};
use tombolo_wire::{NodeId, UserId};

use super::{Host, State, news};
use crate::cluster::{self, Sender};
use crate::lock::lock;
use crate::node::{Node, Parting};
use crate::session::Session;

/// A member that goes on over another node.
pub(super) struct MovedMember {
    pub(super) user: UserId,
    pub(super) session: Arc<Session>,
    to: NodeId,
    /// The entry by which it had come; `None` before a snapshot.
    came_at: Option<Offset>,
    /// The entry by which it went.
    at: Offset,
    /// The nodes that the mark has not passed.
    waiting: BTreeSet<NodeId>,
}

impl Host {
    /// Has the room say that a session goes on over this node; returns once that was read here.
    pub(crate) async fn go_on(&self, node: &Arc<Node>, session: &Arc<Session>) {
        let body = Body::Returned {
            user: session.user.clone(),
            session: session.id,
            node: node.name().clone(),
            incarnation: node.incarnation(),
        };
        let Some(at) = self.append_for_sure(node, body).await else {
            return;
        };
        self.read_until(at).await;
        if !self.lock().is_member(session) {
            // It was sent away, or its seat was given up, before that; the old node has told it.
            node.settle(session, self.room());
        }
    }

    /// A session has gone on, over the same node or another.
    pub(super) fn on_went_on(
        self: &Arc<Self>,
        node: &Arc<Node>,
        state: &mut State,
        user: &UserId,
        before: &Member,
        now: &Membership,
    ) {
        if !before.is_present() {
            for news in news::of_return(&state.room, user) {
                self.tell(node, state, &news);
            }
        }
        let (from, here) = (&before.membership().node, node.name());
        if *from == now.node {
            return self.on_presence(node, state, user);
        }
        state.count_elsewhere(here);
        if from == here {
            self.on_gone_from_here(node, state, user, now);
        } else {
            state.remember_departed(user, before.membership());
        }
        if now.node == *here && !self.on_come_here(node, state, user, now) {
            self.part_with(node, state, user, now, Parting::Drops);
        }
    }

    /// Takes in a session that takes part over this node; false when it is not here.
    pub(super) fn on_come_here(
        self: &Arc<Self>,
        node: &Arc<Node>,
        state: &mut State,
        user: &UserId,
        membership: &Membership,
    ) -> bool {
        let found = lock(&node.sessions).by_id.get(&membership.session).cloned();
        let Some(session) = found.filter(|session| session.user == *user) else {
            return false;
        };
        let mut about = session.lock();
        if about.ended().is_some() {
            return false;
        }
        about.enter_room(&self.room, self);
        node.tell_rooms(&session, &mut about);
        drop(about);
        self.make_way(node, state, user, &session);
        state.session_by_user.insert(user.clone(), session);
        if let Some(at) = state.cursor {
            state.here_since.insert(user.clone(), at);
        }
        true
    }

    fn on_gone_from_here(
        self: &Arc<Self>,
        node: &Arc<Node>,
        state: &mut State,
        user: &UserId,
        now: &Membership,
    ) {
        let here = state.session(user).cloned();
        let (Some(session), Some(at)) = (
            here.filter(|session| session.id == now.session),
            state.cursor,
        ) else {
            return;
        };
        let came_at = state.here_since.get(user).copied();
        state.remove_session(user);
        session.lock().leave_room(&self.room);
        let mark = cluster::moved_item(&Sender {
            room: self.room.clone(),
            at,
            user: user.clone(),
            session: now.session,
            seq: cluster::MARK_SEQ,
        });
        let mut waiting: BTreeSet<_> = state.elsewhere().map(|(node, _)| node.clone()).collect();
        waiting.insert(now.node.clone());
        waiting.retain(|there| {
            node.cluster.is_up(there) && node.cluster.send(there, mark.clone()).is_ok()
        });
        state.moved.push(MovedMember {
            user: user.clone(),
            session,
            to: now.node.clone(),
            came_at,
            at,
            waiting,
        });
        self.settle_moved(node, state);
        let (host, node, session) = (Arc::clone(self), Arc::clone(node), now.session);
        node.runtime.clone().spawn(async move {
            tokio::time::sleep(node.config.engine_timeout).await;
            host.settle_anyhow(&node, session, at);
        });
    }

    /// A mark has passed another node.
    pub(crate) fn on_passed(self: &Arc<Self>, node: &Arc<Node>, by: &NodeId, session: SessionId) {
        self.stop_waiting(node, |moved| {
            if moved.session.id == session {
                moved.waiting.remove(by);
            }
        });
    }

    /// A node is gone: nobody waits for it, and nothing goes on over it.
    pub(crate) fn on_node_gone(self: &Arc<Self>, node: &Arc<Node>, gone: &NodeId) {
        self.stop_waiting(node, |moved| {
            moved.waiting.remove(gone);
            if moved.to == *gone {
                moved.waiting.clear();
            }
        });
    }

    /// Whoever has not answered by now is stuck; the others must not wait for it without end.
    fn settle_anyhow(self: &Arc<Self>, node: &Arc<Node>, session: SessionId, at: Offset) {
        self.stop_waiting(node, |moved| {
            if moved.session.id == session && moved.at == at && !moved.waiting.is_empty() {
                tracing::warn!(room = %self.room, waiting = ?moved.waiting, "settled anyhow");
                moved.waiting.clear();
            }
        });
    }

    fn stop_waiting(self: &Arc<Self>, node: &Arc<Node>, change: impl FnMut(&mut MovedMember)) {
        let mut state = self.lock();
        state.moved.iter_mut().for_each(change);
        self.settle_moved(node, &mut state);
        drop(state);
        node.release(self);
    }

    fn settle_moved(&self, node: &Node, state: &mut State) {
        for moved in state.moved.extract_if(.., |moved| moved.waiting.is_empty()) {
            let settled = cluster::settled_item(moved.session.id, &self.room);
            if let Err(reject) = node.cluster.pass_on(&moved.to, settled) {
                tracing::warn!(to = %moved.to, %reject, "nobody is told that a room has settled");
            }
        }
    }

    /// Whether nobody that goes on over another node is waited for.
    pub(crate) fn has_settled(&self) -> bool {
        self.lock().moved.is_empty()
    }

    /// Those whose sessions went on over other nodes between the two.
    pub(super) fn on_replaced(self: &Arc<Self>, node: &Arc<Node>, state: &mut State, old: &Room) {
        let went_on: Vec<_> = old
            .members()
            .filter_map(|(user, before)| {
                let now = state.room.membership(user)?;
                let is_same = now.session == before.membership().session;
                let has_moved = is_same && now.node != before.membership().node;
                has_moved.then(|| (user.clone(), before.clone(), now.clone()))
            })
            .collect();
        for (user, before, now) in went_on {
            self.on_went_on(node, state, &user, &before, &now);
        }
    }
}

impl State {
    /// Whom a sender meant by everybody here, if its node had read so far.
    pub(super) fn everybody(&self, at: Offset) -> impl Iterator<Item = &Arc<Session>> {
        let here = self
            .sessions()
            .filter(move |(user, _)| self.was_here(user, at));
        let here = here.map(|(_, session)| session);
        here.chain(self.moved_since(at).map(|moved| &moved.session))
    }

    /// A member whom a sender meant among those here, if its node had read so far.
    pub(super) fn meant(&self, user: &UserId, at: Offset) -> Option<&Arc<Session>> {
        if self.was_here(user, at) {
            return self.session_for(user, at);
        }
        let mut moved = self.moved_since(at);
        let moved = moved.find(|moved| moved.user == *user);
        moved.map(|moved| &moved.session)
    }

    /// Somebody who was here for a sender whose node had read so far.
    pub(super) fn moved_since(&self, at: Offset) -> impl Iterator<Item = &MovedMember> {
        let moved = self.moved.iter();
        moved.filter(move |moved| moved.at > at && is_after(at, moved.came_at.as_ref()))
    }
}

fn is_after(at: Offset, came: Option<&Offset>) -> bool {
    came.is_none_or(|came| at >= *came)
}
