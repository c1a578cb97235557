//! Nodes, the engine and devices, and what happens to them.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use tokio::time::{Instant, sleep};
use tombolo_engine::{Local, LocalConfig};
use tombolo_services::{Config, RelayHook, Services};
use tombolo_wire::token::{Claims, KeySet, SigningKey, VerifyingKey};
use tombolo_wire::v1::IceServers;
use tombolo_wire::{NodeId, UserId};

use super::device::{Device, Violation};
use super::presence::{Following, GUEST, STRANGER};
use super::weather::{Weather, Wire};
use super::{judge, trace};
use crate::Seed;

/// What came of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Durable messages that were acknowledged, and are there.
    pub kept: u64,
    /// Of which nobody said what became of them.
    pub unknown: u64,
    /// That were refused, and are not there.
    pub refused: u64,
    /// Nodes that were killed.
    pub kills: u64,
    /// Sessions that went on over another connection.
    pub resumed: u64,
}

/// A cluster, and all that happens to it.
pub struct ClusterWorld {
    seed: Seed,
    rng: ChaCha12Rng,
    local: Local,
    weather: Weather,
    nodes: Vec<Node>,
    devices: Vec<Device>,
    /// A device that is in no room, comes and goes, and stays away in the end; its chances are its own.
    guest: Device,
    guest_rng: ChaCha12Rng,
    is_guest_gone: bool,
    rooms: Vec<String>,
    tally: Tally,
}

/// A place for a node.
struct Node {
    wire: Wire,
    /// `None` while it is dead.
    services: Option<Services>,
    /// It is cut off until then.
    cut_until: Option<Instant>,
    /// It is started again then.
    starts_at: Instant,
    /// How often it was started.
    lives: u64,
}

impl ClusterWorld {
    /// Runs a whole story and says what came of it.
    ///
    /// # Errors
    /// What went against the promises, and how to replay it.
    pub fn run(seed: Seed, weather: Weather) -> Result<Tally, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| error.to_string())?;
        let done = runtime.block_on(async {
            BEGUN.set(Some(Instant::now()));
            trace::begin();
            let mut world = Self::new(seed, weather)?;
            world.story().await?;
            Ok(world.tally)
        });
        done.map_err(|violation: Violation| {
            format!(
                "{}\n{violation}\n  replay: TOMBOLO_SEED={seed} cargo test {}",
                trace::lines(),
                seed.test()
            )
        })
    }

    fn new(seed: Seed, weather: Weather) -> Result<Self, Violation> {
        let mut rng = seed.rng_for("cluster");
        let mut world = Self {
            guest: Device::new(GUEST, token(GUEST)?),
            guest_rng: seed.rng_for("guest"),
            is_guest_gone: false,
            seed,
            local: Local::new(LocalConfig::default()),
            weather,
            nodes: Vec::new(),
            devices: Vec::new(),
            rooms: (0..rng.random_range(1..=2))
                .map(|room| format!("room-{room}"))
                .collect(),
            tally: Tally::default(),
            rng,
        };
        for index in 0..world.rng.random_range(2..=3) {
            let wire = world.wire(index, 0);
            let services = Some(start(index, &wire)?);
            world.nodes.push(Node {
                wire,
                services,
                cut_until: None,
                starts_at: Instant::now(),
                lives: 1,
            });
        }
        for index in 0..world.rng.random_range(2..=5) {
            let name = format!("device-{index}");
            let token = token(&name)?;
            world.devices.push(Device::new(&name, token));
        }
        let mut all: Vec<_> = world
            .devices
            .iter()
            .map(|device| device.name.clone())
            .collect();
        all.extend([GUEST.to_owned(), STRANGER.to_owned()]);
        for device in &mut world.devices {
            let others = all.iter().filter(|user| **user != device.name);
            device.following = Following::of(others.cloned());
        }
        Ok(world)
    }

    fn wire(&self, index: usize, life: u64) -> Wire {
        let rng = self.seed.rng_for(&format!("wire {index} {life}"));
        Wire::new(&self.local, rng, self.weather)
    }

    async fn story(&mut self) -> Result<(), Violation> {
        self.pass(Duration::from_secs(2), TICK).await?;
        for _ in 0..STEPS {
            self.step();
            let pause = self.rng.random_range(Duration::ZERO..PAUSE_MAX);
            self.pass(pause, TICK).await?;
        }
        self.come_to_rest().await?;
        for name in self.rooms.clone() {
            let truth = judge::read(&self.local, &name).await?;
            truth.check(&name, &self.devices, &mut self.tally)?;
        }
        let there: Vec<_> = self
            .devices
            .iter()
            .map(|device| device.name.as_str())
            .collect();
        for device in &self.devices {
            device.following.check(&device.name, &there)?;
        }
        self.tally.resumed = self.devices.iter().map(|device| device.resumed).sum();
        Ok(())
    }

    /// Something happens.
    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..3 => self.kill(),
            3..7 => self.cut(),
            7..9 => self.take_engine_away(),
            9..16 => {
                let pause = self
                    .rng
                    .random_range(Duration::ZERO..Duration::from_secs(3));
                self.any_device().lose_connection(pause);
            }
            _ => self.act(),
        }
    }

    /// A device does something.
    fn act(&mut self) {
        let room = self.rooms[self.rng.random_range(0..self.rooms.len())].clone();
        let dice = self.rng.random_range(0..100);
        let device = self.any_device();
        let is_in = device.views.get(&room).is_some_and(|view| view.is_joined);
        if !device.is_connected() || device.is_between(&room) {
            return;
        }
        if !device.wants.contains(&room) {
            device.join(&room);
        } else if is_in {
            match dice {
                0..5 => device.leave(&room),
                5..40 => device.say(&room),
                40..60 => device.add(&room),
                _ => device.send(&room),
            }
        }
    }

    fn any_device(&mut self) -> &mut Device {
        let index = self.rng.random_range(0..self.devices.len());
        &mut self.devices[index]
    }

    /// `kill -9`, unless it is the last.
    fn kill(&mut self) {
        let alive = self
            .nodes
            .iter()
            .filter(|node| node.services.is_some())
            .count();
        let index = self.rng.random_range(0..self.nodes.len());
        if alive < 2 {
            return;
        }
        let node = &mut self.nodes[index];
        let Some(services) = node.services.take() else {
            return;
        };
        trace::note(format!("node-{index} is killed"));
        node.wire.die();
        services.kill();
        node.starts_at = Instant::now() + self.rng.random_range(Duration::ZERO..AWAY_MAX);
        self.tally.kills += 1;
        for device in self
            .devices
            .iter_mut()
            .filter(|device| device.node == Some(index))
        {
            // Until a device notices.
            let pause = self
                .rng
                .random_range(Duration::ZERO..Duration::from_secs(1));
            device.lose_connection(pause);
        }
    }

    /// One node loses the engine for a while.
    fn cut(&mut self) {
        let until = Instant::now() + self.rng.random_range(Duration::ZERO..AWAY_MAX);
        let index = self.rng.random_range(0..self.nodes.len());
        self.cut_until(index, until);
    }

    /// All nodes lose it.
    fn take_engine_away(&mut self) {
        let until = Instant::now() + self.rng.random_range(Duration::ZERO..AWAY_MAX);
        for index in 0..self.nodes.len() {
            self.cut_until(index, until);
        }
    }

    fn cut_until(&mut self, index: usize, until: Instant) {
        let node = &mut self.nodes[index];
        trace::note(format!("node-{index} is cut off"));
        node.wire.cut(true);
        node.cut_until = Some(until);
    }

    /// Lets time pass: what is due happens, and devices take in what came.
    async fn pass(&mut self, time: Duration, tick: Duration) -> Result<(), Violation> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(tick).await;
            self.tend_nodes()?;
            self.tend_devices().await?;
        }
        Ok(())
    }

    fn tend_nodes(&mut self) -> Result<(), Violation> {
        let now = Instant::now();
        for index in 0..self.nodes.len() {
            if self.nodes[index].services.is_none() && self.nodes[index].starts_at <= now {
                let wire = self.wire(index, self.nodes[index].lives);
                let node = &mut self.nodes[index];
                trace::note(format!("node-{index} is started"));
                node.services = Some(start(index, &wire)?);
                node.wire = wire;
                node.lives += 1;
                node.cut_until = None;
            }
            let node = &mut self.nodes[index];
            if node.cut_until.is_some_and(|until| until <= now) {
                trace::note(format!("node-{index} is not cut off any more"));
                node.cut_until = None;
                node.wire.cut(false);
            }
        }
        Ok(())
    }

    async fn tend_devices(&mut self) -> Result<(), Violation> {
        for device in &mut self.devices {
            device.pump()?;
            if device.is_connected() || device.retry_at > Instant::now() {
                continue;
            }
            let index = self.rng.random_range(0..self.nodes.len());
            match self.nodes[index].services.clone() {
                Some(services) => device.connect(index, &services).await,
                None => device.lose_connection(TICK),
            }
        }
        self.tend_guest().await
    }

    async fn tend_guest(&mut self) -> Result<(), Violation> {
        self.guest.pump()?;
        if self.is_guest_gone {
            return Ok(());
        }
        if self.guest.is_connected() {
            if self.guest_rng.random_range(0..GUEST_STAYS) == 0 {
                let pause = self.guest_rng.random_range(Duration::ZERO..GUEST_AWAY_MAX);
                self.guest.lose_connection(pause);
            }
        } else if self.guest.retry_at <= Instant::now() {
            let index = self.guest_rng.random_range(0..self.nodes.len());
            match self.nodes[index].services.clone() {
                Some(services) => self.guest.connect(index, &services).await,
                None => self.guest.lose_connection(TICK),
            }
        }
        Ok(())
    }

    /// Everything is mended, and given the time that it needs.
    async fn come_to_rest(&mut self) -> Result<(), Violation> {
        for node in &mut self.nodes {
            node.wire.set_weather(Weather::FAIR);
            node.starts_at = Instant::now();
            node.cut_until = Some(Instant::now());
        }
        self.weather = Weather::FAIR;
        self.is_guest_gone = true;
        self.guest.lose_connection(REST);
        self.pass(REST, TICK_OF_REST).await
    }
}

/// A node's services, as one starts them.
fn start(index: usize, wire: &Wire) -> Result<Services, Violation> {
    let mut config = Config::default();
    config.node = NodeId::parse(&format!("node-{index}")).map_err(|error| error.to_string())?;
    config.unix_now = unix_now;
    let mut keys = KeySet::new();
    let key = VerifyingKey::hs256(&SECRET).map_err(|error| error.to_string())?;
    keys.insert("sim", key);
    Ok(Services::new(
        Arc::new(wire.clone()),
        Arc::new(NoRelay),
        keys,
        config,
    ))
}

/// A token that outlasts every story.
fn token(user: &str) -> Result<String, Violation> {
    let user = UserId::parse(user).map_err(|error| error.to_string())?;
    let claims = Claims::new(user, UNIX_BEGUN + Duration::from_secs(86_400));
    let key = SigningKey::hs256("sim", &SECRET).map_err(|error| error.to_string())?;
    key.mint(&claims).map_err(|error| error.to_string())
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

thread_local! {
    /// When the story on this thread began.
    static BEGUN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The virtual clock.
fn unix_now() -> Duration {
    UNIX_BEGUN + BEGUN.get().map(|begun| begun.elapsed()).unwrap_or_default()
}

const UNIX_BEGUN: Duration = Duration::from_secs(1_800_000_000);
const SECRET: [u8; 32] = [7; 32];
/// Things that happen in a story.
const STEPS: usize = 80;
const PAUSE_MAX: Duration = Duration::from_millis(600);
/// Longest time that a node is dead or cut off: shorter than seats are kept.
const AWAY_MAX: Duration = Duration::from_secs(6);
const TICK: Duration = Duration::from_millis(5);
const TICK_OF_REST: Duration = Duration::from_millis(100);
/// For about so many ticks the guest stays.
const GUEST_STAYS: u32 = 1000;
/// The longest that it stays away: longer than whoever is away counts as there.
const GUEST_AWAY_MAX: Duration = Duration::from_secs(20);
/// Longer than any request, lease or clock of a room takes.
const REST: Duration = Duration::from_secs(60);
