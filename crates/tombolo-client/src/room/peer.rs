//! Links to members.

use bytes::Bytes;
use tombolo_wire::UserId;

use super::Room;
use crate::error::Error;
use crate::link::{Lane, Peer};

/// A link to be; see [`Room::peer`].
#[derive(Debug)]
pub struct PeerBuilder<'a> {
    room: &'a Room,
    user: UserId,
    first: Vec<(Lane, Bytes)>,
}

impl<'a> PeerBuilder<'a> {
    pub(super) fn new(room: &'a Room, user: &UserId) -> Self {
        Self {
            room,
            user: user.clone(),
            first: Vec::new(),
        }
    }

    /// Adds a first message: it travels inside the introduction, sealed for the peer, and arrives
    /// one trip through the cluster later. The next messages follow as soon as the link is up.
    #[must_use]
    pub fn first_message(mut self, lane: Lane, payload: impl Into<Bytes>) -> Self {
        self.first.push((lane, payload.into()));
        self
    }

    /// Starts the link without waiting; messages sent meanwhile are queued. A link that exists
    /// already is returned, and first messages are sent on it.
    ///
    /// # Errors
    /// When the user is this device's own, or a first message is too long.
    pub fn open(self) -> Result<Peer, Error> {
        self.room
            .device
            .0
            .open_link(&self.room.id, &self.room.state, self.user, self.first)
    }

    /// Starts the link and waits until messages flow both ways.
    ///
    /// # Errors
    /// As [`PeerBuilder::open`], and when the peer cannot be reached.
    pub async fn connect(self) -> Result<Peer, Error> {
        let peer = self.open()?;
        peer.ready().await?;
        Ok(peer)
    }
}
