//! What operators see of a node and of its cluster.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tombolo_engine::{Key, Offset, Unavailable, WatchEvent};
use tombolo_wire::{NodeId, RoomId};

use crate::cluster::{RECORDS, Record, State};
use crate::host::Host;
use crate::lock::lock;
use crate::services::Services;
use crate::session::Session;

/// A node, as the directory of its cluster has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeRecord {
    /// Its name, which no other node has.
    pub name: NodeId,
    /// Which of its lives; grows with each.
    pub epoch: u64,
    /// Whether it takes part.
    pub state: NodeState,
    /// Where devices connect; empty when that is not known.
    pub url: String,
    /// Where it is.
    pub region: String,
    /// Its program's version.
    pub release: String,
    /// Sessions when the record was written.
    pub sessions: u32,
    /// Sessions that it takes at most.
    pub sessions_max: u32,
    /// What it took of all cores then, in thousandths.
    pub cpu_permille: u32,
}

/// Whether a node takes part in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeState {
    /// It takes newcomers.
    Alive,
    /// It takes no newcomers.
    Draining,
    /// It was put out; another node does what it left to do.
    Fenced,
    /// It is gone, with nothing left to do.
    Gone,
}

impl NodeState {
    /// The word that command lines use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Draining => "draining",
            Self::Fenced => "fenced",
            Self::Gone => "gone",
        }
    }
}

/// A session on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Whose it is; a user may have several.
    pub user: String,
    /// Whether a device is connected; if not, it waits for one to come back.
    pub is_connected: bool,
    /// In how many rooms it is.
    pub rooms: usize,
}

/// A room that this node hosts, because members are here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoomInfo {
    /// Its name.
    pub room: String,
    /// Members on all nodes.
    pub members: usize,
    /// Members on this node.
    pub members_here: usize,
    /// Members at most.
    pub members_max: u32,
}

/// Some of many.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T> {
    /// How many there are.
    pub total: usize,
    /// Some of them, in order.
    pub items: Vec<T>,
}

impl Services {
    /// This node's name in its cluster.
    #[must_use]
    pub fn name(&self) -> &NodeId {
        self.node().name()
    }

    /// All nodes that the cluster remembers, this one included, by name.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, Unavailable> {
        let prefix = Key::new([RECORDS]).map_err(|_| Unavailable)?;
        let read = async {
            let mut watch = self.node().engine.watch(&prefix).await?;
            let mut nodes = Vec::new();
            loop {
                match watch.next().await.ok_or(Unavailable)? {
                    WatchEvent::Put { entry, .. } => {
                        // What another release wrote and this one cannot read is none of its nodes.
                        if let Ok(record) = Record::decode(&entry.value) {
                            nodes.retain(|known: &NodeRecord| known.name != record.name);
                            nodes.push(NodeRecord::from(record));
                        }
                    }
                    WatchEvent::Deleted { .. } => {}
                    WatchEvent::Reset => nodes.clear(),
                    WatchEvent::Synced => return Ok(nodes),
                }
            }
        };
        let mut nodes = timeout(READ_TIMEOUT, read)
            .await
            .map_err(|_| Unavailable)??;
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(nodes)
    }

    /// The sessions on this node by user, after the first `skip` of them.
    #[must_use]
    pub fn sessions(&self, skip: usize, count: usize) -> Page<SessionInfo> {
        let sessions = self.sessions_by_user();
        Page {
            items: sessions.iter().skip(skip).take(count).map(info).collect(),
            total: sessions.len(),
        }
    }

    /// The sessions on this node of users after one, by user: so many, and the rest of the last user's.
    #[must_use]
    pub fn sessions_after(&self, user: &str, count: usize) -> Page<SessionInfo> {
        let sessions = self.sessions_by_user();
        let begin = sessions.partition_point(|session| session.user.as_str() <= user);
        let left = &sessions[begin..];
        let last = count.checked_sub(1).and_then(|last| left.get(last));
        let end = match last {
            Some(last) => left.partition_point(|session| session.user <= last.user),
            None => left.len().min(count),
        };
        Page {
            items: left[..end].iter().map(info).collect(),
            total: sessions.len(),
        }
    }

    fn sessions_by_user(&self) -> Vec<Arc<Session>> {
        let sessions = lock(&self.node().sessions);
        let mut sessions: Vec<_> = sessions.by_id.values().cloned().collect();
        sessions.sort_by(|a, b| (&a.user, a.id).cmp(&(&b.user, b.id)));
        sessions
    }

    /// The rooms that have members on this node, by name, after the first `skip` of them.
    #[must_use]
    pub fn rooms_here(&self, skip: usize, count: usize) -> Page<RoomInfo> {
        let rooms = self.rooms_by_name();
        Page {
            total: rooms.len(),
            items: rooms.into_iter().skip(skip).take(count).collect(),
        }
    }

    /// The rooms that have members on this node, by name, after a name.
    #[must_use]
    pub fn rooms_after(&self, room: &str, count: usize) -> Page<RoomInfo> {
        let rooms = self.rooms_by_name();
        let total = rooms.len();
        let after = rooms.into_iter().filter(|found| found.room.as_str() > room);
        Page {
            total,
            items: after.take(count).collect(),
        }
    }

    /// How many rooms this node counts when all of them count theirs, so that each room is counted once: those that have
    /// members here, also such whose sessions are over and whose seats are kept, and none on a living node whose name is
    /// before this one's.
    #[must_use]
    pub fn rooms_counted(&self) -> usize {
        let hosts: Vec<_> = lock(&self.node().host_by_room).values().cloned().collect();
        let counted = hosts.iter().filter(|host| host.is_first(self.node()));
        counted.count()
    }

    /// How far a room's log has been read here; `None` when the room is not hosted here.
    #[must_use]
    pub fn room_read_to(&self, room: &RoomId) -> Option<Offset> {
        self.host(room)?.lock().cursor()
    }

    /// The same, and what the room is as far as it was read, as bytes: they are the same on all nodes.
    #[must_use]
    pub fn room_snapshot(&self, room: &RoomId) -> Option<(Offset, Bytes)> {
        self.host(room)?.lock().snapshot()
    }

    fn host(&self, room: &RoomId) -> Option<Arc<Host>> {
        lock(&self.node().host_by_room).get(room).cloned()
    }

    fn rooms_by_name(&self) -> Vec<RoomInfo> {
        let hosts: Vec<_> = lock(&self.node().host_by_room).values().cloned().collect();
        let mut rooms: Vec<_> = hosts.iter().filter_map(|host| host.info()).collect();
        rooms.sort_by(|a, b| a.room.cmp(&b.room));
        rooms
    }
}

fn info(session: &Arc<Session>) -> SessionInfo {
    let state = session.lock();
    SessionInfo {
        user: session.user.to_string(),
        is_connected: state.is_connected,
        rooms: state.host_by_room.len(),
    }
}

impl From<Record> for NodeRecord {
    fn from(record: Record) -> Self {
        Self {
            state: match record.state {
                State::Alive => NodeState::Alive,
                State::Draining => NodeState::Draining,
                State::Fenced => NodeState::Fenced,
                State::Gone => NodeState::Gone,
            },
            name: record.name,
            epoch: record.epoch,
            url: record.url,
            region: record.region,
            release: record.release,
            sessions: record.load.sessions,
            sessions_max: record.load.sessions_max,
            cpu_permille: record.load.cpu_permille,
        }
    }
}

/// How long the engine may take to tell all records.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
