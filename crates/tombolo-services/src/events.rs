//! What becomes of sessions, of members and of rooms, for whoever wants to know.

use std::sync::Arc;

use tokio::sync::broadcast;
use tombolo_room::{Message, SessionId};
use tombolo_wire::{RoomId, UserId};

use crate::node::Node;
use crate::session::Session;

/// Something has become of a session on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// It has begun, here or on another node from which it has moved here.
    Began,
    /// Its connection has been away for longer than a moment.
    Dropped,
    /// It is back after that.
    Returned,
    /// It is over.
    Ended,
    /// It goes on over another node.
    Moved,
}

/// Whose session it is of which something has become.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionChange {
    /// What has become of it.
    pub event: SessionEvent,
    /// Whose it is.
    pub user: UserId,
    /// Which one: a user may have several.
    pub session: [u8; 16],
}

/// Something has become of a member in a room, whose session is on this node, or was when it ended, or of a room, by what this node was the first
/// to put into its log. Every such thing is told on one node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoomEvent {
    /// It came in.
    Joined,
    /// It is no member any more.
    Left,
    /// The room has opened.
    Opened,
    /// The room has closed.
    Closed,
    /// A durable message has been said.
    Said(Message),
}

/// Of which room, or of which member in it, something has become.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoomChange {
    /// What has become of it.
    pub event: RoomEvent,
    /// The room.
    pub room: RoomId,
    /// The member; or who has opened the room or said the message, if that was no server. None when it has closed.
    pub user: Option<UserId>,
}

/// What has become of something on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Of a session.
    Session(SessionChange),
    /// Of a room, or of a member in it.
    Room(RoomChange),
}

/// Tells those who want to know, in the order in which it happens.
#[derive(Debug)]
pub(crate) struct Changes {
    /// All but messages, which are many and long.
    few: broadcast::Sender<Change>,
    all: broadcast::Sender<Change>,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            few: broadcast::Sender::new(CHANGES_MAX),
            all: broadcast::Sender::new(MESSAGES_MAX),
        }
    }
}

impl Changes {
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.few.subscribe()
    }

    pub(crate) fn subscribe_to_all(&self) -> broadcast::Receiver<Change> {
        self.all.subscribe()
    }

    pub(crate) fn emit_of_room(&self, event: RoomEvent, room: &RoomId, user: Option<&UserId>) {
        self.emit(Change::Room(RoomChange {
            event,
            room: room.clone(),
            user: user.cloned(),
        }));
    }

    fn emit_of_session(&self, event: SessionEvent, session: &Session) {
        let SessionId(id) = session.id;
        self.emit(Change::Session(SessionChange {
            event,
            user: session.user.clone(),
            session: id,
        }));
    }

    /// Nobody may want to know.
    fn emit(&self, change: Change) {
        if !change.is_message() {
            let _ = self.few.send(change.clone());
        }
        let _ = self.all.send(change);
    }
}

impl Change {
    fn is_message(&self) -> bool {
        matches!(self, Self::Room(change) if matches!(change.event, RoomEvent::Said(_)))
    }
}

impl Node {
    /// Tells what has become of a session, in order: its lock is held.
    pub(crate) fn emit(&self, event: SessionEvent, session: &Arc<Session>) {
        self.matchmaker.on_session(session);
        self.social.presence.on_session(event, session);
        self.changes.emit_of_session(event, session);
    }
}

/// What waits for who is slow to listen; whoever misses some is told so.
const CHANGES_MAX: usize = 16_384;

/// The same of who wants to hear messages, of up to 64 KiB each.
const MESSAGES_MAX: usize = 2048;
