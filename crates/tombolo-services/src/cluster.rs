//! Several nodes as one cluster.
//!
//! Each node has an inbox on the bus, `node.<name>.inbox`, and a [`Link`] to each other node that it has
//! something to say to. What members here say to members there waits in the link and goes out in
//! batches, as many items in one message on the bus as came while the last one was sent: an idle
//! node sends at once, a busy one in large frames. A message never leaves the node when all of its
//! recipients are here.

mod arrival;
mod generated;
mod inbox;
mod link;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use prost::Message as _;
use tokio::sync::Notify;
use tombolo_engine::{Key, KeyError};
use tombolo_wire::NodeId;
use tombolo_wire::v1::ErrorCode;

pub(crate) use arrival::{Arrival, Content, Sender, introduction_item, message_item, refusal_item};
use generated::{Frame, Item};
pub(crate) use inbox::run;
pub(crate) use link::FrameError;
use link::{Full, Link, LinkLimits};

use crate::lock::lock;
use crate::reject::Reject;
use crate::stats::Counters;

/// The version of the contract between nodes that this crate speaks.
const VERSION: u32 = 1;

/// This node among the others.
#[derive(Default)]
pub(crate) struct Cluster {
    links: Mutex<Links>,
    /// Wakes whoever sends what waits in the links.
    wake: Notify,
}

#[derive(Default)]
struct Links {
    /// This node's life; `None` until it has begun.
    epoch: Option<u64>,
    link_by_node: BTreeMap<NodeId, Link>,
}

impl Cluster {
    /// Has a node get an item, once and in order with what it got before.
    ///
    /// # Errors
    /// When too much waits for that node, or this one is not part of the cluster.
    pub(crate) fn send(&self, to: &NodeId, item: Item) -> Result<(), Reject> {
        let mut links = self.lock();
        let behind = |Full| {
            let message = format!("node {to} is behind: try again later");
            Reject::new(ErrorCode::Limit, message)
        };
        links.link(to)?.push(item).map_err(behind)?;
        drop(links);
        self.wake.notify_one();
        Ok(())
    }

    /// Has a node get an item, or not.
    pub(crate) fn send_loose(&self, counters: &Counters, to: &NodeId, item: Item) {
        match self.lock().link(to) {
            Ok(link) => counters.dropped.add(link.push_loose(item)),
            Err(_) => counters.dropped.add(1),
        }
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        lock(&self.links)
    }
}

impl Links {
    /// The link to a node; a new one if there was none.
    fn link(&mut self, to: &NodeId) -> Result<&mut Link, Reject> {
        let unavailable = |message: &str| Reject::new(ErrorCode::Unavailable, message);
        let epoch = self
            .epoch
            .ok_or_else(|| unavailable("this node is not part of its cluster"))?;
        if !self.link_by_node.contains_key(to) && self.link_by_node.len() >= NODES_MAX {
            return Err(unavailable("the cluster has too many nodes"));
        }
        Ok(self
            .link_by_node
            .entry(to.clone())
            .or_insert_with(|| Link::new(LINK_LIMITS, epoch)))
    }
}

/// Where a node hears what the others say to it.
fn inbox_of(node: &NodeId) -> Result<Key, KeyError> {
    Key::new(["node", node.as_str(), "inbox"])
}

/// Reads a message from the bus.
fn decode(payload: &[u8]) -> Result<(NodeId, Frame), FrameError> {
    let frame = Frame::decode(payload).map_err(|_| FrameError::Malformed)?;
    if frame.version != VERSION {
        return Err(FrameError::Version);
    }
    let from = NodeId::parse(&frame.from).map_err(|_| FrameError::Malformed)?;
    if frame.epoch == 0 {
        return Err(FrameError::Malformed);
    }
    Ok((from, frame))
}

/// Nodes of one cluster that this one remembers. A cluster is a cell of some dozens; the rest is room
/// for those that come and go under new names.
const NODES_MAX: usize = 1024;

/// What may wait for one other node. At the limit senders are refused, so the memory is bounded and
/// nothing that was taken is lost while both nodes live.
const LINK_LIMITS: LinkLimits = LinkLimits {
    items_max: 65_536,
    bytes_max: 16 * 1024 * 1024,
    loose_max: 4096,
};
