//! Who is silent, who is put out for it, and who goes on.

use super::world::{Trouble, World};
use super::*;

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
