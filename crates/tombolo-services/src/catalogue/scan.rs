//! Looks through the directory.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Message as _;
use tokio::time::timeout;
use tombolo_room::{Listing, PageEnd, Query};
use tombolo_wire::RoomId;
use tombolo_wire::v1::{self, ErrorCode};

use super::{Catalogue, MAKERS, Rooms};
use crate::entropy::Entropy;
use crate::node::Node;
use crate::reject::Reject;

/// Which of the rooms that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Any, each as likely as the others.
    Any,
    /// The first by the query's order.
    First,
}

impl Catalogue {
    /// A page of the rooms that match.
    pub(crate) async fn find(
        &self,
        node: &Arc<Node>,
        query: Query,
    ) -> Result<v1::FoundRooms, Reject> {
        self.known(node).await?;
        let rooms_max = match query.limit {
            0 => PAGE_ROOMS_MAX,
            limit => PAGE_ROOMS_MAX.min(limit as usize),
        };
        self.look(node, move |all| page(&query, all, rooms_max))
            .await
    }

    /// One of the rooms that match and are not tried yet; `None` when there is none.
    pub(crate) async fn choose(
        &self,
        node: &Arc<Node>,
        query: &Query,
        choice: Choice,
        tried: &BTreeSet<RoomId>,
    ) -> Result<Option<RoomId>, Reject> {
        self.known(node).await?;
        if choice == Choice::Any
            && let Some(room) = self.probe(node.config.entropy, query, tried)
        {
            return Ok(Some(room));
        }
        let (query, tried) = (query.clone(), tried.clone());
        let pick = node.config.entropy.number();
        self.look(node, move |all| {
            let is_meant = |room: &&Listing| query.matches(room) && !tried.contains(&room.room);
            let found = all.iter().map(Arc::as_ref).filter(is_meant);
            let found = match choice {
                Choice::First => { found }.min_by(|a, b| query.compare(a, b)),
                Choice::Any => {
                    let found: Vec<_> = found.collect();
                    found.get(place(pick, found.len())).copied()
                }
            };
            found.map(|found| found.room.clone())
        })
        .await
    }

    /// Waits for its turn to make a room because none was found.
    pub(crate) async fn turn(&self, query: &Query) -> tokio::sync::MutexGuard<'_, ()> {
        let text = v1::RoomQuery::from(query).encode_to_vec();
        let sum = text.iter().fold(0_usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(usize::from(*byte))
        });
        self.makers[sum % MAKERS].lock().await
    }

    /// Tries some rooms at random: if many match, that finds one at once.
    fn probe(&self, entropy: Entropy, query: &Query, tried: &BTreeSet<RoomId>) -> Option<RoomId> {
        let rooms = self.lock();
        for _ in 0..PROBES {
            let Some(room) = rooms.at(entropy.number()) else {
                continue;
            };
            if query.matches(room) && !tried.contains(&room.room) {
                return Some(room.room.clone());
            }
        }
        None
    }

    /// Looks through all rooms as they are at one moment. Takes turns, so that those who look cannot take
    /// all of the node's time.
    async fn look<T: Send + 'static>(
        &self,
        node: &Arc<Node>,
        look: impl FnOnce(&[Arc<Listing>]) -> T + Send + 'static,
    ) -> Result<T, Reject> {
        let busy = || Reject::new(ErrorCode::Limit, "too many look for rooms: try again later");
        let turn = timeout(node.config.engine_timeout, self.readers.acquire()).await;
        let _turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
        let all = self.lock().all();
        if all.len() <= INLINE_ROOMS_MAX {
            return Ok(look(&all));
        }
        let looked = node.runtime.spawn_blocking(move || look(&all)).await;
        looked.map_err(|_| busy())
    }
}

impl Rooms {
    /// All rooms that are shown.
    fn all(&self) -> Vec<Arc<Listing>> {
        let here = self.hosted.values();
        let here = here.filter_map(|hosted| hosted.shown.listing.as_ref());
        let is_elsewhere = |room: &&RoomId| !self.hosted.contains_key(*room);
        let elsewhere = self.told.iter();
        let elsewhere = elsewhere.filter(|(room, _)| is_elsewhere(room));
        here.chain(elsewhere.map(|(_, told)| &told.listing))
            .cloned()
            .collect()
    }

    /// The room at a place; all places are alike, and some are empty.
    fn at(&self, number: u64) -> Option<&Listing> {
        let at = place(number, self.hosted.len() + self.told.len());
        if let Some((_, hosted)) = self.hosted.get_index(at) {
            return hosted.shown.listing.as_deref();
        }
        let (room, told) = self.told.get_index(at - self.hosted.len())?;
        (!self.hosted.contains_key(room)).then_some(&*told.listing)
    }
}

/// As many rooms as may be and fit into an answer.
fn page(query: &Query, all: &[Arc<Listing>], rooms_max: usize) -> v1::FoundRooms {
    let matching = all.iter().map(Arc::as_ref);
    let matching = matching.filter(|room| query.matches(room));
    let mut rooms_max = rooms_max;
    loop {
        let (found, end) = query.page(matching.clone(), rooms_max);
        let found = v1::FoundRooms {
            rooms: found.into_iter().map(v1::FoundRoom::from).collect(),
            next: end.as_ref().map(PageEnd::to_wire).unwrap_or_default(),
        };
        if found.encoded_len() <= PAGE_BYTES_MAX || rooms_max <= 1 {
            return found;
        }
        rooms_max /= 2;
    }
}

/// A random number as a place among so many.
fn place(number: u64, count: usize) -> usize {
    let place = (u128::from(number) * count as u128) >> 64;
    usize::try_from(place).unwrap_or_default()
}

/// The most rooms in one answer.
const PAGE_ROOMS_MAX: usize = 100;

/// As much as one answer says.
const PAGE_BYTES_MAX: usize = 80 * 1024;

/// Rooms that are tried at random before all are looked through.
const PROBES: usize = 16;

/// So few rooms are looked through where they are.
const INLINE_ROOMS_MAX: usize = 2048;
