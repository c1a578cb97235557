//! Rooms that are looked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tombolo_room::{Listing, PageEnd, Query, RoomCode};
use tombolo_wire::RoomId;
use tombolo_wire::v1::{self, JoinMode, request, response};

use super::{Room, RoomOptions, RoomState, Rooms, ask_to_join};
use crate::error::Error;

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
        let query = Some(v1::RoomQuery::from(query));
        let find = request::Kind::Find(v1::FindRooms { query });
        match self.0.0.session.request(find).await? {
            response::Result::Found(found) => Ok(FoundRooms {
                rooms: found
                    .rooms
                    .into_iter()
                    .filter_map(|room| Listing::parse(room).ok())
                    .collect(),
                next: PageEnd::parse(found.next),
            }),
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
        let query = Some(v1::RoomQuery::from(query));
        let wanted = v1::Join {
            found: Some(v1::JoinFound { query, first }),
            ..v1::Join::default()
        };
        self.enter_unnamed(mode, options, wanted).await
    }

    /// Joins a room of which only the node knows the name.
    async fn enter_unnamed(
        &self,
        mode: JoinMode,
        options: RoomOptions,
        wanted: v1::Join,
    ) -> Result<Room, Error> {
        if options.password.is_some() {
            return Err(Error::local("a password is for a room with a name"));
        }
        let device = &self.0.0;
        let state = Arc::new(RoomState::new(options));
        let awaited = device.unnamed.await_answer(&state);
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
        Ok(Room {
            id,
            device: self.0.clone(),
            state,
        })
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

/// A room whose name is waited for; dropping it gives that up.
struct Awaited<'a> {
    unnamed: &'a Unnamed,
    tag: u64,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.unnamed.lock().state_by_tag.remove(&self.tag);
    }
}

impl Unnamed {
    /// The room that an answer is about.
    pub(crate) fn take(&self, tag: u64) -> Option<Arc<RoomState>> {
        self.lock().state_by_tag.remove(&tag)
    }

    fn await_answer(&self, state: &Arc<RoomState>) -> Awaited<'_> {
        let mut waiting = self.lock();
        waiting.last += 1;
        let tag = waiting.last;
        waiting.state_by_tag.insert(tag, Arc::clone(state));
        Awaited { unnamed: self, tag }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
