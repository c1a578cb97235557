//! Who is online, on nodes that die and with messages that get lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_social::presence::{
    Changes, Command, Counts, DeviceChange, DeviceId, Limits, Own, Shard, Status, TooMany, Watch,
};
use tombolo_wire::{NodeId, UserId};

use DeviceChange::{Active, Away, Came, Gone, Lost, Returned};
use Status::{Offline, Online};

#[test]
fn the_best_device_of_a_user_counts_on_whatever_node_it_is() {
    let mut world = World::new(3);
    world.follow(2, &["bob"]);
    world.device(0, "bob", 1, Came);
    assert_eq!(world.news(2), ["bob Online"]);
    world.device(0, "bob", 1, Away);
    assert_eq!(world.news(2), ["bob Away"]);
    world.device(1, "bob", 2, Came);
    assert_eq!(world.news(2), ["bob Online"]);
    world.device(1, "bob", 3, Came);
    world.device(1, "bob", 3, Gone);
    assert_eq!(world.news(2), [""; 0]);
    world.device(1, "bob", 2, Gone);
    assert_eq!(world.news(2), ["bob Away"]);
    world.device(0, "bob", 1, Active);
    assert_eq!(world.news(2), ["bob Online"]);
    world.device(0, "bob", 1, Gone);
    world.pass(GRACE);
    assert_eq!(world.news(2), ["bob Offline"]);
}

#[test]
fn who_is_back_within_the_grace_time_never_was_away() {
    let mut world = World::new(3);
    world.device(0, "bob", 1, Came);
    world.follow(2, &["bob"]);
    assert_eq!(world.status(2, "bob"), Online);
    world.device(0, "bob", 1, Lost);
    world.pass(GRACE - SECOND);
    world.device(0, "bob", 1, Returned);
    world.pass(GRACE);
    // Moves to another node.
    world.device(0, "bob", 1, Gone);
    world.pass(SECOND);
    world.device(1, "bob", 1, Came);
    world.pass(GRACE);
    assert_eq!(world.news(2), [""; 0]);
    // Each absence has its own grace time.
    world.device(1, "bob", 1, Lost);
    world.pass(GRACE - SECOND);
    assert_eq!(world.status(2, "bob"), Online);
    world.pass(SECOND);
    assert_eq!(world.news(2), ["bob Offline"]);
}

#[test]
fn users_of_a_dead_node_are_offline_unless_they_are_back_elsewhere_in_time() {
    let mut world = World::new(3);
    world.device(0, "bob", 1, Came);
    world.device(0, "carol", 2, Came);
    world.follow(2, &["bob", "carol"]);
    world.kill(0);
    world.pass(SECOND);
    world.device(1, "carol", 3, Came);
    assert_eq!(world.news(2), [""; 0]);
    world.pass(GRACE);
    assert_eq!(world.news(2), ["bob Offline"]);
    assert_eq!(world.status(2, "carol"), Online);
}

#[test]
fn what_was_lost_is_made_up_for_after_the_next_beats() {
    let mut world = World::new(2);
    world.follow(1, &["bob"]);
    world.loss_percent = 100;
    world.device(0, "bob", 1, Came);
    assert_eq!(world.news(1), [""; 0]);
    world.loss_percent = 0;
    world.pass(2 * SECOND);
    assert_eq!(world.news(1), ["bob Online"]);
    // A hole in the numbers is noticed at once.
    let others = others_of("bob", 2);
    world.loss_percent = 100;
    world.device(0, "bob", 1, Away);
    world.loss_percent = 0;
    world.device(0, &others[0], 2, Came);
    assert_eq!(world.news(1), ["bob Away"]);
}

#[test]
fn a_node_hears_only_the_shards_in_which_somebody_is_followed() {
    let mut world = World::new(2);
    world.follow(1, &["bob"]);
    let shard = Shard::of(&user("bob"));
    assert_eq!(world.sites[1].heard, BTreeSet::from([shard]));
    world.unfollow(1, &["bob"]);
    world.pass(20 * SECOND);
    world.follow(1, &["bob"]);
    world.pass(40 * SECOND);
    assert_eq!(world.sites[1].heard, BTreeSet::from([shard]));
    world.unfollow(1, &["bob"]);
    world.pass(40 * SECOND);
    assert_eq!(world.sites[1].heard, BTreeSet::new());
    assert_eq!(world.sites[0].heard, BTreeSet::new());
}

#[test]
fn a_later_life_of_a_node_takes_the_place_of_the_earlier_one() {
    let mut world = World::new(2);
    world.device(0, "bob", 1, Came);
    world.follow(1, &["bob"]);
    let changes = Changes {
        shard: Shard::of(&user("bob")),
        number: 2,
        users: vec![(user("bob"), Status::Away)],
    };
    world.sites[0].own = Own::default();
    world.sites[0].epoch += 1;
    world.pass(SECOND);
    // From the grave.
    let now = world.now;
    world.sites[1]
        .watch
        .handle_changes(now, &node(0), 1, changes);
    world.pass(GRACE);
    assert_eq!(world.news(1), ["bob Offline"]);
}

#[test]
fn devices_are_told_the_last_status_only_and_the_rest_when_they_can_take_it() {
    let mut world = World::new(1);
    world.follow(0, &["bob", "carol"]);
    for change in [Came, Away, Active] {
        world.device(0, "bob", 1, change);
    }
    world.device(0, "carol", 2, Came);
    let watch = &mut world.sites[0].watch;
    let first = watch.news_of(DEVICE, 1);
    assert_eq!(first, [(user("bob"), Online)]);
    assert_eq!(watch.news_of(DEVICE, 1), first, "until it has been told");
    watch.handle_told(DEVICE, &first);
    assert_eq!(world.news(0), ["carol Online"]);
    assert_eq!(world.sites[0].watch.restless().count(), 0);
    // What changes back before it is told is no news.
    world.device(0, "bob", 1, Away);
    world.device(0, "bob", 1, Active);
    assert_eq!(world.news(0), [""; 0]);
    assert_eq!(world.sites[0].watch.restless().count(), 0);
}

#[test]
fn follows_are_bounded_and_come_free_again() {
    let limits = Limits {
        follows_per_device_max: 2,
        follows_max: 3,
        ..LIMITS
    };
    let mut watch = Watch::new(limits);
    let now = Instant::now();
    let set = |names: &[&str]| names.iter().map(|name| user(name)).collect();
    let other = DeviceId([2; 16]);
    let too_many = watch.handle_follow(now, DEVICE, &set(&["a", "b", "c"]));
    assert_eq!(too_many, Err(TooMany::Device { max: 2 }));
    assert_eq!(watch.handle_follow(now, DEVICE, &set(&["a", "b"])), Ok(()));
    assert_eq!(watch.handle_follow(now, DEVICE, &set(&["a", "b"])), Ok(()));
    let too_many = watch.handle_follow(now, other, &set(&["a", "b"]));
    assert_eq!(too_many, Err(TooMany::Node));
    watch.handle_gone(now, DEVICE);
    assert_eq!(watch.handle_follow(now, other, &set(&["a", "b"])), Ok(()));
}

#[test]
fn users_are_counted_without_looking_at_them() {
    let mut world = World::new(2);
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        world.device(0, name, number as u8, Came);
    }
    world.device(0, "a", 0, Away);
    world.device(0, "b", 1, Gone);
    world.device(1, "d", 9, Came);
    world.pass(SECOND);
    let counts = Counts { online: 2, away: 1 };
    for site in &world.sites {
        assert_eq!(site.watch.counts(), counts);
    }
    world.kill(0);
    world.pass(SECOND);
    assert_eq!(world.sites[1].watch.counts(), Counts { online: 1, away: 0 });
}

#[test]
fn whatever_happens_all_nodes_show_what_is_true_in_the_end() {
    for seed in 0..200 {
        let mut world = World::new(3);
        world.rng = ChaCha8Rng::seed_from_u64(seed);
        world.loss_percent = 20;
        for site in 0..3 {
            world.follow(site, &NAMES);
        }
        for _ in 0..100 {
            world.do_something();
        }
        world.loss_percent = 0;
        world.pass(3 * SECOND);
        world.pass(GRACE);
        for site in 0..3 {
            for name in NAMES {
                let (shown, truth) = (world.status(site, name), world.truth(name));
                assert_eq!(shown, truth, "{name} on {site}, seed {seed}");
            }
        }
    }
}

#[test]
fn nobody_is_shown_as_offline_who_was_there_a_moment_ago() {
    for seed in 0..100 {
        let mut world = World::new(3);
        world.rng = ChaCha8Rng::seed_from_u64(seed);
        world.follow(0, &NAMES);
        let mut seen_at = BTreeMap::new();
        for _ in 0..200 {
            world.do_something();
            for name in NAMES {
                if world.truth(name) != Offline {
                    seen_at.insert(name, world.now);
                }
                let is_recent = seen_at
                    .get(name)
                    .is_some_and(|at| world.now.duration_since(*at) < GRACE);
                let is_shown = world.status(0, name) != Offline;
                assert!(is_shown || !is_recent, "{name}, seed {seed}");
            }
        }
    }
}

struct World {
    sites: Vec<Site>,
    now: Instant,
    loss_percent: u32,
    rng: ChaCha8Rng,
}

/// A node and what it hears.
struct Site {
    name: NodeId,
    own: Own,
    watch: Watch,
    heard: BTreeSet<Shard>,
    epoch: u64,
    is_up: bool,
    /// As the test has it: where each device is, and how.
    devices: BTreeMap<(String, u8), Status>,
}

impl World {
    fn new(sites: usize) -> Self {
        let site = |number| Site {
            name: node(number),
            own: Own::default(),
            watch: Watch::new(LIMITS),
            heard: BTreeSet::new(),
            epoch: 1,
            is_up: true,
            devices: BTreeMap::new(),
        };
        let mut world = Self {
            sites: (0..sites).map(site).collect(),
            now: Instant::now(),
            loss_percent: 0,
            rng: ChaCha8Rng::seed_from_u64(0),
        };
        world.tell_who_is_up();
        world
    }

    fn device(&mut self, site: usize, name: &str, device: u8, change: DeviceChange) {
        let id = DeviceId([device; 16]);
        let devices = &mut self.sites[site].devices;
        let key = (name.to_owned(), device);
        match change {
            Gone | Lost => drop(devices.remove(&key)),
            Away => drop(devices.insert(key, Status::Away)),
            Came | Returned | Active => drop(devices.insert(key, Online)),
        }
        self.sites[site].own.handle_device(&user(name), id, change);
        self.settle();
    }

    fn do_something(&mut self) {
        let site = self.rng.random_range(0..3);
        let name = NAMES[self.rng.random_range(0..NAMES.len())];
        let device = self.rng.random_range(0..3);
        let is_there = self.sites[site]
            .devices
            .contains_key(&(name.to_owned(), device));
        match self.rng.random_range(0..20) {
            0 => self.restart(1 + site / 2),
            1..5 => self.pass(SECOND),
            _ if !self.sites[site].is_up => {}
            5..12 if !is_there => self.device(site, name, device, Came),
            5..8 if is_there => self.device(site, name, device, Away),
            8..12 if is_there => self.device(site, name, device, Active),
            _ if is_there => self.device(site, name, device, Gone),
            _ => {}
        }
    }

    fn follow(&mut self, site: usize, names: &[&str]) {
        let users = names.iter().map(|name| user(name)).collect();
        let watch = &mut self.sites[site].watch;
        watch.handle_follow(self.now, DEVICE, &users).unwrap();
        self.settle();
        let watch = &mut self.sites[site].watch;
        assert!(watch.is_current(&users) || self.loss_percent > 0);
        // The answer to the question.
        let shown: Vec<_> = users
            .into_iter()
            .map(|user| (user.clone(), watch.status(&user)))
            .collect();
        watch.handle_told(DEVICE, &shown);
    }

    fn unfollow(&mut self, site: usize, names: &[&str]) {
        let users = names.iter().map(|name| user(name)).collect();
        self.sites[site]
            .watch
            .handle_unfollow(self.now, DEVICE, &users);
        self.settle();
    }

    fn kill(&mut self, site: usize) {
        self.sites[site].is_up = false;
        self.sites[site].devices.clear();
        self.tell_who_is_up();
    }

    /// Another life of the node, with the same followers.
    fn restart(&mut self, site: usize) {
        self.kill(site);
        self.pass(SECOND);
        self.sites[site].own = Own::default();
        self.sites[site].epoch += 1;
        self.sites[site].is_up = true;
        self.tell_who_is_up();
    }

    fn tell_who_is_up(&mut self) {
        let up: BTreeSet<_> = self.up().map(|site| site.name.clone()).collect();
        for site in self.sites.iter_mut().filter(|site| site.is_up) {
            site.watch.handle_nodes(self.now, up.clone());
        }
        self.settle();
    }

    fn up(&self) -> impl Iterator<Item = &Site> {
        self.sites.iter().filter(|site| site.is_up)
    }

    /// Lets time pass, with a beat of every node each second.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += SECOND;
            for from in 0..self.sites.len() {
                if !self.sites[from].is_up {
                    continue;
                }
                let (beat, epoch) = (self.sites[from].own.beat(), self.sites[from].epoch);
                let name = self.sites[from].name.clone();
                for to in 0..self.sites.len() {
                    if to == from || !self.is_lost() {
                        let now = self.now;
                        self.sites[to].watch.handle_beat(now, &name, epoch, &beat);
                    }
                }
            }
            for site in &mut self.sites {
                site.watch.handle_timeout(self.now);
            }
            self.settle();
        }
    }

    /// Brings everything to where it goes.
    fn settle(&mut self) {
        for from in 0..self.sites.len() {
            while let Some(changes) = self.sites[from].own.poll_changes() {
                let (name, epoch) = (self.sites[from].name.clone(), self.sites[from].epoch);
                for to in 0..self.sites.len() {
                    let is_lost = to != from && self.is_lost();
                    let (now, to) = (self.now, &mut self.sites[to]);
                    if to.heard.contains(&changes.shard) && !is_lost {
                        to.watch.handle_changes(now, &name, epoch, changes.clone());
                    }
                }
            }
        }
        for site in 0..self.sites.len() {
            while let Some(command) = self.sites[site].watch.poll_command() {
                self.on_command(site, command);
            }
        }
    }

    fn on_command(&mut self, site: usize, command: Command) {
        let is_lost = self.is_lost();
        match command {
            Command::Hear(shard) => {
                self.sites[site].heard.insert(shard);
                let now = self.now;
                self.sites[site].watch.handle_heard(now, shard, true);
            }
            Command::Ignore(shard) => drop(self.sites[site].heard.remove(&shard)),
            Command::Ask(ask) => {
                let asked = self.up().find(|asked| asked.name == ask.node);
                let answer = asked.map(|asked| (asked.epoch, asked.own.roll(ask.shard)));
                if let Some((epoch, roll)) = answer
                    && !is_lost
                {
                    let now = self.now;
                    self.sites[site]
                        .watch
                        .handle_roll(now, &ask.node, epoch, roll);
                }
            }
        }
    }

    fn is_lost(&mut self) -> bool {
        self.rng.random_range(0..100) < self.loss_percent
    }

    /// What the follower on a node is told.
    fn news(&mut self, site: usize) -> Vec<String> {
        let watch = &mut self.sites[site].watch;
        let news = watch.news_of(DEVICE, usize::MAX);
        watch.handle_told(DEVICE, &news);
        news.iter()
            .map(|(user, status)| format!("{user} {status:?}"))
            .collect()
    }

    fn status(&self, site: usize, name: &str) -> Status {
        self.sites[site].watch.status(&user(name))
    }

    fn truth(&self, name: &str) -> Status {
        let devices = self.sites.iter().flat_map(|site| &site.devices);
        let statuses = devices.filter(|((user, _), _)| user == name);
        statuses
            .map(|(_, status)| *status)
            .max()
            .unwrap_or_default()
    }
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn node(number: usize) -> NodeId {
    NodeId::parse(&format!("node-{number}")).unwrap()
}

/// Names in the same shard.
fn others_of(name: &str, count: usize) -> Vec<String> {
    let shard = Shard::of(&user(name));
    let names = (0..).map(|number| format!("user-{number}"));
    let names = names.filter(|name| Shard::of(&user(name)) == shard);
    names.take(count).collect()
}

const NAMES: [&str; 5] = ["alice", "bob", "carol", "dave", "eve"];
const DEVICE: DeviceId = DeviceId([1; 16]);
const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(10);
const LIMITS: Limits = Limits {
    grace: GRACE,
    follows_per_device_max: 1000,
    follows_max: 10_000,
};
