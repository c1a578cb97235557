//! Nodes, and what befalls them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use rand::RngExt as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tombolo_engine::Offset;
use tombolo_services::{Drained, RelayHook, Services};
use tombolo_wire::token::{KeySet, VerifyingKey};
use tombolo_wire::v1::IceServers;
use tombolo_wire::{NodeId, UserId};

use super::{ClusterWorld, REST, SECRET};
use crate::cluster::device::Violation;
use crate::cluster::place::{Place, Process};
use crate::cluster::surroundings;
use crate::cluster::trace;
use crate::cluster::weather::Wire;

/// A place for a node.
pub(super) struct Node {
    /// Its own, or none: then it runs with the world.
    pub(super) process: Option<Process>,
    /// It is frozen since, and until.
    pub(super) frozen: Option<(Instant, Instant)>,
    pub(super) wire: Wire,
    /// `None` while it is dead.
    pub(super) services: Option<Services>,
    /// It is being emptied, and ends after that.
    draining: Option<JoinHandle<Drained>>,
    /// It is cut off until then.
    pub(super) cut_until: Option<Instant>,
    /// It is started again then.
    pub(super) starts_at: Instant,
    /// How often it was started.
    lives: u64,
    /// How far each room was looked at on it.
    pub(super) checked: Vec<Option<Offset>>,
}

impl ClusterWorld {
    pub(super) fn add_node(&mut self) -> Result<(), Violation> {
        let index = self.nodes.len();
        self.nodes.push(Node {
            process: None,
            frozen: None,
            wire: self.wire(index, 0),
            services: None,
            draining: None,
            cut_until: None,
            starts_at: Instant::now(),
            lives: 0,
            checked: vec![None; self.rooms.len()],
        });
        self.start(index)
    }

    /// A node begins a life; some have a process of their own, which costs some time.
    fn start(&mut self, index: usize) -> Result<(), Violation> {
        let is_apart = !self.is_calm && self.rng.random_range(0..APART) == 0;
        let wire = self.wire(index, self.nodes[index].lives);
        let node = &mut self.nodes[index];
        trace::note(|| format!("node-{index} is started"));
        node.process = is_apart.then(Process::new).transpose()?;
        let place = node.place(&self.place).clone();
        let _inside = place.enter();
        node.services = Some(start(index, &wire)?);
        node.wire = wire;
        node.lives += 1;
        node.checked.fill(None);
        node.cut_until = None;
        Ok(())
    }

    fn wire(&self, index: usize, life: u64) -> Wire {
        let rng = self.seed.rng_for(&format!("wire {index} {life}"));
        let feeds = self.rooms.iter().map(|room| room.feed.clone());
        Wire::new(&self.local, &self.place, feeds.collect(), rng, self.weather)
    }

    /// `kill -9`, unless it is the last.
    pub(super) fn kill(&mut self) {
        let Some(index) = self.any_spare() else {
            return;
        };
        trace::note(|| format!("node-{index} is killed"));
        self.tally.kills += 1;
        self.end(index);
    }

    /// A node without which there is another one.
    fn any_spare(&mut self) -> Option<usize> {
        let index = self.rng.random_range(0..self.nodes.len());
        let mut others = self.nodes.iter().enumerate();
        let is_spare = others.any(|(other, node)| other != index && node.is_open());
        (is_spare && self.nodes[index].services.is_some()).then_some(index)
    }

    /// A node's process is over.
    fn end(&mut self, index: usize) {
        let starts_at = Instant::now() + self.up_to(AWAY_MAX);
        let node = &mut self.nodes[index];
        node.wire.die();
        node.draining = None;
        node.frozen = None;
        if let Some(services) = node.services.take() {
            let place = node.place(&self.place);
            let _inside = place.enter();
            services.kill();
        }
        node.starts_at = starts_at;
        for device in &mut self.devices {
            // Until it notices.
            let pause = self
                .rng
                .random_range(Duration::ZERO..Duration::from_secs(1));
            device.on_dead(index, pause);
        }
        self.guest.on_dead(index, Duration::ZERO);
        self.nodes[index].process = None;
    }

    /// A node is emptied, unless no other takes anybody in.
    pub(super) fn drain(&mut self) {
        // In calm weather nobody is left.
        let time = if self.is_calm {
            REST
        } else {
            DRAIN_MIN + self.up_to(DRAIN_MIN)
        };
        let Some(index) = self.any_spare() else {
            return;
        };
        let node = &mut self.nodes[index];
        if let Some(services) = node.services.clone().filter(|_| node.is_open()) {
            trace::note(|| format!("node-{index} is drained"));
            let handle = node.place(&self.place).handle().clone();
            node.draining = Some(handle.spawn(async move { services.drain(time).await }));
        }
    }

    /// A node shares its load.
    pub(super) fn rebalance(&mut self) {
        let count = self.rng.random_range(1..=3);
        let index = self.rng.random_range(0..self.nodes.len());
        let node = &self.nodes[index];
        if let Some(services) = node.services.as_ref().filter(|_| node.frozen.is_none()) {
            let _inside = node.place(&self.place).enter();
            let asked = services.rebalance(count);
            trace::note(|| format!("node-{index} asks {asked} to go"));
            self.tally.asked += asked as u64;
        }
    }

    /// SIGSTOP, and SIGCONT after a while: a node that has a process of its own stands still.
    pub(super) fn freeze(&mut self) {
        let now = Instant::now();
        let until = now + self.up_to(AWAY_MAX);
        let mut nodes = self.nodes.iter_mut().enumerate();
        let found = nodes.find_map(|(index, node)| {
            let is_free = node.services.is_some() && node.frozen.is_none();
            let process = node.process.as_ref().filter(|_| is_free)?;
            process.freeze();
            node.frozen = Some((now, until));
            Some(index)
        });
        if let Some(index) = found {
            trace::note(|| format!("node-{index} is frozen"));
            self.tally.freezes += 1;
        }
    }

    fn tend_frozen(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some((since, until)) = node.frozen else {
            return;
        };
        if until <= Instant::now() {
            trace::note(|| format!("node-{index} is not frozen any more"));
            node.frozen = None;
            node.process.iter().for_each(Process::thaw);
        } else if since.elapsed() >= SILENCE_MAX {
            for device in &mut self.devices {
                device.on_dead(index, Duration::ZERO);
            }
            self.guest.on_dead(index, Duration::ZERO);
        }
    }

    /// One node loses the engine for a while.
    pub(super) fn cut(&mut self) {
        let until = Instant::now() + self.rng.random_range(Duration::ZERO..AWAY_MAX);
        let index = self.rng.random_range(0..self.nodes.len());
        self.cut_until(index, until);
    }

    /// All nodes lose it.
    pub(super) fn take_engine_away(&mut self) {
        let until = Instant::now() + self.rng.random_range(Duration::ZERO..AWAY_MAX);
        for index in 0..self.nodes.len() {
            self.cut_until(index, until);
        }
    }

    fn cut_until(&mut self, index: usize, until: Instant) {
        let node = &mut self.nodes[index];
        trace::note(|| format!("node-{index} is cut off"));
        node.wire.cut(true);
        node.cut_until = Some(until);
    }

    pub(super) fn tend_nodes(&mut self) -> Result<(), Violation> {
        let now = Instant::now();
        for index in 0..self.nodes.len() {
            let drained = self.nodes[index].draining.as_mut();
            if let Some(drained) = drained.and_then(|drained| drained.now_or_never()) {
                let drained = drained.map_err(|failed| failed.to_string())?;
                trace::note(|| format!("node-{index} is empty: {drained:?}"));
                self.tally.drains += 1;
                self.tally.moved += drained.moved as u64;
                self.end(index);
            }
            if self.nodes[index].services.is_none() && self.nodes[index].starts_at <= now {
                self.start(index)?;
            }
            self.tend_frozen(index);
            let node = &mut self.nodes[index];
            if node.cut_until.is_some_and(|until| until <= now) {
                trace::note(|| format!("node-{index} is not cut off any more"));
                node.cut_until = None;
                node.wire.cut(false);
            }
        }
        Ok(())
    }
}

impl Node {
    /// Whether it takes devices in.
    fn is_open(&self) -> bool {
        self.services.is_some() && self.draining.is_none() && self.frozen.is_none()
    }

    /// Where it runs.
    pub(super) fn place<'a>(&'a self, world: &'a Place) -> &'a Place {
        self.process
            .as_ref()
            .map_or(world, |process| &process.place)
    }
}

/// A node's services, as one starts them.
fn start(index: usize, wire: &Wire) -> Result<Services, Violation> {
    let mut config = surroundings::config()?;
    config.node = NodeId::parse(&format!("node-{index}")).map_err(|error| error.to_string())?;
    let mut keys = KeySet::new();
    let key = VerifyingKey::hs256(&SECRET).map_err(|error| error.to_string())?;
    keys.insert("sim", key);
    let services = Services::new(Arc::new(wire.clone()), Arc::new(NoRelay), keys, config);
    let announced = services.clone();
    tokio::spawn(async move {
        let url = format!("https://node-{index}.example");
        announced.announce(&url).await;
    });
    Ok(services)
}

/// Nothing is relayed here.
struct NoRelay;

impl RelayHook for NoRelay {
    fn permit(&self, _user: &UserId, _peers: &[IpAddr]) {}

    fn ice_servers(&self, _user: &UserId, _lifetime_max: Duration) -> IceServers {
        IceServers::default()
    }

    fn relay_ips(&self) -> Vec<IpAddr> {
        Vec::new()
    }
}

/// A drain takes up to so long, or up to twice as long.
const DRAIN_MIN: Duration = Duration::from_secs(3);
/// Longest time that a node is dead or cut off: shorter than seats are kept.
const AWAY_MAX: Duration = Duration::from_secs(6);
/// After so long a silence devices take their node for dead.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Of so many lives of nodes one is a process of its own.
const APART: u32 = 2;
