//! Rooms: where devices find each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;
use tombolo_path::Policy;
use tombolo_wire::v1::{self, JoinMode, request, response};
use tombolo_wire::{PublicKeys, RELIABLE_BYTES_MAX, RoomId, UNRELIABLE_BYTES_MAX, UserId};

use crate::device::{Device, Shared};
use crate::error::Error;
use crate::link::{Lane, Peer, SendError};

/// Events that wait for the application.
const EVENTS_MAX: usize = 1024;

/// How a room is made, and how links to its members behave.
#[derive(Clone, Debug, Default)]
pub struct RoomOptions {
    /// Most members, when this device creates the room; 0 for the node's default.
    pub members_max: u32,
    /// Which paths links to members may take, those that members start included.
    pub policy: Policy,
}

/// Something happened in a room.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RoomEvent {
    /// A member came.
    Joined(UserId),
    /// A member went; links to it may go on.
    Left {
        /// Who.
        user: UserId,
        /// `left`, `disconnected` or `replaced`.
        reason: String,
    },
    /// A member sent a message through the node.
    Message {
        /// Who.
        from: UserId,
        /// What.
        payload: Bytes,
    },
    /// A member started a link to this device.
    Peer(Peer),
    /// The node did not carry out a message of this device.
    Refused(String),
}

/// Access to rooms; see [`Device::rooms`].
#[derive(Debug)]
pub struct Rooms<'a>(pub(crate) &'a Device);

impl Rooms<'_> {
    /// Makes a room and joins it.
    ///
    /// # Errors
    /// When it exists already, or the node refuses.
    pub async fn create(&self, room: &str, options: RoomOptions) -> Result<Room, Error> {
        self.enter(room, JoinMode::Create, options).await
    }

    /// Joins a room that exists.
    ///
    /// # Errors
    /// When it does not exist or is full, or the node refuses.
    pub async fn join(&self, room: &str, options: RoomOptions) -> Result<Room, Error> {
        self.enter(room, JoinMode::Join, options).await
    }

    /// Joins a room, making it when it does not exist.
    ///
    /// # Errors
    /// When it is full, or the node refuses.
    pub async fn join_or_create(&self, room: &str, options: RoomOptions) -> Result<Room, Error> {
        self.enter(room, JoinMode::JoinOrCreate, options).await
    }

    async fn enter(&self, room: &str, mode: JoinMode, options: RoomOptions) -> Result<Room, Error> {
        let id = RoomId::parse(room).map_err(Error::local)?;
        let device = &self.0.0;
        // The room must know its events' place before the first one can come.
        let (events_tx, events) = mpsc::channel(EVENTS_MAX);
        let state = Arc::new(RoomState {
            options,
            members: Mutex::new(BTreeMap::new()),
            events: events_tx,
        });
        if !device.add_room(&id, &state) {
            return Err(Error::local(format!("this device is in room {id} already")));
        }
        match device.join(&id, mode, state.options.members_max).await {
            Ok(members) => {
                state.set_members(members);
                Ok(Room {
                    id,
                    device: self.0.clone(),
                    state,
                    events,
                })
            }
            Err(error) => {
                device.remove_room(&id);
                Err(error)
            }
        }
    }
}

/// What the device keeps of a room.
#[derive(Debug)]
pub(crate) struct RoomState {
    pub(crate) options: RoomOptions,
    members: Mutex<BTreeMap<UserId, PublicKeys>>,
    events: mpsc::Sender<RoomEvent>,
}

impl RoomState {
    pub(crate) fn set_members(&self, members: Vec<(UserId, PublicKeys)>) {
        self.members().extend(members);
    }

    pub(crate) fn keys_of(&self, user: &UserId) -> Option<PublicKeys> {
        self.members().get(user).copied()
    }

    pub(crate) async fn on_joined(&self, user: UserId, keys: PublicKeys) {
        self.members().insert(user.clone(), keys);
        self.tell(RoomEvent::Joined(user)).await;
    }

    pub(crate) async fn on_left(&self, user: UserId, reason: String) {
        self.members().remove(&user);
        self.tell(RoomEvent::Left { user, reason }).await;
    }

    /// Waits for a slow application; one that dropped its room hears nothing.
    pub(crate) async fn tell(&self, event: RoomEvent) {
        _ = self.events.send(event).await;
    }

    fn members(&self) -> std::sync::MutexGuard<'_, BTreeMap<UserId, PublicKeys>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A room that this device is in. Dropping it stops its events; [`Room::leave`] tells the others.
#[derive(Debug)]
pub struct Room {
    id: RoomId,
    device: Device,
    state: Arc<RoomState>,
    events: mpsc::Receiver<RoomEvent>,
}

impl Room {
    /// The room's name.
    #[must_use]
    pub fn id(&self) -> &RoomId {
        &self.id
    }

    /// Everybody in the room, this device's user included, in order.
    #[must_use]
    pub fn members(&self) -> Vec<UserId> {
        self.state.members().keys().cloned().collect()
    }

    /// The next event; `None` when the session is over.
    pub async fn next_event(&mut self) -> Option<RoomEvent> {
        self.events.recv().await
    }

    /// Sends a message to every other member, through the node.
    ///
    /// # Errors
    /// When it is too long for its lane, or the session is over.
    pub async fn broadcast(&self, lane: Lane, payload: impl Into<Bytes>) -> Result<(), Error> {
        self.send(&[], lane, payload).await
    }

    /// Sends a message to some members, through the node; to every other member for an empty list.
    ///
    /// # Errors
    /// When it is too long for its lane, or the session is over.
    pub async fn send(
        &self,
        to: &[UserId],
        lane: Lane,
        payload: impl Into<Bytes>,
    ) -> Result<(), Error> {
        let payload = payload.into();
        let bytes_max = match lane {
            Lane::Unreliable => UNRELIABLE_BYTES_MAX,
            Lane::Reliable | Lane::ReliableUnordered => RELIABLE_BYTES_MAX,
        };
        if payload.len() > bytes_max {
            return Err(Error::local(SendError::TooLarge {
                bytes: payload.len(),
                bytes_max,
            }));
        }
        let message = v1::Send {
            room: self.id.to_string(),
            to: to.iter().map(UserId::to_string).collect(),
            payload,
        };
        match lane {
            Lane::Unreliable => {
                self.device.0.session.send_unreliable(message);
                Ok(())
            }
            Lane::Reliable | Lane::ReliableUnordered => {
                self.device.0.session.send_reliable(message).await
            }
        }
    }

    /// Begins a link to a member.
    pub fn peer(&self, user: &UserId) -> PeerBuilder<'_> {
        PeerBuilder {
            room: self,
            user: user.clone(),
            first: Vec::new(),
        }
    }

    /// Leaves the room; links to its members go on.
    ///
    /// # Errors
    /// When the session is over.
    pub async fn leave(self) -> Result<(), Error> {
        self.device.0.remove_room(&self.id);
        let leave = v1::Leave {
            room: self.id.to_string(),
        };
        self.device
            .0
            .session
            .request(request::Kind::Leave(leave))
            .await
            .map(drop)
    }
}

/// A link to be; see [`Room::peer`].
#[derive(Debug)]
pub struct PeerBuilder<'a> {
    room: &'a Room,
    user: UserId,
    first: Vec<(Lane, Bytes)>,
}

impl PeerBuilder<'_> {
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

impl Shared {
    /// Asks the node for a place in a room; returns the members.
    pub(crate) async fn join(
        &self,
        id: &RoomId,
        mode: JoinMode,
        members_max: u32,
    ) -> Result<Vec<(UserId, PublicKeys)>, Error> {
        let join = v1::Join {
            room: id.to_string(),
            mode: mode.into(),
            members_max,
        };
        match self.session.request(request::Kind::Join(join)).await? {
            response::Result::Joined(joined) => Ok(joined
                .members
                .into_iter()
                .filter_map(parse_member)
                .collect()),
            response::Result::Failure(_)
            | response::Result::Left(_)
            | response::Result::IceServers(_) => {
                Err(Error::local("the node answered another question"))
            }
        }
    }
}

/// Reads a member; `None` when it breaks the contract.
pub(crate) fn parse_member(member: v1::Member) -> Option<(UserId, PublicKeys)> {
    let keys = PublicKeys::try_from(member.keys.as_ref()).ok()?;
    Some((UserId::parse(&member.user).ok()?, keys))
}
