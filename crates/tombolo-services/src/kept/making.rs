//! Of several nodes whose devices look for the same room and find none, one makes it.
//!
//! `making.<slot>` says who is about to make a room, or made one last, for which question. Taken by
//! compare-and-swap; whoever does not get it waits for the room and goes there. No clock is compared with
//! another node's: a claim that has not changed for [`HELD`] while somebody waits is taken over, and one of a node
//! that is not up at once. So a maker that is slower than that may have made a room beside another's; nothing
//! else comes of it.
//!
//! The last room that was made stays named: whoever has not heard of it by the directory of rooms yet looks there
//! before it makes another.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;
use tombolo_engine::{CasError, Key, KvEntry, Revision};
use tombolo_room::Query;
use tombolo_wire::v1::{self, ErrorCode};
use tombolo_wire::{NodeId, RoomId};

use super::VERSION;
use super::generated as wire;
use crate::node::Node;
use crate::reject::Reject;

/// What is looked for, as nodes agree on it.
pub(crate) struct Looked {
    key: Key,
    digest: [u8; 8],
    /// The claim of another node that this one waits for, and since when.
    seen: Option<(Revision, Instant)>,
}

/// What is to be done about a room that was not found.
pub(crate) enum Claimed {
    /// Make one, and say so by [`Claim::end`].
    Ours(Claim),
    /// Look into this one, which was made a moment ago.
    Made(RoomId),
    /// Another node makes one: ask again in a moment.
    Theirs,
}

/// This node makes a room.
pub(crate) struct Claim {
    key: Key,
    record: Making,
    revision: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Making {
    node: NodeId,
    epoch: u64,
    room: RoomId,
    query: [u8; 8],
    is_made: bool,
}

impl Looked {
    pub(crate) fn new(query: &Query) -> Result<Self, Reject> {
        let text = v1::RoomQuery::from(query).encode_to_vec();
        let digest = fnv(&text);
        let slot = format!("{}", digest % SLOTS);
        let key = Key::new([MAKING, &slot]);
        Ok(Self {
            key: key.map_err(|error| Reject::new(ErrorCode::BadName, error))?,
            digest: digest.to_be_bytes(),
            seen: None,
        })
    }

    /// Asks to make a room of this name, if there is none in which nobody has looked.
    pub(crate) async fn claim(
        &mut self,
        node: &Node,
        name: &RoomId,
        tried: &BTreeSet<RoomId>,
    ) -> Result<Claimed, Reject> {
        let unavailable = || Reject::new(ErrorCode::Unavailable, "the engine does not answer");
        let ours = Making {
            node: node.name().clone(),
            epoch: node.incarnation(),
            room: name.clone(),
            query: self.digest,
            is_made: false,
        };
        for _ in 0..ATTEMPTS_MAX {
            let found = node.engine.get(&self.key).await;
            let found = found.map_err(|_| unavailable())?;
            if let Some(claimed) = self.look(node, found.as_ref(), tried) {
                return Ok(claimed);
            }
            let expected = found.map(|found| found.revision);
            match node
                .engine
                .cas(&self.key, expected, Some(ours.encode()))
                .await
            {
                Ok(revision) => {
                    return Ok(Claimed::Ours(Claim {
                        key: self.key.clone(),
                        record: ours,
                        revision,
                    }));
                }
                // Unknown: then this node's own claim is found there, and renewed.
                Err(CasError::Conflict | CasError::Unknown) => {}
                Err(_) => return Err(unavailable()),
            }
        }
        Ok(Claimed::Theirs)
    }

    /// What follows from what is there; `None` when this node may make a room.
    fn look(
        &mut self,
        node: &Node,
        found: Option<&KvEntry>,
        tried: &BTreeSet<RoomId>,
    ) -> Option<Claimed> {
        // What a later release has written is put aside: at worst there is a room more.
        let entry = found?;
        let making = Making::decode(&entry.value)?;
        if making.is_made {
            let is_news = making.query == self.digest && !tried.contains(&making.room);
            return is_news.then_some(Claimed::Made(making.room));
        }
        // On this node only one at a time makes rooms for the same: its own claim is left over.
        if making.node == *node.name() || !node.cluster.is_up(&making.node) {
            return None;
        }
        let since = match self.seen {
            Some((revision, since)) if revision == entry.revision => since,
            Some(_) | None => Instant::now(),
        };
        self.seen = Some((entry.revision, since));
        (since.elapsed() < HELD).then_some(Claimed::Theirs)
    }
}

impl Claim {
    /// Says whether the room was made. When that does not get through, others wait for nothing for a while.
    pub(crate) async fn end(mut self, node: &Node, is_made: bool) {
        self.record.is_made = is_made;
        let value = is_made.then(|| self.record.encode());
        let end = node.engine.cas(&self.key, Some(self.revision), value);
        let _ = tokio::time::timeout(node.config.engine_timeout, end).await;
    }
}

impl Making {
    fn encode(&self) -> Bytes {
        wire::Making {
            version: VERSION,
            node: self.node.to_string(),
            epoch: self.epoch,
            room: self.room.to_string(),
            query: Bytes::copy_from_slice(&self.query),
            made: self.is_made,
        }
        .encode_to_vec()
        .into()
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let making = wire::Making::decode(value).ok()?;
        (making.version == VERSION).then_some(())?;
        Some(Self {
            node: NodeId::parse(&making.node).ok()?,
            epoch: making.epoch,
            room: RoomId::parse(&making.room).ok()?,
            query: making.query.as_ref().try_into().ok()?,
            is_made: making.made,
        })
    }
}

/// Fowler, Noll and Vo's hash (1a, 64 bits), the same in all releases. Questions that collide share a value, and
/// who looks into the other's room sees that it does not match.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// For how long a node that makes a room is waited for.
const HELD: Duration = Duration::from_secs(2);

/// Between two looks at what another node makes.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Values for all questions together.
const SLOTS: u64 = 1024;

/// Of all that is made, among the values.
const MAKING: &str = "making";

/// How often somebody else may be faster.
const ATTEMPTS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_of_the_release_before_says_the_same() {
        let making = wire::Making {
            version: VERSION,
            node: "node-1".into(),
            epoch: 3,
            room: "lobby".into(),
            query: Bytes::from_static(&[7; 8]),
            made: true,
        };
        crate::before::check("making", &making, Making::decode);
    }

    #[test]
    fn a_claim_is_read_as_written_and_a_cut_one_never_panics() {
        let making = Making {
            node: NodeId::parse("a").unwrap(),
            epoch: 3,
            room: RoomId::parse("r").unwrap(),
            query: [7; 8],
            is_made: true,
        };
        let bytes = making.encode();
        assert_eq!(Making::decode(&bytes), Some(making));
        for end in 0..bytes.len() {
            let _ = Making::decode(&bytes[..end]);
        }
    }
}
