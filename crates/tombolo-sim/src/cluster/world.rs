//! Nodes, the engine and devices, and what happens to them.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tombolo_engine::{Epoch, Local, LocalConfig, Offset};
use tombolo_room::Room;
use tombolo_services::{Drained, RelayHook, Services};
use tombolo_wire::token::{Claims, KeySet, SigningKey, VerifyingKey};
use tombolo_wire::v1::IceServers;
use tombolo_wire::{NodeId, RoomId, UserId};

use super::club::Club;
use super::court::{COURT, Court};
use super::device::{BRIEF, Device, Violation};
use super::inboxes::Inboxes;
use super::place::{self, Place, Process};
use super::plain::Plain;
use super::pool::Pool;
use super::presence::{Following, GUEST, STRANGER};
use super::reader::Reader;
use super::surroundings::{self, UNIX_BEGUN};
use super::tally::Tally;
use super::trace;
use super::weather::{Weather, Wire};
use crate::Seed;

/// A cluster, and all that happens to it.
pub struct ClusterWorld {
    seed: Seed,
    /// Nothing dies, and nothing is cut off: nodes are started and emptied, and share their load.
    is_calm: bool,
    /// The bus loses nothing, so that plain messages are to arrive.
    is_fair: bool,
    rng: ChaCha12Rng,
    runtime: Rc<Runtime>,
    /// Where the engine and devices are.
    place: Place,
    local: Local,
    weather: Weather,
    nodes: Vec<Node>,
    devices: Vec<Device>,
    /// A device that is in no room, comes and goes, and stays away in the end; its chances are its own.
    guest: Device,
    guest_rng: ChaCha12Rng,
    is_guest_gone: bool,
    /// Who comes into the brief room and leaves it.
    brief_rng: ChaCha12Rng,
    /// What happens in the court.
    court: Court,
    /// The last ones are the court, and the brief one.
    rooms: Vec<Reader>,
    plain: Vec<Plain>,
    pool: Pool,
    club: Club,
    /// `None` until there are devices.
    inboxes: Option<Inboxes>,
    tally: Tally,
}

/// A place for a node.
struct Node {
    /// Its own, or none: then it runs with the world.
    process: Option<Process>,
    /// It is frozen since, and until.
    frozen: Option<(Instant, Instant)>,
    wire: Wire,
    /// `None` while it is dead.
    services: Option<Services>,
    /// It is being emptied, and ends after that.
    draining: Option<JoinHandle<Drained>>,
    /// It is cut off until then.
    cut_until: Option<Instant>,
    /// It is started again then.
    starts_at: Instant,
    /// How often it was started.
    lives: u64,
    /// How far each room was looked at on it.
    checked: Vec<Option<Offset>>,
}

impl ClusterWorld {
    /// Runs a whole story and says what came of it.
    ///
    /// # Errors
    /// What went against the promises, and how to replay it.
    pub fn run(seed: Seed, weather: Weather) -> Result<Tally, String> {
        Self::tell(seed, weather).map_err(|violation| {
            let lines = Self::events(seed, weather);
            let last = &lines[lines.len().saturating_sub(LINES_MAX)..];
            let told = last.join("\n");
            format!("{told}\n{violation}\n  replay: {}", seed.replay())
        })
    }

    /// All that happens in a story, in lines: the same whenever it is told.
    #[must_use]
    pub fn events(seed: Seed, weather: Weather) -> Vec<String> {
        trace::begin();
        let told = Self::tell(seed, weather);
        let mut lines = trace::end();
        lines.push(format!("{told:?}"));
        lines
    }

    fn tell(seed: Seed, weather: Weather) -> Result<Tally, Violation> {
        let runtime = Rc::new(place::runtime()?);
        let _inside = runtime.enter();
        surroundings::begin(seed);
        let mut world = Self::new(seed, weather, Rc::clone(&runtime))?;
        world.story()?;
        Ok(world.tally)
    }

    fn new(seed: Seed, weather: Weather, runtime: Rc<Runtime>) -> Result<Self, Violation> {
        let rng = seed.rng_for("cluster");
        let local = engine();
        let pool = Pool::new(&local, seed.rng_for("pool"));
        let pool = runtime.block_on(pool)?;
        let club = Club::new(&local, seed.rng_for("club"))?;
        let mut world = Self {
            guest: Device::new(GUEST, token(GUEST)?),
            guest_rng: seed.rng_for("guest"),
            is_guest_gone: false,
            brief_rng: seed.rng_for("brief"),
            court: Court::new(seed.rng_for("court")),
            seed,
            is_calm: weather.is_calm,
            is_fair: weather.lost == 0,
            place: Place::new(&runtime),
            runtime,
            local,
            pool,
            club,
            inboxes: None,
            weather,
            nodes: Vec::new(),
            devices: Vec::new(),
            rooms: Vec::new(),
            plain: Vec::new(),
            tally: Tally::default(),
            rng,
        };
        let names = (0..world.rng.random_range(1..=2)).map(|room| format!("room-{room}"));
        for name in names.chain([COURT, BRIEF].map(str::to_owned)) {
            let reader = Reader::new(&world.local, &name);
            let reader = world.runtime.block_on(reader)?;
            world.rooms.push(reader);
        }
        for _ in 0..world.rng.random_range(2..=3) {
            world.add_node()?;
        }
        for index in 0..world.rng.random_range(2..=5) {
            let name = format!("device-{index}");
            let token = token(&name)?;
            world.devices.push(Device::new(&name, token));
        }
        let inboxes = Inboxes::new(&world.local, &world.devices, seed.rng_for("letters"));
        world.inboxes = Some(world.runtime.block_on(inboxes)?);
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

    fn add_node(&mut self) -> Result<(), Violation> {
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

    fn story(&mut self) -> Result<(), Violation> {
        self.pass(Duration::from_secs(2), TICK)?;
        for _ in 0..STEPS {
            self.step()?;
            self.come_and_go();
            self.court.act(&mut self.devices);
            self.pool.act(&mut self.devices);
            if let Some(inboxes) = &mut self.inboxes {
                inboxes.act(&mut self.devices);
            }
            self.club.act(&mut self.devices);
            let pause = self.rng.random_range(Duration::ZERO..PAUSE_MAX);
            self.pass(pause, TICK)?;
        }
        self.come_to_rest()
    }

    /// Something happens.
    fn step(&mut self) -> Result<(), Violation> {
        match self.rng.random_range(0..100) {
            // Only operators do something, and devices lose connections.
            0..8 if self.is_calm => self.act(),
            0..3 => self.kill(),
            3..5 => self.cut(),
            5..7 => self.freeze(),
            7..8 => self.take_engine_away(),
            8..12 => self.drain(),
            12..15 => self.rebalance(),
            15..16 if self.nodes.len() < NODES_MAX => {
                trace::note(|| "another node is started".to_owned());
                self.tally.added += 1;
                self.add_node()?;
            }
            15..21 => {
                let pause = self.up_to(Duration::from_secs(3));
                let is_calm = self.is_calm;
                let device = self.any_device();
                // A node that is emptied does not wait for devices that are away and in no room.
                if !is_calm || device.is_in_a_room() {
                    device.lose_connection(pause);
                }
            }
            _ => self.act(),
        }
        Ok(())
    }

    fn up_to(&mut self, max: Duration) -> Duration {
        self.rng.random_range(Duration::ZERO..max)
    }

    /// A device does something.
    fn act(&mut self) {
        let room = self.rng.random_range(0..self.rooms.len() - 2);
        let room = self.rooms[room].name().to_owned();
        let dice = self.rng.random_range(0..100);
        let index = self.rng.random_range(0..self.devices.len());
        let device = &mut self.devices[index];
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
                _ => {
                    let known = self.known_by(index, &room).unwrap_or_default();
                    let sent = Plain::send(&mut self.devices, index, &room, &known);
                    self.plain.extend(sent);
                }
            }
        }
    }

    /// A room as the node of a device has read it.
    fn known_by(&self, device: usize, room: &str) -> Option<Room> {
        let node = self.nodes.get(self.devices.get(device)?.node?)?;
        let room = RoomId::parse(room).ok()?;
        let (_, state) = node.services.as_ref()?.room_snapshot(&room)?;
        Room::restore(&state).ok()
    }

    /// One of two comes into the brief room, or leaves it, perhaps as the last one.
    fn come_and_go(&mut self) {
        let dice = self.brief_rng.random_range(0..4);
        let Some(device) = self.devices[..2].get_mut(dice) else {
            return;
        };
        if !device.is_connected() || device.is_between(BRIEF) {
            return;
        }
        if !device.wants.contains(BRIEF) {
            device.join(BRIEF);
        } else if device.views.get(BRIEF).is_some_and(|view| view.is_joined) {
            device.leave(BRIEF);
        }
    }

    fn any_device(&mut self) -> &mut Device {
        let index = self.rng.random_range(0..self.devices.len());
        &mut self.devices[index]
    }

    /// `kill -9`, unless it is the last.
    fn kill(&mut self) {
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
    fn drain(&mut self) {
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
    fn rebalance(&mut self) {
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
    fn freeze(&mut self) {
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
        trace::note(|| format!("node-{index} is cut off"));
        node.wire.cut(true);
        node.cut_until = Some(until);
    }

    /// Lets time pass: what is due happens, and devices take in what came.
    fn pass(&mut self, time: Duration, tick: Duration) -> Result<(), Violation> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.runtime.block_on(sleep(tick));
            for node in &self.nodes {
                node.process.iter().for_each(Process::run);
            }
            self.tend_nodes()?;
            self.tend_devices()?;
            self.check()?;
        }
        Ok(())
    }

    /// What must be so at any time.
    fn check(&mut self) -> Result<(), Violation> {
        for (index, room) in self.rooms.iter_mut().enumerate() {
            room.read(&self.devices)?;
            room.check_count(&self.devices)?;
            for node in &mut self.nodes {
                if let (Some(services), Some(checked)) =
                    (&node.services, node.checked.get_mut(index))
                {
                    room.check_node(services, checked)?;
                }
            }
        }
        self.pool.read(&self.devices)?;
        if let Some(inboxes) = &mut self.inboxes {
            inboxes.read(&self.devices)?;
        }
        self.club.read(&self.devices)?;
        for device in &mut self.devices {
            if self.is_calm && device.life > 1 {
                return Err(format!("{} has lost its session", device.name));
            }
            for told in std::mem::take(&mut device.told) {
                let room = self.rooms.iter().find(|room| room.name() == told.room);
                let room = room.ok_or_else(|| format!("{} is no room", told.room))?;
                room.check_told(&device.name, &told)?;
            }
        }
        Ok(())
    }

    fn tend_nodes(&mut self) -> Result<(), Violation> {
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

    fn tend_devices(&mut self) -> Result<(), Violation> {
        for device in &mut self.devices {
            device.pump()?;
            find_node(device, &self.nodes, &self.place, &mut self.rng);
        }
        self.guest.pump()?;
        if self.is_guest_gone {
            return Ok(());
        }
        if self.guest.is_connected() && self.guest_rng.random_range(0..GUEST_STAYS) == 0 {
            let pause = self.guest_rng.random_range(Duration::ZERO..GUEST_AWAY_MAX);
            self.guest.lose_connection(pause);
        }
        find_node(
            &mut self.guest,
            &self.nodes,
            &self.place,
            &mut self.guest_rng,
        );
        Ok(())
    }

    /// Everything is mended, and given the time that it needs; now and then more than that, in which nothing
    /// may go wrong any more.
    fn come_to_rest(&mut self) -> Result<(), Violation> {
        for node in &mut self.nodes {
            node.wire.set_weather(Weather::FAIR);
            node.starts_at = Instant::now();
            node.cut_until = Some(Instant::now());
            node.frozen = node.frozen.map(|(since, _)| (since, Instant::now()));
        }
        self.weather = Weather::FAIR;
        self.is_guest_gone = true;
        self.guest.lose_connection(REST);
        trace::note(|| "everything comes to rest".to_owned());
        let end = Instant::now() + REST;
        let is_long = self.rng.random_range(0..LONG_RESTS) == 0;
        loop {
            self.pass(REST / 20, TICK_OF_REST)?;
            let is_over = Instant::now() >= end;
            match self.judge() {
                Ok(tally) if is_over || !is_long => {
                    self.tally = tally;
                    return Ok(());
                }
                Err(violation) if is_over => return Err(violation),
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// What must be so at rest.
    fn judge(&self) -> Result<Tally, Violation> {
        let mut tally = self.tally;
        for room in &self.rooms {
            room.check(&self.devices, &mut tally)?;
        }
        self.pool.check(&self.devices, &mut tally)?;
        if let Some(inboxes) = &self.inboxes {
            inboxes.check(&self.devices, &mut tally)?;
        }
        self.club.check(&self.devices, &mut tally)?;
        for plain in self.plain.iter().filter(|_| self.is_fair) {
            tally.heard += plain.check(&self.devices)?;
        }
        let devices = self.devices.iter();
        let there: Vec<_> = devices.map(|device| device.name.as_str()).collect();
        for device in &self.devices {
            device.following.check(&device.name, &there)?;
            tally.resumed += device.resumed;
        }
        Ok(tally)
    }
}

impl Node {
    /// Whether it takes devices in.
    fn is_open(&self) -> bool {
        self.services.is_some() && self.draining.is_none() && self.frozen.is_none()
    }

    /// Where it runs.
    fn place<'a>(&'a self, world: &'a Place) -> &'a Place {
        self.process
            .as_ref()
            .map_or(world, |process| &process.place)
    }
}

/// A device that looks for a node, or for another one, tries any.
fn find_node(device: &mut Device, nodes: &[Node], world: &Place, rng: &mut ChaCha12Rng) {
    if !device.is_looking() {
        return;
    }
    let index = rng.random_range(0..nodes.len());
    match &nodes[index].services {
        Some(services) if device.node != Some(index) => {
            device.greet(index, services, nodes[index].place(world));
        }
        Some(_) | None => device.wait(TICK),
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

/// An engine that is the same in each story.
fn engine() -> Local {
    let mut config = LocalConfig::default();
    config.epoch = Some(Epoch(1));
    Local::new(config)
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

const SECRET: [u8; 32] = [7; 32];
/// Things that happen in a story.
const STEPS: usize = 80;
/// Nodes at most.
const NODES_MAX: usize = 4;
/// A drain takes up to so long, or up to twice as long.
const DRAIN_MIN: Duration = Duration::from_secs(3);
const PAUSE_MAX: Duration = Duration::from_millis(600);
/// Longest time that a node is dead or cut off: shorter than seats are kept.
const AWAY_MAX: Duration = Duration::from_secs(6);
/// After so long a silence devices take their node for dead.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Of so many lives of nodes one is a process of its own.
const APART: u32 = 2;
const TICK: Duration = Duration::from_millis(5);
const TICK_OF_REST: Duration = Duration::from_millis(100);
/// For about so many ticks the guest stays.
const GUEST_STAYS: u32 = 1000;
/// The longest that it stays away: longer than whoever is away counts as there.
const GUEST_AWAY_MAX: Duration = Duration::from_secs(20);
/// Of so many stories one rests to the end.
const LONG_RESTS: u32 = 24;
/// Of a story that went wrong so many lines are told.
const LINES_MAX: usize = 200;
/// Longer than any request, lease or clock of a room takes.
const REST: Duration = Duration::from_secs(60);
