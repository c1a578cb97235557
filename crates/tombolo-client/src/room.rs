//! Rooms: where devices find each other.

mod act;
mod find;
mod leave;
mod peer;
mod queue;
mod state;
mod view;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tombolo_path::Policy;
use tombolo_room::{
    Audience, Change, Changed, Message, ObjectId, Password, PropertyKey, Reserve, RoomCode,
    Settings, Target,
};
use tombolo_wire::v1::{self, ErrorCode, JoinMode, request, response};
use tombolo_wire::{RELIABLE_BYTES_MAX, RoomId, UNRELIABLE_BYTES_MAX, UserId};

use crate::device::Device;
use crate::error::Error;
use crate::link::{Lane, Peer, SendError};
use crate::matchmaker::{reachability, said_reach};
use crate::retry::{persistently, to_the_end};
use crate::session;

pub use act::History;
pub use find::FoundRooms;
pub(crate) use find::Unnamed;
pub use peer::PeerBuilder;
pub(crate) use state::RoomState;
pub use view::{MemberView, RoomObject, RoomView};

/// How a room is made, and how links to its members behave.
#[derive(Clone, Debug, Default)]
pub struct RoomOptions {
    /// Most members, when this device creates the room; 0 for the node's default. `settings` say it
    /// themselves.
    pub members_max: u32,
    /// How the room behaves, when this device creates it; `None` for the node's defaults.
    pub settings: Option<Settings>,
    /// The room's first properties, when this device creates it.
    pub properties: Vec<Change>,
    /// Seats that are kept for others, when this device creates the room.
    pub reserve: Option<Reserve>,
    /// What a newcomer must know; shown when the room is there, set when this device creates it. It is bound to
    /// the room's name: a device that looks for rooms with it tries up to eight that match itself.
    pub password: Option<String>,
    /// When this device creates the room, it gets a short code, by which others may
    /// [join](Rooms::join_code), hidden or not; see [`Room::code`].
    pub with_code: bool,
    /// This member's first properties, unless it has some.
    pub member_properties: Vec<Change>,
    /// How well this device is reached by others: of the members that are there the best becomes the owner. `None`:
    /// as the SDK measures it, from 0 (not known) to 4 (by everybody; see `docs/rooms.md`), and told again when that
    /// is another. An application that gives numbers of its own does so on all devices.
    pub reachability: Option<u32>,
    /// Which paths links to members may take, those that members start included.
    pub policy: Policy,
}

/// How a message through the node arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageKind {
    /// Once, in order with this member's other messages of this kind.
    Reliable,
    /// Once, in any order: it waits for nothing, and nothing waits for it.
    ReliableUnordered,
    /// At most once, in any order; up to 1100 bytes.
    Unreliable,
    /// As long as this member has sent no newer one by that name: whoever reads slowly gets the latest
    /// instead of all. The last one arrives.
    Latest(PropertyKey),
}

impl From<Lane> for MessageKind {
    fn from(lane: Lane) -> Self {
        match lane {
            Lane::Reliable => Self::Reliable,
            Lane::ReliableUnordered => Self::ReliableUnordered,
            Lane::Unreliable => Self::Unreliable,
        }
    }
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
        /// `left`, `disconnected`, `replaced`, `kicked`, `banned` or `closed`; `left` also for whoever
        /// went while this device had lost its session. How this device's own user went meanwhile is told when
        /// the device is back: `closed` also of a room that nobody was in for as long as it lasts then, or whose
        /// node kept it in memory alone and has ended.
        reason: String,
    },
    /// A member's connection broke; its seat is kept for a while.
    Dropped(UserId),
    /// A member that had dropped is back.
    Returned(UserId),
    /// The node of these members died: reliable messages that they had sent, and that it had taken from
    /// them, may not have come. Durable ones are not concerned.
    Lost(Vec<UserId>),
    /// Messages of this device did not arrive, or not with everybody: [`Room::send`] has returned their
    /// numbers. Each may be told several times, as when members on several nodes did not get it.
    Unsent {
        /// Which.
        numbers: Vec<u64>,
        /// Why the node refused them: see `docs/cluster.md`; `NotAMember` when this device was not let into
        /// the same room again after its session was lost. `None` when the session was lost, or ended,
        /// before the node had acknowledged them: they may have arrived.
        code: Option<ErrorCode>,
        /// The same for people.
        reason: String,
    },
    /// The whole room is known: once after joining, and again after a gap. See [`Room::read`].
    Synced {
        /// Durable messages were missed that are not known any more.
        lost: bool,
    },
    /// The room behaves otherwise now.
    Configured {
        /// Who wanted it; `None` for a server.
        by: Option<UserId>,
    },
    /// Properties changed, all at once.
    Properties {
        /// Who wanted it; `None` for a server, or because their time was up.
        by: Option<UserId>,
        /// Whose.
        target: Target,
        /// Which.
        changes: Vec<Changed>,
    },
    /// An object is there, came into view, or has another owner.
    Object {
        /// Who wanted it; `None` for a server, or because its owner left.
        by: Option<UserId>,
        /// Which.
        id: ObjectId,
    },
    /// An object has gone, or out of view.
    ObjectDeleted {
        /// Who wanted it; `None` for a server, or because its owner left.
        by: Option<UserId>,
        /// Which.
        id: ObjectId,
    },
    /// The room has another owner, or none.
    Owner(Option<UserId>),
    /// Somebody said something durable.
    Said(Message),
    /// A member sent a message through the node.
    Message {
        /// Who.
        from: UserId,
        /// What.
        payload: Bytes,
        /// Which of the member's values it is, if only the latest counts; see [`MessageKind::Latest`].
        latest: Option<PropertyKey>,
    },
    /// A member started a link to this device. It may be the one that [`PeerBuilder::open`] has
    /// returned meanwhile: compare the two.
    Peer(Peer),
    /// The node did not let this device in again after its session was lost, for a minute or for good: why.
    /// Nothing follows, and the room may be joined anew.
    Refused(String),
    /// The application was too slow and missed events: look at [`Room::members`] again.
    Lagged {
        /// How many events.
        missed: u64,
    },
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
        self.enter(room, JoinMode::Create, options, Asking::Once)
            .await
    }

    /// Joins a room that exists.
    ///
    /// # Errors
    /// When it does not exist or is full, or the node refuses.
    pub async fn join(&self, room: &str, options: RoomOptions) -> Result<Room, Error> {
        self.enter(room, JoinMode::Join, options, Asking::Once)
            .await
    }

    /// Joins a room, making it when it does not exist.
    ///
    /// # Errors
    /// When it is full, or the node refuses.
    pub async fn join_or_create(&self, room: &str, options: RoomOptions) -> Result<Room, Error> {
        self.enter(room, JoinMode::JoinOrCreate, options, Asking::Once)
            .await
    }

    /// Joins a room that it must not leave in between, since it would not get into it again: asks until it
    /// is in.
    pub(crate) async fn join_for_good(
        &self,
        room: &str,
        options: RoomOptions,
    ) -> Result<Room, Error> {
        self.enter(room, JoinMode::Join, options, Asking::Persistently)
            .await
    }

    async fn enter(
        &self,
        room: &str,
        mode: JoinMode,
        options: RoomOptions,
        asking: Asking,
    ) -> Result<Room, Error> {
        let id = RoomId::parse(room).map_err(Error::local)?;
        let device = &self.0.0;
        let state = Arc::new(RoomState::new(options));
        // The room must be known before its first event can come.
        if !device.add_room(&id, &state) {
            return Err(Error::local(format!("this device is in room {id} already")));
        }
        state.set_reach(self.0.reach());
        let room = Room {
            id,
            device: self.0.clone(),
            state,
        };
        let attempt = || join(&device.session, &room.id, mode, &room.state);
        let joined = match asking {
            Asking::Once => attempt().await,
            Asking::Persistently => persistently(attempt).await,
        };
        if let Err(error) = joined {
            let id = room.id.clone();
            drop(room);
            // It may be done all the same, later.
            if error.code() == Some(ErrorCode::Unavailable) {
                device.leave_aside(id);
            }
            return Err(error);
        }
        Ok(room)
    }
}

/// Whether a join that fails for the time being is asked for again.
enum Asking {
    Once,
    Persistently,
}

/// A room that this device is in. Dropping it leaves the room; [`Room::leave`] also says when that
/// is done. Links to members go on either way.
///
/// Events wait for [`Room::next_event`] up to a bound; beyond it they are dropped and counted in
/// [`RoomEvent::Lagged`].
#[derive(Debug)]
pub struct Room {
    id: RoomId,
    device: Device,
    pub(crate) state: Arc<RoomState>,
}

impl Room {
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The room's name.
    #[must_use]
    pub fn id(&self) -> &RoomId {
        &self.id
    }

    /// By which others may join; `None` when the room has none.
    #[must_use]
    pub fn code(&self) -> Option<RoomCode> {
        self.state.members().view.code
    }

    /// Everybody in the room, this device's user included, in order.
    #[must_use]
    pub fn members(&self) -> Vec<UserId> {
        self.state.members().keys_by_user.keys().cloned().collect()
    }

    /// The public key of a member's device; see [`Peer::identity`].
    #[must_use]
    pub fn identity_of(&self, user: &UserId) -> Option<[u8; 32]> {
        Some(self.state.keys_of(user)?.identity)
    }

    /// The next event; `None` when the session is over, or this device is not in the room any more because
    /// its user [left](RoomEvent::Left) it, as when it was kicked or the room closed, or was
    /// [refused](RoomEvent::Refused). Each event is told once: let one task read them, while others send. A device
    /// that has lost its session comes back to the room by itself. It makes no room anew, and comes back to none
    /// from which it was sent away: that is for the application to do, by joining anew.
    pub async fn next_event(&self) -> Option<RoomEvent> {
        self.state.events.next().await
    }

    /// Sends a message to every other member, through the node; returns as [`Room::send`].
    ///
    /// # Errors
    /// As [`Room::send`].
    pub async fn broadcast(&self, lane: Lane, payload: impl Into<Bytes>) -> Result<u64, Error> {
        self.send(&[], lane, payload).await
    }

    /// Sends a message to some members, through the node; to every other member for an empty list. Returns
    /// the number that it has on this device, from 1: when a reliable one does not arrive,
    /// [`RoomEvent::Unsent`] says so by that.
    ///
    /// A device that has lost its session sends what has not left it once it is in the room again, in
    /// order, and tells of all else that the node had not acknowledged.
    ///
    /// # Errors
    /// When it is too long for its lane, or the session is over. When as much waits for the node as may,
    /// 4096 messages or 4 MiB that it has not acknowledged; see [`Error::retry_after`].
    pub async fn send(
        &self,
        to: &[UserId],
        lane: Lane,
        payload: impl Into<Bytes>,
    ) -> Result<u64, Error> {
        let audience = match to {
            [] => Audience::Others,
            users => Audience::Users(users.to_vec()),
        };
        self.send_to(audience, lane.into(), payload).await
    }

    /// Sends a message through the node: to everybody, this device included, to the others, to some, or
    /// to the members of an interest group. It is not kept: see [`Room::say`] for that. Returns as
    /// [`Room::send`].
    ///
    /// # Errors
    /// As [`Room::send`].
    pub async fn send_to(
        &self,
        audience: Audience,
        kind: MessageKind,
        payload: impl Into<Bytes>,
    ) -> Result<u64, Error> {
        let payload = payload.into();
        let bytes_max = match kind {
            MessageKind::Unreliable => UNRELIABLE_BYTES_MAX,
            MessageKind::Reliable | MessageKind::ReliableUnordered | MessageKind::Latest(_) => {
                RELIABLE_BYTES_MAX
            }
        };
        if payload.len() > bytes_max {
            return Err(Error::local(SendError::TooLarge {
                bytes: payload.len(),
                bytes_max,
            }));
        }
        let number = self.device.0.messages.fetch_add(1, Ordering::Relaxed) + 1;
        let names = |users: &[UserId]| users.iter().map(UserId::to_string).collect();
        let (to, audience) = match &audience {
            Audience::All => (Vec::new(), Some(v1::Audience::default())),
            Audience::Others => (Vec::new(), None),
            Audience::Users(users) if users.is_empty() => return Ok(number),
            Audience::Users(users) => (names(users), None),
            Audience::Group(group) => {
                let group = group.0.get();
                let audience = v1::Audience {
                    group,
                    ..v1::Audience::default()
                };
                (Vec::new(), Some(audience))
            }
        };
        let message = v1::Send {
            room: self.id.to_string(),
            to,
            payload,
            audience,
            unordered: kind == MessageKind::ReliableUnordered,
            latest: match &kind {
                MessageKind::Latest(key) => key.to_string(),
                MessageKind::Reliable
                | MessageKind::ReliableUnordered
                | MessageKind::Unreliable => String::new(),
            },
        };
        if kind == MessageKind::Unreliable {
            let body = v1::client_frame::Body::Send(message);
            self.device.0.session.send_unreliable(body);
            return Ok(number);
        }
        let sent = self.device.0.session.send_reliable(number, message);
        sent.await.map(|()| number)
    }

    /// Begins a link to a member.
    pub fn peer(&self, user: &UserId) -> PeerBuilder<'_> {
        PeerBuilder::new(self, user)
    }

    /// Leaves the room; links to its members go on. While the cluster cannot do it, it is asked again, for a
    /// minute at most, also when this is not waited for.
    ///
    /// Messages that wait until a new session is let into the room again go with it: whoever needs them to
    /// arrive stays until it is back.
    ///
    /// # Errors
    /// When the session is over.
    pub async fn leave(self) -> Result<(), Error> {
        let device = self.device.0.clone();
        let leaving = device.begin_leaving(self.id.clone()).await?;
        device.remove_room(&self.id, &self.state);
        to_the_end(leaving).await
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let shared = &self.device.0;
        // A room that is still being joined is left when the node answers.
        if shared.remove_room(&self.id, &self.state) && self.state.is_joined() {
            shared.leave_aside(self.id.clone());
        }
    }
}

/// Whether a room is for parties: its owner submits tickets for all of it.
pub(crate) fn is_of_party(room: &RoomId) -> bool {
    room.as_str().starts_with("party-")
}

/// Asks the node for a place in a room. By the time it has answered, the members are known.
pub(crate) async fn join(
    session: &session::Handle,
    id: &RoomId,
    mode: JoinMode,
    state: &RoomState,
) -> Result<(), Error> {
    ask_to_join(session, request(Some(id), mode, state))
        .await
        .map(drop)
}

async fn ask_to_join(session: &session::Handle, join: v1::Join) -> Result<v1::Joined, Error> {
    match session.request(request::Kind::Join(join)).await? {
        response::Result::Joined(joined) => Ok(joined),
        response::Result::Failure(_)
        | response::Result::Left(_)
        | response::Result::IceServers(_)
        | response::Result::Acted(_)
        | response::Result::Found(_)
        | response::Result::History(_)
        | response::Result::Social(_)
        | response::Result::Matchmaker(_)
        | response::Result::Field(_)
        | response::Result::Command(_) => Err(Error::local("the node answered another question")),
    }
}

/// What the node is asked to join, by its name if it has one.
fn request(id: Option<&RoomId>, mode: JoinMode, state: &RoomState) -> v1::Join {
    let options = &state.options;
    let password = id.zip(options.password.as_deref());
    let password = password.map(|(id, text)| act::password(id, text));
    let settings = options.settings.as_ref().map(|settings| {
        let settings = Settings {
            password: password.or(settings.password),
            ..settings.clone()
        };
        v1::RoomSettings::from(&settings)
    });
    let mut member_properties = options.member_properties.clone();
    if id.is_some_and(is_of_party) {
        member_properties.extend(said_reach(state.reach(), &options.member_properties));
    }
    let usual = || {
        // A password alone makes settings, too.
        password.map(|_| {
            let usual = Settings {
                members_max: options.members_max,
                password,
                ..Settings::default()
            };
            v1::RoomSettings::from(&usual)
        })
    };
    let after = state.members().view.last.map(view::Last::to_wire);
    v1::Join {
        room: id.map_or_else(String::new, RoomId::to_string),
        mode: mode.into(),
        members_max: options.members_max,
        settings: settings.or_else(usual),
        room_properties: Change::to_wire(&options.properties),
        reserve: options.reserve.as_ref().map(v1::Reserve::from),
        password: Password::to_wire(password),
        member_properties: Change::to_wire(&member_properties),
        reachability: options
            .reachability
            .unwrap_or_else(|| reachability(state.reach())),
        returns_to: after
            .as_ref()
            .map_or_else(Bytes::new, |it| it.opening.clone()),
        after,
        with_code: options.with_code,
        ..v1::Join::default()
    }
}
