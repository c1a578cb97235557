//! The rooms that a device is in.

use std::sync::{Arc, Weak};

use tombolo_room::LeftReason;
use tombolo_wire::v1::{self, ErrorCode, JoinMode, room_event};
use tombolo_wire::{PublicKeys, RoomId, UserId};

use super::{Shared, lock};
use crate::error::Error;
use crate::retry::persistently;
use crate::room::{RoomEvent, RoomState, join};
use crate::session::Unsent;

impl Shared {
    /// Notes a room before it is joined; false when the device is in it.
    pub(crate) fn add_room(&self, id: &RoomId, state: &Arc<RoomState>) -> bool {
        let mut rooms = lock(&self.rooms);
        let is_new = !rooms.contains_key(id);
        if is_new {
            rooms.insert(id.clone(), state.clone());
        }
        is_new
    }

    /// Forgets a room; false when it was forgotten before.
    pub(crate) fn remove_room(&self, id: &RoomId, state: &Arc<RoomState>) -> bool {
        let mut rooms = lock(&self.rooms);
        let is_known = rooms.get(id).is_some_and(|known| Arc::ptr_eq(known, state));
        if is_known {
            rooms.remove(id);
        }
        is_known
    }

    /// Whether this device is in a room, or is joining it.
    pub(crate) fn knows(&self, id: &RoomId) -> bool {
        lock(&self.rooms).contains_key(id)
    }

    /// Leaves a room, if this device is in it, whatever its name.
    pub(crate) fn leave_unnamed(self: &Arc<Self>, state: &Arc<RoomState>) {
        let mut rooms = lock(&self.rooms);
        let mut left = rooms.extract_if(|_, known| Arc::ptr_eq(known, state));
        if let Some((id, _)) = left.next() {
            self.leave_aside(id);
        }
    }

    /// Whether that is the room of that name.
    pub(crate) fn is_room(&self, id: &RoomId, state: &Arc<RoomState>) -> bool {
        let rooms = lock(&self.rooms);
        rooms.get(id).is_some_and(|known| Arc::ptr_eq(known, state))
    }

    /// The rooms whose names are such.
    pub(crate) fn rooms_where(
        &self,
        is_such: fn(&RoomId) -> bool,
    ) -> Vec<(RoomId, Arc<RoomState>)> {
        let rooms = lock(&self.rooms);
        let found = rooms.iter().filter(|(id, _)| is_such(id));
        found
            .map(|(id, room)| (id.clone(), Arc::clone(room)))
            .collect()
    }

    /// The rooms that this device is in with a user, and the keys of that one's device there.
    pub(super) fn rooms_with(&self, user: &str) -> Vec<(RoomId, PublicKeys)> {
        let Ok(user) = UserId::parse(user) else {
            return Vec::new();
        };
        let rooms = lock(&self.rooms);
        let met = rooms
            .iter()
            .filter_map(|(id, room)| Some((id.clone(), room.keys_of(&user)?)));
        met.collect()
    }

    /// Whether this device is in a room, or joins it.
    pub(crate) fn has_room(&self, id: &RoomId) -> bool {
        lock(&self.rooms).contains_key(id)
    }

    pub(super) fn room(&self, id: &str) -> Option<(RoomId, Arc<RoomState>)> {
        let id = RoomId::parse(id).ok()?;
        let state = lock(&self.rooms).get(&id)?.clone();
        Some((id, state))
    }

    /// Takes in the members of a room that the node has let this device into.
    pub(super) fn on_members(self: &Arc<Self>, joined: &v1::Joined) {
        let Ok(id) = RoomId::parse(&joined.room) else {
            return;
        };
        // Under the lock, so that whoever drops the room meanwhile knows whether to leave it.
        let mut rooms = lock(&self.rooms);
        if let Some(state) = self.unnamed.take(joined.tag) {
            rooms.entry(id.clone()).or_insert(state);
        }
        match rooms.get(&id) {
            Some(state) => state.on_members(joined),
            // Nobody waits any more.
            None => self.leave_aside(id),
        }
    }

    pub(super) fn on_room_event(self: &Arc<Self>, event: v1::RoomEvent) {
        let Some((room, state)) = self.room(&event.room) else {
            return self.on_stray(&event.room);
        };
        match event.kind {
            Some(room_event::Kind::Joined(member)) => state.on_joined(member),
            Some(room_event::Kind::Left(left)) => {
                if let Ok(user) = UserId::parse(&left.user) {
                    let is_own = self.is_own(&user);
                    state.on_left(user, left.reason);
                    if is_own && self.remove_room(&room, &state) {
                        self.session.forget_aside(room);
                        state.end();
                    }
                }
            }
            Some(kind) => state.on_told(&event.by, kind),
            None => {}
        }
    }

    pub(super) fn on_unsent(&self, unsent: Unsent) {
        let Unsent {
            room,
            numbers,
            code,
            reason,
        } = unsent;
        match self.room(&room) {
            Some((_, state)) => state.on_unsent(numbers, code, reason),
            None => tracing::debug!(
                room,
                ?numbers,
                ?code,
                reason,
                "not sent to a room that was left"
            ),
        }
    }

    /// Joins the rooms again that a lost session was in; what that one had begun to join again is among them.
    pub(super) fn rejoin(self: &Arc<Self>) {
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        let rooms = lock(&self.rooms);
        // What is being joined at this moment fails, as every request of the lost session.
        let joined = rooms.iter().filter(|(_, state)| state.is_joined());
        *lock(&self.rejoining) = joined
            .map(|(id, state)| {
                let shared = Arc::downgrade(self);
                rejoin(shared, turn.clone(), id.clone(), state.clone())
            })
            .collect();
    }
}

/// Joins a room again after the node has forgotten the session. A cluster that has just lost a node may
/// not be able to let anybody in for some seconds.
async fn rejoin(
    shared: Weak<Shared>,
    turn: Arc<tokio::sync::Mutex<()>>,
    id: RoomId,
    state: Arc<RoomState>,
) {
    let attempt = async || {
        // One after the other: nodes bound how many joins of a device are under way.
        let _turn = turn.lock().await;
        let shared = shared.upgrade().filter(|it| it.is_room(&id, &state));
        let Some(session) = shared.map(|shared| shared.session.clone()) else {
            return Ok(());
        };
        // A room that has closed meanwhile is the application's to make anew.
        join(&session, &id, JoinMode::Join, &state).await
    };
    match persistently(attempt).await {
        Ok(()) => {}
        // Its end ends the rooms, too.
        Err(error) if error.is_closed() => {}
        Err(error) => {
            let left = left_by(&error);
            match left {
                Some(reason) => tracing::info!(reason, room = %id, "out of the room meanwhile"),
                None => tracing::warn!(%error, room = %id, "not let into the room again"),
            }
            let session = shared.upgrade().map(|it| it.session.clone());
            if let Some(session) = session {
                let numbers = session.forget(id.clone()).await;
                let code = match left {
                    Some(_) => Some(ErrorCode::NotAMember),
                    None => error.code(),
                };
                state.on_unsent(numbers, code, error.to_string());
            }
            // Whoever hears of it may join anew.
            let shared = shared.upgrade();
            _ = shared.as_ref().map(|it| it.remove_room(&id, &state));
            match left.zip(shared.and_then(|it| it.user())) {
                Some((reason, own)) => state.on_left(own, reason.to_owned()),
                None => state.tell(RoomEvent::Refused(error.to_string())),
            }
            state.end();
        }
    }
}

/// How the device's membership ended while it had no session, as it would have been told then; `None` when it is
/// only not let in.
fn left_by(error: &Error) -> Option<&'static str> {
    let ends = [
        (ErrorCode::NoSuchRoom, LeftReason::Closed),
        (ErrorCode::Kicked, LeftReason::Kicked),
        (ErrorCode::Banned, LeftReason::Banned),
        (ErrorCode::Replaced, LeftReason::Replaced),
    ];
    let code = error.code()?;
    let (_, reason) = ends.into_iter().find(|(end, _)| *end == code)?;
    Some(reason.as_str())
}
