//! Several nodes as one cluster.
//!
//! Each node has an inbox on the bus, `node.<name>.inbox`, and a [`Link`] to each other node that it has
//! something to say to. What members here say to members there waits in the link and goes out in
//! batches, as many items in one message on the bus as came while the last one was sent: an idle
//! node sends at once, a busy one in large frames. A message never leaves the node when all of its
//! recipients are here.
//!
//! [`Directory`](directory::Directory) says who is in the cluster, [`member`] drives it, and [`loss`] does what a
//! node that died left to do.

mod arrival;
mod directory;
pub(crate) mod generated;
mod giving;
mod handover;
mod inbox;
#[cfg(test)]
mod kept;
mod link;
mod load;
mod loss;
mod member;
mod news;
mod record;
mod seek;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tombolo_engine::{Key, KeyError, latest};
use tombolo_wire::NodeId;
use tombolo_wire::v1::ErrorCode;

pub(crate) use arrival::{
    Arrival, Content, Sender, introduction_item, message_item, moved_item, passed_item,
    refusal_item, settled_item,
};
use generated::{Frame, Item};
pub(crate) use giving::{drop_given_to, end_offered, give_up_all, has_given_all};
pub(crate) use handover::{Arrivals, ResumeName, ResumeRefusal, fetch, forward_item};
pub(crate) use link::FrameError;
use link::{Full, Link, LinkLimits, LinkTopic};
pub(crate) use load::cpu_time;
pub(crate) use loss::{list, rooms_prefix, take_up_left, unlist};
pub(crate) use member::{Input, RECORDS, run};
use record::Load;
pub(crate) use record::{Record, State};
use seek::Seeks;

use crate::lock::lock;
use crate::reject::Reject;
use crate::stats::Counters;

/// The version of the contract between nodes that this crate speaks.
const VERSION: u32 = 1;

/// This node among the others.
pub(crate) struct Cluster {
    links: Mutex<Links>,
    /// Wakes whoever sends what waits in the links.
    wake: Notify,
    /// Tells the directory.
    inputs: mpsc::Sender<Input>,
    /// This node's life; `None` while it is not in the cluster.
    life: latest::Sender<Option<u64>>,
    /// Whether the others have put this node out and it has not come back.
    is_out: AtomicBool,
    /// Whether another process was heard that lives under this node's name, since this one was last in.
    is_name_taken: AtomicBool,
    others: Mutex<Others>,
    /// Wakes whoever waits for a node to be gone.
    departures: Notify,
    /// Changes when another node begins, or ceases, to take newcomers.
    hosts: latest::Sender<BTreeSet<String>>,
    /// How often devices were told of other nodes.
    told: AtomicUsize,
    seeks: Seeks,
}

/// The other nodes that are up.
#[derive(Default)]
struct Others {
    /// Where devices connect to those that take newcomers, the best first.
    urls: Vec<String>,
    /// How many of these are as good as the first.
    best: usize,
    /// The best of each other region.
    far_urls: Vec<String>,
    /// Those that newcomers had better go to.
    idler_urls: Vec<String>,
    /// Whether this node has so much to do that who may as well stay away is not to come.
    is_busy: bool,
    relay_ips_by_node: BTreeMap<NodeId, Vec<IpAddr>>,
    life_by_node: BTreeMap<NodeId, u64>,
    /// The lives that are over of nodes that are fenced or gone, as their records have it.
    epoch_by_lost_node: BTreeMap<NodeId, u64>,
}

#[derive(Default)]
struct Links {
    /// This node's life; `None` until it has begun.
    epoch: Option<u64>,
    /// Since when.
    began: Option<Instant>,
    link_by_node: BTreeMap<NodeId, Link>,
    /// What waited in links that made place for others; their senders are to be told.
    undelivered: Vec<Item>,
}

impl Cluster {
    /// A node that is in no cluster yet, and what its directory is to be told.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Input>) {
        let (inputs, waiting) = mpsc::channel(member::INPUTS_MAX);
        let cluster = Self {
            links: Mutex::default(),
            wake: Notify::new(),
            inputs,
            life: latest::Sender::new(None),
            is_out: AtomicBool::new(false),
            is_name_taken: AtomicBool::new(false),
            others: Mutex::default(),
            departures: Notify::new(),
            hosts: latest::Sender::default(),
            told: AtomicUsize::new(0),
            seeks: Seeks::default(),
        };
        (cluster, waiting)
    }

    /// Tells the directory something.
    pub(crate) async fn tell(&self, input: Input) {
        let _ = self.inputs.send(input).await;
    }

    /// This node's life; `None` while it is not in the cluster.
    pub(crate) fn epoch(&self) -> Option<u64> {
        *self.life.borrow()
    }

    /// Waits until this node is in the cluster.
    pub(crate) async fn joined(&self, timeout: Duration) -> Result<(), Reject> {
        let mut life = self.life.subscribe();
        match tokio::time::timeout(timeout, life.wait_for(Option::is_some)).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let is_taken = self.is_name_taken.load(Ordering::Relaxed);
                let why = if is_taken {
                    "this node is not part of its cluster: another process lives under its name"
                } else {
                    "this node is not part of its cluster"
                };
                Err(Reject::new(ErrorCode::Unavailable, why))
            }
        }
    }

    /// Leaves the cluster; returns when that is done or takes too long.
    pub(crate) async fn leave(&self, timeout: Duration) {
        let mut life = self.life.subscribe();
        let leave = async {
            if self.inputs.send(Input::Leave).await.is_ok() {
                let _ = life.wait_for(Option::is_none).await;
            }
        };
        let _ = tokio::time::timeout(timeout, leave).await;
    }

    /// Whether the others have put this node out: then it must not act.
    pub(crate) fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Relaxed)
    }

    /// Whether no other node is in the cluster.
    pub(crate) fn is_alone(&self) -> bool {
        lock(&self.others).relay_ips_by_node.is_empty()
    }

    /// The other nodes of the cluster.
    pub(crate) fn names(&self) -> Vec<NodeId> {
        lock(&self.others)
            .relay_ips_by_node
            .keys()
            .cloned()
            .collect()
    }

    /// Whether another node is in the cluster.
    pub(crate) fn is_up(&self, node: &NodeId) -> bool {
        lock(&self.others).relay_ips_by_node.contains_key(node)
    }

    /// For how long this node has been in the cluster.
    fn age(&self) -> Option<Duration> {
        self.lock().began.map(|began| began.elapsed())
    }

    /// Whether another node is in the cluster, or has been.
    fn is_known(&self, node: &NodeId) -> bool {
        let others = lock(&self.others);
        others.relay_ips_by_node.contains_key(node) || others.epoch_by_lost_node.contains_key(node)
    }

    /// Whether another node is in the cluster, and in that life.
    pub(crate) fn is_in_life(&self, node: &NodeId, life: u64) -> bool {
        lock(&self.others).life_by_node.get(node) == Some(&life)
    }

    /// Whether a life of another node is over.
    pub(crate) fn is_over(&self, node: &NodeId, life: u64) -> bool {
        let others = lock(&self.others);
        let lost = others.epoch_by_lost_node.get(node);
        let lives = others.life_by_node.get(node);
        lost.is_some_and(|lost| life <= *lost) || lives.is_some_and(|lives| life < *lives)
    }

    /// Waits until another node is not in the cluster.
    pub(crate) async fn gone(&self, node: &NodeId) {
        loop {
            let departure = self.departures.notified();
            if !self.is_up(node) {
                return;
            }
            departure.await;
        }
    }

    /// The other nodes that are in the cluster.
    pub(crate) fn others(&self) -> Vec<NodeId> {
        lock(&self.others)
            .relay_ips_by_node
            .keys()
            .cloned()
            .collect()
    }

    /// From where all other nodes relay.
    pub(crate) fn all_relay_ips(&self) -> Vec<IpAddr> {
        let others = lock(&self.others);
        others
            .relay_ips_by_node
            .values()
            .flatten()
            .copied()
            .collect()
    }

    /// Whether all that was to be said to nodes that are up has arrived there.
    pub(crate) fn is_quiet(&self) -> bool {
        let links = self.lock();
        let mut links = links.link_by_node.iter();
        links.all(|(node, link)| link.is_idle() || !self.is_up(node))
    }

    /// Where devices may connect instead, the best first. Of those that are as good another one comes first
    /// each time.
    pub(crate) fn urls(&self) -> Vec<String> {
        let others = lock(&self.others);
        let (mut urls, best) = (others.urls.clone(), others.best);
        let far = others.far_urls.clone();
        drop(others);
        self.take_turns(&mut urls[..best]);
        urls.truncate(URLS_MAX);
        // For a device it may be the nearest that is far from here.
        let far: Vec<_> = far.into_iter().filter(|url| !urls.contains(url)).collect();
        urls.extend(far.into_iter().take(FAR_URLS_MAX));
        urls
    }

    /// Whether newcomers had better go elsewhere, or this node is busy.
    pub(crate) fn has_much_to_do(&self) -> bool {
        let others = lock(&self.others);
        others.is_busy || !others.idler_urls.is_empty()
    }

    /// Where a newcomer had better connect, as those nodes have much less to do than this one; another
    /// one comes first each time. None when it may as well stay here.
    pub(crate) fn idler_urls(&self) -> Vec<String> {
        let mut urls = lock(&self.others).idler_urls.clone();
        self.take_turns(&mut urls);
        urls.truncate(URLS_MAX);
        urls
    }

    fn take_turns(&self, urls: &mut [String]) {
        if !urls.is_empty() {
            let first = self.told.fetch_add(1, Ordering::Relaxed) % urls.len();
            urls.rotate_left(first);
        }
    }

    /// From where another node relays.
    pub(crate) fn relay_ips(&self, node: &NodeId) -> Vec<IpAddr> {
        let others = lock(&self.others);
        others
            .relay_ips_by_node
            .get(node)
            .cloned()
            .unwrap_or_default()
    }

    fn begin(&self, epoch: u64) {
        *self.lock() = Links {
            epoch: Some(epoch),
            began: Some(Instant::now()),
            ..Links::default()
        };
        self.is_out.store(false, Ordering::Relaxed);
        self.is_name_taken.store(false, Ordering::Relaxed);
        self.life.send_replace(Some(epoch));
    }

    /// Another process lives under this node's name; whether that is news.
    fn on_name_taken(&self) -> bool {
        !self.is_name_taken.swap(true, Ordering::Relaxed)
    }

    /// Takes no further part.
    pub(crate) fn end(&self) {
        self.is_out.store(true, Ordering::Relaxed);
        *self.lock() = Links::default();
        self.life.send_replace(None);
    }

    /// Forgets the link to a life of a node that is over; returns what did not reach it. Once it is
    /// [shown](Self::show) that it is over, nothing more is taken for it.
    fn forget(&self, node: &NodeId, epoch: u64) -> Vec<Item> {
        let mut links = self.lock();
        let has_gone_on = |link: &Link| link.peer_epoch() > Some(epoch);
        if links.link_by_node.get(node).is_some_and(has_gone_on) {
            // Its next life has been heard before it was known that the last one is over.
            return Vec::new();
        }
        let link = links.link_by_node.remove(node);
        link.map(|mut link| link.begin_anew(None))
            .unwrap_or_default()
    }

    /// What waited in links that made place for others.
    fn take_undelivered(&self) -> Vec<Item> {
        std::mem::take(&mut self.lock().undelivered)
    }

    /// Shows who else is up, of the same region first, then by load; and who is not any more.
    fn show<'a>(
        &self,
        here: &Record,
        spread_min: usize,
        others: impl Iterator<Item = (&'a Record, Load)>,
        lost: impl Iterator<Item = (&'a NodeId, u64)> + Clone,
    ) {
        let mut shown = Others {
            is_busy: here.load.is_full() || here.load.is_busy(),
            ..Others::default()
        };
        let mut ranked = Vec::new();
        for (record, load) in others {
            shown
                .relay_ips_by_node
                .insert(record.name.clone(), record.relay_ips.clone());
            let name = record.name.clone();
            shown.life_by_node.insert(name, record.epoch);
            if record.state == State::Alive && !record.url.is_empty() && !load.is_full() {
                let is_far = record.region != here.region;
                let rank = (is_far, load.tenths());
                ranked.push((rank, &record.name, record.url.clone(), &record.region));
                if !is_far && here.load.is_well_above(load, spread_min) {
                    shown.idler_urls.push(record.url.clone());
                }
            }
        }
        ranked.sort();
        let best = ranked.first().map(|(rank, ..)| *rank);
        shown.best = ranked.partition_point(|(rank, ..)| Some(*rank) == best);
        let mut regions = BTreeSet::from([&here.region]);
        let far = ranked.iter().filter(|(.., region)| regions.insert(region));
        shown.far_urls = far.map(|(.., url, _)| url.clone()).collect();
        shown.urls = ranked.into_iter().map(|(.., url, _)| url).collect();
        let hosts = shown.urls.iter().cloned().collect();
        let mut others = lock(&self.others);
        let known = std::mem::take(&mut others.epoch_by_lost_node);
        let is_known = |(node, epoch)| known.get(node) == Some(&epoch);
        // Seldom others than before, and there may be many.
        let is_same = lost.clone().count() == known.len() && lost.clone().all(is_known);
        shown.epoch_by_lost_node = if is_same {
            known
        } else {
            let lost = lost.map(|(node, epoch)| (node.clone(), epoch));
            lost.collect()
        };
        let before = std::mem::replace(&mut *others, shown);
        drop(others);
        let mut nodes = before.relay_ips_by_node.keys();
        if nodes.any(|node| !self.is_up(node)) {
            self.departures.notify_waiters();
        }
        self.hosts.send_if_modified(|known| {
            let has_changed = *known != hosts;
            *known = hosts;
            has_changed
        });
    }

    /// Changes when another node begins, or ceases, to take newcomers.
    fn watch_hosts(&self) -> latest::Receiver<BTreeSet<String>> {
        self.hosts.subscribe()
    }

    /// Has a node get an item, once and in order with what it got before.
    ///
    /// # Errors
    /// When too much waits for that node, or its life is over, or this one is not part of the cluster.
    pub(crate) fn send(&self, to: &NodeId, item: Item) -> Result<(), Reject> {
        let pushed = self.put(to, Links::link, |link| link.push(item))?;
        pushed.map_err(|Full| behind(to))
    }

    /// The same for a node that has asked for it, which is there whatever the directory, which may be behind,
    /// has of it.
    ///
    /// # Errors
    /// When too much waits for that node, or this one is not part of the cluster.
    pub(crate) fn pass_on(&self, to: &NodeId, item: Item) -> Result<(), Reject> {
        let pushed = self.put(to, Links::open, |link| link.push(item))?;
        pushed.map_err(|Full| behind(to))
    }

    /// The same, once or never; returns how many were dropped for it.
    pub(crate) fn pass_on_loose(&self, to: &NodeId, item: Item) -> u64 {
        self.put(to, Links::open, |link| link.push_loose(item))
            .unwrap_or(1)
    }

    /// Has a node get an item unless a newer one of the same topic follows while it waits; whether it
    /// took the place of an older one.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(crate) fn send_latest(
        &self,
        to: &NodeId,
        topic: LinkTopic,
        item: Item,
    ) -> Result<bool, Reject> {
        let pushed = self.put(to, Links::link, |link| link.push_latest(topic, item))?;
        pushed.map_err(|Full| behind(to))
    }

    /// Has a node get an item, or not.
    pub(crate) fn send_loose(&self, counters: &Counters, to: &NodeId, item: Item) {
        let dropped = self.put(to, Links::link, |link| link.push_loose(item));
        counters.dropped.add(dropped.unwrap_or(1));
    }

    /// Puts something into the link to a node, as it is opened.
    fn put<T>(
        &self,
        to: &NodeId,
        open: for<'a> fn(&'a mut Links, &NodeId, &Others) -> Result<&'a mut Link, Reject>,
        put: impl FnOnce(&mut Link) -> T,
    ) -> Result<T, Reject> {
        let mut links = self.lock();
        let done = put(open(&mut links, to, &lock(&self.others))?);
        drop(links);
        self.wake.notify_one();
        Ok(done)
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        lock(&self.links)
    }
}

impl Links {
    /// The link to a node, a new one if there was none, for something to be said to it. A node that was
    /// not heard of yet may come.
    fn link(&mut self, to: &NodeId, others: &Others) -> Result<&mut Link, Reject> {
        let lost = others.epoch_by_lost_node.get(to);
        let heard = self.link_by_node.get(to).and_then(Link::peer_epoch);
        if lost.is_some_and(|lost| heard <= Some(*lost)) {
            // What was said to it would be lost, and nobody told.
            let message = format!("node {to} has gone");
            return Err(Reject::new(ErrorCode::Unavailable, message));
        }
        self.open(to, others)
    }

    /// The link to a node that a frame of this life has come from.
    fn link_from(
        &mut self,
        from: &NodeId,
        epoch: u64,
        others: &Others,
    ) -> Result<&mut Link, FrameError> {
        let lost = others.epoch_by_lost_node.get(from);
        if lost.is_some_and(|lost| epoch <= *lost) {
            return Err(FrameError::Stale);
        }
        if self.epoch.is_none() {
            return Err(FrameError::Misdirected);
        }
        let link = self.open(from, others);
        link.map_err(|_| FrameError::TooManyNodes)
    }

    fn open(&mut self, node: &NodeId, others: &Others) -> Result<&mut Link, Reject> {
        let unavailable = |message: &str| Reject::new(ErrorCode::Unavailable, message);
        let epoch = self
            .epoch
            .ok_or_else(|| unavailable("this node is not part of its cluster"))?;
        if !self.link_by_node.contains_key(node) && self.link_by_node.len() >= NODES_MAX {
            self.make_room(others);
            if self.link_by_node.len() >= NODES_MAX {
                return Err(unavailable("the cluster has too many nodes"));
            }
        }
        Ok(self
            .link_by_node
            .entry(node.clone())
            .or_insert_with(|| Link::new(LINK_LIMITS, epoch)))
    }

    /// Closes links to nodes that are not in the cluster.
    fn make_room(&mut self, others: &Others) {
        let is_up = |node: &NodeId| others.relay_ips_by_node.contains_key(node);
        let closed = self.link_by_node.extract_if(.., |node, _| !is_up(node));
        for (_, mut link) in closed {
            self.undelivered.extend(link.begin_anew(None));
        }
    }
}

fn behind(node: &NodeId) -> Reject {
    let message = format!("node {node} is behind: try again later");
    Reject::new(ErrorCode::Limit, message)
}

/// Where a node hears what the others say to it.
fn inbox_of(node: &NodeId) -> Result<Key, KeyError> {
    Key::new(["node", node.as_str(), "inbox"])
}

impl Load {
    fn is_full(self) -> bool {
        self.sessions_max > 0 && self.sessions >= self.sessions_max
    }

    fn is_busy(self) -> bool {
        u64::from(self.cpu_permille) >= BUSY_CPU_PERMILLE
    }

    /// How busy the node is, in tenths: coarse, so that a little noise does not turn the order of
    /// nodes around.
    fn tenths(self) -> u32 {
        let sessions = u64::from(self.sessions) * 10 / u64::from(self.sessions_max.max(1));
        let sessions = u32::try_from(sessions).unwrap_or(u32::MAX);
        sessions.max(self.cpu_permille / 100)
    }

    /// Whether a node has so much more to do than another that a newcomer had better go there, at the
    /// price of one more connection. Of two nodes this never holds both ways.
    fn is_well_above(self, other: Self, spread_min: usize) -> bool {
        let (here, there) = (u64::from(self.cpu_permille), u64::from(other.cpu_permille));
        if self.is_busy() || other.is_busy() {
            return is_less(there, here);
        }
        let share = |of: Self, than: Self| u64::from(of.sessions) * u64::from(than.sessions_max);
        let sessions = usize::try_from(self.sessions).unwrap_or(usize::MAX);
        sessions >= spread_min && is_less(share(other, self), share(self, other))
    }
}

/// Less by a fifth.
fn is_less(one: u64, other: u64) -> bool {
    one.saturating_mul(5) < other.saturating_mul(4)
}

/// Reads an address of 4 or 16 bytes.
pub(crate) fn parse_ip(bytes: &Bytes) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes.as_ref()).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_ref()).map(IpAddr::from))
        .ok()
}

pub(crate) fn ip_on_wire(ip: &IpAddr) -> Bytes {
    match ip {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    }
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

/// In place of the number of a frame, where there is none.
pub(crate) const MARK_SEQ: u64 = u64::MAX;

/// Nodes of one cluster that this one remembers. A cluster is a cell of some dozens; the rest is room
/// for those that come and go under new names.
const NODES_MAX: usize = 1024;

/// Of one node.
const RELAY_IPS_MAX: usize = 16;

/// How many nodes a device is told of.
const URLS_MAX: usize = 3;

/// Of how many other regions a device is told the best node, beside these.
const FAR_URLS_MAX: usize = 4;

/// From here on what counts is how much of its cores a node takes, not how many sessions it has.
const BUSY_CPU_PERMILLE: u64 = 800;

/// What may wait for one other node. At the limit senders are refused, so the memory is bounded and
/// nothing that was taken is lost while both nodes live.
const LINK_LIMITS: LinkLimits = LinkLimits {
    items_max: 65_536,
    bytes_max: 16 * 1024 * 1024,
    loose_max: 4096,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn load(sessions: u32, sessions_max: u32, cpu_permille: u32) -> Load {
        Load {
            sessions,
            sessions_max,
            cpu_permille,
        }
    }

    #[test]
    fn newcomers_are_worth_sending_to_a_node_that_has_a_fifth_less_to_do() {
        let is_above = |one: Load, other: Load| {
            let both = one.is_well_above(other, 10) && other.is_well_above(one, 10);
            assert!(!both, "{one:?} and {other:?} would send devices to and fro");
            one.is_well_above(other, 10)
        };
        let idle = load(0, 1000, 0);
        assert!(!is_above(load(9, 1000, 0), idle), "too few to care");
        assert!(is_above(load(10, 1000, 0), idle));
        assert!(!is_above(load(100, 1000, 0), load(80, 1000, 0)));
        assert!(is_above(load(100, 1000, 0), load(79, 1000, 0)));
        // In proportion to how many each may have.
        assert!(!is_above(load(100, 1000, 0), load(40, 500, 0)));
        assert!(is_above(load(100, 1000, 0), load(150, 2000, 0)));
        // A busy processor says more than sessions do.
        assert!(is_above(load(5, 1000, 900), load(500, 1000, 700)));
        assert!(!is_above(load(500, 1000, 100), load(5, 1000, 900)));
        assert!(!is_above(load(5, 1000, 900), load(500, 1000, 800)));
        assert!(!is_above(load(5, 0, 0), load(0, 0, 0)));
    }

    #[test]
    fn links_to_nodes_that_are_not_there_make_place_for_others() {
        let (cluster, _inputs) = Cluster::new();
        cluster.begin(1);
        for number in 0..NODES_MAX {
            let node = NodeId::parse(&format!("gone-{number}")).unwrap();
            cluster.send(&node, Item::default()).unwrap();
        }
        let newcomer = NodeId::parse("newcomer").unwrap();
        cluster.send(&newcomer, Item::default()).unwrap();
        assert_eq!(cluster.take_undelivered().len(), NODES_MAX);
        assert_eq!(cluster.lock().link_by_node.len(), 1);
    }
}
