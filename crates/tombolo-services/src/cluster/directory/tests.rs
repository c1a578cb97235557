//! Nodes, a bus and a store in one thread under virtual time; a seed is a scenario.

use std::collections::BTreeSet;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_engine::Epoch;

use super::*;

#[test]
fn nodes_without_trouble_all_join_and_nobody_is_ever_fenced() {
    for seed in 0..100 {
        let mut world = World::new(seed, 5, Trouble::NONE);
        world.run(Duration::from_secs(20));
        world.assert_settled();
        assert_eq!(world.fenced, 0, "seed {seed}");
    }
}

#[test]
fn crashes_freezes_losses_and_partitions_leave_one_heir_each_and_a_whole_cluster() {
    for seed in 0..200 {
        let mut world = World::new(seed, 4, Trouble::ALL);
        world.run(Duration::from_secs(30));
        world.calm();
        world.run(Duration::from_secs(20));
        world.assert_settled();
    }
}

#[test]
fn a_crashed_node_is_inherited_by_one_within_a_second() {
    for seed in 0..100 {
        let mut world = World::new(seed, 3, Trouble::NONE);
        world.run(Duration::from_secs(5));
        world.crash(0);
        world.run(Duration::from_secs(1));
        let heirs: Vec<_> = world.heirs.keys().map(|(node, _)| *node).collect();
        assert_eq!(heirs, [0], "seed {seed}");
    }
}

#[test]
fn a_node_that_stands_still_for_less_than_a_second_goes_on() {
    for seed in 0..100 {
        let mut world = World::new(seed, 3, Trouble::NONE);
        world.run(Duration::from_secs(5));
        world.nodes[0].frozen_until = Some(world.now + Duration::from_millis(700));
        world.run(Duration::from_secs(5));
        assert_eq!(world.fenced, 0, "seed {seed}");
    }
}

#[test]
fn a_node_that_is_off_the_bus_for_a_moment_goes_on() {
    for seed in 0..100 {
        let mut world = World::new(seed, 3, Trouble::NONE);
        world.run(Duration::from_secs(5));
        world.nodes[0].is_mute = true;
        world.nodes[0].cut_until = Some(world.now + Duration::from_millis(300));
        world.run(Duration::from_secs(5));
        assert_eq!(world.fenced, 0, "seed {seed}");
    }
}

#[test]
fn a_silent_node_that_the_bus_says_is_there_is_not_put_out_by_knocks() {
    let mut knocks = 0;
    for seed in 0..100 {
        let mut world = World::new(seed, 3, Trouble::NONE);
        world.run(Duration::from_secs(5));
        let before = world.knocks;
        world.nodes[0].hoarse_until = Some(world.now + Duration::from_millis(500));
        world.run(Duration::from_secs(5));
        assert_eq!(world.fenced, 0, "seed {seed}");
        knocks += world.knocks - before;
    }
    // From 400 ms of silence on, by each of the others.
    assert!(knocks > 100 * 2, "{knocks}");
}

#[test]
fn a_silent_node_that_is_off_the_bus_again_and_again_is_not_put_out_by_knocks() {
    let mut world = World::new(7, 2, Trouble::NONE);
    world.run(Duration::from_secs(5));
    let (begun, other) = (world.now, world.nodes[1].name.clone());
    let directory = world.nodes[0].directory.as_mut().unwrap();
    let mut answers = Vec::new();
    while directory.poll_timeout() < begun + SILENCE_MAX {
        let now = directory.poll_timeout();
        directory.handle_timeout(now);
        while let Some(command) = directory.poll_command() {
            match command {
                Command::Beat(beat) => directory.handle_heartbeat(now, &beat),
                Command::Knock { node, epoch } => {
                    assert_eq!(node, other);
                    let is_there = answers.len() % 2 == 1;
                    directory.handle_knocked(now, &node, epoch, is_there);
                    answers.push(is_there);
                }
                Command::Write { node, .. } => assert_ne!(node, other, "{answers:?}"),
                Command::Read { .. } | Command::Elsewhere => {}
            }
        }
    }
    assert!(answers.len() >= 3, "{answers:?}");
}

#[test]
fn nodes_that_are_back_on_the_bus_one_after_the_other_go_on() {
    for seed in 0..50 {
        let mut world = World::new(seed, 3, Trouble::NONE);
        world.run(Duration::from_secs(5));
        for (node, later) in world.nodes.iter_mut().zip([0, 900, 500]) {
            node.is_mute = true;
            node.cut_until = Some(world.now + Duration::from_millis(3_000 + later));
        }
        world.run(Duration::from_secs(8));
        assert_eq!(world.fenced, 0, "seed {seed}");
        world.assert_settled();
    }
}

#[test]
fn whoever_hears_itself_alone_goes_elsewhere_before_the_others_judge() {
    let mut world = World::new(7, 3, Trouble::NONE);
    world.run(Duration::from_secs(5));
    let begun = world.now;
    let directory = world.nodes[0].directory.as_mut().unwrap();
    let mut went = Vec::new();
    while directory.poll_timeout() < begun + ELSEWHERE_PAUSE {
        let now = directory.poll_timeout();
        directory.handle_timeout(now);
        while let Some(command) = directory.poll_command() {
            match command {
                Command::Beat(beat) => directory.handle_heartbeat(now, &beat),
                Command::Elsewhere => went.push(now),
                Command::Knock { .. } | Command::Write { .. } | Command::Read { .. } => {}
            }
        }
    }
    assert!(
        matches!(went[..], [at] if at < begun + SILENCE_MAX),
        "{went:?}"
    );
}

#[test]
fn a_node_begins_again_while_its_heir_is_busy_or_has_died_with_all_others() {
    for seed in 0..100 {
        let mut world = World::new(seed, 2, Trouble::NONE);
        world.run(Duration::from_secs(5));
        let before = world.epoch(0).unwrap();
        world.crash(0);
        while world.heirs.is_empty() {
            world.run(Duration::from_millis(10));
        }
        // The heir has much to do.
        world.nodes[1].chores.clear();
        if seed % 2 == 1 {
            world.crash(1);
        }
        world.nodes[0].restart_at = Some(world.now);
        world.run(Duration::from_secs(3));
        assert!(world.epoch(0) > Some(before), "seed {seed}");
    }
}

#[test]
fn a_frozen_node_finds_itself_fenced_and_comes_back_with_a_greater_epoch() {
    let mut world = World::new(1, 3, Trouble::NONE);
    world.run(Duration::from_secs(5));
    let before = world.epoch(0).unwrap();
    world.nodes[0].frozen_until = Some(world.now + Duration::from_secs(5));
    world.run(Duration::from_secs(6));
    assert_eq!(world.nodes[0].ended, [before]);
    world.run(Duration::from_secs(5));
    assert!(world.epoch(0).unwrap() > before);
    world.assert_settled();
}

#[test]
fn without_the_store_nobody_is_fenced_and_everybody_goes_on() {
    let mut world = World::new(3, 3, Trouble::NONE);
    world.run(Duration::from_secs(5));
    let before: Vec<_> = (0..3).map(|number| world.epoch(number)).collect();
    for node in &mut world.nodes {
        node.is_cut = true;
        node.is_mute = true;
    }
    world.run(Duration::from_secs(60));
    let after: Vec<_> = (0..3).map(|number| world.epoch(number)).collect();
    assert_eq!(before, after);
    assert_eq!(world.fenced, 0);
    world.calm();
    world.run(Duration::from_secs(10));
    world.assert_settled();
    assert_eq!(world.fenced, 0);
}

#[test]
fn a_second_process_of_one_name_stays_out_while_the_first_lives() {
    let mut world = World::new(4, 2, Trouble::NONE);
    world.run(Duration::from_secs(5));
    let first = world.epoch(0).unwrap();
    let process = 99;
    let mut second = world.node(0, process);
    second.label = 2;
    world.nodes.push(second);
    world.run(Duration::from_secs(10));
    assert_eq!(world.epoch(0), Some(first));
    assert_eq!(world.epoch(2), None);
    assert!(world.nodes[2].is_name_taken);
    assert_eq!(world.fenced, 0);
}

#[test]
fn nodes_whose_records_are_lost_write_them_anew_and_go_on() {
    for seed in 0..100 {
        let mut world = World::new(seed, 4, Trouble::NONE);
        world.run(Duration::from_secs(5));
        let before: Vec<_> = (0..3).map(|number| world.epoch(number)).collect();
        world.crash(3);
        world.forget();
        world.run(Duration::from_secs(5));
        let after: Vec<_> = (0..3).map(|number| world.epoch(number)).collect();
        assert_eq!(before, after, "seed {seed}");
        assert_eq!(world.fenced, 0, "seed {seed}");
        // Who is dead is, for all, by the record of its heir.
        let dead = world.store[&world.nodes[3].name].0.state;
        assert_eq!(dead, State::Gone, "seed {seed}");
        for node in &world.nodes[..3] {
            let directory = node.directory.as_ref().unwrap();
            assert_eq!(directory.others().count(), 2, "seed {seed}");
            assert_eq!(directory.peer_by_node.len(), 2, "seed {seed}");
        }
        // Whoever comes now finds all.
        let mut fresh = world.node(4, 99);
        fresh.told = 0;
        world.nodes.push(fresh);
        world.nodes.remove(3);
        world.run(Duration::from_secs(5));
        world.assert_settled();
    }
}

#[test]
fn a_life_that_is_over_for_one_is_over_for_all_when_its_record_is_lost() {
    for seed in 0..100 {
        let mut world = World::new(seed, 3, Trouble::NONE);
        world.run(Duration::from_secs(5));
        let before = world.epoch(0).unwrap();
        // It cannot write its record anew in time.
        world.nodes[0].frozen_until = Some(world.now + Duration::from_secs(3));
        world.forget();
        world.run(Duration::from_secs(10));
        world.assert_settled();
        let after = world.epoch(0).unwrap();
        assert!(after > before, "seed {seed}: life {before} came up again");
    }
}

#[test]
fn a_life_that_is_over_stays_over_when_its_record_is_rolled_back() {
    for seed in 0..100 {
        let mut world = World::new(seed, 3, Trouble::NONE);
        world.run(Duration::from_secs(5));
        let before = world.epoch(0).unwrap();
        let earlier = (world.store.clone(), world.revision);
        // It does not hear that it was put out before nobody has it any more.
        world.nodes[0].frozen_until = Some(world.now + Duration::from_secs(6));
        world.run(Duration::from_secs(5));
        world.roll_back(earlier);
        // Who was its heir is forgotten, too.
        world.heirs.clear();
        world.run(Duration::from_secs(10));
        world.assert_settled();
        let after = world.epoch(0).unwrap();
        assert!(after > before, "seed {seed}: life {before} came up again");
    }
}

#[test]
fn nodes_whose_records_are_rolled_back_go_on_and_are_fenced_when_they_die() {
    for seed in 0..100 {
        let mut world = World::new(seed, 4, Trouble::NONE);
        world.run(Duration::from_secs(5));
        let earlier = (world.store.clone(), world.revision);
        // Node 0 begins another life since, and all write their records again.
        world.nodes[0].frozen_until = Some(world.now + Duration::from_secs(3));
        world.run(Duration::from_secs(10));
        world.assert_settled();
        let before: Vec<_> = (0..4).map(|number| world.epoch(number)).collect();
        let fenced = world.fenced;
        world.roll_back(earlier);
        world.run(Duration::from_secs(10));
        let after: Vec<_> = (0..4).map(|number| world.epoch(number)).collect();
        assert_eq!(before, after, "seed {seed}");
        assert_eq!(world.fenced, fenced, "seed {seed}");
        world.assert_settled();
        world.crash(0);
        world.run(Duration::from_secs(3));
        let heirs = world.heirs.contains_key(&(0, before[0].unwrap()));
        assert!(heirs, "seed {seed}");
    }
}

#[test]
fn a_node_that_dies_while_its_record_is_rolled_back_is_fenced_in_its_last_life() {
    for seed in 0..100 {
        let mut world = World::new(seed, 3, Trouble::NONE);
        world.run(Duration::from_secs(5));
        let earlier = (world.store.clone(), world.revision);
        world.nodes[0].frozen_until = Some(world.now + Duration::from_secs(3));
        world.run(Duration::from_secs(10));
        let last = world.epoch(0).unwrap();
        world.crash(0);
        world.roll_back(earlier);
        world.run(Duration::from_secs(3));
        assert!(world.heirs.contains_key(&(0, last)), "seed {seed}");
        let name = &world.nodes[0].name;
        assert_eq!(world.store[name].0.epoch, last, "seed {seed}");
    }
}

#[test]
fn what_is_read_after_a_conflict_counts_though_its_revision_is_lower() {
    let mut world = World::new(6, 1, Trouble::NONE);
    world.run(Duration::from_secs(5));
    let name = &world.nodes[0].name;
    let (record, revision) = world.store[name].clone();
    let directory = world.nodes[0].directory.as_mut().unwrap();
    let renewal = |directory: &mut Directory, now| {
        directory.handle_timeout(now);
        loop {
            match directory.poll_command() {
                Some(Command::Write { id, expected, .. }) => return (id, expected),
                Some(_) => {}
                None => panic!("the record is renewed"),
            }
        }
    };
    let (id, expected) = renewal(directory, world.now + RENEW_INTERVAL);
    assert_eq!(expected, Some(revision));
    let mut earlier = revision;
    earlier.number -= 1;
    directory.handle_written(world.now, id, record.clone(), Written::Conflict);
    directory.handle_record(world.now, record, earlier);
    let (_, expected) = renewal(directory, world.now + 2 * RENEW_INTERVAL);
    assert_eq!(expected, Some(earlier));
}

#[test]
fn a_heartbeat_is_news_when_the_load_is_another() {
    let mut world = World::new(5, 2, Trouble::NONE);
    world.run(Duration::from_secs(5));
    let (now, from) = (world.now, world.nodes[1].name.clone());
    let epoch = world.nodes[1].directory.as_ref().unwrap().epoch().unwrap();
    let directory = world.nodes[0].directory.as_mut().unwrap();
    let mut beat = Heartbeat {
        from,
        epoch,
        state: State::Alive,
        load: Load::default(),
        asks: None,
    };
    let _ = directory.take_news();
    directory.handle_heartbeat(now, &beat);
    assert!(!directory.take_news());
    beat.load.sessions += 1;
    directory.handle_heartbeat(now, &beat);
    assert!(directory.take_news());
    assert!(!directory.take_news());
}

#[test]
fn nodes_that_are_gone_make_place_for_new_ones() {
    let mut world = World::new(5, 1, Trouble::NONE);
    world.run(Duration::from_secs(5));
    let own = world.store.values().next().unwrap().0.clone();
    let gone = |number: usize| Record {
        name: NodeId::parse(&format!("gone-{number}")).unwrap(),
        state: State::Gone,
        ..own.clone()
    };
    let records: Vec<_> = (0..2_000).map(gone).collect();
    let now = world.now;
    let directory = world.nodes[0].directory.as_mut().unwrap();
    for (number, record) in (1_000..).zip(records) {
        let epoch = Epoch(1);
        directory.handle_record(now, record, Revision { epoch, number });
    }
    let known = &directory.record_by_node;
    assert_eq!(known.len(), crate::cluster::NODES_MAX);
    assert!(known.keys().any(|name| name.as_str() == "gone-1999"));
    assert!(known.contains_key(&directory.name));
}

/// A node that is not there is put out no sooner than this.
const ABSENT_SILENCE_MIN: Duration = Duration::from_millis(600);

/// For how long it may have been back by then.
const TRACE: Duration = Duration::from_millis(500);

/// How often what goes wrong.
#[derive(Clone, Copy)]
struct Trouble {
    /// Of a heartbeat or an answer to get lost.
    loss: f64,
    /// Of each node and second.
    crash: f64,
    freeze: f64,
    cut: f64,
}

impl Trouble {
    const NONE: Self = Self {
        loss: 0.0,
        crash: 0.0,
        freeze: 0.0,
        cut: 0.0,
    };

    const ALL: Self = Self {
        loss: 0.1,
        crash: 0.02,
        freeze: 0.03,
        cut: 0.03,
    };
}

struct World {
    seed: u64,
    now: Instant,
    random: ChaCha8Rng,
    trouble: Trouble,
    nodes: Vec<Node>,
    store: BTreeMap<NodeId, (Record, Revision)>,
    revision: u64,
    under_way: Vec<(Instant, usize, Input)>,
    /// Which lives, by node and epoch, were taken on by which lives.
    heirs: BTreeMap<(usize, u64), BTreeSet<(usize, u64)>>,
    fenced: usize,
    /// How often the bus was asked whether a node is there.
    knocks: usize,
    processes: u64,
}

struct Node {
    label: usize,
    name: NodeId,
    process: u64,
    /// `None` while it is crashed.
    directory: Option<Directory>,
    restart_at: Option<Instant>,
    frozen_until: Option<Instant>,
    /// Its writes and reads don't reach the store, nor the store's changes it.
    is_cut: bool,
    /// It is off the bus.
    is_mute: bool,
    /// It is on the bus, and its heartbeats get lost until then.
    hoarse_until: Option<Instant>,
    cut_until: Option<Instant>,
    /// Which changes it has been told.
    told: u64,
    ended: Vec<u64>,
    is_name_taken: bool,
    inbox: VecDeque<Input>,
    /// When it was last not there, for the bus.
    absent: Option<Instant>,
    /// When it last took in a heartbeat of each life.
    heard: BTreeMap<(NodeId, u64), Instant>,
    chores: Vec<(Instant, NodeId, u64)>,
    /// What was to be seen when there were news last.
    seen: Vec<Seen>,
}

/// A node, its life, whether that is up, and its load while it is.
type Seen = (NodeId, u64, bool, Load);

#[derive(Clone)]
enum Input {
    Heartbeat(Heartbeat),
    Record(Record, Revision),
    Missing(NodeId),
    Reset,
    Synced,
    Knocked(u64, NodeId, u64, bool),
    Written(u64, WriteId, Record, Written),
}

impl World {
    fn new(seed: u64, count: usize, trouble: Trouble) -> Self {
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

    fn node(&self, label: usize, process: u64) -> Node {
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

    fn epoch(&self, number: usize) -> Option<u64> {
        self.nodes[number].directory.as_ref()?.epoch()
    }

    fn crash(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.directory = None;
        node.inbox.clear();
        node.chores.clear();
    }

    /// The store has lost all, and whoever watches it is told that it begins anew.
    fn forget(&mut self) {
        self.store.clear();
        for node in &mut self.nodes {
            node.inbox.extend([Input::Reset, Input::Synced]);
        }
    }

    /// The store is as it was, and whoever watches it is told all anew. Some answers come only after that.
    fn roll_back(&mut self, (store, revision): (BTreeMap<NodeId, (Record, Revision)>, u64)) {
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
    fn calm(&mut self) {
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

    fn run(&mut self, duration: Duration) {
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
    fn assert_settled(&self) {
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
