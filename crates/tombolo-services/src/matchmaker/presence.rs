//! Tells pools that a user of a ticket is away, and that it is back.
//!
//! Whenever something becomes of a session, and when it has come from another node, it is *suspected*:
//! what the pools say of its user is compared with what is true, and made so. What a pool is told last is
//! therefore what is true in the end, in whichever order it came about. Each pool has suspects of its own: one
//! that takes no entries keeps no other from being told.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;
use tombolo_match::{Body, Device, TicketId};
use tombolo_room::SessionId;
use tombolo_wire::UserId;

use super::desk::Desk;
use crate::lock::lock;
use crate::node::Node;
use crate::vital::join_next;

/// Sessions of which something has become.
#[derive(Default)]
pub(super) struct Suspects {
    user_by_session: BTreeMap<SessionId, UserId>,
    /// They were too many: all are to be looked at.
    is_all: bool,
}

/// Where a session is.
enum Place {
    Here,
    /// Its connection has been away for longer than a moment, or it is over.
    Away,
    /// It goes, or has gone, to another node.
    Elsewhere,
}

impl Desk {
    pub(super) fn suspect(&self, session: SessionId, user: &UserId) {
        let mut suspects = lock(&self.suspects);
        if suspects.user_by_session.len() < SUSPECTS_MAX {
            suspects.user_by_session.insert(session, user.clone());
        } else {
            suspects.is_all = true;
        }
        drop(suspects);
        self.is_suspected.notify_one();
    }

    fn take_suspects(&self) -> BTreeMap<SessionId, UserId> {
        let Suspects {
            mut user_by_session,
            is_all,
        } = std::mem::take(&mut *lock(&self.suspects));
        if is_all {
            let state = self.lock();
            let here = state.here.values().flat_map(|here| &here.devices);
            user_by_session.extend(here.map(|(user, session)| (*session, user.clone())));
        }
        user_by_session
    }
}

/// Looks at those that are suspected, for as long as it runs.
pub(super) async fn watch(desk: &Arc<Desk>, node: &Arc<Node>) {
    loop {
        desk.is_suspected.notified().await;
        let mut tasks = JoinSet::new();
        for (session, user) in desk.take_suspects() {
            if tasks.len() >= SUSPECTS_AT_ONCE {
                join_next(&mut tasks).await;
            }
            let (node, desk) = (Arc::clone(node), Arc::clone(desk));
            tasks.spawn(look_at(node, desk, session, user));
        }
        // No session is looked at twice at the same time.
        while join_next(&mut tasks).await {}
    }
}

async fn look_at(node: Arc<Node>, desk: Arc<Desk>, session: SessionId, user: UserId) {
    let mut refused = None;
    while let Some(body) = correction(&node, &desk, session, &user) {
        // As of a node whose life is over by the log, and which does not know that yet.
        if refused.as_ref() == Some(&body) {
            return;
        }
        match desk.insist(&node, body.clone()).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(_)) => refused = Some(body),
        }
    }
}

/// What a pool is to be told so that it knows what is true; `None` when it does.
fn correction(node: &Node, desk: &Desk, session: SessionId, user: &UserId) -> Option<Body> {
    let place = place(node, &session);
    let state = desk.lock();
    let ticket = state.pool.ticket_of(user)?.id;
    let standing = state.pool.standing(&ticket)?;
    let device = standing.player(user)?.device.as_ref()?;
    let is_away = standing.away.contains_key(user);
    if device.session.0 != session.0 {
        // The pool has another session, which is away: it was written after this one, which has asked for the ticket.
        let mut asked = state.here.get(&ticket)?.asked.iter();
        let has_asked = asked.any(|(_, asked)| *asked == session);
        return (is_away && has_asked && matches!(place, Place::Here))
            .then(|| come_back(node, ticket, user.clone(), session));
    }
    let here = here(node, session);
    let (is_known_here, user) = (*device == here, user.clone());
    match place {
        Place::Here if is_away || !is_known_here => Some(come_back(node, ticket, user, session)),
        Place::Away if is_known_here && !is_away => Some(Body::Dropped { ticket, user }),
        Place::Here | Place::Away | Place::Elsewhere => None,
    }
}

/// A user comes back to its ticket, perhaps with another session.
pub(super) fn come_back(node: &Node, ticket: TicketId, user: UserId, session: SessionId) -> Body {
    Body::Returned {
        ticket,
        user,
        device: Some(here(node, session)),
    }
}

/// A session of this life of this node, as pools know it.
pub(super) fn here(node: &Node, session: SessionId) -> Device {
    Device {
        session: tombolo_match::SessionId(session.0),
        node: node.name().clone(),
        incarnation: node.incarnation(),
    }
}

fn place(node: &Node, id: &SessionId) -> Place {
    let sessions = lock(&node.sessions);
    let Some(session) = sessions.by_id.get(id) else {
        return match sessions.given_by_id.contains_key(id) {
            true => Place::Elsewhere,
            false => Place::Away,
        };
    };
    let state = session.lock();
    match (&state.moved, state.absence.is_dropped) {
        (Some(_), _) => Place::Elsewhere,
        (None, true) => Place::Away,
        (None, false) => Place::Here,
    }
}

/// Sessions that wait to be looked at.
const SUSPECTS_MAX: usize = 65_536;

/// Sessions that are looked at at the same time.
const SUSPECTS_AT_ONCE: usize = 256;
