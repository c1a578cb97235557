//! What a node that died left to do: the logs of its members' rooms must say that it is lost.
//!
//! A room that only the dead node hosted is known to nobody else, so each node lists the rooms that
//! it hosts among the values, `rooms-of.<node>.<room>`, before its first member joins one. That is one
//! write for a room and node, not one for a member; it survives the node, and its heir reads one
//! prefix to know everything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tombolo_engine::{CasError, Key, KeyError, Revision, Unavailable, WatchEvent};
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{NodeId, RoomId};

use crate::catalogue;
use crate::lock::lock;
use crate::matchmaker;
use crate::node::Node;
use crate::reject::Reject;
use crate::vital::join_next;

/// A room that a node hosted when it was last heard.
#[derive(Clone)]
struct Listed {
    key: Key,
    revision: Revision,
    /// `None` when the value is no name.
    room: Option<RoomId>,
}

/// Lists a room as hosted here; returns the revision by which it may be taken off the list.
pub(crate) async fn list(node: &Node, room: &RoomId) -> Result<Revision, Reject> {
    let unavailable = || Reject::new(ErrorCode::Unavailable, "the engine does not answer");
    let key = key_of(node.name(), room).map_err(|error| Reject::new(ErrorCode::BadName, error))?;
    let value = || Some(room.to_string().into());
    let mut expected = None;
    let attempts = async {
        for _ in 0..ATTEMPTS_MAX {
            match node.engine.cas(&key, expected, value()).await {
                Ok(revision) => return Ok(revision),
                Err(CasError::Conflict | CasError::Unknown) => {}
                Err(_) => return Err(unavailable()),
            }
            // Written anew although it is there: whoever takes the old one off must not take this.
            let found = node.engine.get(&key).await.map_err(|_| unavailable())?;
            expected = found.map(|entry| entry.revision);
        }
        Err(unavailable())
    };
    node.within(attempts).await?
}

/// Takes a room off the list. When it fails the entry stays, and costs its next reader a look.
pub(crate) async fn unlist(node: &Node, room: &RoomId, revision: Revision) {
    if let Ok(key) = key_of(node.name(), room) {
        let _ = node.engine.cas(&key, Some(revision), None).await;
    }
}

/// Drops the members that a node's lives up to this one left behind in all of its rooms, and its devices' tickets. Returns when
/// that is done, however long the engine takes.
pub(crate) async fn inherit(node: &Arc<Node>, lost: &NodeId, incarnation: u64) {
    let pools = matchmaker::lose(Arc::clone(node), lost.clone(), incarnation);
    tokio::join!(pools, inherit_rooms(node, lost, incarnation));
}

async fn inherit_rooms(node: &Arc<Node>, lost: &NodeId, incarnation: u64) {
    let mut rooms = loop {
        match rooms_of(node, lost).await {
            Ok(rooms) => break rooms,
            Err(Unavailable) => tokio::time::sleep(RETRY_DELAY).await,
        }
    };
    let names: BTreeSet<_> = rooms
        .iter()
        .filter_map(|listed| listed.room.clone())
        .collect();
    if lost == node.name() {
        // The heir of its last life may be at it, from the other end.
        rooms.reverse();
    }
    let mut tasks = JoinSet::new();
    for listed in rooms {
        if tasks.len() >= ROOMS_AT_ONCE {
            join_next(&mut tasks).await;
        }
        let (node, lost) = (Arc::clone(node), Some((lost.clone(), incarnation)));
        // What panics is not done: nobody else comes to it any more.
        tasks.spawn(async move {
            let run = || clear(Arc::clone(&node), lost.clone(), listed.clone());
            node.attend_log(&listed.key, run, || {}).await;
        });
    }
    while join_next(&mut tasks).await {}
    while catalogue::sweep(node, lost, &names).await.is_err() {
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Takes up the rooms that this node has listed and does not host any more, until there is no place for more of their logs
/// to be retired: there was none when it was to end them.
pub(crate) async fn take_up_left(node: &Arc<Node>) -> Result<(), Unavailable> {
    for listed in rooms_of(node, node.name()).await? {
        if node.retirements.is_full() || node.cluster.is_out() {
            break;
        }
        let is_hosted = |room| lock(&node.host_by_room).contains_key(room);
        if !listed.room.as_ref().is_some_and(is_hosted) {
            clear(Arc::clone(node), None, listed).await;
        }
    }
    Ok(())
}

async fn rooms_of(node: &Node, lost: &NodeId) -> Result<Vec<Listed>, Unavailable> {
    let Ok(prefix) = Key::new([ROOMS, lost.as_str()]) else {
        return Ok(Vec::new());
    };
    let mut watch = node.engine.watch(&prefix).await?;
    let mut rooms = Vec::new();
    loop {
        match watch.next().await.ok_or(Unavailable)? {
            WatchEvent::Put { key, entry } => rooms.push(Listed {
                key,
                revision: entry.revision,
                room: std::str::from_utf8(&entry.value)
                    .ok()
                    .and_then(|room| RoomId::parse(room).ok()),
            }),
            WatchEvent::Deleted { key, .. } => rooms.retain(|listed| listed.key != key),
            WatchEvent::Reset => rooms.clear(),
            WatchEvent::Synced => return Ok(rooms),
        }
    }
}

/// Drops the members that a node's lost lives left behind in one room, and takes it off the list, unless somebody else has
/// done so since it was listed.
async fn clear(node: Arc<Node>, lost: Option<(NodeId, u64)>, listed: Listed) {
    if let Ok(None) = node.engine.get(&listed.key).await {
        return;
    }
    if let Some(room) = &listed.room {
        let Ok(entrance) = node.enter(room) else {
            return;
        };
        let host = entrance.host();
        while host.synced(&node).await.is_err() && !host.is_unreadable() {
            if host.is_stopped() {
                return;
            }
        }
        if let Some((lost, incarnation)) = &lost {
            host.drop_members_of(&node, lost, *incarnation).await;
        }
        // This node keeps the room's clock now, or retires its log: whoever does what it leaves to do must find the room.
        while host.is_unfinished() && host.list(&node).await.is_err() {
            tokio::time::sleep(RETRY_DELAY).await;
        }
        host.clear_if_closed(&node);
        let is_listed_here = lost.is_none_or(|(lost, _)| lost == *node.name());
        if is_listed_here && host.listed() == Some(listed.revision) {
            return;
        }
    }
    // Whoever hosts it anew has listed it anew: then this changes nothing.
    let _ = node
        .engine
        .cas(&listed.key, Some(listed.revision), None)
        .await;
}

/// Under which all nodes' hosted rooms are, by node and room.
pub(crate) fn rooms_prefix() -> Result<Key, KeyError> {
    Key::new([ROOMS])
}

fn key_of(node: &NodeId, room: &RoomId) -> Result<Key, KeyError> {
    Key::new([ROOMS, node.as_str(), room.as_str()])
}

/// Of all nodes' hosted rooms, among the values.
const ROOMS: &str = "rooms-of";

/// How often somebody else may be faster to list a room.
const ATTEMPTS_MAX: usize = 8;

/// Rooms whose logs an heir reads at the same time.
const ROOMS_AT_ONCE: usize = 64;

const RETRY_DELAY: Duration = Duration::from_millis(250);
