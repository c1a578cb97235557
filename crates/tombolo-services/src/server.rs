//! What game servers ask of rooms, over any node.

use std::time::Duration;

use tombolo_engine::WatchEvent;
use tombolo_room::{Act, Body, Change, OperationId, Reserve, RoomCode, Settings};
use tombolo_wire::RoomId;
use tombolo_wire::v1::ErrorCode;

use crate::cluster;
use crate::entropy::NoEntropy;
use crate::host::{Entrance, RoomMessages, RoomView, ServerActed, by_server};
use crate::matchmaker;
use crate::reject::Reject;
use crate::requests::{check_members_max, no_such_room};
use crate::room_names::{RoomNames, Stretch};
use crate::services::Services;

/// What is to be done once, however often it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedOperation {
    /// Its name, at random.
    pub id: [u8; 16],
    /// Since it was asked for first. A room that has taken in so much since that it may not remember refuses it, for
    /// nobody knows whether it was done ([`ErrorCode::Unsure`]).
    pub wanted_for: Duration,
}

/// A room that a server opens.
#[derive(Clone, Debug, Default)]
pub struct NewRoom {
    /// How it behaves. It has to be kept for as long as it takes the first member to come.
    pub settings: Settings,
    /// Its first properties.
    pub properties: Vec<Change>,
    /// Seats that are kept for users who come later.
    pub reserve: Option<Reserve>,
    /// It gets a short code.
    pub with_code: bool,
}

impl Services {
    /// Opens a room that has no member yet, and returns its short code if it has one. Name the operation to repeat
    /// it without doing it twice.
    ///
    /// # Errors
    /// There is one of that name, or it cannot be opened so.
    pub async fn create_room(
        &self,
        room: &RoomId,
        new: NewRoom,
        operation: Option<NamedOperation>,
    ) -> Result<Option<RoomCode>, Reject> {
        if matchmaker::is_of_match(room) {
            let message = "the matchmaker opens the rooms of matches";
            return Err(Reject::new(ErrorCode::NotPermitted, message));
        }
        let node = self.node();
        check_members_max(node, new.settings.members_max)?;
        let entrance = self.enter(room).await?;
        let host = entrance.host();
        host.list(node).await?;
        let (operation, wanted_for) = self.named(operation)?;
        let open = async |code| {
            let body = Body::Created {
                settings: new.settings,
                first: None,
                properties: new.properties,
                reserve: new.reserve,
                code,
            };
            host.act_for_server(node, operation, wanted_for, body).await
        };
        match new.with_code && !host.is_open() {
            true => host.open_with_code(node, open).await?,
            false => open(None).await?,
        };
        Ok(host.code())
    }

    /// Carries out an act with the rights of a server. Name the operation to repeat it without doing it
    /// twice.
    ///
    /// # Errors
    /// There is no such room, or the act is not possible.
    pub async fn act_for_server(
        &self,
        room: &RoomId,
        act: Act,
        operation: Option<NamedOperation>,
    ) -> Result<ServerActed, Reject> {
        let entrance = self.enter(room).await?;
        let (operation, wanted_for) = self.named(operation)?;
        let host = entrance.host();
        host.act_for_server(self.node(), operation, wanted_for, by_server(act))
            .await
    }

    /// A room as it is: with all that was answered before the question, on whatever node.
    ///
    /// # Errors
    /// There is no such room, or the engine does not answer.
    pub async fn view_room(&self, room: &RoomId) -> Result<RoomView, Reject> {
        let entrance = self.read(room).await?;
        entrance.host().view().ok_or_else(no_such_room)
    }

    /// Durable messages of a room that are kept, the newest first, whoever they are for: those before a number, or all
    /// for 0; so many, or fewer when they are long. With all that was answered before the question, on whatever node.
    ///
    /// # Errors
    /// There is no such room, or the engine does not answer.
    pub async fn room_messages(
        &self,
        room: &RoomId,
        before: u64,
        count: usize,
    ) -> Result<RoomMessages, Reject> {
        let entrance = self.read(room).await?;
        let messages = entrance.host().messages(before, count);
        messages.ok_or_else(no_such_room)
    }

    /// Rooms that nodes of the cluster host, by name, after the one that is given. A first page takes as long as it
    /// takes to read all of their names; those that follow within ten seconds are mostly read with it.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn list_rooms(
        &self,
        after: Option<&RoomId>,
        count: usize,
    ) -> Result<RoomNames, Reject> {
        let last_read = &self.node().room_names;
        if let Some(page) = last_read.page(after, count) {
            return Ok(page);
        }
        let unavailable = || Reject::new(ErrorCode::Unavailable, "the engine does not answer");
        let read = self.node().within(self.read_names(after)).await?;
        let stretch = read.ok_or_else(unavailable)?;
        let page = stretch.first(count);
        last_read.keep(stretch);
        Ok(page)
    }

    async fn read_names(&self, after: Option<&RoomId>) -> Option<Stretch> {
        let prefix = cluster::rooms_prefix().ok()?;
        let mut watch = self.node().engine.watch(&prefix).await.ok()?;
        let mut found = Stretch::after(after);
        loop {
            match watch.next().await? {
                WatchEvent::Put { entry, .. } => {
                    let name = std::str::from_utf8(&entry.value).ok();
                    if let Some(room) = name.and_then(|name| RoomId::parse(name).ok()) {
                        found.add(room);
                    }
                }
                WatchEvent::Deleted { .. } => {}
                WatchEvent::Reset => found.clear(),
                WatchEvent::Synced => return Some(found),
            }
        }
    }

    /// A room's host here, once it has read the room's log.
    async fn enter(&self, room: &RoomId) -> Result<Entrance, Reject> {
        let entrance = self.node().enter(room)?;
        self.prepare(&entrance).await?;
        Ok(entrance)
    }

    /// The same, with all that anybody has written into it before.
    async fn read(&self, room: &RoomId) -> Result<Entrance, Reject> {
        let entrance = self.node().enter(room)?;
        let was_read_before = entrance.host().is_read();
        self.prepare(&entrance).await?;
        if was_read_before {
            entrance.host().catch_up(self.node()).await?;
        }
        Ok(entrance)
    }

    async fn prepare(&self, entrance: &Entrance) -> Result<(), Reject> {
        let node = self.node();
        entrance.host().synced(node).await?;
        node.joined().await
    }

    fn named(&self, operation: Option<NamedOperation>) -> Result<(OperationId, Duration), Reject> {
        if let Some(NamedOperation { id, wanted_for }) = operation {
            return Ok((OperationId(id), wanted_for));
        }
        let entropy = self.node().config.entropy;
        let id = entropy
            .operation_id()
            .map_err(|NoEntropy| Reject::new(ErrorCode::Unavailable, "no entropy"))?;
        Ok((id, Duration::ZERO))
    }
}
