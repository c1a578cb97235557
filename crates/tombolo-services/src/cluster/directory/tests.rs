//! A cluster as a whole.

mod records;
mod silence;
mod world;

use super::*;
use world::{Trouble, World};

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
