//! Joining rooms that are not named: by a short code, or by what is public about them.

use std::collections::BTreeSet;
use std::sync::Arc;

use tombolo_room::{Query, RoomCode};
use tombolo_wire::RoomId;
use tombolo_wire::v1::{self, ErrorCode, response};

use super::{Join, Mode, answer, carry_out_join_of, no_such_room};
use crate::catalogue::{self, Choice};
use crate::entropy::NoEntropy;
use crate::kept::making::{Claimed, LOOK_EVERY, Looked};
use crate::node::Node;
use crate::reject::Reject;
use crate::session::Session;

/// Which room is looked for.
pub(super) struct Find<'a> {
    pub(super) query: &'a Query,
    pub(super) choice: Choice,
    /// Of the room that is made when none is found.
    pub(super) name: Option<&'a RoomId>,
}

pub(super) async fn carry_out_find(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    query: Query,
) -> Result<(), Reject> {
    let found = node.catalogue.find(node, query).await?;
    node.push(session, answer(id, response::Result::Found(found)));
    Ok(())
}

pub(super) async fn carry_out_join_by(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    join: &Join,
    code: RoomCode,
) -> Result<(), Reject> {
    let room = resolve(node, code).await?;
    carry_out_join_of(node, session, id, join, &room, Mode::Join).await
}

/// Tells the name of the room with a code.
pub(super) async fn carry_out_resolve(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    code: RoomCode,
) -> Result<(), Reject> {
    let room = v1::FoundRoom {
        room: resolve(node, code).await?.to_string(),
        ..v1::FoundRoom::default()
    };
    let found = v1::FoundRooms {
        rooms: vec![room],
        ..v1::FoundRooms::default()
    };
    node.push(session, answer(id, response::Result::Found(found)));
    Ok(())
}

async fn resolve(node: &Node, code: RoomCode) -> Result<RoomId, Reject> {
    let resolved = node.within(catalogue::resolve(node, code)).await?;
    resolved?.ok_or_else(no_such_room)
}

impl Find<'_> {
    /// Tries rooms that match until one takes the device in.
    pub(super) async fn carry_out_join(
        &self,
        node: &Arc<Node>,
        session: &Arc<Session>,
        id: u64,
        join: &Join,
    ) -> Result<(), Reject> {
        // The rooms that it is in are not what it looks for.
        let mut tried: BTreeSet<_> = session.lock().host_by_room.keys().cloned().collect();
        if self.try_rooms(node, session, id, join, &mut tried).await? {
            return Ok(());
        }
        if join.mode == Mode::Join {
            return Err(Reject::new(ErrorCode::NoSuchRoom, "no such room is found"));
        }
        // Of many that find none at the same time, one makes a room, and the others find that.
        let turn = node.catalogue.turn(self.query);
        let turn = tokio::time::timeout(node.config.engine_timeout, turn).await;
        let busy = |_| {
            Reject::new(
                ErrorCode::Limit,
                "many look for such a room: try again later",
            )
        };
        let _turn = turn.map_err(busy)?;
        if self.try_rooms(node, session, id, join, &mut tried).await? {
            return Ok(());
        }
        let unavailable = |NoEntropy| Reject::new(ErrorCode::Unavailable, "no entropy");
        let name = match self.name {
            Some(name) => name.clone(),
            None => node.config.entropy.room_id().map_err(unavailable)?,
        };
        if node.cluster.is_alone() {
            return carry_out_join_of(node, session, id, join, &name, Mode::Create).await;
        }
        let make = self.make(node, session, id, join, &name, &mut tried);
        let made = tokio::time::timeout(node.config.engine_timeout, make).await;
        made.map_err(busy)?
    }

    /// Makes a room, unless another node does so at the same time: then looks into that.
    async fn make(
        &self,
        node: &Arc<Node>,
        session: &Arc<Session>,
        id: u64,
        join: &Join,
        name: &RoomId,
        tried: &mut BTreeSet<RoomId>,
    ) -> Result<(), Reject> {
        let mut looked = Looked::new(self.query)?;
        loop {
            match looked.claim(node, name, tried).await? {
                Claimed::Ours(claim) => {
                    let made = carry_out_join_of(node, session, id, join, name, Mode::Create).await;
                    claim.end(node, made.is_ok()).await;
                    return made;
                }
                Claimed::Made(room) => {
                    let is_meant = is_match(node, &room, self.query).await?;
                    tried.insert(room.clone());
                    if !is_meant {
                        continue;
                    }
                    match carry_out_join_of(node, session, id, join, &room, Mode::Join).await {
                        Err(reject) if is_passing(reject.code) => {}
                        joined => return joined,
                    }
                }
                Claimed::Theirs => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Whether one of the rooms that match has taken the device in.
    async fn try_rooms(
        &self,
        node: &Arc<Node>,
        session: &Arc<Session>,
        id: u64,
        join: &Join,
        tried: &mut BTreeSet<RoomId>,
    ) -> Result<bool, Reject> {
        for _ in 0..ROOMS_TRIED_MAX {
            let found = node.catalogue.choose(node, self.query, self.choice, tried);
            let Some(room) = found.await? else {
                return Ok(false);
            };
            match carry_out_join_of(node, session, id, join, &room, Mode::Join).await {
                Ok(()) => return Ok(true),
                Err(reject) if is_passing(reject.code) => {
                    if reject.code == ErrorCode::NoSuchRoom {
                        node.catalogue.drop_stale(node, &room).await;
                    }
                    tried.insert(room);
                }
                Err(reject) => return Err(reject),
            }
        }
        Ok(false)
    }
}

/// Whether a room that was made a moment ago is one that is looked for.
async fn is_match(node: &Arc<Node>, room: &RoomId, query: &Query) -> Result<bool, Reject> {
    let entrance = node.enter(room)?;
    let host = entrance.host();
    let was_read_before = host.is_read();
    host.synced(node).await?;
    if was_read_before {
        host.catch_up(node).await?;
    }
    Ok(host.matches(query))
}

/// Whether another room may take a device in that this one does not.
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

/// Rooms that are tried for one join.
const ROOMS_TRIED_MAX: usize = 8;
