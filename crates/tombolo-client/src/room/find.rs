//! Rooms that are looked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tombolo_room::{Listing, PageEnd, Query, RoomCode};
use tombolo_wire::RoomId;
use tombolo_wire::v1::{self, ErrorCode, JoinMode, request, response};

use super::{Room, RoomOptions, RoomState, Rooms, ask_to_join};
use crate::device::Shared;
use crate::error::Error;
use crate::matchmaker::say_in_room;

/// A page of rooms; see [`Rooms::list`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FoundRooms {
    /// In the query's order.
    pub rooms: Vec<Listing>,
    /// For the next page's [`Query::after`]; `None` when there are no more.
    pub next: Option<PageEnd>,
}

impl Rooms<'_> {
    /// Looks for rooms by what is public about them, a page at a time. What is found is as it was a
    /// moment ago.
    ///
    /// # Errors
    /// When the query asks for too much, or this device asks too often.
    pub async fn list(&self, query: &Query) -> Result<FoundRooms, Error> {
        let found = self.find(v1::FindRooms {
            query: Some(v1::RoomQuery::from(query)),
            code: String::new(),
        });
        let found = found.await?;
        Ok(FoundRooms {
            rooms: found
                .rooms
                .into_iter()
                .filter_map(|room| Listing::parse(room).ok())
                .collect(),
            next: PageEnd::parse(found.next),
        })
    }

    async fn find(&self, find: v1::FindRooms) -> Result<v1::FoundRooms, Error> {
        match self.0.0.session.request(request::Kind::Find(find)).await? {
            response::Result::Found(found) => Ok(found),
            response::Result::Failure(_)
            | response::Result::Joined(_)
            | response::Result::Left(_)
            | response::Result::IceServers(_)
            | response::Result::Acted(_)
            | response::Result::History(_)
            | response::Result::Social(_)
            | response::Result::Matchmaker(_)
            | response::Result::Field(_)
            | response::Result::Command(_) => {
                Err(Error::local("the node answered another question"))
            }
        }
    }

    /// Joins any room that matches, each as likely as the others; rooms that this device is in are left
    /// out.
    ///
    /// # Errors
    /// When there is none (`NoSuchRoom`), or the node refuses.
    pub async fn join_random(&self, query: &Query, options: RoomOptions) -> Result<Room, Error> {
        self.enter_found(query, false, JoinMode::Join, options)
            .await
    }

    /// Joins the first room by the query's order that takes this device in.
    ///
    /// # Errors
    /// When there is none (`NoSuchRoom`), or the node refuses.
    pub async fn join_best(&self, query: &Query, options: RoomOptions) -> Result<Room, Error> {
        self.enter_found(query, true, JoinMode::Join, options).await
    }

    /// Joins any room that matches, and makes one with a made-up name when there is none: give it
    /// [properties](RoomOptions::properties) that match, or the next device makes another.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn join_random_or_create(
        &self,
        query: &Query,
        options: RoomOptions,
    ) -> Result<Room, Error> {
        self.enter_found(query, false, JoinMode::JoinOrCreate, options)
            .await
    }

    /// Joins the first room by the query's order that takes this device in, and makes one when there
    /// is none; see [`Rooms::join_random_or_create`].
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn join_best_or_create(
        &self,
        query: &Query,
        options: RoomOptions,
    ) -> Result<Room, Error> {
        self.enter_found(query, true, JoinMode::JoinOrCreate, options)
            .await
    }

    /// Joins the room with a short code, hidden or not.
    ///
    /// # Errors
    /// When there is none (`NoSuchRoom`) or it is full, or the node refuses.
    pub async fn join_code(&self, code: RoomCode, options: RoomOptions) -> Result<Room, Error> {
        if options.password.is_some() {
            let room = self.name_of(code).await?;
            return self.join(&room, options).await;
        }
        let wanted = v1::Join {
            code: code.to_string(),
            ..v1::Join::default()
        };
        self.enter_unnamed(JoinMode::Join, options, wanted).await
    }

    async fn enter_found(
        &self,
        query: &Query,
        first: bool,
        mode: JoinMode,
        options: RoomOptions,
    ) -> Result<Room, Error> {
        if options.password.is_some() {
            return self.enter_guarded(query, first, mode, options).await;
        }
        let query = Some(v1::RoomQuery::from(query));
        let wanted = v1::Join {
            found: Some(v1::JoinFound { query, first }),
            ..v1::Join::default()
        };
        self.enter_unnamed(mode, options, wanted).await
    }

    /// The name of the room with a code: a password is bound to that.
    async fn name_of(&self, code: RoomCode) -> Result<String, Error> {
        let found = self.find(v1::FindRooms {
            query: None,
            code: code.to_string(),
        });
        let room = found.await?.rooms.into_iter().next();
        let room = room.map(|room| room.room);
        room.ok_or_else(|| Error::local("the node answered another question"))
    }

    /// Joins a room that is looked for and asks for a password, which is bound to its name: so this device
    /// tries those that match itself.
    async fn enter_guarded(
        &self,
        query: &Query,
        first: bool,
        mode: JoinMode,
        options: RoomOptions,
    ) -> Result<Room, Error> {
        let mut query = query.clone();
        query.with_closed = true;
        let mut found = self.list(&query).await?.rooms;
        found.retain(|room| room.free > 0 && !self.0.0.has_room(&room.room));
        if !first {
            let number = getrandom::u32().map_err(Error::local)?;
            let place = number as usize % found.len().max(1);
            found.rotate_left(place);
        }
        for room in found.into_iter().take(ROOMS_TRIED_MAX) {
            match self.join(room.room.as_str(), options.clone()).await {
                Err(error) if error.code().is_some_and(is_passing) => {}
                joined => return joined,
            }
        }
        if mode == JoinMode::Join {
            let message = "no such room is found";
            return Err(Error::refused(ErrorCode::NoSuchRoom.into(), message));
        }
        let mut name = [0; 16];
        getrandom::fill(&mut name).map_err(Error::local)?;
        let name = format!("room-{:032x}", u128::from_be_bytes(name));
        self.create(&name, options).await
    }

    /// Joins a room of which only the node knows the name.
    async fn enter_unnamed(
        &self,
        mode: JoinMode,
        options: RoomOptions,
        wanted: v1::Join,
    ) -> Result<Room, Error> {
        let device = &self.0.0;
        let state = Arc::new(RoomState::new(options));
        state.set_reach(self.0.reach());
        let mut awaited = Awaited::new(device, &state);
        let join = v1::Join {
            found: wanted.found,
            code: wanted.code,
            tag: awaited.tag,
            ..super::request(None, mode, &state)
        };
        let joined = ask_to_join(&device.session, join).await?;
        let id = RoomId::parse(&joined.room).map_err(Error::local)?;
        if !device.is_room(&id, &state) {
            return Err(Error::local(format!("this device is in room {id} already")));
        }
        awaited.is_taken = true;
        let room = Room {
            id,
            device: self.0.clone(),
            state,
        };
        if super::is_of_party(&room.id) {
            // Whoever could not say it counts as behind a symmetric NAT: nobody waits long for that.
            let (device, reach) = (Arc::downgrade(device), self.0.reach());
            let said = say_in_room(device, room.id.clone(), Arc::clone(&room.state), reach);
            let _ = timeout(TELL_TIMEOUT, said).await;
        }
        Ok(room)
    }
}

/// Rooms that are being joined and whose names are not known: the node's answer gives them.
#[derive(Debug, Default)]
pub(crate) struct Unnamed(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    state_by_tag: HashMap<u64, Arc<RoomState>>,
}

/// A room whose name is waited for. Dropping it gives that up, and leaves a room that nobody has taken.
struct Awaited<'a> {
    device: &'a Arc<Shared>,
    state: Arc<RoomState>,
    tag: u64,
    is_taken: bool,
}

impl<'a> Awaited<'a> {
    fn new(device: &'a Arc<Shared>, state: &Arc<RoomState>) -> Self {
        Self {
            device,
            state: Arc::clone(state),
            tag: device.unnamed.await_answer(state),
            is_taken: false,
        }
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        // The answer may have come before whoever waited for it could be told.
        let has_come = self.device.unnamed.take(self.tag).is_none();
        if has_come && !self.is_taken {
            self.device.leave_unnamed(&self.state);
        }
    }
}

impl Unnamed {
    /// The room that an answer is about.
    pub(crate) fn take(&self, tag: u64) -> Option<Arc<RoomState>> {
        self.lock().state_by_tag.remove(&tag)
    }

    /// Waits for the answer about a room, which carries the tag that is returned.
    fn await_answer(&self, state: &Arc<RoomState>) -> u64 {
        let mut waiting = self.lock();
        waiting.last += 1;
        let tag = waiting.last;
        waiting.state_by_tag.insert(tag, Arc::clone(state));
        tag
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether another room may take this device in that this one does not.
fn is_passing(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NoSuchRoom
            | ErrorCode::RoomFull
            | ErrorCode::RoomLocked
            | ErrorCode::WrongPassword
            | ErrorCode::Banned
            | ErrorCode::KeyTaken
    )
}

/// How long a join that has succeeded waits until its device has said how it is reached.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Rooms with a password that are tried for one join.
const ROOMS_TRIED_MAX: usize = 8;
