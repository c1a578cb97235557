//! What game servers ask of rooms, over any node.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;
use tombolo_engine::WatchEvent;
use tombolo_room::{Act, Body, Change, OperationId, Settings};
use tombolo_wire::RoomId;
use tombolo_wire::v1::ErrorCode;

use crate::cluster;
use crate::entropy::{self, NoEntropy};
use crate::host::{Entrance, RoomView, ServerActed, by_server};
use crate::matchmaker;
use crate::reject::Reject;
use crate::requests::check_members_max;
use crate::services::Services;

/// Rooms by name, and whether there are more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoomNames {
    /// Some of them, in order.
    pub rooms: Vec<RoomId>,
    /// Whether others follow.
    pub more: bool,
}

/// What is to be done once, however often it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedOperation {
    /// Its name, at random.
    pub id: [u8; 16],
    /// Since it was asked for first. A room that has taken in so much since that it may not remember refuses it, for
    /// nobody knows whether it was done ([`ErrorCode::Conflict`]).
    pub wanted_for: Duration,
}

impl Services {
    /// Opens a room that has no member yet. Name the operation to repeat it without doing it twice.
    ///
    /// # Errors
    /// There is one of that name, or it cannot be opened so.
    pub async fn create_room(
        &self,
        room: &RoomId,
        settings: Settings,
        properties: Vec<Change>,
        operation: Option<NamedOperation>,
    ) -> Result<(), Reject> {
        if matchmaker::is_of_match(room) {
            let message = "the matchmaker opens the rooms of matches";
            return Err(Reject::new(ErrorCode::NotPermitted, message));
        }
        check_members_max(self.node(), settings.members_max)?;
        let entrance = self.enter(room).await?;
        entrance.host().list(self.node()).await?;
        let body = Body::Created {
            settings,
            first: None,
            properties,
            reserve: None,
            code: None,
        };
        let (operation, wanted_for) = named(operation)?;
        let host = entrance.host();
        host.act_for_server(self.node(), operation, wanted_for, body)
            .await?;
        Ok(())
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
        let (operation, wanted_for) = named(operation)?;
        let host = entrance.host();
        host.act_for_server(self.node(), operation, wanted_for, by_server(act))
            .await
    }

    /// A room as it is: with all that was answered before the question, on whatever node.
    ///
    /// # Errors
    /// There is no such room, or the engine does not answer.
    pub async fn view_room(&self, room: &RoomId) -> Result<RoomView, Reject> {
        let entrance = self.node().enter(room)?;
        let was_read_before = entrance.host().is_read();
        self.prepare(&entrance).await?;
        if was_read_before {
            entrance.host().catch_up(self.node()).await?;
        }
        let no_such_room = || Reject::new(ErrorCode::NoSuchRoom, "there is no such room");
        entrance.host().view().ok_or_else(no_such_room)
    }

    /// Rooms that nodes of the cluster host, by name, after the one that is given. Takes as long as it
    /// takes to read all of their names.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn list_rooms(
        &self,
        after: Option<&RoomId>,
        count: usize,
    ) -> Result<RoomNames, Reject> {
        let unavailable = || Reject::new(ErrorCode::Unavailable, "the engine does not answer");
        let prefix = cluster::rooms_prefix().map_err(|_| unavailable())?;
        let read = async {
            let watch = self.node().engine.watch(&prefix).await;
            let mut watch = watch.map_err(|_| unavailable())?;
            // Several nodes may host the same one; beyond the page only one more counts.
            let mut found: BTreeSet<RoomId> = BTreeSet::new();
            loop {
                match watch.next().await.ok_or_else(unavailable)? {
                    WatchEvent::Put { entry, .. } => {
                        let name = std::str::from_utf8(&entry.value).ok();
                        let room = name.and_then(|name| RoomId::parse(name).ok());
                        let room = room.filter(|room| after.is_none_or(|after| room > after));
                        found.extend(room);
                        if found.len() > count + 1 {
                            found.pop_last();
                        }
                    }
                    WatchEvent::Deleted { .. } => {}
                    WatchEvent::Reset => found.clear(),
                    WatchEvent::Synced => return Ok(found),
                }
            }
        };
        let found = timeout(self.node().config.engine_timeout, read).await;
        let found = found.map_err(|_| unavailable())??;
        Ok(RoomNames {
            more: found.len() > count,
            rooms: found.into_iter().take(count).collect(),
        })
    }

    /// A room's host here, once it has read the room's log.
    async fn enter(&self, room: &RoomId) -> Result<Entrance, Reject> {
        let entrance = self.node().enter(room)?;
        self.prepare(&entrance).await?;
        Ok(entrance)
    }

    async fn prepare(&self, entrance: &Entrance) -> Result<(), Reject> {
        let node = self.node();
        entrance.host().synced(node.config.engine_timeout).await?;
        node.cluster.joined(node.config.engine_timeout).await
    }
}

fn named(operation: Option<NamedOperation>) -> Result<(OperationId, Duration), Reject> {
    if let Some(NamedOperation { id, wanted_for }) = operation {
        return Ok((OperationId(id), wanted_for));
    }
    let id = entropy::operation_id()
        .map_err(|NoEntropy| Reject::new(ErrorCode::Unavailable, "no entropy"))?;
    Ok((id, Duration::ZERO))
}
