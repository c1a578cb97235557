//! What a node tells of sessions and rooms, one after the other.

use tokio::sync::broadcast::Receiver;
use tombolo_services::{Change, RoomChange, SessionChange};

pub(crate) fn next_session_change(changes: &mut Receiver<Change>) -> Option<SessionChange> {
    loop {
        if let Change::Session(change) = changes.try_recv().ok()? {
            return Some(change);
        }
    }
}

pub(crate) fn next_room_change(changes: &mut Receiver<Change>) -> Option<RoomChange> {
    loop {
        if let Change::Room(change) = changes.try_recv().ok()? {
            return Some(change);
        }
    }
}
