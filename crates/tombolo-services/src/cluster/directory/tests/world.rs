//! Nodes, a bus and a store in one thread under virtual time; a seed is a scenario.

use std::collections::BTreeSet;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_engine::Epoch;

use super::*;

/// A node that is not there is put out no sooner than this.
const ABSENT_SILENCE_MIN: Duration = Duration::from_millis(600);

/// For how long it may have been back by then.
const TRACE: Duration = Duration::from_millis(500);

/// How often what goes wrong.
#[derive(Clone, Copy)]
pub(super) struct Trouble {
    /// Of a heartbeat or an answer to get lost.
    loss: f64,
    /// Of each node and second.
    crash: f64,
    freeze: f64,
    cut: f64,
}

impl Trouble {
    pub(super) const NONE: Self = Self {
        loss: 0.0,
        crash: 0.0,
        freeze: 0.0,
        cut: 0.0,
    };

    pub(super) const ALL: Self = Self {
        loss: 0.1,
        crash: 0.02,
        freeze: 0.03,
        cut: 0.03,
    };
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) now: Instant,
    pub(super) random: ChaCha8Rng,
    pub(super) trouble: Trouble,
    pub(super) nodes: Vec<Node>,
    pub(super) store: BTreeMap<NodeId, (Record, Revision)>,
    pub(super) revision: u64,
    pub(super) under_way: Vec<(Instant, usize, Input)>,
    /// Which lives, by node and epoch, were taken on by which lives.
    pub(super) heirs: BTreeMap<(usize, u64), BTreeSet<(usize, u64)>>,
    pub(super) fenced: usize,
    /// How often the bus was asked whether a node is there.
    pub(super) knocks: usize,
    pub(super) processes: u64,
}

pub(super) struct Node {
    pub(super) label: usize,
    pub(super) name: NodeId,
    pub(super) process: u64,
    /// `None` while it is crashed.
    pub(super) directory: Option<Directory>,
    pub(super) restart_at: Option<Instant>,
    pub(super) frozen_until: Option<Instant>,
    /// Its writes and reads don't reach the store, nor the store's changes it.
    pub(super) is_cut: bool,
    /// It is off the bus.
    pub(super) is_mute: bool,
    /// It is on the bus, and its heartbeats get lost until then.
    pub(super) hoarse_until: Option<Instant>,
    pub(super) cut_until: Option<Instant>,
    /// Which changes it has been told.
    pub(super) told: u64,
    pub(super) ended: Vec<u64>,
    pub(super) is_name_taken: bool,
    pub(super) inbox: VecDeque<Input>,
    /// When it was last not there, for the bus.
    pub(super) absent: Option<Instant>,
    /// When it last took in a heartbeat of each life.
    pub(super) heard: BTreeMap<(NodeId, u64), Instant>,
    pub(super) chores: Vec<(Instant, NodeId, u64)>,
    /// What was to be seen when there were news last.
    pub(super) seen: Vec<Seen>,
}

/// A node, its life, whether that is up, and its load while it is.
pub(super) type Seen = (NodeId, u64, bool, Load);

#[derive(Clone)]
pub(super) enum Input {
    Heartbeat(Heartbeat),
    Record(Record, Revision),
    Missing(NodeId),
    Reset,
    Synced,
    Knocked(u64, NodeId, u64, bool),
    Written(u64, WriteId, Record, Written),
}

impl World {
    pub(super) fn new(seed: u64, count: usize, trouble: Trouble) -> Self {
        let mut world = Self {
            seed,
            now: Instant::now(),
            random: ChaCha8Rng::seed_from_u64(seed),
            trouble,
            nodes: Vec::new(),
            store: BTreeMap::new(),
            revision: 0,
            under_way: Vec::new(),
            heirs: BTreeMap::new(),
            fenced: 0,
            knocks: 0,
            processes: 0,
        };
        for label in 0..count {
            world.processes += 1;
            let mut node = world.node(label, world.processes);
            node.label = label;
            world.nodes.push(node);
        }
        world
    }

    pub(super) fn node(&self, label: usize, process: u64) -> Node {
        let name = NodeId::parse(&format!("node-{label}")).unwrap();
        Node {
            label,
            directory: Some(directory(self.now, &name, process)),
            name,
            process,
            restart_at: None,
            frozen_until: None,
            absent: None,
            is_cut: false,
            is_mute: false,
            hoarse_until: None,
            cut_until: None,
            told: 0,
            ended: Vec::new(),
            is_name_taken: false,
            inbox: VecDeque::from([Input::Synced]),
            heard: BTreeMap::new(),
            chores: Vec::new(),
            seen: Vec::new(),
        }
    }

    pub(super) fn epoch(&self, number: usize) -> Option<u64> {
        self.nodes[number].directory.as_ref()?.epoch()
    }

    pub(super) fn crash(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.directory = None;
        node.inbox.clear();
        node.chores.clear();
    }

    /// The store has lost all, and whoever watches it is told that it begins anew.
    pub(super) fn forget(&mut self) {
        self.store.clear();
        for node in &mut self.nodes {
            node.inbox.extend([Input::Reset, Input::Synced]);
        }
    }

    /// The store is as it was, and whoever watches it is told all anew. Some answers come only after that.
    pub(super) fn roll_back(
        &mut self,
        (store, revision): (BTreeMap<NodeId, (Record, Revision)>, u64),
    ) {
        (self.store, self.revision) = (store, revision);
        for node in &mut self.nodes {
            let records = self.store.values().cloned();
            let records = records.map(|(record, revision)| Input::Record(record, revision));
            node.told = revision;
            node.inbox.push_back(Input::Reset);
            node.inbox.extend(records);
            node.inbox.push_back(Input::Synced);
        }
    }

    /// Ends all trouble.
    pub(super) fn calm(&mut self) {
        self.trouble = Trouble::NONE;
        for node in &mut self.nodes {
            node.is_cut = false;
            node.is_mute = false;
            node.cut_until = None;
            node.frozen_until = None;
            if node.directory.is_none() {
                node.restart_at = Some(self.now);
            }
        }
    }

    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now += TICK;
            self.make_trouble();
            for node in &mut self.nodes {
                if node.directory.is_none() || node.is_mute {
                    node.absent = Some(self.now);
                }
            }
            self.deliver();
            for number in 0..self.nodes.len() {
                self.step(number);
            }
            self.check();
        }
    }

    fn make_trouble(&mut self) {
        let ticks = 1.0 / TICK.as_secs_f64();
        for number in 0..self.nodes.len() {
            let Trouble {
                crash, freeze, cut, ..
            } = self.trouble;
            let wait = Duration::from_millis(self.random.random_range(100..6_000));
            let until = Some(self.now + wait);
            if self.random.random_bool(crash / ticks) {
                self.crash(number);
                self.nodes[number].restart_at = until;
            }
            if self.random.random_bool(freeze / ticks) {
                self.nodes[number].frozen_until = until;
            }
            let node = &mut self.nodes[number];
            if self.random.random_bool(cut / ticks) {
                node.is_cut = self.random.random_bool(0.7);
                node.is_mute = self.random.random_bool(0.7);
                node.cut_until = until;
            }
            if node.cut_until.is_some_and(|until| until <= self.now) {
                node.cut_until = None;
                node.is_cut = false;
                node.is_mute = false;
            }
            if node.restart_at.is_some_and(|at| at <= self.now) && node.directory.is_none() {
                self.processes += 1;
                let ended = std::mem::take(&mut node.ended);
                let (label, absent) = (node.label, node.absent);
                let mut fresh = self.node(label, self.processes);
                (fresh.ended, fresh.absent) = (ended, absent);
                self.nodes[number] = fresh;
            }
        }
    }

    /// Brings what has arrived to the inboxes, and the changes of the store.
    fn deliver(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.under_way)
            .into_iter()
            .partition(|(at, ..)| *at <= now);
        self.under_way = later;
        for (_, to, input) in due {
            if self.nodes[to].directory.is_some() {
                self.nodes[to].inbox.push_back(input);
            }
        }
        for node in &mut self.nodes {
            // A watch that lags by a tick or several.
            if node.directory.is_none() || node.is_cut || self.random.random_bool(0.5) {
                continue;
            }
            let mut changes: Vec<_> = self.store.values().collect();
            changes.retain(|(_, revision)| revision.number > node.told);
            changes.sort_by_key(|(_, revision)| *revision);
            for (record, revision) in changes {
                node.told = revision.number;
                let input = Input::Record(record.clone(), *revision);
                // What was there at the beginning is told before the word that it was all.
                match node.inbox.front() {
                    Some(Input::Synced) => node.inbox.push_front(input),
                    _ => node.inbox.push_back(input),
                }
            }
        }
    }

    fn step(&mut self, number: usize) {
        let now = self.now;
        let node = &mut self.nodes[number];
        if node.frozen_until.is_some_and(|until| until > now) {
            return;
        }
        node.frozen_until = None;
        let Some(directory) = &mut node.directory else {
            return;
        };
        while let Some(input) = node.inbox.pop_front() {
            match input {
                Input::Heartbeat(beat) => {
                    node.heard.insert((beat.from.clone(), beat.epoch), now);
                    directory.handle_heartbeat(now, &beat);
                }
                Input::Record(record, revision) => directory.handle_record(now, record, revision),
                Input::Missing(name) => directory.handle_missing(now, &name),
                Input::Reset => directory.handle_reset(),
                Input::Synced => directory.handle_synced(now),
                Input::Knocked(process, name, epoch, is_there) if process == node.process => {
                    directory.handle_knocked(now, &name, epoch, is_there);
                }
                Input::Knocked(..) => {}
                Input::Written(process, id, record, written) if process == node.process => {
                    directory.handle_written(now, id, record, written);
                }
                Input::Written(..) => {}
            }
        }
        if directory.poll_timeout() <= now {
            directory.handle_timeout(now);
        }
        let done: Vec<_> = node.chores.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, name, epoch) in done {
            directory.handle_inherited(&name, epoch);
        }
        self.drain(number);
    }

    fn drain(&mut self, number: usize) {
        let seed = self.seed;
        loop {
            let node = &mut self.nodes[number];
            let Some(directory) = &mut node.directory else {
                return;
            };
            let mine = directory.epoch();
            if let Some(event) = directory.poll_event() {
                match event {
                    Event::Ended { epoch } => {
                        node.chores.clear();
                        node.ended.push(epoch);
                    }
                    Event::Inherit { node: name, epoch } => {
                        let wait = Duration::from_millis(self.random.random_range(0..1_000));
                        node.chores.push((self.now + wait, name.clone(), epoch));
                        let key = (label(&name), epoch);
                        let heir = (node.label, mine.expect("only members inherit"));
                        self.heirs.entry(key).or_default().insert(heir);
                    }
                    Event::NameTaken => node.is_name_taken = true,
                    Event::Began { .. } | Event::Left | Event::Up { .. } | Event::Down { .. } => {}
                }
                continue;
            }
            let Some(command) = directory.poll_command() else {
                if directory.take_news() {
                    node.seen = seen(directory).collect();
                }
                let is_seen = seen(directory).eq(node.seen.iter().cloned());
                assert!(is_seen, "seed {seed}: nobody was told to look");
                return;
            };
            match command {
                Command::Beat(beat) => {
                    let is_over = self.nodes[number].ended.contains(&beat.epoch);
                    assert!(!is_over, "seed {seed}: a dead life speaks");
                    self.beat(number, &beat);
                }
                Command::Knock { node, epoch } => self.knock(number, node, epoch),
                Command::Write {
                    id,
                    node: name,
                    expected,
                    record,
                } => self.write(number, id, &name, expected, record),
                // All are at one server.
                Command::Elsewhere => {}
                Command::Read { node: name } => {
                    if !self.nodes[number].is_cut {
                        let found = self.store.get(&name).cloned();
                        let answer = found.map_or(Input::Missing(name), |(record, revision)| {
                            Input::Record(record, revision)
                        });
                        let at = self.now + self.delay();
                        self.under_way.push((at, number, answer));
                    }
                }
            }
        }
    }

    fn delay(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(1..100))
    }

    fn beat(&mut self, from: usize, beat: &Heartbeat) {
        let hoarse_until = self.nodes[from].hoarse_until;
        if self.nodes[from].is_mute || hoarse_until.is_some_and(|until| until > self.now) {
            return;
        }
        for to in 0..self.nodes.len() {
            if self.random.random_bool(self.trouble.loss) {
                continue;
            }
            let at = self.now + self.delay();
            self.under_way
                .push((at, to, Input::Heartbeat(beat.clone())));
        }
    }

    /// The bus knows who is connected to it. Who stands still is, and does not answer.
    fn knock(&mut self, from: usize, name: NodeId, epoch: u64) {
        let now = self.now;
        self.knocks += 1;
        let node = &self.nodes[label(&name)];
        let is_there = node.directory.is_some() && !node.is_mute;
        let is_frozen = node.frozen_until.is_some_and(|until| until > now);
        let is_lost = self.random.random_bool(self.trouble.loss);
        if is_lost || self.nodes[from].is_mute || is_there && is_frozen {
            return;
        }
        let answer = Input::Knocked(self.nodes[from].process, name, epoch, is_there);
        let at = now + self.delay();
        self.under_way.push((at, from, answer));
    }

    fn write(
        &mut self,
        number: usize,
        id: WriteId,
        name: &NodeId,
        expected: Option<Revision>,
        record: Record,
    ) {
        let seed = self.seed;
        let node = &self.nodes[number];
        let (process, is_cut) = (node.process, node.is_cut);
        let is_fence = record.state == State::Fenced;
        if is_fence {
            let (_, heir_epoch) = record.heir.clone().expect("a fenced record has an heir");
            let is_over = node.ended.contains(&heir_epoch);
            assert!(!is_over, "seed {seed}: a dead life fences");
        }
        let found = self.store.get(name);
        let written = if is_cut {
            Written::Failed
        } else if found.map(|(_, revision)| *revision) != expected {
            Written::Conflict
        } else {
            if is_fence && found.is_some_and(|(found, _)| found.state.is_up()) {
                self.fenced += 1;
                let heard = node.heard.get(&(name.clone(), record.epoch));
                let absent = self.nodes[label(name)].absent;
                let silence_min = match absent.is_some_and(|absent| self.now < absent + TRACE) {
                    true => ABSENT_SILENCE_MIN,
                    false => SILENCE_MAX,
                };
                let is_silent = heard.is_none_or(|heard| self.now >= *heard + silence_min);
                assert!(is_silent, "seed {seed}: {name} was fenced although heard");
            }
            self.revision += 1;
            let revision = Revision {
                epoch: Epoch(1),
                number: self.revision,
            };
            self.store.insert(name.clone(), (record.clone(), revision));
            Written::At(revision)
        };
        // The answer may get lost although it was written.
        let written = if self.random.random_bool(self.trouble.loss) {
            Written::Failed
        } else {
            written
        };
        let at = self.now + self.delay();
        self.under_way
            .push((at, number, Input::Written(process, id, record, written)));
    }

    /// Of those who took a life on, at most one lives.
    fn check(&self) {
        for ((node, epoch), heirs) in &self.heirs {
            let live = heirs.iter().filter(|(heir, heir_epoch)| {
                let name = NodeId::parse(&format!("node-{heir}")).unwrap();
                self.store
                    .get(&name)
                    .is_some_and(|(record, _)| record.state.is_up() && record.epoch == *heir_epoch)
            });
            assert!(
                live.count() <= 1,
                "seed {}: life {epoch} of node {node} has heirs {heirs:?}",
                self.seed
            );
        }
    }

    /// Every node that runs is in the cluster, as all see it, and nothing is left to do.
    pub(super) fn assert_settled(&self) {
        for node in &self.nodes {
            let directory = node.directory.as_ref().unwrap();
            let (record, _) = &self.store[&node.name];
            let seed = self.seed;
            assert_eq!(record.state, State::Alive, "seed {seed}: {}", node.name);
            assert_eq!(directory.epoch(), Some(record.epoch), "seed {seed}");
            assert_eq!(directory.others().count(), self.nodes.len() - 1);
        }
    }
}

fn seen(directory: &Directory) -> impl Iterator<Item = Seen> {
    let others = directory.others();
    let others = others.map(|(node, load)| (node.name.clone(), node.epoch, true, load));
    let lost = directory.lost();
    others.chain(lost.map(|(node, epoch)| (node.clone(), epoch, false, Load::default())))
}

fn directory(now: Instant, name: &NodeId, process: u64) -> Directory {
    let facts = Record {
        name: name.clone(),
        epoch: 0,
        process,
        state: State::Alive,
        url: String::new(),
        region: String::new(),
        release: String::new(),
        relay_ips: Vec::new(),
        load: Load::default(),
        heir: None,
    };
    Directory::new(now, facts, 1)
}

fn label(name: &NodeId) -> usize {
    name.as_str()["node-".len()..].parse().unwrap()
}

const TICK: Duration = Duration::from_millis(10);
