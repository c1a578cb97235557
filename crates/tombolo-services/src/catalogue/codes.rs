//! Short codes: `code.<code>` is a room's for as long as the room is open. Reserved by compare-and-swap
//! before the room is opened with it, so no two rooms have the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use tombolo_engine::{CasError, Key, KvEntry, Revision, Unavailable, WatchEvent};
use tombolo_room::RoomCode;
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{NodeId, RoomId};

use super::record::{Owner, code_of};
use super::unavailable;
use crate::node::Node;
use crate::reject::Reject;

/// Reserves a code for a room that is about to be opened.
pub(crate) async fn reserve(node: &Node, room: &RoomId) -> Result<RoomCode, Reject> {
    let owner = Owner {
        room: room.clone(),
        node: node.name().clone(),
    };
    for _ in 0..ATTEMPTS_MAX {
        let bytes = node
            .config
            .entropy
            .code_bytes()
            .map_err(|_| unavailable())?;
        let Some(code) = RoomCode::from_random(bytes) else {
            continue;
        };
        let key = key_of(code)?;
        match node.engine.cas(&key, None, Some(owner.encode())).await {
            Ok(_) => return Ok(code),
            // One whose fate is not known is not used: whoever does what this node leaves frees it.
            Err(CasError::Conflict | CasError::Unknown) => {}
            Err(_) => return Err(unavailable()),
        }
    }
    Err(unavailable())
}

/// The room that has a code.
pub(crate) async fn resolve(node: &Node, code: RoomCode) -> Result<Option<RoomId>, Reject> {
    let found = find(node, code).await?;
    Ok(found.map(|(owner, _)| owner.room))
}

/// Frees a room's code.
pub(crate) async fn free(node: &Node, room: &RoomId, code: RoomCode) -> Result<(), Reject> {
    for _ in 0..ATTEMPTS_MAX {
        let found = find(node, code).await?;
        let Some((_, entry)) = found.filter(|(owner, _)| owner.room == *room) else {
            return Ok(());
        };
        match node
            .engine
            .cas(&key_of(code)?, Some(entry.revision), None)
            .await
        {
            Ok(_) => return Ok(()),
            Err(CasError::Conflict | CasError::Unknown) => {}
            Err(_) => return Err(unavailable()),
        }
    }
    Err(unavailable())
}

/// Frees the codes that a dead node has left behind: those that it had reserved, and those of rooms that
/// it hosted, unless the room is open with it.
pub(crate) async fn sweep(
    node: &Arc<Node>,
    lost: &NodeId,
    rooms: &BTreeSet<RoomId>,
) -> Result<(), Unavailable> {
    let mut codes = all(node).await?;
    codes.retain(|(_, owner, _)| owner.node == *lost || rooms.contains(&owner.room));
    // A node that lives may have reserved one for a room that it is about to open anew. By the time that
    // is given it the room is open with the code, or the node has freed it.
    codes.sort_by_key(|(_, owner, _)| owner.node != *lost);
    let mut has_waited = false;
    for (code, owner, revision) in codes {
        if owner.node != *lost && !std::mem::replace(&mut has_waited, true) {
            tokio::time::sleep(OPENINGS_MAX * node.config.engine_timeout).await;
        }
        let Ok(entrance) = node.enter(&owner.room) else {
            continue;
        };
        let host = entrance.host();
        if host.synced(node).await.is_err() {
            if host.is_unreadable() {
                // Whoever can read it frees its code when it closes.
                continue;
            }
            return Err(Unavailable);
        }
        if host.code() != Some(code)
            && let Ok(key) = key_of(code)
        {
            // Whoever has written it anew keeps it.
            let _ = node.engine.cas(&key, Some(revision), None).await;
        }
    }
    Ok(())
}

async fn all(node: &Node) -> Result<Vec<(RoomCode, Owner, Revision)>, Unavailable> {
    let prefix = Key::new([CODES]).map_err(|_| Unavailable)?;
    let mut watch = node.engine.watch(&prefix).await?;
    let mut codes = Vec::new();
    loop {
        match watch.next().await.ok_or(Unavailable)? {
            WatchEvent::Put { key, entry } => {
                if let (Some(code), Ok(owner)) = (code_of(&key), Owner::decode(&entry.value)) {
                    codes.push((code, owner, entry.revision));
                }
            }
            WatchEvent::Deleted { key, .. } => {
                codes.retain(|(code, ..)| Some(*code) != code_of(&key));
            }
            WatchEvent::Reset => codes.clear(),
            WatchEvent::Synced => return Ok(codes),
        }
    }
}

async fn find(node: &Node, code: RoomCode) -> Result<Option<(Owner, KvEntry)>, Reject> {
    let key = key_of(code)?;
    let found = node.engine.get(&key).await.map_err(|_| unavailable())?;
    Ok(found.and_then(|entry| Some((Owner::decode(&entry.value).ok()?, entry))))
}

fn key_of(code: RoomCode) -> Result<Key, Reject> {
    Key::new([CODES, code.as_str()]).map_err(|error| Reject::new(ErrorCode::BadName, error))
}

/// Of the codes of all rooms, among the values.
const CODES: &str = "code";

/// What opening a room may take, in times of the engine's.
const OPENINGS_MAX: u32 = 4;

/// How often somebody else may be faster.
const ATTEMPTS_MAX: usize = 8;
