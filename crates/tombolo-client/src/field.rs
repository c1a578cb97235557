//! Fields: who is near.

mod leave;
mod mesh;
mod said;
mod state;

use std::sync::Arc;

use bytes::Bytes;
use tombolo_field::{EntityId, PAYLOAD_MAX, POSITION_MAX, Seen};
use tombolo_path::Policy;
use tombolo_wire::v1::{self, field_request, field_response, request, response};
use tombolo_wire::{FieldId, PublicKeys, UserId};

use crate::device::Device;
use crate::error::Error;
use crate::link::{Lane, Peer};
use crate::retry::to_the_end;
use crate::session;
use mesh::Mesh;
use said::Place;
pub(crate) use state::{FieldState, Fields};
use state::{Options, Told};

/// Where something is in a field: as many coordinates as the field has dimensions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Position {
    /// In a plane.
    Two([f64; 2]),
    /// In space.
    Three([f64; 3]),
}

impl From<[f64; 2]> for Position {
    fn from(position: [f64; 2]) -> Self {
        Self::Two(position)
    }
}

impl From<[f64; 3]> for Position {
    fn from(position: [f64; 3]) -> Self {
        Self::Three(position)
    }
}

impl Position {
    fn coordinates(&self) -> &[f64] {
        match self {
            Self::Two(position) => position,
            Self::Three(position) => position,
        }
    }

    /// With a third coordinate.
    fn in_space(self) -> [f64; 3] {
        match self {
            Self::Two([x, y]) => [x, y, 0.0],
            Self::Three(position) => position,
        }
    }
}

/// Something happened in a field.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FieldEvent {
    /// Something has come into range.
    Entered(Neighbour),
    /// Something in range has moved, or says something else. Whoever is slow to ask gets the latest only.
    Updated(Neighbour),
    /// Something is out of range, or gone. Of what had come and gone before this was asked for nothing is told, unless
    /// [`Field::neighbours`] has shown it meanwhile.
    Left(EntityId),
    /// Another device has started a link to this one.
    Peer(Peer),
    /// A device is near enough to be linked ([`FieldBuilder::linked_within`]), and now messages flow. The field
    /// keeps the link until it is far, whoever of the two has begun it.
    Linked(EntityId, Peer),
    /// The field keeps the link with a device no more: it is far, or the link has ended. Handles that the
    /// application has of it go on.
    Unlinked(EntityId),
    /// The node did not take in a report of this device, or takes it in no more.
    Refused(String),
    /// The application was too slow and missed events: look at [`Field::neighbours`] and [`Field::linked`]
    /// again.
    Lagged {
        /// How many events.
        missed: u64,
    },
}

/// A field to be; see [`Device::field`].
#[derive(Debug)]
pub struct FieldBuilder<'a> {
    device: &'a Device,
    id: &'a str,
    options: Options,
}

impl Device {
    /// Begins to enter a field.
    ///
    /// ```no_run
    /// use tombolo_client::{Device, FieldEvent, Lane};
    ///
    /// # async fn example(device: Device) -> Result<(), Box<dyn std::error::Error>> {
    /// let field = device.field("plaza").range(50.0).enter([0.0, 0.0], "hello").await?;
    /// field.update([1.0, 0.5], "walking")?;
    /// while let Some(event) = field.next_event().await {
    ///     if let FieldEvent::Entered(neighbour) = event {
    ///         let peer = neighbour.connect().await?;
    ///         peer.send(Lane::Reliable, "we are near each other")?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn field<'a>(&'a self, id: &'a str) -> FieldBuilder<'a> {
        FieldBuilder {
            device: self,
            id,
            options: Options::default(),
        }
    }
}

impl FieldBuilder<'_> {
    /// What kind of entity the device is, a number that the field's settings give a meaning; 0 unless said
    /// otherwise.
    #[must_use]
    pub fn class(mut self, class: u8) -> Self {
        self.options.class = class;
        self
    }

    /// How far the device wants to see; as far as anything is seen unless said otherwise.
    #[must_use]
    pub fn range(mut self, range: f64) -> Self {
        self.options.range = Some(range);
        self
    }

    /// How many bytes the node may tell this device in a tick at most, from 256 on: with fewer, it hears of what is
    /// far less often. As many as the node's settings say unless said otherwise; no more than that.
    #[must_use]
    pub fn budget(mut self, bytes: u32) -> Self {
        self.options.budget = bytes;
        self
    }

    /// Which paths links to neighbours may take, those that neighbours start included.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.options.policy = policy;
        self
    }

    /// Links this device with the devices that are within a distance, by itself, and ends those links when they
    /// are a fifth further away: see [`FieldEvent::Linked`]. 0 links with none. Unless said, it is as the node
    /// has it for each class, which by default links nobody.
    #[must_use]
    pub fn linked_within(mut self, distance: f64) -> Self {
        self.options.linked_within = Some(distance);
        self
    }

    /// With how many this device begins links by itself at most, the nearest first; 8 unless said otherwise. As
    /// many again may be begun by others; those on top of that come as [`FieldEvent::Peer`].
    #[must_use]
    pub fn links_max(mut self, count: usize) -> Self {
        self.options.links_max = count;
        self
    }

    /// Comes into the field, at a place.
    ///
    /// # Errors
    /// When this device is in it already, the position or the payload can't be, or the node refuses.
    pub async fn enter(
        self,
        position: impl Into<Position>,
        payload: impl Into<Bytes>,
    ) -> Result<Field, Error> {
        let id = FieldId::parse(self.id).map_err(Error::local)?;
        let (position, payload) = checked(position.into(), payload.into())?;
        let shared = &self.device.0;
        let reports = shared.fields.reports();
        let (options, session) = (self.options, &shared.session);
        let state = FieldState::new(id, options, position, payload, session, reports);
        let state = Arc::new(state);
        // The field must be known before the first batch can come.
        if !shared.fields.add(&state) {
            return Err(Error::local(format!(
                "this device is in field {} already",
                state.id
            )));
        }
        let field = Field {
            device: self.device.clone(),
            state,
        };
        field.state.enter().await?;
        tokio::spawn(FieldState::keep(Arc::downgrade(&field.state)));
        if field.state.has_circle() {
            let mesh = Mesh::new(field.device.clone(), Arc::clone(&field.state));
            tokio::spawn(mesh.run());
        }
        Ok(field)
    }
}

/// A field that this device is in. Dropping it leaves the field; links to neighbours go on.
///
/// A device whose node dies enters again over another one, under the same number, and hears only of what
/// has changed meanwhile.
#[derive(Debug)]
pub struct Field {
    device: Device,
    state: Arc<FieldState>,
}

impl Field {
    /// The field's name.
    #[must_use]
    pub fn id(&self) -> &FieldId {
        &self.state.id
    }

    /// This device's number in the field.
    #[must_use]
    pub fn entity(&self) -> EntityId {
        self.state.entity()
    }

    /// Says where the device is, and something about it. Neither waits nor is it kept: the latest counts.
    /// It is said again now and then while nothing new is.
    ///
    /// # Errors
    /// When the position or the payload can't be.
    pub fn update(
        &self,
        position: impl Into<Position>,
        payload: impl Into<Bytes>,
    ) -> Result<(), Error> {
        self.put(0, 0, position, payload)
    }

    /// Says where something else is that this device puts into the field, under a number of its choice, not
    /// 0; of the device's own class, unless the node lets it put others. It stays until it is
    /// [removed](Self::remove) or the device goes: it is said again now and then, also over another node. What the
    /// node refuses is said again, too: there may be room for it later.
    ///
    /// # Errors
    /// When the position or the payload can't be, or the device has put 256 others there.
    pub fn put(
        &self,
        own: u32,
        class: u8,
        position: impl Into<Position>,
        payload: impl Into<Bytes>,
    ) -> Result<(), Error> {
        let (position, payload) = checked(position.into(), payload.into())?;
        if !self.state.is_of_dimensions(&position) {
            return Err(Error::local("the field has other dimensions"));
        }
        let place = Place {
            class,
            position,
            payload,
        };
        self.state.report(own, place)
    }

    /// Takes something away that this device has put there. If that fails it goes by itself, as it is said no more.
    ///
    /// # Errors
    /// When the node refuses, or the session is over.
    pub async fn remove(&self, own: u32) -> Result<(), Error> {
        self.state.forget(own);
        let kind = field_request::Kind::Remove(v1::RemoveEntity { own });
        ask(&self.device.0.session, &self.state.id, kind)
            .await
            .map(drop)
    }

    /// What is in range.
    #[must_use]
    pub fn neighbours(&self) -> Vec<Neighbour> {
        let seen = self.state.seen().into_iter();
        seen.map(|(entity, seen)| self.neighbour(entity, seen))
            .collect()
    }

    /// Those with whom the field keeps links, as [`FieldEvent::Linked`] tells them.
    #[must_use]
    pub fn linked(&self) -> Vec<(EntityId, Peer)> {
        self.state.linked()
    }

    /// The next event; `None` when the session is over, or the node does not let this device in any more.
    /// Each is told once: let one task read them.
    pub async fn next_event(&self) -> Option<FieldEvent> {
        Some(match self.state.next().await? {
            Told::Entered(entity, seen) => FieldEvent::Entered(self.neighbour(entity, seen)),
            Told::Updated(entity, seen) => FieldEvent::Updated(self.neighbour(entity, seen)),
            Told::Left(entity) => FieldEvent::Left(entity),
            Told::Peer(peer) => FieldEvent::Peer(peer),
            Told::Linked(entity, peer) => FieldEvent::Linked(entity, peer),
            Told::Unlinked(entity) => FieldEvent::Unlinked(entity),
            Told::Refused(why) => FieldEvent::Refused(why),
            Told::Lagged(missed) => FieldEvent::Lagged { missed },
        })
    }

    /// Leaves the field. While the node does not take that it is asked again, for a minute at most, also when this is
    /// not waited for.
    ///
    /// # Errors
    /// When the session is over.
    pub async fn leave(self) -> Result<(), Error> {
        let shared = Arc::clone(&self.device.0);
        let leaving = shared.begin_leaving_field(self.state.id.clone()).await?;
        shared.fields.remove(&self.state);
        drop(self);
        to_the_end(leaving).await
    }

    fn neighbour(&self, entity: EntityId, seen: Seen) -> Neighbour {
        Neighbour {
            device: self.device.clone(),
            state: Arc::clone(&self.state),
            entity,
            seen,
        }
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        self.state.end();
        let shared = &self.device.0;
        // A field that is still being entered is left when the node answers.
        if shared.fields.remove(&self.state) && self.state.is_in() {
            shared.leave_field_aside(self.state.id.clone());
        }
    }
}

/// Something in range, as it was when this was told.
#[derive(Clone, Debug)]
pub struct Neighbour {
    device: Device,
    state: Arc<FieldState>,
    entity: EntityId,
    seen: Seen,
}

impl Neighbour {
    /// Its number, the same for everybody.
    #[must_use]
    pub fn entity(&self) -> EntityId {
        self.entity
    }

    /// What kind it is.
    #[must_use]
    pub fn class(&self) -> u8 {
        self.seen.class
    }

    /// Where it is; the third coordinate is 0 in a field of two dimensions.
    #[must_use]
    pub fn position(&self) -> [f64; 3] {
        self.seen.position
    }

    /// What it says of itself.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.seen.payload
    }

    /// Whose device it is.
    ///
    /// # Errors
    /// When it is no device, or not in range any more.
    pub async fn user(&self) -> Result<UserId, Error> {
        let met = meet(&self.device, &self.state, self.entity).await;
        met.map(|(user, _)| user)
    }

    /// Links this device with it, directly where the network allows, and waits until messages flow. A link
    /// that there is already is returned.
    ///
    /// # Errors
    /// When it is no device, not in range any more, or cannot be reached.
    pub async fn connect(&self) -> Result<Peer, Error> {
        self.connect_with(Vec::new()).await
    }

    /// As [`Self::connect`]; the first messages travel with the introduction, sealed for the neighbour.
    ///
    /// # Errors
    /// As [`Self::connect`], and when a message is too long.
    pub async fn connect_with(&self, first: Vec<(Lane, Bytes)>) -> Result<Peer, Error> {
        connect(&self.device, &self.state, self.entity, first).await
    }
}

/// Links a device with a neighbour, and waits until messages flow.
async fn connect(
    device: &Device,
    state: &FieldState,
    entity: EntityId,
    first: Vec<(Lane, Bytes)>,
) -> Result<Peer, Error> {
    let (user, keys) = meet(device, state, entity).await?;
    let target = state.target(user, entity);
    let peer = device.0.open_link_to(target, keys, first)?;
    peer.ready().await?;
    Ok(peer)
}

/// Asks whose device a neighbour is.
async fn meet(
    device: &Device,
    state: &FieldState,
    entity: EntityId,
) -> Result<(UserId, PublicKeys), Error> {
    let kind = field_request::Kind::Meet(v1::MeetEntity { entity: entity.0 });
    let met = ask(&device.0.session, &state.id, kind).await?;
    let field_response::Result::Met(met) = met else {
        return Err(other_question());
    };
    let keys = v1::DeviceKeys {
        identity: met.identity,
        seal: met.seal,
    };
    let user = UserId::parse(&met.user).map_err(Error::local)?;
    let keys = PublicKeys::try_from(Some(&keys)).map_err(Error::local)?;
    Ok((user, keys))
}

fn checked(position: Position, payload: Bytes) -> Result<(Position, Bytes), Error> {
    let mut coordinates = position.coordinates().iter();
    // What is not a number is not within.
    if !coordinates.all(|coordinate| coordinate.abs() <= POSITION_MAX) {
        return Err(Error::local("a position is finite, and at most 1e12"));
    }
    if payload.len() > PAYLOAD_MAX {
        return Err(Error::local(format!(
            "a payload is at most {PAYLOAD_MAX} bytes long"
        )));
    }
    Ok((position, payload))
}

fn request_of(field: &FieldId, kind: field_request::Kind) -> request::Kind {
    request::Kind::Field(v1::FieldRequest {
        field: field.to_string(),
        kind: Some(kind),
    })
}

async fn ask(
    session: &session::Handle,
    field: &FieldId,
    kind: field_request::Kind,
) -> Result<field_response::Result, Error> {
    let answer = session.request(request_of(field, kind)).await?;
    let response::Result::Field(response) = answer else {
        return Err(other_question());
    };
    response.result.ok_or_else(other_question)
}

fn other_question() -> Error {
    Error::local("the node answered another question")
}
