//! What the store has of nodes, is missing there, or is older than it was.

use tombolo_engine::Epoch;

use super::world::{Trouble, World};
use super::*;

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
