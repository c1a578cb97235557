//! The directory of rooms: what is public about each, kept among the engine's values by those who host
//! it, and read by every node whose devices look for rooms.
//!
//! What a node hosts itself it knows first, so that counts: whoever has just made a room here is
//! found by the next one who looks here. Of other rooms the engine tells, a moment later. Nothing is
//! decided by the directory: who may come in, the room's log says.
//!
//! `open.<room>` is written by one of the nodes that host the room, its *keeper*, at most once in a while; it
//! carries its place in the room's log, and what is older never replaces what is newer. It goes with the
//! room: whoever sees it close takes it away, and after a node's death its heir does ([`loss`](crate::cluster)).
//! What was left over all the same is taken away by the first who tries to join.

mod codes;
mod keep;
mod record;
mod scan;

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use indexmap::IndexMap;
use tokio::sync::{OnceCell, Semaphore};
use tombolo_engine::{
    CasError, Engine, Key, KeyError, KvEntry, Offset, Revision, WatchEvent, latest,
};
use tombolo_room::{Listing, RoomCode};
use tombolo_wire::RoomId;
use tombolo_wire::v1::ErrorCode;

pub(crate) use codes::{free, reserve, resolve, sweep};
use keep::Written;
use record::Record;
pub(crate) use scan::Choice;

use crate::lock::lock;
use crate::node::Node;
use crate::reject::Reject;

/// The rooms that can be found.
pub(crate) struct Catalogue {
    rooms: Mutex<Rooms>,
    /// Set when somebody has looked for a room: from then on the engine tells of them.
    reading: OnceCell<()>,
    is_synced: latest::Sender<bool>,
    /// How many may write to the engine at once.
    writers: Semaphore,
    /// How many may look through all rooms at once.
    readers: Semaphore,
    /// Held by who makes a room because it found none, so that the next one finds that.
    makers: [tokio::sync::Mutex<()>; MAKERS],
}

#[derive(Default)]
struct Rooms {
    /// Those hosted here.
    hosted: IndexMap<RoomId, Hosted>,
    /// What the engine says of all.
    told: IndexMap<RoomId, Told>,
    told_bytes: usize,
}

/// A room that is hosted here.
struct Hosted {
    shown: Shown,
    /// Its codes of openings that are over.
    codes_over: Vec<RoomCode>,
    /// What this node knows of the engine's record.
    written: Written,
    /// Somebody writes it.
    is_busy: bool,
}

/// How a room that is hosted here is.
#[derive(Clone)]
pub(crate) struct Shown {
    /// The place in its log as of which this is so.
    pub(crate) at: Offset,
    /// `None` when it is hidden or closed.
    pub(crate) listing: Option<Arc<Listing>>,
    pub(crate) code: Option<RoomCode>,
    pub(crate) is_open: bool,
    /// Whether it is for this node to write the record.
    pub(crate) is_keeper: bool,
}

/// A room that the engine tells of.
struct Told {
    listing: Arc<Listing>,
    revision: Revision,
    bytes: usize,
}

impl Catalogue {
    pub(crate) fn new() -> Self {
        Self {
            rooms: Mutex::default(),
            reading: OnceCell::new(),
            is_synced: latest::Sender::new(false),
            writers: Semaphore::new(WRITERS_MAX),
            readers: Semaphore::new(READERS_MAX),
            makers: std::array::from_fn(|_| tokio::sync::Mutex::default()),
        }
    }

    /// Takes in how a room that is hosted here is now.
    pub(crate) fn show(&self, node: &Arc<Node>, room: &RoomId, shown: Shown) {
        let mut rooms = self.lock();
        if !shown.is_open && !rooms.hosted.contains_key(room) {
            return;
        }
        rooms.show(room, shown);
        let is_to_write = rooms.hosted.get_mut(room).is_some_and(Hosted::begin);
        drop(rooms);
        if is_to_write {
            let (node, room) = (Arc::clone(node), room.clone());
            node.runtime.clone().spawn(keep::keep(node, room));
        }
    }

    /// Takes away what a dead node may have left of a room that is closed as of a place in its log.
    pub(crate) fn clear(&self, node: &Arc<Node>, room: &RoomId, at: Offset) {
        let shown = Shown {
            at,
            listing: None,
            code: None,
            is_open: false,
            is_keeper: true,
        };
        self.lock()
            .hosted
            .entry(room.clone())
            .or_insert_with(|| Hosted::new(shown.clone()));
        self.show(node, room, shown);
    }

    /// This node hosts a room no longer that may go on elsewhere.
    pub(crate) fn forget(&self, room: &RoomId) {
        let mut rooms = self.lock();
        if rooms
            .hosted
            .get(room)
            .is_some_and(|hosted| hosted.shown.is_open)
        {
            rooms.hosted.swap_remove(room);
        }
    }

    /// Takes away the record of a room that was found to be closed.
    pub(crate) async fn drop_stale(&self, node: &Node, room: &RoomId) {
        let told = self.lock().told.get(room).map(|told| told.revision);
        if let (Some(revision), Ok(key)) = (told, key_of(room)) {
            // Whoever has opened it anew writes it anew: then this changes nothing.
            let drop = node.engine.cas(&key, Some(revision), None);
            let dropped = tokio::time::timeout(node.config.engine_timeout, drop).await;
            if !matches!(dropped, Ok(Ok(_) | Err(CasError::Conflict))) {
                node.counters.listings_failed.add(1);
                tracing::debug!(%room, "the record of a closed room stays for now");
            }
        }
    }

    /// This node hosts nothing any longer.
    pub(crate) fn forget_all(&self) {
        self.lock().hosted.clear();
    }

    /// Waits until all rooms are known; the first time, begins to read them.
    pub(crate) async fn known(&self, node: &Arc<Node>) -> Result<(), Reject> {
        self.reading
            .get_or_init(|| async {
                let (engine, known) = (Arc::clone(&node.engine), Arc::downgrade(node));
                let read = read(engine, known);
                node.runtime
                    .spawn(node.vitals.hold("the directory of rooms", read));
            })
            .await;
        let mut is_synced = self.is_synced.subscribe();
        let synced = is_synced.wait_for(|is_synced| *is_synced);
        let _ = node.within(synced).await?;
        Ok(())
    }

    fn handle_event(&self, node: &Node, event: WatchEvent) {
        let mut rooms = self.lock();
        match event {
            WatchEvent::Put { key, entry } => {
                let take_in = || rooms.take_in(&key, &entry);
                let taken_in = node.take_in("a record of a room", take_in);
                if taken_in.is_none()
                    && let Some(room) = room_of(&key)
                {
                    rooms.untell(&room, entry.revision);
                }
                if taken_in != Some(true) {
                    node.counters.cluster.records_refused.add(1);
                }
            }
            WatchEvent::Deleted { key, revision } => {
                if let Some(room) = room_of(&key) {
                    rooms.untell(&room, revision);
                }
            }
            WatchEvent::Synced => {
                self.is_synced.send_replace(true);
            }
            WatchEvent::Reset => {
                rooms.told.clear();
                rooms.told_bytes = 0;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rooms> {
        lock(&self.rooms)
    }
}

impl Rooms {
    fn show(&mut self, room: &RoomId, shown: Shown) {
        let hosted = self
            .hosted
            .entry(room.clone())
            .or_insert_with(|| Hosted::new(shown.clone()));
        let before = std::mem::replace(&mut hosted.shown, shown);
        if hosted.shown.is_keeper && !before.is_keeper {
            // Another keeper has written since.
            hosted.written = Written::Unknown;
        }
        if let Some(over) = before.code.filter(|_| before.code != hosted.shown.code) {
            hosted.codes_over.push(over);
        }
    }

    /// Takes in what the engine says of a room; whether it could. A room of which nothing newer can be kept is not
    /// known any more: it would be found as it was.
    fn take_in(&mut self, key: &Key, entry: &KvEntry) -> bool {
        match Record::decode(&entry.value) {
            Ok(record) if self.has_place(&record, entry.value.len()) => {
                let bytes = entry.value.len() + TOLD_OVERHEAD;
                self.tell(record, entry.revision, bytes);
                return true;
            }
            Ok(record) => self.untell(&record.listing.room, entry.revision),
            Err(_) => {
                if let Some(room) = room_of(key) {
                    self.untell(&room, entry.revision);
                }
            }
        }
        false
    }

    fn tell(&mut self, record: Record, revision: Revision, bytes: usize) {
        let room = record.listing.room.clone();
        let told = Told {
            listing: Arc::new(record.listing),
            revision,
            bytes,
        };
        self.told_bytes += bytes;
        if let Some(before) = self.told.insert(room, told) {
            self.told_bytes -= before.bytes;
        }
    }

    /// Whether the record can be kept in place of what is known of its room.
    fn has_place(&self, record: &Record, bytes: usize) -> bool {
        let before = self.told.get(&record.listing.room);
        let others = self.told_bytes - before.map_or(0, |told| told.bytes);
        others + bytes <= TOLD_BYTES_MAX
    }

    fn untell(&mut self, room: &RoomId, revision: Revision) {
        let is_older = |told: &Told| told.revision < revision;
        if self.told.get(room).is_some_and(is_older)
            && let Some(before) = self.told.swap_remove(room)
        {
            self.told_bytes -= before.bytes;
        }
    }
}

/// Follows the engine's records for as long as the node lives.
async fn read(engine: Arc<dyn Engine>, node: Weak<Node>) {
    let Ok(prefix) = Key::new([OPEN]) else {
        return;
    };
    while node.strong_count() > 0 {
        if let Ok(mut watch) = engine.watch(&prefix).await {
            while let Some(event) = watch.next().await {
                let Some(node) = node.upgrade() else {
                    return;
                };
                node.catalogue.handle_event(&node, event);
            }
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

fn key_of(room: &RoomId) -> Result<Key, KeyError> {
    Key::new([OPEN, room.as_str()])
}

/// The room that a record is about. Keys write `=` for a full stop, which no room's name has.
fn room_of(key: &Key) -> Option<RoomId> {
    let token = key.as_str().strip_prefix(OPEN)?.strip_prefix('.')?;
    RoomId::parse(&token.replace('=', ".")).ok()
}

fn unavailable() -> Reject {
    Reject::new(ErrorCode::Unavailable, "the engine does not answer")
}

/// Of the records of rooms that are open, among the values.
const OPEN: &str = "open";

/// As much as this node keeps of rooms elsewhere, as the engine has it; beyond, rooms are not found from
/// here.
const TOLD_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What a room takes beside its record.
const TOLD_OVERHEAD: usize = 256;

/// Records that are written at the same time.
const WRITERS_MAX: usize = 64;

/// Devices for which all rooms are looked through at the same time.
const READERS_MAX: usize = 2;

/// Kinds of rooms that are made at the same time because none was found.
const MAKERS: usize = 32;

/// Between two attempts to read the engine's records.
const RETRY_DELAY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use tombolo_engine::Epoch;
    use tombolo_wire::v1;

    use super::*;

    #[test]
    fn a_room_that_has_no_place_as_it_is_now_is_not_known_as_it_was() {
        let mut rooms = Rooms::default();
        let key = Key::new([OPEN, "lobby"]).unwrap();
        let entry = |number| {
            let found = v1::FoundRoom {
                room: "lobby".into(),
                members_max: 4,
                ..v1::FoundRoom::default()
            };
            let at = Offset {
                epoch: Epoch(1),
                seq: number,
            };
            let revision = Revision {
                epoch: Epoch(1),
                number,
            };
            let listing = Listing::parse(found).unwrap();
            let value = Record::encode(&listing, at);
            KvEntry { revision, value }
        };
        let place = TOLD_BYTES_MAX - 1_024;
        rooms.told_bytes = place;
        assert!(rooms.take_in(&key, &entry(1)));
        assert_eq!(rooms.told.len(), 1);
        // Others have taken the rest meanwhile.
        rooms.told_bytes += 1_024;
        assert!(!rooms.take_in(&key, &entry(2)));
        assert_eq!((rooms.told.len(), rooms.told_bytes), (0, place + 1_024));

        rooms.told_bytes = 0;
        assert!(rooms.take_in(&key, &entry(3)));
        let later = KvEntry {
            value: b"of a later release".as_slice().into(),
            ..entry(4)
        };
        assert!(!rooms.take_in(&key, &later));
        assert_eq!((rooms.told.len(), rooms.told_bytes), (0, 0));
    }
}
