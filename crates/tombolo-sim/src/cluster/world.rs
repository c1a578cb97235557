//! Nodes, the engine and devices, and what happens to them.

mod devices;
mod nodes;

use std::rc::Rc;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};
use tombolo_engine::{Epoch, Local, LocalConfig};
use tombolo_wire::UserId;
use tombolo_wire::token::{Claims, SigningKey};

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
use super::weather::Weather;
use crate::Seed;
use nodes::Node;

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

const SECRET: [u8; 32] = [7; 32];
/// Things that happen in a story.
const STEPS: usize = 80;
/// Nodes at most.
const NODES_MAX: usize = 4;
const PAUSE_MAX: Duration = Duration::from_millis(600);
const TICK: Duration = Duration::from_millis(5);
const TICK_OF_REST: Duration = Duration::from_millis(100);
/// Of so many stories one rests to the end.
const LONG_RESTS: u32 = 24;
/// Of a story that went wrong so many lines are told.
const LINES_MAX: usize = 200;
/// Longer than any request, lease or clock of a room takes.
const REST: Duration = Duration::from_secs(60);
